"""What is refused, and that the message names what came, what was expected and the way out."""

import pytest
import torch
from torch import nn

from easydl import layers as dl

ARGUMENTS = [
    (lambda: dl.Dense(-1), "units=-1", "at least 1"),
    (lambda: dl.Dense(2.5), "units=2.5", "whole number"),
    (lambda: dl.Dense(0), "units=0", "at least 1"),
    (lambda: dl.Dense(True), "units=True", "whole number"),
    (lambda: dl.Dense(3, "rellu"), "rellu", "Did you mean 'relu'"),
    (lambda: dl.Dense(3, activation=3), "activation=3", "'relu'"),
    (lambda: dl.Dense(3, kernel_initializer="he_norm"), "he_norm", "Did you mean 'he_normal'"),
    (lambda: dl.Dense(3, kernel_regularizer="l3"), "l3", "Did you mean 'l1'|Did you mean 'l2'"),
    (lambda: dl.Dense(3, kernel_constraint="maxnorm"), "maxnorm", "Did you mean 'max_norm'"),
    (lambda: dl.Dense(3, input_dim=0), "input_dim=0", "at least 1"),
    (lambda: dl.Dense(3, input_shape=(2, -1)), "input_shape=-1", "at least 1"),
    (lambda: dl.Dense(3, name="a.b"), "a.b", "without dots"),
    (lambda: dl.Dropout(1), "rate=1", r"\[0, 1\)"),
    (lambda: dl.Dropout(-0.1), "rate=-0.1", r"\[0, 1\)"),
    (lambda: dl.SpatialDropout1D("x"), "rate='x'", "number"),
    (lambda: dl.SpatialDropout1D(0.1, axis=2), "axis=2", r"\(N, C, L\)"),
    (lambda: dl.GaussianNoise(-1), "stddev=-1", r"\[0, inf\)"),
    (lambda: dl.Conv2D(0, 3), "filters=0", "at least 1"),
    (lambda: dl.Conv2D(3, 0), "kernel_size=0", "at least 1"),
    (lambda: dl.Conv2D(3, (3, 0)), "kernel_size=0", "at least 1"),
    (lambda: dl.Conv2D(3, (3, 3, 3)), r"kernel_size=\(3, 3, 3\)", r"\(2, 2\)"),
    (lambda: dl.Conv2D(3, 3, strides=0), "strides=0", "at least 1"),
    (lambda: dl.Conv2D(3, 3, padding="sane"), "sane", "Did you mean 'same'"),
    (lambda: dl.Conv2D(3, 3, padding=1), "padding=1", "ZeroPadding2D"),
    (lambda: dl.Conv2D(3, 3, padding="causal"), "causal", "same, valid"),
    (lambda: dl.Conv2D(3, 3, groups=2), "groups=2", "filters=4"),
    (lambda: dl.Conv2D(3, 3, data_format="channels_last"), "channels_last", "np.moveaxis"),
    (lambda: dl.MaxPooling2D(0), "pool_size=0", "at least 1"),
    (lambda: dl.MaxPooling2D(2, padding="full"), "full", "same, valid"),
    (lambda: dl.UpSampling2D(2, interpolation="linear"), "linear", "bilinear"),
    (lambda: dl.ZeroPadding2D(-1), "padding=-1", "at least 0"),
    (lambda: dl.ZeroPadding2D(((1, 2, 3), 1)), "padding=", "top, bottom"),
    (lambda: dl.Reshape((-1, -1)), r"\(-1, -1\)", "at most one"),
    (lambda: dl.Reshape((0, 3)), "target_shape=0", "at least 1"),
    (lambda: dl.Permute((1, 3)), r"dims=\(1, 3\)", "once"),
    (lambda: dl.Permute((0, 1)), r"dims=\(0, 1\)", "batch axis"),
    (lambda: dl.RepeatVector(0), "n=0", "at least 1"),
    (lambda: dl.Embedding(0, 3), "input_dim=0", "at least 1"),
    (lambda: dl.Embedding(5, 3, mask_zero=True), "mask_zero=True", "front"),
    (lambda: dl.BatchNormalization(axis=3), "axis=3", "nn.LayerNorm"),
    (lambda: dl.BatchNormalization(momentum=1.5), "momentum=1.5", r"\[0, 1\]"),
    (lambda: dl.BatchNormalization(epsilon=0), "epsilon=0", r"\(0, inf\)"),
    (lambda: dl.LSTM(-1), "units=-1", "at least 1"),
    (lambda: dl.LSTM(3, "relu"), "activation='relu'", "'tanh'"),
    (
        lambda: dl.LSTM(3, recurrent_activation="hard_sigmoid"),
        "hard_sigmoid",
        "recurrent_activation='sigmoid'.*LSTMCell",
    ),
    (lambda: dl.SimpleRNN(3, "sigmoid"), "activation='sigmoid'", "'tanh' or 'relu'"),
    (lambda: dl.LSTM(3, dropout=1), "dropout=1", r"\[0, 1\)"),
    (lambda: dl.LSTM(3, recurrent_dropout=0.2), "recurrent_dropout=0.2", "fused kernel"),
    (lambda: dl.LSTM(3, bidirectional=True, go_backwards=True), "go_backwards", "one of them"),
    (lambda: dl.Bidirectional(dl.LSTM(3), "max"), "max", "concat"),
    (lambda: dl.Branches([]), r"branches=\[\]", "at least one"),
    (lambda: dl.Branches([dl.Dense(3)], "sum"), "sum", "add"),
    (lambda: dl.LeakyReLU(-1), "negative_slope=-1", "0"),
]


@pytest.mark.parametrize(("make", "given", "expected"), ARGUMENTS)
def test_bad_argument_is_refused_at_once(make, given, expected):
    with pytest.raises((ValueError, TypeError), match=given) as error:
        make()
    assert error.match(expected)
    assert len(str(error.value)) <= 600


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: dl.TimeDistributed(3), "expected a layer"),
        (lambda: dl.Bidirectional(dl.Dense(3)), r"Bidirectional\(LSTM\(32\)\)"),
        (lambda: dl.Bidirectional(nn.LSTM(3, 4)), r"Bidirectional\(LSTM\(32\)\)"),
        (lambda: dl.Residual([3]), "list of layers"),
        (lambda: dl.Lambda(3), r"Lambda\(lambda x"),
        (lambda: dl.Add()(torch.zeros(3)), "list of tensors"),
        (lambda: dl.Dense(3, kernel_initializer=[1]), "fills a tensor"),
        (lambda: dl.Dense(3, kernel_regularizer=0.1), r"regularizers.L2\(0.01\)"),
        (lambda: dl.Dense(3, kernel_constraint=2), r"constraints.MaxNorm\(2\)"),
        (lambda: dl.Dense(3, activation=lambda x: x if x.sum() > 0 else -x), r"torch\.fx"),
    ],
)
def test_what_is_no_layer_or_function_is_refused(make, expected):
    with pytest.raises(TypeError, match=expected):
        make()


SHAPES = [
    # layer, input, what the message shows of it, what it expected
    (
        lambda: dl.Conv2D(3, 3, name="c1"),
        (2, 28, 28),
        r"c1 \(Conv2D\).*\(N, 28, 28\)",
        r"x\[:, None",
    ),
    (lambda: dl.Conv2D(3, 3), (2, 28, 28, 1), "Conv2D", r"np.moveaxis\(x, -1, 1\)"),
    (lambda: dl.Conv2D(3, 5), (2, 1, 4, 9), r"\(N, 1, 4, 9\)", r"window \(5, 5\) does not fit"),
    (lambda: dl.Conv2D(3, 3, dilation_rate=3), (2, 1, 6, 9), "6, 9", r"window \(7, 7\)"),
    (lambda: dl.Conv2D(4, 3, groups=2), (2, 3, 9, 9), "3 channels", "groups"),
    (lambda: dl.Conv3D(3, 3), (2, 16, 16, 16, 1), "Conv3D", r"np.moveaxis\(x, -1, 1\)"),
    (lambda: dl.MaxPooling2D(4), (2, 1, 3, 9), r"\(N, 1, 3, 9\)", r"window \(4, 4\)"),
    (lambda: dl.MaxPooling2D(), (2, 8, 8), r"\(N, 8, 8\)", r"expected \(N, C, H, W\)"),
    (lambda: dl.Cropping2D(3), (2, 1, 6, 9), r"\(N, 1, 6, 9\)", "does not fit"),
    (lambda: dl.SeparableConv2D(3, 5), (2, 1, 4, 9), r"\(N, 1, 4, 9\)", "does not fit"),
    (lambda: dl.LocallyConnected2D(3, 5), (2, 1, 4, 9), r"\(N, 1, 4, 9\)", "does not fit"),
    (lambda: dl.LSTM(3), (2, 5), r"\(N, 5\)", r"\(N, T, F\).*x\[\.\.\., None\]"),
    (lambda: dl.LSTM(3), (2, 5, 3, 3), r"\(N, 5, 3, 3\)", "TimeDistributed"),
    (lambda: dl.RepeatVector(3), (2, 5, 3), r"\(N, 5, 3\)", r"\(N, F\)"),
    (lambda: dl.Permute((2, 1)), (2, 5), r"\(N, 5\)", r"\(N, axis 1, axis 2\)"),
    (lambda: dl.Reshape((3, 4)), (2, 10), r"\(10,\)", "needs 12"),
    (lambda: dl.Reshape((3, -1)), (2, 10), r"\(10,\)", "a multiple of 3"),
    (lambda: dl.GroupNormalization(4), (2, 6, 5, 5), "6 channels", "groups=2"),
    (lambda: dl.Residual(dl.Dense(3)), (2, 4), r"\(None, 3\).*\(None, 4\)", "shortcut="),
    (lambda: dl.Branches([dl.Dense(3), dl.Dense(2)], "add"), (2, 4), r"\(None, 3\)", "same shape"),
    (
        lambda: dl.Branches([dl.Conv2D(3, 3), []]),
        (2, 4, 9, 9),
        r"\(None, 3, 7, 7\)",
        "every axis but 1",
    ),
    (lambda: dl.Branches([dl.Dense(3), []]), (2, 5, 4), r"\(None, 5, 3\)", "axis=1 or axis=-1"),
    (lambda: dl.PReLU(shared_axes=(3,)), (2, 4), r"shared_axes=\(3,\)", "from 1 to 1"),
]


@pytest.mark.parametrize(("make", "shape", "given", "expected"), SHAPES)
@pytest.mark.parametrize("how", ["build", "call"])
def test_bad_shape_is_refused_with_both_shapes(make, shape, given, expected, how):
    layer = make()
    with pytest.raises(ValueError, match=given) as error:
        if how == "build":
            layer.build((None, *shape[1:]))
        else:
            layer(torch.zeros(shape))
    assert error.match(expected)
    assert len(str(error.value)) <= 600


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (lambda: dl.Dense(3), (None, None), "input_shape="),
        (lambda: dl.Conv2D(3, 3), (None, None, 8, 8), r"input_shape=\(3, 32, 32\)"),
        (lambda: dl.LSTM(3), (None, 5, None), r"input_shape=\(None, 20\)"),
        (lambda: dl.BatchNormalization(), (None, None, 5), "axis 1"),
        (lambda: dl.LocallyConnected2D(3, 3), (None, 1, None, 8), "every position"),
        (lambda: dl.PReLU(), (None, 1, None), "shared_axes"),
    ],
)
def test_open_shape_is_refused_where_weights_need_it(make, shape, expected):
    with pytest.raises(ValueError, match=expected):
        make().build(shape)


def test_a_picture_smaller_than_the_window_is_refused_after_building_too():
    layer = dl.Conv2D(3, 5)
    layer(torch.zeros(2, 1, 9, 9))
    with pytest.raises(ValueError, match="does not fit"):
        layer(torch.zeros(2, 1, 4, 9))


def test_locally_connected_refuses_another_size():
    layer = dl.LocallyConnected2D(3, 3)
    layer.build((None, 1, 9, 9))
    with pytest.raises(ValueError, match=r"\(8, 9\).*\(9, 9\)"):
        layer(torch.zeros(2, 1, 8, 9))
    with pytest.raises(ValueError, match=r"\(8, 9\).*\(9, 9\)"):
        layer.build((None, 1, 8, 9))


def test_list_layers_refuse_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        dl.Add()([torch.zeros(2, 3), torch.zeros(2, 4)])
    with pytest.raises(ValueError, match="same shape"):
        dl.Multiply()([torch.zeros(2), torch.zeros(2, 1)])
    with pytest.raises(ValueError, match="every axis but"):
        dl.Concatenate()([torch.zeros(2, 3), torch.zeros(4, 3)])
    with pytest.raises(ValueError, match="seen no tensors"):
        dl.Add().to_torch()


def test_bidirectional_refuses_a_layer_built_for_one_direction():
    layer = dl.LSTM(3)
    layer.build((None, 5, 2))
    with pytest.raises(ValueError, match="new layer"):
        dl.Bidirectional(layer)


def test_to_torch_before_building_says_so():
    with pytest.raises(ValueError, match="no weights yet"):
        dl.Dense(3).to_torch()


def test_initializer_of_another_shape_is_refused():
    layer = dl.Dense(3, kernel_initializer=lambda w: w.T)
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(3, 4\)"):
        layer.build((None, 4))


def test_dense_that_lacks_a_flatten_or_an_axis_says_so():
    layer = dl.Dense(3)
    layer.build((None, 28 * 28))
    with pytest.raises(ValueError, match=r"\(N, 28, 28\).*\(N, …, 784\).*Flatten"):
        layer(torch.zeros(2, 28, 28))
    with pytest.raises(ValueError, match=r"\(N,\).*x\[\.\.\., None\]"):
        dl.Dense(3)(torch.zeros(5))
