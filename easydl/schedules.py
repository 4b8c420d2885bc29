"""Learning rates that change while training: Keras's names over torch's scheduler.

A schedule is a small object with ``schedule(step) -> float``, the learning rate of the optimizer
step ``step`` counted from 0. ``schedule.make(optimizer)`` gives a real
``torch.optim.lr_scheduler.LRScheduler``, stepped once per optimizer step.

Any scheduler of torch works too, written as what makes it: ``lambda o: StepLR(o, 10)``. It is
stepped once an epoch, as torch's examples do (``OneCycleLR`` and ``CyclicLR`` once a step, as
torch asks for these two).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CyclicLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
)

from easydl.errors import check_between, check_positive_int

A_SCHEDULER = (
    "expected a torch scheduler: schedule=lambda optimizer: StepLR(optimizer, 10). A learning rate "
    "as a function of the step is a subclass of easydl.optimizers.schedules.LearningRateSchedule; "
    "of the epoch, callbacks=[easydl.callbacks.LearningRateScheduler(function)]."
)


class StepScheduler(LambdaLR):
    """The torch scheduler of an easydl schedule; ``easydl_interval`` says when to step it."""

    easydl_interval = "step"


class LearningRateSchedule:
    """A learning rate as a function of the optimizer step: subclass it and write ``__call__``.

    Example:
        >>> class Halving(LearningRateSchedule):
        ...     def __call__(self, step):
        ...         return 0.1 * 0.5**step
        >>> Halving()(2)
        0.025
    """

    def __call__(self, step: int) -> float:
        """The learning rate of optimizer step ``step`` (the first is 0)."""
        raise NotImplementedError(
            f"{type(self).__name__} has no __call__(self, step); write one that returns the "
            "learning rate of that step."
        )

    @property
    def peak_learning_rate(self) -> float:
        """The rate that a parameter group's own ``lr`` is measured against: the largest one."""
        return float(self(0))

    def make(self, optimizer: Optimizer) -> StepScheduler:
        """The torch scheduler that gives optimizer step t the learning rate ``self(t)``.

        A parameter group with its own ``lr`` keeps its ratio to the optimizer's learning rate (to
        the largest one where no group has it): a tenth of it is trained with ``self(t) / 10``.

        Raises:
            ValueError: if the schedule gives a negative rate or NaN.
        """
        own = [float(group["lr"]) for group in optimizer.param_groups]
        default = float(optimizer.defaults["lr"])
        whole = default if default in own else max(own)
        if whole == 0 and any(own):
            raise ValueError(
                f"parameter groups have lr={own} and the optimizer 0, so the groups' shares of the "
                "schedule are unknown; give the optimizer a learning rate above 0."
            )
        for group, lr in zip(optimizer.param_groups, own):
            # LambdaLR multiplies the group's initial_lr by the function's value. A share of the
            # schedule in place of a rate makes the product exact, and lets schedules begin at 0.
            group["initial_lr"] = 1.0 if lr == whole else lr / whole
        return StepScheduler(optimizer, self._checked)

    def _checked(self, step: int) -> float:
        value = float(self(step))
        if not value >= 0:
            raise ValueError(
                f"{type(self).__name__} gave the learning rate {value} at step {step}; expected a "
                "number that is not negative."
            )
        return value


class ExponentialDecay(LearningRateSchedule):
    """Multiply the rate by ``decay_rate`` every ``decay_steps`` steps.

    Formula: ``initial_learning_rate · decay_rate^(step / decay_steps)``; the exponent is rounded
    down with ``staircase=True``.

    Args:
        initial_learning_rate: the rate of step 0.
        decay_steps: steps, not epochs.
        decay_rate: the factor.
        staircase: jump every ``decay_steps`` steps rather than fall smoothly.

    Example:
        >>> ExponentialDecay(0.1, decay_steps=10, decay_rate=0.5)(20)
        0.025
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
    ) -> None:
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.decay_steps = check_between("decay_steps", decay_steps, 0, math.inf, ends="()")
        self.decay_rate = check_between("decay_rate", decay_rate, 0, math.inf, ends="()")
        self.staircase = staircase

    def __call__(self, step: int) -> float:
        power = step / self.decay_steps
        if self.staircase:
            power = math.floor(power)
        return self.initial_learning_rate * self.decay_rate**power


class InverseTimeDecay(LearningRateSchedule):
    """Divide the rate by a number that grows linearly with the steps.

    Formula: ``initial_learning_rate / (1 + decay_rate · step / decay_steps)``; the quotient is
    rounded down with ``staircase=True``.

    Args:
        initial_learning_rate: the rate of step 0.
        decay_steps: steps, not epochs.
        decay_rate: how fast the divisor grows.
        staircase: jump every ``decay_steps`` steps rather than fall smoothly.

    Example:
        >>> InverseTimeDecay(0.1, decay_steps=10, decay_rate=1.0)(10)
        0.05
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
    ) -> None:
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.decay_steps = check_between("decay_steps", decay_steps, 0, math.inf, ends="()")
        self.decay_rate = check_between("decay_rate", decay_rate, 0, math.inf, ends="[)")
        self.staircase = staircase

    def __call__(self, step: int) -> float:
        passed = step / self.decay_steps
        if self.staircase:
            passed = math.floor(passed)
        return self.initial_learning_rate / (1 + self.decay_rate * passed)


class PolynomialDecay(LearningRateSchedule):
    """Go from one rate to another along a power of the time left, then stay.

    Formula: ``(initial − end) · (1 − min(step, decay_steps) / decay_steps)^power + end``. With
    ``cycle=True``, ``decay_steps`` is stretched to its next multiple each time it is passed.

    Args:
        initial_learning_rate: the rate of step 0.
        decay_steps: the step at which ``end_learning_rate`` is reached.
        end_learning_rate: the last rate.
        power: 1 is a straight line.
        cycle: begin again when the end is reached.

    Example:
        >>> PolynomialDecay(0.5, decay_steps=10, end_learning_rate=0.25)(4)
        0.4
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
    ) -> None:
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.decay_steps = check_between("decay_steps", decay_steps, 0, math.inf, ends="()")
        self.end_learning_rate = _rate("end_learning_rate", end_learning_rate)
        self.power = check_between("power", power, 0, math.inf, ends="()")
        self.cycle = cycle

    def __call__(self, step: int) -> float:
        length = self.decay_steps
        if self.cycle:
            length *= max(1, math.ceil(step / length))
        left = 1 - min(step, length) / length
        span = self.initial_learning_rate - self.end_learning_rate
        return span * left**self.power + self.end_learning_rate

    @property
    def peak_learning_rate(self) -> float:
        return max(self.initial_learning_rate, self.end_learning_rate)


class PiecewiseConstantDecay(LearningRateSchedule):
    """One rate up to and including the first boundary, the next one after it, and so on.

    Args:
        boundaries: steps in rising order.
        values: the rates, one more than there are boundaries.

    Example:
        >>> steps = PiecewiseConstantDecay([10, 20], [0.1, 0.01, 0.001])
        >>> steps(10), steps(11), steps(21)
        (0.1, 0.01, 0.001)
    """

    def __init__(self, boundaries: Sequence[int], values: Sequence[float]) -> None:
        if len(values) != len(boundaries) + 1 or not boundaries:
            raise ValueError(
                f"{len(boundaries)} boundaries and {len(values)} values were given; expected at "
                "least one boundary, and one value more than boundaries, for example "
                "PiecewiseConstantDecay([100], [0.1, 0.01])."
            )
        if any(low >= high for low, high in pairwise(boundaries)):
            raise ValueError(f"boundaries={list(boundaries)} were given; expected rising steps.")
        self.boundaries = list(boundaries)
        self.values = [_rate("values", value) for value in values]
        self.initial_learning_rate = self.values[0]

    def __call__(self, step: int) -> float:
        return self.values[sum(step > boundary for boundary in self.boundaries)]

    @property
    def peak_learning_rate(self) -> float:
        return max(self.values)


class CosineDecay(LearningRateSchedule):
    """Fall along half a cosine, after a linear warm-up if one is asked for, then stay.

    Formula: ``rate · ((1 − alpha) · (1 + cos(π · step / decay_steps)) / 2 + alpha)``. With
    ``warmup_target``, the rate first rises in a line from ``initial_learning_rate`` to it over
    ``warmup_steps`` steps, and the cosine falls from there.

    Reference: Loshchilov and Hutter, 2017, SGDR, eq. 5, arXiv:1608.03983.

    Args:
        initial_learning_rate: the rate of step 0.
        decay_steps: the length of the fall, the warm-up not counted.
        alpha: the last rate, as a fraction of the highest.
        warmup_target: the rate at the end of the warm-up; None: no warm-up.
        warmup_steps: the length of the warm-up.

    Example:
        >>> CosineDecay(0.5, decay_steps=100)(50)
        0.25
        >>> CosineDecay(0.0, decay_steps=100, warmup_target=0.5, warmup_steps=10)(5)
        0.25
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        alpha: float = 0.0,
        warmup_target: float | None = None,
        warmup_steps: float = 0,
    ) -> None:
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.decay_steps = check_between("decay_steps", decay_steps, 0, math.inf, ends="()")
        self.alpha = check_between("alpha", alpha, 0, 1)
        self.warmup_target = (
            None if warmup_target is None else _rate("warmup_target", warmup_target)
        )
        self.warmup_steps = check_between("warmup_steps", warmup_steps, 0, math.inf, ends="[)")
        if warmup_target is None and warmup_steps:
            raise ValueError(
                f"warmup_steps={warmup_steps} was given without the rate to warm up to; write "
                f"CosineDecay(0.0, …, warmup_target={self.initial_learning_rate:g}, "
                f"warmup_steps={warmup_steps})."
            )

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            rise = self.peak_learning_rate - self.initial_learning_rate
            return self.initial_learning_rate + rise * step / self.warmup_steps
        passed = min((step - self.warmup_steps) / self.decay_steps, 1.0)
        return self.peak_learning_rate * _half_cosine(passed, self.alpha)

    @property
    def peak_learning_rate(self) -> float:
        return self.initial_learning_rate if self.warmup_target is None else self.warmup_target


class CosineDecayRestarts(LearningRateSchedule):
    """Fall along half a cosine again and again, each time over more steps.

    Formula: fall number i (from 0) is ``first_decay_steps · t_mul^i`` steps long and begins at
    ``initial_learning_rate · m_mul^i``. Keras's float32 logarithm can be a step late to restart.

    Reference: Loshchilov and Hutter, 2017, SGDR, arXiv:1608.03983.

    Args:
        initial_learning_rate: the rate of step 0.
        first_decay_steps: the length of the first fall.
        t_mul: how much longer each fall is than the one before, at least 1.
        m_mul: the factor on the height after each fall.
        alpha: the lowest rate, as a fraction of the height.

    Example:
        >>> restarts = CosineDecayRestarts(0.5, first_decay_steps=10)
        >>> restarts(5), restarts(10), restarts(20)
        (0.25, 0.5, 0.25)
    """

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: float,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
    ) -> None:
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.first_decay_steps = check_between(
            "first_decay_steps", first_decay_steps, 0, math.inf, ends="()"
        )
        self.t_mul = check_between("t_mul", t_mul, 1, math.inf, ends="[)")
        self.m_mul = check_between("m_mul", m_mul, 0, math.inf, ends="()")
        self.alpha = check_between("alpha", alpha, 0, 1)

    def __call__(self, step: int) -> float:
        length, restarts = self.first_decay_steps, 0
        if self.t_mul == 1:
            restarts = math.floor(step / length)
            step_in_fall = step - restarts * length
        else:
            step_in_fall = float(step)
            while step_in_fall >= length:  # a logarithm would miss the exact step of a restart
                step_in_fall -= length
                length *= self.t_mul
                restarts += 1
        height = self.initial_learning_rate * self.m_mul**restarts
        return height * _half_cosine(step_in_fall / length, self.alpha)


class OneCycle(LearningRateSchedule):
    """Rise to the highest rate and fall far below the first one: fast training in few epochs.

    Two half cosines, the numbers of torch's ``OneCycleLR``: up from ``max_learning_rate / 25`` over
    the first 30 % of the steps, then down to ``max_learning_rate / 250 000``. The momentum stays.

    Reference: Smith and Topin, 2018, Super-Convergence, arXiv:1708.07120.

    Args:
        max_learning_rate: the highest rate, for example from a learning-rate finder.
        steps: all optimizer steps of the training: epochs · batches per epoch.
        warmup: the share of the steps that rise.

    Example:
        >>> cycle = OneCycle(0.5, steps=101)
        >>> round(cycle(0), 6), round(cycle(100), 8)
        (0.02, 2e-06)
    """

    def __init__(self, max_learning_rate: float, steps: int, warmup: float = 0.3) -> None:
        self.max_learning_rate = _rate("max_learning_rate", max_learning_rate)
        self.steps = check_positive_int("steps", steps, minimum=2)
        self.warmup = check_between("warmup", warmup, 0, 1, ends="[)")
        self.initial_learning_rate = self.max_learning_rate / 25
        self.end_learning_rate = self.initial_learning_rate / 1e4

    def __call__(self, step: int) -> float:
        top, last = self.warmup * self.steps - 1, self.steps - 1
        if step < top:
            foot, down = self.initial_learning_rate, 1 - step / top
        else:
            foot, down = self.end_learning_rate, min((step - top) / (last - top), 1.0)
        return foot + (self.max_learning_rate - foot) * _half_cosine(down)

    @property
    def peak_learning_rate(self) -> float:
        return self.max_learning_rate


class TorchSchedule:
    """What a user wrote to make a scheduler of torch: a callable optimizer → scheduler."""

    def __init__(self, maker: Callable[[Optimizer], LRScheduler]) -> None:
        self.maker = maker

    def make(self, optimizer: Optimizer) -> LRScheduler:
        """The user's scheduler of ``optimizer``, checked."""
        try:
            scheduler = self.maker(optimizer)
        except TypeError as error:  # of one written for the number of an epoch or step
            raise TypeError(
                f"the schedule failed for the optimizer ({error!s:.150}); {A_SCHEDULER}"
            ) from error
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(
                f"the schedule returned a {type(scheduler).__name__} for the optimizer; "
                f"{A_SCHEDULER}"
            )
        if scheduler.optimizer is not optimizer:
            raise ValueError(
                "the schedule returned a torch scheduler of another optimizer; pass the one it is "
                "called with on, for example schedule=lambda optimizer: StepLR(optimizer, 10)."
            )
        if isinstance(scheduler, (OneCycleLR, CyclicLR)):
            scheduler.easydl_interval = "step"  # type: ignore[union-attr]
        return scheduler


def get(spec: Any) -> LearningRateSchedule | TorchSchedule:
    """``spec`` as something whose ``make(optimizer)`` gives a torch scheduler.

    Args:
        spec: a schedule of this file, or a callable optimizer → torch scheduler.

    Raises:
        ValueError: for a torch scheduler that is already bound to an optimizer.
        TypeError: for anything else.

    Example:
        >>> from torch.optim.lr_scheduler import StepLR
        >>> type(get(lambda optimizer: StepLR(optimizer, 10))).__name__
        'TorchSchedule'
    """
    if isinstance(spec, LearningRateSchedule):
        return spec
    if isinstance(spec, LRScheduler):
        name = type(spec).__name__
        raise ValueError(
            f"a ready {name} was given, which is bound to its own optimizer; write what makes it: "
            f"schedule=lambda optimizer: {name}(optimizer, …)."
        )
    if isinstance(spec, type) and issubclass(spec, LearningRateSchedule):
        raise TypeError(
            f"the class {spec.__name__} was given; expected an object: write "
            f"{spec.__name__}(…) with its arguments."
        )
    if isinstance(spec, type) and issubclass(spec, LRScheduler):
        raise TypeError(
            f"the class {spec.__name__} was given; expected what makes one with its arguments: "
            f"schedule=lambda optimizer: {spec.__name__}(optimizer, …)."
        )
    if callable(spec):
        return TorchSchedule(spec)
    raise TypeError(
        f"{spec!r:.80} was given as a schedule; expected an object such as "
        "easydl.optimizers.schedules.ExponentialDecay(0.1, 1000, 0.96), or a callable "
        "optimizer -> torch scheduler."
    )


def _half_cosine(passed: float, floor: float = 0.0) -> float:
    """From 1 (``passed`` = 0) to ``floor`` (``passed`` = 1)."""
    return (1 - floor) * 0.5 * (1 + math.cos(math.pi * passed)) + floor


def _rate(name: str, value: Any) -> float:
    return check_between(name, value, 0, math.inf, ends="[)")
