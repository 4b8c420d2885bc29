"""What the named networks share: checks before anything is made, the last layer, the building."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easydl.errors import check_between, check_positive_int
from easydl.layers import BatchNormalization, Dense
from easydl.layers.base import Shape, channels_last, checked_sample_shape
from easydl.sequential import Sequential

HE: dict[str, Any] = {"activation": "relu", "kernel_initializer": "he_uniform"}


def check_pictures(
    network: str, shape: Any, smallest: int, example: Shape, *, may_be_open: bool = False
) -> tuple[int | None, ...]:
    """``shape`` as (channels, height, width) of pictures that are large enough for ``network``.

    Args:
        network: its name, for the messages.
        shape: what the user gave.
        smallest: the least height and width.
        example: a shape for the messages.
        may_be_open: whether height and width may be None, any size.

    Raises:
        ValueError: another number of axes, the channels last, an open size, a picture too small.
    """
    given = f"{network} was given input_shape={shape!r:.60}"
    if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) != 3:
        raise ValueError(f"{given}; expected (channels, height, width), for example {example}.")
    sizes = checked_sample_shape(shape)
    assert sizes is not None
    if channels_last(sizes):
        raise ValueError(
            f"{given}, which has the channels last; expected (channels, height, width): "
            f"{(sizes[-1], *sizes[:-1])}. Turn the data: np.moveaxis(x, -1, 1)."
        )
    if sizes[0] is None or (None in sizes and not may_be_open):
        raise ValueError(f"{given}; expected whole numbers, for example {example}.")
    if any(size is not None and size < smallest for size in sizes[1:]):
        raise ValueError(
            f"{given}; expected a height and width of at least {smallest}, since its windows and "
            "strides leave nothing of smaller pictures. Enlarge them: "
            f"torch.nn.functional.interpolate(x, size={smallest}, mode='bilinear')."
        )
    return sizes


def check_widths(name: str, value: Any, count: int | None = None) -> tuple[int, ...]:
    """``value`` as whole numbers from 1: one number, or a list (of ``count``)."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        widths = tuple(check_positive_int(name, width) for width in value)
        if widths and len(widths) == (count or len(widths)):
            return widths
    elif count in (None, 1):
        return (check_positive_int(name, value),)
    raise ValueError(
        f"{name}={value!r:.80} was given; expected {count or 'a list of'} whole numbers of at "
        f"least 1, for example {name}={(32,) * (count or 2)}."
    )


def check_dropout(value: Any) -> float:
    """The share of units that Dropout drops, below 1."""
    return check_between("dropout", value, 0, 1, ends="[)")


def output_layer(classes: Any, output_activation: Any, name: str = "output") -> Dense:
    """The last layer: softmax over several classes, a sigmoid for one, or what was asked for."""
    classes = check_positive_int("classes", classes)
    if isinstance(output_activation, str) and output_activation.lower() == "auto":
        output_activation = "softmax" if classes > 1 else "sigmoid"
    return Dense(classes, activation=output_activation, name=name)


def batch_norm(name: str | None = None) -> BatchNormalization:
    """With the momentum and epsilon of the published networks (and torch), not Keras's."""
    return BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)


def built(layers: Sequence[Any], input_shape: Shape | None, name: str) -> Sequential:
    """A ``Sequential`` of ``layers``, built for ``input_shape`` where it is known."""
    model = Sequential(layers, name=name)
    if input_shape is not None:
        model.build((None, *input_shape))  # the batch, then perhaps an open size
    return model
