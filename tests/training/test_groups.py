"""Freezing, unfreezing and shares of the learning rate: live, saved, and equal to torch by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import get_model

import easydl as dl


def net(normalised=True):
    dl.seed(0)
    model = dl.Sequential(
        [
            dl.Dense(6, activation="relu", input_dim=4),
            *([dl.BatchNormalization()] if normalised else []),
            dl.Dense(5, activation="tanh"),
            dl.Dense(3, activation="softmax"),
        ]
    )
    model.compile(dl.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model


X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
Y = np.arange(40) % 3


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(before, model):
    return {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}


# -- groups ----------------------------------------------------------------------------------------


def test_groups_are_the_layers_with_weights_and_norms_belong_to_the_layer_before():
    assert net().layer_groups() == {"0": 30 + 12, "2": 35, "3": 18}


@pytest.mark.parametrize(
    "name, first, last, count",
    [
        ("resnet18", "conv1", "fc", 10),
        ("vgg11", "features.0", "classifier.6", 11),
        ("vit_b_16", "conv_proj", "heads.head", 14),
        ("swin_t", "features.0.0", "head", 17),
        ("densenet121", "features.conv0", "classifier", 9),
        ("googlenet", "conv1", "fc", 13),
        ("inception_v3", "Conv2d_1a_3x3", "fc", 17),
    ],
)
def test_groups_of_torchvisions_networks_hold_every_weight_once(name, first, last, count):
    with torch.device("meta"):
        model = dl.vision.Classifier(name, 5)
    groups = model.layer_groups()
    assert (next(iter(groups)), list(groups)[-1], len(groups)) == (first, last, count)
    assert sum(groups.values()) == sum(p.numel() for p in model.parameters())


# -- freezing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "until, learning",
    [(None, "3"), ("2", "23"), (1, "23"), (2, "3"), (0, "0123"), ("0", "0123")],
)
def test_freeze_until_a_layer_leaves_all_before_it_as_it_is(until, learning):
    model = net()
    model.freeze(until)
    before = state(model)
    model.fit(X, Y, epochs=2, verbose=0)
    unchanged = same(before, model)
    for key in before:
        learns = key[0] in learning
        assert (key in unchanged) == (not learns), key


@pytest.mark.parametrize("nested", [False, True])
def test_statistics_of_a_frozen_batchnorm_without_weights_stay(nested):
    parts = [nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)]
    layers = [nn.Sequential(*parts)] if nested else parts
    model = dl.Model(nn.Sequential(nn.BatchNorm1d(4, affine=False), *layers, nn.Linear(4, 3)))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.freeze()
    before = state(model)
    model.fit(X, Y, verbose=0)
    head = str(len(layers) + 1)
    assert set(before) - same(before, model) == {f"{head}.weight", f"{head}.bias"}
    model.unfreeze(2)
    model.fit(X, Y, verbose=0)
    assert "running_mean" in " ".join(set(before) - same(before, model))


def test_weights_that_stand_alone_are_frozen_with_the_first_layer():
    class Own(dl.Model):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
            self.scale = nn.Parameter(torch.ones(5))

        def forward(self, x):
            return self.head(self.first(x) * self.scale)

    model = Own()
    model.freeze()
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "head.weight",
        "head.bias",
    ]
    model.unfreeze(2)
    assert all(p.requires_grad for p in model.parameters())


def test_a_flag_set_before_does_not_undo_what_freeze_and_unfreeze_did():
    for flag in (True, False):
        inner = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        model = dl.Model(nn.Sequential(inner, nn.Linear(4, 3)))
        model.compile("sgd", "sparse_categorical_crossentropy")
        inner.trainable = flag
        model.freeze() if flag else model.unfreeze(3)
        model.fit(X, Y, verbose=0)
        assert [p.requires_grad for p in model.parameters()] == [not flag] * 4 + [True] * 2


def test_layers_are_known_by_their_names_in_the_summary_too():
    layers = [dl.Dense(4, input_dim=4), dl.Dense(4, name="middle"), dl.Dense(3)]
    for name, frozen in (("middle", "0"), ("dense_1", "01"), ("2", "01")):
        model = dl.Sequential(copy.deepcopy(layers))
        model.freeze(until=name)
        found = {name[0] for name, p in model.named_parameters() if not p.requires_grad}
        assert found == set(frozen)
        model.spread_learning_rate({name: 0.5})
        at = int(frozen[-1]) + 1
        assert list(model.learning_rate_shares.values())[at] == 0.5
    with pytest.raises(ValueError, match="Did you mean 'middle'"):
        model.freeze(until="midle")


def test_frozen_parts_stay_to_the_bit_through_saving_loading_and_fitting_on(tmp_path):
    model = net()
    model.fit(X, Y, verbose=0)
    model.freeze()
    before = state(model)
    model.fit(X, Y, epochs=2, verbose=0)
    model.save(tmp_path / "m.easydl")
    again = dl.load_model(tmp_path / "m.easydl")
    again.fit(X, Y, epochs=2, verbose=0)
    head = {"3.weight", "3.bias"}
    assert same(before, model) == same(before, again) == set(before) - head
    again.unfreeze()
    again.fit(X, Y, verbose=0)
    assert same(before, again) == set()


def test_frozen_parts_stay_to_the_bit_through_a_resumed_fit(tmp_path):
    class Stop(dl.Callback):
        at = None

        def on_epoch_end(self, epoch, logs=None):
            if epoch == Stop.at:
                raise KeyboardInterrupt

    def run(folder):
        model = net()
        model.freeze(until="2")
        before = state(model)
        model.fit(X, Y, epochs=4, verbose=0, checkpoint=folder, callbacks=[Stop()])
        return before, model

    before, whole = run(tmp_path / "whole")
    Stop.at = 1
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    Stop.at = None
    _, resumed = run(tmp_path / "cut")
    assert {key[0] for key in same(before, resumed)} == {"0", "1"}
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_frozen_batchnorm_of_a_torchvision_network_keeps_its_statistics():
    dl.seed(0)
    model = dl.pretrained("shufflenet_v2_x0_5", None, 2)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.freeze()
    before = state(model)
    model.fit(torch.randn(4, 3, 48, 48), np.array([0, 1, 0, 1]), batch_size=2, verbose=0)
    assert set(before) - same(before, model) == {"fc.weight", "fc.bias"}


def test_unfreezing_group_by_group_is_live_and_the_optimizer_goes_on():
    model = net()
    model.freeze()
    optimizer = None
    changed = []
    for n in (1, 2, 3):
        model.unfreeze(n)
        before = state(model)
        model.fit(X, Y, verbose=0)
        changed.append({key[0] for key in set(before) - same(before, model)})
        assert optimizer is None or model.optimizer is optimizer
        optimizer = model.optimizer
    assert changed == [{"3"}, {"2", "3"}, {"0", "1", "2", "3"}]


def test_gradual_unfreezing_frees_a_group_an_epoch():
    model = net()
    model.freeze()
    learning = []

    def look(epoch, logs):
        learning.append(sum(layer.trainable for layer in model.layers if hasattr(layer, "weight")))

    model.fit(X, Y, epochs=5, verbose=0, callbacks=[dl.vision.GradualUnfreezing(every=2), look])
    assert learning == [1, 1, 2, 2, 4]
    model.freeze()
    learning.clear()
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[dl.vision.GradualUnfreezing(n=2), look])
    assert learning == [1, 4]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: m.freeze(until="4"), "unknown layer"),
        (lambda m: m.freeze(until=3), r"3 groups of layers.*trainable = False"),
        (lambda m: m.freeze(until=-1), "until=-1"),
        (lambda m: m.unfreeze(0), "n=0"),
        (lambda m: m.spread_learning_rate(0.5), r"ratio=0\.5"),
        (lambda m: m.spread_learning_rate({"9": 1}), "unknown layer"),
        (lambda m: m.spread_learning_rate({"0": 2.0}), "share of 0"),
        (lambda m: m.spread_learning_rate({"0": 0.1, "2": 0.1, "3": 0.1}), "whole learning rate"),
        (lambda m: dl.Sequential([dl.Dense(3)]).freeze(), "no weights yet"),
    ],
)
def test_what_cannot_be_frozen_or_spread_is_said(call, message):
    model = net()
    with pytest.raises(ValueError, match=message):
        call(model)
    assert model.learning_rate_shares == {}


# -- shares of the learning rate -------------------------------------------------------------------


def by_hand(steps, shares, schedule=None, lr=0.01):
    """The same training in plain torch, with parameter groups."""
    network = net(normalised=False)
    plain = network.to_torch()
    layers = [m for m in plain if isinstance(m, nn.Linear)]
    optimizer = torch.optim.Adam(
        [{"params": m.parameters(), "lr": lr * s} for m, s in zip(layers, shares)],
        lr=lr, eps=1e-7, fused=True,
    )  # fmt: skip
    x, y = torch.tensor(X), torch.tensor(Y)
    for step in range(steps):
        if schedule is not None:
            for group, share in zip(optimizer.param_groups, shares):
                group["lr"] = schedule(step) * share
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain[:-1](x), y).backward()
        optimizer.step()
    return plain


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("when", ["before compile", "before fit", "amid training"])
def test_layers_learn_at_their_share_of_the_rate_as_in_torch_by_hand(when, scheduled):
    torch.set_num_threads(1)
    cycle = dl.optimizers.schedules.OneCycle(0.01, 6) if scheduled else None
    model = net(normalised=False)
    if when == "before compile":
        model.spread_learning_rate(100)
    rate = 0.01 if cycle is None else cycle
    model.compile(dl.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    fit = {"batch_size": 40, "shuffle": False, "verbose": 0}
    if when == "amid training":
        model.fit(X, Y, epochs=3, **fit)
        model.spread_learning_rate(100)
        model.spread_learning_rate(1)
        model.fit(X, Y, epochs=3, **fit)
        expected = by_hand(6, (1, 1, 1), cycle)
    else:
        model.spread_learning_rate(100)
        model.fit(X, Y, epochs=6, **fit)
        expected = by_hand(6, (0.01, 0.1, 1), cycle)
    for ours, theirs in zip(model.parameters(), expected.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_a_schedule_under_way_goes_on_with_the_shares():
    cycle = dl.optimizers.schedules.OneCycle(0.01, 6)
    model = net()
    model.compile(dl.optimizers.Adam(cycle), "sparse_categorical_crossentropy")
    for epochs, ratio in ((3, 100), (5, 4)):
        model.fit(X, Y, epochs=epochs, initial_epoch=epochs // 4 * 3, batch_size=40, verbose=0)
        model.spread_learning_rate(ratio)
        expected = [cycle(epochs) * share for share in (1 / ratio, ratio**-0.5, 1)]
        assert [group["lr"] for group in model.optimizer.param_groups] == pytest.approx(expected)


def test_the_learning_rate_is_the_heads_and_the_shares_stay():
    model = net()
    model.spread_learning_rate(100)
    assert model.learning_rate == pytest.approx(0.01)
    held = list(model.optimizer.param_groups)
    model.learning_rate = 0.5
    assert all(a is b for a, b in zip(held, model.optimizer.param_groups))  # compiled steps stay
    rates = [group["lr"] for group in model.optimizer.param_groups]
    assert rates == pytest.approx([0.005, 0.05, 0.5]) and model.learning_rate == 0.5
    model.learning_rate = 0.0
    model.learning_rate = 0.5
    assert [group["lr"] for group in model.optimizer.param_groups] == pytest.approx(rates)
    model.spread_learning_rate({"0": 0.0, "2": 0.3})
    assert sorted(g["lr"] for g in model.optimizer.param_groups) == pytest.approx([0, 0.15, 0.5])
    model.spread_learning_rate(None)
    assert [group["lr"] for group in model.optimizer.param_groups] == [0.5]


def test_a_share_of_nothing_is_as_good_as_frozen_for_weights():
    model = net(normalised=False)
    model.spread_learning_rate({"0": 0.0})
    before = state(model)
    model.fit(X, Y, verbose=0)
    assert same(before, model) == {"0.weight", "0.bias"}


@pytest.mark.parametrize("scheduled", [False, True])
def test_shares_and_the_optimizers_state_are_saved(tmp_path, scheduled):
    rate = dl.optimizers.schedules.OneCycle(0.01, 20) if scheduled else 0.01
    model = net()
    model.compile(dl.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.spread_learning_rate(10)
    model.fit(X, Y, epochs=2, verbose=0, shuffle=False)
    model.save(tmp_path / "m.easydl")
    again = dl.load_model(tmp_path / "m.easydl")
    assert again.learning_rate_shares == model.learning_rate_shares
    for one in (model, again):
        one.fit(X, Y, epochs=2, verbose=0, shuffle=False)
    for a, b in zip(model.parameters(), again.parameters()):
        assert torch.equal(a, b)
    assert [g["lr"] for g in again.optimizer.param_groups] == [
        g["lr"] for g in model.optimizer.param_groups
    ]


def test_shares_beside_groups_of_the_users_own_or_a_torch_schedule_are_refused():
    model = net()
    groups = [{"params": [p], "lr": 0.1} for p in model.parameters()]
    model.compile(torch.optim.SGD(groups, lr=0.1), "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="groups of its own"):
        model.spread_learning_rate()
    model.compile(
        "sgd",
        "sparse_categorical_crossentropy",
        schedule=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1),
    )
    with pytest.raises(ValueError, match="before compile"):
        model.spread_learning_rate()
    assert model.learning_rate_shares == {}
    model = net()
    model.spread_learning_rate({"0": 0.5})
    shares = model.learning_rate_shares
    model.compile(
        "sgd",
        "sparse_categorical_crossentropy",
        schedule=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1),
    )
    with pytest.raises(ValueError, match="before compile"):
        model.spread_learning_rate(7)
    assert model.learning_rate_shares == shares


def test_tied_weights_learn_once_and_compiled_steps_are_made_anew():
    first, last = nn.Linear(4, 4), nn.Linear(4, 4)
    last.weight = first.weight
    model = dl.Model(nn.Sequential(first, nn.ReLU(), last))
    model.compile("sgd", "mse")
    model._compiled.jitted = "of one group"
    model.spread_learning_rate(100)
    held = [p for group in model.optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    assert model._compiled.jitted is None


def test_a_copy_learns_as_the_original(tmp_path):
    model = net()
    model.spread_learning_rate(10)
    model.fit(X, Y, verbose=0)
    twin = copy.deepcopy(model)
    for one in (model, twin):
        one.fit(X, Y, shuffle=False, verbose=0)
    for a, b in zip(model.parameters(), twin.parameters()):
        assert torch.equal(a, b)


def test_a_wrapped_network_is_frozen_by_its_own_names():
    model = dl.Model(get_model("shufflenet_v2_x0_5", weights=None))
    model.freeze(until="stage4")
    frozen = {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "stage2", "stage3"}
