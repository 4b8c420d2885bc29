"""Where a step's microseconds go: ``fit`` beside the tuned loop, then torch's dearest operators.

Clocks are wrapped around functions from outside, for the time of the measurement; the line
"a step" is almost without them. What a clock costs itself falls to "rest". Medians of rounds in
which the two take turns.

    python benchmarks/steps.py [WORK]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median
from unittest import mock

import torch
from run import machine
from systems import easydl_fit, loops, tuned
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm
from works import WORKS, Work

from easydl.callbacks import ProgressBar
from easydl.data import Arrays
from easydl.training import step as training_step
from easydl.training.heads import Head
from easydl.training.meter import Meter

PARTS = ("data", "forward", "loss", "backward", "optimizer", "meter", "nan check", "callbacks, bar")
ROUNDS = 5


class Clock:
    """Seconds by part; time in a part within another counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.inner = 0.0

    def around(self, part: str, function: Callable) -> Callable:
        def timed(*args, **kwargs):
            outer, self.inner = self.inner, 0.0
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.perf_counter() - begin
                self.seconds[part] += spent - self.inner
                self.inner = outer + spent

        return timed

    def batches(self, function: Callable) -> Callable:
        """The same for what gives an iterator of batches."""

        def timed(*args, **kwargs) -> Iterator:
            following = self.around("data", iter(function(*args, **kwargs)).__next__)
            while True:
                try:
                    batch = following()
                except StopIteration:
                    return
                yield batch

        return timed


@contextlib.contextmanager
def clocks(clock: Clock) -> Iterator[None]:
    """Put the clock around every part of both loops; all is as before afterwards."""
    network_of, optimizer_of = Work.network, Work.optimize

    def network(work: Work):
        made = network_of(work)
        made.forward = clock.around("forward", made.forward)
        return made

    def optimizer(work: Work, *args, **options):
        made = optimizer_of(work, *args, **options)
        made.step = clock.around("optimizer", made.step)
        return made

    functions = [
        ("loss", Work, "loss"),
        ("loss", Head, "compute"),
        ("backward", torch.Tensor, "backward"),
        ("optimizer", training_step, "update_weights"),
        ("meter", Meter, "add"),
        ("meter", Meter, "read"),
        ("meter", loops, "accuracy_and_loss"),
        ("nan check", training_step, "check_finite_loss"),
        ("callbacks, bar", ProgressBar, "on_train_batch_end"),
    ]
    with contextlib.ExitStack() as patches:

        def put(owner, name: str, new: Callable) -> None:
            patches.enter_context(mock.patch.object(owner, name, new))

        put(Work, "network", network)
        put(Work, "optimize", optimizer)
        put(Arrays, "epoch", clock.batches(Arrays.epoch))
        put(loops, "batches", clock.batches(loops.batches))
        for part, owner, name in functions:
            put(owner, name, clock.around(part, getattr(owner, name)))
        yield


def steps_in(work: Work) -> int:
    return -(-work.rows // work.batch)


def compare(work: Work, systems: dict[str, Callable]) -> None:
    """The table of parts: microseconds a step; the systems' epochs take turns."""
    clock, per_step = Clock(), 1e6 / steps_in(work)
    with clocks(clock):
        epochs = {name: start(work) for name, start in systems.items()}
        parts = rounds_of(epochs, clock)
    whole = rounds_of(epochs, Clock())
    print(
        f"\n| {work.name}, µs a step | " + " | ".join(epochs) + " |\n|---|" + "--:|" * len(epochs)
    )
    for part in (*PARTS, "rest"):
        row = [median(seconds[part] for seconds in parts[name]) * per_step for name in epochs]
        print(f"| {part} | " + " | ".join(f"{value:.1f}" for value in row) + " |")
    row = [median(seconds["rest"] for seconds in whole[name]) * per_step for name in epochs]
    print("| a step | " + " | ".join(f"{value:.1f}" for value in row) + " |")


def rounds_of(epochs: dict[str, Callable], clock: Clock) -> dict[str, list[Counter]]:
    """For each system the seconds of every round by part; "rest" is what no clock saw."""
    found: dict[str, list[Counter]] = {name: [] for name in epochs}
    for number in tqdm(range(ROUNDS + 1)):
        for name, train in epochs.items():
            clock.seconds = Counter()
            begin = time.perf_counter()
            train(1)
            clock.seconds["rest"] = time.perf_counter() - begin - sum(clock.seconds.values())
            if number:  # the first is a warm-up
                found[name].append(clock.seconds)
    return found


def operators(work: Work) -> None:
    """torch's ten dearest operators in an epoch of ``fit``."""
    train = easydl_fit.start(work, device="cpu")
    train(1)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        train(1)
    found = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    print("\n| operator (own time, the profiler's cost included) | µs a step | calls a step |")
    print("|---|--:|--:|")
    for event in found[:10]:
        time_, calls = event.self_cpu_time_total / steps_in(work), event.count / steps_in(work)
        print(f"| {event.key} | {time_:.1f} | {calls:.2f} |")


def host_syncs(work: Work) -> None:
    """Where ``fit`` waits for a GPU: lines of code, in epochs of n and of 2n steps."""
    if not torch.cuda.is_available():
        print("\nno CUDA device here: where fit waits for the device was not looked at")
        return
    found: dict[int, Counter] = {}
    works = [replace(work, rows=256 * work.batch), replace(work, rows=512 * work.batch)]
    for one in works:
        train = easydl_fit.start(one, device="cuda")
        train(1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            train(1)
            torch.cuda.set_sync_debug_mode("default")
        syncs = [w for w in caught if "synchroniz" in str(w.message)]
        found[steps_in(one)] = Counter(f"{w.filename}:{w.lineno}" for w in syncs)
    few, many = found.values()
    print("\n| the host waits for the GPU at | " + " | ".join(f"{n} steps" for n in found) + " |")
    print("|---|--:|--:|")
    for place, count in many.most_common(12):
        print(f"| {place} | {few[place]} | {count} |")
    print(f"| all | {few.total()} | {many.total()} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", nargs="?", choices=WORKS, default="small_mlp")
    chosen = WORKS[parser.parse_args().work]
    steps = 250 if chosen.name == "small_mlp" else 30
    chosen = replace(chosen, rows=steps * chosen.batch)
    torch.set_num_threads(2)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # of torch's profiler
    print(machine())
    compare(chosen, {"tuned": tuned.start, "fit": lambda w: easydl_fit.start(w, device="cpu")})
    operators(chosen)
    host_syncs(chosen)
