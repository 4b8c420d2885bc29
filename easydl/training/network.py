"""What a network takes: seen from its layers, or by trying it out."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from easydl.data.convert import Tree, leaves, map_tree, rows_of, to_tensor, versions
from easydl.errors import is_dead_worker, listed
from easydl.layers.base import is_chain, parts_of
from easydl.training.trainable import modes_of, restore_modes

if TYPE_CHECKING:
    from easydl.model import Model


@contextlib.contextmanager
def without_trace(model: Model) -> Iterator[None]:
    """Evaluation mode with gradients; modes and random numbers are as before afterwards."""
    modes = modes_of(model)
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        model.eval()
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            yield
    finally:
        restore_modes(modes)


def try_out(model: Model, x: Tree) -> Any:
    """See ``Model.try_out``."""
    trail: list[str] = []
    names = {module: name for name, module in model.named_modules()}
    x = map_tree(torch.clone, x)
    rows = rows_of(x)

    def watch(module: nn.Module, args: tuple) -> None:
        shapes = [tuple(a.shape) for a in args if isinstance(a, Tensor)]
        kind = f"{names[module] or 'network'} ({type(module).__name__})"
        trail.append(f"{kind}, given {', '.join(map(str, shapes))}")
        widest = max((math.prod(shape) // rows for shape in shapes), default=0)
        if isinstance(module, nn.RNNBase) and shapes:  # its states at all steps
            width = module.hidden_size * (2 if module.bidirectional else 1)
            widest = max(widest, math.prod(shapes[0][:-1]) // rows * width)
        model.widest_row = max(model.widest_row, widest)

    watched = [
        module.register_forward_pre_hook(watch) for module in model.modules() if module is not model
    ]
    try:
        with without_trace(model):
            outputs = model._plain_call(x)
    except (RuntimeError, IndexError, TypeError) as error:
        if isinstance(error, NotImplementedError) or is_dead_worker(error):
            raise
        where = f" It failed in layer {trail[-1]}." if trail else ""
        raise ValueError(
            f"the network was given rows of shape {kinds_of(x)}; expected what it is made for."
            f"{where} torch says: "
            f"{str(error).splitlines()[0][:260] if str(error) else type(error).__name__}"
        ) from error
    finally:
        for hook in watched:
            hook.remove()
    changing = getattr(first_leaf(model), "inplace", False)  # a Dropout does so in training alone
    if changing or any(versions(x)):
        raise ValueError(
            "the network changes its inputs in place, and so would your data; expected it to leave "
            "them alone: begin its forward by x = x.clone(), or write inplace=False."
        )
    return outputs


def kinds_of(x: Tree) -> str:
    """``(2, 3) torch.float32`` and so on, for messages."""
    return ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in leaves(x))


def forward_of(model: Any) -> Any:
    """The ``forward`` that says what the inputs are: that of a subclass, or of the network."""
    own = type(model).forward
    if own.__module__ != "easydl.model":
        kinds = {p.kind for p in inspect.signature(own).parameters.values()}
        passes_on = kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
        if not passes_on or model.network is None:
            return model.forward
    if model.network is None:
        return model.forward
    return forward_of(model.network) if hasattr(model.network, "try_out") else model.network.forward


def arguments_of(model: Model) -> list[inspect.Parameter]:
    """Those of ``forward`` but easydl's own; none where it does not tell, as traced modules."""
    try:
        takes = inspect.signature(forward_of(model)).parameters.values()
    except ValueError:
        return []
    return [p for p in takes if p.name != "logits" or p.default is not False]


def check_arguments(model: Model, x: Any, error: TypeError | KeyError) -> None:
    """Say which inputs ``forward`` takes, where it was refused those of ``x``, or misses a key."""
    keys = f" under the keys {listed(x)}" if isinstance(x, dict) else ""
    if isinstance(error, KeyError):
        if not keys or len(error.args) != 1 or error.args[0] in x:
            return
        expected = f"the key {error}, which its forward reads."
    else:
        name = getattr(forward_of(model), "__qualname__", "")
        if not name or not str(error).startswith(f"{name}() "):
            return
        takes = listed(p.replace(annotation=p.empty) for p in arguments_of(model))
        expected = (
            f"what its forward takes, {takes}: write a tuple in this order, or a dict with these "
            f"keys. Python says: {error}"
        )
    raise ValueError(
        f"the network was given rows of shape {kinds_of(x)}{keys}; expected {expected}"
    ) from error


def takes_keywords(model: Model, x: dict) -> bool:
    """Whether a dict's entries are arguments of ``forward``; else it is one itself."""
    takes = arguments_of(model)
    kinds = {p.kind for p in takes}
    some, any_name = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    names = {p.name for p in takes if p.kind not in (some, any_name)}
    needed = {p.name for p in takes if p.name in names and p.default is p.empty}
    # (*args, **options) passes on what it gets; (x, **options) may take the dict as x.
    takes_more = any_name in kinds and some not in kinds and len(needed) != 1
    return needed <= x.keys() and (x.keys() <= names or takes_more)


def inputs_or_rows(model: Model, x: list | tuple, y: Any) -> tuple[Any, Any]:
    """Several arrays as a tuple of inputs, or as one array of rows, by what ``forward`` takes.

    It needs so many, or could take them and has seen such rows of the first, or they could not be
    rows of one array: inputs, Keras's way to write them. It takes fewer, or has seen such arrays
    as rows: rows. What is left is read as it stands.
    """
    takes = arguments_of(model)
    places = [p for p in takes if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in places)
    fits = len(x) <= len(places)
    shapes = [tuple(np.shape(part)) for part in x]
    alike, known = len(set(shapes)) == 1, model.given_input_shape
    several = 1 < needed <= len(x) and fits
    if isinstance(x, list) and len(x) > 1 and fits:
        several = several or shapes[0][1:] == known
        several = several or (not alike and len({shape[:1] for shape in shapes}) == 1)
    if several:
        return tuple(x), tuple(y) if isinstance(y, list) else y
    closed = takes and not any(p.kind is p.VAR_POSITIONAL for p in takes)
    as_many = y is None or (hasattr(y, "__len__") and len(y) == len(x))
    if isinstance(x, list) and alike and as_many and (shapes[0] == known or (closed and not fits)):
        return to_tensor(x, "x"), y
    return x, y


def input_dtype(model: nn.Module) -> torch.dtype:
    """The network's floating dtype: float32 unless the user made it another."""
    return dtype_of(parts_of(model))


def dtype_of(parts: list[nn.Module]) -> torch.dtype:
    for part in parts:
        for parameter in part._parameters.values():
            if parameter is not None and parameter.is_floating_point():
                return parameter.dtype
    return torch.float32


def keeps_integers(model: nn.Module, first: nn.Module | None) -> bool:
    """Whether whole numbers go in as they are: a network whose first layer is an Embedding."""
    parts = parts_of(model) if first is None else [first]
    return any(isinstance(part, (nn.Embedding, nn.EmbeddingBag)) for part in parts)


def first_leaf(module: Any) -> nn.Module | None:
    """The layer that sees the inputs, where the structure tells."""
    while is_chain(module) and len(module):
        module = module[0]
    network = getattr(module, "network", None)
    if isinstance(network, nn.Sequential):
        return first_leaf(network)
    own = [part for name, part in module._modules.items() if name != "activation"]
    return None if own else module
