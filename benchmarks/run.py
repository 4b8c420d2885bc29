"""easydl's ``fit`` beside the tuned hand-written loop, as ratios from interleaved rounds.

The tuned loop is what a very good PyTorch engineer writes: one ``randperm`` an epoch, 8 MB of rows
gathered at once, no number read inside the epoch, a real ``torch.optim`` optimizer. Both train the
same network on the same random data with accuracy tracked; the best epoch of each counts, since
other load on the machine only ever adds time.

    python benchmarks/run.py [--rounds 3] [--only lenet]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import easydl as dl


def small_mlp() -> tuple[dl.Sequential, Tensor, int, str]:
    layers = [dl.Dense(64, "relu", input_dim=20), dl.Dropout(0.5), dl.Dense(10, "softmax")]
    return dl.Sequential(layers), torch.rand(10_000, 20), 16, "sgd"


def mlp() -> tuple[dl.Sequential, Tensor, int, str]:
    layers = [dl.Dense(512, "relu", input_dim=784), dl.Dense(512, "relu"), dl.Dense(10, "softmax")]
    return dl.Sequential(layers), torch.rand(60_000, 784), 128, "adam"


def lenet() -> tuple[dl.Sequential, Tensor, int, str]:
    layers = [
        dl.Conv2D(6, 5, padding="same", activation="relu", input_shape=(1, 28, 28)),
        dl.MaxPooling2D(2),
        dl.Conv2D(16, 5, activation="relu"),
        dl.MaxPooling2D(2),
        dl.Flatten(),
        dl.Dense(120, "relu"),
        dl.Dense(84, "relu"),
        dl.Dense(10, "softmax"),
    ]
    return dl.Sequential(layers), torch.rand(10_000, 1, 28, 28), 64, "adam"


def lstm() -> tuple[dl.Sequential, Tensor, int, str]:
    layers = [
        dl.LSTM(32, return_sequences=True, input_shape=(50, 16)),
        dl.LSTM(32, return_sequences=True),
        dl.LSTM(32),
        dl.Dense(10, "softmax"),
    ]
    return dl.Sequential(layers), torch.rand(4_000, 50, 16), 64, "adam"


WORKS: dict[str, Callable[[], tuple[dl.Sequential, Tensor, int, str]]] = {
    "small_mlp": small_mlp,
    "mlp": mlp,
    "lenet": lenet,
    "lstm": lstm,
}


def tuned_epochs(
    network: nn.Module, x: Tensor, y: Tensor, batch: int, optimizer: torch.optim.Optimizer, n: int
) -> list[float]:
    """Seconds of each epoch of the hand-written loop."""
    rows = max(8 * 2**20 // (x[0].numel() * 4 * batch), 1) * batch
    seconds = []
    network.train()
    for _ in range(n):
        start = time.perf_counter()
        order, losses, hits = torch.randperm(len(x)), [], []
        for piece in order.split(rows):
            chunk_x, chunk_y = x.index_select(0, piece), y.index_select(0, piece)
            for xb, yb in zip(chunk_x.split(batch), chunk_y.split(batch)):
                logits = network(xb)
                loss = F.cross_entropy(logits, yb)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach() * len(xb))
                hits.append((logits.detach().argmax(1) == yb).sum())
        _ = float(torch.stack(losses).sum()) / len(x), float(torch.stack(hits).sum()) / len(x)
        seconds.append(time.perf_counter() - start)
    return seconds


class Clock(dl.Callback):
    """Seconds of each epoch as ``fit`` runs it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def compare(name: str, rounds: int) -> None:
    """Print one work's ratio: the median of the rounds' best epochs, and the worst round."""
    dl.seed(0)
    ratios, best_fit, best_loop = [], [], []
    for _ in range(rounds):
        model, x, batch, optimizer = WORKS[name]()
        y = torch.randint(10, (len(x),))
        network = model.to_torch()[:-1]  # without the softmax, which cross_entropy has
        twin = dl.optimizers.get(optimizer).make(list(network.parameters()))
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        loop, clock = [], Clock()
        epochs = max(2, min(8, int(2 / tuned_epochs(network, x, y, batch, twin, 1)[0])))
        for _ in range(epochs):  # interleaved, so that both meet the same machine
            loop += tuned_epochs(network, x, y, batch, twin, 1)
            model.fit(x, y, batch_size=batch, epochs=1, verbose=0, callbacks=[clock])
        best_fit.append(min(clock.seconds))
        best_loop.append(min(loop))
        ratios.append(best_fit[-1] / best_loop[-1])
    print(
        f"{name:10s} fit {min(best_fit):7.3f} s   tuned loop {min(best_loop):7.3f} s   "
        f"ratio {statistics.median(ratios):.2f} (worst round {max(ratios):.2f})",
        flush=True,
    )


def import_seconds() -> None:
    """What ``import easydl`` adds to ``import torch``: the least of five fresh processes."""
    code = (
        "import time, torch; t = time.perf_counter(); import easydl; print(time.perf_counter() - t)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True) for _ in range(5)]
    print(f"import     easydl adds {min(float(r.stdout) for r in runs):.3f} s to import torch")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=WORKS)
    options = parser.parse_args()
    import_seconds()
    for work in [options.only] if options.only else WORKS:
        compare(work, options.rounds)
