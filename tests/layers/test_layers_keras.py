"""The same numbers as Keras 3, weights copied with the layout conversions written here."""

import numpy as np
import pytest
import torch
from keras import layers as kl

from easydl import layers as dl


def channels_last(x):
    return np.moveaxis(x, 1, -1)


def same_axes(x):
    return x


def dense(weights):
    return [w.T for w in weights]


def conv(weights):
    """(out, in, *kernel) → (*kernel, in, out); the transposed (in, out, …) → (…, out, in)."""
    kernel, *bias = weights
    return [np.moveaxis(kernel, (0, 1), (-1, -2)), *bias]


def depthwise(weights):
    """(C·m, 1, h, w) → (h, w, C, m); here m = 2."""
    kernel, *bias = weights
    return [kernel.reshape(-1, 2, *kernel.shape[2:]).transpose(2, 3, 0, 1), *bias]


def separable(weights):
    return [*depthwise(weights[:1]), *conv(weights[1:])]


def one_bias(weights):
    """W, U transposed; b as it is: LSTM gates stand in the same order i, f, c, o."""
    return [weights[0].T, weights[1].T, *weights[2:]]


def gru(weights):
    """torch's gates r, z, n → Keras's z, r, h; two biases in one (2, 3·units) array."""
    swapped = [np.concatenate([np.split(w, 3)[gate] for gate in (1, 0, 2)]) for w in weights]
    return [swapped[0].T, swapped[1].T, np.stack(swapped[2:])]


def both_ways(convert):
    def halves(weights):
        half = len(weights) // 2
        return [*convert(weights[:half]), *convert(weights[half:])]

    return halves


def as_is(weights):
    return weights


ROWS, STEPS, LINES = (4, 6), (4, 7, 6), (4, 6, 9)
PICTURES, VOLUMES = (4, 6, 9, 8), (2, 6, 5, 6, 4)

# ours, Keras's, input shape, weights to Keras's layout, axes of input and output to Keras's
CASES = {
    "dense": (dl.Dense(5, "softmax"), kl.Dense(5, "softmax"), ROWS, dense, same_axes),
    "dense on steps": (dl.Dense(5), kl.Dense(5), STEPS, dense, same_axes),
    "embedding": (dl.Embedding(10, 3), kl.Embedding(10, 3), None, as_is, same_axes),
    "conv1d": (dl.Conv1D(4, 3), kl.Conv1D(4, 3), LINES, conv, channels_last),
    "conv1d causal": (
        dl.Conv1D(4, 3, padding="causal", dilation_rate=2),
        kl.Conv1D(4, 3, padding="causal", dilation_rate=2),
        LINES,
        conv,
        channels_last,
    ),
    "conv2d": (dl.Conv2D(4, 3), kl.Conv2D(4, 3), PICTURES, conv, channels_last),
    "conv2d softmax": (
        dl.Conv2D(4, 3, activation="softmax"),
        kl.Conv2D(4, 3, activation="softmax"),
        PICTURES,
        conv,
        channels_last,
    ),
    "conv2d same, stride 2": (
        dl.Conv2D(4, 3, 2, "same"),
        kl.Conv2D(4, 3, 2, "same"),
        PICTURES,
        conv,
        channels_last,
    ),
    "conv2d same, even kernel, stride 3": (
        dl.Conv2D(4, (4, 2), 3, "same"),
        kl.Conv2D(4, (4, 2), 3, "same"),
        PICTURES,
        conv,
        channels_last,
    ),
    "conv2d same, even kernel": (
        dl.Conv2D(4, (4, 2), padding="same"),
        kl.Conv2D(4, (4, 2), padding="same"),
        PICTURES,
        conv,
        channels_last,
    ),
    "conv2d dilated, grouped": (
        dl.Conv2D(4, 3, padding="same", dilation_rate=2, groups=2),
        kl.Conv2D(4, 3, padding="same", dilation_rate=2, groups=2),
        PICTURES,
        conv,
        channels_last,
    ),
    "conv3d": (
        dl.Conv3D(4, 2, 2, "same"),
        kl.Conv3D(4, 2, 2, "same"),
        VOLUMES,
        conv,
        channels_last,
    ),
    "transposed valid": (
        dl.Conv2DTranspose(4, 3, 2),
        kl.Conv2DTranspose(4, 3, 2),
        PICTURES,
        conv,
        channels_last,
    ),
    "transposed valid, kernel below strides": (
        dl.Conv2DTranspose(4, 2, 3),
        kl.Conv2DTranspose(4, 2, 3),
        PICTURES,
        conv,
        channels_last,
    ),
    "transposed same": (
        dl.Conv2DTranspose(4, 4, 2, "same"),
        kl.Conv2DTranspose(4, 4, 2, "same"),
        PICTURES,
        conv,
        channels_last,
    ),
    "transposed same, stride 1": (
        dl.Conv2DTranspose(4, 3, 1, "same", dilation_rate=2),
        kl.Conv2DTranspose(4, 3, 1, "same", dilation_rate=2),
        PICTURES,
        conv,
        channels_last,
    ),
    "depthwise": (
        dl.DepthwiseConv2D(3, 2, "same", 2),
        kl.DepthwiseConv2D(3, 2, "same", 2),
        PICTURES,
        depthwise,
        channels_last,
    ),
    "separable": (
        dl.SeparableConv2D(4, 3, depth_multiplier=2),
        kl.SeparableConv2D(4, 3, depth_multiplier=2),
        PICTURES,
        separable,
        channels_last,
    ),
    "simple rnn": (dl.SimpleRNN(4), kl.SimpleRNN(4), STEPS, one_bias, same_axes),
    "simple rnn relu": (
        dl.SimpleRNN(4, "relu", return_sequences=True),
        kl.SimpleRNN(4, "relu", return_sequences=True),
        STEPS,
        one_bias,
        same_axes,
    ),
    "lstm": (dl.LSTM(4), kl.LSTM(4), STEPS, one_bias, same_axes),
    "lstm steps, backwards": (
        dl.LSTM(4, return_sequences=True, go_backwards=True),
        kl.LSTM(4, return_sequences=True, go_backwards=True),
        STEPS,
        one_bias,
        same_axes,
    ),
    "lstm without bias": (
        dl.LSTM(4, use_bias=False),
        kl.LSTM(4, use_bias=False),
        STEPS,
        one_bias,
        same_axes,
    ),
    "gru": (dl.GRU(4), kl.GRU(4), STEPS, gru, same_axes),
    "gru steps": (
        dl.GRU(4, return_sequences=True),
        kl.GRU(4, return_sequences=True),
        STEPS,
        gru,
        same_axes,
    ),
    **{
        f"bidirectional {mode}": (
            dl.Bidirectional(dl.LSTM(4), mode),
            kl.Bidirectional(kl.LSTM(4), mode),
            STEPS,
            both_ways(one_bias),
            same_axes,
        )
        for mode in ("concat", "sum", "mul", "ave")
    },
    "bidirectional steps": (
        dl.Bidirectional(dl.GRU(4, return_sequences=True)),
        kl.Bidirectional(kl.GRU(4, return_sequences=True)),
        STEPS,
        both_ways(gru),
        same_axes,
    ),
    "batch norm": (dl.BatchNormalization(), kl.BatchNormalization(), ROWS, as_is, same_axes),
    "batch norm pictures": (
        dl.BatchNormalization(),
        kl.BatchNormalization(),
        PICTURES,
        as_is,
        channels_last,
    ),
    "batch norm steps": (
        dl.BatchNormalization(axis=-1),
        kl.BatchNormalization(),
        STEPS,
        as_is,
        same_axes,
    ),
    "layer norm": (dl.LayerNormalization(), kl.LayerNormalization(), STEPS, as_is, same_axes),
    "layer norm pictures": (
        dl.LayerNormalization(),
        kl.LayerNormalization(),
        PICTURES,
        as_is,
        channels_last,
    ),
    "group norm": (
        dl.GroupNormalization(3),
        kl.GroupNormalization(3),
        PICTURES,
        as_is,
        channels_last,
    ),
    "instance norm": (
        dl.GroupNormalization(-1),
        kl.GroupNormalization(-1),
        PICTURES,
        as_is,
        channels_last,
    ),
    "flatten": (dl.Flatten(), kl.Flatten(), STEPS, as_is, same_axes),
    "reshape": (dl.Reshape((3, -1)), kl.Reshape((3, -1)), ROWS, as_is, same_axes),
    "permute": (dl.Permute((2, 1)), kl.Permute((2, 1)), STEPS, as_is, same_axes),
    "repeat": (dl.RepeatVector(3), kl.RepeatVector(3), ROWS, as_is, same_axes),
    "upsampling": (
        dl.UpSampling2D((2, 3)),
        kl.UpSampling2D((2, 3)),
        PICTURES,
        as_is,
        channels_last,
    ),
    "upsampling bilinear": (
        dl.UpSampling2D(2, interpolation="bilinear"),
        kl.UpSampling2D(2, interpolation="bilinear"),
        PICTURES,
        as_is,
        channels_last,
    ),
    "zero padding": (
        dl.ZeroPadding2D(((1, 2), (3, 0))),
        kl.ZeroPadding2D(((1, 2), (3, 0))),
        PICTURES,
        as_is,
        channels_last,
    ),
    "cropping": (
        dl.Cropping2D(((1, 2), (3, 0))),
        kl.Cropping2D(((1, 2), (3, 0))),
        PICTURES,
        as_is,
        channels_last,
    ),
    "prelu": (dl.PReLU(), kl.PReLU(), ROWS, as_is, same_axes),
    "leaky relu": (dl.LeakyReLU(), kl.LeakyReLU(), ROWS, as_is, same_axes),
    "elu": (dl.ELU(0.5), kl.ELU(0.5), ROWS, as_is, same_axes),
    "relu capped": (dl.ReLU(0.5), kl.ReLU(0.5), ROWS, as_is, same_axes),
    "softmax pictures": (dl.Softmax(), kl.Softmax(), PICTURES, as_is, channels_last),
    "time distributed": (
        dl.TimeDistributed(dl.Dense(3)),
        kl.TimeDistributed(kl.Dense(3)),
        STEPS,
        dense,
        same_axes,
    ),
    **{
        f"{kind}Pooling{rank}D {size} {stride} {padding}": (
            getattr(dl, f"{kind}Pooling{rank}D")(size, stride, padding),
            getattr(kl, f"{kind}Pooling{rank}D")(size, stride, padding),
            shape,
            as_is,
            channels_last,
        )
        for kind in ("Max", "Average")
        for rank, shape in ((1, LINES), (2, PICTURES), (3, VOLUMES))
        for size, stride in ((2, None), (3, 2), (2, 1))
        for padding in ("valid", "same")
        # Keras on torch repeats the edge where pads are uneven; test_layers_values has this case
        if (kind, rank > 1, size, padding) != ("Average", True, 3, "same")
    },
    **{
        f"Global{kind}Pooling{rank}D": (
            getattr(dl, f"Global{kind}Pooling{rank}D")(),
            getattr(kl, f"Global{kind}Pooling{rank}D")(),
            shape,
            as_is,
            channels_last,
        )
        for kind in ("Max", "Average")
        for rank, shape in ((1, LINES), (2, PICTURES), (3, VOLUMES))
    },
    **{
        f"activation {name}": (
            dl.Activation(name),
            kl.Activation(name),
            ROWS,
            as_is,
            same_axes,
        )
        for name in [
            "relu",
            "relu6",
            "leaky_relu",
            "elu",
            "celu",
            "selu",
            "gelu",
            "silu",
            "swish",
            "mish",
            "sigmoid",
            "hard_sigmoid",
            "log_sigmoid",
            "tanh",
            "hard_tanh",
            "tanh_shrink",
            "soft_shrink",
            "hard_shrink",
            "hard_silu",
            "softmax",
            "log_softmax",
            "softplus",
            "softsign",
            "exponential",
            "linear",
        ]
    },
}


@pytest.mark.parametrize("name", CASES)
def test_layer_gives_the_numbers_of_keras(name):
    ours, theirs, shape, convert, axes = CASES[name]
    rng = np.random.default_rng(0)
    x = rng.integers(0, 10, (4, 7)) if shape is None else rng.normal(size=shape).astype("float32")
    ours.eval()(torch.from_numpy(x))
    theirs.build(axes(x).shape)
    with torch.no_grad():
        for weight in ours.parameters():
            weight.copy_(torch.from_numpy(rng.normal(size=weight.shape)) * 0.5)
        for buffer, value in ours.named_buffers():
            if buffer.startswith("running"):
                value.copy_(torch.from_numpy(rng.uniform(0.5, 2, size=value.shape)))
    weights = [weight.detach().numpy() for weight in ours.parameters()]
    weights += [value.numpy() for name, value in ours.named_buffers() if "running" in name]
    theirs.set_weights(convert(weights))
    expected = theirs(axes(x), training=False).detach().numpy()
    got = ours(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(
        axes(got) if got.ndim > 2 else got, expected, rtol=1e-5, atol=1e-5, strict=True
    )
    trainable = sum(weight.numel() for weight in ours.parameters())
    assert trainable == sum(np.prod(weight.shape, dtype=int) for weight in theirs.trainable_weights)


@pytest.mark.parametrize(("kind", "count"), [("LSTM", 128), ("GRU", 108), ("SimpleRNN", 32)])
def test_recurrent_layers_count_the_parameters_of_keras(kind, count):
    theirs = getattr(kl, kind)(4)
    theirs.build((None, 5, 3))
    ours = getattr(dl, kind)(4)
    ours.build((None, None, 3))
    assert sum(weight.numel() for weight in ours.parameters()) == count == theirs.count_params()


@pytest.mark.parametrize("center", [True, False])
def test_batch_norm_trains_like_keras_but_for_the_unbiased_running_variance(center):
    ours, theirs = dl.BatchNormalization(center=center), kl.BatchNormalization(center=center)
    x = np.random.default_rng(0).normal(2, 3, size=(8, 3, 4, 4)).astype("float32")
    expected = theirs(channels_last(x), training=True).detach().numpy()
    got = ours(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(channels_last(got), expected, atol=1e-5)
    mean, variance = (w.value.detach().numpy() for w in theirs.non_trainable_weights)
    np.testing.assert_allclose(ours.running_mean, mean, atol=1e-6)
    n = 8 * 4 * 4
    np.testing.assert_allclose(ours.running_var - 0.99, (variance - 0.99) * n / (n - 1), rtol=1e-4)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (2, 1), (2, 3), (4, 3)])
def test_transposed_same_convolution_is_the_gradient_of_the_same_convolution(size, kernel, stride):
    # Keras on torch shifts odd pads by one here (its own warning says so); this is TensorFlow's
    up = dl.Conv2DTranspose(1, kernel, stride, "same", use_bias=False)
    down = dl.Conv2D(1, kernel, stride, "same", use_bias=False)
    y = torch.randn(1, 1, size, size)
    enlarged = up(y)
    assert enlarged.shape == (1, 1, size * stride, size * stride)
    x = torch.zeros_like(enlarged, requires_grad=True)
    down(x)
    down.load_state_dict(up.state_dict())
    (gradient,) = torch.autograd.grad(down(x), x, y)
    torch.testing.assert_close(enlarged, gradient)
