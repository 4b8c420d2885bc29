"""How training went and where a classifier errs: curves, confusion matrix, one report."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from easydl.callbacks.history import History, number
from easydl.plotting.pictures import as_pictures, draw_pictures, wrong_rows
from easydl.plotting.shared import as_probabilities, class_numbers, close, names_of, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

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
    figure = new_figure(max(5.0, 4.2 * columns), 3.2 * rows)
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
    true, said = class_numbers("y_true", y_true), class_numbers("y_pred", y_pred)
    counts, names = count_pairs(true, said, classes)
    side = _confusion_side(names)
    figure = new_figure(side + 0.6, side)
    _draw_confusion(figure.add_subplot(), counts, names, side)
    return figure


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
    probabilities = as_probabilities(probabilities)
    true, said = class_numbers("y_true", y_true), probabilities.argmax(1)
    if classes is None:
        classes = range(probabilities.shape[1])
    counts, names = count_pairs(true, said, classes)
    with_pictures = np.ndim(x) in (3, 4)
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    side = max(_confusion_side(names), 5.0)
    width = max(4.2 * columns, side + (7.0 if with_pictures else 0.6))
    figure = new_figure(width, 3.0 * rows + side)
    halves: Any = figure.subfigures(2, 1, height_ratios=[3.0 * rows, side])
    above, below = halves
    _draw_curves(above, panels, rows, columns)
    if with_pictures:
        left, right = below.subfigures(1, 2, width_ratios=[side, width - side])
        shown, titles = wrong_rows(x, true, probabilities, classes, 16)
        across = min(4, len(titles))
        draw_pictures(right, as_pictures(shown), titles, math.ceil(len(titles) / across), across)
        right.suptitle("highest loss")
    else:
        left = below
    _draw_confusion(left.add_subplot(), counts, names, side)
    path = os.fspath(path)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    figure.savefig(path, dpi=100)
    close(figure)
    return path


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


def count_pairs(
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
    return counts, names_of(classes, size)
