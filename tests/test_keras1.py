"""Code of 2016 runs with one word changed, gives today's numbers, and is told today's words."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import easydl as dl
from easydl import keras1

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(96, 20)).astype("float32")
CLASSES = RNG.integers(0, 10, 96)
ONE_HOT = np.eye(10, dtype="float32")[CLASSES]
PICTURES = RNG.random((24, 3, 20, 20), dtype="float32")
SEQUENCES = RNG.normal(size=(48, 8, 16)).astype("float32")


def told(call, *args, **kwargs):
    """The call's result and the texts of its DeprecationWarnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call(*args, **kwargs)
    caught = [warning for warning in caught if warning.category is DeprecationWarning]
    assert all(warning.filename == __file__ for warning in caught)  # where the old word stands
    return result, [str(warning.message) for warning in caught]


def words(texts):
    return [text.split()[0] for text in texts]


def assert_same_training(old, today):
    """Both programs, started from one seed, end with equal weights, history and predictions."""
    results = []
    for program in (old, today):
        dl.seed(1)
        results.append(program())
    (model, history, outputs), (model_today, history_today, outputs_today) = results
    for weight, weight_today in zip(model.get_weights(), model_today.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, weight_today)
    assert list(history.history.values()) == list(history_today.history.values())
    np.testing.assert_array_equal(outputs, outputs_today)


# -- the programs of the slides --------------------------------------------------------------------


def old_feed_forward():
    from easydl.layers.core import Activation, Dense, Dropout
    from easydl.models import Sequential
    from easydl.optimizers import SGD

    model = Sequential()
    model.add(Dense(output_dim=64, input_dim=20, init="uniform"))
    model.add(Activation("relu"))
    model.add(Dropout(p=0.5))
    model.add(Dense(10, "uniform", "softmax"))
    sgd = SGD(lr=0.1, decay=1e-2, momentum=0.9, nesterov=True)
    model.compile(
        loss="categorical_crossentropy", optimizer=sgd, class_mode="categorical", device="cpu"
    )
    history = model.fit(ROWS, ONE_HOT, nb_epoch=10, batch_size=16, show_accuracy=True, verbose=0)
    return model, history, model.predict_proba(ROWS, batch_size=16)


def new_feed_forward():
    model = dl.Sequential(
        [
            dl.Dense(64, input_dim=20, kernel_initializer="uniform"),
            dl.Activation("relu"),
            dl.Dropout(0.5),
            dl.Dense(10, "softmax", kernel_initializer="uniform"),
        ]
    )
    rate = dl.optimizers.schedules.InverseTimeDecay(0.1, 1, 1e-2)
    sgd = dl.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    model.compile(sgd, "categorical_crossentropy", metrics=["accuracy"], device="cpu")
    history = model.fit(ROWS, ONE_HOT, epochs=10, batch_size=16, verbose=0)
    return model, history, model.predict(ROWS, batch_size=16)


def old_vgg():
    from easydl.layers.convolutional import Convolution2D, MaxPooling2D

    from easydl.layers.core import Dense, Dropout, Flatten
    from easydl.models import Sequential
    from easydl.regularizers import l2

    model = Sequential()
    model.add(
        Convolution2D(
            32, 3, 3, border_mode="valid", activation="relu", input_shape=(3, 20, 20),
            dim_ordering="th",
        )
    )  # fmt: skip
    model.add(Convolution2D(32, 3, 3, activation="relu", W_regularizer=l2(0.001)))
    model.add(MaxPooling2D(pool_size=(2, 2), border_mode="valid", dim_ordering="th"))
    model.add(Dropout(0.25))
    model.add(Convolution2D(64, 3, 3, activation="relu", border_mode="same", subsample=(2, 2)))
    model.add(Convolution2D(nb_filter=64, nb_row=3, nb_col=2, activation="relu", bias=False))
    model.add(MaxPooling2D(pool_size=(2, 2)))
    model.add(Flatten())
    model.add(Dense(128, activation="relu", W_constraint="maxnorm", b_regularizer=l2(0.01)))
    model.add(Dense(10, activation="softmax"))
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"], device="cpu")
    history = model.fit(PICTURES, ONE_HOT[:24], batch_size=8, nb_epoch=2, verbose=0)
    return model, history, model.predict(PICTURES)


def new_vgg():
    l2 = dl.regularizers.L2
    model = dl.Sequential(
        [
            dl.Conv2D(32, 3, activation="relu", input_shape=(3, 20, 20)),
            dl.Conv2D(32, 3, activation="relu", kernel_regularizer=l2(0.001)),
            dl.MaxPooling2D(2),
            dl.Dropout(0.25),
            dl.Conv2D(64, 3, activation="relu", padding="same", strides=2),
            dl.Conv2D(64, (3, 2), activation="relu", use_bias=False),
            dl.MaxPooling2D(2),
            dl.Flatten(),
            dl.Dense(
                128, "relu", kernel_constraint="max_norm", bias_regularizer=l2(0.01)
            ),
            dl.Dense(10, "softmax"),
        ]
    )  # fmt: skip
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"], device="cpu")
    history = model.fit(PICTURES, ONE_HOT[:24], batch_size=8, epochs=2, verbose=0)
    return model, history, model.predict(PICTURES)


def old_lstm():
    from easydl.layers import LSTM, Dense
    from easydl.models import Sequential

    model = Sequential()
    model.add(
        LSTM(
            32, init="glorot_normal", inner_init="orthogonal", forget_bias_init="one",
            inner_activation="hard_sigmoid", return_sequences=True, input_dim=16, input_length=8,
            consume_less="gpu",
        )
    )  # fmt: skip
    model.add(LSTM(output_dim=32, return_sequences=True, dropout_W=0.2, dropout_U=0.0))
    model.add(LSTM(32, U_regularizer="l2"))
    model.add(Dense(10, activation="softmax"))
    model.compile(loss="categorical_crossentropy", optimizer="rmsprop", device="cpu")
    history = model.fit(SEQUENCES, ONE_HOT[:48], batch_size=16, nb_epoch=2, verbose=0)
    return model, history, model.predict(SEQUENCES)


def new_lstm():
    model = dl.Sequential(
        [
            dl.LSTM(
                32, kernel_initializer="glorot_normal", return_sequences=True, input_shape=(8, 16)
            ),
            dl.LSTM(32, return_sequences=True, dropout=0.2),
            dl.LSTM(32, recurrent_regularizer="l2"),
            dl.Dense(10, "softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="rmsprop", device="cpu")
    history = model.fit(SEQUENCES, ONE_HOT[:48], batch_size=16, epochs=2, verbose=0)
    return model, history, model.predict(SEQUENCES)


def old_autoencoder():
    from easydl.layers.noise import GaussianNoise

    from easydl.layers import Dense
    from easydl.models import Sequential
    from easydl.regularizers import WeightRegularizer, activity_l2

    model = Sequential()
    model.add(GaussianNoise(sigma=0.1, batch_input_shape=(None, 20)))
    model.add(
        Dense(
            8, init="he_normal", activation="relu", activity_regularizer=activity_l2(1e-3),
            W_regularizer=WeightRegularizer(l2=1e-3),
        )
    )  # fmt: skip
    model.add(Dense(20, init="one", bias=True, b_constraint="nonneg"))
    model.compile(optimizer="adadelta", loss="mse", device="cpu")
    history = model.fit(ROWS, ROWS, nb_epoch=2, batch_size=32, validation_split=0.25, verbose=0)
    return model, history, model.predict(ROWS)


def new_autoencoder():
    model = dl.Sequential(
        [
            dl.GaussianNoise(0.1, input_shape=(20,)),
            dl.Dense(
                8, "relu", kernel_initializer="he_normal",
                activity_regularizer=dl.regularizers.L2(1e-3),
                kernel_regularizer=dl.regularizers.L1L2(0.0, 1e-3),
            ),
            dl.Dense(20, kernel_initializer="ones", bias_constraint="non_neg"),
        ]
    )  # fmt: skip
    model.compile(optimizer="adadelta", loss="mse", device="cpu")
    history = model.fit(ROWS, ROWS, epochs=2, batch_size=32, validation_split=0.25, verbose=0)
    return model, history, model.predict(ROWS)


@pytest.mark.parametrize("name", ["feed_forward", "vgg", "lstm", "autoencoder"])
@pytest.mark.filterwarnings("ignore:.*Keras 1's:DeprecationWarning")
def test_a_program_of_the_slides_gives_todays_numbers_to_the_bit(name):
    assert_same_training(globals()[f"old_{name}"], globals()[f"new_{name}"])


@pytest.mark.filterwarnings("ignore:.*Keras 1's:DeprecationWarning")
def test_the_text_network_of_2016_pools_and_convolves_over_steps():
    from easydl.layers.convolutional import MaxPooling1D

    from easydl.layers import LSTM, Convolution1D, Dense, Embedding, GlobalMaxPooling1D

    tokens = RNG.integers(0, 50, (32, 20))
    labels = RNG.integers(0, 2, 32)

    def old(last):
        model = dl.Sequential()
        model.add(Embedding(50, 8, input_length=20))
        model.add(
            Convolution1D(
                nb_filter=6, filter_length=5, border_mode="valid", activation="relu",
                subsample_length=1,
            )
        )  # fmt: skip
        model.add(MaxPooling1D(pool_length=4))
        model.add(last)
        model.add(Dense(1, activation="sigmoid"))
        return train(model)

    def today(*last):
        model = dl.Sequential(
            [
                dl.Embedding(50, 8, input_shape=(20,)),
                dl.Permute((2, 1)),
                dl.Conv1D(6, 5, activation="relu"),
                dl.MaxPooling1D(4),
                *last,
                dl.Dense(1, "sigmoid"),
            ]
        )
        return train(model)

    def train(model):
        model.compile("adam", "binary_crossentropy", device="cpu")
        history = model.fit(tokens, labels, epochs=2, batch_size=16, verbose=0)
        return model, history, model.predict(tokens)

    assert_same_training(lambda: old(LSTM(5)), lambda: today(dl.Permute((2, 1)), dl.LSTM(5)))
    assert_same_training(
        lambda: old(GlobalMaxPooling1D()), lambda: today(dl.GlobalMaxPooling1D())
    )  # fmt: skip

    pooled = dl.Sequential([LSTM(3, return_sequences=True), MaxPooling1D(pool_length=2)])
    x = torch.randn(2, 8, 5)
    steps = pooled[0](x)
    torch.testing.assert_close(pooled(x), torch.maximum(steps[:, ::2], steps[:, 1::2]))

    first = dl.Sequential([Convolution1D(4, 3, input_dim=5, input_length=7)])
    assert first.output_shape == (None, 5, 4)
    x = torch.randn(2, 7, 5)
    torch.testing.assert_close(first.to_torch()(x), first(x), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"\(N, 7, 5\)|shape|layer"):
        first(torch.randn(2, 5, 7))


# -- words -----------------------------------------------------------------------------------------

CALLS = [
    (lambda: dl.Dense(3, init="zero"), "init", "kernel_initializer"),
    (lambda: dl.Dense(output_dim=3), "output_dim", "units"),
    (lambda: dl.Dense(3, bias=False), "bias", "use_bias"),
    (lambda: dl.Dense(3, W_regularizer="l2"), "W_regularizer", "kernel_regularizer"),
    (lambda: dl.Dense(3, b_regularizer="l2"), "b_regularizer", "bias_regularizer"),
    (lambda: dl.Dense(3, W_constraint="nonneg"), "W_constraint", "kernel_constraint"),
    (lambda: dl.Dense(3, b_constraint="nonneg"), "b_constraint", "bias_constraint"),
    (lambda: dl.Dense(3, weights=None), "weights", "set_weights"),
    (lambda: dl.Dense(3, batch_input_shape=(None, 4)), "batch_input_shape", "input_shape"),
    (lambda: dl.Flatten(input_dtype="float32"), "input_dtype", "leave it out"),
    (lambda: dl.Dropout(p=0.5), "p", "rate"),
    (lambda: dl.SpatialDropout1D(p=0.5), "p", "axis=-1"),
    (lambda: dl.GaussianNoise(sigma=1), "sigma", "stddev"),
    (lambda: dl.LeakyReLU(alpha=0.1), "alpha", "negative_slope"),
    (lambda: dl.PReLU(init="zero"), "init", "alpha_initializer"),
    (lambda: dl.Lambda(abs, output_shape=(3,)), "output_shape", "leave it out"),
    (lambda: dl.LSTM(3, inner_init="identity"), "inner_init", "recurrent_initializer"),
    (lambda: dl.LSTM(3, forget_bias_init="zero"), "forget_bias_init", "unit_forget_bias"),
    (lambda: dl.LSTM(3, inner_activation="sigmoid"), "inner_activation", "recurrent_activation"),
    (lambda: dl.LSTM(3, dropout_W=0.1), "dropout_W", "dropout"),
    (lambda: dl.LSTM(3, dropout_U=0), "dropout_U", "recurrent_dropout"),
    (lambda: dl.LSTM(3, consume_less="cpu"), "consume_less", "leave it out"),
    (lambda: dl.GRU(3, unroll=True), "unroll", "leave it out"),
    (lambda: dl.GRU(3, stateful=False), "stateful", "leave it out"),
    (lambda: dl.SimpleRNN(3, U_regularizer="l2"), "U_regularizer", "recurrent_regularizer"),
    (lambda: dl.SimpleRNN(3, input_dim=4), "input_dim", "input_shape=(steps, features)"),
    (lambda: dl.Embedding(9, 3, input_length=4), "input_length", "input_shape=(steps,)"),
    (lambda: dl.Embedding(9, 3, init="zero"), "init", "embeddings_initializer"),
    (lambda: dl.Embedding(9, 3, dropout=0.0), "dropout", "SpatialDropout1D"),
    (lambda: dl.BatchNormalization(mode=0), "mode", "leave it out"),
    (lambda: dl.BatchNormalization(gamma_init="one"), "gamma_init", "gamma_initializer"),
    (lambda: dl.MaxPooling2D(border_mode="same"), "border_mode", "padding"),
    (lambda: dl.AveragePooling2D(dim_ordering="th"), "dim_ordering", "leave it out"),
    (lambda: dl.MaxPooling1D(pool_length=3), "pool_length", "pool_size"),
    (lambda: dl.MaxPooling1D(stride=3), "stride", "strides"),
    (lambda: dl.UpSampling2D(dim_ordering="th"), "dim_ordering", "leave it out"),
    (lambda: dl.layers.Convolution2D(4, 3, 3), "Convolution2D", "Conv2D"),
    (lambda: dl.layers.Convolution1D(4, 3), "Convolution1D", "Conv1D"),
    (lambda: dl.layers.Convolution3D(4, 3, 3, 3), "Convolution3D", "Conv3D"),
    (lambda: dl.layers.Deconvolution2D(4, 3, 3), "Deconvolution2D", "Conv2DTranspose"),
    (lambda: dl.LSTM(3, inner_activation="hard_sigmoid"), "inner_activation", "numbers differ"),
    (lambda: dl.backend.set_image_dim_ordering("th"), "set_image_dim_ordering", "(N, C, H, W)"),
    (lambda: dl.backend.image_dim_ordering(), "image_dim_ordering", "(N, C, H, W)"),
    (lambda: dl.utils.np_utils.probas_to_classes(ONE_HOT), "probas_to_classes", "predict_classes"),
    (lambda: dl.layers.TimeDistributedDense(4), "TimeDistributedDense", "Dense"),
    (lambda: dl.optimizers.SGD(lr=0.1), "lr", "learning_rate"),
    (lambda: dl.optimizers.Adam(decay=0.0), "decay", "InverseTimeDecay"),
    (lambda: dl.optimizers.Nadam(schedule_decay=0.004), "schedule_decay", "leave it out"),
    (lambda: dl.regularizers.l1l2(0.1, 0.2), "l1l2", "L1L2"),
    (lambda: dl.regularizers.activity_l1(0.1), "activity_l1", "L1"),
    (lambda: dl.regularizers.ActivityRegularizer(l1=0.1), "ActivityRegularizer", "L1L2"),
    (lambda: dl.constraints.maxnorm(3), "maxnorm", "MaxNorm"),
    (lambda: dl.constraints.nonneg(), "nonneg", "NonNeg"),
    (lambda: dl.constraints.unitnorm(), "unitnorm", "UnitNorm"),
    (lambda: dl.callbacks.ReduceLROnPlateau(epsilon=0.1), "epsilon", "min_delta"),
    (lambda: dl.callbacks.ModelCheckpoint("w", period=1), "period", "leave it out"),
    (lambda: dl.callbacks.LambdaCallback(on_batch_end=print), "on_batch_end", "on_train_batch_end"),
    (lambda: dl.utils.np_utils.to_categorical([1], nb_classes=3), "nb_classes", "num_classes"),
    (lambda: dl.initializations.normal((2, 3), 0.1), "normal", "initializers.get"),
]


@pytest.mark.parametrize(("call", "old", "today"), CALLS, ids=[f"{c[1]}-{c[2]}" for c in CALLS])
def test_an_old_word_gives_one_warning_that_names_todays(call, old, today):
    _, texts = told(call)
    assert len(texts) == 1
    assert texts[0].startswith(f"{old} is Keras 1's word; ")
    assert today in texts[0].split(";", 1)[1]


def test_each_of_several_old_words_gives_its_own_warning():
    _, texts = told(lambda: dl.Dense(output_dim=3, init="uniform", W_regularizer="l2"))
    assert words(texts) == ["output_dim", "init", "W_regularizer"]
    _, texts = told(lambda: dl.layers.Convolution2D(4, 3, nb_col=3, border_mode="same"))
    assert words(texts) == ["Convolution2D", "nb_col", "border_mode"]


def test_todays_words_give_no_warning():
    assert told(lambda: dl.Dense(3, "relu", input_dim=4, kernel_initializer="zeros"))[1] == []
    assert told(lambda: dl.optimizers.SGD(0.1, 0.9, True))[1] == []
    assert told(lambda: dl.layers.Conv2D(4, 3, padding="same", input_shape=(3, 9, 9)))[1] == []


@pytest.mark.parametrize(
    "call",
    [
        lambda: dl.Dense(3, unitz=3),
        lambda: dl.Dense(3, kernel_initialiser="zeros"),
        lambda: dl.Dense(3, nb_filter=3),
        lambda: dl.Conv2D(3, 3, border_mode="same"),
        lambda: dl.optimizers.SGD(learning_rat=0.1),
        lambda: dl.regularizers.L2(l=0.1),
        lambda: model_of_one().fit(ROWS, ROWS, nb_epochs=1),
        lambda: model_of_one().compile("sgd", "mse", clas_mode="binary"),
    ],
)
def test_a_misspelt_argument_still_raises(call):
    with pytest.raises(TypeError, match=r"unexpected keyword argument|unknown argument"):
        call()


@pytest.mark.filterwarnings("ignore:.*Keras 1's:DeprecationWarning")
def test_a_misspelt_argument_of_an_old_name_still_raises():
    with pytest.raises(TypeError, match="unexpected keyword argument 'border_mod'"):
        dl.layers.Convolution2D(4, 3, 3, border_mod="same")


def test_an_argument_given_twice_raises():
    with pytest.raises(TypeError, match="output_dim and units were both given; expected units"):
        dl.Dense(3, output_dim=3)
    with pytest.raises(TypeError, match="nb_epoch and epochs were both given"):
        model_of_one().fit(ROWS, ROWS, epochs=1, nb_epoch=1)
    with pytest.raises(TypeError, match=r"Dense\(\) got multiple values for argument 'activation'"):
        dl.Dense(3, "relu", activation="relu", init="zero")
    with pytest.raises(TypeError, match=r"Convolution2D\(\) takes 8 positional arguments; 9 were"):
        dl.layers.Convolution2D(*range(9))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: dl.layers.Convolution2D(4, 3, 3, dim_ordering="tf"),
            r"x\.transpose\(0, 3, 1, 2\)",
        ),
        (lambda: dl.MaxPooling2D(dim_ordering="tf"), r"x\.transpose\(0, 3, 1, 2\)"),
        (
            lambda: dl.layers.Convolution2D(4, 3, 3, input_shape=(28, 28, 1)),
            r"write input_shape=\(1, 28, 28\)",
        ),
        (
            lambda: dl.layers.Convolution2D(4, 3, 3, batch_input_shape=(8, 28, 28, 3)),
            r"write input_shape=\(3, 28, 28\)",
        ),
        (lambda: dl.layers.Convolution2D(4, 3, 3, 3), "init=3 was given; expected a name"),
        (lambda: dl.layers.Merge([], mode="sum"), "Branches"),
        (lambda: dl.layers.MaxoutDense(4, nb_feature=2), "amax"),
        (lambda: dl.layers.Masking(0.0), "no masks"),
        (lambda: dl.models.Graph(), "Branches"),
        (lambda: dl.LSTM(3, stateful=True), "stateful=True was given"),
        (lambda: dl.LSTM(3, forget_bias_init="normal"), "expected 'one' or 'zero'"),
        (lambda: dl.Dense(3, weights=[np.ones((2, 3))]), "set_weights"),
        (lambda: dl.Embedding(9, 3, weights=[np.ones((9, 3))]), "embeddings_initializer"),
        (lambda: dl.Embedding(9, 3, dropout=0.5), "SpatialDropout1D"),
        (lambda: dl.BatchNormalization(mode=1), "mode=1 was given"),
        (
            lambda: dl.optimizers.SGD(clipnorm=1.0),
            r"^clipnorm=1.0 .* by itself, which easydl does not; .*clip_norm=…\), over all grad",
        ),
        (lambda: dl.optimizers.SGD(clipvalue=0.5), r"compile\(…, clip_value=…\), which does the"),
        (lambda: dl.optimizers.Adam(global_clipnorm=1), r"compile\(…, clip_norm=…\), which does"),
        (lambda: dl.layers.GaussianDropout(0.5), "Dropout"),
        (lambda: dl.backend.set_image_dim_ordering("tf"), r"x\.transpose\(0, 3, 1, 2\)"),
        (lambda: model_of_one().to_json(), r"save_weights\(path\)"),
        (lambda: dl.models.model_from_json("{}"), r"save_weights\(path\)"),
        (lambda: dl.constraints.maxnorm(2, axis=1), "MaxNorm"),
    ],
)
def test_what_has_no_translation_says_what_to_write(call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call()
    assert len(str(caught.value)) <= 600


def model_of_one():
    model = dl.Sequential([dl.Dense(1, input_dim=20)])
    model.compile("sgd", "mse", device="cpu")
    return model


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*Keras 1's:DeprecationWarning")
def test_values_are_todays():
    lstm = dl.LSTM(3, "uniform", "identity", "zero", "tanh", "hard_sigmoid", input_dim=4)
    assert lstm.given_input_shape == (None, 4)
    assert lstm.config["recurrent_initializer"] == "identity"
    assert lstm.config["recurrent_activation"] == "sigmoid"
    assert lstm.config["unit_forget_bias"] is False
    assert dl.Dense(3, "zero", "relu").config["kernel_initializer"] == "zeros"
    assert dl.Dense(3, "relu").activation.__class__ is nn.ReLU
    conv = dl.layers.Convolution2D(4, 3, 5, "one", "relu", None, "same", (2, 2), bias=False)
    assert (conv.kernel_size, conv.stride, conv.bias) == ((3, 5), (2, 2), None)
    assert type(conv) is dl.Conv2D
    assert dl.layers.Convolution2D(4, 3).kernel_size == (3, 3)
    assert dl.layers.TimeDistributedDense(4, input_dim=2, input_length=5).given_input_shape == (
        5,
        2,
    )
    assert dl.SpatialDropout1D(p=0.5).axis == -1
    assert dl.regularizers.WeightRegularizer(l1=0.1) == dl.regularizers.L1L2(0.1, 0.0)
    assert dl.regularizers.activity_l2(l=0.1) == dl.regularizers.L2(0.1)
    assert dl.constraints.maxnorm(m=3, axis=0) == dl.constraints.MaxNorm(3)
    assert dl.utils.np_utils.to_categorical([0, 1], 3).shape == (2, 3)
    assert dl.callbacks.ReduceLROnPlateau(epsilon=0.5).goal.min_delta == 0.5


@pytest.mark.filterwarnings("ignore:.*Keras 1's:DeprecationWarning")
def test_decay_divides_the_rate_by_one_plus_decay_times_updates():
    for sgd in (
        dl.optimizers.SGD(lr=0.5, decay=0.1),
        dl.optimizers.SGD(0.5, decay=0.1),
        dl.optimizers.SGD(0.5, 0.0, 0.1),
    ):
        assert [sgd.schedule(t) for t in range(3)] == [0.5 / (1 + 0.1 * t) for t in range(3)]
    assert dl.optimizers.SGD(0.5, 0.9, 0.1, True).nesterov is True
    assert dl.optimizers.SGD(lr=0.5, decay=0.0).learning_rate == 0.5
    assert dl.optimizers.Adam(decay=0.1).schedule(1) == 0.001 / 1.1


@pytest.mark.filterwarnings("ignore:.*Keras 1's:DeprecationWarning")
def test_a_function_written_with_initializations_fills_weights():
    from easydl import initializations

    def mine(shape, name=None):
        return initializations.normal(shape, scale=0.01, name=name)

    dl.seed(0)
    old = dl.Dense(50, init=mine, input_dim=40)
    old.build((None, 40))
    dl.seed(0)
    today = dl.Dense(50, kernel_initializer=dl.initializers.RandomNormal(0.0, 0.01))
    today.build((None, 40))
    torch.testing.assert_close(old.weight, today.weight, rtol=0, atol=0)
    assert initializations.uniform((2, 3)).shape == (2, 3)


@pytest.mark.filterwarnings("ignore:.*Keras 1's:DeprecationWarning")
def test_show_accuracy_adds_the_metric_and_keeps_the_optimizer():
    model = dl.Sequential([dl.Dense(10, "softmax", input_dim=20)])
    model.compile("adam", "categorical_crossentropy", device="cpu")
    assert list(model.fit(ROWS, ONE_HOT, verbose=0).history) == ["loss"]
    optimizer = model.optimizer
    history = model.fit(
        ROWS, ONE_HOT, verbose=0, show_accuracy=True, validation_data=(ROWS, ONE_HOT)
    )
    assert list(history.history) == ["loss", "acc", "val_loss", "val_acc"]
    assert model.optimizer is optimizer
    _, accuracy = model.evaluate(ROWS, ONE_HOT, show_accuracy=True, verbose=0)
    classes = model.predict_classes(ROWS, verbose=0)
    assert accuracy == pytest.approx((classes == CLASSES).mean())


def test_class_weight_auto_is_balanced():
    labels = (CLASSES > 7).astype("float32")

    def train(class_weight):
        dl.seed(0)
        model = dl.Sequential([dl.Dense(1, "sigmoid", input_dim=20)])
        model.compile("sgd", "binary_crossentropy", device="cpu")
        model.fit(ROWS, labels, class_weight=class_weight, verbose=0)
        return model.get_weights()

    old, texts = told(train, "auto")
    assert texts == ["class_weight='auto' is Keras 1's word; write class_weight='balanced'."]
    today, texts = told(train, "balanced")
    assert texts == []
    assert all(map(np.array_equal, old, today))


def compiled(*metrics, loss="categorical_crossentropy"):
    model = dl.Sequential([dl.Dense(10, "softmax", input_dim=20)])
    model.compile("sgd", loss, metrics=list(metrics), device="cpu")
    return model


def test_acc_in_the_history_monitors_and_paths_is_accuracy(tmp_path):
    stop = dl.callbacks.EarlyStopping(monitor="val_acc", patience=9)
    keep = dl.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}-{val_acc:.2f}-{acc:.2f}", monitor="val_acc", save_best_only=True
    )
    halve = dl.callbacks.ReduceLROnPlateau(monitor="acc")

    def train():
        return compiled("accuracy").fit(
            ROWS, ONE_HOT, validation_split=0.25, callbacks=[stop, keep, halve], verbose=0
        )

    history, texts = told(train)
    assert set(texts) == {
        "'val_acc' is Keras 1's word; write 'val_accuracy'.",
        "'acc' is Keras 1's word; write 'accuracy'.",
    }
    record = history.history
    assert stop.best == keep.best == record["val_accuracy"][0]
    name = f"1-{record['val_accuracy'][0]:.2f}-{record['accuracy'][0]:.2f}"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert list(record) == ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"]
    values, texts = told(lambda: record["val_acc"])
    assert values is record["val_accuracy"]
    assert texts == ["'val_acc' is Keras 1's word; write 'val_accuracy'."]
    with pytest.raises(KeyError, match="val_ac"):
        record["val_ac"]
    for twin in (pickle.loads(pickle.dumps(record)), copy.deepcopy(record)):
        assert type(twin) is dict
        assert twin == record


def test_acc_stays_acc_where_the_metric_is_called_so():
    stop = dl.callbacks.EarlyStopping(monitor="acc")
    history, texts = told(lambda: compiled("acc").fit(ROWS, ONE_HOT, callbacks=[stop], verbose=0))
    assert texts == []
    assert stop.best == history.history["acc"][0]
    with pytest.raises(ValueError, match="unknown entry 'acc'"):
        compiled().fit(ROWS, ONE_HOT, callbacks=[stop], verbose=0)


def test_losses_of_2016_give_their_numbers():
    pairs = {"kullback_leibler_divergence": ("kl_divergence", 1), "cosine_proximity":
             ("cosine_similarity", 10)}  # fmt: skip
    for old, (today, factor) in pairs.items():
        dl.seed(0)
        scores, texts = told(
            lambda old=old: compiled(old, loss=old).evaluate(
                ROWS, ONE_HOT, verbose=0, return_dict=True
            )
        )
        assert set(words(texts)) == {f"{old!r}"}
        dl.seed(0)
        same = compiled(today, loss=today)
        expected = same.evaluate(ROWS, ONE_HOT, verbose=0)[0] / factor
        assert list(scores) == ["loss", old]
        assert list(scores.values()) == pytest.approx([expected, expected])
        with pytest.warns(DeprecationWarning, match=old):
            assert callable(getattr(dl.objectives, old)())


@pytest.mark.filterwarnings("ignore:.*Keras 1's:DeprecationWarning")
def test_fmeasure_counts_rounded_outputs():
    model = compiled("fmeasure")
    stop = dl.callbacks.EarlyStopping(monitor="fmeasure")
    assert stop.goal.mode == "max"
    model.fit(ROWS, ONE_HOT, epochs=9, callbacks=[], verbose=0)
    found = model.evaluate(ROWS, ONE_HOT, verbose=0, return_dict=True)["fmeasure"]
    picked = model.predict(ROWS) > 0.5
    hits = (picked & (ONE_HOT == 1)).sum()
    assert found == pytest.approx(2 * hits / (picked.sum() + ONE_HOT.sum()))
    one = dl.Sequential([dl.Dense(1, "sigmoid", input_dim=20)])
    one.compile("sgd", "binary_crossentropy", metrics=["fmeasure"], device="cpu")
    y = (CLASSES > 4).astype("float32")
    picked = one.fit(ROWS, y, verbose=0).model.predict(ROWS)[:, 0] > 0.5
    hits = (picked & (y == 1)).sum()
    assert one.evaluate(ROWS, y, verbose=0)[1] == pytest.approx(2 * hits / (picked.sum() + y.sum()))


@pytest.mark.filterwarnings("ignore:.*Keras 1's:DeprecationWarning")
def test_deconvolution_makes_the_size_asked_or_refuses():
    def decoder(size):
        model = dl.Sequential()
        model.add(
            dl.layers.Deconvolution2D(
                3, 3, 3, output_shape=(None, 3, size, size), subsample=(2, 2), border_mode="same",
                input_shape=(8, 14, 14),
            )
        )  # fmt: skip
        return model

    x = torch.zeros(2, 8, 14, 14)
    model = decoder(28)
    assert model(x).shape == model.to_torch()(x).shape == (2, 3, 28, 28)
    assert type(model[0]) is dl.Conv2DTranspose
    copy.deepcopy(model)(x)
    with pytest.raises(ValueError, match=r"output_shape=\(…, 27, 27\).*\(28, 28\)"):
        decoder(27)(x)
    volumes = dl.layers.Convolution3D(4, 3, 2, 1, subsample=(1, 2, 1), input_shape=(1, 5, 6, 7))
    assert (volumes.kernel_size, volumes.stride) == ((3, 2, 1), (1, 2, 1))


@pytest.mark.filterwarnings("ignore:.*Keras 1's:DeprecationWarning")
def test_probabilities_become_classes():
    from easydl.utils.np_utils import categorical_probas_to_classes, probas_to_classes

    assert (categorical_probas_to_classes(ONE_HOT) == CLASSES).all()
    assert (probas_to_classes(y_pred=ONE_HOT) == CLASSES).all()
    assert probas_to_classes(np.array([[0.2], [0.7]])).tolist() == [0, 1]
    assert dl.backend.image_dim_ordering() == "th"


def test_data_sets_are_refused_with_those_at_hand():
    from easydl.datasets import mnist
    from easydl.datasets.cifar10 import load_data

    for load in (mnist.load_data, load_data):
        with pytest.raises(ImportError, match=r"sklearn\.datasets\.load_digits\(\)"):
            load()


def endless():
    start = 0
    while True:
        rows = np.arange(start, start + 12) % 96
        start += 12
        yield ROWS[rows], ONE_HOT[rows]


@pytest.mark.filterwarnings("ignore:.*Keras 1's:DeprecationWarning")
def test_generators_are_cut_into_epochs_of_so_many_samples():
    def start():
        model = dl.Sequential([dl.Dense(10, "softmax", input_dim=20)])
        model.compile("sgd", "categorical_crossentropy", metrics=["acc"], device="cpu")
        return model

    def old():
        model = start()
        history = model.fit_generator(
            endless(), samples_per_epoch=40, nb_epoch=3, validation_data=endless(),
            nb_val_samples=24, nb_worker=2, max_q_size=4, verbose=0,
        )  # fmt: skip
        scores = model.evaluate_generator(endless(), val_samples=96)
        assert scores == pytest.approx(model.evaluate(ROWS, ONE_HOT, verbose=0))
        return model, history, model.predict_generator(endless(), 96)

    def today():
        model = start()
        history = model.fit(
            endless(), steps_per_epoch=4, epochs=3, validation_data=endless(),
            validation_steps=2, verbose=0,
        )  # fmt: skip
        return model, history, model.predict(ROWS)

    assert_same_training(old, today)
    with pytest.raises(TypeError, match="samples_per_epoch is missing"):
        start().fit_generator(endless(), nb_epoch=1)
    with pytest.raises((ValueError, RuntimeError), match="ended after 2 of 5 samples"):
        short = iter([(ROWS[:2], ONE_HOT[:2])])
        start().fit_generator(short, samples_per_epoch=5, nb_epoch=1, verbose=0)
    _, texts = told(lambda: start().predict_generator(endless(), val_samples=5))
    assert words(texts)[:2] == ["predict_generator", "val_samples"]


# -- the wrapper is not in the way -----------------------------------------------------------------


def test_signatures_are_todays():
    for name in dl.layers.__all__:
        for parameter in inspect.signature(getattr(dl.layers, name)).parameters.values():
            assert parameter.kind is not parameter.VAR_KEYWORD
    assert list(inspect.signature(dl.Dense).parameters)[:3] == ["units", "activation", "use_bias"]
    assert "epochs" in inspect.signature(dl.Model.fit).parameters
    assert dl.Dense.__init__.__name__ == "__init__"


def test_subclasses_pickle_and_copy_work():
    class Mine(dl.Dense):
        def __init__(self, units, **words):
            super().__init__(units, **words)

    layer, texts = told(lambda: Mine(3, init="zero"))
    assert words(texts) == ["init"]
    assert isinstance(layer, nn.Linear)
    built = dl.Dense(3, input_dim=2)
    built.build((None, 2))
    for twin in (copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
        assert type(twin) is dl.Dense
        torch.testing.assert_close(twin.weight, built.weight)


def test_the_tables_name_only_what_there_is():
    assert set(keras1.LAYERS) <= set(dl.layers.__all__)
    for name, old in keras1.LAYERS.items():
        today = set(inspect.signature(getattr(dl.layers, name)).parameters)
        assert not set(old) & today
    for name, old in keras1.METHODS.items():
        today = set(inspect.signature(getattr(dl.Model, name)).parameters)
        assert {word for word in old if old[word].advice} & today == set()


OLD_IMPORTS = """
from easydl.layers.core import Dense, Dropout, Activation, Flatten, TimeDistributedDense, Merge
from easydl.layers.convolutional import Convolution1D, Convolution2D, MaxPooling2D, ZeroPadding2D
from easydl.layers.pooling import AveragePooling2D
from easydl.layers.recurrent import LSTM, GRU, SimpleRNN
from easydl.layers.normalization import BatchNormalization
from easydl.layers.advanced_activations import LeakyReLU, PReLU, ELU
from easydl.layers.embeddings import Embedding
from easydl.layers.noise import GaussianNoise
from easydl.layers.wrappers import TimeDistributed, Bidirectional
from easydl.layers.local import LocallyConnected2D
from easydl.layers import Convolution2D, Dense, MaxoutDense
from easydl.models import Sequential
from easydl.optimizers import SGD, Adam, RMSprop, Adagrad, Adadelta, Adamax
from easydl.callbacks import EarlyStopping, ModelCheckpoint, History, Callback
from easydl.regularizers import l1, l2, l1l2, activity_l2, WeightRegularizer
from easydl.constraints import maxnorm, nonneg, unitnorm
from easydl.initializations import uniform, normal, glorot_uniform
from easydl.objectives import mean_squared_error, categorical_crossentropy
from easydl.utils import np_utils
from easydl.utils.np_utils import categorical_probas_to_classes, probas_to_classes
from easydl import backend as K; K.set_image_dim_ordering("th")
from easydl.preprocessing.sequence import pad_sequences
from easydl.preprocessing import sequence; sequence.pad_sequences([[1], [2, 3]])
from easydl.layers.convolutional import Convolution3D, Deconvolution2D
from easydl.layers.core import *; Convolution2D, Dense, TimeDistributedDense
from easydl.layers.convolutional import *; Convolution2D, MaxPooling2D
from easydl.objectives import kullback_leibler_divergence, cosine_proximity
from easydl.utils.np_utils import to_categorical
import easydl.layers.convolutional as convolutional
import easydl.utils.np_utils
"""


@pytest.mark.parametrize("line", [*OLD_IMPORTS.strip().splitlines(), OLD_IMPORTS])
@pytest.mark.filterwarnings("ignore:.*Keras 1's:DeprecationWarning")
def test_old_imports_work(line):
    exec(line, {})


def test_an_objective_is_a_loss():
    model = dl.Sequential([dl.Dense(1, "sigmoid", input_dim=20)])
    model.compile("sgd", dl.objectives.binary_crossentropy, device="cpu")
    same = dl.Sequential([dl.Dense(1, "sigmoid", input_dim=20)])
    same.compile("sgd", "binary_crossentropy", device="cpu")
    model(torch.zeros(1, 20)), same(torch.zeros(1, 20))
    same.load_state_dict(model.state_dict())
    y = CLASSES % 2
    assert model.evaluate(ROWS, y, verbose=0) == same.evaluate(ROWS, y, verbose=0)


def test_no_other_file_knows_the_old_words():
    general = {
        "alpha", "axis", "bias", "class_weight", "y_pred", "decay", "dropout", "epsilon",
        "filepath", "generator", "init",
        "input_dim", "input_dtype", "input_length", "input_shape", "l", "lr", "m", "mode",
        "on_batch_begin", "on_batch_end", "output_dim", "output_shape", "overwrite", "p", "path",
        "period", "sigma", "stateful", "stride", "unroll", "validation_data", "verbose", "weights",
    }  # fmt: skip
    tables = [*keras1.LAYERS.values(), *keras1.METHODS.values(), *keras1.CALLBACKS.values()]
    for names in keras1.NAMES.values():
        tables += [{name: None, **old.words} for name, old in names.items()]
    old_words = {word for table in [*tables, keras1.OPTIMIZER] for word in table} - general
    assert {"nb_epoch", "border_mode", "W_regularizer", "Convolution2D"} <= old_words
    old_words.remove("l1l2")  # the lower-case name of today's class L1L2
    pattern = re.compile(rf"\b({'|'.join(sorted(old_words))})\b")
    package = Path(dl.__file__).parent
    for file in package.rglob("*.py"):
        files_of_keras = ("keras_config.py", "keras_model.py", "keras_versions.py")
        if file.name not in ("keras1.py", *files_of_keras):
            assert not pattern.findall(file.read_text()), file
