"""Metrics of the user's own: subclasses, and objects of torchmetrics' and Keras's kinds."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

from typing import Generic, TypeVar

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


class Sure(metrics.Accuracy):
    def update(self, y_pred, y_true, sample_weight=None):
        self._take(y_pred.amax(1) > 0.6, sample_weight)


def test_a_subclass_of_a_metric_that_ranks_sees_probabilities():
    x, y = torch.randn(64, 3), torch.arange(64) % 2
    model = dl.Sequential([dl.Dense(2, "softmax", input_dim=3)])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[Sure()])
    measured = model.evaluate(x, y, verbose=0, return_dict=True)["sure"]
    with torch.no_grad():
        assert measured == pytest.approx(float((model(x).amax(1) > 0.6).float().mean()))


class Forgetful(metrics.Metric):
    def __init__(self):
        self.margin = 0.1


def test_a_metric_that_was_not_initialised_says_what_to_write():
    with pytest.raises(TypeError, match=r"Forgetful.__init__ to begin with super\(\).__init__\(\)"):
        dl.Sequential([dl.Dense(2)]).compile("sgd", "mse", metrics=[Forgetful()])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("update_state", "update"), ("compute", "result"), ("reset_state", "reset")],
)
def test_methods_under_another_library_s_names_are_refused(name, expected):
    with pytest.raises(TypeError, match=rf"Mine.{name} was defined, .* expected {expected}\(self"):
        type("Mine", (metrics.Accuracy,), {name: lambda self, *given: 0})


def test_a_metric_may_be_generic_and_call_its_own_methods_what_it_likes():
    class Own(metrics.Accuracy, Generic[TypeVar("T")]):
        def compute(self):
            return 1

        def update(self, y_pred, y_true, sample_weight=None):
            self.state["sum"] = torch.tensor(self.compute())

    assert Own[int] is not Own
    with pytest.raises(TypeError, match="update_state was defined"):  # nobody's helper
        type("Mine", (metrics.Accuracy,), {"update_state": len, "result": len})


def test_an_update_in_keras_s_order_is_refused():
    with pytest.raises(TypeError, match=r"Mine.update takes \(y_true, y_pred\).*outputs first"):
        type("Mine", (metrics.Metric,), {"update": lambda self, y_true, y_pred, w=None: None})
    swapped = type("Mine", (Area,), {"update": lambda self, y_true, y_pred: None})
    with pytest.raises(TypeError, match=r"Mine.update takes \(y_true, y_pred\)"):
        metrics.get(swapped())
    type("Mine", (metrics.Metric,), {"update": dict.update})  # which does not tell


def test_a_metric_of_keras_s_kind_is_refused():
    with pytest.raises(TypeError, match=r"expected easydl.metrics.Precision \(or"):
        metrics.get(keras.metrics.Precision())
    with pytest.raises(TypeError, match=r"expected easydl.metrics.Metric \(or"):
        metrics.get(keras.metrics.FalsePositives())
    with pytest.raises(TypeError, match=r"expected easydl.metrics.Recall \(or"):
        metrics.get(keras.metrics.Recall)


class Area(nn.Module):
    """As torchmetrics has it: counts in place, and is asked at the end."""

    def __init__(self):
        super().__init__()
        self.reset()

    def forward(self, y_pred, y_true):
        raise AssertionError("called like a function")

    def update(self, y_pred, y_true):
        self.seen = self.seen + len(y_pred)
        self.pairs.append((y_pred, y_true))

    def compute(self):
        y_pred, y_true = (torch.cat(column) for column in zip(*self.pairs))
        assert self.seen == len(y_pred)
        return torch.tensor(sk.roc_auc_score(y_true.numpy(), y_pred.numpy()))

    def reset(self):
        self.pairs = []
        if hasattr(self, "seen"):
            self.seen.zero_()
        else:
            self.seen = torch.zeros(())


X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))


class Watch(dl.Callback):
    """Reads the running means after every batch, and evaluates other rows."""

    def on_train_batch_end(self, batch, logs=None):
        self.area, self.auc = logs["area"], logs["auc"]
        self.model.evaluate(X, X[:, :1] > 0, verbose=0)


@pytest.mark.parametrize("kept_back", [1, 131_072])
def test_a_metric_of_torchmetrics_kind_is_asked_once_for_all_rows(kept_back, monkeypatch):
    monkeypatch.setattr("easydl.training.meter.CACHED", kept_back)
    torch.manual_seed(1)
    x = torch.randn(50, 3)
    y = (x.sum(1, keepdim=True) + torch.randn(50, 1) > 0).float()
    model = dl.Sequential([dl.Dense(1, activation="sigmoid")])
    model.compile("sgd", "binary_crossentropy", metrics=[Area(), metrics.AUC()])
    watch = Watch()
    logs = model.fit(x, y, 7, 3, validation_split=0.3, verbose=0, callbacks=[watch]).history
    assert watch.area == pytest.approx(watch.auc) == logs["auc"][-1]
    assert logs["val_area"] == pytest.approx(logs["val_auc"])
    assert logs["area"] == pytest.approx(logs["auc"])
    expected = sk.roc_auc_score(y, model.predict(x))
    evaluated = model.evaluate(x, y, batch_size=7, verbose=0, return_dict=True)
    assert evaluated["area"] == pytest.approx(expected)
    named = metrics.ObjectMetric(Area(), "mine")
    named.update(x[:, :1], y)
    assert named.name == "mine" and isinstance(named.result(), float)
    with pytest.raises(ValueError, match="mine was given sample weights"):
        named.update(x[:, :1], y, torch.ones(50))


class Seen:
    """Counts rows; what it gives is its own memory."""

    def __init__(self):
        self.rows = torch.zeros(2)

    def update(self, y_pred, y_true):
        self.rows += len(y_pred)

    def compute(self):
        return self.rows

    def reset(self):
        self.rows.zero_()


def test_an_object_counts_each_output_by_itself_and_keeps_no_array():
    class Two(dl.Model):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(3, 1)

        def forward(self, x):
            return {"a": self.one(x), "b": self.one(x)}

    model = Two()
    model.compile("sgd", "mse", metrics=[Seen()])
    y = {"a": torch.ones(20, 1), "b": torch.ones(20, 1)}
    logs = model.fit(X, y, validation_split=0.25, verbose=0).history
    for name, rows in {"a_seen": 15, "b_seen": 15, "val_a_seen": 5, "val_b_seen": 5}.items():
        assert logs[name][0].tolist() == [rows, rows]


def test_what_an_object_gives_is_a_number_or_a_tensor():
    for given in (0.1, np.float64(0.1), 3):
        mine = type("Mine", (Seen,), {"compute": lambda self, given=given: given})()
        assert metrics.ObjectMetric(mine).result() == given
    mine = type("Mine", (Seen,), {"compute": lambda self: {"a": 1.0}})()
    with pytest.raises(TypeError, match=r"Mine.compute\(\) returned a dict.*one by one"):
        metrics.ObjectMetric(mine).result()
    with pytest.raises(TypeError, match=r"3 was given to ObjectMetric; expected"):
        metrics.ObjectMetric(3)


class Given:
    """Takes some dtypes alone; keeps their names and, counted before it refuses, the rows."""

    def __init__(self, *dtypes):
        self.dtypes = dtypes
        self.reset()

    def reset(self):
        self.rows, self.seen = 0, set()

    def update(self, y_pred, y_true):
        self.rows += len(y_true)
        if y_true.dtype not in self.dtypes:
            raise ValueError("Expected `target` of another dtype.")
        self.seen.add(y_true.dtype)

    def compute(self):
        assert len(self.seen) == 1
        return float(self.rows)


def logits_inside(y_pred, y_true):
    return F.binary_cross_entropy_with_logits(y_pred, y_true)


@pytest.mark.parametrize("kept_back", [1, 131_072])
@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize(
    ("loss", "ending", "top", "expected"),
    [
        ("binary_crossentropy", "sigmoid", 1.0, torch.int64),
        ("binary_crossentropy", None, 1.0, torch.int64),
        (nn.BCELoss(), "sigmoid", 1.0, torch.int64),
        (nn.BCEWithLogitsLoss(), None, 1.0, torch.int64),
        (nn.MultiLabelSoftMarginLoss(), None, 1.0, torch.int64),
        (logits_inside, None, 1.0, torch.int64),
        ("mse", "sigmoid", 1.0, torch.int64),
        ("binary_crossentropy", "sigmoid", 0.5, torch.float32),
        ("mse", None, 1.0, torch.float32),
    ],
    ids=str,
)
def test_an_object_gets_yes_and_no_as_integers(
    kept_back, units, loss, ending, top, expected, monkeypatch
):
    monkeypatch.setattr("easydl.training.meter.CACHED", kept_back)
    floats, both = Given(torch.float32), Given(torch.float32, torch.int64)
    objects = {"one": Given(expected), "floats": floats, "both": both}
    model = dl.Sequential([dl.Dense(units, ending)])
    named = [metrics.ObjectMetric(given, name) for name, given in objects.items()]
    model.compile("sgd", loss, metrics=named)
    y = (X[:, :units] > 0) * top + (1 - top) / 2
    logs = model.fit(X, y, 7, 2, validation_split=0.25, verbose=0).history
    assert [logs[name] for name in objects] == [[15.0, 15.0]] * 3
    assert [logs[f"val_{name}"] for name in objects] == [[5.0, 5.0]] * 3
    assert both.seen == {expected}


class Dot:
    """Takes any dtype, and computes with floats alone."""

    def reset(self):
        self.pairs = []

    def update(self, y_pred, y_true):
        self.pairs.append((y_pred, y_true))

    def compute(self):
        return torch.stack([(a * b).sum() for a, b in self.pairs if b.mean() >= 0]).sum()


class OfClasses(Dot):
    """As torchmetrics' metrics of classes: indices, or labels that may hold together."""

    num_classes = 3
    __module__ = "torchmetrics.classification"

    def compute(self):
        y_pred, y_true = (torch.cat(column) for column in zip(*self.pairs))
        assert y_true.shape == y_pred.shape[:1] and not y_true.is_floating_point()
        return (y_pred.argmax(1) == y_true).float().mean()


@pytest.mark.parametrize("loss", ["mse", "categorical_crossentropy"])
def test_an_object_of_classes_gets_indices_where_the_targets_are_one_hot(loss):
    hot = torch.eye(3)[torch.arange(20) % 3]
    model = dl.Sequential([dl.Dense(3, "softmax", input_dim=3)])
    others = [Dot()] if loss == "mse" else []
    if others:  # an own object's targets are as given, whatever its attributes
        others[0].num_classes = 3
    model.compile("sgd", loss, metrics=[OfClasses(), "categorical_accuracy", *others])
    logs = model.fit(X, hot, 7, verbose=0, validation_data=(X, hot)).history
    assert 0 < logs["val_of_classes"][0] == pytest.approx(logs["val_categorical_accuracy"][0])
    if others:  # of any numbers: what came
        expected = (torch.tensor(model.predict(X)) * hot).sum().item()
        assert logs["val_dot"][0] == pytest.approx(expected, rel=1e-5)


def test_an_object_that_computes_with_floats_alone_gets_floats():
    mine = metrics.ObjectMetric(Dot())
    mine.reset()
    mine.update(torch.tensor([0.5, 0.25]), torch.tensor([1, 0]))
    assert mine.result() == 0.5


class Failing(Seen):
    def __init__(self, verb, rows, error):
        super().__init__()
        self.verb, self.most, self.error = verb, rows, error

    def update(self, y_pred, y_true):
        super().update(y_pred, y_true)
        if self.verb == "update" and self.rows[0] > self.most:
            raise self.error

    def compute(self):
        if self.verb == "compute" and self.rows[0] > self.most:
            raise self.error
        return super().compute()


@pytest.mark.parametrize("rows", [0, 9])  # on the first rows, and later
@pytest.mark.parametrize("verb", ["update", "compute"])
def test_an_object_that_fails_is_named(verb, rows):
    given = r"\(N, 2\) of torch.float32 and \(N, 2\)" if verb == "update" else ""
    for error in (ValueError("two of " + 500 * "x"), RuntimeError("two"), KeyError("two")):
        model = dl.Sequential([dl.Dense(2)])
        mine = metrics.ObjectMetric(Failing(verb, rows, error), "mine")
        model.compile("sgd", "mse", metrics=["mae", mine])
        kind = type(error).__name__
        with pytest.raises(
            ValueError, match=rf"metric mine failed in {verb}\({given}.*{kind}: .?two.*by name"
        ) as found:
            model.fit(X, X[:, :2], 7, verbose=0)
        assert len(str(found.value)) <= 600


def test_what_is_no_fault_of_an_object_passes_on():
    for error in (torch.OutOfMemoryError("full"), RuntimeError("DataLoader worker is killed")):
        with pytest.raises(type(error), match=str(error)):
            metrics.ObjectMetric(Failing("update", 0, error)).update(X, X)


def test_an_object_gets_class_indices_as_integers_even_where_it_fails():
    model = dl.Sequential([dl.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[Given(torch.float32)])
    with pytest.raises(ValueError, match=r"\(N, 3\) of torch.float32 and \(N,\) of torch.int64"):
        model.fit(X, torch.arange(20) % 3, verbose=0)


def test_a_metric_that_fails_on_the_first_rows_is_named():
    def mine(y_pred, y_true):
        return y_pred @ y_true[:1]

    class Asked(metrics.MeanSquaredError):
        def result(self):
            return self.nothing

    for metric, key, kind in (
        (mine, "mine", "Runtime"),
        (metrics.FunctionMetric(mine, "other"), "other", "Runtime"),
        (Asked(), "asked", "Attribute"),
    ):
        model = dl.Sequential([dl.Dense(2)])
        model.compile("sgd", "mse", metrics=["mae", metric, "mse"])
        with pytest.raises(ValueError, match=f"the metric {key} failed on the first rows: {kind}"):
            model.fit(X, X[:, :2], verbose=0)


@pytest.mark.parametrize("kept_back", [1, 131_072])
def test_numbers_of_a_metric_of_your_own_are_not_counted_twice(kept_back, monkeypatch):
    monkeypatch.setattr("easydl.training.meter.CACHED", kept_back)

    class Mine(metrics.Metric):
        def update(self, y_pred, y_true, sample_weight=None):
            self.rows += len(y_pred)
            self.inner.update(y_pred, y_true)
            self.own.update(y_pred, y_true)

        def result(self):
            assert float(self.inner.rows[0]) == self.rows == float(self.own.state["count"])
            return float(self.rows)

        def reset(self):
            super().reset()
            self.rows, self.inner, self.own = 0, Seen(), metrics.MeanSquaredError()

    class Reads(dl.Callback):
        def on_train_batch_end(self, batch, logs=None):
            assert logs["mine"] == min(7 * (batch + 1), 20)
            self.model.test_on_batch(X[:3], X[:3, 0])

    model = dl.Sequential([dl.Dense(1)])
    model.compile("sgd", "mse", metrics=[Mine()])
    logs = model.fit(X, X[:, 0], 7, 2, verbose=0, callbacks=[Reads()]).history
    assert logs["mine"] == [20, 20]


@pytest.mark.parametrize("form", ["indices", "one-hot"])
@pytest.mark.parametrize("positions", [(), (5,)])
def test_an_object_gets_classes_as_torch_has_them(form, positions):
    class Right:
        def reset(self):
            self.right = self.count = 0

        def update(self, y_pred, y_true):
            assert y_pred.shape[1] == 3 and y_true.shape == (len(y_pred), *positions)
            self.right += float((y_pred.argmax(1) == y_true).sum())
            self.count += y_true.numel()

        def compute(self):
            return self.right / self.count

    x = torch.randn(20, *positions, 4)
    y = torch.randint(0, 3, (20, *positions))
    model = dl.Sequential([dl.Dense(3, "softmax")])
    loss = "categorical_crossentropy" if form == "one-hot" else "sparse_categorical_crossentropy"
    model.compile("sgd", loss, metrics=[Right(), "accuracy"])
    y = F.one_hot(y, 3).float() if form == "one-hot" else y
    logs = model.fit(x, y, 7, verbose=0).history
    assert logs["right"] == pytest.approx(logs["accuracy"])
