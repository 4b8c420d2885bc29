"""Stop when the loss is no number any more."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

from easydl.callbacks.base import Callback, Logs
from easydl.callbacks.progress import REDRAW_EVERY, say


class TerminateOnNaN(Callback):
    """End training quietly when the loss is NaN or infinite, where ``fit`` alone would raise.

    The running loss of an epoch stays NaN once it is, so looking at it four times a second is
    enough and does not make every step wait for the device.

    Example:
        >>> import torch
        >>> stop = TerminateOnNaN()
        >>> stop.set_model(torch.nn.Linear(1, 1))
        >>> stop.on_train_batch_end(7, {"loss": float("nan")})
        batch 8: the loss is nan, training stops
        >>> stop.model.stop_training
        True
    """

    def __init__(self) -> None:
        self._next = 0.0

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if perf_counter() >= self._next:
            self._look(f"batch {batch + 1}", logs)
            self._next = perf_counter() + REDRAW_EVERY

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._look(f"epoch {epoch + 1}", logs)

    def _look(self, when: str, logs: Logs) -> None:
        loss = 0.0 if logs is None else logs.get("loss", 0.0)
        if not math.isfinite(loss):
            say(f"{when}: the loss is {loss}, training stops")
            self.model.stop_training = True
