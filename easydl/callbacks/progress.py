"""What ``fit`` shows while it works."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from tqdm import tqdm

from easydl.callbacks.base import Callback, Logs
from easydl.callbacks.history import number

REDRAW_EVERY = 0.25  # seconds: reading the logs waits for the device
_NEVER = float("inf")


class ProgressBar(Callback):
    """A bar on a terminal or in a notebook, one line an epoch elsewhere; see ``fit(verbose=…)``.

    It reads the running loss and metrics, and so waits for the device, at most four times a second.

    Args:
        verbose: 0 silent; 1 a bar while an epoch runs and then its line; 2 only the line;
            ``"auto"`` a bar on a terminal or in a notebook.

    Raises:
        ValueError: If ``verbose`` is something else.

    Example:
        >>> progress = ProgressBar(verbose=2)
        >>> progress.set_params({"verbose": 2, "epochs": 10, "steps": None})
        >>> progress.on_epoch_begin(2)
        >>> progress.on_epoch_end(2, {"loss": 0.3131, "val_loss": 0.4})  # doctest: +ELLIPSIS
        epoch 3/10 · 0... s · loss 0.3131 · val_loss 0.4000
    """

    def __init__(self, verbose: int | str = "auto") -> None:
        if verbose not in (0, 1, 2, "auto"):
            raise ValueError(
                f"verbose={verbose!r} was given; expected 0 (silent), 1 (a bar), "
                "2 (one line an epoch) or 'auto'."
            )
        self.verbose = verbose
        self._bar: tqdm | None = None
        self._next = _NEVER  # when to redraw
        self._training = False

    def on_train_begin(self, logs: Logs = None) -> None:
        self._training = True

    def on_train_end(self, logs: Logs = None) -> None:
        self._training = False
        self.close()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        epochs = (self.params or {}).get("epochs") or "?"
        self._open(f"epoch {epoch + 1}/{epochs}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        history = getattr(self.model, "history", None)
        self._finish(logs, (getattr(history, "waiting", None) or [0.0])[-1])

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._batches = batch + 1
        if perf_counter() >= self._next:
            self._redraw(" · ".join(_pairs(logs)))

    def on_test_begin(self, logs: Logs = None) -> None:
        if not self._training:
            self._open("evaluate")

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        if not self._training:
            self.on_train_batch_end(batch, logs)
        elif perf_counter() >= self._next:  # the epoch's training steps are done: the bar stays
            self._redraw(f"validation, batch {batch + 1}")

    def on_test_end(self, logs: Logs = None) -> None:
        if not self._training:
            self._finish(logs)

    def on_predict_begin(self, logs: Logs = None) -> None:
        self._open("predict")

    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None:
        self.on_train_batch_end(batch, None)

    def on_predict_end(self, logs: Logs = None) -> None:
        self._finish(None)

    def close(self) -> None:
        """Finish the bar, wherever an exception struck; harmless when there is none."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._next = _NEVER

    def _open(self, label: str) -> None:
        self.close()
        self._label = label
        self._started = perf_counter()
        self._batches = 0
        self._mode = self.verbose
        if self._mode == "auto":
            self._mode = 1 if _in_notebook() or (sys.stdout and sys.stdout.isatty()) else 2
        if self._mode == 1:
            self._bar = _make_bar(label, (self.params or {}).get("steps"))
            self._next = self._started + REDRAW_EVERY

    def _redraw(self, text: str) -> None:
        assert self._bar is not None
        self._bar.n = self._batches
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.refresh()
        self._next = perf_counter() + REDRAW_EVERY

    def _finish(self, logs: Logs, waiting: float = 0.0) -> None:
        if self._bar is not None:
            self._bar.leave = False  # the line takes its place: a narrow terminal cuts a bar's text
        self.close()
        if self._mode != 0:
            seconds = perf_counter() - self._started
            parts = [self._label, _seconds(seconds), *_pairs(logs)]
            if waiting > 0.05 and waiting * seconds > 0.2:  # less is not felt
                parts.append(f"waiting for data {waiting:.0%}")
            say(" · ".join(parts))


def say(text: str) -> None:
    """Print a line to standard output without tearing a bar that is being drawn there."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    tqdm.write(text.encode(encoding, "replace").decode(encoding), file=sys.stdout)
    sys.stdout.flush()


class _Bar(tqdm):
    monitor_interval = 0  # no watching thread: it makes every later fork of a loader's workers warn


def _make_bar(label: str, steps: int | None) -> tqdm:
    kind: type[tqdm] = _Bar
    if _in_notebook() and importlib.util.find_spec("ipywidgets") is not None:
        kind = importlib.import_module("tqdm.auto").tqdm  # without ipywidgets it would only warn
    # file is looked up now, not when easydl was imported: notebooks and pytest replace sys.stdout.
    time = "{elapsed}" if steps is None else "{remaining} left"
    layout = "{desc} |{bar}| {n_fmt}/{total_fmt} · " + time + "{postfix}"
    return kind(total=steps, desc=label, file=sys.stdout, dynamic_ncols=True, bar_format=layout)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return hasattr(ipython.get_ipython(), "kernel") if ipython else False


def _pairs(logs: Logs) -> list[str]:
    """``["loss 0.3131", …]``, reading the device once; arrays (a confusion matrix) are left out."""
    if not isinstance(logs, Mapping):
        return []
    return [
        f"{name} {number(value)}" for name, value in logs.items() if not getattr(value, "ndim", 0)
    ]


def _seconds(seconds: float) -> str:
    return f"{seconds:.{3 if seconds < 0.1 else 1 if seconds < 100 else 0}f} s"
