"""GRU(reset_after=False), the loop that no kernel of torch computes, against Keras's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from keras import layers as kl

import easydl as dl

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
STEPS = np.random.default_rng(0).normal(size=(4, 7, 3)).astype("float32")


def turned(values):
    """Keras's gates z, r, h as torch's r, z, n."""
    z, r, h = np.split(values, 3)
    return torch.from_numpy(np.concatenate([r, z, h]))


def pair(**options):
    """The same layer twice, with Keras's weights."""
    theirs = kl.GRU(4, reset_after=False, bias_initializer="random_normal", **options)
    theirs.build((None, 7, 3))
    ours = dl.GRU(4, reset_after=False, **options)
    ours.build((None, 7, 3))
    weights = [weight.T for weight in theirs.get_weights()]
    for parameter, weight in zip(ours.parameters(), weights, strict=True):
        parameter.data = turned(weight)
    return ours, theirs


OPTIONS = [
    {},
    {"return_sequences": True, "go_backwards": True},
    {"use_bias": False},
    {"activation": "relu", "recurrent_activation": "hard_sigmoid"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_is_the_gru_of_keras(options):
    ours, theirs = pair(**options)
    x, y = (torch.tensor(STEPS, requires_grad=True) for _ in range(2))
    got, expected = ours(x), theirs(y)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    got.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-6)
    model = dl.Sequential([ours])
    model.build((7, 3))
    assert model.count_params() == theirs.count_params()


def test_both_ways_are_two_layers():
    layer = dl.GRU(4, reset_after=False, return_sequences=True, bidirectional=True)
    layer.build((None, 7, 3))
    x = torch.from_numpy(STEPS)
    for end, flip in (("", False), ("_reverse", True)):
        one = dl.GRU(4, reset_after=False, return_sequences=True)
        one.build((None, 7, 3))
        for name, parameter in one.named_parameters():
            parameter.data = getattr(layer, f"{name}{end}").data
        half = layer(x).chunk(2, -1)[flip]
        assert torch.equal(half, one(x.flip(1)).flip(1) if flip else one(x))


@pytest.mark.parametrize("both_ways", [False, True])
def test_to_torch_writes_the_steps_out(both_ways):
    layer = dl.GRU(4, reset_after=False, bidirectional=both_ways, dropout=0.3)
    layer.build((None, 7, 3))
    plain, x = layer.to_torch(), torch.from_numpy(STEPS)
    outputs = []
    for module in (layer, plain):
        torch.manual_seed(1)
        outputs.append(module(x))
        outputs[-1].sum().backward()
    assert torch.equal(*outputs)
    for one, other in zip(layer.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert all("easydl" not in type(part).__module__ for part in plain.modules())
    with pytest.raises(RuntimeError, match="sum exactly to 6"):
        plain(x[:, :6])


def test_sequences_of_any_length_have_no_steps_to_write_out():
    model = dl.Sequential([dl.GRU(4, reset_after=False, input_shape=(None, 3))])
    assert model(torch.zeros(2, 9, 3)).shape == (2, 4)
    with pytest.raises(ValueError, match=r"one length.*input_shape=\(steps, features\)"):
        model.to_torch()


def test_it_trains_and_comes_back_from_a_file(tmp_path):
    dl.seed(0)
    model = dl.Sequential([dl.GRU(8, "relu", "hard_sigmoid", reset_after=False), dl.Dense(1)])
    model.compile(dl.optimizers.Adam(0.03), "mse")
    losses = model.fit(STEPS, STEPS[:, 0, 0], epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    model.save(tmp_path / "m.easydl")
    again = dl.load_model(tmp_path / "m.easydl")
    assert not again.layers[0].reset_after
    np.testing.assert_array_equal(again.predict(STEPS), model.predict(STEPS))


@pytest.mark.parametrize(
    "options, says",
    [
        ({"reset_after": "no"}, "reset_after='no'"),
        ({"reset_after": False, "activation": "tan"}, "unknown activation 'tan'. Did you .*'tanh'"),
        (
            {"reset_after": False, "recurrent_activation": "softmax"},
            "unknown recurrent_activation 'softmax'",
        ),
        ({"recurrent_activation": "hard_sigmoid"}, "reset_after=False"),
    ],
)
def test_what_it_does_not_compute_is_refused(options, says):
    with pytest.raises(ValueError, match=says) as error:
        dl.GRU(3, **options)
    assert len(str(error.value)) <= 600
