"""What easydl costs beside plain torch, goal by goal: all that ``run.py`` does not measure.

Two forms of the same thing take turns, so that both meet the same machine; a figure is the median
of the rounds' own ratios or differences, with the worst round in brackets. All on the CPU, with
two threads.

    python benchmarks/costs.py [--quick] [--only facade metrics passes one_row starts counts]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest import mock

import torch
import torch.nn.functional as F
from run import machine
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm
from works import WORKS, Work

import easydl as dl
from easydl.callbacks import progress

HERE = Path(__file__).parent
Row = tuple[str, str, str]  # what, goal, measured


def seconds_of(function: Callable) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def pairs_of(rounds: int, mine: Callable, plain: Callable, clock=seconds_of) -> list[tuple]:
    """Seconds ``(mine, plain)`` of each round; who begins alternates, the first is a warm-up."""
    pairs = []
    for number in range(rounds + 1):
        if number % 2:
            first = clock(plain)
            pairs.append((clock(mine), first))
        else:
            pairs.append((clock(mine), clock(plain)))
    return pairs[1:]


def difference(pairs: list[tuple], scale: float, unit: str) -> str:
    values = [(mine - plain) * scale for mine, plain in pairs]
    return f"{median(values):.2f} {unit} (worst {max(values):.2f})"


@contextlib.contextmanager
def silence() -> Iterator[None]:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def fitted(work: Work, **compiling) -> tuple[dl.Model, Callable]:
    """A model and its epoch as ``systems/easydl_fit.py`` has it: crossentropy, bar on."""
    x, y = work.data()
    model = dl.Model(work.network())
    compiling = {"loss": "sparse_categorical_crossentropy", "device": "cpu"} | compiling
    model.compile(work.optimizer, **compiling)

    def epoch(**options) -> None:
        with silence():
            model.fit(x, y, batch_size=work.batch, verbose=1, **options)

    return model, epoch


# -- the facade's own cost -------------------------------------------------------------------------


class Nothing(dl.Model):
    """One weight, and a loss that does next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x

    def compute_loss(self, x, y, sample_weight=None):
        return (self.w * 0).sum(), x


def facade(quick: bool) -> list[Row]:
    """``fit`` beside a loop of the same torch calls, over batches that were split beforehand."""
    steps, rounds = (4_000, 5) if quick else (20_000, 9)
    model, x = Nothing(), torch.zeros(steps * 2, 1)
    model.compile("sgd", device="cpu")
    batches, twin = x.split(2), Nothing()

    def fit(rows: Tensor = x) -> None:
        with silence():
            model.fit(rows, batch_size=2, verbose=1)

    def bare(count: int = steps) -> None:
        losses, w = [], twin.w
        for batch in batches[:count]:
            w.grad = None
            loss, _ = twin.compute_loss(batch, None)
            loss.backward()
            with torch.no_grad():
                torch._fused_sgd_(
                    [w], [w.grad], [], lr=0.01, momentum=0.0, dampening=0.0, weight_decay=0.0,
                    nesterov=False, maximize=False, is_first_step=False,
                )  # fmt: skip
            losses.append(loss.detach())
        torch.stack(losses).mean().item()

    step = difference(pairs_of(rounds, fit, bare), 1e6 / steps, "µs")
    call = difference(pairs_of(20, lambda: fit(x[:2]), lambda: bare(1)), 1e3, "ms")
    return [("facade's own cost a step", "≤ 5 µs", step), ("a call of fit, fixed cost", "–", call)]


# -- metrics ---------------------------------------------------------------------------------------


def metrics(quick: bool) -> list[Row]:
    """``fit`` with five metrics over ``fit`` with none."""
    rows = []
    for name, steps in {"small_mlp": 640, "mlp": 48, "lenet": 48}.items():
        work = replace(WORKS[name], rows=steps * WORKS[name].batch)
        five = [
            "accuracy",
            "top_k_categorical_accuracy",
            dl.metrics.Precision(average="macro"),
            dl.metrics.Recall(average="macro"),
            dl.metrics.F1Score(average="macro"),
        ]
        _, with_five = fitted(work, metrics=five)
        _, with_none = fitted(work)
        rounds = 300 if name == "small_mlp" else 60  # 60 tell ± 0.5 % there
        pairs = pairs_of(9 if quick else rounds, with_five, with_none)
        extra = [100 * (mine / none - 1) for mine, none in pairs]
        measured = f"{median(extra):+.1f} % (worst {max(extra):+.1f})"
        rows.append((f"five metrics together, {name}", "≤ 3 % of an epoch", measured))
    return rows


# -- evaluate and predict --------------------------------------------------------------------------


def hand_passes(network: nn.Module, x: Tensor, y: Tensor) -> tuple[Callable, Callable]:
    """``evaluate`` and ``predict`` by hand, for batches of a given size."""

    @torch.inference_mode()
    def evaluate(size: int) -> tuple[float, float]:
        loss = right = 0.0
        for xb, yb in zip(x.split(size), y.split(size)):
            outputs = network(xb)
            loss += F.cross_entropy(outputs, yb, reduction="sum")
            right += (outputs.argmax(1) == yb).sum()
        return float(loss) / len(x), float(right) / len(x)

    @torch.inference_mode()
    def predict(size: int):
        return torch.cat([network(xb) for xb in x.split(size)]).numpy()

    return evaluate, predict


def passes(quick: bool) -> list[Row]:
    """``evaluate`` and ``predict`` beside a hand-written pass at its best batch size."""
    found = []
    samples = {"small_mlp": 200_000, "mlp": 20_000, "lenet": 10_000, "lstm": 5_000}
    for name, count in samples.items():
        work = replace(WORKS[name], rows=count // (4 if quick else 1))
        x, y = work.data()
        layouts = [work.network().eval()]
        model = dl.Model(layouts[0])  # the same weights, laid out by compile, and data
        loss = "sparse_categorical_crossentropy"
        model.compile(work.optimizer, loss, metrics=["accuracy"], device="cpu")
        if name == "lenet":
            layouts.append(copy.deepcopy(layouts[0]).to(memory_format=torch.contiguous_format))
        data = torch.from_numpy(x), torch.from_numpy(y)
        by_hand = [hand_passes(network, *data) for network in layouts]
        mine = (
            lambda: model.evaluate(x, y, verbose=0),  # noqa: B023
            lambda: model.predict(x),  # noqa: B023
        )
        for verb, own, plain in zip(("evaluate", "predict"), mine, zip(*by_hand)):
            forms = [(form, size) for form in plain for size in (32, 128, 512, 1024, 2048, 8192)]
            best = dict.fromkeys(forms, float("inf"))
            for form, rows in forms * 2:
                seconds = seconds_of(lambda: form(rows))  # noqa: B023
                best[form, rows] = min(best[form, rows], seconds)
            pass_, size = min(best, key=best.get)
            rounds = 3 if quick else int(max(9, 3 / best[pass_, size]))  # about 6 s
            pairs = pairs_of(rounds, own, lambda: pass_(size))  # noqa: B023
            speed = [hand / facade for facade, hand in pairs]
            measured = f"{median(speed):.2f} (worst {min(speed):.2f}), by hand in batches of {size}"
            found.append((f"{verb}, {name}: rate", "≥ 0.97 × by hand", measured))
    return found


def one_row(quick: bool) -> list[Row]:
    """``predict`` on one row beside the module on one row, from NumPy to NumPy."""
    work, calls = WORKS["small_mlp"].smaller(100), 100 if quick else 300
    row, network = work.data()[0][:1], work.network().eval()
    model = dl.Model(work.network().eval())

    def mine() -> None:
        for _ in range(calls):
            model.predict(row)

    @torch.inference_mode()
    def plain() -> None:
        for _ in range(calls):
            network(torch.from_numpy(row)).numpy()

    measured = difference(pairs_of(15, mine, plain), 1e6 / calls, "µs")
    return [("predict on a single row, over the bare module", "≤ 60 µs", measured)]


# -- starting --------------------------------------------------------------------------------------

#: systems/tuned.py without its search for the fastest optimizer, which would flatter easydl
TUNED = """
import sys, torch
from systems.loops import epoch_of, tensors
from works import WORKS
torch.set_num_threads(2)
work = WORKS[sys.argv[1]].smaller(int(sys.argv[2]))
(x, y), network = tensors(work), work.network()
optimizer = work.optimize(network, fused=True)
def forward(xb, yb):
    outputs = network(xb)
    return work.loss(outputs, xb, yb), outputs
print(epoch_of(work, x, y, forward, optimizer), flush=True)
"""


#: prints how long easydl takes where torch is there; torch's own seconds vary by as much
IMPORT = """
import time, torch
begin = time.perf_counter()
import easydl
print(time.perf_counter() - begin, flush=True)
"""


def answer_of(arguments: list[str]) -> tuple[float, str]:
    """Seconds from the start of a fresh Python to its first line of output, and that line."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # pip compiles what it installs; so does this
    begin = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env=environment,
    ) as process:  # fmt: skip
        line = process.stdout.readline().decode()
        seconds = time.perf_counter() - begin
    if not line:
        raise RuntimeError(f"python {' '.join(arguments)[:80]} ended without a word")
    return seconds, line


def starts(quick: bool) -> list[Row]:
    """Importing, and the time from nothing to the end of the first epoch."""
    answer_of(["-c", IMPORT])  # writes the bytecode
    more = [float(answer_of(["-c", IMPORT])[1]) for _ in range(2 if quick else 9)]
    measured = f"{median(more):.2f} s (worst {max(more):.2f})"
    rows = [("import easydl after import torch", "≤ 0.15 s", measured)]
    for name in ["small_mlp"] if quick else ["small_mlp", "mlp"]:
        part = "5" if name == "mlp" else "1"
        mine, plain = [str(HERE / "worker.py"), "easydl_fit", name, part], ["-c", TUNED, name, part]
        pairs = pairs_of(1 if quick else 5, mine, plain, lambda command: answer_of(command)[0])
        what = f"end of the first epoch, imports included, over tuned: {name}"
        rows.append((what, "≤ 0.3 s", difference(pairs, 1, "s")))
    return rows


# -- what must not happen --------------------------------------------------------------------------


class Reads(TorchDispatchMode):
    """Counts the operators that make a GPU wait: their result is a number or sets a shape."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "equal")
    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.overloadpacket.__name__
        masked = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.count += masked or name in self.WAITING
        return operator(*args, **(kwargs or {}))


class Hooked(dl.Callback):
    """A callback with a hook at every batch that reads nothing."""

    def on_train_batch_end(self, batch, logs=None):
        pass


def counts(quick: bool) -> list[Row]:
    """Compilations, and reads of the device's numbers: counted, not timed."""
    named = ["accuracy", dl.metrics.F1Score(average="macro")]
    work = replace(WORKS["small_mlp"], rows=16 * 40 + 5)
    graphs = torch._dynamo.utils.counters["stats"]
    model, epochs = fitted(work, jit=True, metrics=named, steps_per_execution=4)
    compiled, before = [], graphs["unique_graphs"]

    def look(epoch: int, logs: dict) -> None:
        compiled.append(graphs["unique_graphs"] - before)

    held_out = replace(work, rows=37).data()
    epochs(epochs=3, validation_data=held_out, callbacks=[Hooked(), look])
    what = "compiled graphs after epochs 1, 2, 3: ragged batch, validation, callback"
    eager = " (eager: it could not be compiled)" if model._compiled.jitted.eager else ""
    rows = [(what, "as many", ", ".join(map(str, compiled)) + eager)]

    reads = []
    for steps in (256, 512):
        work = replace(WORKS["small_mlp"], rows=16 * steps)
        model, epoch = fitted(work, metrics=named)
        model._compiled.loss_is_free_to_read = False  # the code path of a GPU
        with mock.patch.object(progress, "REDRAW_EVERY", float("inf")), Reads() as seen:
            epoch(validation_data=held_out, callbacks=[Hooked()])
        reads.append(seen.count)
    what = "reads in fits of 256 and 512 steps, on the code path of a GPU, bar not redrawn"
    return [*rows, (what, "as many", f"{reads[0]}, {reads[1]}")]


MEASURES = {m.__name__: m for m in (facade, metrics, passes, one_row, starts, counts)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds: 40 s")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(2)
    warnings.simplefilter("ignore")
    table, bar = [], tqdm(options.only)
    for name in bar:
        bar.set_description(name)
        table += MEASURES[name](options.quick)
    print(machine(), "\n\n| what | goal | measured: median (worst) |\n|---|---|---|")
    for row in table:
        print("| " + " | ".join(row) + " |")
