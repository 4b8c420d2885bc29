"""Noise of denoising autoencoders: what corrupts the inputs in training."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from easydl.errors import check_between
from easydl.layers.base import traced


class SaltAndPepperNoise(nn.Module):
    """Sets each number to ``low`` or ``high``, by a fair coin, with probability ``rate``.

    Only while training, as all noise layers.

    Reference:
        P. Vincent et al. (2010), Stacked denoising autoencoders, section 3.3.

    Args:
        rate: share of the numbers that are replaced, in [0, 1).
        low: the pepper.
        high: the salt.

    Shape:
        any → the same.

    Raises:
        ValueError: for a rate outside [0, 1).

    Example:
        >>> SaltAndPepperNoise(0.5).eval()(torch.full((3,), 0.5))
        tensor([0.5000, 0.5000, 0.5000])
    """

    def __init__(self, rate: float, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.rate = check_between("rate", rate, 0, 1, ends="[)")
        self.low, self.high = float(low), float(high)

    def forward(self, x: Tensor) -> Tensor:
        return _replaced(x, self.rate, self.low, self.high) if self.training else x

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"

    def to_torch(self) -> nn.Module:
        """A graph that replaces while training; its ``nn.Dropout(1)`` knows the mode."""
        rate, low, high = self.rate, self.low, self.high

        def replace(x: Any, quiet: Any) -> Any:
            return _replaced(x, rate * (1 - quiet(torch.ones_like(x))), low, high)

        return traced(replace, quiet=nn.Dropout(1.0)).train(self.training)


class MaskingNoise(SaltAndPepperNoise):
    """Sets each number to 0 with probability ``rate``; unlike Dropout it scales nothing up.

    Only while training, as all noise layers.

    Reference:
        P. Vincent et al. (2008), Extracting and composing robust features with denoising
        autoencoders.

    Args:
        rate: share of the numbers that are lost, in [0, 1).

    Shape:
        any → the same.

    Raises:
        ValueError: for a rate outside [0, 1).

    Example:
        >>> MaskingNoise(0.5).eval()(torch.ones(3))
        tensor([1., 1., 1.])
    """

    def __init__(self, rate: float) -> None:
        super().__init__(rate, 0.0, 0.0)


def _replaced(x: Any, rate: Any, low: float, high: float) -> Any:
    draw = torch.rand_like(x)
    return x.where(draw >= rate, torch.where(draw < rate / 2, low, high).to(x.dtype))


def as_noise(noise: Any) -> Any:
    """None, a module or a function; a number is a share to mask."""
    if inspect.isclass(noise):
        raise ValueError(
            f"noise={noise.__name__} was given, a class; expected an instance, for example "
            f"noise={noise.__name__}(0.3)."
        )
    if noise is None or callable(noise):
        return noise
    try:
        return MaskingNoise(check_between("noise", noise, 0, 1, ends="[)"))
    except ValueError as error:
        raise ValueError(
            f"{error} It is the share of numbers that are set to 0; other noise is a layer, "
            "GaussianNoise(0.3) or SaltAndPepperNoise(0.2), or a function x -> x."
        ) from None
