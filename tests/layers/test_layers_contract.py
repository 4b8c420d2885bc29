"""One contract for every public layer: the table below must name each of them."""

import copy
import pickle

import pytest
import torch
from torch import nn

from easydl import layers as dl
from easydl.layers.base import output_shape, plain


class Scale(dl.Layer):
    """A user's layer: Keras's build and call."""

    def build(self, input_shape):
        self.add_weight((input_shape[-1],), "random_normal", name="scale", regularizer="l2")

    def call(self, x):
        return x * self.scale


ROWS, STEPS, LINES = (4, 6), (4, 7, 6), (4, 6, 9)
PICTURES, VOLUMES, WORDS, PAIR = (4, 6, 9, 8), (2, 6, 5, 6, 4), (4, 7), [(4, 6), (4, 6)]

# name of the public layer → (factory, input shape); several rows where arguments change the path
CASES = [
    ("Dense", lambda: dl.Dense(5, activation="softmax"), ROWS),
    ("Dense", lambda: dl.Dense(5, use_bias=False), STEPS),
    ("Activation", lambda: dl.Activation("gelu"), ROWS),
    ("Activation", lambda: dl.Activation(nn.PReLU()), ROWS),
    ("Flatten", lambda: dl.Flatten(), PICTURES),
    ("Reshape", lambda: dl.Reshape((3, -1)), ROWS),
    ("Permute", lambda: dl.Permute((2, 3, 1)), PICTURES),
    ("RepeatVector", lambda: dl.RepeatVector(3), ROWS),
    ("Lambda", lambda: dl.Lambda(lambda x: x.mean(1) + 1), STEPS),
    ("Layer", lambda: Scale(), ROWS),
    ("Dropout", lambda: dl.Dropout(0.4), ROWS),
    ("SpatialDropout1D", lambda: dl.SpatialDropout1D(0.4), LINES),
    ("SpatialDropout1D", lambda: dl.SpatialDropout1D(0.4, axis=-1), STEPS),
    ("SpatialDropout2D", lambda: dl.SpatialDropout2D(0.4), PICTURES),
    ("SpatialDropout3D", lambda: dl.SpatialDropout3D(0.4), VOLUMES),
    ("GaussianNoise", lambda: dl.GaussianNoise(0.5), ROWS),
    ("Embedding", lambda: dl.Embedding(10, 3), WORDS),
    ("Conv1D", lambda: dl.Conv1D(4, 3, padding="causal", dilation_rate=2), LINES),
    ("Conv1D", lambda: dl.Conv1D(4, 4, padding="same"), LINES),
    ("Conv2D", lambda: dl.Conv2D(4, 3, activation="relu"), PICTURES),
    ("Conv2D", lambda: dl.Conv2D(4, (3, 2), 2, "same", activation="softmax"), PICTURES),
    ("Conv2D", lambda: dl.Conv2D(4, 3, padding="same", groups=2), PICTURES),
    ("Conv3D", lambda: dl.Conv3D(4, 2, 2, padding="same"), VOLUMES),
    ("Conv2DTranspose", lambda: dl.Conv2DTranspose(4, 3, 2), PICTURES),
    ("Conv2DTranspose", lambda: dl.Conv2DTranspose(4, (3, 2), 2, "same"), PICTURES),
    ("DepthwiseConv2D", lambda: dl.DepthwiseConv2D(3, 2, "same", 2), PICTURES),
    ("SeparableConv2D", lambda: dl.SeparableConv2D(4, 3, activation="tanh"), PICTURES),
    ("LocallyConnected1D", lambda: dl.LocallyConnected1D(4, 3, 2, "same"), LINES),
    ("LocallyConnected2D", lambda: dl.LocallyConnected2D(4, (2, 3)), PICTURES),
    ("UpSampling2D", lambda: dl.UpSampling2D((2, 3)), PICTURES),
    ("UpSampling2D", lambda: dl.UpSampling2D(2, interpolation="bilinear"), PICTURES),
    ("ZeroPadding2D", lambda: dl.ZeroPadding2D(((1, 2), (3, 0))), PICTURES),
    ("Cropping2D", lambda: dl.Cropping2D(((1, 2), (3, 0))), PICTURES),
    ("MaxPooling1D", lambda: dl.MaxPooling1D(2), LINES),
    ("MaxPooling1D", lambda: dl.MaxPooling1D(3, 2, "same"), LINES),
    ("MaxPooling2D", lambda: dl.MaxPooling2D(), PICTURES),
    ("MaxPooling2D", lambda: dl.MaxPooling2D(2, padding="same"), PICTURES),
    ("MaxPooling3D", lambda: dl.MaxPooling3D(2, 1, "same"), VOLUMES),
    ("AveragePooling1D", lambda: dl.AveragePooling1D(2, padding="same"), LINES),
    ("AveragePooling2D", lambda: dl.AveragePooling2D(3, 2, "same"), PICTURES),
    ("AveragePooling2D", lambda: dl.AveragePooling2D((2, 3)), PICTURES),
    ("AveragePooling3D", lambda: dl.AveragePooling3D(2, 2, "same"), VOLUMES),
    ("GlobalMaxPooling1D", lambda: dl.GlobalMaxPooling1D(), LINES),
    ("GlobalMaxPooling2D", lambda: dl.GlobalMaxPooling2D(keepdims=True), PICTURES),
    ("GlobalMaxPooling3D", lambda: dl.GlobalMaxPooling3D(), VOLUMES),
    ("GlobalAveragePooling1D", lambda: dl.GlobalAveragePooling1D(), LINES),
    ("GlobalAveragePooling2D", lambda: dl.GlobalAveragePooling2D(), PICTURES),
    ("GlobalAveragePooling3D", lambda: dl.GlobalAveragePooling3D(keepdims=True), VOLUMES),
    ("BatchNormalization", lambda: dl.BatchNormalization(), ROWS),
    ("BatchNormalization", lambda: dl.BatchNormalization(), LINES),
    ("BatchNormalization", lambda: dl.BatchNormalization(axis=-1, scale=False), STEPS),
    ("BatchNormalization", lambda: dl.BatchNormalization(center=False), PICTURES),
    ("BatchNormalization", lambda: dl.BatchNormalization(), VOLUMES),
    ("LayerNormalization", lambda: dl.LayerNormalization(), STEPS),
    ("LayerNormalization", lambda: dl.LayerNormalization(center=False), PICTURES),
    ("GroupNormalization", lambda: dl.GroupNormalization(3), PICTURES),
    ("GroupNormalization", lambda: dl.GroupNormalization(2, axis=-1), STEPS),
    ("SimpleRNN", lambda: dl.SimpleRNN(4, "relu", return_sequences=True), STEPS),
    ("LSTM", lambda: dl.LSTM(4), STEPS),
    ("LSTM", lambda: dl.LSTM(4, return_sequences=True, go_backwards=True, dropout=0.4), STEPS),
    ("LSTM", lambda: dl.LSTM(4, bidirectional=True, use_bias=False), STEPS),
    ("GRU", lambda: dl.GRU(4, dropout=0.4), STEPS),
    ("GRU", lambda: dl.GRU(4, return_sequences=True), STEPS),
    ("GRU", lambda: dl.GRU(4, reset_after=False), STEPS),
    ("Bidirectional", lambda: dl.Bidirectional(dl.LSTM(4)), STEPS),
    ("Bidirectional", lambda: dl.Bidirectional(dl.GRU(4, return_sequences=True), "ave"), STEPS),
    ("Bidirectional", lambda: dl.Bidirectional(dl.SimpleRNN(4), None), STEPS),
    ("TimeDistributed", lambda: dl.TimeDistributed(dl.Conv1D(2, 3, activation="relu")), PICTURES),
    (
        "Branches",
        lambda: dl.Branches(
            [
                dl.Conv2D(2, 1, activation="relu"),
                [dl.Conv2D(3, 3, padding="same"), nn.ReLU(), dl.BatchNormalization()],
                [],
            ]
        ),
        PICTURES,
    ),
    ("Branches", lambda: dl.Branches([dl.Dense(3), nn.Linear(6, 3)], "max"), ROWS),
    ("Branches", lambda: dl.Branches([dl.Dense(3), dl.Dense(2)], None), ROWS),
    (
        "Residual",
        lambda: dl.Residual(
            [dl.Conv2D(4, 3, 2, "same"), dl.LeakyReLU(), dl.Dropout(0.3)], dl.Conv2D(4, 1, 2)
        ),
        PICTURES,
    ),
    ("Residual", lambda: dl.Residual(dl.Dense(6)), ROWS),
    ("Concatenate", lambda: dl.Concatenate(), PAIR),
    ("Add", lambda: dl.Add(), PAIR),
    ("Multiply", lambda: dl.Multiply(), PAIR),
    ("PReLU", lambda: dl.PReLU("random_normal"), PICTURES),
    ("PReLU", lambda: dl.PReLU("random_normal", shared_axes=(2, 3)), PICTURES),
    ("Softmax", lambda: dl.Softmax(), PICTURES),
    ("ReLU", lambda: dl.ReLU(), ROWS),
    ("ReLU", lambda: dl.ReLU(max_value=1), ROWS),
    *[
        (name, getattr(dl, name), ROWS)
        for name in [
            "ELU",
            "GELU",
            "SELU",
            "Hardsigmoid",
            "Hardswish",
            "Hardtanh",
            "LeakyReLU",
            "Mish",
            "Sigmoid",
            "SiLU",
            "Softplus",
            "Softsign",
            "Swish",
            "Tanh",
        ]
    ],
]

each = pytest.mark.parametrize(
    ("make", "shape"),
    [(make, shape) for _, make, shape in CASES],
    ids=[f"{name}-{number}" for number, (name, _, _) in enumerate(CASES)],
)


def inputs(layer, shape, dtype=torch.float32):
    stream = torch.Generator().manual_seed(1)
    if isinstance(shape, list):
        return [torch.randn(part, generator=stream).to(dtype) for part in shape]
    if isinstance(layer, nn.Embedding):
        return torch.randint(10, shape, generator=stream)
    return torch.randn(shape, generator=stream).to(dtype)


def built(make, shape, seed=0):
    torch.manual_seed(seed)
    layer = make()
    layer(inputs(layer, shape))
    return layer


def tensors(output):
    return list(output) if isinstance(output, tuple) else [output]


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(two), strict=True))


def open_batch(shape):
    return [open_batch(part) for part in shape] if isinstance(shape, list) else (None, *shape[1:])


def test_table_names_every_public_layer():
    assert {name for name, _, _ in CASES} == set(dl.__all__) - {"Input"}  # no module


def test_public_names_exist_and_are_modules():
    assert all(issubclass(getattr(dl, name), nn.Module) for name in set(dl.__all__) - {"Input"})


@each
def test_layer_gives_the_shape_it_announces_without_touching_mode_or_random_stream(make, shape):
    torch.manual_seed(0)
    layer = make()
    output_shape(layer, open_batch(shape))
    stream = torch.get_rng_state()
    announced = output_shape(layer, open_batch(shape))
    assert torch.equal(stream, torch.get_rng_state())
    assert all(part.training for part in layer.modules())
    sizes = [tuple(part.shape)[1:] for part in tensors(layer(inputs(layer, shape)))]
    announced = announced if isinstance(announced, list) else [announced]
    assert sizes == [part[1:] for part in announced]
    assert {part[0] for part in announced} == {None}
    assert layer.built


@each
def test_layer_gives_state_to_another_one(make, shape):
    one, two = built(make, shape, seed=0).eval(), built(make, shape, seed=1).eval()
    two.load_state_dict(one.state_dict())
    x = inputs(one, shape)
    assert same(one(x), two(x))


@each
def test_layer_in_eval_mode_gives_the_same_twice(make, shape):
    layer = built(make, shape).eval()
    x = inputs(layer, shape)
    assert same(layer(x), layer(x))


@each
def test_layer_survives_deepcopy_and_pickle(make, shape):
    layer = built(make, shape).eval()
    x = inputs(layer, shape)
    before = layer(x)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.add_(1)
    assert same(layer(x), before)
    assert repr(twin) == repr(layer)
    if not isinstance(layer, dl.Lambda):  # Python cannot pickle a lambda
        assert same(pickle.loads(pickle.dumps(layer))(x), before)


@each
def test_unbuilt_layer_survives_deepcopy_and_repr(make, shape):
    layer = make().eval()
    twin = copy.deepcopy(layer)
    assert type(layer).__name__ in repr(twin)
    x = inputs(layer, shape)
    results = []
    for module in (layer, twin):
        torch.manual_seed(0)
        results.append(module(x))
    assert same(*results)


@each
def test_gradients_reach_every_parameter(make, shape):
    layer = built(make, shape)
    x = inputs(layer, shape)
    if list(layer.parameters()):
        sum(part.square().sum() for part in tensors(layer(x))).backward()
    for name, weight in layer.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


@each
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_to_torch_gives_the_same_to_the_bit_without_easydl(make, shape, training):
    layer = built(make, shape).train(training)
    module = plain(layer)
    x = inputs(layer, shape)
    assert not any(type(part).__module__.startswith("easydl") for part in module.modules())
    assert all(part.training == training for part in module.modules())
    reloaded = pickle.loads(pickle.dumps(module))
    assert b"easydl" not in pickle.dumps(module).replace(__name__.encode(), b"")
    for version in (module, reloaded):
        torch.manual_seed(3)
        expected = copy.deepcopy(layer)(x)
        torch.manual_seed(3)
        assert same(version(x), expected)


@each
def test_to_torch_copies_values_and_frozen_flags(make, shape):
    layer = built(make, shape)
    trainable = sum(p.numel() for p in layer.parameters())
    module = plain(layer)
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == trainable
    mine = {weight.data_ptr() for weight in layer.parameters()}
    assert not mine & {weight.data_ptr() for weight in module.parameters()}


@each
def test_layer_works_in_float64(make, shape):
    layer = make().double()
    x = inputs(layer, shape, torch.float64)
    for part in tensors(layer(x)):
        assert part.dtype == torch.float64
    assert all(weight.dtype == torch.float64 for weight in layer.parameters())


@each
def test_same_seed_gives_the_same_weights(make, shape):
    one, two, other = built(make, shape), built(make, shape), built(make, shape, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    drawn = [w for w in one.parameters() if w.numel() > 1 and w.unique().numel() > 2]
    if drawn:
        weights = zip(one.parameters(), other.parameters(), strict=True)
        assert not all(torch.equal(a, b) for a, b in weights)


@each
def test_building_again_changes_nothing(make, shape):
    layer = built(make, shape)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    weights = list(layer.parameters())
    if hasattr(layer, "build") and not isinstance(layer, dl.Layer):
        layer.build(open_batch(shape))
    assert all(a is b for a, b in zip(weights, layer.parameters(), strict=True))
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


WIDE = {"Embedding", "Activation", "Layer", "TimeDistributed", "Branches", "Residual"}
weighted = [case for case in CASES if case[0] not in WIDE and list(built(*case[1:]).parameters())]


@pytest.mark.parametrize(
    ("make", "shape"), [case[1:] for case in weighted], ids=[case[0] for case in weighted]
)
def test_building_or_calling_with_another_width_raises_with_both_shapes(make, shape):
    layer = built(make, shape)
    other = tuple(size + 1 if axis else size for axis, size in enumerate(shape))
    with pytest.raises(ValueError, match=type(layer).__name__) as built_again:
        layer.build((None, *other[1:]))
    with pytest.raises(ValueError, match=type(layer).__name__) as called:
        layer(torch.zeros(other))
    for message in (str(built_again.value), str(called.value)):
        assert str(other[-1]) in message
        assert str(shape[-1]) in message or str(shape[1]) in message


ranked = [case for case in CASES if hasattr(case[1](), "takes") and len(case[1]().takes.ranks) < 5]


@pytest.mark.parametrize(
    ("make", "shape"), [case[1:] for case in ranked], ids=[case[0] for case in ranked]
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_missing_and_extra_axes_raise_with_the_layout(make, shape, when):
    layer = make() if when == "before" else built(make, shape)
    low, high = min(layer.takes.ranks), max(layer.takes.ranks)
    for rank in {low - 1, high + 1} - {0}:
        with pytest.raises(ValueError, match="was given input of shape") as error:
            layer(torch.zeros((4,) * rank))
        assert type(layer).__name__ in str(error.value)
        assert str(error.value).count("(") >= 2 and len(str(error.value)) <= 600


TORCH = {
    "Dense": nn.Linear,
    "Conv1D": nn.Conv1d,
    "Conv2D": nn.Conv2d,
    "Conv3D": nn.Conv3d,
    "Conv2DTranspose": nn.ConvTranspose2d,
    "DepthwiseConv2D": nn.Conv2d,
    "Embedding": nn.Embedding,
    "BatchNormalization": nn.modules.batchnorm._BatchNorm,
    "LayerNormalization": nn.LayerNorm,
    "GroupNormalization": nn.GroupNorm,
    "SimpleRNN": nn.RNN,
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "MaxPooling1D": nn.MaxPool1d,
    "MaxPooling2D": nn.MaxPool2d,
    "MaxPooling3D": nn.MaxPool3d,
    "AveragePooling1D": nn.AvgPool1d,
    "AveragePooling2D": nn.AvgPool2d,
    "AveragePooling3D": nn.AvgPool3d,
    "GlobalMaxPooling2D": nn.AdaptiveMaxPool2d,
    "GlobalAveragePooling2D": nn.AdaptiveAvgPool2d,
    "UpSampling2D": nn.Upsample,
    "ZeroPadding2D": nn.ZeroPad2d,
    "Cropping2D": nn.ZeroPad2d,
    "Flatten": nn.Flatten,
    "Dropout": nn.Dropout,
    "SpatialDropout1D": nn.Dropout1d,
    "SpatialDropout2D": nn.Dropout2d,
    "SpatialDropout3D": nn.Dropout3d,
    "PReLU": nn.PReLU,
    "Softmax": nn.Softmax,
    "Sigmoid": nn.Sigmoid,
    "ReLU": nn.ReLU,
    "LeakyReLU": nn.LeakyReLU,
    "ELU": nn.ELU,
}


@pytest.mark.parametrize(
    ("name", "make", "shape"),
    [case for case in CASES if case[0] in TORCH],
    ids=[case[0] for case in CASES if case[0] in TORCH],
)
def test_torch_backed_layer_is_its_torch_class_with_its_state_keys(name, make, shape):
    layer = built(make, shape)
    assert isinstance(layer, TORCH[name])
    keys = [key for key in layer.state_dict() if not key.startswith("activation")]
    twins = [key.split(".")[-1] for key in layer.to_torch().state_dict()]
    assert sorted(keys) == sorted(twins)


RECURRENT = {"SimpleRNN", "LSTM", "GRU", "Bidirectional"}  # dynamo reads no nn.RNN


@pytest.mark.parametrize(
    ("make", "shape"),
    [case[1:] for case in CASES if case[0] not in RECURRENT],
    ids=[case[0] for case in CASES if case[0] not in RECURRENT],
)
def test_dynamo_reads_the_whole_layer(make, shape):
    layer = built(make, shape).eval()
    x = inputs(layer, shape)
    torch._dynamo.reset()
    graph = torch.compile(layer, backend="eager", fullgraph=True)
    assert same(graph(x), layer(x))
