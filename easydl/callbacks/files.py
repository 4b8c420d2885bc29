"""The callbacks that write files: weights, a table, TensorBoard's events."""

from __future__ import annotations

import csv
import os
import string
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from easydl.callbacks import monitor as monitors
from easydl.callbacks.base import Callback, Logs
from easydl.callbacks.history import number
from easydl.callbacks.learning_rate import learning_rate
from easydl.callbacks.monitor import Monitor
from easydl.callbacks.progress import say
from easydl.errors import check_flag, check_path, check_positive_int
from easydl.saving import FOREIGN
from easydl.saving.whole import contents


class ModelCheckpoint(Callback):
    """Save the model while it trains: every epoch, every so many batches, or only the best.

    Args:
        filepath: Where to; may hold ``{epoch}`` (from 1), ``{batch}`` and any entry of the logs,
            formatted as in ``"{epoch:02d}-{val_loss:.2f}.safetensors"``. A path without them is
            overwritten.
        monitor: The entry that tells which is best, with ``save_best_only``.
        verbose: 1 says what is saved and why.
        save_best_only: Whether to save only what is better than all before, also in earlier
            ``fit`` s.
        save_weights_only: Whether to call ``model.save_weights`` or ``model.save``; None: as the
            path says, the whole model for ``"best.easydl"``, else the weights.
        mode: ``"min"``, ``"max"``, or ``"auto"``: by the name of the entry.
        save_freq: ``"epoch"``, or the number of batches between two savings.
        initial_value_threshold: What the first saved model has to beat, with ``save_best_only``.

    Raises:
        ValueError: Before training for a wrong argument, an entry that is not in the logs, or
            a path that can't be written.

    Example:
        >>> from pathlib import Path
        >>> class Network:
        ...     def save_weights(self, path):
        ...         print("saved", Path(path).name)
        >>> keep = ModelCheckpoint(
        ...     Path(tempfile.gettempdir()) / "{epoch:02d}-{loss:.2f}.safetensors",
        ...     monitor="loss",
        ...     save_best_only=True,
        ... )
        >>> keep.set_model(Network())
        >>> keep.on_train_begin()
        >>> for epoch, loss in enumerate([0.5, 0.6, 0.4]):
        ...     keep.on_epoch_end(epoch, {"loss": loss})
        saved 01-0.50.safetensors
        saved 03-0.40.safetensors
    """

    keeps = ("best", "_epoch", "_seen", "_batches")

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool | None = None,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        self.filepath = str(check_path("filepath", filepath, "best.safetensors"))
        self.monitor = monitor
        self.verbose = verbose
        self.save_best_only = save_best_only
        by_name = Path(self.filepath).suffix.lower() != ".easydl"
        self._told = save_weights_only is not None
        self.save_weights_only = (
            by_name
            if save_weights_only is None
            else check_flag("save_weights_only", save_weights_only)
        )
        self.save_freq = save_freq
        self.best = initial_value_threshold
        # mode is checked in any case; the name has to tell the direction only where it is used.
        direction = mode if save_best_only or mode != "auto" else "min"
        self.goal = Monitor("ModelCheckpoint", monitor, direction)
        self._counts = ["epoch"]
        if save_freq != "epoch":
            self.save_freq = check_positive_int("save_freq", save_freq)
            self._counts.append("batch")
        fields = [name for name in _fields(self.filepath) if name not in self._counts]
        self._fields = dict(zip(fields, fields))  # the entry of the logs for each
        late = [*self._fields, *[monitor] * save_best_only] if "batch" in self._counts else []
        for name in late:
            if name.startswith("val_"):
                raise ValueError(
                    f"ModelCheckpoint(save_freq={save_freq}) was given with {name!r}, which is "
                    "known only at the end of an epoch: write save_freq='epoch' or "
                    f"{name.removeprefix('val_')!r}."
                )
        self._checked = False
        self._epoch = self._seen = 0  # the batches of the epoch
        self._batches = 0  # since the last saving, also of earlier fits, as in Keras

    def check_monitor(self, names: Iterable[str]) -> None:
        """Raise ``ValueError`` when the monitored entry or one in ``filepath`` is missing."""
        names = list(names)
        if self.save_best_only:
            self.goal.check(names)
        who = f"ModelCheckpoint({self.filepath!r:.120})"
        for name in self._fields:
            self._fields[name] = monitors.find_entry(who, name, [*self._counts, *names])
        self._checked = True

    def on_train_begin(self, logs: Logs = None) -> None:
        path, whole = Path(self.filepath), not self.save_weights_only
        told = f", save_weights_only={not whole}" * self._told
        who = f"ModelCheckpoint({self.filepath!r:.120}{told})"
        if whole and not hasattr(self.model, "save"):
            raise ValueError(
                f"{who} was given, but a {type(self.model).__name__} has no method save; expected "
                "its weights: leave save_weights_only out, with a path such as "
                "'weights.safetensors'."
            )
        suffix = ".easydl" if whole else ".safetensors"
        if path.suffix.lower() in (*FOREIGN, ".safetensors" if whole else ".easydl"):
            other = f"save_weights_only={whole}"
            if not self._told:
                other = f"{path.with_suffix('.easydl').name!r:.120}"
            raise ValueError(
                f"{who} was given, but easydl writes {suffix[1:]} files for "
                f"{'whole models' if whole else 'weights'}; write "
                f"{str(path.with_suffix(suffix))!r:.120}, or {other} for "
                f"{'the weights alone' if whole else 'the model'}."
            )
        if whole and hasattr(self.model, "given_input_shape"):
            contents(self.model, include_optimizer=False)  # what cannot be saved is found here
        state = self.model.state_dict() if hasattr(self.model, "state_dict") else {}
        check_writable(self.filepath, sum(tensor.nbytes for tensor in state.values()))

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._epoch, self._seen = epoch, 0

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self.save_freq == "epoch":
            return
        self._batches += batch + 1 - self._seen  # one call may have run several batches
        self._seen = batch + 1
        if self._batches >= int(self.save_freq):
            self._batches = 0
            self._save({"epoch": self._epoch + 1, "batch": batch + 1}, logs or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.save_freq == "epoch":
            self._save({"epoch": epoch + 1}, logs or {})

    def _save(self, count: dict[str, int], logs: Mapping[str, Any]) -> None:
        if not self._checked:
            self.check_monitor(logs)
        if not all(name in logs for name in self._fields.values()):
            return  # validation_freq left this epoch out: there is no number for its name
        reason = ""
        if self.save_best_only:
            current = self.goal.read(logs)
            if current is None or not self.goal.improves(current, self.best):
                return
            before = "" if self.best is None else f" from {number(self.best)}"
            reason = f": {self.monitor} improved{before} to {number(current)}"
            self.best = current
        values = {field: logs[name] for field, name in self._fields.items()}
        path = self.filepath.format(**count, **values)
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)  # a folder may be named {epoch}
        if self.save_weights_only:
            self.model.save_weights(path)
        else:
            self.model.save(path)
        if self.verbose > 0:
            say(f"epoch {count['epoch']}{reason}, saved {path}")


class CSVLogger(Callback):
    """Write the logs of every epoch as a row of a table, at once, so that a crash loses nothing.

    Keras's format: ``epoch`` from 0, then the entries sorted by name; ``NA`` where an epoch lacks
    one, as the ``val_`` entries do with ``validation_freq > 1``. An entry that comes later gets a
    column then.

    Args:
        filename: The file; its folder is made when missing.
        separator: Between two fields.
        append: Whether to go on in a file that is there, or to begin it anew.

    Raises:
        ValueError: Before training when the file can't be written, or is no such table.

    Example:
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "log.csv"
        >>> logger = CSVLogger(path)
        >>> logger.on_train_begin()
        >>> logger.on_epoch_end(0, {"loss": 0.5})
        >>> logger.on_epoch_end(1, {"loss": 0.4, "accuracy": 0.75})
        >>> logger.on_train_end()
        >>> print(path.read_text().strip())
        epoch,accuracy,loss
        0,NA,0.5
        1,0.75,0.4
    """

    keeps = ("_columns", "_rows")

    def __init__(
        self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False
    ) -> None:
        if not isinstance(separator, str) or len(separator) != 1:
            raise ValueError(
                f"separator={separator!r} was given; expected one character, for example ';'."
            )
        self.filename = str(check_path("filename", filename, "log.csv"))
        self.separator = separator
        self.append = append
        self._file: IO[str] | None = None

    def on_train_begin(self, logs: Logs = None) -> None:
        check_writable(self.filename)
        self._columns = ["epoch"]
        self._rows: list[dict[str, Any]] = []
        if self.append and os.path.exists(self.filename) and os.path.getsize(self.filename):
            with open(self.filename, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file, delimiter=self.separator)
                self._columns = list(reader.fieldnames or [])
                self._rows = list(reader)
            if self._columns[:1] != ["epoch"]:
                raise ValueError(
                    f"CSVLogger({self.filename!r}, append=True): the first column is "
                    f"{self._columns[0]!r:.60}; expected 'epoch' and the separator "
                    f"{self.separator!r}. Write another file, or append=False to begin it anew."
                )
        self._file = open(  # noqa: SIM115 (on_train_end closes it)
            self.filename, "a" if self.append else "w", newline="", encoding="utf-8"
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        assert self._file is not None
        row = {"epoch": epoch, **(logs or {})}
        self._rows.append(row)
        rows = [row]
        if set(row) - set(self._columns):  # the header changes: a table of epochs is soon rewritten
            self._columns = ["epoch", *sorted({*self._columns, *row} - {"epoch"})]
            rows = self._rows
            self._file.seek(0)
            self._file.truncate()
        self._write(rows)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        assert self._file is not None
        writer = csv.DictWriter(self._file, self._columns, restval="NA", delimiter=self.separator)
        if rows is self._rows:
            writer.writeheader()
        writer.writerows(rows)
        self._file.flush()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        assert self._file is not None
        self._file.seek(0)
        self._file.truncate()
        if self._rows:
            self._write(self._rows)

    def on_train_end(self, logs: Logs = None) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class TensorBoard(Callback):
    """Write scalars (and histograms of the weights) that ``tensorboard --logdir logs`` shows.

    Tags and folders are Keras's: ``epoch_loss`` … in ``log_dir/train`` and ``log_dir/validation``.

    Args:
        log_dir: The folder to write to.
        histogram_freq: Every so many epochs, a histogram of every parameter; 0: never.
        update_freq: ``"epoch"``, ``"batch"``, or a number of batches: how often ``batch_loss`` …
            are written too. Each time waits for the device.

    Raises:
        ValueError: Before training when the folder can't be written.
        ImportError: Before training when tensorboard isn't installed.

    Example:
        >>> board = TensorBoard("logs", update_freq=100)  # writes nothing before training
    """

    keeps = ("_batches", "_seen")

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        histogram_freq: int = 0,
        *,
        update_freq: str | int = "epoch",
    ) -> None:
        self.log_dir = str(check_path("log_dir", log_dir, "logs"))
        self.histogram_freq = check_positive_int("histogram_freq", histogram_freq, minimum=0)
        if update_freq == "epoch":
            self._every = 0
        elif update_freq == "batch":
            self._every = 1
        else:
            self._every = check_positive_int("update_freq", update_freq)
        self._writers: dict[str, Any] = {}
        self._batches = 0  # of all fits: the axis goes on
        self._seen = 0  # of the epoch

    def on_train_begin(self, logs: Logs = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoard() needs the package tensorboard, which is not installed: "
                "pip install tensorboard."
            ) from error
        check_writable(os.path.join(self.log_dir, "events"))
        self._make_writer = SummaryWriter

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._seen = 0

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        before = self._batches
        self._batches += batch + 1 - self._seen  # one call may have run several batches
        self._seen = batch + 1
        if self._every and self._batches // self._every > before // self._every:
            self._write("batch", logs or {}, self._batches)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = dict(logs or {})
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is not None:
            logs.setdefault("learning_rate", learning_rate(optimizer))
        self._write("epoch", logs, epoch)
        if self.histogram_freq and epoch % self.histogram_freq == 0:
            for name, parameter in self.model.named_parameters():
                self._writer("train").add_histogram(name, parameter.detach(), epoch)
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, logs: Logs = None) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _write(self, prefix: str, logs: Mapping[str, Any], step: int) -> None:
        for name, value in dict(logs).items():
            if not getattr(value, "ndim", 0):
                part = "validation" if name.startswith("val_") else "train"
                tag = f"{prefix}_{name.removeprefix('val_')}"
                self._writer(part).add_scalar(tag, float(value), step)

    def _writer(self, part: str) -> Any:
        if part not in self._writers:
            self._writers[part] = self._make_writer(os.path.join(self.log_dir, part))
        return self._writers[part]


def check_writable(path: str, room: int = 0) -> None:
    """Make the folder of ``path`` and try to write there, before training rather than after.

    Only the part before the first ``{`` of a pattern is made and tried.

    Args:
        room: The bytes that must fit there, reserved for a moment where the system can.

    Raises:
        ValueError: With the path and the reason.
    """
    folder = os.path.dirname(path.split("{")[0] + "_") or "."
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if room and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, room)
        if os.path.isdir(path or folder):
            raise IsADirectoryError(f"{path or folder} is a folder")
        if os.path.exists(path) and not os.access(path, os.W_OK):
            raise PermissionError(f"{path} is write-protected")
    except OSError as error:
        raise ValueError(
            f"nothing can be written to {path!r:.200} ({error.strerror or error!s:.200}); "
            "expected a path in a folder where you may write and that has room, for example "
            "'runs/best.safetensors'."
        ) from error


def _fields(path: str) -> list[str]:
    """The entries of the logs in a pattern: ``"{epoch}-{val_loss:.2f}"`` → ``["val_loss"]``."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(path) if name is not None]
        if not all(name.isidentifier() for name in names):
            raise ValueError("a field without a name")
        path.format(**{name: 1 if name in ("epoch", "batch") else 0.5 for name in names})
    except ValueError as error:
        raise ValueError(
            f"ModelCheckpoint({path!r:.120}) was given ({error!s:.120}); expected a path with "
            "fields such as '{epoch:02d}-{val_loss:.2f}.safetensors'."
        ) from None
    return names
