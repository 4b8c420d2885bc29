"""``Model``: what a Keras user expects of its verbs, and what a torch user expects of a module."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import math
import os
import pickle
import weakref

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import easydl as dl
from easydl.training import prepare

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(30, 4)).astype("float32")
LABELS = GENERATOR.integers(3, size=30)
NUMBERS = (X @ GENERATOR.normal(size=(4, 1)) + 0.1).astype("float32")


def classifier(seed: int = 0, compiled: bool = True, **options) -> dl.Sequential:
    dl.seed(seed)
    model = dl.Sequential([dl.Dense(6, "tanh", input_dim=4), dl.Dense(3, "softmax")])
    if compiled:
        options = {"optimizer": "adam", "metrics": ["accuracy"], **options}
        model.compile(loss="sparse_categorical_crossentropy", **options)
    return model


def regressor(seed: int = 0, **options) -> dl.Model:
    dl.seed(seed)
    model = dl.Model(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)))
    model.compile(**{"optimizer": "adam", "loss": "mse", "metrics": ["mae"], **options})
    return model


def keras_twin(model: dl.Sequential, loss: str, metrics: list, optimizer: str = "sgd"):
    """A Keras model of Dense layers with the same weights."""
    layers = [keras.Input((4,))]
    for layer in model.layers:
        name = {nn.Tanh: "tanh", nn.Softmax: "softmax", nn.Sigmoid: "sigmoid"}.get(
            type(layer.activation)
        )
        layers.append(keras.layers.Dense(layer.out_features, name))
    twin = keras.Sequential(layers)
    twin.set_weights([w.T for w in model.get_weights()])
    twin.compile(optimizer, loss, metrics=metrics)
    return twin


def fitted(model: dl.Model, x=X, y=LABELS, *arguments, **options) -> dl.History:
    """``fit`` in silence from one seed, so that two models shuffle alike."""
    dl.seed(1)
    return model.fit(x, y, *arguments, **{"verbose": 0, **options})


def equal(first: dl.Model, second: dl.Model) -> bool:
    pairs = zip(first.get_weights(), second.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


# -- fit and its history ---------------------------------------------------------------------------


def test_fit_returns_the_history_that_the_model_keeps():
    model = classifier()
    history = model.fit(X, LABELS, batch_size=8, epochs=3, validation_split=0.2, verbose=0)
    assert isinstance(history, dl.History) and model.history is history
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert all(len(values) == 3 for values in history.history.values())
    assert all(type(value) is float for values in history.history.values() for value in values)
    assert history.epoch == [0, 1, 2]
    assert history.params == {"verbose": 0, "epochs": 3, "steps": 3}


@pytest.mark.parametrize("name", ["acc", "accuracy", "ACC"])
def test_fit_keeps_the_name_of_a_metric(name):
    history = classifier(metrics=[name]).fit(X, LABELS, validation_split=0.2, verbose=0)
    assert list(history.history) == ["loss", name, "val_loss", f"val_{name}"]


def test_fit_numbers_metrics_that_come_twice():
    model = classifier(metrics=["accuracy", "accuracy", lambda p, y: p.sum(-1)])
    keys = list(model.fit(X, LABELS, verbose=0).history)
    assert keys[:3] == ["loss", "accuracy", "accuracy_1"] and len(keys) == 4


def test_fit_goes_on_where_the_last_one_ended():
    twice, once = classifier(), classifier()
    first = twice.fit(X, LABELS, verbose=0, shuffle=False)
    second = twice.fit(X, LABELS, verbose=0, shuffle=False)
    whole = once.fit(X, LABELS, epochs=2, verbose=0, shuffle=False)
    assert second is not first and len(first.epoch) == len(second.epoch) == 1
    assert [*first.history["loss"], *second.history["loss"]] == whole.history["loss"]
    assert equal(twice, once)


def test_compile_resets_the_optimizer_and_keeps_the_weights():
    model = classifier()
    model.fit(X, LABELS, verbose=0)
    before, optimizer = model.get_weights(), model.optimizer
    assert optimizer.state
    model.compile("adam", "sparse_categorical_crossentropy")
    assert model.optimizer is not optimizer and not model.optimizer.state
    np.testing.assert_equal(model.get_weights(), before)


def test_fit_takes_initial_epoch_as_the_number_of_the_first():
    history = classifier().fit(X, LABELS, epochs=5, initial_epoch=3, verbose=0)
    assert history.epoch == [3, 4] and len(history.history["loss"]) == 2


def test_fit_ends_epochs_after_steps_per_epoch():
    seen = []
    count = dl.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    history = classifier().fit(
        X, LABELS, batch_size=4, epochs=2, steps_per_epoch=3, verbose=0, callbacks=[count]
    )
    assert seen == [0, 1, 2, 0, 1, 2] and history.params["steps"] == 3


def test_fit_validates_every_validation_freq_epochs():
    history = classifier().fit(
        X, LABELS, epochs=5, validation_data=(X, LABELS), validation_freq=2, verbose=0
    )
    assert len(history.history["loss"]) == 5 and len(history.history["val_loss"]) == 2
    assert history.epochs_of("val_loss") == [1, 3]


def test_fit_equals_keras_step_by_step():
    model = classifier(optimizer="sgd")
    twin = keras_twin(model, "sparse_categorical_crossentropy", ["accuracy"])
    arguments = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}
    arguments |= {"validation_split": 0.3}
    theirs = twin.fit(X, LABELS, **arguments).history
    ours = model.fit(X, LABELS, split="tail", **arguments).history
    assert set(ours) == set(theirs)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)
    for a, b in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_allclose(a, b.T, rtol=1e-4, atol=1e-6)


def test_loss_of_an_epoch_includes_the_penalty_in_training_and_validation():
    model = dl.Sequential([dl.Dense(1, kernel_regularizer="l2", input_dim=4)])
    model.compile(dl.optimizers.SGD(0.0), "mse", metrics=["mse"])
    penalty = 0.01 * float((model.get_weights()[0] ** 2).sum())
    logs = model.fit(X, NUMBERS, validation_data=(X, NUMBERS), verbose=0).history
    assert logs["loss"][0] - logs["mse"][0] == pytest.approx(penalty, rel=1e-4)
    assert logs["val_loss"][0] - logs["val_mse"][0] == pytest.approx(penalty, rel=1e-4)
    assert model.evaluate(X, NUMBERS, verbose=0)[0] == pytest.approx(logs["val_loss"][0])


# -- splits and weights ----------------------------------------------------------------------------


def test_validation_split_holds_out_the_last_rows_before_shuffling():
    model = regressor()
    history = model.fit(X, NUMBERS, validation_split=0.25, verbose=0)
    held_out = model.evaluate(X[22:], NUMBERS[22:], verbose=0)
    assert history.history["val_loss"] == [pytest.approx(held_out[0], rel=1e-6)]
    assert history.params["steps"] == 1  # 22 rows in one batch of 32
    changed = X.copy()
    changed[22:] = 1000
    other = regressor()
    other.fit(changed, NUMBERS, validation_split=0.25, verbose=0)
    assert equal(model, other)


@pytest.mark.parametrize("split", ["random", "stratified"])
def test_split_takes_other_rows_by_the_seed(split):
    def losses(seed, split):
        model = classifier()
        dl.seed(seed)
        history = model.fit(X, LABELS, validation_split=0.3, split=split, verbose=0)
        return history.history["val_loss"]

    assert losses(1, split) == losses(1, split) != losses(2, split)
    assert losses(1, split) != losses(1, "tail")


def test_split_stratified_saves_sorted_labels():
    order = np.argsort(LABELS)
    model = classifier()
    with pytest.warns(UserWarning, match="split='stratified'"):
        model.fit(X[order], LABELS[order], validation_split=0.2, verbose=0)
    model.fit(X[order], LABELS[order], validation_split=0.2, split="stratified", verbose=0)


def test_class_weight_balanced_is_sklearns():
    from easydl.training.class_weight import class_factors

    model = classifier()
    model.evaluate(X, LABELS, verbose=0)
    labels = np.repeat([0, 1, 2], [21, 7, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    factors = class_factors("balanced", model._compiled.heads[0], torch.tensor(labels))
    np.testing.assert_allclose(factors, expected, rtol=1e-6)


@pytest.mark.parametrize("weight", ["balanced", {0: 0.5, 2: 3.0}, [1.0, 2.0, 0.25]])
@pytest.mark.parametrize("one_hot", [False, True])
def test_class_weight_is_a_sample_weight_by_class(weight, one_hot):
    y = np.eye(3)[LABELS] if one_hot else LABELS
    by_class, by_sample = classifier(), classifier()
    per_class = {0: 0.5, 1: 1.0, 2: 3.0} if isinstance(weight, dict) else dict(enumerate(weight))
    if weight == "balanced":
        rows = compute_sample_weight("balanced", LABELS)
    else:
        rows = np.array([per_class[label] for label in LABELS])
    arguments = {"validation_data": (X, y), "epochs": 2}
    first = fitted(by_class, X, y, class_weight=weight, **arguments)
    second = fitted(by_sample, X, y, sample_weight=rows, **arguments)
    assert equal(by_class, by_sample)
    assert first.history == second.history


def test_class_weight_and_sample_weight_multiply():
    both, product = classifier(), classifier()
    w = GENERATOR.random(30).astype("float32")
    fitted(both, class_weight={0: 2.0, 1: 0.5}, sample_weight=w)
    factors = np.array([2.0, 0.5, 1.0], dtype="float32")
    fitted(product, sample_weight=w * factors[LABELS])
    assert equal(both, product)


def test_class_weight_of_a_stream_is_that_of_arrays():
    arrays, stream = classifier(), classifier()
    rows = TensorDataset(torch.tensor(X), torch.tensor(LABELS))
    weight = {0: 0.5, 1: 2.0}
    arrays.fit(X, LABELS, 8, class_weight=weight, shuffle=False, verbose=0)
    stream.fit(DataLoader(rows, 8), class_weight=weight, verbose=0)
    assert equal(arrays, stream)


def test_class_weight_reaches_binary_targets():
    y = (NUMBERS[:, 0] > 0).astype(int)
    by_class, by_sample = (
        dl.Sequential([dl.Dense(1, "sigmoid", input_dim=4, kernel_initializer="ones")])
        for _ in range(2)
    )
    for model in (by_class, by_sample):
        model.compile("sgd", "binary_crossentropy")
    by_class.fit(X, y, class_weight="balanced", shuffle=False, verbose=0)
    rows = compute_sample_weight("balanced", y)
    by_sample.fit(X, y, sample_weight=rows, shuffle=False, verbose=0)
    assert equal(by_class, by_sample)


def test_weights_give_keras_losses_and_metrics():
    model = classifier(weighted_metrics=["accuracy"])
    twin = keras_twin(model, "sparse_categorical_crossentropy", ["accuracy"])
    twin.compile(
        "sgd", "sparse_categorical_crossentropy", metrics=["acc"], weighted_metrics=["accuracy"]
    )
    w = GENERATOR.random(30).astype("float32")
    theirs = twin.evaluate(X, LABELS, sample_weight=w, verbose=0)
    ours = model.evaluate(X, LABELS, sample_weight=w, batch_size=7, verbose=0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_validation_data_takes_weights():
    w = GENERATOR.random(30)
    model = regressor()
    history = model.fit(X, NUMBERS, validation_data=(X, NUMBERS, w), verbose=0)
    expected = model.evaluate(X, NUMBERS, sample_weight=w, verbose=0)[0]
    assert history.history["val_loss"] == [pytest.approx(expected)]


# -- evaluate and predict --------------------------------------------------------------------------


def test_evaluate_returns_a_list_in_the_order_of_compile_as_keras_does():
    model = classifier(metrics=["mse", "accuracy"], compiled=True)
    targets = np.eye(3, dtype="float32")[LABELS]
    twin = keras_twin(model, "categorical_crossentropy", ["mse", "accuracy"])
    theirs = twin.evaluate(X, targets, verbose=0)
    ours = model.evaluate(X, targets, verbose=0)
    assert isinstance(ours, list)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    named = model.evaluate(X, targets, verbose=0, return_dict=True)
    assert list(named) == ["loss", "mse", "accuracy"] and list(named.values()) == ours


def test_evaluate_returns_a_float_without_metrics():
    model = regressor(metrics=None)
    value = model.evaluate(X, NUMBERS, verbose=0)
    assert type(value) is float
    assert value == pytest.approx(F.mse_loss(model(torch.tensor(X)), torch.tensor(NUMBERS)).item())


def test_evaluate_is_the_same_for_every_batch_size():
    model = classifier()
    whole = model.evaluate(X, LABELS, batch_size=30, verbose=0)
    for size in (1, 7, 29, 100):
        assert model.evaluate(X, LABELS, batch_size=size, verbose=0) == pytest.approx(whole)


def test_predict_gives_float32_probabilities_of_every_row():
    model = classifier()
    model.fit(X.astype("float64"), LABELS, verbose=0)
    predicted = model.predict(X, batch_size=7)
    assert isinstance(predicted, np.ndarray) and predicted.dtype == np.float32
    np.testing.assert_allclose(predicted.sum(1), 1, rtol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(predicted, model(torch.tensor(X)), rtol=1e-6)
    assert model.predict_on_batch(X[:5]).shape == (5, 3)
    np.testing.assert_array_equal(model.predict_classes(X), predicted.argmax(1))


def test_predict_warns_once_before_anything_was_learnt():
    model = classifier()
    with pytest.warns(UserWarning, match="before fit or load_weights"):
        model.predict(X)
    model.predict(X)
    classifier(compiled=False).set_weights(model.get_weights())


def test_predict_needs_no_compile_where_the_network_was_given():
    network = nn.Linear(4, 2)
    with torch.no_grad():
        np.testing.assert_array_equal(dl.Model(network).predict(X), network(torch.tensor(X)))


def test_on_batch_verbs_equal_fit_and_evaluate():
    model, other = classifier(), classifier()
    before = model.evaluate(X, LABELS, verbose=0)
    assert model.train_on_batch(X, LABELS) == pytest.approx(before)
    other.fit(X, LABELS, shuffle=False, verbose=0)
    assert equal(model, other)
    after = model.evaluate(X, LABELS, verbose=0)
    assert model.test_on_batch(X, LABELS) == pytest.approx(after)
    assert equal(model, other)
    named = model.test_on_batch(X, LABELS, return_dict=True)
    assert list(named) == ["loss", "accuracy"] and list(named.values()) == pytest.approx(after)
    w = GENERATOR.random(30)
    weighted = model.evaluate(X, LABELS, sample_weight=w, verbose=0)
    assert model.train_on_batch(X, LABELS, sample_weight=w) == pytest.approx(weighted)


# -- several inputs and outputs --------------------------------------------------------------------


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 2), nn.Linear(2, 2)

    def forward(self, a, b):
        return self.left(a) + self.right(b)


class DictInput(TwoInputs):
    def forward(self, inputs):
        return super().forward(inputs["a"], inputs["b"])


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (TwoInputs, (X, X[:, :2])),
        (TwoInputs, [X, X[:, :2]]),
        (TwoInputs, {"b": X[:, :2], "a": X}),
        (DictInput, {"a": X, "b": X[:, :2]}),
    ],
    ids=["tuple", "list", "keywords", "dict"],
)
def test_fit_takes_several_inputs(network, inputs):
    def trained(x):
        dl.seed(0)
        model = dl.Model(network())
        model.compile("sgd", "mse")
        history = model.fit(x, np.c_[NUMBERS, NUMBERS], 8, 2, validation_split=0.2, verbose=0)
        return model, history.history, model.predict(x)

    model, history, predicted = trained(inputs)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    expected = X @ weights["left.weight"].T + weights["left.bias"]
    expected = expected + X[:, :2] @ weights["right.weight"].T + weights["right.bias"]
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-6)
    assert history["loss"][1] < history["loss"][0]
    parts = inputs.values() if isinstance(inputs, dict) else inputs
    tensors = [torch.tensor(part) for part in parts]
    if isinstance(inputs, dict):
        rebuilt = dict(zip(inputs, tensors))
    else:
        rebuilt = tuple(tensors)
    assert equal(trained(rebuilt)[0], model)


class TwoOutputs(TwoInputs):
    def forward(self, a, b):
        return self.left(a), self.right(b)


class OnlyByPlace(TwoOutputs):
    def forward(self, a, b, /, c=None):
        return super().forward(a, b)


class OwnForward(dl.Model):
    """Asks for two inputs, where the network that it wraps asks for one."""

    def __init__(self):
        super().__init__(nn.Identity())
        self.two = TwoOutputs()

    def forward(self, a, b):
        return self.two(self.network(a), b)


ASKING = [
    lambda: dl.Model(TwoOutputs()),
    lambda: dl.Model(dl.Model(TwoOutputs())),
    lambda: dl.Model(OnlyByPlace()),
    OwnForward,
]


@pytest.mark.parametrize("make", ASKING)
@pytest.mark.parametrize("inputs", [list, tuple])
@pytest.mark.parametrize("targets", [list, tuple])
def test_lists_are_several_inputs_and_outputs_of_a_network_that_takes_so_many(
    make, inputs, targets
):
    def trained(x, y):
        dl.seed(0)
        model = make()
        model.compile("sgd", "mse")
        history = model.fit(x, y, 8, 2, verbose=0, validation_data=(x, y)).history
        return model, history, model.evaluate(x, y, verbose=0)

    x, y = (X, X[:, :2]), (np.c_[NUMBERS, NUMBERS], X[:, 2:])
    expected, *numbers = trained(x, y)
    model, *found = trained(inputs(x), targets(y))
    assert equal(model, expected) and found == numbers
    assert np.array_equal(model.predict(inputs(x))[1], expected.predict(x)[1])


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.other = nn.Linear(4, 1), nn.Linear(2, 1)

    def forward(self, x, other=0.0):
        first = self.layer(x)
        return first, first + (self.other(other) if isinstance(other, torch.Tensor) else other)


def test_a_list_beside_an_optional_input_is_what_its_shapes_and_the_network_know():
    model = dl.Model(Optional())
    model.compile("sgd", "mse")
    y = NUMBERS[:, None]
    expected = model.evaluate((X, X[:, :2]), (y, y), verbose=0)
    for _ in range(2):  # of other shapes: no rows; then of shapes that it has seen
        assert model.evaluate([X, X[:, :2]], [y, y], verbose=0) == expected
        model.evaluate(X, (y, y), verbose=0)
    model = dl.Model(Optional())
    model.compile("sgd", "mse")
    assert len(model.evaluate([X, X[:, :2]], [y, y], verbose=0)) == 3  # sees them first so
    model.network.other = nn.Linear(4, 1)
    expected = model.evaluate((X, X), (y, y), verbose=0)
    assert model.evaluate([X, X], [y, y], verbose=0) == expected
    steps = np.stack([X[:5], X[5:10]])
    model = dl.Model(Optional())
    model.compile("sgd", "mse")
    model.evaluate(steps, (steps[..., :1],) * 2, verbose=0)
    assert np.array_equal(model.predict(list(steps))[0], model.predict(steps)[0])


@pytest.mark.parametrize("many", [2, 3])
@pytest.mark.filterwarnings("ignore:predict was called before")
def test_predict_reads_a_list_as_rows_where_the_network_takes_one_input(many):
    steps = np.stack([X[:5], X[5:10], X[10:15]])[:many]
    models = dl.Model(nn.Linear(4, 1)), dl.Sequential([dl.LSTM(3), dl.Dense(1)])
    for model in models:
        model.compile("sgd", "mse")
        y = np.ones((many, 5, 1) if model is models[0] else (many, 1))
        model.fit(list(steps), list(y), verbose=0)
        assert np.array_equal(model.predict(list(steps)), model.predict(steps))
    for unseen in (dl.Model(nn.Linear(4, 1)), dl.Sequential([dl.Dense(1)])):
        found = unseen.predict(list(X[:many]))
        assert np.array_equal(found, unseen.predict(X[:many]))


class Added(nn.Module):
    def forward(self, *inputs):
        return sum(inputs)


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:predict was called before")
def test_predict_reads_a_list_as_inputs_where_the_network_may_take_any_number():
    traced = torch.jit.trace(nn.Bilinear(4, 4, 1), (torch.ones(2, 4),) * 2)
    for network in (Added(), traced):
        model = dl.Model(network)
        assert np.array_equal(model.predict([X, X]), model.predict((X, X)))


def test_a_list_of_batches_may_hold_several_inputs():
    def trained(x):
        torch.manual_seed(0)
        model = dl.Model(TwoInputs())
        model.compile("sgd", "mse")
        model.fit(x, verbose=0)
        return model, model.evaluate(x, verbose=0)

    y = np.c_[NUMBERS, NUMBERS]
    parts = [((X[i : i + 10], X[i : i + 10, :2]), y[i : i + 10]) for i in (0, 10, 20)]
    named = [({"a": a, "b": b}, target) for (a, b), target in parts]
    expected, loss = trained(lambda: iter(parts))
    words = [[list(pair) for pair in row] for row in np.arange(60).reshape(10, 2, 3) % 9]
    reader = dl.Model(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)))
    reader._has_learned = True
    assert reader.predict(words).shape == (10, 2, 3, 2)  # which are no batches
    vectors = [[list(pair) for pair in row] for row in np.ones((10, 2, 3, 4), "float32")]
    layer = dl.Model(nn.Linear(4, 2))
    assert layer.predict(vectors).shape == (10, 2, 3, 2)
    for batches in (parts, named, parts[:1] + named[1:]):
        model, found = trained(batches)
        assert equal(model, expected) and found == loss


class OtherKey(DictInput):
    def forward(self, inputs):
        return {}["a"] if len(inputs) == 2 else super().forward(inputs)


class Named(TwoInputs):
    def forward(self, a, b, **more):
        return super().forward(a, b)


class AndMore(TwoInputs):
    def forward(self, a, *rest, b=None):
        return super().forward(a, b)


class WithOptions(nn.Module):
    def forward(self, x, **options):
        assert not options
        return x["x"] + x["z"]


class PassesOn(dl.Model):
    def forward(self, *inputs, **named):
        return super().forward(*inputs, **named)


class OwnLogits(dl.Model):
    def forward(self, x, logits=None):
        return x + logits


class Anything(nn.Module):
    def forward(self, *inputs, **named):
        return inputs[0]["x"] * 2


@pytest.mark.filterwarnings("ignore:predict was called before")
def test_a_dict_is_read_by_the_names_that_forward_takes():
    inputs = {"a": X, "b": X[:, :2]}
    for network in (TwoInputs(), Named()):
        model = dl.Model(network)
        expected = model.predict(inputs)
        model.compile("sgd", "mse")
        wanted = r"expected what its forward takes, a, b(, \*\*more)?: .* dict with these keys"
        for odd in ({"a": X}, {"a": X, "bb": X}):
            with pytest.raises(ValueError, match=wanted):
                model.fit(odd, NUMBERS, verbose=0)
        y = np.zeros_like(expected)
        model.fit(inputs, y, verbose=0)
        for odd in ({"a": X}, {"a": X, "bb": X}, X, (X,), (X, X, X)):
            for verb in (model.predict, lambda x: model.evaluate(x, y, verbose=0)):  # noqa: B023
                with pytest.raises(ValueError, match=wanted):
                    verb(odd)
        model = dl.Model(network)
    expected = model.predict(inputs)
    assert np.array_equal(model.predict(inputs | {"id": X}), expected)
    reads = dl.Model(DictInput())
    reads.compile("sgd", "mse")
    wanted = r"under the keys a, bb; expected the key 'b', which its forward reads"
    for _ in range(2):
        for verb in (reads.fit, reads.evaluate):
            with pytest.raises(ValueError, match=wanted):
                verb({"a": X, "bb": X}, np.zeros((len(X), 2)), verbose=0)
        with pytest.raises(ValueError, match=wanted):
            reads.predict({"a": X, "bb": X})
        reads.fit(inputs, np.zeros((len(X), 2)), verbose=0)
    with pytest.raises(KeyError, match="'a'"):  # another dict's
        dl.Model(OtherKey()).predict(inputs)
    model = dl.Model(AndMore())
    expected = model(torch.tensor(X), b=torch.tensor(X[:, :2])).detach()
    np.testing.assert_allclose(model.predict(inputs), expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(dl.Model(Anything()).predict({"x": X}), X * 2)
    assert np.array_equal(dl.Model(WithOptions()).predict({"x": X, "z": X}), X * 2)
    assert np.array_equal(OwnLogits().predict({"x": X, "logits": X}), X * 2)
    network = TwoInputs()
    passing, direct = PassesOn(network), dl.Model(network)
    assert np.array_equal(passing.predict(inputs), direct.predict(inputs))
    hooked = dl.Model(TwoInputs())
    hooked.register_forward_pre_hook(lambda module, args: (args[0]["u"], args[0]["v"]))
    hooked.compile("sgd", "mse")
    hooked.fit({"u": X, "v": X[:, :2]}, np.c_[NUMBERS, NUMBERS], verbose=0)


@pytest.mark.parametrize("form", [list, lambda y: [row.tolist() for row in y]])
def test_a_list_of_each_rows_targets_stays_one_target_of_several_inputs(form):
    y = np.c_[NUMBERS, NUMBERS]
    models = [dl.Model(TwoInputs()) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, targets in zip(models, (y, form(y))):
        model.compile("sgd", "mse")
        model.fit([X, X[:, :2]], targets, shuffle=False, verbose=0)
    assert equal(*models)


class OneOfTwo(dl.Model):
    """Asks for one input, where the network that it wraps asks for two."""

    def forward(self, x):
        return self.network(x, x)


@pytest.mark.parametrize("form", [list, tuple])
@pytest.mark.parametrize(
    "make",
    [
        lambda: dl.Sequential([dl.Dense(1, input_dim=4)]),
        lambda: dl.Model(torch.jit.trace(nn.Linear(4, 1), torch.ones(2, 4))),
        lambda: OneOfTwo(nn.Bilinear(4, 4, 1)),
    ],
    ids=["Sequential", "traced", "own forward"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_list_is_rows_where_the_network_takes_one_input(make, form):
    for rows in (2, 20):
        x, y = X[:rows], NUMBERS[:rows]
        models = [make() for _ in range(2)]
        models[1].load_state_dict(models[0].state_dict())
        for model, given in zip(models, ((x, y), (form(x), list(y)))):
            model.compile("sgd", "mse")
            model.fit(*given, shuffle=False, verbose=0)
        assert equal(*models)


def test_a_list_of_two_sequences_stays_two_rows_of_a_network_that_takes_one():
    steps = [np.ones((5, 4), "float32"), np.zeros((5, 4), "float32")]
    model = dl.Sequential([dl.LSTM(3, return_sequences=True), dl.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(steps, [np.ones(5), np.zeros(5)], verbose=0)
    assert model.predict(np.stack(steps)).shape == (2, 5, 1)


class TwoHeads(nn.Module):
    def __init__(self, as_dict):
        super().__init__()
        self.size, self.kind, self.as_dict = nn.Linear(4, 1), nn.Linear(4, 3), as_dict

    def forward(self, x):
        size, kind = self.size(x), self.kind(x).softmax(-1)
        return {"kind": kind, "size": size} if self.as_dict else (size, kind)


def keras_heads(model):
    inputs = keras.Input((4,))
    outputs = {
        "size": keras.layers.Dense(1, name="size")(inputs),
        "kind": keras.layers.Dense(3, "softmax", name="kind")(inputs),
    }
    twin = keras.Model(inputs, outputs)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for name in outputs:
        twin.get_layer(name).set_weights([state[f"{name}.weight"].T, state[f"{name}.bias"]])
    return twin


@pytest.mark.parametrize(
    "metrics",
    [
        {"size": ["mae"], "kind": ["accuracy"]},
        {"size": "mae"},
        ["accuracy", "mae"],
        [["accuracy"], ["mae", "mse"]],
        [None, "mae"],
    ],
)
def test_fit_of_named_outputs_equals_keras(metrics):
    dl.seed(0)
    model = dl.Model(TwoHeads(as_dict=True))
    twin = keras_heads(model)
    settings = {
        "optimizer": "sgd",
        "loss": {"size": "mse", "kind": "sparse_categorical_crossentropy"},
        "loss_weights": {"size": 0.3, "kind": 2.0},
        "metrics": metrics,
    }
    targets = {"size": NUMBERS, "kind": LABELS}
    model.compile(**settings)
    twin.compile(**settings)
    arguments = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
    theirs = twin.fit(X, targets, validation_split=0.2, **arguments).history
    ours = model.fit(X, targets, validation_split=0.2, **arguments).history
    assert set(ours) == set(theirs)
    assert {"size_loss", "kind_loss", "size_mae", "val_kind_loss"} < set(ours)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4)
    named = model.evaluate(X, targets, verbose=0, return_dict=True)
    expected = twin.evaluate(X, targets, verbose=0, return_dict=True)
    assert named == {key: pytest.approx(value, rel=1e-4) for key, value in expected.items()}
    predicted, reference = model.predict(X), twin.predict(X, verbose=0)
    assert set(predicted) == {"size", "kind"}
    for name in predicted:
        np.testing.assert_allclose(predicted[name], reference[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("targets", [(NUMBERS, LABELS), [NUMBERS, LABELS]], ids=["tuple", "list"])
def test_fit_of_listed_outputs_equals_that_of_named_ones(targets):
    def trained(as_dict, loss, weights, metrics, y):
        dl.seed(0)
        model = dl.Model(TwoHeads(as_dict))
        model.compile("sgd", loss, loss_weights=weights, metrics=metrics)
        return model, model.fit(X, y, verbose=0).history

    kinds = ["mse", "sparse_categorical_crossentropy"]
    listed, history = trained(False, kinds, [0.3, 2.0], [["mae"], ["accuracy"]], targets)
    names = ["size", "kind"]
    named, expected = trained(
        True,
        dict(zip(names, kinds)),
        {"size": 0.3, "kind": 2.0},
        {"size": "mae", "kind": "accuracy"},
        {"kind": LABELS, "size": NUMBERS},
    )
    assert equal(listed, named)
    assert list(history) == [
        "loss", "output_1_loss", "output_2_loss", "output_1_mae", "output_2_accuracy",
    ]  # fmt: skip
    places = {key.replace("size", "output_1").replace("kind", "output_2"): key for key in expected}
    assert history == {place: expected[key] for place, key in places.items()}
    predicted = listed.predict(X)
    assert isinstance(predicted, list) and [p.shape for p in predicted] == [(30, 1), (30, 3)]
    result = listed.evaluate(X, targets, verbose=0)
    assert result[0] == pytest.approx(0.3 * result[1] + 2.0 * result[2], rel=1e-6)


# -- freezing and the learning rate ----------------------------------------------------------------


def test_trainable_freezes_and_frees_a_layer_without_compiling_anew():
    model = classifier(optimizer=torch.optim.AdamW)
    model.fit(X, LABELS, verbose=0)
    first = model.layers[0].weight.detach().clone()
    model.layers[0].trainable = False
    model.fit(X, LABELS, epochs=2, verbose=0)
    assert torch.equal(model.layers[0].weight, first)
    model.layers[0].trainable = True
    model.fit(X, LABELS, verbose=0)
    assert not torch.equal(model.layers[0].weight, first)


def test_trainable_false_before_compile_equals_a_torch_loop_over_the_rest():
    model = classifier(compiled=False)
    model.layers[0].trainable = False
    model.compile(torch.optim.SGD, "sparse_categorical_crossentropy")
    network = model.to_torch()
    optimizer = torch.optim.SGD([network[2].weight, network[2].bias])
    for rows in torch.arange(30).split(8):
        optimizer.zero_grad()
        F.cross_entropy(network[:3](torch.tensor(X))[rows], torch.tensor(LABELS)[rows]).backward()
        optimizer.step()
    model.fit(X, LABELS, 8, shuffle=False, verbose=0)
    for ours, theirs in zip(model.parameters(), network.parameters()):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("freeze", ["layer", "model", "requires_grad"])
def test_trainable_false_keeps_the_statistics_of_batchnorm(freeze):
    norm = dl.BatchNormalization()
    model = dl.Sequential([dl.Dense(4, input_dim=4), norm, dl.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(X, NUMBERS, verbose=0)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    if freeze == "layer":
        norm.trainable = False
    elif freeze == "model":
        model.trainable = False
        model.layers[-1].trainable = True
    else:
        norm.requires_grad_(False)
    model.fit(X, NUMBERS, epochs=2, verbose=0)
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name])
    norm.requires_grad_(True)
    norm.trainable = True
    model.fit(X, NUMBERS, verbose=0)
    assert not torch.equal(norm.running_mean, before["running_mean"])


def test_trainable_set_in_a_callback_holds_from_the_next_epoch():
    class Freeze(dl.Callback):
        def on_epoch_end(self, epoch, logs=None):
            weights.append(self.model.layers[0].weight.detach().clone())
            self.model.layers[0].trainable = epoch >= 2

    weights = []
    classifier().fit(X, LABELS, epochs=4, verbose=0, callbacks=[Freeze()])
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(weights)]
    assert moved == [False, False, True]


def test_trainable_of_a_model_tells_and_sets_every_layer():
    model = classifier()
    assert model.trainable
    model.trainable = False
    assert not model.trainable and not any(p.requires_grad for p in model.parameters())
    model.layers[1].trainable = True
    model.fit(X, LABELS, verbose=0)
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]


def test_learning_rate_reads_and_sets_every_group():
    model = classifier(optimizer=dl.optimizers.SGD(0.5))
    assert model.learning_rate == 0.5
    model.learning_rate = 0.0
    assert [group["lr"] for group in model.optimizer.param_groups] == [0.0]
    before = model.get_weights()
    model.fit(X, LABELS, verbose=0)
    np.testing.assert_equal(model.get_weights(), before)


# -- the same seed gives the same weights ----------------------------------------------------------


@pytest.mark.parametrize("verbose", [0, 1, 2, "auto"])
def test_seed_gives_the_same_weights_whatever_is_shown(verbose, capsys):
    plain, shown = classifier(), classifier()
    fitted(plain, X, LABELS, 8, 2)
    shown.summary()
    fitted(shown, X, LABELS, 8, 2, verbose=verbose)
    assert equal(plain, shown)


def test_seed_gives_the_same_weights_whatever_else_is_done():
    plain, busy = classifier(), classifier()
    fitted(plain, X, LABELS, 8, 3)

    class Looks(dl.Callback):
        def on_train_batch_end(self, batch, logs=None):
            assert logs["loss"] > 0

        def on_epoch_end(self, epoch, logs=None):
            self.model.evaluate(X, LABELS, verbose=0)
            self.model.predict(X[:3])
            self.model.summary(print_fn=None)

    busy.evaluate(X, LABELS, verbose=0)
    fitted(busy, X, LABELS, 8, 3, callbacks=[Looks()], validation_data=(X, LABELS))
    assert equal(plain, busy)


def test_seed_gives_the_same_weights_when_the_shape_comes_from_the_data():
    dl.seed(0)
    late = dl.Sequential([dl.Dense(6, "tanh"), dl.Dropout(0.5), dl.Dense(3, "softmax")])
    late.compile("adam", "sparse_categorical_crossentropy")
    late.fit(X, LABELS, verbose=0)
    dl.seed(0)
    early = dl.Sequential(
        [dl.Input((4,)), dl.Dense(6, "tanh"), dl.Dropout(0.5), dl.Dense(3, "softmax")]
    )
    early.compile("adam", "sparse_categorical_crossentropy")
    early.fit(X, LABELS, verbose=0)
    assert equal(early, late)


# -- copies ----------------------------------------------------------------------------------------


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


def saved_and_loaded(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES["torch.save"] = saved_and_loaded


@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("make", [classifier, regressor])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"schedule": dl.schedules.CosineDecay(1e-2, 5)},
        {"optimizer": torch.optim.RMSprop, "clip_norm": 0.1, "precision": "bfloat16"},
    ],
    ids=["plain", "schedule", "bfloat16"],
)
def test_copy_of_a_fitted_model_trains_as_the_original_would_but_alone(make, make_copy, options):
    y = LABELS if make is classifier else NUMBERS
    original = make(**options)
    original.fit(X, y, 8, 2, shuffle=False, verbose=0)
    twin = make_copy(original)
    weights = original.get_weights()
    assert equal(twin, original)
    copied = twin.fit(X, y, 8, 2, shuffle=False, verbose=0)
    np.testing.assert_equal(original.get_weights(), weights)
    first = original.fit(X, y, 8, 2, shuffle=False, verbose=0)
    assert equal(twin, original)
    assert copied.history == first.history and twin.history is not original.history
    assert twin.evaluate(X, y, verbose=0) == original.evaluate(X, y, verbose=0)


def test_copy_before_the_shapes_are_known_trains_alone():
    dl.seed(0)
    original = dl.Sequential([dl.Dense(6, "tanh"), dl.Dense(3, "softmax")])
    original.compile("adam", "sparse_categorical_crossentropy")
    twin = copy.deepcopy(original)
    twin.fit(X, LABELS, verbose=0)
    assert not original.is_built
    original.fit(X[:, :2], LABELS, verbose=0)
    assert original.layers[0].in_features == 2 and twin.layers[0].in_features == 4


# -- an nn.Module all along ------------------------------------------------------------------------


def test_model_is_a_module_that_moves_and_hooks_like_one():
    model = regressor()
    assert isinstance(model, nn.Module)
    seen = []
    model.network[2].register_forward_hook(lambda *_: seen.append("forward"))
    model.network[2].register_full_backward_hook(lambda *_: seen.append("backward"))
    model.fit(X, NUMBERS, 30, verbose=0)
    assert seen[-2:] == ["forward", "backward"]
    outputs = model(torch.tensor(X))
    outputs.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.to(torch.float64) is model
    assert model(torch.tensor(X).double()).dtype == torch.float64


def test_model_trains_in_float64_when_moved_there():
    model = regressor(optimizer="sgd")
    model.to(torch.float64)
    network = copy.deepcopy(model.network)
    model.fit(X, NUMBERS, 30, shuffle=False, verbose=0)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    F.mse_loss(network(torch.tensor(X).double()), torch.tensor(NUMBERS).double()).backward()
    optimizer.step()
    for ours, theirs in zip(model.parameters(), network.parameters()):
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert model.predict(X).dtype == np.float32


def test_model_works_in_torch_func_and_torch_compile():
    for model in (classifier(), regressor()):
        x = torch.tensor(X)
        state = {name: value + 1 for name, value in model.named_parameters()}
        shifted = torch.func.functional_call(model, state, (x,))
        twin = copy.deepcopy(model)
        twin.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})
        assert torch.equal(shifted, twin(x))
        assert torch.equal(torch.compile(model, backend="eager")(x), model(x))


def network():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


class NamesItNetwork(nn.Module):
    """A user's class that calls its part ``network``, as ``Model`` does."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(2))
        self.network = network()

    def forward(self, x):
        return self.network(x) * self.scale


@pytest.mark.parametrize("make", [network, NamesItNetwork])
def test_state_dict_has_the_keys_of_the_wrapped_network_both_ways(make):
    bare, other = make(), make()
    model = dl.Model(bare)
    assert list(model.state_dict()) == list(bare.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(value, bare.state_dict()[key])
    assert not model.load_state_dict(other.state_dict()).missing_keys
    for key, value in other.state_dict().items():
        assert torch.equal(bare.state_dict()[key], value)
    make().load_state_dict(model.state_dict())


@pytest.mark.parametrize("make", [network, NamesItNetwork])
def test_state_dict_keeps_bare_keys_inside_other_modules(make):
    nested = nn.ModuleDict({"first": nn.Linear(1, 1), "a": dl.Model(make()), "b": dl.Model(make())})
    twin = nn.ModuleDict({"first": nn.Linear(1, 1), "a": make(), "b": make()})
    assert list(nested.state_dict()) == list(twin.state_dict())
    nested.load_state_dict(twin.state_dict())
    for key, value in nested.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key])
    doubly = dl.Model(dl.Model(make()))
    assert list(doubly.state_dict()) == list(make().state_dict())
    doubly.load_state_dict(make().state_dict())


def test_load_state_dict_names_what_does_not_fit():
    model = dl.Model(network())
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*0.weight"):
        model.load_state_dict({})
    result = model.load_state_dict({**network().state_dict(), "more": torch.ones(1)}, strict=False)
    assert not result.missing_keys and [key[-4:] for key in result.unexpected_keys] == ["more"]


# -- a loss of one's own ---------------------------------------------------------------------------


class Autoencoder(dl.Model):
    """A family of its own: two parts in the loss, no targets."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, x):
        return self.decode(self.encode(x))

    def compute_loss(self, x, y, sample_weight=None):
        code = self.encode(x)
        outputs = self.decode(code)
        parts = {"rebuilt_loss": F.mse_loss(outputs, x), "code_loss": code.square().mean()}
        return sum(parts.values()), outputs, parts


def test_compute_loss_of_ones_own_is_trained_and_its_parts_are_logged():
    dl.seed(0)
    model = Autoencoder()
    model.compile("adam")
    history = model.fit(X, batch_size=7, epochs=3, validation_data=X[:5], verbose=0).history
    names = ["loss", "rebuilt_loss", "code_loss"]
    assert list(history) == names + [f"val_{name}" for name in names]
    for prefix in ("", "val_"):
        total = np.add(history[prefix + "rebuilt_loss"], history[prefix + "code_loss"])
        np.testing.assert_allclose(history[prefix + "loss"], total, rtol=1e-6)
    assert history["loss"][-1] < history["loss"][0]
    x = torch.tensor(X)
    code = model.encode(x)
    expected = [F.mse_loss(model.decode(code), x).item(), code.square().mean().item()]
    result = model.evaluate(X, batch_size=7, verbose=0, return_dict=True)
    assert list(result.values())[1:] == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(model.predict(X), model(x).detach(), rtol=1e-6)


def test_compute_loss_of_ones_own_may_use_the_compiled_one():
    class Sparse(dl.Model):
        def compute_loss(self, x, y, sample_weight=None):
            loss, outputs = super().compute_loss(x, y, sample_weight)
            size = sum(p.abs().sum() for p in self.parameters())
            return loss + 0.1 * size, outputs, {"size": size}

    dl.seed(0)
    model = Sparse(nn.Linear(4, 1))
    model.compile("sgd", "mse", metrics=["mae"])
    history = model.fit(X, NUMBERS, epochs=3, validation_split=0.2, verbose=0).history
    assert list(history) == [
        "loss", "size", "mae", "val_loss", "val_size", "val_mae",
    ]  # fmt: skip
    assert history["size"][-1] < history["size"][0]


# -- precision -------------------------------------------------------------------------------------


def test_precision_bfloat16_trains_nearly_as_float32():
    losses = [
        fitted(classifier(precision=precision), epochs=5).history["loss"]
        for precision in ("float32", "bfloat16")
    ]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)


def test_precision_bfloat16_keeps_weights_and_predictions_in_float32():
    model = classifier(precision="bfloat16")
    model.fit(X, LABELS, verbose=0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.predict(X).dtype == np.float32


# -- looking at it ---------------------------------------------------------------------------------


def test_get_layer_finds_by_name_and_by_index():
    model = classifier()
    assert model.layer_names() == ["dense", "dense_1"]
    assert model.get_layer("dense_1") is model.get_layer(index=-1) is model.layers[1]
    with pytest.raises(ValueError, match=r"unknown layer 'dens'.*'dense'"):
        model.get_layer("dens")
    with pytest.raises(ValueError, match=r"index=2.*2 layers"):
        model.get_layer(index=2)


def test_set_weights_takes_what_get_weights_gave():
    first, second = classifier(0), classifier(1)
    weights = first.get_weights()
    assert not equal(first, second)
    second.set_weights(weights)
    assert equal(first, second)
    weights[0][:] = 0
    assert equal(first, second)
    with pytest.raises(ValueError, match="3 arrays, but the model has 4"):
        second.set_weights(weights[:3])
    with pytest.raises(ValueError, match=r"0.weight: \(3, 6\) instead of \(6, 4\)"):
        second.set_weights([weights[2], *weights[1:]])
    assert equal(first, second)


def test_model_can_be_copied_after_training_with_an_activity_penalty():
    model = dl.Sequential([dl.Dense(3, activity_regularizer="l1"), dl.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 2)), np.ones(4), verbose=0)
    twin = copy.deepcopy(model)
    assert np.array_equal(twin.predict(np.ones((4, 2))), model.predict(np.ones((4, 2))))


# -- what new users tried --------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["learning_rate", "lr"])
def test_a_rate_set_on_the_optimizer_as_in_keras_is_refused(word):
    model = classifier()
    model.fit(X, LABELS, verbose=0)
    setattr(model.optimizer, word, 0.0)
    with pytest.raises(AttributeError, match=r"model\.learning_rate = "):
        model.fit(X, LABELS, verbose=0)
    model.fit(X, LABELS, verbose=0)  # it is gone now


def test_learning_rate_under_a_schedule_is_refused():
    model = classifier()
    rate = dl.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    model.compile(dl.optimizers.SGD(rate), "sparse_categorical_crossentropy")
    model.fit(X, LABELS, verbose=0)
    with pytest.raises(ValueError, match="compile has a schedule"):
        model.learning_rate = 1e-5


def test_a_wrapped_sequential_trains_on_its_logits():
    weights = []
    for make in (lambda *layers: dl.Model(nn.Sequential(*layers)), lambda *s: dl.Sequential(s)):
        linear = nn.Linear(X.shape[1], 3)
        with torch.no_grad():
            linear.weight.copy_(torch.arange(linear.weight.numel()).view_as(linear.weight) * 30.0)
            linear.bias.zero_()
        model = make(linear, nn.Softmax(dim=-1))
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(X, LABELS, shuffle=False, verbose=0)
        weights.append(linear.weight.detach())
        np.testing.assert_allclose(model.predict(X).sum(1), 1, rtol=1e-5)
    assert torch.equal(*weights)


def test_validation_freq_may_list_the_epochs():
    model = classifier()
    history = model.fit(
        X, LABELS, epochs=4, validation_split=0.2, validation_freq=[1, 3], verbose=0
    )
    assert history.epochs_of("val_loss") == [0, 2]


def test_batch_size_none_is_kerass_default():
    losses = []
    for size in (None, 32):
        model = classifier()
        losses.append(fitted(model, X, LABELS, batch_size=size).history)
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda m: m.fit(X, LABELS, epoch=3), "epochs"),
        (lambda m: m.compile(optimiser="sgd"), "optimizer"),
        (lambda m: m.evaluate(X, LABELS, batchsize=3), "batch_size"),
    ],
)
def test_a_mistyped_argument_gets_the_nearest(call, near):
    with pytest.raises(TypeError, match=f"Did you mean '{near}'"):
        call(classifier())


def test_train_on_batch_says_what_nan_means():
    model = dl.Model(nn.Linear(X.shape[1], 1))
    model.compile("sgd", "mse")
    with pytest.raises(FloatingPointError, match=r"the loss became inf at this batch"):
        model.train_on_batch(X * 1e30, LABELS)


def test_every_callback_ends_even_where_one_fails():
    ended = []

    class Fails(dl.Callback):
        def on_train_end(self, logs=None):
            raise OSError("disk full")

    class Ends(dl.Callback):
        def on_train_end(self, logs=None):
            ended.append(1)

    with pytest.raises(OSError, match="disk full"):
        classifier().fit(X, LABELS, verbose=0, callbacks=[Fails(), Ends()])
    assert ended == [1]


def test_steps_of_evaluation_count_batches_of_the_usual_size():
    model, many, labels = classifier(), np.tile(X, (9, 1)), np.tile(LABELS, 9)
    first = model.evaluate(many[:32], labels[:32], verbose=0)
    assert model.evaluate(many, labels, steps=1, verbose=0) == first
    held_out = {"validation_data": (many, labels), "validation_steps": len(many) // 8}
    fitted(model, X, LABELS, batch_size=8, **held_out)
    assert len(model.predict(many, steps=2)) == 64


def test_metrics_names_are_those_of_evaluate():
    model = classifier()
    assert model.metrics_names == ["loss"]
    assert list(model.evaluate(X, LABELS, verbose=0, return_dict=True)) == model.metrics_names
    assert len(model.metrics_names) > 1


@pytest.mark.filterwarnings("ignore:predict was called before")
def test_predict_ends_whatever_the_network_returns():
    class Widens(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x.repeat(1, self.calls)

    model = dl.Model(Widens())
    with pytest.raises(ValueError, match=r"rows of \(2,\).*after rows of \(1,\)") as error:
        model.predict(torch.ones(20_000, 1))
    assert not torch.is_inference_mode_enabled() and model.training, error
    x = torch.ones(5, 1)
    dl.Model(nn.Identity()).predict(x)[:] = 0
    assert x.all()


def test_predict_keeps_no_rows():
    model = dl.Model(nn.Linear(3, 1))
    model.compile("sgd", "mse")
    x = torch.ones(40, 3)
    held = weakref.ref(x.untyped_storage())
    gc.disable()
    try:
        model.fit(x, torch.ones(40), verbose=0)
        model.evaluate(x, torch.ones(40), verbose=0)
        model.predict(x)
        del x
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore:predict was called before")
def test_a_model_that_predicted_goes_with_its_last_name():
    model = dl.Sequential([dl.Dense(2, input_dim=3)])
    model.predict(torch.ones(4, 3))
    held = weakref.ref(model)
    gc.disable()
    try:
        del model  # its memory on a GPU is free at once, without the garbage collector
        assert held() is None
    finally:
        gc.enable()


def test_dropout_in_place_is_refused_as_the_first_layer():
    x = torch.ones(8, 3)
    model = dl.Sequential([nn.Dropout(0.5, inplace=True), dl.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="in place"):
        model.fit(x, torch.ones(8), shuffle=False, verbose=0)
    assert torch.equal(x, torch.ones(8, 3))


class AddsInPlace(nn.Module):
    def forward(self, x):
        x += 1
        return x


@pytest.mark.filterwarnings("ignore:predict was called before")
@pytest.mark.parametrize("network", [nn.ReLU(inplace=True), AddsInPlace()], ids=repr)
@pytest.mark.parametrize("batch_size", [3, 8], ids=str)
def test_predict_leaves_its_data_alone_where_the_network_writes_into_them(network, batch_size):
    x = torch.arange(24.0).reshape(8, 3) - 12
    model = dl.Model(nn.Sequential(network, nn.Flatten()))
    expected = network(x.clone())
    batches = x[:3].clone(), x[3:].clone()
    for given in (x.clone(), x.numpy().copy(), lambda: ((rows,) for rows in batches)):
        assert np.array_equal(model.predict(given, batch_size), expected.numpy())
        assert callable(given) or np.array_equal(given, x.numpy())
    assert torch.equal(torch.cat(batches), x)


class WritesLater(nn.Module):
    def forward(self, x):
        return x.clamp_(max=5.0) if (x > 5).any() else x * 1


@pytest.mark.filterwarnings("ignore:predict was called before")
def test_predict_tells_of_a_network_that_writes_into_a_later_batch():
    x = torch.arange(12.0).reshape(6, 2)
    model = dl.Model(WritesLater())
    with pytest.raises(ValueError, match=r"in place, .* in batch 4; .*x.clone\(\)"):
        model.predict(x.clone(), 1)
    given = x.clone()
    assert model.predict(DataLoader(TensorDataset(given), 1)).max() == 5  # of copies of the rows
    assert torch.equal(given, x)
    assert model.predict(x.clone(), 6).max() == 5  # a first batch is a copy


@pytest.mark.parametrize("verb", ["train_on_batch", "test_on_batch"])
def test_a_batch_that_the_network_writes_into_is_refused_and_left_alone(verb):
    x = torch.arange(12.0).reshape(6, 2)
    given = x.clone()
    model = dl.Model(nn.Sequential(WritesLater(), nn.Linear(2, 1)))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="changes its inputs in place"):
        getattr(model, verb)(given, torch.ones(6, 1))
    assert torch.equal(given, x)
    model.compile("sgd", "mse", strict=False)
    getattr(model, verb)(given, torch.ones(6, 1))
    assert torch.equal(given, x)


def test_evaluate_tells_of_a_network_that_writes_into_a_later_batch():
    x = torch.arange(12.0).reshape(6, 2)
    model = dl.Model(nn.Sequential(WritesLater(), nn.Linear(2, 1)))
    model.compile("sgd", "mse")
    for verb in (model.evaluate, lambda *a, **k: model.fit(x, x[:, :1], validation_data=a, **k)):
        with pytest.raises(ValueError, match="changes its inputs in place"):
            verb(x.clone(), torch.ones(6, 1), verbose=0, **{"batch_size": 1})
    model.compile("sgd", "mse", strict=False)
    x = x.double()  # so that the model has a copy
    assert model.predict(x, 1).shape == (6, 1) and x.max() == 11
    model.evaluate(x, x[:, :1], 1, verbose=0)


@pytest.mark.filterwarnings("ignore:predict was called before")
def test_arrays_of_the_same_kind_are_looked_at_once(monkeypatch):
    model = dl.Sequential([dl.Dense(2, input_dim=3)])
    model.compile("sgd", "mse")
    model.predict(torch.ones(4, 3))
    looked = []
    monkeypatch.setattr(prepare, "tables_of", lambda *a: looked.append(1) or [None])
    model.predict(torch.ones(5, 3))
    assert not looked
    with pytest.raises(ValueError, match="row 1"):
        model.predict(torch.tensor([[0.0, 0, 0], [0, math.nan, 0]]))
    with pytest.raises(ValueError, match="expects"):
        model.predict(torch.ones(4, 5))
    looked.clear()
    model.add(dl.Dense(1))
    assert model.predict(torch.ones(4, 3)).shape == (4, 1) and len(looked) == 1
    model.double()
    assert model.predict(torch.ones(4, 3)).dtype == "float32" and len(looked) == 2


@pytest.mark.parametrize("x", [X[:, :1], (X[:, :3], X[:, :2]), {"a": X, "b": X}])
def test_predict_tells_where_rows_of_another_shape_do_not_fit(x):
    model = dl.Model(nn.Linear(4, 2) if isinstance(x, np.ndarray) else TwoInputs())
    right = X if isinstance(x, np.ndarray) else (X, X[:, :2])
    model.compile("sgd", "mse")
    model.fit(right, np.zeros((len(X), 2)), verbose=0)
    wanted = r"the network was given rows of shape .*expected what it is made for\. It failed in"
    with pytest.raises(ValueError, match=wanted):
        model.predict(x)


@pytest.mark.filterwarnings("ignore:predict was called before")
def test_an_error_of_some_batches_alone_passes_through_predict_as_it_is():
    class Once(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("out of luck")
            return super().forward(x)

    with pytest.raises(RuntimeError, match=r"^out of luck$"):
        dl.Model(Once(4, 1)).predict(X, batch_size=2)
