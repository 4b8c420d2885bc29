"""Models of Keras, saved in its three formats, give Keras's predictions here."""

from __future__ import annotations

import sys

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
    "generator with PReLU": lambda: keras.Sequential(
        [keras.Input((5,)), k.Dense(96), k.PReLU(), k.Reshape((4, 4, 6)), k.PReLU(),
         k.Conv2DTranspose(3, 3)]
    ),
    "flattened and reshaped": lambda: pictures(
        k.Conv2D(4, 3), k.Flatten(), k.Reshape((9, 16)), k.GRU(3)
    ),
    "sequences to pictures": lambda: series(
        k.Dense(12), k.Reshape((7, 4, 3)), k.Conv2D(2, 3), k.GlobalMaxPooling2D()
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
    "GRU that resets before": lambda: series(
        k.GRU(5, reset_after=False, return_sequences=True),
        k.Bidirectional(k.GRU(3, reset_after=False, return_sequences=True)),
        k.GRU(4, "relu", "hard_sigmoid", use_bias=False, reset_after=False, go_backwards=True),
        k.Dense(2),
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
    "steps of steps": lambda: keras.Sequential(
        [keras.Input((3, 5, 2)), k.TimeDistributed(k.LSTM(4)), k.LSTM(3)]
    ),
    "pooled to 2 x 2": lambda: pictures(k.Conv2D(5, 1), k.AveragePooling2D(4), k.Flatten(),
                                        k.Dense(3)),
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
    if "time_distributed" in first.name:
        return np.moveaxis(x, -1, 2) if x.ndim == 5 else x
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
            try:
                with torch.no_grad():
                    answer = keras.ops.convert_to_numpy(model(samples(model), training=False))
            except UserWarning as said:
                if "inconsistencies across backends" not in str(said):  # as Keras 3.12 says
                    raise
                pytest.skip(f"this Keras computes {name} otherwise on torch: {said}")
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
def test_weights_of_keras_fit_the_same_model(name, saved):
    _, path, x, answer = saved(name)
    model = dl.load_keras(f"{path}.keras")
    for suffix in FORMATS:
        for parameter in model.parameters():
            parameter.data.fill_(0.5)
        model.load_weights(f"{path}.{suffix}")
        agree(model, x, answer)


#: models written by hand in easydl's words → whose weights they take
BY_HAND = {
    "LeNet-5": lambda: [
        dl.Conv2D(6, 3, padding="same", activation="tanh"), dl.AveragePooling2D(2),
        dl.Conv2D(8, 3, activation="tanh"), dl.MaxPooling2D(2), dl.Flatten(),
        dl.Dense(10, activation="tanh"), dl.Dense(4, activation="softmax"),
    ],
    "VGG": lambda: [
        dl.Conv2D(4, 3, padding="same"), dl.BatchNormalization(), nn.ReLU(),
        dl.Conv2D(5, 3, strides=2, padding="same", activation="relu"), nn.Flatten(),
        nn.Dropout(0.5), dl.BatchNormalization(), dl.Dense(12, activation="relu"), dl.Dense(3),
    ],
    "generator": lambda: [
        dl.Dense(96), dl.BatchNormalization(), dl.LeakyReLU(), dl.Reshape((6, 4, 4)),
        dl.Conv2DTranspose(3, 4, strides=2, padding="same", activation="sigmoid"),
    ],
    "pooled to 2 x 2": lambda: [
        nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 3)
    ],
    "generator with PReLU": lambda: [
        dl.Dense(96), dl.PReLU(), dl.Reshape((6, 4, 4)), dl.PReLU(), dl.Conv2DTranspose(3, 3)
    ],
    "signals, pooled": lambda: [dl.Conv1D(5, 3), dl.GlobalMaxPooling1D(), dl.Dense(3)],
    "functional": lambda: [
        nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(80, 3), nn.Softmax(1),
    ],
    "GRU that resets before": lambda: [
        dl.GRU(5, reset_after=False, return_sequences=True),
        dl.Bidirectional(dl.GRU(3, reset_after=False, return_sequences=True)),
        dl.GRU(4, "relu", "hard_sigmoid", False, reset_after=False, go_backwards=True), dl.Dense(2),
    ],
    "text": lambda: [
        dl.Embedding(9, 6), dl.Permute((2, 1)), dl.Conv1D(5, 3, padding="causal"),
        dl.BatchNormalization(), dl.MaxPooling1D(2), dl.Permute((2, 1)), dl.LSTM(4),
        dl.Dense(1, activation="sigmoid"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_weights_of_keras_fit_models_written_by_hand(name, saved):
    _, path, x, answer = saved(name)
    for suffix in FORMATS:
        model = dl.Sequential(BY_HAND[name]())
        model.build(x.shape[1:])
        model.load_weights(f"{path}.{suffix}")
        agree(model, x, answer)


@pytest.mark.parametrize("suffix", FORMATS)
def test_weights_of_keras_fit_wrapped_torch_networks(suffix, saved):
    _, path, x, answer = saved("functional")
    model = dl.Model(nn.Sequential(*BY_HAND["functional"]()))
    model.load_weights(f"{path}.{suffix}")
    agree(model, x, answer)


@pytest.mark.parametrize(
    "layers, says",
    [
        ([dl.Dense(12, input_dim=6), dl.Dense(3)], "not in the model"),
        ([dl.Dense(12, input_dim=6), dl.BatchNormalization(), dl.Dense(8)], "missing"),
        ([dl.Conv2D(4, 3, input_shape=(6, 8, 8)), dl.Flatten(), dl.Dense(3)], "another arch"),
    ],
)
@pytest.mark.parametrize("suffix", FORMATS)
def test_weights_of_another_architecture_are_listed_and_nothing_changes(
    layers, says, suffix, saved
):
    _, path, *_ = saved("MLP")
    model = dl.Sequential(layers)
    before = model.get_weights()
    with pytest.raises(ValueError, match=says) as error:
        model.load_weights(f"{path}.{suffix}")
    assert len(str(error.value)) <= 600
    assert all((new == old).all() for new, old in zip(model.get_weights(), before))


def test_layers_of_the_same_shapes_in_another_order_are_refused(tmp_path):
    theirs = [k.Dense(5), k.LayerNormalization(), k.Dense(5)]
    keras.Sequential([keras.Input((5,)), *theirs]).save(tmp_path / "m.keras")
    model = dl.Sequential([dl.Dense(5, input_dim=5), dl.Dense(5), dl.LayerNormalization()])
    with pytest.raises(ValueError, match=r"layer 2 .* is layer_normalization, dense in the mod"):
        model.load_weights(tmp_path / "m.keras")


def test_shapes_that_differ_are_named_as_keras_has_them(saved):
    _, path, *_ = saved("SimpleRNN")
    model = dl.Sequential(
        [dl.Dense(6, "relu"), dl.SimpleRNN(7, "relu"), dl.RepeatVector(3), dl.SimpleRNN(4)]
    )
    model.build((7, 4))
    with pytest.raises(ValueError, match=r"cell/vars/0: \(6, 5\) instead of \(6, 7\)"):
        model.load_weights(f"{path}.weights.h5")
    with pytest.raises(ValueError, match=r"layer 2, weight 1 \(kernel\): \(6, 5\) instead of"):
        model.load_weights(f"{path}.h5")


def test_a_model_of_keras_goes_on_as_one_of_easydl(saved, tmp_path):
    _, path, x, answer = saved("VGG")
    model = dl.load_keras(f"{path}.keras")
    model.save(tmp_path / "m.easydl")
    agree(dl.load_model(tmp_path / "m.easydl"), x, answer)
    plain = model.to_torch().eval()(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(plain, answer, rtol=1e-5, atol=1e-5)


def test_an_h5_file_is_known_by_its_bytes(saved, tmp_path):
    _, path, x, answer = saved("functional")
    model = dl.load_keras(f"{path}.keras")
    model[0].weight.data.zero_()
    (tmp_path / "weights").write_bytes(path.with_name(f"{path.name}.weights.h5").read_bytes())
    model.load_weights(tmp_path / "weights")
    agree(model, x, answer)


def test_weights_alone_are_no_model(saved):
    _, path, *_ = saved("MLP")
    with pytest.raises(ValueError, match=r"without an architecture; .*model\.load_weights\(path\)"):
        dl.load_keras(f"{path}.weights.h5")


def test_a_network_without_an_order_of_layers_is_refused(saved):
    _, path, *_ = saved("MLP")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(6, 3)

    with pytest.raises(ValueError, match="expected a Sequential"):
        dl.Model(Net()).load_weights(f"{path}.h5")


@pytest.mark.parametrize(
    "place, says", [(5, r"Permute\(\(2, 3, 1\)\) before the Flatten"), (4, "order .* is not known")]
)
def test_features_in_no_order_of_keras_are_refused(place, says, saved):
    _, path, *_ = saved("LeNet-5")
    layers = BY_HAND["LeNet-5"]()
    model = dl.Sequential([*layers[:place], dl.Lambda(lambda x: x), *layers[place:]])
    model.build((1, 8, 8))
    with pytest.raises(ValueError, match=says) as error:
        model.load_weights(f"{path}.keras")
    assert "xpected" in str(error.value) or "Put" in str(error.value)
    assert f"{path}.keras" in str(error.value) and len(str(error.value)) <= 600


def test_code_that_flattens_pictures_is_named(saved):
    _, path, *_ = saved("LeNet-5")
    flat = dl.Lambda(lambda x: x.flatten(1), name="flat")
    chain = [flat if isinstance(layer, dl.Flatten) else layer for layer in BY_HAND["LeNet-5"]()]
    assert flat in chain
    model = dl.Sequential(chain)
    model.build((1, 8, 8))
    with pytest.raises(ValueError, match=r"flat \(Lambda\) .*expected Flatten\(\)") as error:
        model.load_weights(f"{path}.keras")
    assert "Permute" not in str(error.value) and f"{path}.keras" in str(error.value)


@pytest.mark.parametrize("name", ["m.easydl", "m.keras"])
def test_a_file_of_easydl_is_named(name, tmp_path):
    dl.Sequential([dl.Dense(1, input_dim=2)]).save(tmp_path / "m.easydl")
    path = (tmp_path / "m.easydl").rename(tmp_path / name)
    with pytest.raises(ValueError, match=r"easydl's model\.save: write dl\.load_model") as error:
        dl.load_keras(path)
    assert str(path) in str(error.value)


def test_without_h5py_the_message_says_so(saved, monkeypatch):
    _, path, *_ = saved("MLP")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install"):
        dl.load_keras(f"{path}.keras")
