"""A map-style Dataset -> collated batches, read here or by worker processes that stay for a fit."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import math
import multiprocessing
import operator
import os
import pickle
import random
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from time import perf_counter
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from easydl.errors import warn_user

HANDING_OVER = 0.004  # seconds: a batch that takes less to read than this, about twice what it
# costs to bring one over from another process, is read here
START = 0.1  # seconds of reading that each worker process must have before it: starting and
# stopping one takes 0.03
MOST = 16  # worker processes: more hold memory and seldom help
CHUNK_BYTES = 8 * 2**20  # batches read together in this process, as arrays are gathered
AHEAD = 2  # batches that each worker makes ahead, torch's default
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: multiples of it differ in all their bits


class SampleError(RuntimeError):
    """A Dataset failed at a sample, which the message names."""


class Seeded(Dataset):
    """A Dataset whose random numbers are a function of a key and the sample's index.

    ``random``, ``numpy.random`` and torch's CPU generator are seeded for each sample; a Dataset
    that fetches batches (``__getitems__``) has them seeded for each batch, by its first index.
    Seeding takes 6 µs a sample, more than many a sample in memory does, and is left out in the
    training process until a sample ``draws``.

    Attributes:
        seconds: the least time that one sample took, as far as was seen here.
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset
        self.seconds = math.inf
        self.draws = False  # whether a sample was seen to draw random numbers

    def __getitems__(self, batch: tuple[int, list[int]]) -> list:
        key, rows = batch
        return self._fetch(key if self.draws or get_worker_info() is not None else None, rows)

    def _fetch(self, key: int | None, rows: list[int]) -> list:
        fetch = getattr(self.dataset, "__getitems__", None)
        start = perf_counter()
        if fetch:
            if key is not None:
                seed_by(key + rows[0] * GOLDEN)
            samples = fetch(rows)
            self.seconds = min(self.seconds, (perf_counter() - start) / len(rows))
            return samples
        samples, dataset = [], self.dataset
        for row in rows:
            if key is not None:
                seed_by(key + row * GOLDEN)
            try:
                samples.append(dataset[row])
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
                raise SampleError(f"sample {row}: {text}") from error
            now = perf_counter()
            self.seconds, start = min(self.seconds, now - start), now
        return samples


def seed_by(number: int) -> None:
    """Seed Python's, NumPy's and torch's CPU generators, unlike each other; 6 µs in all.

    ``torch.manual_seed`` would visit every kind of device for 130 µs.
    """
    number %= 2**64
    random.seed(number)
    np.random.seed(number >> 32)
    torch.default_generator.manual_seed(number)


def random_states(loader: Any = None) -> tuple:
    """The states of Python's, NumPy's and torch's CPU generators, and of a DataLoader's own."""
    own = [generator.get_state() for generator in generators_of(loader)]
    return random.getstate(), np.random.get_state(), torch.default_generator.get_state(), *own


def set_random_states(states: tuple, loader: Any = None) -> None:
    """Put back what ``random_states`` gave."""
    random.setstate(states[0])
    np.random.set_state(states[1])
    for generator, state in zip([torch.default_generator, *generators_of(loader)], states[2:]):
        generator.set_state(state)


def generators_of(loader: Any) -> list[torch.Generator]:
    """Those that ``DataLoader(generator=…)`` and its samplers were given, each once."""
    parts = [loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    parts.append(getattr(parts[-1], "sampler", None))
    found = [getattr(part, "generator", None) for part in parts]
    return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())


def same_states(one: tuple, other: tuple) -> bool:
    """Whether nobody has drawn a number between two calls of ``random_states``."""
    same = one[0] == other[0] and one[1][2:] == other[1][2:] and torch.equal(one[2], other[2])
    return same and np.array_equal(one[1][1], other[1][1])


class Reader:
    """The batches of a map-style Dataset, pass by pass: a function of (seed, pass) alone.

    Args:
        dataset: whatever has ``__getitem__`` and ``__len__``.
        what: its name in messages.

    Attributes:
        num_workers: how many worker processes read; ``None`` until the library has chosen.
        passes: the number of the pass after the last that is known to come; until there the
            workers read ahead, from one pass into the next.
    """

    def __init__(self, dataset: Any, what: str):
        self.dataset, self.what = dataset, what
        self.samples = Seeded(dataset)
        self.num_workers: int | None = None
        self.passes = 0
        self.row_bytes = 0
        self.on_gpu = False  # whether the samples themselves are on one
        self._batches: Any = None  # torch's iterator
        self._place = (0, 0, 0)  # the seed, pass and batch that it would give next
        self._length = 0  # the Dataset's, when the workers took their copy
        self._state: list = []

    def settle(
        self,
        batch_size: int,
        shuffle: bool,
        device: torch.device,
        merge_single: bool,
        steps: int | None,
    ) -> None:
        """As ``Stream.batching``; ``steps`` end each pass."""
        self.batch_size, self.shuffle, self.device = batch_size, shuffle, device
        self.merge_single, self.steps = merge_single, steps
        self.close()

    @property
    def batches_a_pass(self) -> int:
        return len(self._bounds()) - 1

    def first(self, rows: int) -> Iterator[Any]:
        """The first rows as one batch, read here, which also tells how long one takes."""
        plan: Any = [(0, list(range(min(rows, len(self.dataset)))))] if len(self.dataset) else []
        yield from self._here(lambda: list(self._open(plan, 0)))

    def look_at(self, rows: list[Tensor]) -> None:
        """Note the size and place of samples from their first ones."""
        self.row_bytes = sum(t[:1].numel() * t.element_size() for t in rows)
        self.on_gpu = any(t.is_cuda for t in rows)

    def batches(self, seed: int, number: int, start: int = 0) -> Iterator[Any]:
        """The batches of pass ``number`` from ``start`` on; those before it are never read."""
        count = len(self._bounds()) - 1
        batch = start
        while batch < count:
            if self._place != (seed, number, batch) or (batch == start and self._has_changed()):
                self.close()
            if self.num_workers is None:
                self.num_workers = self._how_many(number)
            take = functools.partial(self._take, seed, number, batch)
            try:
                items = (
                    take(1)
                    if self.num_workers
                    else self._here(functools.partial(take, min(self._at_once(), count - batch)))
                )
            except SampleError as error:
                if not self.num_workers:
                    raise
                items = self._alone(take, error)
            batch += len(items)
            self._place = (seed, number, batch)
            if batch == count:  # the plan goes on in the next pass, or has ended
                self._place = (seed, number + 1, 0 if number + 1 < self.passes else -1)
            yield from items

    def close(self) -> None:
        """End the worker processes; the next pass would start them anew."""
        batches, self._batches = self._batches, None
        end_workers(batches)

    def _take(self, seed: int, number: int, batch: int, count: int = 1) -> list[Any]:
        """Some batches from ``batch`` on; fewer where one fails, which does so again when due."""
        items: list[Any] = []
        try:
            for _ in range(count):
                if self._batches is None:
                    self._batches = self._open(
                        self._plan(seed, number, batch), self.num_workers or 0
                    )
                items.append(next(self._batches))
        except Exception:
            if not items:
                raise
            self._batches = None
        return items

    def _here(self, take: Callable[[], list]) -> list[Any]:
        """Batches read in this process, whose random numbers are as before afterwards."""
        before, moved = random_states(), True
        try:
            items = take()
            moved = not same_states(random_states(), before)
            if moved and not self.samples.draws:  # once more, with seeds
                self.samples.draws, self._batches = True, None
                items = take()
            return items
        finally:
            if moved:
                set_random_states(before)

    def _at_once(self) -> int:
        """Batches read together in this process: the random states of each would take 0.1 ms."""
        seconds, size = self.samples.seconds * self.batch_size, self.row_bytes * self.batch_size
        return max(1, int(min(16, HANDING_OVER / max(seconds, 1e-9), CHUNK_BYTES / max(size, 1))))

    def _alone(self, take: Callable[[], list], error: SampleError) -> list[Any]:
        """A batch that a worker failed at, read here: for the user's own error, or to go on."""
        self.close()
        self.num_workers = 0
        items = self._here(take)
        warn_user(
            f"{self.what}: worker processes failed where this one does not, which reads on alone: "
            f"{str(error).strip().splitlines()[-1]:.200}. Let __getitem__ open its files and keep "
            "off the GPU, or pass a DataLoader."
        )
        return items

    def _open(self, plan: Any, workers: int) -> Any:
        loader = DataLoader(
            self.samples,
            batch_sampler=plan,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
            pin_memory=bool(workers) and self.device.type == "cuda",
            generator=torch.Generator(),  # torch draws a number that nobody needs from it
        )
        self._length, self._state = len(self.dataset), state_of(self.dataset)
        try:
            with warnings.catch_warnings():  # of Python 3.12: torch has threads, as in any worker
                warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
                return iter(loader)
        except OSError as error:
            raise SampleError(f"{workers} could not be started: {error}") from error

    def _bounds(self) -> list[int]:
        """Where the batches of a pass begin, and the end."""
        samples = len(self.dataset)
        bounds = list(range(0, samples, self.batch_size))
        if self.merge_single and len(bounds) > 1 and samples - bounds[-1] == 1:
            bounds.pop()
        bounds.append(samples)
        return bounds if self.steps is None else bounds[: self.steps + 1]

    def _plan(self, seed: int, first: int, start: int) -> Iterator[tuple[int, list[int]]]:
        """The key and rows of each batch, from one pass to the next."""
        for number in range(first, max(self.passes, first + 1)):
            bounds = self._bounds()
            order = torch.arange(len(self.dataset))
            if self.shuffle:
                generator = torch.Generator().manual_seed((seed + number) % 2**63)
                order = torch.randperm(len(order), generator=generator)
            mixed = np.random.SeedSequence([seed % 2**64, number])
            key = int(mixed.generate_state(1, np.uint64)[0])
            for low, high in itertools.islice(itertools.pairwise(bounds), start, None):
                yield key, order[low:high].tolist()
            start = 0

    def _has_changed(self) -> bool:
        """Whether attributes were set since the workers took their copy of the Dataset."""
        if not self.num_workers or self._batches is None:
            return False
        now, before = state_of(self.dataset), self._state
        same = len(now) == len(before) and all(map(operator.is_, now, before))
        return not same or len(self.dataset) != self._length

    # -- how many --------------------------------------------------------------------------------

    def _how_many(self, number: int) -> int:
        """Worker processes: 0 where they could not help, else up to the CPUs there are."""
        seconds, bounds = self.samples.seconds, self._bounds()
        if math.isinf(seconds) or seconds * self.batch_size < HANDING_OVER or self.on_gpu:
            return 0
        if len(bounds) < 3 or (cpus() == 1 and self.device.type == "cpu"):
            return 0  # nothing can go on beside a step
        passes = max(self.passes - number, 1)
        wanted = int(min(cpus(), MOST, len(bounds) - 1, seconds * bounds[-1] * passes / START))
        if wanted < 1 or multiprocessing.current_process().daemon:
            return 0
        reason = obstacle(self.dataset)
        if reason is None:
            room = shutil.disk_usage("/dev/shm").free // 2  # where batches are handed over
            wanted = min(wanted, room // max((AHEAD + 1) * self.batch_size * self.row_bytes, 1))
            if wanted:
                return wanted
            reason = f"/dev/shm has room for {2 * room / 2**20:.0f} MB alone"
        warn_user(
            f"{self.what}: a sample takes {seconds * 1000:.3g} ms to read, and worker processes "
            f"would help, but {reason:.200}. So the training process reads them, and training "
            "waits. Other ways: open files in __getitem__, draw from torch's global generator, "
            f"or pass DataLoader(dataset, {self.batch_size}, shuffle=True, num_workers={cpus()}), "
            "where a generator of the Dataset's own would repeat itself in each worker."
        )
        return 0


def end_workers(batches: Any) -> None:
    """End the worker processes of torch's iterator, which waits for the garbage collector."""
    if hasattr(batches, "_shutdown_workers"):
        batches._shutdown_workers()


def cpus() -> int:
    """The CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def state_of(value: Any, depth: int = 3) -> list:
    """The attributes of an object and, a few levels down, of those."""
    if not depth or isinstance(value, (type, ModuleType)):
        return []
    own = list(getattr(value, "__dict__", {}).values())
    return own + [part for attribute in own for part in state_of(attribute, depth - 1)]


def obstacle(dataset: Any) -> str | None:
    """Why forked processes cannot read the Dataset, or not with the same numbers; else ``None``.

    Whatever cannot be pickled, such as an open file or a lock, is shared in a way that spoils it;
    functions, classes and arrays are not. A generator of its own would go on in each process.
    """
    if sys.platform != "linux" or multiprocessing.get_start_method(allow_none=True) == "spawn":
        return "they are not forked here, and other ways of starting them need a guarded script"
    rest, seen = [getattr(dataset, "__dict__", dataset)], {}
    while rest:
        part = rest.pop()
        if id(part) not in seen:
            seen[id(part)] = part  # kept, so that no other takes its id
            try:
                Look(rest.append).dump(part)
            except Exception as error:
                return f"they cannot share this Dataset ({error})"
    return None


class Look(pickle.Pickler):
    """Looks through an object as pickle does, and writes nothing; long lists are sampled.

    Args:
        later: called with parts that must be looked through apart.
    """

    harmless = (str, bytes, int, float, type, ModuleType, Tensor, np.ndarray)

    def __init__(self, later: Callable[[Any], None]):
        super().__init__(io.BytesIO())
        self.later = later

    def persistent_id(self, value: Any) -> int | None:
        if isinstance(value, self.harmless):
            return 0
        if isinstance(value, (random.Random, torch.Generator)) or type(value).__module__.startswith(
            "numpy.random"
        ):
            raise TypeError(f"its own {type(value).__name__} would give each the same numbers")
        if isinstance(value, FunctionType):
            for cell in value.__closure__ or ():
                with contextlib.suppress(ValueError):  # an empty one
                    self.later(cell.cell_contents)
            return 0
        if isinstance(value, Dataset):  # not by a __getstate__ that leaves out what is open
            self.later(vars(value))
            return 0
        if isinstance(value, (list, tuple, dict)) and len(value) > 1000:
            parts = value.values() if isinstance(value, dict) else value
            self.later(list(itertools.islice(parts, 8)))
            return 0
        return None
