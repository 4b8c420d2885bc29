"""The callbacks that write files."""

import builtins
import inspect
import math
import os
import random
import sys

import numpy as np
import pytest
import torch
from torch import nn

import easydl as dl
from easydl.callbacks import CSVLogger, ModelCheckpoint, TensorBoard, TerminateOnNaN


class Model(nn.Linear):
    """Notes what is saved where."""

    def __init__(self):
        super().__init__(2, 1)
        self.saved, self.stop_training = [], False

    def save_weights(self, path):
        self.saved.append(os.path.basename(path))
        open(path, "w").close()

    def save(self, path):
        self.saved.append("whole " + os.path.basename(path))


def run(callback, epochs, batches=0, batch_logs=None):
    model = Model()
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, logs in enumerate(epochs):
        callback.on_epoch_begin(epoch)
        for batch in range(batches):
            callback.on_train_batch_end(batch, batch_logs or {"loss": 0.5})
        callback.on_epoch_end(epoch, logs)
    callback.on_train_end()
    return model.saved


LOSSES = [{"loss": 1.0, "val_loss": value} for value in (0.5, 0.6, 0.4, 0.45)]


def test_checkpoint_saves_every_epoch_by_name(tmp_path):
    callback = ModelCheckpoint(tmp_path / "{epoch:02d}-{val_loss:.2f}.safetensors")
    assert run(callback, LOSSES) == [
        "01-0.50.safetensors",
        "02-0.60.safetensors",
        "03-0.40.safetensors",
        "04-0.45.safetensors",
    ]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold", [None, 0.55])
def test_checkpoint_saves_the_best_as_keras_does(mode, threshold, tmp_path):
    keras = pytest.importorskip("keras")
    arguments = {"save_best_only": True, "mode": mode, "initial_value_threshold": threshold}

    class KerasModel(Model):
        def save_weights(self, path, overwrite):
            self.saved.append(os.path.basename(path))

    rng = random.Random(0)
    for _ in range(75):
        values = [rng.choice([rng.randrange(10) / 10, rng.random()]) for _ in range(8)]
        if rng.random() < 0.3:
            values[rng.randrange(8)] = math.nan
        callback = ModelCheckpoint(tmp_path / "{epoch}", **arguments)
        mine = run(callback, [{"val_loss": value} for value in values])
        if values[0] != values[0]:  # Keras keeps a first NaN as the best; here any number beats it
            values[0] = math.inf if mode == "min" else -math.inf
        theirs = keras.callbacks.ModelCheckpoint(
            tmp_path / "{epoch}.weights.h5", save_weights_only=True, **arguments
        )
        theirs.set_model(model := KerasModel())
        for epoch, value in enumerate(values):
            theirs.on_epoch_begin(epoch)
            theirs.on_epoch_end(epoch, {"val_loss": value})
        assert [f"{name}.weights.h5" for name in mine] == model.saved


def test_checkpoint_has_the_arguments_of_keras_in_order():
    keras = pytest.importorskip("keras")
    mine = inspect.signature(ModelCheckpoint).parameters
    theirs = inspect.signature(keras.callbacks.ModelCheckpoint).parameters
    assert list(mine) == list(theirs)
    different = {name for name in mine if mine[name].default != theirs[name].default}
    assert different == {"save_weights_only"}


def test_checkpoint_keeps_its_best_over_fits(tmp_path):
    callback = ModelCheckpoint(tmp_path / "{epoch}", save_best_only=True)
    assert run(callback, [{"val_loss": 0.5}]) == ["1"]
    assert run(callback, [{"val_loss": 0.6}, {"val_loss": 0.4}]) == ["2"]


def test_checkpoint_saves_every_so_many_batches_over_epochs(tmp_path):
    callback = ModelCheckpoint(tmp_path / "{epoch}-{batch}-{loss}", save_freq=4)
    assert run(callback, LOSSES[:3], batches=3) == ["2-1-0.5", "3-2-0.5"]


def test_checkpoint_saves_the_whole_model_when_asked(tmp_path):
    callback = ModelCheckpoint(tmp_path / "best.easydl", save_weights_only=False)
    assert run(callback, LOSSES[:1]) == ["whole best.easydl"]


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("best.easydl", "whole best.easydl"),
        ("{epoch}.EASYDL", "whole 1.EASYDL"),
        ("best.safetensors", "best.safetensors"),
        ("best", "best"),
    ],
)
def test_checkpoint_saves_what_the_name_says(name, saved, tmp_path):
    assert run(ModelCheckpoint(tmp_path / name), LOSSES[:1]) == [saved]


@pytest.mark.parametrize("flag", [3, "yes"])
def test_checkpoint_takes_true_false_or_none(flag, tmp_path):
    with pytest.raises((TypeError, ValueError), match="save_weights_only"):
        ModelCheckpoint(tmp_path / "best", save_weights_only=flag)


@pytest.mark.parametrize(
    ("name", "today"),
    [
        ("weights.h5", "weights.safetensors"),
        ("best.keras", "best.safetensors"),
        ("{epoch:02d}-{loss:.2f}.hdf5", "{epoch:02d}-{loss:.2f}.safetensors"),
        ("model.PT", "model.safetensors"),
        ("x" * 900 + ".h5", ""),
    ],
)
def test_checkpoint_refuses_files_of_others_before_training(name, today, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        run(ModelCheckpoint(name), [])
    assert "was given, but easydl writes safetensors files for weights" in str(error.value)
    assert f"write '{today}" in str(error.value)
    assert ".easydl' for the model" in str(error.value) or not today
    assert len(str(error.value)) <= 600
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_refuses_to_save_what_has_no_save_before_training(tmp_path):
    callback = ModelCheckpoint(tmp_path / "best.keras", save_weights_only=False)
    callback.set_model(nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"Linear has no method save; .* 'weights.safetensors'"):
        callback.on_train_begin()


@pytest.mark.parametrize(
    ("whole", "name", "today"),
    [
        (False, "best.easydl", "best.safetensors', or save_weights_only=False for the model"),
        (True, "best.keras", "best.easydl', or save_weights_only=True for the weights alone"),
        (True, "best.safetensors", "best.easydl', or save_weights_only=True for the weights alone"),
    ],
)
def test_checkpoint_says_which_name_goes_with_which_contents(whole, name, today, tmp_path):
    with pytest.raises(ValueError, match=today):
        run(ModelCheckpoint(tmp_path / name, save_weights_only=not whole), [])


def test_checkpoint_finds_before_training_that_a_model_cannot_be_saved(tmp_path):
    model = dl.Sequential([dl.Lambda(lambda x: 2 * x), dl.Dense(1)])
    model.compile("sgd", "mse")
    path = tmp_path / "best.easydl"
    with pytest.raises(ValueError, match="function"):
        model.fit(
            [[1.0]] * 4,
            [1.0] * 4,
            verbose=0,
            callbacks=[ModelCheckpoint(path, save_weights_only=False)],
        )
    assert model.history.epoch == [] and not path.exists()


def test_checkpoint_refuses_an_empty_path():
    with pytest.raises(ValueError, match="filepath='' was given; expected a path"):
        run(ModelCheckpoint(""), [])


def test_checkpoint_counts_batches_that_one_call_joins(tmp_path):
    callback = ModelCheckpoint(tmp_path / "{epoch}-{batch}", save_freq=10)
    callback.set_model(model := Model())
    for epoch in range(2):
        callback.on_epoch_begin(epoch)
        for batch in (7, 15, 18):  # the last of 8, 8 and 3 batches
            callback.on_train_batch_end(batch, {"loss": 0.5})
    assert model.saved == ["1-16", "2-8", "2-19"]


def test_checkpoint_makes_the_folders(tmp_path):
    callback = ModelCheckpoint(tmp_path / "runs" / "epoch {epoch}" / "weights")
    run(callback, LOSSES[:2])
    assert (tmp_path / "runs" / "epoch 2" / "weights").exists()


def test_checkpoint_passes_over_epochs_without_validation(tmp_path):
    epochs = [{"loss": 1.0}, {"loss": 1.0, "val_loss": 0.5}, {"loss": 1.0}]
    for best in (False, True):
        callback = ModelCheckpoint(tmp_path / "{epoch}-{val_loss}", save_best_only=best)
        callback.check_monitor(["loss", "val_loss"])
        assert run(callback, epochs) == ["2-0.5"]
    callback = ModelCheckpoint(tmp_path / "{epoch}", save_best_only=True)
    callback.check_monitor(["loss", "val_loss"])
    assert run(callback, epochs) == ["2"]


def test_checkpoint_does_not_ask_for_validation_when_it_saves_all(tmp_path):
    callback = ModelCheckpoint(tmp_path / "{epoch}")
    callback.check_monitor(["loss"])
    assert run(callback, [{"loss": 1.0}]) == ["1"]


def test_checkpoint_says_what_it_saves(tmp_path, capsys):
    path = tmp_path / "best"
    run(ModelCheckpoint(path, save_best_only=True, verbose=1), LOSSES)
    assert capsys.readouterr().out == (
        f"epoch 1: val_loss improved to 0.5000, saved {path}\n"
        f"epoch 3: val_loss improved from 0.5000 to 0.4000, saved {path}\n"
    )


def test_checkpoint_refuses_a_name_that_is_not_in_the_logs(tmp_path):
    path = f"{tmp_path}/{{epoch}}-{{val_los}}"
    with pytest.raises(ValueError) as error:
        ModelCheckpoint(path).check_monitor(["loss", "val_loss"])
    assert str(error.value) == (
        f"ModelCheckpoint({path!r}): unknown entry 'val_los'. Did you mean 'val_loss'? "
        "Choose from: epoch, loss, val_loss."
    )
    with pytest.raises(ValueError, match="unknown entry 'val_los'"):
        run(ModelCheckpoint(path), LOSSES)
    with pytest.raises(ValueError, match="unknown entry 'batch'"):
        run(ModelCheckpoint(tmp_path / "{batch}"), LOSSES)


@pytest.mark.parametrize("path", ["{}", "{0}", "{epoch", "{epoch:q}", "{loss:d}", "{logs[loss]}"])
def test_checkpoint_refuses_a_wrong_pattern(path):
    with pytest.raises(ValueError) as error:
        ModelCheckpoint(path)
    assert str(error.value).startswith(f"ModelCheckpoint({path!r}) was given (")
    assert str(error.value).endswith(
        "); expected a path with fields such as '{epoch:02d}-{val_loss:.2f}.safetensors'."
    )


@pytest.mark.parametrize(
    "arguments, name",
    [({"filepath": "{val_loss}"}, "val_loss"), ({"save_best_only": True}, "val_loss")],
)
def test_checkpoint_refuses_validation_between_batches(arguments, name):
    with pytest.raises(ValueError) as error:
        ModelCheckpoint(**{"filepath": "x", **arguments}, save_freq=10)
    assert str(error.value) == (
        "ModelCheckpoint(save_freq=10) was given with 'val_loss', which is known only at the end "
        "of an epoch: write save_freq='epoch' or 'loss'."
    )


def test_checkpoint_checks_mode_and_monitor_only_where_they_are_used():
    ModelCheckpoint("x", monitor="seconds")
    with pytest.raises(ValueError, match="does not tell whether low or high is better"):
        ModelCheckpoint("x", monitor="seconds", save_best_only=True)
    with pytest.raises(ValueError, match="unknown mode 'mni'"):
        ModelCheckpoint("x", mode="mni")


def test_checkpoint_goes_on_counting_batches_in_the_next_fit(tmp_path):
    callback = ModelCheckpoint(tmp_path / "{epoch}-{batch}", save_freq=4)
    assert run(callback, LOSSES[:1], batches=3) == []
    assert run(callback, LOSSES[:1], batches=3) == ["1-1"]


@pytest.mark.parametrize("save_freq", [0, -1, 2.5, "batch", True])
def test_checkpoint_refuses_another_save_freq(save_freq):
    with pytest.raises(ValueError, match=f"save_freq={save_freq!r} was given; expected a whole"):
        ModelCheckpoint("x", save_freq=save_freq)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: ModelCheckpoint(path / "{epoch}.safetensors"),
        lambda path: CSVLogger(path / "log.csv"),
        lambda path: TensorBoard(path),
    ],
)
def test_a_path_that_cannot_be_written_is_an_error_before_training(make, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    callback = make(blocked)
    callback.set_model(Model())
    with pytest.raises(ValueError) as error:
        callback.on_train_begin()
    assert str(error.value).startswith(f"nothing can be written to '{blocked}")
    assert "expected a path in a folder where you may write" in str(error.value)
    callback.on_train_end()


def test_a_folder_in_the_place_of_the_file_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        CSVLogger(tmp_path).on_train_begin()


def test_a_file_that_is_write_protected_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_text("")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everything
    with pytest.raises(ValueError, match=rf"nothing can be written to '{path}' \({path} is write-"):
        CSVLogger(path).on_train_begin()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_is_that_of_keras_byte_for_byte(separator, tmp_path):
    keras = pytest.importorskip("keras")
    epochs = [{"val_loss": 0.1 + i / 3, "loss": i / 7, "accuracy": 0.5} for i in range(3)]
    mine, theirs = tmp_path / "mine.csv", tmp_path / "theirs.csv"
    for append in (False, True, False):
        run(CSVLogger(mine, separator, append), epochs)
        callback = keras.callbacks.CSVLogger(theirs, separator, append)
        callback.set_model(Model())
        callback.on_train_begin()
        for epoch, logs in enumerate(epochs):
            callback.on_epoch_end(epoch, logs)
        callback.on_train_end()
        assert mine.read_bytes() == theirs.read_bytes()
    assert mine.read_text().splitlines()[0].split(separator) == [
        "epoch",
        "accuracy",
        "loss",
        "val_loss",
    ]


def test_csv_has_na_where_an_epoch_was_not_validated(tmp_path):
    path = tmp_path / "log.csv"
    epochs = [{"loss": 0.5}, {"loss": 0.4, "val_loss": 0.6}, {"loss": 0.3}]
    run(CSVLogger(path), epochs)
    text = "epoch,loss,val_loss\n0,0.5,NA\n1,0.4,0.6\n2,0.3,NA\n"
    assert path.read_text() == text
    run(CSVLogger(path, append=True), [{"accuracy": 1.0, "loss": 0.2}])
    assert path.read_text() == (
        "epoch,accuracy,loss,val_loss\n0,NA,0.5,NA\n1,NA,0.4,0.6\n2,NA,0.3,NA\n0,1.0,0.2,NA\n"
    )


def test_csv_is_on_disk_after_each_epoch(tmp_path):
    callback = CSVLogger(tmp_path / "runs" / "log.csv")
    callback.on_train_begin()
    callback.on_epoch_end(0, {"loss": 0.5})
    assert (tmp_path / "runs" / "log.csv").read_text() == "epoch,loss\n0,0.5\n"
    callback.on_train_end()


def test_csv_does_not_append_to_another_kind_of_file(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("epoch;loss\n0;0.5\n")
    with pytest.raises(ValueError) as error:
        CSVLogger(path, append=True).on_train_begin()
    assert str(error.value) == (
        f"CSVLogger({str(path)!r}, append=True): the first column is 'epoch;loss'; expected "
        "'epoch' and the separator ','. Write another file, or append=False to begin it anew."
    )
    assert path.read_text() == "epoch;loss\n0;0.5\n"


def test_csv_refuses_a_separator_of_two_characters():
    with pytest.raises(ValueError, match="separator='::' was given; expected one character"):
        CSVLogger("x", separator="::")


def test_tensorboard_writes_the_tags_of_keras(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path, histogram_freq=2, update_freq=2)
    epochs = [{"loss": 0.5, "val_loss": 0.75, "confusion": np.eye(2)}, {"loss": 0.25}]
    run(board, epochs, batches=3)
    run(board, epochs[:1], batches=3)
    found = {}
    for part in ("train", "validation"):
        events = EventAccumulator(str(tmp_path / part), {"histograms": 0}).Reload()  # 0: all
        for tag in events.Tags()["scalars"]:
            found[part, tag] = sorted((e.step, e.value) for e in events.Scalars(tag))
        for tag in events.Tags()["histograms"]:
            found[part, tag] = [event.step for event in events.Histograms(tag)]
    assert found == {
        ("train", "batch_loss"): [(2, 0.5), (4, 0.5), (6, 0.5), (8, 0.5)],
        ("train", "epoch_loss"): [(0, 0.5), (0, 0.5), (1, 0.25)],
        ("train", "weight"): [0, 0],
        ("train", "bias"): [0, 0],
        ("validation", "epoch_loss"): [(0, 0.75)] * 2,
    }


def test_tensorboard_counts_batches_that_one_call_joins(tmp_path):
    board, written = TensorBoard(tmp_path, update_freq=10), []
    board._write = lambda prefix, logs, step: written.append(step)
    for epoch in range(2):
        board.on_epoch_begin(epoch)
        for batch in (7, 15, 18):
            board.on_train_batch_end(batch, {"loss": 0.5})
    assert written == [16, 27, 35]


def test_tensorboard_has_the_learning_rate_at_once_and_every_batch_when_asked(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board, model = TensorBoard(tmp_path, update_freq="batch"), Model()
    model.optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    board.set_model(model)
    board.on_train_begin()
    for batch in range(3):
        board.on_train_batch_end(batch, {"loss": 0.5})
    logs = {"loss": 0.5}
    board.on_epoch_end(0, logs)
    events = EventAccumulator(str(tmp_path / "train")).Reload()  # before training has ended
    assert [event.value for event in events.Scalars("epoch_learning_rate")] == [0.25]
    assert [event.step for event in events.Scalars("batch_loss")] == [1, 2, 3]
    assert logs == {"loss": 0.5}
    board.on_train_end()


def test_tensorboard_reads_no_batch_logs_by_default(tmp_path):
    pytest.importorskip("tensorboard")

    class Unread(dict):
        def __iter__(self):
            raise AssertionError("the device was read")

        keys = items = __getitem__ = __iter__

    run(TensorBoard(tmp_path), [{"loss": 0.5}], batches=2, batch_logs=Unread(loss=1))


def test_tensorboard_missing_is_an_error_before_training(tmp_path, monkeypatch):
    load = builtins.__import__

    def without(name, *rest):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ImportError) as error:
        TensorBoard(tmp_path / "logs").on_train_begin()
    assert str(error.value) == (
        "TensorBoard() needs the package tensorboard, which is not installed: "
        "pip install tensorboard."
    )
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("update_freq", [0, "epochs", 1.5])
def test_tensorboard_refuses_another_update_freq(update_freq):
    with pytest.raises(ValueError, match=f"update_freq={update_freq!r} was given; expected"):
        TensorBoard(update_freq=update_freq)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_terminate_stops_at_a_loss_that_is_no_number(loss, capsys):
    callback, model = TerminateOnNaN(), Model()
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_train_batch_end(0, {"loss": 0.5})
    assert not model.stop_training
    callback._next = 0.0
    callback.on_train_batch_end(1, {"loss": loss})
    assert model.stop_training
    assert capsys.readouterr().out == f"batch 2: the loss is {loss}, training stops\n"


def test_terminate_looks_at_every_epoch_and_rarely_at_batches(capsys):
    callback, model = TerminateOnNaN(), Model()
    callback.set_model(model)

    class Logs(dict):
        reads = 0

        def get(self, *given):
            self.reads += 1
            return super().get(*given)

    logs = Logs(loss=0.5)
    for batch in range(1000):
        callback.on_train_batch_end(batch, logs)
    assert logs.reads < 10
    callback.on_epoch_end(0, {"loss": float("nan")})
    assert model.stop_training
    assert capsys.readouterr().out == "epoch 1: the loss is nan, training stops\n"
