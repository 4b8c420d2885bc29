"""Points and lines: decision boundaries, codes, series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from easydl.plotting.shared import as_array, class_numbers, colours_for, names_of, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    points, labels = as_array(x).astype(np.float32), class_numbers("y", y)
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
    colours, texts = colours_for(count), names_of(classes, count)
    figure = new_figure(5.6, 5.0)
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


def codes(z: Any, labels: Any = None, classes: Sequence[Any] | None = None) -> Figure:
    """Codes as points, coloured by class: whether a model that saw no label tells classes apart.

    Of codes with more than two numbers, the two principal axes are shown; how much of their
    variance each one has stands beside it.

    Args:
        z: What ``encode`` returned; of a variational autoencoder the means.
        labels: Labels, or one-hot rows; one colour when ``None``.
        classes: Their names.

    Shape:
        ``z`` ``(N, D)`` with D ≥ 2; ``labels`` ``(N,)`` or ``(N, K)``.

    Raises:
        ValueError: For another shape, NaN, or different lengths.

    Example:
        >>> figure = codes([[0, 1, 0], [0, -1, 0], [0, 0, 0.5]], [1, 0, 0])
        >>> figure.axes[0].get_xlabel()
        'principal axis 1 (92 %)'
    """
    points = as_array(z)
    if points.ndim != 2 or points.shape[1] < 2 or not len(points):
        raise ValueError(
            f"codes was given z of shape {points.shape}; expected (N, D) with D of 2 or more."
        )
    points = points.astype(np.float64)
    if not np.isfinite(points).all():
        raise ValueError("codes was given z with NaN or inf; expected finite numbers.")
    axis_names = ["z₁", "z₂"]
    if points.shape[1] > 2:
        points = points - points.mean(0)
        variances, axes_of = np.linalg.eigh(points.T @ points)  # ascending
        shares = variances[::-1] / (variances.sum() or 1.0)
        points = points @ axes_of[:, ::-1][:, :2]
        axis_names = [f"principal axis {k + 1} ({100 * shares[k]:.0f} %)" for k in (0, 1)]
    groups = np.zeros(len(points), np.int64) if labels is None else class_numbers("labels", labels)
    if len(groups) != len(points):
        raise ValueError(
            f"z has {len(points)} rows and labels has {len(groups)}; expected one label a row."
        )
    count = max(int(groups.max()) + 1, len(classes or ()))
    if groups.min() < 0 or (classes is not None and count > len(classes)):
        raise ValueError(
            f"the labels reach from {groups.min()} to {groups.max()}; expected 0 to "
            f"{count - 1 if classes is None else len(classes) - 1}."
        )
    colours, texts = colours_for(count), names_of(classes, count)
    figure = new_figure(6.4 if labels is not None else 5.4, 5.0)
    axes = figure.add_subplot()
    size = float(np.clip(6000 / len(points), 3, 22))
    for label in np.unique(groups):
        rows = points[groups == label]
        axes.scatter(rows[:, 0], rows[:, 1], s=size, color=[colours[label]], label=texts[label])
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
    axes.grid(alpha=0.3)
    if labels is not None:  # beside the axes: inside, it would cover points
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, markerscale=2)
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
    along = np.arange(last) if time is None else as_array(time)
    if len(along) < last:
        raise ValueError(f"time has {len(along)} entries; expected {last}, one for each index.")
    figure = new_figure(9.0, 3.6)
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


def _one_series(name: str, values: Any) -> np.ndarray:
    array = as_array(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; expected one series, (T,) or (T, 1).")
    return array.astype(np.float64)


def _fade(one: Sequence[float], other: Sequence[float]) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("between", [one, (1.0, 1.0, 1.0), other])
