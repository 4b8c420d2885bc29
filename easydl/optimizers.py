"""Optimizers with Keras's names, arguments and defaults over torch's kernels.

``Adam(0.01)`` can be written before any parameter exists; ``Adam(0.01).make(params)`` gives the
real ``torch.optim.Adam``. ``get`` accepts everything a user may write: a name, an object of this
file, a class of ``torch.optim``, a callable params → optimizer, or a ready torch optimizer.

A learning rate may be a number, a schedule of ``easydl.optimizers.schedules``, or a callable
optimizer → torch scheduler (which starts from the optimizer's default rate).

Weight decay has Keras's meaning everywhere, decoupled from the gradient:
``w ← w − learning_rate · weight_decay · w`` before the update (Loshchilov and Hutter, 2019,
arXiv:1711.05101). Where torch's kernel only offers the other one, it is refused.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from easydl import schedules
from easydl.errors import check_between, did_you_mean, look_up, made_of, refuse_uncalled
from easydl.schedules import LearningRateSchedule, TorchSchedule


class Optimizer:
    """Keras-named arguments, checked at once, that wait for parameters.

    Subclass it and write ``make``; ``fit`` runs the schedule. The rate where none is given is
    ``default_learning_rate``, or the default in an ``__init__(self, learning_rate=0.1)``.

    Attributes:
        learning_rate: the number to begin with: as given, the highest of a schedule, or
            ``default_learning_rate`` under a scheduler of torch.
        schedule: what makes the scheduler (``schedule.make(optimizer)``), or None for a number.

    Example:
        >>> class Mine(Optimizer):
        ...     default_learning_rate = 0.05
        ...     def make(self, params):
        ...         return torch.optim.ASGD(params, lr=self.learning_rate)
        >>> Mine(), Mine(schedules.ExponentialDecay(0.1, 1000, 0.5)).learning_rate
        (Mine(learning_rate=0.05, weight_decay=None), 0.1)
    """

    default_learning_rate = 1e-3

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        known = "make(self, params), which returns a torch.optim.Optimizer"
        refuse_uncalled(cls, {known: ("step", "update_step", "apply_gradients")})
        rate = inspect.signature(cls).parameters.get("learning_rate")
        if rate is not None and isinstance(rate.default, (int, float)):
            own = vars(cls).get("default_learning_rate", rate.default)
            if own != rate.default:
                raise TypeError(
                    f"{cls.__name__} has default_learning_rate={own!r:.40}, but its __init__ has "
                    f"learning_rate={rate.default}; expected one of them: write "
                    f"def __init__(self, learning_rate={own!r:.40}), which hands it to "
                    "super().__init__(learning_rate)."
                )
            cls.default_learning_rate = rate.default

    def __init__(self, learning_rate: Any = "default", weight_decay: float | None = None) -> None:
        self.schedule: LearningRateSchedule | TorchSchedule | None = None
        if callable(learning_rate) or isinstance(
            learning_rate, torch.optim.lr_scheduler.LRScheduler
        ):
            self.schedule = schedules.get(learning_rate)
            learning_rate = "default"
            if isinstance(self.schedule, LearningRateSchedule):
                learning_rate = self.schedule.peak_learning_rate
        if isinstance(learning_rate, str) and learning_rate == "default":
            learning_rate = self.default_learning_rate
        self.learning_rate = _not_negative("learning_rate", learning_rate)
        self.weight_decay = weight_decay
        if weight_decay is not None:
            self.weight_decay = _not_negative("weight_decay", weight_decay)

    def make(self, params: Iterable[Any]) -> torch.optim.Optimizer:
        """The torch optimizer of ``params``.

        Args:
            params: parameters, or dicts ``{"params": …, "lr": …}`` as torch takes them; a group's
                own ``lr`` wins, and under a schedule is its share of the schedule's peak.

        Raises:
            ValueError: without parameters, or if a group has a key that torch would ignore.
        """
        groups = _groups(params)
        flat = [parameter for group in groups for parameter in group["params"]]
        if not flat:
            raise ValueError(
                "the optimizer was given no parameters; expected at least one weight to train."
            )
        kernel, arguments = self._torch()
        optimizer = kernel(groups, lr=self.learning_rate, **arguments, **fastest(kernel, flat))
        for group in optimizer.param_groups:
            for key in group:
                if key not in optimizer.defaults and key not in ("params", "name"):
                    raise ValueError(did_you_mean("parameter group key", key, optimizer.defaults))
        return optimizer

    def _torch(self) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
        """torch's class and the arguments that mean to it what this object says."""
        raise NotImplementedError(
            f"{type(self).__name__} has no make(self, params) that returns a torch.optim.Optimizer"
        )

    def _refuse_weight_decay(self, when: str = "") -> None:
        """For kernels that can only add the decay to the gradient, which is another method."""
        if self.weight_decay:
            raise ValueError(
                f"weight_decay={self.weight_decay!r} was given to {type(self).__name__}{when}, "
                "whose torch kernel can only add it to the gradient, where Keras shrinks the "
                "weights apart from it. Write AdamW(weight_decay=…), or "
                "kernel_regularizer='l2' on the layers for a penalty in the loss."
            )

    def __repr__(self) -> str:
        shown = dict(vars(self))
        schedule = shown.pop("schedule", None)
        if schedule is not None:
            shown["learning_rate"] = getattr(schedule, "maker", schedule)
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


class SGD(Optimizer):
    """Gradient descent, with momentum if asked for.

    Formula: ``v ← momentum · v + g``, ``w ← w − learning_rate · v``, or with Nesterov's form
    ``w ← w − learning_rate · (g + momentum · v)``. Keras keeps the learning rate inside ``v``: the
    same while the rate is constant; while a schedule changes it, torch's kernel applies the new
    rate to the whole of ``v`` at once.

    Reference: Sutskever et al., 2013, On the importance of initialization and momentum.

    Args:
        learning_rate: a number, a schedule, or a callable optimizer → torch scheduler.
        momentum: from 0 to below 1.
        nesterov: Nesterov's form; without effect if momentum is 0, as in Keras.
        weight_decay: decoupled; only without momentum, where torch's kernel does just that.

    Raises:
        ValueError: for an argument out of its range.

    Example:
        >>> weight = nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = SGD(0.5).make([weight])
        >>> weight.grad = torch.tensor([1.0])
        >>> _ = optimizer.step()
        >>> weight.item()
        0.5
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        self.momentum = _fraction("momentum", momentum)
        self.nesterov = bool(nesterov)
        if self.momentum:
            self._refuse_weight_decay(" with momentum")

    def _torch(self) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
        return torch.optim.SGD, {
            "momentum": self.momentum,
            "nesterov": self.nesterov and self.momentum > 0,
            # Without momentum, w − lr·(g + wd·w) is the decoupled step itself.
            "weight_decay": self.weight_decay or 0.0,
        }


class RMSprop(Optimizer):
    """Divide the gradient by the running root mean square of it.

    Formula: ``v ← rho · v + (1 − rho) · g²``, ``w ← w − learning_rate · g / (√v + epsilon)``; with
    ``centered``, the squared mean gradient is taken off ``v``. torch's kernel: Keras has
    ``√(v + epsilon)``, which damps gradients below √epsilon = 3e-4 where torch does not.

    Reference: Tieleman and Hinton, 2012, Neural Networks for Machine Learning, lecture 6.5.

    Args:
        learning_rate: a number, a schedule, or a callable optimizer → torch scheduler.
        rho: how much of the old average stays.
        momentum: from 0 to below 1.
        epsilon: keeps the division finite.
        centered: divide by the standard deviation instead.
        weight_decay: refused: write ``AdamW`` or ``kernel_regularizer="l2"``.

    Raises:
        ValueError: for an argument out of its range.

    Example:
        >>> RMSprop().make([nn.Parameter(torch.zeros(1))]).defaults["alpha"]
        0.9
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        weight_decay: float | None = None,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        self.rho = _fraction("rho", rho)
        self.momentum = _fraction("momentum", momentum)
        self.epsilon = _not_negative("epsilon", epsilon)
        self.centered = bool(centered)
        self._refuse_weight_decay()

    def _torch(self) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
        return torch.optim.RMSprop, {
            "alpha": self.rho,
            "momentum": self.momentum,
            "eps": self.epsilon,
            "centered": self.centered,
        }


class Adam(Optimizer):
    """Momentum and RMSprop with bias correction: the usual first choice.

    Formula: ``m ← β₁·m + (1−β₁)·g``, ``v ← β₂·v + (1−β₂)·g²``,
    ``w ← w − learning_rate · m̂ / (√v̂ + epsilon)`` with ``m̂ = m/(1−β₁ᵗ)``, ``v̂ = v/(1−β₂ᵗ)``.
    torch's kernel adds epsilon after the correction of v, as the paper's algorithm 1 does; Keras
    before it, which makes its early epsilon up to √1000 times larger.

    Reference: Kingma and Ba, 2015, arXiv:1412.6980; amsgrad: Reddi et al., 2018, arXiv:1904.09237.

    Args:
        learning_rate: a number, a schedule, or a callable optimizer → torch scheduler.
        beta_1: how much of the old mean gradient stays.
        beta_2: how much of the old mean square stays.
        epsilon: keeps the division finite.
        amsgrad: divide by the largest v so far.
        weight_decay: decoupled, as in ``AdamW``.

    Raises:
        ValueError: for an argument out of its range.

    Example:
        >>> Adam(0.01).make([nn.Parameter(torch.zeros(1))]).defaults["eps"]
        1e-07
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        weight_decay: float | None = None,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        self.beta_1 = _fraction("beta_1", beta_1)
        self.beta_2 = _fraction("beta_2", beta_2)
        self.epsilon = _not_negative("epsilon", epsilon)
        self.amsgrad = bool(amsgrad)

    def _torch(self) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
        return torch.optim.Adam, {
            "betas": (self.beta_1, self.beta_2),
            "eps": self.epsilon,
            "amsgrad": self.amsgrad,
            "weight_decay": self.weight_decay or 0.0,
            "decoupled_weight_decay": True,
        }


class AdamW(Adam):
    """Adam that also shrinks every weight a little at each step.

    Formula: ``w ← w − learning_rate · weight_decay · w``, then Adam's update.

    Reference: Loshchilov and Hutter, 2019, algorithm 2, arXiv:1711.05101.

    Args:
        learning_rate: a number, a schedule, or a callable optimizer → torch scheduler.
        weight_decay: Keras's 0.004 (torch's own default is 0.01).
        beta_1: how much of the old mean gradient stays.
        beta_2: how much of the old mean square stays.
        epsilon: keeps the division finite.
        amsgrad: divide by the largest v so far.

    Raises:
        ValueError: for an argument out of its range.

    Example:
        >>> AdamW().make([nn.Parameter(torch.zeros(1))]).defaults["weight_decay"]
        0.004
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float | None = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay)

    def _torch(self) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
        arguments = super()._torch()[1]
        del arguments["decoupled_weight_decay"]  # always so in torch's AdamW
        return torch.optim.AdamW, arguments


class Nadam(Optimizer):
    """Adam with Nesterov's momentum.

    Formula: Adam's, with ``m̂ = μₜ₊₁·m/(1−Πμ·μₜ₊₁) + (1−μₜ)·g/(1−Πμ)`` and Keras's momentum
    schedule ``μₜ = β₁ · (1 − 0.96ᵗ/2)`` (torch's default is the slower ``0.96^(0.004·t)``).

    Reference: Dozat, 2016, Incorporating Nesterov Momentum into Adam.

    Args:
        learning_rate: a number, a schedule, or a callable optimizer → torch scheduler.
        beta_1: how much of the old mean gradient stays.
        beta_2: how much of the old mean square stays.
        epsilon: keeps the division finite.
        weight_decay: decoupled, as in ``AdamW``.

    Raises:
        ValueError: for an argument out of its range.

    Example:
        >>> Nadam().make([nn.Parameter(torch.zeros(1))]).defaults["lr"]
        0.001
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        self.beta_1 = _fraction("beta_1", beta_1)
        self.beta_2 = _fraction("beta_2", beta_2)
        self.epsilon = _not_negative("epsilon", epsilon)

    def _torch(self) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
        return torch.optim.NAdam, {
            "betas": (self.beta_1, self.beta_2),
            "eps": self.epsilon,
            "momentum_decay": 1.0,
            "weight_decay": self.weight_decay or 0.0,
            "decoupled_weight_decay": True,
        }


class Adamax(Optimizer):
    """Adam with the largest recent gradient in place of the root mean square.

    Formula: ``u ← max(β₂·u, |g| + epsilon)``, ``w ← w − learning_rate/(1−β₁ᵗ) · m/u``. torch's
    kernel: Keras adds epsilon to u after the maximum.

    Reference: Kingma and Ba, 2015, section 7.1, arXiv:1412.6980.

    Args:
        learning_rate: a number, a schedule, or a callable optimizer → torch scheduler.
        beta_1: how much of the old mean gradient stays.
        beta_2: how much of the old maximum stays.
        epsilon: keeps the division finite.
        weight_decay: refused: write ``AdamW`` or ``kernel_regularizer="l2"``.

    Raises:
        ValueError: for an argument out of its range.

    Example:
        >>> Adamax().make([nn.Parameter(torch.zeros(1))]).defaults["lr"]
        0.001
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        self.beta_1 = _fraction("beta_1", beta_1)
        self.beta_2 = _fraction("beta_2", beta_2)
        self.epsilon = _not_negative("epsilon", epsilon)
        self._refuse_weight_decay()

    def _torch(self) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
        return torch.optim.Adamax, {"betas": (self.beta_1, self.beta_2), "eps": self.epsilon}


class Adagrad(Optimizer):
    """Divide by the root of all squared gradients so far: rates that only fall, one a weight.

    Formula: ``a ← a + g²``, ``w ← w − learning_rate · g / (√a + epsilon)``. torch's kernel: Keras
    has ``√(a + epsilon)``, the same to 1e-6 with the default accumulator.

    Reference: Duchi, Hazan and Singer, 2011, Adaptive Subgradient Methods, JMLR 12.

    Args:
        learning_rate: a number, a schedule, or a callable optimizer → torch scheduler.
        initial_accumulator_value: what ``a`` starts from.
        epsilon: keeps the division finite.
        weight_decay: refused: write ``AdamW`` or ``kernel_regularizer="l2"``.

    Raises:
        ValueError: for an argument out of its range.

    Example:
        >>> optimizer = Adagrad().make([nn.Parameter(torch.zeros(1))])
        >>> optimizer.defaults["initial_accumulator_value"]
        0.1
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        self.initial_accumulator_value = _not_negative(
            "initial_accumulator_value", initial_accumulator_value
        )
        self.epsilon = _not_negative("epsilon", epsilon)
        self._refuse_weight_decay()

    def _torch(self) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
        return torch.optim.Adagrad, {
            "initial_accumulator_value": self.initial_accumulator_value,
            "eps": self.epsilon,
        }


class Adadelta(Optimizer):
    """Adagrad with a moving window, whose step is scaled by the steps before it.

    Formula: ``d = g · √(s + epsilon) / √(v + epsilon)``, ``w ← w − learning_rate · d``, where v and
    s are running means of g² and d². The paper's learning rate is 1.0; Keras's default 0.001 is
    very slow.

    Reference: Zeiler, 2012, algorithm 1, arXiv:1212.5701.

    Args:
        learning_rate: a number, a schedule, or a callable optimizer → torch scheduler.
        rho: how much of the old means stays.
        epsilon: starts the steps and keeps the division finite.
        weight_decay: refused: write ``AdamW`` or ``kernel_regularizer="l2"``.

    Raises:
        ValueError: for an argument out of its range.

    Example:
        >>> Adadelta(1.0).make([nn.Parameter(torch.zeros(1))]).defaults["rho"]
        0.95
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.95,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        self.rho = _fraction("rho", rho)
        self.epsilon = _not_negative("epsilon", epsilon)
        self._refuse_weight_decay()

    def _torch(self) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
        return torch.optim.Adadelta, {"rho": self.rho, "eps": self.epsilon}


NAMES: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": Nadam,
    "adamax": Adamax,
    "adagrad": Adagrad,
    "adadelta": Adadelta,
}


class FromTorch:
    """A class of ``torch.optim`` or any callable params → optimizer, with its own defaults."""

    schedule = None

    def __init__(self, maker: Callable[..., torch.optim.Optimizer]) -> None:
        self.maker = maker

    @property
    def learning_rate(self) -> float | None:
        """Known once the optimizer is made."""
        return None

    def make(self, params: Iterable[Any]) -> torch.optim.Optimizer:
        """What the callable gives for ``params``, checked."""
        try:
            optimizer = self.maker(list(params))
        except (TypeError, ValueError) as error:
            name = f"{getattr(self.maker, '__name__', self.maker)!s:.80}"
            made = name if isinstance(self.maker, type) else "torch.optim.SGD"
            raise type(error)(
                f"{name} made no optimizer of the model's parameters: {error!s:.200}. Expected a "
                "class or a function params -> optimizer, such as lambda params: "
                f"{made}(params, lr=0.1)."
            ) from error
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"the optimizer's callable returned a {type(optimizer).__name__}; expected a "
                "torch.optim.Optimizer, for example "
                "optimizer=lambda params: torch.optim.SGD(params, lr=0.1)."
            )
        return _without_closure(optimizer)


class Ready:
    """A torch optimizer that the user made: used as it is, if it belongs to the model."""

    schedule = None

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = _without_closure(optimizer)

    @property
    def learning_rate(self) -> float:
        """The rate of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def make(self, params: Iterable[Any]) -> torch.optim.Optimizer:
        """The optimizer itself.

        Args:
            params: all parameters of the model, frozen ones too. The optimizer may hold fewer
                (the rest stays as it is), but none from elsewhere.

        Raises:
            ValueError: if the optimizer holds a parameter that is not in ``params``.
        """
        known = {id(p) for group in _groups(params) for p in group["params"]}
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        foreign = [p for p in held if id(p) not in known]
        if foreign:
            name = type(self.optimizer).__name__
            raise ValueError(
                f"the torch {name} holds {len(held)} parameters, of which {len(foreign)} are not "
                f"the model's (the first has shape {tuple(foreign[0].shape)}), so it would train "
                f"another network. Expected one made after the model is built and on its device, "
                f"from model.parameters(), or optimizer=lambda params: torch.optim.{name}(params)."
            )
        return self.optimizer


def get(spec: Any) -> Optimizer | FromTorch | Ready:
    """``spec`` as something whose ``make(params)`` gives a torch optimizer.

    Args:
        spec: a name in any case, an object or class of this file, a class of ``torch.optim``
            (torch's defaults), a callable params → optimizer, or a ready torch optimizer.

    Raises:
        ValueError: for an unknown name, with the nearest one.
        TypeError: for anything that cannot be an optimizer.

    Example:
        >>> get("RMSprop").learning_rate
        0.001
        >>> get(torch.optim.AdamW).make([nn.Parameter(torch.zeros(1))]).defaults["weight_decay"]
        0.01
    """
    if isinstance(spec, str):
        return look_up("optimizer", spec, NAMES)()
    if isinstance(spec, Optimizer):
        return spec
    if isinstance(spec, torch.optim.Optimizer):
        return Ready(spec)
    if isinstance(spec, type) and issubclass(spec, Optimizer):
        return made_of("optimizer", spec)
    if callable(spec) and (not isinstance(spec, type) or issubclass(spec, torch.optim.Optimizer)):
        return FromTorch(spec)
    raise TypeError(
        f"{spec!r:.80} was given as the optimizer; expected a name such as 'adam', an object such "
        "as easydl.optimizers.Adam(0.01), a class or an object of torch.optim, or a callable "
        "params -> optimizer."
    )


def fastest(kernel: Callable[..., torch.optim.Optimizer], params: list[Tensor]) -> dict[str, bool]:
    """Which of torch's three forms of the same update to ask for; torch's own choice if unsure.

    Microseconds a step on the CPU, torch 2.15, one thread, best of 7:

    ==========  ====================  =====================  ===========================
    kernel      20-64-10 MLP          30 small convolutions  784-1024-1024-10 MLP
    (forms)     plain foreach fused   plain foreach fused    plain foreach fused
    ==========  ====================  =====================  ===========================
    SGD          18 /  21 / 20         120 /   75 /  61       219 /  235 / 216
    … momentum   38 /  39 / 23         389 /  247 /  96       727 /  706 / 507
    Adam        111 / 121 / 45        1315 /  810 / 257      4647 / 2940 / 927
    Adagrad      66 /  82 / 36         792 /  601 / 225      1972 / 2523 / 634
    RMSprop      80 /  85 / –          936 /  528 / –        2044 / 2225 / –
    NAdam       132 / 144 / –         1671 / 1100 / –        5489 / 3603 / –
    Adamax       91 /  99 / –         1048 /  689 / –        2078 / 2169 / –
    Adadelta    122 / 121 / –         1598 /  998 / –        4311 / 5849 / –
    ==========  ====================  =====================  ===========================

    So fused wherever torch has it. Of the others foreach wins with many small tensors and loses
    up to 3-fold once the weights leave the cache (64 × 160 000: RMSprop 12.9 against 31.7 ms). On a
    GPU torch takes foreach by itself.

    The fused SGD and Adagrad take no sparse gradients: with ``nn.Embedding(sparse=True)`` write
    ``optimizer=torch.optim.SGD``.
    """
    if any(type(p) not in (nn.Parameter, Tensor) or not p.is_floating_point() for p in params):
        return {}
    devices = {p.device.type for p in params}
    fused_devices = {"cpu", "cuda"}
    if kernel is not torch.optim.Adagrad:
        fused_devices.add("mps")
    if kernel in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad):
        return {"fused": True} if devices <= fused_devices else {}
    if devices == {"cpu"} and len(params) >= 8 and sum(p.numel() for p in params) <= 250_000:
        return {"foreach": True}
    return {}


def _without_closure(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "torch.optim.LBFGS was given, which computes the loss several times a step; fit "
            "computes it once and expects another optimizer, such as 'adam'."
        )
    return optimizer


def _groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Parameters or groups as new groups with lists, so that iterators are read only once."""
    items = list(params)
    if not any(isinstance(item, dict) for item in items):
        return [{"params": items}]
    if not all(isinstance(item, dict) and "params" in item for item in items):
        raise ValueError(
            "parameters and parameter groups were given together; expected one kind: "
            "[weight, …] or [{'params': [weight, …], 'lr': 0.001}, …]."
        )
    groups = []
    for item in items:
        held = item["params"]
        groups.append({**item, "params": [held] if isinstance(held, Tensor) else list(held)})
    return groups


def _not_negative(name: str, value: Any) -> float:
    return check_between(name, value, 0, math.inf, ends="[)")


def _fraction(name: str, value: Any) -> float:
    return check_between(name, value, 0, 1, ends="[)")
