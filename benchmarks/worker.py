"""One system in a process of its own: for every empty line on standard input some epochs.

A line with a work's name goes over to that work, and trains its first epoch.

    python benchmarks/worker.py SYSTEM WORK ROWS_DIVIDED_BY
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
import time
import warnings


def main(system: str, work_name: str, part: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever the system prints goes to standard error
    warnings.simplefilter("ignore")
    module, _, backend = system.partition("_on_")
    if backend:
        os.environ["KERAS_BACKEND"] = backend
    import torch
    from works import WORKS

    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    start = importlib.import_module(f"systems.{module}").start

    def answer(epochs: int) -> None:
        begin = time.perf_counter()
        loss = train(epochs)
        seconds = (time.perf_counter() - begin) / epochs
        answers.write(json.dumps({"seconds": seconds, "loss": loss}) + "\n")

    for line in itertools.chain([work_name], sys.stdin):
        if line.strip():
            work = WORKS[line.strip()].smaller(int(part))
            train = start(work)
            answer(1)
        else:
            answer(work.epochs)


if __name__ == "__main__":
    main(*sys.argv[1:])
