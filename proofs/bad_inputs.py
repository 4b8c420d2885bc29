"""Try every bad or odd input that the tests hold: refused clearly or handled, never wrong.

A refusal must come before the first step (or name the batch where only that can show it), with a
message of at most 600 characters that says what came and what was expected, and at most six frames
of easydl; weights and modes are as before and good data train afterwards. Whatever is handled must
give the numbers of the clean call beside it. Each input has a minute.

    python -m proofs.bad_inputs
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import pytest

TESTS = ["test_bad_input.py", "test_bad_files.py"]


class Outcomes:
    """Of pytest's cases, as they come."""

    def __init__(self) -> None:
        self.good: set[str] = set()
        self.wrong: dict[str, str] = {}
        self.hung: dict[str, str] = {}

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" and report.passed:
            self.good.add(report.nodeid)
        elif report.failed:
            text = report.longreprtext
            kind = self.hung if "TimeoutError: hangs" in text else self.wrong
            kind[report.nodeid] = text.strip().splitlines()[-1]


def prove(*options: str) -> Outcomes:
    """Run the cases; ``options`` are pytest's."""
    outcomes = Outcomes()
    files = [str(Path(__file__).parent.parent / "tests" / name) for name in TESTS]
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(
            ["-q", "-p", "no:cacheprovider", "-o", "addopts=", *options, *files], [outcomes]
        )
    outcomes.good -= outcomes.wrong.keys() | outcomes.hung.keys()
    return outcomes


def main() -> None:
    found = prove()
    for name, why in {**found.wrong, **found.hung}.items():
        print(f"{name}: {why}")
    count = len(found.good) + len(found.wrong) + len(found.hung)
    print(
        f"{count} inputs: {len(found.wrong)} wrong, {len(found.hung)} hangs, {len(found.good)} "
        "clear or handled | goal: at least 100, 0, 0, all"
    )
    sys.exit(count < 100 or count != len(found.good))


if __name__ == "__main__":
    main()
