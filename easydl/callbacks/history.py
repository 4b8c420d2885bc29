"""What ``fit`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from easydl.callbacks.base import Callback, Logs

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


class History(Callback):
    """The loss and metrics of every epoch: what ``fit`` returns and keeps at ``model.history``.

    Attributes:
        history: A list of floats for every name, e.g. ``{"loss": […], "val_loss": […]}``. With
            ``validation_freq > 1`` the ``val_`` lists are shorter, as in Keras; ``to_frame()``
            and ``plot()`` know the epochs they belong to.
        epoch: The epochs that were completed, from 0.
        params: ``{"verbose", "epochs", "steps"}`` of the ``fit``.
        waiting: For each epoch the share of its time, from the first batch on, in which the steps
            waited for data, where they came from a Dataset, DataLoader or generator; else empty.
        arguments: What ``fit`` was told, as ``model.source`` writes it; empty after ``load_model``.

    Example:
        >>> history = History()
        >>> for epoch, loss in enumerate([0.9, 0.4, 0.5]):
        ...     history.on_epoch_end(epoch, {"loss": loss})
        >>> history.history
        {'loss': [0.9, 0.4, 0.5]}
        >>> history
        History of 3 epochs: loss 0.9000 → 0.5000
    """

    waiting: list[float] = []
    arguments: dict[str, Any] = {}
    keeps = ("history", "epoch", "_epochs")

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.history: dict[str, list[Any]] = {}
        self.epoch: list[int] = []
        self._epochs: dict[str, list[int]] = {}  # name → the epochs its values belong to
        self._logs: Mapping[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        self._take(self._logs)
        return super().state_dict()

    def prepend(self, earlier: History) -> None:
        """Take in the epochs of a ``fit`` before this one."""
        names = dict.fromkeys([*earlier.history, *self.history])
        for kept in ("history", "_epochs"):
            first, last = getattr(earlier, kept), getattr(self, kept)
            joined = {name: first.get(name, []) + last.get(name, []) for name in names}
            setattr(self, kept, joined)
        self.epoch = earlier.epoch + self.epoch

    def on_train_begin(self, logs: Logs = None) -> None:
        self._reset()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._take(self._logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epoch.append(epoch)
        self._logs = logs or {}
        self._take(self._logs)

    def on_train_end(self, logs: Logs = None) -> None:
        self._take(self._logs)

    def _take(self, logs: Mapping[str, Any]) -> None:
        """The logs of the last epoch; called again for what later callbacks added to them."""
        for name, value in logs.items():
            epochs = self._epochs.setdefault(name, [])
            if epochs[-1:] != self.epoch[-1:]:
                epochs.append(self.epoch[-1])
                # A metric such as a confusion matrix has an array where others have a number.
                number = value if getattr(value, "ndim", 0) else float(value)
                self.history.setdefault(name, []).append(number)

    def epochs_of(self, name: str) -> list[int]:
        """The epochs, from 0, at which ``history[name]`` was measured."""
        return self._epochs[name]

    def to_frame(self) -> pandas.DataFrame:
        """A pandas ``DataFrame``: a row an epoch, a column a name, NaN where not measured."""
        import pandas

        columns = {
            name: pandas.Series(values, index=self._epochs[name])
            for name, values in self.history.items()
        }
        index = pandas.Index(self.epoch, name="epoch")
        return pandas.DataFrame(columns, index=index)

    def plot(self) -> Figure:
        """The learning curves as a matplotlib figure; see :func:`easydl.plotting.curves`."""
        from easydl import plotting

        return plotting.curves(self)

    def __repr__(self) -> str:
        text = f"History of {count(len(self.epoch), 'epoch')}"
        ends = [
            f"{name} {number(values[0])} → {number(values[-1])}"
            for name, values in self.history.items()
            if isinstance(values[0], float)
        ]
        return f"{text}: {', '.join(ends)}" if ends else text


def count(size: int, noun: str) -> str:
    """``"1 epoch"``, ``"2 epochs"``."""
    return f"{size} {noun}{'' if size == 1 else 's'}"


def number(value: float) -> str:
    """``value`` for people: four decimals, or a power of ten where these would hide it."""
    size = abs(value)
    return f"{value:.3e}" if 0 < size < 1e-3 or 1e5 <= size < float("inf") else f"{value:.4f}"
