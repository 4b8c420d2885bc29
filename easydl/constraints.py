"""What a weight must satisfy after every optimizer step: projections, by name.

A constraint is any callable ``tensor -> tensor``. Norms are taken over the incoming weights of
each unit or filter: in torch's layout (out, in, *kernel), every axis but the first. That is Keras's
default, ``axis=0`` of its (in, out), for a Dense kernel, and the ``axis=[0, 1, 2]`` that its manual
recommends for a Conv2D kernel, (h, w, in, out); its default there is a norm over the rows of the
window alone, which nobody wants. An Embedding has each word's vector bounded, a Conv2DTranspose,
whose kernel is (in, out, h, w), what goes out of each input channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easydl.errors import check_between, look_up

Constraint = Callable[[Tensor], Tensor]


def get(spec: Any) -> Constraint | None:
    """The constraint that ``spec`` means: None, a name, an object, a class or a function.

    Raises:
        ValueError: for an unknown name, with the nearest match.
        TypeError: for anything that cannot be called.

    Example:
        >>> get("non_neg")(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """
    if isinstance(spec, str):
        spec = look_up("constraint", spec, TABLE)
    if isinstance(spec, type):
        spec = spec()
    if spec is not None and not callable(spec):
        raise TypeError(
            f"constraint {spec!r} was given; expected None, a name such as 'max_norm', or an "
            "object: constraints.MaxNorm(2)."
        )
    return spec


@dataclass(frozen=True)
class NonNeg:
    """Negative weights become 0.

    Example:
        >>> NonNeg()(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    def __call__(self, weight: Tensor) -> Tensor:
        return weight.clamp(min=0)


@dataclass(frozen=True)
class MaxNorm:
    """Scales down each unit whose incoming weights have a norm above ``max_value``.

    Reference:
        N. Srivastava et al. (2014), Dropout, section 5.1 (max-norm regularization).

    Args:
        max_value: the largest norm allowed.
        axis: None; the norm is of each unit's incoming weights, as above.

    Example:
        >>> MaxNorm(1)(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])
    """

    max_value: float = 2.0
    axis: None = None

    def __post_init__(self) -> None:
        _refuse_axis(self.axis)
        check_between("max_value", self.max_value, 0, math.inf)

    def __call__(self, weight: Tensor) -> Tensor:
        norm = _norm(weight)
        return weight * (norm.clamp(max=self.max_value) / norm.clamp(min=_TINY))


@dataclass(frozen=True)
class UnitNorm:
    """Scales the incoming weights of each unit to norm 1.

    Args:
        axis: None; the norm is of each unit's incoming weights, as above.

    Example:
        >>> UnitNorm()(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
        tensor([[0.6000, 0.8000],
                [0.6000, 0.8000]])
    """

    axis: None = None

    def __post_init__(self) -> None:
        _refuse_axis(self.axis)

    def __call__(self, weight: Tensor) -> Tensor:
        return weight / _norm(weight).clamp(min=_TINY)


@dataclass(frozen=True)
class MinMaxNorm:
    """Moves the norm of each unit's incoming weights into [min_value, max_value].

    Args:
        min_value: the smallest norm.
        max_value: the largest norm.
        rate: the part of the way to go at each step; 1 goes all the way.
        axis: None; the norm is of each unit's incoming weights, as above.

    Example:
        >>> MinMaxNorm(0.5, 1.0)(torch.tensor([[3.0, 4.0], [0.0, 0.1]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.5000]])
    """

    min_value: float = 0.0
    max_value: float = 1.0
    rate: float = 1.0
    axis: None = None

    def __post_init__(self) -> None:
        _refuse_axis(self.axis)
        check_between("min_value", self.min_value, 0, self.max_value)
        check_between("rate", self.rate, 0, 1)

    def __call__(self, weight: Tensor) -> Tensor:
        norm = _norm(weight)
        target = self.rate * norm.clamp(self.min_value, self.max_value) + (1 - self.rate) * norm
        return weight * (target / norm.clamp(min=_TINY))


_TINY = 1e-7


def _norm(weight: Tensor) -> Tensor:
    axes = tuple(range(1, weight.ndim)) or 0
    return torch.linalg.vector_norm(weight, dim=axes, keepdim=True)


def _refuse_axis(axis: Any) -> None:
    if axis is not None:
        raise ValueError(
            f"axis={axis!r:.80} was given; Keras's kernels are (…, in, out) and easydl's, torch's, "
            "(out, in, …), so that a number would mean another axis. Leave it out: the norm is of "
            "each unit's or filter's incoming weights (in Keras axis=0 of a Dense kernel, "
            "axis=[0, 1, 2] of a Conv2D kernel). For others write a function: "
            "lambda w: w / w.norm(dim=0, keepdim=True)."
        )


TABLE: dict[str, Callable[[], Constraint]] = {
    "max_norm": MaxNorm,
    "min_max_norm": MinMaxNorm,
    "non_neg": NonNeg,
    "unit_norm": UnitNorm,
}
