"""Save where there is no room or no permission: the old file stays as it was, and it is said.

A file-size limit (RLIMIT_FSIZE) at random sizes stands for a full disk, a folder and a file
without write permission, a folder that is gone and a path below a file for one that is not there.

    python -m proofs.full_disk [how many of each verb: 20]
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import easydl as dl


def model_of(number: float) -> dl.Model:
    model = dl.Sequential([dl.Dense(60, input_dim=50), dl.Dense(50)])
    model.compile("adam", "mse")
    model.fit(torch.zeros(4, 50), torch.zeros(4, 50), verbose=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(number)
    return model


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else it kills the process
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A folder where nothing can be made; for root, whom no permission stops, as another user."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


def prove(folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Of ``count`` failing saves: how many raised, kept the old file, left nothing beside it."""
    torch.set_num_threads(1)
    folder.chmod(0o755)
    dice, old, new = random.Random(seed), model_of(1), model_of(2)
    counts = dict.fromkeys(("tried", "said", "old file intact", "nothing left beside"), 0)
    for suffix in (".easydl", ".safetensors"):
        path = folder / f"m{suffix}"
        verb = "save" if suffix == ".easydl" else "save_weights"
        getattr(old, verb)(path)
        before = path.read_bytes()
        for number in range(count):
            lock = number % 4 == 3
            way = locked(folder) if lock else full_after(dice.randrange(len(before)))
            names = sorted(os.listdir(folder))
            counts["tried"] += 1
            try:
                with way:
                    getattr(new, verb)(path)
            except OSError:
                counts["said"] += 1
            counts["old file intact"] += path.read_bytes() == before
            counts["nothing left beside"] += sorted(os.listdir(folder)) == names
    return counts


def fails_at_once(folder: Path) -> int:
    """Of four fits that are to save where they cannot: how many stop before the first epoch."""
    (folder / "a file").write_text("")
    stopped = 0
    room = {folder / "full.easydl": 1000}
    for path in (folder / "a file" / "m.easydl", Path("/proc/nowhere/m.easydl"), folder, *room):
        model = model_of(1)
        before = model.get_weights()[0].copy()
        keep = dl.callbacks.ModelCheckpoint(path, save_weights_only=False)
        try:
            with full_after(room.get(path, resource.RLIM_INFINITY)):
                model.fit(torch.ones(4, 50), torch.ones(4, 50), verbose=0, callbacks=[keep])
        except (ValueError, OSError):
            stopped += bool((model.get_weights()[0] == before).all())
    return stopped


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as place:
        result = prove(Path(place), number)
        early = fails_at_once(Path(place))
    tried = result.pop("tried")
    figures = ", ".join(f"{value}/{tried} {name}" for name, value in result.items())
    print(f"{figures}; {early}/4 at second 0 | goal: {tried}/{tried} each, 4/4")
    sys.exit(any(value != tried for value in result.values()) or early != 4)
