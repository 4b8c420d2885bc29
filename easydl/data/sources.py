"""Whatever ``fit`` is given -> one object that yields ``(inputs, targets, weights)`` on the device.

``Arrays`` holds everything in memory and never runs Python per sample; ``Stream`` takes Datasets,
DataLoaders, generators and other iterables batch by batch. Both know their number of steps (a
stream may not) and have ``epoch(number)``, which the training loop iterates.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from easydl.data.convert import Tree, check_finite, leaves, map_tree, to_tensor

CHUNK_BYTES = 8 * 2**20  # rows gathered at once: 8 MB stays in cache and amortises the call

Batch = tuple[Tree, Tree, Tensor | None]


class Arrays:
    """Tensors in memory, cut into batches; rows are gathered 8 MB at a time.

    Args:
        inputs, targets: tensor, tuple or dict of tensors with equal first axes; targets may be
            ``None``.
        weights: ``(N,)`` or ``None``.
    """

    columns: dict[str, list] = {}  # the names of the columns of "x" and "y", where they are tables
    steps_name = "steps"  # the argument that ``steps`` came from
    goes_on = False  # whether an epoch begins where ``steps`` ended the one before: in training

    def __init__(self, inputs: Tree, targets: Tree, weights: Tensor | None):
        self.inputs, self.targets, self.weights = inputs, targets, weights
        self.samples = len(leaves(inputs)[0])
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
        merged = merge_single and self.samples % batch_size == 1 and self.samples > batch_size
        available = -(-self.samples // batch_size) - merged
        if steps is not None and steps > available:
            raise ValueError(
                f"{self.steps_name}={steps} was given, but {self.samples} samples in batches of "
                f"{batch_size} make {available} steps; expected at most {available}, or smaller "
                "batches."
            )
        self.steps: int | None = available if steps is None else steps
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

    def split(self, train: slice | Tensor, held_out: slice | Tensor) -> tuple[Arrays, Arrays]:
        """Two sources that share this one's memory where the rows are a range."""
        return Arrays(*self.take(train)), Arrays(*self.take(held_out))

    def order(self, number: int) -> Tensor | None:
        """The rows' order in this pass: a function of the seed and the pass's number alone."""
        if not self.shuffle:
            return None
        generator = torch.Generator().manual_seed((self.seed + number) % 2**63)
        return torch.randperm(self.samples, generator=generator)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Batches of one epoch, on the device; ``goes_on`` tells where they begin."""
        if self._batches is None or not self.goes_on:
            passes = map(self._all_batches, itertools.count(number))
            self._batches = itertools.chain.from_iterable(passes)
        return itertools.islice(self._batches, self.steps)

    def _all_batches(self, number: int) -> Iterator[Batch]:
        self._move_if_it_fits()
        order = self.order(number)
        tensors = leaves((self.inputs, self.targets))
        if self.weights is not None:
            tensors = tensors + [self.weights]
        if order is not None:
            order = order.to(tensors[0].device)
        row_bytes = max(sum(t[:1].numel() * t.element_size() for t in tensors), 1)
        rows = max(CHUNK_BYTES // (row_bytes * self.batch_size), 1) * self.batch_size
        start = 0
        while start < self.samples:
            stop = min(start + rows, self.samples)
            if self.merge_single and self.samples - stop == 1:
                stop = self.samples
            sizes = self._sizes(stop - start)
            columns = []
            for tensor in tensors:
                if order is None:
                    chunk = tensor[start:stop]
                else:
                    chunk = tensor.index_select(0, order[start:stop])
                if chunk.device != self.device:
                    chunk = chunk.to(self.device, non_blocking=True)
                columns.append(chunk.split(sizes))
            yield from self._rebuild(columns)
            start = stop

    def _sizes(self, rows: int) -> list[int]:
        full, rest = divmod(rows, self.batch_size)
        sizes = [self.batch_size] * full
        if rest == 1 and sizes and self.merge_single:
            sizes[-1] += 1
        elif rest:
            sizes.append(rest)
        return sizes

    def _rebuild(self, columns: list) -> Iterator[Batch]:
        """Batches in the shape of the trees; the common case costs one tuple a step."""
        one_target = isinstance(self.targets, Tensor) or self.targets is None
        if isinstance(self.inputs, Tensor) and one_target:
            missing = [itertools.repeat(None)]
            targets = columns[1:2] if self.targets is not None else missing
            weights = columns[-1:] if self.weights is not None else missing
            yield from zip(columns[0], *targets, *weights)
            return
        for parts in zip(*columns):
            part = iter(parts)
            yield (
                map_tree(lambda _: next(part), self.inputs),  # noqa: B023
                map_tree(lambda _: next(part), self.targets),  # noqa: B023
                next(part) if self.weights is not None else None,
            )

    def _move_if_it_fits(self) -> None:
        """On a GPU, keep all the data there if it takes less than 40 % of the free memory."""
        if self.device.type != "cuda":
            return
        size = sum(t.numel() * t.element_size() for t in leaves((self.inputs, self.targets)))
        if size < 0.4 * torch.cuda.mem_get_info(self.device)[0]:
            self.inputs = map_tree(lambda t: t.to(self.device), self.inputs)
            self.targets = map_tree(lambda t: t.to(self.device), self.targets)
            self.weights = None if self.weights is None else self.weights.to(self.device)


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
            if _is_dataset(self.source):
                length = -(-length // batch_size) - (
                    merge_single and length % batch_size == 1 and length > batch_size
                )
            self.steps = length
        return self

    @property
    def brings_its_order(self) -> bool:
        """Whether the order of the samples is the source's own: all but a Dataset's."""
        return not _is_dataset(self.source)

    def peek(self, rows: int = 2) -> Batch:
        """The first rows of the first batch, which is kept for the first epoch.

        A Dataset is looked into aside, without a trace in torch's random numbers: its batch size
        and order are not settled yet.
        """
        if _is_dataset(self.source):
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
        if _is_dataset(source):
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
            parts = _unpack(item, f"batch {batch} of {self.what}")
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


def as_source(x: Any, y: Any = None, sample_weight: Any = None, what: str = "x") -> Arrays | Stream:
    """Read what ``fit``, ``evaluate`` or ``predict`` was given.

    Args:
        x: array-like, tuple or dict of array-likes (several inputs), Dataset, DataLoader,
            generator, iterable or function returning one.
        y, sample_weight: array-likes, for array-like ``x`` only.
        what: name of ``x`` in messages (``"x"`` or ``"validation_data"``).

    Raises:
        ValueError: different lengths, no rows.
        TypeError: nothing that can be read.
    """
    if isinstance(x, TensorDataset) and y is None and sample_weight is None:
        x, y, sample_weight = _unpack(list(x.tensors), what)
    if _is_stream(x, y):
        for name, value in (("y", y), ("sample_weight", sample_weight)):
            if value is not None:
                raise ValueError(
                    f"{name} was given beside a {type(x).__name__}, which brings its own; "
                    f"expected {name}=None: let it yield (inputs, targets[, weights])."
                )
        return Stream(x, what)
    if x is None or isinstance(x, (str, bytes, os.PathLike, nn.Module)):
        raise TypeError(
            f"{what}={x!r:.80} was given; expected an array, a Dataset or batches. For a file: "
            "np.load, or pandas.read_csv."
        )
    _check_same_index(x, y, sample_weight)
    samples = len(y) if hasattr(y, "__len__") and not isinstance(y, (dict, tuple)) else None
    inputs = read_tree(x, what, samples)
    samples = len(leaves(inputs)[0]) if leaves(inputs) else None
    targets = None if y is None else read_tree(y, "y", samples)
    weights = read_weights(sample_weight, "sample_weight", samples)
    _check_lengths(inputs, targets, weights, what)
    if weights is not None:
        weights = ready_weights(weights)
        if not weights.any():
            raise ValueError("sample_weight is 0 for every sample; expected some above 0.")
    source = Arrays(inputs, targets, weights)
    tables = {"x": x, "y": y}
    source.columns = {k: list(t.columns) for k, t in tables.items() if hasattr(t, "columns")}
    return source


def read_tree(value: Any, what: str, samples: int | None = None) -> Tree:
    """Array-likes -> tensors; a tuple or dict is several inputs, a list of arrays too.

    A list of arrays is one array of samples where its length is their number.
    """
    if isinstance(value, dict):
        return {key: to_tensor(part, f"{what}[{key!r:.40}]") for key, part in value.items()}
    if isinstance(value, (tuple, list)) and value and all(_is_array(part) for part in value):
        one_array = samples == len(value) and any(
            not getattr(part, "ndim", 1) or len(part) != samples for part in value
        )
        if not one_array and all(getattr(part, "ndim", 1) for part in value):
            return tuple(to_tensor(part, f"{what}[{i}]") for i, part in enumerate(value))
    return to_tensor(value, what)


def read_weights(value: Any, what: str, samples: int | None = None) -> Tensor | None:
    """Sample weights as one tensor."""
    if value is None:
        return None
    tree = None if isinstance(value, dict) else read_tree(value, what, samples)
    if not isinstance(tree, Tensor):
        raise TypeError(
            f"{what} is a {type(value).__name__} of {len(value)}; expected one number a row, (N,), "
            "which counts for all outputs alike. A factor for each output: loss_weights in "
            "compile; for each class: class_weight; for each row of each output: a compute_loss "
            "of your own."
        )
    return tree


def ready_weights(given: Tensor) -> Tensor:
    """Sample weights as float32 ``(N,)``, one finite number ≥ 0 a sample."""
    weights = given.float()
    check_finite(weights, "sample_weight", given)
    if weights.dim() > 1 and weights.numel() != len(weights):
        raise ValueError(
            f"sample_weight has shape {tuple(weights.shape)}; expected one number a sample, (N,). "
            "For a weight each time step or pixel write a compute_loss of your own."
        )
    if weights.numel() and float(weights.min()) < 0:
        raise ValueError(
            f"sample_weight has the value {float(weights.min()):g}; expected numbers ≥ 0."
        )
    return weights.reshape(-1)


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


def _check_lengths(inputs: Tree, targets: Tree, weights: Tensor | None, what: str) -> None:
    named = _named(inputs, what) + _named(targets, "y") + _named(weights, "sample_weight")
    lengths = [(name, len(tensor)) for name, tensor in named]
    if not lengths:
        raise ValueError(f"{what} holds no array; expected at least one.")
    first = lengths[0]
    for other in lengths[1:]:
        if other[1] != first[1]:
            raise ValueError(
                f"{first[0]} has {first[1]} samples but {other[0]} has {other[1]}; expected the "
                "same first axis."
            )
    if first[1] == 0:
        raise ValueError(f"{what} is empty (0 samples); expected at least one.")
    for tensor in leaves(inputs):
        if tensor.numel() == 0:
            raise ValueError(
                f"{what} has shape {tuple(tensor.shape)}, which holds no number; expected at "
                "least one feature."
            )


def _named(tree: Tree, what: str) -> list[tuple[str, Tensor]]:
    """The tensors with the names that the user knows them by."""
    if isinstance(tree, dict):
        return [(f"{what}[{key!r:.40}]", tensor) for key, tensor in tree.items()]
    if isinstance(tree, tuple):
        return [(f"{what}[{i}]", tensor) for i, tensor in enumerate(tree)]
    return [] if tree is None else [(what, tree)]


def _is_array(value: Any) -> bool:
    return any(hasattr(value, name) for name in ("ndim", "to_numpy", "__array__"))


def _is_dataset(value: Any) -> bool:
    if isinstance(value, (Dataset, IterableDataset)):
        return True
    plain = isinstance(value, (list, tuple, dict, str, DataLoader)) or _is_array(value)
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


def _is_stream(x: Any, y: Any) -> bool:
    if isinstance(x, (Dataset, DataLoader)):
        return True
    plain = (dict, str, bytes, int, float, os.PathLike, nn.Module)
    if isinstance(x, plain) or _is_array(x) or hasattr(x, "toarray"):
        return False
    if isinstance(x, (list, tuple)):  # a list of (x, y) batches
        pairs = all(isinstance(b, (list, tuple)) and len(b) in (2, 3) for b in x)
        return bool(x) and y is None and pairs and all(_is_array(b[0]) for b in x)
    return hasattr(x, "__iter__") or hasattr(x, "__getitem__") or callable(x)


def _unpack(item: Any, what: str) -> Batch:
    """``(x,)``, ``(x, y)``, ``(x, y, weight)`` or a bare ``x`` as tensors."""
    x, y, weight = item, None, None
    if isinstance(item, (tuple, list)):
        if len(item) not in (1, 2, 3):
            raise ValueError(
                f"{what} gave a batch of {len(item)} parts; expected (inputs, targets) or "
                "(inputs, targets, weights). Several inputs stand in one tuple: ((a, b), y)."
            )
        x, y, weight = (*item, None, None)[:3]
        if isinstance(y, (int, float, np.number)):
            raise ValueError(
                f"{what} gave the single target {y:g}; expected batches: inputs (N, …) with "
                "targets (N, …). For rows one by one give arrays, or a torch Dataset."
            )
    inputs = read_tree(x, f"inputs of {what}")
    targets = None if y is None else read_tree(y, f"targets of {what}")
    weights = read_weights(weight, f"weights of {what}")
    _check_lengths(inputs, targets, weights, what)
    return inputs, targets, None if weights is None else weights.float()


def _join(first: Batch, second: Batch) -> Batch:
    rest = iter(leaves(second))
    return map_tree(lambda t: torch.cat([t, next(rest)]), first)
