"""Classes: accuracies, precision, recall, F1 and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from easydl.errors import check_positive_int
from easydl.metrics.base import (
    Mean,
    Metric,
    aligned,
    class_indices,
    finite,
    one_column,
    ratio,
    shaped,
    sum_dtype,
    two_columns,
    weights_for,
)

AVERAGES = (None, "micro", "macro", "weighted")


class BinaryAccuracy(Mean):
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
        self.threshold = finite("threshold", threshold)

    def _values(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        y_true = aligned(self, y_pred, y_true, "for classes, use 'sparse_categorical_accuracy'")
        return (y_pred > self.threshold) == y_true


class CategoricalAccuracy(Mean):
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
        return y_pred.argmax(-1) == class_indices(self, y_pred, y_true)


class SparseCategoricalAccuracy(CategoricalAccuracy):
    """``CategoricalAccuracy`` under Keras's name for class indices; it takes one-hot rows too."""


class Accuracy(Mean):
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
        if one_column(y_pred):
            return (y_pred > 0.5) == aligned(self, y_pred, y_true, "check the last layer's units")
        return y_pred.argmax(-1) == class_indices(self, y_pred, y_true)


class TopKCategoricalAccuracy(Mean):
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
        index = class_indices(self, y_pred, y_true).unsqueeze(-1)
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


class Counts(Metric):
    """True positives, predicted and actual positives: one of each, or one for each class."""

    def __init__(self, threshold: float | None, average: str | None, name: str | None) -> None:
        super().__init__(name)
        if average not in AVERAGES:
            raise ValueError(
                f"average={average!r} was given to {type(self).__name__}; expected one of "
                "None, 'micro', 'macro', 'weighted'."
            )
        self.threshold = None if threshold is None else finite("threshold", threshold)
        self.average = average
        self.by_rank = threshold is None and average is not None

    def _update(
        self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None, binary: bool
    ) -> None:
        y_pred, y_true = y_pred.detach(), y_true.detach()
        if self.threshold is None and not binary:
            self._update_classes(y_pred, y_true, sample_weight)
            return
        if binary and not one_column(y_pred) and y_pred.shape[-1] == 2:
            raise ValueError(two_columns(self, y_pred))
        y_true = aligned(self, y_pred, y_true, "for classes, write average='macro'") > 0
        predicted = y_pred > (0.5 if self.threshold is None else self.threshold)
        columns = 1 if binary or y_pred.ndim == 1 else y_pred.shape[-1]
        weight = None
        if sample_weight is not None:
            weight = weights_for(self, sample_weight, y_pred).expand_as(y_pred).reshape(-1, columns)
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
            return float(ratio((values * actual).sum(), actual.sum()))
        if self.average is not None:
            return float(values.mean())
        return float(values[0]) if len(values) == 1 else values


class Precision(Counts):
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
            thresholds = finite("thresholds", thresholds)
        super().__init__(thresholds, average, name)

    def update(self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None = None) -> None:
        """Take one batch in."""
        self._update(y_pred, y_true, sample_weight, binary=self.average is None)

    def _quotient(self, hits: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
        return ratio(hits, predicted)


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
        return ratio(hits, actual)


class F1Score(Counts):
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
        binary = self.average is None and one_column(y_pred)
        self._update(y_pred, y_true, sample_weight, binary=binary)

    def _quotient(self, hits: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
        return ratio(2 * hits, predicted + actual)


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
                f"{classes} (shape {shaped(y_pred)}); write ConfusionMatrix({classes})."
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


def _classified(
    metric: Metric, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None
) -> tuple[int, Tensor, Tensor, Tensor]:
    """K, and flat: predicted classes, actual classes (K for labels that are none), weights."""
    if one_column(y_pred):
        classes, predicted = 2, (y_pred > 0.5).long()
        actual = aligned(metric, y_pred, y_true).long()
    else:
        classes, predicted = y_pred.shape[-1], y_pred.argmax(-1)
        actual = class_indices(metric, y_pred, y_true).long()
    if sample_weight is None:
        weight = torch.ones((), dtype=sum_dtype(y_pred), device=y_pred.device)
    else:
        weight = weights_for(metric, sample_weight, predicted)
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
