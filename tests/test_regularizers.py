"""Penalties by formula."""

import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from easydl import regularizers

W = torch.tensor([[1.0, -2.0], [0.0, 3.0]])


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        ("l1", 0.01 * 6),
        ("l2", 0.01 * 14),  # no one half, as in Keras
        ("l1_l2", 0.01 * 6 + 0.01 * 14),
        (regularizers.l1(0.5), 3),
        (regularizers.l2(0.5), 7),
        (regularizers.l1_l2(l1=1.0, l2=0.5), 13),
        (regularizers.L2, 0.14),
        (lambda w: w.sum(), 2),
    ],
)
def test_penalty_is_its_formula(spec, value):
    assert regularizers.get(spec)(W).item() == pytest.approx(value)


def test_gradient_of_l2_is_twice_the_weight():
    w = W.clone().requires_grad_()
    regularizers.L2(0.1)(w).backward()
    torch.testing.assert_close(w.grad, 0.2 * W)


def test_none_is_no_penalty_and_mistakes_are_named():
    assert regularizers.get(None) is None
    with pytest.raises(ValueError, match="l9"):
        regularizers.get("l9")
    with pytest.raises(TypeError, match="L2"):
        regularizers.get(0.1)
    for make in (regularizers.L1, regularizers.L2, regularizers.L1L2, regularizers.KLSparsity):
        with pytest.raises(ValueError, match="-1"):
            make(-1)
    with pytest.raises(ValueError, match="l2=-1"):
        regularizers.L1L2(0.1, -1)


def test_kl_sparsity_is_torchs_divergence_of_the_mean_activities():
    activity = torch.rand(7, 3, generator=torch.Generator().manual_seed(0))
    means, target = activity.mean(0), torch.tensor(0.1)
    expected = kl_divergence(Bernoulli(target), Bernoulli(means)).sum()
    penalty = regularizers.KLSparsity(0.1, weight=0.5)
    torch.testing.assert_close(penalty(activity) / 7, 0.5 * expected)
    for kind in (torch.float32, torch.bfloat16):
        for ends in (torch.zeros(7, 3), torch.ones(7, 3)):
            assert penalty(ends.to(kind)) == penalty(ends) < torch.inf
    assert penalty(activity - 1).isnan() and penalty(activity + 1).isnan()
    with pytest.raises(ValueError, match="target=1"):
        regularizers.KLSparsity(1)
