"""Pictures as they are: data, mistakes, reconstructions, decoded codes, filters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from easydl.plotting.shared import as_array, as_probabilities, class_numbers, names_of, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

MOST_PICTURES = 256


def pictures(images: Any, titles: Sequence[str] | None = None, columns: int = 8) -> Figure:
    """Pictures in a grid: data, filters, feature maps, what a network generates.

    Args:
        images: Grey or RGB pictures. ``uint8`` is 0 … 255, floats are 0 … 1; other values are
            stretched from their lowest to their highest, the same for all pictures.
        titles: One a picture.
        columns: Pictures side by side.

    Shape:
        ``(N, H, W)``, ``(N, 1, H, W)`` or ``(N, 3, H, W)``.

    Raises:
        ValueError: For another shape, NaN, more than 256 pictures, or as many titles as don't fit.

    Example:
        >>> figure = pictures(np.zeros((3, 1, 8, 8)), titles=["a", "b", "c"])
        >>> [axes.get_title() for axes in figure.axes]
        ['a', 'b', 'c']
    """
    shown = as_pictures(images)
    if titles is not None and len(titles) != len(shown):
        raise ValueError(
            f"pictures was given {len(titles)} titles for {len(shown)} images; expected one each."
        )
    columns = max(1, min(columns, len(shown)))
    rows = math.ceil(len(shown) / columns)
    width, height = _picture_size(shown, titles, columns)
    figure = new_figure(width * columns, height * rows)
    draw_pictures(figure, shown, titles, rows, columns)
    return figure


def most_wrong(
    x: Any,
    y_true: Any,
    probabilities: Any,
    classes: Sequence[Any] | None = None,
    count: int = 16,
) -> Figure:
    """The pictures with the highest loss −log p(true class): mislabelled, odd, or truly hard.

    Args:
        x: Pictures, as for :func:`pictures`.
        y_true: Labels, or one-hot rows.
        probabilities: What ``predict`` returned.
        classes: Their names.
        count: How many.

    Shape:
        ``x`` ``(N, …)``; ``y_true`` ``(N,)`` or ``(N, K)``; ``probabilities`` ``(N, K)``, or
        ``(N,)`` and ``(N, 1)`` for the probability of class 1.

    Raises:
        ValueError: For different lengths, labels without a probability, or no probabilities.

    Example:
        >>> p = [[0.9, 0.1], [0.97, 0.03]]
        >>> figure = most_wrong(np.zeros((2, 8, 8)), [0, 1], p, count=1)
        >>> figure.axes[0].get_title()
        'true 1 · said 0 (0.97)'
    """
    x, titles = wrong_rows(x, y_true, probabilities, classes, count)
    return pictures(x, titles, columns=min(4, len(titles)))


def reconstructions(
    x: Any, *rows: Any, titles: Sequence[str] | None = None, shape: Sequence[int] | None = None
) -> Figure:
    """Strips: the inputs above, below them what one or more models made of each.

    Args:
        x: Pictures, as for :func:`pictures`, or flat rows with ``shape``.
        rows: As many pictures each, from ``predict`` or ``reconstruct``. All are shown on one
            scale.
        titles: One a strip, that of the inputs first.
        shape: ``(H, W)`` or ``(C, H, W)`` of one picture, where the rows are flat.

    Shape:
        Each ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, D)``; at most 256 pictures in all.

    Raises:
        ValueError: For strips of different shapes, or as many titles as don't fit.

    Example:
        >>> x = np.zeros((5, 64))
        >>> figure = reconstructions(x, x + 1, titles=["input", "copy"], shape=(8, 8))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['input', 'copy']
    """
    strips = [_in_shape(strip, shape, "reconstructions") for strip in (x, *rows)]
    shapes = [strip.shape for strip in strips]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"reconstructions was given pictures of shapes {shapes!s:.200}; expected the same for "
            "every strip: one reconstruction an input."
        )
    if titles is not None and len(titles) != len(strips):
        raise ValueError(
            f"reconstructions was given {len(titles)} titles for {len(strips)} strips; expected "
            "one each, that of the inputs first."
        )
    strips = [strip / 255.0 if strip.dtype == np.uint8 else strip for strip in strips]
    shown = as_pictures(np.concatenate(strips))
    shown = shown.reshape(len(strips), len(strips[0]), *shown.shape[1:])
    height, width = shown.shape[2:4]
    side = min(0.9, 12.0 / shown.shape[1])  # inches of one picture
    left = 0.0 if titles is None else 0.1 * max(map(len, titles)) + 0.2
    figure = new_figure(
        max(side * shown.shape[1] + left, 2.0), side * height / width * len(strips) + 0.2
    )
    axes = figure.add_subplot()
    draw_tiles(axes, shown, gap=1)
    if titles is not None:
        axes.set_yticks([k * (height + 1) + (height - 1) / 2 for k in range(len(titles))], titles)
    return figure


def manifold(
    decode: Callable[[np.ndarray], Any], count: int = 15, shape: Sequence[int] | None = None
) -> Figure:
    """What a decoder makes of every code in the plane: a map of what a 2-D model has learned.

    The codes stand at the quantiles (k + ½) / count of a normal distribution, so that each picture
    has the same share of it (Kingma and Welling 2014, figure 4).

    Args:
        decode: Gives pictures, or flat rows with ``shape``, for codes ``(N, 2)``, float32; the
            method ``decode`` of a model with two codes.
        count: Pictures on each side.
        shape: ``(H, W)`` or ``(C, H, W)`` of one picture, where the rows are flat.

    Raises:
        ValueError: When ``decode`` does not give one picture a code.

    Example:
        >>> figure = manifold(lambda z: np.zeros((len(z), 64)), count=3, shape=(8, 8))
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
        ['-0.97', '0', '0.97']
    """
    if type(count) is not int or count < 1:
        raise ValueError(f"manifold was given count={count!r:.60}; expected a whole number ≥ 1.")
    at = np.array([NormalDist().inv_cdf((k + 0.5) / count) for k in range(count)], np.float32)
    across, up = np.meshgrid(at, at[::-1])
    codes = np.stack([across, up], axis=-1).reshape(-1, 2)
    images = _in_shape(decode(codes), shape, "manifold")
    if len(images) != len(codes):
        raise ValueError(
            f"decode gave {len(images)} pictures for {len(codes)} codes; expected one each."
        )
    shown = as_pictures(images, most=len(codes))
    shown = shown.reshape(count, count, *shown.shape[1:])
    height, width = shown.shape[2:4]
    figure = new_figure(6.0, 6.0 * min(max(height / width, 0.25), 4.0))
    axes = figure.add_subplot()
    draw_tiles(axes, shown, gap=0)
    step = math.ceil(count / 7)
    middles = np.arange(count)[::step]
    axes.set_xticks(middles * width + (width - 1) / 2, [f"{z:.2g}" for z in at[::step]])
    axes.set_yticks(middles * height + (height - 1) / 2, [f"{z:.2g}" for z in at[::-1][::step]])
    axes.set(xlabel="z₁", ylabel="z₂")
    return figure


def filters(weights: Any, shape: Sequence[int] | None = None, columns: int = 8) -> Figure:
    """First-layer weights as small pictures, one a unit: what each looks for.

    Grey is 0, white the unit's largest weight by size and black its negative.

    Args:
        weights: ``model.layers[0].weight`` of a Dense or Conv2D.
        shape: ``(H, W)`` or ``(C, H, W)`` of the pictures that a Dense takes.
        columns: Filters side by side.

    Shape:
        ``(units, D)``, ``(units, H, W)``, or ``(units, C, H, W)`` with 1 or 3 channels; at most
        256 units.

    Raises:
        ValueError: For another shape or NaN.

    Example:
        >>> figure = filters(np.ones((3, 64)), shape=(8, 8))
        >>> float(figure.axes[0].get_images()[0].get_array()[0, 0])
        1.0
    """
    images = _in_shape(weights, shape, "filters").astype(np.float64)
    largest = abs(images.reshape(len(images), -1)).max(1, initial=0.0)
    scale = np.where(largest > 0, 2 * largest, 1.0).reshape(-1, *[1] * (images.ndim - 1))
    return pictures(0.5 + images / scale, columns=columns)


def as_pictures(images: Any, most: int = MOST_PICTURES) -> np.ndarray:
    """``(N, H, W)`` or ``(N, H, W, 3)``, floats from 0 to 1."""
    array = as_array(images)
    if array.ndim == 4 and array.shape[1] in (1, 3):
        array = array[:, 0] if array.shape[1] == 1 else array.transpose(0, 2, 3, 1)
    elif array.ndim != 3:
        hint = ""
        if array.ndim == 4 and array.shape[-1] in (1, 3):
            hint = " Channels come first: images.transpose(0, 3, 1, 2)."
        elif array.ndim == 2:
            hint = " One picture is images[None]; flat rows are images.reshape(-1, H, W)."
        raise ValueError(
            f"pictures was given images of shape {array.shape}; expected (N, H, W), (N, 1, H, W) "
            f"or (N, 3, H, W).{hint}"
        )
    if not 0 < len(array) <= most:
        raise ValueError(
            f"pictures was given {len(array)} images; expected 1 to {most}, for example "
            "images[:64]."
        )
    if not np.isfinite(array).all():
        raise ValueError("pictures was given images with NaN or inf; expected finite numbers.")
    if array.dtype == np.uint8:
        return array / 255.0
    array = array.astype(np.float64)
    low, high = array.min(), array.max()
    if low >= 0 and high <= 1:
        return array
    return (array - low) / (high - low or 1.0)


def _in_shape(images: Any, shape: Sequence[int] | None, what: str) -> np.ndarray:
    """Flat rows as pictures of ``shape``; pictures as they are."""
    array = as_array(images)
    if array.ndim != 2:
        return array
    numbers = array.shape[1]
    if shape is None or math.prod(shape) != numbers:
        side = math.isqrt(numbers)
        square = f"({side}, {side})" if side**2 == numbers else "(H, W)"
        raise ValueError(
            f"{what} was given flat rows of {numbers} numbers and shape={shape!r:.60}; expected "
            f"the shape of one picture of as many, for example shape={square}."
        )
    return array.reshape(-1, *shape)


def draw_tiles(axes: Axes, shown: np.ndarray, gap: int) -> None:
    """Pictures ``(rows, columns, H, W[, 3])`` as one image, ``gap`` white pixels between."""
    rows, columns, height, width, *rgb = shown.shape
    whole = np.ones((rows, height + gap, columns, width + gap, *rgb))
    whole[:, :height, :, :width] = shown.swapaxes(1, 2)
    whole = whole.reshape(rows * (height + gap), columns * (width + gap), *rgb)
    whole = whole[: len(whole) - gap, : whole.shape[1] - gap]
    axes.imshow(whole, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(xticks=[], yticks=[])


def _picture_size(
    shown: np.ndarray, titles: Sequence[str] | None, columns: int
) -> tuple[float, float]:
    """Inches of one picture with its title, at a font size of 8."""
    longest = max((len(line) for title in titles or [] for line in title.split("\n")), default=0)
    width = max(1.1, min(9.0 / columns, 3.0), 0.07 * longest + 0.15)
    height = width * min(max(shown.shape[1] / shown.shape[2], 0.25), 4.0)
    lines = max((title.count("\n") + 1 for title in titles or []), default=0)
    return width, height + 0.17 * lines + 0.05


def draw_pictures(
    figure: Figure | SubFigure,
    shown: np.ndarray,
    titles: Sequence[str] | None,
    rows: int,
    columns: int,
) -> None:
    for index, picture in enumerate(shown):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
        if titles is not None:
            axes.set_title(titles[index], fontsize=8, pad=3)


def wrong_rows(
    x: Any, y_true: Any, probabilities: Any, classes: Sequence[Any] | None, count: int
) -> tuple[np.ndarray, list[str]]:
    x, true, p = as_array(x), class_numbers("y_true", y_true), as_probabilities(probabilities)
    if not len(x) == len(true) == len(p):
        raise ValueError(
            f"x has {len(x)} rows, y_true {len(true)} and probabilities {len(p)}; expected as many."
        )
    if true.min() < 0 or true.max() >= p.shape[1]:
        raise ValueError(
            f"y_true reaches from {true.min()} to {true.max()}; expected 0 to {p.shape[1] - 1}, "
            "one column of probabilities a class."
        )
    names, said = names_of(classes, p.shape[1]), p.argmax(1)
    rows = np.argsort(p[np.arange(len(p)), true], kind="stable")[:count]  # −log falls with p
    short = max(map(len, names)) <= 3
    between = " · " if short else "\n"
    titles = [
        f"true {names[true[i]]}{between}said {names[said[i]]} ({p[i, said[i]]:.2f})" for i in rows
    ]
    return x[rows], titles
