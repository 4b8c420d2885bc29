"""What files of Keras mean by their version, and what they do not tell.

| written by | differs in |
|---|---|
| Keras before 3 | hard_sigmoid is 0.2 x + 0.5, x / 6 + 0.5 since: a GRU's gates are scaled |
| Keras before 2.3, TensorFlow before 2 | gates are hard_sigmoid where nothing else was asked for |
| Theano | kernels are turned by 180° |
| Keras 1 | kernels (filters, channels, rows, columns) where channels came first, ``"th"`` |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from easydl import layers
from easydl.layers.base import label
from easydl.saving.keras_config import CHAINS, data_formats, in_line, parts_of
from easydl.saving.keras_files import KerasFile
from easydl.saving.keras_layouts import Leaf, Slot
from easydl.saving.keras_orders import keras_name

WEIGHTED = {
    "dense", "conv1d", "conv2d", "conv3d", "conv2d_transpose", "depthwise_conv2d",
    "separable_conv2d", "embedding", "batch_normalization", "layer_normalization",
    "group_normalization", "lstm", "gru", "simple_rnn", "bidirectional", "p_re_lu",
}  # fmt: skip
STEEPER = 6 * 0.2  # the slope of hard_sigmoid before Keras 3, in slopes of torch's


def check_sequence(leaves: list[Leaf], file: KerasFile) -> None:
    """Compare the kinds of layers in their order: Keras 3 keeps its weights by kinds alone."""
    try:
        theirs = list(_kinds(file.config))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return  # weights alone, or a graph whose order is not a chain's
    ours = [name for leaf in leaves if (name := keras_name(leaf.layer)) in WEIGHTED]
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


# -- recurrences -----------------------------------------------------------------------------------


def gated(leaves: list[Leaf]) -> list[Any]:
    """The LSTM and GRU layers."""
    found = [
        leaf.layer.layer if isinstance(leaf.layer, layers.Bidirectional) else leaf.layer
        for leaf in leaves
    ]
    return [layer for layer in found if isinstance(layer, (nn.LSTM, nn.GRU))]


def check_recurrence(leaves: list[Leaf], config: Any) -> None:
    """Refuse weights of recurrences that compute otherwise than those of the model."""
    theirs = [part for part in parts_of(config) if part["class_name"] in ("LSTM", "GRU")]
    for layer, part in zip(gated(leaves), theirs):
        kind, given = part["class_name"], part["config"]
        if not isinstance(layer, getattr(nn, kind)):
            return  # another architecture, as the shapes will show
        gate = given.get("recurrent_activation", given.get("inner_activation"))
        found = {"activation": given.get("activation"), "recurrent_activation": gate}
        if kind == "GRU":
            found["reset_after"] = given.get("reset_after", False)
        if found == {word: layer.config[word] for word in found}:
            continue
        told = ", ".join(f"{word}={value!r:.40}" for word, value in found.items())
        if kind == "GRU" and not found["reset_after"]:
            advice = f"Write dl.GRU(…, {told})."
        elif found["activation"] != "tanh" or gate != "sigmoid":
            advice = (
                "torch's kernel computes tanh and sigmoid alone; write the recurrence in a module "
                "of your own."
            )
        else:
            advice = f"Write dl.{kind}(…)."
        raise ValueError(
            f"the file's {kind} {given.get('name')!r:.60} has {told}, which {label(layer)} of the "
            f"model has not, so predictions would differ; expected the same. {advice}"
        )


def check_biases(wanted: dict[str, Slot], found: dict[str, str], file: KerasFile) -> None:
    """Tell the two recurrences of a GRU apart by their biases: (3u,) and (2, 3u)."""
    for name, slot in wanted.items():
        if slot.word == "bias" and name in found:
            theirs = file.shapes[found[name]]
            if theirs != slot.shape and theirs[-1:] == slot.shape[-1:]:
                flag = len(theirs) == 2
                raise ValueError(
                    f"{file.what}: the GRU of {name} has reset_after={flag}, that of the model "
                    f"{not flag}, so predictions would differ. Write dl.GRU(…, reset_after={flag})"
                    + ("." if flag else ", with the activations that it was trained with.")
                )


def scale_gates(
    leaves: list[Leaf], file: KerasFile, keys: dict[int, str], tensors: dict[str, Tensor]
) -> None:
    """Let torch's hard_sigmoid of scaled sums be that of Keras before 3."""
    for layer in gated(leaves):
        if layer.config["recurrent_activation"] != "hard_sigmoid":
            continue
        if file.old is None:
            raise ValueError(
                f"{file.what} does not tell whether Keras 2 or 3 wrote it, whose hard_sigmoid "
                f"differ, and {label(layer)} has such gates. Expected a file of the whole model "
                "(.keras or .h5), or weights written by Keras 3.6 or later."
            )
        if file.old:
            for weight in layer.parameters():
                tensors[keys[id(weight)]][: 2 * layer.hidden_size] *= STEEPER


# -- age -------------------------------------------------------------------------------------------


def number_of(file: KerasFile) -> tuple[int, ...]:
    """``(2, 3)`` of a file of the older form; (1,) where it does not say."""
    parts = (file.version or "1").split("-")[0].split(".")[:2]
    return tuple(int(part) for part in parts if part.isdigit())


def check_age(leaves: list[Leaf], file: KerasFile) -> None:
    """Refuse weights whose meaning older files do not tell."""
    hard = [layer.config["recurrent_activation"] == "hard_sigmoid" for layer in gated(leaves)]
    if file.config is None and number_of(file) < (2, 3) and not all(hard):
        raise ValueError(
            f"{file.what} has recurrent weights of Keras {file.version or 1}, whose gates may be "
            "hard_sigmoid, the default then, or sigmoid: it does not tell. Expected weights of "
            "Keras 2.3 or TensorFlow 2.2 or later, or a file of the whole model. A GRU with that "
            "default is dl.GRU(…, recurrent_activation='hard_sigmoid', reset_after=False)."
        )


def is_plain(leaves: list[Leaf], file: KerasFile) -> bool:
    """Whether pictures have their channels first in Keras, too, and Flatten leaves them there."""
    if file.groups is not None and number_of(file) < (2,):
        return ordering_of_keras_1(leaves, file) == "th"
    formats = data_formats(file.config)
    return formats["layers"] == {"channels_first"} and "channels_first" not in formats["Flatten"]


def ordering_of_keras_1(leaves: list[Leaf], file: KerasFile) -> str:
    """``"th"`` where the channels come first in a file of Keras 1, else ``"tf"``."""
    told = {part["config"].get("dim_ordering") for part in parts_of(file.config)} & {"th", "tf"}
    if len(told) == 1:
        return told.pop()
    own = [leaf.layer for leaf in leaves if isinstance(leaf.layer, _ConvNd)]
    places = [place for _, places in file.groups or [] for place in places]
    theirs = [shape for place in places if len(shape := file.shapes[place]) > 3]
    pairs = [
        (tuple(layer.weight.shape), shape)
        for layer, shape in zip(own, theirs)
        if not isinstance(layer, nn.Conv1d)
    ]
    th = all(shape == weight for weight, shape in pairs)
    tf = all(shape == (*weight[2:], weight[1], weight[0]) for weight, shape in pairs)
    if pairs and th and tf:
        raise ValueError(
            f"{file.what} has convolutions of Keras 1, whose shapes {pairs[0][1]} do not tell "
            "whether the channels came first (dim_ordering 'th') or last; expected a file of the "
            "whole model, or of Keras 2 or 3. Load it there and save the weights once more."
        )
    return "th" if pairs and th else "tf"


def turn_kernels_of_keras_1(
    leaves: list[Leaf], wanted: dict[str, Slot], found: dict[str, str], file: KerasFile
) -> None:
    """Show the kernels of Keras 1 as those of Keras 2: (rows, columns, channels, filters)."""
    windows = [leaf.layer for leaf in leaves if isinstance(leaf.layer, WINDOWED)]
    if not windows:
        return
    if file.backend is None:  # the names of TensorFlow's variables end in :0
        names = [place.split("/")[-1] for _, places in file.groups or [] for place in places]
        if not any(name.startswith("param_") for name in names):
            file.backend = "tensorflow" if any(":" in name for name in names) else "theano"
    if file.backend is None or not all(type(layer) in PLAIN for layer in windows):
        raise ValueError(
            f"{file.what} has convolutions of Keras 1, and does not tell whether Theano's kernels, "
            "which are turned by 180°, or TensorFlow's; expected a file of Keras 2 or 3. Load it "
            "there and save the weights once more."
        )
    th = ordering_of_keras_1(leaves, file) == "th"
    for name, slot in wanted.items():
        if slot.word != "kernel" or len(slot.shape) < 3 or name not in found:
            continue
        shape = file.shapes[found[name]]
        *window, channels, filters = slot.shape
        if len(window) == 1:  # pictures of one column, since 1.2 in another order
            if shape == (*window, 1, channels, filters):
                file.show(found[name], slot.shape, lambda values: values[:, 0])
            elif shape == (filters, channels, *window, 1):
                file.show(found[name], slot.shape, lambda values: values[..., 0].transpose())
        elif th and shape == (filters, channels, *window):
            axes = (*range(2, len(shape)), 1, 0)
            file.show(found[name], slot.shape, lambda values, axes=axes: values.transpose(axes))


WINDOWED = (_ConvNd, layers.SeparableConv2D)
PLAIN = (layers.Conv1D, layers.Conv2D, layers.Conv3D, nn.Conv1d, nn.Conv2d, nn.Conv3d)
