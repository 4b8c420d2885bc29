"""``fused.step`` against ``optimizer.step``: weights and state equal to the bit."""

import copy

import pytest
import torch
from torch import nn

from easydl.training import fused

CASES = [
    (torch.optim.SGD, {}),
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (torch.optim.SGD, {"maximize": True}),
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"amsgrad": True, "weight_decay": 0.1}),
    (torch.optim.Adam, {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    (torch.optim.Adam, {"fused": None}),
    (torch.optim.AdamW, {"betas": (0.8, 0.99), "eps": 1e-5}),
    (torch.optim.RMSprop, {"fused": None}),
]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def make(kind, options, net):
    options = {"lr": 0.01, "fused": True} | options
    options = {key: value for key, value in options.items() if value is not None}
    first, second = net[0].parameters(), net[2].parameters()
    return kind([{"params": first}, {"params": second, "lr": 0.03}], **options)


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_step_equals_torch_when_rates_and_frozen_parts_change(kind, options):
    ours, theirs = network(), network()
    own, real = make(kind, options, ours), make(kind, options, theirs)
    for number in range(12):
        x = torch.randn(4, 5)
        if number == 8:  # a state that was loaded is another object
            own.load_state_dict(copy.deepcopy(own.state_dict()))
        for net, optimizer, step in ((ours, own, fused.step), (theirs, real, kind.step)):
            net[0].requires_grad_(not 3 < number < 6)
            optimizer.zero_grad()
            net(x).square().mean().backward()
            step(optimizer)
            for group in optimizer.param_groups:
                group["lr"] *= 0.9
    for a, b in zip(ours.parameters(), theirs.parameters()):
        assert torch.equal(a, b)
    for a, b in zip(own.state.values(), real.state.values()):
        assert a.keys() == b.keys()
        assert all(a[key] is b[key] or torch.equal(a[key], b[key]) for key in a)


def test_step_calls_hooks_that_somebody_registered():
    net, seen = network(), []
    optimizer = make(torch.optim.SGD, {}, net)
    optimizer.register_step_post_hook(lambda *_: seen.append("post"))
    net(torch.ones(1, 5)).sum().backward()
    fused.step(optimizer)
    assert seen == ["post"]


def test_step_avoids_torchs_class_when_nothing_asks_for_it(monkeypatch):
    net = network()
    optimizer = make(torch.optim.SGD, {}, net)
    net(torch.ones(1, 5)).sum().backward()
    monkeypatch.setattr(optimizer, "step", lambda: pytest.fail("torch's own step ran"))
    before = net[0].weight.clone()
    fused.step(optimizer)
    assert not torch.equal(before, net[0].weight)


def test_step_counts_for_a_scheduler():
    net = network()
    optimizer = make(torch.optim.SGD, {}, net)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    net(torch.ones(1, 5)).sum().backward()
    fused.step(optimizer)
    scheduler.step()  # would warn, and a warning is an error here
