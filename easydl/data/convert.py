"""Anything with numbers in it -> a torch tensor, or an error that says what to write instead."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

Tree = Any  # a tensor, or a tuple, list or dict of them


def leaves(tree: Tree) -> list[Tensor]:
    """The tensors of a tensor, tuple, list or dict, in order; none for ``None``."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, (tuple, list)):
        return [] if tree is None else [tree]
    return [leaf for value in tree for leaf in leaves(value)]


def rows_of(tree: Tree) -> int:
    """The length of the first axis."""
    while not isinstance(tree, Tensor):
        tree = next(iter(tree.values() if isinstance(tree, dict) else tree))
    return tree.shape[0]


def map_tree(function: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """``function`` applied to every tensor of a tensor, tuple, list or dict."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {key: map_tree(function, value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(map_tree(function, value) for value in tree)
    return function(tree)


def versions(tree: Tree) -> list[int]:
    """How often each tensor, or what it is a view of, was written to: 0 for a fresh copy.

    Those made in inference mode are left out: torch does not count there.
    """
    return [leaf._version for leaf in leaves(tree) if not leaf.is_inference()]


def all_rows(batches: Iterator[Any], samples: int | None = None) -> Any:
    """All batches' rows as NumPy arrays, in the batches' form: a list for a tuple.

    Args:
        batches: tensors ``(n, …)``, or tuples, lists or dicts of such.
        samples: how many rows come in all, where that is known: then they are written where they
            shall lie, and no batch is kept.

    Raises:
        ValueError: the batches differ in the shape or dtype of their rows, or in their number.
    """
    first = next(batches)

    def columns(batch: Any) -> list[Tensor]:
        if isinstance(first, dict):
            return [batch[key] for key in first]
        return list(batch) if isinstance(first, (tuple, list)) else [batch]

    if samples is None or not columns(first) or len(columns(first)[0]) == samples:
        parts = [columns(first), *map(columns, batches)]
        wholes = [torch.cat(part) for part in zip(*parts, strict=True)]
    else:
        wholes = [column.new_empty(samples, *column.shape[1:]) for column in columns(first)]
        start = 0
        for batch in itertools.chain([first], batches):
            for whole, column in zip(wholes, columns(batch), strict=True):
                if column.shape[1:] != whole.shape[1:] or column.dtype != whole.dtype:
                    raise ValueError(  # a slice would repeat it, or round it
                        f"the network returned rows of {tuple(column.shape[1:])} {column.dtype} "
                        f"after rows of {tuple(whole.shape[1:])} {whole.dtype}; expected the same "
                        "in every batch."
                    )
                whole[start : start + len(column)] = column
            start += len(column)
        if start != samples:
            raise ValueError(f"{start:,} rows came; expected {samples:,}.")
    arrays = [to_numpy(whole) for whole in wholes]
    if isinstance(first, dict):
        return dict(zip(first, arrays))
    return arrays if isinstance(first, (tuple, list)) else arrays[0]


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Floating numbers as float32, others in their own dtype; shares memory where it can."""
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()


def to_tensor(value: Any, what: str) -> Tensor:
    """One array-like as a tensor of its own dtype, sharing memory where that is safe.

    Args:
        value: tensor, NumPy array of any numeric dtype and strides, pandas DataFrame or Series,
            nested list, or list of tensors.
        what: the argument's name, for messages.

    Raises:
        TypeError: strings, objects, dates, complex numbers, sparse matrices.
        ValueError: ragged lists, masked entries, a single number.
    """
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            raise TypeError(
                f"{what} is a sparse tensor; expected a dense one: write {what}.to_dense()."
            )
        tensor = value.detach()
        if tensor.is_inference():  # of torch.inference_mode, whose changes are not counted
            tensor = tensor.clone()
        if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):
            tensor = torch.from_numpy(_without_large_unsigned(tensor.cpu().numpy()))
    else:
        tensor = torch.from_numpy(_for_torch(array_of(value, what)))
    if tensor.is_complex():
        raise TypeError(
            f"{what} holds complex numbers; expected real ones: "
            f"write np.stack([{what}.real, {what}.imag], axis=1)."
        )
    if tensor.dim() == 0:
        raise ValueError(
            f"{what} is the single number {tensor.item():g}; expected an array whose first axis "
            f"counts the samples: write [[{tensor.item():g}]] for one sample with one feature."
        )
    return tensor


def array_of(value: Any, what: str) -> np.ndarray:
    """The numbers as NumPy has them: any dtype, byte order and strides, perhaps read-only."""
    if hasattr(value, "toarray") and not isinstance(value, np.ndarray):
        raise TypeError(f"{what} is a sparse matrix; expected a dense array: {what}.toarray().")
    if hasattr(value, "columns") and hasattr(value, "to_numpy"):
        array = _frame_to_numpy(value, what)
    elif hasattr(value, "to_numpy"):
        array = _column_to_numpy(value)
    elif isinstance(value, (list, tuple)):
        array = _list_to_numpy(value, what)
    else:
        array = np.asarray(value)
    _check_kind(array, what)
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(
            f"{what} has {int(np.ma.count_masked(value))} masked entries, which would be read as "
            f"numbers; expected none: fill them with {what}.filled(…) or drop those rows."
        )
    return array


def _for_torch(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    array = _without_large_unsigned(array)
    # torch takes neither foreign byte order, negative strides nor read-only memory.
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return np.require(array, requirements=["C", "W"])


def _without_large_unsigned(array: np.ndarray) -> np.ndarray:
    """uint16, 32 and 64, which torch can hardly compute with, as the int64 or float64 they fit."""
    if array.dtype.kind != "u" or array.dtype.itemsize == 1:
        return array
    fits = array.dtype.itemsize < 8 or not array.size or int(array.max()) < 2**63
    return array.astype(np.int64 if fits else np.float64)


def _check_kind(array: np.ndarray, what: str) -> None:
    if array.dtype.kind in "USOT":
        _refuse_text(array, what)
    if array.dtype.kind in "Mm":
        raise TypeError(
            f"{what} holds dates ({array.dtype}); expected numbers: subtract a start date and "
            f"divide by np.timedelta64(1, 'D')."
        )
    if array.dtype.kind not in "fiubc":
        raise TypeError(f"{what} has dtype {array.dtype}; expected numbers.")


def _frame_to_numpy(frame: Any, what: str) -> np.ndarray:
    if hasattr(frame, "iloc"):  # pandas, where two columns may have one name
        columns = [_column_to_numpy(frame.iloc[:, i]) for i in range(len(frame.columns))]
    else:
        columns = [_column_to_numpy(frame[name]) for name in frame.columns]
    if not columns:
        raise ValueError(f"{what} is a table without columns; expected at least one.")
    for name, column in zip(frame.columns, columns):
        _check_kind(column, f"column {name!r:.60} of {what}")
    return np.stack(columns, axis=1)


def _column_to_numpy(series: Any) -> np.ndarray:
    array = series.to_numpy()
    if array.dtype == object and getattr(series.dtype, "kind", "O") in "iufb":
        # pandas' nullable numbers; missing entries become nan and are named by the finite check.
        array = series.to_numpy(dtype="float64", na_value=np.nan)
    return array


def _list_to_numpy(values: list | tuple, what: str) -> np.ndarray:
    if len(values) and all(isinstance(v, Tensor) for v in values):
        values = [v.detach().cpu().numpy() for v in values]
    try:
        return np.asarray(values)
    except ValueError:
        lengths = [len(v) if hasattr(v, "__len__") else 0 for v in values]
        raise ValueError(
            f"{what} is a list of {len(values)} entries of different sizes "
            f"({', '.join(map(str, lengths[:4]))}, …); expected equal ones: "
            f"write easydl.utils.pad_sequences({what})."
        ) from None


def _refuse_text(array: np.ndarray, what: str) -> None:
    odd = [v for v in array.ravel() if not isinstance(v, (int, float, np.number))]
    example = odd[0] if odd else 0 if array.size else ""
    if isinstance(example, (str, bytes)):
        raise TypeError(
            f"{what} holds text, such as {str(example)[:40]!r}; expected numbers. Encode it: "
            "names, codes = np.unique(labels, return_inverse=True), or pandas.get_dummies for a "
            "column of features."
        )
    holding = f"with a {type(example).__name__} in it" if odd else "of Python numbers"
    raise TypeError(
        f"{what} is an object array {holding}; expected numbers in one regular array. Rows of "
        "different lengths: easydl.utils.pad_sequences; otherwise: "
        "np.asarray(…, dtype='float32')."
    )


def check_finite(
    tensor: Tensor, what: str, given: Tensor | None = None, may_fill: bool = False
) -> None:
    """Raise if ``tensor`` holds nan or inf, naming the first row and column.

    One vectorised pass: nan and inf survive a sum, so only a sum that is not finite is looked into.

    Args:
        given: the numbers before a cast, which may be too large for the dtype of ``tensor``.
        may_fill: whether to advise filling, too; a filled label would be a class.
    """
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return
    if math.isfinite(tensor.sum().item()):
        return
    bad = ~torch.isfinite(tensor)
    if not bad.any():
        return  # finite entries whose sum overflows
    count = int(bad.sum())
    first = torch.unravel_index(bad.flatten().to(torch.uint8).argmax(), tensor.shape)
    where = [int(i) for i in first]
    value = float((tensor if given is None else given)[tuple(where)])
    names = ["row", "column"] if len(where) <= 2 else ["row"] + [f"axis {i}" for i in range(1, 9)]
    place = ", ".join(f"{name} {index}" for name, index in zip(names, where))
    if math.isfinite(value):
        raise ValueError(
            f"{what} holds {value:g} at {place}, which is inf in {tensor.dtype}; expected numbers "
            f"below {torch.finfo(tensor.dtype).max:.3g}: scale them."
        )
    raise ValueError(
        f"{what} holds {value} at {place} ({count} such entries in all); expected finite numbers. "
        f"Drop those rows{', or fill them, for example by np.nan_to_num' if may_fill else ''}."
    )


def cast_inputs(tensor: Tensor, dtype: torch.dtype, keep_integers: bool) -> Tensor:
    """Inputs in the network's dtype; whole numbers stay whole (int64) for an Embedding."""
    if keep_integers and not tensor.is_floating_point():
        return tensor.long()
    return tensor.to(dtype)
