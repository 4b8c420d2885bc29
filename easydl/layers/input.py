"""``Input``, the shape of one sample."""

from __future__ import annotations

from typing import Any

from easydl.layers.base import checked_sample_shape


class Input:
    """The shape of one sample, as the first entry of a ``Sequential``.

    Args:
        shape: without the batch axis, ``(20,)`` or ``(3, 32, 32)``; a number for a vector; None
            for an open size, ``(None, 6)`` for sequences of any length.
        dtype: for the reader; whole numbers stay whole where an Embedding comes first.
        name: for the reader.

    Example:
        >>> import easydl as dl
        >>> dl.Sequential([dl.Input((4,)), dl.Dense(3)]).count_params()
        15
    """

    def __init__(self, shape: Any = None, dtype: Any = None, name: str | None = None):
        if shape is None:
            raise ValueError("Input() was given no shape; expected, for example, Input((20,)).")
        self.shape, self.dtype, self.name = checked_sample_shape(shape), dtype, name
