"""Kill a process at random points inside and beside its saves; the file must always be whole.

The process saves one generation after the other, each with all weights, the optimizer's state and
the history equal to its number. After every SIGKILL the file is loaded: usable, and of one number.

    python -m proofs.kill_during_save [how many kills: 100]
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

import easydl as dl


def model_of(number: int, model: dl.Model) -> dl.Model:
    """The model with ``number`` in every place."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(number)
            for moment in ("exp_avg", "exp_avg_sq"):
                model.optimizer.state[parameter][moment].fill_(number)
    model.history.history["loss"] = [float(number)]
    return model


def number_of(model: dl.Model) -> float:
    """The one number in every place, or nan."""
    values = set(model.history.history["loss"])
    for parameter in model.parameters():
        state = model.optimizer.state[parameter]
        for tensor in (parameter.detach(), state["exp_avg"], state["exp_avg_sq"]):
            values |= {float(tensor.min()), float(tensor.max())}
    return values.pop() if len(values) == 1 else float("nan")


def prove(folder: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """How many files were usable and of one generation, and how many kills hit a save."""
    torch.set_num_threads(1)
    dice = random.Random(seed)
    model = dl.Sequential([dl.Dense(400, input_dim=200), dl.Dense(200)])
    model.compile("adam", "mse")
    model.fit(torch.zeros(4, 200), torch.zeros(4, 200), verbose=0)
    path = folder / "m.easydl"
    start = time.perf_counter()
    model_of(0, model).save(path)
    once = time.perf_counter() - start
    counts = {"usable": 0, "self-consistent": 0, "inside a save": 0}
    last = 0.0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            number = int(last)
            while True:
                number += 1
                model_of(number, model).save(path)
        time.sleep(dice.uniform(0, 4 * once))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left = [entry for entry in folder.iterdir() if entry != path]
        counts["inside a save"] += bool(left)
        for entry in left:
            entry.unlink()
        try:
            number = number_of(dl.load_model(path))
        except Exception as error:
            print(f"  {error}")
            continue
        counts["usable"] += 1
        counts["self-consistent"] += number >= last
        last = max(number, last)
    counts["generations"] = int(last)
    return counts


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as place:
        result = prove(Path(place), count)
    print(
        f"{count} kills -9, {result['inside a save']} with a file half written, over "
        f"{result['generations']} generations: {result['usable']} usable, "
        f"{result['self-consistent']} self-consistent | goal: {count} and {count}"
    )
    sys.exit(result["usable"] != count or result["self-consistent"] != count)
