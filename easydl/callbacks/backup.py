"""Go on after a crash: checkpoints from which a ``fit`` ends with the bits it would have had."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from easydl.callbacks.base import Callback, Logs
from easydl.callbacks.progress import ProgressBar, say
from easydl.data.workers import random_states
from easydl.errors import check_positive_int, warn_user
from easydl.saving.container import Reader, pack, read_json, write_atomically
from easydl.saving.objects import Decoder, Encoder
from easydl.saving.optimizer import restore_training_state, training_state
from easydl.saving.weights import check_same_architecture, from_safetensors, to_safetensors
from easydl.saving.whole import OPTIMIZER, STATES, TRAINER, WEIGHTS, contents

KEPT = 2  # generations: should the newest be damaged, there is one before
SECONDS = 60.0  # between two checkpoints amid an epoch
NAME = re.compile(r"epoch(\d{5,})-batch(\d{8,})\.easydl")


class BackupAndRestore(Callback):
    """Keep checkpoints; the same script, run again after a crash, goes on from the newest.

    It ends with the same bits as one that was never interrupted: weights, optimizer, schedule,
    scaler, the order of the rows, Python's, NumPy's and torch's random numbers, the history and
    the counters of easydl's callbacks come back, amid an epoch too. Callbacks of your own do where
    they have ``state_dict`` and ``load_state_dict``. ``compile(jit=True)`` rounds as it is grouped
    and comes back to float tolerance.

    The files are those of ``model.save`` where the model can be saved so (``load_model`` reads
    them), else they hold the weights beside the state of the training.

    Args:
        backup_dir: The folder, which is made when missing; for one script alone.
        save_freq: ``"epoch"``: after every epoch, and about once a minute within a long one; or
            the number of batches between two checkpoints.
        delete_checkpoint: Whether to remove the checkpoints when training has ended. Otherwise
            the script, run once more, has nothing to do, or goes on where ``epochs`` grew.

    Raises:
        ValueError: Before training, for a checkpoint of another model, optimizer, data length or
            batch size, naming the difference.
        OSError: Before training, where the folder cannot be written or has no room.

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
        self.folder = Path(backup_dir)
        self.every = None
        if save_freq != "epoch":
            self.every = check_positive_int("save_freq", save_freq)
        self.delete_checkpoint = delete_checkpoint
        self.epoch = self.batch = 0  # where training begins
        self.seed: int | None = None  # of the interrupted fit
        self._found: dict[str, Any] | None = None

    # -- before training ----------------------------------------------------------------------

    def look(self) -> None:
        """Find the newest whole checkpoint; sets ``seed``."""
        self._found, self.seed, self.epoch, self.batch = None, None, 0, 0
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"checkpoint={str(self.folder)!r:.200} is a file; expected "
                                     "a folder, which is made when missing.")  # fmt: skip
        for path in reversed(self._files()):
            try:
                self._found = read(path)
            except (ValueError, OSError) as error:
                warn_user(f"the checkpoint {path.name} is passed over: {error!s:.300}")
                continue
            self.seed = self._found["seed"]
            break

    def prepare(self, train: Any, validation: Any, callbacks: list[Callback], first: int) -> None:
        """Compare with what ``fit`` is about to do, and try the folder.

        Args:
            first: the epoch that ``fit`` would begin with.
        """
        model, state = self.model, self.model._compiled
        self.sources, self.epoch = (train, validation), first
        silent = (ProgressBar, BackupAndRestore)
        self.callbacks = [c for c in callbacks if not isinstance(c, silent)]
        own = {
            "samples": train.samples,
            "batch_size": train.batch_size,
            "steps": train.steps,
            "shuffle": train.shuffle,
            "initial_epoch": first,
            "accumulate": state.accumulate,
            "precision": state.precision,
            "callbacks": [type(callback).__name__ for callback in self.callbacks],
            "optimizer": type(state.optimizer).__name__,
            **{
                f"optimizer's {key}": value
                for key, value in state.optimizer.defaults.items()
                if isinstance(value, (int, float, str, tuple))
            },
        }
        self._plan = json.loads(json.dumps(own))
        if self._found is not None:
            what = f"the checkpoint {self._found['path'].name}"
            check_same_architecture(model.state_dict(), self._found["weights"], what)
            theirs, self.epoch = self._found["plan"], self._found["epoch"]
            names = [name for name in self._plan if theirs.get(name) != self._plan[name]]
            if names:
                differences = ", ".join(
                    f"{name} {theirs.get(name)!r:.40} there, {self._plan[name]!r:.40} here"
                    for name in names[:4]
                )
                raise ValueError(
                    f"{what} in {str(self.folder)[-120:]!r} is of another training: "
                    f"{differences}. Expected the same script; write another folder, or delete "
                    "this one to begin anew."
                )
        self._model_parts()
        self.folder.mkdir(parents=True, exist_ok=True)
        probe = self.folder / f".try-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
        needed = (KEPT + 1) * 3 * sum(tensor.nbytes for tensor in model.state_dict().values())
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                f"checkpoint={str(self.folder)[-200:]!r} has {free:,} bytes of room; expected "
                f"about {needed:,} for {KEPT + 1} checkpoints. Free some, or write another folder."
            )

    # -- while training -----------------------------------------------------------------------

    def on_train_begin(self, logs: Logs = None) -> None:
        self._saved_at, self._batches = time.monotonic(), 0
        found = self._found
        if found is None:
            return
        self.epoch, self.batch = found["epoch"], found["batch"]
        self._put_back()
        place = f"epoch {self.epoch + 1}"
        if self.batch:
            place += f", batch {self.batch + 1}"
        if self.model.stop_training:
            place = "its end: training had stopped"
        if self.model._compiled.speaks:
            say(f"going on from {found['path'].name}: {place}")

    def _put_back(self) -> None:
        found, model = self._found, self.model
        assert found is not None
        model.load_state_dict(found["weights"])
        for name, flag in found["trainable"].items():
            model.get_submodule(name).__dict__["trainable"] = flag
        frozen = set(found["frozen"])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        restore_training_state(model, found["training"], found["optimizer"])
        model.stop_training = found["stop"]
        for source, seed in zip(self.sources, found["seeds"]):
            if source is not None:
                source.seed = seed
        for callback, state in zip(self.callbacks, found["callbacks"]):
            callback.load_state_dict(state)
        set_random_state(found["random"])

    def resume(self, epoch: int, meter: Any) -> tuple[int, Callable[[], None] | None]:
        """Batches of this epoch that are done, and what to call once the source has left them out.

        Called where an epoch's batches begin, after the hooks of its begin, whose effects on the
        state are taken back.
        """
        found = self._found
        if found is None or epoch != found["epoch"]:
            self._random_at_epoch = self._now()
            return 0, None
        if self.batch:
            self._put_back()
            meter.load_state_dict(found["meter"])
            self._random_at_epoch = found["random_at_epoch"]
            set_random_state(self._random_at_epoch)
        else:
            self._random_at_epoch = self._now()
        self._found = None
        return self.batch, lambda: set_random_state(found["random"]) if found["batch"] else None

    def _now(self) -> dict[str, Any]:
        """The random states that the order of this epoch's batches follows from."""
        begun = getattr(self.sources[0], "before_peek", None)
        if begun is not None:
            self.sources[0].before_peek = None
        return random_state(begun)

    def after_batch(self, epoch: int, batch: int, count: int, meter: Any) -> None:
        """Save where it is time: ``batch`` of the epoch are done, ``count`` of them just now."""
        self._batches += count
        if self.model._compiled.waiting_batches:
            return  # a gradient is half summed up
        if self.every is None:
            late = time.monotonic() - self._saved_at > SECONDS
            if not late or not meter.is_flushed:  # sums are not cut by the clock, only put off
                return
        elif self._batches < self.every:
            return
        self._save(epoch, batch, meter)

    def after_epoch(self, epoch: int) -> None:
        """Save after the callbacks' ``on_epoch_end``; with ``save_freq=n``, so does the batch."""
        self._save(epoch + 1, 0, None)

    def on_train_end(self, logs: Logs = None) -> None:
        self._found = None
        ended = self.model.stop_training or self.epoch >= (self.params or {}).get("epochs", 0)
        if self.delete_checkpoint and ended:
            for path in self._files():
                path.unlink(missing_ok=True)

    # -- files --------------------------------------------------------------------------------

    def _save(self, epoch: int, batch: int, meter: Any) -> None:
        model = self.model
        tensors: dict[str, Tensor] = {}
        self._batches, self.epoch = 0, epoch
        encoder = StateEncoder(tensors)
        trainer = {
            "epoch": epoch,
            "batch": batch,
            "seed": self.sources[0].seed,
            "seeds": [None if source is None else source.seed for source in self.sources],
            "plan": self._plan,
            "stop": model.stop_training,
            "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
            "trainable": {
                name: module.__dict__["trainable"]
                for name, module in model.named_modules()
                if "trainable" in module.__dict__
            },
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "meter": None if meter is None else meter.state_dict(),
            "random": random_state(),
            "random_at_epoch": self._random_at_epoch if batch else None,
        }
        manifest, members = self._model_parts()
        text = json.dumps(encoder.encode(trainer, "the state of a callback"), allow_nan=False)
        members |= {TRAINER: text.encode(), STATES: to_safetensors(tensors)}
        name = f"epoch{epoch:05d}-batch{batch:08d}.easydl"
        write_atomically(self.folder / name, pack(manifest, members))
        for old in self._files()[:-KEPT]:
            old.unlink(missing_ok=True)
        self._saved_at = time.monotonic()

    def _model_parts(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Manifest and members of ``model.save``, or the weights where it cannot be saved so."""
        with contextlib.suppress(ValueError):
            return contents(self.model)
        training, state = training_state(Encoder(), self.model)
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
    """An ``Encoder`` that puts tensors aside, whatever their size."""

    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__()
        self.tensors = tensors

    def encode(self, value: Any, where: str) -> Any:
        if isinstance(value, Tensor):
            self.tensors[name := str(len(self.tensors))] = value
            return {"stored": name}
        return super().encode(value, where)


class StateDecoder(Decoder):
    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__()
        self.tensors = tensors

    def decode(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, dict) and list(value) == ["stored"]:
            return self.tensors[value["stored"]]
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
        trainer = StateDecoder(states).decode(read_json(reader.read(TRAINER), what))
        training = Decoder().decode(reader.manifest["training"])
    return trainer | {
        "path": path, "weights": weights, "optimizer": optimizer, "training": training
    }  # fmt: skip


def random_state(states: tuple | None = None) -> dict[str, Any]:
    """Python's, NumPy's and torch's random states, of every CUDA device in use too."""
    (version, numbers, gauss), (kind, keys, *rest), here = states or random_states()
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": (version, torch.tensor(numbers), gauss),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": here,
        "cuda": torch.cuda.get_rng_state_all() if cuda else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
