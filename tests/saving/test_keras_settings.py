"""Weights of Keras into a model of other settings: refused by both values, or right."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import torch
from keras import layers as k
from torch import nn

import easydl as dl

pytestmark = [
    # Keras's own code converts torch tensors in a way that numpy 2 warns of.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]


def rows(*more):
    return keras.Sequential([keras.Input((6,)), *more])


def pictures(*more):
    return keras.Sequential([keras.Input((8, 8, 3)), *more])


def series(*more):
    return keras.Sequential([keras.Input((7, 4)), *more])


def padded(pad):
    return lambda: [nn.ZeroPad2d(pad), nn.Conv2d(3, 4, 3, stride=2)]


def conv(**options):
    return lambda: [nn.Conv2d(3, 4, 3, **options)]


def pooled(layer):
    return lambda: [nn.Conv2d(3, 4, 3), layer, nn.Flatten(), nn.LazyLinear(2)]


def own(kind, *args, **options):
    return lambda: [kind(*args, **options)]


#: Keras's model, the same here, another one with the same weights, and what is said of it
CASES = {
    "epsilon": (
        lambda: rows(k.Dense(4), k.BatchNormalization()),
        lambda: [nn.Linear(6, 4), nn.BatchNorm1d(4, eps=1e-3)],
        lambda: [nn.Linear(6, 4), nn.BatchNorm1d(4)],
        r"epsilon=0.001, and BatchNorm1d .*eps=1e-05.* nn\.BatchNorm1d\(…, eps=0.001\)",
    ),
    "epsilon, given": (
        lambda: rows(k.LayerNormalization(epsilon=0.1)),
        own(dl.LayerNormalization, epsilon=0.1),
        own(dl.LayerNormalization),
        r"epsilon=0.1, and .*epsilon=0.001.* LayerNormalization\(…, epsilon=0.1\)",
    ),
    "activation": (
        lambda: rows(k.Dense(4, activation="relu"), k.Dense(2, activation="softmax")),
        lambda: [nn.Linear(6, 4), nn.ReLU(), nn.Dropout(0.5), dl.Dense(2), nn.Softmax(1)],
        lambda: [nn.Linear(6, 4), nn.Tanh(), dl.Dense(2, "softmax")],
        r"activation='relu' of layer 'dense.*the model Tanh\(\)",
    ),
    "no activation": (
        lambda: rows(k.Dense(4, activation="elu")),
        own(dl.Dense, 4, "elu"),
        own(dl.Dense, 4),
        "activation='elu' .*model has nothing",
    ),
    "an activation more": (
        lambda: rows(k.Dense(4), k.Dropout(0.1)),
        own(dl.Dense, 4),
        own(dl.Dense, 4, "relu"),
        "file has nothing where the model has activation='relu'",
    ),
    "slope": (
        lambda: rows(k.Dense(4), k.LeakyReLU(0.2)),
        lambda: [dl.Dense(4, "leaky_relu")],
        lambda: [dl.Dense(4), nn.LeakyReLU()],
        r"LeakyReLU\(negative_slope=0.2\), the model LeakyReLU\(negative_slope=0.01\)",
    ),
    "slope of an activation": (
        lambda: rows(k.Dense(4, activation=k.LeakyReLU(0.1))),
        lambda: [dl.Dense(4), nn.LeakyReLU(0.1)],
        own(dl.Dense, 4, "leaky_relu"),
        "activation='LeakyReLU' of layer",
    ),
    "alpha": (
        lambda: rows(k.Dense(4), k.ELU(0.5)),
        lambda: [dl.Dense(4), nn.ELU(0.5)],
        lambda: [dl.Dense(4), nn.ELU()],
        r"ELU\(alpha=0.5\), the model ELU\(alpha=1.0\)",
    ),
    "largest": (
        lambda: rows(k.Dense(4), k.ReLU(6.0)),
        lambda: [dl.Dense(4), nn.ReLU6()],
        lambda: [dl.Dense(4), nn.ReLU()],
        r"ReLU\(max_value=6.0\), the model ReLU",
    ),
    "gelu": (
        lambda: rows(k.Dense(4, activation="gelu"), k.Activation("exponential")),
        lambda: [dl.Dense(4), nn.GELU(), dl.Activation("exponential")],
        lambda: [dl.Dense(4), nn.GELU("tanh"), dl.Activation("exponential")],
        "activation='gelu'",
    ),
    "padding": (
        lambda: pictures(k.Conv2D(4, 3, padding="same")),
        conv(padding=1),
        conv(),
        r"padding='same', and Conv2d of the model padding=\(0, 0\)",
    ),
    "padding here": (
        lambda: pictures(k.Conv2D(4, 3)),
        own(dl.Conv2D, 4, 3),
        own(dl.Conv2D, 4, 3, padding="same"),
        r"padding='valid'\)",
    ),
    "padding of strides": (
        lambda: pictures(k.Conv2D(4, 3, strides=2, padding="same")),
        padded((0, 1, 0, 1)),
        conv(stride=2, padding=1),
        "padding='same'",
    ),
    "frame": (
        lambda: pictures(k.ZeroPadding2D(((1, 0), (1, 0))), k.Conv2D(4, 3, strides=2)),
        padded((1, 0, 1, 0)),
        padded((0, 1, 0, 1)),
        "padding=",
    ),
    "strides": (
        lambda: pictures(k.Conv2D(4, 3, strides=2)),
        conv(stride=2),
        conv(),
        r"strides=\(2, 2\), and .*stride=\(1, 1\).* nn\.Conv2d\(…, stride=\(2, 2\)\)",
    ),
    "dilation": (
        lambda: pictures(k.Conv2D(4, 3, dilation_rate=2)),
        own(dl.Conv2D, 4, 3, dilation_rate=2),
        own(dl.Conv2D, 4, 3),
        r"dilation_rate=\(2, 2\).*Conv2D\(…, dilation_rate=\(2, 2\)\)",
    ),
    "causal": (
        lambda: series(k.Conv1D(4, 3, padding="causal")),
        own(dl.Conv1D, 4, 3, padding="causal"),
        own(dl.Conv1D, 4, 3, padding="same"),
        "padding='causal'",
    ),
    "pooling": (
        lambda: pictures(k.Conv2D(4, 3), k.MaxPooling2D(), k.Flatten(), k.Dense(2)),
        pooled(nn.MaxPool2d(2)),
        pooled(nn.AvgPool2d(2)),
        "max_pooling2d.* where the model has AvgPool2d",
    ),
    "pooling size": (
        lambda: pictures(k.Conv2D(4, 3), k.AveragePooling2D(3), k.Flatten(), k.Dense(2)),
        pooled(nn.AvgPool2d(3)),
        pooled(nn.AvgPool2d(2, 3)),
        r"pool_size=\(3, 3\), and .*kernel_size=\(2, 2\)",
    ),
    "global": (
        lambda: pictures(k.Conv2D(4, 3), k.GlobalMaxPooling2D(), k.Dense(2)),
        lambda: [nn.Conv2d(3, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 2)],
        lambda: [nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)],
        "global_max.* where the model has Adaptive",
    ),
    "steps": (
        lambda: series(k.SimpleRNN(3, activation="relu", return_sequences=True)),
        own(dl.SimpleRNN, 3, "relu", return_sequences=True),
        own(dl.SimpleRNN, 3, "relu"),
        "return_sequences=True",
    ),
    "recurrence": (
        lambda: series(k.Bidirectional(k.SimpleRNN(3), "ave"), k.Dense(1)),
        lambda: [dl.Bidirectional(dl.SimpleRNN(3), "ave"), dl.Dense(1)],
        lambda: [dl.Bidirectional(dl.SimpleRNN(3), "sum"), dl.Dense(1)],
        "merge_mode='ave', and .*merge_mode='sum'",
    ),
}


def built(chain, shape):
    """A model whose shapes are known; ``shape`` is of one sample here."""
    model = dl.Sequential(chain)
    model.build(shape)
    return model


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("name", CASES)
def test_other_settings_are_refused_and_the_same_are_right(name, suffix, tmp_path):
    make, same, other, says = CASES[name]
    theirs, rng = make(), np.random.default_rng(0)
    for layer in theirs.layers:
        layer.set_weights([rng.uniform(0.2, 1, w.shape) for w in layer.get_weights()])
    theirs.save(tmp_path / f"m.{suffix}")
    x = 3 * rng.normal(size=(5, *theirs.input_shape[1:])).astype("float32")
    turned = x.ndim == 4 or name == "causal"
    mine = np.moveaxis(x, -1, 1) if turned else x
    right = np.asarray(theirs.predict(x, verbose=0))
    right = np.moveaxis(right, -1, 1) if turned and right.ndim > 2 else right

    model = built(same(), mine.shape[1:])
    model.load_weights(tmp_path / f"m.{suffix}")
    np.testing.assert_allclose(model.predict(mine, verbose=0), right, rtol=1e-4, atol=1e-5)

    model = built(other(), mine.shape[1:])
    before = model.get_weights()
    with pytest.raises(ValueError, match=says) as error:
        model.load_weights(tmp_path / f"m.{suffix}")
    assert len(str(error.value)) <= 600
    np.testing.assert_equal(model.get_weights(), before)
    model.compile("sgd", "mse", strict=False)
    model.load_weights(tmp_path / f"m.{suffix}")
    found = model.predict(mine, verbose=0)
    assert found.shape != right.shape or not np.allclose(found, right, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_compared_is_read_as_ever(tmp_path):
    theirs = rows(k.Dense(4), k.Lambda(lambda x: 2 * x), k.Dense(2, activation="relu"))
    theirs.save(tmp_path / "m.keras")
    model = built([dl.Dense(4), dl.Lambda(torch.sin), dl.Dense(2, "relu")], (6,))
    model.load_weights(tmp_path / "m.keras")
    model = built([dl.Dense(4), dl.Dense(2)], (6,))
    with pytest.raises(ValueError, match="activation='relu'"):
        model.load_weights(tmp_path / "m.keras")
    theirs.save_weights(tmp_path / "m.weights.h5")  # which holds no architecture
    model.load_weights(tmp_path / "m.weights.h5")


def test_nested_and_functional_models_are_compared(tmp_path):
    x = keras.Input((6,))
    inner = rows(k.Dense(4, activation="tanh"), k.BatchNormalization())
    keras.Model(x, k.Dense(2)(inner(x))).save(tmp_path / "m.keras")
    for eps in (1e-3, 1e-5):
        nested = dl.Sequential([dl.Dense(4, "tanh"), nn.BatchNorm1d(4, eps)])
        model = built([nested, nn.Linear(4, 2)], (6,))
        if eps == 1e-3:
            model.load_weights(tmp_path / "m.keras")
        else:
            with pytest.raises(ValueError, match=r"epsilon=0\.001"):
                model.load_weights(tmp_path / "m.keras")
