"""Cheaper convolutions (one kernel per channel) and the transposed one, which enlarges pictures."""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  (named by the doctests)
import torch.nn.functional as F
from torch import Tensor, nn

from easydl.errors import check_positive_int
from easydl.layers.base import (
    PICTURES,
    Shape,
    activate,
    make_weights,
    plain,
    prepare,
    setup,
    start_build,
    twin,
)
from easydl.layers.convolution import (
    KERNEL_AND_BIAS,
    Conv2D,
    convolution_to_torch,
    pad_input,
    setup_convolution,
    torch_arguments,
)
from easydl.layers.windows import check_channels_first, check_padding, per_axis, reach


class DepthwiseConv2D(nn.Conv2d):
    """A convolution with its own kernels for each channel; the channels are not mixed.

    Args:
        kernel_size: height and width of the window; one number for both.
        strides: steps of the window.
        padding: ``"valid"`` (none) or ``"same"`` (⌈size / strides⌉ outputs).
        depth_multiplier: outputs per input channel.
        data_format: None or ``"channels_first"``; there is no other.
        dilation_rate: distance between the entries that the kernel reads.
        activation: a name, a module or a function; softmax acts over the channels.
        use_bias: add a bias per output channel.
        depthwise_initializer, bias_initializer: how the weights start.
        depthwise_regularizer, bias_regularizer: penalties on the weights, added to the loss.
        activity_regularizer: penalty on the output, per sample.
        depthwise_constraint, bias_constraint: applied to the weights after every step.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.
        trainable: False freezes it.

    Shape:
        (N, C, H, W) → (N, C · depth_multiplier, H′, W′).

    Raises:
        ValueError: for sizes below 1, an unknown name, or an input that does not fit.

    Example:
        >>> DepthwiseConv2D(3, depth_multiplier=2)(torch.zeros(2, 4, 8, 8)).shape
        torch.Size([2, 8, 6, 6])
    """

    width: int
    config: dict[str, Any]

    def __init__(
        self,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: Any = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
        trainable: bool | None = None,
    ) -> None:
        depth_multiplier = check_positive_int("depth_multiplier", depth_multiplier)
        given = {**locals(), "filters": depth_multiplier, "groups": 1}
        super().__init__(**torch_arguments(given, 2, "valid", "same"))
        setup_convolution(self, locals(), {"weight": "depthwise", "bias": "bias"})

    def build(self, input_shape: Shape) -> None:
        """Make the weights for inputs of ``input_shape``."""
        if not start_build(self, input_shape):
            return
        depth = self.config["depth_multiplier"]
        self.in_channels = self.groups = self.width
        self.out_channels = self.width * depth
        make_weights(
            self,
            # Keras counts fans on (kernel, C, depth_multiplier)
            kernels=lambda weight: [
                weight.view(self.width, depth, *self.kernel_size).transpose(0, 1)
            ],
            weight=(self.out_channels, 1, *self.kernel_size),
            bias=(self.out_channels,),
        )

    def forward(self, x: Tensor, logits: bool = False) -> Tensor:
        prepare(self, x)
        return activate(self, super().forward(pad_input(self, x)), logits)

    def to_torch(self) -> nn.Module:
        """``nn.Conv2d`` with one group per channel, after a padding module for uneven pads."""
        return convolution_to_torch(self, nn.Conv2d)


class SeparableConv2D(nn.Module):
    """A depthwise convolution, then a 1×1 one: far fewer weights than a full kernel.

    Reference:
        F. Chollet (2016), Xception, arXiv:1610.02357.

    Args:
        filters: channels of the output.
        kernel_size: height and width of the window; one number for both.
        strides: steps of the window.
        padding: ``"valid"`` (none) or ``"same"`` (⌈size / strides⌉ outputs).
        data_format: None or ``"channels_first"``; there is no other.
        dilation_rate: distance between the entries that the kernel reads.
        depth_multiplier: outputs per input channel between the two.
        activation: a name, a module or a function; softmax acts over the channels.
        use_bias: add a bias per filter.
        depthwise_initializer, pointwise_initializer, bias_initializer: how the weights start.
        depthwise_regularizer, pointwise_regularizer, bias_regularizer: penalties on the weights.
        activity_regularizer: penalty on the output, per sample.
        depthwise_constraint, pointwise_constraint, bias_constraint: applied after every step.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.
        trainable: False freezes it.

    Shape:
        (N, C, H, W) → (N, filters, H′, W′).

    Raises:
        ValueError: for sizes below 1, an unknown name, or an input that does not fit.

    Example:
        >>> SeparableConv2D(8, 3)(torch.zeros(2, 4, 8, 8)).shape
        torch.Size([2, 8, 6, 6])
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        depth_multiplier: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        pointwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        pointwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        pointwise_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
        trainable: bool | None = None,
    ) -> None:
        super().__init__()
        setup(self, locals(), takes=PICTURES, activation=activation)
        self.depthwise = DepthwiseConv2D(
            kernel_size,
            strides,
            padding,
            depth_multiplier,
            data_format,
            dilation_rate,
            use_bias=False,
            depthwise_initializer=depthwise_initializer,
            depthwise_regularizer=depthwise_regularizer,
            depthwise_constraint=depthwise_constraint,
        )
        self.pointwise = Conv2D(
            filters,
            1,
            use_bias=use_bias,
            kernel_initializer=pointwise_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=pointwise_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=pointwise_constraint,
            bias_constraint=bias_constraint,
        )

    def build(self, input_shape: Shape) -> None:
        """Make the weights of both for inputs of ``input_shape``."""
        if start_build(self, input_shape):
            self.depthwise.build(input_shape)
            self.pointwise.build((None, self.depthwise.out_channels, None, None))
            self.smallest = self.depthwise.smallest
            self.built = True

    def forward(self, x: Tensor, logits: bool = False) -> Tensor:
        prepare(self, x)
        return activate(self, self.pointwise(self.depthwise(x)), logits)

    def to_torch(self) -> nn.Sequential:
        """Two ``nn.Conv2d``."""
        return nn.Sequential(plain(self.depthwise), plain(self.pointwise))


class Conv2DTranspose(nn.ConvTranspose2d):
    """The transposed convolution: enlarges pictures, as decoders and generators do.

    It is the gradient of Conv2D with respect to its input, so ``padding="same"`` with strides s
    gives exactly s times the size.

    Reference:
        V. Dumoulin, F. Visin (2016), A guide to convolution arithmetic, arXiv:1603.07285.

    Args:
        filters: channels of the output.
        kernel_size: height and width of the window; one number for both.
        strides: the factor by which the picture grows.
        padding: ``"valid"`` or ``"same"``.
        data_format: None or ``"channels_first"``; there is no other.
        dilation_rate: distance between the entries that the kernel writes.
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
        (N, C, H, W) → (N, filters, s·H, s·W) with ``"same"``; with ``"valid"``
        (H − 1)·s + max(kernel, s).

    Raises:
        ValueError: for sizes below 1, an unknown name, or an input that does not fit.

    Example:
        >>> Conv2DTranspose(3, 3, strides=2, padding="same")(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 3, 8, 8])
    """

    width: int

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
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
        check_channels_first(data_format)
        super().__init__(
            in_channels=1,
            out_channels=check_positive_int("filters", filters),
            bias=use_bias,
            device="meta",
            **_transposed_window(locals()),
        )
        setup(self, locals(), takes=PICTURES, activation=activation, weights=KERNEL_AND_BIAS)
        self.in_channels = 0
        self.crop = _odd_crop(self) if padding.lower() == "same" else []

    def build(self, input_shape: Shape) -> None:
        """Make the weights for inputs of ``input_shape``."""
        if start_build(self, input_shape):
            self.in_channels = self.width
            kernel = (self.in_channels, self.out_channels, *self.kernel_size)
            make_weights(self, weight=kernel, bias=(self.out_channels,))

    def forward(self, x: Tensor, logits: bool = False) -> Tensor:  # type: ignore[override]
        prepare(self, x)
        y = super().forward(x)
        return activate(self, F.pad(y, self.crop) if any(self.crop) else y, logits)

    def to_torch(self) -> nn.Module:
        """``nn.ConvTranspose2d``, with a crop after it where the pads are uneven."""
        module = twin(self, nn.ConvTranspose2d)
        if not any(self.crop):
            return module
        _, right, _, bottom = self.crop
        return nn.Sequential(module, nn.ZeroPad2d((0, right, 0, bottom))).train(self.training)


def _transposed_window(given: dict[str, Any]) -> dict[str, Any]:
    """torch's arguments; ``surplus`` is how much longer than wanted the full output would be."""
    kernel = per_axis("kernel_size", given["kernel_size"], 2)
    stride = per_axis("strides", given["strides"], 2)
    dilation = per_axis("dilation_rate", given["dilation_rate"], 2)
    same = check_padding(given["padding"], "valid", "same") == "same"
    surplus = [covered - step for covered, step in zip(reach(kernel, dilation), stride)]
    return dict(
        kernel_size=kernel,
        stride=stride,
        dilation=dilation,
        padding=tuple(max(extra, 0) // 2 if same else 0 for extra in surplus),
        output_padding=tuple(max(-extra, 0) for extra in surplus),
    )


def _odd_crop(layer: Any) -> list[int]:
    """What is left to cut at the bottom and right when the surplus is odd; torch cuts both ends."""
    surplus = [c - step for c, step in zip(reach(layer.kernel_size, layer.dilation), layer.stride)]
    bottom, right = (-(extra % 2) if extra > 0 else 0 for extra in surplus)
    return [0, right, 0, bottom]
