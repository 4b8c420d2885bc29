"""Older files of Keras, what else a file tells, and what is refused by its name."""

from __future__ import annotations

import h5py
import keras
import numpy as np
import pytest
import torch
from keras import layers as k

import easydl as dl

pytestmark = [
    # Keras's own code converts torch tensors in a way that numpy 2 warns of.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]


def series(*more):
    return keras.Sequential([keras.Input((7, 4)), *more])


def pictures(*more):
    return keras.Sequential([keras.Input((8, 8, 3)), *more])


def write_h5(path, groups, **attributes):
    """The older form: ``{"dense_1": {"dense_1_W": array}}``."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in groups]
        for name, value in attributes.items():
            file.attrs[name] = value
        for name, weights in groups.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [word.encode() for word in weights]
            for word, values in weights.items():
                group[word] = values
    return path


def random(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("f4")


def test_names_of_keras_1(tmp_path):
    w, b, u, c = random(4, 5), random(5), random(5, 2), random(2)
    model = dl.Sequential([dl.Dense(5, "relu", input_dim=4), dl.Dropout(0.5), dl.Dense(2)])
    x = random(3, 4)
    right = np.maximum(x @ w + b, 0) @ u + c
    groups = {
        "dense_1": {"dense_1_W": w, "dense_1_b": b},
        "dropout_1": {},
        "dense_2": {"dense_2_W": u, "dense_2_b": c},
    }
    model.load_weights(write_h5(tmp_path / "weight_file.h5", groups))
    np.testing.assert_allclose(model.predict(x, verbose=0), right, rtol=1e-5, atol=1e-6)
    with h5py.File(tmp_path / "older.h5", "w") as file:  # before layers had names
        file.attrs["nb_layers"] = 3
        for number, weights in enumerate([(w, b), (), (2 * u, 2 * c)]):
            group = file.create_group(f"layer_{number}")
            for place, values in enumerate(weights):
                group[f"param_{place}"] = values
    model.load_weights(tmp_path / "older.h5")
    np.testing.assert_allclose(model.predict(x, verbose=0), 2 * right, rtol=1e-5, atol=1e-6)


def test_kernels_of_theano_are_turned(tmp_path):
    kernel, bias = random(3, 2, 1, 4), random(4)
    weights = {"conv/kernel:0": kernel, "conv/bias:0": bias}
    for backend, turned_kernel in (("tensorflow", kernel), ("theano", kernel[::-1, ::-1])):
        path = write_h5(tmp_path / backend, {"conv": weights}, keras_version="2.1.5",
                        backend=backend)  # fmt: skip
        model = dl.Sequential([dl.Conv2D(4, (3, 2), input_shape=(1, 5, 5))])
        model.load_weights(path)
        np.testing.assert_array_equal(model[0].weight.detach()[:, 0], turned_kernel[:, :, 0]
                                      .transpose(2, 0, 1))  # fmt: skip


@pytest.mark.parametrize(
    "layer, groups, version, says",
    [
        (dl.LSTM(2), {"l": {"l/kernel:0": random(4, 8)}}, "2.2.4", "hard_sigmoid"),
        (dl.LSTM(2), {"l": {"l/kernel:0": random(4, 8)}}, "2.2.4-tf", "hard_sigmoid"),
        (dl.GRU(2, reset_after=False), {"g": {"g/kernel:0": random(4, 6)}}, "2.2.4", "hard_sigm"),
        (dl.Conv1D(2, 3), {"c": {"param_0": random(2, 4, 3, 1)}}, "1.2.2", "Theano's kernels"),
        (dl.DepthwiseConv2D(3, input_shape=(4, 5, 5)),
         {"c": {"c_W:0": random(3, 3, 4, 1), "c_b:0": random(4)}}, "1.2.2", "Theano's kernels"),
        (dl.Conv2D(3, 3, input_shape=(3, 5, 5)),
         {"c": {"c_W:0": random(3, 3, 3, 3), "c_b:0": random(3)}}, "1.2.2", "channels came first"),
        (
            dl.GRU(2),
            {"g": {"g/kernel:0": random(4, 6), "g/recurrent_kernel:0": random(2, 6),
                   "g/bias:0": random(6)}},
            "2.4.0", "reset_after=False",
        ),
    ],
)  # fmt: skip
def test_what_older_files_do_not_tell_is_refused(layer, groups, version, says, tmp_path):
    model = dl.Sequential([layer])
    if layer.given_input_shape is None:
        model.build((4, 4))
    with pytest.raises(ValueError, match=says) as error:
        model.load_weights(write_h5(tmp_path / "w.h5", groups, keras_version=version))
    assert len(str(error.value)) <= 600


def branched():
    x = keras.Input((4,))
    return keras.Model(x, k.Add()([k.Dense(4)(x), x]))


def flattened_twice():
    film = keras.Input((3, 4, 4, 2))
    steps = k.TimeDistributed(k.Flatten(), name="steps")(film)
    return keras.Model(film, k.Dense(2)(k.Flatten()(steps)))


def twice():
    x, layer = keras.Input((4,)), k.Dense(4, name="both")
    return keras.Model(x, layer(layer(x)))


@pytest.mark.parametrize(
    "build, says",
    [
        (branched, "layer 'add.* .*Branches"),
        (flattened_twice, "'steps' .*other axes"),
        (twice, "layer 'both' .*used more than once"),
        (lambda: series(k.LSTM(3, recurrent_activation="relu", name="odd")), "'odd' .*'relu'"),
        (lambda: series(k.LSTM(3, recurrent_dropout=0.5, name="odd")), "'odd' .*recurrent_dropout"),
        (lambda: series(k.Masking(name="mask")), "'mask' .*unknown layer 'Masking'"),
        (lambda: pictures(k.Conv2D(2, 3, data_format="channels_first"), k.MaxPooling2D()), "some"),
        (lambda: pictures(k.BatchNormalization(axis=1, name="b")), "'b' .*axis=1"),
        (lambda: series(k.Dense(3, activation="sparsemax", name="d")), "'d' .*sparsemax"),
        (lambda: series(k.ReLU(threshold=1.0, name="r")), "'r' .*threshold=1.0"),
        (lambda: series(k.Lambda(lambda x: 2 * x, name="code")), "'code' .*is code"),
    ],
)
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_what_easydl_does_not_have_is_named(build, says, suffix, tmp_path):
    build().save(tmp_path / f"m.{suffix}")
    with pytest.raises(ValueError, match=says) as error:
        dl.load_keras(tmp_path / f"m.{suffix}")
    assert "load_weights" in str(error.value) and len(str(error.value)) <= 600


@pytest.mark.parametrize(
    "theirs, ours, says",
    [
        ({"reset_after": False}, {}, r"reset_after=False.* Write dl\.GRU\("),
        ({}, {"reset_after": False}, r"reset_after=True.* Write dl\.GRU\(…\)"),
        (
            {"reset_after": False, "recurrent_activation": "hard_sigmoid"},
            {"reset_after": False},
            "recurrent_activation='hard_sigmoid', reset_after=False",
        ),
        ({"activation": "relu"}, {}, "activation='relu'.*module of your own"),
    ],
)
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("suffix", ["keras", "h5", "weights.h5"])
def test_weights_of_other_recurrences_are_refused(theirs, ours, says, use_bias, suffix, tmp_path):
    made = series(k.GRU(3, use_bias=use_bias, name="old", **theirs))
    path = tmp_path / f"m.{suffix}"
    made.save_weights(path) if suffix == "weights.h5" else made.save(path)
    model = dl.Sequential([dl.GRU(3, use_bias=use_bias, **ours)])
    model.build((7, 4))
    resets = [options.get("reset_after", True) for options in (theirs, ours)]
    if suffix == "weights.h5":  # which do not tell more than the shapes do
        if not use_bias or resets[0] == resets[1]:
            return
        says = f"has reset_after={resets[0]}, that of the model {resets[1]}"
    with pytest.raises(ValueError, match=says) as error:
        model.load_weights(path)
    assert len(str(error.value)) <= 600


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_names_penalties_bounds_and_frozen_layers_come_along(suffix, tmp_path):
    first = k.Dense(
        5, name="first", kernel_regularizer=keras.regularizers.L1L2(0.1, 0.2),
        bias_constraint="non_neg", activity_regularizer="l2",
    )  # fmt: skip
    last = k.Dense(2, name="last", trainable=False)
    keras.Sequential([keras.Input((4,)), first, last], name="mine").save(tmp_path / f"m.{suffix}")
    model = dl.models.load_model(tmp_path / f"m.{suffix}")
    assert (model.name, model.layer_names()) == ("mine", ["first", "last"])
    penalty = dict(model[0].penalties)["weight"]
    assert penalty(torch.tensor([3.0])).item() == pytest.approx(0.1 * 3 + 0.2 * 9)
    assert isinstance(dict(model[0].constraints)["bias"], dl.constraints.NonNeg)
    assert model[0].activity_regularizer(torch.tensor([3.0])).item() == pytest.approx(0.09)
    assert (model[0].trainable, model[1].trainable) == (True, False)
    frozen_before = model[1].weight.clone()
    model.compile("sgd", "mse")
    model.fit(random(8, 4), random(8, 2), verbose=0)
    assert torch.equal(model[1].weight, frozen_before)
