"""What is measured beside the loss: exact over all rows, whatever the batches were.

A metric adds up sums and counts on the device of the outputs and is read when somebody asks:
``update(y_pred, y_true)`` for every batch, ``result()`` at the end, ``reset()`` before the next
epoch. No ``update`` waits for the device. Sums are float64 (float32 on Apple's MPS, which has no
float64) and counts of hits are integers, so that millions of batches lose nothing.

``y_pred`` is what ``predict`` gives, with the classes on the last axis: ``(N, …, K)``. ``y_true``
is class indices ``(N, …)``, one-hot ``(N, …, K)``, or of the same shape. ``(N,)`` and ``(N, 1)``
are aligned; whatever else would broadcast is an error with both shapes. ``sample_weight`` is one
number for a row ``(N,)``, or one for a position ``(N, T)``. Where torch's loss ignores targets
(``ignore_index``), ``fit`` and ``evaluate`` leave these out: the metrics see the other rows, and
of sequences and pictures the other positions one after the other, ``(M, K)`` and ``(M,)``.

Before any row was seen, and where a quotient has no denominator, the result is 0.0 as in Keras,
unless the metric's own text says nan.
"""

from __future__ import annotations

import copy
import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easydl.errors import (
    check_between,
    check_positive_int,
    is_dead_worker,
    look_up,
    made_of,
    refuse_turned,
    refuse_uncalled,
)
from easydl.losses import in_torch_order

AVERAGES = (None, "micro", "macro", "weighted")


class Metric:
    """Base of all metrics: subclass it with ``update`` and ``result`` for your own.

    Attributes:
        name: the key in the history.
        state: the sums so far, by name; ``reset`` empties it.
        by_rank: whether only the order of a row's outputs counts, which a softmax leaves; not
            inherited.

    Example:
        >>> class LargestError(Metric):
        ...     def update(self, y_pred, y_true, sample_weight=None):
        ...         error = (y_pred - y_true).abs().max()
        ...         self.state["max"] = torch.maximum(self.state.get("max", error), error)
        ...
        ...     def result(self):
        ...         return float(self.state["max"])
        >>> metric = LargestError()
        >>> metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.0]))
        >>> metric.name, metric.result()
        ('largest_error', 0.5)
    """

    by_rank = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        known = {
            "update(self, y_pred, y_true, sample_weight=None)": (
                "update_state", "call", "forward", "__call__",
            ),
            "result(self)": ("compute",),
            "reset(self)": ("reset_state", "reset_states"),
        }  # fmt: skip
        refuse_uncalled(cls, known)
        refuse_turned(cls.__name__, cls.update)

    def __init__(self, name: str | None = None) -> None:
        self.name = name or _snake(type(self).__name__)
        self.state: dict[str, Tensor] = {}

    def update(self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None = None) -> None:
        """Take one batch in."""
        raise NotImplementedError(
            f"{type(self).__name__} has no update(self, y_pred, y_true, sample_weight=None)"
        )

    def result(self) -> Any:
        """The value over everything since ``reset``: a float, or an array where the class says."""
        raise NotImplementedError(f"{type(self).__name__} has no result(self)")

    def reset(self) -> None:
        """Forget everything."""
        self.state = {}

    def _add(self, **sums: Tensor) -> None:
        # Not in place: sums made under torch.inference_mode() may not be changed outside it.
        for key, value in sums.items():
            self.state[key] = self.state[key] + value if key in self.state else value

    def _read(self, *keys: str) -> list[np.ndarray]:
        return [self.state[key].cpu().double().numpy() for key in keys]


class _Mean(Metric):
    """The mean over the rows; the value of a row is the mean of its elements, as in Keras."""

    def _values(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """One value for each row, position or element: (N, …)."""
        raise NotImplementedError

    def update(self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None = None) -> None:
        """Take one batch in."""
        self._take(self._values(y_pred.detach(), y_true.detach()), sample_weight)

    def _take(self, values: Tensor, sample_weight: Tensor | None) -> None:
        rows = values.shape[0]
        if sample_weight is None:
            # The count stays on the CPU: it is known without asking the device.
            self._add(total=_sum_of_rows(values), count=torch.tensor(rows))
        else:
            weight = _weight(self, sample_weight, values)
            self._add(total=_sum_of_rows(values * weight), count=_sum_of_rows(weight))

    def result(self) -> float:
        """The mean so far."""
        if not self.state:
            return 0.0
        total, count = self._read("total", "count")
        return float(_ratio(total, count))


class BinaryAccuracy(_Mean):
    """The share of outputs on the right side of the threshold, each output judged by itself.

    Args:
        threshold: outputs above it count as 1.
        name: the key in the history.

    Shape:
        ``(N,)`` or ``(N, 1)`` outputs, or ``(N, L)`` for L labels that may hold together.

    Raises:
        ValueError: if outputs and targets have different shapes.

    Example:
        >>> metric = BinaryAccuracy()
        >>> metric.update(torch.tensor([0.9, 0.4, 0.6, 0.2]), torch.tensor([1, 0, 0, 0]))
        >>> metric.result()
        0.75
    """

    def __init__(self, threshold: float = 0.5, name: str | None = None) -> None:
        super().__init__(name)
        self.threshold = _number("threshold", threshold)

    def _values(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        y_true = _aligned(self, y_pred, y_true, "for classes, use 'sparse_categorical_accuracy'")
        return (y_pred > self.threshold) == y_true


class CategoricalAccuracy(_Mean):
    """The share of rows whose largest output is the right class.

    The targets may be one-hot or class indices.

    Args:
        name: the key in the history.

    Shape:
        Outputs ``(N, …, K)`` with K > 1; targets ``(N, …, K)``, ``(N, …)`` or ``(N, …, 1)``.

    Raises:
        ValueError: for a single output column, or targets of another shape.

    Example:
        >>> metric = CategoricalAccuracy()
        >>> metric.update(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        >>> metric.result()
        0.5
    """

    by_rank = True

    def _values(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        return y_pred.argmax(-1) == _class_indices(self, y_pred, y_true)


class SparseCategoricalAccuracy(CategoricalAccuracy):
    """``CategoricalAccuracy`` under Keras's name for class indices; it takes one-hot rows too."""


class Accuracy(_Mean):
    """The share of right predictions, of the kind that the shapes say, as Keras decides it.

    One output column: binary at 0.5. More columns: the largest one is the class, and the targets
    are class indices or one-hot rows. Several yes/no labels in one row, which have the shape of
    one-hot rows, are for ``"binary_accuracy"``.

    Args:
        name: the key in the history.

    Shape:
        Outputs ``(N,)``, ``(N, …, 1)`` or ``(N, …, K)``; targets the same, or without the last
        axis.

    Units:
        A fraction from 0 to 1.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> metric = Accuracy()
        >>> metric.update(torch.tensor([[0.9], [0.4]]), torch.tensor([1, 1]))
        >>> metric.result()
        0.5
    """

    by_rank = True  # where there is more than one column, as a softmax has

    def _values(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        if _one_column(y_pred):
            return (y_pred > 0.5) == _aligned(self, y_pred, y_true, "check the last layer's units")
        return y_pred.argmax(-1) == _class_indices(self, y_pred, y_true)


class TopKCategoricalAccuracy(_Mean):
    """The share of rows whose right class is among the k largest outputs.

    The targets may be one-hot or class indices. A tie for the last place counts as a hit, as in
    Keras.

    Args:
        k: how many guesses are allowed.
        name: the key in the history.

    Shape:
        Outputs ``(N, …, K)`` with K ≥ k; targets ``(N, …, K)``, ``(N, …)`` or ``(N, …, 1)``.

    Raises:
        ValueError: if there are fewer outputs than k, or the shapes do not fit.

    Example:
        >>> metric = TopKCategoricalAccuracy(k=2)
        >>> metric.update(torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]), torch.tensor([1, 2]))
        >>> metric.result()
        0.5
    """

    by_rank = True

    def __init__(self, k: int = 5, name: str | None = None) -> None:
        super().__init__(name)
        self.k = check_positive_int("k", k)

    def _values(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        index = _class_indices(self, y_pred, y_true).unsqueeze(-1)
        if self.k > y_pred.shape[-1]:
            raise ValueError(
                f"{self.name} with k={self.k} was given {y_pred.shape[-1]} classes, where it is "
                f"always 1; expected at least {self.k}. Write TopKCategoricalAccuracy(k=…) with a "
                "smaller k."
            )
        right = y_pred.gather(-1, index.long())
        # "not ≤" rather than ">", so that a NaN output ranks above and is no hit.
        return (~(y_pred <= right)).sum(-1) < self.k


class SparseTopKCategoricalAccuracy(TopKCategoricalAccuracy):
    """``TopKCategoricalAccuracy`` under Keras's name for class indices."""


class MeanSquaredError(_Mean):
    """The mean of the squared differences.

    Args:
        name: the key in the history.

    Shape:
        Outputs and targets of one shape.

    Raises:
        ValueError: if the shapes differ by more than a last axis of 1.

    Example:
        >>> metric = MeanSquaredError()
        >>> metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        >>> metric.result()
        2.0
    """

    def _values(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        return (_floating(y_pred) - _aligned(self, y_pred, y_true)).square()


class RootMeanSquaredError(MeanSquaredError):
    """The square root of the mean squared difference, in the units of the targets.

    Args:
        name: the key in the history.

    Shape:
        Outputs and targets of one shape.

    Example:
        >>> metric = RootMeanSquaredError()
        >>> metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        >>> round(metric.result(), 4)
        1.4142
    """

    def result(self) -> float:
        """The root of the mean so far."""
        return math.sqrt(super().result())


class MeanAbsoluteError(_Mean):
    """The mean of the absolute differences, in the units of the targets.

    Args:
        name: the key in the history.

    Shape:
        Outputs and targets of one shape.

    Example:
        >>> metric = MeanAbsoluteError()
        >>> metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        >>> metric.result()
        1.0
    """

    def _values(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        return (_floating(y_pred) - _aligned(self, y_pred, y_true)).abs()


class CosineSimilarity(_Mean):
    """The mean cosine of the angle between output and target vectors: 1 for equal directions.

    Formula: ``Σ p·t / (‖p‖ · ‖t‖)`` over the last axis; 0 for a zero vector.

    Args:
        name: the key in the history.

    Shape:
        Outputs and targets ``(N, …, D)``.

    Raises:
        ValueError: for outputs without a vector axis, or targets of another shape.

    Example:
        >>> metric = CosineSimilarity()
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1, 0], [1, 0]]))
        >>> metric.result()
        0.5
    """

    def _values(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        if y_pred.ndim < 2:
            raise ValueError(
                f"{self.name} was given outputs of shape {_shape(y_pred)}; expected vectors (N, D)."
            )
        y_pred = _floating(y_pred)
        y_true = _aligned(self, y_pred, y_true).to(y_pred.dtype)
        return (F.normalize(y_pred, dim=-1) * F.normalize(y_true, dim=-1)).sum(-1)


class FunctionMetric(_Mean):
    """The mean of a function of the batch; what a callable in ``metrics=[…]`` becomes.

    Args:
        function: ``(y_pred, y_true) -> tensor``, a value for each row ``(N, …)`` or the mean of
            the batch, which then counts as many rows as the batch has.
        name: the key in the history; the function's own name if None.

    Raises:
        ValueError: if the function returns another number of rows, or a batch mean is to be
            weighted by row.

    Example:
        >>> metric = FunctionMetric(F.l1_loss)
        >>> metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        >>> metric.name, metric.result()
        ('l1_loss', 1.0)
    """

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        inner = function.func if isinstance(function, functools.partial) else function
        named = getattr(function, "__name__", None) or getattr(inner, "__name__", None)
        super().__init__(name or named or _snake(type(inner).__name__))
        self.function = function

    def update(self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None = None) -> None:
        """Take one batch in."""
        y_pred, y_true = y_pred.detach(), y_true.detach()
        rows = y_pred.shape[0]
        # (N,) beside (N, 1) would broadcast to (N, N), and one row to all of them.
        if y_true.numel() == y_pred.numel() or y_true.shape[:1] != y_pred.shape[:1]:
            y_true = _aligned(self, y_pred, y_true)
        values = torch.as_tensor(self.function(y_pred, y_true)).detach()
        if values.ndim == 0:
            if sample_weight is not None:
                raise ValueError(
                    f"{self.name} returned the mean of the batch, which sample weights cannot "
                    "weight any more; return one value for each row, for example with "
                    "reduction='none', or leave the weights out."
                )
            total = values.to(_wide(values)) * rows
            self._add(total=total, count=torch.tensor(rows))
        elif values.shape[0] != rows:
            raise ValueError(
                f"{self.name} returned shape {tuple(values.shape)} for {rows} rows; expected one "
                "value for each row, (N,), or their mean."
            )
        else:
            self._take(values, sample_weight)


class ObjectMetric(Metric):
    """A metric of torchmetrics' kind: it takes batches in and is asked once, at the end.

    What an object with ``update(y_pred, y_true)``, ``compute()`` and ``reset()`` becomes in
    ``metrics=[…]``. Called like a function it would give each batch's value, and the mean of those
    is not the value of all rows. Checkpoints amid an epoch are left out beside such a metric.

    Args:
        metric: the object.
        name: the key in the history; the class's own in small letters if None.

    Shape:
        Probabilities ``(N, K, …)`` with class indices ``(N, …)`` after a crossentropy of classes,
        one-hot rows or not; after other losses outputs and targets ``(N, …)`` alike. Beside
        probabilities, targets of 0 and 1 are int64, unless the object takes floats alone.

    Raises:
        TypeError: a method is missing, ``update`` takes ``(y_true, y_pred)``, or ``compute`` gives
            neither a number nor a tensor.
        ValueError: with sample weights, which such metrics have no place for; where the object
            fails.

    Example:
        >>> import torchmetrics  # doctest: +SKIP
        >>> metric = ObjectMetric(torchmetrics.AUROC(task="binary"), "area")  # doctest: +SKIP
    """

    def __init__(self, metric: Any, name: str | None = None) -> None:
        super().__init__(name or _snake(type(metric).__name__))
        if not _counts_by_itself(metric):
            raise TypeError(
                f"{metric!r:.80} was given to ObjectMetric; expected an object with "
                "update(y_pred, y_true), compute() and reset(), as torchmetrics' are."
            )
        refuse_turned(type(metric).__name__, metric.update)
        self.metric = metric
        self.takes_integers: bool | None = None  # beside outputs of the same shape; not tried yet

    def update(self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None = None) -> None:
        """Take one batch in."""
        if sample_weight is not None:
            raise ValueError(
                f"{self.name} was given sample weights, which it has no place for; expected it in "
                "metrics=[…], not in weighted_metrics=[…]."
            )
        # Its sums may be changed in place later, outside of torch.inference_mode().
        with torch.inference_mode(False), torch.no_grad():
            if isinstance(self.metric, nn.Module):
                self.metric.to(y_pred.device)
            y_true = self._as_taken(y_pred, y_true)
            self._ask("update", y_pred.clone(), y_true.clone())

    def _as_taken(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Integers as floats for an object that wants such, as torchmetrics' correlations do."""
        if y_true.is_floating_point() or y_true.shape != y_pred.shape:
            return y_true
        if self.takes_integers is None:
            try:
                tried = copy.deepcopy(self.metric)
                tried.update(y_pred.clone(), y_true.clone())
                tried.compute()
                self.takes_integers = True
            except Exception:
                self.takes_integers = False
        return y_true if self.takes_integers else y_true.to(y_pred.dtype)

    def _ask(self, verb: str, *given: Tensor) -> Any:
        try:
            return getattr(self.metric, verb)(*given)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if is_dead_worker(error):
                raise
            what = " and ".join(f"{_shape(value)} of {value.dtype}" for value in given)
            raise ValueError(
                f"the metric {self.name} failed in {verb}({what}): {type(error).__name__}: "
                f"{str(error)[:250]}; expected a metric of such outputs and targets: write another "
                "task, num_classes or num_labels, or one of easydl's by name."
            ) from error

    def result(self) -> Any:
        """What ``compute`` gives: a number, or an array."""
        value = self._ask("compute")
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy().copy()
        if not isinstance(value, (int, float, np.ndarray, np.generic)):
            raise TypeError(
                f"{type(self.metric).__name__}.compute() returned a {type(value).__name__}; "
                "expected a number or a tensor. Write the metrics of a collection one by one."
            )
        return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.metric.reset()


def _counts_by_itself(value: Any) -> bool:
    """Whether an object keeps its own sums, as metrics of torchmetrics do."""
    return all(callable(getattr(value, verb, None)) for verb in ("update", "compute", "reset"))


class R2Score(Metric):
    """The share of the targets' variance that the outputs explain, averaged over the outputs.

    Formula: ``1 − Σ(y − ŷ)² / Σ(y − ȳ)²``. For constant targets, as in Keras: 0.0 if the outputs
    are not exact, nan if they are. The sums are shifted by the first target, which keeps their
    digits when the mean is far from 0.

    Args:
        name: the key in the history.

    Shape:
        ``(N,)``, ``(N, D)`` or ``(N, …, D)``, outputs and targets alike.

    Raises:
        ValueError: if the shapes differ by more than a last axis of 1.

    Example:
        >>> metric = R2Score()
        >>> metric.update(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0]))
        >>> metric.result()
        0.5
    """

    def update(self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None = None) -> None:
        """Take one batch in."""
        if y_pred.shape[0] == 0:
            return
        wide = _wide(y_pred)
        y_pred, y_true = y_pred.detach(), y_true.detach()
        y_true = _aligned(self, y_pred, y_true).to(wide)
        weight = (
            torch.ones((), dtype=wide, device=y_true.device)
            if sample_weight is None
            else _weight(self, sample_weight, y_true)
        ).expand_as(y_true)
        columns = y_true.shape[-1] if y_true.ndim > 1 else 1
        # (rows and positions, outputs)
        pred, true, weight = (x.reshape(-1, columns) for x in (y_pred.to(wide), y_true, weight))
        shift = self.state.setdefault("shift", true[0].clone())
        moved = true - shift
        self._add(
            count=weight.sum(0),
            first=(weight * moved).sum(0),
            second=(weight * moved.square()).sum(0),
            residual=(weight * (true - pred).square()).sum(0),
        )

    def result(self) -> float:
        """R² so far."""
        if not self.state:
            return 0.0
        count, first, second, residual = self._read("count", "first", "second", "residual")
        variation = second - first * _ratio(first, count)
        scores = np.where(variation > 0, 1 - _ratio(residual, variation), 0.0)
        return float(np.where((variation <= 0) & (residual == 0), np.nan, scores).mean())


class _Counts(Metric):
    """True positives, predicted and actual positives: one of each, or one for each class."""

    def __init__(self, threshold: float | None, average: str | None, name: str | None) -> None:
        super().__init__(name)
        if average not in AVERAGES:
            raise ValueError(
                f"average={average!r} was given to {type(self).__name__}; expected one of "
                "None, 'micro', 'macro', 'weighted'."
            )
        self.threshold = None if threshold is None else _number("threshold", threshold)
        self.average = average
        self.by_rank = threshold is None and average is not None

    def _update(
        self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None, binary: bool
    ) -> None:
        y_pred, y_true = y_pred.detach(), y_true.detach()
        if self.threshold is None and not binary:
            self._update_classes(y_pred, y_true, sample_weight)
            return
        if binary and not _one_column(y_pred) and y_pred.shape[-1] == 2:
            raise ValueError(_two_columns(self, y_pred))
        y_true = _aligned(self, y_pred, y_true, "for classes, write average='macro'") > 0
        predicted = y_pred > (0.5 if self.threshold is None else self.threshold)
        columns = 1 if binary or y_pred.ndim == 1 else y_pred.shape[-1]
        weight = None
        if sample_weight is not None:
            weight = _weight(self, sample_weight, y_pred).expand_as(y_pred).reshape(-1, columns)
        for key, positive in (
            ("hits", predicted & y_true),
            ("predicted", predicted),
            ("actual", y_true),
        ):
            positive = positive.reshape(-1, columns)
            self._add(**{key: (positive if weight is None else positive * weight).sum(0)})

    def _update_classes(self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None) -> None:
        classes, predicted, actual, weight = _classified(self, y_pred, y_true, sample_weight)
        self._add(
            hits=_histogram(predicted, weight * (predicted == actual), classes),
            predicted=_histogram(predicted, weight, classes),
            # One more bin for labels that are no class: found when the result is read.
            actual=_histogram(actual, weight, classes + 1),
        )

    def _quotient(self, hits: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def result(self) -> Any:
        """A float; an array with a value for each class where ``average`` is None."""
        if not self.state:
            return 0.0
        hits, predicted, actual = self._read("hits", "predicted", "actual")
        if len(actual) > len(hits):
            _check_labels(self, actual[-1], len(hits))
            actual = actual[:-1]
        if self.average == "micro":
            hits, predicted, actual = hits.sum(), predicted.sum(), actual.sum()
        values = self._quotient(hits, predicted, actual)
        if self.average == "weighted":
            return float(_ratio((values * actual).sum(), actual.sum()))
        if self.average is not None:
            return float(values.mean())
        return float(values[0]) if len(values) == 1 else values


class Precision(_Counts):
    """How many of the predicted positives are positive.

    Formula: ``TP / (TP + FP)``; 0.0 if nothing was predicted positive.

    Args:
        thresholds: outputs above it count as positive; 0.5 if None.
        average: None for yes/no outputs (several labels are counted together, as in Keras). For
            classes ``"macro"`` (mean over all K outputs, also those that never occur),
            ``"weighted"`` (by the classes' frequency) or ``"micro"``, each row belonging to its
            largest output. With ``thresholds`` given too, the columns are labels that may hold
            together, averaged.
        name: the key in the history.

    Shape:
        Outputs ``(N,)`` or ``(N, 1)``, or ``(N, …, K)``; targets as the module says.

    Raises:
        ValueError: for two output columns without ``average``, or shapes that do not fit.

    Example:
        >>> metric = Precision()
        >>> metric.update(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([1, 0, 1]))
        >>> metric.result()
        0.5
    """

    def __init__(
        self,
        thresholds: float | None = None,
        average: str | None = None,
        name: str | None = None,
    ) -> None:
        if thresholds is not None:
            thresholds = _number("thresholds", thresholds)
        super().__init__(thresholds, average, name)

    def update(self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None = None) -> None:
        """Take one batch in."""
        self._update(y_pred, y_true, sample_weight, binary=self.average is None)

    def _quotient(self, hits: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
        return _ratio(hits, predicted)


class Recall(Precision):
    """How many of the actual positives were found.

    Formula: ``TP / (TP + FN)``; 0.0 if there are none. The arguments are ``Precision``'s.

    Shape:
        Outputs ``(N,)`` or ``(N, 1)``, or ``(N, …, K)``; targets as the module says.

    Units:
        A fraction from 0 to 1.

    Example:
        >>> metric = Recall()
        >>> metric.update(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([1, 0, 1]))
        >>> metric.result()
        0.5
    """

    def _quotient(self, hits: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
        return _ratio(hits, actual)


class F1Score(_Counts):
    """The harmonic mean of precision and recall.

    Formula: ``2·TP / (2·TP + FP + FN)``; 0.0 for a class that neither occurs nor is predicted.

    Args:
        average: None: a value for each class (``result`` is an array), or for one output column
            the F1 of the positives. ``"macro"``: their mean over all K outputs; ``"weighted"``: by
            the classes' frequency; ``"micro"``: of all counts together.
        threshold: None: each row belongs to its largest output. A number: the columns are labels
            that may hold together, each positive above it.
        name: the key in the history.

    Shape:
        Outputs ``(N,)`` or ``(N, 1)``, or ``(N, …, K)``; targets as the module says.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> metric = F1Score()
        >>> y_pred = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
        >>> metric.update(y_pred, torch.tensor([0, 1, 1]))
        >>> metric.result().round(3).tolist()
        [0.667, 0.667]
    """

    def __init__(
        self,
        average: str | None = None,
        threshold: float | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(threshold, average, name)

    def update(self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None = None) -> None:
        """Take one batch in."""
        binary = self.average is None and _one_column(y_pred)
        self._update(y_pred, y_true, sample_weight, binary=binary)

    def _quotient(self, hits: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
        return _ratio(2 * hits, predicted + actual)


class ConfusionMatrix(Metric):
    """How often each class (row) was taken for each class (column), as in scikit-learn.

    ``result`` is an array ``(K, K)``: whole numbers, or sums of weights. One output column is
    two classes, split at 0.5.

    Args:
        classes: how many classes, or their names; checked against the outputs. None: as many as
            there are outputs.
        name: the key in the history.

    Shape:
        Outputs ``(N,)``, ``(N, 1)`` or ``(N, …, K)``; targets as the module says.

    Raises:
        ValueError: if the outputs are not ``classes`` many, or a label is no class.

    Example:
        >>> metric = ConfusionMatrix()
        >>> y_pred = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
        >>> metric.update(y_pred, torch.tensor([0, 1, 1]))
        >>> metric.result().tolist()
        [[1, 0], [1, 1]]
    """

    def __init__(self, classes: int | Sequence[Any] | None = None, name: str | None = None) -> None:
        super().__init__(name)
        self.classes = classes
        named = isinstance(classes, (list, tuple))
        count = len(classes) if named else classes  # type: ignore[arg-type]
        self._size = None if count is None else check_positive_int("classes", count, minimum=2)

    def update(self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None = None) -> None:
        """Take one batch in."""
        classes, predicted, actual, weight = _classified(
            self, y_pred.detach(), y_true.detach(), sample_weight
        )
        if self._size not in (None, classes):
            raise ValueError(
                f"{self.name} was made for {self._size} classes and the outputs have "
                f"{classes} (shape {_shape(y_pred)}); write ConfusionMatrix({classes})."
            )
        cells = _histogram(actual * classes + predicted, weight, (classes + 1) * classes)
        self._add(cells=cells.reshape(classes + 1, classes))
        if sample_weight is not None:
            self.state["weighted"] = torch.tensor(True)

    def result(self) -> np.ndarray:
        """The matrix so far."""
        if not self.state:
            return np.zeros((self._size or 0, self._size or 0), dtype=np.int64)
        (cells,) = self._read("cells")
        _check_labels(self, cells[-1].sum(), cells.shape[1])
        return cells[:-1] if "weighted" in self.state else cells[:-1].round().astype(np.int64)


class AUC(Metric):
    """The area under the ROC curve: how often a positive is ranked above a negative.

    Exact, with ties counted half, where Keras's has 200 thresholds; so it keeps every score, label
    and weight on the device until ``reset`` (5 bytes a row, 13 with weights). The scores may be
    probabilities or logits. Without both classes, and if a score is NaN, the result is nan.

    Reference: Fawcett, 2006, An introduction to ROC analysis, algorithm 3.

    Args:
        curve: ``"ROC"``, or ``"PR"`` for the average precision
            ``Σ (recallᵢ − recallᵢ₋₁) · precisionᵢ`` (nan without positives).
        average: None for yes/no outputs (several labels are ranked together, as in Keras). For
            classes or labels in columns ``"macro"`` (each column against the rest, then the mean),
            ``"weighted"`` (by the positives of each) or ``"micro"`` (all columns together).
        name: the key in the history.

    Shape:
        Outputs ``(N,)`` or ``(N, 1)``, or ``(N, …, K)``; targets as the module says.

    Raises:
        ValueError: for two output columns without ``average``, or shapes that do not fit.

    Example:
        >>> metric = AUC()
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> metric.result()
        0.75
    """

    def __init__(
        self, curve: str = "ROC", average: str | None = None, name: str | None = None
    ) -> None:
        super().__init__(name)
        if curve not in ("ROC", "PR"):
            raise ValueError(f"curve={curve!r} was given to AUC; expected 'ROC' or 'PR'.")
        if average not in AVERAGES:
            raise ValueError(
                f"average={average!r} was given to AUC; expected one of None, 'micro', 'macro', "
                "'weighted'."
            )
        self.curve = curve
        self.average = average
        self.batches: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def update(self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None = None) -> None:
        """Keep one batch."""
        y_pred, y_true = _floating(y_pred.detach()), y_true.detach()
        if self.average is None and not _one_column(y_pred) and y_pred.shape[-1] == 2:
            raise ValueError(_two_columns(self, y_pred))
        if self.average is None or _one_column(y_pred) or y_true.shape == y_pred.shape:
            true = _aligned(self, y_pred, y_true, "for classes, write average='macro'") > 0
        else:
            index = _class_indices(self, y_pred, y_true).unsqueeze(-1)
            true = index == torch.arange(y_pred.shape[-1], device=index.device)
        weight = None
        if sample_weight is not None:
            weight = _weight(self, sample_weight, y_pred).expand_as(y_pred)
        columns = y_pred.shape[-1] if self.average in ("macro", "weighted") else 1
        if y_pred.ndim == 1:
            columns = 1
        # Copies: the caller may overwrite outputs and weights with the next batch's.
        self.batches.append(
            (
                y_pred.reshape(-1, columns).clone(),
                true.reshape(-1, columns),
                None if weight is None else weight.reshape(-1, columns).clone(),
            )
        )

    def result(self) -> float:
        """The area under the curve of everything kept."""
        if not self.batches:
            return 0.0
        device = self.batches[0][0].device
        if device.type == "mps" or torch.are_deterministic_algorithms_enabled():
            device = torch.device("cpu")  # MPS has no float64, CUDA no deterministic cumsum
        scores = torch.cat([batch[0].to(device) for batch in self.batches])
        true = torch.cat([batch[1].to(device) for batch in self.batches])
        weight = torch.ones((), dtype=torch.float64, device=device).expand_as(scores)
        if any(batch[2] is not None for batch in self.batches):
            weight = torch.cat(
                [
                    torch.ones_like(batch[0], dtype=torch.float64, device=device)
                    if batch[2] is None
                    else batch[2].to(device).double()
                    for batch in self.batches
                ]
            )
        areas = torch.stack(
            [_area(*column, curve=self.curve) for column in zip(scores.T, true.T, weight.T)]
        )
        share = (weight * true).sum(0) if self.average == "weighted" else torch.ones_like(areas)
        return float((areas * share).sum() / share.sum())

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.batches = []


NAMES: dict[str, type[Metric]] = {
    "accuracy": Accuracy,
    "acc": Accuracy,
    "binary_accuracy": BinaryAccuracy,
    "categorical_accuracy": CategoricalAccuracy,
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "top_k_categorical_accuracy": TopKCategoricalAccuracy,
    "sparse_top_k_categorical_accuracy": SparseTopKCategoricalAccuracy,
    "precision": Precision,
    "recall": Recall,
    "f1_score": F1Score,
    "f1": F1Score,
    "auc": AUC,
    "confusion_matrix": ConfusionMatrix,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "root_mean_squared_error": RootMeanSquaredError,
    "rmse": RootMeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "mae": MeanAbsoluteError,
    "r2_score": R2Score,
    "r2": R2Score,
    "cosine_similarity": CosineSimilarity,
}


def get(spec: Any) -> Metric:
    """``spec`` as a metric object.

    Args:
        spec: a name in any case (kept as the key in the history), a metric, a class of this file,
            a callable ``(y_pred, y_true) -> tensor``, or an object of torchmetrics' kind
            (``ObjectMetric``).

    Raises:
        ValueError: for an unknown name, with the nearest one.
        TypeError: for anything that cannot be a metric, Keras's objects included, or was not
            initialised.

    Example:
        >>> get("acc").name, type(get("acc")).__name__
        ('acc', 'Accuracy')
    """
    if isinstance(spec, str):
        return look_up("metric", spec, NAMES)(name=spec)
    if isinstance(spec, Metric):
        if not hasattr(spec, "state"):
            kind = type(spec).__name__
            raise TypeError(
                f"the metric {kind} has neither name nor state; expected {kind}.__init__ to begin "
                "with super().__init__()."
            )
        return spec
    if hasattr(spec, "update_state"):
        kind = (spec if isinstance(spec, type) else type(spec)).__name__
        known = [cls.__name__ for cls in NAMES.values()]
        raise TypeError(
            f"the metric {spec!r:.80} was given, which counts in update_state as Keras's do; "
            f"expected easydl.metrics.{kind if kind in known else 'Metric'} (or a subclass with "
            "update(self, y_pred, y_true, sample_weight=None)), a name, or a function."
        )
    if isinstance(spec, type):
        if issubclass(spec, Metric):
            return get(made_of("metric", spec))
        raise TypeError(
            f"the class {spec.__name__} was given as a metric; expected an object: write "
            f"{spec.__name__}()."
        )
    if _counts_by_itself(spec):
        return ObjectMetric(spec)
    if callable(spec):
        return FunctionMetric(in_torch_order(spec))
    raise TypeError(
        f"{spec!r:.80} was given as a metric; expected a name such as 'accuracy', an object such "
        "as easydl.metrics.AUC(), or a callable (y_pred, y_true) -> tensor."
    )


def _area(scores: Tensor, true: Tensor, weight: Tensor, curve: str) -> Tensor:
    """The area under one curve: scores, labels and weights (n,) → a float64 scalar."""
    order = scores.argsort(descending=True)
    scores, positive, weight = scores[order], true[order].double(), weight[order]
    hits = (positive * weight).cumsum(0)
    false = ((1 - positive) * weight).cumsum(0)
    # Equal scores are one point of the curve: the last of them.
    ends = torch.cat([scores[1:] != scores[:-1], torch.ones_like(scores[:1], dtype=torch.bool)])
    zero = hits.new_zeros(1)
    hits, false = torch.cat([zero, hits[ends]]), torch.cat([zero, false[ends]])
    if curve == "PR":
        precision = hits / (hits + false).clamp(min=torch.finfo(torch.float64).tiny)
        area = (precision[1:] * hits.diff()).sum() / hits[-1]
    else:
        area = torch.trapezoid(hits, false) / (hits[-1] * false[-1])
    return torch.where(scores.isnan().any(), torch.nan, area)


def _classified(
    metric: Metric, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None
) -> tuple[int, Tensor, Tensor, Tensor]:
    """K, and flat: predicted classes, actual classes (K for labels that are none), weights."""
    if _one_column(y_pred):
        classes, predicted = 2, (y_pred > 0.5).long()
        actual = _aligned(metric, y_pred, y_true).long()
    else:
        classes, predicted = y_pred.shape[-1], y_pred.argmax(-1)
        actual = _class_indices(metric, y_pred, y_true).long()
    if sample_weight is None:
        weight = torch.ones((), dtype=_wide(y_pred), device=y_pred.device)
    else:
        weight = _weight(metric, sample_weight, predicted)
    actual = actual.where((actual >= 0) & (actual < classes), classes)
    return (
        classes,
        predicted.reshape(-1),
        actual.reshape(-1),
        weight.expand_as(predicted).reshape(-1),
    )


def _check_labels(metric: Metric, outside: float, classes: int) -> None:
    if outside:
        raise ValueError(
            f"{metric.name} was given labels outside 0 … {classes - 1} ({outside:g} of them) for "
            f"{classes} classes; number the classes from 0, or leave those rows out with a "
            "sample_weight of 0."
        )


def _histogram(index: Tensor, weight: Tensor, size: int) -> Tensor:
    # bincount would wait for the GPU to learn the largest index.
    return torch.zeros(size, dtype=weight.dtype, device=index.device).scatter_add_(0, index, weight)


def _class_indices(metric: Metric, y_pred: Tensor, y_true: Tensor) -> Tensor:
    """The right classes in the shape of the outputs without their last axis."""
    shape = y_pred.shape
    if _one_column(y_pred):
        raise ValueError(
            f"{metric.name} was given one output column, shape {_shape(y_pred)}; expected one for "
            "each class. Write 'binary_accuracy' or 'accuracy' for yes/no outputs."
        )
    if y_true.shape == shape:
        return y_true.argmax(-1)
    if y_true.shape == shape[:-1]:
        return y_true
    if y_true.shape == (*shape[:-1], 1):
        return y_true.squeeze(-1)
    raise ValueError(
        f"{metric.name} was given targets of shape {_shape(y_true, y_pred)} for outputs of shape "
        f"{_shape(y_pred, y_true)}; expected class indices {_shape(y_pred[..., 0])} or one-hot "
        f"rows {_shape(y_pred)}."
    )


def _aligned(metric: Metric, y_pred: Tensor, y_true: Tensor, hint: str = "") -> Tensor:
    """``y_true`` in the shape of ``y_pred``, if they differ by no more than a last axis of 1."""
    if y_true.shape == y_pred.shape:
        return y_true
    if (*y_true.shape, 1) == y_pred.shape or y_true.shape == (*y_pred.shape, 1):
        return y_true.reshape(y_pred.shape)
    raise ValueError(
        f"{metric.name} was given targets of shape {_shape(y_true, y_pred)} for outputs of shape "
        f"{_shape(y_pred, y_true)}, which would broadcast or fail; expected the same shape"
        f"{'; ' + hint if hint else ''}."
    )


def _weight(metric: Metric, sample_weight: Tensor, values: Tensor) -> Tensor:
    """The weights in float64, with axes of 1 so that they multiply ``values`` as meant."""
    weight = sample_weight.detach().to(_wide(values))
    if weight.ndim > 1 and weight.shape[1:].numel() == 1:
        weight = weight.reshape(-1)
    if weight.ndim == 0 or weight.shape != values.shape[: weight.ndim]:
        raise ValueError(
            f"{metric.name} was given sample weights of shape {_shape(sample_weight, values)} for "
            f"values of shape {_shape(values, sample_weight)}; expected one for each row, (N,)."
        )
    return weight.reshape(*weight.shape, *[1] * (values.ndim - weight.ndim))


def _shape(values: Tensor, other: Tensor | None = None) -> str:
    """A shape for messages: ``(N, 3)``, unless the rows of ``other`` are another number."""
    sizes = [str(size) for size in values.shape]
    if sizes and (other is None or values.shape[:1] == other.shape[:1]):
        sizes[0] = "N"
    return f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"


def _sum_of_rows(values: Tensor) -> Tensor:
    """The sum over the rows of the mean of each, in integers where there is no mean to take."""
    elements = values.shape[1:].numel()
    if elements <= 1 and not values.is_floating_point():
        return values.sum()
    total = values.sum(dtype=_wide(values))
    return total / elements if elements > 1 else total


def _wide(values: Tensor) -> torch.dtype:
    return torch.float32 if values.device.type == "mps" else torch.float64


def _floating(values: Tensor) -> Tensor:
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _one_column(y_pred: Tensor) -> bool:
    return y_pred.ndim == 1 or y_pred.shape[-1] == 1


def _two_columns(metric: Metric, y_pred: Tensor) -> str:
    name = type(metric).__name__
    return (
        f"{metric.name} was given two output columns, shape {_shape(y_pred)}; expected one "
        f"column of probabilities. Write {name}(average='macro') for two classes (softmax), "
        f"{name}({'' if name == 'AUC' else 'thresholds=0.5, '}average='micro') for two labels "
        "that may hold together, or end the model with one sigmoid output."
    )


def _ratio(above: Any, below: Any) -> np.ndarray:
    """``above / below``, and 0.0 where there is nothing below."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def _number(name: str, value: Any) -> float:
    return check_between(name, value, -math.inf, math.inf, ends="()")


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
