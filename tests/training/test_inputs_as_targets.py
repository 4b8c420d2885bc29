"""A family whose targets are its inputs trains as ``fit(x, x)`` does, from every source."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Dataset, TensorDataset

import easydl as dl
from easydl.data.arrays import Arrays


class Copier(dl.Sequential):
    reproduces_inputs = True

    def check_inputs(self, x, what):
        if x.min() < 0:
            raise ValueError(f"{what} is below 0")


class Rows(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index]


X = torch.rand(50, 6, generator=torch.Generator().manual_seed(1))
SOURCES = {
    "arrays": lambda: X,
    "float64": lambda: X.double().numpy(),
    "dataset": lambda: Rows(X),
    "loader": lambda: DataLoader(Rows(X), batch_size=8),
    "generator": lambda: (X[i : i + 8] for i in list(range(0, 50, 8)) * 2),
}


def trained(kind, x, y=None, **arguments):
    dl.seed(3)
    model = kind([dl.Dense(3, "tanh", input_dim=6), dl.Dense(6, "sigmoid")])
    model.compile("adam", "binary_crossentropy", metrics=["mae"])
    history = model.fit(x, y, 8, 2, verbose=0, **arguments)
    return model.get_weights(), history.history


@pytest.mark.parametrize("source", SOURCES)
def test_it_trains_as_with_the_inputs_given_twice(source):
    steps = {"steps_per_epoch": 7} if source == "generator" else {}
    arguments = {"shuffle": False, **steps}
    weights, history = trained(Copier, SOURCES[source](), **arguments)
    expected, expected_history = trained(dl.Sequential, X, X, shuffle=False)
    for own, other in zip(weights, expected):
        np.testing.assert_array_equal(own, other)
    assert history == expected_history


@pytest.mark.parametrize("split", ["tail", "random"])
def test_held_out_rows_are_their_own_targets(split):
    held = {"validation_split": 0.2, "split": split}
    assert trained(Copier, X, **held)[1] == trained(dl.Sequential, X, X, **held)[1]
    given = trained(Copier, X[:40], validation_data=X[40:])[1]
    assert given == trained(dl.Sequential, X[:40], X[:40], validation_data=(X[40:], X[40:]))[1]


def test_targets_that_are_given_are_kept():
    assert trained(Copier, X, 1 - X)[1] == trained(dl.Sequential, X, 1 - X)[1]


def test_rows_are_gathered_once():
    class Gathers(TorchFunctionMode):
        count = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.Tensor.index_select
            return func(*args, **(kwargs or {}))

    source = Arrays(X, X, None).batching(8, shuffle=True)
    with Gathers() as gathers:
        assert all(x is y for x, y, _ in source.epoch(0))
    assert gathers.count == 1


@pytest.mark.parametrize("source", ["arrays", "loader"])
def test_a_family_refuses_rows_before_the_first_step(source):
    dl.seed(0)
    model = Copier([dl.Dense(6)])
    model.compile("sgd", "mse")
    given = {"arrays": -X, "loader": DataLoader(Rows(-X), batch_size=8)}[source]
    with pytest.raises(ValueError, match="is below 0"):
        model.fit(given, verbose=0)


def test_labels_that_a_stream_brings_are_passed_over():
    y = torch.arange(50) % 3
    expected = trained(Copier, DataLoader(Rows(X), batch_size=8))
    _, history = trained(Copier, DataLoader(TensorDataset(X, y), batch_size=8))
    assert history == expected[1]
    with pytest.raises(ValueError, match=r"expected no y, fit\(x\)"):
        trained(Copier, X, y)


def test_every_step_has_the_inputs_themselves_as_targets():
    """Two tensors in one step and one in the next would be compiled twice."""

    class Looks(Copier):
        same = []

        def compute_loss(self, x, y, sample_weight=None):
            self.same.append(y is x)
            return super().compute_loss(x, y, sample_weight)

    model = Looks([dl.Dense(6)])
    model.compile("sgd", "mse")
    model.fit(X, epochs=2, verbose=0)
    Looks.same.clear()
    model.fit(X, epochs=2, verbose=0)
    assert Looks.same == [True] * 4
