"""EarlyStopping beside Keras's own, driven by the same scripted values."""

import math
import random

import pytest
import torch
from torch import nn

from easydl.callbacks import EarlyStopping


class Model(nn.Linear):
    """Its only weight tells the epoch it was kept in."""

    def __init__(self):
        super().__init__(1, 1, bias=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.stop_training = False

    def train_an_epoch(self, epoch):
        with torch.no_grad():
            self.weight.fill_(epoch + 1)
            self.count.fill_(epoch + 1)


def run(stop, values, model=None, name="val_loss"):
    model = model or Model()
    stop.set_model(model)
    model.stop_training = False
    stop.on_train_begin()
    for epoch, value in enumerate(values):
        model.train_an_epoch(epoch)
        stop.on_epoch_end(epoch, {name: value})
        if model.stop_training:
            break
    stop.on_train_end()
    return epoch, model


class KerasModel:
    """What keras.callbacks.EarlyStopping needs of a model."""

    def __init__(self):
        self.weights, self.stop_training = 0, False

    def train_an_epoch(self, epoch):
        self.weights = epoch + 1

    def get_weights(self):
        return self.weights

    def set_weights(self, weights):
        self.weights = weights


def run_keras(stop, values):
    # Keras's base class looks its model up through the torch backend.
    return run(stop, values, KerasModel())


def worst_for_nan(values, mode):
    """What makes Keras do as easydl does: its best stays NaN for ever where that came first."""
    worst = math.inf if mode == "min" else -math.inf
    first = next((i for i, value in enumerate(values) if value == value), len(values))
    return [worst] * first + values[first:]


@pytest.mark.parametrize("trial", range(300))
def test_it_stops_and_restores_as_keras_does_on_random_scripts(trial):
    keras = pytest.importorskip("keras")
    rng = random.Random(trial)
    # Tenths are ties of min_delta=0.1 in Keras's float32, though not in Python's own numbers.
    values = [rng.choice([rng.randrange(10) / 10, rng.random()]) for _ in range(rng.randrange(16))]
    values = [math.nan] * rng.choice([0, 0, 0, 1, 2, 9]) + [*values, rng.random()]
    if rng.random() < 0.2:
        values[rng.randrange(len(values))] = math.nan
    arguments = {
        "patience": rng.randrange(4),
        "min_delta": rng.choice([0, 0.1, 1e-4, -0.1]),
        "mode": rng.choice(["min", "max"]),
        "baseline": rng.choice([None, 0.25, 0.5]),
        "restore_best_weights": rng.random() < 0.7,
        "start_from_epoch": rng.choice([0, 0, 0, 1, 3]),
    }
    mine, theirs = EarlyStopping(**arguments), keras.callbacks.EarlyStopping(**arguments)
    last, model = run(mine, values)
    for_keras = values[: arguments["start_from_epoch"]]
    for_keras += worst_for_nan(values[arguments["start_from_epoch"] :], arguments["mode"])
    keras_last, keras_model = run_keras(theirs, for_keras)
    assert last == keras_last
    assert model.stop_training == keras_model.stop_training
    assert model.weight.item() == model.count.item() == keras_model.weights
    for name in ("wait", "stopped_epoch", "best_epoch"):
        assert getattr(mine, name) == getattr(theirs, name), name
    assert mine.best == theirs.best or (mine.best != mine.best and math.isinf(theirs.best))


@pytest.mark.parametrize("values", [[math.nan] * 4, [0.5] * 4, [0.5, math.nan, math.nan]])
@pytest.mark.parametrize("patience", [0, 1, 2])
def test_it_never_stops_after_the_first_epoch_as_in_keras(values, patience):
    keras = pytest.importorskip("keras")
    last, model = run(EarlyStopping(patience=patience), values)
    assert last == max(patience, 1)
    assert model.stop_training
    assert (
        last == run_keras(keras.callbacks.EarlyStopping(patience=patience, mode="min"), values)[0]
    )


def test_the_arguments_are_those_of_keras_in_order():
    keras = pytest.importorskip("keras")
    import inspect

    mine = inspect.signature(EarlyStopping).parameters
    theirs = inspect.signature(keras.callbacks.EarlyStopping).parameters
    assert [(p.name, p.default) for p in mine.values()] == [
        (p.name, p.default) for p in theirs.values()
    ]


def test_it_stops_after_patience_epochs_without_improvement():
    stop = EarlyStopping(patience=2)
    last, model = run(stop, [0.5, 0.4, 0.41, 0.4, 0.3])
    assert (last, stop.stopped_epoch, stop.best, stop.best_epoch) == (3, 3, 0.4, 1)
    assert model.weight.item() == 4  # not restored


def test_it_restores_the_best_weights_even_if_it_never_fired():
    last, model = run(EarlyStopping(patience=9, restore_best_weights=True), [0.5, 0.2, 0.3])
    assert last == 2
    assert not model.stop_training
    assert (model.weight.item(), model.count.item()) == (2, 2)


def test_it_keeps_copies_that_later_steps_do_not_change():
    stop, model = EarlyStopping(restore_best_weights=True), Model()
    stop.set_model(model)
    stop.on_train_begin()
    model.train_an_epoch(0)
    stop.on_epoch_end(0, {"val_loss": 0.1})
    kept = stop.best_weights["weight"]
    model.train_an_epoch(5)
    assert kept.item() == 1
    assert kept.device == model.weight.device
    assert not kept.requires_grad


def test_it_restores_when_an_exception_ends_training():
    stop, model = EarlyStopping(restore_best_weights=True), Model()
    stop.set_model(model)
    stop.on_train_begin()
    model.train_an_epoch(0)
    stop.on_epoch_end(0, {"val_loss": 0.1})
    model.train_an_epoch(1)
    stop.on_train_end({})
    assert model.weight.item() == 1
    assert stop.best_weights is None  # no second copy of the model stays behind


def test_it_begins_anew_at_every_fit():
    stop = EarlyStopping(patience=1)
    run(stop, [0.1, 0.2])
    last, model = run(stop, [0.9, 0.8, 0.7])
    assert last == 2
    assert not model.stop_training


def test_a_first_value_of_nan_does_not_stay_the_best():
    # Keras keeps the NaN, and nothing ever improves on it.
    stop = EarlyStopping(patience=3, restore_best_weights=True)
    last, model = run(stop, [float("nan"), 0.5, 0.4, 0.45])
    assert (last, stop.best, model.weight.item()) == (3, 0.4, 3)


def test_all_nan_stops_and_leaves_the_first_weights():
    last, model = run(EarlyStopping(patience=2, restore_best_weights=True), [float("nan")] * 9)
    assert (last, model.weight.item()) == (2, 1)
    stop = EarlyStopping(patience=9, restore_best_weights=True, start_from_epoch=2)
    _, model = run(stop, [float("nan")] * 5)
    assert (stop.best_epoch, model.weight.item()) == (2, 3)


def test_verbose_says_what_it_does(capsys):
    run(EarlyStopping(patience=2, verbose=1, restore_best_weights=True), [0.5, 0.25, 0.3, 0.3])
    assert capsys.readouterr().out == (
        "epoch 4: early stopping, val_loss did not improve for 2 epochs, best 0.2500\n"
        "restored the weights of epoch 2\n"
    )
    run(EarlyStopping(patience=1, verbose=1), [0.25, 0.5])
    assert capsys.readouterr().out == (
        "epoch 2: early stopping, val_loss did not improve for 1 epoch, best 0.2500\n"
    )
    run(EarlyStopping(patience=1, restore_best_weights=True), [0.5, 0.25, 0.3])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"patience": -1}, "patience=-1 was given; expected a whole number of at least 0."),
        (
            {"patience": 2.5},
            "patience=2.5 was given; expected a whole number of at least 0, "
            "for example patience=1.",
        ),
        (
            {"start_from_epoch": -2},
            "start_from_epoch=-2 was given; expected a whole number of at least 0.",
        ),
        (
            {"mode": "mx"},
            "EarlyStopping: unknown mode 'mx'. Did you mean 'max'? Choose from: auto, max, min.",
        ),
    ],
)
def test_a_wrong_argument_is_an_error(arguments, message):
    with pytest.raises(ValueError) as error:
        EarlyStopping(**arguments)
    assert str(error.value) == message


def test_state_that_is_no_tensor_is_kept_too():
    class WithExtra(Model):
        extra = {"a": 1}

        def get_extra_state(self):
            return self.extra

        def set_extra_state(self, state):
            self.extra = state

    model = WithExtra()
    stop = EarlyStopping(restore_best_weights=True, patience=9)
    stop.set_model(model)
    stop.on_train_begin()
    stop.on_epoch_end(0, {"val_loss": 0.1})
    model.extra["a"] = 2
    stop.on_epoch_end(1, {"val_loss": 0.2})
    stop.on_train_end()
    assert model.extra == {"a": 1}
