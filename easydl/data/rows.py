"""Arrays that stay where the user has them: in files, read-only memory, or too large to cast."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from easydl.data.convert import array_of, to_tensor

CHUNK_BYTES = 8 * 2**20  # rows read at once: 8 MB stays in cache and amortises the call
LARGE = 2**30  # bytes, at 8 a number: smaller arrays in memory are cast once, at the start


class Rows:
    """An array whose rows are copied out, and made ready, as they are asked for.

    Slices and index tensors give tensors, which may be written to; the array never is.

    Args:
        array: ``(N, …)``; a tensor over the user's memory, or what torch cannot hold, such as
            foreign byte order, as NumPy's.
        what: the argument's name, for messages.
        in_file: whether the operating system pages it in and out as it likes.
        frozen: whether the memory must not be written to.
        rows: which rows, in this order; all by default.
        make: casts a piece of rows.
    """

    def __init__(
        self,
        array: np.ndarray | Tensor,
        what: str,
        in_file: bool,
        frozen: bool,
        rows: Tensor | None = None,
        make: Callable[[Tensor], Tensor] | None = None,
    ):
        self.array, self.what, self.in_file, self.frozen = array, what, in_file, frozen
        self.rows, self.make = rows, make
        sample = self[:1]
        self.dtype, self.device = sample.dtype, sample.device
        self.shape = torch.Size((len(self), *sample.shape[1:]))
        self.row_bytes = sample.numel() * sample.element_size()

    def __len__(self) -> int:
        return len(self.array) if self.rows is None else len(self.rows)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        piece = self._given(index)
        if isinstance(index, slice) and self.rows is None and isinstance(self.array, Tensor):
            piece = piece.clone()
        return piece if self.make is None else self.make(piece)

    def _given(self, index: slice | Tensor) -> Tensor:
        """Some rows as the user gave them; those of a slice may be the user's memory."""
        if self.rows is not None:
            index = self.rows[index]
        if isinstance(self.array, Tensor):
            if isinstance(index, Tensor):
                return self.array.index_select(0, index)
            return self.array[index]
        chosen = self.array[index.numpy() if isinstance(index, Tensor) else index]
        return to_tensor(np.array(chosen), self.what)

    def numel(self) -> int:
        return self.shape.numel()

    def element_size(self) -> int:
        return self.dtype.itemsize

    def pieces(self) -> Iterator[slice]:
        """Ranges of about 8 MB each."""
        rows = max(CHUNK_BYTES // max(self.row_bytes, 1), 1)
        for start in range(0, len(self), rows):
            yield slice(start, min(start + rows, len(self)))

    def part(self, rows: slice | Tensor) -> Rows:
        """Some of the rows, still where they are."""
        array = self.array
        if self.rows is not None:
            rows = self.rows[rows]
        elif isinstance(rows, slice):
            array, rows = array[rows], None  # type: ignore[assignment]
        return Rows(array, self.what, self.in_file, self.frozen, rows, self.make)  # type: ignore

    def to(self, device: torch.device) -> Tensor:
        """All rows on a GPU, a piece at a time."""
        there = torch.empty(self.shape, dtype=self.dtype, device=device)
        for piece in self.pieces():
            there[piece] = self[piece].to(device)
        return there

    def ready(
        self, check: Callable[[Tensor, str], Tensor], make: Callable[[Tensor], Tensor], what: str
    ) -> Rows | Tensor:
        """Check every entry, now, and cast: in-memory arrays at once, others piece by piece.

        Args:
            check: ``(rows, name) -> rows cast``; raises for what cannot be trained on, naming the
            rows of a piece as ``x[start:stop]``.
            make: the same without the checks.
        """
        fits = True
        if self.in_file or 8 * self.numel() > LARGE:
            for piece in self.pieces():
                given = self._given(piece)
                cast = check(given, f"{what}[{piece.start}:{piece.stop}]")
                fits = fits and _same(cast, given)
        else:
            given = self._given(slice(None))
            cast = check(given, what)
            fits = _same(cast, given)
            if cast.data_ptr() != given.data_ptr():
                return cast
        if fits and not self.frozen and not self.in_file and isinstance(self.array, Tensor):
            return self.array
        return Rows(
            self.array, self.what, self.in_file, self.frozen, self.rows, None if fits else make
        )


def _same(made: Tensor, given: Tensor) -> bool:
    """Whether a cast changed nothing."""
    like = made.dtype == given.dtype and made.shape == given.shape
    return like and made.data_ptr() == given.data_ptr()


def to_rows(value: Any, what: str) -> Tensor | Rows:
    """As ``to_tensor``, but nothing is copied: files, read-only and large arrays stay in place."""
    if isinstance(value, Tensor):
        held = value.layout == torch.strided and value.device.type == "cpu"
        held = held and value.dim() > 0 and 8 * value.numel() > LARGE and not value.is_complex()
        if not held or value.dtype in (torch.uint16, torch.uint32, torch.uint64):
            return to_tensor(value, what)
        return Rows(value.detach(), what, in_file=False, frozen=False)
    if type(value) is np.ndarray and value.dtype == np.float32 and value.flags.carray:
        if value.ndim and 0 < 8 * value.size <= LARGE and not _is_mapped(value):
            return torch.from_numpy(value)  # as below, without its 10 µs
    array = array_of(value, what)
    in_file, frozen = _is_mapped(array), not array.flags.writeable
    if array.ndim == 0 or array.dtype.kind == "c" or not len(array):
        return to_tensor(array, what)
    stays = in_file or (array.flags.c_contiguous and (frozen or 8 * array.size > LARGE))
    if not stays:
        return to_tensor(array, what)
    if _torch_can_hold(array):
        # Unlike from_numpy, DLPack takes read-only memory without a warning.
        return Rows(torch.from_dlpack(array), what, in_file, frozen)
    return Rows(array, what, in_file, frozen) if in_file else to_tensor(array, what)


def _is_mapped(array: Any) -> bool:
    while array is not None and not isinstance(array, (np.memmap, mmap.mmap)):
        array = getattr(array, "base", None)
    return array is not None


def _torch_can_hold(array: np.ndarray) -> bool:
    kind, size = array.dtype.kind, array.dtype.itemsize
    number = (kind in "bif" and size <= 8) or (kind == "u" and size == 1)
    strides = all(stride >= 0 and stride % size == 0 for stride in array.strides)
    return number and array.dtype.isnative and strides


def ready_leaf(
    leaf: Tensor | Rows,
    what: str,
    check: Callable[[Tensor, str], Tensor],
    make: Callable[[Tensor], Tensor] | None = None,
) -> Tensor | Rows:
    """One array checked and cast; ``make`` is ``check`` without the checks, for ``Rows``."""
    if isinstance(leaf, Rows):
        return leaf.ready(check, make or (lambda rows: check(rows, what)), what)
    return check(leaf, what)
