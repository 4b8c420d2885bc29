"""The callbacks that change the learning rate between epochs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from easydl.callbacks.base import Callback, Logs
from easydl.callbacks.monitor import Monitor
from easydl.callbacks.progress import say
from easydl.errors import check_between, check_positive_int


class LearningRateScheduler(Callback):
    """Set the learning rate at the beginning of every epoch by a function of the epoch.

    For a schedule by steps, or one of torch's, give ``compile`` the schedule instead. The rate is
    also written to the logs as ``learning_rate``. Where the optimizer has several parameter
    groups, the function sees and sets the highest rate, and the others keep their ratio to it,
    also over epochs with a rate of 0.

    Args:
        schedule: ``f(epoch, learning_rate)`` or ``f(epoch)``, epochs from 0, that returns the new
            rate.
        verbose: 1 says the rate of each epoch.

    Raises:
        TypeError: If ``schedule`` takes other arguments.
        ValueError: If it returns something else than a number of at least 0.

    Example:
        >>> model = torch.nn.Linear(1, 1)
        >>> model.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> halve = LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch else rate)
        >>> halve.set_model(model)
        >>> for epoch in range(3):
        ...     halve.on_epoch_begin(epoch)
        >>> model.optimizer.param_groups[0]["lr"]
        0.025
    """

    adds = ("learning_rate",)

    keeps = ("_shares",)

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        self.schedule = schedule
        self.verbose = verbose
        self._shares: list[float] = []  # each group's rate / the highest
        self._takes_rate = _takes(schedule, 2)
        if not self._takes_rate and not _takes(schedule, 1):
            raise TypeError(
                f"LearningRateScheduler({schedule!r:.80}) was given; expected a function of "
                "(epoch, learning_rate) or (epoch), for example "
                "lambda epoch, learning_rate: 0.95 * learning_rate."
            )

    def on_train_begin(self, logs: Logs = None) -> None:
        _refuse_second_schedule(self)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        optimizer = self.model.optimizer
        before = learning_rate(optimizer)
        value = self.schedule(epoch, before) if self._takes_rate else self.schedule(epoch)
        try:
            rate = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            rate = math.nan
        if not 0 <= rate < math.inf:
            raise ValueError(
                f"LearningRateScheduler: the schedule returned {value!r:.60} for epoch {epoch}; "
                "expected a number of at least 0, for example 0.001."
            )
        groups = optimizer.param_groups
        if before > 0:
            self._shares = [float(group["lr"]) / before for group in groups]
        elif len(self._shares) != len(groups):
            self._shares = [1.0] * len(groups)
        for group, share in zip(groups, self._shares):
            _set(group, rate * share)
        if self.verbose > 0:
            say(f"epoch {epoch + 1}: learning rate {rate:g}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = learning_rate(self.model.optimizer)


class ReduceLROnPlateau(Callback):
    """Multiply the learning rate by ``factor`` when the monitored entry stops improving.

    Smaller steps often help where training has come to a standstill. The rate is also written to
    the logs as ``learning_rate``. Every parameter group is reduced by the same factor.

    Args:
        monitor: The entry of the logs to watch.
        factor: New rate / old rate, between 0 and 1.
        patience: The number of epochs without improvement after which the rate is reduced.
        verbose: 1 says when it is.
        mode: ``"min"``, ``"max"``, or ``"auto"``: by the name of the entry.
        min_delta: The least change that counts as an improvement.
        cooldown: The number of epochs after a reduction in which none counts as without
            improvement.
        min_lr: The rate that is never gone below.

    Raises:
        ValueError: For a wrong argument, or an entry that is not in the logs.

    Example:
        >>> model = torch.nn.Linear(1, 1)
        >>> model.optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        >>> plateau = ReduceLROnPlateau(monitor="loss", factor=0.5, patience=2)
        >>> plateau.set_model(model)
        >>> plateau.on_train_begin()
        >>> for epoch, loss in enumerate([0.5, 0.5, 0.5, 0.5]):
        ...     plateau.on_epoch_end(epoch, logs := {"loss": loss})
        >>> logs["learning_rate"], model.optimizer.param_groups[0]["lr"]
        (0.25, 0.25)
    """

    adds = ("learning_rate",)

    keeps = ("best", "wait", "cooldown_counter")

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        self.goal = Monitor("ReduceLROnPlateau", monitor, mode, min_delta)
        self.monitor = monitor
        self.factor = check_between("factor", factor, 0, 1, ends="()")
        self.patience = check_positive_int("patience", patience, minimum=0)
        self.verbose = verbose
        self.cooldown = check_positive_int("cooldown", cooldown, minimum=0)
        self.min_lr = check_between("min_lr", min_lr, 0, math.inf)
        self._reset()

    def _reset(self) -> None:
        self.best: float | None = None
        self.wait = 0
        self.cooldown_counter = 0

    def check_monitor(self, names: Iterable[str]) -> None:
        """Raise ``ValueError`` when the monitored entry is not one of ``names``."""
        self.goal.check(names)

    def on_train_begin(self, logs: Logs = None) -> None:
        _refuse_second_schedule(self)
        self._reset()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        optimizer = self.model.optimizer
        current = self.goal.read(logs)
        if logs is not None:
            logs["learning_rate"] = learning_rate(optimizer)  # the one this epoch was trained with
        if current is None:
            return
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
        if self.goal.improves(current, self.best):
            self.best, self.wait = current, 0
        elif self.cooldown_counter == 0:
            self.wait += 1
            if self.wait >= self.patience and learning_rate(optimizer) > self.min_lr:
                for group in optimizer.param_groups:
                    rate = float(group["lr"])
                    _set(group, min(rate, max(rate * self.factor, self.min_lr)))
                self.wait, self.cooldown_counter = 0, self.cooldown
                if self.verbose > 0:
                    rate = learning_rate(optimizer)
                    say(
                        f"epoch {epoch + 1}: {self.monitor} did not improve, "
                        f"learning rate reduced to {rate:g}"
                    )


def learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """The highest learning rate of the parameter groups."""
    return max(float(group["lr"]) for group in optimizer.param_groups)


def _set(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], torch.Tensor):  # a captured step reads this very tensor
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _takes(function: Any, count: int) -> bool:
    """Whether ``function`` can be called with ``count`` arguments."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*[0] * count)
    except TypeError:
        return False
    except ValueError:  # a builtin that doesn't tell
        return True
    return True


def _refuse_second_schedule(callback: Callback) -> None:
    """Two owners of one learning rate would overwrite each other at every step."""
    compiled = getattr(callback.model, "_compiled", None)
    for kind in ("step_scheduler", "epoch_scheduler"):
        if getattr(compiled, kind, None) is not None:
            raise ValueError(
                f"fit(callbacks=[{type(callback).__name__}(…)]) was given, and compile has a "
                "learning-rate schedule; expected one of the two: leave the callback out, or give "
                "the optimizer a number as learning_rate."
            )
