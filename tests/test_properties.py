"""What must hold for every network, loss, metric, size and weighting; hypothesis draws them.

Eight examples of each property here, 200 in ``make soak``.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import easydl as dl
from easydl import callbacks, losses, metrics

CLASSES = 3
#: kind of output -> activation, losses, metrics
HEADS = {
    "number": (None, ["mse", "mae", "huber", "log_cosh", nn.MSELoss()], ["mae", "rmse", "r2"]),
    "count": ("softplus", ["poisson", "msle"], ["mse"]),
    "classes": (
        "softmax",
        ["sparse_categorical_crossentropy", losses.CategoricalCrossentropy(label_smoothing=0.1)],
        ["accuracy", "sparse_categorical_accuracy", metrics.F1Score(average="macro")],
    ),
    "logits": (None, [nn.CrossEntropyLoss(), "sparse_categorical_crossentropy"], ["accuracy"]),
    "bit": ("sigmoid", ["binary_crossentropy", "mse"], ["accuracy", "auc", "precision", "recall"]),
    "sign": (None, ["hinge", "squared_hinge"], ["binary_accuracy"]),
}
SHAPES = {"mlp": (4,), "cnn": (1, 6, 6), "lstm": (5, 3)}
OPTIMIZERS = ["sgd", "adam", "rmsprop", "adamw", dl.optimizers.SGD(0.01, momentum=0.9)]


@dataclass
class Case:
    """A network, what it learns, and rows for it."""

    network: str
    head: str
    loss: Any
    metrics: list
    optimizer: Any
    normalised: bool
    dropout: float
    rows: int
    batch_size: int
    other_batch_size: int
    weighted: bool
    seed: int

    @property
    def units(self) -> int:
        return CLASSES if self.head in ("classes", "logits") else 1

    def data(self):
        """Inputs, targets and weights."""
        dice = np.random.default_rng(self.seed)
        x = dice.normal(size=(self.rows, *SHAPES[self.network])).astype("float32")
        if self.units > 1:
            y = dice.integers(CLASSES, size=self.rows)
        elif self.head == "number":
            y = dice.normal(size=self.rows).astype("float32")
        else:
            y = dice.integers(2, size=self.rows)
        w = dice.uniform(0.1, 3, size=self.rows).astype("float32") if self.weighted else None
        return x, y, w

    def model(self, **options):
        """The compiled model; always the same weights."""
        dl.seed(self.seed)
        shape = SHAPES[self.network]
        first = {
            "mlp": [dl.Dense(6, "tanh", input_shape=shape)],
            "cnn": [dl.Conv2D(3, 3, activation="relu", input_shape=shape), dl.MaxPooling2D(2)],
            "lstm": [dl.LSTM(4, input_shape=shape)],
        }[self.network]
        layers = [
            *first,
            *([dl.BatchNormalization()] if self.normalised else []),
            *([dl.Flatten()] if self.network == "cnn" else []),
            *([dl.Dropout(self.dropout)] if self.dropout else []),
            dl.Dense(self.units, HEADS[self.head][0]),
        ]
        model = dl.Sequential(layers)
        told = {"metrics": self.metrics, "optimizer": self.optimizer, **options}
        model.compile(loss=self.loss, device="cpu", **told)
        return model

    def trained(self, **options):
        """The model after an epoch."""
        model = self.model(**options)
        x, y, w = self.data()
        model.fit(x, y, self.batch_size, sample_weight=w, verbose=0)
        return model


@st.composite
def cases(draw):
    head = draw(st.sampled_from(list(HEADS)))
    rows = draw(st.integers(2, 40))
    return Case(
        network=draw(st.sampled_from(list(SHAPES))),
        head=head,
        loss=draw(st.sampled_from(HEADS[head][1])),
        metrics=draw(st.lists(st.sampled_from(HEADS[head][2]), unique=True)),
        optimizer=draw(st.sampled_from(OPTIMIZERS)),
        normalised=draw(st.booleans()),
        dropout=draw(st.sampled_from([0.0, 0.3])),
        rows=rows,
        batch_size=draw(st.integers(2, rows + 3)),
        other_batch_size=draw(st.integers(1, rows + 3)),
        weighted=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )


def evaluation_knows_no_batches(case):
    model = case.trained(weighted_metrics=case.metrics[:1])
    x, y, w = case.data()
    whole = model.evaluate(x, y, case.rows, verbose=0, sample_weight=w, return_dict=True)
    cut = model.evaluate(x, y, case.other_batch_size, verbose=0, sample_weight=w, return_dict=True)
    assert cut == pytest.approx(whole, rel=1e-4, abs=1e-6, nan_ok=True)


def prediction_goes_with_the_rows(case):
    model = case.trained()
    x, _, _ = case.data()
    order = np.random.default_rng(case.seed + 1).permutation(case.rows)
    found = model.predict(x[order], case.other_batch_size)
    np.testing.assert_allclose(found, model.predict(x)[order], rtol=1e-4, atol=1e-6)


def a_row_twice_is_a_row_of_weight_2(case):
    """The loss is ``mean(w·loss)``, so the sums are compared; weighted metrics are alike."""
    x, y, w = case.data()
    n, row = case.rows, case.seed % case.rows
    w = np.ones(n, "float32") if w is None else w
    twice = [np.concatenate([part, part[row : row + 1]]) for part in (x, y, w)]
    heavier = w.copy()
    heavier[row] *= 2
    size = case.other_batch_size
    model = case.trained(metrics=None, weighted_metrics=case.metrics)
    one = model.evaluate(x, y, size, verbose=0, sample_weight=heavier, return_dict=True)
    other = model.evaluate(*twice[:2], size, verbose=0, sample_weight=twice[2], return_dict=True)
    one["loss"] *= n / (n + 1)
    assert one == pytest.approx(other, rel=1e-4, abs=1e-5, nan_ok=True)
    if not case.normalised and not case.dropout:  # a step of gradient descent as well
        models = [case.model(optimizer=dl.optimizers.SGD(r / n)) for r in (0.1 * n, 0.1 * (n + 1))]
        models[0].fit(x, y, n, sample_weight=heavier, verbose=0)
        models[1].fit(*twice[:2], n + 1, sample_weight=twice[2], verbose=0)
        for a, b in zip(*(model.get_weights() for model in models)):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def two_and_three_epochs_are_five(case):
    """To the bit. A new order of rows is drawn by each fit, so it is given the same seed."""
    x, y, w = case.data()
    shuffled = not case.dropout
    options = {
        "batch_size": case.batch_size, "sample_weight": w, "verbose": 0, "shuffle": shuffled,
        "validation_data": (x, y),
    }  # fmt: skip
    one, other = case.model(), case.model()
    dl.seed(5)
    whole = one.fit(x, y, epochs=5, **options).history
    dl.seed(5)
    first = other.fit(x, y, epochs=2, **options).history
    if shuffled:
        dl.seed(5)
    second = other.fit(x, y, epochs=5, initial_epoch=2, **options).history
    assert whole == {name: values + second[name] for name, values in first.items()}
    for a, b in zip(one.state_dict().values(), other.state_dict().values()):
        assert torch.equal(a, b)


def a_file_loaded_and_saved_has_the_same_bytes(case):
    model = case.trained()
    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place) / name for name in ("1.easydl", "2.easydl")]
        model.save(paths[0])
        again = dl.load_model(paths[0])
        again.save(paths[1])
        assert paths[0].read_bytes() == paths[1].read_bytes()
        weights = [Path(place) / name for name in ("1.safetensors", "2.safetensors")]
        model.save_weights(weights[0])
        again.load_weights(weights[0])
        again.save_weights(weights[1])
        assert weights[0].read_bytes() == weights[1].read_bytes()
        x, _, _ = case.data()
        np.testing.assert_array_equal(model.predict(x), again.predict(x))


class Raise(callbacks.Callback):
    """Raises at a hook."""

    def __init__(self, hook):
        setattr(self, hook, self.fail)

    def fail(self, *_):
        raise ZeroDivisionError("of the user")


def calls(model, x, y, folder):
    """Every verb, and such as fail early and late."""
    fit = {"verbose": 0, "validation_data": (x, y)}
    wrong = np.concatenate([x, x[:1]])
    path = folder / "w.safetensors"
    yield from [
        lambda: model.fit(x, y, **fit),
        lambda: model.evaluate(x, y, verbose=0),
        lambda: model.predict(x),
        lambda: model.predict_classes(x),
        lambda: model.predict_on_batch(x),
        lambda: model.train_on_batch(x, y),
        lambda: model.test_on_batch(x, y),
        lambda: model.summary(print_fn=lambda text: None),
        lambda: model.set_weights(model.get_weights()),
        lambda: (model.save_weights(path), model.load_weights(path)),
        lambda: model.save(folder / "m.easydl"),
        lambda: model.to_torch(),
        lambda: model.count_params(),
        lambda: model.fit(wrong, y, **fit),
        lambda: model.evaluate(wrong, y, verbose=0),
        lambda: model.predict(x[:, None, None, None]),
        lambda: model.train_on_batch(wrong, y),
        lambda: model.test_on_batch(x, None),
        lambda: model.set_weights([]),
        lambda: model.load_weights(folder / "none"),
        lambda: model.predict(x, callbacks=[Raise("on_predict_batch_end")]),
        lambda: model.evaluate(x, y, verbose=0, callbacks=[Raise("on_test_batch_end")]),
    ]
    for hook in ("train_begin", "epoch_begin", "train_batch_end", "test_end", "epoch_end"):
        yield lambda hook=hook: model.fit(x, y, callbacks=[Raise(f"on_{hook}")], **fit)


def every_call_restores_the_modes(case):
    model = case.trained()
    x, y, _ = case.data()
    dice = np.random.default_rng(case.seed)
    with tempfile.TemporaryDirectory() as place:
        for call in calls(model, x, y, Path(place)):
            for module in model.modules():
                module.training = bool(dice.integers(2))
            before = [module.training for module in model.modules()]
            expected = contextlib.suppress(ValueError, ZeroDivisionError, OSError)
            with expected, contextlib.redirect_stdout(io.StringIO()):
                call()
            assert [module.training for module in model.modules()] == before


PROPERTIES = [
    evaluation_knows_no_batches,
    prediction_goes_with_the_rows,
    a_row_twice_is_a_row_of_weight_2,
    two_and_three_epochs_are_five,
    a_file_loaded_and_saved_has_the_same_bytes,
    every_call_restores_the_modes,
]


@pytest.mark.parametrize("examples", [8, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda holds: holds.__name__)
def test_it_holds_for_every_network(holds, examples):
    run = settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )(given(cases())(holds))  # fmt: skip
    run()
