"""Data larger than memory, and the memory and time that data take: each figure with its goal.

Every training runs in a process of its own. Rates are compared in interleaved rounds, the files
read from a warm page cache; a ratio is the median of the rounds.

    python benchmarks/data.py [--quick] [--only memory growth rates limit]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from tqdm import tqdm
from works import WORKS

FEATURES, BATCH = 20, 256
LENGTH = 390 * BATCH  # rows of growth's yardstick: about 10⁵, in whole batches
ROOM = 300 * 10**6  # bytes of private memory (RLIMIT_DATA) above what Python and torch have taken


def held(name: str) -> float:
    """A line of this process's memory status, in MB."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6


def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """``count`` random rows of 20 float32 in 0 … 255, whole numbers, and two classes."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (count, FEATURES), dtype=np.uint8).astype(np.float32)
    return x, (x[:, 0] > 127).astype(np.int64)


def network():
    """The small network of growth and rates."""
    import easydl as dl

    model = dl.Sequential(
        [dl.Dense(64, "relu", input_dim=FEATURES), dl.Dense(10, "softmax", name="last")]
    )
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.learning_rate = 1e-4
    return model


def fit(model, *data, epochs: int = 1, batch: int = BATCH) -> float:
    """Seconds of a fit."""
    begin = time.perf_counter()
    model.fit(*data, batch_size=batch, epochs=epochs, verbose=0)
    return time.perf_counter() - begin


# -- what runs in a process of its own -----------------------------------------------------------


def peak(system: str, part: int) -> float:
    """The most memory (MB) that an epoch of the work "mlp" took, data included."""
    import importlib

    train = importlib.import_module(f"systems.{system}").start(WORKS["mlp"].smaller(part))
    with contextlib.redirect_stdout(io.StringIO()):
        train(1)
    return held("VmHWM")


def under_a_limit(kind: str, folder: str) -> dict[str, float]:
    """Train on a file that is larger than all private memory that this process may have."""
    import easydl as dl

    network().fit(*rows(1000), verbose=0)  # what torch loads at its first step
    if kind == "parquet":
        import pyarrow.parquet  # noqa: F401

        data = (dl.data.parquet(f"{folder}/large.parquet", target="y"),)
    else:
        x = np.load(f"{folder}/large.npy", mmap_mode="r")
        data = (x, np.load(f"{folder}/labels.npy", mmap_mode="r"))
    most = int(held("VmData") * 1e6) + ROOM
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    try:
        np.ones(2 * ROOM, np.uint8)
        raise SystemExit("the limit does not hold")
    except MemoryError:
        pass
    before = held("RssAnon")
    seconds = fit(wide(100), *data)
    return {"seconds": seconds, "grew": held("RssAnon") - before}


def wide(features: int):
    """A network of one layer."""
    import easydl as dl

    model = dl.Sequential([dl.Dense(2, "softmax", input_dim=features)])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.learning_rate = 1e-4
    return model


def apart(name: str, *arguments) -> float | dict[str, float]:
    """A function of this file in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--run", name, *map(str, arguments)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{name} {arguments}: {done.stderr.strip()[-600:]}")
    return json.loads(done.stdout.splitlines()[-1])


# -- what is reported ----------------------------------------------------------------------------


def memory(quick: bool, folder: str) -> None:
    part, found = (5, {}) if quick else (1, {})
    for system in tqdm(["tuned", "easydl_fit"], desc="peak memory"):
        found[system] = apart("peak", system, part)
    more = found["easydl_fit"] - found["tuned"]
    print(
        f"peak memory of an epoch of {WORKS['mlp'].rows // part:,} rows of 784: tuned loop "
        f"{found['tuned']:.0f} MB, easydl {more:+.0f} MB (goal: at most +50)"
    )


def growth(quick: bool, folder: str) -> None:
    """Pieces of a training, each beside as many rows of 10⁵ just before and after."""
    import easydl as dl

    sizes, most = [LENGTH // 10, LENGTH * 10, LENGTH * 100], 50
    if quick:
        sizes, most = sizes[:2], 8
    x, y = rows(sizes[-1])
    model, other = network(), network()

    def yardstick() -> float:
        return fit(other, x[:LENGTH], y[:LENGTH], epochs=2)

    class Pieces(dl.Callback):
        """Times each epoch, and the yardstick between two."""

        def on_train_begin(self, logs=None):
            self.began = time.perf_counter()
            self.seconds, self.beside = [], [yardstick()]

        def on_epoch_begin(self, epoch, logs=None):
            self.begun = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.seconds.append(time.perf_counter() - self.begun)
            self.beside.append(yardstick())

    fit(model, x[:1000], y[:1000])
    yardstick()
    print(f"seconds per row over those of {LENGTH:,}, {FEATURES} float32, batches of {BATCH}:")
    for size in tqdm(sizes, desc="growth"):
        data, pieces = (x[:size], y[:size]), Pieces()
        if size < LENGTH:
            pieces.on_train_begin()
            for _ in range(most):
                begin = time.perf_counter()
                fit(model, *data, epochs=2 * LENGTH // size)
                pieces.seconds.append(time.perf_counter() - begin)
                pieces.beside.append(yardstick())
        else:
            options = {"batch_size": BATCH, "verbose": 0, "callbacks": [pieces]}
            begin = time.perf_counter()
            model.fit(*data, steps_per_epoch=2 * LENGTH // BATCH, epochs=most, **options)
            before = (pieces.began - begin) / size
        sides = itertools.pairwise(pieces.beside)
        ratios = [2 * own / (a + b) for own, (a, b) in zip(pieces.seconds, sides)]
        mean, middle = statistics.fmean(ratios), statistics.median(ratios)
        print(f"  {size:>10,} rows: {mean:.3f}, median {middle:.3f} of {most} (goal: 1 ± 0.05)")
        if size > LENGTH:
            print(f"{'':20}{before * 1e9:.1f} ns a row for the checks before the first epoch")
    small = x[:BATCH], y[:BATCH]
    base = statistics.median(yardstick() for _ in range(5)) / (2 * LENGTH)
    fixed = statistics.median(fit(model, *small) for _ in range(50)) - base * BATCH
    print(f"  {base * 1e9:.0f} ns a row; a fit takes {fixed * 1e3:.1f} ms beside its rows")


def rates(quick: bool, folder: str) -> None:
    """Files beside memory, with the network above and with the slower "small_mlp" of ``run.py``."""
    import easydl as dl

    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        pq = None
        print("pyarrow is not installed: Parquet left out")
    work = WORKS["small_mlp"]
    slower = dl.Model(work.network())
    slower.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    slower.learning_rate = 1e-4
    part, rounds = (5, 3) if quick else (1, 11)
    for model, batch, count in ((network(), BATCH, 1_000_000), (slower, work.batch, 200_000)):
        x, y = rows(count // part)
        np.save(f"{folder}/x.npy", x)
        np.save(f"{folder}/u.npy", x.astype(np.uint8))
        np.save(f"{folder}/y.npy", y)
        labels = np.load(f"{folder}/y.npy", mmap_mode="r")
        sources = {
            "memmap float32": (np.load(f"{folder}/x.npy", mmap_mode="r"), labels),
            "memmap uint8": (np.load(f"{folder}/u.npy", mmap_mode="r"), labels),
        }
        if pq is not None:
            table = pa.table({f"x{i}": x[:, i] for i in range(FEATURES)} | {"y": y})
            pq.write_table(table, f"{folder}/x.parquet", row_group_size=100_000)
            sources["Parquet"] = (dl.data.parquet(f"{folder}/x.parquet", target="y"),)
        each = fit(model, x, y, batch=batch) / len(x)
        print(
            f"rate of an epoch of {len(x):,} rows over the rate in memory ({each * 1e6:.1f} µs a "
            "row), from a warm page cache:"
        )
        for name, data in tqdm(sources.items(), desc="rates"):
            fit(model, *data, batch=batch)
            pairs = [(fit(model, x, y, batch=batch), fit(model, *data, batch=batch))
                     for _ in range(rounds)]  # fmt: skip
            ratio = statistics.median(memory / own for memory, own in pairs)
            print(f"  {name}: {ratio:.2f} (goal: at least 0.90)")


def limit(quick: bool, folder: str) -> None:
    count = 2_000_000  # of 100 float32: 800 MB, more than there is room
    x = np.lib.format.open_memmap(f"{folder}/large.npy", "w+", np.float32, (count, 100))
    labels = np.zeros(count, np.int64)
    for start in tqdm(range(0, count, 100_000), desc="writing 800 MB"):
        x[start : start + 100_000] = rows(500_000)[0].reshape(-1, 100)
        labels[start : start + 100_000] = x[start : start + 100_000, 0] > 127
    x.flush()
    np.save(f"{folder}/labels.npy", labels)
    kinds = ["memmap"]
    with contextlib.suppress(ImportError):
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds.append("parquet")
        names = [f"x{i}" for i in range(100)]
        schema = pa.schema([(n, pa.float32()) for n in names] + [("y", pa.int64())])
        with pq.ParquetWriter(f"{folder}/large.parquet", schema, compression="none") as writer:
            for start in range(0, count, 100_000):
                part = slice(start, start + 100_000)
                columns = {n: x[part, i] for i, n in enumerate(names)} | {"y": labels[part]}
                writer.write_table(pa.table(columns, schema))
    print(f"{x.nbytes / 1e6:.0f} MB with {ROOM / 1e6:.0f} MB of memory to take (RLIMIT_DATA):")
    for kind in tqdm(kinds, desc="trained under the limit"):
        result = apart("under_a_limit", kind, folder)
        print(
            f"  {kind}: trained in {result['seconds']:.1f} s, private memory grew by "
            f"{result['grew']:.0f} MB (goal: trains)"
        )


PARTS = {"memory": memory, "growth": growth, "rates": rates, "limit": limit}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    if options.run:
        name, *arguments = options.run
        arguments = [int(a) if a.isdigit() else a for a in arguments]
        print(json.dumps({"peak": peak, "under_a_limit": under_a_limit}[name](*arguments)))
    else:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            for part in options.only:
                PARTS[part](options.quick, folder)
        print(f"{time.perf_counter() - begin:.0f} s")
