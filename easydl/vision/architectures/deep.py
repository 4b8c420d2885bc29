"""The two ways to depth: shortcuts past the layers (ResNet) and layers side by side (Inception)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from easydl.errors import check_flag, check_positive_int, look_up, short_traceback
from easydl.layers import (
    Branches,
    Conv2D,
    GlobalAveragePooling2D,
    MaxPooling2D,
    ReLU,
    Residual,
    ZeroPadding2D,
)
from easydl.layers.base import Shape
from easydl.sequential import Sequential
from easydl.vision.architectures.shared import batch_norm as normalisation
from easydl.vision.architectures.shared import (
    built,
    check_pictures,
    check_widths,
    output_layer,
)


@short_traceback
def ResNet(
    depth: int = 20,
    classes: int = 10,
    input_shape: Shape = (3, 32, 32),
    *,
    shortcut: str = "A",
    output_activation: Any = "auto",
) -> Sequential:
    """A residual network for small pictures: 6n + 2 layers, 0.27 million parameters at depth 20.

    One convolution, three stages of n blocks with 16, 32 and 64 filters, the picture halved before
    the second and third, an average over each map, one dense layer. Depths 20, 32, 44, 56 and 110
    have 0.27, 0.46, 0.66, 0.85 and 1.7 million parameters that learn, the paper's table 6 (269,722
    at depth 20, without the running averages). For large pictures there are torchvision's (18, 34,
    50, 101, 152).

    Reference:
        K. He, X. Zhang, S. Ren, J. Sun (2015), Deep residual learning for image recognition,
        arXiv:1512.03385, section 4.2. They train it by SGD, momentum 0.9, learning rate 0.1 divided
        by 10 after half and three quarters of the steps, weight decay 0.0001, batches of 128.

    Args:
        depth: 6n + 2: 8, 14, 20, 26, 32, 38, 44 … 110.
        classes: how many; 1 is a yes or no.
        input_shape: (channels, height, width); None for any height and width.
        shortcut: where a stage begins with twice the filters, the way past its first block takes
            every second pixel and fills up with channels of zeros ("A", the paper's), or is a
            1 × 1 convolution that learns, normalised ("B", a little larger).
        output_activation: ``"auto"`` is softmax, or sigmoid for one class; None gives the sums,
            for regression.

    Raises:
        ValueError: another depth, channels last, no class.

    Example:
        >>> sum(weight.numel() for weight in ResNet(20).parameters())
        269722
    """
    check_pictures("ResNet", input_shape, 1, (3, 32, 32), may_be_open=True)
    blocks = _blocks(depth)
    shortcut = look_up("shortcut", str(shortcut), {"A": "A", "B": "B"})
    layers = [*_conv3x3(16), normalisation(), ReLU()]
    for stage, filters in enumerate((16, 32, 64), start=1):
        for block in range(1, blocks + 1):
            halve = stage > 1 and block == 1
            way = [
                *_conv3x3(filters, strides=2 if halve else 1),
                normalisation(),
                ReLU(),
                *_conv3x3(filters),
                normalisation(),
            ]
            past = _past(shortcut, filters) if halve else None
            layers += [Residual(way, past, name=f"stage{stage}_{block}"), ReLU()]
    layers += [GlobalAveragePooling2D(), output_layer(classes, output_activation)]
    return built(layers, input_shape, f"resnet{depth}")


@short_traceback
def InceptionBlock(
    ch1x1: int = 64,
    ch3x3: Sequence[int] = (96, 128),
    ch5x5: Sequence[int] = (16, 32),
    pool: int = 32,
    *,
    batch_norm: bool = False,
    name: str | None = None,
    input_shape: Shape | None = None,
) -> Branches:
    """GoogLeNet's block: windows of three sizes and a pooling read the same maps, side by side.

    The 1 × 1 convolutions before the wide windows make few maps of many, which keeps them cheap.
    The defaults are the block "3a": 192 maps in, 64 + 128 + 32 + 32 = 256 out, 163,696 parameters.
    A small network of it::

        dl.Sequential([dl.Conv2D(32, 3, activation="relu", padding="same"), dl.MaxPooling2D(2),
                       dl.InceptionBlock(16, (16, 32), (4, 8), 8), dl.MaxPooling2D(2),
                       dl.InceptionBlock(32, (32, 64), (8, 16), 16),
                       dl.GlobalAveragePooling2D(), dl.Dense(10, activation="softmax")])

    Reference:
        C. Szegedy et al. (2014), Going deeper with convolutions, arXiv:1409.4842, figure 2b and
        table 1. (torchvision's GoogLeNet has 3 × 3 windows in place of 5 × 5.)

    Args:
        ch1x1: maps of the branch of 1 × 1 windows.
        ch3x3: (before, after) the 3 × 3 windows.
        ch5x5: (before, after) the 5 × 5 windows.
        pool: maps of the 1 × 1 convolution after the pooling.
        batch_norm: normalise after each convolution, which then has no bias.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, H, W) → (N, ch1x1 + ch3x3[1] + ch5x5[1] + pool, H, W).

    Raises:
        ValueError: widths below 1, a pair that is none.

    Example:
        >>> InceptionBlock()(torch.zeros(2, 192, 28, 28)).shape
        torch.Size([2, 256, 28, 28])
    """
    (before3, after3), (before5, after5) = (
        check_widths(name, pair, 2) for name, pair in (("ch3x3", ch3x3), ("ch5x5", ch5x5))
    )
    norm = check_flag("batch_norm", batch_norm)
    ch1x1, pool = check_positive_int("ch1x1", ch1x1), check_positive_int("pool", pool)
    branches = [
        _conv(ch1x1, 1, norm),
        [*_conv(before3, 1, norm), *_conv(after3, 3, norm)],
        [*_conv(before5, 1, norm), *_conv(after5, 5, norm)],
        [MaxPooling2D(3, strides=1, padding="same"), *_conv(pool, 1, norm)],
    ]
    return Branches(branches, name=name, input_shape=input_shape)


def _blocks(depth: Any) -> int:
    """How many blocks a stage has at this depth."""
    number = check_positive_int("depth", depth, minimum=1)
    if number < 8 or number % 6 != 2:
        n = max(1, round((number - 2) / 6))
        large = number in (18, 34, 50, 101, 152)
        raise ValueError(
            f"depth={number} was given; expected 6n + 2, the network for small pictures: 8, 14, "
            f"20, 26, 32, 38, 44, 50, 56 … 110. The nearest is {6 * n + 2}."
            + (f" The one for large pictures is torchvision's resnet{number}." if large else "")
        )
    return (number - 2) // 6


def _conv3x3(filters: int, strides: int = 1) -> list[nn.Module]:
    """A convolution without bias, which the normalisation behind it would take away again."""
    kernel: dict[str, Any] = {"use_bias": False, "kernel_initializer": "he_normal"}
    if strides == 1:
        return [Conv2D(filters, 3, padding="same", **kernel)]
    # the paper pads on all sides; "same" would pad at the bottom and right alone
    return [ZeroPadding2D(1), Conv2D(filters, 3, strides=strides, **kernel)]


def _past(shortcut: str, filters: int) -> list[nn.Module]:
    """The way past a block that halves the picture and doubles the channels."""
    if shortcut == "B":
        kernel: dict[str, Any] = {"use_bias": False, "kernel_initializer": "he_normal"}
        return [Conv2D(filters, 1, strides=2, **kernel), normalisation()]
    zeros = filters // 4  # before and behind the channels that are there
    return [MaxPooling2D(1, strides=2), nn.ZeroPad3d((0, 0, 0, 0, zeros, zeros))]


def _conv(filters: int, size: int, batch_norm: bool) -> list[nn.Module]:
    same: dict[str, Any] = {"padding": "same", "kernel_initializer": "he_uniform"}
    if not batch_norm:
        return [Conv2D(filters, size, **same, activation="relu")]
    return [Conv2D(filters, size, **same, use_bias=False), normalisation(), ReLU()]
