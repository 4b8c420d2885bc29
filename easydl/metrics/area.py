"""The area under a curve of all thresholds, which needs every score at once."""

from __future__ import annotations

import torch
from torch import Tensor

from easydl.metrics.base import (
    Metric,
    aligned,
    class_indices,
    floating,
    one_column,
    two_columns,
    weights_for,
)
from easydl.metrics.classification import AVERAGES


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
        y_pred, y_true = floating(y_pred.detach()), y_true.detach()
        if self.average is None and not one_column(y_pred) and y_pred.shape[-1] == 2:
            raise ValueError(two_columns(self, y_pred))
        if self.average is None or one_column(y_pred) or y_true.shape == y_pred.shape:
            true = aligned(self, y_pred, y_true, "for classes, write average='macro'") > 0
        else:
            index = class_indices(self, y_pred, y_true).unsqueeze(-1)
            true = index == torch.arange(y_pred.shape[-1], device=index.device)
        weight = None
        if sample_weight is not None:
            weight = weights_for(self, sample_weight, y_pred).expand_as(y_pred)
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
