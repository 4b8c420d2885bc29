"""What is checked and told before the first step."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import easydl as dl
from easydl.training import prepare

X, Y = torch.randn(9, 4), torch.arange(9) % 3


def test_header_says_what_will_be_done(capsys):
    model = dl.Model(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    model.compile("sgd", "sparse_categorical_crossentropy", device="cpu")
    model.fit(X, Y, 4, 2, verbose=2, validation_data=(X, Y))
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "training on cpu: 9 samples, 2 steps × 2 epochs, validating on 9"
    assert [line.split(" · ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]


def table(columns: str) -> pd.DataFrame:
    return pd.DataFrame({name: X[:, "abcd".index(name)].numpy() for name in columns})


@pytest.mark.parametrize(
    ("low", "advice"), [(-1, r"x \+ 1 .*Embedding\(13, …\)"), (0, r"Embedding\(12, …\)")]
)
def test_indices_outside_of_the_table_get_the_advice_that_helps(low, advice):
    model = dl.Sequential([dl.Embedding(10, 2, input_shape=(3,)), dl.Flatten(), dl.Dense(1)])
    with pytest.raises(ValueError, match=f"holds indices from {low} to 11, .* 0 … 9. .*{advice}"):
        model.predict(np.array([[low, 3, 11]]))


def test_validation_data_without_targets_are_told_by_name():
    model = dl.Model(nn.Linear(4, 3))
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"validation_data was given with.*_data=\(x, y\)"):
        model.fit(X, Y, verbose=0, validation_data=X)


def mean_of(x, y, w):
    return x.mean(), x


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_loss_of_ones_own_takes_weights_or_is_refused_by_compile():
    class Narrow(dl.Model):
        def compute_loss(self, x, y):
            return super().compute_loss(x, y)

    class Wide(dl.Model):
        def compute_loss(self, *batch):
            return super().compute_loss(*batch)

    class Keras(dl.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return super().compute_loss(x, y, sample_weight)

    def without_weights(function):
        @functools.wraps(function)
        def compute_loss(self, x, y, sample_weight=None):
            return function(self, x, y)

        return compute_loss

    class Wrapped(dl.Model):
        compute_loss = without_weights(lambda self, x, y: dl.Model.compute_loss(self, x, y))

    for kind in (Narrow, Keras):
        expected = rf"{kind.__name__}.compute_loss .*\(self, x, y, sample_weight=None"
        with pytest.raises(TypeError, match=expected):
            kind(nn.Linear(4, 1)).compile("sgd", "mse")
    for kind in (Wide, Wrapped):
        model = kind(nn.Linear(4, 1))
        model.compile("sgd", "mse")
        model.fit(X, Y.float(), verbose=0)
    scripted = dl.Model(nn.Linear(4, 1))
    scripted.compute_loss = torch.jit.script(mean_of)  # says nothing of its arguments
    scripted.compile("sgd", None)


def test_tables_of_targets_are_matched_by_their_columns_too():
    model = dl.Model(nn.Linear(4, 2))
    model.compile("sgd", "mse")
    model.fit(table("abcd"), table("ab"), verbose=0)
    straight = model.evaluate(table("abcd"), table("ab"), verbose=0)
    assert model.evaluate(table("dcba"), table("ba"), verbose=0) == straight
    with pytest.raises(ValueError, match="y is a table of other columns"):
        model.evaluate(table("abcd"), table("bc"), verbose=0)


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


def test_whole_numbers_that_the_cast_rounds_are_told():
    model = dl.Sequential([dl.Dense(1, input_dim=1)])
    with pytest.warns(UserWarning) as caught:
        model.predict(np.array([[1_700_000_000], [1_700_000_060]]))
    told = [str(warning.message) for warning in caught]
    assert "to 1,700,000,060 in column 0, which torch.float32 rounds to multiples of 128" in told[0]
    assert np.spacing(np.float32(1_700_000_060)) == 128
    for exact in ([[2**24 + 1], [3]], [[2**30 + 1], [2**30 + 1]], [[255], [0]]):
        model.predict(np.array(exact))  # a warning would be an error


def test_pictures_with_the_channels_last_are_turned_round_for_a_built_model_too():
    model = dl.Sequential([dl.Conv2D(2, 3, input_shape=(3, 8, 9))])
    with pytest.raises(ValueError, match=r"np\.moveaxis\(x, -1, 1\)"):
        model.predict(np.zeros((2, 8, 9, 3)))


def subtracting(y_pred, y_true):
    y_pred -= y_true
    return y_pred.square().mean()


class Shifted(nn.Linear):
    def forward(self, x):
        return super().forward(x).add_(1.0)


@pytest.mark.parametrize("form", [lambda p: p, lambda p: (p, p * 2), lambda p: {"a": p}])
def test_a_loss_that_writes_into_what_metrics_see_is_refused(form):
    class Net(Shifted):
        def forward(self, x):
            return form(super().forward(x))

    def trained(loss, metrics):
        model = dl.Model(Net(4, 1))
        y = torch.zeros(9, 1)
        targets = form(y) if not isinstance(form(y), dict) else {"a": y}
        model.compile("sgd", loss, metrics=metrics)
        return model.fit(torch.ones(9, 4), targets, verbose=0).history

    with pytest.raises(ValueError, match=r"changes y_pred in place.* y_pred.clone\(\)"):
        trained(subtracting, ["mae"])
    assert len(trained("mse", ["mae"])["loss"]) == 1
    assert len(trained(subtracting, None)["loss"]) == 1  # nobody looks
