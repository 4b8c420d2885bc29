"""What fit shows: a bar, lines, or nothing."""

import io
import re
import sys
import threading
from collections.abc import Mapping
from time import perf_counter

import pytest

from easydl.callbacks import ProgressBar
from easydl.callbacks import progress as module
from easydl.callbacks.progress import say


class Terminal(io.StringIO):
    """Standard output as a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


class Logs(Mapping):
    """Batch logs that count how often the device is read."""

    def __init__(self):
        self.reads = 0

    def __getitem__(self, name):
        self.reads += 1
        return 0.5

    def __iter__(self):
        return iter(["loss"])

    def __len__(self):
        return 1


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    return now


def on_terminal(monkeypatch):
    """Called in the test itself: pytest puts its own stream there after the fixtures."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def start(verbose, epochs=10, steps=4):
    bar = ProgressBar(verbose)
    bar.set_params({"verbose": verbose, "epochs": epochs, "steps": steps})
    bar.on_train_begin()
    return bar


def last_drawn(stream):
    return stream.getvalue().split("\r")[-1].strip()


def test_lines_are_exactly_one_an_epoch(capsys, clock):
    bar = start(2)
    for epoch in (2, 3):
        bar.on_epoch_begin(epoch)
        for batch in range(4):
            clock[0] += 0.2
            bar.on_train_batch_end(batch, Logs())
        bar.on_test_begin()
        bar.on_test_batch_end(0, Logs())
        bar.on_test_end({"loss": 1.0})
        bar.on_epoch_end(epoch, {"loss": 0.31312, "accuracy": 0.9, "val_loss": 0.4})
    bar.on_train_end()
    captured = capsys.readouterr()
    assert captured.out == (
        "epoch 3/10 · 0.8 s · loss 0.3131 · accuracy 0.9000 · val_loss 0.4000\n"
        "epoch 4/10 · 0.8 s · loss 0.3131 · accuracy 0.9000 · val_loss 0.4000\n"
    )
    assert captured.err == ""


def test_verbose_0_is_silent(capsys):
    bar = start(0)
    bar.on_epoch_begin(0)
    bar.on_train_batch_end(0, Logs())
    bar.on_epoch_end(0, {"loss": 0.5})
    bar.on_train_end()
    bar.on_test_begin()
    bar.on_test_end({"loss": 0.5})
    assert capsys.readouterr() == ("", "")


def test_auto_is_a_line_where_there_is_no_terminal(capsys, clock):
    bar = start("auto")
    bar.on_epoch_begin(0)
    clock[0] += 150.0
    bar.on_train_batch_end(0, Logs())
    bar.on_epoch_end(0, {"loss": 0.5})
    assert capsys.readouterr().out == "epoch 1/10 · 150 s · loss 0.5000\n"


def test_auto_is_a_bar_on_a_terminal(monkeypatch, clock):
    terminal = on_terminal(monkeypatch)
    bar = start("auto")
    bar.on_epoch_begin(0)
    clock[0] += 0.3
    bar.on_train_batch_end(1, Logs())
    assert re.fullmatch(r"epoch 1/10 \|█+ *\| 2/4 · .* left, loss 0\.5000", last_drawn(terminal))
    bar.on_epoch_end(0, {"loss": 0.25})
    assert terminal.getvalue().endswith("epoch 1/10 · 0.3 s · loss 0.2500\n")
    assert terminal.getvalue().count("\n") == 1  # the line has taken the place of the bar


def test_the_bar_reads_the_logs_only_when_it_redraws(monkeypatch, clock):
    on_terminal(monkeypatch)
    bar, logs = start(1, steps=1000), Logs()
    bar.on_epoch_begin(0)
    clock[0] += 0.2
    bar.on_train_batch_end(0, logs)
    assert logs.reads == 0
    for batch in range(1, 1000):
        clock[0] += 0.01  # an epoch of ten seconds
        bar.on_train_batch_end(batch, logs)
    assert 30 <= logs.reads <= 40


def test_the_bar_shows_validation_without_going_back(monkeypatch, clock):
    terminal = on_terminal(monkeypatch)
    bar = start(1)
    bar.on_epoch_begin(0)
    bar.on_train_batch_end(3, Logs())
    bar.on_test_begin()
    clock[0] += 0.3
    bar.on_test_batch_end(6, Logs())
    assert last_drawn(terminal).endswith("validation, batch 7")
    assert "4/4" in last_drawn(terminal)


def test_the_bar_takes_an_unknown_number_of_steps(monkeypatch, clock):
    terminal = on_terminal(monkeypatch)
    bar = start(1, steps=None)
    bar.on_epoch_begin(0)
    clock[0] += 0.3
    bar.on_train_batch_end(6, Logs())
    assert "7/?" in last_drawn(terminal)
    bar.on_epoch_end(0, {"loss": 0.5})
    bar.on_train_end()


def test_an_exception_leaves_the_bar_closed_where_it_stood(monkeypatch, clock):
    terminal = on_terminal(monkeypatch)
    bar = start(1)
    bar.on_epoch_begin(0)
    clock[0] += 0.3
    bar.on_train_batch_end(1, Logs())
    bar.on_train_end({})  # what the loop's finally calls
    assert bar._bar is None
    assert "2/4" in terminal.getvalue().split("\r")[-1]
    assert terminal.getvalue().endswith("\n")
    bar.close()
    before = terminal.getvalue()
    clock[0] += 10
    bar.on_train_batch_end(2, Logs())
    assert terminal.getvalue() == before


def test_a_batch_without_redraw_costs_less_than_half_a_microsecond(monkeypatch):
    on_terminal(monkeypatch)
    bar = start(1)
    bar.on_epoch_begin(0)
    bar._next = perf_counter() + 1000
    best = 1.0
    for _ in range(7):
        begin = perf_counter()
        for _ in range(10_000):
            bar.on_train_batch_end(3, None)
        best = min(best, (perf_counter() - begin) / 10_000)
    bar.close()
    assert best < 0.5e-6


def test_evaluate_and_predict_show_what_they_do(capsys, clock):
    bar = start(2)
    bar.on_train_end()  # after a fit
    bar.on_test_begin()
    bar.on_test_batch_end(0, Logs())
    clock[0] += 0.5
    bar.on_test_end({"loss": 0.5, "accuracy": 0.75})
    bar.on_predict_begin()
    bar.on_predict_batch_end(0, {"outputs": None})
    clock[0] += 0.25
    bar.on_predict_end()
    assert capsys.readouterr().out == (
        "evaluate · 0.5 s · loss 0.5000 · accuracy 0.7500\npredict · 0.2 s\n"
    )


def test_evaluate_and_predict_have_a_bar_on_a_terminal(monkeypatch, clock):
    terminal = on_terminal(monkeypatch)
    bar = ProgressBar(1)
    bar.set_params({"verbose": 1, "epochs": 1, "steps": 4})
    bar.on_train_batch_end(0, Logs())  # nothing has begun: nothing is drawn
    bar.on_test_begin()
    clock[0] += 0.5
    bar.on_test_batch_end(2, Logs())
    assert re.fullmatch(r"evaluate \|█+.? *\| 3/4 · .*, loss 0\.5000", last_drawn(terminal))
    bar.on_test_end({"loss": 0.5})
    bar.on_predict_begin()
    clock[0] += 0.5
    bar.on_predict_batch_end(1, {"outputs": None})
    assert re.fullmatch(r"predict \|█+ *\| 2/4 · .* left", last_drawn(terminal))
    bar.on_predict_end()
    assert terminal.getvalue().endswith("predict · 0.5 s\n")


def test_arrays_in_the_logs_are_left_out(capsys, clock):
    import numpy as np

    bar = start(2)
    bar.on_epoch_begin(0)
    bar.on_epoch_end(0, {"loss": np.float32(0.5), "confusion": np.eye(2)})
    assert capsys.readouterr().out == "epoch 1/10 · 0.000 s · loss 0.5000\n"


def test_a_stream_without_unicode_gets_a_substitute(monkeypatch):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    say("loss 1 · μ")
    assert raw.getvalue() == b"loss 1 ? ?\n"


def test_a_line_printed_beside_a_bar_stands_alone(monkeypatch, clock):
    terminal = on_terminal(monkeypatch)
    bar = start(1)
    bar.on_epoch_begin(0)
    say("saved")
    lines = re.split(r"[\r\n]", terminal.getvalue())
    assert "saved" in lines
    bar.close()


@pytest.mark.parametrize("verbose", [3, "loud", None])
def test_another_verbose_is_an_error(verbose):
    with pytest.raises(ValueError) as error:
        ProgressBar(verbose)
    assert str(error.value) == (
        f"verbose={verbose!r} was given; expected 0 (silent), 1 (a bar), 2 (one line an epoch) or "
        "'auto'."
    )


def test_a_notebook_gets_a_bar_without_a_warning(monkeypatch, capsys, clock):
    kernel = type("Shell", (), {"kernel": object()})()
    ipython = type(sys)("IPython")
    ipython.get_ipython = lambda: kernel
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)  # no ipywidgets
    bar = start("auto")
    bar.on_epoch_begin(0)
    assert bar._bar is not None
    bar.on_epoch_end(0, {"loss": 0.5})
    assert capsys.readouterr().out.endswith("epoch 1/10 · 0.000 s · loss 0.5000\n")


def test_no_thread_stays_behind(monkeypatch):
    on_terminal(monkeypatch)
    monkeypatch.setattr(module._Bar, "monitor", None)  # another test's tqdm may have started one
    before = set(threading.enumerate())
    bar = start(1)
    bar.on_epoch_begin(0)
    assert set(threading.enumerate()) <= before
    bar.close()


def test_a_notebook_with_ipywidgets_gets_their_bar(monkeypatch, clock):
    kernel = type("Shell", (), {"kernel": object()})()
    ipython = type(sys)("IPython")
    ipython.get_ipython = lambda: kernel
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    made = []

    class Widgets(module._Bar):
        def __init__(self, **given):
            made.append(given)
            super().__init__(**given)

    fake = type(sys)("tqdm.auto")
    fake.tqdm = Widgets
    monkeypatch.setitem(sys.modules, "tqdm.auto", fake)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: name == "ipywidgets")
    bar = start("auto")
    bar.on_epoch_begin(0)
    bar.on_train_end()
    assert [given["total"] for given in made] == [4]
