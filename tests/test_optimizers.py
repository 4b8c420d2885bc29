"""Optimizers: Keras's numbers from torch's kernels, and every way a user may name one."""

from __future__ import annotations

import functools
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pytest
import torch
from torch import nn

import easydl as dl
from easydl import optimizers, schedules

torch.set_num_threads(1)

# Keras's variables on torch lack NumPy 2's ``copy`` argument.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = sorted(set(optimizers.NAMES.values()), key=lambda cls: cls.__name__)


def path(make, steps: int = 50) -> np.ndarray:
    """Weights after each step of a least-squares problem; ``make`` gives ``(read, step)``."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(20, 5))
    y = x @ generator.normal(size=(5, 3)) + generator.normal(size=(20, 3))
    read, step = make(generator.normal(size=(5, 3)))
    weights = [read()]
    for _ in range(steps):
        step(x.T @ (x @ read() - y) / len(x))
        weights.append(read())
    return np.stack(weights)


def torch_side(optimizer):
    def make(start):
        weight = nn.Parameter(torch.tensor(start))
        made = optimizer.make([weight])

        def step(gradient):
            weight.grad = torch.tensor(gradient)
            made.step()

        return lambda: weight.detach().numpy().copy(), step

    return make


def keras_side(optimizer):
    def make(start):
        weight = keras.Variable(start, dtype="float64")
        optimizer.build([weight])

        def step(gradient):
            optimizer.apply([torch.tensor(gradient)], [weight])

        return lambda: keras.ops.convert_to_numpy(weight).copy(), step

    return make


def distance(name: str, **arguments) -> float:
    """The largest distance of the two paths, relative to how far Keras's went."""
    ours = path(torch_side(getattr(optimizers, name)(**arguments)))
    theirs = path(keras_side(getattr(keras.optimizers, name)(**arguments)))
    moved = np.abs(theirs - theirs[0]).max()
    assert moved > 1e-3
    return np.abs(ours - theirs).max() / moved


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("SGD", {"learning_rate": 0.05}),
        ("SGD", {"learning_rate": 0.05, "momentum": 0.9}),
        ("SGD", {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True}),
        ("SGD", {"learning_rate": 0.05, "nesterov": True}),
        ("SGD", {"learning_rate": 0.05, "weight_decay": 0.1}),
        ("Adagrad", {"learning_rate": 0.05}),
        ("Adadelta", {"learning_rate": 1.0}),
        ("Nadam", {"learning_rate": 0.01}),
    ],
)
def test_update_equals_keras(name, arguments):
    assert distance(name, **arguments) < 1e-6


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("RMSprop", {"learning_rate": 0.01}),
        ("RMSprop", {"learning_rate": 0.01, "momentum": 0.5}),
        ("RMSprop", {"learning_rate": 0.01, "centered": True}),
        ("Adam", {"learning_rate": 0.01}),
        ("Adam", {"learning_rate": 0.01, "beta_1": 0.8, "beta_2": 0.99}),
        ("Adam", {"learning_rate": 0.01, "beta_2": 0.9, "amsgrad": True}),
        ("Adam", {"learning_rate": 0.01, "weight_decay": 0.1}),
        ("AdamW", {"learning_rate": 0.01}),
        ("AdamW", {"learning_rate": 0.01, "weight_decay": 0.1}),
        ("Adamax", {"learning_rate": 0.01}),
        ("Nadam", {"learning_rate": 0.01, "weight_decay": 0.1}),
    ],
)
def test_update_follows_keras_up_to_the_kernels_numerics(name, arguments):
    assert distance(name, **arguments) < 1e-4


@pytest.mark.parametrize("cls", CLASSES)
def test_defaults_are_those_of_keras(cls):
    ours, theirs = cls(), getattr(keras.optimizers, cls.__name__)()
    config = theirs.get_config()
    for name, value in vars(ours).items():
        if name != "schedule":
            expected = config[name]
            assert value == (pytest.approx(expected) if expected else expected), name
    assert ours.schedule is None
    assert cls.default_learning_rate == pytest.approx(config["learning_rate"])


@pytest.mark.parametrize("cls", CLASSES)
def test_positional_arguments_stand_as_in_keras(cls):
    import inspect

    ours = list(inspect.signature(cls).parameters)
    theirs = list(inspect.signature(getattr(keras.optimizers, cls.__name__)).parameters)
    assert ours == theirs[: len(ours)]


@pytest.mark.parametrize(
    ("cls", "kernel"),
    [
        (optimizers.SGD, torch.optim.SGD),
        (optimizers.RMSprop, torch.optim.RMSprop),
        (optimizers.Adam, torch.optim.Adam),
        (optimizers.AdamW, torch.optim.AdamW),
        (optimizers.Nadam, torch.optim.NAdam),
        (optimizers.Adamax, torch.optim.Adamax),
        (optimizers.Adagrad, torch.optim.Adagrad),
        (optimizers.Adadelta, torch.optim.Adadelta),
    ],
)
def test_make_gives_torchs_own_class_with_one_group(cls, kernel):
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))]
    made = cls(0.5).make(iter(weights))
    assert type(made) is kernel
    assert made.defaults["lr"] == 0.5
    assert len(made.param_groups) == 1
    assert [id(p) for p in made.param_groups[0]["params"]] == [id(p) for p in weights]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimizers.SGD(-1), r"learning_rate=-1 was given; .*\[0, inf\)"),
        (lambda: optimizers.Adam(float("nan")), "learning_rate=nan"),
        (lambda: optimizers.Adam(float("inf")), "learning_rate=inf"),
        (lambda: optimizers.Adam("fast"), "learning_rate='fast' was given"),
        (lambda: optimizers.Adam(None), "learning_rate=None was given"),
        (lambda: optimizers.SGD(0.1, momentum=1), r"momentum=1 was given; .*\[0, 1\)"),
        (lambda: optimizers.RMSprop(rho=1.5), "rho=1.5"),
        (lambda: optimizers.RMSprop(momentum=-0.1), "momentum=-0.1"),
        (lambda: optimizers.Adadelta(rho=-1), "rho=-1"),
        (lambda: optimizers.Adam(beta_1=1.0), "beta_1=1 "),
        (lambda: optimizers.Nadam(beta_2=-0.1), "beta_2=-0.1"),
        (lambda: optimizers.Adamax(epsilon=-1), "epsilon=-1"),
        (lambda: optimizers.Adagrad(initial_accumulator_value=-1), "initial_accumulator_value=-1"),
        (lambda: optimizers.AdamW(weight_decay=-0.1), "weight_decay=-0.1"),
    ],
)
def test_argument_out_of_range_is_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01),
        lambda: optimizers.RMSprop(weight_decay=0.01),
        lambda: optimizers.Adamax(weight_decay=0.01),
        lambda: optimizers.Adagrad(weight_decay=0.01),
        lambda: optimizers.Adadelta(weight_decay=0.01),
    ],
)
def test_weight_decay_is_refused_where_torch_would_couple_it(make):
    with pytest.raises(ValueError, match=r"weight_decay=0.01 .*AdamW\(weight_decay=…\).*'l2'"):
        make()


def test_groups_keep_their_own_rate_and_the_callers_dicts_stay_as_they_were():
    head, body = nn.Linear(2, 1), nn.Linear(2, 2)
    groups = [{"params": head.parameters()}, {"params": body.weight, "lr": 0.001}]
    kept = [dict(group) for group in groups]
    made = optimizers.Adam(0.01).make(groups)
    assert [group["lr"] for group in made.param_groups] == [0.01, 0.001]
    assert [len(group["params"]) for group in made.param_groups] == [2, 1]
    assert groups == kept


def test_group_with_a_key_that_torch_ignores_is_refused():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "learning_rate": 0.1}]
    with pytest.raises(ValueError, match=r"unknown parameter group key 'learning_rate'.*lr"):
        optimizers.SGD().make(groups)


def test_no_parameters_is_an_error():
    with pytest.raises(ValueError, match="no parameters"):
        optimizers.Adam().make([])
    with pytest.raises(ValueError, match="no parameters"):
        optimizers.Adam().make([{"params": []}])


def test_weights_and_groups_together_are_an_error():
    weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="given together"):
        optimizers.Adam().make([weight, {"params": [nn.Parameter(torch.zeros(1))]}])


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_get_takes_names_in_any_case(name):
    assert type(optimizers.get(name.upper())) is optimizers.NAMES[name]


def test_get_suggests_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown optimizer 'addam'\. Did you mean 'adam'\?.*sgd"):
        optimizers.get("addam")


def test_get_takes_objects_and_classes_of_this_file():
    ours = optimizers.Adam(0.1)
    assert optimizers.get(ours) is ours
    assert type(optimizers.get(optimizers.Adagrad)) is optimizers.Adagrad


def test_get_takes_torch_classes_and_callables_with_torchs_defaults():
    weight = nn.Parameter(torch.zeros(1))
    made = optimizers.get(torch.optim.Adam).make([weight])
    assert type(made) is torch.optim.Adam
    assert made.defaults["eps"] == 1e-8
    made = optimizers.get(functools.partial(torch.optim.SGD, lr=0.3)).make([weight])
    assert made.defaults["lr"] == 0.3
    assert optimizers.get(torch.optim.Adam).learning_rate is None
    assert optimizers.get(torch.optim.Adam).schedule is None


def test_get_gives_a_ready_torch_optimizer_back():
    model = nn.Linear(2, 1)
    ready = torch.optim.SGD(model.parameters(), lr=0.3)
    assert optimizers.get(ready).make(model.parameters()) is ready
    assert optimizers.get(ready).learning_rate == 0.3
    assert optimizers.get(ready).schedule is None


def test_ready_optimizer_of_some_of_the_weights_is_the_users_choice():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    ready = torch.optim.SGD(model[1].parameters(), lr=0.3)
    assert optimizers.get(ready).make(model.parameters()) is ready


def test_ready_optimizer_of_another_network_is_refused():
    model, other = nn.Linear(2, 1), nn.Linear(3, 1)
    ready = torch.optim.SGD([model.weight, model.bias, *other.parameters()], lr=0.3)
    with pytest.raises(ValueError, match=r"SGD holds 4 parameters, of which 2 .*\(1, 3\)"):
        optimizers.get(ready).make(model.parameters())


def test_callable_that_gives_no_optimizer_is_refused():
    weights = [nn.Parameter(torch.zeros(1))]
    with pytest.raises(TypeError, match=r"returned a int.*lambda params"):
        optimizers.get(lambda params: 3).make(weights)
    ours = type("Ours", (torch.optim.Optimizer,), {"__init__": lambda self, params, lr: None})
    with pytest.raises(TypeError, match=r"Ours made no.*lambda params: Ours\(params, lr=0.1\)"):
        optimizers.get(ours).make(weights)


@pytest.mark.parametrize(
    "spec", [None, 3, 0.1, {"name": "adam"}, keras.optimizers.SGD, torch.optim.lr_scheduler.StepLR]
)
def test_get_refuses_what_is_no_optimizer(spec):
    with pytest.raises(TypeError, match="was given as the optimizer; expected a name"):
        optimizers.get(spec)


def test_lbfgs_is_refused_in_both_forms():
    weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="LBFGS"):
        optimizers.get(torch.optim.LBFGS).make([weight])
    with pytest.raises(ValueError, match="LBFGS"):
        optimizers.get(torch.optim.LBFGS([weight]))


@pytest.mark.parametrize("cls", [optimizers.SGD, optimizers.Adam, optimizers.AdamW])
def test_fused_kernels_are_asked_for(cls):
    made = cls().make([nn.Parameter(torch.zeros(2))])
    assert made.param_groups[0]["fused"] is True


def test_kernel_form_without_a_fused_one_depends_on_number_and_size_of_the_weights():
    few = [nn.Parameter(torch.zeros(10)) for _ in range(4)]
    many = [nn.Parameter(torch.zeros(10)) for _ in range(20)]
    large = [nn.Parameter(torch.zeros(50_000)) for _ in range(20)]
    assert optimizers.fastest(torch.optim.RMSprop, few) == {}
    assert optimizers.fastest(torch.optim.RMSprop, many) == {"foreach": True}
    assert optimizers.fastest(torch.optim.RMSprop, large) == {}


def test_kernel_form_is_left_to_torch_for_unusual_weights():
    class Special(nn.Parameter):
        pass

    on_meta = nn.Parameter(torch.zeros(2, device="meta"))
    complex_weight = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    for weight in (Special(torch.zeros(2)), on_meta, complex_weight):
        assert optimizers.fastest(torch.optim.Adam, [weight]) == {}
    optimizers.Adam().make([complex_weight])


@pytest.mark.parametrize("cls", CLASSES)
def test_training_equals_a_hand_written_torch_loop(cls):
    def train(optimizer_of):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        x, y = torch.randn(32, 4), torch.randn(32, 2)
        optimizer = optimizer_of(model.parameters())
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
        return [p.detach() for p in model.parameters()]

    kernel, arguments = cls()._torch()
    ours = train(cls(0.01).make)
    theirs = train(lambda params: kernel(params, lr=0.01, **arguments))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_schedule_in_place_of_a_rate_starts_at_its_peak_and_is_kept():
    schedule = schedules.CosineDecay(0.0, 10, warmup_target=0.5, warmup_steps=5)
    optimizer = optimizers.SGD(schedule)
    made = optimizer.make([nn.Parameter(torch.zeros(1))])
    assert optimizer.learning_rate == 0.5
    assert optimizer.schedule is schedule
    assert repr(optimizer).startswith("SGD(learning_rate=<easydl.schedules.CosineDecay")
    assert made.defaults["lr"] == 0.5


def test_torch_scheduler_in_place_of_a_rate_starts_at_the_default_rate():
    optimizer = optimizers.SGD(lambda o: torch.optim.lr_scheduler.StepLR(o, 10))
    made = optimizer.make([nn.Parameter(torch.zeros(1))])
    assert made.defaults["lr"] == 0.01
    scheduler = optimizer.schedule.make(made)
    assert type(scheduler) is torch.optim.lr_scheduler.StepLR


def test_ready_scheduler_in_place_of_a_rate_is_refused():
    model = nn.Linear(1, 1)
    scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(model.parameters(), 0.1), 10)
    with pytest.raises(ValueError, match=r"lambda optimizer: StepLR\(optimizer, …\)"):
        optimizers.Adam(scheduler)


def test_repr_shows_the_arguments():
    shown = repr(optimizers.SGD(0.1, momentum=0.9))
    assert shown == "SGD(learning_rate=0.1, weight_decay=None, momentum=0.9, nesterov=False)"


def test_schedules_are_reached_through_optimizers():
    assert optimizers.schedules.ExponentialDecay is schedules.ExponentialDecay


def test_a_step_of_one_s_own_is_refused():
    with pytest.raises(TypeError, match=r"Mine.step was defined, .* expected make\(self, params\)"):
        type("Mine", (optimizers.Adam,), {"step": lambda self: None})


class Averaged(optimizers.Optimizer):
    """One's own, as the docstring of ``Optimizer`` has it."""

    default_learning_rate = 0.05

    def make(self, params):
        return torch.optim.ASGD(params, lr=self.learning_rate)


class Told(optimizers.Optimizer):
    """The default in the constructor."""

    def __init__(self, learning_rate=0.2, lambd=1e-4):
        super().__init__(learning_rate)
        self.lambd = lambd

    def make(self, params):
        return torch.optim.ASGD(params, lr=self.learning_rate, lambd=self.lambd)


def stepwise(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


@pytest.mark.parametrize(
    ("make", "first"),
    [
        (Averaged, 0.05),
        (lambda: Averaged(0.3), 0.3),
        (lambda: Averaged(schedules.ExponentialDecay(0.4, 1, 0.5)), 0.4),
        (lambda: Averaged(stepwise), 0.05),
        (Told, 0.2),
        (lambda: Told(stepwise), 0.2),
    ],
)
def test_an_optimizer_of_your_own_begins_with_its_rate(make, first, tmp_path):
    model = dl.Sequential([dl.Dense(1, input_dim=2)])
    model.compile(make(), "mse")
    assert make().learning_rate == model.learning_rate == first
    scheduled = make().schedule is not None
    x, y = torch.ones(4, 2), torch.ones(4)
    model.fit(x, y, verbose=0)
    assert model.learning_rate == pytest.approx(first / 2 if scheduled else first)
    model.save(tmp_path / "m.easydl", custom_objects={"stepwise": stepwise})
    known = {"Averaged": Averaged, "Told": Told, "stepwise": stepwise}
    again = dl.load_model(tmp_path / "m.easydl", custom_objects=known)
    for each in (model, again):
        each.fit(x, y, verbose=0)
    assert model.learning_rate == again.learning_rate
    torch.testing.assert_close(model.state_dict(), again.state_dict(), rtol=0, atol=0)


def test_a_class_of_your_own_is_made_or_says_what_to_write():
    assert optimizers.get(Averaged).learning_rate == 0.05
    kind = type("Mine", (Told,), {"__init__": lambda self, scale: None})
    with pytest.raises(TypeError, match=r"class Mine .* optimizer .* an object: Mine\(…"):
        optimizers.get(kind)


def test_two_defaults_for_one_rate_are_refused():
    with pytest.raises(TypeError, match=r"default_learning_rate=0.05.*=0.001.*def __i"):
        type("Mine", (optimizers.Adam,), {"default_learning_rate": 0.05})


def test_an_optimizer_of_your_own_needs_no_init():
    class Mine(optimizers.Optimizer):
        def make(self, params):
            return torch.optim.SGD(params, lr=self.learning_rate)

    model = dl.Sequential([dl.Dense(1, input_dim=2)])
    model.compile(Mine(), "mse")
    assert model.learning_rate == 1e-3
    with pytest.raises(NotImplementedError, match=r"Nothing has no make\(self, params\)"):
        type("Nothing", (optimizers.Optimizer,), {})().make([nn.Parameter(torch.ones(1))])
