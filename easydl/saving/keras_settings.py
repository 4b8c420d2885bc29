"""What changes the numbers beside the weights: the layers' settings in a file and in the model.

Weights that fit a layer of another epsilon, activation or padding would load and predict wrongly.
Both chains are read as steps: layers with weights, and what stands between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from easydl import layers
from easydl.activations import TABLE
from easydl.layers.base import label
from easydl.layers.windows import fixed_pads, per_axis, same_pads
from easydl.saving.keras_config import CHAINS, in_line
from easydl.saving.keras_files import KerasFile
from easydl.saving.keras_layouts import Leaf
from easydl.saving.keras_orders import keras_name
from easydl.saving.keras_versions import WEIGHTED

#: layers of Keras that change no number in ``predict``, at most its place
PASSING = (
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise",
    "GaussianDropout", "AlphaDropout", "ActivityRegularization", "Flatten", "Reshape", "Permute",
    "RepeatVector", "InputLayer",
)  # fmt: skip
STILL = (
    nn.modules.dropout._DropoutNd, nn.Identity, nn.Flatten, nn.Unflatten, layers.Reshape,
    layers.Permute, layers.RepeatVector, layers.GaussianNoise,
)  # fmt: skip
NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
MAX = (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
AVERAGE = (nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd)
RECURRENCES = ("lstm", "gru", "simple_rnn", "bidirectional")
RECURRENT = ("return_sequences", "go_backwards", "merge_mode")
PROBE = torch.linspace(-4, 8, 25)[None]  # activations are compared by what they give for it


@dataclass
class Step:
    """One thing that a model does.

    Attributes:
        kind: Keras's word for it, ``"conv2d"``; None where it is not known.
        who: how messages call it.
        settings: what changes its numbers, by Keras's words.
        functions: those of an activation.
        window: padding, kernel, strides and dilation of what slides.
        frame: pads around its input, in ``F.pad``'s order.
        sizes: of what the window slides over, where the file tells.
        torchs: torch's own layer's class, whose arguments have other words.
    """

    kind: str | None
    who: str
    settings: dict[str, Any] = field(default_factory=dict)
    functions: tuple[Callable[[Tensor], Tensor], ...] = ()
    window: tuple[Any, ...] | None = None
    frame: tuple[int, ...] = ()
    sizes: tuple[Any, ...] | None = None
    torchs: str = ""


def check_settings(model: Any, leaves: list[Leaf], file: KerasFile) -> None:
    """Compare the layers' settings with those in the file's architecture, where it has one.

    Raises:
        ValueError: one that differs, with both values and what to write.
    """
    if file.config is None:
        return
    try:
        theirs = _parted(_theirs(file.config, bool(file.old)))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return  # a graph, or what Keras does not write
    windows = [step.window for part in theirs for step in part if step.window and not step.sizes]
    sizes = _sizes_here(model, leaves) if any(window[0] == "same" for window in windows) else {}
    ours = _parted(step for leaf in leaves for step in _ours(leaf.layer, sizes))
    if [part[0].kind for part in ours[1:]] != [part[0].kind for part in theirs[1:]]:
        return  # which the shapes and their order tell
    for number, (mine, its) in enumerate(zip(ours, theirs)):
        if number:
            _compare(mine.pop(0), its.pop(0), file.what)
        if all(step.kind is not None for step in mine + its):
            for pair in zip_longest(mine, its):
                _compare(*pair, file.what)


def _parted(steps: Iterable[Step]) -> list[list[Step]]:
    """The steps before the first layer with weights, then each such layer with those behind it.

    Frames of zeros are put into the window behind them, and activations in a row are one.
    """
    parts: list[list[Step]] = [[]]
    frame: Step | None = None
    for step in steps:
        last = parts[-1][-1] if parts[-1] else None
        if frame is not None and step.kind != "frame":
            if step.window is not None:
                step.frame = frame.frame
            else:
                parts[-1].append(frame)
            frame = None
        if step.kind == "frame":
            old = (0,) * len(step.frame) if frame is None else frame.frame
            step.frame = tuple(a + b for a, b in zip(old, step.frame))
            frame = step
        elif step.kind in WEIGHTED:
            parts.append([step])
        elif last is not None and step.kind == last.kind == "activation":
            last.functions += step.functions
            last.who += f", {step.who}"
        else:
            parts[-1].append(step)
    if frame is not None:
        parts[-1].append(frame)
    return parts


# -- the model's steps -----------------------------------------------------------------------------


def _sizes_here(model: Any, leaves: list[Leaf]) -> dict[int, tuple[int, ...]]:
    """What the layers' windows slide over in the model, where its input's shape is known."""
    shape = getattr(model, "built_shape", None)
    found: dict[int, tuple[int, ...]] = {}
    if shape is None or None in shape:
        return found

    def note(layer: Any, given: Any) -> None:
        found[id(layer)] = tuple(given[0].shape[2:])

    hooks = [leaf.layer.register_forward_pre_hook(note) for leaf in leaves]
    try:
        model.try_out(torch.zeros(2, *shape, device=model.device))
    except (ValueError, RuntimeError, TypeError, IndexError):
        pass  # it takes indices, or is on meta
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _ours(layer: Any, sizes: dict[int, tuple[int, ...]]) -> Iterator[Step]:
    kind, who = keras_name(layer), label(layer)
    own = type(layer).__module__.startswith("easydl.")
    config = getattr(layer, "config", {}) if own else {}
    step = Step(kind, who, torchs="" if own else type(layer).__name__)
    step.sizes = sizes.get(id(layer))
    if isinstance(layer, NORMS):
        step.settings["epsilon"] = layer.eps
        if isinstance(layer, nn.GroupNorm):
            step.settings["groups"] = layer.num_groups
    elif isinstance(layer, layers.SeparableConv2D):
        words = ("padding", "kernel_size", "strides", "dilation_rate")
        padding, *window = (config[word] for word in words)
        step.window = (padding, *(per_axis("", part, 2) for part in window))
    elif isinstance(layer, _ConvTransposeNd):
        step.settings["strides"] = layer.stride
        if own:
            step.settings["padding"] = config["padding"]
    elif isinstance(layer, _ConvNd):
        padding = config["padding"] if own else layer.padding
        step.window = (padding, layer.kernel_size, layer.stride, layer.dilation)
        step.settings["groups"] = layer.groups
        if layer.padding_mode != "zeros":
            step.settings["padding_mode"] = layer.padding_mode
    elif isinstance(layer, (*MAX, *AVERAGE)):
        _ours_pooling(step, layer, config)
    elif isinstance(layer, nn.Upsample):
        step.kind = "up_sampling2d"
        step.settings = {"size": layer.scale_factor, "interpolation": layer.mode}
    elif isinstance(layer, nn.modules.padding._ConstantPadNd):
        step.kind = "frame" if getattr(layer, "value", 0) == 0 else None
        step.frame = tuple(layer.padding)
    elif kind in WEIGHTED:
        inner = getattr(layer, "layer", layer)
        given = config | {w: getattr(inner, "config", {}).get(w) for w in RECURRENT[:2]}
        step.settings = {word: given[word] for word in RECURRENT if given.get(word) is not None}
        if kind == "simple_rnn":
            step.settings["activation"] = config["activation"]
    elif isinstance(layer, STILL):
        return
    elif type(layer) is layers.Activation or _is_activation(layer):
        function: Any = layer.activation if type(layer) is layers.Activation else layer
        if function is not None:
            yield Step("activation", f"{function!r:.60}", functions=(function,))
        return
    else:
        step.kind = None
    yield step
    activation = getattr(layer, "activation", None)
    if isinstance(activation, nn.Module):
        told = config.get("activation")
        told = repr(told) if isinstance(told, str) else type(activation).__name__
        yield Step("activation", f"activation={told} of {who}", functions=(activation,))


def _is_activation(layer: Any) -> bool:
    homes = {kind.__module__ for kind in type(layer).__mro__}
    return "torch.nn.modules.activation" in homes and not list(layer.parameters())


def _ours_pooling(step: Step, layer: Any, config: dict[str, Any]) -> None:
    word = "max" if isinstance(layer, MAX) else "average"
    rank = next(n for n in "123" if any(k.__name__.endswith(f"{n}d") for k in type(layer).__mro__))
    if hasattr(layer, "output_size"):
        sizes = layer.output_size
        whole = all(n == 1 for n in (sizes if isinstance(sizes, tuple) else (sizes,)))
        step.kind = f"global_{word}_pooling{rank}d" if whole else None
        return
    step.kind = f"{word}_pooling{rank}d" if not layer.ceil_mode else None
    kernel, stride = per_axis("", layer.kernel_size, int(rank)), layer.stride
    padding = config.get("padding", layer.padding)
    if not isinstance(padding, str):
        padding = per_axis("", padding, int(rank), minimum=0)
        if word == "average" and any(padding) and layer.count_include_pad:
            step.settings["count_include_pad"] = True
    dilation = per_axis("", getattr(layer, "dilation", 1), int(rank))
    step.window = (padding, kernel, per_axis("", stride, int(rank)), dilation)


# -- the file's steps ------------------------------------------------------------------------------


def _theirs(entry: Any, old: bool) -> Iterator[Step]:
    from easydl.model import snake_case

    kind, config = entry["class_name"], entry["config"]
    if kind in CHAINS:
        if isinstance(config, list):
            config = {"layers": config}
        for part in config["layers"] if kind == "Sequential" else in_line(config):
            yield from _theirs(part, old)
        return
    if kind == "TimeDistributed":
        yield from _theirs(config["layer"], old)
        return
    if kind in PASSING:
        return
    name = str(config.get("name"))
    step = Step(snake_case(kind), f"layer {name!r:.60} ({kind})")
    step.sizes = _sizes(entry, config)
    if "epsilon" in config:
        step.settings["epsilon"] = float(config["epsilon"])
        if kind == "GroupNormalization":
            step.settings["groups"] = int(config["groups"])
    if kind.endswith("Conv2DTranspose"):
        step.settings["strides"] = per_axis("", config["strides"], 2)
        step.settings["padding"] = str(config["padding"])
    elif "Conv" in kind or kind.startswith(("MaxPooling", "AveragePooling")):
        kernel = config.get("kernel_size", config.get("pool_size"))
        window = (kernel, config["strides"] or kernel, config.get("dilation_rate", 1))
        step.window = (str(config["padding"]), *(per_axis("", p, int(kind[-2])) for p in window))
        if "groups" in config:
            step.settings["groups"] = int(config["groups"])
    elif kind == "UpSampling2D":
        step.settings["size"] = per_axis("", config["size"], 2)
        step.settings["interpolation"] = str(config["interpolation"])
    elif kind in ("ZeroPadding2D", "Cropping2D"):
        sign = 1 if kind == "ZeroPadding2D" else -1
        sides = config.get("padding", config.get("cropping"))
        both = (sides, sides) if isinstance(sides, int) else sides
        sides = [(n, n) if isinstance(n, int) else n for n in both]
        step.kind, step.frame = "frame", tuple(sign * n for side in reversed(sides) for n in side)
    elif kind in ("Activation", "ReLU", "LeakyReLU", "ELU", "Softmax"):
        function = _function(entry if kind != "Activation" else config["activation"], old)
        if function is not None:
            told = f"activation={config['activation']!r:.60}" if kind == "Activation" else kind
            for word in ("negative_slope", "alpha", "max_value"):
                told += f"({word}={config[word]!r:.20})" if config.get(word) else ""
            known = "activation" if function is not nn.Identity else None
            yield Step(known, told, functions=(function,))
        return
    elif step.kind not in WEIGHTED and not kind.startswith("Global"):
        step.kind = None
    elif step.kind in WEIGHTED:
        given = config | config.get("layer", {}).get("config", {})
        step.settings |= {word: given[word] for word in RECURRENT if word in given}
        if step.kind == "simple_rnn":
            step.settings["activation"] = config["activation"]
    yield step
    spec = config.get("activation")
    if step.kind in WEIGHTED and step.kind not in RECURRENCES:
        function = _function(spec, old)
        if function is not None:
            told = spec if isinstance(spec, str) else spec["class_name"]
            known = "activation" if function is not nn.Identity else None
            yield Step(known, f"activation={told!r:.60} of {step.who}", functions=(function,))


def _sizes(entry: Any, config: Any) -> tuple[Any, ...] | None:
    shape = (entry.get("build_config") or {}).get("input_shape")
    if not isinstance(shape, list) or not all(type(n) is int or n is None for n in shape):
        return None
    return tuple(shape[2:] if config.get("data_format") == "channels_first" else shape[1:-1])


def _function(spec: Any, old: bool) -> Any:
    """An activation of Keras, None for none, ``nn.Identity`` for one that is not known."""
    if spec is None or spec == "linear":
        return None
    if spec == "hard_sigmoid" and old:
        return lambda x: (0.2 * x + 0.5).clamp(0, 1)
    if isinstance(spec, str):
        made = TABLE.get(spec)
        return nn.Identity if made is None else made()
    config = spec["config"]
    slope = config.get("negative_slope", config.get("alpha", 0)) or 0
    slope = slope[0] if isinstance(slope, list) else slope
    if spec["class_name"] == "ReLU" and not config.get("threshold"):
        most = config.get("max_value")
        return lambda x: torch.where(x < 0, slope * x, x if most is None else x.clamp_max(most))
    if spec["class_name"] == "LeakyReLU":
        return nn.LeakyReLU(slope)
    if spec["class_name"] == "ELU":
        return nn.ELU(config.get("alpha", 1.0))
    return nn.Softmax() if spec["class_name"] == "Softmax" else nn.Identity


# -- comparing -------------------------------------------------------------------------------------


def _compare(mine: Step | None, its: Step | None, what: str) -> None:
    """Refuse two steps that give other numbers."""
    if mine is None or its is None or mine.kind != its.kind:
        found = "nothing" if its is None else its.who
        here = "nothing" if mine is None else mine.who
        _refuse(what, f"the file has {found} where the model has {here}", "Write the same layers")
    if its.kind == "activation":
        if not _same_functions(mine.functions, its.functions):
            _refuse(what, f"the file has {its.who}, the model {mine.who}", "Write the same")
        return
    for word, value in its.settings.items():
        own = mine.settings.get(word)
        if own is not None and not _equal(own, value):
            _differ(mine, its, word, own, value, what)
    for word in ("padding_mode", "count_include_pad"):
        if word in mine.settings:
            _differ(mine, its, word, mine.settings[word], "none", what)
    if mine.window is not None and its.window is not None:
        size = "pool_size" if "pool" in str(its.kind) else "kernel_size"
        for place, word in ((1, size), (2, "strides"), (3, "dilation_rate")):
            if not _equal(mine.window[place], its.window[place]):
                _differ(mine, its, word, mine.window[place], its.window[place], what)
        _compare_pads(mine, its, what)
    elif mine.frame != its.frame:
        _differ(mine, its, "padding", mine.frame, its.frame, what)


def _compare_pads(mine: Step, its: Step, what: str) -> None:
    assert mine.window is not None and its.window is not None
    rank = len(its.window[1])
    step = its if its.sizes else mine
    bare = step.sizes and [n and n - sum(step.frame[2 * k : 2 * k + 2])
                           for n, k in zip(step.sizes, reversed(range(rank)))]  # fmt: skip
    own, other = _pads(mine, rank, bare), _pads(its, rank, bare)
    if own is not None and other is not None and own != other:
        told = mine.window[0] if mine.frame == its.frame == () else own
        given = its.window[0] if mine.frame == its.frame == () else other
        _differ(mine, its, "padding", told, given, what)


def _pads(step: Step, rank: int, bare: Any) -> list[int] | None:
    """Pads at both ends of each axis in ``F.pad``'s order; None where sizes decide."""
    assert step.window is not None
    padding, kernel, stride, dilation = step.window
    frame = step.frame or (0,) * 2 * rank
    if not isinstance(padding, str):
        pads: Any = [n for n in reversed(padding) for _ in range(2)]
    else:
        pads = fixed_pads(padding, kernel, stride, dilation)
    if pads is None:
        if not bare or None in bare:
            return None
        sizes = [n + sum(frame[2 * k : 2 * k + 2]) for n, k in zip(bare, reversed(range(rank)))]
        slid: Any = SimpleNamespace(shape=(1, 1, *sizes))
        pads = same_pads(slid, kernel, stride, dilation)
    return [a + b for a, b in zip(pads, frame)]


def _equal(own: Any, other: Any) -> bool:
    """Whether two settings are the same: ``2.0`` and ``(2, 2)``, 1e-3 in float32."""
    if isinstance(own, (int, float)) and isinstance(other, tuple):
        own = (own,) * len(other)
    if isinstance(own, float) and isinstance(other, float):
        return math.isclose(own, other, rel_tol=1e-6)
    return own == other


def _same_functions(one: Any, other: Any) -> bool:
    found = []
    for functions in (one, other):
        x = PROBE
        for function in functions:
            if isinstance(function, (nn.Softmax, nn.LogSoftmax)):
                function = type(function)(-1)
            try:
                x = function(x)
            except (TypeError, ValueError, RuntimeError, IndexError):
                return True  # what cannot be tried
        found.append(x)
    return found[0].shape == found[1].shape and torch.allclose(found[0], found[1], 1e-5, 1e-6)


TORCHS = {"epsilon": "eps", "strides": "stride", "dilation_rate": "dilation",
          "pool_size": "kernel_size"}  # fmt: skip


def _differ(mine: Step, its: Step, word: str, own: Any, value: Any, what: str) -> NoReturn:
    name = TORCHS.get(word, word) if mine.torchs else word
    kind = f"nn.{mine.torchs}" if mine.torchs else its.who.rpartition("(")[2].rstrip(")")
    advice = f"Write {kind}(…, {name}={value!r})"
    if mine.torchs and isinstance(value, str):
        advice = "Write easydl's layer with this padding"
    _refuse(
        what,
        f"{its.who} of the file has {word}={value!r:.60}, and {mine.who} of the model "
        f"{name}={own!r:.60}",
        advice,
    )


def _refuse(what: str, differs: str, advice: str) -> NoReturn:
    raise ValueError(
        f"{what[-150:]}: {differs[:280]}, so predictions would differ; expected the same settings. "
        f"{advice:.90}, or dl.load_keras(path); compile(strict=False) lets it pass."
    )
