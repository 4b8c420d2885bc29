"""Freezing: flags that hold for everything inside, live, and that never undo one another."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import easydl as dl
from easydl.training.trainable import is_frozen, sync_trainable


def tower() -> tuple[nn.Module, nn.Module, nn.Module]:
    """A network, its base, and the base's first layer."""
    base = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    return nn.Sequential(base, nn.Linear(4, 3)), base, base[0]


def frozen_names(network: nn.Module) -> set[str]:
    return {name for name, p in network.named_parameters() if not p.requires_grad}


def test_trainable_holds_for_everything_inside():
    network, base, _ = tower()
    base.trainable = False
    sync_trainable(network)
    assert frozen_names(network) == {f"0.{name}" for name, _ in base.named_parameters()}
    base.trainable = True
    sync_trainable(network)
    assert frozen_names(network) == set()


def test_trainable_of_a_part_wins_over_that_of_the_whole():
    network, base, first = tower()
    base.trainable = False
    first.trainable = True
    sync_trainable(network)
    assert not {"0.0.weight", "0.0.bias"} & frozen_names(network)
    assert "0.1.0.weight" in frozen_names(network)


def test_trainable_of_a_part_set_anew_survives_freeing_the_whole():
    # Keras's guide to fine-tuning: base.trainable = True, then freeze the first layers again.
    network, base, first = tower()
    for _ in range(3):
        base.trainable = False
        sync_trainable(network)
        base.trainable = True
        first.trainable = False
        sync_trainable(network)
        sync_trainable(network)
        assert frozen_names(network) == {"0.0.weight", "0.0.bias"}


def test_trainable_set_on_the_whole_later_holds_for_parts_set_before():
    network, base, first = tower()
    first.trainable = False
    sync_trainable(network)
    base.trainable = True
    sync_trainable(network)
    assert frozen_names(network) == set()


def test_trainable_reads_as_it_was_set():
    network, base, first = tower()
    base.trainable = False
    sync_trainable(network)
    assert not base.trainable and not first.trainable
    base.trainable = True
    assert base.trainable


def test_trainable_of_a_layer_reads_true_or_false_before_and_after_a_fit():
    inner = dl.Sequential([dl.Dense(4), dl.BatchNormalization()])
    model = dl.Sequential([dl.Dense(4, trainable=False), inner, dl.Residual([dl.Dense(4)])])
    frozen, block = model.layers[0], model.layers[2]
    parts = [model, inner, block, block.layers[0], *inner.layers]
    for _ in range(2):
        assert frozen.trainable is False
        assert all(part.trainable is True for part in parts)
        model.compile("sgd", "mse")
        model.fit(torch.randn(8, 4), torch.randn(8, 4), verbose=0)
    block.trainable = False
    model.fit(torch.randn(8, 4), torch.randn(8, 4), verbose=0)
    assert block.trainable is block.layers[0].trainable is False
    inner.trainable = False
    assert inner.trainable is inner.layers[1].trainable is model.trainable is False


def test_trainable_of_a_layer_takes_nothing_but_a_flag():
    with pytest.raises(ValueError, match="trainable='no'"):
        dl.Dense(3).trainable = "no"


def test_requires_grad_of_the_user_stays():
    network, _, first = tower()
    first.requires_grad_(False)
    sync_trainable(network)
    network[1].trainable = False
    sync_trainable(network)
    network[1].trainable = True
    sync_trainable(network)
    assert frozen_names(network) == {"0.0.weight", "0.0.bias"}


def test_is_frozen_knows_a_norm_without_parameters():
    norm = nn.BatchNorm1d(3, affine=False)
    assert not is_frozen(norm)
    norm.trainable = False
    sync_trainable(norm)
    assert is_frozen(norm)


def test_frozen_norm_without_parameters_keeps_its_statistics():
    norm = dl.BatchNormalization(scale=False, center=False, input_shape=(4,))
    model = dl.Sequential([norm, dl.Dense(1)])
    model.compile("sgd", "mse")
    x, y = torch.randn(20, 4) + 3, torch.randn(20)
    norm.trainable = False
    model.fit(x, y, verbose=0)
    assert torch.equal(norm.running_mean, torch.zeros(4))
    norm.trainable = True
    model.fit(x, y, verbose=0)
    assert norm.running_mean.min() > 0


def test_frozen_torch_norm_without_parameters_keeps_its_statistics():
    norm = nn.BatchNorm1d(4, affine=False)
    model = dl.Sequential([norm, dl.Dense(1)])
    model.compile("sgd", "mse")
    norm.trainable = False
    model.fit(torch.randn(20, 4) + 3, torch.randn(20), verbose=0)
    assert torch.equal(norm.running_mean, torch.zeros(4)) and norm.num_batches_tracked == 0


def test_trainable_goes_along_with_a_copy():
    network, base, _ = tower()
    base.trainable = False
    twin = copy.deepcopy(network)
    sync_trainable(twin)
    assert frozen_names(network) == set()
    assert len(frozen_names(twin)) == 6


def test_penalties_of_frozen_weights_leave_the_loss():
    x, y = torch.randn(12, 3), torch.randn(12, 1)
    l2 = dl.regularizers.L2(0.1)
    model = dl.Sequential(
        [dl.Dense(4, kernel_regularizer="l2"), dl.Dense(1, kernel_regularizer=l2)]
    )
    model.compile("sgd", "mse")
    model.build((3,))
    for frozen, kept in ((None, [0, 1]), (0, [1]), (1, [])):
        if frozen is not None:
            model.layers[frozen].trainable = False
        loss = model.evaluate(x, y, verbose=0)
        data = torch.nn.functional.mse_loss(model(x), y).item()
        penalties = [model.layers[i].weight.square().sum().item() * (0.01, 0.1)[i] for i in kept]
        assert loss == pytest.approx(data + sum(penalties), rel=1e-5)


class TwoWeights(dl.layers.Layer):
    def build(self, input_shape):
        self.add_weight((4,), "ones", name="w", trainable=False, regularizer="l2")
        self.add_weight((4,), "ones", name="w_out")

    def forward(self, x):
        return x * self.w * self.w_out


def test_the_penalty_of_a_frozen_weight_leaves_the_loss_beside_one_of_a_longer_name():
    model = dl.Sequential([TwoWeights()])
    model.compile("sgd", "mse")
    assert model.evaluate(torch.ones(4, 4), torch.ones(4, 4), verbose=0) == 0


@pytest.mark.parametrize(
    "change",
    [
        parametrizations.weight_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 3),
        lambda layer: parametrize.register_parametrization(layer, "weight", nn.Tanh()),
    ],
    ids=["normed", "pruned", "parametrized"],
)
def test_the_penalty_of_a_weight_made_of_others_leaves_the_loss_when_they_are_frozen(change):
    model = dl.Sequential([dl.Dense(3, kernel_regularizer="l2", input_dim=4)])
    change(model.layers[0])
    model.compile("sgd", "mse")
    x, y = torch.ones(4, 4), torch.zeros(4, 3)
    error = model(x).square().mean().item()
    cost = 0.01 * model.layers[0].weight.square().sum().item()
    assert model.evaluate(x, y, verbose=0) == pytest.approx(error + cost, rel=1e-5)
    model.trainable = False
    assert model.evaluate(x, y, verbose=0) == pytest.approx(error, rel=1e-5)
