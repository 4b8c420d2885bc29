"""Metrics: scikit-learn's and Keras's numbers, whatever the batches were, without a wait."""

from __future__ import annotations

import functools
import os
import re

os.environ.setdefault("KERAS_BACKEND", "torch")


import keras
import numpy as np
import pytest
import sklearn.metrics as sk
import torch
import torch.nn.functional as F
from torch import nn

import easydl as dl
from easydl import metrics

torch.set_num_threads(1)

# Keras's variables on torch lack NumPy 2's ``copy`` argument.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

N, K = 103, 4
RAGGED = [(0, 32), (32, 64), (64, 96), (96, 102), (102, 103)]


def rows(seed: int = 0) -> dict[str, torch.Tensor]:
    """One data set of each kind, with ties among the scores."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, K, (N,), generator=g)
    labels_in_time = torch.randint(0, K, (N, 3), generator=g)
    return {
        "score": (torch.rand(N, generator=g) * 20).round() / 20,
        "yes": torch.randint(0, 2, (N,), generator=g),
        "scores": torch.rand(N, 3, generator=g),
        "yeses": torch.randint(0, 2, (N, 3), generator=g),
        "softmax": torch.randn(N, K, generator=g).softmax(-1),
        "label": labels,
        "onehot": F.one_hot(labels, K).float(),
        "softmax_in_time": torch.randn(N, 3, K, generator=g).softmax(-1),
        "label_in_time": labels_in_time,
        "onehot_in_time": F.one_hot(labels_in_time, K).float(),
        "value": torch.randn(N, generator=g) * 3 + 5,
        "value_true": torch.randn(N, generator=g) * 3 + 5,
        "values": torch.randn(N, 2, generator=g),
        "values_true": torch.randn(N, 2, generator=g) * torch.tensor([1.0, 30.0]),
        "weight": torch.rand(N, generator=g) + 0.1,
    }


def roc_of_columns(t, p, w):
    return np.mean(
        [sk.roc_auc_score(np.asarray(t) == c, p[:, c], sample_weight=w) for c in range(K)]
    )


def mean_cosine(t, p, w):
    cosines = (t * p).sum(-1) / np.linalg.norm(t, axis=-1) / np.linalg.norm(p, axis=-1)
    return np.average(cosines, weights=w)


def top2(t, p, w):
    return sk.top_k_accuracy_score(t, p, k=2, sample_weight=w)


def pick(t, p):
    return np.asarray(t).argmax(-1) if np.shape(t) == np.shape(p) else np.asarray(t)


def by_class(function, **arguments):
    def reference(t, p, w):
        t, p = pick(t, p).reshape(-1), np.asarray(p).argmax(-1).reshape(-1)
        if w is not None:
            w = np.repeat(w, len(t) // len(w))
        return function(t, p, sample_weight=w, **arguments)

    return reference


def split(function, **arguments):
    """A scikit-learn score of yes/no labels after the split at 0.5, all labels together."""

    def reference(t, p, w):
        t, p = np.asarray(t), np.asarray(p)
        if w is not None:
            w = np.repeat(w, t.size // len(w))
        return function(t.reshape(-1), p.reshape(-1) > 0.5, sample_weight=w, **arguments)

    return reference


def columns(function, **arguments):
    def reference(t, p, w):
        return function(t, np.asarray(p) > 0.5, sample_weight=w, zero_division=0, **arguments)

    return reference


def plain(function, **arguments):
    return lambda t, p, w: function(t, p, sample_weight=w, **arguments)


M = metrics
CASES = [
    # name, how to make it, outputs, targets, reference (targets, outputs, weights)
    ("accuracy binary", lambda: M.get("accuracy"), "score", "yes", split(sk.accuracy_score)),
    ("accuracy sparse", lambda: M.get("acc"), "softmax", "label", by_class(sk.accuracy_score)),
    ("accuracy onehot", lambda: M.get("acc"), "softmax", "onehot", by_class(sk.accuracy_score)),
    (
        "accuracy in time",
        lambda: M.get("acc"),
        "softmax_in_time",
        "label_in_time",
        by_class(sk.accuracy_score),
    ),
    (
        "accuracy onehot in time",
        lambda: M.get("acc"),
        "softmax_in_time",
        "onehot_in_time",
        by_class(sk.accuracy_score),
    ),
    ("binary", M.BinaryAccuracy, "score", "yes", split(sk.accuracy_score)),
    ("binary labels", M.BinaryAccuracy, "scores", "yeses", split(sk.accuracy_score)),
    ("categorical", M.CategoricalAccuracy, "softmax", "onehot", by_class(sk.accuracy_score)),
    ("sparse", M.SparseCategoricalAccuracy, "softmax", "label", by_class(sk.accuracy_score)),
    ("top 2", lambda: M.TopKCategoricalAccuracy(2), "softmax", "label", top2),
    (
        "top 2 onehot",
        lambda: M.TopKCategoricalAccuracy(2),
        "softmax",
        "onehot",
        lambda t, p, w: top2(pick(t, p), p, w),
    ),
    ("precision", M.Precision, "score", "yes", split(sk.precision_score)),
    ("precision labels", M.Precision, "scores", "yeses", split(sk.precision_score)),
    ("recall", M.Recall, "score", "yes", split(sk.recall_score)),
    ("f1 binary", M.F1Score, "score", "yes", split(sk.f1_score)),
    *[
        (f"{name} {average}", make, outputs, targets, by_class(reference, average=average))
        for average in ("macro", "micro", "weighted")
        for name, make, reference in (
            ("precision", functools.partial(M.Precision, average=average), sk.precision_score),
            ("recall", functools.partial(M.Recall, average=average), sk.recall_score),
            ("f1", functools.partial(M.F1Score, average), sk.f1_score),
        )
        for outputs, targets in (
            ("softmax", "label"),
            ("softmax", "onehot"),
            ("softmax_in_time", "label_in_time"),
        )
    ],
    *[
        (f"{name} {average} labels", make, "scores", "yeses", columns(reference, average=average))
        for average in ("macro", "micro", "weighted")
        for name, make, reference in (
            ("precision", functools.partial(M.Precision, 0.5, average), sk.precision_score),
            ("f1", functools.partial(M.F1Score, average, 0.5), sk.f1_score),
        )
    ],
    (
        "f1 macro of yes and no",
        lambda: M.F1Score("macro"),
        "score",
        "yes",
        split(sk.f1_score, average="macro"),
    ),
    ("f1 by class", M.F1Score, "softmax", "label", by_class(sk.f1_score, average=None)),
    ("auc", M.AUC, "score", "yes", plain(sk.roc_auc_score)),
    ("auc PR", lambda: M.AUC("PR"), "score", "yes", plain(sk.average_precision_score)),
    (
        "auc macro labels",
        lambda: M.AUC(average="macro"),
        "scores",
        "yeses",
        plain(sk.roc_auc_score, average="macro"),
    ),
    (
        "auc weighted labels",
        lambda: M.AUC(average="weighted"),
        "scores",
        "yeses",
        plain(sk.roc_auc_score, average="weighted"),
    ),
    (
        "auc micro labels",
        lambda: M.AUC(average="micro"),
        "scores",
        "yeses",
        plain(sk.roc_auc_score, average="micro"),
    ),
    ("auc classes", lambda: M.AUC(average="macro"), "softmax", "label", roc_of_columns),
    ("mse", M.MeanSquaredError, "value", "value_true", plain(sk.mean_squared_error)),
    ("mse wide", M.MeanSquaredError, "values", "values_true", plain(sk.mean_squared_error)),
    ("mae", M.MeanAbsoluteError, "values", "values_true", plain(sk.mean_absolute_error)),
    ("rmse", M.RootMeanSquaredError, "value", "value_true", plain(sk.root_mean_squared_error)),
    ("r2", M.R2Score, "value", "value_true", plain(sk.r2_score)),
    ("r2 wide", M.R2Score, "values", "values_true", plain(sk.r2_score)),
    ("cosine", M.CosineSimilarity, "values", "values_true", mean_cosine),
    (
        "function by row",
        lambda: M.FunctionMetric(functools.partial(F.l1_loss, reduction="none")),
        "values",
        "values_true",
        plain(sk.mean_absolute_error),
    ),
    ("confusion", M.ConfusionMatrix, "softmax", "label", by_class(sk.confusion_matrix)),
    (
        "confusion in time",
        lambda: M.ConfusionMatrix(K),
        "softmax_in_time",
        "label_in_time",
        by_class(sk.confusion_matrix),
    ),
    ("confusion binary", M.ConfusionMatrix, "score", "yes", split(sk.confusion_matrix)),
]
case = pytest.mark.parametrize(
    ("make", "outputs", "targets", "reference"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)


def in_pieces(metric, y_pred, y_true, weight=None):
    for start, stop in RAGGED:
        piece = None if weight is None else weight[start:stop]
        metric.update(y_pred[start:stop], y_true[start:stop], piece)
    return metric.result()


@case
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_ragged_batches_equal_one_batch_and_scikit_learn(
    make, outputs, targets, reference, weighted
):
    data = rows()
    y_pred, y_true = data[outputs], data[targets]
    weight = data["weight"] if weighted else None
    expected = reference(
        y_true.double().numpy(), y_pred.double().numpy(), weight.numpy() if weighted else None
    )
    np.testing.assert_allclose(in_pieces(make(), y_pred, y_true, weight), expected, rtol=1e-6)
    whole = make()
    whole.update(y_pred, y_true, weight)
    np.testing.assert_allclose(whole.result(), expected, rtol=1e-6)


@case
def test_weight_of_zero_leaves_a_row_out(make, outputs, targets, reference):
    data = rows()
    y_pred, y_true = data[outputs], data[targets]
    kept = torch.arange(N) < 60
    weighted, alone = make(), make()
    weighted.update(y_pred, y_true, kept.float())
    alone.update(y_pred[:60], y_true[:60])
    np.testing.assert_allclose(weighted.result(), alone.result(), rtol=1e-9)


@case
def test_reset_forgets_everything(make, outputs, targets, reference):
    data, others = rows(), rows(1)
    used, fresh = make(), make()
    used.update(others[outputs], others[targets])
    used.reset()
    np.testing.assert_array_equal(used.result(), make().result())
    for metric in (used, fresh):
        metric.update(data[outputs], data[targets])
    np.testing.assert_array_equal(used.result(), fresh.result())


@case
def test_result_can_be_read_twice_and_between_batches(make, outputs, targets, reference):
    data = rows()
    y_pred, y_true = data[outputs], data[targets]
    metric = make()
    metric.update(y_pred[:60], y_true[:60])
    np.testing.assert_array_equal(metric.result(), metric.result())
    metric.update(y_pred[60:], y_true[60:])
    expected = reference(y_true.double().numpy(), y_pred.double().numpy(), None)
    np.testing.assert_allclose(metric.result(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "outputs", "targets"),
    [c[1:4] for c in CASES if c[3] in ("yes", "label", "label_in_time", "value_true")],
    ids=[c[0] for c in CASES if c[3] in ("yes", "label", "label_in_time", "value_true")],
)
def test_column_of_one_is_aligned_with_none(make, outputs, targets):
    data = rows()
    y_pred, y_true = data[outputs], data[targets]
    usual, column = make(), make()
    usual.update(y_pred, y_true, data["weight"])
    if y_true.ndim == y_pred.ndim == 1:
        column.update(y_pred[:, None], y_true, data["weight"][:, None])
        reverse = make()
        reverse.update(y_pred, y_true[:, None], data["weight"][:, None])
        np.testing.assert_allclose(reverse.result(), usual.result())
    else:
        column.update(y_pred, y_true.unsqueeze(-1), data["weight"])
    np.testing.assert_allclose(column.result(), usual.result())


@case
def test_targets_may_be_of_any_number_type(make, outputs, targets, reference):
    data = rows()
    expected = make()
    expected.update(data[outputs], data[targets])
    dtypes = [torch.float64]
    if not data[targets].is_floating_point():
        dtypes += [torch.float32, torch.int32, torch.uint8]
    for dtype in dtypes:
        metric = make()
        metric.update(data[outputs], data[targets].to(dtype))
        np.testing.assert_allclose(metric.result(), expected.result(), rtol=1e-6)


@case
def test_update_never_asks_the_device_for_a_number(make, outputs, targets, reference):
    data = {name: value.to("meta") for name, value in rows().items()}  # has no numbers to give
    make().update(data[outputs], data[targets])
    make().update(data[outputs], data[targets], data["weight"])


@case
def test_sums_of_inference_mode_can_be_added_to_outside(make, outputs, targets, reference):
    data = rows()
    metric, expected = make(), make()
    with torch.inference_mode():
        metric.update(data[outputs].clone(), data[targets].clone())
    metric.update(data[outputs].clone().requires_grad_(), data[targets])
    expected.update(data[outputs], data[targets])
    expected.update(data[outputs], data[targets])
    np.testing.assert_allclose(metric.result(), expected.result())


@case
def test_result_is_a_float_but_for_arrays_named_so(make, outputs, targets, reference):
    data = rows()
    metric = make()
    metric.update(data[outputs], data[targets])
    array = isinstance(metric, metrics.ConfusionMatrix) or (
        isinstance(metric, metrics.F1Score) and metric.average is None and outputs == "softmax"
    )
    assert type(metric.result()) is (np.ndarray if array else float)


@case
def test_caller_may_overwrite_its_tensors_afterwards(make, outputs, targets, reference):
    data = rows()
    y_pred, y_true = data[outputs].double(), data[targets].clone()
    weight = data["weight"].double()
    metric, expected = make(), make()
    expected.update(y_pred.clone(), y_true.clone(), weight.clone())
    metric.update(y_pred, y_true, weight)
    y_pred.fill_(0.5)
    y_true.zero_()
    weight.zero_()
    np.testing.assert_array_equal(metric.result(), expected.result())


@case
def test_targets_of_another_shape_are_refused_with_both_shapes(make, outputs, targets, reference):
    data = rows()
    y_pred, y_true = data[outputs], data[targets]
    wrong = y_true[:-1]
    with pytest.raises(ValueError) as caught:
        make().update(y_pred, wrong)
    assert str(tuple(wrong.shape)) in str(caught.value)
    assert str(tuple(y_pred.shape)) in str(caught.value)
    assert len(str(caught.value)) <= 600
    with pytest.raises(ValueError):  # one row would broadcast
        make().update(y_pred, y_true[:1])


@case
def test_weights_of_another_length_are_refused(make, outputs, targets, reference):
    data = rows()
    for weight in (torch.ones(N - 1), torch.ones(1), torch.ones(()), torch.ones(N, 7)):
        with pytest.raises(ValueError, match=r"sample weights of shape \("):
            make().update(data[outputs], data[targets], weight)


@pytest.mark.parametrize(
    ("name", "arguments", "outputs", "targets"),
    [
        ("BinaryAccuracy", {}, "score", "yes"),
        ("BinaryAccuracy", {"threshold": 0.3}, "scores", "yeses"),
        ("CategoricalAccuracy", {}, "softmax", "onehot"),
        ("CategoricalAccuracy", {}, "softmax_in_time", "onehot_in_time"),
        ("SparseCategoricalAccuracy", {}, "softmax", "label"),
        ("SparseCategoricalAccuracy", {}, "softmax_in_time", "label_in_time"),
        ("TopKCategoricalAccuracy", {"k": 2}, "softmax", "onehot"),
        ("SparseTopKCategoricalAccuracy", {"k": 2}, "softmax_in_time", "label_in_time"),
        ("Precision", {}, "score", "yes"),
        ("Precision", {"thresholds": 0.3}, "scores", "yeses"),
        ("Recall", {}, "scores", "yeses"),
        ("F1Score", {}, "softmax", "onehot"),
        ("F1Score", {"average": "macro"}, "softmax", "onehot"),
        ("F1Score", {"average": "weighted", "threshold": 0.4}, "scores", "yeses"),
        ("MeanSquaredError", {}, "values", "values_true"),
        ("RootMeanSquaredError", {}, "values", "values_true"),
        ("MeanAbsoluteError", {}, "values", "values_true"),
        ("CosineSimilarity", {}, "values", "values_true"),
        ("R2Score", {}, "values", "values_true"),
    ],
)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_result_equals_keras(name, arguments, outputs, targets, weighted):
    data = rows()
    ours = getattr(metrics, name)(**arguments)
    theirs = getattr(keras.metrics, name)(**arguments)
    for start, stop in RAGGED:
        y_pred, y_true = data[outputs][start:stop], data[targets][start:stop].float()
        weight = data["weight"][start:stop] if weighted else None
        ours.update(y_pred, y_true, weight)
        theirs.update_state(y_true, y_pred, weight)
    np.testing.assert_allclose(
        ours.result(), keras.ops.convert_to_numpy(theirs.result()), rtol=1e-5, atol=1e-6
    )


def test_weights_by_position_equal_keras():
    data = rows()
    mask = (torch.arange(N * 3).reshape(N, 3) % 4 > 0).float()
    ours, theirs = metrics.Accuracy(), keras.metrics.SparseCategoricalAccuracy()
    ours.update(data["softmax_in_time"], data["label_in_time"], mask)
    theirs.update_state(data["label_in_time"], data["softmax_in_time"], mask)
    assert ours.result() == pytest.approx(float(theirs.result()))
    hit = (data["softmax_in_time"].argmax(-1) == data["label_in_time"]).float()
    assert ours.result() == pytest.approx(float((hit * mask).sum() / mask.sum()))
    matrix = metrics.ConfusionMatrix()
    assert matrix.result().shape == (0, 0)
    matrix.update(data["softmax_in_time"], data["label_in_time"], mask)
    assert matrix.result().sum() == mask.sum()


def test_accuracy_of_several_labels_in_a_row_is_categorical_as_in_keras():
    data = rows()
    accuracy, categorical = metrics.Accuracy(), metrics.CategoricalAccuracy()
    for metric in (accuracy, categorical):
        metric.update(data["scores"], data["yeses"])
    assert accuracy.result() == categorical.result()


def test_binary_metrics_refuse_two_softmax_columns_and_say_what_to_write():
    y_pred = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    onehot = torch.tensor([[1, 0], [0, 1], [0, 1]])
    for make in (metrics.Precision, metrics.Recall, metrics.AUC):
        for y_true in (onehot, onehot.argmax(-1)):
            with pytest.raises(ValueError, match=r"\(N, 2\).*\(average='macro'\).*sigmoid"):
                make().update(y_pred, y_true)
        name = make.__name__
        metric = make(average="macro")
        metric.update(y_pred, onehot.argmax(-1))
        assert 0 < metric.result() <= 1, name
    two_labels = metrics.Precision(thresholds=0.5, average="micro")
    two_labels.update(y_pred, onehot)
    assert two_labels.result() == pytest.approx(2 / 3)


def test_binary_metrics_with_class_indices_for_wide_outputs_point_to_average():
    data = rows()
    for make in (metrics.Precision, metrics.Recall, metrics.AUC):
        with pytest.raises(ValueError, match="average='macro'"):
            make().update(data["softmax"], data["label"])


def test_categorical_metrics_refuse_one_column():
    y_pred, y_true = torch.rand(5, 1), torch.ones(5, 1)
    for make in (metrics.CategoricalAccuracy, lambda: metrics.TopKCategoricalAccuracy(1)):
        with pytest.raises(ValueError, match=r"one output column, shape \(N, 1\).*binary_accuracy"):
            make().update(y_pred, y_true)


def test_top_k_refuses_more_guesses_than_classes():
    with pytest.raises(ValueError, match="k=5 was given 4 classes"):
        metrics.get("top_k_categorical_accuracy").update(rows()["softmax"], rows()["label"])


def test_top_k_counts_a_tie_as_a_hit_and_nan_as_none():
    y_pred = torch.tensor([[0.4, 0.3, 0.3], [0.3, 0.3, 0.4], [0.2, torch.nan, 0.3]])
    metric = metrics.TopKCategoricalAccuracy(2)
    metric.update(y_pred, torch.tensor([2, 0, 1]))
    assert metric.result() == pytest.approx(2 / 3)


@pytest.mark.parametrize("label", [-1, 4, 100])
@pytest.mark.parametrize(
    "make", [metrics.ConfusionMatrix, lambda: metrics.F1Score("macro")], ids=["matrix", "f1"]
)
def test_label_that_is_no_class_is_an_error_when_the_result_is_read(make, label):
    data = rows()
    label_of_each = data["label"].clone()
    label_of_each[3] = label
    metric = make()
    metric.update(data["softmax"], label_of_each)
    with pytest.raises(ValueError, match=r"labels outside 0 … 3 \(1 of them\)"):
        metric.result()
    masked = make()
    masked.update(data["softmax"], label_of_each, (torch.arange(N) != 3).float())
    masked.result()


def test_confusion_matrix_of_another_number_of_classes_is_refused():
    data = rows()
    metrics.ConfusionMatrix(list("abcd")).update(data["softmax"], data["label"])
    with pytest.raises(ValueError, match=r"3 classes and the outputs have 4.*ConfusionMatrix\(4\)"):
        metrics.ConfusionMatrix(list("abc")).update(data["softmax"], data["label"])
    with pytest.raises(ValueError, match="classes=1 "):
        metrics.ConfusionMatrix(1)


def test_confusion_matrix_holds_whole_numbers_without_weights():
    data = rows()
    metric = metrics.ConfusionMatrix()
    metric.update(data["softmax"], data["label"])
    assert metric.result().dtype == np.int64
    metric.update(data["softmax"], data["label"], data["weight"])
    assert metric.result().dtype == np.float64


def test_macro_averages_over_all_outputs_as_keras_does():
    y_pred = torch.eye(3)[[0, 1, 1]]
    y_true = torch.tensor([0, 1, 0])  # class 2 neither occurs nor is predicted
    ours = metrics.F1Score("macro")
    theirs = keras.metrics.F1Score("macro")
    ours.update(y_pred, y_true)
    theirs.update_state(F.one_hot(y_true, 3).float(), y_pred)
    assert ours.result() == pytest.approx(float(theirs.result()), abs=1e-6)
    scores = sk.f1_score(y_true, [0, 1, 1], labels=[0, 1, 2], average="macro", zero_division=0)
    assert ours.result() == pytest.approx(scores)


@pytest.mark.parametrize("name", [n for n in metrics.NAMES if n != "confusion_matrix"])
def test_result_before_any_row_is_zero(name):
    assert metrics.get(name).result() == 0.0


def test_quotient_without_denominator_is_zero():
    y_pred, y_true = torch.tensor([0.1, 0.2]), torch.tensor([0, 0])
    for make in (metrics.Precision, metrics.Recall, metrics.F1Score):
        metric = make()
        metric.update(y_pred, y_true)
        assert metric.result() == 0.0
    metric = dl.metrics.Accuracy()
    metric.update(y_pred, y_true, torch.zeros(2))
    assert metric.result() == 0.0


def test_auc_is_nan_without_both_classes_or_with_nan_scores():
    scores = torch.tensor([0.1, 0.2, 0.3])
    for labels in ([0, 0, 0], [1, 1, 1]):
        metric = metrics.AUC()
        metric.update(scores, torch.tensor(labels))
        assert np.isnan(metric.result())
    metric = metrics.AUC("PR")
    metric.update(scores, torch.tensor([0, 0, 0]))
    assert np.isnan(metric.result())
    metric = metrics.AUC()
    metric.update(torch.tensor([0.1, torch.nan, 0.3]), torch.tensor([0, 1, 1]))
    assert np.isnan(metric.result())


@pytest.mark.parametrize("curve", ["ROC", "PR"])
def test_auc_leaves_out_a_best_score_without_weight(curve):
    metric = metrics.AUC(curve)
    metric.update(
        torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0]), torch.tensor([0.0, 1.0, 1.0])
    )
    assert metric.result() == 1.0


def test_auc_takes_logits_and_labels_of_minus_one():
    data = rows()
    expected = sk.roc_auc_score(data["yes"], data["score"])
    metric = metrics.AUC()
    metric.update(data["score"] * 30 - 15, data["yes"] * 2 - 1)
    assert metric.result() == pytest.approx(expected)


def test_r2_of_constant_targets_is_that_of_keras():
    y_true = torch.full((4, 1), 0.1)
    for y_pred in (y_true, y_true + torch.tensor([[0.0], [1.0], [0.0], [0.0]])):
        ours, theirs = metrics.R2Score(), keras.metrics.R2Score()
        for _ in range(3):
            ours.update(y_pred, y_true)
        theirs.update_state(y_true, y_pred)
        if y_pred is y_true:
            assert np.isnan(ours.result())
        else:
            assert ours.result() == float(theirs.result()) == 0.0


def test_r2_keeps_its_digits_far_from_zero():
    generator = np.random.default_rng(0)
    y_true = generator.normal(size=200) + 1e8
    y_pred = y_true + generator.normal(size=200) * 0.5
    result = in_pieces(metrics.R2Score(), torch.tensor(y_pred[:N]), torch.tensor(y_true[:N]))
    assert result == pytest.approx(sk.r2_score(y_true[:N], y_pred[:N]), rel=1e-9)


def test_counts_stay_exact_beyond_what_float32_can_count():
    metric = dl.metrics.Accuracy()
    right = torch.ones(2**20, dtype=torch.bool)
    y_pred = right.float()
    for _ in range(17):  # 17 · 2^20 > 2^24
        metric.update(y_pred, right)
    metric.update(y_pred[:3], torch.tensor([True, False, False]))
    right_ones = 17 * 2**20 + 1  # odd, so float32 has no such number
    assert int(metric.state["total"]) == right_ones
    assert metric.result() == right_ones / (right_ones + 2)
    precision = metrics.Precision()
    for _ in range(17):
        precision.update(y_pred, right)
    precision.update(y_pred[:1], ~right[:1])
    assert precision.result() == 17 * 2**20 / (17 * 2**20 + 1)


def test_sums_of_many_batches_do_not_drift():
    metric = metrics.MeanAbsoluteError()
    y_pred, y_true = torch.full((1,), 0.1), torch.zeros(1)
    for _ in range(20_000):
        metric.update(y_pred, y_true)
    assert metric.result() == pytest.approx(float(y_pred), rel=1e-12)


def test_half_precision_outputs_are_measured_in_float32():
    y_pred = torch.full((1000,), 300.0, dtype=torch.float16)
    metric = metrics.MeanSquaredError()
    metric.update(y_pred, torch.zeros(1000, dtype=torch.float16))
    assert metric.result() == 90000.0  # beyond float16
    cosine = metrics.CosineSimilarity()
    cosine.update(y_pred.reshape(10, 100), torch.ones(10, 100))
    assert cosine.result() == pytest.approx(1.0)


def test_function_metric_weighs_batch_means_by_their_rows():
    data = rows()
    metric = metrics.get(lambda y_pred, y_true: (y_pred - y_true).abs().mean())
    result = in_pieces(metric, data["value"], data["value_true"])
    expected = sk.mean_absolute_error(data["value_true"], data["value"])
    assert result == pytest.approx(expected, rel=1e-6)


def test_function_metric_aligns_before_the_function_could_broadcast():
    data = rows()
    metric = metrics.get(lambda y_pred, y_true: (y_pred - y_true).square().mean())
    metric.update(data["value"][:, None], data["value_true"])
    expected = sk.mean_squared_error(data["value_true"], data["value"])
    assert metric.result() == pytest.approx(expected, rel=1e-6)


def test_function_metric_may_take_class_indices_and_return_a_number():
    data = rows()
    metric = metrics.FunctionMetric(lambda p, t: float((p.argmax(-1) == t).sum()) / len(t), "mine")
    assert in_pieces(metric, data["softmax"], data["label"]) == pytest.approx(
        sk.accuracy_score(data["label"], data["softmax"].argmax(-1))
    )
    assert metric.name == "mine"


def test_function_metric_refuses_weights_for_a_batch_mean():
    metric = metrics.get(F.l1_loss)
    with pytest.raises(ValueError, match="l1_loss returned the mean of the batch"):
        metric.update(torch.rand(3), torch.rand(3), torch.ones(3))


def test_function_metric_refuses_another_number_of_rows():
    metric = metrics.get(lambda y_pred, y_true: y_pred[:2])
    with pytest.raises(ValueError, match=r"shape \(2,\) for 3 rows"):
        metric.update(torch.rand(3), torch.rand(3))


def test_get_keeps_the_given_name_and_takes_any_case():
    assert metrics.get("acc").name == "acc"
    assert metrics.get("MSE").name == "MSE"
    assert type(metrics.get("AUC")) is metrics.AUC
    assert {type(metrics.get(name)) for name in metrics.NAMES} == set(metrics.NAMES.values())


def test_get_takes_objects_classes_functions_and_losses():
    ready = metrics.AUC()
    assert metrics.get(ready) is ready
    assert type(metrics.get(metrics.AUC)) is metrics.AUC
    assert metrics.get(F.l1_loss).name == "l1_loss"
    assert metrics.get(functools.partial(F.l1_loss, reduction="none")).name == "l1_loss"
    assert metrics.get(nn.L1Loss()).name == "l1_loss"


def test_get_suggests_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown metric 'acuracy'\. Did you mean 'accuracy'\?"):
        metrics.get("acuracy")


@pytest.mark.parametrize("spec", [None, 3, {"a": 1}])
def test_get_refuses_what_is_no_metric(spec):
    with pytest.raises(TypeError, match="was given as a metric; expected a name"):
        metrics.get(spec)
    with pytest.raises(TypeError, match=r"the class L1Loss .*write L1Loss\(\)"):
        metrics.get(nn.L1Loss)
    with pytest.raises(TypeError, match=r"FunctionMetric .* metric .* object: FunctionMetric\(…"):
        metrics.get(metrics.FunctionMetric)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: metrics.F1Score("mean"), "average='mean' was given to F1Score"),
        (lambda: metrics.AUC(average="mean"), "average='mean' was given to AUC"),
        (lambda: metrics.AUC("roc_curve"), "curve='roc_curve'"),
        (lambda: metrics.TopKCategoricalAccuracy(0), "k=0 "),
        (lambda: metrics.TopKCategoricalAccuracy(2.5), "k=2.5 "),
        (lambda: metrics.BinaryAccuracy("half"), "threshold='half'"),
        (lambda: metrics.Precision(float("nan")), "thresholds=nan"),
        (lambda: metrics.Recall([0.3, 0.5]), r"thresholds=\[0.3, 0.5\] was given"),
        (lambda: metrics.F1Score(threshold="half"), "threshold='half'"),
    ],
)
def test_argument_out_of_range_is_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_cosine_refuses_outputs_without_a_vector_axis():
    with pytest.raises(ValueError, match=r"shape \(N,\); expected vectors"):
        metrics.CosineSimilarity().update(torch.rand(5), torch.rand(5))


def test_default_name_is_keras_snake_case():
    for cls in set(metrics.NAMES.values()):
        expected = getattr(keras.metrics, cls.__name__, None)
        if expected is not None:
            assert cls().name == re.sub(r"_\d+$", "", expected().name)  # Keras numbers its objects


def test_message_about_shapes_speaks_of_n_rows_and_not_of_those_tried_out():
    model = dl.Model(nn.Linear(4, 3))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["mae"])
    with pytest.raises(ValueError, match=r"shape \(N,\) for outputs of shape \(N, 3\)"):
        model.fit(torch.rand(8, 4), torch.arange(8) % 3, verbose=0)
    with pytest.raises(ValueError, match=r"shape \(2,\) for outputs of shape \(5, 3\)"):
        metrics.Accuracy().update(torch.rand(5, 3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"expected class indices \(N, 4\) or one-hot rows"):
        metrics.Accuracy().update(torch.rand(5, 4, 3), torch.zeros(5, 2))


@pytest.mark.parametrize("weighted_first", [True, False])
def test_auc_of_batches_with_and_without_weights(weighted_first):
    """Rows without a weight count once."""
    dice = np.random.default_rng(3)
    scores, labels = dice.normal(size=40).astype("float32"), dice.integers(2, size=40)
    weights = np.concatenate([dice.uniform(0.1, 5, size=20), np.ones(20)])
    metric, parts = metrics.AUC(), [(slice(0, 20), True), (slice(20, 40), False)]
    for rows, weighted in parts if weighted_first else parts[::-1]:
        given = torch.tensor(weights[rows]) if weighted else None
        metric.update(torch.tensor(scores[rows]), torch.tensor(labels[rows]), given)
    assert metric.result() == pytest.approx(sk.roc_auc_score(labels, scores, sample_weight=weights))


def test_cosine_similarity_of_sequences_is_over_the_last_axis():
    dice = np.random.default_rng(4)
    y_pred, y_true = dice.normal(size=(2, 6, 5, 3))
    metric = metrics.CosineSimilarity()
    metric.update(torch.tensor(y_pred), torch.tensor(y_true))
    norms = np.linalg.norm(y_pred, axis=-1) * np.linalg.norm(y_true, axis=-1)
    assert metric.result() == pytest.approx(((y_pred * y_true).sum(-1) / norms).mean())


@pytest.mark.parametrize("average", ["macro", "weighted", "micro"])
def test_auc_of_one_output_has_no_columns_to_average(average):
    dice = np.random.default_rng(5)
    scores, labels = dice.normal(size=30), dice.integers(2, size=30)
    metric = metrics.AUC(average=average)
    metric.update(torch.tensor(scores), torch.tensor(labels))
    assert metric.result() == pytest.approx(sk.roc_auc_score(labels, scores))


def test_one_unit_at_every_step_is_binary():
    predicted = torch.tensor([[[0.2], [0.7], [0.9]], [[0.1], [0.6], [0.4]]])
    metric = dl.metrics.Accuracy()
    metric.update(predicted, torch.tensor([[[0], [1], [0]], [[0], [1], [1]]]))
    assert metric.result() == pytest.approx(4 / 6)
