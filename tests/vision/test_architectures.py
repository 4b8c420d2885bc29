"""Named networks: counts of the papers and of torchvision, the same outputs, the house's ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import easydl as dl
from easydl.layers import base
from easydl.saving.whole import _NoDraws
from easydl.vision import architectures
from easydl.vision.architectures import (
    MLP,
    VGG11,
    VGG13,
    VGG16,
    VGG19,
    AlexNet,
    DeepFace,
    InceptionBlock,
    LeNet5,
    LSTMStack,
    ResNet,
    SmallVGG,
)

VGGS = {11: VGG11, 13: VGG13, 16: VGG16, 19: VGG19}


def learnable(module):
    return sum(weight.numel() for weight in module.parameters())


def on_meta(make, *arguments, **options):
    """A network of shapes alone; torch's drawing on meta would import its compiler."""
    with torch.device("meta"), _NoDraws():
        return make(*arguments, **options)


def scrambled(module):
    """All tensors of the network anew, running averages too, so that a swapped one shows."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn_like(tensor) * (2 / max(1, tensor[0].numel())) ** 0.5)
            if name.endswith("running_var"):
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return module.eval()


def assert_same_outputs(ours, theirs, shape):
    """Outputs and gradients of two networks, the weights of one given to the other in order."""
    given = scrambled(theirs).state_dict().values()
    mine = ours.state_dict()
    assert [t.shape for t in mine.values()] == [t.shape for t in given]
    ours.load_state_dict(dict(zip(mine, given)))
    ours.eval()
    x = torch.randn(2, *shape)
    expected = theirs(x)
    found = ours(x, logits=True) if isinstance(ours, dl.Model) else ours(x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.std().item())


# -- LeNet-5 ---------------------------------------------------------------------------------------


def lenet5_in_torch(modern, padding=0):
    g, pool = (nn.ReLU, nn.MaxPool2d) if modern else (nn.Tanh, nn.AvgPool2d)
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=padding), g(), pool(2),
        nn.Conv2d(6, 16, 5), g(), pool(2),
        nn.Conv2d(16, 120, 5), g(), nn.Flatten(),
        nn.Linear(120, 84), g(), nn.Linear(84, 10),
    )  # fmt: skip


def test_lenet5_has_the_layers_and_weights_of_the_paper():
    counts = {layer.name: learnable(layer) for layer in LeNet5() if learnable(layer)}
    expected = {"C1": 156, "C3": 2416, "C5": 48_120, "F6": 10_164, "output": 850}
    assert counts == expected
    assert LeNet5().count_params() == 61_706
    shapes = {}
    model = LeNet5()
    for layer in model:
        layer.register_forward_hook(
            lambda part, x, y: shapes.update({getattr(part, "name", None): tuple(y.shape[1:])})
        )
    model(torch.zeros(1, 1, 32, 32))
    assert shapes["C1"] == (6, 28, 28) and shapes["S2"] == (6, 14, 14)
    assert shapes["C3"] == (16, 10, 10) and shapes["S4"] == (16, 5, 5)
    assert shapes["C5"] == (120, 1, 1)


def test_the_60_000_of_the_docstring_are_those_of_the_paper():
    table = 6 * 3 + 6 * 4 + 3 * 4 + 1 * 6  # which maps of S2 each of the 16 of C3 reads: table I
    c3 = table * 25 + 16
    assert c3 == 1516
    subsampling = 2 * 6, 2 * 16  # a factor and a shift for each map
    assert subsampling == (12, 32)
    assert 156 + 12 + c3 + 32 + 48_120 + 10_164 == 60_000
    assert "60,000" in LeNet5.__doc__ and "1,516" in LeNet5.__doc__


@pytest.mark.parametrize("modern", [False, True])
@pytest.mark.parametrize("size", [28, 32, 40])
def test_lenet5_computes_what_plain_torch_does(modern, size):
    theirs = lenet5_in_torch(modern, padding=2 if size < 32 else 0)
    if size == 40:
        theirs[9] = nn.Linear(120 * 3 * 3, 84)
    assert_same_outputs(LeNet5(10, (1, size, size), modern), theirs, (1, size, size))


# -- AlexNet and VGG beside torchvision's ----------------------------------------------------------


def torchvision_models():
    return pytest.importorskip("torchvision").models


def narrowed(network, inputs, units):
    """torchvision's network with dense layers of a width that a test can afford."""
    dense = [n for n, part in enumerate(network.classifier) if isinstance(part, nn.Linear)]
    for number, sizes in zip(dense, [(inputs, units), (units, units), (units, 10)]):
        network.classifier[number] = nn.Linear(*sizes)
    return network


def test_alexnet_has_as_many_parameters_as_torchvisions():
    theirs = on_meta(torchvision_models().alexnet)
    ours = on_meta(AlexNet)
    assert learnable(ours) == learnable(theirs) == 61_100_840
    assert [t.shape for t in ours.parameters()] == [t.shape for t in theirs.parameters()]


@pytest.mark.parametrize("shape", [(3, 63, 63), (3, 70, 300)])
def test_alexnet_computes_what_torchvisions_does(shape):
    tv = torchvision_models()
    with _NoDraws(), torch.device("meta"):
        theirs = tv.alexnet(num_classes=10)
    theirs = narrowed(theirs, 256 * 36, 8).to_empty(device="cpu")
    assert_same_outputs(AlexNet(10, shape, units=8), theirs, shape)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("depth", VGGS)
def test_vgg_has_as_many_parameters_as_torchvisions(depth, batch_norm):
    make = getattr(torchvision_models(), f"vgg{depth}" + ("_bn" if batch_norm else ""))
    theirs, ours = on_meta(make), on_meta(VGGS[depth], batch_norm=batch_norm)
    assert learnable(ours) == learnable(theirs)
    assert [t.shape for t in ours.parameters()] == [t.shape for t in theirs.parameters()]
    if not batch_norm:
        assert f"{learnable(ours):,} parameters" in VGGS[depth].__doc__


def vgg_of_torchvision(depth, batch_norm):
    with _NoDraws(), torch.device("meta"):
        tv = torchvision_models()
        make = getattr(tv, f"vgg{depth}" + ("_bn" if batch_norm else ""))
        theirs = narrowed(make(num_classes=10, init_weights=False), 512 * 49, 8)
    return theirs.to_empty(device="cpu")


@pytest.mark.parametrize(
    ("depth", "batch_norm", "shape"),
    [
        (11, False, (3, 32, 32)),
        (11, True, (3, 40, 288)),
        pytest.param(13, False, (3, 64, 64), marks=pytest.mark.slow),
        pytest.param(13, True, (3, 64, 64), marks=pytest.mark.slow),
        pytest.param(16, False, (3, 224, 224), marks=pytest.mark.slow),
        pytest.param(16, True, (3, 64, 64), marks=pytest.mark.slow),
        pytest.param(19, False, (3, 64, 64), marks=pytest.mark.slow),
        pytest.param(19, True, (3, 224, 224), marks=pytest.mark.slow),
    ],
)
def test_vgg_computes_what_torchvisions_does(depth, batch_norm, shape):
    ours = VGGS[depth](10, shape, batch_norm, units=8)
    assert_same_outputs(ours, vgg_of_torchvision(depth, batch_norm), shape)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "name"), [(AlexNet, "alexnet"), (VGG11, "vgg11")])
def test_networks_for_imagenet_take_torchvisions_weights_whole(make, name):
    theirs = getattr(torchvision_models(), name)()
    assert_same_outputs(make(), theirs, (3, 224, 224))


def test_small_vgg_is_that_of_the_slides():
    convolutions = [(3, 32), (32, 32), (32, 64), (64, 64)]
    dense = [(64 * 22 * 22, 128), (128, 10)]  # 100 → 98 → 96 → 48 → 46 → 44 → 22
    expected = sum(9 * a * b + b for a, b in convolutions) + sum(a * b + b for a, b in dense)
    assert SmallVGG().count_params() == expected == 4_031_914
    assert f"{expected:,}" in SmallVGG.__doc__
    kinds = [type(layer).__name__ for layer in SmallVGG(dropout=False)]
    block = ["Conv2D", "Conv2D", "MaxPooling2D"]
    assert kinds == [*block, *block, "Flatten", "Dense", "Dense"]
    rates = [
        layer.p for layer in SmallVGG(input_shape=(1, 16, 16)) if isinstance(layer, dl.Dropout)
    ]
    assert rates == [0.25, 0.25, 0.5]


# -- ResNet and Inception --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "millions"),
    [
        (20, 0.27),
        (32, 0.46),
        (44, 0.66),
        pytest.param(56, 0.85, marks=pytest.mark.slow),
        pytest.param(110, 1.7, marks=pytest.mark.slow),
    ],
)
def test_resnet_has_as_many_parameters_as_in_table_6(depth, millions):
    found = learnable(on_meta(ResNet, depth)) / 1e6
    assert round(found, 1 if depth == 110 else 2) == millions
    assert str(millions) in ResNet.__doc__


class ZeroPadding(nn.Module):
    """The paper's option A."""

    def forward(self, x):
        rows = x[:, :, ::2, ::2]
        channels = x.shape[1]
        zeros = rows.new_zeros(len(x), channels // 2, *rows.shape[2:])
        return torch.cat([zeros, rows, zeros], 1)


def resnet_of_torchvision(blocks, shortcut):
    from torchvision.models.resnet import BasicBlock

    layers = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    width = 16
    for filters in (16, 32, 64):
        for block in range(blocks):
            past, stride = None, 1
            if filters > 16 and block == 0:
                stride, past = 2, ZeroPadding()
                if shortcut == "B":
                    convolution = nn.Conv2d(width, filters, 1, 2, bias=False)
                    past = nn.Sequential(convolution, nn.BatchNorm2d(filters))
            layers.append(BasicBlock(width, filters, stride, past))
            width = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 9, 14)])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_resnet_computes_what_torchvisions_blocks_do(shortcut, shape):
    theirs = resnet_of_torchvision(2, shortcut)
    assert_same_outputs(ResNet(14, 10, shape, shortcut=shortcut), theirs, shape)


def test_resnet_takes_pictures_of_any_size_when_the_shape_is_open():
    model = ResNet(8, 4, (1, None, None))
    assert model.output_shape == (None, 4)
    assert model(torch.zeros(2, 1, 8, 8)).shape == model(torch.zeros(2, 1, 13, 20)).shape == (2, 4)


def inception_of_torchvision(batch_norm):
    from torchvision.models.googlenet import BasicConv2d, Inception

    class Plain(nn.Sequential):
        def __init__(self, *sizes, **options):
            super().__init__(nn.Conv2d(*sizes, **options), nn.ReLU())

    class Normalised(BasicConv2d):
        def __init__(self, *sizes, **options):
            super().__init__(*sizes, **options)
            self.bn.eps = 1e-5

    block = Normalised if batch_norm else Plain
    theirs = Inception(192, 64, 96, 128, 16, 32, 32, conv_block=block)
    theirs.branch3[1] = block(16, 32, kernel_size=5, padding=2)  # torchvision has 3 × 3 there
    return theirs


@pytest.mark.parametrize("batch_norm", [False, True])
def test_inception_block_computes_what_torchvisions_does(batch_norm):
    ours = InceptionBlock(batch_norm=batch_norm)
    assert ours(torch.zeros(1, 192, 6, 7)).shape == (1, 256, 6, 7)
    assert_same_outputs(ours, inception_of_torchvision(batch_norm), (192, 6, 7))


def test_inception_block_has_the_weights_of_googlenets_3a():
    ours = InceptionBlock(input_shape=(192, 28, 28))
    model = dl.Sequential([ours])
    assert model.count_params() == learnable(inception_of_torchvision(False)) == 163_696
    assert 163_696 // 1024 == 159  # table 1 of the paper: "159K"


# -- DeepFace --------------------------------------------------------------------------------------


def test_deepface_has_the_maps_and_weights_of_its_drawing():
    model = on_meta(DeepFace)
    x, sides = torch.empty(1, 3, 152, 152, device="meta"), {}
    for layer in model:
        x = layer(x)
        sides[getattr(layer, "name", None)] = x.shape[-1]
    expected = {"C1": 142, "M2": 71, "C3": 63, "L4": 55, "L5": 25, "L6": 21, "F7": 4096, "F8": 4030}
    assert {name: sides[name] for name in expected} == expected

    convolutions = (3 * 121 + 1) * 32 + (32 * 81 + 1) * 16
    local = (55**2 * (16 * 81 + 1) + 25**2 * (16 * 49 + 1) + 21**2 * (16 * 25 + 1)) * 16
    dense = (21 * 21 * 16 + 1) * 4096 + 4097 * 4030
    assert model.count_params() == convolutions + local + dense == 118_923_774
    share = (local + dense) / model.count_params()
    assert share > 0.95 and f"{100 * share:.2f} %" in DeepFace.__doc__
    assert "118,923,774" in DeepFace.__doc__


def test_deepfaces_smallest_picture_leaves_one_position():
    model = DeepFace(3, (1, 71, 71), filters=(2, 2, 2, 2, 2), units=4)
    x = torch.zeros(1, 1, 71, 71)
    for layer in model.layers[:6]:
        x = layer(x)
    assert x.shape == (1, 2, 1, 1)


# -- the presets -----------------------------------------------------------------------------------


def test_mlp_is_the_feed_forward_net_of_the_slides():
    model = MLP(input_shape=20)
    assert [type(layer).__name__ for layer in model] == ["Dense", "Dropout", "Dense"]
    assert model.layers[1].p == 0.5
    theirs = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10))
    assert_same_outputs(model, theirs, (20,))


def test_mlp_flattens_pictures_and_learns_its_inputs_from_the_first_batch():
    assert MLP((5, 4), 3, (1, 8, 8), dropout=0).count_params() == 65 * 5 + 6 * 4 + 5 * 3
    model = MLP((5, 4), 3, dropout=0)
    assert model(torch.zeros(2, 7)).shape == (2, 3)
    assert model.count_params() == 8 * 5 + 6 * 4 + 5 * 3


def test_lstm_stack_is_that_of_the_slides():
    model = LSTMStack(input_shape=(8, 16))
    assert [layer.config.get("return_sequences") for layer in model] == [True, True, False, None]
    assert learnable(model) == 4 * 32 * (16 + 32 + 1) + 2 * 4 * 32 * (32 + 32 + 1) + 33 * 10
    assert LSTMStack((4, 4), 3, (None, 2), dropout=0.5)(torch.zeros(2, 5, 2)).shape == (2, 3)


@pytest.mark.slow
def test_lstm_stack_and_mlp_count_as_keras_does():
    keras = pytest.importorskip("keras")
    k, lstm = keras.layers, {"return_sequences": True}
    theirs = keras.Sequential(
        [k.Input((8, 16)), k.LSTM(32, **lstm), k.LSTM(32, **lstm), k.LSTM(32), k.Dense(10)]
    )
    assert LSTMStack(input_shape=(8, 16)).count_params() == theirs.count_params()
    theirs = keras.Sequential([k.Input((20,)), k.Dense(64), k.Dropout(0.5), k.Dense(10)])
    assert MLP(input_shape=(20,)).count_params() == theirs.count_params()


# -- every network: the house's ways ---------------------------------------------------------------


def small_inception(classes, **options):
    model = dl.Sequential([
        InceptionBlock(2, (2, 3), (2, 2), 2, batch_norm=True),
        InceptionBlock(2, (2, 3), (2, 2), 2, name="second"),
        dl.GlobalAveragePooling2D(),
        *MLP((4,), classes, **options),
    ])  # fmt: skip
    model.build((3, 8, 8))
    return model


NETWORKS = {  # name -> (make, shape of one sample)
    "LeNet5": (lambda classes, **o: LeNet5(classes, (1, 28, 28), **o), (1, 28, 28)),
    "LeNet5 modern": (lambda classes, **o: LeNet5(classes, modern=True, **o), (1, 32, 32)),
    "AlexNet": (lambda classes, **o: AlexNet(classes, (3, 63, 63), units=16, **o), (3, 63, 63)),
    "VGG11": (lambda classes, **o: VGG11(classes, (3, 32, 32), True, units=4, **o), (3, 32, 32)),
    "SmallVGG": (lambda classes, **o: SmallVGG(classes, (3, 16, 16), **o), (3, 16, 16)),
    "ResNet A": (lambda classes, **o: ResNet(8, classes, (3, 8, 8), **o), (3, 8, 8)),
    "ResNet B": (lambda classes, **o: ResNet(8, classes, (3, 9, 8), shortcut="B", **o), (3, 9, 8)),
    "DeepFace": (
        lambda classes, **o: DeepFace(classes, (1, 71, 71), filters=[2] * 5, units=16, **o),
        (1, 71, 71),
    ),
    "MLP": (lambda classes, **o: MLP((8, 4), classes, 6, **o), (6,)),
    "LSTMStack": (lambda classes, **o: LSTMStack((4, 3), classes, (5, 2), **o), (5, 2)),
    "Inception": (
        lambda classes, **o: small_inception(classes, **o),
        (3, 8, 8),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network_trains_is_saved_and_leaves_as_plain_torch(name, tmp_path, capsys):
    make, shape = NETWORKS[name]
    dl.seed(0)
    model = make(3)
    x, y = torch.rand(6, *shape), torch.tensor([0, 1, 2] * 2)
    before = [weight.detach().clone() for weight in model.parameters()]
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x, y, batch_size=6, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters())]
    assert moved[0] and moved[-1]
    found = model.predict(x, verbose=0)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)

    model.summary()
    assert f"{model.count_params():,}" in capsys.readouterr().out
    model.save(tmp_path / "m.easydl")
    loaded = dl.load_model(tmp_path / "m.easydl")
    assert loaded.name == model.name
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), found)
    plain = model.to_torch().eval()
    assert not any(type(part).__module__.startswith("easydl") for part in plain.modules())
    with torch.no_grad():
        torch.testing.assert_close(plain(x), torch.from_numpy(found), rtol=0, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_made_without_memory_on_meta(name):
    make, _ = NETWORKS[name]
    model = on_meta(make, 3)
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    assert model.count_params() == make(3).count_params()
    assert model.output_shape == (None, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_network_ends_as_the_task_asks(name):
    make, _ = NETWORKS[name]
    for classes, options, ending in [
        (1, {}, nn.Sigmoid),
        (2, {}, nn.Softmax),
        (1, {"output_activation": None}, type(None)),
        (2, {"output_activation": "sigmoid"}, nn.Sigmoid),
    ]:
        last = on_meta(make, classes, **options).layers[-1]
        assert isinstance(last.activation, ending) and last.out_features == classes


def test_one_class_learns_a_yes_or_no_and_numbers_beyond_it_are_refused():
    x = torch.rand(16, 6)
    model = MLP(4, 1, 6)
    model.compile("sgd", "binary_crossentropy", metrics=["accuracy"])
    model.fit(x, (x[:, 0] > 0.5).float(), verbose=0)
    model = MLP(4, 1, 6)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="ends in sigmoid"):
        model.fit(x, 100 * x[:, 0], verbose=0)
    model = MLP(4, 1, 6, output_activation=None)
    model.compile("sgd", "mse")
    model.fit(x, 100 * x[:, 0], verbose=0)


def test_another_head_is_built_at_once():
    model = LeNet5()
    model.pop()
    model.add(dl.Dense(3, activation="softmax"))
    assert model.count_params() == 61_706 - 850 + 85 * 3


PICTURES = [LeNet5, AlexNet, VGG11, VGG13, VGG16, VGG19, SmallVGG, ResNet, DeepFace]
REFUSED = [
    *[(make, {"classes": 0}, "classes=0 was given") for make in [*PICTURES, MLP, LSTMStack]],
    *[(make, {"classes": 2.5}, "classes=2.5") for make in PICTURES],
    *[(make, {"input_shape": (32, 32)}, "expected (channels, height") for make in PICTURES],
    *[(make, {"input_shape": 32}, "expected (channels, height") for make in PICTURES],
    *[(make, {"input_shape": (200, 210, 3)}, "(3, 200, 210)") for make in PICTURES],
    *[(make, {"input_shape": (None, 99, 99)}, "expected whole numbers") for make in PICTURES],
    *[(make, {"input_shape": (3, 0, 99)}, "input_shape=0") for make in PICTURES],
    *[(make, {"output_activation": "sofmax"}, "Did you mean 'softmax'") for make in PICTURES],
    *[(make, {"clases": 3}, "Did you mean 'classes'") for make in PICTURES],
    *[
        (make, {"input_shape": (3, least - 1, 300)}, f"at least {least}")
        for make, least in [(LeNet5, 28), (AlexNet, 63), (VGG11, 32), (SmallVGG, 16)]
        + [(VGG19, 32), (DeepFace, 71)]
    ],
    *[
        (make, {"input_shape": (3, None, 99)}, "expected whole numbers")
        for make in (LeNet5, SmallVGG, DeepFace)
    ],
    (LeNet5, {"modern": "yes"}, "modern='yes'"),
    (VGG11, {"batch_norm": "yes"}, "batch_norm='yes'"),
    (AlexNet, {"units": 0}, "units=0"),
    (VGG13, {"units": -1}, "units=-1"),
    (SmallVGG, {"units": 0}, "units=0"),
    (SmallVGG, {"dropout": 0.3}, "dropout=0.3"),
    (ResNet, {"depth": 18}, "torchvision's resnet18"),
    (ResNet, {"depth": 50.5}, "depth=50.5"),
    (ResNet, {"depth": 2}, "nearest is 8"),
    (ResNet, {"depth": 33}, "nearest is 32"),
    (ResNet, {"shortcut": "C"}, "Choose from: A, B"),
    (DeepFace, {"filters": (2, 2)}, "expected 5 whole numbers"),
    (DeepFace, {"filters": 8}, "expected 5 whole numbers"),
    (DeepFace, {"filters": (2, 2, 2, 2, 0)}, "filters=0"),
    (DeepFace, {"units": 0}, "units=0"),
    (InceptionBlock, {"ch3x3": 128}, "ch3x3=128 was given; expected 2"),
    (InceptionBlock, {"ch5x5": (1, 2, 3)}, "expected 2 whole numbers"),
    (InceptionBlock, {"ch1x1": 0}, "ch1x1=0"),
    (InceptionBlock, {"pool": True}, "pool=True"),
    (MLP, {"units": ()}, "units=()"),
    (MLP, {"units": "64"}, "units='64'"),
    (MLP, {"units": (4, 0)}, "units=0"),
    (MLP, {"activation": "rellu"}, "Did you mean 'relu'"),
    (MLP, {"dropout": 1}, "dropout=1"),
    (MLP, {"dropout": "half"}, "dropout='half'"),
    (LSTMStack, {"input_shape": 8}, "(steps, features)"),
    (LSTMStack, {"input_shape": (8, 8, 8)}, "(steps, features)"),
    (LSTMStack, {"input_shape": (8, None)}, "open input shape"),
    (LSTMStack, {"dropout": -0.1}, "dropout=-0.1"),
]


@pytest.mark.parametrize(("make", "options", "words"), REFUSED)
def test_bad_arguments_are_refused_before_weights_are_made(make, options, words, monkeypatch):
    def fill(*_):
        raise AssertionError("weights were made")

    monkeypatch.setattr(base, "fill", fill)
    with pytest.raises((ValueError, TypeError)) as problem:
        make(**options)
    message = str(problem.value)
    assert words in message and len(message) <= 600
    assert "AssertionError" not in message


def test_the_names_are_those_that_the_house_offers():
    expected = "AlexNet DeepFace InceptionBlock LSTMStack LeNet5 MLP ResNet SmallVGG VGG11 VGG13"
    assert sorted(architectures.__all__) == [*expected.split(), "VGG16", "VGG19"]


def test_published_weights_are_asked_for_elsewhere():
    with pytest.raises(TypeError, match=r"easydl\.pretrained\('vgg16'\)"):
        dl.VGG16(weights="imagenet")
