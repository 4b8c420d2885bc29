"""The callbacks that change the learning rate, beside Keras's own."""

import inspect
import math
import random

import pytest
import torch
from torch import nn

from easydl.callbacks import LearningRateScheduler, ReduceLROnPlateau


class Model(nn.Linear):
    def __init__(self, rate=0.5):
        super().__init__(1, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=rate)

    @property
    def rate(self):
        return self.optimizer.param_groups[0]["lr"]


class KerasModel:
    def __init__(self, rate=0.5):
        self.optimizer = type("Optimizer", (), {"learning_rate": rate})()

    @property
    def rate(self):
        return self.optimizer.learning_rate


def run(callback, values, model):
    """The learning rate after each epoch, and what the logs say of it."""
    callback.set_model(model)
    callback.on_train_begin()
    rates, logged = [], []
    for epoch, value in enumerate(values):
        callback.on_epoch_begin(epoch)
        logs = {"val_loss": value}
        callback.on_epoch_end(epoch, logs)
        rates.append(model.rate)
        logged.append(logs["learning_rate"])
    callback.on_train_end()
    return rates, logged


@pytest.mark.parametrize("trial", range(300))
def test_plateau_reduces_as_keras_does_on_random_scripts(trial):
    keras = pytest.importorskip("keras")
    rng = random.Random(trial)
    # Tenths are ties of min_delta=0.1 in Keras's float32; powers of two are exact rates there.
    values = [rng.choice([rng.randrange(10) / 10, rng.random()]) for _ in range(rng.randrange(24))]
    values += [rng.random()]
    if rng.random() < 0.3:
        values[rng.randrange(len(values))] = math.nan
    arguments = {
        "factor": rng.choice([0.5, 0.25]),
        "patience": rng.randrange(4),
        "mode": rng.choice(["min", "max"]),
        "min_delta": rng.choice([0, 1e-4, 0.1]),
        "cooldown": rng.randrange(3),
        "min_lr": rng.choice([0, 1 / 64, 1 / 8]),
    }
    mine, theirs = ReduceLROnPlateau(**arguments), keras.callbacks.ReduceLROnPlateau(**arguments)
    rates, logged = run(mine, values, Model())
    if values[0] != values[0]:  # Keras keeps a first NaN as the best; here any number beats it
        values[0] = math.inf if arguments["mode"] == "min" else -math.inf
    assert (rates, logged) == run(theirs, values, KerasModel())
    for name in ("wait", "cooldown_counter"):
        assert getattr(mine, name) == getattr(theirs, name), name
    assert mine.best == theirs.best or (mine.best != mine.best and math.isinf(theirs.best))


def test_plateau_has_the_arguments_of_keras():
    keras = pytest.importorskip("keras")
    mine = inspect.signature(ReduceLROnPlateau).parameters.values()
    theirs = inspect.signature(keras.callbacks.ReduceLROnPlateau).parameters.values()
    pairs = [(p.name, p.default) for p in theirs if p.kind is not p.VAR_KEYWORD]
    assert [(p.name, p.default) for p in mine] == pairs


def test_plateau_reduces_after_patience_epochs_and_not_below_min_lr():
    callback = ReduceLROnPlateau(factor=0.1, patience=2, min_lr=0.01)
    rates, logged = run(callback, [0.5] * 7, Model(rate=0.5))
    assert rates == [0.5, 0.5, 0.05, 0.05, 0.01, 0.01, 0.01]
    assert logged == [0.5, 0.5, 0.5, 0.05, 0.05, 0.01, 0.01]  # what the epoch was trained with


def test_plateau_reduces_every_parameter_group_by_the_same_factor():
    model = Model()
    model.optimizer = torch.optim.SGD(
        [{"params": [model.weight], "lr": 0.5}, {"params": [model.bias], "lr": 0.001}]
    )
    run(ReduceLROnPlateau(factor=0.5, patience=1, min_lr=0.01), [0.5, 0.5], model)
    assert [group["lr"] for group in model.optimizer.param_groups] == [0.25, 0.001]
    run(ReduceLROnPlateau(factor=0.5, patience=1), [0.5, 0.5], model)
    assert [group["lr"] for group in model.optimizer.param_groups] == [0.125, 0.0005]


def test_plateau_begins_anew_at_every_fit():
    callback, model = ReduceLROnPlateau(factor=0.5, patience=2, cooldown=5), Model()
    assert run(callback, [0.5, 0.6, 0.6], model)[0] == [0.5, 0.5, 0.25]
    assert run(callback, [0.9, 0.95, 0.95], model)[0] == [0.25, 0.25, 0.125]


def test_plateau_says_so(capsys):
    run(ReduceLROnPlateau(factor=0.5, patience=1, verbose=1), [0.5, 0.5], Model())
    assert capsys.readouterr().out == (
        "epoch 2: val_loss did not improve, learning rate reduced to 0.25\n"
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"factor": 1.0}, "factor=1 was given; expected a number in (0, 1)."),
        ({"factor": -0.5}, "factor=-0.5 was given; expected a number in (0, 1)."),
        ({"patience": -1}, "patience=-1 was given; expected a whole number of at least 0."),
        ({"cooldown": -1}, "cooldown=-1 was given; expected a whole number of at least 0."),
        ({"min_lr": -1}, "min_lr=-1 was given; expected a number in [0, inf]."),
    ],
)
def test_plateau_refuses_a_wrong_argument(arguments, message):
    with pytest.raises(ValueError) as error:
        ReduceLROnPlateau(**arguments)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "schedule",
    [
        lambda epoch: 0.5 / 2**epoch,
        lambda epoch, rate: rate / 2 if epoch else rate,
        lambda epoch, rate: float(torch.tensor(rate) / 2),
    ],
)
def test_scheduler_sets_what_keras_sets(schedule):
    keras = pytest.importorskip("keras")
    mine = run(LearningRateScheduler(schedule), [0.5] * 4, Model())
    theirs = run(keras.callbacks.LearningRateScheduler(schedule), [0.5] * 4, KerasModel())
    assert mine == theirs


def test_scheduler_takes_whole_numbers_and_tensors():
    rates, _ = run(
        LearningRateScheduler(lambda epoch: [1, torch.tensor(0.5)][epoch]), [0, 0], Model()
    )
    assert rates == [1.0, 0.5]


def test_scheduler_takes_a_builtin_that_hides_its_signature():
    assert run(LearningRateScheduler(max), [0, 0, 0], Model())[0] == [0.5, 1.0, 2.0]


def test_scheduler_keeps_the_ratio_of_the_parameter_groups():
    model = Model()
    model.optimizer = torch.optim.SGD(
        [{"params": [model.weight], "lr": 0.25}, {"params": [model.bias], "lr": 1.0}]
    )
    seen = []
    run(LearningRateScheduler(lambda epoch, rate: seen.append(rate) or 0.5), [0.5], model)
    assert seen == [1.0]  # the highest
    assert [group["lr"] for group in model.optimizer.param_groups] == [0.125, 0.5]


def test_scheduler_comes_back_from_a_rate_of_zero():
    rates, _ = run(LearningRateScheduler(lambda epoch: [0.0, 0.5][epoch]), [0, 0], Model())
    assert rates == [0.0, 0.5]


@pytest.mark.parametrize("rates", [[0.1, 0.0, 0.1], [0.0, 0.0, 0.1]])
def test_scheduler_keeps_the_ratio_over_epochs_with_a_rate_of_zero(rates):
    model = Model()
    model.optimizer = torch.optim.SGD(
        [{"params": [model.weight], "lr": 0.01}, {"params": [model.bias], "lr": 0.1}]
    )
    run(LearningRateScheduler(lambda epoch: rates[epoch]), [0] * 3, model)
    assert [group["lr"] for group in model.optimizer.param_groups] == pytest.approx([0.01, 0.1])


def test_scheduler_changes_a_rate_that_is_a_tensor_in_place():
    model = Model()
    model.optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.5))
    rate = model.rate
    run(LearningRateScheduler(lambda epoch: 0.25), [0.5], model)
    assert model.rate is rate
    assert rate.item() == 0.25


def test_scheduler_does_not_hide_a_type_error_of_the_function():
    def schedule(epoch, rate):
        return rate + "1"

    with pytest.raises(TypeError, match="unsupported operand"):
        run(LearningRateScheduler(schedule), [0.5], Model())


@pytest.mark.parametrize("value", [None, True, "fast", -0.1, math.nan, math.inf])
def test_scheduler_refuses_what_is_no_rate(value):
    with pytest.raises(ValueError) as error:
        run(LearningRateScheduler(lambda epoch: value), [0.5], Model())
    assert str(error.value) == (
        f"LearningRateScheduler: the schedule returned {value!r} for epoch 0; "
        "expected a number of at least 0, for example 0.001."
    )


@pytest.mark.parametrize("schedule", [0.1, lambda: 0.1, lambda a, b, c: 0.1])
def test_scheduler_refuses_what_is_no_function_of_the_epoch(schedule):
    with pytest.raises(TypeError, match=r"expected a function of \(epoch, learning_rate\) or"):
        LearningRateScheduler(schedule)


def test_scheduler_says_the_rate(capsys):
    run(LearningRateScheduler(lambda epoch: 0.25, verbose=1), [0.5], Model())
    assert capsys.readouterr().out == "epoch 1: learning rate 0.25\n"


@pytest.mark.parametrize(
    "callback", [LearningRateScheduler(lambda epoch: 0.1), ReduceLROnPlateau()]
)
@pytest.mark.parametrize("kind", ["step_scheduler", "epoch_scheduler"])
def test_a_schedule_in_compile_is_an_error(callback, kind):
    model = Model()
    model._compiled = type("Compiled", (), {kind: object()})()
    callback.set_model(model)
    with pytest.raises(ValueError) as error:
        callback.on_train_begin()
    assert str(error.value) == (
        f"fit(callbacks=[{type(callback).__name__}(…)]) was given, and compile has a learning-rate "
        "schedule; expected one of the two: leave the callback out, or give the optimizer a number "
        "as learning_rate."
    )
