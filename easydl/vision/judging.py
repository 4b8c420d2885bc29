"""A network's pictures in order: which are alike to it, which it gets wrong, which it mixes up.

For any ``nn.Module``, as in :mod:`easydl.vision.looking`: nothing is left on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easydl import plotting
from easydl.data import classes as data_classes
from easydl.data.picture_sets import check_classes
from easydl.errors import check_positive_int, listed, short_traceback
from easydl.plotting.learning import count_pairs
from easydl.plotting.shared import as_array, class_numbers
from easydl.training.heads import ending_of
from easydl.vision.looking import Look
from easydl.vision.watching import (
    as_double,
    before_ending,
    call,
    class_names_of,
    find,
    hooked,
    names_of,
    never_ran,
    ready,
    rows_of,
    shown_of,
    take,
    untouched,
    unwrapped,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Ranking", "confusion", "most_wrong", "neighbours"]

MOST_PICTURES = 256  # in one figure


class Ranking(NamedTuple):
    """Samples in order, nearest or worst first, and a figure of them.

    Args:
        indices: their places in the data, integers.
        values: the distance or the loss of each, of the same shape.
        figure: a matplotlib ``Figure``.
    """

    indices: np.ndarray
    values: np.ndarray
    figure: Figure


@short_traceback
def neighbours(
    model: nn.Module, x: Any, data: Any, k: int = 5, layer: Any = None, *, batch_size: int = 128
) -> Ranking:
    """The pictures that the network finds most alike: nearest by Euclid in one layer's outputs.

    Args:
        model: any network.
        x: pictures to look for, as in :func:`grad_cam`.
        data: pictures to look among: an array ``(N, C, H, W)``, paths, a folder, PIL pictures, or a
            Dataset. A picture that is in it finds itself first.
        k: how many.
        layer: whose outputs, by name or itself; by default what the last layer with weights gets.
        batch_size: pictures that the network gets at a time.

    Returns:
        indices and distances ``(len(x), k)``, nearest first.

    Raises:
        ValueError: k above the number of pictures, a layer that does not run.

    Example:
        >>> import easydl as dl
        >>> model = dl.Sequential([dl.Flatten(input_shape=(1, 8, 8)), dl.Dense(2, "softmax")])
        >>> data = torch.rand(20, 1, 8, 8)
        >>> neighbours(model, data[7], data, k=3).indices[:, 0]
        array([7])
    """
    model = unwrapped(model)
    x, rows = ready(model, x), rows_of(model, data, "data")
    k = check_positive_int("k", k)
    if k > len(rows):
        raise ValueError(f"k={k} was given for {len(rows)} pictures in data; expected at most so.")
    with untouched(model):
        if layer is None:
            name, module = _last_with_weights(model, x[:1])
        else:
            name, module = find(model, layer)
        near = _features(model, x, name, module, layer is None, batch_size)
        far = _features(model, rows, name, module, layer is None, batch_size)
    if near.shape[1] != far.shape[1]:
        raise ValueError(
            f"x has {near.shape[1]} features of {name!r} and data {far.shape[1]}; expected "
            "pictures of one size."
        )
    exact = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(as_double(near), as_double(far), compute_mode=exact)
    distances, order = torch.sort(distances, dim=1, stable=True)
    indices, values = as_array(order[:, :k]), distances[:, :k].cpu().numpy()
    shown = max(min(len(x), 8), 1)
    wanted = min(k, MOST_PICTURES // shown - 1)
    found, _ = take(model, rows, indices[:shown, :wanted].ravel().tolist())
    found = F.interpolate(found.float(), x.shape[2:])  # for the figure, if of another size
    tiles, titles = [], []
    for row in range(shown):
        tiles += [x[row : row + 1], found[row * wanted : (row + 1) * wanted]]
        titles += [f"picture {row}", *(f"{value:.3g}" for value in values[row, :wanted])]
    figure = plotting.pictures(shown_of(model, torch.cat(tiles)), titles, columns=wanted + 1)
    return Ranking(indices, values, figure)


@short_traceback
def most_wrong(
    model: nn.Module, x: Any, y: Any = None, n: int = 16, *, batch_size: int = 128
) -> Ranking:
    """The pictures with the highest loss −log p(true class): mislabelled, odd, or truly hard.

    Args:
        model: any classifier, ``(N, K)`` out: probabilities after a softmax or sigmoid, else
            logits.
        x: an array, paths, a folder, PIL pictures, or a Dataset.
        y: class numbers, one-hot rows, or names of ``model.class_names``; ``None`` where a Dataset
            gives them.
        n: how many.
        batch_size: pictures that the network gets at a time.

    Returns:
        indices and losses in nats, the worst first.

    Raises:
        ValueError: as many labels as don't fit, or one without an output.

    Example:
        >>> import easydl as dl
        >>> model = dl.Sequential([dl.Flatten(input_shape=(1, 8, 8)), dl.Dense(2, "softmax")])
        >>> most_wrong(model, torch.rand(6, 1, 8, 8), [0, 1, 0, 1, 0, 1], n=4).indices.shape
        (4,)
    """
    model = unwrapped(model)
    n = check_positive_int("n", n)
    rows = rows_of(model, x, "x")
    likely, true = _log_probabilities(model, rows, y, batch_size)
    losses = -likely[np.arange(len(true)), true]
    indices = np.argsort(-losses, kind="stable")[:n]
    pictures, _ = take(model, rows, indices[:MOST_PICTURES].tolist())
    figure = plotting.most_wrong(
        shown_of(model, pictures),
        true[indices[:MOST_PICTURES]],
        np.exp(likely[indices[:MOST_PICTURES]]),
        class_names_of(model, likely.shape[1]),
        n,
    )
    return Ranking(indices, losses[indices], figure)


@short_traceback
def confusion(model: nn.Module, x: Any, y: Any = None, *, batch_size: int = 128) -> Look:
    """How often each class was taken for each: rows are true, columns are what the network says.

    Args:
        model, x, y, batch_size: as in :func:`most_wrong`.

    Returns:
        values: counts ``(K, K)``.

    Raises:
        ValueError: as many labels as don't fit, or one without an output.

    Example:
        >>> import easydl as dl
        >>> model = dl.Sequential([dl.Flatten(input_shape=(1, 8, 8)), dl.Dense(2, "softmax")])
        >>> int(confusion(model, torch.rand(4, 1, 8, 8), [0, 1, 0, 1]).values.sum())
        4
    """
    model = unwrapped(model)
    likely, true = _log_probabilities(model, rows_of(model, x, "x"), y, batch_size)
    classes = class_names_of(model, likely.shape[1]) or range(likely.shape[1])
    said = likely.argmax(1)
    counts, _ = count_pairs(true, said, classes)
    return Look(counts, plotting.confusion_matrix(true, said, classes))


def _log_probabilities(
    model: nn.Module, rows: Any, y: Any, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """log p (N, K ≥ 2) and the true classes (N,)."""
    batch_size, found, given = check_positive_int("batch_size", batch_size), [], []
    if y is None:
        check_classes(model, rows)
    with untouched(model):
        function = _ending(model, take(model, rows, range(min(2, len(rows))))[0])
        for start in range(0, len(rows), batch_size):
            which = range(start, min(start + batch_size, len(rows)))
            x, targets = take(model, rows, which)
            scores, ending = before_ending(model, x)
            given += targets
            found.append(_log(as_double(scores), ending or function))
    likely = as_array(torch.cat(found))
    if lost := int(np.isnan(likely).any(1).sum()):
        raise ValueError(
            f"the network gives nan for {lost} of {len(likely)} pictures; expected numbers: its "
            "weights hold nan, or grew too large."
        )
    if y is None and len(given) < len(likely):
        raise ValueError("y is missing; expected the true class of each picture.")
    true = _labels(model, torch.stack([torch.as_tensor(t) for t in given]) if y is None else y)
    if len(true) != len(likely):
        raise ValueError(f"x has {len(likely)} rows and y has {len(true)}; expected as many.")
    if true.min() < 0 or true.max() >= likely.shape[1]:
        raise ValueError(
            f"y has labels from {true.min()} to {true.max()}, but the network has "
            f"{likely.shape[1]} classes; expected 0 … {likely.shape[1] - 1}."
        )
    return likely, true


def _ending(model: nn.Module, x: Tensor) -> str | None:
    """The function that a network without such a module ends in, read from autograd's graph."""
    with torch.enable_grad():
        scores, ending = before_ending(model, x.detach().clone().requires_grad_())
        return ending_of(scores) if ending is None else None


def _log(scores: Tensor, ending: Any) -> Tensor:
    if ending == "softmax":
        return scores.log()
    if ending == "log_softmax":
        return scores
    if ending == "sigmoid":
        scores = torch.logit(scores)
    if scores.shape[1] == 1:
        return F.logsigmoid(torch.cat([-scores, scores], 1))
    if ending == "sigmoid" or isinstance(ending, nn.Sigmoid):
        return F.logsigmoid(scores)
    return F.log_softmax(scores, 1)


def _labels(model: nn.Module, y: Any) -> np.ndarray:
    """Class numbers; of names, their places in ``model.class_names``."""
    array, classes = as_array(y), getattr(model, "class_names", None)
    if array.dtype.kind in "USO" and classes is not None:
        array = data_classes.class_numbers(array.ravel(), classes)
    return class_numbers("y", array)


def _last_with_weights(model: nn.Module, x: Tensor) -> tuple[str, nn.Module]:
    names = {module: name for name, module in reversed(list(names_of(model).items()))}
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    last: list[nn.Module] = []
    with hooked([m for m in names if isinstance(m, kinds)], lambda m, *_: last.append(m)):
        call(model, x)
    if not last:
        raise ValueError(
            f"this {type(model).__name__} has no Dense layer or convolution; expected layer=, one "
            f"of {listed(names_of(model), 300)}."
        )
    return names[last[-1]], last[-1]


def _features(
    model: nn.Module, rows: Any, name: str, module: nn.Module, before: bool, batch_size: int
) -> Tensor:
    """What ``module`` gives, or with ``before`` gets, for every row: (N, numbers)."""
    found = []
    batch_size = check_positive_int("batch_size", batch_size)
    last: list[Any] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        value = args[0] if before else output
        last[:] = [value.detach().clone() if isinstance(value, Tensor) else value]

    for start in range(0, len(rows), batch_size):
        which = range(start, min(start + batch_size, len(rows)))
        with hooked([module], keep):
            x, _ = take(model, rows, which)
            call(model, x)
        if not last:
            raise never_ran(name)
        if not isinstance(last[0], Tensor) or len(last[0]) != len(x):
            raise ValueError(
                f"the layer {name!r} gives no tensor with a row a picture; expected another layer."
            )
        found.append(last.pop().flatten(1))
    return torch.cat(found)
