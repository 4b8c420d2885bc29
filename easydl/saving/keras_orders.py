"""The layers of a model in the order that files of Keras keep, and the order of their features.

A ``Flatten`` of pictures gives its features in the order C, H, W here, H, W, C in Keras; what is
found out here sorts the weights that read or write them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from easydl import layers
from easydl.layers.base import label
from easydl.saving.keras_files import KerasFile
from easydl.saving.keras_layouts import Leaf, slots_of

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


def sorted_leaves(
    model: Any,
    file: KerasFile | None,
    functional: set[int] | None = None,
    plain: bool = False,
) -> list[Leaf]:
    """The layers in order, with their weights as Keras has them and the order of their features.

    Args:
        plain: Keras has the channels of pictures first, too, so nothing is to be sorted.

    Raises:
        ValueError: a layer whose weights no file of Keras has, or features in no order of Keras's.
    """
    shapes = {} if file is None else file.shapes
    leaves = list(_leaves(model, "", shapes, functional))
    if not plain:
        try:
            _follow_orders(leaves, getattr(model, "built_shape", None))
        except OrderError as error:
            raise OrderError(f"{file.what}: {error}" if file is not None else str(error)) from None
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
        name = keras_name(layer)
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


def keras_name(layer: Any) -> str:
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
    unknown = None  # a layer before, of which nothing is known
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
            first, space, unknown = not _pools_all(layer), None, None
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
            if first and unknown is not None:
                raise OrderError(
                    f"{label(layer)} reads what {label(unknown)} makes of pictures, and whether "
                    "that flattens them, in which order, is not known here; expected Flatten() in "
                    "its place, or dl.load_keras(path)."
                )
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
            channels, unknown = None, layer
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
