"""What a network looks at: filters, feature maps, Grad-CAM, occlusion.

For any ``nn.Module`` that takes pictures: easydl's, torchvision's, your own. Nothing is left on it:
weights, statistics, modes, ``requires_grad``, gradients, hooks and random numbers are as before.
Layers are called by the names of ``named_modules()``, by those of ``summary`` in a ``Sequential``,
or given themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easydl import plotting
from easydl.errors import check_positive_int, did_you_mean, listed, short_traceback
from easydl.plotting.pictures import as_pictures, draw_tiles
from easydl.plotting.shared import as_array, new_figure
from easydl.vision.watching import (
    as_double,
    before_ending,
    check_maps,
    class_names_of,
    find,
    hooked,
    last_with_maps,
    names_of,
    never_ran,
    outputs_of,
    ready,
    shown_of,
    shows_maps,
    untouched,
    unwrapped,
    why_no_maps,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Look", "feature_maps", "filters", "grad_cam", "occlusion"]

MOST_LAYERS = 24  # in one figure
MOST_ROWS = 16  # filters of more than three channels
MOST_SHOWN = 32  # channels of them, maps of a layer, pictures beside their heat maps


class Look(NamedTuple):
    """What a look at a network gave: the numbers, and a figure of them.

    Args:
        values: a NumPy array; of ``feature_maps`` a dict of them, a layer each.
        figure: a matplotlib ``Figure``: the last line of a notebook cell shows it,
            ``figure.savefig("name.png")`` keeps it.
    """

    values: Any
    figure: Figure


@short_traceback
def filters(model: nn.Module, layer: Any = None) -> Look:
    """A convolution's weights as pictures: what each filter answers to.

    Grey is 0, white a filter's largest weight by size and black its negative. Filters of 1 or 3
    channels are one picture each, 256 at most; those of more a row each, a picture a channel, 16
    rows of 32 at most.

    Args:
        model: any network.
        layer: a convolution of pictures by name or itself; the first by default.

    Returns:
        values ``(filters, channels, height, width)``.

    Raises:
        ValueError: no such convolution.

    Example:
        >>> import easydl as dl
        >>> model = dl.Sequential([dl.Conv2D(4, 3, input_shape=(1, 8, 8)), dl.Flatten()])
        >>> filters(model).values.shape
        (4, 1, 3, 3)
    """
    model = unwrapped(model)
    names = names_of(model)
    if layer is None:
        found = [(n, m) for n, m in names.items() if isinstance(m, nn.Conv2d)]
        if not found:
            kinds = dict.fromkeys(type(module).__name__ for module in names.values())
            raise ValueError(
                f"this {type(model).__name__} has no convolution of pictures (nn.Conv2d); its "
                f"layers are {listed(kinds)}. Weights of a Dense: dl.plotting.filters(weight, "
                "shape=(H, W))."
            )
        layer = found[0][1]
    name, module = find(model, layer)
    if not isinstance(module, nn.Conv2d):
        have = [n for n, m in names.items() if isinstance(m, nn.Conv2d)]
        raise ValueError(
            f"the layer {name!r} is a {type(module).__name__}; expected a convolution of pictures: "
            f"{listed(have) or 'this network has none'}."
        )
    weight = as_array(module.weight).astype(np.float32)
    channels, height, width = weight.shape[1:]
    if channels in (1, 3):
        return Look(weight, plotting.filters(weight[:256]))
    some = weight[:MOST_ROWS, :MOST_SHOWN]
    largest = abs(some).max((1, 2, 3), keepdims=True)
    grid = 0.5 + some / np.where(largest > 0, 2 * largest, 1.0)
    figure = new_figure(9.0, 9.0 * len(grid) * height / (grid.shape[1] * width) + 0.25)
    axes = figure.add_subplot()
    draw_tiles(axes, grid, gap=1)
    axes.set_title(
        f"{name}: {_so_many(some, weight)} filters, {_so_many(some[0], weight[0])} channels"
    )
    return Look(weight, figure)


@short_traceback
def feature_maps(model: nn.Module, x: Any, layers: Any = None) -> Look:
    """What every convolution, pooling and activation makes of one picture, layer by layer.

    The figure has a row a layer, in the order in which they run, each from its lowest value (black)
    to its highest; at most 32 maps of a layer and 24 layers.

    Args:
        model: any network.
        x: one picture: a path, a PIL picture, or an array ``(C, H, W)``.
        layers: names or modules, or one; by default every convolution, pooling and activation that
            gives maps.

    Returns:
        values: name → ``(C, H, W)``; a layer that runs again adds ``"name (2)"``.

    Raises:
        ValueError: several pictures; a layer that does not run, or gives no maps.

    Example:
        >>> import easydl as dl
        >>> net = [dl.Conv2D(4, 3, activation="relu", input_shape=(1, 8, 8)), dl.MaxPooling2D(2)]
        >>> maps = feature_maps(dl.Sequential(net), torch.zeros(1, 8, 8)).values
        >>> {name: values.shape for name, values in maps.items()}
        {'conv2d': (4, 6, 6), 'max_pooling2d': (4, 3, 3)}
    """
    model = unwrapped(model)
    x = ready(model, x)
    if len(x) != 1:
        raise ValueError(f"feature_maps was given {len(x)} pictures; expected one: write x[:1].")
    if layers is None:
        asked = {n: m for n, m in names_of(model).items() if shows_maps(m)}
        inner = {child for m in asked.values() for child in m.children()}
        asked = {n: m for n, m in asked.items() if m not in inner}  # a layer's own activation
    else:
        several = isinstance(layers, (list, tuple, set))
        asked = dict(find(model, layer) for layer in (layers if several else [layers]))
    with untouched(model):
        kept = outputs_of(model, x, asked)
    values = {}
    for name, outputs in kept.items():
        for number, output in enumerate(outputs, start=1):
            if layers is not None:
                check_maps(name, output, x)
            if not why_no_maps(output, x):
                values[name if number == 1 else f"{name} ({number})"] = as_array(output[0])
    for name in asked:
        if layers is not None and name not in kept:
            raise never_ran(name)
    if not values:
        raise ValueError(
            f"no convolution, pooling or activation of this {type(model).__name__} gives maps; "
            f"expected layers= of its own, some of {listed(names_of(model), 300)}."
        )
    return Look(values, _draw_maps(values))


@short_traceback
def grad_cam(model: nn.Module, x: Any, target: Any = None, layer: Any = None) -> Look:
    """Where a network sees a class: the maps of one layer, weighted by what each adds to its score.

    α_k is the mean of ∂y/∂A_k over the positions of map A_k, y the score of the class before the
    softmax, and the heat is ReLU(Σ α_k A_k), enlarged bilinearly to the picture. A softmax or
    sigmoid counts as left out where it is a module at the very end; else y is the output as it is.

    Reference:
        R. R. Selvaraju et al. (2017), Grad-CAM: Visual Explanations from Deep Networks via
        Gradient-based Localization, equations 1 and 2.

    Args:
        model: any classifier, ``(N, K)`` out.
        x: pictures: a path, paths, PIL pictures, or arrays ``(N, C, H, W)`` or ``(C, H, W)``.
        target: a class number, a name of ``model.class_names``, or one a picture; by default the
            class that the network says. A sigmoid of one unit has the classes 0 and 1.
        layer: by name or itself; by default the last whose maps are larger than 1 × 1. Of one that
            runs several times, the last time counts.

    Returns:
        values ``(N, H, W)``, at least 0, in the scores' unit.

    Raises:
        ValueError: a target out of range; a layer without maps, or on which no score depends.

    Example:
        >>> import easydl as dl
        >>> net = [dl.Conv2D(4, 3, input_shape=(1, 8, 8)), dl.Flatten(), dl.Dense(2, "softmax")]
        >>> grad_cam(dl.Sequential(net), torch.rand(5, 1, 8, 8), target=1).values.shape
        (5, 8, 8)
    """
    model = unwrapped(model)
    x = ready(model, x)
    leaves: list[Tensor] = []

    def cut(module: nn.Module, args: Any, output: Any) -> Tensor:
        check_maps(name, output, x)
        leaves.append(output.detach().clone().requires_grad_())
        return leaves[-1].clone()  # which a ReLU in place may change

    with untouched(model, gradients=True):
        name, module = last_with_maps(model, x) if layer is None else find(model, layer)
        with hooked([module], cut):
            scores = _columns(*before_ending(model, x))
        if not leaves:
            raise never_ran(name)
        classes = _targets(model, scores, target)
        score = scores.gather(1, classes[:, None]).sum()
        gradient = None
        if score.requires_grad:
            (gradient,) = torch.autograd.grad(score, leaves[-1], allow_unused=True)
        if gradient is None:
            raise ValueError(
                f"the score does not depend on the layer {name!r} by steps that have a gradient; "
                "expected another layer: " + listed(names_of(model), 300)
            )
    heat = (gradient.mean((2, 3), keepdim=True) * leaves[-1].detach()).sum(1, keepdim=True)
    heat = F.interpolate(F.relu(heat.float()), x.shape[2:], mode="bilinear", align_corners=False)
    values = as_array(heat[:, 0])
    return Look(values, _draw_heat(model, x, values, _names(model, classes, scores), "turbo"))


@short_traceback
def occlusion(
    model: nn.Module,
    x: Any,
    target: Any = None,
    window: int | None = None,
    stride: int | None = None,
    *,
    fill: float | Sequence[float] | None = None,
    batch_size: int = 64,
) -> Look:
    """What hiding each part of a picture costs the class: a grey square is moved over it.

    Each pixel gets the mean fall of the class's output over all squares that cover it; where
    hiding helps, it is below 0. The output is taken as the network gives it: a probability after a
    softmax, else a score.

    Reference:
        M. D. Zeiler, R. Fergus (2014), Visualizing and Understanding Convolutional Networks,
        figure 7.

    Args:
        model: any classifier, ``(N, K)`` out.
        x, target: as in :func:`grad_cam`.
        window: the square's side in pixels; a fifth of the shorter side by default.
        stride: pixels from one position to the next; half the window by default. The last
            position is at the border.
        fill: what the square holds, a number or one a channel; by default the picture's mean
            of each channel.
        batch_size: pictures that the network gets at a time.

    Returns:
        values ``(N, H, W)``.

    Raises:
        ValueError: a window that does not fit, a target out of range.

    Example:
        >>> import easydl as dl
        >>> model = dl.Sequential([dl.Flatten(input_shape=(1, 8, 8)), dl.Dense(2, "softmax")])
        >>> occlusion(model, torch.rand(1, 8, 8), window=2).values.shape
        (1, 8, 8)
    """
    from tqdm import tqdm

    model = unwrapped(model)
    x = ready(model, x)
    height, width = x.shape[2:]
    window = max(min(height, width) // 5, 1) if window is None else window
    window = check_positive_int("window", window)
    if window > min(height, width):
        raise ValueError(
            f"window={window} was given for pictures of {height} × {width}; expected at most "
            f"{min(height, width)}."
        )
    stride = check_positive_int("stride", max(window // 2, 1) if stride is None else stride)
    if stride > window:
        raise ValueError(
            f"stride={stride} was given for window={window}, so that pixels between would never be "
            "hidden; expected at most the window."
        )
    batch_size = check_positive_int("batch_size", batch_size)
    down, right = (_covered(size, window, stride).to(x.device) for size in (height, width))
    down, right = down.repeat_interleave(len(right), 0), right.repeat(len(down), 1)  # (P, H or W)
    grey = _fill(x, fill)
    maps = []
    with untouched(model):
        plain = _outputs(model, x)
        classes = _targets(model, plain, target)
        parts = range(0, len(down), batch_size)
        count = len(x) * len(parts)
        covers = (as_double(down.T), as_double(right))
        bar = tqdm(total=count, desc="occlusion", leave=False, delay=2, disable=None)
        for picture, square, output, wanted in zip(x, grey, plain, classes):
            falls = []
            for start in parts:
                rows, columns = (part[start : start + batch_size] for part in (down, right))
                hidden = (rows[:, :, None] & columns[:, None, :])[:, None]
                outputs = _outputs(model, torch.where(hidden, square, picture))
                falls.append(as_double(output[wanted] - outputs[:, wanted]))
                bar.update()
            total = covers[0] @ (torch.cat(falls)[:, None] * covers[1])
            maps.append(total / (covers[0] @ covers[1]))
        bar.close()
    values = as_array(torch.stack(maps))
    return Look(values, _draw_heat(model, x, values, _names(model, classes, plain), "RdBu_r"))


# -- scores and classes -------------------------------------------------------------------------


def _columns(scores: Tensor, ending: nn.Module | None) -> Tensor:
    """A column a class, where one sigmoid unit stands for two."""
    if scores.shape[1] == 1 and isinstance(ending, nn.Sigmoid):
        return torch.cat([-scores, scores], 1)
    return scores


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    """What the network gives, (N, K); of one sigmoid unit the probabilities of 0 and 1."""
    scores, ending = before_ending(model, x)
    if ending is None:
        return scores
    return ending(_columns(scores, ending))


def _targets(model: nn.Module, scores: Tensor, target: Any) -> Tensor:
    """The class number of each row."""
    count = scores.shape[1]
    classes = class_names_of(model, count)
    if target is None:
        return scores.argmax(1)
    several = isinstance(target, (list, tuple)) or np.ndim(target) > 0
    numbers = []
    for one in target if several else [target]:
        one = one.item() if getattr(one, "ndim", None) == 0 else one
        if isinstance(one, str) and classes is not None:
            if one not in classes:
                raise ValueError(did_you_mean("class", one, classes))
            one = classes.index(one)
        if type(one) is not int or not 0 <= one < count:
            raise ValueError(
                f"target={target!r:.80} was given; expected 0 … {count - 1}, one of the network's "
                f"{count} outputs, or None for the one that it says."
            )
        numbers.append(one)
    if len(numbers) not in (1, len(scores)):
        raise ValueError(
            f"target has {len(numbers)} classes for {len(scores)} pictures; expected one, or one "
            "each."
        )
    return torch.tensor(numbers, device=scores.device).expand(len(scores))


def _names(model: nn.Module, numbers: Tensor, scores: Tensor) -> list[str]:
    classes = class_names_of(model, scores.shape[1]) or range(scores.shape[1])
    return [str(classes[number]) for number in numbers.tolist()]


# -- occlusion -----------------------------------------------------------------------------------


def _covered(size: int, window: int, stride: int) -> Tensor:
    """Which pixels the window covers at each position: (positions, size), true or false."""
    starts = torch.arange(0, size - window + 1, stride)
    if starts[-1] < size - window:
        starts = torch.cat([starts, torch.tensor([size - window])])
    pixels = torch.arange(size)
    return (pixels >= starts[:, None]) & (pixels < starts[:, None] + window)


def _fill(x: Tensor, fill: Any) -> Tensor:
    if fill is None:
        return x.mean((2, 3), keepdim=True)
    values = torch.as_tensor(fill, dtype=x.dtype, device=x.device).reshape(-1, 1, 1)
    if len(values) not in (1, x.shape[1]):
        raise ValueError(
            f"fill has {len(values)} numbers for {x.shape[1]} channels; expected one, or one each."
        )
    return values.expand(len(x), *values.shape)


# -- figures -------------------------------------------------------------------------------------


def _draw_heat(
    model: nn.Module, x: Tensor, heat: np.ndarray, titles: list[str], colours: str
) -> Figure:
    """Each picture, and beside it the heat laid over it; a scale of its own for each."""
    from matplotlib import colormaps

    heat, titles = heat[:MOST_SHOWN], titles[:MOST_SHOWN]
    grey = as_pictures(shown_of(model, x[:MOST_SHOWN]))
    rgb = grey[..., None].repeat(3, -1) if grey.ndim == 3 else grey
    largest = abs(heat).max((1, 2), keepdims=True)
    share = heat / np.where(largest > 0, largest, 1)
    signed = colours == "RdBu_r"
    colour = colormaps[colours]((share + 1) / 2 if signed else share)[..., :3]
    weight = 0.7 * abs(share)[..., None]
    both = np.stack([rgb, rgb * (1 - weight) + colour * weight], 1)
    both = both.reshape(-1, *rgb.shape[1:]).transpose(0, 3, 1, 2).clip(0, 1)
    names = [text for title in titles for text in (title, "")]
    return plotting.pictures(both, names, columns=2 * min(len(heat), 4))


def _so_many(some: Any, all_of_them: Any) -> str:
    count = len(all_of_them)
    return str(count) if len(some) == count else f"{len(some)} of {count}"


def _draw_maps(values: dict[str, np.ndarray]) -> Figure:
    """A row of maps a layer."""
    step = math.ceil(len(values) / MOST_LAYERS)
    layers = list(values.items())[::step]
    grids = []
    for name, maps in layers:
        some = maps[:MOST_SHOWN].astype(np.float64)
        low, high = some.min(), some.max()
        some = (some - low) / (high - low or 1.0)
        columns = min(len(some), 16)
        rows = math.ceil(len(some) / columns)
        whole = np.ones((rows * columns, *some.shape[1:]))
        whole[: len(some)] = some
        grid = whole.reshape(rows, columns, *some.shape[1:])
        title = f"{name}: {_so_many(some, maps)} maps of {maps.shape[1]} × {maps.shape[2]}"
        grids.append((grid, title))
    heights = []
    for grid, _ in grids:
        rows, columns, height, width = grid.shape
        heights.append(min(9.0 / max(columns, 8) * height / width, 4.0) * rows + 0.25)
    figure = new_figure(9.0, sum(heights))
    panels: Any = figure.subplots(len(grids), 1, squeeze=False, height_ratios=heights)
    for axes, (grid, title) in zip(panels[:, 0], grids):
        draw_tiles(axes, grid, gap=1)
        axes.set_title(title, fontsize=8, pad=3, loc="left")
        axes.set_anchor("W")
    return figure
