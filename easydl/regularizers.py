"""What large weights or outputs cost: penalties added to the loss, by name.

A regularizer is any callable ``tensor -> scalar tensor``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easydl.errors import check_between, look_up

Regularizer = Callable[[Tensor], Tensor]


def get(spec: Any) -> Regularizer | None:
    """The regularizer that ``spec`` means: None, a name, an object, a class or a function.

    Raises:
        ValueError: for an unknown name, with the nearest match.
        TypeError: for anything that cannot be called.

    Example:
        >>> get("l2")
        L2(l2=0.01)
    """
    if isinstance(spec, str):
        spec = look_up("regularizer", spec, TABLE)
    if isinstance(spec, type):
        spec = spec()
    if spec is not None and not callable(spec):
        raise TypeError(
            f"regularizer {spec!r} was given; expected None, a name such as 'l2', or an object: "
            "regularizers.L2(0.01)."
        )
    return spec


@dataclass(frozen=True)
class L1:
    """``l1 · Σ|w|``: drives weights to exactly zero.

    Example:
        >>> L1(0.5)(torch.tensor([1.0, -3.0]))
        tensor(2.)
    """

    l1: float = 0.01

    def __post_init__(self) -> None:
        check_between("l1", self.l1, 0, math.inf)

    def __call__(self, weight: Tensor) -> Tensor:
        return self.l1 * weight.abs().sum()


@dataclass(frozen=True)
class L2:
    """``l2 · Σw²`` (no ½): keeps weights small; its gradient is 2·l2·w.

    Example:
        >>> L2(0.5)(torch.tensor([1.0, -3.0]))
        tensor(5.)
    """

    l2: float = 0.01

    def __post_init__(self) -> None:
        check_between("l2", self.l2, 0, math.inf)

    def __call__(self, weight: Tensor) -> Tensor:
        return self.l2 * weight.square().sum()


@dataclass(frozen=True)
class L1L2:
    """``l1 · Σ|w| + l2 · Σw²``, the elastic net.

    Example:
        >>> L1L2(l1=1.0, l2=0.5)(torch.tensor([1.0, -3.0]))
        tensor(9.)
    """

    l1: float = 0.01
    l2: float = 0.01

    def __post_init__(self) -> None:
        check_between("l1", self.l1, 0, math.inf)
        check_between("l2", self.l2, 0, math.inf)

    def __call__(self, weight: Tensor) -> Tensor:
        return self.l1 * weight.abs().sum() + self.l2 * weight.square().sum()


@dataclass(frozen=True)
class KLSparsity:
    """``weight · Σ_j KL(target ‖ ρ_j)`` in nats, where ρ_j is unit j's mean output over the batch.

    An ``activity_regularizer`` for outputs in [0, 1], of a sigmoid: most rows shall leave most
    units near 0. Outputs whose mean is outside give nan.

    Reference:
        A. Ng (2011), Sparse autoencoder, CS294A lecture notes, section 3.

    Args:
        target: the mean that is aimed at, in (0, 1).
        weight: of the penalty.

    Example:
        >>> KLSparsity(0.5)(torch.full((4, 2), 0.5))
        tensor(0.)
    """

    target: float = 0.05
    weight: float = 0.1

    def __post_init__(self) -> None:
        check_between("target", self.target, 0, 1, ends="()")
        check_between("weight", self.weight, 0, math.inf)

    def __call__(self, activity: Tensor) -> Tensor:
        whole = torch.promote_types(activity.dtype, torch.float32)  # bfloat16 rounds 0.999 to 1
        mean, on, off = activity.mean(0, dtype=whole), self.target, 1 - self.target
        mean = mean.where((mean >= 0) & (mean <= 1), math.nan).clamp(1e-6, 1 - 1e-6)
        divergence = on * (math.log(on) - mean.log()) + off * (math.log(off) - (1 - mean).log())
        return self.weight * len(activity) * divergence.sum()  # a layer divides by the rows


# Keras's lower-case spellings of the same classes: ``regularizers.l2(0.01)``.
l1, l2, l1_l2 = L1, L2, L1L2

TABLE: dict[str, Callable[[], Regularizer]] = {"l1": L1, "l2": L2, "l1_l2": L1L2, "l1l2": L1L2}
