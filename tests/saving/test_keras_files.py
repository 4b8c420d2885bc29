"""Models of Keras, saved in its three formats, give Keras's predictions here."""

from __future__ import annotations

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
FORMATS = ("keras", "weights.h5", "h5")
EMBEDDED = np.arange(28).reshape(4, 7) % 9


def series(*more):
    return keras.Sequential([keras.Input((7, 4)), *more])


def pictures(*more, channels=3):
    return keras.Sequential([keras.Input((8, 8, channels)), *more])


def functional():
    x = keras.Input((8, 8, 3))
    y = k.MaxPooling2D()(k.Conv2D(5, 3, padding="same", activation="relu")(x))
    return keras.Model(x, k.Dense(3, activation="softmax")(k.Flatten()(y)))


def frozen():
    inner = keras.Sequential([keras.Input((8, 8, 3)), k.Conv2D(4, 3), k.BatchNormalization()])
    inner.layers[0].trainable = False
    return pictures(inner, k.BatchNormalization(), k.Flatten(), k.Dense(3))


#: what is in it → the model of Keras
MODELS = {
    "MLP": lambda: keras.Sequential(
        [keras.Input((6,)), k.Dense(12, activation="relu"), k.Dropout(0.5),
         k.BatchNormalization(), k.Dense(9, activation="elu", use_bias=False),
         k.BatchNormalization(center=False), k.BatchNormalization(scale=False),
         k.LayerNormalization(), k.Dense(9), k.PReLU(), k.Dense(3, activation="softmax")]
    ),
    "LeNet-5": lambda: pictures(
        k.Conv2D(6, 3, padding="same", activation="tanh"), k.AveragePooling2D(2),
        k.Conv2D(8, 3, activation="tanh"), k.MaxPooling2D(), k.Flatten(),
        k.Dense(10, activation="tanh"), k.Dense(4, activation="softmax"), channels=1,
    ),
    "VGG": lambda: pictures(
        k.Conv2D(4, 3, padding="same"), k.BatchNormalization(), k.ReLU(),
        k.Conv2D(5, 3, strides=2, padding="same", activation="relu"), k.Flatten(),
        k.Dropout(0.5), k.BatchNormalization(), k.Dense(12, activation="relu"), k.Dense(3),
    ),
    "pictures, flattened": lambda: pictures(k.Flatten(), k.PReLU(), k.Dense(3)),
    "flattened last": lambda: pictures(k.Conv2D(2, 3), k.Flatten()),
    "Dense on pictures": lambda: pictures(k.Conv2D(4, 3), k.Dense(5), k.Flatten(), k.Dense(2)),
    "kinds of convolutions": lambda: pictures(
        k.Conv2D(6, (3, 2), dilation_rate=2, groups=3, padding="same"),
        k.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), k.LeakyReLU(0.1),
        k.SeparableConv2D(7, 3, depth_multiplier=2, activation="softmax"),
        k.GroupNormalization(7), k.Conv2DTranspose(5, 3, strides=2, padding="same"),
        k.Conv2DTranspose(3, (2, 3), use_bias=False), k.ZeroPadding2D(((1, 0), (2, 1))),
        k.Cropping2D(1), k.UpSampling2D(2, interpolation="bilinear"),
        k.LayerNormalization(), k.SpatialDropout2D(0.2), k.GlobalAveragePooling2D(), k.Dense(2),
    ),
    "PReLU": lambda: pictures(
        k.PReLU(), k.Conv2D(4, 3), k.PReLU(shared_axes=[1, 2]), k.Flatten(), k.Dense(3)
    ),
    "generator": lambda: keras.Sequential(
        [keras.Input((5,)), k.Dense(4 * 4 * 6), k.BatchNormalization(), k.LeakyReLU(),
         k.Reshape((4, 4, 6)), k.Conv2DTranspose(3, 4, strides=2, padding="same"),
         k.Activation("sigmoid")]
    ),
    "Reshape last": lambda: keras.Sequential(
        [keras.Input((5,)), k.Dense(2 * 3 * 4), k.Reshape((2, 3, 4))]
    ),
    "softmax of pixels": lambda: pictures(k.Conv2D(4, 1), k.Activation("softmax"), k.Softmax()),
    "volumes": lambda: keras.Sequential(
        [keras.Input((6, 6, 5, 2)), k.Conv3D(4, 3), k.MaxPooling3D(2, padding="same"),
         k.Flatten(), k.Dense(3)]
    ),
    "LSTM": lambda: series(
        k.LSTM(5, return_sequences=True), k.BatchNormalization(),
        k.LSTM(4, go_backwards=True, use_bias=False), k.Dense(2),
    ),
    "GRU": lambda: series(
        k.GRU(5, return_sequences=True), k.LayerNormalization(),
        k.GRU(4, use_bias=False, return_sequences=True), k.Flatten(), k.Dense(2),
    ),
    "SimpleRNN": lambda: series(
        k.Dense(6, activation="relu"), k.SimpleRNN(5, activation="relu"), k.RepeatVector(3),
        k.SimpleRNN(4),
    ),
    "Bidirectional": lambda: series(
        k.Bidirectional(k.LSTM(5, return_sequences=True)),
        k.Bidirectional(k.GRU(4, return_sequences=True), merge_mode="sum"),
        k.Bidirectional(k.SimpleRNN(3), merge_mode="ave"), k.Dense(2),
    ),
    "text": lambda: keras.Sequential(
        [keras.Input((7,)), k.Embedding(9, 6), k.SpatialDropout1D(0.1),
         k.Conv1D(5, 3, padding="causal"), k.BatchNormalization(), k.MaxPooling1D(2),
         k.LSTM(4), k.Dense(1, activation="sigmoid")]
    ),
    "signals": lambda: series(
        k.BatchNormalization(), k.Conv1D(5, 3, padding="same", dilation_rate=2), k.PReLU(),
        k.AveragePooling1D(2, padding="same"), k.Activation("softmax"), k.Flatten(), k.Dense(3),
    ),
    "signals, pooled": lambda: series(k.Conv1D(5, 3), k.GlobalMaxPooling1D(), k.Dense(3)),
    "Permute and Reshape": lambda: pictures(
        k.Conv2D(4, 3), k.Permute((2, 3, 1)), k.Reshape((8, 18)), k.LSTM(4)
    ),
    "films": lambda: keras.Sequential(
        [keras.Input((3, 8, 8, 2)), k.TimeDistributed(k.Conv2D(4, 3)),
         k.TimeDistributed(k.MaxPooling2D()), k.TimeDistributed(k.Flatten()), k.GRU(5)]
    ),
    "steps": lambda: series(k.TimeDistributed(k.Dense(5)), k.TimeDistributed(k.Dense(2))),
    "nested": lambda: pictures(
        keras.Sequential([keras.Input((8, 8, 3)), k.Conv2D(4, 3), k.BatchNormalization(),
                          k.Flatten()]),
        keras.Sequential([keras.Input((144,)), k.Dense(5), k.BatchNormalization(), k.Dense(5)]),
        k.Dense(2),
    ),
    "nested, partly frozen": frozen,
    "functional": functional,
    "nested of both kinds": lambda: pictures(functional(), keras.Sequential([k.Dense(3)])),
}  # fmt: skip


def randomised(model):
    """Every weight random, the statistics of BatchNormalization too."""
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.1, 0.9, w.shape) - 0.3 * (w.ndim > 1) for w in model.weights])
    return model


def samples(model):
    shape = model.input_shape[1:]
    if "embedding" in model.layers[0].name:
        return EMBEDDED
    return np.random.default_rng(1).normal(size=(4, *shape)).astype("float32")


def turned(model, x):
    """``x`` as easydl's model takes it."""
    first = next(layer for layer in model.layers if "input" not in layer.name)
    if "time_distributed" in first.name and x.ndim == 5:
        return np.moveaxis(x, -1, 2)
    if x.ndim > 3 or isinstance(model.layers[-1 if len(model.layers) < 2 else 1], k.Conv1D):
        return np.moveaxis(x, -1, 1)
    return np.moveaxis(x, -1, 1) if isinstance(first, k.Conv1D) else x


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Models of Keras with their predictions, each saved once in all formats."""
    folder, made = tmp_path_factory.mktemp("keras"), {}

    def get(name):
        if name not in made:
            model = randomised(MODELS[name]())
            path = folder / f"{len(made)}"
            model.save(f"{path}.keras")
            model.save_weights(f"{path}.weights.h5")
            model.save(f"{path}.h5")
            with torch.no_grad():
                answer = keras.ops.convert_to_numpy(model(samples(model), training=False))
            made[name] = (model, path, turned(model, samples(model)), answer)
        return made[name]

    return get


def agree(model, x, answer):
    ours = model.predict(x, verbose=0)
    if ours.shape != answer.shape or ours.ndim > 3:
        answer = np.moveaxis(answer, -1, 1)
    np.testing.assert_allclose(ours, answer, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_models_of_keras_predict_what_keras_predicts(name, saved):
    keras_model, path, x, answer = saved(name)
    for suffix in ("keras", "h5"):
        model = dl.load_keras(f"{path}.{suffix}")
        agree(model, x, answer)
        assert model.count_params() == keras_model.count_params()
        assert not any(tensor.is_meta for tensor in model.state_dict().values())


@pytest.mark.parametrize("name", [name for name in MODELS if name != "nested of both kinds"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_weights_of_keras_fit_the_same_model(name, suffix, saved):
    _, path, x, answer = saved(name)
    model = dl.load_keras(f"{path}.keras")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.ndim:
                tensor.fill_(0.5)
    for layer in model.modules():  # the second bias of recurrent layers stays zero
        for key, buffer in layer.named_buffers(recurse=False):
            if key.startswith("bias_hh"):
                buffer.zero_()
    model.load_weights(f"{path}.{suffix}")
    agree(model, x, answer)
