"""``model.source()`` of fits with callbacks, weights, stratified splits and bfloat16."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest

import easydl as dl
from tests.export.test_source import (
    CASES,
    LABELS,
    MLP,
    NORMED,
    NUMBERS,
    REGRESSION,
    RNG,
    ROWS,
    SEED,
    YES,
    X,
    assert_same_to_the_bit,
    dense,
    sequential,
    trained,
)


def early(**options):
    return dl.callbacks.EarlyStopping(**{"patience": 2, "restore_best_weights": True} | options)


WATCHED = {
    "early": ({"validation_split": 0.25, "epochs": 30}, lambda: [early(min_delta=0.002)]),
    "early, by loss": ({"epochs": 12}, lambda: [early(monitor="loss", min_delta=0.5)]),
    "early, base": (
        {"epochs": 20},
        lambda: [early(monitor="mae", mode="max", baseline=2.0, start_from_epoch=2)],
    ),
    "plateau": (
        {"epochs": 8},
        lambda: [dl.callbacks.ReduceLROnPlateau("loss", 0.5, 1, min_delta=0.2, cooldown=1)],
    ),
    "scheduler": (
        {},
        lambda: [dl.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.7**epoch)],
    ),
    "all": (
        {"validation_split": 0.25, "epochs": 12, "split": "random"},
        lambda: [
            early(patience=3),
            dl.callbacks.ReduceLROnPlateau(patience=1, min_delta=0.2, min_lr=0.004),
            dl.callbacks.ModelCheckpoint("best.safetensors", save_best_only=True),
        ],
    ),
}


@pytest.mark.parametrize("name", WATCHED)
def test_callbacks_that_change_the_training(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options, callbacks = WATCHED[name]
    model, history = trained(REGRESSION, X, NUMBERS, callbacks=callbacks(), **options)
    assert_same_to_the_bit(model, history, model.source(SEED), {"x": X, "y": NUMBERS})
    if name.startswith("early"):
        assert len(history.epoch) < options["epochs"]
    else:
        assert len(set(history.history["learning_rate"])) > 1


WEIGHTS = RNG.uniform(0, 2, ROWS)
YES_OR_NO = sequential(dense(4, "tanh"), dense(1, "sigmoid"), optimizer="adam",
                       loss="binary_crossentropy", metrics=["accuracy"])  # fmt: skip
ONE_HOT = sequential(dense(3, "softmax"), optimizer="sgd", loss="categorical_crossentropy")
WEIGHTED = {
    "classes": (MLP, X, LABELS, {"class_weight": {0: 3.0, 2: 0.5}, "validation_split": 0.2}),
    "one-hot": (ONE_HOT, X, np.eye(3)[LABELS], {"class_weight": [1, 2, 3], "shuffle": False}),
    "balanced": (YES_OR_NO, X, YES, {"class_weight": "balanced", "split": "stratified",
                                     "validation_split": 0.3}),
    "rows": (REGRESSION, X, NUMBERS, {"sample_weight": WEIGHTS, "validation_split": 0.2}),
    "rows and classes": (YES_OR_NO, X, YES, {"sample_weight": WEIGHTS, "class_weight": {1: 4.0}}),
    "rows, random": (REGRESSION, X, NUMBERS, {"sample_weight": WEIGHTS, "validation_split": 0.2,
                                              "split": "random"}),
    "accumulate": (CASES["accumulate"][0], X, LABELS, {"sample_weight": WEIGHTS}),
    "torch": (CASES["torch"][0], X, LABELS, {"sample_weight": WEIGHTS}),
    "validation_data": (NORMED, X, YES, {"sample_weight": WEIGHTS, "batch_size": 13,
                                         "validation_data": (X[:9], YES[:9])}),
    "stratified": (MLP, X, LABELS, {"split": "stratified", "validation_split": 0.3}),
    "stratified rows": (ONE_HOT, X, np.eye(3)[LABELS], {"split": "stratified",
                        "validation_split": 0.3, "sample_weight": WEIGHTS}),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_and_stratified_splits(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, x, y, options = WEIGHTED[name]
    model, history = trained(make, x, y, **options)
    arrays = {"x": x, "y": y}
    if "sample_weight" in options:
        arrays["w"] = WEIGHTS
    if "validation_data" in options:
        arrays |= dict(zip(("x_val", "y_val"), options["validation_data"]))
    assert_same_to_the_bit(model, history, model.source(SEED), arrays)


@pytest.mark.parametrize(
    "loss", ["huber", "log_cosh", "mae", "poisson", "msle", "hinge", "cosine_similarity"]
)
def test_weights_of_other_losses(loss, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    y = np.abs(RNG.normal(size=(ROWS, 2))) if loss != "hinge" else np.sign(RNG.normal(size=ROWS))
    last = "tanh" if loss == "hinge" else "softplus"
    make = sequential(dense(np.ndim(y), last), optimizer="sgd", loss=loss)
    model, history = trained(make, X, y, sample_weight=WEIGHTS)
    assert_same_to_the_bit(model, history, model.source(SEED), {"x": X, "y": y, "w": WEIGHTS})


@pytest.mark.parametrize("case", ["mlp", "lstm", "accumulate", "tail"])
def test_bfloat16(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, x, y, options = CASES[case]

    monkeypatch.setattr(
        dl.Sequential,
        "compile",
        functools.partialmethod(dl.Sequential.compile, precision="bfloat16"),
    )
    model, history = trained(make, x, y, **options)
    assert_same_to_the_bit(model, history, model.source(SEED), {"x": x, "y": y})


def test_rates_that_were_not_trained_are_not_guessed():
    halve = dl.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch))
    model, _ = trained(REGRESSION, X, NUMBERS, callbacks=halve)
    with pytest.raises(ValueError, match=r"LearningRateScheduler.* 3 epochs"):
        model.source(SEED, epochs=4)


# -- what is not the training that the script would be ---------------------------------------------


def put(model, how, tmp_path):
    """Weights of a twin into the model, which is returned."""
    twin = trained(REGRESSION, X, NUMBERS)[0]
    if how == "set_weights":
        model.set_weights(twin.get_weights())
    elif how == "load_state_dict":
        model.load_state_dict(twin.state_dict())
    elif how == "load_weights":
        twin.save_weights(tmp_path / "w.safetensors")
        model.load_weights(tmp_path / "w.safetensors")
    elif how == "load_model":
        twin.history = None
        twin.save(tmp_path / "m.easydl")
        model = dl.load_model(tmp_path / "m.easydl")
    elif how == "train_on_batch":
        model.train_on_batch(X, NUMBERS)
    elif how == "layers of another model":
        model = dl.Sequential([twin.layers[0], dl.Dense(1)])
        model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    "how",
    ["set_weights", "load_state_dict", "load_weights", "load_model", "train_on_batch",
     "layers of another model"],
)  # fmt: skip
def test_a_fit_from_weights_that_were_put_in_is_refused(how, tmp_path):
    model = REGRESSION()
    model.build((6,))
    model = put(model, how, tmp_path)
    model.fit(X, NUMBERS, epochs=2, verbose=0)
    with pytest.raises(ValueError, match=r"put in, or trained.*source\(epochs=") as error:
        model.source(SEED)
    assert len(str(error.value)) <= 600
    assert "EPOCHS = 2" in model.source(SEED, epochs=2)


def freeze(model):
    model.layers[0].trainable = False


def slow_down(model):
    model.learning_rate = 0.001


def compile_again(model):
    model.compile("adam", "mse")
    model.evaluate(X, NUMBERS, verbose=0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (freeze, r"trainable was changed .*'0\.(weight|bias)' is frozen now"),
        (slow_down, r"learning rate was changed from 0\.01 to 0\.001"),
        (compile_again, "before the last compile"),
    ],
)
def test_what_was_changed_after_fit_is_refused(change, says):
    model, _ = trained(REGRESSION, X, NUMBERS)
    assert copy.deepcopy(model).source(SEED) == model.source(SEED)
    change(model)
    with pytest.raises(ValueError, match=rf"source\(\) cannot write a fit.* {says}") as error:
        model.source(SEED)
    assert len(str(error.value)) <= 600
    assert "EPOCHS = 3" in model.source(SEED, epochs=3)


def test_a_function_that_changes_the_rate_in_fit_is_refused():
    model = REGRESSION()

    def halve(epoch, logs):
        model.learning_rate /= 2

    model.fit(X, NUMBERS, epochs=2, verbose=0, callbacks=[halve])
    with pytest.raises(ValueError, match=r"rate was changed from 0\.01 to 0\.0025"):
        model.source()


def test_early_stopping_puts_back_weights_of_the_same_fit():
    model, _ = trained(REGRESSION, X, NUMBERS, epochs=5, callbacks=[early(monitor="loss")])
    assert "EPOCHS = 5" in model.source(SEED)
