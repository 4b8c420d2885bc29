"""The VAE: its bound against closed forms, its training against a loop written by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import Stop
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.utils.data import DataLoader, TensorDataset

import easydl as dl
from easydl import variational
from easydl.callbacks import BackupAndRestore

X = torch.rand(70, 12, generator=torch.Generator().manual_seed(1))
BITS = (X > 0.5).float()


@pytest.fixture(autouse=True)
def one_thread():
    """Several would wait for each other on networks this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(**options):
    dl.seed(3)
    options = {"latent": 3} | options
    vae = dl.VAE([dl.Dense(7, "tanh")], [dl.Dense(7, "tanh"), dl.Dense(12)], **options)
    vae.compile("adam")
    return vae


def fitted(x=X, epochs=2, fitting=None, **options):
    vae = small(**options)
    vae.fit(x, batch_size=16, epochs=epochs, verbose=0, **(fitting or {}))
    return vae


def parts_of(vae, x, weight=None, training=True, seed=5):
    """``(loss, parts)`` of a batch, and the distributions that made them."""
    vae.train(training)
    torch.manual_seed(seed)
    loss, _, parts = vae.compute_loss(x, None, weight)
    torch.manual_seed(seed)
    mean, log_variance = vae.posterior(x)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    code = posterior.rsample()
    outputs = vae.decoder(code)
    return loss, parts, posterior, outputs


def test_a_decoder_whose_sigmoid_cannot_be_left_out_is_refused():
    vae = dl.VAE([dl.Dense(7)], [dl.Dense(7), dl.Dense(12, "sigmoid")], latent=3)
    vae.decoder.layers[-1].register_forward_hook(lambda module, inputs, outputs: None)
    vae.compile("adam")
    with pytest.raises(ValueError, match="ends in a sigmoid before or in its last layer"):
        vae.fit(X, verbose=0)


def same_weights(one, other):
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


# -- the bound -------------------------------------------------------------------------------------


def test_the_kl_term_is_the_closed_form_and_what_drawing_finds():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(6, 4, generator=generator, dtype=torch.float64) * 2
    log_variance = torch.randn(6, 4, generator=generator, dtype=torch.float64) * 2
    posterior, prior = Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)
    found = variational.kl_divergence(mean, log_variance)
    torch.testing.assert_close(found, kl_divergence(posterior, prior), rtol=1e-6, atol=1e-6)
    torch.manual_seed(0)
    draws = variational.draw(mean.expand(20_000, 6, 4), log_variance)
    ratios = posterior.log_prob(draws) - prior.log_prob(draws)
    error = ratios.std(0) / math.sqrt(len(draws))
    assert ((ratios.mean(0) - found).abs() <= 4 * error).all()


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_loss_is_the_negative_bound_in_nats_per_sample(likelihood):
    vae = fitted(BITS, likelihood=likelihood)
    loss, parts, posterior, outputs = parts_of(vae, BITS)
    if likelihood == "bernoulli":
        density = Bernoulli(logits=outputs)
    else:
        density = Normal(outputs, (0.5 * vae.output_log_variance).exp())
    reconstruction = -density.log_prob(BITS).sum(1).mean()
    kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(parts["reconstruction_loss"], reconstruction)
    torch.testing.assert_close(parts["kl_loss"], kl)
    torch.testing.assert_close(loss, reconstruction + kl)


def test_the_history_has_both_parts_and_they_sum_to_the_loss():
    history = fitted(fitting={"validation_split": 0.2}).history.history
    names = ["loss", "reconstruction_loss", "kl_loss"]
    assert list(history) == names + [f"val_{name}" for name in names]
    for prefix in ("", "val_"):
        loss, reconstruction, kl = (np.array(history[prefix + name]) for name in names)
        np.testing.assert_allclose(loss, reconstruction + kl, rtol=1e-5)


def test_beta_and_free_bits_by_hand():
    vae = fitted(beta=0.5, free_bits=0.4)
    with torch.no_grad():
        vae.mean.weight.mul_(torch.tensor([[0.0], [1.0], [4.0]]))
    for weight in (None, torch.linspace(0, 3, len(X))):
        loss, parts, posterior, _ = parts_of(vae, X, weight)
        factor = torch.ones(len(X)) if weight is None else weight
        by_dimension = (kl_divergence(posterior, Normal(0.0, 1.0)) * factor[:, None]).mean(0)
        assert (by_dimension < 0.4).any() and (by_dimension > 0.4).any()
        torch.testing.assert_close(parts["kl_loss"], by_dimension.sum())
        expected = 0.5 * sum(max(0.4, kl) for kl in by_dimension.tolist())
        penalty = (loss - parts["reconstruction_loss"]).item()
        assert penalty == pytest.approx(expected, rel=1e-5)
        loss, parts, *_ = parts_of(vae, X, weight, training=False)  # shape training alone
        torch.testing.assert_close(loss, parts["reconstruction_loss"] + 0.5 * parts["kl_loss"])


def test_warm_up_grows_from_nothing_to_beta_and_evaluation_has_it_whole():
    vae = fitted(beta=2.0, kl_warmup=8, epochs=1)  # 5 batches
    assert int(vae.kl_steps) == 5
    for factor in (2 * 5 / 8, 2 * 6 / 8, 2 * 7 / 8, 2.0, 2.0):
        loss, parts, *_ = parts_of(vae, X)
        torch.testing.assert_close(loss, parts["reconstruction_loss"] + factor * parts["kl_loss"])
    vae.kl_steps.zero_()
    loss, parts, *_ = parts_of(vae, X)
    assert loss == parts["reconstruction_loss"]
    loss, parts, *_ = parts_of(vae, X, training=False)
    torch.testing.assert_close(loss, parts["reconstruction_loss"] + 2 * parts["kl_loss"])
    assert int(vae.kl_steps) == 1


def test_sample_weights_weigh_the_rows():
    weight = torch.cat([torch.zeros(35), torch.full((35,), 3.0)])
    vae = fitted()
    loss, _, posterior, outputs = parts_of(vae, X, weight)
    per_row = F.binary_cross_entropy_with_logits(outputs, X, reduction="none").sum(1)
    per_row = per_row + kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(loss, 3 * per_row[35:].sum() / 70)  # mean(w · loss), as in fit


def test_penalties_of_layers_are_added():
    vae = dl.VAE([], [dl.Dense(12, kernel_regularizer="l2")], latent=2)
    vae.compile("adam")
    vae.fit(X, verbose=0)
    dl.seed(0)
    loss, reconstruction, kl = vae.evaluate(X, verbose=0)
    penalty = 0.01 * vae.decoder[0].weight.square().sum().item()
    assert loss == pytest.approx(reconstruction + kl + penalty, rel=1e-5)


def test_a_sigmoid_at_the_end_trains_on_the_logits():
    def weights(last):
        dl.seed(0)
        vae = dl.VAE([dl.Dense(5, "relu")], [dl.Dense(5, "relu"), *last], latent=2)
        vae.compile("adam")
        vae.fit(X, verbose=0)
        return vae.get_weights(), vae.predict(X)

    raw, predicted = weights([dl.Dense(12)])
    assert predicted.min() > 0 and predicted.max() < 1
    for last in ([dl.Dense(12, "sigmoid")], [dl.Dense(12), nn.Sigmoid()]):
        other, again = weights(last)
        np.testing.assert_array_equal(predicted, again)
        assert all(np.array_equal(one, two) for one, two in zip(raw, other))


# -- training --------------------------------------------------------------------------------------


class Plain(nn.Module):
    """The same network as ``small``, in torch alone."""

    def __init__(self, vae):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(12, 7), nn.Tanh())
        self.mean, self.log_variance = nn.Linear(7, 3), nn.Linear(7, 3)
        self.decoder = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 12))
        for own, other in zip(self.parameters(), vae.get_weights()):
            own.data = torch.tensor(other)

    def loss(self, x):
        inner = self.encoder(x)
        mean, log_variance = self.mean(inner), self.log_variance(inner)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        error = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum()
        kl = (0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)).sum()
        return error / len(x) + kl / len(x)


def test_training_is_a_plain_loop_to_the_bit():
    vae = small()
    vae.build((12,))
    plain = Plain(vae)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.001, eps=1e-7, fused=True)
    torch.manual_seed(7)
    vae.fit(X, batch_size=16, epochs=3, shuffle=False, verbose=0)
    torch.manual_seed(7)
    losses = []
    for _ in range(3):
        total = 0.0
        for x in X.split(16):
            optimizer.zero_grad()
            loss = plain.loss(x)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        losses.append(total / len(X))
    for own, other in zip(vae.get_weights(), plain.parameters()):
        np.testing.assert_array_equal(own, other.detach().numpy())
    np.testing.assert_allclose(vae.history.history["loss"], losses, rtol=1e-12)


def probabilistic_pca(rows=400, features=8, latent=2):
    """Data on a plane with noise; scikit-learn's maximum-likelihood fit of them."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    generator = np.random.default_rng(0)
    axes = generator.normal(size=(latent, features)) * [[2.0], [1.0]]
    noise = 0.5 * generator.normal(size=(rows, features))
    x = (generator.normal(size=(rows, latent)) @ axes + noise + 1).astype(np.float32)
    return x, decomposition.PCA(latent).fit(x)


def test_a_linear_vae_reaches_probabilistic_pca():
    """Tipping and Bishop 1999; Lucas et al. 2019: the linear VAE's optimum is pPCA's."""
    x, pca = probabilistic_pca()
    best = pca.score(x)  # mean log-likelihood a row
    dl.seed(0)
    vae = dl.VAE([], [dl.Dense(8)], latent=2, likelihood="gaussian")
    vae.compile(dl.optimizers.Adam(dl.optimizers.schedules.CosineDecay(0.1, 4 * 150)))
    vae.fit(x, batch_size=100, epochs=150, verbose=0)
    bound = -np.mean([vae.evaluate(x, verbose=0)[0] for _ in range(20)])
    assert abs(bound - best) <= 0.01 * abs(best)
    assert float(vae.output_log_variance.detach().exp()) == pytest.approx(
        pca.noise_variance_, rel=0.05
    )
    estimate = vae.log_likelihood(x, samples=100).mean()
    assert abs(estimate - best) <= 0.01 * abs(best)


def linear_gaussian(exact=True):
    """A linear decoder x = Wz + b + noise, with its exact posterior as encoder, and p(x)."""
    generator = torch.Generator().manual_seed(2)
    basis, _ = torch.linalg.qr(torch.randn(6, 2, generator=generator))
    loading, bias = basis * torch.tensor([1.5, 0.8]), torch.randn(6, generator=generator)
    variance = 0.3
    vae = dl.VAE([], [dl.Dense(6)], latent=2, likelihood="gaussian", variance=variance)
    vae.build((6,))
    inner = variance * torch.eye(2) + loading.T @ loading  # diagonal: the axes are orthogonal
    gain = torch.linalg.solve(inner, loading.T)
    with torch.no_grad():
        vae.decoder[0].weight.copy_(loading)
        vae.decoder[0].bias.copy_(bias)
        vae.mean.weight.copy_(gain if exact else 0.7 * gain)
        vae.mean.bias.copy_(-(gain if exact else 0.7 * gain) @ bias)
        vae.log_variance.weight.zero_()
        vae.log_variance.bias.copy_((variance / inner.diagonal()).log() + (0 if exact else 0.5))
    covariance = loading @ loading.T + variance * torch.eye(6)
    return vae, torch.distributions.MultivariateNormal(bias, covariance)


def test_log_likelihood_with_the_exact_posterior_is_the_marginal():
    vae, marginal = linear_gaussian()
    torch.manual_seed(0)
    x = marginal.sample((40,))
    expected = marginal.log_prob(x).numpy()
    for samples in (1, 7):  # every weight is p(x)
        found = vae.log_likelihood(x, samples)
        assert (found.shape, found.dtype) == ((40,), np.float32)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    vae.compile("adam")
    assert vae.evaluate(x, verbose=0)[0] == pytest.approx(-expected.mean(), abs=1.0)


def test_log_likelihood_rises_to_the_marginal_with_the_samples():
    vae, marginal = linear_gaussian(exact=False)
    torch.manual_seed(0)
    x = marginal.sample((200,))
    expected = float(marginal.log_prob(x).mean())
    found = [vae.log_likelihood(x, samples).mean() for samples in (1, 10, 3000)]
    assert found[0] < found[1] < expected - 0.01
    assert found[2] == pytest.approx(expected, abs=0.01)


def test_log_likelihood_of_bits_is_the_sum_over_a_grid_of_codes():
    vae = fitted(BITS, latent=1, epochs=20)
    grid = torch.linspace(-8, 8, 4001)
    with torch.no_grad():
        per_code = Bernoulli(logits=vae.decoder(grid[:, None])).log_prob(BITS[:, None]).sum(-1)
        joint = per_code + Normal(0.0, 1.0).log_prob(grid)
    expected = (joint.logsumexp(1) + math.log(16 / 4000)).numpy()
    dl.seed(0)
    found = vae.log_likelihood(BITS, 2000)
    np.testing.assert_allclose(found, expected, atol=0.2)
    assert found.mean() == pytest.approx(expected.mean(), abs=0.02)


def test_log_likelihood_holds_no_more_rows_than_predict(monkeypatch):
    monkeypatch.setattr(variational, "rows_that_fit", lambda model, numbers: 64)
    vae, seen = fitted(), []
    hook = vae.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    vae.log_likelihood(X[:10], samples=100)
    hook.remove()
    assert max(seen) <= 64 and sum(seen) == 10 * 100


# -- what it is for --------------------------------------------------------------------------------


def test_encode_decode_reconstruct_and_predict_agree():
    vae = fitted()
    mean, log_variance = vae.encode(X.numpy())
    assert mean.shape == log_variance.shape == (70, 3)
    with torch.no_grad():
        expected = vae.decoder(torch.tensor(mean)).sigmoid().numpy()
    for found in (vae.predict(X), vae.reconstruct(X), vae.decode(mean), vae(X).detach().numpy()):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert vae.training  # modes are restored


def test_interpolate_begins_and_ends_with_the_reconstructions():
    vae = fitted()
    between = vae.interpolate(X[0], X[1].numpy(), steps=5)
    assert between.shape == (5, 12)
    np.testing.assert_allclose(between[[0, -1]], vae.reconstruct(X[:2]), rtol=1e-5)
    middle = vae.decode(vae.encode(X[:2])[0].mean(0, keepdims=True))[0]
    np.testing.assert_allclose(between[2], middle, rtol=1e-5)
    rows = vae.interpolate(X[:3], X[3:6], steps=4)
    assert rows.shape == (3, 4, 12)
    np.testing.assert_allclose(rows[1], vae.interpolate(X[1], X[4], steps=4), rtol=1e-5)


def test_samples_with_noise_have_the_models_moments():
    vae, marginal = linear_gaussian()
    dl.seed(0)
    x = vae.sample(20_000, noise=True)
    np.testing.assert_allclose(np.cov(x.T), marginal.covariance_matrix, atol=0.1)
    np.testing.assert_allclose(x.mean(0), marginal.mean, atol=0.05)
    assert np.linalg.matrix_rank(np.cov(vae.sample(100).T), tol=1e-3) == 2
    dl.seed(0)
    np.testing.assert_array_equal(x, vae.sample(20_000, noise=True))
    bits = fitted().sample(50, noise=True)
    assert set(np.unique(bits)) == {0, 1}


def test_evaluate_is_repeated_by_the_seed():
    vae = fitted()
    dl.seed(1)
    first = vae.evaluate(X, verbose=0)
    assert vae.evaluate(X, verbose=0) != first
    dl.seed(1)
    assert vae.evaluate(X, verbose=0) == first
    assert vae.evaluate(X, verbose=0)[2] == pytest.approx(first[2], rel=1e-6)  # KL draws nothing


def test_pictures_go_through_convolutions():
    dl.seed(0)
    pictures = torch.rand(40, 1, 8, 8)
    vae = dl.VAE(
        [dl.Conv2D(4, 3, strides=2, activation="relu"), dl.Conv2D(4, 2, activation="relu")],
        [dl.Dense(16), dl.Reshape((4, 2, 2)), dl.Conv2DTranspose(1, 5, strides=3)],
        latent=2,
        likelihood="gaussian",
    )
    vae.compile("adam")
    history = vae.fit(pictures, epochs=20, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert vae.encode(pictures)[0].shape == (40, 2)
    assert vae.predict(pictures).shape == (40, 1, 8, 8)
    assert vae.interpolate(pictures[0], pictures[1], 3).shape == (3, 1, 8, 8)
    assert vae.log_likelihood(pictures, 3).shape == (40,)
    assert "log_variance (Dense)" in vae.summary(print_fn=None)


# -- the rest of the house -------------------------------------------------------------------------

KINDS = {
    "bernoulli": {"kl_warmup": 30, "free_bits": 0.1, "beta": 2.0},
    "learned variance": {"likelihood": "gaussian"},
    "fixed variance": {"likelihood": "gaussian", "variance": 0.1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_goes_on_to_the_same_bits(kind, tmp_path):
    vae = fitted(**KINDS[kind])
    vae.save(tmp_path / "m.easydl")
    again = dl.load_model(tmp_path / "m.easydl")
    same_weights(vae, again)
    np.testing.assert_array_equal(vae.predict(X), again.predict(X))
    for model in (vae, again):
        dl.seed(9)
        model.fit(X, batch_size=16, epochs=2, verbose=0)
    same_weights(vae, again)
    assert vae.history.history == again.history.history


@pytest.mark.parametrize("crash", [3, 7])
def test_a_training_that_crashed_ends_with_the_same_bits(crash, tmp_path):
    def run(after, callbacks=()):
        vae = small(kl_warmup=8)
        vae.fit(X, batch_size=16, epochs=2, verbose=0, callbacks=[Stop(after), *callbacks])
        return vae

    with pytest.raises(KeyboardInterrupt):
        run(crash, [BackupAndRestore(tmp_path, 2, delete_checkpoint=False)])
    resumed = run(0, [BackupAndRestore(tmp_path, 2, delete_checkpoint=False)])
    expected = run(0)
    same_weights(resumed, expected)
    assert resumed.history.history == expected.history.history


@pytest.mark.parametrize("source", ["loader", "labels", "generator"])
def test_streams_give_the_numbers_of_arrays(source):
    given = {
        "loader": lambda: DataLoader(X, batch_size=16, generator=torch.Generator()),
        "labels": lambda: DataLoader(
            TensorDataset(X, torch.arange(70)), batch_size=16, generator=torch.Generator()
        ),  # else it draws from the global generator
        "generator": lambda: (X[i : i + 16] for i in list(range(0, 70, 16)) * 2),
    }[source]()
    steps = {"steps_per_epoch": 5} if source == "generator" else {}
    found = fitted(given, fitting={"shuffle": False, **steps})
    expected = fitted(X, fitting={"shuffle": False})
    same_weights(found, expected)


def test_compiled_steps_are_the_eager_ones(traced):
    models = []
    for jit in (False, True):
        vae = small(kl_warmup=6, free_bits=0.1)
        vae.compile("adam", jit=jit, steps_per_execution=2 if jit else "auto")
        vae.fit(X, batch_size=16, epochs=3, verbose=0)
        models.append(vae)
    assert len(traced) == 1
    assert int(models[1].kl_steps) == int(models[0].kl_steps) == 15
    for one, other in zip(models[0].get_weights(), models[1].get_weights()):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_mixed_precision_leaves_the_terms_whole():
    vae = small(likelihood="gaussian")
    vae.compile("adam", precision="bfloat16")
    vae.fit(X, verbose=0)
    with vae._compiled.autocast:
        _, parts, posterior, outputs = parts_of(vae, X)
    assert outputs.dtype == torch.bfloat16
    kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(parts["kl_loss"], kl, rtol=1e-6, atol=1e-6)
    density = Normal(outputs.float(), (0.5 * vae.output_log_variance).exp())
    expected = -density.log_prob(X).sum(1).mean()
    torch.testing.assert_close(parts["reconstruction_loss"], expected, rtol=1e-6, atol=1e-6)


def test_a_given_input_shape_builds_at_once_and_accumulation_is_one_batch():
    dl.seed(0)
    vae = dl.VAE([dl.Dense(5, input_dim=12)], [dl.Dense(12)], latent=2)
    assert vae.is_built and vae.built_shape == (12,)
    vae.compile("sgd", accumulate=2)
    vae.fit(X, batch_size=7, verbose=0)
    assert [name for name in vae.state_dict() if name.startswith("decoder")] == [
        "decoder.0.weight",
        "decoder.0.bias",
    ]


# -- bad input -------------------------------------------------------------------------------------


def decoder_of(*layers):
    vae = dl.VAE([dl.Dense(5)], list(layers), latent=2)
    vae.compile("adam")
    return vae


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: small(latent=0), "latent=0 was given; expected a whole number of at least 1"),
        (lambda: small(beta=-1), "beta=-1 was given; expected a number in [0, inf)"),
        (lambda: small(kl_warmup=-5), "kl_warmup=-5 was given; expected a whole number"),
        (lambda: small(free_bits=-0.1), "free_bits=-0.1 was given"),
        (lambda: small(likelihood="gauss"), "unknown likelihood 'gauss'. Did you mean 'gaussian'"),
        (lambda: small(variance=1.0), "variance=1.0 was given with likelihood='bernoulli'"),
        (lambda: small(likelihood="gaussian", variance=0), "variance=0 was given; expected"),
        (lambda: dl.VAE([], []), "decoder=[] was given; expected layers"),
        (
            lambda: decoder_of(dl.Dense(11)).fit(X, verbose=0),
            "the decoder gives samples of shape (11,), but the inputs have (12,); expected the "
            "same: make its last layer give (12,).",
        ),
        (
            lambda: decoder_of(dl.Dense(12)).fit(X.reshape(70, 1, 3, 4), verbose=0),
            "inputs have (1, 3, 4); expected the same: put Reshape((1, 3, 4)) last.",
        ),
        (
            lambda: decoder_of(dl.Dense(12, "sigmoid"), dl.Reshape((12,))).build(12),
            "the decoder ends in a sigmoid before or in its last layer (Reshape), but a Bernoulli",
        ),
        (lambda: decoder_of(dl.Dense(12, "relu")).build(12), "the decoder ends in ReLU"),
        (lambda: decoder_of(dl.Dense(12)).decode(np.zeros((1, 2))), "decode was called before"),
        (
            lambda: fitted().fit(X * 255, verbose=0),
            "; a Bernoulli likelihood expects 0 to 1: write x / 25",
        ),
        (lambda: fitted().predict(X - 1), "expects 0 to 1: write min-max scaling, or likelihood="),
        (
            lambda: fitted(fitting={"validation_data": X * 3}),
            "x of validation_data holds values from",
        ),
        (lambda: fitted(DataLoader(X * 2, batch_size=16)), "a Bernoulli likelihood expects 0 to 1"),
        (
            lambda: fitted().predict(X[:, :11]),
            "x has samples of shape (11,), but the VAE is built for (12,); expected that shape",
        ),
        (lambda: fitted().build((11,)), "has samples of shape (11,), but the VAE is built for"),
        (lambda: fitted().decode(np.zeros((2, 4))), "x has shape (2, 4), but layer"),
        (lambda: fitted().interpolate(X[0], X[:2]), "a of shape (12,) and b of shape (2, 12)"),
        (lambda: fitted().interpolate(X[0], X[1], steps=1), "steps=1 was given"),
        (lambda: decoder_of(dl.Dense(12)).interpolate(X[0], X[1]), "interpolate was called before"),
        (lambda: fitted().sample(0), "n=0 was given; expected a whole number"),
        (lambda: fitted().log_likelihood(X, samples=0), "samples=0 was given"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
    assert len(str(error.value)) <= 600


def test_a_loss_is_refused():
    vae = small()
    with pytest.raises(ValueError, match="compile was given loss='mse', but VAE trains by its own"):
        vae.compile("adam", "mse")


def test_without_strict_the_range_is_the_users():
    vae = small()
    vae.compile("adam", strict=False)
    vae.fit(X * 1.2, verbose=0)


@pytest.mark.parametrize("name", ["hard_sigmoid", "relu6", "hard_tanh", "softsign", "log_sigmoid"])
def test_a_decoder_that_cannot_give_every_logit_is_refused(name):
    with pytest.raises(ValueError, match="trained on logits"):
        decoder_of(dl.Dense(12, name)).build(12)


def test_means_that_a_gaussian_decoder_cannot_give_are_refused():
    vae = dl.VAE([], [dl.Dense(12, "sigmoid"), dl.Reshape((12,))], 2, "gaussian")
    vae.compile("adam")
    vae.fit(X, verbose=0)
    with pytest.raises(ValueError, match=r"holds values from 0\..*gives 0 to 1 only"):
        vae.fit(X * 16, verbose=0)
    vae = dl.VAE([], [dl.Dense(12, "relu")], 2, "gaussian")
    vae.compile("adam")
    vae.fit(X * 16, verbose=0)
    with pytest.raises(ValueError, match="gives 0 to inf only"):
        vae.fit(X - 0.5, verbose=0)


def test_metrics_are_refused_with_what_to_look_at():
    with pytest.raises(ValueError, match="parts of its loss are in the history"):
        small().compile("adam", metrics=["mse"])


@pytest.mark.parametrize("last", ["sigmoid", None])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_it_goes_out_as_plain_torch(last, likelihood):
    encoder = [dl.Reshape((1, 3, 4)), dl.Conv2D(2, 2, activation="tanh")]
    vae = dl.VAE(encoder, [dl.Dense(5, "relu"), dl.Dense(12, last)], 2, likelihood)
    vae.compile("adam")
    vae.fit(X, verbose=0)
    plain = vae.to_torch().eval()
    assert not any(type(part).__module__.startswith("easydl") for part in plain.modules())
    np.testing.assert_array_equal(plain(X).detach().numpy(), vae.predict(X))
    with pytest.raises(ValueError, match="cannot write the loss of VAE"):
        vae.source()
