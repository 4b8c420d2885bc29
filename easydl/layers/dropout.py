"""Noise that trains robust networks and is gone in evaluation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from easydl.errors import check_between
from easydl.layers.base import (
    LINES,
    PICTURES,
    STEPS,
    VOLUMES,
    Shape,
    build_unweighted,
    prepare,
    setup,
    traced,
    twin,
)


class Dropout(nn.Dropout):
    """Sets each entry to 0 with probability ``rate`` while training, and scales the others up.

    Reference:
        N. Srivastava et al. (2014), Dropout: a simple way to prevent neural networks from
        overfitting.

    Args:
        rate: probability to drop, in [0, 1).
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Raises:
        ValueError: for a rate outside [0, 1).

    Example:
        >>> Dropout(0.5).eval()(torch.ones(3))
        tensor([1., 1., 1.])
    """

    def __init__(
        self, rate: float, *, name: str | None = None, input_shape: Shape | None = None
    ) -> None:
        super().__init__(check_between("rate", rate, 0, 1, ends="[)"))
        setup(self, locals())

    def to_torch(self) -> nn.Dropout:
        """The same as ``nn.Dropout``."""
        return twin(self, nn.Dropout)


class SpatialDropout1D(nn.Dropout1d):
    """Drops whole channels of a signal: neighbours are alike, so single entries would be guessed.

    Args:
        rate: probability to drop, in [0, 1).
        axis: 1, the channels of (N, C, L), or -1, the features of (N, T, F).
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, L), or (N, T, F) with ``axis=-1`` → the same.

    Raises:
        ValueError: for a rate outside [0, 1) or another axis.

    Example:
        >>> SpatialDropout1D(0.5).eval()(torch.ones(1, 2, 3)).shape
        torch.Size([1, 2, 3])
    """

    def __init__(
        self,
        rate: float,
        axis: int = 1,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        if axis not in (1, -1):
            raise ValueError(
                f"axis={axis!r} was given; expected 1 for (N, C, L) or -1 for (N, T, F)."
            )
        super().__init__(check_between("rate", rate, 0, 1, ends="[)"))
        setup(self, locals(), takes=LINES if axis == 1 else STEPS)
        self.axis = axis

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        prepare(self, x)
        return _drop_along(self.axis, x, super().forward)

    def to_torch(self) -> nn.Module:
        """``nn.Dropout1d``, in a graph that turns (N, T, F) where that is the input."""
        module, axis = twin(self, nn.Dropout1d), self.axis
        return (
            module if axis == 1 else traced(lambda x, drop: _drop_along(axis, x, drop), drop=module)
        )


def _drop_along(axis: int, x: Any, drop: Any) -> Any:
    return drop(x) if axis == 1 else drop(x.transpose(1, 2)).transpose(1, 2)


class SpatialDropout2D(nn.Dropout2d):
    """Drops whole channels of a picture.

    Reference:
        J. Tompson et al. (2015), Efficient object localization using convolutional networks.

    Args:
        rate: probability to drop, in [0, 1).
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, H, W) → the same.

    Raises:
        ValueError: for a rate outside [0, 1).

    Example:
        >>> SpatialDropout2D(0.5).eval()(torch.ones(1, 2, 3, 3)).shape
        torch.Size([1, 2, 3, 3])
    """

    def __init__(
        self, rate: float, *, name: str | None = None, input_shape: Shape | None = None
    ) -> None:
        super().__init__(check_between("rate", rate, 0, 1, ends="[)"))
        setup(self, locals(), takes=PICTURES)

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        prepare(self, x)
        return super().forward(x)

    def to_torch(self) -> nn.Dropout2d:
        """The same as ``nn.Dropout2d``."""
        return twin(self, nn.Dropout2d)


class SpatialDropout3D(nn.Dropout3d):
    """Drops whole channels of a volume.

    Args:
        rate: probability to drop, in [0, 1).
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, D, H, W) → the same.

    Raises:
        ValueError: for a rate outside [0, 1).

    Example:
        >>> SpatialDropout3D(0.5).eval()(torch.ones(1, 2, 3, 3, 3)).shape
        torch.Size([1, 2, 3, 3, 3])
    """

    def __init__(
        self, rate: float, *, name: str | None = None, input_shape: Shape | None = None
    ) -> None:
        super().__init__(check_between("rate", rate, 0, 1, ends="[)"))
        setup(self, locals(), takes=VOLUMES)

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        prepare(self, x)
        return super().forward(x)

    def to_torch(self) -> nn.Dropout3d:
        """The same as ``nn.Dropout3d``."""
        return twin(self, nn.Dropout3d)


class GaussianNoise(nn.Module):
    """Adds noise from N(0, stddev²) while training: blurred data, as in denoising autoencoders.

    Args:
        stddev: standard deviation of the noise, at least 0.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Raises:
        ValueError: for a negative ``stddev``.

    Example:
        >>> GaussianNoise(0.1).eval()(torch.ones(3))
        tensor([1., 1., 1.])
    """

    def __init__(
        self, stddev: float, *, name: str | None = None, input_shape: Shape | None = None
    ) -> None:
        super().__init__()
        self.stddev = check_between("stddev", stddev, 0, math.inf, ends="[)")
        setup(self, locals())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.stddev * torch.randn_like(x) if self.training else x

    def extra_repr(self) -> str:
        return f"stddev={self.stddev:g}"

    def to_torch(self) -> nn.Module:
        """A graph that adds noise while training; its ``nn.Dropout(1)`` knows the mode."""
        stddev = self.stddev

        def add_noise(x: Any, quiet: Any) -> Any:
            on = 1 - quiet(torch.ones_like(x))  # dropping all: 1 while training, else 0
            return x + stddev * torch.randn_like(x) * on

        return traced(add_noise, quiet=nn.Dropout(1.0)).train(self.training)
