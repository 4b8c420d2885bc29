"""Large linear layers by oneDNN where nothing is learnt."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils.parametrizations import weight_norm

import easydl as dl
from easydl.training import products

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch without oneDNN"
)
ROWS = 40


@pytest.fixture
def computed(monkeypatch):
    """The shapes of what oneDNN computes, on a processor whose MKL is slow."""
    shapes = []
    monkeypatch.setattr(products, "mkl_is_slow", lambda: True)
    own = torch.ops.mkldnn._linear_pointwise

    def watched(x, weight, *rest):
        shapes.append((tuple(x.shape), len(weight)))
        return own(x, weight, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", watched)
    return shapes


def network(*layers):
    return nn.Sequential(nn.Linear(500, 600), nn.ReLU(), *layers, nn.Linear(600, 3))


class Mine(torch.Tensor):
    pass


class Own(nn.Module):
    def forward(self, x):
        return x + 1


def test_predict_and_evaluate_use_onednn_for_large_products_alone(computed):
    x, y = torch.randn(ROWS, 500), torch.randn(ROWS, 3)
    model = dl.Model(network())
    model.compile("sgd", "mse", metrics=["mae"], device="cpu")
    with torch.no_grad():
        expected = model.network(x)
    assert not computed
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-5, atol=1e-5)
    losses = model.evaluate(x, y, verbose=0)
    assert computed == [((ROWS, 500), 600)] * 2  # not 600 → 3
    errors = F.mse_loss(expected, y).item(), F.l1_loss(expected, y).item()
    assert losses == pytest.approx(errors, rel=1e-5)
    model.fit(x, y, 32, validation_data=(x, y), verbose=0)
    assert len(computed) == 3  # its validation, but no step


def test_sequences_and_layers_without_bias_come_out_as_by_torch(computed):
    x = torch.randn(90, 7, 300)
    model = dl.Model(nn.Linear(300, 400, bias=False))
    expected = model.network(x).detach()
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-5, atol=1e-5)
    assert computed == [((90, 7, 300), 400)]


REST = {
    "a layer of the user's": (network(Own()), {}),
    "attention": (nn.Sequential(nn.Linear(500, 600), nn.TransformerEncoderLayer(600, 2, 4)), {}),
    "a weight made anew": (nn.Sequential(weight_norm(nn.Linear(500, 600))), {}),
    "float64": (network().double(), {}),
    "few rows": (nn.Sequential(nn.Linear(500, 900)), {"rows": 31}),
    "small": (nn.Sequential(nn.Linear(500, 100), nn.Linear(100, 600)), {}),
    "precision": (network(), {"precision": "bfloat16"}),
}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("case", REST)
def test_all_else_is_torch_s_own(case, computed):
    model, options = dl.Model(REST[case][0]), dict(REST[case][1])
    x = torch.randn(options.pop("rows", ROWS), 500)
    model.compile("sgd", "mse", device="cpu", **options)
    if not options:
        model.predict(x)
    model.evaluate(x, model.network.eval()(x.to(model.network[0].weight.dtype)).detach(), verbose=0)
    assert not computed


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (torch.randn(500, 900).t(), torch.randn(600, 500)),  # oneDNN has a plain loop for these
        (torch.randn(900, 500), torch.randn(500, 600).t()),
        (torch.randn(900, 500, requires_grad=True), torch.randn(600, 500)),
        (torch.randn(900, 500), torch.randn(600, 500).as_subclass(Mine)),
        (torch.randn(900, 500), torch.randn(600, 500).to_sparse()),
        (torch.randn(2500, 500), torch.randn(500)),
    ],
    ids=["inputs askew", "weights askew", "gradient", "weights of a class", "sparse", "vector"],
)
def test_matrices_as_they_lie_and_gradients_are_left_to_torch(x, weight, computed):
    learns = contextlib.nullcontext() if x.requires_grad else torch.no_grad()
    with learns, products.LinearByOneDNN():
        found = F.linear(x, weight)
    assert torch.equal(found, F.linear(x, weight)) and not computed
    assert found.requires_grad == x.requires_grad


BIASES = {
    "every other": torch.randn(600, 2)[:, 0],
    "one number": torch.tensor([3.0]).expand(600),
    "broadcast": torch.randn(1),
    "its own": None,
}


@pytest.mark.parametrize("name", BIASES)
def test_a_bias_that_onednn_would_misread_is_left_to_torch(name, computed):
    layers = network()
    if BIASES[name] is not None:
        layers[0].bias = nn.Parameter(BIASES[name])
    x = torch.randn(ROWS, 500)
    expected = layers(x).detach()
    assert np.array_equal(dl.Model(layers).predict(x), expected) != (name == "its own")
    assert len(computed) == (name == "its own")


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_weights_are_left_to_torch(computed):
    x, weight = torch.randn(900, 500), torch.randn(600, 500).to_sparse_csr()
    with torch.no_grad(), products.LinearByOneDNN():
        found = F.linear(x, weight)
    assert torch.equal(found, F.linear(x, weight)) and not computed


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_transforms_of_torch_func_are_left_to_torch(computed):
    class Slope(nn.Linear):
        def forward(self, x):
            inner = super().forward
            slope = torch.func.jvp(inner, (x,), (torch.ones_like(x),))[1]
            with forward_ad.dual_level():
                own = forward_ad.unpack_dual(inner(forward_ad.make_dual(x, torch.ones_like(x))))
            rows = torch.func.vmap(inner, 1, 1, chunk_size=3)(x[:, None].expand(-1, 6, -1))[:, 0]
            return torch.stack([slope, own.tangent, rows])

    layer, x = Slope(500, 600), torch.randn(ROWS, 500)
    expected = layer(x)
    with torch.no_grad(), products.LinearByOneDNN():
        assert torch.equal(layer(x), expected) and not computed
    assert expected[0, 0].allclose(layer.weight.sum(1), atol=1e-3)


@pytest.mark.slow
def test_a_network_that_torch_compiled_predicts(monkeypatch):
    monkeypatch.setattr(products, "mkl_is_slow", lambda: True)
    layers, x = network(), torch.randn(ROWS, 500)
    expected = layers(x).detach()
    layers.compile()  # inductor takes this operation with constant weights alone
    np.testing.assert_allclose(dl.Model(layers).predict(x), expected, rtol=1e-5, atol=1e-5)


def test_nothing_is_watched_where_mkl_is_fast(monkeypatch):
    monkeypatch.setattr(products, "mkl_is_slow", lambda: False)
    assert isinstance(products.fast_products(dl.Model(network()), 10**6), contextlib.nullcontext)


@pytest.mark.parametrize(
    ("cpuinfo", "capability", "slow"),
    [("AuthenticAMD", "AVX512", True), ("AuthenticAMD", "AVX2", False), ("Intel", "AVX512", False)],
)
def test_mkl_is_slow_on_processors_of_amd_that_have_avx512(monkeypatch, cpuinfo, capability, slow):
    monkeypatch.setattr(products.Path, "is_file", lambda _: True)
    monkeypatch.setattr(products.Path, "read_text", lambda _: f"vendor_id: {cpuinfo}")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    products.is_amd.cache_clear()
    for library in (torch.backends.mkldnn, torch.backends.mkl):
        monkeypatch.setattr(library, "is_available", lambda: True)
    assert products.mkl_is_slow() is slow
    products.is_amd.cache_clear()
