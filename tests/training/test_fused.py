"""The fused steps are torch's own to the bit, in whatever state and for whatever options."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import easydl as dl
from easydl.training import fused

CASES = [
    (torch.optim.SGD, {"lr": 0.1}),
    (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.01}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "maximize": True}),
    (torch.optim.Adam, {"lr": 0.01}),
    (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
    (torch.optim.Adam, {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-4, "maximize": True}),
    (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    (torch.optim.AdamW, {"lr": 0.01, "amsgrad": True}),
    (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5}),
]
IDS = [f"{kind.__name__} {' '.join(options)}" for kind, options in CASES]


def problem(kind, options, **more):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2), nn.PReLU())
    if kind is not torch.optim.RMSprop:
        more = {"fused": True, **more}
    groups = [
        {"params": network[0].parameters(), "lr": 0.003},
        {"params": [*network[2].parameters(), *network[3].parameters()]},
    ]
    return network, kind(groups, **options, **more)


def run(step, network, optimizer, steps: int = 6) -> list[torch.Tensor]:
    """Weights and state after some steps, with a missing gradient and a new rate on the way."""
    for number in range(steps):
        optimizer.zero_grad()
        x = torch.linspace(-1, 1, 20).reshape(5, 4) * (number + 1)
        network(x).square().sum().backward()
        if number == 3:
            network[2].bias.grad = None
        if number == 4:
            optimizer.param_groups[0]["lr"] = 0.02
        step(optimizer)
    state = [
        value
        for entry in optimizer.state.values()
        for value in entry.values()
        if isinstance(value, torch.Tensor)
    ]
    return [*network.parameters(), *state]


@pytest.mark.parametrize(("kind", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("more", [{}, {"fused": False}], ids=["fused", "not fused"])
def test_fused_step_is_torchs_to_the_bit(kind, options, more):
    if kind is torch.optim.RMSprop:
        more = {}
    ours = run(fused.step, *problem(kind, options, **more))
    theirs = run(kind.step, *problem(kind, options, **more))
    assert len(ours) == len(theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


def test_fused_step_is_taken_where_it_can_be(monkeypatch):
    calls = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: calls.append(1) or step(self))
    network, optimizer = problem(*CASES[5])
    run(fused.step, network, optimizer)
    assert len(calls) == 1  # the first, which makes the state


def test_fused_step_goes_on_from_loaded_state():
    kind, options = CASES[5]
    network, optimizer = problem(kind, options)
    run(fused.step, network, optimizer, 2)
    twin = copy.deepcopy(network)
    other = kind([{"params": list(twin[0].parameters())},
                  {"params": [*twin[2].parameters(), *twin[3].parameters()]}],
                 **options, fused=True)  # fmt: skip
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for ours, theirs in zip(run(fused.step, network, optimizer, 3), run(kind.step, twin, other, 3)):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("where", ["pre", "post", "global"])
def test_hooks_of_the_optimizer_see_every_step(where):
    seen = []
    network, optimizer = problem(*CASES[5])
    if where == "global":
        handle = register_optimizer_step_post_hook(lambda *_: seen.append(1))
    else:
        register = getattr(optimizer, f"register_step_{where}_hook")
        handle = register(lambda *_: seen.append(1))
    try:
        run(fused.step, network, optimizer)
    finally:
        handle.remove()
    assert len(seen) == 6


def test_subclass_keeps_its_own_step():
    class Counting(torch.optim.SGD):
        calls = 0

        def step(self, closure=None):
            self.calls += 1
            return super().step(closure)

    network = nn.Linear(4, 2)
    optimizer = Counting(network.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        network(torch.ones(2, 4)).sum().backward()
        fused.step(optimizer)
    assert optimizer.calls == 3


def test_schedulers_do_not_complain_about_the_order_of_calls():
    network, optimizer = problem(*CASES[5])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(3):
        network(torch.ones(2, 4)).sum().backward()
        fused.step(optimizer)
        scheduler.step()  # would warn, and warnings are errors here
    assert optimizer.param_groups[1]["lr"] == 0.01 * 0.125


def test_a_step_of_the_users_own_is_called():
    model = dl.Model(torch.nn.Linear(3, 1))
    model.compile("sgd", "mse")
    model.fit(torch.randn(8, 3), torch.randn(8, 1), 4, verbose=0)
    calls, step = [], model.optimizer.step
    model.optimizer.step = lambda *a: (calls.append(1), step(*a))
    model.fit(torch.randn(8, 3), torch.randn(8, 1), 4, verbose=0)
    assert len(calls) == 2


@pytest.mark.parametrize("engine", ["torch's", "none"])
def test_backward_gives_torchs_gradients_anew_each_time(engine, monkeypatch):
    if engine == "none":  # a torch without that way
        monkeypatch.setattr(fused, "run_backward", None)
    torch.manual_seed(0)
    network, view = nn.Linear(3, 2), nn.Parameter(torch.ones(1))
    twin, twin_view = copy.deepcopy(network), nn.Parameter(torch.ones(1))
    x = torch.randn(5, 3)
    for _ in range(3):  # gradients add up, that of ``view`` in the memory of the first
        fused.backward(network(x).square().mean() + view.reshape(()))
        (twin(x).square().mean() + twin_view.reshape(())).backward()
        assert torch.equal(network.weight.grad, twin.weight.grad)
        assert torch.equal(view.grad, twin_view.grad)
    with pytest.raises(RuntimeError, match="does not require grad"):
        fused.backward(torch.tensor(1.0))
