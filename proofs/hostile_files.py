"""Open every hostile file of tests/saving/hostile.py under an audit hook, each in its own process.

Counts files that load, code that is run, other files, sockets and processes that are opened,
messages that are none or too long, and what takes more than a second or 200 MB.

    python -m proofs.hostile_files
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import torch

import easydl as dl
from tests.saving import hostile, keras_hostile

SECONDS, MEGABYTES, LETTERS = 1.0, 200.0, 600
RUNNING = ("exec", "compile", "marshal.loads", "code.__new__", "pickle.find_class", "import")
OUTSIDE = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "urllib.", "ftplib.", "glob.")


def resident(kind: str) -> float:
    """``VmRSS`` or, the highest since ``forget``, ``VmHWM``, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 1024


def try_to_load(path: Path, model: dl.Model) -> dict:
    """What happens on the way, seen by Python's own audit events."""
    executed: list[str] = []
    opened: list[str] = []

    def watch(event: str, arguments: tuple) -> None:
        if event in RUNNING:
            executed.append(f"{event} {arguments!r:.60}")
        elif event == "open" and str(arguments[0]) != str(path):
            opened.append(f"open {arguments[0]!r:.80}")
        elif event.startswith(OUTSIDE):
            opened.append(f"{event} {arguments!r:.60}")

    Path("/proc/self/clear_refs").write_text("5")  # forget the highest memory so far
    before = resident("VmRSS")
    sys.addaudithook(watch)
    start, message = time.perf_counter(), None
    try:
        if path.suffix in (".easydl", ".keras"):
            dl.load_model(path)
        else:
            model.load_weights(path)
    except (ValueError, OSError) as error:
        message = str(error)
    seconds = time.perf_counter() - start
    seen = (list(executed), list(opened))
    return {
        "message": message,
        "seconds": seconds,
        "megabytes": resident("VmHWM") - before,
        "executed": seen[0],
        "opened": seen[1],
    }


def in_a_process(path: Path, model: dl.Model) -> dict:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, json.dumps(try_to_load(path, model)).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer) if answer else {"message": None, "crashed": True}


def problems_of(result: dict) -> list[str]:
    if "crashed" in result:
        return ["crashed"]
    found = [*result["executed"], *result["opened"]]
    if not result["message"]:
        found.append("loaded")
    elif len(result["message"]) > LETTERS:
        found.append(f"{len(result['message'])} letters")
    if result["seconds"] > SECONDS:
        found.append(f"{result['seconds']:.1f} s")
    if result["megabytes"] > MEGABYTES:
        found.append(f"{result['megabytes']:.0f} MB")
    return found


def prove(folder: Path, every: int = 1) -> tuple[int, dict[str, list[str]], str]:
    """How many files, what is wrong with which, and the figures in one line."""
    torch.set_num_threads(1)
    model = hostile.small_model()
    good = {".easydl": hostile.good(), ".pt": hostile.torch_saved({})}
    good |= {".keras": keras_hostile.good(), ".h5": keras_hostile.hdf5()}
    for suffix, content in good.items():
        warm = folder / f"warm{suffix}"  # modules are imported at their first use
        warm.write_bytes(content)
        try_to_load_quietly(warm, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile, about the members that come twice
        files = hostile.write_all(folder, every)
    results = {name: in_a_process(path, model) for name, path in files.items()}
    wrong = {name: found for name, result in results.items() if (found := problems_of(result))}
    slowest = max(result.get("seconds", 0) for result in results.values())
    largest = max(result.get("megabytes", 0) for result in results.values())
    executed = sum(bool(result.get("executed")) for result in results.values())
    opened = sum(bool(result.get("opened")) for result in results.values())
    line = (
        f"{len(files)} hostile files: {executed} executions, {opened} foreign opens, "
        f"{len(files) - len(wrong)} clear errors in ≤ {slowest:.2f} s and ≤ {largest:.0f} MB"
    )
    if (folder / "executed").exists():
        wrong["a mark"] = ["code ran"]
    return len(files), wrong, line


def try_to_load_quietly(path: Path, model: dl.Model) -> None:
    with contextlib.suppress(ValueError):
        dl.load_model(path) if path.suffix in (".easydl", ".keras") else model.load_weights(path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        _, bad, text = prove(Path(place))
    for name, reasons in bad.items():
        print(f"  {name}: {'; '.join(reasons)}")
    print(f"{text} | goal: 0 executions, 0 foreign opens, all clear in ≤ 1 s and ≤ 200 MB")
    sys.exit(bool(bad))
