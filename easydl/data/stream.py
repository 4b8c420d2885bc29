"""Datasets, loaders, generators and other iterables -> batches, checked as they come."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
from collections.abc import Callable, Iterator, Sized
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from easydl.data.arrays import Arrays, place_of
from easydl.data.convert import leaves, map_tree, rows_of
from easydl.data.read import Batch, is_array, unpack
from easydl.data.workers import (
    Reader,
    SampleError,
    end_workers,
    generators_of,
    random_states,
    set_random_states,
)
from easydl.errors import LIVE_WORKERS, is_dead_worker, warn_user

NOTICEABLE = 0.05  # of an epoch: a smaller share of waiting is not spoken of


class Stream:
    """Batches from a Dataset, DataLoader, generator, or any iterable of ``(x, y[, weight])``.

    Args:
        source: what the user gave.
        what: its name in messages.

    Attributes:
        reader: who reads a Dataset, here or in worker processes; ``None`` for other sources.
        waiting: for each epoch so far the share of its time, from the first batch on, that was
            spent waiting for the next batch.
    """

    samples: int | None = None
    inputs = targets = weights = None
    columns: dict[str, list] = {}
    steps_name, goes_on, begun = Arrays.steps_name, Arrays.goes_on, Arrays.begun

    def __init__(self, source: Any, what: str = "x"):
        self.source, self.what = source, what
        self.place = f"batch 1 of {what}"
        self.one_shot = hasattr(source, "__next__")
        self._peeked: Iterator[Batch] | None = None
        self._rest: Iterator[Batch] | None = None  # where the next epoch goes on
        self._started = 0
        self._parts: tuple[bool, bool] | None = None
        self.prepare: Callable[[Batch], Batch] | None = None
        self.waiting: list[float] = []
        self.waited = 0.0  # seconds
        mapped = is_dataset(source) and not isinstance(source, IterableDataset)
        self.reader = Reader(source, what) if mapped else None
        self._iterator: Any = None
        self._aside: Batch | None = None
        self._at_its_end = getattr(source, "on_epoch_end", None)  # Keras's Sequence shuffles itself
        self.starts_anew = False  # whether a DataLoader's workers do, so that a pass can be redone
        self._begun: tuple | None = None  # the random states where the pass under way began
        self._taken = self._joined = 0  # batches of this pass so far, and joined ones of the epoch
        self._held: Batch | None = None  # the last of them, where it waits to be joined
        self.given = 0  # batches of this epoch so far
        self.batching()

    def batching(
        self,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        merge_single: bool = False,
        steps: int | None = None,
    ) -> Stream:
        """As ``Arrays.batching``; batch size and order of a loader or generator are its own.

        The ``seed`` is also that of what is random in a Dataset's samples. Without shuffling
        Python's generator gives one, so that torch's stays as it is with arrays in order.
        """
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed if shuffle else None
        self.device, self.merge_single = torch.device(device), merge_single
        self.steps, self._endless = steps, self.goes_on and steps is not None
        if self.reader is not None:
            limit = None if self._endless else steps
            self.reader.settle(batch_size, shuffle, self.device, merge_single, limit)
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

        A Dataset is looked into aside, once, without a trace in the random numbers: its batch size
        and order are not settled yet.
        """
        first: Batch | None
        if self._aside is not None:
            first = self._aside
        elif self.reader is not None:
            first = next(self._read(0, functools.partial(self.reader.first, rows)), None)
            _refuse_batches(self.source, first, self.what)
            if first is not None:
                self._aside = first
                self.reader.look_at(leaves(first))
        elif is_dataset(self.source):
            with torch.random.fork_rng(devices=[]):
                aside = self._read(0, lambda: DataLoader(self.source, batch_size=rows))
                first = next(aside, None)
        else:
            if self._peeked is None:
                self._begun, self._taken = random_states(self.source), 0
            iterator = self._start(0, 0) if self._peeked is None else self._peeked
            first = next(iterator, None)
            self._peeked = itertools.chain([] if first is None else [first], iterator)
        if first is None:
            raise ValueError(f"{self.what} gave no batch; expected at least one (inputs, targets).")
        x, y, w = first
        cut = lambda t: t[:rows]  # noqa: E731
        return map_tree(cut, x), map_tree(cut, y), None if w is None else w[:rows]

    def state_dict(self) -> dict[str, Any]:
        """What ``epoch`` must know, beside its arguments, to go on after a crash.

        A Dataset is read by index. Of other sources the pass under way is read again, from the
        random states where it began, and as many batches as were taken are thrown away.
        """
        state = {
            "seed": self.seed,
            "begun": self._begun,
            "taken": self._taken,
            "held": self._held,
            "joined": self._joined,
            "own": random_states(self.source)[3:],
        }
        if self._at_its_end is not None and hasattr(self.source, "state_dict"):
            state["source"] = self.source.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave; changes the random states."""
        self.seed = state["seed"]
        if self.reader is not None:
            return
        if "source" in state:
            self.source.load_state_dict(state["source"])
        elif not getattr(self._at_its_end, "__module__", "keras").startswith("keras"):
            warn_user(
                f"{self.what}, a {type(self.source).__name__}, comes back as it was made: what its "
                "on_epoch_end changed is not in the checkpoint. Give it state_dict() and "
                "load_state_dict(state), or a Dataset and fit(shuffle=True)."
            )
        begun, taken = state["begun"], state["taken"]
        if not self.one_shot:
            self._peeked = None  # begun by this process, under other random numbers
        if begun is not None:
            set_random_states(begun, self.source)
            if taken:
                under_way = self._begin(0, 0)
                if sum(1 for _ in itertools.islice(under_way, taken)) < taken:
                    raise ValueError(
                        f"{self.what} gave {self._taken} batches, fewer than the {taken} before "
                        "the checkpoint; expected the same data."
                    )
                self._held, self._rest = state["held"], self._passes(0, 0, under_way)
            else:
                self.peek()
        self._joined = state["joined"]
        for generator, own in zip(generators_of(self.source), state["own"]):
            generator.set_state(own)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch, checked on the CPU, then on the device.

        ``start`` leaves out the first batches: a Dataset's are not read; of other sources
        ``load_state_dict`` has left them out.
        """
        if self.reader is not None and self.seed is None:
            self.seed = random.getrandbits(62)
        batches = self._rest
        if batches is None:
            batches = self._passes(*self._place(number, start))
        if not start:
            self._joined = 0
        self._rest, self.given = None, start
        count = start
        if self.steps is not None and start >= self.steps:  # only validation is left
            self._rest, batches = batches, iter(())
        for batch in self._timed(batches):
            self.place = f"batch {count + 1} of {self.what}"
            if self.prepare is not None:
                batch = self.prepare(batch)
            self.given = count + 1
            yield map_tree(self._to_device, batch)
            count += 1
            if self.steps is not None and count == self.steps:
                if self.one_shot or self._endless:
                    self._rest = batches
                break
        if self._rest is None:
            self._begun = None
        if count == 0 and (self.one_shot or self._started > 1):
            validates = self.what == "validation_data"
            again = "validation_data=lambda: batches()" if validates else "fit(lambda: batches())"
            raise ValueError(
                f"{self.what} gave no batch in epoch {number + 1}: a generator runs only once. "
                f"Expected a function that makes one, such as {again}, a list of "
                f"batches, or {self.steps_name} with an endless generator."
            )
        if self.steps is not None and count + self._joined < self.steps:
            raise ValueError(
                f"{self.what} ended after {count} batches in epoch {number + 1}; expected "
                f"{self.steps} ({self.steps_name} or its length). Write {self.steps_name}={count}, "
                "or let the generator go on."
            )
        if self._at_its_end is not None:
            self._at_its_end()

    def close(self) -> None:
        """End the worker processes, those of a DataLoader that does not keep them included."""
        if self.reader is not None:
            self.reader.close()
        elif not getattr(self.source, "persistent_workers", False):
            end_workers(self._iterator)
        self._iterator = None  # it holds the last batch: of workers, open files

    def advice(self) -> str | None:
        """What to do where the steps waited for data in most epochs; ``None`` where they did not.

        The first epoch counts only where it is alone: workers and caches were cold.
        """
        shares = sorted(self.waiting[1:] or self.waiting)
        share = shares[len(shares) // 2] if shares else 0.0
        if share < NOTICEABLE or self.waited < 1.0:
            return None
        text = f"the steps waited for data {share:.0%} of their time; "
        if self.reader is None:
            loader = isinstance(self.source, DataLoader)
            what = "num_workers= in the DataLoader" if loader else "a Dataset, read by workers,"
            return f"{text}{what} makes it less."
        if self.reader.num_workers:
            return (
                f"{text}{self.reader.num_workers} worker processes make samples as fast as they "
                "can: smaller files, fewer transforms or, on the CPU, fewer threads in training "
                "(torch.set_num_threads) make it less."
            )
        return text + "arrays (x, y) in memory or a TensorDataset are read without a call a sample."

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; notes the share of the time that the steps waited for them."""
        begin, waited = None, 0.0
        try:
            while True:
                asked = perf_counter()
                batch = next(batches, None)
                now = perf_counter()
                if batch is None:
                    return
                if begin is None:
                    begin = now
                elif self.device.type != "cuda" or torch.cuda.current_stream(self.device).query():
                    waited += now - asked  # a GPU that still works on earlier steps does not wait
                yield batch
        finally:
            if begin is not None:
                self.waiting.append(waited / max(perf_counter() - begin, 1e-9))
                self.waited += waited

    def _place(self, number: int, start: int) -> tuple[int, int]:
        """The pass, and the batch in it, where an epoch's batch is; see ``Arrays.epoch``."""
        if self._endless and self.reader is not None:
            available = self.reader.batches_a_pass
            return place_of(number, start, self.begun, self.steps, available)
        return number, start

    def _passes(
        self, first: int, start: int, under_way: Iterator[Batch] | None = None
    ) -> Iterator[Batch]:
        """One pass over the source; pass after pass where ``steps`` end the epochs of training."""
        for number in itertools.count(first):
            batches = self._begin(number, start) if under_way is None else under_way
            length, start, under_way = self._taken - (self._held is not None), 0, None
            if self.reader is None and self.merge_single:
                batches = self._merged(batches)
            for batch in batches:
                length += 1
                yield batch
            if not self._endless or length < (self.steps or 0):
                return

    def _begin(self, number: int, start: int) -> Iterator[Batch]:
        """A pass from its batch ``start`` on, or the one that was peeked into."""
        if self.reader is None and (self._peeked is None or self.one_shot):
            self._begun = random_states(self.source)
        batches = self._start(number, start) if self._peeked is None else self._peeked
        self._peeked, self._taken, self._held = None, start, None
        return self._counted(batches)

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._taken += 1
            yield batch

    def _merged(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Joins a last batch of one row to the one before it, which waits one step for that."""
        held = self._held
        for batch in batches:
            if held is not None:
                # Only a last row alone is joined, not batches of one row each.
                if rows_of(batch) == 1 < rows_of(held):
                    batch = _join(held, batch)
                    self._joined += 1
                else:
                    self._held = batch
                    yield held
            held = batch
        self._held = None
        if held is not None:
            yield held

    def _start(self, number: int, start: int) -> Iterator[Batch]:
        self._started += 1
        if self.reader is None:
            return self._read(number, self._open)
        reader, seed = self.reader, self.seed or 0
        return self._read(number, lambda: reader.batches(seed, number, start), start)

    def _open(self) -> Any:
        source = self.source
        if self.starts_anew and getattr(source, "persistent_workers", False):
            end_workers(source._iterator)
            source._iterator = None
        if callable(source) and not hasattr(source, "__iter__"):
            source = source()
        if isinstance(source, IterableDataset):
            return DataLoader(source, batch_size=self.batch_size, generator=torch.Generator())
        if hasattr(source, "on_epoch_end") and hasattr(source, "__getitem__"):
            return map(source.__getitem__, range(len(source)))  # Keras's Sequence
        return source

    def _read(self, number: int, open_source: Callable[[], Any], start: int = 0) -> Iterator[Batch]:
        """The source's batches as tensors; where its own code fails, the error says at which."""
        iterator: Any = None
        for batch in itertools.count(start + 1):
            try:
                if iterator is None:
                    iterator = self._iterator = iter(open_source())
                item = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                lines = str(error).strip().splitlines() or [""]
                text = " … ".join(dict.fromkeys([lines[0][:150], lines[-1][:150]]))
                if not isinstance(error, SampleError):
                    text = f"{type(error).__name__}: {text}"
                workers = getattr(self.reader or self.source, "num_workers", 0)
                unit = "pass" if self._endless else "epoch"
                dead = is_dead_worker(error) or (workers and isinstance(error, ConnectionError))
                advice = "Expected (inputs, targets); the error above says where it happened."
                message = (
                    f"{self.what} failed at batch {batch} of {unit} {number + 1}"
                    f"{f', made by {workers} worker processes' if workers else ''}: {text}. "
                    f"{LIVE_WORKERS if dead else advice}"
                )
                end_workers(iterator)
                self.close()
                raise RuntimeError(message) from error
            parts = unpack(item, f"batch {batch} of {self.what}")
            if (
                not isinstance(self.source, DataLoader) and self.reader is None
            ):  # a generator may fill one buffer again
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

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)


def is_dataset(value: Any) -> bool:
    if isinstance(value, (Dataset, IterableDataset)):
        return True
    plain = isinstance(value, (list, tuple, dict, str, DataLoader)) or is_array(value)
    indexed = hasattr(value, "__getitem__") and hasattr(value, "__len__")
    return not plain and indexed and not hasattr(value, "on_epoch_end")


def check_all_in_order(x: Any) -> None:
    """Where rows of the result stand for samples: refuse a loader's random order, tell of gaps."""
    if not isinstance(x, DataLoader):
        return
    sampler: Any = x.sampler if x.batch_sampler is None else x.batch_sampler
    while hasattr(sampler, "sampler"):  # batches of another's samples
        sampler = sampler.sampler
    random_order = isinstance(sampler, (RandomSampler, SubsetRandomSampler, WeightedRandomSampler))
    if random_order or getattr(sampler, "shuffle", False) is True:
        raise ValueError(
            f"x is a DataLoader with a {type(sampler).__name__}, so that nobody could tell which "
            "row of the result is which sample's; expected the samples in order. Write "
            "DataLoader(dataset, batch_size, shuffle=False), or give the dataset itself."
        )
    batches: Any = x.batch_sampler
    if type(batches) is BatchSampler and batches.drop_last and isinstance(batches.sampler, Sized):
        samples = len(batches.sampler)
        if left := samples % batches.batch_size:
            warn_user(
                f"x is a DataLoader with drop_last=True: its last {left} of {samples} samples "
                "get no row. Expected all of them: drop_last=False, or the dataset itself."
            )


@contextlib.contextmanager
def reading(*sources: Any, epochs: int = 1, aloud: bool = False) -> Iterator[None]:
    """While sources are read for so many epochs; their worker processes are gone afterwards.

    Args:
        sources: ``None`` is passed over.
        aloud: say at the end what could be done where training waited for data.
    """
    streams = [source for source in sources if isinstance(source, Stream)]
    for stream in streams:
        if stream.reader is not None:
            stream.reader.passes = epochs
    try:
        yield
    except RuntimeError as error:
        if not is_dead_worker(error):
            raise
        places = " or ".join(stream.place for stream in streams)  # torch raises it amid a step
        raise RuntimeError(f"after {places}: {str(error).strip()} {LIVE_WORKERS}") from error
    finally:
        with contextlib.ExitStack() as ends:  # all of them, even where one fails
            for source in sources:
                if source is not None:
                    ends.callback(source.close)
    if aloud:
        for advice in filter(None, (stream.advice() for stream in streams[:1])):
            print(advice)


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
