"""One system at one work, in a process of its own: an epoch for every line on standard input.

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
    epoch = importlib.import_module(f"systems.{module}").start(WORKS[work_name].smaller(int(part)))
    begin = time.perf_counter()
    first = epoch()
    answers.write(json.dumps({"seconds": time.perf_counter() - begin, "loss": first}) + "\n")
    for _ in sys.stdin:
        begin = time.perf_counter()
        loss = epoch()
        answers.write(json.dumps({"seconds": time.perf_counter() - begin, "loss": loss}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
