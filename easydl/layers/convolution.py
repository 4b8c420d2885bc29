"""Convolutions of signals (N, C, L), pictures (N, C, H, W) and volumes (N, C, D, H, W).

Channels come first, as in torch, and kernels are kept in torch's layout (filters, C, …).
``padding="same"`` gives ⌈size / stride⌉ outputs; an odd pad goes to the bottom and right, as in
Keras.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  (named by the doctests)
import torch.nn.functional as F
from torch import Tensor, nn

from easydl.errors import check_positive_int
from easydl.layers.base import (
    CHANNELS,
    Shape,
    activate,
    label,
    make_weights,
    prepare,
    setup,
    start_build,
    traced,
    twin,
)
from easydl.layers.windows import (
    PADS,
    check_channels_first,
    check_padding,
    fixed_pads,
    is_even,
    per_axis,
    reach,
    same_pads,
)

KERNEL_AND_BIAS = {"weight": "kernel", "bias": "bias"}


class Conv1D(nn.Conv1d):
    """A convolution along a signal: text, audio, sensors.

    Sequences are (N, T, F) in recurrent layers and (N, C, L) here: put ``Permute((2, 1))`` between.

    Args:
        filters: channels of the output.
        kernel_size: width of the window.
        strides: step of the window.
        padding: ``"valid"`` (none), ``"same"`` (⌈L / strides⌉ outputs) or ``"causal"`` (no output
            sees later inputs).
        data_format: None or ``"channels_first"``; there is no other.
        dilation_rate: distance between the entries that the kernel reads.
        groups: the channels are cut into this many independent convolutions.
        activation: a name, a module or a function; softmax acts over the channels.
        use_bias: add a bias per filter.
        kernel_initializer, bias_initializer: how the weights start.
        kernel_regularizer, bias_regularizer: penalties on the weights, added to the loss.
        activity_regularizer: penalty on the output, per sample.
        kernel_constraint, bias_constraint: applied to the weights after every step.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.
        trainable: False freezes it.

    Shape:
        (N, C, L) → (N, filters, L′).

    Raises:
        ValueError: for sizes below 1, an unknown name, or an input that does not fit.

    Example:
        >>> Conv1D(8, 3, padding="causal")(torch.zeros(2, 4, 10)).shape
        torch.Size([2, 8, 10])
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        groups: int = 1,
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
        super().__init__(**torch_arguments(locals(), 1, "valid", "same", "causal"))
        setup_convolution(self, locals())

    def build(self, input_shape: Shape) -> None:
        """Make the weights for inputs of ``input_shape``."""
        _build(self, input_shape)

    def forward(self, x: Tensor, logits: bool = False) -> Tensor:
        prepare(self, x)
        return activate(self, super().forward(pad_input(self, x)), logits)

    def to_torch(self) -> nn.Module:
        """``nn.Conv1d``, after a padding module where the pads are uneven."""
        return convolution_to_torch(self, nn.Conv1d)


class Conv2D(nn.Conv2d):
    """A convolution over pictures: each filter slides one small kernel over all positions.

    Reference:
        Y. LeCun et al. (1998), Gradient-based learning applied to document recognition.

    Args:
        filters: channels of the output.
        kernel_size: height and width of the window; one number for both.
        strides: steps of the window.
        padding: ``"valid"`` (none) or ``"same"`` (⌈size / strides⌉ outputs).
        data_format: None or ``"channels_first"``; there is no other.
        dilation_rate: distance between the entries that the kernel reads.
        groups: the channels are cut into this many independent convolutions.
        activation: a name, a module or a function; softmax acts over the channels.
        use_bias: add a bias per filter.
        kernel_initializer, bias_initializer: how the weights start.
        kernel_regularizer, bias_regularizer: penalties on the weights, added to the loss.
        activity_regularizer: penalty on the output, per sample.
        kernel_constraint, bias_constraint: applied to the weights after every step.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.
        trainable: False freezes it.

    Shape:
        (N, C, H, W) → (N, filters, H′, W′).

    Raises:
        ValueError: for sizes below 1, an unknown name, or an input that does not fit.

    Example:
        >>> Conv2D(8, 3, strides=2, padding="same")(torch.zeros(2, 3, 9, 8)).shape
        torch.Size([2, 8, 5, 4])
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        groups: int = 1,
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
        super().__init__(**torch_arguments(locals(), 2, "valid", "same"))
        setup_convolution(self, locals())

    def build(self, input_shape: Shape) -> None:
        """Make the weights for inputs of ``input_shape``."""
        _build(self, input_shape)

    def forward(self, x: Tensor, logits: bool = False) -> Tensor:
        prepare(self, x)
        return activate(self, super().forward(pad_input(self, x)), logits)

    def to_torch(self) -> nn.Module:
        """``nn.Conv2d``, after a padding module where the pads are uneven."""
        return convolution_to_torch(self, nn.Conv2d)


class Conv3D(nn.Conv3d):
    """A convolution over volumes: scans, video.

    Args:
        filters: channels of the output.
        kernel_size: depth, height and width of the window; one number for all.
        strides: steps of the window.
        padding: ``"valid"`` (none) or ``"same"`` (⌈size / strides⌉ outputs).
        data_format: None or ``"channels_first"``; there is no other.
        dilation_rate: distance between the entries that the kernel reads.
        groups: the channels are cut into this many independent convolutions.
        activation: a name, a module or a function; softmax acts over the channels.
        use_bias: add a bias per filter.
        kernel_initializer, bias_initializer: how the weights start.
        kernel_regularizer, bias_regularizer: penalties on the weights, added to the loss.
        activity_regularizer: penalty on the output, per sample.
        kernel_constraint, bias_constraint: applied to the weights after every step.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.
        trainable: False freezes it.

    Shape:
        (N, C, D, H, W) → (N, filters, D′, H′, W′).

    Raises:
        ValueError: for sizes below 1, an unknown name, or an input that does not fit.

    Example:
        >>> Conv3D(4, 3)(torch.zeros(2, 1, 8, 8, 8)).shape
        torch.Size([2, 4, 6, 6, 6])
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        groups: int = 1,
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
        super().__init__(**torch_arguments(locals(), 3, "valid", "same"))
        setup_convolution(self, locals())

    def build(self, input_shape: Shape) -> None:
        """Make the weights for inputs of ``input_shape``."""
        _build(self, input_shape)

    def forward(self, x: Tensor, logits: bool = False) -> Tensor:
        prepare(self, x)
        return activate(self, super().forward(pad_input(self, x)), logits)

    def to_torch(self) -> nn.Module:
        """``nn.Conv3d``, after a padding module where the pads are uneven."""
        return convolution_to_torch(self, nn.Conv3d)


def torch_arguments(given: dict[str, Any], rank: int, *paddings: str) -> dict[str, Any]:
    """The arguments of torch's convolution for Keras's; even pads are torch's own."""
    check_channels_first(given["data_format"])
    filters = check_positive_int("filters", given["filters"])
    groups = check_positive_int("groups", given["groups"])
    if filters % groups:
        raise ValueError(
            f"filters={filters} and groups={groups} were given; expected filters that divide by "
            f"groups, for example filters={-(-filters // groups) * groups}."
        )
    kernel = per_axis("kernel_size", given["kernel_size"], rank)
    stride = per_axis("strides", given["strides"], rank)
    dilation = per_axis("dilation_rate", given["dilation_rate"], rank)
    pads = fixed_pads(check_padding(given["padding"], *paddings), kernel, stride, dilation)
    return dict(
        in_channels=groups,
        out_channels=filters,
        kernel_size=kernel,
        stride=stride,
        padding=tuple(reversed(pads[::2])) if is_even(pads) else 0,
        dilation=dilation,
        groups=groups,
        bias=given["use_bias"],
        device="meta",
    )


def setup_convolution(
    layer: Any, arguments: dict[str, Any], weights: dict[str, str] = KERNEL_AND_BIAS
) -> None:
    """``setup`` of a convolution, and ``pads``: those that torch does not add by itself.

    ``[]`` where torch adds them all, None where they depend on the size of the input.
    """
    takes, padding = CHANNELS[len(layer.kernel_size)], arguments["padding"].lower()
    activation = arguments["activation"]
    setup(layer, arguments, takes=takes, activation=activation, weights=weights)
    layer.in_channels = 0
    layer.pads = fixed_pads(padding, layer.kernel_size, layer.stride, layer.dilation)
    if is_even(layer.pads):
        layer.pads = []
    if padding == "valid":
        layer.smallest = reach(layer.kernel_size, layer.dilation)


def _build(layer: Any, input_shape: Shape) -> None:
    if not start_build(layer, input_shape):
        return
    if layer.width % layer.groups:
        raise ValueError(
            f"{label(layer)} was given {layer.width} channels and groups={layer.groups}; expected "
            "channels that divide by groups."
        )
    layer.in_channels = layer.width
    kernel = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
    make_weights(layer, weight=kernel, bias=(layer.out_channels,))


def pad_input(layer: Any, x: Tensor) -> Tensor:
    """``x`` with the pads that torch's convolution does not add by itself."""
    if layer.pads == []:
        return x
    return F.pad(x, layer.pads or same_pads(x, layer.kernel_size, layer.stride, layer.dilation))


def convolution_to_torch(layer: Any, kind: type[nn.Module]) -> nn.Module:
    module = twin(layer, kind)
    if layer.pads == []:
        return module
    if layer.pads:
        pad = PADS[len(layer.kernel_size)](tuple(layer.pads))
        return nn.Sequential(pad, module).train(layer.training)
    geometry = layer.kernel_size, layer.stride, layer.dilation
    return traced(lambda x, conv: conv(F.pad(x, same_pads(x, *geometry))), conv=module)
