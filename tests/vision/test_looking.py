"""What a network looks at, against closed forms, slow loops and layers run by hand."""

from __future__ import annotations

import contextlib
import copy
import io
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import easydl as dl
from easydl.data.picture_sets import PictureData, Pictures
from easydl.data.pictures import Transforms
from easydl.vision.dreaming import deep_dream
from easydl.vision.judging import confusion, most_wrong, neighbours
from easydl.vision.looking import feature_maps, filters, grad_cam, occlusion

pytest.importorskip("matplotlib")
models = pytest.importorskip("torchvision").models


class Own(nn.Module):
    """A user's network: ReLU in place after the convolution, used twice; softmax at the end."""

    def __init__(self, softmax=True):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 5, 3, padding=1)
        self.head = nn.Linear(5, 3)
        self.softmax = nn.Softmax(1) if softmax else nn.Identity()
        self.spare = nn.Conv2d(3, 4, 3)  # never used

    def forward(self, x):
        x = self.relu(self.norm(self.first(x)))
        x = self.relu(self.second(x))
        return self.softmax(self.head(F.dropout(x.mean((2, 3)), 0.5, self.training)))


def keras_like():
    return dl.Sequential([
        dl.Conv2D(4, 3, activation="relu", input_shape=(1, 8, 8)), dl.MaxPooling2D(2),
        dl.Conv2D(6, 2), nn.ReLU(inplace=True), dl.Flatten(), dl.Dense(3, "softmax"),
    ])  # fmt: skip


def resnet():
    return models.resnet18(num_classes=4)


@pytest.fixture(autouse=True)
def seeded():
    dl.seed(0)


def rendered(figure):
    file = io.BytesIO()
    figure.savefig(file)
    return file.getvalue()


LOOKS = {
    "filters": lambda model, x: filters(model),
    "feature_maps": lambda model, x: feature_maps(model, x[:1]),
    "grad_cam": grad_cam,
    "occlusion": lambda model, x: occlusion(model, x, window=4, stride=4),
    "neighbours": lambda model, x: neighbours(model, x, x, k=2),
    "most_wrong": lambda model, x: most_wrong(model, x, [0, 1]),
    "confusion": lambda model, x: confusion(model, x, [0, 1]),
    "deep_dream": lambda model, x: deep_dream(model, x[0], steps=1, octaves=2, scale=1.2),
}


def traces(model):
    """All that a look must leave as it is."""
    return {
        "state": copy.deepcopy(model.state_dict()),
        "modes": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grads": [p.grad for p in model.parameters()],
        "versions": [p._version for p in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()),
        "grad_mode": torch.is_grad_enabled(),
    }


def assert_same(now, before):
    assert now.keys() == before.keys()
    for name, value in now.items():
        if name == "state":
            assert all(torch.equal(value[key], before[name][key]) for key in before[name])
        elif name == "random":
            assert torch.equal(value[0], before[name][0])
            assert value[1:] == before[name][1:]
        else:
            assert value == before[name], name


@pytest.mark.parametrize(
    ("make", "state"),
    [(keras_like, "fresh")]
    + [(Own, state) for state in ("fresh", "frozen", "no_grad", "inference_mode")],
)
@pytest.mark.parametrize("look", LOOKS)
def test_nothing_is_left_on_the_network(look, make, state):
    model = make()
    model.train()
    next(iter(model.children())).eval()  # a mixture, which must come back
    x = torch.rand(2, 1 if make is keras_like else 3, 8, 8)
    kept = x.clone()
    if state == "frozen":
        model.requires_grad_(False)
    mode = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
    before = traces(model)
    with mode.get(state, contextlib.nullcontext)():
        seen = LOOKS[look](model, x)
    assert_same(traces(model), before)
    assert torch.equal(x, kept)
    if state == "fresh" and make is Own:
        rendered(seen.figure)


@pytest.mark.parametrize("look", LOOKS)
def test_a_network_and_pictures_that_were_made_in_inference_mode_can_be_looked_at(look):
    with torch.inference_mode():
        model, x = Own(), torch.rand(2, 3, 8, 8)
        inside = LOOKS[look](model, x)
    dl.seed(0)
    outside = LOOKS[look](Own(), torch.rand(2, 3, 8, 8))
    if look == "feature_maps":
        assert all(np.array_equal(v, outside.values[k]) for k, v in inside.values.items())
    else:
        np.testing.assert_allclose(inside.values, outside.values, atol=1e-6)


@pytest.mark.parametrize("look", [name for name in LOOKS if name != "filters"])
def test_nothing_is_left_on_a_network_that_fails(look):
    class Failing(Own):
        def forward(self, x):
            self.first(x)
            torch.rand(1), random.random(), np.random.rand()
            raise KeyError("mine")

    model, x = Failing().train(), torch.rand(2, 3, 8, 8)
    before = traces(model)
    with pytest.raises(KeyError, match="mine"):
        if look == "deep_dream":
            deep_dream(model, x[0], "second", steps=1, octaves=1)
        else:
            LOOKS[look](model, x)
    assert_same(traces(model), before)


# -- filters -------------------------------------------------------------------------------------


def test_filters_are_the_weights_of_the_first_convolution_or_of_the_one_asked_for():
    model = resnet()
    assert np.array_equal(filters(model).values, model.conv1.weight.detach().numpy())
    deep = filters(model, "layer1.0.conv2")
    assert np.array_equal(deep.values, model.layer1[0].conv2.weight.detach().numpy())
    assert deep.figure.axes[0].get_title() == "layer1.0.conv2: 16 of 64 filters, 32 of 64 channels"
    tile = deep.figure.axes[0].get_images()[0].get_array()[4:7, 8:11]  # filter 1, channel 2
    weight = deep.values[1]
    np.testing.assert_allclose(tile, 0.5 + weight[2] / (2 * abs(weight[:32]).max()), atol=1e-6)
    rendered(deep.figure)
    first = filters(model).figure.axes[3].get_images()[0].get_array()
    weight = model.conv1.weight[3].detach().numpy()
    np.testing.assert_allclose(
        first, (0.5 + weight / (2 * abs(weight).max())).transpose(1, 2, 0), atol=1e-6
    )


def test_layers_are_named_as_in_named_modules_and_summary_or_given():
    model = keras_like()
    second = model.layers[2]
    for layer in ("conv2d_1", "2", second):
        assert np.array_equal(filters(model, layer).values, second.weight.detach().numpy())
    wrapped = dl.Model(resnet())
    for layer in ("layer2.0.conv1", "network.layer2.0.conv1", wrapped.network.layer2[0].conv1):
        assert filters(wrapped, layer).values.shape == (128, 64, 3, 3)


@pytest.mark.slow
def test_a_compiled_network_is_looked_at_as_it_was():
    assert filters(torch.compile(resnet()), "conv1").values.shape == (64, 3, 7, 7)
    x = torch.rand(3, 64, 64)
    model = resnet()
    assert np.array_equal(grad_cam(torch.compile(model), x).values, grad_cam(model, x).values)


# -- feature maps --------------------------------------------------------------------------------


def test_feature_maps_are_what_the_layers_give_by_hand():
    model = keras_like().eval()
    x = torch.rand(1, 8, 8)
    with torch.no_grad():
        by_hand, y = {}, x[None]
        for name, layer in zip(model.layer_names(), model.layers):
            y = layer(y)
            by_hand[name] = y[0].clone().numpy()
    with torch.no_grad():
        by_hand["conv2d_1"] = model.layers[2](torch.tensor(by_hand["max_pooling2d"])[None])[0]
    values = feature_maps(model, x).values
    assert list(values) == ["conv2d", "max_pooling2d", "conv2d_1", "re_lu"]
    for name, maps in values.items():
        assert np.array_equal(maps, by_hand[name]), name
    assert (values["conv2d_1"] < 0).any()  # the ReLU in place came after


def test_feature_maps_of_a_layer_that_runs_twice_and_of_some_layers():
    model = Own().eval()
    x = torch.rand(1, 3, 8, 8)
    values = feature_maps(model, x).values
    assert list(values) == ["first", "relu", "relu (2)", "second"]
    with torch.no_grad():
        first = model.norm(model.first(x)).relu()
        second = model.second(first)
    assert np.array_equal(values["relu"], first[0])
    assert np.array_equal(values["second"], second[0])
    assert np.array_equal(values["relu (2)"], second[0].relu())
    assert list(feature_maps(model, x, "norm").values) == ["norm"]
    assert list(feature_maps(model, x, [model.second, "norm"]).values) == ["norm", "second"]


def test_feature_maps_draw_a_row_a_layer():
    seen = feature_maps(resnet(), torch.rand(3, 64, 64))
    assert seen.values["layer4.1.relu (2)"].shape == (512, 2, 2)
    titles = [axes.get_title(loc="left") for axes in seen.figure.axes]
    assert titles[0] == "conv1: 32 of 64 maps of 32 × 32"
    assert 12 <= len(titles) <= 24
    rendered(seen.figure)


# -- Grad-CAM --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["logits", "softmax module", "easydl"])
def test_grad_cam_is_cam_on_a_network_that_ends_in_global_average_pooling(ending):
    # Zhou et al. (2016): CAM_c = Σ_k w_ck A_k. There y_c = Σ_k w_ck mean(A_k) + b_c, so that
    # α_k = w_ck / Z with Z positions, and Grad-CAM = ReLU(CAM_c) / Z before it is enlarged.
    convolution = nn.Conv2d(3, 6, 3, padding=1)
    linear = nn.Linear(6, 5)
    if ending == "easydl":
        layers = [convolution, dl.GlobalAveragePooling2D(), linear, dl.Activation("softmax")]
        model = dl.Sequential(layers)
    else:
        layers = [convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear]
        model = nn.Sequential(*layers, *[nn.Softmax(1)] * (ending != "logits"))
    x = torch.rand(4, 3, 7, 9)
    with torch.no_grad():
        cam = torch.einsum("k,nkhw->nhw", linear.weight[2], convolution(x))
        expected = F.relu(cam) / (7 * 9)
    seen = grad_cam(model, x, target=2)
    np.testing.assert_allclose(seen.values, expected, atol=1e-6)
    assert seen.values.shape == (4, 7, 9) and seen.values.max() > 0
    said = model(x).argmax(1)
    for given in (said, said.numpy(), said.tolist()):
        assert np.array_equal(grad_cam(model, x).values, grad_cam(model, x, given).values)
    for one in (torch.tensor(2), np.int64(2), np.array(2)):
        assert np.array_equal(grad_cam(model, x, one).values, seen.values)


def test_grad_cam_is_enlarged_to_the_picture_and_takes_the_last_layer_with_maps():
    model = resnet().eval()
    x = torch.rand(2, 3, 64, 64)
    kept = {}
    handle = model.layer4.register_forward_hook(lambda m, a, output: kept.update(maps=output))
    score = model(x)[torch.arange(2), [3, 1]].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept["maps"])
    heat = F.relu((gradient.mean((2, 3), keepdim=True) * kept["maps"]).sum(1, keepdim=True))
    heat = F.interpolate(heat, (64, 64), mode="bilinear", align_corners=False)[:, 0].detach()
    assert heat.max() > 0
    for layer in (None, "layer4", "layer4.1.relu"):
        seen = grad_cam(model, x, target=[3, 1], layer=layer)
        np.testing.assert_allclose(seen.values, heat, rtol=1e-4, atol=1e-6 * float(heat.max()))
    assert [axes.get_title() for axes in seen.figure.axes] == ["3", "", "1", ""]


def test_grad_cam_of_one_sigmoid_unit_has_two_classes():
    layers = [nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)]
    model = nn.Sequential(*layers, nn.Sigmoid())
    x = torch.rand(1, 1, 6, 6)
    with torch.no_grad():
        cam = torch.einsum("k,nkhw->nhw", layers[-1].weight[0], layers[0](x)) / 16
    for target, sign in ((1, 1), (0, -1)):
        seen = grad_cam(model, x, target).values
        wanted = F.interpolate(F.relu(sign * cam)[None], (6, 6), mode="bilinear")[0]
        np.testing.assert_allclose(seen, wanted, atol=1e-6)


def test_grad_cam_knows_class_names():
    model = keras_like()
    model.class_names = ["cat", "dog", "owl"]
    x = torch.rand(1, 8, 8)
    by_name = grad_cam(model, x, "dog")
    assert np.array_equal(by_name.values, grad_cam(model, x, 1).values)
    assert by_name.figure.axes[0].get_title() == "dog"
    with pytest.raises(ValueError, match="unknown class 'dgo'"):
        grad_cam(model, x, "dgo")


@pytest.mark.parametrize(
    ("make", "layer"),
    [(lambda: models.densenet121(num_classes=3), "features"), (models.swin_t, "permute")],
    ids=["densenet", "swin"],
)
def test_grad_cam_finds_the_maps_of_other_networks(make, layer):
    model, x = make(), torch.rand(1, 3, 64, 64)
    assert np.array_equal(grad_cam(model, x).values, grad_cam(model, x, layer=layer).values)


def test_layers_without_maps_say_so():
    vit = models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3)
    vit.heads.head.reset_parameters()  # else all is zero
    x = torch.rand(1, 3, 32, 32)
    assert grad_cam(vit, x).values.shape == (1, 32, 32)  # the maps of the patches
    with pytest.raises(ValueError, match=r"tokens \(N, T, C\)"):
        grad_cam(vit, x, layer="encoder.layers.encoder_layer_1")
    with pytest.raises(ValueError, match=r"'heads.head' gives \(1, 3\)"):
        feature_maps(vit, x, "heads.head")
    assert list(feature_maps(vit, x).values) == ["conv_proj"]
    swin = models.swin_t()
    with pytest.raises(ValueError, match="channels last"):
        grad_cam(swin, torch.rand(1, 3, 64, 64), layer="features.1")
    assert next(iter(feature_maps(swin, torch.rand(3, 64, 64)).values)) == "features.0.0"


# -- occlusion -----------------------------------------------------------------------------------


class Finder(nn.Module):
    """Says how bright rows 8 … 11 and columns 20 … 23 are."""

    def forward(self, x):
        score = x[:, :, 8:12, 20:24].mean((1, 2, 3))
        return torch.stack([-score, score], 1)


def test_occlusion_finds_a_planted_square():
    x = torch.zeros(1, 1, 24, 32)
    x[..., 8:12, 20:24] = 1
    values = occlusion(Finder(), x, window=4, stride=4, fill=0).values[0]
    assert np.array_equal(values, x[0, 0].numpy())
    assert occlusion(Finder(), x, 0, window=4, stride=4, fill=0).values.min() == -1


@pytest.mark.parametrize(
    ("window", "stride", "fill"), [(3, 2, None), (5, 3, 0.25), (4, 4, [0, 1, 2])]
)
def test_occlusion_equals_a_slow_loop(window, stride, fill):
    model, x = Own().double(), torch.rand(2, 3, 11, 9).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3
    seen = occlusion(model, x, 1, window, stride, fill=fill, batch_size=5).values
    model.eval()
    for picture, values in zip(x, seen):
        grey = picture.mean((1, 2)) if fill is None else torch.tensor(fill).expand(3).double()
        with torch.no_grad():
            plain = model(picture[None])[0, 1]
            total, count = torch.zeros(2, 11, 9).double()
            for top in sorted({*range(0, 11 - window + 1, stride), 11 - window}):
                for left in sorted({*range(0, 9 - window + 1, stride), 9 - window}):
                    hidden = picture.clone()
                    hidden[:, top : top + window, left : left + window] = grey[:, None, None]
                    fall = plain - model(hidden[None])[0, 1]
                    total[top : top + window, left : left + window] += fall
                    count[top : top + window, left : left + window] += 1
        np.testing.assert_allclose(values, total / count, atol=1e-6)
        assert abs(values).max() > 1e-3


# -- neighbours ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [None, "second", "relu"])
def test_neighbours_equal_scikit_learns(layer):
    from sklearn.neighbors import NearestNeighbors

    model = Own().eval()
    data, x = torch.rand(60, 3, 8, 8), torch.rand(5, 3, 8, 8)
    with torch.no_grad():

        def features(x):
            second = model.second(model.norm(model.first(x)).relu())
            found = {"second": second, "relu": second.relu(), None: second.relu().mean((2, 3))}
            return found[layer].flatten(1).numpy()

        expected = NearestNeighbors(n_neighbors=4, algorithm="brute").fit(features(data))
        distances, indices = expected.kneighbors(features(x[:3]))
    seen = neighbours(model, x[:3], data, k=4, layer=layer, batch_size=16)
    assert np.array_equal(seen.indices, indices)
    np.testing.assert_allclose(seen.values, distances, atol=1e-5)
    titles = [axes.get_title() for axes in seen.figure.axes]
    assert titles[:2] == ["picture 0", f"{seen.values[0, 0]:.3g}"]
    assert len(titles) == 3 * 5


def test_neighbours_may_have_another_size_where_the_network_takes_any():
    model, x, data = Own().eval(), torch.rand(1, 3, 8, 8), torch.rand(5, 3, 12, 10)
    with torch.no_grad():
        near, far = (model.second(model.norm(model.first(z)).relu()).relu() for z in (x, data))
        distances = (near.mean((2, 3)) - far.mean((2, 3))).norm(dim=1)
    seen = neighbours(model, x, data, k=5)
    assert seen.indices[0].tolist() == distances.argsort().tolist()
    np.testing.assert_allclose(seen.values[0], distances.sort().values, atol=1e-5)


def test_neighbours_read_a_dataset_and_equal_ones_keep_their_order():
    x = torch.rand(4, 1, 8, 8)
    data = torch.utils.data.TensorDataset(x.repeat(3, 1, 1, 1), torch.arange(12))
    seen = neighbours(keras_like(), x[2], data, k=3)
    assert seen.indices.tolist() == [[2, 6, 10]]
    assert seen.values.max() < 1e-6


# -- mistakes ------------------------------------------------------------------------------------


class Functional(nn.Module):
    def __init__(self, ending):
        super().__init__()
        self.linear, self.ending = nn.Linear(4, 3), ending

    def forward(self, x):
        return self.ending(self.linear(x.flatten(1)))


ENDINGS = {
    "logits": lambda z: z,
    "F.softmax": lambda z: z.softmax(1),
    "F.log_softmax": lambda z: z.log_softmax(1),
    "nn.Softmax": nn.Softmax(1),
    "nn.LogSoftmax": nn.LogSoftmax(1),
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_most_wrong_and_confusion_know_what_the_outputs_are(ending, frozen):
    model = Functional(ENDINGS[ending]).requires_grad_(not frozen)
    x, y = 4 * torch.rand(40, 1, 2, 2), torch.randint(3, (40,))
    with torch.no_grad():
        losses = F.cross_entropy(model.linear(x.flatten(1)), y, reduction="none").numpy()
    seen = most_wrong(model, x, y, n=6, batch_size=7)
    assert seen.indices.tolist() == np.argsort(-losses).tolist()[:6]
    np.testing.assert_allclose(seen.values, -np.sort(-losses)[:6], atol=1e-5)
    assert len(seen.figure.axes) == 6
    said = model(x).argmax(1)
    counts = confusion(model, x, y, batch_size=7).values
    expected = [[int(((y == a) & (said == b)).sum()) for b in range(3)] for a in range(3)]
    assert counts.tolist() == expected


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("ending", [nn.Sigmoid(), torch.sigmoid, lambda z: z])
def test_one_unit_is_two_classes(ending, frozen):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    whole = nn.Sequential(model, ending) if isinstance(ending, nn.Module) else None
    if whole is None:
        whole = Functional(ending)
        whole.linear = model[1]
    whole.requires_grad_(not frozen)
    x, y = torch.randn(20, 1, 2, 2), torch.randint(2, (20,))
    with torch.no_grad():
        z = model(x)[:, 0]
        losses = F.binary_cross_entropy_with_logits(z, y.float(), reduction="none").numpy()
    seen = most_wrong(whole, x, y, n=20)
    np.testing.assert_allclose(seen.values, -np.sort(-losses), atol=1e-5)
    assert np.trace(confusion(whole, x, y).values) == int(((z > 0).long() == y).sum())


def test_labels_may_be_names_one_hot_or_come_with_a_dataset():
    model, x, y = keras_like(), torch.rand(6, 1, 8, 8), [0, 1, 2, 2, 1, 0]
    plain = confusion(model, x, y).values
    assert np.array_equal(confusion(model, x, np.eye(3)[y]).values, plain)
    dataset = torch.utils.data.TensorDataset(x, torch.tensor(y))
    assert np.array_equal(confusion(model, dataset).values, plain)
    model.class_names = ["cat", "dog", "owl"]
    named = confusion(model, x, [model.class_names[k] for k in y])
    assert np.array_equal(named.values, plain)
    assert [t.get_text() for t in named.figure.axes[0].get_xticklabels()] == ["cat", "dog", "owl"]


def test_pictures_of_a_folder_bring_their_classes():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    ready = torch.from_numpy(pixels / np.float32(255)).movedim(-1, 1)
    data = Pictures(pixels, [0, 2, 1, 2], ["a", "b", "c"], size=8)
    for model in (Own(), dl.Model(Own())):
        assert np.array_equal(
            confusion(model, data).values, confusion(model, ready, [0, 2, 1, 2]).values
        )
        assert neighbours(model, ready[1], data, k=1).indices.tolist() == [[1]]


def test_pictures_go_through_the_models_transforms(tmp_path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (2, 70, 90, 3), np.uint8)
    paths = [tmp_path / f"{k}.png" for k in range(2)]
    for path, picture in zip(paths, pixels):
        Image.fromarray(picture).save(path)
    model = dl.Model(resnet())
    model.transforms = Transforms(64, 70, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    ready = torch.stack([model.transforms(picture) for picture in pixels])
    expected = grad_cam(model, ready, 1).values
    assert np.array_equal(grad_cam(model, paths, 1).values, expected)
    assert np.array_equal(grad_cam(model, list(map(Image.open, paths)), 1).values, expected)
    one = grad_cam(model, str(paths[1]), 1)
    np.testing.assert_allclose(one.values[0], expected[1], rtol=1e-3, atol=1e-5 * expected.max())
    shown = one.figure.axes[0].get_images()[0].get_array()  # with the normalisation undone
    np.testing.assert_allclose(shown, pixels[1][3:67, 13:77] / 255, atol=0.003)


# -- bad input -----------------------------------------------------------------------------------

SQUARE = torch.rand(1, 3, 8, 8)
REFUSALS = {
    "no convolution": (lambda: filters(nn.Linear(3, 2)), r"no convolution .* Linear"),
    "another layer": (lambda: filters(Own(), "head"), "'head' is a Linear; expected a convol"),
    "mistyped": (lambda: grad_cam(Own(), SQUARE, layer="secnd"), "Did you mean 'second'"),
    "foreign": (lambda: grad_cam(Own(), SQUARE, layer=nn.ReLU()), "no layer of this model"),
    "unused": (lambda: feature_maps(Own(), SQUARE, "spare"), "'spare' gave nothing"),
    "unused, Grad-CAM": (lambda: grad_cam(Own(), SQUARE, layer="spare"), "'spare' gave nothing"),
    "unused, alike": (lambda: neighbours(Own(), SQUARE, SQUARE, 1, "spare"), "gave nothing"),
    "fraction": (lambda: grad_cam(Own(), SQUARE, torch.tensor(1.7)), "expected 0 … 2"),
    "one-hot": (lambda: grad_cam(Own(), SQUARE, torch.eye(3)[:1]), "expected 0 … 2"),
    "names": (lambda: occlusion(named("a", "b"), SQUARE), "class_names lists 2 names for 3"),
    "names, wrong": (lambda: most_wrong(named("a"), SQUARE, [2]), "lists 1 names for 3 outputs"),
    "parts": (lambda: confusion(Own(), PictureData(FOLDER, None)), r"write x\.validation"),
    "nan out": (lambda: confusion(lost(), SQUARE, [0]), "gives nan for 1 of 1 pictures"),
    "a dict": (lambda: most_wrong(Wordy(), SQUARE, [0]), "the network gave dict; expected one"),
    "other classes": (lambda: confusion(named("a", "b", "c"), FOLDER), "tells apart a, b, c, and"),
    "not normalised": (lambda: grad_cam(normalised(), SQUARE), "model takes normalised ones"),
    "several": (lambda: feature_maps(Own(), SQUARE.repeat(2, 1, 1, 1)), r"2 pictures; .*x\[:1\]"),
    "target": (lambda: grad_cam(Own(), SQUARE, 3), "target=3 was given; expected 0 … 2"),
    "negative": (lambda: occlusion(Own(), SQUARE, -1), "expected 0 … 2"),
    "targets": (lambda: grad_cam(Own(), SQUARE, [0, 1]), "2 classes for 1 pictures"),
    "true": (lambda: grad_cam(Own(), SQUARE, True), "target=True was given"),
    "flat": (lambda: grad_cam(Own(), torch.rand(5, 64)), r"\(5, 64\); expected pictures \(N, C"),
    "channels": (lambda: grad_cam(Own(), torch.rand(1, 1, 8, 8)), r"\(1, 1, 8, 8\); .*torch says"),
    "nan": (lambda: grad_cam(Own(), SQUARE * torch.nan), "x holds nan"),
    "empty": (lambda: confusion(Own(), SQUARE[:0], []), "x is empty"),
    "text": (lambda: grad_cam(Own(), ["a", "b"]), "x holds text"),
    "no maps": (lambda: grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), SQUARE), "1 × 1"),
    "maps out": (lambda: grad_cam(nn.Conv2d(3, 3, 1), SQUARE, layer="conv2d"), "one tensor"),
    "window": (lambda: occlusion(Own(), SQUARE, window=9), "window=9 .* at most 8"),
    "stride": (lambda: occlusion(Own(), SQUARE, stride=0), "stride=0"),
    "gaps": (lambda: occlusion(Own(), SQUARE, window=2, stride=3), "stride=3 .* window=2"),
    "fill": (lambda: occlusion(Own(), SQUARE, fill=[1, 2]), "2 numbers for 3 channels"),
    "k": (lambda: neighbours(Own(), SQUARE, SQUARE, 2), "k=2 was given for 1"),
    "loader": (
        lambda: confusion(Own(), torch.utils.data.DataLoader(SQUARE)),
        r"write x\.dataset",
    ),
    "lengths": (lambda: confusion(Own(), SQUARE, [0, 1]), "1 rows and y has 2"),
    "label": (lambda: most_wrong(Own(), SQUARE, [3]), "labels from 3 to 3.* 0 … 2"),
    "no labels": (lambda: most_wrong(Own(), SQUARE), "y is missing"),
    "not built": (lambda: grad_cam(dl.Sequential([dl.Conv2D(3, 3)]), SQUARE), "no weights yet"),
    "detached": (lambda: grad_cam(Detached(), SQUARE, layer="first"), "does not depend on"),
    "no module": (lambda: filters("resnet18"), "expected an nn.Module"),
}


FOLDER = Pictures(np.zeros((2, 8, 8, 3), np.uint8), [0, 1], ["b", "c"], size=8)


def named(*names):
    model = Own()
    model.class_names = list(names)
    return model


def lost():
    model = Own()
    nn.init.constant_(model.head.weight, torch.nan)
    return model


def normalised():
    model = dl.Model(Own())
    model.transforms = Transforms(8, mean=[0.5] * 3, std=[0.2] * 3)
    return model


class Wordy(Own):
    def forward(self, x):
        return {"out": super().forward(x)}


class Detached(Own):
    def forward(self, x):
        return self.head(self.second(self.first(x).detach()).mean((2, 3)))


@pytest.mark.parametrize("name", REFUSALS)
def test_what_has_no_answer_is_refused(name):
    look, message = REFUSALS[name]
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message) as caught:
        look()
    assert len(str(caught.value)) <= 600
