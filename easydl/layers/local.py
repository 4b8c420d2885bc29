"""Locally connected layers: windows as in a convolution, but each position has its own kernel."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from easydl.errors import check_positive_int
from easydl.layers.base import (
    LINES,
    PICTURES,
    Shape,
    activate,
    label,
    make_weights,
    prepare,
    setup,
    start_build,
    traced,
)
from easydl.layers.convolution import KERNEL_AND_BIAS
from easydl.layers.windows import (
    check_channels_first,
    check_padding,
    padded,
    per_axis,
    same_pads,
)


class LocallyConnected1D(nn.Module):
    """Like Conv1D, but weights are not shared between positions.

    Each position's kernel starts as that of a Conv1D would.

    Args:
        filters: channels of the output.
        kernel_size: width of the window.
        strides: step of the window.
        padding: ``"valid"`` (none) or ``"same"`` (⌈L / strides⌉ outputs).
        data_format: None or ``"channels_first"``; there is no other.
        activation: a name, a module or a function; softmax acts over the channels.
        use_bias: add a bias per filter and position.
        kernel_initializer, bias_initializer: how the weights start.
        kernel_regularizer, bias_regularizer: penalties on the weights, added to the loss.
        activity_regularizer: penalty on the output, per sample.
        kernel_constraint, bias_constraint: applied to the weights after every step.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.
        trainable: False freezes it.

    Shape:
        (N, C, L) → (N, filters, L′); ``weight`` is (L′, filters, C, kernel_size).

    Raises:
        ValueError: for sizes below 1, an unknown name, or an input that does not fit.

    Example:
        >>> LocallyConnected1D(4, 3)(torch.zeros(2, 1, 10)).shape
        torch.Size([2, 4, 8])
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
        trainable: bool | None = None,
    ) -> None:
        super().__init__()
        _setup(self, locals(), 1)

    def build(self, input_shape: Shape) -> None:
        """Make a kernel for each position of inputs of ``input_shape``."""
        _build(self, input_shape)

    def forward(self, x: Tensor, logits: bool = False) -> Tensor:
        return _forward(self, x, logits)

    def extra_repr(self) -> str:
        return _repr(self)

    def to_torch(self) -> nn.Module:
        """A graph of ``F.unfold`` and a sum of products."""
        return _to_torch(self)


class LocallyConnected2D(nn.Module):
    """Like Conv2D, but weights are not shared between positions, as in DeepFace.

    For pictures in which each place has its own meaning, such as aligned faces. A 200×200 picture
    with 10×10 windows at every pixel takes four million weights. Each position's kernel starts as
    that of a Conv2D would.

    Reference:
        Y. Taigman et al. (2014), DeepFace: closing the gap to human-level performance.

    Args:
        filters: channels of the output.
        kernel_size: height and width of the window; one number for both.
        strides: steps of the window.
        padding: ``"valid"`` (none) or ``"same"`` (⌈size / strides⌉ outputs).
        data_format: None or ``"channels_first"``; there is no other.
        activation: a name, a module or a function; softmax acts over the channels.
        use_bias: add a bias per filter and position.
        kernel_initializer, bias_initializer: how the weights start.
        kernel_regularizer, bias_regularizer: penalties on the weights, added to the loss.
        activity_regularizer: penalty on the output, per sample.
        kernel_constraint, bias_constraint: applied to the weights after every step.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.
        trainable: False freezes it.

    Shape:
        (N, C, H, W) → (N, filters, H′, W′); ``weight`` is (H′, W′, filters, C, *kernel_size).

    Raises:
        ValueError: for sizes below 1, an unknown name, or an input that does not fit.

    Example:
        >>> LocallyConnected2D(4, 3)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 4, 6, 6])
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
        trainable: bool | None = None,
    ) -> None:
        super().__init__()
        _setup(self, locals(), 2)

    def build(self, input_shape: Shape) -> None:
        """Make a kernel for each position of inputs of ``input_shape``."""
        _build(self, input_shape)

    def forward(self, x: Tensor, logits: bool = False) -> Tensor:
        return _forward(self, x, logits)

    def extra_repr(self) -> str:
        return _repr(self)

    def to_torch(self) -> nn.Module:
        """A graph of ``F.unfold`` and a sum of products."""
        return _to_torch(self)


def _setup(layer: Any, given: dict[str, Any], rank: int) -> None:
    check_channels_first(given["data_format"])
    check_padding(given["padding"], "valid", "same")
    layer.filters = check_positive_int("filters", given["filters"])
    layer.kernel_size = per_axis("kernel_size", given["kernel_size"], rank)
    layer.stride = per_axis("strides", given["strides"], rank)
    layer.weight, layer.bias = Parameter(), Parameter() if given["use_bias"] else None
    takes = PICTURES if rank == 2 else LINES
    setup(layer, given, takes=takes, activation=given["activation"], weights=KERNEL_AND_BIAS)
    if given["padding"].lower() == "valid":
        layer.smallest = layer.kernel_size


def _build(layer: Any, input_shape: Shape) -> None:
    sizes: tuple[Any, ...] = tuple(input_shape[2:])
    if not start_build(layer, input_shape):
        _check_sizes(layer, sizes)
        return
    if None in sizes:
        raise ValueError(
            f"{label(layer)} was given the open input shape {tuple(input_shape)}; it has weights "
            "for every position, so it needs whole sizes: input_shape=(1, 32, 32)."
        )
    dilation = (1,) * len(sizes)
    layer.pads = [0] * 2 * len(sizes)
    if layer.config["padding"].lower() == "same":
        like = torch.empty(1, 1, *sizes, device="meta")
        layer.pads = same_pads(like, layer.kernel_size, layer.stride, dilation)
    outputs = [
        (size + left + right - k) // step + 1
        for size, left, right, k, step in zip(
            sizes, layer.pads[-2::-2], layer.pads[-1::-2], layer.kernel_size, layer.stride
        )
    ]
    layer.sizes, layer.outputs = sizes, tuple(outputs)
    kernel = (layer.filters, layer.width, *layer.kernel_size)
    make_weights(
        layer,
        kernels=lambda weight: weight.view(-1, *kernel),  # each position starts as a convolution
        weight=(*outputs, *kernel),
        bias=(layer.filters, *outputs),
    )


def _check_sizes(layer: Any, sizes: Shape) -> None:
    if tuple(sizes) != layer.sizes:
        raise ValueError(
            f"{label(layer)} was given samples of size {tuple(sizes)}; expected {layer.sizes}, "
            "since it has weights for each position."
        )


def _forward(layer: Any, x: Tensor, logits: bool) -> Tensor:
    prepare(layer, x)
    _check_sizes(layer, x.shape[2:])
    return activate(layer, _locally(x, layer.weight, layer.bias, **_geometry(layer)), logits)


def _geometry(layer: Any) -> dict[str, Any]:
    return dict(
        filters=layer.filters,
        kernel=layer.kernel_size,
        stride=layer.stride,
        pads=layer.pads,
        outputs=layer.outputs,
    )


def _locally(
    x: Any,
    weight: Any,
    bias: Any,
    *,
    filters: int,
    kernel: Any,
    stride: Any,
    pads: Any,
    outputs: Any,
) -> Any:
    """The window of each position p times its kernel: ``y[n,f,p] = Σ_k w[p,f,k] x[n,k,p]``."""
    x = padded(x, pads)
    if len(kernel) == 1:
        x, kernel, stride = x.unsqueeze(2), (1, *kernel), (1, *stride)
    patches = F.unfold(x, kernel, stride=stride)  # (N, C·kernel, positions)
    kernels = weight.reshape(math.prod(outputs), filters, -1)
    y = torch.einsum("nkp,pfk->nfp", patches, kernels).unflatten(2, outputs)
    return y if bias is None else y + bias


def _to_torch(layer: Any) -> nn.Module:
    parts = {
        name: Parameter(value.detach().clone(), requires_grad=value.requires_grad)
        for name, value in layer.named_parameters(recurse=False)
    }
    geometry = _geometry(layer)

    def run(x: Any, weight: Any, bias: Any = None) -> Any:
        return _locally(x, weight, bias, **geometry)

    return traced(run, **parts).train(layer.training)


def _repr(layer: Any) -> str:
    return (
        f"{layer.width or 0}, {layer.filters}, kernel_size={layer.kernel_size}, "
        f"stride={layer.stride}, padding={layer.config['padding']!r}"
    )
