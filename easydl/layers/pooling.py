"""Pooling of signals (N, C, L), pictures (N, C, H, W) and volumes (N, C, D, H, W).

``padding="same"`` gives ⌈size / strides⌉ outputs; the pads never win a maximum and never enter an
average, as in Keras.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easydl.layers.base import CHANNELS, Shape, build_unweighted, prepare, setup, traced, twin
from easydl.layers.windows import (
    check_channels_first,
    check_padding,
    per_axis,
    same_pads,
)


class MaxPooling1D(nn.MaxPool1d):
    """The largest entry of each window along a signal.

    Args:
        pool_size: width of the window.
        strides: step of the window; None is ``pool_size``.
        padding: ``"valid"`` or ``"same"``.
        data_format: None or ``"channels_first"``; there is no other.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, L) → (N, C, L′).

    Example:
        >>> MaxPooling1D(2)(torch.tensor([[[1.0, 3.0, 2.0, 0.0]]]))
        tensor([[[3., 2.]]])
    """

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        super().__init__(*_window(locals(), 1))
        _setup(self, locals())

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self, x, super().forward)

    def to_torch(self) -> nn.Module:
        """``nn.MaxPool1d``, or a graph with the pads."""
        return _to_torch(self, nn.MaxPool1d)


class MaxPooling2D(nn.MaxPool2d):
    """The largest entry of each window of a picture: half the size, small shifts forgotten.

    Args:
        pool_size: height and width of the window; one number for both.
        strides: steps of the window; None is ``pool_size``.
        padding: ``"valid"`` or ``"same"``.
        data_format: None or ``"channels_first"``; there is no other.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, H, W) → (N, C, H′, W′).

    Example:
        >>> MaxPooling2D(2)(torch.zeros(4, 8, 7, 6)).shape
        torch.Size([4, 8, 3, 3])
    """

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        super().__init__(*_window(locals(), 2))
        _setup(self, locals())

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self, x, super().forward)

    def to_torch(self) -> nn.Module:
        """``nn.MaxPool2d``, or a graph with the pads."""
        return _to_torch(self, nn.MaxPool2d)


class MaxPooling3D(nn.MaxPool3d):
    """The largest entry of each window of a volume.

    Args:
        pool_size: depth, height and width of the window; one number for all.
        strides: steps of the window; None is ``pool_size``.
        padding: ``"valid"`` or ``"same"``.
        data_format: None or ``"channels_first"``; there is no other.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, D, H, W) → (N, C, D′, H′, W′).

    Example:
        >>> MaxPooling3D(2)(torch.zeros(2, 1, 8, 8, 8)).shape
        torch.Size([2, 1, 4, 4, 4])
    """

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        super().__init__(*_window(locals(), 3))
        _setup(self, locals())

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self, x, super().forward)

    def to_torch(self) -> nn.Module:
        """``nn.MaxPool3d``, or a graph with the pads."""
        return _to_torch(self, nn.MaxPool3d)


class AveragePooling1D(nn.AvgPool1d):
    """The mean of each window along a signal.

    Args:
        pool_size: width of the window.
        strides: step of the window; None is ``pool_size``.
        padding: ``"valid"`` or ``"same"`` (pads do not count).
        data_format: None or ``"channels_first"``; there is no other.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, L) → (N, C, L′).

    Example:
        >>> AveragePooling1D(2)(torch.tensor([[[1.0, 3.0, 2.0, 0.0]]]))
        tensor([[[2., 1.]]])
    """

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        super().__init__(*_window(locals(), 1))
        _setup(self, locals())

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self, x, super().forward)

    def to_torch(self) -> nn.Module:
        """``nn.AvgPool1d``, or a graph with the pads."""
        return _to_torch(self, nn.AvgPool1d)


class AveragePooling2D(nn.AvgPool2d):
    """The mean of each window of a picture.

    Args:
        pool_size: height and width of the window; one number for both.
        strides: steps of the window; None is ``pool_size``.
        padding: ``"valid"`` or ``"same"`` (pads do not count).
        data_format: None or ``"channels_first"``; there is no other.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, H, W) → (N, C, H′, W′).

    Example:
        >>> AveragePooling2D(2, padding="same")(torch.ones(1, 1, 3, 3))
        tensor([[[[1., 1.],
                  [1., 1.]]]])
    """

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        super().__init__(*_window(locals(), 2))
        _setup(self, locals())

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self, x, super().forward)

    def to_torch(self) -> nn.Module:
        """``nn.AvgPool2d``, or a graph with the pads."""
        return _to_torch(self, nn.AvgPool2d)


class AveragePooling3D(nn.AvgPool3d):
    """The mean of each window of a volume.

    Args:
        pool_size: depth, height and width of the window; one number for all.
        strides: steps of the window; None is ``pool_size``.
        padding: ``"valid"`` or ``"same"`` (pads do not count).
        data_format: None or ``"channels_first"``; there is no other.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, D, H, W) → (N, C, D′, H′, W′).

    Example:
        >>> AveragePooling3D(2)(torch.zeros(2, 1, 8, 8, 8)).shape
        torch.Size([2, 1, 4, 4, 4])
    """

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        super().__init__(*_window(locals(), 3))
        _setup(self, locals())

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self, x, super().forward)

    def to_torch(self) -> nn.Module:
        """``nn.AvgPool3d``, or a graph with the pads."""
        return _to_torch(self, nn.AvgPool3d)


def _window(given: dict[str, Any], rank: int) -> tuple[Any, Any]:
    check_channels_first(given["data_format"])
    check_padding(given["padding"], "valid", "same")
    size = per_axis("pool_size", given["pool_size"], rank)
    strides = given["strides"]
    return size, size if strides is None else per_axis("strides", strides, rank)


def _setup(layer: Any, arguments: dict[str, Any]) -> None:
    rank = len(layer.kernel_size)
    setup(layer, arguments, takes=CHANNELS[rank])
    if arguments["padding"].lower() == "valid":
        layer.smallest, layer.same = layer.kernel_size, {}
    else:
        window = (layer.kernel_size, layer.stride, (1,) * rank)
        average = isinstance(layer, (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d))
        layer.same = {"window": window, "average": average}


def _pooled(layer: Any, x: Tensor, pool: Any) -> Tensor:
    prepare(layer, x)
    return _pool(x, pool, **layer.same)


def _pool(x: Tensor, pool: Any, window: Any = None, average: bool = False) -> Tensor:
    """``pool(x)``, with the pads that ``window`` needs for ⌈size / strides⌉ outputs."""
    if window is None:
        return pool(x)
    pads = same_pads(x, *window)
    if not average:
        return pool(F.pad(x, pads, value=float("-inf")))
    real = F.pad(torch.ones_like(x[:1, :1]), pads)  # the share of each window that is no pad
    return pool(F.pad(x, pads)) / pool(real)


def _to_torch(layer: Any, kind: type[nn.Module]) -> nn.Module:
    module = twin(layer, kind)
    if not layer.same:
        return module
    return traced(lambda x, pool: _pool(x, pool, **layer.same), pool=module)
