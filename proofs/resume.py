"""Kill a training at random moments, run it again to its end, compare with one never interrupted.

Six set-ups; each run is a process of its own, killed by SIGKILL once or twice, also inside its
saves, then run till it ends. Weights, optimizer, history and torch's random state must be equal to
the bit.

    python -m proofs.resume [how many kill points a set-up: 20]
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch

import easydl as dl

MIDDLE = {"save_freq": 4, "shuffle": True}
SETUPS: dict[str, dict[str, Any]] = {
    "epoch save": {},
    "epoch save + shuffle": {"shuffle": True},
    "epoch save + shuffle + dropout": {"shuffle": True, "dropout": 0.3},
    "mid-epoch": MIDDLE | {"shuffle": False},
    "mid-epoch + shuffle": MIDDLE,
    "mid-epoch + shuffle + dropout + BatchNorm + schedule + early stopping": MIDDLE
    | {"dropout": 0.3, "whole": True},
}


def train(
    folder: Path | None,
    save_freq: Any = "epoch",
    shuffle: bool = False,
    dropout: float = 0.0,
    whole: bool = False,
) -> str:
    """The script that is killed and run again; returns a hash of all it ends with."""
    dl.seed(0)
    x = torch.randn(230, 20)
    y = (x[:, :10].sum(1) > 0).long()
    rate = dl.schedules.CosineDecay(0.02, 200) if whole else 0.02
    layers: list[Any] = [dl.Dense(64, "relu", input_dim=20)]
    layers += [dl.BatchNormalization()] if whole else []
    layers += [dl.Dropout(dropout)] if dropout else []
    model = dl.Sequential([*layers, dl.Dense(2, "softmax")])
    model.compile(dl.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks: list[Any] = []
    if whole:
        stop = dl.callbacks.EarlyStopping(patience=2, min_delta=0.1, restore_best_weights=True)
        callbacks.append(stop)
    if folder is not None:
        keep = dl.callbacks.BackupAndRestore(folder, save_freq, delete_checkpoint=False)
        callbacks.append(keep)
    history = model.fit(
        x, y, batch_size=16, epochs=8, shuffle=shuffle, validation_split=0.2, verbose=0,
        callbacks=callbacks,
    )  # fmt: skip
    sums = hashlib.sha256(repr((history.epoch, history.history)).encode())
    parts = dict(model.state_dict())
    for number, entries in model.optimizer.state_dict()["state"].items():
        parts |= {f"{number}.{name}": value for name, value in entries.items()}
    parts["random"] = torch.get_rng_state()
    for name in sorted(parts):
        sums.update(name.encode() + parts[name].numpy().tobytes())
    return sums.hexdigest()


def run(result: Path, folder: Path | None, setup: dict[str, Any], seconds: float = 1e9) -> str:
    """Train in a process of its own; its hash, or ``""`` where it was killed after ``seconds``."""
    result.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            text = train(folder, **setup)
            result.with_suffix(".new").write_text(text)
            result.with_suffix(".new").replace(result)
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    end = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.001)
    return result.read_text() if result.exists() else ""


def prove(folder: Path, kills: int, seed: int = 0) -> tuple[dict[str, int], dict[str, int]]:
    """How many of ``kills`` ended as the uninterrupted run did, for each set-up; and counts."""
    torch.set_num_threads(1)
    dice, exact = random.Random(seed), dict.fromkeys(SETUPS, 0)
    counts = {"killed": 0, "inside a save": 0}
    result = folder / "result"
    train(
        folder / "warm-up", **next(iter(SETUPS.values()))
    )  # imports that each process would repeat
    for name, setup in SETUPS.items():
        expected = run(result, None, setup)
        begin = time.monotonic()
        assert expected and run(result, folder / f"{name} whole", setup) == expected, name
        once = time.monotonic() - begin
        for number in range(kills):
            place, left = folder / f"{name} {number}", 0
            for _ in range(1 + number % 2):
                if run(result, place, setup, dice.uniform(0.02, 0.9) * once) == "":
                    counts["killed"] += 1
                    left += any(place.glob(".epoch*"))
            counts["inside a save"] += left
            exact[name] += run(result, place, setup) == expected
    return exact, counts


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        found, counts = prove(Path(temporary), count)
    for name, number in found.items():
        print(f"  {number:3} of {count}: {name}")
    total, goal = sum(found.values()), count * len(SETUPS)
    print(
        f"{counts['killed']} kills -9, {counts['inside a save']} with a file half written, in "
        f"{time.monotonic() - started:.0f} s: {total} of {goal} bit-exact | goal: {goal}"
    )
    sys.exit(total != goal)
