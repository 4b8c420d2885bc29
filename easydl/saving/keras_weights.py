"""Weights of Keras's files into models of easydl: which belongs to which layer.

Layers are matched by their order and kind, as Keras does; ``keras_layouts`` knows how each turns
its numbers. Nothing is read before all shapes are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from easydl import layers
from easydl.layers.base import label
from easydl.saving.keras_config import CHAINS, in_line
from easydl.saving.keras_files import KerasFile
from easydl.saving.keras_layouts import Leaf, Slot, slots_of
from easydl.saving.weights import check_same_architecture, require_built
from easydl.training.trainable import sync_trainable

WORDS = {
    "kernel", "bias", "recurrent_kernel", "gamma", "beta", "moving_mean", "moving_variance",
    "embeddings", "alpha", "pointwise_kernel",
}  # fmt: skip
WEIGHTED = {
    "dense", "conv1d", "conv2d", "conv3d", "conv2d_transpose", "depthwise_conv2d",
    "separable_conv2d", "embedding", "batch_normalization", "layer_normalization",
    "group_normalization", "lstm", "gru", "simple_rnn", "bidirectional", "p_re_lu",
}  # fmt: skip
ELEMENTWISE = ("torch.nn.modules.activation", "torch.nn.modules.dropout", "torch.nn.modules.linear")
PICTURE_READERS = (
    _ConvNd, layers.SeparableConv2D, nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd, nn.Upsample, nn.modules.padding._ConstantPadNd,
)  # fmt: skip
GLOBAL_POOLING = (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
#: torch's classes → the names that Keras gives its own in files
KERAS_NAMES: dict[type, str] = {
    nn.Linear: "dense", nn.Conv1d: "conv1d", nn.Conv2d: "conv2d", nn.Conv3d: "conv3d",
    nn.ConvTranspose2d: "conv2d_transpose", nn.Embedding: "embedding",
    _BatchNorm: "batch_normalization", nn.LayerNorm: "layer_normalization",
    nn.GroupNorm: "group_normalization",
}  # fmt: skip


def load_keras_weights(model: Any, path: Any, functional: set[int] | None = None) -> None:
    """Read the weights of a Keras file into ``model``; nothing changes unless everything fits.

    Layers are matched by their order and kind, as Keras does: ``.weights.h5`` keeps the order of
    the Dense and that of the Conv2D layers, but not which came first. ``keras_layouts`` has the
    layouts. Files of Keras 3 do not tell the recurrence of a GRU without biases either: it is
    taken for ``reset_after=True``, the default.

    Args:
        path: ``.keras``, ``.weights.h5`` or the older ``.h5``.
        functional: ids of nested models that Keras calls functional; None of them: as the file has.

    Raises:
        FileNotFoundError: no such file.
        ImportError: h5py is not installed.
        ValueError: a damaged file; weights of another architecture, listing the differences; what
            torch's kernels do not compute.
    """
    require_built(model, "load_weights")
    with KerasFile(path) as file:
        tensors = tensors_for(model, file, functional)
    model.load_state_dict({**model.state_dict(), **tensors})


def tensors_for(
    model: Any, file: KerasFile, functional: set[int] | None = None
) -> dict[str, Tensor]:
    """What belongs into ``model.state_dict()``, from ``file``, after all shapes are compared."""
    sync_trainable(model)
    leaves = sorted_leaves(model, file, functional)
    _check_recurrence(file.config)
    if file.groups is None:
        wanted = {f"{leaf.path}/{slot.place}": slot for leaf in leaves for slot in leaf.slots}
        found = {
            place: place
            for place in file.shapes
            if place.startswith("layers/") and "seed_generator" not in place.split("/")
        }
    else:
        _check_age(leaves, file)
        wanted, found = _in_groups(leaves, file)
    for name, slot in wanted.items():
        if slot.word == "bias" and name in found and slot.shape[0] == 2 and len(slot.shape) == 2:
            if file.shapes[found[name]] == slot.shape[1:]:
                raise ValueError(NO_RESET.format(f"{file.what}: the GRU of {name}"))
    given = {name: torch.empty(file.shapes[at], device="meta") for name, at in found.items()}
    own = {name: torch.empty(slot.shape, device="meta") for name, slot in wanted.items()}
    check_same_architecture(own, given, file.what)
    if file.groups is None:
        _check_sequence(leaves, file)
    keys = {id(tensor): key for key, tensor in reversed(model.state_dict(keep_vars=True).items())}
    tensors = {}
    for name, slot in wanted.items():
        values = file.read(found[name])
        if values.dtype != np.float32:
            raise ValueError(
                f"{file.what}: {name} is {values.dtype}; expected floating numbers, which "
                "quantized weights are not."
            )
        if file.backend == "theano" and slot.word == "kernel" and len(slot.shape) > 2:
            window = tuple(range(len(slot.shape) - 2))
            values = np.flip(values, window)  # Theano turns kernels round
        for tensor, put in slot.fills:
            turned = torch.from_numpy(np.ascontiguousarray(put(values))).reshape(tensor.shape)
            tensors[keys[id(tensor)]] = turned.to(tensor.dtype)
    return tensors


def _in_groups(leaves: list[Leaf], file: KerasFile) -> tuple[dict[str, Slot], dict[str, str]]:
    """Weights wanted and places found of the older form, by "layer 2, weight 1 (kernel)"."""
    assert file.groups is not None
    tops: dict[int, list[Leaf]] = {}
    for leaf in leaves:
        if leaf.slots:
            tops.setdefault(leaf.top, []).append(leaf)
    wanted: dict[str, Slot] = {}
    found: dict[str, str] = {}
    for number, group in enumerate(tops.values(), start=1):
        places = file.groups[number - 1][1] if number <= len(file.groups) else []
        for place, slot in enumerate(_in_their_order(group, places, file), start=1):
            wanted[f"layer {number}, weight {place} ({slot.word})"] = slot
    for number, (_, places) in enumerate(file.groups, start=1):
        for place, at in enumerate(places, start=1):
            word = _word_of(at)
            if word is None:  # Keras 1, whose words are short
                start = f"layer {number}, weight {place} ("
                name = next((name for name in wanted if name.startswith(start)), f"{start}{at})")
            else:
                name = f"layer {number}, weight {place} ({word})"
            found[name] = at
    return wanted, found


def _in_their_order(group: list[Leaf], places: list[str], file: KerasFile) -> list[Slot]:
    """The weights of a layer, or of a nested model: first all that learn, then the others.

    Keras counts frozen ones to the others: as here, or all, or none of them were frozen.
    """
    learns = [any(w.requires_grad for w in leaf.layer.parameters()) for leaf in group]
    orders = []
    for flags in (learns, [True] * len(group), [False] * len(group)):
        pairs = [
            (leaf, slot, flag and slot.learns)
            for leaf, flag in zip(group, flags)
            for slot in leaf.slots
        ]
        pairs.sort(key=lambda pair: not pair[2])
        orders.append(pairs)
        if len(pairs) != len(places):
            continue
        owners: dict[str, Leaf] = {}
        if all(
            _word_of(at) in (None, slot.word)
            and file.shapes[at] == slot.shape
            and owners.setdefault(at.rpartition("/")[0] or at, leaf) is leaf
            for at, (leaf, slot, _) in zip(places, pairs)
        ):
            break
    else:
        pairs = orders[0]
    return [slot for _, slot, _ in pairs]


def _word_of(place: str) -> str | None:
    """``"kernel"`` of ``"dense/kernel:0"``; None of Keras 1's ``dense_1_W`` and ``param_0``."""
    word = place.rpartition("/")[2].split(":")[0]
    word = word.replace("depthwise_kernel", "kernel")  # Keras 3's word for a DepthwiseConv2D
    return word if word in WORDS else None


def _check_sequence(leaves: list[Leaf], file: KerasFile) -> None:
    """Compare the kinds of layers in their order: Keras 3 keeps its weights by kinds alone."""
    try:
        theirs = list(_kinds(file.config))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return  # weights alone, or a graph whose order is not a chain's
    ours = [name for leaf in leaves if (name := _keras_name(leaf.layer)) in WEIGHTED]
    if sorted(ours) == sorted(theirs) and ours != theirs:
        place = next(n for n, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1])
        raise ValueError(
            f"{file.what} holds weights of another architecture: layer {place + 1} of those with "
            f"weights is {theirs[place]}, {ours[place]} in the model. Expected those of a model "
            "with the same layers; dl.load_keras(path) rebuilds it."
        )


def _kinds(entry: Any) -> Iterator[str]:
    """The kinds of the layers with weights in an architecture, in their order."""
    from easydl.model import snake_case

    kind, config = entry["class_name"], entry["config"]
    if kind in CHAINS:
        for part in config["layers"] if kind == "Sequential" else in_line(config):
            yield from _kinds(part)
    elif kind == "TimeDistributed":
        yield from _kinds(config["layer"])
    elif snake_case(kind) in WEIGHTED:
        yield snake_case(kind)


def _check_recurrence(config: Any) -> None:
    """Refuse what torch's fused kernels do not compute, wherever it stands in an architecture."""
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        if not isinstance(part, dict):
            continue
        waiting += part.values()
        kind, given = part.get("class_name"), part.get("config")
        if kind in ("LSTM", "GRU") and isinstance(given, dict):
            if given.get("recurrent_activation") != "sigmoid" or given.get("activation") != "tanh":
                raise ValueError(
                    f"the file's {kind} {given.get('name')!r:.60} has activation="
                    f"{given.get('activation')!r:.40}, recurrent_activation="
                    f"{given.get('recurrent_activation')!r:.40}; torch's kernel computes tanh and "
                    "sigmoid alone, so predictions would differ. Expected a model trained with "
                    "these; or write the recurrence in a module of your own."
                )
            if kind == "GRU" and given.get("reset_after") is not True:
                raise ValueError(NO_RESET.format(f"the file's GRU {given.get('name')!r:.60}"))


def _check_age(leaves: list[Leaf], file: KerasFile) -> None:
    """Refuse weights whose meaning older files do not tell."""
    version = file.version or "1"
    recurrent = any(
        isinstance(leaf.layer, (nn.LSTM, nn.GRU, layers.Bidirectional)) for leaf in leaves
    )
    number = tuple(int(part) for part in version.split("-")[0].split(".")[:2] if part.isdigit())
    if recurrent and file.config is None and number < (2, 3) and "-tf" not in version:
        raise ValueError(
            f"{file.what} has recurrent weights of Keras {version}, whose gates are hard_sigmoid "
            "where nothing else was asked for; torch's kernel computes sigmoid, so predictions "
            "would differ. Expected weights of Keras 2.3 or later."
        )
    wide = (leaf for leaf in leaves if isinstance(leaf.layer, (_ConvNd, layers.SeparableConv2D)))
    if number < (2,) and any(wide):
        raise ValueError(
            f"{file.what} has convolutions of Keras 1, and does not tell whether Theano's kernels, "
            "which are turned by 180°, or TensorFlow's; expected a file of Keras 2 or 3. Load it "
            "there and save the weights once more."
        )


NO_RESET = (
    "{} has reset_after=False, which torch's kernel does not compute; expected reset_after=True, "
    "Keras's default since 2.3. Train that one, or write the recurrence in a module of your own."
)


# -- the layers in order ------------------------------------------------------------------------


def sorted_leaves(
    model: Any, file: KerasFile | None, functional: set[int] | None = None
) -> list[Leaf]:
    """The layers in order, with their weights as Keras has them and the order of their features.

    Raises:
        ValueError: a layer whose weights no file of Keras has, or features in no order of Keras's.
    """
    shapes = {} if file is None else file.shapes
    leaves = list(_leaves(model, "", shapes, functional))
    _follow_orders(leaves, getattr(model, "built_shape", None))
    for leaf in leaves:
        leaf.slots = slots_of(leaf)
    return leaves


def _contents(module: Any) -> list[Any] | None:
    """The layers of a chain, None for a layer."""
    if getattr(module, "network", None) is not None and not isinstance(module, nn.Sequential):
        module = module.network
    if isinstance(module, nn.Sequential) or hasattr(module, "build_layers"):
        return list(module._modules.values())
    return None


def _leaves(
    module: Any,
    path: str,
    shapes: Any,
    functional: Any,
    top: int | None = None,
    timed: bool = False,
) -> Iterator[Leaf]:
    chain = _contents(module)
    if chain is None and path == "":
        raise ValueError(
            f"load_weights was given a file of Keras for a {type(module).__name__}, whose layers "
            "have no order that is known; expected a Sequential. Write the weights with "
            "torch.save(network.state_dict(), path), or give them to set_weights."
        )
    if chain is None:
        if isinstance(module, layers.TimeDistributed):
            yield from _leaves(module.layer, f"{path}/layer", shapes, functional, top, True)
        else:
            yield Leaf(module, path, top or 0, timed)
        return
    counts: dict[str, int] = {}
    start = f"{path}/layers/" if path else "layers/"
    for number, layer in enumerate(chain):
        name = _keras_name(layer)
        if name == "sequential":
            given = {
                part.removeprefix(start).split("/")[0] for part in shapes if part.startswith(start)
            }
            kinds = {part.rstrip("_0123456789") for part in given} & {"sequential", "functional"}
            if len(kinds) == 2 and functional is None:
                raise ValueError(
                    "the file has nested models of both kinds, Sequential and functional, whose "
                    "order it does not tell; expected dl.load_keras(path) with the whole model."
                )
            if kinds == {"functional"} if functional is None else id(layer) in functional:
                name = "functional"
        count = counts.get(name, 0)
        counts[name] = count + 1
        inside = f"{start}{name}_{count}" if count else f"{start}{name}"
        place = number if top is None else top
        yield from _leaves(layer, inside, shapes, functional, place, timed)


def _keras_name(layer: Any) -> str:
    from easydl.model import snake_case

    if _contents(layer) is not None:
        return "sequential"
    for kind in type(layer).__mro__:
        if kind.__name__ in layers.__all__ and kind.__module__.startswith("easydl.layers"):
            return snake_case(kind.__name__)
        if kind in KERAS_NAMES:
            return KERAS_NAMES[kind]
    return snake_case(type(layer).__name__)


def _follow_orders(leaves: list[Leaf], shape: Any) -> None:
    """Find out which features stand in the order of flattened pictures; sets rows and columns."""
    shape = () if shape is None else shape
    timed = bool(leaves) and leaves[0].timed
    first = len(shape) >= 3 + timed  # whether a tensor has its channels first
    channels = shape[timed] if first else None
    order = 1  # channels of the picture that the features are, flattened
    flat = True  # whether all of them stand in one axis
    space: list[Leaf] | None = [] if len(shape) < 2 else None  # whose features could be sorted
    for number, leaf in enumerate(leaves):
        layer, leaf.first = leaf.layer, bool(first)
        if order != 1 and not _keeps_order(layer):
            raise OrderError(
                f"{label(layer)} comes after a Flatten of pictures, whose features stand in the "
                "order C, H, W here and H, W, C in Keras, before a Dense sorts them. Put "
                "Permute((2, 3, 1)) before the Flatten, or write dl.load_keras(path)."
            )
        if isinstance(layer, PICTURE_READERS):
            source = getattr(layer, "pointwise", layer)
            width = getattr(layer, "width", None)
            channels = getattr(source, "out_channels", None) or width or channels
            first, space = not _pools_all(layer), None
        elif isinstance(layer, (nn.Flatten, layers.Reshape)) and _flattens(layer):
            if (first and channels is None) or (order != 1 and not flat):
                raise OrderError(
                    f"{label(layer)} reads features whose order in Keras is not known here; "
                    "expected pictures of easydl's layers. Write dl.load_keras(path)."
                )
            if first:
                order, space, flat = channels or 1, None, not leaf.timed
            first = False
        elif isinstance(layer, layers.Reshape):
            reader = _next_reader(leaves[number + 1 :])
            into_picture = len(layer.target_shape) >= 3 or isinstance(reader, nn.Conv1d)
            if (first and channels != 1) or order != 1:
                raise OrderError(
                    f"{label(layer)} reads pictures, whose entries stand in another order in "
                    "Keras. Put Permute((2, 3, 1)) before it, or write dl.load_keras(path)."
                )
            first = into_picture and not _is_last_axis(reader)
            channels = layer.target_shape[0] if first else None
            if first and channels != 1:
                _sort_back(leaf, leaves[:number], space)
            space = None
        elif isinstance(layer, (nn.Linear, nn.RNNBase, layers.Bidirectional)):
            if first:
                raise OrderError(
                    f"{label(layer)} reads the last axis, which is the width of pictures here and "
                    "the channels in Keras. Put Permute((2, 3, 1)) before it."
                )
            leaf.rows, order, first = order, 1, False
            dense = isinstance(layer, nn.Linear) and getattr(layer, "rank", 2) == 2
            space = [leaf] if dense and not leaf.timed else None
        elif isinstance(layer, (layers.Permute, nn.Embedding)):
            order, first, space = 1, False, None
        elif list(layer.parameters()):
            leaf.rows = order
            if space is not None:
                space.append(leaf)
        elif isinstance(layer, layers.RepeatVector):
            flat, space = False, None
        elif not _keeps_order(layer):
            channels = None
    if leaves:
        leaves[-1].columns = max(leaves[-1].columns, order)


class OrderError(ValueError):
    """Features that stand in an order in which no weight of the file can be put."""


def _keeps_order(layer: Any) -> bool:
    sorts = isinstance(layer, (nn.Linear, nn.RNNBase, layers.Bidirectional, layers.PReLU))
    norm = isinstance(layer, (_BatchNorm, nn.LayerNorm))
    shape = isinstance(layer, (layers.Reshape, nn.Flatten, layers.RepeatVector))
    plain = type(layer).__module__ in ELEMENTWISE or isinstance(
        layer, (layers.Activation, layers.GaussianNoise, nn.Identity)
    )
    weightless = not list(layer.parameters()) and _torch_kind(layer).__module__ in ELEMENTWISE
    return sorts or norm or shape or plain or weightless


def _torch_kind(layer: Any) -> type:
    return next((k for k in type(layer).__mro__ if k.__module__.startswith("torch.nn.")), nn.Module)


def _flattens(layer: Any) -> bool:
    return isinstance(layer, nn.Flatten) or len(layer.target_shape) == 1


def _pools_all(layer: Any) -> bool:
    config = getattr(layer, "config", {"keepdims": True})  # torch's own keeps them
    return isinstance(layer, GLOBAL_POOLING) and not config["keepdims"]


def _is_last_axis(reader: Any) -> bool:
    axis = getattr(getattr(reader, "takes", None), "axis", None)
    return isinstance(reader, layers.Permute) or axis == -1


def _next_reader(leaves: list[Leaf]) -> Any:
    """The next layer that says where its channels are."""
    for leaf in leaves:
        entrywise = _torch_kind(leaf.layer).__module__ in ELEMENTWISE[:2]
        if not entrywise and not isinstance(
            leaf.layer, (layers.Activation, layers.GaussianNoise, nn.Identity)
        ):
            return leaf.layer
    return None


def _sort_back(leaf: Leaf, before: list[Leaf], space: list[Leaf] | None) -> None:
    """Let the weights before a Reshape into pictures write their features in its order."""
    channels = leaf.layer.target_shape[0]
    sortable = all(not isinstance(part.layer, nn.GroupNorm) for part in space or ())
    if space is None or channels == -1 or not sortable:
        raise OrderError(
            f"{label(leaf.layer)} makes pictures of features whose order no Dense before it "
            "decides. Write Reshape((H, W, C)) and Permute((3, 1, 2)), or dl.load_keras(path)."
        )
    for part in space:
        if isinstance(part.layer, nn.Linear):
            part.columns = channels
        else:
            part.rows = channels
