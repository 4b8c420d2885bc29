"""Go on after a crash: checkpoints from which a ``fit`` ends with the bits it would have had."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from easydl.callbacks.base import Callback, Logs
from easydl.callbacks.files import check_writable
from easydl.callbacks.progress import ProgressBar, say
from easydl.data.arrays import Arrays
from easydl.data.stream import Stream
from easydl.data.workers import random_states, set_random_states
from easydl.errors import check_path, check_positive_int, warn_user
from easydl.saving.container import Reader, pack, read_json, write_atomically
from easydl.saving.objects import Decoder, Encoder
from easydl.saving.optimizer import restore_training_state, training_state
from easydl.saving.weights import check_same_architecture, from_safetensors, to_safetensors
from easydl.saving.whole import OPTIMIZER, STATES, TRAINER, WEIGHTS, contents

KEPT = 2  # generations: should the newest be damaged, there is one before
SECONDS = 60.0  # between two checkpoints amid an epoch,
REST = 20  # and at least so many times what saving one took
NAME = re.compile(r"epoch(\d{5,})-batch(\d{8,})\.easydl")


class BackupAndRestore(Callback):
    """Keep checkpoints; the same script, run again after a crash, goes on from the newest.

    It ends with the same bits as one that was never interrupted: weights, optimizer, schedule,
    scaler, the order of the rows, Python's, NumPy's and torch's random numbers, the history and
    the counters of easydl's callbacks come back, amid an epoch too. Callbacks of your own do where
    they have ``state_dict`` and ``load_state_dict``. With ``compile(jit=True)`` the same batches
    are joined and compiled again. Beside a metric that gathers in what no file has (sets, deques,
    objects; not numbers, tensors, arrays, lists and dicts) checkpoints are between epochs only.

    Arrays, memory maps and Datasets go on by index. A DataLoader, generator or function is read
    again up to where it was; one that keeps its workers starts them anew every epoch.

    The files are those of ``model.save`` without the history where the model can be saved so
    (``load_model`` reads them), else they hold the weights beside the state of the training.

    Args:
        backup_dir: The folder, which is made when missing; one for each training, so one
            for each fold of a cross-validation.
        save_freq: ``"epoch"``: after every epoch, and about once a minute within a long one; or
            the number of batches between two checkpoints.
        delete_checkpoint: Whether to remove the checkpoints when training has ended. Otherwise
            the script, run once more, has nothing to do, or goes on where ``epochs`` grew.

    Raises:
        ValueError: Before training, for a checkpoint of another model, optimizer, batch size or of
            other arrays, naming the difference; where the folder cannot be written or has no room.

    Example:
        >>> import easydl as dl, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> for epochs in (1, 3):
        ...     dl.seed(0)
        ...     model = dl.Sequential([dl.Dense(1, input_dim=2)])
        ...     model.compile("adam", "mse")
        ...     history = model.fit(
        ...         torch.ones(8, 2), torch.ones(8), epochs=epochs, verbose=0, checkpoint=folder
        ...     )
        >>> history.epoch
        [0, 1, 2]
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        delete_checkpoint: bool = True,
    ) -> None:
        self.folder, by_epoch = check_path("checkpoint", backup_dir, "runs/a"), save_freq == "epoch"
        self.every = None if by_epoch else check_positive_int("save_freq", save_freq)
        self.delete_checkpoint = delete_checkpoint
        self.epoch = self.batch = 0  # where training begins
        self.seed: int | None = None  # of the interrupted fit
        self._found: dict[str, Any] | None = None
        self._ended = False  # whether the newest checkpoint ends the training
        self.sources: tuple = ()  # of training and validation
        self._kept: list[Path] = []  # the checkpoints that are known to be whole

    # -- before training ----------------------------------------------------------------------

    def look(self) -> None:
        """Find the newest whole checkpoint; sets ``seed``."""
        self._found, self.seed, self.epoch, self.batch = None, None, 0, 0
        self._ended, self._kept = False, []
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"checkpoint={str(self.folder)!r:.200} is a file; expected "
                                     "a folder, which is made when missing.")  # fmt: skip
        files = self._files()
        for path in reversed(files):
            try:
                self._found = read(path)
                break
            except Exception as error:
                warn_user(f"the checkpoint {path.name} is passed over: {error!s:.300}")
        if self._found is not None:
            self.seed, self._kept = self._found["seed"], [self._found["path"]]
        elif files:
            raise ValueError(
                f"none of the checkpoints in {str(self.folder)[-200:]!r} can be read, as the "
                "warnings say; expected a whole one. To begin anew, delete the folder or write "
                "another."
            )

    def prepare(self, train: Any, validation: Any, callbacks: list[Callback], first: int) -> None:
        """Compare with what ``fit`` is about to do, and try the folder.

        Args:
            train, validation: the sources of data, settled.
            callbacks: those whose state is kept.
            first: the epoch that ``fit`` would begin with.
        """
        model, state = self.model, self.model._compiled
        self.sources, self.epoch = (train, validation), first
        for source in self.sources:
            if isinstance(source, Stream):
                source.starts_anew = True
        silent = (ProgressBar, BackupAndRestore)
        self.callbacks = [c for c in callbacks if not isinstance(c, silent)]
        manifest, _ = self._model_parts()
        settings = manifest.get("compile") or {}
        optimizer = settings.get("optimizer")
        if not isinstance(optimizer, dict) or "ready" in optimizer:  # whose groups change
            known = (bool, int, float, str, tuple)
            defaults = state.optimizer.defaults.items()
            optimizer = {key: value for key, value in defaults if isinstance(value, known)}
        plan = {
            "samples": train.samples,
            "batch_size": train.batch_size,
            "steps": train.steps,
            "shuffle": train.shuffle,
            "validation samples": getattr(validation, "samples", None),
            "data": train.fingerprint() if isinstance(train, Arrays) else None,
            "validation data": validation.fingerprint() if isinstance(validation, Arrays) else None,
            "initial_epoch": first,
            "accumulate": state.accumulate,
            "precision": state.precision,
            "clip_norm": state.clip_norm,
            "clip_value": state.clip_value,
            "names": model.metrics_names,
            "callbacks": [type(callback).__name__ for callback in self.callbacks],
            "optimizer": type(state.optimizer).__name__,
            "settings": optimizer,
            "network": re.sub(" at 0x[0-9a-f]+", "", repr(model)).splitlines(),
            "architecture": manifest.get("architecture"),
            "loss": settings.get("loss"),
            "schedule": settings.get("schedule"),
        }
        self._plan = json.loads(json.dumps(plan))
        if self._found is not None:
            what = f"the checkpoint {self._found['path'].name}"
            check_same_architecture(model.state_dict(), self._found["weights"], what)
            self.epoch = self._found["epoch"]
            found = list(differences(self._found["plan"], self._plan))
            if found:
                raise ValueError(
                    f"{what} in {str(self.folder)[-120:]!r} is of another training: "
                    f"{', '.join(found[:3])}. Expected the same script; write another folder, or "
                    "delete this one to begin anew."
                )
        size = 3 * sum(tensor.nbytes for tensor in model.state_dict().values())
        check_writable(str(self.folder / "epoch"), size)
        free, needed = shutil.disk_usage(self.folder).free, (KEPT + 1) * size
        if free < needed:
            raise ValueError(
                f"checkpoint={str(self.folder)[-200:]!r} has {free:,} bytes of room; expected "
                f"about {needed:,} for {KEPT + 1} checkpoints. Free some, or write another folder."
            )
        for path in self.folder.iterdir():
            if NAME.match(path.name[1:]) and path.name[0] == ".":  # of a save that was killed
                path.unlink(missing_ok=True)

    # -- while training -----------------------------------------------------------------------

    def on_train_begin(self, logs: Logs = None) -> None:
        found, self._pause, self._batches = self._found, SECONDS, 0
        self._saved_at = time.monotonic()
        if found is None:
            if self.sources:
                self._save(self.epoch, 0, None)  # what cannot be kept, or where, is found out here
            return
        self.epoch, self.batch = found["epoch"], found["batch"]
        self._put_back(found)
        self._ended = self.model.stop_training or self.epoch >= self._epochs
        place = f"epoch {self.epoch + 1}, batch {self.batch + 1}"
        if self._ended:
            warn_user(
                f"nothing is left to train: {found['path'].name} in {str(self.folder)[-120:]!r} is "
                "the end of this training, whose weights and history are back. To train anew, "
                "delete the folder or write another."
            )
        elif self.model._compiled.speaks:
            say(f"going on from {found['path'].name}: {place}")

    def _put_back(self, found: dict[str, Any]) -> None:
        model = self.model
        model.load_state_dict(found["weights"])
        for name, flag in found["trainable"].items():
            model.get_submodule(name).__dict__["trainable"] = flag
        frozen = set(found["frozen"])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        known = "architecture" in found["manifest"]
        restore_training_state(model, found["training"], found["optimizer"], known)
        model.stop_training = found["stop"]
        for callback, state in zip(self.callbacks, found["callbacks"]):
            callback.load_state_dict(state)
        if found.get("jit") and model._compiled.jit:
            from easydl.training.jit import Jit

            model._compiled.jitted = model._compiled.jitted or Jit(model)
            model._compiled.jitted.load_state_dict(found["jit"])
        set_random_state(found["random"])

    def resume(self, epoch: int, meter: Any) -> int:
        """How many batches of this epoch are done.

        Called where an epoch's batches begin, after the hooks of its begin, whose effects on the
        state are taken back amid an epoch.
        """
        found, self._found = self._found, None
        if found is None:
            return 0
        if self.batch:
            self._put_back(found)
            meter.load_state_dict(found["meter"], self.model.device)
        now = random_states()
        for source, state in zip(self.sources, found["sources"]):
            if source is not None:
                source.load_state_dict(state)
        set_random_states(now)
        return self.batch

    def after_batch(self, epoch: int, batch: int, count: int, meter: Any) -> None:
        """Save where it is time: ``batch`` of the epoch are done, ``count`` of them just now."""
        self._batches += count
        ahead = getattr(self.sources[0], "given", batch) > batch
        state = self.model._compiled
        if state.waiting_batches or ahead or self.model.stop_training:
            return  # a gradient is half summed up, batches were read ahead, or the epoch ends here
        if state.jitted is not None and state.jitted.looking:
            return
        if self.every is None:
            due = time.monotonic() - self._saved_at > self._pause
        else:
            due = self._batches >= self.every
        if due and meter.can_be_saved(self.model.device):  # else after the epoch
            self._save(epoch, batch, meter)

    def after_epoch(self, epoch: int) -> None:
        """Save after the callbacks' ``on_epoch_end``."""
        self._save(epoch + 1, 0, None)

    def on_train_end(self, logs: Logs = None) -> None:
        self._found = None
        if self.delete_checkpoint and self._ended:
            for path in self._files():
                path.unlink(missing_ok=True)

    @property
    def _epochs(self) -> int:
        return (self.params or {}).get("epochs", 0)

    # -- files --------------------------------------------------------------------------------

    def _save(self, epoch: int, batch: int, meter: Any) -> None:
        model, begin = self.model, time.monotonic()
        tensors: dict[str, Tensor] = {}
        self._batches, self.epoch = 0, epoch
        encoder, jitted = StateEncoder(tensors), model._compiled.jitted
        trainer = {
            "epoch": epoch,
            "batch": batch,
            "seed": self.sources[0].seed,
            "sources": [source and source.state_dict() for source in self.sources],
            "plan": self._plan,
            "stop": model.stop_training,
            "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
            "trainable": {
                name: module.__dict__["trainable"]
                for name, module in model.named_modules()
                if "trainable" in module.__dict__
            },
            "meter": None if meter is None else meter.state_dict(),
            "random": random_state(),
            "jit": None if jitted is None else jitted.state_dict(),
        }
        states = [
            encoder.encode(callback.state_dict(), f"{type(callback).__name__}.state_dict()")
            for callback in self.callbacks
        ]
        trainer = encoder.encode(trainer, "the training")
        manifest, members = self._model_parts()
        text = json.dumps({"trainer": trainer, "callbacks": states}, allow_nan=False)
        members |= {TRAINER: text.encode(), STATES: to_safetensors(tensors)}
        path = self.folder / f"epoch{epoch:05d}-batch{batch:08d}.easydl"
        write_atomically(path, pack(manifest, members))
        self._kept = [old for old in self._kept if old != path][1 - KEPT :] + [path]
        for old in set(self._files()) - set(self._kept):
            old.unlink(missing_ok=True)
        self._ended = not batch and (model.stop_training or epoch >= self._epochs)
        self._saved_at = time.monotonic()
        self._pause = max(SECONDS, REST * (self._saved_at - begin))

    def _model_parts(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Manifest and members of ``model.save``, or the weights where it cannot be saved so."""
        with contextlib.suppress(ValueError):
            manifest, members = contents(self.model)
            return manifest | {"history": None}, members  # the callbacks' states have it
        training, state = training_state(Encoder(), self.model, known=False)
        weights = to_safetensors(self.model.state_dict())
        return {"training": training}, {WEIGHTS: weights, OPTIMIZER: to_safetensors(state)}

    def _files(self) -> list[Path]:
        """The checkpoints, the newest last."""
        if not self.folder.is_dir():
            return []
        found = [(NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        places = [((int(match[1]), int(match[2])), path) for match, path in found if match]
        return [path for _, path in sorted(places)]


class StateEncoder(Encoder):
    """An ``Encoder`` of numbers and texts alone that puts tensors and arrays aside."""

    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__()
        self.tensors = tensors

    def encode(self, value: Any, where: str) -> Any:
        if isinstance(value, Tensor):
            self.tensors[name := str(len(self.tensors))] = value
            return {"stored": name}
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            return {"array": self.encode(torch.from_numpy(value.copy()), where)}
        return super().encode(value, where)

    def _object(self, value: Any, where: str) -> Any:
        raise ValueError(
            f"{where[:200]} holds {value!r:.100}, which no checkpoint can keep; expected numbers, "
            "texts, tensors, arrays, and lists, tuples and dicts of them."
        )


class StateDecoder(Decoder):
    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__()
        self.tensors = tensors

    def decode(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, dict) and list(value) == ["stored"]:
            return self.tensors[value["stored"]]
        if isinstance(value, dict) and list(value) == ["array"]:
            return self.decode(value["array"], depth + 1).numpy()
        return super().decode(value, depth)


def read(path: Path) -> dict[str, Any]:
    """A checkpoint, every byte compared with its SHA-256."""
    what = f"the checkpoint {path.name}"
    with Reader(path) as reader:
        if TRAINER not in reader or STATES not in reader:
            raise ValueError(f"{what} holds no state of a training.")
        weights, optimizer, states = (
            from_safetensors(reader.read(name), what) for name in (WEIGHTS, OPTIMIZER, STATES)
        )
        decoder, given = StateDecoder(states), read_json(reader.read(TRAINER), what)
        training = Decoder().decode(reader.manifest["training"])
    return decoder.decode(given["trainer"]) | {
        "path": path, "weights": weights, "optimizer": optimizer, "training": training,
        "callbacks": decoder.decode(given["callbacks"]), "manifest": reader.manifest,
    }  # fmt: skip


def differences(there: Any, here: Any, where: str = "") -> Iterator[str]:
    """Where two JSON values differ, in words."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            inner = f"{where}.{key}" if where else key
            yield from differences(there.get(key), here.get(key), inner)
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for number, pair in enumerate(zip(there, here)):
            yield from differences(*pair, f"{where}[{number}]")
    elif there != here:
        yield f"{where[:100]} {there!r:.60} there, {here!r:.60} here"


def random_state() -> dict[str, Any]:
    """Python's, NumPy's and torch's random states, of every CUDA device in use too."""
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {"cpu": random_states(), "cuda": torch.cuda.get_rng_state_all() if cuda else []}


def set_random_state(state: dict[str, Any]) -> None:
    set_random_states(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
