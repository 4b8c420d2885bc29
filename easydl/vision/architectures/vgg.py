"""VGG: 3 × 3 convolutions and nothing else, from the slides' small one to nineteen layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from easydl.errors import check_flag, check_positive_int, short_traceback
from easydl.layers import Conv2D, Dense, Dropout, Flatten, MaxPooling2D, ReLU
from easydl.layers.base import Shape
from easydl.sequential import Sequential
from easydl.vision.architectures.shared import HE, built, check_pictures, output_layer
from easydl.vision.architectures.shared import batch_norm as normalisation

FILTERS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {  # in each of the five blocks: table 1 of the paper, columns A, B, D and E
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


@short_traceback
def VGG16(
    classes: int = 1000,
    input_shape: Shape = (3, 224, 224),
    batch_norm: bool = False,
    *,
    units: int = 4096,
    output_activation: Any = "auto",
) -> Sequential:
    """VGG with 16 layers that have weights: 138,357,544 parameters for 1,000 classes.

    Five blocks of 3 × 3 convolutions, each ending in a pooling that halves the picture, then three
    dense layers. The tensors of ``state_dict`` are torchvision's, in the same order:
    ``model.load_state_dict(dict(zip(model.state_dict(), theirs.state_dict().values())))``.

    Reference:
        K. Simonyan, A. Zisserman (2014), Very deep convolutional networks for large-scale image
        recognition, arXiv:1409.1556, table 1, column D.

    Args:
        classes: how many; 1 is a yes or no.
        input_shape: (channels, height, width), at least 32 × 32, None for any size: 7 × 7 averages
            of the last maps are what the dense layers read.
        batch_norm: normalise after each convolution, which lets it learn from random weights.
        units: width of the two hidden dense layers, where nine tenths of the parameters are;
            512 is plenty for small pictures.
        output_activation: ``"auto"`` is softmax, or sigmoid for one class; None gives the sums,
            for regression.

    Raises:
        ValueError: pictures that are too small, channels last, no class.

    Example:
        >>> with torch.device("meta"):  # the shapes alone, no memory
        ...     print(f"{VGG16().count_params():,}")
        138,357,544
    """
    return _vgg(16, classes, input_shape, batch_norm, units, output_activation)


@short_traceback
def VGG11(
    classes: int = 1000,
    input_shape: Shape = (3, 224, 224),
    batch_norm: bool = False,
    *,
    units: int = 4096,
    output_activation: Any = "auto",
) -> Sequential:
    """VGG with 11 layers that have weights: 132,863,336 parameters; arguments as ``VGG16``.

    Reference:
        arXiv:1409.1556, table 1, column A.

    Example:
        >>> model = VGG11(10, (3, 32, 32), units=64)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return _vgg(11, classes, input_shape, batch_norm, units, output_activation)


@short_traceback
def VGG13(
    classes: int = 1000,
    input_shape: Shape = (3, 224, 224),
    batch_norm: bool = False,
    *,
    units: int = 4096,
    output_activation: Any = "auto",
) -> Sequential:
    """VGG with 13 layers that have weights: 133,047,848 parameters; arguments as ``VGG16``.

    Reference:
        arXiv:1409.1556, table 1, column B.

    Example:
        >>> with torch.device("meta"):
        ...     print(f"{VGG13().count_params():,}")
        133,047,848
    """
    return _vgg(13, classes, input_shape, batch_norm, units, output_activation)


@short_traceback
def VGG19(
    classes: int = 1000,
    input_shape: Shape = (3, 224, 224),
    batch_norm: bool = False,
    *,
    units: int = 4096,
    output_activation: Any = "auto",
) -> Sequential:
    """VGG with 19 layers that have weights: 143,667,240 parameters; arguments as ``VGG16``.

    Reference:
        arXiv:1409.1556, table 1, column E.

    Example:
        >>> with torch.device("meta"):
        ...     print(f"{VGG19().count_params():,}")
        143,667,240
    """
    return _vgg(19, classes, input_shape, batch_norm, units, output_activation)


@short_traceback
def SmallVGG(
    classes: int = 10,
    input_shape: Shape = (3, 100, 100),
    *,
    units: int = 128,
    dropout: bool = True,
    output_activation: Any = "auto",
) -> Sequential:
    """The small VGG-style net of the slides: twice two 3 × 3 convolutions and a pooling.

    Args:
        classes: how many; 1 is a yes or no.
        input_shape: (channels, height, width), at least 16 × 16. Nearly all parameters are in the
            dense layer: 4,031,914 in all for 100 × 100.
        units: width of the hidden dense layer; Keras's guide of the time had 256.
        dropout: 0.25 after each pooling and 0.5 before the end, as in that guide.
        output_activation: ``"auto"`` is softmax, or sigmoid for one class; None gives the sums,
            for regression.

    Raises:
        ValueError: pictures that are too small, channels last, no class.

    Example:
        >>> SmallVGG(5, (3, 16, 16)).count_params()
        74533
    """
    check_pictures("SmallVGG", input_shape, 16, (3, 100, 100))
    drop = check_flag("dropout", dropout)
    layers = [
        Conv2D(32, 3, activation="relu"),
        Conv2D(32, 3, activation="relu"),
        MaxPooling2D(2),
        *([Dropout(0.25)] if drop else []),
        Conv2D(64, 3, activation="relu"),
        Conv2D(64, 3, activation="relu"),
        MaxPooling2D(2),
        *([Dropout(0.25)] if drop else []),
        Flatten(),
        Dense(check_positive_int("units", units), activation="relu"),
        *([Dropout(0.5)] if drop else []),
        output_layer(classes, output_activation),
    ]
    return built(layers, input_shape, "small_vgg")


def _vgg(
    depth: int,
    classes: int,
    input_shape: Shape,
    batch_norm: bool,
    units: int,
    output_activation: Any,
) -> Sequential:
    check_pictures(f"VGG{depth}", input_shape, 32, (3, 224, 224), may_be_open=True)
    check_flag("batch_norm", batch_norm)
    check_positive_int("units", units)
    layers: list[nn.Module] = []
    for block, (filters, convolutions) in enumerate(zip(FILTERS, CONVOLUTIONS[depth]), start=1):
        for number in range(1, convolutions + 1):
            layers += _convolution(filters, batch_norm, f"{block}_{number}")
        layers.append(MaxPooling2D(2, name=f"pool{block}"))
    layers += [
        nn.AdaptiveAvgPool2d(7),
        Flatten(),
        Dense(units, **HE, name="fc6"),
        Dropout(0.5),
        Dense(units, **HE, name="fc7"),
        Dropout(0.5),
        output_layer(classes, output_activation, "fc8"),
    ]
    return built(layers, input_shape, f"vgg{depth}" + ("_bn" if batch_norm else ""))


def _convolution(filters: int, batch_norm: bool, number: str) -> list[nn.Module]:
    same: dict[str, Any] = {"padding": "same", "kernel_initializer": "he_uniform"}
    if not batch_norm:
        return [Conv2D(filters, 3, **same, activation="relu", name=f"conv{number}")]
    return [
        Conv2D(filters, 3, **same, name=f"conv{number}"),
        normalisation(f"bn{number}"),
        ReLU(),
    ]
