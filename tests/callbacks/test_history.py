"""What fit returns."""

import math

import numpy as np
import pytest

from easydl.callbacks import History
from easydl.callbacks.history import number


def history_of(*epochs):
    history = History()
    history.set_params({"verbose": 0, "epochs": len(epochs), "steps": None})
    history.on_train_begin()
    for epoch, logs in enumerate(epochs):
        history.on_epoch_end(epoch, logs)
    history.on_train_end()
    return history


def test_history_has_lists_of_floats_by_name():
    history = history_of({"loss": np.float32(0.5), "accuracy": 1}, {"loss": 0.25, "accuracy": 0.5})
    assert history.history == {"loss": [0.5, 0.25], "accuracy": [1.0, 0.5]}
    assert all(type(value) is float for values in history.history.values() for value in values)
    assert history.epoch == [0, 1]
    assert history.params == {"verbose": 0, "epochs": 2, "steps": None}


def test_history_knows_the_epochs_of_validation_freq():
    pandas = pytest.importorskip("pandas")
    history = history_of({"loss": 0.5}, {"loss": 0.4, "val_loss": 0.6}, {"loss": 0.3})
    assert history.history["val_loss"] == [0.6]
    assert history.epochs_of("val_loss") == [1]
    frame = history.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == ["loss", "val_loss"]
    assert (frame.index.name, list(frame.index)) == ("epoch", [0, 1, 2])
    assert frame["val_loss"].isna().tolist() == [True, False, True]
    assert frame.loc[1, "val_loss"] == 0.6


def test_history_is_fresh_at_each_fit():
    history = history_of({"loss": 0.5})
    history.on_train_begin()
    history.on_epoch_end(0, {"loss": 0.25})
    assert (history.history, history.epoch) == ({"loss": [0.25]}, [0])


def test_history_keeps_arrays_as_they_are():
    counts = np.eye(2)
    assert history_of({"confusion": counts}).history["confusion"][0] is counts


def test_history_tells_its_beginning_and_end():
    assert repr(history_of({"loss": 0.5})) == "History of 1 epoch: loss 0.5000 → 0.5000"
    assert repr(history_of({"loss": 0.5, "accuracy": 0.2}, {"loss": 2e-5, "accuracy": 1.0})) == (
        "History of 2 epochs: loss 0.5000 → 2.000e-05, accuracy 0.2000 → 1.0000"
    )
    assert repr(History()) == "History of 0 epochs"


def test_history_plots_itself():
    pytest.importorskip("matplotlib")
    figure = history_of({"loss": 0.5}, {"loss": 0.4, "val_loss": 0.6}).plot()
    (axes,) = figure.axes
    assert [list(line.get_xdata()) for line in axes.get_lines()] == [[1, 2], [2]]


@pytest.mark.parametrize(
    "value, text",
    [
        (0.31312, "0.3131"),
        (0.0, "0.0000"),
        (1e-5, "1.000e-05"),
        (-2.5, "-2.5000"),
        (123456.0, "1.235e+05"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_numbers_are_written_for_people(value, text):
    assert number(value) == text
