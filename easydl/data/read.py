"""Array-likes -> trees of tensors of one length: inputs, targets and weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from easydl.data.convert import Tree, check_finite, leaves, to_tensor

Batch = tuple[Tree, Tree, Tensor | None]


def read_tree(
    value: Any, what: str, samples: int | None = None, read: Callable = to_tensor
) -> Tree:
    """Array-likes -> tensors; a tuple or dict is several inputs, a list of arrays too.

    A list of arrays is one array of samples where its length is their number. ``read`` makes a
    tensor, or ``Rows``, of one array.
    """
    if isinstance(value, dict):
        return {key: read(part, f"{what}[{key!r:.40}]") for key, part in value.items()}
    if isinstance(value, (tuple, list)) and value and all(is_array(part) for part in value):
        one_array = samples == len(value) and any(
            not getattr(part, "ndim", 1) or len(part) != samples for part in value
        )
        if not one_array and all(getattr(part, "ndim", 1) for part in value):
            return tuple(read(part, f"{what}[{i}]") for i, part in enumerate(value))
    return read(value, what)


def read_weights(value: Any, what: str, samples: int | None = None) -> Tensor | None:
    """Sample weights as one tensor."""
    if value is None:
        return None
    tree = None if isinstance(value, dict) else read_tree(value, what, samples)
    if not isinstance(tree, Tensor):
        raise TypeError(
            f"{what} is a {type(value).__name__} of {len(value)}; expected one number a row, (N,), "
            "which counts for all outputs alike. A factor for each output: loss_weights in "
            "compile; for each class: class_weight; for each row of each output: a compute_loss "
            "of your own."
        )
    return tree


def ready_weights(given: Tensor) -> Tensor:
    """Sample weights as float32 ``(N,)``, one finite number ≥ 0 a sample."""
    weights = given.float()
    check_finite(weights, "sample_weight", given)
    if weights.dim() > 1 and weights.numel() != len(weights):
        raise ValueError(
            f"sample_weight has shape {tuple(weights.shape)}; expected one number a sample, (N,). "
            "For a weight each time step or pixel write a compute_loss of your own."
        )
    if weights.numel() and float(weights.min()) < 0:
        raise ValueError(
            f"sample_weight has the value {float(weights.min()):g}; expected numbers ≥ 0. (A "
            "Dataset's third part is the weight; several inputs stand in a tuple: ((a, b), y).)"
        )
    return weights.reshape(-1)


def unpack(item: Any, what: str) -> Batch:
    """``(x,)``, ``(x, y)``, ``(x, y, weight)`` or a bare ``x`` as tensors."""
    x, y, weight = item, None, None
    if isinstance(item, (tuple, list)):
        if len(item) not in (1, 2, 3):
            raise ValueError(
                f"{what} gave a batch of {len(item)} parts; expected (inputs, targets) or "
                "(inputs, targets, weights). Several inputs stand in one tuple: ((a, b), y)."
            )
        x, y, weight = (*item, None, None)[:3]
        if isinstance(y, (int, float, np.number)):
            raise ValueError(
                f"{what} gave the single target {y:g}; expected batches: inputs (N, …) with "
                "targets (N, …). For rows one by one give arrays, or a torch Dataset."
            )
    inputs = read_tree(x, f"inputs of {what}")
    targets = None if y is None else read_tree(y, f"targets of {what}")
    weights = read_weights(weight, f"weights of {what}")
    check_lengths(inputs, targets, weights, what)
    return inputs, targets, None if weights is None else weights.float()


def check_lengths(inputs: Tree, targets: Tree, weights: Tensor | None, what: str) -> None:
    named = [*_named(inputs, what), *_named(targets, "y"), *_named(weights, "sample_weight")]
    if not named:
        raise ValueError(f"{what} holds no array; expected at least one.")
    first, samples = named[0][0], named[0][1].shape[0]
    for name, tensor in named[1:]:
        if tensor.shape[0] != samples:
            raise ValueError(
                f"{first} has {samples} samples but {name} has {tensor.shape[0]}; expected the "
                "same first axis."
            )
    if samples == 0:
        raise ValueError(f"{what} is empty (0 samples); expected at least one.")
    for tensor in leaves(inputs):
        if tensor.numel() == 0:
            raise ValueError(
                f"{what} has shape {tuple(tensor.shape)}, which holds no number; expected at "
                "least one feature."
            )


def _named(tree: Tree, what: str) -> list[tuple[str, Tensor]]:
    """The tensors with the names that the user knows them by."""
    if isinstance(tree, dict):
        return [(f"{what}[{key!r:.40}]", tensor) for key, tensor in tree.items()]
    if isinstance(tree, tuple):
        return [(f"{what}[{i}]", tensor) for i, tensor in enumerate(tree)]
    return [] if tree is None else [(what, tree)]


def is_array(value: Any) -> bool:
    return any(hasattr(value, name) for name in ("ndim", "to_numpy", "__array__"))
