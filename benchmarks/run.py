"""easydl's ``fit`` beside hand-written loops and its peers: one table, ratios to the limit loop.

Every system trains in a process of its own; they take turns of about a second, so that all meet
the same machine, and a ratio is taken within each round. A figure is the median of the rounds. The
losses of the same epoch beside the times show that the work was the same.

    python benchmarks/run.py [--quick] [--only mlp lenet] [--systems easydl_fit keras3_on_jax]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm
from works import WORKS

#: what runs -> the packages that it needs
SYSTEMS = {
    "limit": [],
    "tuned": [],
    "tuned_again": [],
    "easydl_fit": ["easydl"],
    "easydl_jit": ["easydl"],
    "compiled_step": [],
    "idiomatic": [],
    "keras3_on_torch": ["keras"],
    "keras3_on_tensorflow": ["keras", "tensorflow"],
    "keras3_on_jax": ["keras", "jax"],
    "lightning": ["lightning"],
    "skorch": ["skorch"],
    "poutyne": ["poutyne"],
    "fastai": ["fastai"],
}
QUICK = ["limit", "tuned", "easydl_fit", "idiomatic", "keras3_on_jax", "lightning"]
#: glibc gives memory at the end of its heap back to the system above a threshold; whether a step's
#: workspace lies there is a lottery between processes, lost by one in five: 2,600 page faults a
#: step of the LSTM. Nobody plays it here.
KEEP_FREED = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
HERE = Path(__file__).parent
SLOW = 15.0  # times the limit loop: such a system runs one round only


class Worker:
    """A system in its own process."""

    def __init__(self, system: str, work: str, part: int):
        self.system, self.ratios, self.seconds = system, [], []
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in close
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | KEEP_FREED
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), system, work, str(part)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env=environment,
        )  # fmt: skip

    def answer(self) -> dict[str, float]:
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            lines = self.log.read().strip().splitlines() or ["it ended without a word"]
            raise RuntimeError(lines[-1][:200])
        return json.loads(line)

    def begin(self, work: str) -> None:
        """Go over to another work; its first epoch is to be asked for by ``answer``."""
        self.ratios, self.seconds = [], []
        self.process.stdin.write(work + "\n")
        self.process.stdin.flush()

    def turn(self) -> float:
        """Train some epochs; seconds an epoch."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.answer()
        self.loss = answer["loss"]
        self.seconds.append(answer["seconds"])
        return answer["seconds"]

    def close(self) -> None:
        self.process.kill()  # all is measured; JAX and TensorFlow take seconds to leave
        self.process.wait(30)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.log.close()


def compare(
    work: str, systems: list[str], rounds: int, part: int, kept: dict[str, Worker] | None
) -> dict[str, Worker]:
    """Train ``work`` by every system, alternating; what fails says so and is left out.

    Args:
        kept: processes that have trained another work, and go on: a quick look, without the time
            that importing takes. None for a new process each.
    """
    names = ["limit", *(s for s in systems if s != "limit")]
    workers: dict[str, Worker] = {}
    for system in tqdm(names, desc=f"{work}: first epochs"):
        worker = (kept or {}).pop(system, None)
        try:
            if worker is None:
                worker = Worker(system, work, part)
            else:
                worker.begin(work)
            worker.first = worker.answer()
            workers[system] = worker
        except (RuntimeError, BrokenPipeError) as error:
            tqdm.write(f"{work}, {system}: {error}")
            worker.close()
    for number in tqdm(range(rounds), desc=f"{work}: rounds"):
        limit = workers["limit"].turn()
        for system, worker in list(workers.items()):
            if number and worker.ratios and worker.ratios[0] > SLOW:
                continue
            try:
                seconds = limit if worker is workers["limit"] else worker.turn()
            except (RuntimeError, BrokenPipeError) as error:
                tqdm.write(f"{work}, {system}: {error}")
                workers.pop(system).close()
                continue
            worker.ratios.append(seconds / limit)
    if kept is None:
        for worker in workers.values():
            worker.close()
        return workers
    kept |= workers
    return {system: copy.copy(worker) for system, worker in workers.items()}


def report(results: dict[str, dict[str, Worker]], rows: dict[str, int]) -> None:
    """One table for all works, as Markdown."""
    names = list(results)
    print("\nSeconds an epoch over those of the limit loop, median (worst); loss after the last\n")
    print("| system | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for system in SYSTEMS:
        cells = []
        for work in names:
            worker = results[work].get(system)
            if worker is None:
                cells.append("–")
                continue
            ratio = statistics.median(worker.ratios)
            cells.append(f"{ratio:.2f} ({max(worker.ratios):.2f}) · {worker.loss:.3f}")
        if set(cells) != {"–"}:
            print(f"| {system} | " + " | ".join(cells) + " |")
    print("\neasydl, and the tuned loop once more, over the tuned loop, median (worst) of the same")
    print("rounds; time to the end of the first epoch; the limit loop's time for a step\n")
    for work, workers in results.items():
        line = [f"{work}:"]
        for system in ("tuned_again", "easydl_fit", "easydl_jit"):
            if system in workers and "tuned" in workers:
                mine, tuned = workers[system], workers["tuned"]
                pairs = [a / b for a, b in zip(mine.seconds, tuned.seconds)]
                first = f"first epoch {mine.first['seconds']:.2f} s"
                line.append(f"{system} {statistics.median(pairs):.2f} ({max(pairs):.2f}), {first};")
        if "tuned" in workers:
            line.append(f"tuned first epoch {workers['tuned'].first['seconds']:.2f} s;")
        steps = -(-rows[work] // WORKS[work].batch)
        line.append(f"limit {min(workers['limit'].seconds) / steps * 1e6:.0f} µs a step")
        print(" ".join(line))


def machine() -> str:
    packages = ["torch", "keras", "tensorflow", "jax", "lightning", "skorch", "poutyne", "fastai"]
    found = []
    for package in packages:
        for name in (package, f"{package}-cpu"):
            try:
                found.append(f"{package} {importlib.metadata.version(name)}")
                break
            except importlib.metadata.PackageNotFoundError:
                pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python = platform.python_version()
    return f"Python {python}, {', '.join(found)}; {cores} cores, {platform.machine()}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows, rounds and peers")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS)
    options = parser.parse_args()
    part, rounds = (5, options.rounds or 2) if options.quick else (1, options.rounds or 7)
    systems = options.systems or (QUICK if options.quick else list(SYSTEMS))
    there = [
        system
        for system in systems
        if all(importlib.util.find_spec(package) for package in SYSTEMS[system])
    ]
    print(machine())
    if missing := [system for system in systems if system not in there]:
        print("not installed, left out:", ", ".join(missing))
    kept: dict[str, Worker] | None = {} if options.quick else None
    results = {work: compare(work, there, rounds, part, kept) for work in options.only}
    for worker in (kept or {}).values():
        worker.close()
    report(results, {name: work.smaller(part).rows for name, work in WORKS.items()})
