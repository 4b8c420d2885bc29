"""Deep dream, against a gradient step by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import easydl as dl
from easydl.data.pictures import Transforms
from easydl.vision.dreaming import deep_dream

pytest.importorskip("matplotlib")


def network():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 6 * 6, 4),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def seeded():
    dl.seed(0)


def half_norm(model, x, channel=None):
    maps = model[:4](x)
    return (maps if channel is None else maps[:, channel]).square().sum() / 2


@pytest.mark.parametrize("channel", [None, 3])
@pytest.mark.parametrize("limits", [None, (-1.0, 3.0)])
def test_one_step_is_a_gradient_step_by_hand(channel, limits):
    model, x = network(), torch.rand(1, 3, 16, 16)
    low, high = limits or (0.0, 1.0)
    by_hand = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(half_norm(model, by_hand, channel), by_hand)
    step = 0.05 * (high - low) * gradient / gradient.abs().mean()
    wanted = (x + step).clamp(low, high)[0]
    options = {"steps": 1, "octaves": 1, "jitter": 0, "step_size": 0.05, "limits": limits}
    seen = deep_dream(model, x[0], "3", channel=channel, **options)
    np.testing.assert_allclose(seen.values, wanted, atol=1e-6)
    assert limits or (seen.values == 1).any()  # some reached the border


def test_two_octaves_are_two_steps_by_hand():
    model, x = network(), torch.rand(1, 3, 28, 21)
    small = F.interpolate(x, (20, 15), mode="bilinear", antialias=True)

    def stepped(x):
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(half_norm(model, x), x)
        return (x + 0.01 * gradient / gradient.abs().mean()).clamp(0, 1).detach()

    added = F.interpolate(stepped(small) - small, (28, 21), mode="bilinear")
    wanted = stepped(x + added)[0]
    options = {"steps": 1, "octaves": 2, "scale": 1.4, "jitter": 0, "step_size": 0.01}
    seen = deep_dream(model, x, "3", **options)
    np.testing.assert_allclose(seen.values, wanted, atol=1e-5)


def test_jitter_turns_the_picture_and_back_by_the_seeds_numbers():
    model, x = network(), torch.rand(1, 3, 16, 16)
    down, right = torch.randint(-5, 6, (2,), generator=torch.Generator().manual_seed(7)).tolist()
    assert (down, right) != (0, 0)
    turned = x.roll((down, right), (2, 3)).requires_grad_()
    (gradient,) = torch.autograd.grad(half_norm(model, turned), turned)
    wanted = turned + 0.05 * gradient / gradient.abs().mean()
    wanted = wanted.clamp(0, 1).roll((-down, -right), (2, 3))[0].detach()
    options = {"steps": 1, "octaves": 1, "step_size": 0.05}
    seen = deep_dream(model, x, "3", jitter=5, seed=7, **options)
    np.testing.assert_allclose(seen.values, wanted, atol=1e-6)
    assert not np.allclose(deep_dream(model, x, "3", jitter=0, **options).values, wanted)


def test_the_norm_grows_with_every_step_and_seeds_repeat_it():
    model, x = network(), torch.rand(3, 40, 30)
    norms = []
    for steps in (0, 1, 3, 9):
        values = deep_dream(model, x, "3", steps, octaves=3, seed=1).values
        with torch.no_grad():
            norms.append(float(half_norm(model, torch.tensor(values)[None])))
        assert values.shape == (3, 40, 30) and values.min() >= 0 and values.max() <= 1
        if steps == 0:
            assert np.array_equal(values, x)
    assert norms == sorted(norms) and norms[-1] > 1.5 * norms[0]
    torch.rand(5)  # the generator of all others has no say
    assert np.array_equal(deep_dream(model, x, "3", 9, octaves=3, seed=1).values, values)
    assert not np.array_equal(deep_dream(model, x, "3", 9, octaves=3, seed=2).values, values)


def test_pictures_keep_their_size_and_are_normalised_as_the_transforms_say(tmp_path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (33, 47, 3), np.uint8)
    path = tmp_path / "x.png"
    Image.fromarray(pixels).save(path)
    plain = torch.from_numpy(pixels / np.float32(255)).movedim(-1, 0)
    model = dl.Model(network())
    model.transforms = Transforms(16, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    for picture in (str(path), Image.open(path), pixels):
        assert np.array_equal(deep_dream(model, picture, "3", steps=0).values, plain)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))

    x = plain.clone().requires_grad_()
    norm = half_norm(model.network, ((x - mean) / std)[None])
    (gradient,) = torch.autograd.grad(norm, x)
    wanted = (x + 0.05 * gradient / gradient.abs().mean()).clamp(0, 1).detach()
    options = {"steps": 1, "octaves": 1, "jitter": 0, "step_size": 0.05}
    seen = deep_dream(model, path, "3", **options)
    np.testing.assert_allclose(seen.values, wanted, atol=1e-5)
    ready = deep_dream(model, (plain - mean) / std, "3", steps=3, step_size=1.0)
    back = torch.tensor(ready.values) * std + mean  # floats are the network's input
    assert back.min() >= -1e-6 and back.max() <= 1 + 1e-6 and back.max() > 0.99
    shown = seen.figure.axes[1].get_images()[0].get_array()
    np.testing.assert_allclose(shown.transpose(2, 0, 1), wanted, atol=0.003)
    seen.figure.savefig(io.BytesIO())


def test_the_layer_is_by_default_the_convolution_after_two_thirds():
    layers = [nn.Conv2d(3, 4, 3) for _ in range(1)] + [nn.Conv2d(4, 4, 1) for _ in range(5)]
    model, x = nn.Sequential(*layers, nn.Flatten(), nn.Linear(1, 1)), torch.rand(3, 12, 12)
    seen = deep_dream(model, x, steps=2, octaves=2)  # the Linear is made for no size of these
    assert np.array_equal(seen.values, deep_dream(model, x, "4", steps=2, octaves=2).values)
    assert seen.figure.axes[1].get_title() == "4"


X = torch.rand(3, 16, 16)
REFUSALS = {
    "octaves": (lambda: deep_dream(network(), X, "3", octaves=9), "octave 1 of 9, 1 × 1: fewer"),
    "octaves, no layer": (lambda: deep_dream(network(), X, octaves=9), "fewer octaves"),
    "no convolution": (lambda: deep_dream(nn.Linear(16, 3), X), "no convolution"),
    "unknown": (lambda: deep_dream(network(), X, "33"), "unknown layer '33'"),
    "steps": (lambda: deep_dream(network(), X, steps=-1), "steps=-1"),
    "scale": (lambda: deep_dream(network(), X, scale=1), "scale=1"),
    "seed": (lambda: deep_dream(network(), X, seed=0.5), "seed=0.5"),
    "channel": (lambda: deep_dream(network(), X, "3", 1, 1, channel=8), "channel=8 .* 0 … 7"),
    "several": (lambda: deep_dream(network(), X.repeat(2, 1, 1, 1)), "2 pictures; expected one"),
    "limits": (lambda: deep_dream(network(), X, limits=(0.5, 1)), "limits=.*with all of the pict"),
    "flat": (lambda: deep_dream(network(), 5 + 0 * X), "limits=.* a higher highest"),
    "nan": (lambda: deep_dream(network(), X * torch.inf), "picture holds"),
    "transforms": (lambda: deep_dream(changed(), np.zeros((16, 16, 3), np.uint8)), "mean and std"),
    "dead": (lambda: deep_dream(dead(), X, "1", 1, 1), "'1' does not answer to this picture"),
}


def changed():
    model = network()
    model.transforms = lambda picture: torch.zeros(3, 16, 16)
    return model


def test_the_picture_sets_the_limits_where_the_transforms_are_a_function():
    x = 3 * X - 1
    values = deep_dream(changed(), x, "3", 2, 1, step_size=1.0).values
    assert (values.min(), values.max()) == (x.min(), x.max())


def dead():
    model = network()
    nn.init.constant_(model[0].bias, -100)
    return model


@pytest.mark.parametrize("name", REFUSALS)
def test_what_has_no_answer_is_refused(name):
    dream, message = REFUSALS[name]
    with pytest.raises(ValueError, match=message) as caught:
        dream()
    assert len(str(caught.value)) <= 600
