"""Projections by formula, and Keras's numbers in its own layout."""

import keras
import pytest
import torch

from easydl import constraints

W = torch.tensor([[3.0, -4.0], [0.3, 0.4], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("non_neg", keras.constraints.NonNeg()),
        (constraints.MaxNorm(1), keras.constraints.MaxNorm(1)),
        ("max_norm", keras.constraints.MaxNorm()),
        ("unit_norm", keras.constraints.UnitNorm()),
        (constraints.MinMaxNorm(1, 2, 0.5), keras.constraints.MinMaxNorm(1, 2, 0.5)),
        ("min_max_norm", keras.constraints.MinMaxNorm()),
    ],
)
def test_constraint_of_a_dense_kernel_is_that_of_keras(ours, theirs):
    expected = theirs(W.T.numpy()).detach().T  # Keras's kernel is (in, out)
    torch.testing.assert_close(constraints.get(ours)(W), torch.as_tensor(expected))


def test_norms_are_those_of_each_filter():
    kernel = torch.randn(4, 3, 5, 5)
    norms = constraints.UnitNorm()(kernel).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(4))
    norms = constraints.MaxNorm(0.5)(kernel).flatten(1).norm(dim=1)
    assert (norms <= 0.5001).all()


def test_norm_of_a_bias_is_that_of_the_whole():
    torch.testing.assert_close(constraints.UnitNorm()(torch.tensor([3.0, 4.0])).norm().item(), 1.0)


def test_norm_of_a_filter_is_that_of_keras_over_all_axes_but_the_last():
    kernel = torch.randn(4, 3, 5, 5)
    theirs = keras.constraints.MaxNorm(1, axis=[0, 1, 2])(kernel.permute(2, 3, 1, 0).numpy())
    expected = torch.as_tensor(theirs.detach()).permute(3, 2, 0, 1)
    torch.testing.assert_close(constraints.MaxNorm(1)(kernel), expected)


@pytest.mark.parametrize("kind", ["MaxNorm", "UnitNorm", "MinMaxNorm"])
@pytest.mark.parametrize("axis", [0, 1, [0, 1, 2]])
def test_axis_would_be_another_than_in_keras(kind, axis):
    with pytest.raises(ValueError, match=r"axis=.*Leave it out.*lambda w") as error:
        getattr(constraints, kind)(axis=axis)
    assert len(str(error.value)) <= 600


def test_none_is_no_constraint_and_mistakes_are_named():
    assert constraints.get(None) is None
    assert constraints.get(constraints.NonNeg)(W).min() == 0
    with pytest.raises(ValueError, match="Did you mean 'unit_norm'"):
        constraints.get("unitnorm")
    with pytest.raises(TypeError, match="MaxNorm"):
        constraints.get(3)
    with pytest.raises(ValueError, match="max_value=-1"):
        constraints.MaxNorm(-1)
    with pytest.raises(ValueError, match="min_value=3"):
        constraints.MinMaxNorm(3, 2)
    with pytest.raises(ValueError, match="rate=2"):
        constraints.MinMaxNorm(rate=2)
