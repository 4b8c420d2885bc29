"""The entry that a callback watches: its direction, and that it is there."""

import numpy as np
import pytest

from easydl.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint, ReduceLROnPlateau
from easydl.callbacks.base import Callback
from easydl.callbacks.monitor import Monitor, check_monitors

MONITORING = [
    EarlyStopping,
    ReduceLROnPlateau,
    lambda **given: ModelCheckpoint("x", save_best_only=True, **given),
]


@pytest.mark.parametrize(
    "name",
    [
        "loss",
        "val_loss",
        "head_loss",
        "mse",
        "val_mean_squared_error",
        "mean_absolute_error",
        "kl_divergence",
        "binary_crossentropy",
        "perplexity",
        "auc_loss",
        "error_rate",
        "brier_score",
        "MAE",
        "rmse",
        "log_cosh",
    ],
)
def test_auto_is_min_where_low_is_better(name):
    assert Monitor("X", name).mode == "min"


@pytest.mark.parametrize(
    "name",
    [
        "accuracy",
        "val_acc",
        "head_accuracy",
        "AUC",
        "auc_1",
        "val_precision",
        "recall",
        "f1",
        "f1_score",
        "fbeta_score",
        "r2",
        "r2_score",
        "mean_io_u",
        "mean_iou",
        "sparse_top_k_categorical_accuracy",
        "cosine_similarity",
    ],
)
def test_auto_is_max_where_high_is_better(name):
    assert Monitor("X", name).mode == "max"


@pytest.mark.parametrize(
    "name", ["learning_rate", "seconds", "neg_mean_squared_error", "negative_log_loss"]
)
def test_auto_asks_where_the_name_does_not_tell(name):
    with pytest.raises(ValueError) as error:
        EarlyStopping(monitor=name)
    assert str(error.value) == (
        f"EarlyStopping(monitor={name!r}) was given; the name does not tell whether low or high "
        "is better: write mode='min' or mode='max'."
    )
    assert EarlyStopping(monitor=name, mode="max").goal.mode == "max"


@pytest.mark.parametrize("make", MONITORING)
def test_a_mode_mistyped_is_an_error(make):
    with pytest.raises(
        ValueError, match=r"unknown mode 'mni'. Did you mean 'min'\?.*auto, max, min"
    ):
        make(mode="mni")


@pytest.mark.parametrize("make", MONITORING)
def test_a_missing_entry_is_an_error_at_the_end_of_the_first_epoch(make):
    callback = make(monitor="val_acuracy", mode="max")
    callback.set_model(type("Model", (), {"optimizer": None})())
    with pytest.raises(ValueError) as error:
        callback.on_epoch_end(0, {"loss": 0.5, "val_loss": 0.5, "val_accuracy": 0.5})
    assert str(error.value).endswith(
        "(monitor=…): unknown entry 'val_acuracy'. Did you mean 'val_accuracy'? "
        "Choose from: loss, val_accuracy, val_loss."
    )


@pytest.mark.parametrize("make", MONITORING)
def test_a_missing_entry_is_an_error_before_training(make):
    with pytest.raises(ValueError, match="unknown entry 'val_loss'"):
        make(monitor="val_loss").check_monitor(["loss"])
    make(monitor="val_loss").check_monitor(["loss", "val_loss"])


def test_the_message_says_how_to_get_validation_when_there_is_none():
    with pytest.raises(ValueError) as error:
        EarlyStopping().check_monitor(["loss", "accuracy"])
    assert str(error.value) == (
        "EarlyStopping(monitor=…): unknown entry 'val_loss'. Did you mean 'loss'? Choose from: "
        "accuracy, loss. There is no validation: give fit validation_data or validation_split, "
        "or write monitor='loss'."
    )


def test_an_epoch_without_validation_is_passed_over_when_others_have_one():
    stop = EarlyStopping(patience=1)
    stop.set_model(type("Model", (), {"stop_training": False})())
    stop.check_monitor(["loss", "val_loss"])
    for epoch, value in enumerate([None, 0.5, None, None, 0.4, None]):
        stop.on_epoch_end(epoch, {"loss": 1.0} if value is None else {"val_loss": value})
    assert not stop.model.stop_training
    assert stop.wait == 0
    stop.on_epoch_end(6, {"val_loss": 0.6})
    assert stop.model.stop_training


def test_an_entry_that_was_there_once_may_be_missing_later():
    stop = EarlyStopping()
    stop.on_epoch_end(0, {"val_loss": 0.5})
    stop.on_epoch_end(1, {"loss": 0.5})
    assert stop.best == 0.5


def test_the_first_value_improves_and_any_number_beats_nan():
    goal, nan = Monitor("X", "loss"), float("nan")
    assert goal.improves(nan, None)
    assert goal.improves(1.0, None)
    assert goal.improves(1.0, nan)
    assert not goal.improves(nan, 1.0)
    assert not goal.improves(nan, nan)


def test_a_change_of_min_delta_is_a_tie_as_in_keras():
    assert not Monitor("X", "loss", min_delta=0.1).improves(0.7, 0.8)  # 0.7 + 0.1 < 0.8 in Python
    assert not Monitor("X", "acc", min_delta=0.1).improves(0.4, 0.3)
    assert Monitor("X", "loss", min_delta=0.1).improves(0.699, 0.8)


@pytest.mark.parametrize("size", [5, 300])
def test_the_message_is_short_with_many_and_long_names(size):
    names = [f"output_{i}_{'x' * size}_accuracy" for i in range(200)]
    for callback in [EarlyStopping("val_output_7_acuracy" + "y" * 500, mode="max")] + [
        ModelCheckpoint("long" * 100 + "{epoch}-{output_7_acuracy}.safetensors")
    ]:
        with pytest.raises(ValueError, match=r" and \d+ more\.") as error:
            callback.check_monitor(names)
        assert len(str(error.value)) <= 600


def test_check_monitors_refuses_before_training():
    with pytest.raises(ValueError, match="unknown entry 'f1'"):
        check_monitors([EarlyStopping("f1")], ["loss"])


@pytest.mark.parametrize("add", [lambda epoch, logs: None, None])
def test_check_monitors_waits_for_the_first_epoch_behind_a_callback_that_may_add_entries(add):
    class Adds(Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["f1"] = 0.5

    user = LambdaCallback(on_epoch_end=add) if add else Adds()
    stop = EarlyStopping("f1")
    check_monitors([user, stop], ["loss"])
    with pytest.raises(ValueError, match="unknown entry 'f1'"):
        check_monitors([stop, user], ["loss"])
    with pytest.raises(ValueError, match="unknown entry 'f1'"):
        stop.on_epoch_end(0, {"loss": 1.0})


def test_check_monitors_knows_the_learning_rate_that_a_callback_adds():
    rate = ReduceLROnPlateau("loss")
    check_monitors([rate, EarlyStopping("learning_rate", mode="min")], ["loss"])


def test_an_entry_of_one_number_a_class_cannot_be_watched():
    monitor = Monitor("EarlyStopping", "val_f1_score", "max")
    with pytest.raises(ValueError, match=r"array of shape \(3,\).*average='macro'"):
        monitor.read({"val_f1_score": np.zeros(3)})
