"""What is settled before the first step leaves no trace: no random number, mode or statistic."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import easydl as dl
from easydl.data import as_source
from easydl.training import prepare

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
    prepare.get_ready(model, as_source(X, Y))
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
        assert prepare.keeps_integers(model, prepare.first_leaf(model)) is expected


def test_rows_per_pass_are_as_many_as_make_8_mb_of_what_the_widest_layer_works_on():
    def rows(network, *shape):
        model = dl.Model(network)
        model.try_out(torch.zeros(2, *shape))
        return prepare.rows_per_pass(model, as_source(torch.zeros(33, *shape)))

    assert rows(nn.Linear(10, 1), 10) == 8192
    assert rows(nn.Linear(10_000, 1), 10_000) == 256
    assert rows(nn.Sequential(nn.Linear(10, 10_000), nn.Linear(10_000, 1)), 10) == 256
    assert rows(dl.LSTM(128, input_shape=(50, 2)), 50, 2) == 256  # the states at every step
    assert rows(nn.GRU(2, 64, bidirectional=True, batch_first=True), 50, 2) == 256
    assert rows(nn.Linear(10**6, 1), 10**6) == 32
    stream = as_source([(torch.zeros(4, 1), torch.zeros(4, 1))])
    assert prepare.rows_per_pass(dl.Model(nn.Linear(1, 1)), stream) == 32


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


def test_header_says_what_will_be_done(capsys):
    model = stochastic()
    model.compile("sgd", "sparse_categorical_crossentropy", device="cpu")
    model.fit(X, Y, 4, 2, verbose=2, validation_data=(X, Y))
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "training on cpu: 9 samples, 2 steps × 2 epochs, validating on 9"
    assert [line.split(" · ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]


def table(columns: str) -> pd.DataFrame:
    return pd.DataFrame({name: X[:, "abcd".index(name)].numpy() for name in columns})


def test_tables_of_targets_are_matched_by_their_columns_too():
    model = dl.Model(nn.Linear(4, 2))
    model.compile("sgd", "mse")
    model.fit(table("abcd"), table("ab"), verbose=0)
    straight = model.evaluate(table("abcd"), table("ab"), verbose=0)
    assert model.evaluate(table("dcba"), table("ba"), verbose=0) == straight
    with pytest.raises(ValueError, match="y is a table of other columns"):
        model.evaluate(table("abcd"), table("bc"), verbose=0)


def test_weights_that_are_zero_in_one_part_of_a_split_are_refused():
    model = dl.Model(nn.Linear(4, 3))
    model.compile("sgd", "sparse_categorical_crossentropy")
    weights = torch.ones(9)
    weights[6:] = 0
    with pytest.raises(ValueError, match="every sample of the validation part"):
        model.fit(X, Y, sample_weight=weights, validation_split=0.3, verbose=0)


@pytest.mark.parametrize("stream", [False, True])
def test_class_weight_of_soft_binary_targets_is_refused(stream):
    model = dl.Model(nn.Linear(4, 1))
    model.compile("sgd", "binary_crossentropy")
    soft = torch.rand(9)
    data = ([(X, soft)],) if stream else (X, soft)
    with pytest.raises(ValueError, match="not one class a sample"):
        model.fit(*data, class_weight={0: 1.0, 1: 2.0}, verbose=0)


def test_monitors_of_a_validation_that_never_runs_are_refused():
    model = dl.Model(nn.Linear(4, 3))
    model.compile("sgd", "sparse_categorical_crossentropy")
    stop = dl.callbacks.EarlyStopping(monitor="val_loss")
    with pytest.raises(ValueError, match="val_loss"):
        model.fit(X, Y, 9, 2, 0, [stop], validation_data=(X, Y), validation_freq=3)


def test_only_a_compute_loss_of_the_users_own_is_not_standard():
    class Own(dl.Model):
        def compute_loss(self, x, y, sample_weight=None):
            return super().compute_loss(x, y, sample_weight)

    class Plain(dl.Sequential):
        pass

    assert prepare.has_standard_loss(dl.Model(nn.Linear(4, 1)))
    assert prepare.has_standard_loss(Plain([dl.Dense(1)]))
    assert not prepare.has_standard_loss(Own())


def test_train_on_batch_learns_and_test_on_batch_does_not():
    model = dl.Model(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)))
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = model.get_weights()[0]
    assert model.test_on_batch(X, Y) == pytest.approx(model.evaluate(X, Y, verbose=0))
    assert (model.get_weights()[0] == before).all()
    model.train_on_batch(X, Y)
    assert (model.get_weights()[0] != before).any()


@pytest.mark.parametrize("class_weight", [{0: 1.0, 2: 3.0}, "balanced"])
def test_class_weights_leave_ignored_targets_alone(class_weight):
    losses = []
    for index in (-100, 1):  # what torch ignores by default, and a class by name
        torch.manual_seed(0)
        model = dl.Model(nn.Linear(4, 3))
        model.compile("sgd", nn.CrossEntropyLoss(ignore_index=index))
        y = torch.where(Y == 1, index, Y)
        losses.append(model.fit(X, y, class_weight=class_weight, verbose=0).history["loss"])
    assert losses[0] == losses[1]


def test_whole_numbers_that_the_cast_rounds_are_told():
    model = dl.Sequential([dl.Dense(1, input_dim=1)])
    with pytest.warns(UserWarning) as caught:
        model.predict(np.array([[1_700_000_000], [1_700_000_060]]))
    told = [str(warning.message) for warning in caught]
    assert "to 1,700,000,060 in column 0, which torch.float32 rounds to multiples of 128" in told[0]
    assert np.spacing(np.float32(1_700_000_060)) == 128
    for exact in ([[2**24 + 1], [3]], [[2**30 + 1], [2**30 + 1]], [[255], [0]]):
        model.predict(np.array(exact))  # a warning would be an error


def test_a_split_without_a_share_is_refused():
    model = dl.Sequential([dl.Dense(1, input_dim=3)])
    model.compile("sgd", "mse")
    for split in ("random", "stratified"):
        with pytest.raises(ValueError, match="without validation_split"):
            model.fit(torch.zeros(8, 3), torch.zeros(8), split=split, verbose=0)


def test_pictures_with_the_channels_last_are_turned_round_for_a_built_model_too():
    model = dl.Sequential([dl.Conv2D(2, 3, input_shape=(3, 8, 9))])
    with pytest.raises(ValueError, match=r"np\.moveaxis\(x, -1, 1\)"):
        model.predict(np.zeros((2, 8, 9, 3)))
