"""Weights of Keras's files into models of easydl: which belongs to which layer.

Layers are matched by their order and kind, as Keras does; ``keras_layouts`` knows how each turns
its numbers. Nothing is read before all shapes are compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from easydl.saving.keras_files import KerasFile
from easydl.saving.keras_layouts import Leaf, Slot
from easydl.saving.keras_orders import sorted_leaves
from easydl.saving.keras_settings import check_settings
from easydl.saving.keras_versions import (
    check_age,
    check_biases,
    check_recurrence,
    check_sequence,
    is_plain,
    number_of,
    scale_gates,
    turn_kernels_of_keras_1,
)
from easydl.saving.weights import (
    check_finite,
    check_same_architecture,
    is_strict,
    require_built,
)
from easydl.training.trainable import sync_trainable

WORDS = {
    "kernel", "bias", "recurrent_kernel", "gamma", "beta", "moving_mean", "moving_variance",
    "embeddings", "alpha", "pointwise_kernel",
}  # fmt: skip


def load_keras_weights(model: Any, path: Any, functional: set[int] | None = None) -> None:
    """Read the weights of a Keras file into ``model``; nothing changes unless everything fits.

    Layers are matched by their order and kind, as Keras does: ``.weights.h5`` keeps the order of
    the Dense and that of the Conv2D layers, but not which came first. ``keras_layouts`` has the
    layouts. ``.keras`` files and ``.h5`` files of whole models hold the architecture, too: epsilon,
    activations, windows and pooling that differ are refused. ``.weights.h5`` and ``.h5`` files of
    weights alone do not tell them: the model must have the file's, a GRU without biases is taken
    for one of the model's form, and pictures for channels-last ones.

    Args:
        path: ``.keras``, ``.weights.h5`` or the older ``.h5``.
        functional: ids of nested models that Keras calls functional; None of them: as the file has.

    Raises:
        FileNotFoundError: no such file.
        ImportError: h5py is not installed.
        ValueError: a damaged file; weights of another architecture, listing the differences; other
            settings of the layers, or nan or inf, unless compiled with ``strict=False``; what
            torch's kernels do not compute.
    """
    require_built(model, "load_weights")
    with KerasFile(path) as file:
        tensors = tensors_for(model, file, functional)
        check_finite(model, tensors, file.what)
        if is_strict(model):
            check_settings(model, sorted_leaves(model, file, functional, plain=True), file)
    model.load_state_dict({**model.state_dict(), **tensors})


def tensors_for(
    model: Any, file: KerasFile, functional: set[int] | None = None, plain: bool | None = None
) -> dict[str, Tensor]:
    """What belongs into ``model.state_dict()``, from ``file``, after all shapes are compared."""
    sync_trainable(model)
    leaves = sorted_leaves(model, file, functional, plain=True)
    check_recurrence(leaves, file.config)
    if not (is_plain(leaves, file) if plain is None else plain):
        leaves = sorted_leaves(model, file, functional)
    if file.groups is None:
        wanted = {f"{leaf.path}/{slot.place}": slot for leaf in leaves for slot in leaf.slots}
        found = {
            place: place
            for place in file.shapes
            if place.startswith("layers/") and "seed_generator" not in place.split("/")
        }
    else:
        check_age(leaves, file)
        wanted, found = _in_groups(leaves, file)
        if number_of(file) < (2,):
            turn_kernels_of_keras_1(leaves, wanted, found, file)
    check_biases(wanted, found, file)
    given = {name: torch.empty(file.shapes[at], device="meta") for name, at in found.items()}
    own = {name: torch.empty(slot.shape, device="meta") for name, slot in wanted.items()}
    check_same_architecture(own, given, file.what)
    if file.groups is None:
        check_sequence(leaves, file)
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
    scale_gates(leaves, file, keys, tensors)
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
