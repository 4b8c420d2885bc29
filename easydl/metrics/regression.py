"""How far numbers are from those expected."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from easydl.metrics.base import (
    Mean,
    Metric,
    aligned,
    floating,
    ratio,
    shaped,
    sum_dtype,
    weights_for,
)


class MeanSquaredError(Mean):
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
        return (floating(y_pred) - aligned(self, y_pred, y_true)).square()


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


class MeanAbsoluteError(Mean):
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
        return (floating(y_pred) - aligned(self, y_pred, y_true)).abs()


class CosineSimilarity(Mean):
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
                f"{self.name} was given outputs of shape {shaped(y_pred)}; expected vectors (N, D)."
            )
        y_pred = floating(y_pred)
        y_true = aligned(self, y_pred, y_true).to(y_pred.dtype)
        return (F.normalize(y_pred, dim=-1) * F.normalize(y_true, dim=-1)).sum(-1)


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
        wide = sum_dtype(y_pred)
        y_pred, y_true = y_pred.detach(), y_true.detach()
        y_true = aligned(self, y_pred, y_true).to(wide)
        weight = (
            torch.ones((), dtype=wide, device=y_true.device)
            if sample_weight is None
            else weights_for(self, sample_weight, y_true)
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
        variation = second - first * ratio(first, count)
        scores = np.where(variation > 0, 1 - ratio(residual, variation), 0.0)
        return float(np.where((variation <= 0) & (residual == 0), np.nan, scores).mean())
