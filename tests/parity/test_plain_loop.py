"""``fit`` is the loop a torch user writes by hand: the same weights, to the last bit."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from plain_loop import (
    BATCH,
    CLASS_WEIGHT,
    HALF,
    ROWS,
    SAMPLE_WEIGHTS,
    TASKS,
    assert_same_history,
    assert_same_weights,
    batches_of,
    compare,
    cut,
    l2_by_hand,
    plain_evaluate,
    plain_fit,
    plain_sgd,
    run_both,
    sgd,
)
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR

import easydl as dl
from easydl.optimizers import schedules

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
