"""LeNet-5, AlexNet and DeepFace, layer by layer as their drawings show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from easydl.errors import check_flag, check_positive_int, short_traceback
from easydl.layers import (
    AveragePooling2D,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    LocallyConnected2D,
    MaxPooling2D,
    ZeroPadding2D,
)
from easydl.layers.base import Shape
from easydl.sequential import Sequential
from easydl.vision.architectures.shared import (
    HE,
    built,
    check_pictures,
    check_widths,
    output_layer,
)


@short_traceback
def LeNet5(
    classes: int = 10,
    input_shape: Shape = (1, 32, 32),
    modern: bool = False,
    *,
    output_activation: Any = "auto",
) -> Sequential:
    """LeNet-5, which read the digits on cheques: 61,706 parameters at 32 × 32.

    As it is usually drawn: every map of C3 reads all maps of S2. The paper's own has 60,000
    trainable parameters. Its C3 reads chosen maps by a table (1,516 weights instead of 2,416), S2
    and S4 learn a factor and a shift for each map (12 and 32 more), F6 has a scaled tanh, and the
    output compares with fixed drawings of the digits by radial basis functions (10,164 + 850
    become 10,164).

    Reference:
        Y. LeCun, L. Bottou, Y. Bengio, P. Haffner (1998), Gradient-based learning applied to
        document recognition, figure 2.

    Args:
        classes: how many; 1 is a yes or no.
        input_shape: (channels, height, width). Below 32 the first convolution pads by 2, so that
            MNIST's 28 × 28 gives the same maps; 28 is the least.
        modern: ReLU and max pooling instead of tanh and averages.
        output_activation: ``"auto"`` is softmax, or sigmoid for one class; None gives the sums,
            for regression.

    Raises:
        ValueError: pictures that are too small, channels last, no class.

    Example:
        >>> LeNet5().count_params()
        61706
        >>> LeNet5(input_shape=(1, 28, 28), modern=True).count_params()
        61706
    """
    _, height, width = check_pictures("LeNet5", input_shape, 28, (1, 32, 32))
    assert height is not None and width is not None
    padding = "same" if min(height, width) < 32 else "valid"
    modern = check_flag("modern", modern)
    g = "relu" if modern else "tanh"
    Pooling = MaxPooling2D if modern else AveragePooling2D
    layers = [
        Conv2D(6, 5, padding=padding, activation=g, name="C1"),
        Pooling(2, name="S2"),
        Conv2D(16, 5, activation=g, name="C3"),
        Pooling(2, name="S4"),
        Conv2D(120, 5, activation=g, name="C5"),
        Flatten(),
        Dense(84, activation=g, name="F6"),
        output_layer(classes, output_activation),
    ]
    return built(layers, input_shape, "lenet5")


@short_traceback
def AlexNet(
    classes: int = 1000,
    input_shape: Shape = (3, 224, 224),
    *,
    units: int = 4096,
    output_activation: Any = "auto",
) -> Sequential:
    """AlexNet for one device, as torchvision has it: 61,100,840 parameters for 1,000 classes.

    The network of 2012, on two devices, had 96, 256, 384, 384 and 256 filters and normalised over
    neighbouring channels; this is its author's later form (64, 192, 384, 256, 256). The tensors
    of ``state_dict`` are torchvision's, in the same order:
    ``model.load_state_dict(dict(zip(model.state_dict(), theirs.state_dict().values())))``.

    Reference:
        A. Krizhevsky (2014), One weird trick for parallelizing convolutional neural networks,
        arXiv:1404.5997; A. Krizhevsky, I. Sutskever, G. Hinton (2012), ImageNet classification
        with deep convolutional neural networks.

    Args:
        classes: how many; 1 is a yes or no.
        input_shape: (channels, height, width), at least 63 × 63, None for any size: 6 × 6 averages
            of the last maps are what the dense layers read.
        units: width of the two hidden dense layers.
        output_activation: ``"auto"`` is softmax, or sigmoid for one class; None gives the sums,
            for regression.

    Raises:
        ValueError: pictures that are too small, channels last, no class.

    Example:
        >>> with torch.device("meta"):  # the shapes alone, no memory
        ...     print(f"{AlexNet().count_params():,}")
        61,100,840
    """
    check_pictures("AlexNet", input_shape, 63, (3, 224, 224), may_be_open=True)
    layers = [
        ZeroPadding2D(2),
        Conv2D(64, 11, strides=4, **HE, name="conv1"),
        MaxPooling2D(3, strides=2, name="pool1"),
        Conv2D(192, 5, padding="same", **HE, name="conv2"),
        MaxPooling2D(3, strides=2, name="pool2"),
        Conv2D(384, 3, padding="same", **HE, name="conv3"),
        Conv2D(256, 3, padding="same", **HE, name="conv4"),
        Conv2D(256, 3, padding="same", **HE, name="conv5"),
        MaxPooling2D(3, strides=2, name="pool5"),
        nn.AdaptiveAvgPool2d(6),
        Flatten(),
        Dropout(0.5),
        Dense(check_positive_int("units", units), **HE, name="fc6"),
        Dropout(0.5),
        Dense(units, **HE, name="fc7"),
        output_layer(classes, output_activation, "fc8"),
    ]
    return built(layers, input_shape, "alexnet")


@short_traceback
def DeepFace(
    classes: int = 4030,
    input_shape: Shape = (3, 152, 152),
    *,
    filters: Sequence[int] = (32, 16, 16, 16, 16),
    units: int = 4096,
    output_activation: Any = "auto",
) -> Sequential:
    """DeepFace: after two convolutions, layers whose every position has weights of its own.

    For pictures in which each place has its own meaning: faces turned to the front, the eyes and
    the mouth always at the same spot. 118,923,774 parameters for the paper's 4,030 people (it says
    "more than 120 million"), 99.96 % of them in the local and dense layers.

    Reference:
        Y. Taigman, M. Yang, M. Ranzato, L. Wolf (2014), DeepFace: closing the gap to human-level
        performance in face verification, figure 2.

    Args:
        classes: how many people; 1 is a yes or no.
        input_shape: (channels, height, width), at least 71 × 71.
        filters: of C1, C3, L4, L5 and L6; ``(8, 4, 4, 4, 4)`` makes a small one.
        units: width of F7, whose outputs describe the face.
        output_activation: ``"auto"`` is softmax, or sigmoid for one class; None gives the sums,
            for regression.

    Raises:
        ValueError: pictures that are too small, channels last, no class, other than five filters.

    Example:
        >>> model = DeepFace(5, (3, 71, 71), filters=(8, 4, 4, 4, 4), units=32)
        >>> model(torch.zeros(2, 3, 71, 71)).shape
        torch.Size([2, 5])
    """
    check_pictures("DeepFace", input_shape, 71, (3, 152, 152))
    c1, c3, l4, l5, l6 = check_widths("filters", filters, 5)
    layers = [
        Conv2D(c1, 11, **HE, name="C1"),
        MaxPooling2D(3, strides=2, padding="same", name="M2"),
        Conv2D(c3, 9, **HE, name="C3"),
        LocallyConnected2D(l4, 9, **HE, name="L4"),
        LocallyConnected2D(l5, 7, strides=2, **HE, name="L5"),
        LocallyConnected2D(l6, 5, **HE, name="L6"),
        Flatten(),
        Dense(check_positive_int("units", units), **HE, name="F7"),
        Dropout(0.5),
        output_layer(classes, output_activation, "F8"),
    ]
    return built(layers, input_shape, "deepface")
