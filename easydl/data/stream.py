"""Datasets, loaders, generators and other iterables -> batches, checked as they come."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from easydl.data.arrays import Arrays
from easydl.data.convert import leaves, map_tree
from easydl.data.read import Batch, is_array, unpack


class Stream:
    """Batches from a Dataset, DataLoader, generator, or any iterable of ``(x, y[, weight])``.

    Args:
        source: what the user gave.
        what: its name in messages.
    """

    samples: int | None = None
    inputs = targets = weights = None
    columns: dict[str, list] = {}
    steps_name, goes_on = Arrays.steps_name, Arrays.goes_on

    def __init__(self, source: Any, what: str = "x"):
        self.source, self.what = source, what
        self.place = f"batch 1 of {what}"
        self.one_shot = hasattr(source, "__next__")
        self._peeked: Iterator[Batch] | None = None
        self._rest: Iterator[Batch] | None = None  # where the next epoch goes on
        self._started = 0
        self._parts: tuple[bool, bool] | None = None
        self.prepare: Callable[[Batch], Batch] | None = None
        self.batching()

    def batching(
        self,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        merge_single: bool = False,
        steps: int | None = None,
    ) -> Stream:
        """As ``Arrays.batching``; batch size and order of a loader or generator are its own."""
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.device, self.merge_single = torch.device(device), merge_single
        self.steps, self._endless = steps, self.goes_on and steps is not None
        # A loader of an IterableDataset guesses its length: each worker may end in a short batch.
        guesses = isinstance(getattr(self.source, "dataset", None), IterableDataset)
        if steps is None and not self.one_shot and not guesses:
            try:
                length = len(self.source)
            except TypeError:
                return self
            if is_dataset(self.source):
                length = -(-length // batch_size) - (
                    merge_single and length % batch_size == 1 and length > batch_size
                )
            self.steps = length
        return self

    @property
    def brings_its_order(self) -> bool:
        """Whether the order of the samples is the source's own: all but a Dataset's."""
        return not is_dataset(self.source)

    def peek(self, rows: int = 2) -> Batch:
        """The first rows of the first batch, which is kept for the first epoch.

        A Dataset is looked into aside, without a trace in torch's random numbers: its batch size
        and order are not settled yet.
        """
        if is_dataset(self.source):
            with torch.random.fork_rng(devices=[]):
                aside = self._read(0, lambda: DataLoader(self.source, batch_size=rows))
                first = next(aside, None)
                _refuse_batches(self.source, first, self.what)
        else:
            iterator = self._start(0) if self._peeked is None else self._peeked
            first = next(iterator, None)
            self._peeked = itertools.chain([] if first is None else [first], iterator)
        if first is None:
            raise ValueError(f"{self.what} gave no batch; expected at least one (inputs, targets).")
        x, y, w = first
        cut = lambda t: t[:rows]  # noqa: E731
        return map_tree(cut, x), map_tree(cut, y), None if w is None else w[:rows]

    def epoch(self, number: int) -> Iterator[Batch]:
        """Batches of one epoch, checked on the CPU, then on the device."""
        batches = self._passes(number) if self._rest is None else self._rest
        self._rest, self._joined, count = None, 0, 0
        for batch in batches:
            self.place = f"batch {count + 1} of {self.what}"
            if self.prepare is not None:
                batch = self.prepare(batch)
            yield map_tree(self._to_device, batch)
            count += 1
            if self.steps is not None and count == self.steps:
                if self.one_shot or self._endless:
                    self._rest = batches
                break
        if count == 0 and (self.one_shot or self._started > 1):
            raise ValueError(
                f"{self.what} gave no batch in epoch {number + 1}: a generator runs only once. "
                "Expected a function that makes one, such as fit(lambda: batches()), a list of "
                "batches, or steps_per_epoch with an endless generator."
            )
        if self.steps is not None and count + self._joined < self.steps:
            raise ValueError(
                f"{self.what} ended after {count} batches in epoch {number + 1}; expected "
                f"{self.steps} ({self.steps_name} or its length). Write {self.steps_name}={count}, "
                "or let the generator go on."
            )
        if hasattr(self.source, "on_epoch_end"):
            self.source.on_epoch_end()  # where Keras's Sequence shuffles itself

    def _passes(self, first: int) -> Iterator[Batch]:
        """One pass over the source; pass after pass where ``steps`` end the epochs of training."""
        for number in itertools.count(first):
            batches = self._start(number) if self._peeked is None else self._peeked
            self._peeked, length = None, 0
            for batch in self._merged(batches) if self.merge_single else batches:
                length += 1
                yield batch
            if not self._endless or length < (self.steps or 0):
                return

    def _merged(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Joins a last batch of one row to the one before it, which waits one step for that."""
        held: Batch | None = None
        for batch in batches:
            if held is not None:
                # Only a last row alone is joined, not batches of one row each.
                if len(leaves(batch)[0]) == 1 < len(leaves(held)[0]):
                    batch = _join(held, batch)
                    self._joined += 1
                else:
                    yield held
            held = batch
        if held is not None:
            yield held

    def _start(self, number: int) -> Iterator[Batch]:
        self._started += 1
        return self._read(number, lambda: self._open(number))

    def _open(self, number: int) -> Any:
        source = self.source
        if callable(source) and not hasattr(source, "__iter__"):
            source = source()
        if is_dataset(source):
            return self._loader(source, number)
        if hasattr(source, "on_epoch_end") and hasattr(source, "__getitem__"):
            return map(source.__getitem__, range(len(source)))  # Keras's Sequence
        return source

    def _read(self, number: int, open_source: Callable[[], Any]) -> Iterator[Batch]:
        """The source's batches as tensors; where its own code fails, the error says at which."""
        iterator: Any = None
        for batch in itertools.count(1):
            try:
                iterator = iter(open_source()) if iterator is None else iterator
                item = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                lines = str(error).strip().splitlines() or [""]
                text = " … ".join(dict.fromkeys([lines[0][:150], lines[-1][:150]]))
                workers = getattr(self.source, "num_workers", 0)
                unit = "pass" if self._endless else "epoch"
                message = (
                    f"{self.what} failed at batch {batch} of {unit} {number + 1}"
                    f"{f', made by {workers} worker processes' if workers else ''}: "
                    f"{type(error).__name__}: {text}. Expected (inputs, targets); the error above "
                    "says where it happened."
                )
                if hasattr(iterator, "_shutdown_workers"):
                    iterator._shutdown_workers()  # torch would wait for the garbage collector
                raise RuntimeError(message) from error
            parts = unpack(item, f"batch {batch} of {self.what}")
            if not isinstance(self.source, DataLoader):  # a generator may fill one buffer again
                parts = map_tree(torch.clone, parts)
            self._check_parts(parts, batch)
            yield parts

    def _check_parts(self, batch: Batch, number: int) -> None:
        """Every batch brings targets and weights, or none does."""
        parts = (batch[1] is not None, batch[2] is not None)
        first = self._parts = self._parts or parts
        if parts != first:
            words = ["inputs" + y * ", targets" + w * ", weights" for y, w in (parts, first)]
            raise ValueError(
                f"batch {number} of {self.what} brings {words[0]}, but the first brought "
                f"{words[1]}; expected the same in every batch."
            )

    def _loader(self, dataset: Dataset, number: int) -> DataLoader:
        generator = torch.Generator().manual_seed((self.seed + number) % 2**63)
        if isinstance(dataset, IterableDataset):
            return DataLoader(dataset, batch_size=self.batch_size, generator=generator)
        order = range(len(dataset))  # type: ignore[arg-type]
        if self.shuffle:
            order = torch.randperm(len(order), generator=generator).tolist()  # type: ignore
        return DataLoader(dataset, batch_size=self.batch_size, sampler=order, generator=generator)  # type: ignore[arg-type]

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)


def is_dataset(value: Any) -> bool:
    if isinstance(value, (Dataset, IterableDataset)):
        return True
    plain = isinstance(value, (list, tuple, dict, str, DataLoader)) or is_array(value)
    indexed = hasattr(value, "__getitem__") and hasattr(value, "__len__")
    return not plain and indexed and not hasattr(value, "on_epoch_end")


def _refuse_batches(source: Any, rows: Batch | None, what: str) -> None:
    """What only looks like a Dataset may give whole batches by index, as Keras's Sequence does."""
    if isinstance(source, Dataset) or rows is None or rows[1] is None:
        return
    shapes = [tuple(leaf.shape[1:]) for leaf in leaves(rows)]  # of single items
    if len(shapes[0]) > 1 and len({shape[:1] for shape in shapes}) == 1:
        raise ValueError(
            f"{what} is a {type(source).__name__} whose items, of shapes "
            f"{str(shapes)[1:-1]:.80}, may be samples or whole batches; expected a subclass of "
            "torch.utils.data.Dataset for samples, or on_epoch_end(self) for batches, as Keras's "
            f"Sequence has. Without a change: [{what}[i] for i in range(len({what}))] are batches."
        )


def _join(first: Batch, second: Batch) -> Batch:
    rest = iter(leaves(second))
    return map_tree(lambda t: torch.cat([t, next(rest)]), first)
