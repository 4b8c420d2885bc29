"""Pooling over the whole signal, picture or volume: one number per channel."""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  (named by the doctests)
from torch import Tensor, nn

from easydl.layers.base import CHANNELS, Shape, build_unweighted, prepare, setup
from easydl.layers.windows import check_channels_first


class GlobalMaxPooling1D(nn.AdaptiveMaxPool1d):
    """The largest entry of each channel over the whole signal.

    Args:
        data_format: None or ``"channels_first"``; there is no other.
        keepdims: keep the pooled axes, of size 1.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, L) → (N, C), or (N, C, 1) with ``keepdims``.

    Example:
        >>> GlobalMaxPooling1D()(torch.zeros(2, 3, 5)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        data_format: str | None = None,
        keepdims: bool = False,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        check_channels_first(data_format)
        super().__init__(1)
        setup(self, locals(), takes=CHANNELS[1], gives=None)

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self, x, super().forward)

    def to_torch(self) -> nn.Module:
        """``nn.AdaptiveMaxPool1d(1)`` and ``nn.Flatten``."""
        return _to_torch(self, nn.AdaptiveMaxPool1d(1))


class GlobalMaxPooling2D(nn.AdaptiveMaxPool2d):
    """The largest entry of each channel over the whole picture.

    Args:
        data_format: None or ``"channels_first"``; there is no other.
        keepdims: keep the pooled axes, of size 1.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, H, W) → (N, C), or (N, C, 1, 1) with ``keepdims``.

    Example:
        >>> GlobalMaxPooling2D()(torch.zeros(2, 3, 4, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        data_format: str | None = None,
        keepdims: bool = False,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        check_channels_first(data_format)
        super().__init__(1)
        setup(self, locals(), takes=CHANNELS[2], gives=None)

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self, x, super().forward)

    def to_torch(self) -> nn.Module:
        """``nn.AdaptiveMaxPool2d(1)`` and ``nn.Flatten``."""
        return _to_torch(self, nn.AdaptiveMaxPool2d(1))


class GlobalMaxPooling3D(nn.AdaptiveMaxPool3d):
    """The largest entry of each channel over the whole volume.

    Args:
        data_format: None or ``"channels_first"``; there is no other.
        keepdims: keep the pooled axes, of size 1.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, D, H, W) → (N, C), or (N, C, 1, 1, 1) with ``keepdims``.

    Example:
        >>> GlobalMaxPooling3D()(torch.zeros(2, 3, 4, 4, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        data_format: str | None = None,
        keepdims: bool = False,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        check_channels_first(data_format)
        super().__init__(1)
        setup(self, locals(), takes=CHANNELS[3], gives=None)

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self, x, super().forward)

    def to_torch(self) -> nn.Module:
        """``nn.AdaptiveMaxPool3d(1)`` and ``nn.Flatten``."""
        return _to_torch(self, nn.AdaptiveMaxPool3d(1))


class GlobalAveragePooling1D(nn.AdaptiveAvgPool1d):
    """The mean of each channel over the whole signal.

    Args:
        data_format: None or ``"channels_first"``; there is no other.
        keepdims: keep the pooled axes, of size 1.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, L) → (N, C), or (N, C, 1) with ``keepdims``.

    Example:
        >>> GlobalAveragePooling1D()(torch.zeros(2, 3, 5)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        data_format: str | None = None,
        keepdims: bool = False,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        check_channels_first(data_format)
        super().__init__(1)
        setup(self, locals(), takes=CHANNELS[1], gives=None)

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self, x, super().forward)

    def to_torch(self) -> nn.Module:
        """``nn.AdaptiveAvgPool1d(1)`` and ``nn.Flatten``."""
        return _to_torch(self, nn.AdaptiveAvgPool1d(1))


class GlobalAveragePooling2D(nn.AdaptiveAvgPool2d):
    """The mean of each channel over the whole picture.

    Args:
        data_format: None or ``"channels_first"``; there is no other.
        keepdims: keep the pooled axes, of size 1.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, H, W) → (N, C), or (N, C, 1, 1) with ``keepdims``.

    Example:
        >>> GlobalAveragePooling2D()(torch.zeros(2, 3, 4, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        data_format: str | None = None,
        keepdims: bool = False,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        check_channels_first(data_format)
        super().__init__(1)
        setup(self, locals(), takes=CHANNELS[2], gives=None)

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self, x, super().forward)

    def to_torch(self) -> nn.Module:
        """``nn.AdaptiveAvgPool2d(1)`` and ``nn.Flatten``."""
        return _to_torch(self, nn.AdaptiveAvgPool2d(1))


class GlobalAveragePooling3D(nn.AdaptiveAvgPool3d):
    """The mean of each channel over the whole volume.

    Args:
        data_format: None or ``"channels_first"``; there is no other.
        keepdims: keep the pooled axes, of size 1.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, D, H, W) → (N, C), or (N, C, 1, 1, 1) with ``keepdims``.

    Example:
        >>> GlobalAveragePooling3D()(torch.zeros(2, 3, 4, 4, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        data_format: str | None = None,
        keepdims: bool = False,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        check_channels_first(data_format)
        super().__init__(1)
        setup(self, locals(), takes=CHANNELS[3], gives=None)

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self, x, super().forward)

    def to_torch(self) -> nn.Module:
        """``nn.AdaptiveAvgPool3d(1)`` and ``nn.Flatten``."""
        return _to_torch(self, nn.AdaptiveAvgPool3d(1))


def _pooled(layer: Any, x: Tensor, pool: Any) -> Tensor:
    prepare(layer, x)
    return pool(x) if layer.config["keepdims"] else pool(x).flatten(1)


def _to_torch(layer: Any, module: nn.Module) -> nn.Module:
    return module if layer.config["keepdims"] else nn.Sequential(module, nn.Flatten())
