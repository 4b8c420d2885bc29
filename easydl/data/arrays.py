"""Data in memory -> batches on the device, without Python per sample."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from easydl.data.convert import Tree, leaves, map_tree
from easydl.data.read import Batch
from easydl.data.rows import CHUNK_BYTES, Rows


class Arrays:
    """Tensors in memory, or rows of files, cut into batches; rows are gathered 8 MB at a time.

    Args:
        inputs, targets: tensor or ``Rows``, tuple or dict of them with equal first axes; targets
            may be ``None``.
        weights: ``(N,)`` or ``None``.
    """

    columns: dict[str, list] = {}  # the names of the columns of "x" and "y", where they are tables
    steps_name = "steps"  # the argument that ``steps`` came from
    begun = 0  # the epoch in which training began, or began that was interrupted
    goes_on = False  # whether an epoch begins where ``steps`` ended the one before: in training

    def __init__(self, inputs: Tree, targets: Tree, weights: Tensor | None):
        self.inputs, self.targets, self.weights = inputs, targets, weights
        self.samples: int = leaves(inputs)[0].shape[0]
        self.batching()

    def batching(
        self,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        merge_single: bool = False,
        steps: int | None = None,
    ) -> Arrays:
        """Settle how batches are cut; returns self.

        Args:
            merge_single: join a last batch of one row to the batch before it (BatchNorm needs two).
            steps: end each epoch after this many batches.
        """
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.device, self.merge_single = torch.device(device), merge_single
        self.steps: int | None = steps_in(
            self.samples, batch_size, merge_single, steps, self.steps_name
        )
        self._batches: Iterator[Batch] | None = None
        return self

    def peek(self, rows: int = 2) -> Batch:
        """The first rows, for building the network."""
        return self.take(slice(0, rows))

    def take(self, index: slice | Tensor) -> Batch:
        """Some rows of everything."""
        weights = None if self.weights is None else self.weights[index]
        return (
            map_tree(lambda t: t[index], self.inputs),
            map_tree(lambda t: t[index], self.targets),
            weights,
        )

    def reorder(self, part: str, order: list[int]) -> None:
        """The columns of the table ``"x"`` or ``"y"`` in another order."""
        if part == "x":
            self.inputs = self.inputs[:, order]
        else:
            self.targets = self.targets[:, order]

    def split(self, train: slice | Tensor, held_out: slice | Tensor) -> tuple[Arrays, Arrays]:
        """Two sources that share this one's memory where the rows are a range."""
        parts = []
        for rows in (train, held_out):
            cut = lambda t: t.part(rows) if isinstance(t, Rows) else t[rows]  # noqa: B023, E731
            weights = None if self.weights is None else self.weights[rows]
            parts.append(Arrays(*self._mapped(cut), weights))
        return parts[0], parts[1]

    def _mapped(self, function: Any) -> tuple[Tree, Tree]:
        """Inputs and targets through ``function``; targets that are the inputs stay so."""
        inputs = map_tree(function, self.inputs)
        same = self.targets is self.inputs
        return inputs, inputs if same else map_tree(function, self.targets)

    def order(self, number: int) -> Tensor | None:
        """The rows' order in this pass: a function of the seed and the pass's number alone."""
        if not self.shuffle:
            return None
        generator = torch.Generator().manual_seed((self.seed + number) % 2**63)
        dtype = torch.int32 if self.samples < 2**31 else torch.int64  # the same order
        return torch.randperm(self.samples, generator=generator, dtype=dtype)

    def fingerprint(self) -> list[str]:
        """Form and checksum of each array; of one in files, or above 1 GB, of 1,000 rows of it."""
        marks = []
        for tensor in leaves((self.inputs, self.targets, self.weights)):
            rows: slice | Tensor = slice(None)
            if isinstance(tensor, Rows) or tensor.nbytes > 2**30:
                rows = torch.linspace(0, len(tensor) - 1, min(1000, len(tensor))).long()
            numbers: Any = tensor[rows].cpu().contiguous().view(-1).view(torch.uint8).numpy()
            form = f"{tuple(tensor.shape)} {tensor.dtype}".replace("torch.", "")
            marks.append(f"{form} {zlib.crc32(numbers):08x}")
        return marks

    def state_dict(self) -> dict[str, Any]:
        """What ``epoch`` must know, beside its arguments, to go on after a crash."""
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        self.seed = state["seed"]

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch, on the device; ``goes_on`` tells where they begin.

        Args:
            start: leaves out the first batches, without reading them.
        """
        steps = (self.steps or 0) - start
        if not self.goes_on:
            return itertools.islice(self._all_batches(number, start), steps)
        if self._batches is None:
            available = steps_in(self.samples, self.batch_size, self.merge_single)
            number, skipped = place_of(number, start, self.begun, self.steps, available)
            rest = self._all_batches(number, skipped)
            passes = map(self._all_batches, itertools.count(number + 1))
            self._batches = itertools.chain(rest, itertools.chain.from_iterable(passes))
        return itertools.islice(self._batches, steps)

    def close(self) -> None:
        """Let go of the pass under way, which holds the rows."""
        self._batches = None

    def _all_batches(self, number: int, skipped: int = 0) -> Iterator[Batch]:
        self._move_if_it_fits()
        order = self.order(number)
        # A single row to predict waits for nothing.
        if order is None and self.samples <= self.batch_size and not skipped:
            yield map_tree(lambda t: t.to(self.device), (self.inputs, self.targets, self.weights))
            return
        tensors = leaves((self.inputs, self.targets))
        if self.weights is not None:
            tensors = tensors + [self.weights]
        if order is not None:
            order = order.to(tensors[0].device)
        row_bytes = max(sum(t[:1].numel() * t.element_size() for t in tensors), 1)
        rows = max(CHUNK_BYTES // (row_bytes * self.batch_size), 1) * self.batch_size
        # Begun amid a pass, the batches still lie where they would: products round by the place.
        start = skipped * self.batch_size // rows * rows
        skipped -= start // self.batch_size
        while start < self.samples:
            stop = min(start + rows, self.samples)
            if self.merge_single and self.samples - stop == 1:
                stop = self.samples
            sizes = cut_sizes(stop - start, self.batch_size, self.merge_single)
            columns: dict[int, Any] = {}  # inputs that are the targets, too, are gathered once
            for tensor in tensors:
                if id(tensor) in columns:
                    continue
                if order is None:
                    chunk = tensor[start:stop]
                elif isinstance(tensor, Rows):
                    chunk = tensor[order[start:stop]]
                else:
                    chunk = tensor.index_select(0, order[start:stop])
                if chunk.device != self.device:
                    chunk = chunk.to(self.device, non_blocking=True)
                columns[id(tensor)] = chunk.split(sizes)
            gathered = [columns[id(tensor)][skipped:] for tensor in tensors]
            skipped = 0
            yield from batches_of(self.inputs, self.targets, self.weights, gathered)
            start = stop

    def _move_if_it_fits(self) -> None:
        """On a GPU, keep all the data there if it takes less than 40 % of the free memory."""
        if self.device.type != "cuda":
            return
        size = sum(t.numel() * t.element_size() for t in leaves((self.inputs, self.targets)))
        if size < 0.4 * torch.cuda.mem_get_info(self.device)[0]:
            self.inputs, self.targets = self._mapped(lambda t: t.to(self.device))
            self.weights = None if self.weights is None else self.weights.to(self.device)


def place_of(
    epoch: int, batch: int, begun: int, steps: int | None, available: int
) -> tuple[int, int]:
    """The pass over the data, and the batch in it, where an epoch's batch is.

    Args:
        begun: the epoch that began with a pass.
        steps: batches an epoch.
        available: batches a pass.
    """
    passes, batch = divmod((epoch - begun) * (steps or available) + batch, available)
    return begun + passes, batch


def steps_in(
    samples: int, batch_size: int, merge_single: bool, steps: int | None = None, name: str = "steps"
) -> int:
    """The steps of an epoch: all batches, or as many as were asked for by ``name``."""
    merged = merge_single and samples % batch_size == 1 and samples > batch_size
    available = -(-samples // batch_size) - merged
    if steps is not None and steps > available:
        raise ValueError(
            f"{name}={steps} was given, but {samples} samples in batches of {batch_size} make "
            f"{available} steps; expected at most {available}, or smaller batches."
        )
    return available if steps is None else steps


def cut_sizes(rows: int, batch_size: int, merge_single: bool) -> list[int]:
    """The sizes of the batches that some rows are cut into."""
    full, rest = divmod(rows, batch_size)
    sizes = [batch_size] * full
    if rest == 1 and sizes and merge_single:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


def batches_of(inputs: Tree, targets: Tree, weights: Any, columns: list) -> Iterator[Batch]:
    """Batches in the shape of the trees; the common case costs one tuple a step.

    Args:
        columns: each leaf of the trees, then the weights, cut into batches.
    """
    if not any(isinstance(tree, (tuple, dict)) for tree in (inputs, targets)):
        missing = [itertools.repeat(None)]
        target = columns[1:2] if targets is not None else missing
        weight = columns[-1:] if weights is not None else missing
        yield from zip(columns[0], *target, *weight)
        return
    for parts in zip(*columns):
        part = iter(parts)
        yield (
            map_tree(lambda _: next(part), inputs),  # noqa: B023
            map_tree(lambda _: next(part), targets),  # noqa: B023
            next(part) if weights is not None else None,
        )
