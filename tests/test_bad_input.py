"""Bad and odd input: refused aloud before the first step, or handled with the right numbers.

The tables below are the test: a row says on which model what is tried, and what must happen.
Every refusal is measured alike (``refusal``): no optimizer step, no weight changed, a short message
with what was given and what is expected, few frames of easydl, modes restored, and good data
trains afterwards. Whatever is handled must give the numbers of the clean call beside it.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import re
import signal
import traceback
from collections import namedtuple
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import easydl as dl
from easydl import callbacks, losses, optimizers

EASYDL = str(Path(dl.__file__).parent)
GENERATOR = np.random.default_rng(0)
N = 20
X = GENERATOR.normal(size=(N, 4)).astype("float32")
Y = X.sum(1)
LABELS = np.arange(N) % 3
BITS = np.arange(N) % 2
HOT = np.eye(3, dtype="float32")[LABELS]
SEVERAL = (X[:, :3] > 0).astype("float32")
STEPS = GENERATOR.normal(size=(N, 5, 4)).astype("float32")  # (N, T, F)
STEP_LABELS = GENERATOR.integers(3, size=(N, 5))
WORDS = GENERATOR.integers(10, size=(N, 6))
PICTURES = GENERATOR.normal(size=(N, 3, 8, 8)).astype("float32")
FRAME = pd.DataFrame(X, columns=list("abcd"))
SERIES = pd.Series(Y)
CONSTANTS = {name: value for name, value in globals().items() if isinstance(value, np.ndarray)}
COPIES = {name: value.copy() for name, value in CONSTANTS.items()}


@pytest.fixture(autouse=True)
def no_hang():
    """A test that hangs fails after a minute; one that cannot be interrupted ends the run."""

    def too_late(signum, frame):
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(60)
    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def the_callers_data_stay():
    yield
    for name, value in CONSTANTS.items():
        np.testing.assert_array_equal(value, COPIES[name])


# -- the models ------------------------------------------------------------------------------------

Setup = namedtuple("Setup", "model compiled x y")


def setup(layers, loss, x, y, **options):
    dl.seed(0)
    model = layers if isinstance(layers, nn.Module) else dl.Sequential(layers)
    compiled = {"optimizer": "sgd", "loss": loss, "device": "cpu", **options}
    model.compile(**compiled)
    return Setup(model, compiled, x, y)


def dense(units=1, activation=None):
    return [dl.Dense(8, "relu", input_shape=(4,)), dl.Dense(units, activation)]


def regression(loss="mse", activation=None, **options):
    return setup(dense(1, activation), loss, X, Y, **options)


def classifier(loss="sparse_categorical_crossentropy", activation="softmax", **options):
    return setup(dense(3, activation), loss, X, LABELS, **options)


def binary(loss="binary_crossentropy", activation="sigmoid", **options):
    return setup(dense(1, activation), loss, X, BITS, **options)


def labeller(loss="binary_crossentropy", activation="sigmoid", **options):
    return setup(dense(3, activation), loss, X, SEVERAL, **options)


def wrapped(loss="mse", units=1, last=None, **options):
    """A network of plain torch."""
    dl.seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, units), last or nn.Identity())
    return setup(dl.Model(network), loss, X, Y, **options)


def tagger(loss="sparse_categorical_crossentropy", activation="softmax", **options):
    layers = [
        dl.LSTM(6, return_sequences=True, input_shape=(5, 4)),
        dl.Dense(3, activation),
    ]
    return setup(layers, loss, STEPS, STEP_LABELS, **options)


def reader(**options):
    layers = [dl.Embedding(10, 4, input_shape=(6,)), dl.Flatten(), dl.Dense(1)]
    return setup(layers, "mse", WORDS, Y, **options)


def normalised(**options):
    layers = [dl.Dense(8, input_shape=(4,)), dl.BatchNormalization(), dl.Dense(1)]
    return setup(layers, "mse", X, Y, **options)


def viewer(**options):
    layers = [dl.Conv2D(4, 3, input_shape=(3, 8, 8)), dl.Flatten(), dl.Dense(3, "softmax")]
    return setup(layers, "sparse_categorical_crossentropy", PICTURES, LABELS, **options)


class Fork(dl.Model):
    """Two outputs by name: a class and a number."""

    def __init__(self):
        super().__init__()
        self.body, self.kind, self.size = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x):
        h = self.body(x).relu()
        return {"kind": self.kind(h), "size": self.size(h)}


def forked(**options):
    dl.seed(0)
    loss = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
    y = {"kind": LABELS, "size": Y}
    return setup(Fork(), **{"loss": loss, "x": X, "y": y, **options})


class Pair(dl.Model):
    """Two inputs: words and numbers."""

    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(10, 4), nn.Linear(8, 1)

    def forward(self, words, numbers):
        return self.last(torch.cat([self.table(words).mean(1), numbers], 1))


def paired(**options):
    dl.seed(0)
    return setup(Pair(), "mse", (WORDS, X), Y, **options)


def uncompiled():
    model = regression().model
    model._compiled = None
    return Setup(model, {"optimizer": "sgd", "loss": "mse", "device": "cpu"}, X, Y)


# -- how a refusal is measured ---------------------------------------------------------------------


def state_of(model):
    """Weights, modes and whether it is built."""
    weights = {}
    if model.is_built:
        weights = {name: value.clone() for name, value in model.state_dict().items()}
    return weights, [module.training for module in model.modules()]


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values()))


class Steps:
    """Counts the steps of all torch optimizers."""

    def __enter__(self):
        self.count = 0
        self.hook = register_optimizer_step_pre_hook(self.add)
        return self

    def add(self, *_):
        self.count += 1

    def __exit__(self, *_):
        self.hook.remove()


def refusal(made, do, kind, words, late=False):
    """Try ``do`` on the model; everything a refusal must be is asserted here.

    Args:
        kind: the exception expected.
        words: what the message must hold (as regular expressions).
        late: whether only training can show it: steps may have been taken.
    """
    model, compiled = made.model, made.model._compiled
    model.train()
    next(model.children()).eval()  # an unusual mode, to see it restored
    weights, modes = state_of(model)
    with Steps() as steps, pytest.raises(kind) as caught:
        do(model)
    after, modes_after = state_of(model)
    message = str(caught.value)
    frames = [
        frame
        for frame in traceback.extract_tb(caught.value.__traceback__)
        if frame.filename.startswith(EASYDL)
    ]
    for word in words:
        assert re.search(word, message), f"{word!r} is not in: {message}"
    assert re.search("[Ee]xpect|Choose from", message), message
    assert len(message) <= 600, message
    assert len(frames) <= 6, [(frame.filename, frame.name) for frame in frames]
    assert modes_after == modes
    if not late:
        assert steps.count == 0
        assert same_weights(weights, after)
    trains_afterwards(made, compiled)
    return caught.value


def trains_afterwards(made, compiled):
    """Good data train the same model; what compile refused left the earlier compile standing."""
    if made.model._compiled is not compiled or compiled is None:
        made.model.compile(**made.compiled)
    if made.x is None:
        return
    with Steps() as steps:
        history = made.model.fit(made.x, made.y, verbose=0)
    assert steps.count == 1 and np.isfinite(history.history["loss"]).all()


def result_of(value):
    """Histories and arrays as comparable numbers."""
    if hasattr(value, "history"):
        return value.history
    return value


def handled(make, do, clean):
    """``do`` gives what ``clean`` gives on the same model, results and weights."""
    one, other = make().model, make().model
    found, expected = result_of(do(one)), result_of(clean(other))
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = list(found.values()), list(expected.values())
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values()):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6, msg=name)


def fit(x=X, y=Y, **options):
    """A call of fit to be made later; shuffling off, so that sources can be compared."""
    return lambda model: model.fit(x, y, **{"verbose": 0, "shuffle": False, **options})


def stream(make, **options):
    """The same for a source that must be made anew."""
    return lambda model: model.fit(make(), **{"verbose": 0, "shuffle": False, **options})


def compiling(*args, **options):
    """compile, then fit on the model's good data."""

    def do(model):
        model.compile(*args, device=options.pop("device", "cpu"), **options)
        return fit()(model)

    return do


def filled(array, index, value):
    array = np.array(array, dtype=np.result_type(array, type(value)))
    array[index] = value
    return array


# -- arrays that are refused -----------------------------------------------------------------------

nan, inf = float("nan"), float("inf")
V, T = ValueError, TypeError

# id: model, what is tried, exception, words of the message
ARRAYS = {
    "lengths differ": (regression, fit(X, Y[:-1]), V, "20", "19"),
    "y is one row": (regression, fit(X, Y[None]), V, "20", "1"),
    "x transposed": (regression, fit(X.T, Y), V, "4", "20"),
    "y too wide": (regression, fit(X, np.stack([Y, Y], 1)), V, r"\(N, 2\)", r"\(N, 1\)"),
    "y too wide in torch": (wrapped, fit(X, np.stack([Y, Y], 1)), V, r"\(N, 2\)", r"\(N, 1\)"),
    "x and y swapped": (regression, fit(Y, X), V, r"\(20,\)", "dense", "4"),
    "nan in x": (regression, fit(filled(X, (7, 2), nan)), V, "x holds nan", "row 7, column 2"),
    "nan in x may be filled": (regression, fit(filled(X, 7, nan)), V, "Drop.*np.nan_to_num"),
    "inf in x": (regression, fit(filled(X, (7, 2), -inf)), V, "x holds -inf", "row 7, column 2"),
    "nan in y": (regression, fit(X, filled(Y, 9, nan)), V, "y holds nan", "row 9"),
    "inf in y": (regression, fit(X, filled(Y, 9, inf)), V, "y holds inf", "row 9"),
    "nan in labels": (classifier, fit(X, filled(LABELS, 9, nan)), V, "row 9", r"rows\.$"),
    "nan in x of a torch network": (wrapped, fit(filled(X, (7, 2), nan)), V, "row 7, column 2"),
    "nan in a picture": (
        viewer, fit(filled(PICTURES, (1, 2, 3, 4), nan), LABELS), V, "row 1, axis 1 2, axis 2 3",
    ),
    "x too large for float32": (
        regression, fit(X.astype("float64") * 1e300), V, r"e\+2|e\+3", "float32",
    ),
    "y too large for float32": (regression, fit(X, Y.astype("float64") * 1e300), V, "float32"),
    "labels from 1": (classifier, fit(X, LABELS + 1), V, "1 to 3", "0 … 2", "y - 1"),
    "a label below 0": (classifier, fit(X, LABELS - 1), V, "-1 to 1", "0 … 2"),
    "a label too high at the end": (classifier, fit(X, filled(LABELS, 19, 7)), V, "7", "0 … 2"),
    "a label too high in torch": (
        lambda: wrapped(nn.CrossEntropyLoss(), 3)._replace(y=LABELS),
        fit(X, LABELS + 1), V, "1 to 3", "0 … 2",
    ),
    "fractions as labels": (classifier, fit(X, LABELS + 0.5), V, "0.5", "0 … 2"),
    "strings as labels": (
        classifier, fit(X, np.array(list("abcd"))[LABELS]), T, "'a'", "np.unique",
    ),
    "strings in a list": (classifier, fit(X, list(np.array(list("abc"))[LABELS])), T, "'a'"),
    "bytes as labels": (classifier, fit(X, np.array([b"u", b"v"])[BITS]), T, "'u'|b'u'"),
    "one-hot of another width": (
        classifier, fit(X, np.eye(4)[LABELS]), V, r"\(N, 4\)", r"\(N, 3\)",
    ),
    "several labels for softmax": (classifier, fit(X, SEVERAL), V, "sums to", "sigmoid"),
    "labels for mse": (
        lambda: classifier("mse")._replace(y=HOT),
        fit(X, LABELS), V, r"\(N,\)", r"\(N, 3\)", "to_categorical",
    ),
    "labels for several units": (
        labeller, fit(X, LABELS), V, r"\(N,\)", r"\(N, 3\)", "sparse_categorical_crossentropy",
    ),
    "two columns for one sigmoid": (binary, fit(X, np.eye(2)[BITS]), V, r"\(N, 2\)", "argmax"),
    "binary targets 0/255": (binary, fit(X, BITS * 255), V, "0 to 255", "0 and 1", "y / 255"),
    "binary targets 1/2": (binary, fit(X, BITS + 1), V, "1 to 2", "y - 1"),
    "binary targets -1/1": (binary, fit(X, BITS * 2 - 1), V, "-1 to 1", r"\(y \+ 1\) / 2"),
    "pixels 0..255 for sigmoid and mse": (
        lambda: regression(activation="sigmoid")._replace(y=BITS),
        fit(X, abs(Y) * 255), V, "sigmoid", "0 to 1",
    ),
    "negative targets for relu": (
        lambda: regression(activation="relu")._replace(y=abs(Y)), fit(), V, "relu", "-",
    ),
    "targets beyond tanh": (
        lambda: regression(activation="tanh")._replace(y=BITS), fit(X, Y * 9), V, "tanh", "-1 to 1",
    ),
    "hinge with three labels": (
        lambda: regression("hinge")._replace(y=BITS), fit(X, LABELS), V, "0 to 2", "-1 or 1",
    ),
    "negative counts": (
        lambda: regression("poisson", "softplus")._replace(y=LABELS),
        fit(X, Y), V, "poisson", "0 and inf",
    ),
    "percentage of 0": (
        lambda: regression("mape")._replace(y=BITS + 1), fit(X, BITS), V, "y holds 0", "mae",
    ),
    "divergence from no distribution": (
        lambda: classifier("kl_divergence")._replace(y=HOT), fit(X, SEVERAL), V, "sums to",
    ),
    "empty": (regression, fit(X[:0], Y[:0]), V, "0 samples"),
    "empty lists": (regression, fit([], []), V, "0 samples"),
    "no features": (regression, fit(X[:, :0], Y), V, r"\(20, 0\)"),
    "no x": (regression, fit(None), T, "x=None"),
    "no y": (regression, fit(X, None), V, "y=None"),
    "a path": (regression, fit("data.csv"), T, "data.csv", "read_csv"),
    "a network as x": (regression, fit(nn.Linear(4, 1)), T, "Linear"),
    "a single number": (regression, fit(3.0, Y), V, "3"),
    "a single target": (regression, fit(X, 3.0), V, "y", "3"),
    "a set": (regression, fit({1, 2}), V, "set"),
    "objects": (regression, fit(filled(X.astype(object), (0, 0), "a")), T, "text|object"),
    "numbers as objects": (regression, fit(X.astype(object)), T, "object array", "float32"),
    "None in a list": (regression, fit([[1.0, 2, 3, None]] * N), T, "NoneType"),
    "rows of different lengths": (regression, fit([[1, 2], [1]] * 10), V, "2, 1", "pad_sequences"),
    "a masked array": (regression, fit(np.ma.masked_greater(X, 1)), V, "masked"),
    "complex numbers": (regression, fit(X + 1j), T, "complex"),
    "dates": (regression, fit(X.astype("datetime64[s]")), T, "dates"),
    "a structured array": (regression, fit(np.zeros(N, dtype=[("a", "f4")])), T, "dtype"),
    "a sparse tensor": (regression, fit(torch.tensor(X).to_sparse()), T, "to_dense"),
    "too few features": (regression, fit(X[:, :3]), V, r"\(20, 3\)", "dense", r"\('N', 4\)"),
    "too many features": (regression, fit(np.hstack([X, X])), V, r"\(20, 8\)", "dense"),
    "a missing axis": (regression, fit(X[:, 0]), V, r"\(20,\)", "dense", "expand_dims"),
    "an extra axis": (regression, fit(X[:, None]), V, r"\(20, 1, 4\)", "dense", "reshape"),
    "too few features for torch": (wrapped, fit(X[:, :3]), V, r"\(2, 3\)", "Linear"),
    "pictures with channels last": (
        viewer, fit(PICTURES.transpose(0, 2, 3, 1), LABELS), V, r"8, 8, 3", "conv2d",
    ),
    "pictures without channels": (
        viewer, fit(PICTURES[:, 0], LABELS), V, r"\(20, 8, 8\)", "conv2d",
    ),
    "a sequence's missing axis": (tagger, fit(STEPS[:, 0], LABELS), V, r"\(20, 4\)", "lstm"),
    "one label a sequence": (tagger, fit(STEPS, LABELS), V, r"\(N,\)", r"\(N, 5\)"),
    "labels of another length": (
        tagger, fit(STEPS, STEP_LABELS[:, :4]), V, r"\(N, 4\)", r"\(N, 5\)",
    ),
    "a high label in a sequence": (
        tagger, fit(STEPS, filled(STEP_LABELS, (19, 4), 3)), V, "0 to 3", "0 … 2",
    ),
    "one-hot steps that are not": (
        tagger, fit(STEPS, np.ones((N, 5, 3))), V, "sums to 3",
    ),
    "an index beyond the table": (reader, fit(WORDS + 1, Y), V, "1 to 10", "10 rows", "0 … 9"),
    "a negative index": (reader, fit(WORDS - 1, Y), V, "-1 to 8", "0 … 9"),
    "fractions as indices": (reader, fit(WORDS + 0.5, Y), V, "whole|fractions", "0 … 9"),
    "an index beyond the table of one of two inputs": (
        paired, fit((filled(WORDS, (19, 5), 12), X)), V, "12", "0 … 9",
    ),
    "two arrays for one input": (regression, fit((X, X)), V, "2 arrays", "Sequential"),
    "a dict for one input": (regression, fit({"a": X}), V, "dict", "Sequential"),
    "two inputs for one": (regression, fit([X, X], Y), V, "2 arrays", "Sequential"),
    "one of two inputs": (paired, fit((WORDS,)), V, r"\(2, 6\)", "numbers"),
    "two inputs of different lengths": (
        paired, fit((WORDS, X[:-1])), V, r"x\[0\] has 20 samples but x\[1\] has 19",
    ),
    "two inputs by name of different lengths": (
        paired, fit({"words": WORDS, "numbers": X[:-1]}), V, r"x\['words'\] has 20.*'numbers'",
    ),
    "a target by name of another length": (
        forked, fit(X, {"kind": LABELS, "size": Y[:-1]}), V, r"x has 20 .* y\['size'\] has 19",
    ),
    "inputs of very long names": (
        paired, fit({"w" * 900: WORDS, "n" * 900: X[:-1]}), V, "20", "19",
    ),
    "a column of a very long name": (
        regression, fit(FRAME.assign(**{"c" * 900: "text"}), SERIES), T, "column 'ccc", "text",
    ),
    "one of two targets": (forked, fit(X, {"kind": LABELS}), V, "kind", "size"),
    "an unknown target": (
        forked, fit(X, {"kind": LABELS, "siez": Y}), V, "siez", "size",
    ),
    "three targets for two outputs": (forked, fit(X, (LABELS, Y, Y)), V, "3", "2"),
    "one array for two outputs": (forked, fit(X, Y), V, "1", "2"),
    "a high label of one of two outputs": (
        forked, fit(X, {"kind": LABELS + 1, "size": Y}), V, "'kind'", "0 … 2",
    ),
    "tables with other row labels": (
        regression, fit(FRAME, SERIES.sample(frac=1, random_state=0)), V, "row", "to_numpy",
    ),
    "a table cut, its targets counted anew": (
        regression, fit(FRAME[5:], SERIES[:15]), V, "5", "0", "loc",
    ),
    "weights with other row labels": (
        regression, fit(FRAME, SERIES, sample_weight=pd.Series(np.ones(N), index=range(1, 21))), V,
        "sample_weight",
    ),
    "text in a column": (regression, fit(FRAME.assign(d="u"), SERIES), T, "column 'd'", "'u'"),
    "dates in a column": (
        regression, fit(FRAME.assign(d=pd.Timestamp(0)), SERIES), T, "column 'd'", "dates",
    ),
    "missing numbers in a column": (
        regression, fit(FRAME.mask(FRAME > 1.5), SERIES), V, "nan", "row 10, column 1",
    ),
    "nullable numbers that miss": (
        regression, fit(FRAME.astype("Float64").mask(FRAME > 1.5), SERIES), V, "nan", "row 10",
    ),
    "categories of text": (
        classifier, fit(FRAME, pd.Series(list("ab") * 10).astype("category")), T, "'a'",
    ),
    "a table without columns": (regression, fit(FRAME[[]], SERIES), V, "columns"),
    "one sample for BatchNormalization": (normalised, fit(X[:1], Y[:1]), V, "1 sample", "2"),
    "batches of one for BatchNormalization": (
        normalised, fit(batch_size=1), V, "batch_size=1", "2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_refused(name):
    make, do, kind, *words = ARRAYS[name]
    refusal(make(), do, kind, words)


# -- arguments that are refused --------------------------------------------------------------------


def wrongly(error):
    def fail(*_):
        raise error

    return fail


other = nn.Linear(4, 1)
EARLY = callbacks.EarlyStopping

ARGUMENTS = {
    "batch_size 0": (regression, fit(batch_size=0), V, "batch_size=0"),
    "batch_size 2.5": (regression, fit(batch_size=2.5), V, "batch_size=2.5"),
    "batch_size text": (regression, fit(batch_size="8"), V, "batch_size='8'"),
    "batch_size an array": (regression, fit(batch_size=np.array([8])), V, "batch_size"),
    "epochs 0": (regression, fit(epochs=0), V, "epochs=0"),
    "epochs 1.5": (regression, fit(epochs=1.5), V, "epochs=1.5"),
    "epochs True": (regression, fit(epochs=True), V, "epochs=True"),
    "initial_epoch -1": (regression, fit(initial_epoch=-1), V, "initial_epoch=-1"),
    "initial_epoch after epochs": (regression, fit(initial_epoch=5, epochs=3), V, "5", "3"),
    "steps_per_epoch 0": (regression, fit(steps_per_epoch=0), V, "steps_per_epoch=0"),
    "steps_per_epoch too many": (regression, fit(steps_per_epoch=9), V, "9", "at most 1"),
    "validation_split 1.5": (regression, fit(validation_split=1.5), V, "1.5", r"\(0, 1\)"),
    "validation_split 1": (regression, fit(validation_split=1), V, "1", r"\(0, 1\)"),
    "validation_split -0.1": (regression, fit(validation_split=-0.1), V, "-0.1"),
    "validation_split nan": (regression, fit(validation_split=nan), V, "nan"),
    "validation_split text": (regression, fit(validation_split="0.2"), V, "'0.2'"),
    "validation_split of nothing": (regression, fit(validation_split=0.999), V, "0 for training"),
    "validation_split of batches": (
        regression, stream(lambda: iter([(X, Y)]), validation_split=0.2), V, "stream",
    ),
    "validation twice": (
        regression, fit(validation_split=0.2, validation_data=(X, Y)), V, "validation_data",
    ),
    "an unknown split": (regression, fit(split="rand"), V, "'rand'", "Did you mean 'random'"),
    "a stratified regression": (
        regression, fit(validation_split=0.2, split="stratified"), V, "stratified", "random",
    ),
    "validation_freq 0": (regression, fit(validation_freq=0), V, "validation_freq=0"),
    "validation_batch_size 0": (regression, fit(validation_batch_size=0), V, "size=0"),
    "validation_steps -1": (regression, fit(validation_steps=-1), V, "validation_steps=-1"),
    "shuffle text": (regression, fit(shuffle="no"), V, "'no'", "True or False"),
    "verbose 7": (regression, fit(verbose=7), V, "verbose=7"),
    "validation without targets": (
        regression, fit(validation_data=(X,)), V, "validation_data was given without targets",
    ),
    "validation of other lengths": (regression, fit(validation_data=(X, Y[1:])), V, "20", "19"),
    "validation swapped": (regression, fit(validation_data=(Y, X)), V, "validation_data", "dense"),
    "validation too narrow": (regression, fit(validation_data=(X[:, 1:], Y)), V, r"\(20, 3\)"),
    "validation too narrow for torch": (wrapped, fit(validation_data=(X[:, 1:], Y)), V, "3"),
    "validation with nan": (
        regression, fit(validation_data=(filled(X, 3, nan), Y)), V, "validation_data", "row 3",
    ),
    "validation with wide targets": (
        regression, fit(validation_data=(X, np.ones((N, 2)))), V, r"\(N, 2\)", "validation_data",
    ),
    "validation with a high label": (
        classifier, fit(X, LABELS, validation_data=(X, LABELS + 1)), V, "1 to 3", "0 … 2",
    ),
    "validation that is empty": (regression, fit(validation_data=(X[:0], Y[:0])), V, "empty"),
    "validation with bad weights": (
        regression, fit(validation_data=(X, Y, -np.ones(N))), V, "-1", "≥ 0",
    ),
    "validation as a number": (regression, fit(validation_data=0.2), V, "0.2", "validation_data"),
    "validation as text": (regression, fit(validation_data="valid"), T, "valid"),
    "callbacks a number": (regression, fit(callbacks=3), T, "3", "Callback"),
    "callbacks None": (regression, fit(callbacks=[None]), T, "None", "Callback"),
    "a callback of one argument": (regression, fit(callbacks=[lambda e: 1]), T, r"\(epoch, logs\)"),
    "monitor without validation": (
        regression, fit(callbacks=[EARLY()]), V, "'val_loss'", "validation_data",
    ),
    "monitor of a metric that is not there": (
        lambda: classifier(metrics=["accuracy"]),
        fit(X, LABELS, callbacks=[EARLY("acuracy", mode="max")]), V, "Did you mean 'accuracy'",
    ),
    "a folder that is not there": (
        regression, fit(callbacks=[callbacks.ModelCheckpoint("/proc/nowhere/a.st")]),
        (ValueError, OSError), "nowhere",
    ),
    "weights of another length": (regression, fit(sample_weight=np.ones(19)), V, "20", "19"),
    "weights below 0": (regression, fit(sample_weight=-np.ones(N)), V, "-1", "≥ 0"),
    "weights nan": (
        regression, fit(sample_weight=filled(np.ones(N), 3, nan)), V, "sample_weight", "row 3",
    ),
    "weights inf": (regression, fit(sample_weight=filled(np.ones(N), 3, inf)), V, "inf", "row 3"),
    "weights too large": (regression, fit(sample_weight=np.full(N, 1e300)), V, "1e.300", "float32"),
    "weights of two columns": (regression, fit(sample_weight=np.ones((N, 2))), V, r"\(20, 2\)"),
    "weights a number": (regression, fit(sample_weight=2.0), V, "sample_weight", "2"),
    "weights a word": (regression, fit(sample_weight="balanced"), T, "balanced"),
    "weights a dict": (regression, fit(sample_weight={0: 1.0}), T, "sample_weight", "dict"),
    "weights for each output": (
        forked,
        fit(X, {"kind": LABELS, "size": Y}, sample_weight={"kind": abs(Y), "size": abs(Y)}),
        T, "sample_weight is a dict of 2", "one number a row", "loss_weights",
    ),
    "weights for each output in a list": (
        forked, fit(X, {"kind": LABELS, "size": Y}, sample_weight=[abs(Y), abs(Y)]),
        T, "sample_weight is a list of 2", "loss_weights",
    ),
    "weights for each time step": (
        tagger, fit(STEPS, STEP_LABELS, sample_weight=np.ones((N, 5))),
        V, r"\(20, 5\)", r"one number a sample, \(N,\)", "time step.*compute_loss",
    ),
    "weights all 0": (regression, fit(sample_weight=np.zeros(N)), V, "sample_weight is 0"),
    "weights for a loss that gives a mean": (
        lambda: regression(lambda p, y: ((p - y) ** 2).mean()),
        fit(sample_weight=np.ones(N)), V, "one number", r"\(N,\)",
    ),
    "class_weight of an unknown class": (
        classifier, fit(X, LABELS, class_weight={0: 1, 5: 2}), V, "5", "0 … 2",
    ),
    "class_weight of a name": (
        classifier, fit(X, LABELS, class_weight={"a": 1}), V, "'a'", "0 … 2",
    ),
    "class_weight below 0": (classifier, fit(X, LABELS, class_weight={0: -1}), V, "class 0", "-1"),
    "class_weight nan": (classifier, fit(X, LABELS, class_weight={0: nan}), V, "nan"),
    "class_weight text": (classifier, fit(X, LABELS, class_weight={0: "a"}), V, "'a'"),
    "class_weight a number": (classifier, fit(X, LABELS, class_weight=3), V, "3", "balanced"),
    "class_weight too short": (classifier, fit(X, LABELS, class_weight=[1, 2]), V, "3 factors"),
    "class_weight all 0": (classifier, fit(X, LABELS, class_weight=[0, 0, 0]), V, "0 for every"),
    "class_weight mistyped": (
        classifier, fit(X, LABELS, class_weight="balancd"), V, "balancd", "balanced",
    ),
    "class_weight of a regression": (regression, fit(class_weight={0: 1}), V, "class_weight"),
    "class_weight of several outputs": (
        forked, fit(X, {"kind": LABELS, "size": Y}, class_weight={0: 2}), V, "sample_weight",
    ),
    "class_weight of an unknown class in batches": (
        classifier, stream(lambda: [(X, LABELS)], class_weight={7: 1}), V, "7", "0 … 2",
    ),
    "class_weight balanced for batches": (
        classifier, stream(lambda: [(X, LABELS)], class_weight="balanced"), V, "stream", "dict",
    ),
    "class_weight balanced for a Dataset": (
        classifier, stream(lambda: Rows(lambda i: (X[i], LABELS[i])), class_weight="balanced"), V,
        "Dataset", r"expected a dict \{class: factor\}, such as \{0: 1",
    ),
    "class_weight of a very long name": (
        classifier, fit(X, LABELS, class_weight={"a" * 900: 1}), V, "0 … 2",
    ),
    "y beside a Dataset": (
        regression, fit(TensorDataset(torch.tensor(X), torch.tensor(Y))), V, "TensorDataset",
    ),
    "weights beside a Dataset": (
        regression,
        fit(TensorDataset(torch.tensor(X), torch.tensor(Y)), None, sample_weight=np.ones(N)),
        V, "sample_weight",
    ),
    "fit before compile": (uncompiled, fit(), V, "before compile"),
    "evaluate before compile": (uncompiled, lambda m: m.evaluate(X, Y), V, "before compile"),
    "train_on_batch before compile": (uncompiled, lambda m: m.train_on_batch(X, Y), V, "compile"),
    "everything frozen": (
        lambda: frozen()._replace(x=None), fit(), V, "frozen|learn",
    ),
    "an unknown optimizer": (regression, compiling("adm", "mse"), V, "Did you mean 'adam'"),
    "an unknown loss": (regression, compiling("sgd", "msee"), V, "Did you mean 'mse'"),
    "an unknown metric": (
        regression, compiling("sgd", "mse", metrics=["acuracy"]), V, "Did you mean 'accuracy'",
    ),
    "an unknown weighted metric": (
        regression, compiling("sgd", "mse", weighted_metrics=["mea"]), V, "'mea'", "Choose from",
    ),
    "no optimizer": (regression, compiling(None, "mse"), T, "None", "'adam'"),
    "an optimizer by number": (regression, compiling(3, "mse"), T, "3"),
    "a layer as the optimizer": (regression, compiling(nn.Linear, "mse"), T, "Linear", "Adam"),
    "an optimizer of another network": (
        regression, compiling(torch.optim.SGD(other.parameters(), 0.1), "mse"), V,
        "2 are not the model's", r"model.parameters\(\)|lambda",
    ),
    "LBFGS": (regression, compiling(torch.optim.LBFGS, "mse"), V, "LBFGS", "'adam'"),
    "a learning rate of -1": (
        regression, lambda m: m.compile(optimizers.SGD(-1), "mse"), V, "learning_rate=-1",
    ),
    "a learning rate of nan": (
        regression, lambda m: m.compile(optimizers.Adam(nan), "mse"), V, "learning_rate=nan",
    ),
    "a learning rate as text": (
        regression, lambda m: m.compile(optimizers.Adam("0.1"), "mse"), V, "'0.1'",
    ),
    "a learning rate of -1 in torch": (
        regression, compiling(lambda p: torch.optim.SGD(p, -1), "mse"), V, "-1",
    ),
    "a learning rate set to -1": (
        regression, lambda m: setattr(m, "learning_rate", -1), V, "learning_rate=-1",
    ),
    "a learning rate set to text": (
        regression, lambda m: setattr(m, "learning_rate", "a"), V, "learning_rate='a'",
    ),
    "no loss": (regression, compiling("sgd"), V, "no loss", "'mse'"),
    "a loss by number": (regression, compiling("sgd", 3), T, "loss=3"),
    "a class that is no loss": (regression, compiling("sgd", nn.Linear), T, "Linear", "object"),
    "a loss of three arguments": (
        regression, compiling("sgd", nn.GaussianNLLLoss()), V, "GaussianNLLLoss", "y_pred, y_true",
    ),
    "a loss of one argument": (
        regression, compiling("sgd", lambda p: p.mean()), V, "TypeError", "y_pred, y_true",
    ),
    "a loss that gives a number": (regression, compiling("sgd", lambda p, y: 3.0), V, "float"),
    "a loss without gradient": (
        regression, compiling("sgd", lambda p, y: (p - y).detach().mean()), V, "detach",
    ),
    "a loss in NumPy": (
        regression, compiling("sgd", lambda p, y: np.mean(p.numpy() - y.numpy())), V, "numpy",
    ),
    "a summed loss with weights": (
        lambda: regression(nn.MSELoss(reduction="sum")), fit(sample_weight=np.ones(N)), V,
        "reduction='sum'", "reduction='mean'",
    ),
    "two losses for one output": (regression, compiling("sgd", ["mse", "mse"]), V, "2", "1"),
    "a loss for an unknown output": (regression, compiling("sgd", {"out": "mse"}), V, "'out'"),
    "a loss for an output mistyped": (
        forked, lambda m: (m.compile("sgd", {"knid": "mse"}), fit(X, (LABELS, Y))(m)), V,
        "Did you mean 'kind'",
    ),
    "metrics for an unknown output": (
        regression, compiling("sgd", "mse", metrics={"out": "mae"}), V, "'out'",
    ),
    "a metric by number": (regression, compiling("sgd", "mse", metrics=[3]), T, "3"),
    "a metric of one argument": (
        regression, compiling("sgd", "mse", metrics=[lambda p: p]), V, "TypeError", "y_pred",
    ),
    "accuracy of a regression": (
        regression, compiling("sgd", "mse", metrics=["accuracy"]), V, "accuracy", "'mae'",
    ),
    "accuracy of whole numbers": (
        lambda: regression(metrics=["accuracy"])._replace(y=BITS),
        fit(X, np.arange(N)), V, "accuracy", "2",
    ),
    "auc of a regression": (regression, compiling("sgd", "mse", metrics=["auc"]), V, "auc"),
    "accuracy of several labels": (
        lambda: labeller(metrics=["accuracy"])._replace(y=HOT),
        fit(X, SEVERAL), V, "accuracy", "'binary_accuracy'",
    ),
    "f1 of several labels": (
        lambda: labeller(metrics=["f1"])._replace(y=HOT),
        fit(X, SEVERAL), V, "f1", "threshold=0.5",
    ),
    "averaged precision of several labels": (
        lambda: labeller(metrics=[dl.metrics.Precision(average="macro")])._replace(y=HOT),
        fit(X, SEVERAL), V, "precision", "threshold=0.5",
    ),
    "a metric of another shape": (
        lambda: classifier(metrics=["mae"])._replace(y=HOT), fit(X, LABELS), V, "shape", "mae",
    ),
    "loss_weights too many": (regression, compiling("sgd", "mse", loss_weights=[1, 2]), V, "2"),
    "loss_weights nan": (regression, compiling("sgd", "mse", loss_weights=nan), V, "nan"),
    "loss_weights text": (regression, compiling("sgd", "mse", loss_weights="a"), V, "'a'"),
    "an unknown device": (regression, compiling("sgd", "mse", device="cppu"), V, "mean 'cpu'"),
    "no device": (regression, compiling("sgd", "mse", device=None), V, "None"),
    "an unknown precision": (
        regression, compiling("sgd", "mse", precision="fp16"), V, "mean 'float16'",
    ),
    "precision in a list": (regression, compiling("sgd", "mse", precision=[16]), V, "16"),
    "clip_norm -1": (regression, compiling("sgd", "mse", clip_norm=-1), V, "clip_norm=-1"),
    "clip_norm text": (regression, compiling("sgd", "mse", clip_norm="a"), V, "clip_norm='a'"),
    "clip_value 0": (regression, compiling("sgd", "mse", clip_value=0), V, "clip_value=0"),
    "accumulate 0": (regression, compiling("sgd", "mse", accumulate=0), V, "accumulate=0"),
    "accumulate 1.5": (regression, compiling("sgd", "mse", accumulate=1.5), V, "accumulate=1.5"),
    "a schedule by name": (regression, compiling("sgd", "mse", schedule="cosine"), T, "'cosine'"),
    "a schedule that gives a number": (
        regression, compiling("sgd", "mse", schedule=lambda o: 3), T, "int",
    ),
    "a scheduler of torch's class": (
        regression, compiling("sgd", "mse", schedule=torch.optim.lr_scheduler.StepLR), T, "StepLR",
    ),
    "strict as text": (regression, compiling("sgd", "mse", strict="no"), V, "strict='no'"),
    "jit as text": (regression, compiling("sgd", "mse", jit="yes"), V, "jit='yes'"),
    "evaluate with batch_size 0": (
        regression, lambda m: m.evaluate(X, Y, batch_size=0), V, "batch_size=0",
    ),
    "evaluate without y": (regression, lambda m: m.evaluate(X), V, "y=None"),
    "evaluate with nan": (regression, lambda m: m.evaluate(filled(X, 0, nan), Y), V, "nan"),
    "evaluate with wide targets": (
        regression, lambda m: m.evaluate(X, np.ones((N, 2)), verbose=0), V, r"\(N, 2\)",
    ),
    "evaluate with other labels": (
        classifier, lambda m: m.evaluate(X, LABELS + 1, verbose=0), V, "1 to 3",
    ),
    "predict with batch_size -1": (
        regression, lambda m: m.predict(X, batch_size=-1), V, "batch_size=-1",
    ),
    "predict without x": (regression, lambda m: m.predict(None), T, "x=None"),
    "predict with nan": (regression, lambda m: m.predict(filled(X, (2, 1), nan)), V, "row 2"),
    "predict too narrow": (regression, lambda m: m.predict(X[:, :3]), V, r"\(20, 3\)", "dense"),
    "predict of an empty array": (regression, lambda m: m.predict(X[:0]), V, "empty"),
    "predict an index beyond the table": (reader, lambda m: m.predict(WORDS + 1), V, "0 … 9"),
    "predict too many steps": (regression, lambda m: m.predict(X, steps=9), V, "^steps=9", "most"),
    "predict of one row without the batch's axis": (
        regression, lambda m: m.predict(X[0]), V, r"Write x\[None\]",
    ),
    "predict of one picture without the batch's axis": (
        viewer, lambda m: m.predict(PICTURES[0]), V, r"Write x\[None\]",
    ),
    "train_on_batch of other lengths": (regression, lambda m: m.train_on_batch(X, Y[1:]), V, "19"),
    "train_on_batch with nan": (
        regression, lambda m: m.train_on_batch(X, filled(Y, 4, nan)), V, "row 4",
    ),
    "test_on_batch without y": (regression, lambda m: m.test_on_batch(X), V, "y=None"),
    "set_weights too few": (regression, lambda m: m.set_weights(m.get_weights()[:-1]), V, "3", "4"),
    "set_weights of other shapes": (
        regression, lambda m: m.set_weights(classifier().model.get_weights()), V, r"\(3, 8\)",
    ),
    "get_layer mistyped": (regression, lambda m: m.get_layer("dens"), V, "Did you mean 'dense'"),
    "get_layer too high": (regression, lambda m: m.get_layer(index=9), V, "9", "0 … 1"),
}  # fmt: skip


def frozen():
    made = regression()
    made.model.trainable = False
    return made


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.filterwarnings("ignore:predict was called before fit:UserWarning")
def test_arguments_are_refused(name):
    make, do, kind, *words = ARGUMENTS[name]
    refusal(make(), do, kind, words)


# what is made: exception, words
MAKING = {
    "units -1": (lambda: dl.Dense(-1), V, "units=-1"),
    "units 0": (lambda: dl.Dense(0), V, "units=0"),
    "units 2.5": (lambda: dl.Dense(2.5), V, "units=2.5"),
    "units 3.0 of NumPy": (lambda: dl.Dense(np.float64(3)), V, "3.0"),
    "units as text": (lambda: dl.Dense("8"), V, "units='8'"),
    "units an array": (lambda: dl.Dense(np.array([3])), V, "units"),
    "an unknown activation": (lambda: dl.Dense(3, "rellu"), V, "Did you mean 'relu'"),
    "an activation by number": (lambda: dl.Dense(3, 7), T, "activation=7"),
    "an unknown initializer": (
        lambda: dl.Dense(3, kernel_initializer="glorot"), V, "Did you mean 'glorot_",
    ),
    "an unknown regularizer": (lambda: dl.Dense(3, kernel_regularizer="l3"), V, "mean 'l2'"),
    "a negative input_shape": (lambda: dl.Dense(3, input_shape=(-4,)), V, "-4"),
    "a broken input_shape": (lambda: dl.Dense(3, input_shape=(4.5,)), V, "4.5"),
    "a dropout of 1.5": (lambda: dl.Dropout(1.5), V, "1.5"),
    "a dropout as text": (lambda: dl.Dropout("a"), V, "'a'"),
    "a kernel of 0": (lambda: dl.Conv2D(4, 0), V, "0"),
    "an unknown padding": (lambda: dl.Conv2D(4, 3, padding="sane"), V, "Did you mean 'same'"),
    "a table of -1 rows": (lambda: dl.Embedding(-1, 3), V, "-1"),
    "a class as a layer": (lambda: dl.Sequential([dl.Dense]), T, "Dense"),
    "a number as a layer": (lambda: dl.Sequential([3]), T, "3", "Lambda"),
    "a number as layers": (lambda: dl.Sequential(3), T, "3", "list"),
    "a class as a network": (lambda: dl.Model(nn.Linear), T, "nn.Module"),
    "layers of one name": (
        lambda: dl.Sequential([dl.Dense(3, name="a"), dl.Dense(3, name="a")]), V, "'a'",
    ),
    "layers that do not fit": (
        lambda: dl.Sequential([dl.Dense(3, input_dim=4), dl.Conv2D(4, 3)]), V, "Conv2D", "3",
    ),
    "an input that comes late": (lambda: dl.Sequential([dl.Dense(3), dl.Input(4)]), V, "first"),
    "label smoothing of 1": (lambda: losses.BinaryCrossentropy(label_smoothing=1), V, "1"),
    "patience -1": (lambda: callbacks.EarlyStopping(patience=-1), V, "patience=-1"),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKING)
def test_what_cannot_be_made_is_refused(name):
    make, kind, *words = MAKING[name]
    with pytest.raises(kind) as caught:
        make()
    for word in [*words, "expect|Choose from"]:
        assert re.search(word, str(caught.value)), str(caught.value)
    assert len(str(caught.value)) <= 600
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert sum(frame.filename.startswith(EASYDL) for frame in frames) <= 6


def test_units_may_be_whole_numbers_of_numpy_and_torch():
    for units in (np.int64(3), np.uint8(3), torch.tensor(3)):
        assert dl.Dense(units).out_features == 3


# -- streams that are refused ----------------------------------------------------------------------


class Rows(Dataset):
    """A map-style dataset of a function of the index."""

    def __init__(self, row, length=N):
        self.row, self.length = row, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.row(index)


class Indexed:
    """A function of the index that says no more of itself."""

    __init__, __len__, __getitem__ = Rows.__init__, Rows.__len__, Rows.__getitem__


class Flow(IterableDataset):
    """Rows one after the other, with a length that may be wrong."""

    def __init__(self, rows=N, length=None):
        self.rows, self.length = rows, length

    def __iter__(self):
        return ((X[i], Y[i]) for i in range(self.rows))

    def __len__(self):
        if self.length is None:
            raise TypeError
        return self.length


def batches(y=Y, x=X, **replaced):
    """Four batches of five rows; batch 3 may be another: ``batches(third=(x, y))``."""
    found = [(x[i : i + 5], y[i : i + 5]) for i in range(0, N, 5)]
    if replaced:
        found[2] = replaced["third"]
    return iter(found)


def row(i):
    return X[i], Y[i]


def row_but(index, other):
    """Rows that are fine but for one, which is ``other(index)``."""
    return lambda i: other(i) if i == index else (X[i], Y[i])


def boom(*_):
    raise ArithmeticError("in the user's code")


def third(*batch, **options):
    return stream(lambda: batches(third=batch if len(batch) > 1 else batch[0]), **options)


def loader(data, **options):
    return lambda: DataLoader(data, batch_size=4, **options)


R = RuntimeError
# id: model, what is tried, exception, words; "late" where the first batches are good
STREAMS = {
    "no batch": (regression, stream(lambda: iter([])), V, "no batch"),
    "a loader that drops all": (
        regression,
        stream(lambda: DataLoader(Rows(row), batch_size=32, drop_last=True)), V, "no batch",
    ),
    "an empty Dataset": (regression, stream(lambda: Rows(row, 0)), V, "no batch"),
    "an empty IterableDataset": (regression, stream(lambda: Flow(0)), V, "no batch"),
    "a function that gives nothing": (regression, stream(lambda: lambda: None), R, "NoneType"),
    "a function of an argument": (
        regression, stream(lambda: lambda n: batches()), R, "argument", "batch 1 of epoch 1",
    ),
    "inputs alone": (regression, stream(lambda: iter([X])), V, "inputs only"),
    "rows instead of batches": (regression, stream(lambda: zip(X, Y)), V, "single target", "batch"),
    "four parts": (regression, stream(lambda: iter([(X, Y, Y, Y)])), V, "4 parts"),
    "dicts": (regression, stream(lambda: Rows(lambda i: {"x": X[i], "y": Y[i]})), V, "dict"),
    "labels as strings": (
        classifier, stream(lambda: Rows(lambda i: (X[i], "abc"[LABELS[i]]))), T, "text", "'a'",
    ),
    "labels missing": (regression, stream(lambda: Rows(lambda i: (X[i], None))), R, "NoneType"),
    "rows too narrow": (
        regression, stream(lambda: Rows(lambda i: (X[i, :3], Y[i]))), V, "3", "dense", "4",
    ),
    "numbers for rows": (regression, stream(lambda: Rows(lambda i: (X[i, 0], Y[i]))), V, "dense"),
    "labels from 1": (
        classifier, stream(lambda: batches(LABELS + 1)), V,
        "^batch 1 of x: y has labels from 1 to 3", "write y - 1",
    ),
    "weights for each output of a batch": (
        forked, stream(lambda: [(X, {"kind": LABELS, "size": Y}, {"kind": Y, "size": Y})]), T,
        "weights of batch 1 of x is a dict", "loss_weights",
    ),
    "batches by index, which may be samples": (
        classifier, stream(lambda: Indexed(lambda i: (X[5 * i :][:5], LABELS[5 * i :][:5]), 4)), V,
        r"Indexed whose items, of shapes \(5, 4\), \(5,\)", "on_epoch_end", r"\[x\[i\] for i",
    ),
    "batches by index for predict": (
        classifier, lambda m: m.predict(Indexed(lambda i: (X, LABELS), 2)), V, "whole batches",
    ),
    "a label below 0 in the third batch": (
        classifier, stream(lambda: batches(LABELS, third=(X[:5], LABELS[:5] - 1))), V,
        "batch 3", "-1 to", "0 … 2", "late",
    ),
    "nan in the third batch": (
        regression, third(filled(X[:5], (2, 1), nan), Y[:5]), V,
        "batch 3", "row 2, column 1", "late",
    ),
    "nan in the targets of the third batch": (
        regression, third(X[:5], filled(Y[:5], 2, nan)), V, "batch 3", "row 2", "late",
    ),
    "a third batch too narrow": (regression, third(X[:5, :3], Y[:5]), V, "batch 3", "3", "late"),
    "a third batch too narrow for torch": (
        wrapped, third(X[:5, :3], Y[:5]), (V, R), "3", "batch 3|mat1", "late",
    ),
    "a third batch of wide targets": (
        regression, third(X[:5], np.ones((5, 2))), V, "batch 3", r"\(N, 2\)", "late",
    ),
    "a third batch of other lengths": (regression, third(X[:5], Y[:4]), V, "batch 3", "late"),
    "an empty third batch": (regression, third(X[:0], Y[:0]), V, "batch 3", "empty", "late"),
    "a third batch without targets": (regression, third(X[:5]), V, "batch 3", "targets", "late"),
    "weights in the third batch": (
        regression, third(X[:5], Y[:5], Y[:5] ** 2), V, "batch 3", "weights", "late",
    ),
    "None as the third batch": (regression, third(None), T, "batch 3", "NoneType", "late"),
    "an index beyond the table in the third batch": (
        reader, stream(lambda: batches(Y, WORDS, third=(WORDS[:5] + 5, Y[:5]))), V, "0 … 9", "late",
    ),
    "an index beyond the table of a later batch of two inputs": (
        paired,
        stream(lambda: iter([((WORDS, X), Y), ((WORDS + 5, X), Y)])), V, "batch 2", "0 … 9", "late",
    ),
    "weights below 0": (regression, stream(lambda: iter([(X, Y, -np.ones(N))])), V, "-1"),
    "weights nan": (regression, stream(lambda: iter([(X, Y, np.full(N, nan))])), V, "nan"),
    "a Dataset that raises": (
        regression, stream(lambda: Rows(row_but(13, boom)), batch_size=5), R,
        "batch 3 of epoch 1", "ArithmeticError: in the user's code", "late",
    ),
    "a Dataset of ragged rows": (
        regression, stream(lambda: Rows(row_but(13, lambda i: (X[i, :3], Y[i]))), batch_size=5), R,
        "batch 3", "equal size", "late",
    ),
    "a Dataset longer than it is": (
        regression, stream(lambda: Rows(lambda i: (list(X)[i], Y[i]), N + 9), batch_size=10), R,
        "batch 3", "IndexError", "late",
    ),
    "a generator that raises": (
        regression, stream(lambda: (b if i < 2 else boom() for i, b in enumerate(batches()))), R,
        "batch 3 of epoch 1", "ArithmeticError", "late",
    ),
    "an IterableDataset shorter than it says": (
        regression, stream(lambda: Flow(N, 99), batch_size=5), V, "after 4 batches", "20", "late",
    ),
    "a generator shorter than steps_per_epoch": (
        regression, stream(batches, steps_per_epoch=7), V, "after 4 batches", "expected 7", "late",
    ),
    "a generator that ends in the second epoch": (
        regression, stream(batches, steps_per_epoch=3, epochs=2), V,
        "after 1 batches in epoch 2", "expected 3", "late",
    ),
    "a generator for two epochs": (
        regression, stream(batches, epochs=2), V, "epoch 2", "only once", "function", "late",
    ),
    "a generator that ends as validation": (
        regression, fit(validation_data=batches(), epochs=2), V, "epoch 2", "function", "late",
    ),
    "validation_steps too many": (
        regression, fit(validation_data=(X, Y), validation_steps=9), V,
        "validation_steps=9", "at most 1",
    ),
    "validation_steps too many for a loader": (
        regression, fit(validation_data=[(X, Y)], validation_steps=9), V,
        "after 1 batches", "Write validation_steps=1", "late",
    ),
    "a worker that raises": (
        regression, stream(loader(Rows(row_but(13, boom)), num_workers=2)), R,
        "batch 4 of epoch 1", "worker", "in the user's code", "late",
    ),
    "a worker that is killed": (
        regression, stream(loader(Rows(row_but(13, lambda i: die())), num_workers=2)), R,
        "worker", "late",
    ),
    "a worker that exits": (
        regression, stream(loader(Rows(row_but(13, lambda i: os._exit(1))), num_workers=1)), R,
        "worker", "late",
    ),
    "a worker that is killed while predicting": (
        regression,
        lambda m: m.predict(DataLoader(Rows(row_but(13, lambda i: die())), 4, num_workers=2)), R,
        "worker", "late",
    ),
    "a loader that shuffles, while predicting": (
        regression, lambda m: m.predict(DataLoader(Rows(row), 4, shuffle=True)), V,
        "RandomSampler", "shuffle=False",
    ),
    "a worker that raises at once": (
        regression, stream(loader(Rows(boom), num_workers=2)), R, "batch 1 of epoch 1", "worker",
    ),
    "a worker that cannot start": (
        regression, stream(loader(Rows(row), num_workers=1, worker_init_fn=boom)), R, "worker",
    ),
}  # fmt: skip


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.filterwarnings("ignore:predict was called before fit:UserWarning")
def test_streams_are_refused(name):
    make, do, kind, *words = STREAMS[name]
    late = words[-1] == "late"
    refusal(make(), do, kind, words[: -1 if late else None], late)


# -- what is odd and handled -----------------------------------------------------------------------


def loaded(**options):
    return DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), **options)


def grown(array):
    """The same numbers with strides of two rows."""
    return np.repeat(array, 2, axis=0)[::2]


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def custom(y_true, y_pred):
    """A loss as Keras writes it; not symmetric, so that a swap shows."""
    return ((y_pred - 2 * y_true) ** 2).mean(-1)


class Custom:
    """The same as an object."""

    def __call__(self, y_true, y_pred):
        return custom(y_true, y_pred)


def recompiled(*args, **options):
    """compile anew, then fit on 0/1 targets."""
    y = options.pop("y", BITS)

    def do(model):
        model.compile(*args, device="cpu", **options)
        return fit(X, y)(model)

    return do


def evaluated(*args, **options):
    return lambda model: model.evaluate(*args, verbose=0, **options)


def predicted(x=X, **options):
    return lambda model: (model.fit(X, Y, verbose=0), model.predict(x, **options))[1]


def fitted_table(model):
    model.fit(FRAME, SERIES, verbose=0)
    return model


HANDLED = {
    # id: model, what is odd, the clean call that must give the same numbers
    "targets (N, 1)": (regression, fit(X, Y[:, None]), fit()),
    "targets (N, 1) in torch": (wrapped, fit(X, Y[:, None]), fit()),
    "targets (N, 1, 1)": (regression, fit(X, Y[:, None, None]), fit()),
    "a list of as many rows as columns": (
        regression, fit(list(X[:4]), Y[:4]), fit(X[:4], Y[:4]),
    ),
    "labels (N, 1)": (classifier, fit(X, LABELS[:, None]), fit(X, LABELS)),
    "labels as floats": (classifier, fit(X, LABELS.astype("float64")), fit(X, LABELS)),
    "labels as uint8": (classifier, fit(X, LABELS.astype("uint8")), fit(X, LABELS)),
    "labels as uint64": (classifier, fit(X, LABELS.astype("uint64")), fit(X, LABELS)),
    "labels in a list": (classifier, fit(X, LABELS.tolist()), fit(X, LABELS)),
    "labels as a list of tensors": (
        classifier, fit(X, list(torch.tensor(LABELS))), fit(X, LABELS),
    ),
    "labels as categories": (
        classifier, fit(FRAME, pd.Series(LABELS).astype("category")), fit(X, LABELS),
    ),
    "one-hot for an index loss": (classifier, fit(X, HOT), fit(X, LABELS)),
    "one-hot as bool": (classifier, fit(X, HOT.astype(bool)), fit(X, LABELS)),
    "one-hot as int": (classifier, fit(X, HOT.astype(int)), fit(X, LABELS)),
    "labels for a one-hot loss": (
        lambda: classifier("categorical_crossentropy"), fit(X, LABELS), fit(X, HOT),
    ),
    "one-hot for torch's index loss": (
        lambda: classifier(nn.CrossEntropyLoss(), None), fit(X, HOT), fit(X, LABELS),
    ),
    "one-hot for NLLLoss": (
        lambda: classifier(nn.NLLLoss(), "log_softmax"), fit(X, HOT), fit(X, LABELS),
    ),
    "labels of a sequence": (
        tagger, fit(STEPS, STEP_LABELS), fit(STEPS, np.eye(3)[STEP_LABELS]),
    ),
    "labels of a sequence (N, T, 1)": (
        tagger, fit(STEPS, STEP_LABELS[..., None]), fit(STEPS, STEP_LABELS),
    ),
    "bits as bool": (binary, fit(X, BITS.astype(bool)), fit(X, BITS)),
    "bits (N, 1)": (binary, fit(X, BITS[:, None].astype("int8")), fit(X, BITS)),
    "0/1 for hinge": (lambda: regression("hinge"), fit(X, BITS), fit(X, 2 * BITS - 1)),
    "int targets of a regression": (regression, fit(X, LABELS), fit(X, LABELS.astype("float32"))),
    "int targets of a loss of one's own": (
        lambda: regression(lambda p, y: ((p - y) ** 2).mean()), fit(X, LABELS),
        lambda m: (m.compile("sgd", "mse", device="cpu"), fit(X, LABELS)(m))[1],
    ),
    "constant targets": (regression, fit(X, np.ones(N, int)), fit(X, np.ones((N, 1)))),
    "float64": (regression, fit(X.astype("float64"), Y.astype("float64")), fit()),
    "float128": (regression, fit(X.astype("longdouble"), Y.astype("longdouble")), fit()),
    "float16": (
        regression, fit(X.astype("float16")), fit(X.astype("float16").astype("float32")),
    ),
    "bfloat16": (
        regression, fit(torch.tensor(X).bfloat16()), fit(torch.tensor(X).bfloat16().float()),
    ),
    "uint8": (regression, fit((X > 0).astype("uint8")), fit((X > 0).astype("float32"))),
    "uint16": (
        regression, fit((9 * abs(X)).astype("uint16")), fit((9 * abs(X)).astype("uint16") * 1.0),
    ),
    "bool": (regression, fit(X > 0), fit((X > 0).astype("float32"))),
    "int64 beyond float32's whole numbers": (
        lambda: regression(optimizer=optimizers.SGD(1e-20)),
        fit(np.full((N, 4), 2**24 + 1)), fit(np.full((N, 4), 2.0**24)),
    ),
    "big-endian": (regression, fit(X.astype(">f4"), Y.astype(">f8")), fit()),
    "read-only": (regression, fit(read_only(X), read_only(Y)), fit()),
    "Fortran order": (regression, fit(np.asfortranarray(X)), fit()),
    "negative strides": (regression, fit(X[::-1].copy()[::-1], Y[::-1].copy()[::-1]), fit()),
    "odd strides": (regression, fit(grown(X), grown(Y)), fit()),
    "a transposed tensor": (regression, fit(torch.tensor(X.T.copy()).T), fit()),
    "a tensor that tracks gradients": (
        regression, fit(torch.tensor(X, requires_grad=True) * 1), fit(),
    ),
    "a parameter": (regression, fit(nn.Parameter(torch.tensor(X))), fit()),
    "nested lists": (regression, fit(X.tolist(), Y.tolist()), fit()),
    "tuples of tuples": (regression, fit(tuple(map(tuple, X.tolist())), tuple(Y)), fit()),
    "lists of arrays": (regression, fit(list(X), list(Y)), fit()),
    "lists of arrays (1,)": (regression, fit(list(X), list(Y[:, None])), fit()),
    "lists of tensors": (regression, fit(list(torch.tensor(X)), list(torch.tensor(Y))), fit()),
    "a tuple of one input": (regression, fit((X,)), fit()),
    "a masked array without a mask": (regression, fit(np.ma.masked_array(X)), fit()),
    "a table": (regression, fit(FRAME, SERIES), fit()),
    "a table of nullable numbers": (regression, fit(FRAME.astype("Float64"), SERIES), fit()),
    "a table with an index of its own": (
        regression, fit(FRAME.set_index(SERIES), SERIES.set_axis(SERIES)), fit(),
    ),
    "a table and an array": (regression, fit(FRAME[::-1], Y), fit(X[::-1])),
    "a table of two columns of one name": (
        regression, fit(pd.DataFrame(X, columns=list("aacd")), SERIES), fit(),
    ),
    "a table whose columns come in another order": (
        regression,
        lambda m: fitted_table(m).predict(FRAME[list("dbca")]),
        lambda m: fitted_table(m).predict(X),
    ),
    "validation in another order of columns": (
        regression, fit(FRAME, SERIES, validation_data=(FRAME[list("dbca")], SERIES)),
        fit(validation_data=(X, Y)),
    ),
    "a table of one column": (regression, fit(FRAME, SERIES.to_frame()), fit()),
    "a TensorDataset": (regression, stream(lambda: loaded().dataset), fit()),
    "a Dataset of float64 and floats": (
        regression, stream(lambda: Rows(lambda i: (X[i].astype("f8"), float(Y[i])))), fit(),
    ),
    "an IterableDataset": (regression, stream(Flow, batch_size=5), fit(batch_size=5)),
    "an IterableDataset that says too little": (
        regression, stream(lambda: Flow(N, 10), batch_size=5), fit(X[:10], Y[:10], batch_size=5),
    ),
    "a loader": (regression, stream(lambda: loaded(batch_size=5)), fit(batch_size=5)),
    "a loader that drops the last rows": (
        regression, stream(lambda: loaded(batch_size=6, drop_last=True)),
        fit(X[:18], Y[:18], batch_size=6),
    ),
    "a loader of an IterableDataset with a wrong length": (
        regression, stream(lambda: DataLoader(Flow(N, 3), batch_size=5)), fit(batch_size=5),
    ),
    "a loader with workers": (
        regression, stream(lambda: loaded(batch_size=5, num_workers=2)), fit(batch_size=5),
    ),
    "batch_size None": (regression, fit(batch_size=None), fit(batch_size=32)),
    "a generator": (regression, stream(batches), fit(batch_size=5)),
    "rows by index": (regression, stream(lambda: Indexed(row), batch_size=5), fit(batch_size=5)),
    "sequences of one label by index": (
        reader, stream(lambda: Indexed(lambda i: (WORDS[i], Y[i]))), fit(WORDS, Y),
    ),
    "a generator for two epochs of two steps": (
        regression, stream(batches, steps_per_epoch=2, epochs=2),
        lambda m: {"loss": [fit(X[i : i + 10], Y[i : i + 10], batch_size=5)(m).history["loss"][0]
                            for i in (0, 10)]},
    ),
    "a function that makes generators": (
        regression, stream(lambda: batches, epochs=2), fit(batch_size=5, epochs=2),
    ),
    "a list of batches": (
        regression, stream(lambda: list(batches()), epochs=2), fit(batch_size=5, epochs=2),
    ),
    "a map": (regression, stream(lambda: map(lambda b: b, batches())), fit(batch_size=5)),
    "validation_data as a list": (
        regression, fit(validation_data=[X, Y]), fit(validation_data=(X, Y)),
    ),
    "validation_data as batches": (
        regression, fit(validation_data=list(batches())), fit(validation_data=(X, Y)),
    ),
    "validation_data as two batches": (
        regression, fit(validation_data=[(X[:9], Y[:9]), (X[9:], Y[9:])]),
        fit(validation_data=(X, Y)),
    ),
    "validation_data as a Dataset": (
        regression, fit(validation_data=loaded().dataset), fit(validation_data=(X, Y)),
    ),
    "validation labels one-hot": (
        classifier, fit(X, LABELS, validation_data=(X, HOT)),
        fit(X, LABELS, validation_data=(X, LABELS)),
    ),
    "a batch larger than the data": (regression, fit(batch_size=10**9), fit(batch_size=20)),
    "batch_size of NumPy": (regression, fit(batch_size=np.int64(5)), fit(batch_size=5)),
    "shuffle as 0": (regression, fit(shuffle=0), fit()),
    "initial_epoch at the end": (
        regression, lambda m: fit(initial_epoch=2, epochs=2)(m).history, lambda m: {},
    ),
    "a last batch of 1 for BatchNormalization": (
        normalised, fit(X[:9], Y[:9], batch_size=4),
        stream(lambda: iter([(X[:4], Y[:4]), (X[4:9], Y[4:9])])),
    ),
    "a last batch of 1 of a generator": (
        normalised, stream(lambda: iter([(X[:4], Y[:4]), (X[4:8], Y[4:8]), (X[8:9], Y[8:9])])),
        fit(X[:9], Y[:9], batch_size=4),
    ),
    "a last batch of 1 of a loader": (
        normalised,
        stream(lambda: DataLoader(Rows(row, 9), batch_size=4)), fit(X[:9], Y[:9], batch_size=4),
    ),
    "indices as floats": (reader, fit(WORDS.astype("float32"), Y), fit(WORDS, Y)),
    "indices as uint8": (reader, fit(WORDS.astype("uint8"), Y), fit(WORDS, Y)),
    "indices as uint16": (reader, fit(WORDS.astype("uint16"), Y), fit(WORDS, Y)),
    "indices in lists": (reader, fit(WORDS.tolist(), Y), fit(WORDS, Y)),
    "two inputs in a list": (paired, fit([WORDS, X]), fit((WORDS, X))),
    "two inputs by name in another order": (
        paired, fit({"numbers": X, "words": WORDS}), fit((WORDS, X)),
    ),
    "two targets in a tuple": (
        forked, fit(X, (LABELS, Y)), fit(X, {"kind": LABELS, "size": Y}),
    ),
    "two targets by name in another order": (
        forked, fit(X, {"size": Y, "kind": LABELS}), fit(X, {"kind": LABELS, "size": Y}),
    ),
    "weights for two outputs": (
        forked, fit(X, (LABELS, Y), sample_weight=[2] * N),
        lambda m: {
            name: np.multiply(values, 2)
            for name, values in scaled(m, fit(X, (LABELS, Y)), lr=0.02).items()
        },
    ),
    "weights (N, 1)": (
        regression, fit(sample_weight=np.linspace(0, 1, N)[:, None]),
        fit(sample_weight=np.linspace(0, 1, N)),
    ),
    "weights as bool": (regression, fit(sample_weight=BITS > 0), fit(sample_weight=BITS * 1.0)),
    "class_weight as a list": (
        classifier, fit(X, LABELS, class_weight=[1, 2, 3]),
        fit(X, LABELS, class_weight={0: 1, 1: 2, 2: 3}),
    ),
    "class_weight by numbers of NumPy": (
        classifier, fit(X, LABELS, class_weight={np.int64(1): np.float32(2)}),
        fit(X, LABELS, class_weight={1: 2}),
    ),
    "class_weight of one-hot targets": (
        classifier, fit(X, HOT, class_weight={1: 2}), fit(X, LABELS, class_weight={1: 2}),
    ),
    "an empty class_weight": (classifier, fit(X, LABELS, class_weight={}), fit(X, LABELS)),
    "a loss as Keras writes it": (
        regression, compiling("sgd", custom),
        compiling("sgd", lambda y_pred, y_true: ((y_pred - 2 * y_true) ** 2).mean()),
    ),
    "a loss object as Keras writes it": (
        regression, compiling("sgd", Custom()), compiling("sgd", custom),
    ),
    "a loss as Keras writes it with weights": (
        lambda: regression(custom), fit(sample_weight=np.ones(N)), fit(),
    ),
    "a metric as Keras writes it": (
        regression, compiling("sgd", "mse", metrics=[custom]),
        lambda m: {k.replace("same", "custom"): v for k, v in
                   compiling("sgd", "mse", metrics=[same])(m).history.items()},
    ),
    "a loss of torch as a class": (
        regression, compiling("sgd", nn.MSELoss), compiling("sgd", "mse"),
    ),
    "a loss of torch as a function": (
        regression, compiling("sgd", F.mse_loss), compiling("sgd", "mse"),
    ),
    "a loss that is not reduced": (
        regression, compiling("sgd", nn.MSELoss(reduction="none")), compiling("sgd", "mse"),
    ),
    "names in capitals": (regression, compiling("SGD", "MSE"), compiling("sgd", "mse")),
    "one metric without a list": (
        regression,
        compiling("sgd", "mse", metrics="mae"), compiling("sgd", "mse", metrics=["mae"]),
    ),
    "loss_weights of one output": (
        regression, lambda m: compiling("sgd", "mse", loss_weights=2)(m).history,
        lambda m: {"loss": np.multiply(
            compiling(optimizers.SGD(0.02), "mse")(m).history["loss"], 2)},
    ),
    "softmax and mse": (
        lambda: classifier("mse"), fit(X, HOT), fit(X, HOT.astype(bool)),
    ),
    "a softmax of two and binary_crossentropy": (
        lambda: wrapped("binary_crossentropy", 2, nn.Softmax(dim=1)),
        fit(X, np.eye(2)[BITS]), fit(X, np.eye(2)[BITS] > 0),
    ),
    "a sigmoid less for binary_crossentropy": (
        lambda: binary(activation=None), fit(X, BITS), recompiled("sgd", nn.BCEWithLogitsLoss()),
    ),
    "a softmax less for crossentropy": (
        lambda: classifier(activation=None), fit(X, LABELS),
        recompiled("sgd", nn.CrossEntropyLoss(), y=LABELS),
    ),
    "evaluate in batches of 3": (
        lambda: regression(metrics=["mae", "rmse"]), evaluated(X, Y, 3), evaluated(X, Y, 20),
    ),
    "evaluate classes in batches of 3": (
        lambda: classifier(metrics=["accuracy"]),
        evaluated(X, HOT, 3), evaluated(X, LABELS, 20),
    ),
    "hinge and accuracy": (
        lambda: regression("hinge", metrics=["accuracy", "hinge"]),
        lambda m: m.evaluate(X, BITS, verbose=0),
        lambda m: hinge_by_hand(m),
    ),
    "predict one row": (
        regression, predicted(X[3:4]), lambda m: predicted()(m)[3:4],
    ),
    "predict float64 in batches of 3": (
        regression, predicted(X.astype("float64"), batch_size=3), predicted(),
    ),
    "predict from a loader": (regression, predicted(loaded(batch_size=3)), predicted()),
    "fit twice": (
        regression, lambda m: {"loss": [fit()(m).history["loss"][0] for _ in range(2)]},
        fit(epochs=2),
    ),
    "optimizer as torch's own object": (
        regression,
        lambda m: compiling(torch.optim.SGD(m.parameters(), lr=0.01), "mse")(m), fit(),
    ),
}  # fmt: skip


def same(y_pred, y_true):
    return custom(y_true, y_pred)


def scaled(model, do, lr):
    """The history of ``do`` at another learning rate."""
    model.learning_rate = lr
    return do(model).history


def hinge_by_hand(model):
    outputs = model(torch.tensor(X)).detach().numpy()[:, 0]
    signs = 2 * BITS - 1
    loss = np.maximum(1 - signs * outputs, 0).mean()
    return [loss, ((outputs > 0) == BITS).mean(), loss]


@pytest.mark.parametrize("name", HANDLED)
def test_odd_input_is_handled(name):
    handled(*HANDLED[name])


# -- every loss against every last activation ------------------------------------------------------

SMOOTH = 0.1 + 0.8 * HOT  # targets strictly between 0 and 1
COUNTS = GENERATOR.integers(1, 5, size=(N, 3)).astype("float32")
SIGNS = 2 * HOT - 1


def normal(outputs):
    """Rows that sum to 1, as probabilities of classes."""
    return np.exp(outputs - outputs.max(1, keepdims=True)) / np.exp(
        outputs - outputs.max(1, keepdims=True)
    ).sum(1, keepdims=True)


def cross(p, y):
    return -(y * np.log(p)).sum(1).mean()


def bits(p, y):
    return -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()


def squash(outputs):
    return 1 / (1 + np.exp(-outputs))


# loss: targets, its formula in NumPy by the last activation ("." for the outputs as they are), and
# what must happen after: linear, softmax, sigmoid, relu, tanh, log_softmax
# ("." the formula's number, "l" the formula's number for logits, "x" refused)
ENDINGS = ["linear", "softmax", "sigmoid", "relu", "tanh", "log_softmax"]
PAIRS = {
    "mse": ("mse", SMOOTH, lambda p, y: ((p - y) ** 2).mean(), "..... x"),
    "mae": ("mae", SMOOTH, lambda p, y: abs(p - y).mean(), "..... x"),
    "mape": ("mape", SMOOTH, lambda p, y: 100 * (abs(p - y) / y).mean(), "..... x"),
    "msle": (
        "msle", SMOOTH,
        lambda p, y: ((np.log1p(np.maximum(p, 1e-7)) - np.log1p(y)) ** 2).mean(), "..... x",
    ),
    "huber": (
        "huber", SMOOTH,
        lambda p, y: np.where(abs(p - y) < 1, (p - y) ** 2 / 2, abs(p - y) - 0.5).mean(), "..... x",
    ),
    "log_cosh": ("log_cosh", SMOOTH, lambda p, y: np.log(np.cosh(p - y)).mean(), "..... x"),
    "poisson": ("poisson", SMOOTH, lambda p, y: (p - y * np.log(p + 1e-7)).mean(), "x... xx"),
    "kl_divergence": (
        "kld", np.float32([0.8, 0.1, 0.1])[(np.arange(3) - LABELS[:, None]) % 3],
        lambda p, y: (y * np.log(y / np.clip(p, 1e-7, 1))).sum(1).mean(), "x.. xxx",
    ),
    "cosine_similarity": (
        "cosine_similarity", SMOOTH,
        lambda p, y: -(
            (p * y).sum(1) / np.linalg.norm(p, axis=1) / np.linalg.norm(y, axis=1)
        ).mean(), "..... x",
    ),
    "hinge": ("hinge", SIGNS, lambda p, y: np.maximum(1 - y * p, 0).mean(), ".xxx .x"),
    "squared_hinge": (
        "squared_hinge", SIGNS, lambda p, y: (np.maximum(1 - y * p, 0) ** 2).mean(), ".xxx .x",
    ),
    "categorical_hinge": (
        "categorical_hinge", HOT,
        lambda p, y: np.maximum(((1 - y) * p).max(1) - (y * p).sum(1) + 1, 0).mean(), "..... .",
    ),
    "categorical_crossentropy": ("categorical_crossentropy", HOT, cross, "l.x xxl"),
    "sparse_categorical_crossentropy": (
        "sparse_categorical_crossentropy", LABELS, cross, "l.x xxl",
    ),
    "categorical_crossentropy of logits": (
        losses.CategoricalCrossentropy(from_logits=True), HOT, cross, "lxx xxl",
    ),
    "binary_crossentropy": ("binary_crossentropy", SEVERAL, bits, "b.. xxx"),
    "binary_crossentropy of logits": (
        losses.BinaryCrossentropy(from_logits=True), SEVERAL, bits, "bxx xxx",
    ),
    "nn.MSELoss": (nn.MSELoss(), SMOOTH, lambda p, y: ((p - y) ** 2).mean(), "..... x"),
    "nn.L1Loss": (nn.L1Loss(), SMOOTH, lambda p, y: abs(p - y).mean(), "..... x"),
    "nn.CrossEntropyLoss": (nn.CrossEntropyLoss(), LABELS, cross, "lxx lll"),
    "F.cross_entropy": (F.cross_entropy, LABELS, cross, "lxx lll"),
    "nn.BCEWithLogitsLoss": (nn.BCEWithLogitsLoss(), SEVERAL, bits, "bxx bbb"),
    "nn.BCELoss": (nn.BCELoss(), SEVERAL, bits, "x.. xxx"),
    "nn.NLLLoss": (nn.NLLLoss(), LABELS, lambda p, y: -(y * p).sum(1).mean(), "xxx xx."),
    "nn.KLDivLoss": (
        nn.KLDivLoss(reduction="batchmean"), SMOOTH / SMOOTH.sum(1, keepdims=True),
        lambda p, y: (y * (np.log(y) - p)).sum(1).mean(), "xxx xx.",
    ),
    "nn.PoissonNLLLoss": (
        nn.PoissonNLLLoss(), COUNTS, lambda p, y: (np.exp(p) - y * p).mean(), "..... .",
    ),
    "nn.SoftMarginLoss": (
        nn.SoftMarginLoss(), SIGNS, lambda p, y: np.log1p(np.exp(-y * p)).mean(), ".xxx .x",
    ),
    "nn.MultiLabelSoftMarginLoss": (nn.MultiLabelSoftMarginLoss(), SEVERAL, bits, "bxx bbb"),
    "Keras's crossentropy": (
        keras.losses.SparseCategoricalCrossentropy(), LABELS,
        lambda p, y: cross(p / p.sum(1, keepdims=True), y), "x.. xxx",
    ),
    "Keras's crossentropy of logits": (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True), LABELS, cross, "lxx lll",
    ),
    "Keras's binary crossentropy": (keras.losses.BinaryCrossentropy(), SEVERAL, bits, "x.. xxx"),
    "Keras's binary crossentropy, a function": (
        keras.losses.binary_crossentropy, SEVERAL, bits, "x.. xxx",
    ),
    "Keras's binary crossentropy of logits": (
        functools.partial(keras.losses.binary_crossentropy, from_logits=True), SEVERAL, bits,
        "bxx bbb",
    ),
    "a loss of one's own": (
        lambda p, y: ((p - y) ** 2).mean(), SMOOTH, lambda p, y: ((p - y) ** 2).mean(), "......",
    ),
    "a crossentropy of one's own": (
        lambda p, y: F.cross_entropy(p, y), LABELS, cross, "lxx lll",
    ),
    "a binary crossentropy of one's own": (
        lambda p, y: F.binary_cross_entropy_with_logits(p, y), SEVERAL, bits, "bxx bbb",
    ),
}  # fmt: skip
LAST = {
    "linear": None, "softmax": nn.Softmax(dim=1), "sigmoid": nn.Sigmoid(), "relu": nn.ReLU(),
    "tanh": nn.Tanh(), "log_softmax": nn.LogSoftmax(dim=1),
}  # fmt: skip


@pytest.mark.parametrize("how", ["layer", "torch"])
@pytest.mark.parametrize("name", PAIRS)
def test_every_loss_after_every_activation(name, how):
    loss, y, formula, cells = PAIRS[name]
    for ending, cell in zip(ENDINGS, cells.replace(" ", ""), strict=True):
        if how == "layer":
            made = classifier(loss, None if ending == "linear" else ending)
        else:
            made = wrapped(loss, 3, LAST[ending])
        model = made.model
        with torch.no_grad():
            list(model.parameters())[-1].copy_(torch.tensor([0.5, 0.1, 0.2]))
        if cell == "x":
            with Steps() as steps, pytest.raises(ValueError, match="expect") as caught:
                model.fit(X, y, verbose=0)
            assert steps.count == 0 and len(str(caught.value)) <= 600, ending
            continue
        outputs = model(torch.tensor(X)).detach().double().numpy()
        p = {"l": normal, "b": squash, ".": lambda outputs: outputs}[cell](outputs)
        expected = formula(p, HOT if y is LABELS else y)
        found = model.evaluate(X, y, verbose=0)
        assert found == pytest.approx(expected, rel=2e-5, abs=1e-6), ending
        first = model.fit(X, y, verbose=0).history["loss"][0]  # one batch: before the step
        assert first == pytest.approx(expected, rel=2e-5, abs=1e-6), ending


class Net(nn.Module):
    """A layer and what is done to its inputs and outputs."""

    def __init__(self, after=lambda y: y, before=lambda x: x, units=1):
        super().__init__()
        self.layer, self.before, self.after = nn.Linear(4, units), before, after

    def forward(self, x):
        return self.after(self.layer(self.before(x)))


def network(loss="mse", **options):
    """A network that is odd in one way; ``x=None``: no good data for it."""
    compiled = {key: options.pop(key) for key in list(options) if key == "metrics"}
    dl.seed(0)
    return setup(dl.Model(Net(**options)), loss, None, None, **compiled)


class Aux(Net):
    def forward(self, x):
        y = super().forward(x)
        return (y, y) if self.training else y


class OwnLoss(dl.Model):
    """A model with a loss of its own."""

    def __init__(self, result):
        super().__init__()
        self.layer, self.result = nn.Linear(4, 1), result

    def forward(self, x):
        return self.layer(x)

    def compute_loss(self, x, y, sample_weight=None):
        outputs = self(x)
        return self.result(((outputs[:, 0] - y) ** 2).mean(), outputs)


def own(result=lambda loss, outputs: (loss, outputs), **options):
    return setup(OwnLoss(result), None, None, None, **options)


def replaced(model):
    model.fit(X, Y, verbose=0)
    model.network[2] = nn.Linear(8, 1)
    return model


def ready(model):
    model.compile(torch.optim.SGD(model.parameters(), 0.1), "mse")
    return replaced(model).fit(X, Y, verbose=0)


NETWORKS = {
    "a network that writes on its inputs": (
        lambda: network(before=lambda x: x.mul_(2)), fit(), V, "in place", "clone",
    ),
    "a network of one number for the batch": (
        lambda: network(after=torch.mean), fit(), V, r"shape \(\)", "2 rows",
    ),
    "a network that loses rows": (lambda: network(after=lambda y: y[1:]), fit(), V, "2 rows"),
    "a network that loses rows while predicting": (
        lambda: network(after=lambda y: y[1:]), lambda m: m.predict(X), V, "20 rows",
    ),
    "a network that chooses the class": (
        lambda: network(after=lambda y: y.argmax(1), units=3), fit(X, LABELS), V, "Long|depend",
    ),
    "a network without gradient": (
        lambda: network(after=lambda y: y.detach()), fit(), V, "depend",
    ),
    "a network of another form in training": (
        lambda: setup(dl.Model(Aux()), "mse", None, None), fit(), V, "2 outputs", "aux_logits",
    ),
    "a layer that gives a state as well": (
        lambda: setup(dl.Sequential([nn.LSTM(4, 3, batch_first=True)]), "mse", None, None),
        fit(STEPS), T, "lstm", "easydl.LSTM",
    ),
    "a model without weights": (
        lambda: setup([nn.Flatten()], "mse", None, None), fit(X, X), V, "frozen",
    ),
    "half precision that overflows": (
        lambda: setup(dl.Model(nn.Linear(4, 1).half()), "mse", None, None),
        fit(X * 1e5), V, "float16",
    ),
    "metrics without a loss": (lambda: own(metrics=["mae"]), fit(), V, "metrics", "loss="),
    "class_weight for a loss of one's own": (own, fit(class_weight={0: 1}), V, "sample_weight"),
    "a network that takes two inputs": (
        lambda: setup(dl.Model(nn.Bilinear(4, 4, 1)), "mse", None, None),
        fit(), V, "its forward takes, input1, input2", "a tuple in this order",
    ),
    "a layer inside that takes two inputs": (
        lambda: setup(dl.Model(nn.Sequential(nn.Linear(4, 4), nn.Bilinear(4, 4, 1))), "mse", None,
                      None),
        fit(), V, r"layer network.1 \(Bilinear\)",
    ),
    "a network whose inputs go by other names": (
        lambda: setup(dl.Model(nn.Bilinear(4, 4, 1)), "mse", None, None),
        fit({"input1": X, "input3": X}), V, "its forward takes, input1, input2", "keys",
    ),
    "a loss of one's own with a text among its parts": (
        lambda: own(lambda loss, o: (loss, o, {"beta": "much"})), fit(), T, "beta", "number",
    ),
    "a loss of one's own alone": (lambda: own(lambda loss, o: loss), fit(), T, "compute_loss"),
    "a loss of one's own that is no tensor": (lambda: own(lambda _, o: (3.0, o)), fit(), T, "3.0"),
    "a loss of one's own for each row": (lambda: own(lambda _, o: (o, o)), fit(), T, "one number"),
}  # fmt: skip
for shown, form in {
    "tuple of Tensor, tuple": lambda y: (y, (y, y)),
    "dict of tuple": lambda y: {"a": (y, y)},
    "tuple of Tensor, NoneType": lambda y: (y, None),
    "tuple of nothing": lambda y: (),
    "NoneType": lambda y: None,
}.items():
    for verb, do in {"fits": fit(X, X), "predicts": lambda m: m.predict(X)}.items():
        NETWORKS[f"a {shown} that {verb}"] = (
            lambda form=form: network(after=form), do, T, f"returned a {shown};", "easydl.LSTM",
        )  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:predict was called before fit:UserWarning")
def test_odd_networks_are_refused(name):
    make, do, kind, *words = NETWORKS[name]
    refusal(make(), do, kind, words)


def test_a_network_that_squeezes_keeps_the_numbers():
    def without(model):
        model.network.after = lambda y: y
        return fit(batch_size=19)(model)

    handled(
        lambda: network(after=torch.squeeze, metrics=["mae"]),
        fit(batch_size=19),
        without,
    )


def test_a_layer_that_is_put_in_later_learns():
    model = replaced(wrapped().model)
    before = model.network[2].weight.clone()
    model.fit(X, Y, verbose=0)
    assert not torch.equal(model.network[2].weight, before)
    with pytest.raises(ValueError, match="2 are not the model's"):
        ready(wrapped().model)


def test_accuracy_knows_logits_by_the_loss_that_takes_them():
    def loss(p, y):
        return F.binary_cross_entropy_with_logits(p, y)

    model = regression(loss, metrics=["accuracy"]).model
    outputs = model(torch.tensor(X))[:, 0].detach().numpy()
    accuracy = model.evaluate(X, BITS, verbose=0)[1]
    assert accuracy == pytest.approx(((outputs > 0) == BITS).mean())


def test_softmax_over_another_axis_is_refused():
    for axis in (0, -2):
        made = wrapped("sparse_categorical_crossentropy", 3, nn.Softmax(dim=axis))
        refusal(made._replace(x=None), fit(X, LABELS), V, ["another axis", "nn.Softmax"])


def test_softmax_over_one_unit_is_refused():
    for loss in ("mse", "binary_crossentropy", "sparse_categorical_crossentropy", nn.L1Loss()):
        refusal(binary(loss, "softmax")._replace(x=None), fit(X, BITS), V, ["always 1"])


def test_strict_false_is_the_way_past_a_refusal():
    pairs = [
        (classifier(nn.CrossEntropyLoss(), strict=False), LABELS),
        (regression("mse", "relu", strict=False), Y),
        (regression(metrics=["accuracy"], strict=False), Y),
        (regression(strict=False), filled(Y, 0, nan)),
    ]
    for made, y in pairs:
        made.model.fit(X, y, verbose=0)


# -- what only training shows ----------------------------------------------------------------------


class Spoiled(dl.Layer):
    """Gives nan from the third training batch of the second epoch on."""

    def build(self, input_shape):
        self.calls, self.broken = 0, True
        self.built = True

    def call(self, x):
        if self.training:
            self.calls += 1
            if self.broken and self.calls >= 7:
                return x * float("nan")
        return x


def spoiled(**options):
    layers = [dl.Dense(4, input_shape=(4,)), Spoiled(), dl.Dense(1)]
    return setup(layers, "mse", X, Y, **options)


def test_a_loss_of_nan_stops_with_the_batch_named_and_everything_kept():
    model = spoiled().model
    model[0].eval()
    modes = [module.training for module in model.modules()]
    twin = spoiled().model
    twin.set_weights(model.get_weights())
    dl.seed(1)
    with pytest.raises(FloatingPointError, match="nan at epoch 2, batch 3") as caught:
        model.fit(X, Y, 5, epochs=3, verbose=0)
    assert re.search("expected.*learning rate", str(caught.value))
    assert len(str(caught.value)) <= 600
    assert len(model.history.history["loss"]) == 1 and model.history.epoch == [0]
    assert [module.training for module in model.modules()] == modes
    dl.seed(1)
    rows = 0

    def stop(batch, logs):
        nonlocal rows
        rows += 1
        if rows == 6:
            twin.stop_training = True

    twin[1].broken = False
    twin.fit(X, Y, 5, 3, callbacks=[callbacks.LambdaCallback(on_train_batch_end=stop)], verbose=0)
    for ours, theirs in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_array_equal(ours, theirs)  # the weights before the batch that failed
    model[1].broken = False
    assert np.isfinite(model.fit(X, Y, verbose=0).history["loss"]).all()


def test_a_learning_rate_that_explodes_is_stopped_with_finite_weights():
    model = regression(optimizer=optimizers.SGD(1e8)).model
    with pytest.raises(FloatingPointError, match=r"epoch [0-9]+, batch [0-9]+"):
        model.fit(X, Y, 5, epochs=50, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_a_gradient_of_nan_is_stopped_at_the_next_batch():
    """sqrt has an infinite slope at 0: the loss is fine, the step is not."""
    made = regression(lambda p, y: ((p * 0 + 0 * y).abs().sqrt()).mean() + p.mean() * 0)
    with pytest.raises(FloatingPointError, match=r"epoch 1, batch [12]"):
        made.model.fit(X, Y, 5, verbose=0)
    made = regression(lambda p, y: ((p * 0 + 0 * y).abs().sqrt()).mean() + p.mean() * 0)
    with pytest.raises(FloatingPointError, match="epoch 1, batch 1"):
        made.model.fit(X, Y, 20, verbose=0)  # there is no next batch: the weights tell


def test_terminate_on_nan_ends_quietly():
    model = spoiled().model
    history = model.fit(X, Y, 5, epochs=3, verbose=0, callbacks=[callbacks.TerminateOnNaN()])
    assert len(history.history["loss"]) >= 1 and model.stop_training


class Raise(callbacks.Callback):
    """Raises ``error`` at ``hook`` of the second epoch."""

    def __init__(self, hook, error):
        self.hook, self.error, self.epoch = hook, error, -1

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.at("on_epoch_begin")

    def at(self, hook):
        if hook == self.hook and self.epoch == 1:
            raise self.error

    def on_train_batch_end(self, batch, logs=None):
        self.at("on_train_batch_end")

    def on_test_batch_end(self, batch, logs=None):
        self.at("on_test_batch_end")

    def on_epoch_end(self, epoch, logs=None):
        self.at("on_epoch_end")


HOOKS = ["on_epoch_begin", "on_train_batch_end", "on_test_batch_end", "on_epoch_end"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
@pytest.mark.parametrize("hook", HOOKS)
def test_an_exception_passes_on_and_everything_is_kept(hook, error):
    made = normalised()
    model, ended = made.model, []
    model[0].eval()
    modes = [module.training for module in model.modules()]
    last = callbacks.LambdaCallback(on_train_end=lambda logs: ended.append(1))
    with pytest.raises(error):
        model.fit(
            X, Y, epochs=3, verbose=0, validation_data=(X, Y),
            callbacks=[Raise(hook, error("of the user")), last],
        )  # fmt: skip
    kept = 2 if hook == "on_epoch_end" else 1  # the history stands first and has the epoch
    assert len(model.history.history["loss"]) == kept and model.history.epoch == [*range(kept)]
    assert [module.training for module in model.modules()] == modes
    assert ended == [1]
    trains_afterwards(made, model._compiled)


def test_an_exception_while_predicting_restores_the_modes():
    model = regression().model
    model.fit(X, Y, verbose=0)
    model.train()
    hook = callbacks.LambdaCallback(on_predict_batch_end=boom)
    with pytest.raises(ArithmeticError):
        model.predict(X, callbacks=[hook])
    assert all(module.training for module in model.modules())
    assert model.predict(X).shape == (N, 1)


def test_ctrl_c_inside_a_loader_with_workers_passes_on():
    model = regression().model

    def interrupt(batch, logs):
        if batch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    hook = callbacks.LambdaCallback(on_train_batch_end=interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(DataLoader(Rows(row), 4, num_workers=2), verbose=0, callbacks=[hook])
    assert model.history.history == {}
    model.fit(X, Y, verbose=0)


def test_predict_before_fit_warns_once():
    model = regression().model
    with pytest.warns(UserWarning, match="before fit") as caught:
        model.predict(X)
    assert Path(caught[0].filename) == Path(__file__)  # it points at the caller's line
    model.predict(X)


def test_sorted_labels_warn_of_the_missing_classes():
    for made, y in ((classifier(), np.sort(LABELS)), (binary(), np.sort(BITS))):
        with pytest.warns(UserWarning, match="class 0.*missing.*'stratified'") as caught:
            made.model.fit(X, y, validation_split=0.2, verbose=0)
        assert Path(caught[0].filename) == Path(__file__)
    for split in ("stratified", "random"):
        classifier().model.fit(X, np.sort(LABELS), validation_split=0.5, split=split, verbose=0)


def test_weights_of_another_architecture_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    classifier().model.save_weights(path)
    made = regression()
    refusal(made, lambda m: m.load_weights(path), V, [r"\(3, 8\)", r"\(1, 8\)", "1.weight"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        made.model.load_weights(tmp_path / "nowhere")
    path.write_bytes(path.read_bytes()[:-10])
    refusal(regression(), lambda m: m.load_weights(path), V, ["no whole|damaged"])
    path.write_text("a text")
    refusal(regression(), lambda m: m.load_weights(path), V, ["no whole|damaged"])


def test_a_failed_compile_leaves_the_earlier_one():
    made = regression(metrics=["mae"])
    refusal(made, lambda m: m.compile("sgd", "msee"), V, ["mean 'mse'"])
    assert list(made.model.fit(X, Y, verbose=0).history) == ["loss", "mae"]


def test_a_frozen_batchnorm_keeps_weights_and_statistics():
    made = normalised()
    norm = made.model[1]
    norm.trainable = False
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    made.model.fit(X, Y, epochs=2, verbose=0)
    assert same_weights(before, norm.state_dict())


def test_an_unbuilt_model_survives_a_refusal():
    """What is wrong with the values is found before the shapes are fixed."""
    for x, y in ((filled(X, 0, nan), Y), (X, Y[1:]), (X.astype(object), Y), (X[:0], Y[:0])):
        model = dl.Sequential([dl.Dense(3), dl.Dense(1)])
        model.compile("sgd", "mse")
        with pytest.raises((ValueError, TypeError)):
            model.fit(x, y, verbose=0)
        assert not model.is_built
        model.fit(STEPS[:, 0, :3], Y, verbose=0)


def test_random_numbers_are_the_same_after_a_refusal():
    """A bad call in a notebook does not change what the good one gives."""

    def trained(bad):
        made = classifier()
        dl.seed(5)
        if bad:
            with pytest.raises(ValueError):
                made.model.fit(X, LABELS + 1, verbose=0)
        return made.model.fit(X, LABELS, batch_size=5, verbose=0).history["loss"]

    assert trained(bad=True) == trained(bad=False)
