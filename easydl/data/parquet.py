"""Tables in Parquet files, of any size -> batches: read ahead, shuffled window by window."""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from easydl.data.arrays import batches_of, cut_sizes, place_of, steps_in
from easydl.data.convert import leaves, map_tree, to_tensor
from easydl.data.read import Batch
from easydl.data.rows import CHUNK_BYTES
from easydl.data.stream import Stream
from easydl.data.workers import cpus
from easydl.errors import check_path, did_you_mean

WINDOW_BYTES = 8 * 2**20  # rows shuffled together: with their copies no more than a cache holds
LANES = 4  # row groups that a window is taken from
CACHED_ROWS = 8192  # rows of a column written side by side before the next column


class Parquet:
    """Parquet files as data; see ``parquet``."""

    def __init__(
        self,
        path_or_paths: Any,
        target: str | Sequence[str] | None,
        columns: Sequence[str] | None,
    ):
        try:
            import pyarrow.parquet as pq
        except ImportError as error:
            raise ImportError(
                "easydl.data.parquet needs pyarrow, which is not installed; write "
                "pip install 'easydl[data]'."
            ) from error
        given = list(path_or_paths) if isinstance(path_or_paths, (list, tuple)) else [path_or_paths]
        self.paths = [str(check_path("path", path, "train.parquet")) for path in given]
        if not self.paths:
            raise ValueError("parquet was given no path; expected at least one.")
        self.files = []
        for path in self.paths:
            try:
                self.files.append(pq.read_metadata(path))
            except OSError as error:
                raise type(error)(
                    f"{path[-200:]}: {str(error)[:200]}. Expected Parquet files that are there."
                ) from None
            except Exception as error:
                raise ValueError(
                    f"{path} cannot be read as Parquet: {str(error)[:200]}. Expected a file that "
                    "to_parquet or pyarrow.parquet.write_table wrote."
                ) from error
        if not isinstance(target, (str, list, tuple, type(None))):
            raise TypeError(
                f"target={target!r:.60} was given; expected the name of a column, or a list of "
                "names."
            )
        names = self.files[0].schema.to_arrow_schema().names
        self.one_target = isinstance(target, str)
        self.target = [] if target is None else [target] if self.one_target else list(target)
        self.columns = [n for n in names if n not in self.target] if columns is None else []
        if columns is not None:
            self.columns = [columns] if isinstance(columns, str) else list(columns)
        if not self.columns:
            raise ValueError(
                f"parquet was left with no column of features; expected some of {names!s:.300}."
            )
        wanted = [*self.columns, *self.target]
        twice = [name for name in wanted if wanted.count(name) > 1]
        if twice:
            raise ValueError(
                f"parquet was told to read column {twice[0]!r} twice; expected each once, as a "
                "feature or as a target."
            )
        #: the files' first rows, and where they end
        self.starts = [0, *itertools.accumulate(file.num_rows for file in self.files)]
        for path, file in zip(self.paths, self.files):
            self._check_types(path, file)
        if not self.starts[-1]:
            raise ValueError(f"{self.paths[0]} is empty (0 rows); expected at least one.")

    @property
    def rows(self) -> int:
        """Rows in all files."""
        return self.starts[-1]

    def _check_types(self, path: str, file: Any) -> None:
        """A file must have the columns, of numbers."""
        import pyarrow as pa

        schema = file.schema.to_arrow_schema()
        for name in [*self.columns, *self.target]:
            if name not in schema.names:
                raise ValueError(f"{path}: {did_you_mean('column', name, schema.names)}")
            kind = schema.field(name).type
            number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
            if not (number or pa.types.is_boolean(kind)):
                column = self._read(path, file, 0, [name], 1)
                first = next((str(table[name][0])[:40] for table, _ in column if len(table)), "")
                raise TypeError(
                    f"{path}: column {name!r:.60} holds {str(kind)[:60]}, such as {first!r} in row "
                    "0; expected numbers. Leave it out by columns=[…], or write its codes or "
                    "numbers into the file."
                )

    def _read(
        self, path: str, file: Any, group: int, names: list[str], rows: int
    ) -> Iterator[tuple[Any, int]]:
        """Pieces of at most ``rows`` rows of a row group, each with its first row in the group."""
        import pyarrow.parquet as pq

        first = 0
        try:
            with pq.ParquetFile(path, metadata=file, memory_map=True) as opened:
                for piece in opened.iter_batches(rows, [group], names, use_threads=False):
                    yield piece, first
                    first += len(piece)
        except OSError as error:
            raise OSError(
                f"{path}: row group {group} cannot be read from its row {first} on: "
                f"{str(error).strip()[:200]}. Expected a whole file, not changed meanwhile."
            ) from error

    def pieces(self, groups: list[tuple[int, int]], rows: int) -> Iterator[tuple[np.ndarray, ...]]:
        """``(row numbers, features, targets)`` of row groups ``(file, group)``, in this order."""
        for number, group in groups:
            path, file = self.paths[number], self.files[number]
            start = self.starts[number] + sum(file.row_group(i).num_rows for i in range(group))
            names = [*self.columns, *self.target]
            for piece, first in self._read(path, file, group, names, rows):
                self._refuse_nulls(piece, start + first)
                x = stacked([piece[name].to_numpy(False) for name in self.columns])
                y = [piece[name].to_numpy(False) for name in self.target]
                numbers = np.arange(len(piece)) + start + first
                parts = [numbers, x, *([y[0] if self.one_target else stacked(y)] if y else ())]
                yield tuple(to_tensor(part, "a column").numpy() for part in parts)

    def _refuse_nulls(self, piece: Any, first: int) -> None:
        for name, column in zip(piece.schema.names, piece.columns):
            if column.null_count:
                row = int(np.argmax(column.is_null().to_numpy(False)))
                raise ValueError(
                    f"{self.place(first + row)}, column {name!r:.60} is null "
                    f"({column.null_count} in the rows around it); expected numbers. Fill it, or "
                    "leave the rows or the column out."
                )

    def place(self, row: int) -> str:
        """The file and the row in it, of a row of all files."""
        number = bisect.bisect_right(self.starts, row) - 1
        return f"{self.paths[number]}: row {row - self.starts[number]}"


class ParquetStream(Stream):
    """Batches of Parquet files; checked and cast a window at a time.

    Args:
        source: the files.
        what: its name in messages.
    """

    def __init__(self, source: Parquet, what: str = "x"):
        self.parquet, self.samples = source, source.rows
        self._batches: Any = None
        self._first: Batch | None = None
        super().__init__(source, what)
        self.columns = {"x": source.columns}
        if source.target and not source.one_target:
            self.columns["y"] = source.target
        self.orders: dict[str, list[int]] = {}

    @property
    def brings_its_order(self) -> bool:
        return False

    def batching(
        self,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int | None = 0,
        device: torch.device | str = "cpu",
        merge_single: bool = False,
        steps: int | None = None,
    ) -> ParquetStream:
        """As ``Arrays.batching``."""
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.device, self.merge_single = torch.device(device), merge_single
        self.steps = steps_in(self.parquet.rows, batch_size, merge_single, steps, self.steps_name)
        self.close()
        return self

    def reorder(self, part: str, order: list[int]) -> None:
        """The columns of ``"x"`` or ``"y"`` in another order."""
        self.orders[part], self._first = order, None

    def _in_order(self, part: str, table: np.ndarray) -> np.ndarray:
        return table[:, self.orders[part]] if part in self.orders else table

    def peek(self, rows: int = 2) -> Batch:
        """The first rows of the first file."""
        if self._first is None:
            groups = self._groups()
            self._first = self._batch(*next(self.parquet.pieces(groups, 2)))
        return map_tree(lambda t: t[:rows], self._first)

    def _batch(self, _: np.ndarray, x: np.ndarray, y: np.ndarray | None = None) -> Batch:
        target = None if y is None else torch.from_numpy(self._in_order("y", y))
        return torch.from_numpy(self._in_order("x", x)), target, None

    def _groups(self) -> list[tuple[int, int]]:
        files = enumerate(self.parquet.files)
        return [
            (i, g) for i, f in files for g in range(f.num_row_groups) if f.row_group(g).num_rows
        ]

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """As ``Arrays.epoch``; batches that are left out are read, not checked."""
        if self._batches is None or not self.goes_on or start:
            self.close()
            skipped = start
            if self.goes_on:
                available = steps_in(self.parquet.rows, self.batch_size, self.merge_single)
                number, skipped = place_of(number, start, self.begun, self.steps, available)
            self._batches = self._all_batches(number)
            next(itertools.islice(self._batches, skipped, skipped), None)
        return itertools.islice(self._batches, (self.steps or 0) - start)

    def close(self) -> None:
        """End the reading and its thread."""
        if self._batches is not None:
            self._batches.close()
        self._batches = None

    def _all_batches(self, first: int) -> Iterator[Batch]:
        for number in itertools.count(first):
            windows = self._windows(number)
            if self.device.type != "cpu" or cpus() > 2:  # on two, it would take training's own
                windows = read_ahead(windows)
            with contextlib.closing(windows):
                for rows, batch in windows:
                    yield from self._cut(rows, batch)

    def _cut(self, rows: Tensor, batch: Batch) -> Iterator[Batch]:
        """A window, checked and cast, as batches on the device."""
        self.place = f"a window of rows of {self.what}"
        if self.prepare is not None:
            try:
                batch = self.prepare(batch)
            except ValueError as error:
                self._name_the_row(rows, batch, error)
                raise
        sizes = cut_sizes(len(rows), self.batch_size, self.merge_single)
        columns = [t.to(self.device, non_blocking=True).split(sizes) for t in leaves(batch)]
        return batches_of(*batch, columns)

    def _name_the_row(self, rows: Tensor, batch: Batch, error: ValueError) -> None:
        """Where a number is not finite, name its file, row and column."""
        names = (self.parquet.columns, self.parquet.target)
        for part, table, columns in zip("xy", batch, names):
            if table is None or not table.is_floating_point():
                continue
            bad = ~torch.isfinite(table.reshape(len(table), -1))
            if bad.any():
                row = rows[bad.any(1)].min()
                here = bad[rows == row][0]
                order = self.orders.get(part, range(len(columns)))
                column = columns[order[int(here.to(torch.uint8).argmax())]]
                value = float(table.reshape(len(table), -1)[rows == row][0][here][0])
                raise ValueError(
                    f"{self.parquet.place(int(row))}, column {column!r:.60} holds {value}; "
                    "expected finite numbers. Fill it, or leave the rows or the column out."
                ) from error

    def _windows(self, number: int) -> Generator[tuple[Tensor, Batch], None, None]:
        """Windows of whole batches, with their rows' numbers; what is left over begins the next.

        By NumPy, because a thread may run this: torch's operators would start a second team of
        OpenMP threads, and libgomp then lets the team that trains sleep between any two of its own.
        """
        groups, lanes = self._groups(), 1
        random = np.random.default_rng(((self.seed or 0) + number) % 2**63)
        if self.shuffle:
            groups, lanes = [groups[i] for i in random.permutation(len(groups))], LANES
        width = len(self.parquet.columns) + len(self.parquet.target)
        size = WINDOW_BYTES if self.shuffle else CHUNK_BYTES
        share = max(size // (4 * width * lanes), 1)
        piece_rows = max(share // 4, 1)
        open_lanes = [self.parquet.pieces(groups[i::lanes], piece_rows) for i in range(lanes)]
        held: list[tuple[np.ndarray, ...]] = []
        while open_lanes:
            for lane in list(open_lanes):
                count = 0
                while count < share:
                    piece = next(lane, None)
                    if piece is None:
                        open_lanes.remove(lane)
                        break
                    held.append(piece)
                    count += len(piece[0])
            if not held:
                return
            window = [np.concatenate(parts) for parts in zip(*held)]
            count = len(window[0])
            if self.shuffle:
                mixed = random.permutation(count)
                window = [part.take(mixed, 0) for part in window]
            held = []
            if open_lanes:  # keep the rest; two rows or more, where one alone would not do
                cut = max(count - 2 * self.merge_single, 0) // self.batch_size * self.batch_size
                if cut < count:
                    held = [tuple(part[cut:] for part in window)]
                if not cut:
                    continue
                window = [part[:cut] for part in window]
            yield torch.from_numpy(window[0]), self._batch(*window)


def read_ahead(items: Iterator[Any]) -> Generator[Any, None, None]:
    """The items, the next of which is made by a thread meanwhile; the thread ends with this."""
    from concurrent.futures import ThreadPoolExecutor

    end = object()
    with ThreadPoolExecutor(1, "easydl-parquet") as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item


def stacked(columns: list[np.ndarray]) -> np.ndarray:
    """Columns -> ``(N, columns)``, of the dtype that holds them all; some rows at a time."""
    table = np.empty((len(columns[0]), len(columns)), np.result_type(*columns))
    for start in range(0, len(table), CACHED_ROWS):
        rows = slice(start, start + CACHED_ROWS)
        for i, column in enumerate(columns):
            table[rows, i] = column[rows]
    return table


def parquet(
    path_or_paths: Any,
    target: str | Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> Parquet:
    """Parquet files as data for ``fit``, ``evaluate`` and ``predict``, of any size.

    A thread reads and decodes while training goes on; on one or two cores without a GPU, which
    training needs itself, it reads between its steps. A few windows of 8 MB are in memory at a
    time. Batches have exactly ``batch_size`` rows whatever the row groups are; the last of an epoch
    may be smaller.

    With ``shuffle=True`` the order is a function of the seed and the epoch. The row groups come in
    random order, four at a time; a window holds the next rows of each of the four, fully mixed. So
    all rows come once an epoch, but rows far apart in a row group, or in row groups that are not
    read together, do not meet in a batch: a file that is sorted by its target should be written in
    random order once, or with small row groups (10,000 rows are good).

    Dtypes are cast as for arrays. Text, dates, nulls, nan and infinite numbers are refused with
    the file, the row (from 0) and the column. Needs pyarrow: ``pip install 'easydl[data]'``.

    Args:
        path_or_paths: a local file, or several with the same columns, read one after another.
        target: the column of the targets, ``(N,)``; a list gives ``(N, columns)``; ``None`` for
            ``predict``.
        columns: the columns of the features, in this order; by default all but the targets.

    Returns:
        what ``fit(x)``, ``evaluate(x)``, ``predict(x)`` and ``validation_data=`` take.

    Raises:
        ImportError: pyarrow is missing.
        ValueError, TypeError: no such column, no rows, columns that hold no numbers.
        OSError: no such file.

    Example:
        >>> import easydl as dl
        >>> train = dl.data.parquet("train.parquet", target="price")  # doctest: +SKIP
        >>> model.fit(train, batch_size=256)  # doctest: +SKIP
    """
    return Parquet(path_or_paths, target, columns)
