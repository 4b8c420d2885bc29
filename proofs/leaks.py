"""Fit 1,000 times in one process, then 200 epochs: does anything grow?

Each fit has a new model, validation, callbacks and a progress bar; every 20th reads a Dataset by
worker processes, every 20th keeps checkpoints, every 20th saves and loads the model. Printed are
the least-squares slope of the resident memory after the warm-up, and the open files, threads and
child processes at its start and end.

    python -m proofs.leaks [how many fits: 1000] [epochs: 200]
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

import easydl as dl

KIB = 1024
GOAL = 5.0  # KiB of resident memory a fit
X = np.random.default_rng(0).normal(size=(96, 8)).astype("float32")
Y = X.sum(1)


class Slow(Dataset):
    """Rows that take long enough to be worth worker processes."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.float32]:
        time.sleep(0.003)
        return X[index], Y[index]


class Held(NamedTuple):
    """What the process holds."""

    files: int
    threads: int
    children: int


def held() -> Held:
    time.sleep(0.01)  # the threads of a worker's queues end a moment after it
    tasks = list(Path("/proc/self/task").iterdir())
    children = sum(len((task / "children").read_text().split()) for task in tasks)
    return Held(len(os.listdir("/proc/self/fd")), len(tasks), children)


def resident() -> float:
    """KiB of memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / KIB


def compiled() -> dl.Model:
    model = dl.Sequential([dl.Dense(16, "relu", input_dim=8), dl.Dropout(0.1), dl.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"], device="cpu")
    return model


def watching(folder: Path) -> list[dl.callbacks.Callback]:
    return [
        dl.callbacks.EarlyStopping(patience=5, restore_best_weights=True),
        dl.callbacks.ReduceLROnPlateau(patience=2),
        dl.callbacks.CSVLogger(folder / "log.csv"),
    ]


def fit_once(number: int, folder: Path) -> None:
    model, kind = compiled(), number % 20
    options = {"epochs": 2, "callbacks": watching(folder)}
    if kind == 5:
        model.fit(Slow(), validation_data=(X, Y), **options)
    elif kind == 10:
        with tempfile.TemporaryDirectory() as place:
            model.fit(X, Y, validation_split=0.25, checkpoint=place, **options)
    elif kind == 15:
        model.fit(X, Y, validation_split=0.25, **options)
        model.save(folder / "m.easydl")
        model = dl.load_model(folder / "m.easydl")
        model.fit(X, Y, verbose=0)
        model.save_weights(folder / "w.safetensors")
        model.load_weights(folder / "w.safetensors")
        model.predict(X)
    else:
        model.fit(X, Y, validation_split=0.25, **options)


class Sizes(dl.callbacks.Callback):
    """The resident memory after every epoch."""

    def __init__(self) -> None:
        self.sizes: list[float] = []
        self.held: list[Held] = []

    def on_epoch_end(self, epoch, logs=None):
        self.sizes.append(resident())
        self.held.append(held())


def slope(sizes: list[float]) -> float:
    """Least squares, KiB a step."""
    return float(np.polyfit(np.arange(len(sizes)), sizes, 1)[0])


def prove(fits: int, epochs: int, folder: Path) -> tuple[float, Held, Held, float, Held, Held]:
    """Of the fits after the first fifth, then of the epochs: KiB a step, what was held, before
    and after."""
    torch.set_num_threads(1)
    sizes, warm = [], fits // 5
    before = held()
    for number in range(fits):
        with contextlib.redirect_stdout(io.StringIO()):
            fit_once(number, folder)
        if number == warm:
            before = held()
        if number >= warm:
            sizes.append(resident())
    after = held()
    watch = Sizes()
    rows = np.tile(X, (20, 1))
    with contextlib.redirect_stdout(io.StringIO()):
        compiled().fit(
            rows, rows.sum(1), epochs=epochs, validation_split=0.25,
            callbacks=[dl.callbacks.CSVLogger(folder / "log.csv"), watch],
        )  # fmt: skip
    late = epochs // 5
    return (
        slope(sizes), before, after,
        slope(watch.sizes[late:]), watch.held[late], watch.held[-1],
    )  # fmt: skip


def main() -> None:
    fits = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    with tempfile.TemporaryDirectory() as place:
        a_fit, before, after, an_epoch, early, late = prove(fits, epochs, Path(place))
    good = a_fit <= GOAL and an_epoch <= GOAL and before == after and early == late
    for what, size, first, last in (
        (f"{fits} fits", a_fit, before, after),
        (f"{epochs} epochs", an_epoch, early, late),
    ):
        changes = ", ".join(f"{k} {a} -> {b}" for k, a, b in zip(Held._fields, first, last))
        print(f"{what}: {size:+.2f} KiB a step; {changes} | goal: <= {GOAL:g} KiB, all constant")
    sys.exit(not good)


if __name__ == "__main__":
    main()
