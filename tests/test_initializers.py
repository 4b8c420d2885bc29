"""Initialisers draw from the distributions of Keras's formulas."""

import math
from statistics import NormalDist

import pytest
import torch
from torch import nn

from easydl import initializers
from easydl.layers import Dense

FAN_IN, FAN_OUT = 300, 200
SHAPE = (FAN_OUT, FAN_IN)  # torch's layout


def drawn(spec, shape=SHAPE):
    torch.manual_seed(0)
    tensor = torch.empty(shape)
    initializers.get(spec)(tensor)
    return tensor


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("glorot_uniform", 2 / (FAN_IN + FAN_OUT)),
        ("he_uniform", 2 / FAN_IN),
        ("lecun_uniform", 1 / FAN_IN),
        ("uniform", 0.05**2 / 3),
        ("random_uniform", 0.05**2 / 3),
    ],
)
def test_uniform_initializer_fills_its_bounds(name, variance):
    tensor, limit = drawn(name), math.sqrt(3 * variance)
    assert 0.999 * limit < tensor.max() <= limit
    assert -limit <= tensor.min() < -0.999 * limit
    assert tensor.std().item() == pytest.approx(math.sqrt(variance), rel=0.01)
    assert tensor.mean().item() == pytest.approx(0, abs=0.01 * limit)


@pytest.mark.parametrize(
    ("name", "std", "cut"),
    [
        ("glorot_normal", math.sqrt(2 / (FAN_IN + FAN_OUT)), 2 / 0.87962566103423978),
        ("he_normal", math.sqrt(2 / FAN_IN), 2 / 0.87962566103423978),
        ("lecun_normal", math.sqrt(1 / FAN_IN), 2 / 0.87962566103423978),
        ("truncated_normal", 0.05 * 0.87962566103423978, 2 / 0.87962566103423978),
        ("random_normal", 0.05, math.inf),
        ("normal", 0.05, math.inf),
    ],
)
def test_normal_initializer_has_its_deviation_and_cut(name, std, cut):
    tensor = drawn(name)
    assert tensor.std().item() == pytest.approx(std, rel=0.01)
    largest = tensor.abs().max() / std
    assert largest <= cut * 1.0001
    assert largest > (0.99 * cut if cut < math.inf else 3.5)


def test_deviation_of_a_normal_cut_at_two_is_the_constant():
    density, mass = NormalDist().pdf(2), 1 - 2 * NormalDist().cdf(-2)
    assert math.sqrt(1 - 4 * density / mass) == pytest.approx(initializers._TRUNCATED_STD)


def test_fans_of_a_convolution_count_the_kernel():
    tensor = drawn("glorot_uniform", (32, 16, 3, 3))
    limit = math.sqrt(6 / (16 * 9 + 32 * 9))
    assert 0.99 * limit < tensor.abs().max() <= limit


def test_variance_scaling_has_its_modes_and_distributions():
    scaled = initializers.VarianceScaling(3.0, "fan_out", "untruncated_normal")
    assert drawn(scaled).std().item() == pytest.approx(math.sqrt(3 / FAN_OUT), rel=0.01)
    assert drawn(scaled).abs().max() > 3.5 * math.sqrt(3 / FAN_OUT)


def test_orthogonal_rows_or_columns_are_orthonormal():
    wide, tall = drawn(initializers.Orthogonal(2.0), (20, 30)), drawn("orthogonal", (30, 20))
    torch.testing.assert_close(wide @ wide.T, 4 * torch.eye(20), atol=1e-5, rtol=0)
    torch.testing.assert_close(tall.T @ tall, torch.eye(20), atol=1e-5, rtol=0)


def test_constants_and_identity():
    assert (drawn("zeros") == 0).all() and (drawn("ones") == 1).all() and (drawn(0.5) == 0.5).all()
    assert torch.equal(drawn(initializers.Identity(2.0), (3, 3)), 2 * torch.eye(3))
    with pytest.raises(ValueError, match="expected a matrix"):
        drawn("identity", (3, 3, 3))


@pytest.mark.parametrize(
    "make",
    [
        initializers.GlorotUniform,
        initializers.GlorotNormal,
        initializers.HeUniform,
        initializers.HeNormal,
        initializers.LecunUniform,
        initializers.LecunNormal,
        initializers.RandomNormal,
        initializers.RandomUniform,
        initializers.TruncatedNormal,
        initializers.Orthogonal,
        initializers.VarianceScaling,
    ],
)
def test_seed_draws_its_own_numbers_and_leaves_the_global_stream(make):
    before = torch.get_rng_state()
    one, two = torch.empty(9, 9), torch.empty(9, 9)
    make(seed=5)(one)
    make(seed=5)(two)
    assert torch.equal(one, two) and torch.equal(before, torch.get_rng_state())
    make()(two)
    assert not torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", sorted(initializers.TABLE))
def test_every_name_gives_an_initializer_of_a_square_matrix(name):
    tensor = torch.full((4, 4), torch.nan)
    initializers.get(name)(tensor)
    assert tensor.isfinite().all()


def test_layers_take_names_objects_classes_numbers_and_functions():
    for spec, value in [
        ("ones", 1.0),
        (initializers.Constant(2.0), 2.0),
        (initializers.Zeros, 0.0),
        (3, 3.0),
        (nn.init.ones_, 1.0),
        (lambda weight: torch.full_like(weight, 4.0), 4.0),
    ]:
        layer = Dense(2, kernel_initializer=spec)
        layer.build((None, 3))
        assert (layer.weight == value).all()


@pytest.mark.parametrize(
    ("torch_name", "name"),
    [
        ("xavier_uniform", "glorot_uniform"),
        ("xavier_normal", "glorot_normal"),
        ("kaiming_uniform", "he_uniform"),
        ("kaiming_normal", "he_normal"),
    ],
)
def test_torch_words_are_taken(torch_name, name):
    assert initializers.get(torch_name) == initializers.get(name)


@pytest.mark.parametrize(
    ("family", "meant"), [("xavier", "glorot"), ("Glorot", "glorot"), ("kaiming", "he")]
)
def test_a_family_of_initializers_needs_its_distribution(family, meant):
    with pytest.raises(ValueError, match=f"'{meant}_uniform' or '{meant}_normal'"):
        initializers.get(family)


def test_unknown_initializer_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'glorot_uniform'"):
        initializers.get("glorot_unifrom")
    with pytest.raises(TypeError, match="glorot_uniform"):
        initializers.get(None)
    with pytest.raises(ValueError, match="fan_avg"):
        initializers.VarianceScaling(mode="fan")
    with pytest.raises(ValueError, match="scale=0"):
        initializers.VarianceScaling(0)
