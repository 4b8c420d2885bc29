"""``fit`` is the loop a torch user writes by hand: the same weights, to the last bit.

``plain_fit`` below is that loop. It knows nothing of easydl except two documented facts: ``fit``
draws one seed, ``int(torch.randint(2**62, ()))``, when it shuffles; and epoch e takes the rows in
the order ``torch.randperm(n, generator=torch.Generator().manual_seed(seed + e))``.
"""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR
from torch.utils.data import DataLoader, Dataset, TensorDataset

import easydl as dl
from easydl.data import sources
from easydl.optimizers import schedules

ROWS, BATCH = 53, 8  # six batches of 8 and a ragged one of 5
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


# -- the loop by hand ------------------------------------------------------------------------


def plain_fit(
    net: nn.Module,
    data: Callable,
    loss_of: Callable,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    *,
    first: int = 0,
    penalty: Callable | None = None,
    rate: Callable | None = None,
    scheduler: Any = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    accumulate: int = 1,
    precision: str | None = None,
    project: Callable | None = None,
    frozen_norms: tuple = (),
    hits: Callable | None = None,
    validation: Callable | None = None,
) -> dict[str, list[float]]:
    """Train ``net``; ``data(epoch)`` yields ``(x, y, weights or None)``; returns the history."""
    params = list(net.parameters())
    history: dict[str, list[float]] = defaultdict(list)
    autocast = torch.autocast("cpu", HALF[precision]) if precision else contextlib.nullcontext()
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "float16")
    updates = waiting = waiting_rows = 0

    def forward(x, y, w):
        with autocast:
            out = net(x)
            if w is None:
                loss = loss_of(out, y)
            else:  # (N, 1) times (N,) would be (N, N)
                loss = (loss_of(out, y, reduction="none").reshape(len(x)) * w).mean()
            return out, loss + penalty(net) if penalty else loss

    def update():
        nonlocal updates, waiting, waiting_rows
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate(updates)
        scaler.unscale_(optimizer)
        if accumulate > 1:
            for p in params:
                if p.grad is not None:
                    p.grad /= waiting_rows
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(params, clip_norm)
        if clip_value is not None:
            nn.utils.clip_grad_value_(params, clip_value)
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if project is not None:
            project(net)
        updates += scaler.get_scale() >= scale  # not where float16 overflowed
        waiting = waiting_rows = 0

    for epoch in range(first, epochs):
        net.train()
        for norm in frozen_norms:
            norm.eval()
        total, right, rows = 0.0, 0.0, 0
        for x, y, w in data(epoch):
            out, loss = forward(x, y, w)
            scaler.scale(loss * len(x) if accumulate > 1 else loss).backward()
            waiting, waiting_rows = waiting + 1, waiting_rows + len(x)
            if waiting == accumulate:
                update()
            total, rows = total + loss.item() * len(x), rows + len(x)
            right += float(hits(out.detach(), y)) if hits else 0.0
        if waiting:
            update()
        history["loss"].append(total / rows)
        if hits:
            history["accuracy"].append(right / rows)
        if scheduler is not None:
            scheduler.step()
        if validation is not None:
            for key, value in plain_evaluate(net, validation, forward, hits).items():
                history["val_" + key].append(value)
    return dict(history)


def plain_evaluate(net, batches, forward, hits) -> dict[str, float]:
    net.eval()
    total, right, rows = 0.0, 0.0, 0
    with torch.no_grad():
        for x, y, w in batches():
            out, loss = forward(x, y, w)
            total, rows = total + loss.item() * len(x), rows + len(x)
            right += float(hits(out, y)) if hits else 0.0
    return {"loss": total / rows} | ({"accuracy": right / rows} if hits else {})


def cut(size: int, *tensors, order=None):
    """Batches of ``size`` rows, in ``order``; ``None`` stands for missing weights."""
    n = len(tensors[0])
    for start in range(0, n, size):
        rows = slice(start, start + size) if order is None else order[start : start + size]
        yield tuple(None if t is None else t[rows] for t in tensors)


def batches_of(x, y, w=None, *, size=BATCH, shuffle=True) -> Callable:
    """What ``fit(x, y, size)`` documents: one seed, and an order for each epoch."""
    seed = int(torch.randint(2**62, ())) if shuffle else 0

    def data(epoch):
        order = None
        if shuffle:
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed + epoch))
        return cut(size, x, y, w, order=order)

    return data


# -- three networks, twice each --------------------------------------------------------------


class LastStep(nn.LSTM):
    def forward(self, x):
        return super().forward(x)[1][0][0]


@dataclass
class Task:
    """One network in easydl's words and in torch's; the plain one gives logits."""

    layers: Callable  # regularizer -> easydl layers
    torch: Callable  # -> the same by hand
    x: torch.Tensor
    given_y: Any  # as a user has it
    y: torch.Tensor  # as torch's loss wants it
    loss: str
    plain_loss: Callable
    probabilities: Callable
    hits: Callable
    classes: torch.Tensor
    penalised: tuple[str, ...]  # what the regularizer acts on
    frozen: tuple[int, ...]  # layers that the freezing tests freeze
    extra: dict = field(default_factory=dict)

    def model(self, regularizer=None) -> dl.Sequential:
        torch.manual_seed(3)
        return dl.Sequential(self.layers(regularizer))

    def pair(self, regularizer=None, **compile_kwargs) -> tuple[dl.Sequential, nn.Module]:
        """An easydl model, compiled, and the plain network with the same weights."""
        model = self.model(regularizer)
        net = self.torch()
        net.load_state_dict(model.state_dict())
        compile_kwargs = {"metrics": ["accuracy"], "optimizer": sgd()} | compile_kwargs
        model.compile(loss=self.loss, device="cpu", **compile_kwargs)
        return model, net


def mlp_layers(r):
    return [
        dl.Dense(16, "relu", kernel_regularizer=r, input_shape=(6,)),
        dl.Dropout(0.3),
        dl.Dense(3, "softmax", kernel_regularizer=r),
    ]


def mlp_torch():
    parts = [("0", nn.Linear(6, 16)), ("relu", nn.ReLU()), ("1", nn.Dropout(0.3))]
    return nn.Sequential(OrderedDict([*parts, ("2", nn.Linear(16, 3))]))


def cnn_layers(r):
    return [
        dl.Conv2D(4, 3, padding="same", kernel_regularizer=r, input_shape=(2, 6, 6)),
        dl.BatchNormalization(momentum=0.9),
        nn.ReLU(),
        dl.MaxPooling2D(2),
        dl.Flatten(),
        dl.Dropout(0.25),
        dl.Dense(3, kernel_regularizer=r),
    ]


def cnn_torch():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4, eps=1e-3, momentum=0.1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(36, 3),
    )


def lstm_layers(r):
    return [
        dl.LSTM(5, kernel_regularizer=r, input_shape=(7, 4)),
        dl.Dropout(0.2),
        dl.Dense(1, "sigmoid", kernel_regularizer=r),
    ]


def lstm_torch():
    net = nn.Sequential(LastStep(4, 5, batch_first=True), nn.Dropout(0.2), nn.Linear(5, 1))
    net[0].bias_hh_l0.requires_grad_(False)  # one bias trains, as in Keras
    return net


def most_likely(out, y):
    return (out.argmax(-1) == (y if y.dim() == 1 else y.argmax(-1))).sum()


def above_half(out, y):
    return ((torch.sigmoid(out.float()) > 0.5) == y).sum()


def make_tasks() -> dict[str, Task]:
    g = torch.Generator().manual_seed(11)
    x = torch.randn(ROWS, 6, generator=g)
    pictures = torch.randn(ROWS, 2, 6, 6, generator=g)
    series = torch.randn(ROWS, 7, 4, generator=g)
    labels = torch.randint(3, (ROWS,), generator=g)
    yes = torch.randint(2, (ROWS,), generator=g)
    one_hot = F.one_hot(labels, 3).float()
    softmax = lambda out: out.softmax(-1)  # noqa: E731
    ends = (F.cross_entropy, most_likely)
    return {
        "mlp": Task(
            mlp_layers, mlp_torch, x, labels.numpy().astype(np.int32), labels,
            "sparse_categorical_crossentropy", ends[0], softmax, ends[1], labels,
            ("0.weight", "2.weight"), (0,),
        ),
        "cnn": Task(
            cnn_layers, cnn_torch, pictures, one_hot.double().numpy(), one_hot,
            "categorical_crossentropy", ends[0], lambda out: out, ends[1], labels,
            ("0.weight", "6.weight"), (0, 1),
        ),
        "lstm": Task(
            lstm_layers, lstm_torch, series, yes.tolist(), yes.float().unsqueeze(1),
            "binary_crossentropy", F.binary_cross_entropy_with_logits, torch.sigmoid, above_half,
            yes, ("0.weight_ih_l0", "2.weight"), (0,),
        ),
    }  # fmt: skip


TASKS = make_tasks()


@pytest.fixture(params=["mlp", "cnn", "lstm"])
def task(request) -> Task:
    return TASKS[request.param]


# -- comparing -------------------------------------------------------------------------------


def sgd(lr=0.1):
    return dl.optimizers.SGD(lr, momentum=0.9)


def plain_sgd(net, lr=0.1):
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9, fused=True)
    # torch's fused SGD makes its momentum in the first step, for all parameters or none, and as
    # garbage where a GradScaler skips that step. Zeros to begin with are the same first step.
    for p in net.parameters():
        optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def assert_same_weights(model: nn.Module, net: nn.Module) -> None:
    ours, theirs = model.state_dict(), net.state_dict()
    assert list(ours) == list(theirs)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def assert_same_history(history, expected: dict[str, list[float]], only=None) -> None:
    assert list(history.history) == list(expected)
    for name, values in expected.items():
        assert history.history[name] == pytest.approx(values, rel=1e-12, abs=0), name


def run_both(model_call: Callable, plain_call: Callable) -> tuple[Any, Any]:
    """Both from one state of torch's generator; they must leave it in one state."""
    torch.manual_seed(7)
    ours, after = model_call(), torch.get_rng_state()
    torch.manual_seed(7)
    theirs = plain_call()
    assert torch.equal(after, torch.get_rng_state()), "random numbers used differ"
    return ours, theirs


def compare(
    task: Task,
    compile_kwargs: dict | None = None,
    fit_kwargs: dict | None = None,
    plain_kwargs: dict | None = None,
    *,
    optimizer: Callable = plain_sgd,
    scheduler: Callable | None = None,
    weights: torch.Tensor | None = None,
    regularizer: Any = None,
) -> None:
    """``fit`` beside ``plain_fit``: weights, history and random numbers."""
    model, net = task.pair(regularizer, **(compile_kwargs or {}))
    fit_kwargs = {"epochs": 3, "batch_size": BATCH, "verbose": 0} | (fit_kwargs or {})
    shuffle, epochs = fit_kwargs.get("shuffle", True), fit_kwargs["epochs"]

    def plain():
        made = optimizer(net)
        return plain_fit(
            net,
            batches_of(task.x, task.y, weights, size=fit_kwargs["batch_size"], shuffle=shuffle),
            task.plain_loss,
            made,
            epochs,
            scheduler=scheduler(made) if scheduler else None,
            hits=task.hits,
            **(plain_kwargs or {}),
        )

    history, expected = run_both(lambda: model.fit(task.x, task.given_y, **fit_kwargs), plain)
    assert_same_weights(model, net)
    assert_same_history(history, expected)


def l2_by_hand(task: Task, factor: float) -> Callable:
    def penalty(net):
        weights = dict(net.named_parameters())
        return sum(factor * weights[name].square().sum() for name in task.penalised)

    return penalty


SAMPLE_WEIGHTS = torch.linspace(0, 2, ROWS)
CLASS_WEIGHT = {0: 0.5, 1: 3.0, 2: 1.0}


# -- A. one knob at a time, on every network --------------------------------------------------


def test_shuffled(task):
    compare(task)


def test_in_the_order_given(task):
    compare(task, fit_kwargs={"shuffle": False})


def test_learning_rate_that_changes_every_step(task):
    rate = schedules.ExponentialDecay(0.2, decay_steps=3, decay_rate=0.7)
    by_hand = {"rate": lambda step: 0.2 * 0.7 ** (step / 3)}
    compare(task, {"optimizer": sgd(rate)}, plain_kwargs=by_hand)


@pytest.mark.parametrize("where", ["compile", "optimizer"])
def test_torch_scheduler_once_an_epoch(task, where):
    make = lambda optimizer: StepLR(optimizer, 1, 0.3)  # noqa: E731
    if where == "compile":
        compare(task, {"schedule": make}, scheduler=make)
    else:
        compare(
            task,
            {"optimizer": sgd(make)},
            scheduler=make,
            optimizer=lambda net: plain_sgd(net, 0.01),
        )


@pytest.mark.parametrize("half", [False, True], ids=["l2", "l2_of_bfloat16"])
def test_l2_penalty(task, half):
    precision = "bfloat16" if half else "float32"
    compare(
        task,
        {"precision": precision},
        regularizer=dl.regularizers.L2(0.05),
        plain_kwargs={"penalty": l2_by_hand(task, 0.05)}
        | ({"precision": precision} if half else {}),
    )


@pytest.mark.parametrize(
    "clip", [{"clip_norm": 0.05}, {"clip_value": 0.01}, {"clip_norm": 0.2, "clip_value": 0.05}]
)
def test_clipping(task, clip):
    compare(task, clip, plain_kwargs=clip)


@pytest.mark.parametrize("more", [{}, {"clip_norm": 0.05}], ids=["", "clipped"])
def test_accumulation_with_a_rest_at_the_end(task, more):
    compare(
        task,
        {"accumulate": 3, "optimizer": sgd(schedules.InverseTimeDecay(0.2, 2, 0.5)), **more},
        plain_kwargs={"accumulate": 3, "rate": lambda t: 0.2 / (1 + 0.5 * (t / 2)), **more},
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("more", [{}, {"clip_norm": 0.05, "accumulate": 2}], ids=["", "clipped"])
def test_mixed_precision(task, precision, more):
    if precision == "float16" and task is TASKS["lstm"]:
        pytest.skip("torch has no float16 LSTM on the CPU")
    compare(task, {"precision": precision, **more}, plain_kwargs={"precision": precision, **more})


def test_sample_weight(task):
    compare(task, fit_kwargs={"sample_weight": SAMPLE_WEIGHTS}, weights=SAMPLE_WEIGHTS)


def test_class_weight(task):
    factors = {c: f for c, f in CLASS_WEIGHT.items() if c <= int(task.classes.max())}
    weights = torch.tensor([CLASS_WEIGHT[int(c)] for c in task.classes])
    compare(task, fit_kwargs={"class_weight": factors}, weights=weights)


def test_balanced_class_weight_times_sample_weight(task):
    counts = torch.bincount(task.classes)
    weights = (ROWS / (len(counts) * counts)).float()[task.classes] * SAMPLE_WEIGHTS
    fit_kwargs = {"class_weight": "balanced", "sample_weight": SAMPLE_WEIGHTS}
    compare(task, fit_kwargs=fit_kwargs, weights=weights)


def test_schedule_beside_a_loss_scaler():
    # The first steps overflow; neither the weights nor the schedule move.
    task = TASKS["mlp"]
    rate = schedules.ExponentialDecay(0.2, decay_steps=3, decay_rate=0.7)
    more = {"precision": "float16", "accumulate": 2}
    by_hand = {"rate": lambda step: 0.2 * 0.7 ** (step / 3), **more}
    compare(task, {"optimizer": sgd(rate), **more}, plain_kwargs=by_hand)


# -- validation must not disturb training -----------------------------------------------------


@pytest.mark.parametrize("how", ["split", "data", "loader"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_validation_in_the_middle(task, how, precision):
    l2 = dl.regularizers.L2(0.02)
    model, net = task.pair(l2, precision=precision)
    cut_at = ROWS - 14  # floor(53 * 0.75)
    w = SAMPLE_WEIGHTS
    head, tail = slice(0, cut_at), slice(cut_at, ROWS)
    given = {
        "split": {"validation_split": 0.25},
        "data": {"validation_data": (task.x[tail], np.asarray(task.given_y)[tail], w[tail])},
        "loader": {"validation_data": list(cut(5, task.x[tail], task.y[tail], w[tail]))},
    }[how]
    if how == "split":
        x, y, weights = task.x, task.given_y, w
    else:
        x, y, weights = task.x[head], np.asarray(task.given_y)[head], w[head]

    def plain():
        return plain_fit(
            net,
            batches_of(task.x[head], task.y[head], w[head]),
            task.plain_loss,
            plain_sgd(net),
            4,
            penalty=l2_by_hand(task, 0.02),
            precision=precision if precision in HALF else None,
            hits=task.hits,
            validation=lambda: cut(5, task.x[tail], task.y[tail], w[tail]),
        )

    history, expected = run_both(
        lambda: model.fit(
            x, y, BATCH, 4, 0, sample_weight=weights, validation_batch_size=5, **given
        ),
        plain,
    )
    assert_same_weights(model, net)
    assert_same_history(history, expected)


def test_class_weight_is_not_applied_to_validation(task):
    model, net = task.pair()
    cut_at = 39
    tail = slice(cut_at, ROWS)
    classes = task.classes[:cut_at]
    weights = torch.tensor([0.2, 2.0, 5.0])[classes]
    history, expected = run_both(
        lambda: model.fit(
            task.x, task.given_y, BATCH, 2, 0, validation_split=0.25, validation_batch_size=14,
            class_weight=dict(enumerate([0.2, 2.0, 5.0][: int(task.classes.max()) + 1])),
        ),
        lambda: plain_fit(
            net, batches_of(task.x[:cut_at], task.y[:cut_at], weights), task.plain_loss,
            plain_sgd(net), 2, hits=task.hits,
            validation=lambda: cut(14, task.x[tail], task.y[tail], None),
        ),
    )  # fmt: skip
    assert_same_weights(model, net)
    assert_same_history(history, expected)


def test_evaluate_and_predict_leave_no_trace_in_training(task):
    quiet, busy = task.pair()[0], task.pair()[0]
    for model in (quiet, busy):
        torch.manual_seed(7)
        for _ in range(3):
            model.fit(task.x, task.given_y, verbose=0)
            if model is busy:
                modes = [m.training for m in model.modules()]
                model.evaluate(task.x, task.given_y, verbose=0)
                model.predict(task.x)
                model.test_on_batch(task.x, task.given_y)
                assert [m.training for m in model.modules()] == modes
    assert_same_weights(quiet, busy)


@pytest.mark.parametrize("size", [1, 8, 53, 100])
def test_evaluate_and_predict_are_a_plain_pass(task, size):
    model, net = task.pair(dl.regularizers.L2(0.02))
    model.fit(task.x, task.given_y, epochs=2, verbose=0)
    net.load_state_dict(model.state_dict())
    penalty = l2_by_hand(task, 0.02)

    def forward(x, y, w):
        out = net(x)
        return out, task.plain_loss(out, y) + penalty(net)

    expected = plain_evaluate(net, lambda: cut(size, task.x, task.y, None), forward, task.hits)
    assert model.evaluate(task.x, task.given_y, size, 0, return_dict=True) == pytest.approx(
        expected, rel=1e-12, abs=0
    )
    with torch.no_grad():
        outputs = [task.probabilities(net(x)) for (x,) in cut(size, task.x)]
    predicted = model.predict(task.x, size)
    assert predicted.dtype == np.float32
    assert np.array_equal(predicted, torch.cat(outputs).numpy())
    assert torch.equal(model.eval()(task.x), task.probabilities(net(task.x)))


def test_to_torch_gives_the_same_outputs_and_keys(task):
    model, net = task.pair()
    plain = model.to_torch()
    net.load_state_dict(model.state_dict())
    assert [p.requires_grad for p in plain.parameters()] == [
        p.requires_grad for p in net.parameters()
    ]
    assert not any(type(m).__module__.startswith("easydl") for m in plain.modules())
    assert torch.equal(plain.eval()(task.x), task.probabilities(net.eval()(task.x)))


# -- freezing ---------------------------------------------------------------------------------


def test_freezing_and_freeing_between_fits_without_compiling_again(task):
    model, net = task.pair()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    frozen = [p for i in task.frozen for p in net[i].parameters() if p.requires_grad]

    def ours():
        histories = []
        for trainable in (False, True, False):
            for i in task.frozen:
                model.layers[i].trainable = trainable
            histories.append(model.fit(task.x, task.given_y, BATCH, 2, 0).history)
        return histories

    def plain():
        optimizer = plain_sgd(net)
        histories = []
        for trainable in (False, True, False):
            for p in frozen:
                p.requires_grad_(trainable)
            histories.append(
                plain_fit(
                    net, batches_of(task.x, task.y), task.plain_loss, optimizer, 2,
                    hits=task.hits, frozen_norms=() if trainable else norms,
                )
            )  # fmt: skip
        return histories

    ours, theirs = run_both(ours, plain)
    assert_same_weights(model, net)
    for one, other in zip(ours, theirs):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-12, abs=0)
        assert one["accuracy"] == other["accuracy"]


def test_frozen_layer_stays_as_it_was_and_is_left_alone_by_weight_decay_and_clipping(task):
    model = task.pair(
        optimizer=dl.optimizers.AdamW(0.05, weight_decay=0.5), clip_norm=0.1, accumulate=2
    )[0]
    before = copy.deepcopy(model.state_dict())
    for i in task.frozen:
        model.layers[i].trainable = False
    model.fit(task.x, task.given_y, BATCH, 2, 0)
    for name, value in model.state_dict().items():
        same = torch.equal(value, before[name])
        assert same == (int(name.split(".")[0]) in task.frozen or name.endswith("bias_hh_l0")), name


def test_freezing_in_the_middle_of_a_fit():
    task = TASKS["cnn"]
    model, net = task.pair()

    class Freeze(dl.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.layers[0].trainable = self.model.layers[1].trainable = epoch != 1

    def plain():
        data, optimizer = batches_of(task.x, task.y), plain_sgd(net)
        for epoch in range(3):
            for p in (*net[0].parameters(), *net[1].parameters()):
                p.requires_grad_(epoch != 1)
            norms = (net[1],) if epoch == 1 else ()
            plain_fit(
                net, data, task.plain_loss, optimizer, epoch + 1, first=epoch, frozen_norms=norms
            )

    run_both(lambda: model.fit(task.x, task.given_y, BATCH, 3, 0, callbacks=[Freeze()]), plain)
    assert_same_weights(model, net)


# -- optimizers -------------------------------------------------------------------------------

O = torch.optim  # noqa: E741
OPTIMIZERS = {
    "sgd": ("sgd", lambda p: O.SGD(p, lr=0.01, fused=True)),
    "nesterov": (
        dl.optimizers.SGD(0.05, momentum=0.8, nesterov=True),
        lambda p: O.SGD(p, lr=0.05, momentum=0.8, nesterov=True, fused=True),
    ),
    "adam": ("adam", lambda p: O.Adam(p, lr=1e-3, eps=1e-7, fused=True)),
    "adamw": ("AdamW", lambda p: O.AdamW(p, lr=1e-3, eps=1e-7, weight_decay=4e-3, fused=True)),
    "rmsprop": ("rmsprop", lambda p: O.RMSprop(p, lr=1e-3, alpha=0.9, eps=1e-7)),
    "adagrad": (
        "adagrad",
        lambda p: O.Adagrad(p, lr=1e-3, initial_accumulator_value=0.1, eps=1e-7, fused=True),
    ),
    "adadelta": ("adadelta", lambda p: O.Adadelta(p, lr=1e-3, rho=0.95, eps=1e-7)),
    "adamax": ("adamax", lambda p: O.Adamax(p, lr=1e-3, eps=1e-7)),
    "nadam": ("nadam", lambda p: O.NAdam(p, lr=1e-3, eps=1e-7, momentum_decay=1.0)),
    "torch class": (O.Adam, O.Adam),
    "callable": (lambda p: O.SGD(p, lr=0.3), lambda p: O.SGD(p, lr=0.3)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(task, name):
    ours, by_hand = OPTIMIZERS[name]
    foreach = name in ("rmsprop", "adadelta", "adamax", "nadam") and task is TASKS["cnn"]
    assert not foreach or len(list(task.torch().parameters())) < 8  # so torch's plain form
    compare(task, {"optimizer": ours}, optimizer=lambda net: by_hand(list(net.parameters())))


def test_ready_torch_optimizer_with_groups(task):
    model, net = task.pair()

    def make(module):
        *body, kernel, bias = module.parameters()
        groups = [{"params": body, "lr": 0.01}, {"params": [kernel, bias], "weight_decay": 0.1}]
        return torch.optim.AdamW(groups, lr=0.05)

    model.compile(make(model), task.loss, device="cpu")
    history, expected = run_both(
        lambda: model.fit(task.x, task.given_y, BATCH, 3, 0),
        lambda: plain_fit(net, batches_of(task.x, task.y), task.plain_loss, make(net), 3),
    )
    assert_same_weights(model, net)
    assert_same_history(history, expected)


def test_second_fit_goes_on_and_compile_starts_the_optimizer_anew(task):
    model, net = task.pair(optimizer="adam")
    adam = lambda: O.Adam(net.parameters(), lr=1e-3, eps=1e-7, fused=True)  # noqa: E731

    def ours():
        model.fit(task.x, task.given_y, BATCH, 2, 0)
        model.fit(task.x, task.given_y, BATCH, 5, 0, initial_epoch=3)
        model.compile("adam", task.loss, device="cpu")
        model.fit(task.x, task.given_y, BATCH, 1, 0)

    def plain():
        optimizer = adam()
        for first, last in ((0, 2), (3, 5)):
            data = batches_of(task.x, task.y)
            plain_fit(net, data, task.plain_loss, optimizer, last, first=first)
        plain_fit(net, batches_of(task.x, task.y), task.plain_loss, adam(), 1)

    run_both(ours, plain)
    assert_same_weights(model, net)


@pytest.mark.parametrize("scheduler", [CosineAnnealingLR, OneCycleLR])
def test_schedulers_of_torch_at_their_own_pace(scheduler):
    task = TASKS["mlp"]
    every_step = scheduler is OneCycleLR
    make = (
        (lambda o: OneCycleLR(o, 0.3, total_steps=21))
        if every_step
        else (lambda o: CosineAnnealingLR(o, 3))
    )
    model, net = task.pair(schedule=make)

    def plain():
        optimizer = plain_sgd(net)
        schedule = make(optimizer)
        if every_step:
            optimizer.register_step_post_hook(lambda *_: schedule.step())
            schedule_by_epoch = None
        else:
            schedule_by_epoch = schedule
        plain_fit(
            net, batches_of(task.x, task.y), task.plain_loss, optimizer, 3,
            scheduler=schedule_by_epoch,
        )  # fmt: skip

    run_both(lambda: model.fit(task.x, task.given_y, BATCH, 3, 0), plain)
    assert_same_weights(model, net)


# -- sources ----------------------------------------------------------------------------------


class Rows(Dataset):
    """A map-style Dataset that is not a TensorDataset: taken row by row."""

    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, index):
        return tuple(column[index] for column in self.columns)


def fit_beside_plain(task, source, data, epochs=3, plain_kwargs=None, **fit_kwargs):
    model, net = task.pair()
    history, expected = run_both(
        lambda: model.fit(source(), epochs=epochs, verbose=0, **fit_kwargs),
        lambda: plain_fit(
            net, data(), task.plain_loss, plain_sgd(net), epochs, hits=task.hits,
            **(plain_kwargs or {}),
        ),
    )  # fmt: skip
    assert_same_weights(model, net)
    assert_same_history(history, expected)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", [Rows, TensorDataset])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_dataset(task, kind, shuffle, weighted):
    columns = [task.x, task.y] + ([SAMPLE_WEIGHTS] if weighted else [])
    fit_beside_plain(
        task,
        lambda: kind(*columns),
        lambda: batches_of(*columns, shuffle=shuffle),
        shuffle=shuffle,
        batch_size=BATCH,
    )


@pytest.mark.parametrize("shuffle", [True, False])
def test_data_loader_keeps_its_own_order_and_batch_size(task, shuffle):
    loader = lambda: DataLoader(TensorDataset(task.x, task.y), 11, shuffle=shuffle)  # noqa: E731

    def data():
        one = loader()
        return lambda epoch: ((x, y, None) for x, y in one)

    fit_beside_plain(task, loader, data)


def test_generators(task):
    def endless():
        while True:
            yield from ((x, y) for x, y, _ in cut(BATCH, task.x, task.y, None))

    def data():
        stream = endless()
        return lambda epoch: ((*next(stream), None) for _ in range(5))

    fit_beside_plain(task, endless, data, steps_per_epoch=5)

    once = lambda: ((x, y) for x, y, _ in cut(BATCH, task.x, task.y, None))  # noqa: E731
    in_order = lambda: batches_of(task.x, task.y, shuffle=False)  # noqa: E731
    fit_beside_plain(task, lambda: once, in_order)
    fit_beside_plain(task, lambda: list(once()), in_order)


def test_class_weight_with_a_stream(task):
    weights = torch.tensor([0.5, 3.0, 1.0])[task.classes]
    count = int(task.classes.max()) + 1
    fit_beside_plain(
        task,
        lambda: list(cut(BATCH, task.x, task.y)),
        lambda: batches_of(task.x, task.y, weights, shuffle=False),
        class_weight=dict(enumerate([0.5, 3.0, 1.0][:count])),
    )


def test_steps_per_epoch_takes_the_first_batches_of_each_order(task):
    model, net = task.pair()

    def first_four():
        data = batches_of(task.x, task.y)
        return lambda epoch: [batch for _, batch in zip(range(4), data(epoch))]

    history, expected = run_both(
        lambda: model.fit(task.x, task.given_y, BATCH, 3, 0, steps_per_epoch=4),
        lambda: plain_fit(net, first_four(), task.plain_loss, plain_sgd(net), 3, hits=task.hits),
    )
    assert_same_weights(model, net)
    assert_same_history(history, expected)


@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_gathered_in_several_chunks_are_the_same_batches(task, shuffle, monkeypatch):
    monkeypatch.setattr(sources, "CHUNK_BYTES", 1)  # each batch a chunk of its own
    compare(task, fit_kwargs={"shuffle": shuffle})
    one_row = task.x[:1].numel() * 4 + 32
    monkeypatch.setattr(sources, "CHUNK_BYTES", 2 * BATCH * one_row)
    compare(task, fit_kwargs={"shuffle": shuffle})


@pytest.mark.parametrize("kind", ["arrays", "chunks", "dataset"])
def test_last_single_row_joins_the_batch_before_it_where_a_batchnorm_learns(kind, monkeypatch):
    task, n = TASKS["cnn"], 17  # 4 batches of 4 and one row: 4, 4, 4, 5
    if kind == "chunks":
        monkeypatch.setattr(sources, "CHUNK_BYTES", 1)
    model, net = task.pair()
    x, y = task.x[:n], task.y[:n]

    def data():
        seed = int(torch.randint(2**62, ()))

        def epoch_batches(epoch):
            order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + epoch))
            for rows in order[:12].split(4):
                yield x[rows], y[rows], None
            yield x[order[12:]], y[order[12:]], None

        return epoch_batches

    given = (Rows(x, y),) if kind == "dataset" else (x, y)
    history, expected = run_both(
        lambda: model.fit(*given, batch_size=4, epochs=3, verbose=0),
        lambda: plain_fit(net, data(), task.plain_loss, plain_sgd(net), 3, hits=task.hits),
    )
    assert_same_weights(model, net)
    assert_same_history(history, expected)


# -- losses, heads, constraints ---------------------------------------------------------------

G = torch.Generator().manual_seed(5)
REAL, POSITIVE = torch.randn(ROWS, 3, generator=G), torch.rand(ROWS, 3, generator=G) + 0.1
ZERO_ONE, SIGNS = (REAL > 0).float(), torch.sign(REAL)
LABELS = torch.randint(3, (ROWS,), generator=G)
SOFT = POSITIVE / POSITIVE.sum(1, keepdim=True)


def smooth(out, y, **kwargs):
    return F.cross_entropy(out, y, label_smoothing=0.1, **kwargs)


LOSSES = {
    "mse": ("mse", REAL, F.mse_loss),
    "mae": ("mae", REAL, F.l1_loss),
    "huber": (dl.losses.Huber(0.3), REAL, lambda o, y: F.huber_loss(o, y, delta=0.3)),
    "torch mse": (nn.MSELoss(), REAL, F.mse_loss),
    "torch smooth l1": (nn.SmoothL1Loss(), REAL, F.smooth_l1_loss),
    "function": (F.mse_loss, REAL, F.mse_loss),
    "keras order": (lambda y_true, y_pred: (2 * y_pred - y_true).abs().mean(), REAL,
                    lambda o, y: (2 * o - y).abs().mean()),
    "bce": ("binary_crossentropy", ZERO_ONE, F.binary_cross_entropy_with_logits),
    "torch bce": (nn.BCEWithLogitsLoss(), ZERO_ONE, F.binary_cross_entropy_with_logits),
    "soft labels": ("categorical_crossentropy", SOFT, F.cross_entropy),
    "smoothing": (dl.losses.CategoricalCrossentropy(label_smoothing=0.1), LABELS, smooth),
    "torch ce": (nn.CrossEntropyLoss(), LABELS, F.cross_entropy),
    "squared hinge": ("squared_hinge", SIGNS, lambda o, y: ((1 - y * o).clamp_min(0) ** 2).mean()),
}  # fmt: skip


def linear_pair(loss, activation=None, **kwargs):
    torch.manual_seed(3)
    model = dl.Sequential([dl.Dense(8, "tanh", input_shape=(6,)), dl.Dense(3, activation)])
    parts = [("0", nn.Linear(6, 8)), ("tanh", nn.Tanh()), ("1", nn.Linear(8, 3))]
    net = nn.Sequential(OrderedDict(parts))
    net.load_state_dict(model.state_dict())
    model.compile(sgd(), loss, device="cpu", **kwargs)
    return model, net


@pytest.mark.parametrize("name", LOSSES)
def test_loss(name):
    loss, y, by_hand = LOSSES[name]
    model, net = linear_pair(loss)
    x = TASKS["mlp"].x
    history, expected = run_both(
        lambda: model.fit(x, y, BATCH, 3, 0),
        lambda: plain_fit(net, batches_of(x, y), by_hand, plain_sgd(net), 3),
    )
    assert_same_weights(model, net)
    assert_same_history(history, expected)


@pytest.mark.parametrize("activation", ["softmax", None])
@pytest.mark.parametrize("y", [LABELS, LABELS.unsqueeze(1), LABELS.double(), F.one_hot(LABELS)])
def test_labels_in_any_form_meet_logits(y, activation):
    model, net = linear_pair("categorical_crossentropy", activation)
    x = TASKS["mlp"].x
    one_hot = y.shape[1:] == (3,)
    target = y.float() if one_hot else LABELS
    run_both(
        lambda: model.fit(x, y, BATCH, 3, 0),
        lambda: plain_fit(net, batches_of(x, target), F.cross_entropy, plain_sgd(net), 3),
    )
    assert_same_weights(model, net)


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 1)])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_column_of_targets_is_never_broadcast(shape, weighted):
    x, y = TASKS["mlp"].x, REAL[:, 0].reshape(shape)
    weights = SAMPLE_WEIGHTS if weighted else None
    torch.manual_seed(3)
    model = dl.Sequential([dl.Dense(1, input_shape=(6,))])
    net = nn.Sequential(nn.Linear(6, 1))
    net.load_state_dict(model.state_dict())
    model.compile(sgd(), "mse", metrics=["mae"], device="cpu")
    history, expected = run_both(
        lambda: model.fit(x, y.double().numpy(), BATCH, 3, 0, sample_weight=weights),
        lambda: plain_fit(
            net, batches_of(x, y.reshape(-1, 1), weights), F.mse_loss, plain_sgd(net), 3
        ),
    )
    assert_same_weights(model, net)
    assert history.history["loss"] == pytest.approx(expected["loss"], rel=1e-12, abs=0)
    error = (net(x) - y.reshape(-1, 1)).abs().double().mean().item()
    assert model.evaluate(x, y, verbose=0)[1] == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize(
    "weight, ignore", [([0.5, 2.0, 1.0], -100), (None, 2), ([1.0, 3.0, 0.25], 1)]
)
def test_torch_loss_that_divides_by_its_targets_weights(weight, ignore):
    weight = None if weight is None else torch.tensor(weight)
    loss = nn.CrossEntropyLoss(weight=weight, ignore_index=ignore)
    model, net = linear_pair(loss)
    x, optimizer = TASKS["mlp"].x, plain_sgd(net)
    factors = (torch.ones(3) if weight is None else weight).double()
    if ignore >= 0:
        factors[ignore] = 0

    def plain():
        history = []
        data = batches_of(x, LABELS)
        for epoch in range(3):
            total = 0.0
            for a, b, _ in data(epoch):
                value = loss(net(a), b)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                total += value.item() * factors[b].sum().item()
            history.append(total / factors[LABELS].sum().item())
        return {"loss": history}

    history, expected = run_both(lambda: model.fit(x, LABELS, BATCH, 3, 0), plain)
    assert_same_weights(model, net)
    assert_same_history(history, expected)


class TwoHeads(nn.Module):
    def __init__(self, named: bool):
        super().__init__()
        self.body, self.named = nn.Linear(6, 8), named
        self.kind, self.size = nn.Linear(8, 3), nn.Linear(8, 1)
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        h = self.drop(torch.relu(self.body(x)))
        outputs = self.kind(h), self.size(h)
        return dict(zip(("kind", "size"), outputs)) if self.named else outputs


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_several_outputs(named, weighted):
    x, weights = TASKS["mlp"].x, SAMPLE_WEIGHTS if weighted else None
    size = REAL[:, :1]
    torch.manual_seed(3)
    net = TwoHeads(named)
    model = dl.Model(copy.deepcopy(net))
    losses, factors = ["sparse_categorical_crossentropy", "mse"], [0.5, 2.0]
    y = (LABELS, size[:, 0])
    if named:
        names = ["kind", "size"]
        losses, factors, y = (dict(zip(names, v)) for v in (losses, factors, y))
    model.compile(sgd(0.01), losses, loss_weights=factors, device="cpu")

    def reduce(values, w):
        return (values.reshape(len(values)) * w).mean()

    def plain():
        optimizer, data = plain_sgd(net, 0.01), batches_of(x, (both := torch.arange(ROWS)), weights)
        history = defaultdict(list)
        net.train()
        for epoch in range(3):
            sums = torch.zeros(3, dtype=torch.float64)
            for a, rows, w in data(epoch):
                out = net(a)
                kind, number = out.values() if named else out
                if w is None:
                    parts = F.cross_entropy(kind, LABELS[rows]), F.mse_loss(number, size[rows])
                else:
                    parts = (
                        reduce(F.cross_entropy(kind, LABELS[rows], reduction="none"), w),
                        reduce(F.mse_loss(number, size[rows], reduction="none"), w),
                    )
                loss = 0.5 * parts[0] + 2.0 * parts[1]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                sums += torch.stack([loss, *parts]).detach().double() * len(a)
            heads = ("kind", "size") if named else ("output_1", "output_2")
            for name, value in zip(("loss", *(f"{h}_loss" for h in heads)), sums / len(both)):
                history[name].append(value.item())
        return dict(history)

    history, expected = run_both(lambda: model.fit(x, y, BATCH, 3, 0, sample_weight=weights), plain)
    assert_same_weights(model, net)
    assert_same_history(history, expected)


def test_constraint_and_activity_penalty():
    x, y = TASKS["mlp"].x, REAL
    torch.manual_seed(3)
    model = dl.Sequential(
        [
            dl.Dense(8, activity_regularizer="l2", kernel_constraint="non_neg", input_shape=(6,)),
            dl.Dense(3, bias_regularizer=dl.regularizers.L1(0.03)),
        ]
    )
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    net.load_state_dict(model.state_dict())
    model.compile(sgd(0.02), "mse", device="cpu")
    seen = {}
    net[0].register_forward_hook(lambda m, i, out: seen.update(out=out))

    def penalty(net):
        activity = 0.01 * seen["out"].square().sum() / len(seen["out"])
        return 0.03 * net[1].bias.abs().sum() + activity

    def project(net):
        with torch.no_grad():
            net[0].weight.clamp_(min=0)

    history, expected = run_both(
        lambda: model.fit(x, y, BATCH, 3, 0),
        lambda: plain_fit(
            net, batches_of(x, y), F.mse_loss, plain_sgd(net, 0.02), 3,
            penalty=penalty, project=project,
        ),
    )  # fmt: skip
    assert_same_weights(model, net)
    assert_same_history(history, expected)
    assert model.layers[0].weight.min() == 0


# -- the numbers that are shown ---------------------------------------------------------------


def test_epoch_means_are_exact_over_many_ragged_batches_and_reading_them_early_changes_nothing():
    # 151 rows by 2: 76 batches, more than the meter keeps back.
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(151, 6, generator=g), torch.randint(3, (151,), generator=g)
    seen = []

    class Look(dl.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(logs["loss"])

    for callbacks in ([], [Look()]):
        model, net = linear_pair("sparse_categorical_crossentropy", metrics=["accuracy"])
        history, expected = run_both(
            lambda: model.fit(x, y, 2, 2, 0, callbacks),  # noqa: B023
            lambda: plain_fit(
                net, batches_of(x, y, size=2), F.cross_entropy, plain_sgd(net), 2,  # noqa: B023
                hits=most_likely,
            ),
        )  # fmt: skip
        assert_same_weights(model, net)
        assert_same_history(history, expected)
    assert [seen[75], seen[151]] == pytest.approx(expected["loss"], rel=1e-12, abs=0)


def test_validation_frequency():
    task = TASKS["mlp"]
    every, some = task.pair()[0], task.pair()[0]
    torch.manual_seed(7)
    full = every.fit(task.x, task.given_y, epochs=4, verbose=0, validation_split=0.25)
    torch.manual_seed(7)
    half = some.fit(
        task.x, task.given_y, epochs=4, verbose=0, validation_split=0.25, validation_freq=2
    )
    assert_same_weights(every, some)
    assert half.history["loss"] == full.history["loss"]
    assert half.history["val_loss"] == full.history["val_loss"][1::2]


def test_weighted_metrics_use_the_weights_and_metrics_do_not(task):
    model, net = task.pair(weighted_metrics=["accuracy"])
    model.fit(task.x, task.given_y, verbose=0)
    net.load_state_dict(model.state_dict())
    logs = model.evaluate(
        task.x, task.given_y, verbose=0, sample_weight=SAMPLE_WEIGHTS, return_dict=True
    )
    net.eval()
    hit = torch.stack([task.hits(net(x), y) for x, y in cut(1, task.x, task.y)]).double()
    w = SAMPLE_WEIGHTS.double()
    assert list(logs) == ["loss", "accuracy", "weighted_accuracy"]
    assert logs["accuracy"] == pytest.approx(hit.mean().item(), rel=1e-12)
    assert logs["weighted_accuracy"] == pytest.approx(((hit * w).sum() / w.sum()).item(), rel=1e-12)


def test_train_on_batch_is_one_plain_step(task):
    model, net = task.pair(accumulate=2, clip_norm=0.5)

    def ours():
        return [model.train_on_batch(x, y)[0] for x, y in cut(BATCH, task.x, task.y)]

    def plain():
        optimizer = plain_sgd(net)
        return [
            plain_fit(
                net, lambda _, b=batch: [b], task.plain_loss, optimizer, 1, clip_norm=0.5,
                accumulate=2,
            )["loss"][0]
            for batch in cut(BATCH, task.x, task.y, None)
        ]  # fmt: skip

    losses, expected = run_both(ours, plain)
    assert_same_weights(model, net)
    assert losses == pytest.approx(expected, rel=1e-12, abs=0)


def test_any_module_of_torch_is_trained_as_it_is():
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    model = dl.Model(copy.deepcopy(net))
    model.compile(O.Adam, nn.CrossEntropyLoss(), metrics=["accuracy"], device="cpu")
    x = TASKS["cnn"].x
    history, expected = run_both(
        lambda: model.fit(x, LABELS, BATCH, 3, 0),
        lambda: plain_fit(
            net, batches_of(x, LABELS), F.cross_entropy, O.Adam(net.parameters()), 3,
            hits=most_likely,
        ),
    )  # fmt: skip
    assert_same_weights(model, net)
    assert_same_history(history, expected)
