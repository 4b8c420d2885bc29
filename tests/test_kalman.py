"""The deep Kalman filter: its bound by hand, and the exact likelihood where that is known."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.distributions as td
from helpers import Stop
from scipy.stats import multivariate_normal
from torch.utils.data import DataLoader, TensorDataset

import easydl as dl

A, Q, C, R = 0.9, 0.3, np.array([1.0, -0.7]), np.array([0.4, 0.6])


def model_of(latent=2, hidden=6, seed=0, **arguments):
    dl.seed(seed)
    model = dl.DeepKalmanFilter(latent, hidden, **arguments)
    model.compile("adam")
    return model


def rows(n=12, steps=4, features=3, seed=1):
    return torch.rand(n, steps, features, generator=torch.Generator().manual_seed(seed))


# -- the bound, written by hand with torch.distributions ----------------------------------------


def terms_by_hand(model, x, noise):
    """log p(x | z), KL, log p(z) − log q(z) of each row, step by step, as the docstring says."""
    seen, u = x[..., : x.shape[-1] - model.controls], x[..., x.shape[-1] - model.controls :]
    a, b = model.message(model.inference(x)).chunk(2, -1)
    b = torch.nn.functional.softplus(b)
    z = fits = kl = ratio = torch.zeros(())
    for t in range(x.shape[1]):
        if t == 0:
            mean = model.initial_mean.expand(len(x), -1)
            scale = (0.5 * model.initial_log_variance).exp().expand_as(mean)
        else:
            before = torch.cat([z, u[:, t - 1]], 1)
            mean, log_variance = model.dynamics(before), model.transition_log_variance
            if not model.linear:
                change, log_scale = model.transition(before).chunk(2, -1)
                mean, log_variance = mean + change, log_variance + log_scale
            scale = (0.5 * log_variance).exp().expand_as(mean)
        p = td.Normal(mean, scale)
        precision = 1 / scale**2 + b[:, t]
        q = td.Normal((mean / scale**2 + a[:, t]) / precision, precision**-0.5)
        z = q.mean + q.stddev * noise[:, t]
        kl = kl + td.kl_divergence(q, p).sum(1)
        ratio = ratio + (p.log_prob(z) - q.log_prob(z)).sum(1)
        outputs = model.emission(z)
        if model.likelihood == "gaussian":
            shown = td.Normal(outputs, (0.5 * model.output_log_variance).exp())
        else:
            shown = td.Bernoulli(logits=outputs, validate_args=False)
        fits = fits + shown.log_prob(seen[:, t]).sum(1)
    return fits, kl, ratio


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("controls", [0, 1])
def test_loss_bound_and_log_likelihood_are_those_by_hand(linear, likelihood, controls):
    model = model_of(linear=linear, likelihood=likelihood, controls=controls).double()
    x = rows().double()
    model.build((4, 3))
    model.double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    dl.seed(5)
    loss, _, parts = model.compute_loss(x, None)
    dl.seed(5)
    noise = torch.randn(12, 4, 2, dtype=torch.float64)
    fits, kl, ratio = terms_by_hand(model, x, noise)
    torch.testing.assert_close(parts["reconstruction_loss"], -fits.mean(), rtol=1e-10, atol=0)
    torch.testing.assert_close(parts["kl_loss"], kl.mean(), rtol=1e-10, atol=0)
    torch.testing.assert_close(loss, (kl - fits).mean(), rtol=1e-10, atol=0)
    weights = torch.arange(12.0, dtype=torch.float64)
    dl.seed(5)
    weighted = model.compute_loss(x, None, weights)[0]
    torch.testing.assert_close(weighted, (weights * (kl - fits)).mean(), rtol=1e-10, atol=0)
    dl.seed(5)
    np.testing.assert_allclose(model.bound(x), (fits - kl).detach(), rtol=1e-6)
    dl.seed(5)
    np.testing.assert_allclose(
        model.log_likelihood(x, samples=1), (fits + ratio).detach(), rtol=1e-6
    )


def test_log_likelihood_of_many_samples_is_cut_into_parts(monkeypatch):
    model, x = model_of(), rows()
    model.build((4, 3))
    dl.seed(2)
    whole = model.log_likelihood(x, samples=50)
    monkeypatch.setattr("easydl.kalman.rows_that_fit", lambda *_: 12 * 7)
    dl.seed(2)
    np.testing.assert_allclose(model.log_likelihood(x, samples=50), whole, rtol=1e-5)


def test_more_samples_and_paths_agree_with_fewer_in_the_mean():
    model, x = model_of(), rows()
    model.build((4, 3))
    dl.seed(2)
    bound, log_likelihood = model.bound(x, 400).mean(), model.log_likelihood(x, 400).mean()
    one = np.mean([model.bound(x).mean() for _ in range(400)])
    assert bound == pytest.approx(one, abs=0.05)
    assert log_likelihood > bound


# -- linear Gaussian data, whose likelihood is known ---------------------------------------------


def linear_gaussian(n, steps, seed):
    """z₁ ~ N(0, 1), z_t = A z_{t−1} + N(0, Q), x_t = C z_t + N(0, R)."""
    g = np.random.default_rng(seed)
    z, x = g.normal(size=n), []
    for t in range(steps):
        z = A * z + np.sqrt(Q) * g.normal(size=n) if t else z
        x.append(z[:, None] * C + np.sqrt(R) * g.normal(size=(n, 2)))
    return np.stack(x, 1).astype("float32")


def joint(steps, a, b, q, c, d, r, mean, variance):
    """The Gaussian of a whole sequence (T · F), whatever the latent size: no filter is needed."""
    latent = len(a)
    means, variances = [mean], [variance]
    for _ in range(steps - 1):
        means.append(a @ means[-1] + b)
        variances.append(a @ variances[-1] @ a.T + q)
    z = np.zeros((steps * latent, steps * latent))
    for s in range(steps):
        block = variances[s]  # Cov(z_t, z_s) = a^(t−s) Var(z_s)
        for t in range(s, steps):
            at = slice(t * latent, (t + 1) * latent), slice(s * latent, (s + 1) * latent)
            z[at], z[at[::-1]] = block, block.T
            block = a @ block
    show = np.kron(np.eye(steps), c)
    noise = np.kron(np.eye(steps), r)
    return multivariate_normal(show @ np.concatenate(means) + np.tile(d, steps),
                               show @ z @ show.T + noise)  # fmt: skip


def own_joint(model, steps):
    """The same with the model's parameters."""
    numbers = {k: v.detach().double().numpy() for k, v in model.named_parameters()}
    variance = {k: np.diag(np.exp(v)) for k, v in numbers.items() if k.endswith("log_variance")}
    return joint(
        steps, numbers["dynamics.weight"], numbers["dynamics.bias"],
        variance["transition_log_variance"], numbers["emission.0.weight"],
        numbers["emission.0.bias"], variance["output_log_variance"], numbers["initial_mean"],
        variance["initial_log_variance"],
    )  # fmt: skip


def true_joint(steps):
    one, zero = np.ones((1, 1)), np.zeros(1)
    return joint(
        steps, A * one, zero, Q * one, C[:, None], np.zeros(2), np.diag(R), zero, one
    )  # fmt: skip


def flat(x):
    return np.asarray(x, dtype=np.float64).reshape(len(x), -1)


@pytest.fixture(scope="module")
def trained():
    """(model, bounds and exact log-likelihoods of the model itself, seen while it trained)."""
    torch.set_num_threads(1)
    model, x, seen = model_of(1, 8, linear=True), linear_gaussian(1000, 6, 0), []

    def look(epoch, logs):
        bounds = model.bound(x[:300], 5)
        seen.append((bounds, own_joint(model, 6).logpdf(flat(x[:300]))))

    schedule = dl.optimizers.schedules.OneCycle(0.05, 120)
    model.compile(dl.optimizers.Adam(schedule))
    model.fit(x, batch_size=100, epochs=12, verbose=0, callbacks=[look])
    return model, seen


def test_trained_bound_is_within_2_percent_of_the_exact_kalman_filter(trained):
    model, _ = trained
    x = linear_gaussian(1000, 6, seed=9)
    exact = true_joint(6).logpdf(flat(x)).mean()
    bound = model.bound(x, 10).mean()
    assert abs(bound - exact) <= 0.02 * abs(exact)
    assert bound < exact


def test_bound_never_exceeds_the_exact_log_likelihood(trained):
    for bounds, exact in trained[1]:
        gap = exact - bounds
        assert gap.mean() > -3 * gap.std() / np.sqrt(len(gap))


def test_importance_sampling_finds_the_exact_log_likelihood(trained):
    model, x = trained[0], linear_gaussian(200, 6, seed=9)
    exact = own_joint(model, 6).logpdf(flat(x))
    np.testing.assert_allclose(model.log_likelihood(x, 500).mean(), exact.mean(), atol=0.02)
    np.testing.assert_allclose(model.log_likelihood(x, 500), exact, atol=0.3)


def test_true_parameters_give_the_exact_log_likelihood():
    model, x = model_of(1, 8, linear=True), linear_gaussian(50, 3, seed=9)
    model.build((3, 2))
    with torch.no_grad():
        model.dynamics.weight.fill_(A)
        model.transition_log_variance.fill_(np.log(Q))
        model.emission[0].weight.copy_(torch.tensor(C)[:, None])
        model.output_log_variance.copy_(torch.tensor(np.log(R)))
    exact = true_joint(3).logpdf(flat(x))
    np.testing.assert_allclose(own_joint(model, 3).logpdf(flat(x)), exact, rtol=1e-6)
    estimate = model.log_likelihood(x, 20_000)  # its inference network knows nothing
    np.testing.assert_allclose(estimate.mean(), exact.mean(), atol=0.02)
    assert model.bound(x, 50).mean() < exact.mean()


def test_forecast_is_the_conditional_gaussian(trained):
    model, x = trained[0], linear_gaussian(50, 6, seed=9)
    whole = own_joint(model, 9)
    past, later = slice(0, 12), slice(12, 18)
    gain = whole.cov[later, past] @ np.linalg.inv(whole.cov[past, past])
    mean = whole.mean[later] + (flat(x) - whole.mean[past]) @ gain.T
    variance = np.diag(whole.cov[later, later] - gain @ whole.cov[past, later])
    dl.seed(0)
    found, deviation = model.forecast(x, 3, samples=4000, return_std=True)
    assert np.sqrt(np.mean((flat(found) - mean) ** 2)) < 0.1  # of about 1
    np.testing.assert_allclose(flat(deviation).mean(0), np.sqrt(variance), rtol=0.05)


def test_samples_have_the_models_mean_and_covariance(trained):
    model = trained[0]
    dl.seed(0)
    x = flat(model.sample(20_000, 3, noise=True))
    whole = own_joint(model, 3)
    np.testing.assert_allclose(x.mean(0), whole.mean, atol=0.05)
    np.testing.assert_allclose(np.cov(x.T), whole.cov, atol=0.08)
    assert flat(model.sample(20_000, 3)).var(0) == pytest.approx(
        np.diag(whole.cov - np.kron(np.eye(3), np.diag(np.exp(
            model.output_log_variance.detach().numpy())))), abs=0.08)  # fmt: skip


@pytest.mark.slow
def test_two_latent_dimensions_come_within_2_percent():
    a, q = np.array([[0.9, 0.3], [-0.3, 0.8]]), np.diag([0.2, 0.4])
    c, r = np.array([[1.0, 0.0], [0.5, 1.0], [0.3, -0.8]]), np.diag([0.4, 0.5, 0.6])
    exact = joint(8, a, np.zeros(2), q, c, np.zeros(3), r, np.zeros(2), np.eye(2))
    g = np.random.default_rng(0)
    train, test = (exact.rvs(2000, random_state=g).reshape(-1, 8, 3) for _ in range(2))
    model = model_of(2, 16, linear=True)
    model.compile(dl.optimizers.Adam(dl.optimizers.schedules.OneCycle(0.03, 400)))
    model.fit(train, batch_size=100, epochs=20, verbose=0)
    bound, own = model.bound(test, 10), own_joint(model, 8).logpdf(flat(test))
    assert bound.mean() == pytest.approx(exact.logpdf(flat(test)).mean(), rel=0.02)
    gap = own - bound
    assert gap.mean() > -3 * gap.std() / np.sqrt(len(gap))
    np.testing.assert_allclose(model.log_likelihood(test[:200], 500).mean(), own[:200].mean(),
                               atol=0.05)  # fmt: skip


# -- a model like the others ---------------------------------------------------------------------


def test_fit_is_a_plain_torch_loop():
    x, model = rows(), model_of()
    model.build((4, 3))
    twin = model_of()
    twin.build((4, 3))
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3, eps=1e-7)
    dl.seed(3)
    model.fit(x, batch_size=4, epochs=2, shuffle=False, verbose=0)
    dl.seed(3)
    for _ in range(2):
        for batch in x.split(4):
            optimizer.zero_grad()
            twin.compute_loss(batch, None)[0].backward()
            optimizer.step()
    for own, other in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_allclose(own, other, atol=2e-6)


@pytest.mark.parametrize("source", ["dataset", "loader", "generator"])
def test_every_source_trains_alike(source):
    x, twin = rows(), model_of()
    model = model_of()
    data = TensorDataset(x)
    given = {
        "dataset": data,
        "loader": DataLoader(data, batch_size=4, generator=torch.Generator()),
        "generator": (x[i : i + 4] for i in (0, 4, 8)),
    }[source]
    dl.seed(3)
    twin.fit(x, batch_size=4, shuffle=False, verbose=0)
    dl.seed(3)
    steps = {"steps_per_epoch": 3} if source == "generator" else {}
    model.fit(given, batch_size=4, shuffle=False, verbose=0, **steps)
    for own, other in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_array_equal(own, other)


def test_shapes_history_and_other_lengths(capsys):
    model, x = model_of(controls=1), rows()
    history = model.fit(x, epochs=2, validation_split=0.25, verbose=0).history
    parts = ["loss", "reconstruction_loss", "kl_loss"]
    assert list(history) == parts + [f"val_{part}" for part in parts]
    assert history["loss"] == pytest.approx(
        np.add(history["reconstruction_loss"], history["kl_loss"])
    )
    assert model.predict(x).shape == (12, 4, 2)
    assert model.encode(rows(steps=7)).shape == (12, 7, 2)
    assert model.encode(rows(steps=1)).shape == (12, 1, 2)
    assert model.sample(5, 1, controls=np.zeros((5, 1, 1))).shape == (5, 1, 2)
    assert model.forecast(x, 2, controls=np.zeros((12, 2, 1))).shape == (12, 2, 2)
    assert model.evaluate(x, verbose=0, return_dict=True).keys() == set(parts)
    assert re.search(r"emission|sequential_1 \(Sequential\)", model.summary())
    assert "GRU" in capsys.readouterr().out


def test_a_float64_model_forecasts():
    model, x = model_of(), rows()
    model.build(x.shape[1:])
    model.double()
    assert np.isfinite(model.forecast(x, 2)).all()
    assert np.isfinite(model.log_likelihood(x, samples=3)).all()


def test_predict_and_encode_draw_nothing():
    model, x = model_of(), rows()
    model.fit(x, verbose=0)
    state = torch.get_rng_state()
    np.testing.assert_array_equal(model.predict(x), model.predict(x))
    shown = model._mean(torch.from_numpy(model.encode(x))).detach().numpy()
    np.testing.assert_allclose(shown, model.predict(x), atol=1e-6)
    assert torch.equal(state, torch.get_rng_state())


def test_a_control_acts_one_step_later():
    model, x = model_of(controls=1, linear=True), rows()
    model.fit(x, verbose=0)
    with torch.no_grad():
        model.dynamics.weight[:, -1] = 3.0

    def forecast(step):
        u = np.zeros((12, 3, 1))
        u[:, step] = 5
        dl.seed(1)
        return model.forecast(x, 3, samples=3, controls=u)

    changed = [np.abs(forecast(step) - forecast(2)).max((0, 2)) > 1e-3 for step in (0, 1)]
    assert [list(c) for c in changed] == [[False, True, True], [False, False, True]]
    torch.nn.init.zeros_(model.message.weight)  # else q sees it, too
    later = x.clone()
    later[:, -1, -1] += 5  # moves the state after the last one
    np.testing.assert_array_equal(model.predict(x), model.predict(later))
    none = np.zeros((12, 1, 1))
    shift = model.forecast(later, 1, controls=none) - model.forecast(x, 1, controls=none)
    assert np.abs(shift.mean(0)).min() > 1


def test_bernoulli_forecasts_are_probabilities():
    model, x = model_of(likelihood="bernoulli"), rows().round()
    model.fit(x, verbose=0)
    mean, deviation = model.forecast(x, 2, return_std=True)
    assert mean.min() > 0 and mean.max() < 1
    np.testing.assert_allclose(deviation, np.sqrt(mean * (1 - mean)), atol=1e-6)
    assert set(np.unique(model.sample(20, 3, noise=True))) == {0, 1}


@pytest.mark.parametrize("arguments", [{}, {"linear": True}, {"likelihood": "bernoulli"}])
def test_save_and_load_go_on_to_the_same_bits(tmp_path, arguments):
    model, x = model_of(controls=1, **arguments), rows()
    model.fit(x, batch_size=4, epochs=2, verbose=0)
    model.save(tmp_path / "m.easydl")
    other = dl.load_model(tmp_path / "m.easydl")
    np.testing.assert_array_equal(model.predict(x), other.predict(x))
    for one in (model, other):
        dl.seed(4)
        one.fit(x, batch_size=4, epochs=2, verbose=0)
    for own, loaded in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(own, loaded)


def test_training_stopped_amid_an_epoch_goes_on_to_the_same_bits(tmp_path):
    def train(folder, after=0):
        model = model_of()
        backup = dl.callbacks.BackupAndRestore(folder, save_freq=1, delete_checkpoint=False)
        hooks = [Stop(after), backup]
        model.fit(rows(), batch_size=3, epochs=3, verbose=0, callbacks=hooks)
        return model.get_weights()

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "a", 6)
    for own, whole in zip(train(tmp_path / "a"), train(tmp_path / "b")):
        np.testing.assert_array_equal(own, whole)


def test_mixed_precision_keeps_the_terms_whole():
    model, x = model_of(), rows()
    model.build((4, 3))
    dl.seed(1)
    exact = model.compute_loss(x, None)[2]["kl_loss"]
    dl.seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _, parts = model.compute_loss(x, None)
    assert {loss.dtype, *(part.dtype for part in parts.values())} == {torch.float32}
    torch.testing.assert_close(parts["kl_loss"], exact, rtol=0.02, atol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:jit=True. torch cannot compile this model")  # its GRU
def test_jit_trains_as_eagerly_or_says_so():
    found = []
    for jit in (False, True):
        model, x = model_of(), rows(40)
        model.compile("adam", jit=jit)
        dl.seed(3)
        model.fit(x, batch_size=4, epochs=2, verbose=0)
        found.append(model.get_weights())
    for own, other in zip(*found):
        np.testing.assert_allclose(own, other, atol=1e-5)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"latent": 0}, "latent=0"),
        ({"latent": 2, "hidden": 2.5}, "hidden=2.5"),
        ({"latent": 2, "controls": -1}, "controls=-1"),
        ({"latent": 2, "likelihood": "gausian"}, "Did you mean 'gaussian'"),
        ({"latent": 2, "linear": "no"}, "linear='no'"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        dl.DeepKalmanFilter(**arguments)


@pytest.mark.parametrize(
    ("x", "arguments", "words"),
    [
        (rows()[:, :, 0], {}, r"expected sequences \(N, T, F\).*x\[:, :, None\]"),
        (rows()[:, :0], {}, "holds no number"),
        (rows(features=1), {"controls": 1}, "at least one feature more than controls"),
        (rows() * 2, {"likelihood": "bernoulli"}, "Bernoulli likelihood expects 0 to 1"),
        (rows() - 0.5, {"likelihood": "bernoulli"}, "Bernoulli likelihood expects 0 to 1"),
        (rows() / 0, {}, "x holds inf"),
        ((rows(), rows()), {}, "x holds 2 arrays"),
    ],
)
def test_bad_data_are_refused_before_the_first_step(x, arguments, words):
    model = model_of(**arguments)
    with pytest.raises(ValueError, match=words) as error:
        model.fit(x, verbose=0)
    assert len(str(error.value)) <= 600
    assert model.history is None


def test_controls_beyond_0_and_1_are_allowed():
    x = rows()
    x[..., -1] = 7
    model_of(likelihood="bernoulli", controls=1).fit(x, verbose=0)


def test_what_does_not_fit_a_built_model_is_refused():
    model, x = model_of(controls=1), rows()
    with pytest.raises(ValueError, match="sample was called before the shapes are known"):
        model.sample(3, 2)
    model.fit(x, verbose=0)
    with pytest.raises(ValueError, match=r"expected sequences \(N, T, 3\)"):
        model.fit(rows(features=5), verbose=0)
    with pytest.raises(ValueError, match=r"shape None.*expected \(12, 2, 1\)"):
        model.forecast(x, 2)
    with pytest.raises(ValueError, match=r"shape \(5, 3, 2\).*expected \(5, 3, 1\)"):
        model.sample(5, 3, controls=np.zeros((5, 3, 2)))
    with pytest.raises(ValueError, match="nan or inf"):
        model.sample(5, 3, controls=np.full((5, 3, 1), np.nan))
    with pytest.raises(ValueError, match="samples=0"):
        model.log_likelihood(x, 0)
    with pytest.raises(ValueError, match="steps=0"):
        model.forecast(x, 0)
    with pytest.raises(ValueError, match="expected none: compile"):
        model.compile("adam", "mse")
