"""What an output ends in, and which forms of targets mean the same."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import easydl as dl
from easydl.training.heads import ending_of

X = torch.linspace(-1, 1, 48).reshape(12, 4).sin()
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2, 1, 0, 0, 2, 1])
YES = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0])
NUMBERS = X[:, :1] * 2 - 1


class Ends(nn.Module):
    """A linear layer with some function behind it."""

    def __init__(self, units, function):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.function = nn.Linear(4, units), function

    def forward(self, x):
        return self.function(self.linear(x))


ENDINGS = [
    (lambda x: x, "linear"),
    (lambda x: x.reshape(-1), "linear"),
    (lambda x: F.softmax(x, -1), "softmax"),
    (lambda x: torch.softmax(x, 1), "softmax"),
    (lambda x: nn.Softmax(-1)(x).unsqueeze(1).squeeze(1), "softmax"),
    (lambda x: x.sigmoid(), "sigmoid"),
    (lambda x: torch.sigmoid(x).view(-1, 3, 1).permute(0, 2, 1), "sigmoid"),
    (lambda x: F.log_softmax(x, -1), "log_softmax"),
    (lambda x: F.relu(x), "relu"),
    (lambda x: x.tanh().clone(), "tanh"),
    (lambda x: x.softmax(-1) * 2, None),
    (lambda x: torch.softmax(x, 1)[:, :], "softmax"),
    (lambda x: x.exp() / x.exp().sum(1, keepdim=True), "softmax"),
    (lambda x: (x.softmax(-1) + (2 * x).softmax(-1)) / 2, "softmax"),
    (lambda x: x.softmax(-1)[:, 1], "sigmoid"),
    (lambda x: x.softmax(-1)[:, 1:], "sigmoid"),
    (lambda x: 1 - x.sigmoid(), "sigmoid"),
    (lambda x: x.sigmoid().clamp(0.01, 0.99), "sigmoid"),
    (lambda x: x.clamp(0, 1), None),
    (lambda x: x.sigmoid() * x, None),
    (lambda x: (x + 2) / 4, None),
    (lambda x: x.sigmoid() - (x - 9).sigmoid(), None),
    (lambda x: x.sigmoid() * 20 - 10, None),
    (lambda x: x.sigmoid().log() + 1, None),
]


@pytest.mark.parametrize(("function", "expected"), ENDINGS)
def test_ending_is_read_from_the_graph(function, expected):
    assert ending_of(Ends(3, function)(X)) == expected


def evaluated(function, loss, y, units=3, metrics=("accuracy",)):
    model = dl.Model(Ends(units, function))
    model.compile("sgd", loss, metrics=list(metrics))
    return model, model.evaluate(X, y, batch_size=5, verbose=0)


PROBABILITIES = [
    (lambda x: x, "sparse_categorical_crossentropy"),
    (lambda x: x, "categorical_crossentropy"),
    (lambda x: x, nn.CrossEntropyLoss()),
    (lambda x: x, F.cross_entropy),
    (lambda x: x, dl.losses.CategoricalCrossentropy(from_logits=True)),
    (lambda x: F.softmax(x, -1), "sparse_categorical_crossentropy"),
    (lambda x: F.softmax(x, -1), dl.losses.CategoricalCrossentropy()),
    (lambda x: F.log_softmax(x, -1), nn.NLLLoss()),
    (lambda x: F.log_softmax(x, -1), "categorical_crossentropy"),
]


@pytest.mark.parametrize(("function", "loss"), PROBABILITIES)
@pytest.mark.parametrize(
    "y",
    [LABELS, LABELS.float(), LABELS.int()[:, None], F.one_hot(LABELS), F.one_hot(LABELS).float()],
    ids=["int64", "float", "column of int32", "one-hot", "one-hot of floats"],
)
def test_crossentropy_is_the_same_from_every_ending_and_form_of_labels(function, loss, y):
    logits = Ends(3, lambda x: x)(X)
    model, result = evaluated(function, loss, y)
    accuracy = (logits.argmax(1) == LABELS).float().mean().item()
    assert result == [
        pytest.approx(F.cross_entropy(logits, LABELS).item(), rel=1e-5),
        pytest.approx(accuracy),
    ]
    np.testing.assert_array_equal(model.predict_classes(X), logits.argmax(1))


@pytest.mark.parametrize(
    ("function", "loss"),
    [
        (lambda x: x, "binary_crossentropy"),
        (lambda x: x, nn.BCEWithLogitsLoss()),
        (lambda x: x, F.binary_cross_entropy_with_logits),
        (lambda x: x[:, 0], "binary_crossentropy"),
        (torch.sigmoid, "binary_crossentropy"),
        (torch.sigmoid, nn.BCELoss()),
        (lambda x: torch.sigmoid(x).squeeze(1), "binary_crossentropy"),
    ],
)
@pytest.mark.parametrize("y", [YES, YES[:, None], YES.bool(), YES.double(), YES.to(torch.uint8)])
def test_binary_crossentropy_is_the_same_from_every_ending_and_form_of_labels(function, loss, y):
    logits = Ends(1, lambda x: x)(X).squeeze(1)
    model, result = evaluated(function, loss, y, units=1)
    expected = F.binary_cross_entropy_with_logits(logits, YES.float()).item()
    accuracy = ((logits > 0) == YES.bool()).float().mean().item()
    assert result == [pytest.approx(expected, rel=1e-5), pytest.approx(accuracy)]
    np.testing.assert_array_equal(model.predict_classes(X), logits > 0)


@pytest.mark.parametrize("loss", ["mse", nn.MSELoss(), F.mse_loss, "mae", nn.HuberLoss()])
@pytest.mark.parametrize("function", [lambda x: x, lambda x: x[:, 0]], ids=["(N, 1)", "(N,)"])
@pytest.mark.parametrize("y", [NUMBERS, NUMBERS[:, 0], NUMBERS.double(), NUMBERS[:, :, None]])
def test_columns_and_vectors_are_aligned(loss, function, y):
    outputs = Ends(1, lambda x: x)(X)
    expected = {"mse": F.mse_loss, "mae": F.l1_loss}.get(loss, loss)(outputs, NUMBERS).item()
    _, result = evaluated(function, loss, y, units=1, metrics=["mae"])
    mae = F.l1_loss(outputs, NUMBERS).item()
    assert result == [pytest.approx(expected, rel=1e-5), pytest.approx(mae, rel=1e-5)]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.softmax(-1)[:, 1],
        lambda x: x.softmax(-1)[:, 1:],
        lambda x: 1 - x[:, :1].sigmoid(),
        lambda x: x[:, 0].sigmoid().clamp(0.01, 0.99),
    ],
)
@pytest.mark.parametrize("loss", ["binary_crossentropy", nn.BCELoss()])
def test_binary_crossentropy_of_computed_probabilities_is_theirs(function, loss):
    p = Ends(2, function)(X).squeeze()
    _, result = evaluated(function, loss, YES, units=2)
    accuracy = ((p > 0.5) == YES.bool()).float().mean().item()
    expected = F.binary_cross_entropy(p, YES.float()).item()
    assert result == [pytest.approx(expected, rel=1e-5), pytest.approx(accuracy)]


@pytest.mark.parametrize("function", [lambda x: x.clamp(0, 1), lambda x: x.sigmoid().mean(1)])
def test_outputs_that_could_be_probabilities_or_scores_are_refused(function):
    with pytest.raises(ValueError, match="could be probabilities or raw scores"):
        evaluated(function, "binary_crossentropy", YES, units=1)
    evaluated(function, nn.BCELoss(), YES, units=1)
    evaluated(function, nn.BCEWithLogitsLoss(), YES, units=1)


def test_crossentropy_of_computed_probabilities_is_theirs():
    def function(x):
        return (x.softmax(-1) + (3 * x).softmax(-1)) / 2

    p = Ends(3, function)(X)
    _, result = evaluated(function, "sparse_categorical_crossentropy", LABELS, metrics=[])
    assert result == pytest.approx(F.nll_loss(p.log(), LABELS).item(), rel=1e-5)


def test_soft_labels_are_taken_as_they_are():
    soft = torch.tensor([[0.7, 0.2, 0.1]]).repeat(12, 1)
    logits = Ends(3, lambda x: x)(X)
    for loss in ("categorical_crossentropy", nn.CrossEntropyLoss()):
        _, result = evaluated(lambda x: x, loss, soft, metrics=[])
        assert result == pytest.approx(F.cross_entropy(logits, soft).item(), rel=1e-5)


def test_index_loss_without_soft_targets_gets_the_index():
    logits = Ends(3, lambda x: x)(X)
    _, result = evaluated(lambda x: x, nn.MultiMarginLoss(), F.one_hot(LABELS), metrics=[])
    assert result == pytest.approx(F.multi_margin_loss(logits, LABELS).item(), rel=1e-5)


def test_several_labels_a_sample_are_binary():
    y = torch.stack([YES, 1 - YES, YES], 1)
    logits = Ends(3, lambda x: x)(X)
    model, result = evaluated(torch.sigmoid, "binary_crossentropy", y, metrics=["binary_accuracy"])
    expected = F.binary_cross_entropy_with_logits(logits, y.float()).item()
    accuracy = ((logits > 0) == y.bool()).float().mean().item()
    assert result == [pytest.approx(expected, rel=1e-5), pytest.approx(accuracy)]
    assert model.predict(X).shape == (12, 3)


def test_strict_false_lets_a_double_softmax_pass():
    model = dl.Model(Ends(3, lambda x: F.softmax(x, -1)))
    model.compile("sgd", nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=r"softmax.*second time"):
        model.evaluate(X, LABELS, verbose=0)
    model.compile("sgd", nn.CrossEntropyLoss(), strict=False)
    expected = F.cross_entropy(model(X), LABELS).item()
    assert model.evaluate(X, LABELS, verbose=0) == pytest.approx(expected)


def test_heads_are_settled_anew_for_targets_of_another_form():
    model = dl.Sequential([dl.Dense(3, "softmax", input_dim=4)])
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    first = model.evaluate(X, LABELS, verbose=0)
    assert model.evaluate(X, F.one_hot(LABELS), verbose=0) == pytest.approx(first)
    assert model.evaluate(X, LABELS, verbose=0) == pytest.approx(first)


class Picked(dl.losses.Loss):
    """Crossentropy of the right class, picked by its index."""

    def __call__(self, y_pred, y_true, reduction="mean"):
        loss = -y_pred.log_softmax(-1).gather(-1, y_true.unsqueeze(-1))
        return loss.mean() if reduction == "mean" else loss.flatten(1).mean(1)


class Squares(dl.losses.Loss):
    def __call__(self, y_pred, y_true, reduction="mean"):
        return F.mse_loss(y_pred, y_true)


def histories_of(losses, units, x, y, metrics=(), **fit):
    found = []
    for loss in losses:
        dl.seed(0)
        model = dl.Sequential([dl.Dense(units)])
        model.compile("sgd", loss, metrics=["accuracy", *metrics])
        found.append(model.fit(x, y, 5, 2, verbose=0, **fit).history)
    return found


@pytest.mark.parametrize("shape", [(2,), (3,), (5, 3), (2, 3)], ids=str)
@pytest.mark.parametrize("form", ["int64", "float", "column"])
@pytest.mark.parametrize("weights", ["class_weight", "sample_weight", None])
def test_a_formula_of_your_own_takes_labels(shape, form, weights):
    x, units = torch.randn(12, *shape[:-1], 4), shape[-1]
    y = x[..., :units].argmax(-1)
    given = {"int64": y, "float": y.float(), "column": y.unsqueeze(-1)}[form]
    fit = {"sample_weight": torch.arange(12.0)} if weights else {}
    if weights == "class_weight" and len(shape) == 1:
        fit = {"class_weight": {i: i + 0.5 for i in range(units)}}
    by_function = dl.losses.Loss(lambda *given, **options: Picked()(*given, **options))
    losses = [Picked(), by_function, "sparse_categorical_crossentropy"]
    metrics = [dl.metrics.AUC(average="micro")]
    mine, other, known = histories_of(losses, units, x, given, metrics, **fit)
    assert mine == other
    assert {name: pytest.approx(values, rel=1e-5) for name, values in mine.items()} == known


def test_a_formula_of_labels_or_rows_takes_any_rows():
    def formula(y_pred, y_true, reduction="mean"):
        return F.cross_entropy(y_pred, y_true, reduction=reduction)

    y = 2 * F.one_hot(LABELS, 3)
    model = dl.Model(Ends(3, lambda x: x))
    model.compile("sgd", dl.losses.Loss(formula))
    expected = F.cross_entropy(model(X), y.float()).item()
    assert model.evaluate(X, y, verbose=0) == pytest.approx(expected)


def test_labels_for_a_formula_of_your_own_are_checked():
    with pytest.raises(ValueError, match=r"labels from 1 to 3.*expected labels 0 … 2.*y - 1"):
        histories_of([Picked()], 3, X, LABELS + 1)


@pytest.mark.parametrize("units", [2, 3, 5])
@pytest.mark.parametrize("rows", [2, 3, 5])
def test_a_formula_by_entry_is_not_given_labels(units, rows):
    x = torch.randn(rows, 4)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match=r"Squares compares them entry by entry.*class labels"):
            histories_of([Squares()], units, x, torch.arange(rows) % 2)
    assert not told
    for mine in (Squares(), Picked()):
        with pytest.raises(ValueError, match=r"compares them entry by entry.*make it a function"):
            histories_of([mine], units, x, torch.rand(rows))
    with pytest.raises(ValueError, match=r"compares them entry by entry.*write Dense\(2\)"):
        histories_of([Squares()], 1, x, torch.rand(rows, 2))


def test_a_formula_by_entry_is_given_one_column_as_ever():
    for column in (0, slice(0, 1)):
        model = dl.Model(Ends(1, lambda x, column=column: x[:, column]))
        model.compile("sgd", Squares())
        error = (model(X).reshape(-1) - YES).square().mean().item()
        assert model.evaluate(X, YES, verbose=0) == pytest.approx(error)
    with pytest.raises(ValueError, match="Squares compares them entry by entry"):
        histories_of([Squares()], 3, X[:, None], YES[:, None])
    flat = dl.losses.Loss(lambda p, y, reduction="mean": F.mse_loss(p.flatten(), y.flatten()))
    model = dl.Sequential([dl.Dense(1)])
    model.compile("sgd", flat)
    x, y = torch.randn(6, 5, 4), torch.ones(6, 5).long()
    assert model.evaluate(x, y, verbose=0) == pytest.approx((model(x) - 1).square().mean().item())


def test_metrics_see_probabilities_where_any_formula_has_the_sigmoid():
    def formula(y_pred, y_true, reduction="mean"):
        return F.binary_cross_entropy_with_logits(y_pred, y_true, reduction=reduction)

    class Mine(dl.losses.Loss):
        __call__ = staticmethod(formula)

    others = [nn.MultiLabelSoftMarginLoss(), "binary_crossentropy"]
    losses = [Mine(), dl.losses.Loss(formula), formula, *others]
    found = [history["mae"] for history in histories_of(losses, 1, X, YES, ["mae"])]
    assert found == [pytest.approx(found[-1])] * 5


def from_probabilities(y_true, y_pred, from_logits=False):
    return F.binary_cross_entropy(y_pred, y_true)


@pytest.mark.parametrize(("last", "right"), [(nn.Hardsigmoid(), True), (nn.Identity(), False)])
def test_a_loss_of_probabilities_takes_outputs_that_are_some(last, right):
    x = torch.randn(20, 3)
    model = dl.Model(nn.Sequential(nn.Linear(3, 4), last))
    model.compile("sgd", from_probabilities)
    if right:
        assert model.fit(x, (x[:, :1] > 0).float().expand(-1, 4), verbose=0).history["loss"]
    else:
        with pytest.raises(ValueError, match="from_logits=False and expects probabilities"):
            model.fit(x, (x[:, :1] > 0).float().expand(-1, 4), verbose=0)


class Counts(dl.losses.Loss):
    def __call__(self, y_pred, y_true, reduction="mean"):
        torch.rand(3)
        return (y_pred - y_true.reshape(-1, 1)).abs().mean()


def test_targets_that_are_no_labels_are_told_of_functions_and_nothing_is_drawn():
    model = dl.Model(nn.Linear(3, 4))
    model.compile("sgd", Counts())
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"labels from 0 to 19.*make Counts a plain function"):
        model.fit(torch.ones(20, 3), torch.arange(20), shuffle=False, verbose=0)
    assert torch.equal(torch.get_rng_state(), state)
