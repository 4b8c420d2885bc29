"""Models of Keras's files: the architecture in a closed table of layers, nothing imported or run.

Keras has the channels last, (N, H, W, C); here they come first, so ``Permute`` layers are put where
a layer of Keras reads the axes in its own order: a Dense on pictures, an LSTM behind a Conv1D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from easydl import constraints, layers, regularizers
from easydl.activations import TABLE as ACTIVATIONS
from easydl.saving.keras_config import (
    ARGUMENTS,
    CHAINS,
    MOST_LAYERS,
    MUST_BE,
    data_formats,
    entry_of,
    in_line,
    input_shape,
    refuse,
)
from easydl.saving.keras_files import KerasFile
from easydl.saving.keras_orders import OrderError, sorted_leaves
from easydl.saving.keras_weights import tensors_for
from easydl.saving.weights import check_finite

DEEPEST = 20
SOFTMAX = ("softmax", "log_softmax")
ENTRYWISE = ("Dropout", "GaussianNoise", "ReLU", "LeakyReLU", "ELU")
READ_FIRST = ("Conv", "MaxPooling", "AveragePooling", "Global", "Separable", "Depthwise",
              "UpSampling", "ZeroPadding", "Cropping", "SpatialDropout")  # fmt: skip
PENALTIES: dict[str, Callable[..., Any]] = {
    "L1": regularizers.L1,
    "L2": regularizers.L2,
    "L1L2": regularizers.L1L2,
}
BOUNDS: dict[str, Callable[..., Any]] = {
    name: getattr(constraints, name) for name in ("NonNeg", "MaxNorm", "UnitNorm", "MinMaxNorm")
}


@dataclass
class State:
    """What is known of the tensor between two layers.

    Attributes:
        rank: of the tensor with its batch axis.
        first: whether its channels stand first here, and last in Keras.
        plain: Keras's model has the channels of pictures first, too, so nothing is turned.
        timed: whether it is a sequence of pictures, (N, T, C, H, W).
        turned: put a Permute before every Flatten, instead of sorting the weights behind it.
        old: whether Keras before 3 wrote the file.
        functional: ids of the nested models that Keras calls functional.
    """

    rank: int = 0
    first: bool = False
    plain: bool = False
    timed: bool = False
    turned: bool = False
    old: bool = False
    depth: int = 0
    functional: set[int] = field(default_factory=set)


def read_keras(path: Any) -> Any:
    """See ``easydl.load_keras``."""
    with KerasFile(path) as file:
        if file.config is None:
            raise ValueError(
                f"{file.what} holds weights without an architecture; expected a file of Keras's "
                "model.save. Build the model here and write model.load_weights(path)."
            )
        try:
            model, state = _rebuilt(file, turned=False)
            leaves = sorted_leaves(model, file, state.functional, state.plain)
            if leaves and leaves[-1].columns != 1:
                raise OrderError("the outputs are a flattened picture")
        except OrderError:
            model, state = _rebuilt(file, turned=True)
        except RecursionError:
            refuse("its architecture is nested too deeply")
        tensors = tensors_for(model, file, state.functional, state.plain)
        check_finite(model, tensors, file.what)
    own = model.state_dict()
    for key, tensor in own.items():  # buffers that Keras has not: second biases, counts of batches
        if key not in tensors:
            tensors[key] = torch.zeros(tensor.shape, dtype=tensor.dtype)
    model.load_state_dict(tensors, assign=True)
    model._has_learned = True
    return model


def _rebuilt(file: KerasFile, turned: bool) -> tuple[Any, State]:
    """The model on ``meta``, so without memory, and what was learned on the way."""
    from easydl.saving.whole import _NoDraws

    formats = data_formats(file.config)["layers"]
    if len(formats) > 1:
        refuse("some of its layers have their channels first, some last")
    state = State(turned=turned, old=bool(file.old), plain="channels_first" in formats)
    with torch.device("meta"), _NoDraws():
        try:
            model = _chain(entry_of(file.config), state)
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            refuse(f"its architecture is not one that Keras writes ({error!r:.120})")
    return model, state


def _chain(entry: tuple[str, dict[str, Any]], state: State) -> Any:
    """A Sequential of a Sequential or of a functional model without branches."""
    from easydl.sequential import Sequential

    kind, config = entry
    if kind not in CHAINS:
        refuse(f"it is a single {kind}")
    state.depth += 1
    if state.depth > DEEPEST:
        refuse(f"its models are nested more than {DEEPEST} deep")
    parts = config["layers"] if kind == "Sequential" else in_line(config)
    if len(parts) > MOST_LAYERS:
        refuse(f"it has more than {MOST_LAYERS:,} layers")
    shape = input_shape(config, parts)
    entries = [entry_of(part) for part in parts if part["class_name"] != "InputLayer"]
    model = Sequential(name=_text(config.get("name")))
    outermost = state.depth == 1
    if outermost:
        if shape is None:
            refuse("it does not tell its input's shape, since it was never built")
        state.rank = len(shape) + 1
        if not state.plain:
            state.timed, state.first = _is_timed(entries), _comes_first(entries, state.rank)
        shape = _turned_shape(shape, state)
    made = [layer for entry in entries for layer in _layer(*entry, state)]
    if outermost and state.rank > 3 and not (state.first or state.timed):
        made += _turn(state, True)
    names = [layer.name for layer in made if layer.name is not None]
    if len(set(names)) < len(names):
        refuse("two of its layers have the same name")
    for number, layer in enumerate(made):
        model.add_module(str(number), layer)
    if shape is not None and outermost:
        try:
            model.build_layers(tuple(shape))
        except ValueError as error:  # neighbours that do not fit, sizes without bounds
            refuse(str(error))
    if kind != "Sequential":
        state.functional.add(id(model))
    state.depth -= 1
    return model


def _is_timed(entries: list[Any]) -> bool:
    return bool(entries) and entries[0][0] == "TimeDistributed"


def _comes_first(entries: list[Any], rank: int) -> bool:
    """Whether samples of Keras's rank come with their channels first here."""
    if rank == 4 and _is_timed(entries):
        return False
    if rank != 3:
        return rank > 3
    for kind, config in entries:
        if kind in CHAINS:
            inner = [part["class_name"] for part in config["layers"]]
            kind = next((part for part in inner if part != "InputLayer"), kind)
        if kind.startswith(READ_FIRST):
            return True
        if kind not in (*ENTRYWISE, "Activation", "BatchNormalization"):
            return False
    return False


def _turned_shape(shape: Any, state: State) -> Any:
    """Keras's sample shape as it is here."""
    if not state.first:
        return shape
    return (shape[0], shape[-1], *shape[1:-1]) if state.timed else (shape[-1], *shape[:-1])


def _turn(state: State, first: bool) -> list[Any]:
    """The Permute that brings the channels first, or last; none where they are there."""
    if state.plain or state.rank < 3 or state.first == first:
        return []
    state.first = first
    axes = list(range(1, state.rank))
    return [layers.Permute([axes[-1], *axes[:-1]] if first else [*axes[1:], axes[0]])]


def _layer(kind: str, config: dict[str, Any], state: State) -> list[Any]:
    """The layers that do what Keras's does; ``state`` follows."""
    if kind in CHAINS:
        return [_chain((kind, config), state)]
    name = _text(config.get("name"))
    who = f"layer {name!r:.60} ({kind})"
    for word, allowed in MUST_BE.items():
        if word in config and config[word] not in allowed:
            refuse(f"{who} has {word}={config[word]!r:.60}, which easydl does not have")
    if state.timed and state.rank > 3 and kind not in (*ENTRYWISE, "TimeDistributed"):
        if kind != "Activation" or config.get("activation") in SOFTMAX:
            refuse(f"{who} reads sequences of more than vectors other than by TimeDistributed")
    if kind == "GRU":
        config = {"reset_after": False, **config}  # as in Keras before it had the word
    given = {word: config[word] for word in ARGUMENTS[kind] if word in config}
    if kind in ("LeakyReLU", "ReLU"):
        slope = config.get("negative_slope", config.get("alpha", 0)) or 0
        slope = slope[0] if isinstance(slope, list) else slope
        if kind == "LeakyReLU":
            given["negative_slope"] = slope
        elif slope:
            refuse(f"{who} has negative_slope={slope!r:.40}; LeakyReLU has one")
    before = _adapted(kind, given, config, state, who)
    cls = getattr(layers, kind)
    if "activation" in given:
        given["activation"] = _activation(given["activation"], who, state)
    for word in ("kernel", "recurrent", "bias", "depthwise", "pointwise", "beta", "gamma", "alpha",
                 "embeddings"):  # fmt: skip
        for role, table in (("regularizer", PENALTIES), ("constraint", BOUNDS)):
            if config.get(f"{word}_{role}") is not None:
                given[f"{word}_{role}"] = _small(config[f"{word}_{role}"], table, who)
    if config.get("activity_regularizer") is not None:
        given["activity_regularizer"] = _small(config["activity_regularizer"], PENALTIES, who)
    try:
        layer = cls(**{word: _plain(value) for word, value in given.items()}, name=name)
    except (ValueError, TypeError) as error:
        refuse(f"{who}: {error!s:.230}")
    if config.get("trainable") is False and list(layer.parameters()):
        layer.trainable = False
    return [*before, layer]


def _adapted(kind: str, given: Any, config: Any, state: State, who: str) -> list[Any]:
    """What must come before the layer, with its arguments and the state changed for it."""
    rank, before = state.rank, []
    if state.plain and config.get("activation") in SOFTMAX and kind.startswith(READ_FIRST):
        refuse(f"{who} has a softmax over the last axis of pictures, their width")
    if kind in ("Conv1D", "Conv2D", "Conv3D") or kind.startswith(READ_FIRST):
        before = _turn(state, True)
        if kind.startswith("Global") and not config.get("keepdims"):
            state.rank, state.first = 2, False
        if kind == "SpatialDropout1D":
            given["axis"] = -1 if state.plain else 1
    elif kind in ("BatchNormalization", "LayerNormalization", "GroupNormalization", "Softmax"):
        axis = given["axis"] = _single(given.get("axis", -1))
        channels = (1,) if state.plain and rank > 3 else (-1, rank - 1)
        if axis not in channels and not (state.plain and rank == 3 and axis == 1):
            refuse(f"{who} has axis={axis!r:.40}; easydl reads the channels alone")
        first = state.first or (state.plain and axis == 1)
        given["axis"] = 1 if first or (rank == 2 and kind == "BatchNormalization") else -1
    elif kind == "Activation" and config.get("activation") in SOFTMAX:
        if state.plain and rank > 3:
            refuse(f"{who} acts over the last axis of pictures, their width")
        before = _turn(state, rank > 3)
    elif kind == "Flatten":
        before = _turn(state, False) if state.turned else []
        if state.plain and config.get("data_format") == "channels_first" and rank > 2:
            before = [layers.Permute([*range(2, rank), 1])]  # Keras gives them in this order
        state.rank, state.first = 2, False
    elif kind == "PReLU":
        axes = given.get("shared_axes") or []
        given["shared_axes"] = [axis % (rank - 1) + 1 for axis in axes] if state.first else axes
    elif kind in ("Reshape", "Permute", "RepeatVector", "Embedding", "TimeDistributed"):
        if kind == "TimeDistributed":
            if rank > 3 and state.first and not state.timed:
                refuse(f"{who} reads volumes step by step, whose channels come first here")
            before = [] if rank > 3 else _turn(state, False)
            given["layer"] = _inner(config, state, who)
            state.timed = state.rank > 3 and not state.plain
            return before
        before = _turn(state, False)
        if kind != "Permute":
            state.rank = {"Reshape": len(config.get("target_shape", [])) + 1, "RepeatVector": 3,
                          "Embedding": rank + 1}.get(kind, rank)  # fmt: skip
    elif kind in ("LSTM", "GRU", "SimpleRNN", "Bidirectional", "Dense"):
        before = _turn(state, False)
        if kind == "Bidirectional":
            given["layer"] = _both_ways(config, state, who)
        elif kind != "Dense":
            state.rank = 3 if config.get("return_sequences") else 2
    return before


def _inner(config: Any, state: State, who: str) -> Any:
    """The layer at every step of a TimeDistributed, if its axes need no turning."""
    inside = State(state.rank - 1, plain=state.plain, old=state.old, depth=state.depth + 1)
    inside.functional = state.functional
    inside.first = state.first and state.rank > 4
    inside.timed, inside.turned = False, state.turned
    made = _layer(*entry_of(config["layer"]), inside)
    if len(made) != 1:
        refuse(f"{who} holds a layer that reads other axes than the one before gives")
    state.rank, state.first = inside.rank + 1, inside.first
    return made[0]


def _both_ways(config: Any, state: State, who: str) -> Any:
    kind, inner = entry_of(config["layer"])
    if kind not in ("LSTM", "GRU", "SimpleRNN") or inner.get("go_backwards"):
        refuse(f"{who} holds a {kind}; easydl reads an LSTM, GRU or SimpleRNN both ways")
    back = config.get("backward_layer")
    if back is not None:
        same = {word: inner.get(word) for word in ARGUMENTS[kind] if word != "go_backwards"}
        other_kind, other = entry_of(back)
        if other_kind != kind or any(other.get(word) != value for word, value in same.items()):
            refuse(f"{who} holds two layers with different settings")
    if config.get("merge_mode") is None:
        refuse(f"{who} has merge_mode=None, which gives two tensors")
    (layer,) = _layer(kind, inner, state)
    return layer


def _activation(spec: Any, who: str, state: State) -> Any:
    """A name, or a layer that was given as activation."""
    if isinstance(spec, dict) and spec.get("class_name") in ("ReLU", "LeakyReLU", "ELU", "PReLU"):
        if spec["class_name"] != "PReLU":
            return _layer(*entry_of(spec), State(2))[0]
    if spec is None or spec in ("linear", "relu"):
        return spec
    if not isinstance(spec, str) or spec not in ACTIVATIONS:
        refuse(f"{who} has the activation {spec!s:.80}, which easydl does not have")
    if spec == "hard_sigmoid" and state.old:
        refuse(f"{who} has the hard_sigmoid of Keras 2, 0.2 x + 0.5; torch's is x/6 + 0.5")
    return spec


def _small(spec: Any, table: Mapping[str, Callable[..., Any]], who: str) -> Any:
    """A regularizer or constraint."""
    kind, given = (
        spec.get(w) if isinstance(spec, dict) else None for w in ("class_name", "config")
    )
    if not isinstance(kind, str) or kind not in table or not isinstance(given, dict):
        refuse(f"{who} has {spec!s:.80}; easydl knows {', '.join(table)}")
    numbers = {
        word: value
        for word, value in given.items()
        if word != "axis" and isinstance(value, (int, float)) and math.isfinite(value)
    }
    try:
        return table[kind](**numbers)
    except (ValueError, TypeError) as error:
        refuse(f"{who}: {error!s:.200}")


def _single(axis: Any) -> Any:
    return axis[0] if isinstance(axis, list) and len(axis) == 1 else axis


def _plain(value: Any) -> Any:
    """Lists of whole numbers as tuples."""
    return tuple(_plain(item) for item in value) if isinstance(value, list) else value


def _text(name: Any) -> str | None:
    return name.replace(".", "_") if isinstance(name, str) and name else None
