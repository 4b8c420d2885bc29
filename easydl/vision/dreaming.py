"""Deep dream: a picture changed until a layer sees more of what it sees in it already."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easydl import plotting
from easydl.data.pictures import raw_pictures, read_picture
from easydl.errors import check_between, check_flag, check_positive_int, listed, short_traceback
from easydl.plotting.shared import as_array
from easydl.vision.looking import Look
from easydl.vision.watching import (
    call,
    find,
    hooked,
    names_of,
    never_ran,
    ready,
    shown_of,
    untouched,
    unwrapped,
)

__all__ = ["deep_dream"]


class Reached(Exception):
    """The layer has run; what comes after it, perhaps made for another size, need not."""


@short_traceback
def deep_dream(
    model: nn.Module,
    picture: Any,
    layer: Any = None,
    steps: int = 10,
    octaves: int = 4,
    *,
    scale: float = 1.4,
    step_size: float = 0.006,
    jitter: int = 32,
    channel: int | None = None,
    limits: tuple[float, float] | None = None,
    seed: int = 0,
    verbose: bool = True,
) -> Look:
    """Gradient ascent on half the squared norm of a layer's output, from small to full size.

    At each size the picture is rolled at random by up to ``jitter`` pixels and moved by
    ``step_size · g / mean |g|``, g the gradient; what was added is enlarged and laid over the next
    size. Only the part of the network up to the layer runs, so that any picture large enough will
    do, and the result has the picture's size.

    Reference:
        A. Mordvintsev, C. Olah, M. Tyka (2015), Inceptionism: Going Deeper into Neural Networks.

    Args:
        model: any network of pictures.
        picture: one: a path, a PIL picture or a uint8 array, normalised as ``model.transforms`` say
            but not resized; or floats ``(C, H, W)``, the network's input as it is.
        layer: by name or itself; by default the convolution after two thirds of them.
        steps: at each size; 0 gives the picture back.
        octaves: sizes.
        scale: each is so many times larger than the one before.
        step_size: mean change of a step, as a share of the range from lowest to highest.
        jitter: pixels; 0 for none.
        channel: the one map, or the one unit, whose norm it is; by default all of the layer.
        limits: lowest and highest value that the result may have; by default 0 and 1 where the
            picture lies between, else what ``model.transforms`` make of black and white, else the
            picture's own lowest and highest.
        seed: of the jitter; equal seeds give equal pictures.
        verbose: show a bar on a terminal where it takes more than two seconds.

    Returns:
        values ``(C, H, W)``: floats 0 … 1 of a path, a PIL picture or uint8, else as given. The
        figure shows the picture before and after.

    Raises:
        ValueError: a picture too small for so many octaves; a layer that does not answer to it;
            a path, and transforms without ``mean`` and ``std``.

    Example:
        >>> import easydl as dl
        >>> dl.seed(0)
        >>> net = dl.Sequential([dl.Conv2D(4, 3, activation="relu", input_shape=(3, None, None))])
        >>> deep_dream(net, torch.rand(3, 20, 30), steps=2, octaves=2).values.shape
        (3, 20, 30)
    """
    from tqdm import tqdm

    model = unwrapped(model)
    steps = check_positive_int("steps", steps, minimum=0)
    octaves = check_positive_int("octaves", octaves)
    jitter = check_positive_int("jitter", jitter, minimum=0)
    scale = check_between("scale", scale, 1, 100, ends="(]")
    step_size = check_between("step_size", step_size, 0, 1, ends="(]")
    start, low, high, as_input = _start(model, picture, limits)
    generator = torch.Generator().manual_seed(check_positive_int("seed", seed, minimum=0))
    sides = [(start.shape[2] / scale**k, start.shape[3] / scale**k) for k in range(octaves)]
    sizes = [(max(round(h), 1), max(round(w), 1)) for h, w in reversed(sides)]
    bar = tqdm(
        total=steps * octaves,
        desc="dreaming",
        leave=False,
        delay=2,
        disable=None if check_flag("verbose", verbose) else True,  # None: not into files
    )
    with untouched(model, gradients=True), bar:
        if layer is None:
            layer = _deep_convolution(model, as_input(_resized(start, sizes[0])))
        name, module = find(model, layer)
        added = torch.zeros_like(start)
        for number, size in enumerate(sizes, start=1):
            base, added = _resized(start, size), _resized(added, size)
            x = base + added
            octave = f"octave {number} of {octaves}, {size[0]} × {size[1]}"
            for _ in range(steps):
                turn = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
                rolled = x.roll(turn, (2, 3)).requires_grad_()
                norm = _norm(model, as_input(rolled), name, module, channel, octave)
                gradient = torch.autograd.grad(norm, rolled)[0].roll([-t for t in turn], (2, 3))
                mean = gradient.abs().mean()
                if not 0 < mean < float("inf"):
                    raise ValueError(
                        f"the layer {name!r} does not answer to this picture ({octave}): its "
                        f"gradient is {mean:g} on average; expected another layer, or a picture "
                        "in the range that the network was trained on."
                    )
                x = (x + step_size * (high - low) * gradient / mean).detach()
                x = x.maximum(low).minimum(high)
                bar.update()
            added = x - base
    before, after = (shown_of(model, as_input(values)) for values in (start, x))
    titles = ["before", name if channel is None else f"{name}, channel {channel}"]
    figure = plotting.pictures(np.concatenate([before, after]), titles, columns=2)
    return Look(as_array(x[0]), figure)


def _start(
    model: nn.Module, picture: Any, limits: Any
) -> tuple[Tensor, Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """The picture (1, C, H, W), its lowest and highest values, and the way to the network."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    transforms: Any = getattr(model, "transforms", None)
    mean, std = (getattr(transforms, name, None) for name in ("mean", "std"))
    mean, std = (
        torch.tensor(default if values is None else values).reshape(1, -1, 1, 1)
        for values, default in ((mean, [0.0]), (std, [1.0]))
    )
    raw = raw_pictures(model, picture)
    if raw is None and str(getattr(picture, "dtype", "")).endswith("uint8"):
        raw = [picture]
    if raw is None:
        start = ready(model, picture, "picture")
    else:
        if transforms is not None and not hasattr(transforms, "mean"):
            raise ValueError(
                f"model.transforms, {transforms!r:.80}, do not say by which mean and std they "
                "normalise; expected floats (C, H, W), such as model.transforms(picture), or "
                "model.transforms = Transforms(size, mean=…, std=…)."
            )
        rgb = read_picture(raw[0])
        rgb = rgb.convert("L") if getattr(transforms, "channels", 3) == 1 else rgb
        start = torch.from_numpy(np.atleast_3d(np.asarray(rgb)) / np.float32(255))
        start = start.movedim(-1, 0)[None]
    if len(start) != 1 or (raw is not None and len(raw) != 1):
        raise ValueError(
            f"deep_dream was given {len(raw or start)} pictures; expected one: write picture[:1]."
        )
    with torch.inference_mode(False):
        start = start.clone().to(like.device, torch.float32)
    if limits is None and (raw is not None or 0 <= start.min() <= start.max() <= 1):
        limits = (0.0, 1.0)
    elif limits is None and hasattr(transforms, "mean"):
        limits = (-mean / std, (1 - mean) / std)
    elif limits is None:
        limits = (start.min(), start.max())
    low, high = (torch.as_tensor(limit, dtype=torch.float32).to(start.device) for limit in limits)
    if not ((low < high).all() and (low <= start).all() and (start <= high).all()):
        raise ValueError(
            f"limits={limits!s:.120} were given for a picture of values {start.min():g} … "
            f"{start.max():g}; expected a lowest and a higher highest value, with all of the "
            "picture between: limits=(0, 1)."
        )
    if raw is None:
        return start, low, high, lambda x: x.to(like.dtype)
    mean, std = mean.to(start.device), std.to(start.device)
    return start, low, high, lambda x: ((x - mean) / std).to(like.dtype)


def _deep_convolution(model: nn.Module, x: Tensor) -> nn.Module:
    """The convolution after two thirds of those that run."""
    convolutions = [m for m in names_of(model).values() if isinstance(m, nn.Conv2d)]
    ran: list[nn.Module] = []
    made_for_another_size = contextlib.suppress(ValueError)  # perhaps, what comes last
    note = hooked(convolutions, lambda module, *_: ran.append(module))
    with note, torch.no_grad(), made_for_another_size:
        call(model, x)
    if not ran:
        raise ValueError(
            f"this {type(model).__name__} has no convolution of pictures (nn.Conv2d) that runs on "
            f"one of shape {tuple(x.shape[1:])}; expected fewer octaves, a larger picture, or "
            f"layer=, one of {listed(names_of(model), 300)}."
        )
    return ran[2 * len(ran) // 3]


def _norm(
    model: nn.Module, x: Tensor, name: str, module: nn.Module, channel: int | None, octave: str
) -> Tensor:
    """½ ‖A‖² of the layer's output, or of one channel of it; nothing behind the layer runs."""
    found: list[Any] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        found.append(output)
        raise Reached

    try:
        with hooked([module], keep):
            call(model, x)
    except Reached:
        pass
    except ValueError as error:
        raise ValueError(f"{str(error)[:480]} (This is {octave}: fewer may do.)") from error
    if not found:
        raise never_ran(name)
    output = found[0]
    if not isinstance(output, Tensor) or output.dim() < 2:
        raise ValueError(
            f"the layer {name!r} gives a {type(output).__name__}; expected one that gives a "
            "tensor (N, C, …)."
        )
    if channel is not None:
        if not 0 <= check_positive_int("channel", channel, minimum=0) < output.shape[1]:
            raise ValueError(
                f"channel={channel} was given for the layer {name!r}; expected 0 … "
                f"{output.shape[1] - 1}."
            )
        output = output[:, channel]
    return output.float().square().sum() / 2


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(x.shape[2:]) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
