"""``fit`` is the loop a torch user writes by hand: the same weights, to the last bit.

``plain_fit`` below is that loop. It knows nothing of easydl except two documented facts: ``fit``
draws one seed, ``int(torch.randint(2**62, ()))``, when it shuffles; and epoch e takes the rows in
the order ``torch.randperm(n, generator=torch.Generator().manual_seed(seed + e))``.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import easydl as dl

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
    ).to(memory_format=torch.channels_last)  # as compile lays pictures out


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
