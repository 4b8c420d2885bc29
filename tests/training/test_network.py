"""Trying a network out leaves no trace: no random number, mode or statistic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import easydl as dl
from easydl.data import as_source
from easydl.training import network as net
from easydl.training.prepare import get_ready

X, Y = torch.randn(9, 4), torch.arange(9) % 3


def stochastic() -> dl.Model:
    return dl.Model(
        nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))
    )


def test_looking_at_the_first_rows_leaves_no_trace():
    model = stochastic()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.network[2].eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    get_ready(model, as_source(X, Y))
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_try_out_names_the_layer_that_failed():
    model = dl.Model(nn.Sequential(nn.Linear(4, 5), nn.Linear(6, 3)))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"failed in layer network\.1 \(Linear\), given \(2, 5\)"):
        model.fit(X, torch.zeros(9, 3), verbose=0)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Linear(4, 1), False),
        (nn.Embedding(4, 1), True),
        (nn.Sequential(nn.Embedding(4, 1), nn.Flatten()), True),
        (nn.Sequential(nn.Linear(4, 1), nn.ReLU()), False),
        (nn.Sequential(nn.Sequential(nn.Embedding(4, 1))), True),
    ],
)
def test_whole_numbers_stay_whole_before_an_embedding(network, expected):
    for model in (dl.Model(network), dl.Sequential([network])):
        assert net.keeps_integers(model, net.first_leaf(model)) is expected
