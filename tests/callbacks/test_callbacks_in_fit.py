"""The callbacks driven by a real ``fit``."""

import csv

import pytest
import torch

import easydl as dl
from easydl import callbacks, plotting


def data(rows=64):
    torch.manual_seed(0)
    x = torch.randn(rows, 3)
    return x, (x.sum(1) > 0).float()


def compiled(optimizer="sgd"):
    torch.manual_seed(1)
    model = dl.Sequential([dl.Dense(4, activation="relu"), dl.Dense(1, activation="sigmoid")])
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"], device="cpu")
    return model


def fit(model, *given, epochs=3, **arguments):
    x, y = data()
    return model.fit(
        x, y, epochs=epochs, verbose=0, validation_split=0.25, callbacks=list(given), **arguments
    )


class Scripted(dl.Callback):
    """Writes values of our choice into the logs."""

    def __init__(self, **values):
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs.update({name: values[epoch] for name, values in self.values.items()})


def test_early_stopping_restores_the_weights_of_the_best_epoch():
    kept = []
    keep = dl.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: kept.append([w.copy() for w in model.get_weights()])
    )
    model = compiled()
    stop = callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    history = fit(model, Scripted(val_loss=[0.5, 0.3, 0.4, 0.45, 0.1]), keep, stop, epochs=5)
    assert history.epoch == [0, 1, 2, 3]
    assert (stop.best_epoch, stop.stopped_epoch) == (1, 3)
    for now, then, last in zip(model.get_weights(), kept[1], kept[3]):
        assert (now == then).all()
        assert (now != last).any()


def test_a_missing_monitor_is_refused_before_the_first_step():
    model = compiled()
    model.build((None, 3))
    before = [weight.copy() for weight in model.get_weights()]
    with pytest.raises(
        ValueError, match=r"unknown entry 'val_acurac'\. Did you mean 'val_accuracy'"
    ):
        fit(model, callbacks.EarlyStopping("val_acurac", mode="max"))
    assert all((a == b).all() for a, b in zip(before, model.get_weights()))


def test_a_monitor_that_a_callback_of_the_user_adds_is_found():
    stop = callbacks.EarlyStopping("f1", patience=1)
    fit(compiled(), Scripted(f1=[0.5, 0.4, 0.3]), stop)
    assert (stop.best, stop.stopped_epoch) == (0.5, 1)


def test_validation_freq_leaves_epochs_out(tmp_path):
    stop = callbacks.EarlyStopping(patience=9)
    log = tmp_path / "log.csv"
    save = callbacks.ModelCheckpoint(tmp_path / "{epoch}-{val_loss:.3f}.safetensors")
    history = fit(compiled(), stop, callbacks.CSVLogger(log), save, epochs=4, validation_freq=2)
    assert history.epochs_of("val_loss") == [1, 3]
    rows = list(csv.DictReader(log.read_text().splitlines()))
    assert [row["val_loss"] == "NA" for row in rows] == [True, False, True, False]
    assert [float(row["loss"]) for row in rows] == history.history["loss"]
    saved = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    values = history.history["val_loss"]
    assert saved == [f"2-{values[0]:.3f}.safetensors", f"4-{values[1]:.3f}.safetensors"]


def test_checkpoint_of_the_best_epoch_can_be_loaded(tmp_path):
    path = tmp_path / "best.safetensors"
    model = compiled()
    save = callbacks.ModelCheckpoint(path, save_best_only=True)
    stop = callbacks.EarlyStopping(patience=9, restore_best_weights=True)
    fit(model, Scripted(val_loss=[0.5, 0.3, 0.4]), save, stop)
    other = compiled()
    other.build((None, 3))
    other.load_weights(path)
    for mine, theirs in zip(model.get_weights(), other.get_weights()):
        assert (mine == theirs).all()


def test_the_learning_rate_is_that_of_the_schedule_and_stands_in_the_history():
    model = compiled()
    halve = callbacks.LearningRateScheduler(lambda epoch: 0.5 / 2**epoch)
    history = fit(model, halve)
    assert model.optimizer.param_groups[0]["lr"] == 0.125
    assert history.history["learning_rate"] == [0.5, 0.25, 0.125]


def test_plateau_reduces_the_rate_of_the_optimizer():
    model = compiled(dl.optimizers.SGD(0.5))
    plateau = callbacks.ReduceLROnPlateau(factor=0.5, patience=1)
    fit(model, Scripted(val_loss=[0.5, 0.6, 0.7]), plateau)
    assert model.optimizer.param_groups[0]["lr"] == 0.125


@pytest.mark.parametrize(
    "callback", [callbacks.ReduceLROnPlateau(), callbacks.LearningRateScheduler(lambda epoch: 0.1)]
)
def test_a_schedule_in_compile_beside_a_callback_is_refused(callback):
    model = compiled(dl.optimizers.SGD(dl.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)))
    with pytest.raises(ValueError, match="compile has a learning-rate schedule; expected one"):
        fit(model, callback)


def test_terminate_on_nan_ends_quietly_where_fit_alone_raises(capsys):
    x, y = data()
    for given in ([], [callbacks.TerminateOnNaN()]):
        model = dl.Sequential([dl.Dense(1)])
        model.compile(dl.optimizers.SGD(1e30), "mse", device="cpu")
        if given:
            model.fit(x, y, epochs=5, verbose=0, callbacks=given)
            assert len(model.history.epoch) < 5
            assert model.stop_training
        else:
            with pytest.raises(FloatingPointError):
                model.fit(x, y, epochs=5, verbose=0)


def test_an_exception_in_a_callback_passes_on_and_the_files_are_closed(tmp_path):
    def fail(epoch, logs):
        raise RuntimeError("mine")

    log = callbacks.CSVLogger(tmp_path / "log.csv")
    model = compiled()
    with pytest.raises(RuntimeError, match="mine"):
        fit(model, log, fail)
    assert log._file is None
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2
    assert fit(model).epoch == [0, 1, 2]


def test_a_path_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    steps = []
    count = callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: steps.append(batch))
    with pytest.raises(ValueError, match="nothing can be written to"):
        fit(compiled(), count, callbacks.CSVLogger(blocked / "log.csv"))
    assert steps == []


def test_verbose_2_prints_one_line_an_epoch(capsys):
    x, y = data()
    compiled().fit(x, y, epochs=2, verbose=2, validation_split=0.25)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2
    names = ["loss", "accuracy", "val_loss", "val_accuracy"]
    for epoch, line in enumerate(lines):
        parts = line.split(" · ")
        assert parts[0] == f"epoch {epoch + 1}/2"
        assert parts[1].endswith(" s")
        assert [part.split()[0] for part in parts[2:]] == names


def test_tensorboard_in_fit(tmp_path):
    pytest.importorskip("tensorboard")
    fit(compiled(), callbacks.TensorBoard(tmp_path, histogram_freq=1, update_freq=1))
    assert list((tmp_path / "train").iterdir())
    assert list((tmp_path / "validation").iterdir())


def test_the_report_of_a_fit(tmp_path):
    pytest.importorskip("matplotlib")
    model, (x, y) = compiled(), data()
    history = fit(model)
    path = plotting.report(history, x, y, model.predict(x), tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 1000
    assert path == str(tmp_path / "report.png")
    figure = plotting.decision_boundary(Flat(model), x[:, :2], y, resolution=20)
    assert len(figure.axes) == 2


class Flat:
    """The model on a plane: its third feature is 0."""

    def __init__(self, model):
        self.model = model

    def predict(self, x):
        return self.model.predict(torch.cat([torch.tensor(x), torch.zeros(len(x), 1)], 1))
