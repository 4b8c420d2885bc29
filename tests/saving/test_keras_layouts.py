"""Files of Keras with the channels first, and of Keras 1, whose kernels lie otherwise."""

from __future__ import annotations

import json

import h5py
import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from keras import layers as k

import easydl as dl

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]
RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.normal(size=shape).astype("float32")


def first(kind, *args, **options):
    return kind(*args, data_format="channels_first", **options)


def lenet(flatten):
    return [
        first(k.Conv2D, 6, 3, padding="same", strides=2, activation="tanh"),
        k.BatchNormalization(axis=1), first(k.MaxPooling2D, 2), first(k.Conv2D, 4, (1, 2)), flatten,
        k.Dense(5, activation="relu"), k.Dense(2),
    ]  # fmt: skip


#: what is in it → shape of a sample, layers of Keras
MODELS = {
    "LeNet-5": lambda: ((3, 10, 9), lenet(k.Flatten())),
    "Flatten turns": lambda: ((3, 10, 9), lenet(first(k.Flatten))),
    "kinds of convolutions": lambda: ((4, 10, 9), [
        first(k.DepthwiseConv2D, 3, depth_multiplier=2), k.LeakyReLU(0.1),
        first(k.SeparableConv2D, 6, 3), k.GroupNormalization(3, axis=1), k.PReLU(),
        k.PReLU(shared_axes=[2, 3]), first(k.SpatialDropout2D, 0.3),
        first(k.Conv2DTranspose, 4, 3, strides=2), first(k.ZeroPadding2D, ((1, 0), (2, 1))),
        first(k.Cropping2D, 1), first(k.UpSampling2D, 2), first(k.GlobalAveragePooling2D),
        k.Dense(3, activation="softmax"),
    ]),
    "pictures": lambda: ((3, 6, 5), [first(k.Conv2D, 4, 3), k.Softmax(axis=1)]),
    "Dense on rows of pixels": lambda: (
        (3, 6, 5), [first(k.Conv2D, 4, 3), k.Dense(2), k.ReLU()]
    ),
    "Reshape": lambda: ((12,), [
        k.Reshape((2, 3, 2)), first(k.Conv2D, 4, 2), k.Reshape((2, 4)), k.Permute((2, 1)),
        k.Flatten(), k.Dense(2),
    ]),
    "signals": lambda: ((4, 9), [
        first(k.Conv1D, 5, 3), k.BatchNormalization(axis=1), first(k.MaxPooling1D, 2), k.Flatten(),
        k.Dense(2),
    ]),
    "volumes": lambda: (
        (2, 6, 5, 6), [first(k.Conv3D, 4, 3), first(k.AveragePooling3D, 2), k.Flatten(), k.Dense(3)]
    ),
    "films": lambda: ((3, 2, 8, 7), [
        k.TimeDistributed(first(k.Conv2D, 4, 3)), k.TimeDistributed(k.Flatten()), k.GRU(5)
    ]),
    "nested": lambda: ((3, 10, 9), [keras.Sequential(lenet(k.Flatten())), k.Dense(2)]),
}  # fmt: skip


def made(name):
    shape, parts = MODELS[name]()
    model = keras.Sequential([keras.Input(shape), *parts])
    model.set_weights([RNG.uniform(0.1, 0.9, w.shape) - 0.3 * (w.ndim > 1) for w in model.weights])
    x = random(4, *shape)
    with torch.no_grad():
        return model, x, keras.ops.convert_to_numpy(model(x, training=False))


@pytest.mark.parametrize("name", MODELS)
def test_channels_stay_first(name, tmp_path):
    theirs, x, answer = made(name)
    for suffix in ("keras", "h5"):
        theirs.save(tmp_path / f"m.{suffix}")
        model = dl.load_keras(tmp_path / f"m.{suffix}")
        np.testing.assert_allclose(model.predict(x, verbose=0), answer, rtol=1e-5, atol=1e-5)
        for parameter in model.parameters():
            parameter.data.zero_()
        model.load_weights(tmp_path / f"m.{suffix}")
        np.testing.assert_allclose(model.predict(x, verbose=0), answer, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["LeNet-5", "Flatten turns"])
@pytest.mark.parametrize("suffix", ["keras", "h5", "weights.h5"])
def test_weights_fit_models_written_by_hand(name, suffix, tmp_path):
    theirs, x, answer = made(name)
    path = tmp_path / f"m.{suffix}"
    theirs.save_weights(path) if suffix == "weights.h5" else theirs.save(path)
    model = dl.Sequential(
        [dl.Conv2D(6, 3, padding="same", strides=2, activation="tanh", input_shape=(3, 10, 9)),
         dl.BatchNormalization(), dl.MaxPooling2D(2), dl.Conv2D(4, (1, 2)), dl.Flatten(),
         dl.Dense(5, "relu"), dl.Dense(2)]
    )  # fmt: skip
    model.load_weights(path)
    same = np.allclose(model.predict(x, verbose=0), answer, rtol=1e-5, atol=1e-5)
    # weights alone are taken for those of a Flatten whose channels are last
    assert same == (suffix != "weights.h5" or name == "Flatten turns")


@pytest.mark.parametrize(
    "parts, says",
    [
        ([first(k.Conv2D, 4, 3), k.BatchNormalization(axis=-1)], "axis=-1"),
        ([first(k.Conv2D, 4, 3, activation="softmax")], "softmax"),
        ([first(k.Conv2D, 4, 3), k.Activation("softmax")], "last axis"),
    ],
)
def test_what_reads_the_width_of_pictures_is_refused(parts, says, tmp_path):
    keras.Sequential([keras.Input((3, 6, 5)), *parts]).save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match=says) as error:
        dl.load_keras(tmp_path / "m.keras")
    assert len(str(error.value)) <= 600


# -- Keras 1 ---------------------------------------------------------------------------------------


def write_h5(path, groups, config=None, **attributes):
    """``{"dense_1": {"dense_1_W": array}}``, as Keras 1 wrote it; a whole model with ``config``."""
    with h5py.File(path, "w") as file:
        root = file
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
            root = file.create_group("model_weights")
        for name, value in attributes.items():
            file.attrs[name] = value
        root.attrs["layer_names"] = [name.encode() for name in groups]
        for name, weights in groups.items():
            group = root.create_group(name)
            group.attrs["weight_names"] = [word.encode() for word in weights]
            for word, values in weights.items():
                group[word] = values
    return path


def named(layer, end, **weights):
    return {f"{layer}_{word}{end}": values for word, values in weights.items()}


KERNEL, BIAS, W, B = random(5, 3, 3, 2), random(5), random(5 * 4 * 4, 2), random(2)
X = random(2, 3, 6, 5)


def right(kernel, turned):
    """What Keras 1 computed: a convolution on Theano, a correlation on TensorFlow; then Dense."""
    kernel = np.ascontiguousarray(kernel[:, :, ::-1, ::-1] if turned else kernel)
    y = F.conv2d(torch.tensor(X), torch.tensor(kernel), torch.tensor(BIAS)).numpy()
    return y


@pytest.mark.parametrize("tells", ["names", "config", "attribute"])
@pytest.mark.parametrize("backend", ["theano", "tensorflow"])
@pytest.mark.parametrize("ordering", ["th", "tf"])
def test_convolutions_of_keras_1(ordering, backend, tells, tmp_path):
    end = ":0" if backend == "tensorflow" and tells != "attribute" else ""
    kernel = KERNEL if ordering == "th" else KERNEL.transpose(2, 3, 1, 0)
    groups = {
        "conv": named("conv", end, W=kernel, b=BIAS),
        "flatten": {},
        "dense": named("dense", end, W=W, b=B),
    }
    config = None
    if tells == "config":
        config = {
            "class_name": "Sequential",
            "config": [{"class_name": "Convolution2D", "config": {"dim_ordering": ordering}}],
        }
    options = {"backend": backend} if tells == "attribute" else {}
    path = write_h5(tmp_path / "m.h5", groups, config, **options)
    model = dl.Sequential([dl.Conv2D(5, (3, 2), input_shape=(3, 6, 5)), dl.Flatten(), dl.Dense(2)])
    model.load_weights(path)
    pictures = right(KERNEL, backend == "theano")
    if ordering == "tf":
        pictures = np.moveaxis(pictures, 1, -1)
    np.testing.assert_allclose(
        model.predict(X, verbose=0), pictures.reshape(2, -1) @ W + B, rtol=1e-4, atol=1e-4
    )


def test_the_config_tells_where_shapes_do_not(tmp_path):
    kernel, bias = random(3, 3, 3, 3), random(3)
    part = {"class_name": "Convolution2D", "config": {"dim_ordering": "th"}}
    groups = {"c": named("c", ":0", W=kernel, b=bias)}
    path = write_h5(tmp_path / "m.h5", groups, {"class_name": "Sequential", "config": [part]})
    model = dl.Sequential([dl.Conv2D(3, 3, input_shape=(3, 5, 5))])
    model.load_weights(path)
    np.testing.assert_array_equal(model[0].weight.detach(), kernel)


@pytest.mark.parametrize("form", ["1.1", "1.2"])
@pytest.mark.parametrize("end", ["", ":0"])
def test_convolutions_of_signals_of_keras_1(form, end, tmp_path):
    kernel, bias = random(3, 4, 5), random(5)  # window, channels, filters
    stored = kernel[:, None] if form == "1.2" else kernel.transpose(2, 1, 0)[..., None]
    path = write_h5(tmp_path / "m.h5", {"c": named("c", end, W=stored, b=bias)})
    model = dl.Sequential([dl.Conv1D(5, 3, input_shape=(4, 9))])
    model.load_weights(path)
    turned = kernel if end else kernel[::-1]
    np.testing.assert_array_equal(model[0].weight.detach(), turned.transpose(2, 1, 0))


def hard_sigmoid(x):
    """Keras's before 3."""
    return np.clip(0.2 * x + 0.5, 0, 1)


def gru_of_keras_1(x, w, u, b):
    """Gates z, r, h, one step after the other."""
    h = np.zeros((len(x), u.shape[0]))
    for step in x.transpose(1, 0, 2):
        z, r, new = np.split(step @ w + b, 3, -1)
        uz, ur, uh = np.split(u, 3, -1)
        z, r = hard_sigmoid(z + h @ uz), hard_sigmoid(r + h @ ur)
        h = z * h + (1 - z) * np.tanh(new + (r * h) @ uh)
    return h


@pytest.mark.parametrize("form", ["one kernel", "a kernel each", "Keras 2", "whole model"])
def test_gru_of_keras_1_and_2(form, tmp_path):
    w, u, b, x = random(4, 9), random(3, 9), random(9), random(5, 7, 4)
    weights, options, config = named("g", ":0", W=w, U=u, b=b), {}, None
    if form == "a kernel each":
        weights = {}
        for gate, place in (("z", 0), ("r", 3), ("h", 6)):
            cut = slice(place, place + 3)
            weights |= named("g", "", **{f"W_{gate}": w[:, cut], f"U_{gate}": u[:, cut],
                                         f"b_{gate}": b[cut]})  # fmt: skip
    elif form != "one kernel":
        weights = {"g/kernel:0": w, "g/recurrent_kernel:0": u, "g/bias:0": b}
        options = {"keras_version": "2.1.5", "backend": "tensorflow"}
    if form == "whole model":
        given = {"name": "g", "units": 3, "activation": "tanh", "use_bias": True,
                 "recurrent_activation": "hard_sigmoid", "batch_input_shape": [None, 7, 4],
                 "return_sequences": False}  # fmt: skip
        config = {"class_name": "Sequential", "config": [{"class_name": "GRU", "config": given}]}
    path = write_h5(tmp_path / "m.h5", {"g": weights}, config, **options)
    model = dl.Sequential([dl.GRU(3, "tanh", "hard_sigmoid", reset_after=False)])
    model.build((7, 4))
    model.load_weights(path)
    answer = gru_of_keras_1(x, w, u, b)
    np.testing.assert_allclose(model.predict(x, verbose=0), answer, rtol=1e-5, atol=1e-5)
    if config:
        model = dl.load_keras(path)
        np.testing.assert_allclose(model.predict(x, verbose=0), answer, rtol=1e-5, atol=1e-5)


def test_lstm_of_keras_1_with_sigmoid_gates(tmp_path):
    kernels = {gate: (random(4, 3), random(3, 3), random(3)) for gate in "ifco"}
    weights = {}
    for gate in "icfo":  # the order of Keras 1
        weights |= named("l", "", **dict(zip((f"W_{gate}", f"U_{gate}", f"b_{gate}"),
                                             kernels[gate])))  # fmt: skip
    given = {"name": "l", "activation": "tanh", "inner_activation": "sigmoid", "output_dim": 3}
    part = {"class_name": "LSTM", "config": given}
    config = {"class_name": "Sequential", "config": [part]}
    path = write_h5(tmp_path / "m.h5", {"l": weights}, config)
    model = dl.Sequential([dl.LSTM(3)])
    model.build((7, 4))
    model.load_weights(path)
    stacked = np.concatenate([kernels[gate][0] for gate in "ifco"], -1)
    np.testing.assert_array_equal(model[0].weight_ih_l0.detach(), stacked.T)
    given["inner_activation"] = "hard_sigmoid"
    path = write_h5(tmp_path / "n.h5", {"l": weights}, config)
    with pytest.raises(ValueError, match=r"hard_sigmoid.*tanh and sigmoid alone"):
        model.load_weights(path)


def test_weights_that_do_not_tell_their_hard_sigmoid_are_refused(tmp_path):
    options = {"recurrent_activation": "hard_sigmoid", "reset_after": False}
    theirs = keras.Sequential([keras.Input((7, 4)), k.GRU(3, **options)])
    theirs.save_weights(tmp_path / "m.weights.h5")
    model = dl.Sequential([dl.GRU(3, **options, input_shape=(7, 4))])
    model.load_weights(tmp_path / "m.weights.h5")
    x = random(2, 7, 4)
    answer = keras.ops.convert_to_numpy(theirs(x))
    np.testing.assert_allclose(model.predict(x, verbose=0), answer, rtol=1e-5, atol=1e-5)
    with h5py.File(tmp_path / "m.weights.h5", "a") as file:
        del file["vars"].attrs["name"]  # as Keras 2.15 writes it
    with pytest.raises(ValueError, match="whether Keras 2 or 3"):
        model.load_weights(tmp_path / "m.weights.h5")
