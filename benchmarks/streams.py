"""JPEG files through ``fit``: do the steps wait, is it as fast as a loop by hand, to the bit?

Two cases: a small network, whose step costs less than decoding its batch, so that on the CPU
somebody must wait; and one whose step costs more, where nobody may.

    python benchmarks/streams.py [PICTURES]
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import easydl as dl
from easydl.data import Stream
from easydl.data.stream import reading
from easydl.data.workers import Reader, cpus

BATCH, SIZE, CLASSES = 32, 112, 2
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Pictures(Dataset):
    """JPEG files with torchvision's usual augmentation; the class is the photograph cut from."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.transform = v2.Compose([
            v2.ToImage(), v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.files[index]) as picture:
            return self.transform(picture.convert("RGB")), index % CLASSES


def make_pictures(folder: Path, count: int) -> list[Path]:
    """``count`` files of 128 × 128, cut from scikit-learn's two photographs."""
    photographs = [Image.fromarray(picture) for picture in load_sample_images().images]
    random, files = np.random.default_rng(0), []
    for number in range(count):
        photograph = photographs[number % CLASSES]
        side = int(random.integers(128, 400))
        left, top = (int(random.integers(0, length - side)) for length in photograph.size)
        part = photograph.crop((left, top, left + side, top + side)).resize((128, 128))
        files.append(folder / f"{number}.jpg")
        part.save(files[-1], quality=90)
    return files


def network(width: int) -> nn.Module:
    """Three convolutions of stride 2 of ``width``, 2 ``width`` and 4 ``width`` channels."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(2 * width, 4 * width, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, CLASSES),
    )  # fmt: skip


def by_fit(data: Pictures, width: int, epochs: int, workers: int | None) -> tuple[list, list]:
    """Pictures a second and the share of waiting of each epoch."""
    ends = [time.perf_counter()]
    model = dl.Model(network(width))
    model.compile("adam", nn.CrossEntropyLoss(), device=DEVICE)
    clock = dl.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
    forced = mock.patch.object(Reader, "_how_many", lambda self, number: workers)
    with forced if workers is not None else mock.patch.dict({}):
        history = model.fit(data, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[clock])
    return [len(data) / (b - a) for a, b in itertools.pairwise(ends)], history.waiting


def by_hand(data: Pictures, width: int, epochs: int, workers: int) -> list:
    """Pictures a second of each epoch of a loop over a DataLoader."""
    loader = DataLoader(
        data, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=DEVICE == "cuda",
    )  # fmt: skip
    net, ends = network(width).to(DEVICE, memory_format=torch.channels_last), [time.perf_counter()]
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    for _ in range(epochs):
        for x, y in loader:
            x, y = x.to(DEVICE, non_blocking=True), y.to(DEVICE, non_blocking=True)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        ends.append(time.perf_counter())
    return [len(data) / (b - a) for a, b in itertools.pairwise(ends)]


def batches(data: Pictures, workers: int) -> Iterator[torch.Tensor]:
    source = Stream(data).batching(BATCH, shuffle=True, seed=1)
    forced = mock.patch.object(Reader, "_how_many", lambda self, number: workers)
    with forced, reading(source, epochs=2):
        for number in range(2):
            for x, y, _ in source.epoch(number):
                yield from (x, y)


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        data = Pictures(make_pictures(Path(folder), count))
        for index in range(5):
            data[index]
        one = time.perf_counter()
        for index in range(100):
            data[index]
        one = (time.perf_counter() - one) / 100
        print(
            f"{count} JPEG files, batches of {BATCH}, {DEVICE}, {cpus()} CPUs, "
            f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; "
            f"decoding and augmenting takes {one * 1000:.2f} ms a picture"
        )
        few = Pictures(data.files[:160])
        expected = list(batches(few, 0))
        for workers in (1, 2, 3):
            found = list(batches(few, workers))
            same = len(found) == len(expected) and all(map(torch.equal, found, expected))
            print(f"{workers} workers, batches of 2 passes equal to 0 workers': {same}")
        for width, part in ((8, 1), (64, 2)):
            some = Pictures(data.files[: count // part])
            rates, waiting = by_fit(some, width, 4, None)
            warm = waiting[1:]
            print(
                f"network of width {width}: fit {median(rates[1:]):.0f} pictures/s; steps waited "
                f"{median(warm):.1%} (median), {max(warm):.1%} (worst warm epoch)"
            )
            none, _ = by_fit(some, width, 2, 0)
            print(f"  fit with 0 workers: {none[-1]:.0f} pictures/s")
            for workers in (1, 2, 3):
                rates = by_hand(some, width, 2, workers)
                print(f"  loop by hand, {workers} workers: {rates[-1]:.0f} pictures/s")
        print(f"{time.perf_counter() - begin:.0f} s in all")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
