"""Schedules: Keras's values at every step, and the scheduler that torch really runs."""

from __future__ import annotations

import json
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, StepLR

from easydl import optimizers, schedules

torch.set_num_threads(1)

KERAS = [
    ("ExponentialDecay", {"initial_learning_rate": 0.1, "decay_steps": 30, "decay_rate": 0.5}),
    (
        "ExponentialDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 30, "decay_rate": 0.5, "staircase": True},
    ),
    ("InverseTimeDecay", {"initial_learning_rate": 0.1, "decay_steps": 30, "decay_rate": 0.5}),
    (
        "InverseTimeDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 30, "decay_rate": 0.5, "staircase": True},
    ),
    ("PolynomialDecay", {"initial_learning_rate": 0.1, "decay_steps": 70}),
    (
        "PolynomialDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 70, "end_learning_rate": 0.01, "power": 2.0},
    ),
    (
        "PolynomialDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 70, "power": 0.5, "cycle": True},
    ),
    ("PiecewiseConstantDecay", {"boundaries": [20, 90], "values": [0.1, 0.05, 0.2]}),
    ("PiecewiseConstantDecay", {"boundaries": [20], "values": [0.1, 0.05]}),
    ("CosineDecay", {"initial_learning_rate": 0.1, "decay_steps": 150}),
    ("CosineDecay", {"initial_learning_rate": 0.1, "decay_steps": 150, "alpha": 0.2}),
    (
        "CosineDecay",
        {
            "initial_learning_rate": 0.0,
            "decay_steps": 100,
            "warmup_target": 0.3,
            "warmup_steps": 40,
        },
    ),
    ("CosineDecayRestarts", {"initial_learning_rate": 0.1, "first_decay_steps": 30}),
    (
        "CosineDecayRestarts",
        {"initial_learning_rate": 0.1, "first_decay_steps": 30, "t_mul": 1.0, "m_mul": 0.5},
    ),
    (
        "CosineDecayRestarts",
        {"initial_learning_rate": 0.1, "first_decay_steps": 30, "t_mul": 3.0, "alpha": 0.1},
    ),
]


@pytest.mark.parametrize(("name", "arguments"), KERAS)
def test_value_at_each_step_equals_keras(name, arguments):
    ours = getattr(schedules, name)(**arguments)
    theirs = getattr(keras.optimizers.schedules, name)(**arguments)
    values = [ours(step) for step in range(200)]
    expected = [float(theirs(torch.tensor(step))) for step in range(200)]
    assert len(set(values)) > 1
    assert values == pytest.approx(expected, rel=2e-5, abs=1e-8)


def test_restart_comes_at_its_step_where_keras_rounds_past_it():
    arguments = {"initial_learning_rate": 0.1, "first_decay_steps": 30, "t_mul": 1.5, "alpha": 0.1}
    ours = schedules.CosineDecayRestarts(**arguments)
    theirs = keras.optimizers.schedules.CosineDecayRestarts(**arguments)
    differ = [
        step
        for step in range(200)
        if ours(step) != pytest.approx(float(theirs(torch.tensor(step))), rel=2e-5)
    ]
    assert differ == [75]  # 30 + 45 steps: the second restart, a step late in Keras's float32
    assert ours(75) == 0.1


@pytest.mark.parametrize(("name", "arguments"), KERAS)
def test_initial_and_peak_rate_are_the_first_and_largest_values(name, arguments):
    schedule = getattr(schedules, name)(**arguments)
    assert schedule.initial_learning_rate == schedule(0)
    assert schedule.peak_learning_rate == pytest.approx(max(map(schedule, range(200))))


@pytest.mark.parametrize("steps", [2, 7, 10, 100])
def test_one_cycle_equals_torchs(steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = OneCycleLR(optimizer, max_lr=0.5, total_steps=steps, cycle_momentum=False)
    ours = schedules.OneCycle(0.5, steps)
    for step in range(steps):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < steps - 1:
            theirs.step()
    assert ours(steps + 5) == ours(steps - 1) == pytest.approx(0.5 / 25e4)
    assert ours.peak_learning_rate == 0.5


def test_one_cycle_can_begin_at_its_peak():
    cycle = schedules.OneCycle(0.5, steps=11, warmup=0.0)
    values = [cycle(step) for step in range(11)]
    assert values == sorted(values, reverse=True)


def test_training_with_a_schedule_equals_a_hand_written_loop():
    schedule = schedules.ExponentialDecay(0.5, decay_steps=3, decay_rate=0.7)
    torch.manual_seed(0)
    x, y = torch.randn(16, 3), torch.randn(16, 1)
    start = torch.randn(3, 1)

    weight = nn.Parameter(start.clone())
    spec = optimizers.SGD(schedule)
    optimizer = spec.make([weight])
    scheduler = spec.schedule.make(optimizer)
    for step in range(20):
        assert optimizer.param_groups[0]["lr"] == schedule(step)  # to the bit
        optimizer.zero_grad()
        (x @ weight - y).square().mean().backward()
        optimizer.step()
        scheduler.step()

    by_hand = start.clone()
    for step in range(20):
        gradient = 2 * x.T @ (x @ by_hand - y) / len(x)
        by_hand -= 0.5 * 0.7 ** (step / 3) * gradient
    torch.testing.assert_close(weight.detach(), by_hand)


def rates(optimizer, schedule, steps: int) -> list[list[float]]:
    scheduler = schedules.get(schedule).make(optimizer)
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return found


def weights(count: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(1)) for _ in range(count)]


def test_schedule_that_begins_at_zero_rises():
    schedule = schedules.CosineDecay(0.0, 10, warmup_target=0.5, warmup_steps=5)
    optimizer = optimizers.Adam(schedule).make(weights(1))
    assert rates(optimizer, schedule, 7) == [[schedule(step)] for step in range(7)]


def test_schedule_replaces_the_rate_of_an_optimizer_that_had_another():
    schedule = schedules.ExponentialDecay(0.5, 10, 0.9)
    optimizer = torch.optim.SGD(weights(1), lr=0.003)
    assert rates(optimizer, schedule, 3) == [[schedule(step)] for step in range(3)]


def test_group_keeps_its_share_of_the_schedule():
    schedule = schedules.OneCycle(0.5, 20)
    head, body = weights(2)
    groups = [{"params": [head]}, {"params": [body], "lr": 0.05}]
    optimizer = optimizers.SGD(schedule).make(groups)
    for step, (first, second) in enumerate(rates(optimizer, schedule, 20)):
        assert first == schedule(step)
        assert second == pytest.approx(schedule(step) / 10)


def test_share_is_of_the_largest_rate_where_every_group_has_its_own():
    head, body = weights(2)
    groups = [{"params": [head], "lr": 0.5}, {"params": [body], "lr": 0.05}]
    optimizer = torch.optim.SGD(groups)  # whose default rate, 0.001, no group has
    schedule = schedules.ExponentialDecay(0.1, 10, 0.9)
    first, second = rates(optimizer, schedule, 1)[0]
    assert (first, second) == (0.1, pytest.approx(0.01))


def test_share_of_a_rate_of_zero_is_refused():
    head, body = weights(2)
    optimizer = torch.optim.SGD([{"params": [head]}, {"params": [body], "lr": 0.1}], lr=0.0)
    with pytest.raises(ValueError, match=r"lr=\[0.0, 0.1\]"):
        schedules.ExponentialDecay(0.1, 10, 0.9).make(optimizer)


def test_second_schedule_of_one_optimizer_does_not_multiply_with_the_first():
    optimizer = torch.optim.SGD(weights(1), lr=0.1)
    rates(optimizer, schedules.ExponentialDecay(0.5, 10, 0.9), 3)
    assert rates(optimizer, schedules.ExponentialDecay(0.2, 10, 0.9), 1) == [[0.2]]


def test_interval_says_when_the_scheduler_is_stepped():
    def interval(schedule):
        optimizer = torch.optim.SGD(weights(1), lr=0.1, momentum=0.9)
        made = schedules.get(schedule).make(optimizer)
        assert isinstance(made, torch.optim.lr_scheduler.LRScheduler)
        return getattr(made, "easydl_interval", "epoch")

    assert interval(schedules.ExponentialDecay(0.1, 10, 0.9)) == "step"
    assert interval(lambda o: StepLR(o, 10)) == "epoch"
    assert interval(lambda o: OneCycleLR(o, 0.1, total_steps=10)) == "step"
    assert interval(lambda o: CyclicLR(o, 0.01, 0.1)) == "step"


def test_state_of_the_scheduler_is_plain_and_resumes_where_it_was():
    schedule = schedules.CosineDecay(0.1, 20)
    optimizer = optimizers.SGD(schedule).make(weights(1))
    scheduler = schedule.make(optimizer)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    state = json.loads(json.dumps(scheduler.state_dict()))

    other = optimizers.SGD(schedule).make(weights(1))
    resumed = schedule.make(other)
    resumed.load_state_dict(state)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == schedule(5)
    other.step()
    resumed.step()
    assert other.param_groups[0]["lr"] == schedule(6)


def test_users_own_schedule_is_a_subclass():
    class Halving(schedules.LearningRateSchedule):
        def __call__(self, step):
            return torch.tensor(0.5) * 0.5**step

    spec = optimizers.SGD(Halving())
    optimizer = spec.make(weights(1))
    assert rates(optimizer, Halving(), 3) == [[0.5], [0.25], [0.125]]


def test_users_schedule_that_goes_below_zero_is_stopped():
    class Falling(schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1 - 0.1 * step

    optimizer = torch.optim.SGD(weights(1), lr=0.1)
    with pytest.raises(ValueError, match=r"Falling gave the learning rate -0.1 at step 2"):
        rates(optimizer, Falling(), 5)


def test_schedule_without_call_says_what_to_write():
    class Empty(schedules.LearningRateSchedule):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty has no __call__\(self, step\)"):
        Empty()(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.ExponentialDecay(-0.1, 10, 0.9), "initial_learning_rate=-0.1"),
        (lambda: schedules.ExponentialDecay(0.1, 0, 0.9), "decay_steps=0 "),
        (lambda: schedules.ExponentialDecay(0.1, 10, 0), "decay_rate=0 "),
        (lambda: schedules.InverseTimeDecay(0.1, 10, -1), "decay_rate=-1"),
        (lambda: schedules.PolynomialDecay(0.1, -5), "decay_steps=-5"),
        (lambda: schedules.PolynomialDecay(0.1, 5, end_learning_rate=-1), "end_learning_rate=-1"),
        (lambda: schedules.PiecewiseConstantDecay([1, 2], [0.1]), "2 boundaries and 1 values"),
        (lambda: schedules.PiecewiseConstantDecay([], [0.1]), "0 boundaries and 1 values"),
        (lambda: schedules.PiecewiseConstantDecay([5, 2], [1, 2, 3]), r"boundaries=\[5, 2\]"),
        (lambda: schedules.PiecewiseConstantDecay([5], [1, -2]), "values=-2"),
        (lambda: schedules.CosineDecay(0.1, 10, alpha=2), "alpha=2"),
        (lambda: schedules.CosineDecay(0.1, 10, warmup_steps=5), "warmup_target=0.1, warmup_ste"),
        (lambda: schedules.CosineDecayRestarts(0.1, 10, t_mul=0.5), "t_mul=0.5"),
        (lambda: schedules.OneCycle(0.1, 1), "steps=1 "),
        (lambda: schedules.OneCycle(0.1, 10, warmup=1.0), "warmup=1 "),
    ],
)
def test_argument_out_of_range_is_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_get_refuses_what_is_no_schedule():
    optimizer = torch.optim.SGD(weights(1), lr=0.1)
    with pytest.raises(ValueError, match=r"a ready StepLR .*lambda optimizer: StepLR"):
        schedules.get(StepLR(optimizer, 10))
    with pytest.raises(TypeError, match=r"the class OneCycle was given"):
        schedules.get(schedules.OneCycle)
    with pytest.raises(TypeError, match=r"0.1 was given as a schedule"):
        schedules.get(0.1)


def test_callable_that_gives_no_scheduler_is_refused():
    optimizer = torch.optim.SGD(weights(1), lr=0.1)
    with pytest.raises(TypeError, match=r"returned a float .*LearningRateSchedule"):
        schedules.get(lambda step: 0.1).make(optimizer)
    with pytest.raises(TypeError, match=r"failed for the optimizer .*unsup.*RateScheduler"):
        schedules.get(lambda epoch: 0.1 * 0.9**epoch).make(optimizer)
    other = torch.optim.SGD(weights(1), lr=0.1)
    with pytest.raises(ValueError, match="another optimizer"):
        schedules.get(lambda o: StepLR(other, 10)).make(optimizer)
