"""What every picture needs: a figure, arrays, class numbers, names, colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
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
        close(figure)  # else a notebook draws it twice, and a script keeps each in memory
    return figure


def close(figure: Figure) -> None:
    from matplotlib import pyplot

    pyplot.close(figure)


def as_array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values  # NumPy has no bfloat16
    return np.asarray(values)


def class_numbers(name: str, labels: Any) -> np.ndarray:
    """Class numbers ``(N,)`` from labels, one-hot rows or probabilities."""
    array = as_array(labels)
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


def as_probabilities(probabilities: Any) -> np.ndarray:
    p = as_array(probabilities).astype(np.float64)
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


def names_of(classes: Sequence[Any] | None, count: int) -> list[str]:
    return [str(name) for name in (range(count) if classes is None else classes)]


def colours_for(count: int) -> list[tuple[float, float, float]]:
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](index)[:3] for index in range(count)]
    return [colormaps["turbo"](index / (count - 1))[:3] for index in range(count)]
