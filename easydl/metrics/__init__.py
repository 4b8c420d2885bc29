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

from typing import Any

from easydl.errors import look_up, made_of
from easydl.losses import in_torch_order
from easydl.metrics.area import AUC
from easydl.metrics.base import FunctionMetric, Metric, ObjectMetric, counts_by_itself
from easydl.metrics.classification import (
    Accuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    ConfusionMatrix,
    F1Score,
    Precision,
    Recall,
    SparseCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    TopKCategoricalAccuracy,
)
from easydl.metrics.regression import (
    CosineSimilarity,
    MeanAbsoluteError,
    MeanSquaredError,
    R2Score,
    RootMeanSquaredError,
)

__all__ = [
    "AUC",
    "Accuracy",
    "BinaryAccuracy",
    "CategoricalAccuracy",
    "ConfusionMatrix",
    "CosineSimilarity",
    "F1Score",
    "FunctionMetric",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "ObjectMetric",
    "Precision",
    "R2Score",
    "Recall",
    "RootMeanSquaredError",
    "SparseCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy",
    "TopKCategoricalAccuracy",
    "get",
]

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
        spec: a name in any case (kept as the key in the history), a metric, a class of this module,
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
    if counts_by_itself(spec):
        return ObjectMetric(spec)
    if callable(spec):
        return FunctionMetric(in_torch_order(spec))
    raise TypeError(
        f"{spec!r:.80} was given as a metric; expected a name such as 'accuracy', an object such "
        "as easydl.metrics.AUC(), or a callable (y_pred, y_true) -> tensor."
    )
