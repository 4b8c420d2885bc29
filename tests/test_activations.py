"""Activations: names to torch modules, with Keras's numbers."""

import pickle

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from easydl import activations


@pytest.mark.parametrize("name", sorted(activations.TABLE))
def test_activation_gives_the_numbers_of_keras(name):
    x = np.random.default_rng(0).normal(0, 3, size=(5, 7)).astype("float32")
    expected = keras.activations.get(name)(torch.from_numpy(x)).numpy()
    module = activations.get(name)
    got = (module or nn.Identity())(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(activations.TABLE))
def test_activation_needs_no_easydl(name):
    module = activations.get(name)
    assert b"easydl" not in pickle.dumps(module)


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("ReLU", nn.ReLU),
        (nn.ReLU, nn.ReLU),
        (torch.sigmoid, nn.Sigmoid),
        (F.sigmoid, nn.Sigmoid),
        (F.relu, nn.ReLU),
        (torch.tanh, nn.Tanh),
        (torch.softmax, nn.Softmax),
        (F.log_softmax, nn.LogSoftmax),
        (torch.sin, torch.fx.GraphModule),
        (lambda x: x * x, torch.fx.GraphModule),
    ],
)
def test_modules_classes_and_functions_are_activations(spec, kind):
    assert isinstance(activations.get(spec), kind)


def test_module_is_used_as_it_is():
    module = nn.PReLU()
    assert activations.get(module) is module


def test_function_is_computed_as_written():
    x = torch.randn(3)
    assert torch.equal(activations.get(torch.sin)(x), torch.sin(x))
    assert torch.equal(activations.get(lambda x: x * torch.exp(-x))(x), x * torch.exp(-x))


@pytest.mark.parametrize("spec", ["softmax", nn.Softmax, nn.Softmax(), torch.softmax])
def test_softmax_takes_the_axis_of_its_layer(spec):
    assert activations.get(spec, axis=1).dim == 1
    assert activations.get(spec).dim == -1


def test_softmax_with_its_own_axis_keeps_it():
    assert activations.get(nn.Softmax(dim=2), axis=1).dim == 2


def test_none_and_linear_are_no_activation_and_mistakes_are_named():
    assert activations.get(None) is None and activations.get("linear") is None
    with pytest.raises(ValueError, match="Did you mean 'sigmoid'"):
        activations.get("sigmod")
    with pytest.raises(TypeError, match="'relu'"):
        activations.get(3)
    with pytest.raises(TypeError, match=r"torch\.fx cannot read"):
        activations.get(lambda x: x if x.sum() > 0 else -x)
