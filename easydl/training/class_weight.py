"""Class weights as sample weights; and the classes that targets name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from easydl.data import Arrays
from easydl.data.convert import Tree
from easydl.data.picture_sets import Pictures
from easydl.data.read import Batch
from easydl.data.rows import Rows
from easydl.errors import check_between

if TYPE_CHECKING:
    from easydl.model import Model
    from easydl.training.prepare import Source


def is_pictures(source: Source) -> bool:
    """Whether a stream reads pictures, whose labels are all known."""
    return isinstance(getattr(source, "source", None), Pictures)


def class_labels(model: Model, y: Tree) -> Tensor | None:
    """Each row's class, where the targets are classes."""
    heads = model._compiled.heads
    if len(heads) != 1 or y is None:
        return None
    if isinstance(y, Rows):
        parts = [class_labels(model, y[piece]) for piece in y.pieces()]
        return None if any(part is None for part in parts) else torch.cat(parts)  # type: ignore
    head = heads[0]
    if head.kind == "categorical":
        return None if head.positions else head.class_indices(y)
    binary = getattr(head.loss, "crossentropy", None) == "binary" and head.shape in ((), (1,))
    return head.class_indices(y) if binary and bool((y == y.round()).all()) else None


def apply_class_weight(model: Model, source: Source, class_weight: Any) -> None:
    """Turn class weights into sample weights, times those given."""
    if class_weight is None:
        return
    head = model._compiled.heads[0] if len(model._compiled.heads) == 1 else None
    if head is None:
        raise ValueError(
            "class_weight was given for a network with several outputs or a loss of its own; "
            "expected sample_weight."
        )

    def weights_of(y: Tree) -> Tensor:
        labels = class_labels(model, y)
        if labels is None:
            raise ValueError(
                f"class_weight was given, but the targets of {head.label} are not one class a "
                "sample; expected a crossentropy loss, or sample_weight."
            )
        counted = labels != (-1 if head.ignored_index is None else head.ignored_index)
        factors = class_factors(class_weight, head, labels[counted])
        return factors[labels.where(counted, 0)].where(counted, 1.0)

    if isinstance(source, Arrays):
        weights = weights_of(source.targets)
        if not weights.any():
            raise ValueError("class_weight is 0 for every class in y; expected some above 0.")
        source.weights = weights if source.weights is None else source.weights * weights
        return
    labels = class_labels(model, source.source.labels) if is_pictures(source) else None
    if labels is not None and isinstance(class_weight, str):
        class_weight = class_factors(class_weight, head, labels).tolist()
    if isinstance(class_weight, str) and class_weight == "balanced":
        raise ValueError(
            "class_weight='balanced' needs all labels at once, which a stream (Dataset, loader, "
            "generator) gives batch by batch; expected a dict {class: factor}, such as "
            "{0: 1.0, 1: 5.0}, or arrays."
        )
    inner = source.prepare
    assert inner is not None

    def weighted(batch: Batch) -> Batch:
        x, y, w = inner(batch)
        factors = weights_of(y)
        return x, y, factors if w is None else w * factors

    source.prepare = weighted


def class_factors(class_weight: Any, head: Any, labels: Tensor) -> Tensor:
    """One factor a class."""
    classes = head.classes if head.kind == "categorical" else 2
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(
                f"class_weight={class_weight!r} was given; expected 'balanced' or a dict."
            )
        counts = torch.bincount(labels, minlength=classes)
        present = int((counts > 0).sum())
        return torch.where(counts > 0, len(labels) / (present * counts.clamp_min(1)), 0.0).float()
    factors = torch.ones(classes)
    if not isinstance(class_weight, dict):
        if not hasattr(class_weight, "__len__") or len(class_weight) != classes:
            raise ValueError(
                f"class_weight={class_weight!r:.80} was given; expected 'balanced', a dict "
                f"{{class: factor}}, or {classes} factors."
            )
        class_weight = dict(enumerate(class_weight))
    for label, factor in class_weight.items():
        if not hasattr(label, "__index__") or not 0 <= label < classes:
            raise ValueError(
                f"class_weight names class {label!r:.60}; expected classes 0 … {classes - 1}."
            )
        factors[int(label)] = check_between(
            f"class_weight of class {label}", factor, 0, float("inf"), ends="[)"
        )
    return factors
