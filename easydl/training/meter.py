"""Running loss and metrics of one pass over the data, kept on the device until read."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from numpy import float64, ndarray
from torch import Tensor, nn

from easydl.data.convert import leaves, map_tree
from easydl.losses import denominator, is_index_loss
from easydl.metrics import F1Score, FunctionMetric, Metric, Precision, Recall
from easydl.metrics.base import counts_by_itself
from easydl.training.heads import Head

EVERY = 1024  # batches between two updates of the sums: metrics cost one call for all of them
CACHED = 131_072  # outputs and targets kept back for a CPU's metrics: its cache has them still
TOGETHER = 16  # outputs joined while the cache has them: a thousand tensors are slow to find again
LARGEST = 4_000_000  # outputs and targets kept back elsewhere
PLAIN = (type(None), bool, int, float, str, float64)
FUNCTIONS = (FunctionType, BuiltinFunctionType, partial, type, nn.Module)


class Meter:
    """Sample-weighted means: a batch counts by its rows, so a ragged last one is exact.

    Outputs are kept for up to 1024 batches and given to the metrics together: their calls cost that
    much less, and wait for the device only when somebody reads a number.

    A loss of torch's that counts class weights or ignored targets is averaged by what it counts,
    each output's by its own; the sum of the losses follows from these.

    Args:
        free_to_read: whether reading a number does not wait for a device.
    """

    def __init__(self, heads: list[Head], free_to_read: bool = False):
        self.heads, self.free_to_read = heads, free_to_read
        self._by_target = [head for head in heads if is_index_loss(head.loss)]
        self.named_metrics = [
            (f"{head.name}_{key}" if head.name else key, metric)
            for head in heads
            for key, metric in head.metrics + head.weighted_metrics
        ]
        self.asked = ""  # the metric that was asked last, for messages
        self.reset()

    def reset(self) -> None:
        self._parts: list[tuple[dict[str, Any], int]] = []
        self._forget_outputs()
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor | float] = {}
        for _, metric in self.named_metrics:
            metric.reset()

    def _forget_outputs(self) -> None:
        self._outputs: list[Any] = []  # of a batch, or of some that were joined
        self._targets: list[Any] = []
        self._weights: list[Tensor | None] = []
        self._size = self._apart = 0  # numbers in them; batches since outputs were last joined

    def add(
        self, parts: dict[str, Tensor], rows: int, outputs: Any, y: Any, w: Tensor | None
    ) -> None:
        """Take in one batch. ``parts`` are its mean losses by name."""
        if not self._parts and not self._sums:
            check_names([*parts, *(name for name, _ in self.named_metrics)])
        # A tensor as it is would keep its graph, with every activation, until the flush; reading
        # it costs less than detaching it, where that does not wait for a device.
        free = self.free_to_read
        values = {name: v.item() if free else v.detach() for name, v in parts.items()}
        self._parts.append((values, rows))
        if self.named_metrics:
            if isinstance(outputs, Tensor):  # most are, and every call counts
                kept = outputs.detach()
                self._size += kept.numel()
                self._apart += 1
            else:
                kept = map_tree(Tensor.detach, outputs)
                self._size += size_of(kept)
            self._outputs.append(kept)
            self._weights.append(w)
            if self._apart == TOGETHER:
                self._outputs[-TOGETHER:] = [torch.cat(self._outputs[-TOGETHER:])]
                self._apart = 0
        if self.named_metrics or self._by_target:
            self._targets.append(y)  # unweighted where only losses count: those batches differ
            self._size += y.numel() if isinstance(y, Tensor) else size_of(y)
        if len(self._parts) >= EVERY or self._size >= LARGEST:
            self.flush()
        elif self._size >= CACHED and free and not self._by_target:
            self._update_metrics()

    def flush(self) -> None:
        """Bring the sums up to date; waits for the device only to leave out ignored targets."""
        if self._parts:
            self._add_losses()
        if self._outputs:
            self._update_metrics()
        self._parts = []
        self._forget_outputs()

    def peek(self) -> dict[str, float]:
        """Means so far, without a trace: sums cut where somebody looked would round otherwise."""
        kept = vars(self) | {"_sums": dict(self._sums), "_counts": dict(self._counts)}
        gathered = set_aside(self.heads)
        try:
            return self.read()
        finally:
            vars(self).update(kept)
            take_back(gathered)

    def can_be_saved(self, device: torch.device) -> bool:
        """Whether a checkpoint gives all metrics back what they hold, with the sums on ``device``.

        Objects of another library know their sums themselves alone.
        """
        return all(
            comes_back(value, device)
            for _, metric in self.named_metrics
            for value in sums_of(metric).values()
        )

    def state_dict(self) -> dict[str, Any]:
        """The sums so far and what waits to be summed up, for a checkpoint."""
        return {
            "sums": self._sums,
            "counts": self._counts,
            "metrics": [copied(sums_of(metric)) for _, metric in self.named_metrics],
            "parts": self._parts,
            "outputs": self._outputs,
            "targets": self._targets,
            "weights": self._weights,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what ``state_dict`` gave, with the sums on ``device``."""
        state = on_device(state, device)
        self._sums, self._counts = state["sums"], state["counts"]
        self._parts, self._weights = state["parts"], state["weights"]
        self._outputs, self._targets = state["outputs"], state["targets"]
        self._size = sum(map(size_of, self._outputs + self._targets))
        for (_, metric), sums in zip(self.named_metrics, state["metrics"]):
            vars(metric).update(sums)

    def read(self) -> dict[str, float]:
        """Means so far. Waits for the device."""
        self.flush()
        logs = {name: float(total / self._counts[name]) for name, total in self._sums.items()}
        for head in self._heads_apart(logs):
            logs["loss"] += head.weight * logs[f"{head.name}_loss"]
        for name, metric in self.named_metrics:
            self.asked = name
            logs[name] = metric.result()
        return logs

    def _add_losses(self) -> None:
        columns = {}
        for name in self._parts[0][0]:
            found = [parts[name] for parts, _ in self._parts]
            if isinstance(found[0], Tensor):
                values = torch.stack(found)
                values = values.to("cpu" if values.device.type == "mps" else values.device)
                columns[name] = values.double()
            else:
                columns[name] = torch.tensor(found, dtype=torch.float64)
        for head in self._heads_apart(columns):
            columns["loss"] = columns["loss"] - head.weight * columns[f"{head.name}_loss"]
        for name, values in columns.items():
            counts = self._denominators(name, values)
            self._sums[name] = self._sums.get(name, 0.0) + (values * counts).sum()
            self._counts[name] = self._counts.get(name, 0.0) + counts.sum()

    def _denominators(self, name: str, values: Tensor) -> Tensor:
        """How much each batch's mean counts: its rows, or what its loss divided by."""
        for index, head in enumerate(self.heads):
            if head.counts_by_target and name == (f"{head.name}_loss" if head.name else "loss"):
                found = [denominator(head.loss, leaves(y)[index]) for y in self._targets]
                if None not in found:
                    return torch.stack(found).to(values)  # type: ignore[arg-type]
        return torch.tensor([rows for _, rows in self._parts], dtype=values.dtype).to(values)

    def _heads_apart(self, names: Mapping[str, Any]) -> list[Head]:
        """The outputs whose losses are taken out of the sum of losses, for their own means."""
        named = all(head.name and f"{head.name}_loss" in names for head in self.heads)
        return self.heads if self._by_target and named else []

    def _update_metrics(self) -> None:
        with torch.inference_mode():
            for index, head in enumerate(self.heads):
                if not head.metrics and not head.weighted_metrics:
                    continue
                predicted = head.measured(joined(self._outputs, index))
                labels = head.labels(joined(self._targets, index))
                given = self._weights
                weights = None if given[0] is None else torch.cat(given)  # type: ignore[arg-type]
                predicted, labels, weights = head.without_ignored(predicted, labels, weights)
                if not len(labels):
                    continue
                for metrics, weight in ((head.metrics, None), (head.weighted_metrics, weights)):
                    counted: dict[Any, Metric] = {}
                    for key, metric in metrics:
                        self.asked = key
                        twin = counted.setdefault(counts_of(metric), metric)
                        if twin is metric:
                            seen = head.seen_by(metric, predicted, labels)
                            if not is_own(metric):  # it may write into what the next one sees
                                seen = seen[0].clone(), seen[1].clone()
                            metric.update(*seen, weight)
                        else:
                            metric.state = dict(twin.state)
        self._forget_outputs()


def check_names(names: list[str]) -> None:
    """Refuse two logs of one name, validation's included: the history would have the last."""
    for name in names:
        if names.count(name) > 1 or (name[:4] == "val_" and name[4:] in names):
            raise ValueError(
                f"two logs are called {name!r}: a metric, and the loss, a part of it, another "
                "metric or a number of validation; expected a name for each. Write "
                "MyMetric(name='…'), easydl.metrics.FunctionMetric(function, '…') for a function, "
                "or another name of the output or part."
            )


def size_of(tree: Any) -> int:
    """How many numbers are in it."""
    return tree.numel() if isinstance(tree, Tensor) else sum(map(Tensor.numel, leaves(tree)))


def is_own(metric: Metric) -> bool:
    """Whether easydl's own code counts."""
    own = type(metric).__module__.startswith("easydl.metrics.")
    return own and not isinstance(metric, FunctionMetric)


def counts_of(metric: Metric) -> Any:
    """Equal for metrics that always count the same: precision, recall and F1 of the same kind."""
    if type(metric) in (Precision, Recall) or (type(metric) is F1Score and metric.average):
        return metric.threshold, metric.average is None  # type: ignore[attr-defined]
    return id(metric)


def joined(batches: list[Any], index: int) -> Tensor:
    """A copy of one output's, or one target's, rows of all batches: a metric may write into it."""
    if isinstance(batches[0], Tensor):
        return torch.cat(batches)
    return torch.cat([leaves(batch)[index] for batch in batches])


def sums_of(metric: Metric) -> dict[str, Any]:
    """What a metric may gather in: all that it holds but functions and networks."""
    return {
        name: value
        for name, value in vars(metric).items()
        if not (name == "function" and isinstance(metric, FunctionMetric))
        and (counts_by_itself(value) or not isinstance(value, FUNCTIONS))
    }


def comes_back(value: Any, device: torch.device) -> bool:
    """Whether a checkpoint, which has tensors, arrays and JSON, gives it back as it was."""
    if type(value) is dict:
        return all(type(key) in PLAIN and comes_back(item, device) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(comes_back(item, device) for item in value)
    if type(value) is Tensor:
        here = value.device.type == device.type or not value.dim()
        return here and value.layout is torch.strided and not value.is_complex()
    if type(value) is ndarray:
        return value.dtype.kind in "biuf" and value.dtype.isnative and value.dtype.itemsize <= 8
    return type(value) in PLAIN


def set_aside(heads: list[Head]) -> list[tuple[Metric, dict[str, Any]]]:
    """What each metric holds, which ``take_back`` gives back; meanwhile they count on copies."""
    metrics = [metric for head in heads for _, metric in head.metrics + head.weighted_metrics]
    held = [(metric, dict(vars(metric))) for metric in metrics]
    for metric, values in held:
        vars(metric).update((name, copied(value)) for name, value in values.items())
    return held


def copied(value: Any) -> Any:
    """A copy of what sums can be in; functions and networks as they are."""
    if type(value) in PLAIN or (isinstance(value, FUNCTIONS) and not counts_by_itself(value)):
        return value
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    try:
        return copy.deepcopy(value)
    except Exception:  # a lock, say
        return value


def take_back(held: list[tuple[Metric, dict[str, Any]]]) -> None:
    """Go on from what ``set_aside`` gave."""
    for metric, values in held:
        vars(metric).clear()
        vars(metric).update(values)


def on_device(value: Any, device: torch.device) -> Any:
    """Tuples, lists and dicts of any depth with their tensors on ``device``."""
    if isinstance(value, (tuple, list)):
        return type(value)(on_device(item, device) for item in value)
    if isinstance(value, dict):
        return {key: on_device(item, device) for key, item in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


class BatchLogs(Mapping):
    """Running means as a callback sees them at a batch's end; the device is read on access."""

    def __init__(self, meter: Meter):
        self._meter = meter

    def __getitem__(self, name: str) -> float:
        return self._meter.peek()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._meter.peek())

    def __len__(self) -> int:
        return len(self._meter.peek())

    def items(self) -> Any:
        """All of them, reading the device once."""
        return self._meter.peek().items()

    def __repr__(self) -> str:
        return repr(self._meter.peek())
