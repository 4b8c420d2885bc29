"""Stop when training no longer helps."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch

from easydl.callbacks.base import Callback, Logs
from easydl.callbacks.history import count, number
from easydl.callbacks.monitor import Monitor
from easydl.callbacks.progress import say
from easydl.errors import check_positive_int


class EarlyStopping(Callback):
    """Stop training when the monitored entry has not improved for ``patience`` epochs.

    The cheapest cure for overfitting: train until the error on held-out data rises. An epoch
    improves when its value beats the best so far by more than ``min_delta``. An epoch that was
    not validated (``validation_freq``) does not count; any number is better than a NaN.

    Reference: L. Prechelt, "Early stopping — but when?", Neural Networks: Tricks of the Trade
    (1998).

    Args:
        monitor: The entry of the logs to watch.
        min_delta: The least change that counts as an improvement.
        patience: The number of epochs without improvement after which training stops.
        verbose: 1 says when it stops and what it restores.
        mode: ``"min"``, ``"max"``, or ``"auto"``: by the name of the entry.
        baseline: A value the model has to beat; until it does, patience runs.
        restore_best_weights: Whether the model ends with the weights of its best epoch, however
            training ends. They are copies on the model's device.
        start_from_epoch: The number of first epochs that are not looked at.

    Raises:
        ValueError: For an unknown ``mode``, a negative ``patience``, or an entry that is not in
            the logs.

    Example:
        >>> stop = EarlyStopping(monitor="loss", patience=2)
        >>> stop.set_model(torch.nn.Linear(1, 1))
        >>> stop.on_train_begin()
        >>> for epoch, loss in enumerate([0.5, 0.4, 0.41, 0.42]):
        ...     stop.on_epoch_end(epoch, {"loss": loss})
        >>> stop.model.stop_training, stop.stopped_epoch, stop.best_epoch
        (True, 3, 1)
    """

    keeps = ("wait", "stopped_epoch", "best", "best_epoch", "best_weights")

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        self.goal = Monitor("EarlyStopping", monitor, mode, min_delta)
        self.monitor = monitor
        self.patience = check_positive_int("patience", patience, minimum=0)
        self.verbose = verbose
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = check_positive_int("start_from_epoch", start_from_epoch, minimum=0)
        self._reset()

    def _reset(self) -> None:
        self.wait = 0
        self.stopped_epoch = 0
        self.best: float | None = None
        self.best_epoch = 0
        self.best_weights: dict[str, Any] | None = None

    def check_monitor(self, names: Iterable[str]) -> None:
        """Raise ``ValueError`` when the monitored entry is not one of ``names``."""
        self.goal.check(names)

    def on_train_begin(self, logs: Logs = None) -> None:
        self._reset()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        current = self.goal.read(logs)
        if current is None or epoch < self.start_from_epoch:
            return
        self.wait += 1
        if self.goal.improves(current, self.best):  # the first value always does
            self.best, self.best_epoch = current, epoch
            if self.restore_best_weights:
                self._keep_weights()
            if self.baseline is None or self.goal.improves(current, self.baseline):
                self.wait = 0
            return
        if self.wait >= self.patience:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs = None) -> None:
        if self.stopped_epoch > 0 and self.verbose > 0:
            best = "" if self.best is None else f", best {number(self.best)}"
            say(
                f"epoch {self.stopped_epoch + 1}: early stopping, "
                f"{self.monitor} did not improve for {count(self.wait, 'epoch')}{best}"
            )
        if self.best_weights is not None:
            if self.verbose > 0:
                say(f"restored the weights of epoch {self.best_epoch + 1}")
            self.model.load_state_dict(self.best_weights)
            self.best_weights = (
                None  # a second copy of the model is not kept in memory after training
            )

    def _keep_weights(self) -> None:
        self.best_weights = {
            name: value.detach().clone()
            if isinstance(value, torch.Tensor)
            else copy.deepcopy(value)
            for name, value in self.model.state_dict().items()
        }
