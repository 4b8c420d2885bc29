"""Whatever ``fit`` is given -> one object that yields ``(inputs, targets, weights)`` on the device.

``Arrays`` holds everything in memory and never runs Python per sample; ``Stream`` takes Datasets,
DataLoaders, generators and other iterables batch by batch. Both know their number of steps (a
stream may not) and have ``epoch(number)``, which the training loop iterates.
"""

from __future__ import annotations

import os
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from easydl.data.arrays import Arrays
from easydl.data.convert import leaves
from easydl.data.parquet import Parquet, ParquetStream
from easydl.data.read import check_lengths, is_array, read_tree, read_weights, ready_weights, unpack
from easydl.data.rows import to_rows
from easydl.data.stream import Stream


def as_source(x: Any, y: Any = None, sample_weight: Any = None, what: str = "x") -> Arrays | Stream:
    """Read what ``fit``, ``evaluate`` or ``predict`` was given.

    Args:
        x: array-like, tuple or dict of array-likes (several inputs), Dataset, DataLoader,
            generator, iterable or function returning one, ``easydl.data.parquet``.
        y, sample_weight: array-likes, for array-like ``x`` only.
        what: name of ``x`` in messages (``"x"`` or ``"validation_data"``).

    Raises:
        ValueError: different lengths, no rows.
        TypeError: nothing that can be read.
    """
    if isinstance(x, TensorDataset) and y is None and sample_weight is None:
        x, y, sample_weight = unpack(list(x.tensors), what)
    if _is_stream(x, y):
        for name, value in (("y", y), ("sample_weight", sample_weight)):
            if value is not None:
                raise ValueError(
                    f"{name} was given beside a {type(x).__name__}, which brings its own; "
                    f"expected {name}=None: let it yield (inputs, targets[, weights])."
                )
        return ParquetStream(x, what) if isinstance(x, Parquet) else Stream(x, what)
    if x is None or isinstance(x, (str, bytes, os.PathLike, nn.Module)):
        raise TypeError(
            f"{what}={x!r:.80} was given; expected an array, a Dataset or batches. For a file: "
            "np.load, or pandas.read_csv."
        )
    if y is not None or sample_weight is not None or not is_array(x):
        _check_same_index(x, y, sample_weight)
    samples = len(y) if hasattr(y, "__len__") and not isinstance(y, (dict, tuple)) else None
    inputs = read_tree(x, what, samples, to_rows)
    found = leaves(inputs)
    samples = found[0].shape[0] if found else None
    targets = None if y is None else read_tree(y, "y", samples, to_rows)
    weights = read_weights(sample_weight, "sample_weight", samples)
    check_lengths(inputs, targets, weights, what)
    if weights is not None:
        weights = ready_weights(weights)
        if not weights.any():
            raise ValueError("sample_weight is 0 for every sample; expected some above 0.")
    source = Arrays(inputs, targets, weights)
    tables = {"x": x, "y": y}
    source.columns = {k: list(t.columns) for k, t in tables.items() if hasattr(t, "columns")}
    return source


def _check_same_index(*values: Any) -> None:
    """pandas rows are taken by position; tables whose row labels differ were not meant so."""
    tables = [t for value in values for t in _flat(value) if hasattr(t, "iloc")]
    for table in tables[1:]:
        own, first = table.index, tables[0].index
        if len(own) == len(first) and not own.equals(first):
            row = next(i for i, (a, b) in enumerate(zip(own, first)) if a != b)
            raise ValueError(
                f"x, y and sample_weight are pandas tables with different row labels: row {row} "
                f"is {first[row]!r:.60} in one and {own[row]!r:.60} in another; expected equal "
                "ones. To match them by label write y.loc[x.index]; by position, y.to_numpy()."
            )


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _are_inputs(x: Any) -> bool:
    """Whether it is a batch's inputs: an array, or a tuple or dict of arrays of rows."""
    if not isinstance(x, (tuple, dict)):
        return is_array(x)
    return bool(x) and all(is_array(part) and getattr(part, "ndim", 1) for part in _flat(x))


def _is_stream(x: Any, y: Any) -> bool:
    if isinstance(x, (Dataset, DataLoader, Parquet)):
        return True
    plain = (dict, str, bytes, int, float, os.PathLike, nn.Module)
    if isinstance(x, plain) or is_array(x) or hasattr(x, "toarray"):
        return False
    if isinstance(x, (list, tuple)):  # a list of (x, y) batches
        pairs = all(isinstance(b, (list, tuple)) and len(b) in (2, 3) for b in x)
        return bool(x) and y is None and pairs and all(_are_inputs(b[0]) for b in x)
    return hasattr(x, "__iter__") or hasattr(x, "__getitem__") or callable(x)
