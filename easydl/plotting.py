"""Every picture: curves, confusion matrix, pictures, the worst mistakes, boundaries, series.

Each function returns a matplotlib ``Figure``: the last line of a notebook cell shows it,
``figure.savefig("name.png")`` keeps it, and in a script with a window
``matplotlib.pyplot.show()`` opens it. matplotlib is imported when a function is called.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from easydl.callbacks.history import History, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

MOST_PICTURES = 256
MOST_CLASSES_WITH_COUNTS = 30


def curves(history: History | Mapping[str, Sequence[float]]) -> Figure:
    """Loss and metrics by epoch, training and validation in one panel each.

    Look here first: both curves high — more capacity or training; a gap that widens — overfitting.

    Args:
        history: What ``fit`` returned, or a dict of lists of one length.

    Raises:
        ValueError: When there is no epoch, or a dict has lists of different lengths.

    Example:
        >>> figure = curves({"loss": [0.9, 0.5], "val_loss": [1.0, 0.7], "accuracy": [0.6, 0.8]})
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'accuracy']
    """
    panels = _panels(history)
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = _figure(max(5.0, 4.2 * columns), 3.2 * rows)
    _draw_curves(figure, panels, rows, columns)
    return figure


def confusion_matrix(y_true: Any, y_pred: Any, classes: Sequence[Any] | None = None) -> Figure:
    """How often each class was taken for each: rows are true, columns are what the model said.

    Cells hold counts; the colour is the share of the row, so that rare classes show as clearly.

    Args:
        y_true: Labels, or one-hot rows.
        y_pred: Labels, or what ``predict`` returned: rows of probabilities, or one column of them.
        classes: Their names; the numbers 0 … K − 1 when ``None``.

    Shape:
        Each ``(N,)``, ``(N, 1)`` or ``(N, K)``.

    Raises:
        ValueError: For different lengths, or labels beyond ``classes``.

    Example:
        >>> figure = confusion_matrix([0, 1, 1, 0], [0, 1, 0, 0], classes=["cat", "dog"])
        >>> figure.axes[0].get_title()
        'accuracy 0.7500 of 4'
    """
    true, said = _labels("y_true", y_true), _labels("y_pred", y_pred)
    counts, names = _count(true, said, classes)
    side = _confusion_side(names)
    figure = _figure(side + 0.6, side)
    _draw_confusion(figure.add_subplot(), counts, names, side)
    return figure


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
    shown = _as_pictures(images)
    if titles is not None and len(titles) != len(shown):
        raise ValueError(
            f"pictures was given {len(titles)} titles for {len(shown)} images; expected one each."
        )
    columns = max(1, min(columns, len(shown)))
    rows = math.ceil(len(shown) / columns)
    width, height = _picture_size(shown, titles, columns)
    figure = _figure(width * columns, height * rows)
    _draw_pictures(figure, shown, titles, rows, columns)
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
    x, titles = _worst(x, y_true, probabilities, classes, count)
    return pictures(x, titles, columns=min(4, len(titles)))


def report(
    history: History | Mapping[str, Sequence[float]],
    x: Any,
    y_true: Any,
    probabilities: Any,
    path: str | os.PathLike[str],
    classes: Sequence[Any] | None = None,
) -> str:
    """One PNG that tells how a classifier did: curves, confusion matrix, the worst mistakes.

    The mistakes are left out where ``x`` has no pictures.

    Args:
        history: What ``fit`` returned.
        x: Held-out inputs.
        y_true: Their labels, or one-hot rows.
        probabilities: ``model.predict(x)``.
        path: Where to save it; the folder is made when missing.
        classes: Their names.

    Returns:
        ``path``.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "report.png")
        >>> p = np.eye(2)[[0, 1, 0]]
        >>> report({"loss": [0.9, 0.5]}, np.zeros((3, 8, 8)), [0, 1, 1], p, path) == path
        True
    """
    panels = _panels(history)
    probabilities = _as_probabilities(probabilities)
    true, said = _labels("y_true", y_true), probabilities.argmax(1)
    if classes is None:
        classes = range(probabilities.shape[1])
    counts, names = _count(true, said, classes)
    with_pictures = np.ndim(x) in (3, 4)
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    side = max(_confusion_side(names), 5.0)
    width = max(4.2 * columns, side + (7.0 if with_pictures else 0.6))
    figure = _figure(width, 3.0 * rows + side)
    halves: Any = figure.subfigures(2, 1, height_ratios=[3.0 * rows, side])
    above, below = halves
    _draw_curves(above, panels, rows, columns)
    if with_pictures:
        left, right = below.subfigures(1, 2, width_ratios=[side, width - side])
        worst, titles = _worst(x, true, probabilities, classes, 16)
        across = min(4, len(titles))
        _draw_pictures(right, _as_pictures(worst), titles, math.ceil(len(titles) / across), across)
        right.suptitle("highest loss")
    else:
        left = below
    _draw_confusion(left.add_subplot(), counts, names, side)
    path = os.fspath(path)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    figure.savefig(path, dpi=100)
    _close(figure)
    return path


def decision_boundary(
    model: Any,
    x: Any,
    y: Any,
    classes: Sequence[Any] | None = None,
    resolution: int = 200,
) -> Figure:
    """What ``model.predict`` says everywhere in the plane, below the points it was trained on.

    One output: the shades of its value, and a line halfway between the two labels. Several: the
    colour of the likeliest class, paler where it is less sure.

    Args:
        model: Anything with ``predict``.
        x: Two features.
        y: Labels, or one-hot rows.
        classes: Their names.
        resolution: Grid points on each side.

    Shape:
        ``x`` ``(N, 2)``; ``y`` ``(N,)`` or ``(N, K)``.

    Raises:
        ValueError: When ``x`` has not two features.

    Example:
        >>> class Above:
        ...     def predict(self, x):
        ...         return (x[:, 1:] > 0).astype("float32")
        >>> figure = decision_boundary(Above(), [[0, 1], [0, -1]], [1, 0])
        >>> figure.axes[0].get_xlabel()
        'x₁'
    """
    names = [str(name) for name in x.columns] if hasattr(x, "columns") else ["x₁", "x₂"]
    points, labels = _as_array(x).astype(np.float32), _labels("y", y)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(
            f"decision_boundary was given x of shape {points.shape}; expected (N, 2): choose two "
            "features, for example x[:, :2], and train the model on them."
        )
    if len(points) != len(labels):
        raise ValueError(f"x has {len(points)} rows and y has {len(labels)}; expected one y a row.")
    low, high = points.min(0), points.max(0)
    margin = np.maximum((high - low) * 0.1, 1e-6)
    first, second = (np.linspace(a, b, resolution) for a, b in zip(low - margin, high + margin))
    grid = np.stack(np.meshgrid(first, second), axis=-1).reshape(-1, 2).astype(np.float32)
    outputs = np.asarray(model.predict(grid)).reshape(len(grid), -1)
    count = max(outputs.shape[1], int(labels.max()) + 1, 2)
    colours, texts = _colours(count), _names(classes, count)
    figure = _figure(5.6, 5.0)
    axes = figure.add_subplot()
    place: dict[str, Any] = {
        "extent": (first[0], first[-1], second[0], second[-1]),
        "origin": "lower",
        "aspect": "auto",
    }
    if outputs.shape[1] == 1:
        said = outputs.reshape(resolution, resolution)
        middle = (float(labels.min()) + float(labels.max())) / 2
        reach = max(abs(said - middle).max(), 0.5)
        ends = (middle - reach, middle + reach)
        fade = _fade(colours[0], colours[1])
        shades = axes.imshow(said, cmap=fade, vmin=ends[0], vmax=ends[1], alpha=0.6, **place)
        if said.min() < middle < said.max():
            axes.contour(first, second, said, levels=[middle], colors="black", linewidths=1.5)
        figure.colorbar(shades, ax=axes, label="output", ticks=[ends[0], middle, ends[1]])
    else:
        said, sure = outputs.argmax(1), outputs.max(1)
        strength = np.clip((sure - 1 / count) / (1 - 1 / count), 0, 1)[:, None] * 0.5 + 0.1
        picture = 1 - strength * (1 - np.array(colours)[said])
        axes.imshow(picture.reshape(resolution, resolution, 3), **place)
    for label in np.unique(labels):
        rows = points[labels == label]
        axes.scatter(
            rows[:, 0],
            rows[:, 1],
            s=22,
            color=[colours[int(label)]],
            edgecolor="white",
            linewidth=0.6,
            label=texts[int(label)],
        )
    axes.set(xlabel=names[0], ylabel=names[1])
    # Above the axes: inside, the legend would cover points.
    axes.legend(title="true", ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return figure


def series(
    true: Any, forecasts: Any, start: int | None = None, time: Sequence[Any] | None = None
) -> Figure:
    """A series and what was forecast for it.

    Args:
        true: The measured values; NaN leaves a gap.
        forecasts: Values, or a dict name → values.
        start: The index of the first forecast; the forecasts end where ``true`` ends when ``None``.
        time: What stands on the x axis, for every index that is drawn.

    Shape:
        ``(T,)`` or ``(T, 1)`` each.

    Raises:
        ValueError: For another shape, or a ``time`` that is too short.

    Example:
        >>> figure = series([1, 2, 3, 4], {"last value": [2, 3]})
        >>> [line.get_label() for line in figure.axes[0].get_lines()][:2]
        ['true', 'last value']
    """
    values = _one_series("true", true)
    named = forecasts if isinstance(forecasts, Mapping) else {"forecast": forecasts}
    drawn = {}
    for name, forecast in named.items():
        forecast = _one_series(f"forecasts[{name!r}]", forecast)
        first = len(values) - len(forecast) if start is None else start
        if first < 0:
            raise ValueError(
                f"forecasts[{name!r}] has {len(forecast)} values and true has {len(values)}; "
                "expected no more, or start= the index of the first forecast."
            )
        drawn[name] = (first, forecast)
    last = max(len(values), *(first + len(forecast) for first, forecast in drawn.values()))
    along = np.arange(last) if time is None else _as_array(time)
    if len(along) < last:
        raise ValueError(f"time has {len(along)} entries; expected {last}, one for each index.")
    figure = _figure(9.0, 3.6)
    axes = figure.add_subplot()
    axes.plot(along[: len(values)], values, color="0.25", linewidth=1.2, label="true")
    for index, (name, (first, forecast)) in enumerate(drawn.items()):
        marker = "o" if len(forecast) == 1 else None
        axes.plot(
            along[first : first + len(forecast)],
            forecast,
            color=f"C{index}",
            linewidth=1.4,
            marker=marker,
            label=name,
        )
    begin = min(first for first, _ in drawn.values())
    if 0 < begin < len(along):
        axes.axvline(along[begin], color="0.5", linestyle=":", linewidth=1, label="_begin")
    axes.set(xlabel="time", ylabel="value")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _figure(width: float, height: float) -> Figure:
    """A figure that matplotlib's windows know of, where there are any."""
    try:
        import matplotlib
        from matplotlib import pyplot
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError(
            "a plot needs the package matplotlib, which is not installed: pip install matplotlib."
        ) from error
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)  # inches, around every panel
    figure = pyplot.figure(figsize=(width, height), dpi=100, layout=layout)
    backend = matplotlib.get_backend().lower()
    if backend == "agg" or "inline" in backend:
        _close(figure)  # else a notebook draws it twice, and a script keeps each in memory
    return figure


def _close(figure: Figure) -> None:
    from matplotlib import pyplot

    pyplot.close(figure)


def _panels(
    history: History | Mapping[str, Sequence[float]],
) -> dict[str, list[tuple[str, list[int], Sequence[float]]]]:
    """name without val_ → [(label, epochs from 1, values)]."""
    record = history.history if hasattr(history, "history") else history
    known = history if isinstance(history, History) else None
    if not record:
        raise ValueError(
            "the history has no epoch; expected what fit returned after at least one epoch."
        )
    lengths = {name: len(values) for name, values in record.items()}
    if known is None and len(set(lengths.values())) > 1:
        raise ValueError(
            f"the history has lists of different lengths, {lengths}; expected one length, or the "
            "History that fit returned, which knows the epoch of each value."
        )
    panels: dict[str, list[tuple[str, list[int], Sequence[float]]]] = {}
    for name, values in record.items():
        if np.ndim(values[0]):  # a confusion matrix an epoch is no curve
            continue
        start = known.epochs_of(name) if known else range(len(values))
        epochs = [epoch + 1 for epoch in start]
        label = "validation" if name.startswith("val_") else "train"
        panels.setdefault(name.removeprefix("val_"), []).append((label, epochs, values))
    return panels


def _draw_curves(figure: Figure | SubFigure, panels: dict, rows: int, columns: int) -> None:
    from matplotlib.ticker import MaxNLocator

    for index, (name, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for label, epochs, values in lines:
            axes.plot(
                epochs,
                values,
                label=label,
                color="C0" if label == "train" else "C1",
                marker="o" if len(epochs) < 16 else None,
                markersize=4,
            )
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend()


def _confusion_side(names: list[str]) -> float:
    """Inches that leave room for the counts and the names."""
    cell = 0.5 if len(names) <= MOST_CLASSES_WITH_COUNTS else 0.15
    return min(max(3.6, 1.4 + cell * len(names) + 0.06 * max(map(len, names))), 20.0)


def _draw_confusion(axes: Axes, counts: np.ndarray, names: list[str], side: float) -> None:
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    total = int(counts.sum())
    axes.set_title(f"accuracy {number(np.trace(counts) / total)} of {total}")
    axes.set(xlabel="said", ylabel="true")
    step = math.ceil(len(names) / 40)
    ticks = range(0, len(names), step)
    axes.set_xticks(ticks, names[::step])
    axes.set_yticks(ticks, names[::step])
    if max(map(len, names)) > 3:
        for text in axes.get_xticklabels():
            text.set(rotation=45, ha="right", rotation_mode="anchor")
    if len(names) > MOST_CLASSES_WITH_COUNTS:
        return
    cell = 72 * (side - 1.4) / len(names)  # points
    size = min(11.0, cell / (0.62 * len(str(counts.max())) + 0.6))
    for row, column in np.ndindex(counts.shape):
        count = int(counts[row, column])
        colour = "0.75" if count == 0 else "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", fontsize=size, color=colour)


def _count(
    true: np.ndarray, said: np.ndarray, classes: Sequence[Any] | None
) -> tuple[np.ndarray, list[str]]:
    if len(true) != len(said) or not len(true):
        raise ValueError(
            f"y_true has {len(true)} rows and y_pred has {len(said)}; expected as many, not 0."
        )
    highest = int(max(true.max(), said.max()))
    size = highest + 1 if classes is None else len(classes)
    if highest >= size or min(true.min(), said.min()) < 0:
        raise ValueError(
            f"the labels reach from {min(true.min(), said.min())} to {highest}; expected 0 to "
            f"{size - 1} for {size} classes."
        )
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (true, said), 1)
    return counts, _names(classes, size)


def _names(classes: Sequence[Any] | None, count: int) -> list[str]:
    return [str(name) for name in (range(count) if classes is None else classes)]


def _as_pictures(images: Any) -> np.ndarray:
    """``(N, H, W)`` or ``(N, H, W, 3)``, floats from 0 to 1."""
    array = _as_array(images)
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
    if not 0 < len(array) <= MOST_PICTURES:
        raise ValueError(
            f"pictures was given {len(array)} images; expected 1 to {MOST_PICTURES}, for example "
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


def _picture_size(
    shown: np.ndarray, titles: Sequence[str] | None, columns: int
) -> tuple[float, float]:
    """Inches of one picture with its title, at a font size of 8."""
    longest = max((len(line) for title in titles or [] for line in title.split("\n")), default=0)
    width = max(1.1, min(9.0 / columns, 3.0), 0.07 * longest + 0.15)
    height = width * min(max(shown.shape[1] / shown.shape[2], 0.25), 4.0)
    lines = max((title.count("\n") + 1 for title in titles or []), default=0)
    return width, height + 0.17 * lines + 0.05


def _draw_pictures(
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


def _worst(
    x: Any, y_true: Any, probabilities: Any, classes: Sequence[Any] | None, count: int
) -> tuple[np.ndarray, list[str]]:
    x, true, p = _as_array(x), _labels("y_true", y_true), _as_probabilities(probabilities)
    if not len(x) == len(true) == len(p):
        raise ValueError(
            f"x has {len(x)} rows, y_true {len(true)} and probabilities {len(p)}; expected as many."
        )
    if true.min() < 0 or true.max() >= p.shape[1]:
        raise ValueError(
            f"y_true reaches from {true.min()} to {true.max()}; expected 0 to {p.shape[1] - 1}, "
            "one column of probabilities a class."
        )
    names, said = _names(classes, p.shape[1]), p.argmax(1)
    rows = np.argsort(p[np.arange(len(p)), true], kind="stable")[:count]  # −log falls with p
    short = max(map(len, names)) <= 3
    between = " · " if short else "\n"
    titles = [
        f"true {names[true[i]]}{between}said {names[said[i]]} ({p[i, said[i]]:.2f})" for i in rows
    ]
    return x[rows], titles


def _as_probabilities(probabilities: Any) -> np.ndarray:
    p = _as_array(probabilities).astype(np.float64)
    if p.ndim == 1 or p.shape[-1] == 1:
        p = p.reshape(-1, 1)
        p = np.hstack([1 - p, p])
    if p.ndim != 2 or not len(p) or not (p.min() >= 0 and p.max() <= 1):
        raise ValueError(
            f"probabilities of shape {p.shape} from {p.min() if p.size else 0:.3g} to "
            f"{p.max() if p.size else 0:.3g} were given; expected (N, K) between 0 and 1, as "
            "model.predict returns after softmax or sigmoid."
        )
    return p


def _labels(name: str, labels: Any) -> np.ndarray:
    """Class numbers ``(N,)`` from labels, one-hot rows or probabilities."""
    array = _as_array(labels)
    if array.ndim == 2 and array.shape[1] > 1:
        return array.argmax(1)
    if array.ndim == 2:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} has shape {array.shape} and type {array.dtype}; expected class numbers "
            "(N,) or rows of one number a class (N, K)."
        )
    whole = array.astype(np.int64)
    if (whole == array).all():
        return whole
    if array.min() >= 0 and array.max() <= 1:
        return (array > 0.5).astype(np.int64)
    raise ValueError(f"{name} has the label {array[whole != array][0]}; expected whole numbers.")


def _one_series(name: str, values: Any) -> np.ndarray:
    array = _as_array(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; expected one series, (T,) or (T, 1).")
    return array.astype(np.float64)


def _as_array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values  # NumPy has no bfloat16
    return np.asarray(values)


def _colours(count: int) -> list[tuple[float, float, float]]:
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](index)[:3] for index in range(count)]
    return [colormaps["turbo"](index / (count - 1))[:3] for index in range(count)]


def _fade(one: Sequence[float], other: Sequence[float]) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("between", [one, (1.0, 1.0, 1.0), other])
