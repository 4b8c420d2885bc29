"""One system at one work, in a process of its own: some epochs for every line on standard input.

python benchmarks/worker.py SYSTEM WORK ROWS_DIVIDED_BY
"""

from __future__ import annotations

import importlib
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
    work = WORKS[work_name].smaller(int(part))
    train = importlib.import_module(f"systems.{module}").start(work)

    def answer(epochs: int) -> None:
        begin = time.perf_counter()
        loss = train(epochs)
        seconds = (time.perf_counter() - begin) / epochs
        answers.write(json.dumps({"seconds": seconds, "loss": loss}) + "\n")

    answer(1)
    for _ in sys.stdin:
        answer(work.epochs)


if __name__ == "__main__":
    main(*sys.argv[1:])
