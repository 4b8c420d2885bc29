"""Break the loop, the losses and the metrics on purpose: do the tests notice?

A mutant is one file with one thing changed: a comparison, an operator, a constant, a condition, a
statement left out, two arguments swapped, ``return None``. Each runs the tests of its file in a
copy of the repository; it is killed where one fails or the time is up. Messages are left alone.

    python -m proofs.mutants [--sample 150] [--seed 0] [--jobs 2] [--only losses]
"""

from __future__ import annotations

import argparse
import ast
import importlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
LOOP = ["training/test_loop.py", "training/test_step.py", "callbacks/test_callback_hooks.py"]
PLAIN = ["parity/test_plain_loop.py"]
#: file -> its tests, those that kill most first
TESTS = {
    "training/loop.py": [
        *LOOP,
        *PLAIN,
        "callbacks/test_callbacks_in_fit.py",
        "callbacks/test_backup.py",
    ],
    "training/step.py": ["training/test_step.py", *PLAIN, "training/test_loop.py"],
    "training/meter.py": ["training/test_meter.py", "training/test_loop.py", *PLAIN],
    "training/fused.py": ["training/test_fused.py", *PLAIN],
    "losses.py": ["test_losses.py", "training/test_step.py", "training/test_meter.py"],
    "metrics/base.py": ["metrics", "training/test_meter.py"],
    "metrics/classification.py": ["metrics", "training/test_meter.py"],
    "metrics/regression.py": ["metrics", "training/test_meter.py"],
    "metrics/area.py": ["metrics", "training/test_meter.py"],
}
FLIPS = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


class Mutant(NamedTuple):
    file: str
    line: int
    before: str
    after: str
    source: bytes


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may become."""
    match node:
        case ast.Compare(left, ops, comparators):
            for index, op in enumerate(ops):
                other = [*ops[:index], FLIPS[type(op)](), *ops[index + 1 :]]
                yield ast.Compare(left, other, comparators)
        case ast.BinOp(left, op, right) if type(op) in FLIPS:
            yield ast.BinOp(left, FLIPS[type(op)](), right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(FLIPS[type(op)](), values)
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.Call(function, [first, second, *rest], keywords) if not any(
            isinstance(a, ast.Starred) for a in (first, second)
        ):
            yield ast.Call(function, [second, first, *rest], keywords)
        case ast.AugAssign(target, op, value):
            yield ast.AugAssign(target, FLIPS[type(op)](), value)
            yield ast.Pass()
        case ast.Return(ast.expr() as value) if not is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Assign() | ast.Raise() | ast.Break() | ast.Expr(ast.Call()):
            yield ast.Pass()
        case ast.If(test) | ast.IfExp(test) if not isinstance(test, ast.Compare):
            yield ast.UnaryOp(ast.Not(), test)


def is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def nodes_of(node: ast.AST) -> Iterator[ast.AST]:
    """What is run in functions and methods; annotations, defaults' text and messages are not."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                if isinstance(child, ast.Raise):
                    yield child
                else:
                    yield from nodes_of(child)


def mutants_of(file: str) -> list[Mutant]:
    """All mutants of a file below ``easydl/``."""
    source = (ROOT / "easydl" / file).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    tree = ast.parse(source)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    outer = [f for f in functions if not any(f in ast.walk(g) and f is not g for g in functions)]
    for node in (node for function in outer for node in nodes_of(function)):
        for change in changes(node):
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            before = ast.unparse(node)
            # Of an if only the condition is replaced.
            if isinstance(node, (ast.If, ast.IfExp)):
                test = node.test
                start = starts[test.lineno - 1] + test.col_offset
                end = starts[test.end_lineno - 1] + test.end_col_offset
                before = ast.unparse(test)
            after = ast.unparse(ast.fix_missing_locations(change))
            text = f"({after})" if isinstance(change, ast.expr) else after
            mutated = source[:start] + text.encode() + source[end:]
            try:
                compile(mutated, file, "exec")
            except SyntaxError:  # such as a keyword's place in a pattern
                continue
            found.append(Mutant(file, node.lineno, before, after, mutated))
    return found


def run_tests(folder: Path, tests: list[str]) -> None:
    """In a child: the tests in ``folder``, with its easydl."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (1, 2):
        os.dup2(sys.stdout.fileno(), stream)
    os.setpgrp()  # so that what it started ends with it
    os.chdir(folder)
    sys.path[:0] = [str(folder)]
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=--strict-markers"]
    code = pytest.main([*options, "-m", "not slow and not gpu and not network", *tests])
    easydl = sys.modules.get("easydl")
    if code == 0 and (easydl is None or not str(easydl.__file__).startswith(str(folder))):
        code = 4  # another easydl was tested
    os._exit(int(code))


def survives(folder: Path, file: str, limit: float) -> bool:
    """Whether the tests of ``file`` pass in ``folder``."""
    tests = [f"tests/{name}" for name in TESTS[file] if (folder / "tests" / name).exists()]
    child = multiprocessing.get_context("fork").Process(target=run_tests, args=(folder, tests))
    child.start()
    child.join(limit)
    if child.is_alive():
        os.killpg(child.pid, 9)
        child.join()
    if child.exitcode in (4, 5):
        raise RuntimeError(f"the tests of {file} did not run (pytest's code {child.exitcode})")
    return child.exitcode == 0


def copy_of(place: str, number: int) -> Path:
    folder = Path(place) / str(number)
    for name in ("easydl", "tests", "proofs"):
        ignore = shutil.ignore_patterns("__pycache__", "out")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def one_line(text: str) -> str:
    return " ".join(text.split())[:90]


def prove(sample: int, seed: int, jobs: int, only: str) -> float:
    """Prints killed / total of each file and the survivors; returns the share killed."""
    files = [file for file in TESTS if only in file]
    every = [mutant for file in files for mutant in mutants_of(file)]
    chosen = random.Random(seed).sample(every, min(sample, len(every)))
    print(f"{len(every)} mutants, {len(chosen)} of them tried", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folders = [copy_of(place, number) for number in range(jobs)]
        limits = {}
        for file in sorted({mutant.file for mutant in chosen}):
            begin = time.monotonic()
            if not survives(folders[0], file, 600):
                raise SystemExit(f"the tests of {file} fail without a mutant")
            limits[file] = 20 + 3 * (time.monotonic() - begin)

        def lives(mutant: Mutant) -> bool:
            folder = folders.pop()
            path = folder / "easydl" / mutant.file
            original = path.read_bytes()
            try:
                path.write_bytes(mutant.source)
                alive = survives(folder, mutant.file, limits[mutant.file])
            finally:
                path.write_bytes(original)
                folders.append(folder)
            if alive:
                print(
                    f"survived: {mutant.file}:{mutant.line}  {one_line(mutant.before)}  ->  "
                    f"{one_line(mutant.after)}",
                    flush=True,
                )
            return alive

        with ThreadPoolExecutor(jobs) as pool:
            alive = list(pool.map(lives, chosen))
    for file in files:
        those = [a for mutant, a in zip(chosen, alive) if mutant.file == file]
        if those:
            print(f"{file}: {those.count(False)}/{len(those)} killed")
    share = alive.count(False) / len(alive)
    print(f"{alive.count(False)}/{len(alive)} killed, {100 * share:.1f} % | goal: 90 %")
    return share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sample", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="files whose path holds this")
    given = parser.parse_args()
    os.environ.update(KERAS_BACKEND="torch", MPLBACKEND="Agg", OMP_NUM_THREADS="1")
    sys.dont_write_bytecode = True  # a mutant's age may equal the original's
    for name in ("torch", "pandas", "matplotlib", "safetensors.torch", "keras"):
        importlib.import_module(name)  # once, not for every mutant
    sys.exit(prove(given.sample, given.seed, given.jobs, given.only) < 0.9)


if __name__ == "__main__":
    main()
