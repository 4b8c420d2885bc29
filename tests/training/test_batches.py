"""Rows that are held out, and rows of a batch."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import easydl as dl
from easydl import losses
from easydl.data import as_source
from easydl.training.batches import rows_per_pass

X, Y = torch.randn(9, 4), torch.arange(9) % 3


def test_rows_per_pass_are_as_many_as_make_2_to_4_mb_of_what_the_widest_layer_works_on():
    def rows(network, *shape):
        model = dl.Model(network)
        model.try_out(torch.zeros(2, *shape))
        return rows_per_pass(model, as_source(torch.zeros(33, *shape)))

    assert rows(nn.Linear(10, 1), 10) == 8192
    assert rows(nn.Linear(10_000, 1), 10_000) == 64
    assert rows(nn.Sequential(nn.Linear(10, 10_000), nn.Linear(10_000, 1)), 10) == 64
    assert rows(dl.LSTM(128, input_shape=(50, 2)), 50, 2) == 128  # the states at every step
    assert rows(nn.GRU(2, 64, bidirectional=True, batch_first=True), 50, 2) == 128
    assert rows(nn.Linear(10**6, 1), 10**6) == 32
    stream = as_source([(torch.zeros(4, 1), torch.zeros(4, 1))])
    assert rows_per_pass(dl.Model(nn.Linear(1, 1)), stream) == 32


def test_pictures_have_small_passes_before_anybody_saw_the_layers():
    pictures = as_source(torch.zeros(33, 3, 32, 32))
    model = dl.Sequential([dl.Conv2D(4, 3, input_shape=(3, 32, 32))])
    assert rows_per_pass(model, pictures) == 32  # of 512 by the pixels alone
    model.try_out(torch.zeros(2, 3, 32, 32))
    assert rows_per_pass(model, pictures) == 256


def test_a_loss_that_is_a_sum_is_evaluated_in_batches_of_the_usual_size():
    x, y = torch.randn(96, 4), torch.randn(96, 1)
    model = dl.Sequential([dl.Dense(1, input_dim=4)])
    model.compile(dl.optimizers.SGD(1e-4), nn.MSELoss(reduction="sum"))
    total = ((model(x) - y) ** 2).sum().item()
    assert model.evaluate(x, y, verbose=0) == pytest.approx(total / 3)  # of 32 rows: Keras's
    logs = model.fit(x, y, 48, validation_data=(x, y), verbose=0).history
    total = ((model(x) - y) ** 2).sum().item()
    assert logs["val_loss"] == [pytest.approx(total / 2)]  # of 48, as the loss beside it


class Adds(nn.Module):
    def forward(self, y_pred, y_true):
        return ((y_pred - y_true) ** 2).sum()


@pytest.mark.parametrize(
    "loss",
    [
        Adds(),
        functools.partial(F.mse_loss, reduction="sum"),
        lambda y_pred, y_true: ((y_pred - y_true) ** 2).sum(),
        lambda y_pred, y_true: ((y_pred - y_true) ** 2).mean(0).sum(),
        lambda y_pred, y_true: (y_pred - y_true).square()[: 2 if len(y_pred) == 4 else None].mean(),
        lambda y_pred, y_true: (y_pred - y_true) ** 2,
        losses.in_torch_order(lambda y_true, y_pred: F.mse_loss(y_pred, y_true)),
    ],
)
def test_a_loss_tells_or_shows_whether_it_is_a_sum(loss):
    model = dl.Sequential([dl.Dense(1, input_dim=4)])
    model.compile(dl.optimizers.SGD(1e-4), loss)
    x, y = torch.randn(96, 4), torch.randn(96, 1)
    errors = (model(x) - y) ** 2
    once, twice = (loss(torch.ones(n, 1), torch.zeros(n, 1)) for n in (1, 2))
    expected = errors.sum() / 3 if twice.sum() == 2 * once and not twice.dim() else errors.mean()
    assert model.evaluate(x, y, verbose=0) == pytest.approx(expected.item())


@pytest.mark.parametrize("samples", [9, 8, 5])
def test_fit_merges_a_last_row_only_where_batchnorm_learns(samples):
    def batches_of(network):
        seen = []
        model = dl.Model(network)
        model.compile("sgd", "sparse_categorical_crossentropy")
        watch = lambda module, args: seen.append(len(args[0])) if module.training else None  # noqa: E731
        network[0].register_forward_pre_hook(watch)
        model.fit(X[:samples], Y[:samples], 4, verbose=0)
        return seen

    plain = [len(rows) for rows in torch.arange(samples).split(4)]
    merged = plain[:-2] + [sum(plain[-2:])] if plain[-1] == 1 else plain
    frozen = nn.BatchNorm1d(5).requires_grad_(False)
    assert batches_of(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))) == plain
    assert batches_of(nn.Sequential(nn.Linear(4, 5), frozen, nn.Linear(5, 3))) == plain
    assert batches_of(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))) == merged


def test_weights_that_are_zero_in_one_part_of_a_split_are_refused():
    model = dl.Model(nn.Linear(4, 3))
    model.compile("sgd", "sparse_categorical_crossentropy")
    weights = torch.ones(9)
    weights[6:] = 0
    with pytest.raises(ValueError, match="every sample of the validation part"):
        model.fit(X, Y, sample_weight=weights, validation_split=0.3, verbose=0)


def test_a_split_without_a_share_is_refused():
    model = dl.Sequential([dl.Dense(1, input_dim=3)])
    model.compile("sgd", "mse")
    for split in ("random", "stratified"):
        with pytest.raises(ValueError, match="without validation_split"):
            model.fit(torch.zeros(8, 3), torch.zeros(8), split=split, verbose=0)
