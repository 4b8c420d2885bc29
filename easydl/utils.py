"""Small helpers with Keras's names: labels to one-hot rows, sequences of one length, one seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from easydl.errors import check_positive_int, did_you_mean


def set_random_seed(seed: int) -> None:
    """Make a run repeatable: seeds Python, NumPy and torch on every device; also ``easydl.seed``.

    Equal seeds give equal weights and batches on the same machine and versions; some CUDA kernels
    still round differently from run to run without ``torch.use_deterministic_algorithms(True)``.

    Args:
        seed: From 0 to 2³² − 1.

    Raises:
        ValueError: For another number.

    Example:
        >>> set_random_seed(0)
        >>> a = torch.rand(2)
        >>> set_random_seed(0)
        >>> bool((a == torch.rand(2)).all())
        True
    """
    seed = check_positive_int("seed", seed, minimum=0)
    if seed >= 2**32:  # NumPy's limit
        raise ValueError(f"seed={seed} was given; expected less than 2**32, for example seed=0.")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


seed = set_random_seed


def to_categorical(y: Any, num_classes: int | None = None) -> np.ndarray:
    """Labels 0 … K − 1 as one-hot rows; easydl's losses also take the labels as they are.

    Args:
        y: Whole numbers, as an array, a list, a tensor or a Series; floats that are whole count.
        num_classes: K; the highest label + 1 when ``None``.

    Shape:
        ``(N, …)`` or ``(N, …, 1)`` → float32 ``(N, …, K)``.

    Raises:
        ValueError: For a label that is negative, not whole or too high; for no labels at all.

    Example:
        >>> to_categorical([0, 2, 1])
        array([[1., 0., 0.],
               [0., 0., 1.],
               [0., 1., 0.]], dtype=float32)
    """
    labels = y.detach().cpu().numpy() if isinstance(y, torch.Tensor) else np.asarray(y)
    if labels.size == 0:
        raise ValueError("to_categorical was given no labels; expected at least one.")
    if labels.dtype.kind not in "biuf":
        raise ValueError(
            f"to_categorical was given the label {labels.flat[0]!r:.60} ({labels.dtype}); expected "
            "whole numbers from 0. Number the classes first: np.unique(y, return_inverse=True)[1]."
        )
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    in_range = np.abs(labels) < 2**31 if labels.dtype.kind == "f" else True  # also no NaN
    whole = np.where(in_range, labels, -1).astype(np.int64)
    if num_classes is None:
        count = max(int(whole.max()) + 1, 1)
    else:
        count = check_positive_int("num_classes", num_classes)
    wrong = (whole != labels) | (whole < 0) | (whole >= count)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        position = where[0] if len(where) == 1 else where
        expected = "from 0" if num_classes is None else f"from 0 to {count - 1}"
        raise ValueError(
            f"to_categorical was given the label {labels[where]} at {position}; expected whole "
            f"numbers {expected}. For other labels write np.unique(y, return_inverse=True)[1]."
        )
    result = np.zeros((*labels.shape, count), dtype=np.float32)
    np.put_along_axis(result, whole[..., None], 1.0, axis=-1)
    return result


def pad_sequences(
    sequences: Sequence[Any],
    maxlen: int | None = None,
    dtype: Any = "int32",
    padding: str = "pre",
    truncating: str = "pre",
    value: float | str = 0.0,
) -> np.ndarray:
    """Sequences of different lengths as one array, filled up or cut, as in Keras.

    Args:
        sequences: Lists or arrays; their entries may be vectors of one size.
        maxlen: The length; that of the longest when ``None``.
        dtype: Of the result.
        padding: ``"pre"`` fills up before a short sequence, ``"post"`` after it.
        truncating: ``"pre"`` cuts the beginning of a long sequence, ``"post"`` its end.
        value: What fills up.

    Shape:
        N sequences of ``(length, …)`` → ``(N, maxlen, …)``.

    Raises:
        ValueError: For an unknown side, what is no sequence, or entries of different shapes.

    Example:
        >>> pad_sequences([[1], [2, 3], [4, 5, 6]], maxlen=2)
        array([[0, 1],
               [2, 3],
               [5, 6]], dtype=int32)
    """
    for name, side in (("padding", padding), ("truncating", truncating)):
        if side not in ("pre", "post"):
            raise ValueError(did_you_mean(name, side, ("pre", "post")))
    if maxlen is not None:
        maxlen = check_positive_int("maxlen", maxlen)
    rows = []
    for index, sequence in enumerate(sequences):
        if not hasattr(sequence, "__len__") or isinstance(sequence, str):
            raise ValueError(
                f"pad_sequences was given {sequence!r:.60} at {index}; expected a list of "
                "sequences, for example [[1, 2], [3]]."
            )
        rows.append(np.asarray(sequence))
    if not rows:
        raise ValueError("pad_sequences was given no sequences; expected at least one.")
    length = max(len(row) for row in rows) if maxlen is None else maxlen
    shape = next((row.shape[1:] for row in rows if len(row)), ())
    result = np.full((len(rows), length, *shape), value, dtype=dtype)
    for index, row in enumerate(rows):
        if not len(row):
            continue
        if row.shape[1:] != shape:
            raise ValueError(
                f"pad_sequences: the entries of sequence {index} have shape {row.shape[1:]}, those "
                f"before {shape}; expected one shape for all."
            )
        if result.dtype.kind in "iu" and (row != row.astype(result.dtype)).any():
            raise ValueError(
                f"pad_sequences: sequence {index} has numbers that {result.dtype} can't hold; "
                "write dtype='float32'."
            )
        row = row[-length:] if truncating == "pre" else row[:length]
        if padding == "pre":
            result[index, length - len(row) :] = row
        else:
            result[index, : len(row)] = row
    return result
