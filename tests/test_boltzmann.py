"""RBMs and DBNs against sums over every state, against updates by hand, and through the loop."""

from __future__ import annotations

import math
import re
import traceback

import numpy as np
import pytest
import torch
from helpers import Stop
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import easydl as dl
from easydl.boltzmann.likelihood import exact_log_partition, states

DIGITS = (load_digits().data / 16).astype(np.float32)
BINARY = (DIGITS > 0.5).astype(np.float32)
X = torch.rand(50, 6, generator=torch.Generator().manual_seed(1))
BITS = (X > 0.5).float()
SGD = dl.optimizers.SGD


def wild(*units, seed=0, scale=1.0, **options):
    """An RBM of float64 with weights far from their start."""
    dl.seed(seed)
    rbm = dl.RBM(*units, **options).double()
    for parameter in rbm.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    return rbm


def trained(x, epochs=3, fitting=None, **options):
    dl.seed(0)
    rbm = dl.RBM(**({"hidden": 5} | options))
    rbm.compile(SGD(0.1, momentum=0.5))
    history = rbm.fit(x, batch_size=10, epochs=epochs, verbose=0, **(fitting or {})).history
    return rbm, history


# -- likelihood, by a sum over all (x, h) ----------------------------------------------------------


def brute_energies(rbm):
    """E(x, h) of every pair of states, (2^V, 2^H), term by term as the slides write it."""
    hidden, visible = rbm.weight.shape
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * visible)
    h = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * hidden)
    w, b, d = rbm.weight.T, rbm.visible_bias, rbm.hidden_bias
    pairs = torch.einsum("ni,ij,mj->nm", x, w, h)
    return x, h, -pairs - (x @ b)[:, None] - h @ d


@pytest.mark.parametrize("units", [(4, 6), (7, 4), (6, 6), (2, 10)], ids=str)
def test_partition_function_and_likelihood_are_the_sum_over_all_states(units):
    rbm = wild(*units)
    x, _, energies = brute_energies(rbm)
    log_z = (-energies).exp().sum().log()
    assert rbm.log_partition() == pytest.approx(log_z.item(), abs=1e-9)
    log_p = (-energies).exp().sum(1).log() - log_z
    np.testing.assert_allclose(rbm.log_likelihood(x), log_p.detach(), atol=1e-5)
    np.testing.assert_allclose(rbm.free_energy(x), -(log_p + log_z).detach(), atol=1e-5)
    assert np.exp(rbm.log_likelihood(x, rbm.log_partition())).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("units", [(5, 7), (8, 4)], ids=str)
def test_gradient_of_the_likelihood_is_that_of_the_sum_over_all_states(units):
    rbm = wild(*units)
    x, _, energies = brute_energies(rbm)
    rows = x[[3, 3, 5, 11]]
    places = [3, 3, 5, 11]
    by_hand = ((-energies).exp().sum(1).log()[places]).mean() - (-energies).exp().sum().log()
    expected = torch.autograd.grad(by_hand, list(rbm.parameters()))
    own = -rbm.free_energy_of(rows).mean() - exact_log_partition(rbm)
    for found, wanted in zip(torch.autograd.grad(own, list(rbm.parameters())), expected):
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)


def test_gaussian_partition_function_is_the_integral():
    rbm = wild(3, 2, "gaussian", scale=0.7)
    line = torch.linspace(-12, 12, 301, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    w, b, d = rbm.weight.T, rbm.visible_bias, rbm.hidden_bias
    h = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 3)
    energies = ((x - b) ** 2).sum(1)[:, None] / 2 - x @ w @ h.T - h @ d
    integral = (-energies).exp().sum() * (line[1] - line[0]) ** 2
    assert rbm.log_partition() == pytest.approx(integral.log().item(), abs=1e-9)
    density = np.exp(rbm.log_likelihood(x)).sum() * float(line[1] - line[0]) ** 2
    assert density == pytest.approx(1, abs=1e-4)


def test_states_are_all_once():
    rows = torch.cat(list(states(13, torch.zeros(1))))
    assert rows.shape == (2**13, 13) and len(rows.unique(dim=0)) == 2**13


@pytest.mark.parametrize(("kind", "x"), [("bernoulli", BINARY), ("gaussian", DIGITS * 4 - 2)])
def test_annealed_importance_sampling_meets_the_exact_log_z(kind, x):
    dl.seed(0)
    rbm = dl.RBM(10, kind=kind)
    rbm.compile(SGD(0.1 if kind == "bernoulli" else 0.005, momentum=0.5))
    rbm.fit(x, epochs=12, verbose=0)
    exact = rbm.log_partition("exact")
    independent = math.log(2) * 10 + np.logaddexp(0, rbm.visible_bias.detach().numpy()).sum()
    if kind == "bernoulli":
        assert abs(exact - independent) > 3, "the weights are trivial"
    assert rbm.log_partition("annealed", steps=500) == pytest.approx(exact, abs=0.1)
    assert rbm.log_partition("annealed", steps=500, x=x) == pytest.approx(exact, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_annealed_importance_sampling_meets_the_exact_log_z_of_twenty_units(seed):
    dl.seed(seed)
    rbm = dl.RBM(20, persistent=100)
    rbm.compile(SGD(0.02, momentum=0.5))
    rbm.fit(BINARY, epochs=100, verbose=0)
    exact = rbm.log_partition("exact")
    assert rbm.log_partition("annealed", steps=3000) == pytest.approx(exact, abs=0.1)


def test_annealing_too_fast_says_so():
    rbm = wild(30, 30, scale=5)
    with pytest.warns(UserWarning, match="uncertain; write log_partition"):
        rbm.log_partition(steps=2, x=torch.eye(2).repeat(1, 15))


# -- training --------------------------------------------------------------------------------------


def update_by_hand(rbm, x, k, chains, mean_field, rate, momentum, speeds):
    """One CD-k update in NumPy; the random numbers are torch's, drawn in the same order."""
    w, b, d = (p.detach().numpy().copy() for p in (rbm.weight, rbm.visible_bias, rbm.hidden_bias))

    def up(v):
        return 1 / (1 + np.exp(-(v @ w.T + d)))

    def binary(p):
        return (torch.rand(p.shape).numpy() < p).astype(np.float32)

    def down(h, mean):
        field = h @ w + b
        if rbm.kind == "gaussian":
            return field if mean else field + torch.randn(field.shape).numpy()
        p = 1 / (1 + np.exp(-field))
        return p if mean else binary(p)

    v = x if chains is None else chains
    for step in range(k):
        v = down(binary(up(v)), mean_field and step == k - 1)
    to_bias = (lambda v: v - b) if rbm.kind == "gaussian" else (lambda v: v)
    rise = (
        up(x).T @ x / len(x) - up(v).T @ v / len(v),
        to_bias(x).mean(0) - to_bias(v).mean(0),
        up(x).mean(0) - up(v).mean(0),
    )
    speeds = [momentum * old + new for old, new in zip(speeds, rise)]
    return [p + rate * speed for p, speed in zip((w, b, d), speeds)], speeds, v


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3},
        {"k": 2, "mean_field": True},
        {"persistent": 7},
        {"kind": "gaussian", "k": 2},
        {"kind": "gaussian", "persistent": 4, "k": 2},
    ],
    ids=str,
)
def test_updates_are_those_by_hand_with_the_same_random_numbers(options):
    x = X if options.get("kind") else BITS
    dl.seed(0)
    rbm = dl.RBM(4, 6, **options)
    torch.nn.init.normal_(rbm.weight)
    rbm.compile(SGD(0.1, momentum=0.9))
    speeds = [0, 0, 0]
    for batch in x.split(10):
        state = torch.get_rng_state()
        chains = None if rbm.chains is None else rbm.chains.numpy().copy()
        arguments = (rbm, batch.numpy(), rbm.k, chains, rbm.mean_field, 0.1, 0.9, speeds)
        expected, speeds, last = update_by_hand(*arguments)
        torch.set_rng_state(state)
        rbm.fit(batch, batch_size=10, shuffle=False, verbose=0)
        found = (rbm.weight, rbm.visible_bias, rbm.hidden_bias)
        for parameter, wanted in zip(found, expected):
            np.testing.assert_allclose(parameter.detach(), wanted, atol=1e-6, rtol=0)
        if chains is not None:
            np.testing.assert_allclose(rbm.chains, last, atol=1e-6)


def distance_after_training(p, visible, steps):
    """KL(p ‖ model), in nats, of an RBM with 8 hidden units after persistent training."""
    dl.seed(0)
    x = next(states(visible, torch.zeros(1)))
    p = torch.tensor(p) / sum(p)
    rbm = dl.RBM(8, visible, persistent=1000)
    torch.nn.init.normal_(rbm.weight)
    rbm.compile(SGD(dl.optimizers.schedules.PolynomialDecay(0.1, steps), momentum=0.9))
    rbm.fit(
        x.repeat(100, 1), sample_weight=(p * len(x)).repeat(100), batch_size=len(x),
        epochs=steps // 100, shuffle=False, verbose=0,
    )  # fmt: skip
    return (p * (p.log() - torch.from_numpy(rbm.log_likelihood(x)))).sum().item()


def test_persistent_training_reaches_the_maximum_likelihood_of_a_known_distribution():
    assert 0 <= distance_after_training([6.0, 1, 1, 3, 1, 4, 2, 6], 3, 1500) <= 0.02


@pytest.mark.slow
def test_persistent_training_reaches_the_maximum_likelihood_of_four_units():
    p = [9.0, 1, 1, 1, 1, 1, 6, 1, 1, 1, 1, 4, 1, 1, 1, 9]
    assert 0 <= distance_after_training(p, 4, 20000) <= 0.02


def test_sparsity_target_and_penalty_of_the_weights_join_the_loss():
    dl.seed(0)
    rbm = dl.RBM(4, 6, sparsity=0.1, sparsity_cost=0.5, kernel_regularizer=dl.regularizers.L2(0.01))
    torch.nn.init.normal_(rbm.weight)
    rbm.compile(SGD(0.0))
    state = torch.get_rng_state()
    logs = rbm.train_on_batch(X, return_dict=True)
    q = torch.distributions.Bernoulli(rbm(X).mean(0))
    kl = torch.distributions.kl_divergence(torch.distributions.Bernoulli(torch.tensor(0.1)), q)
    assert logs["sparsity_loss"] == pytest.approx(0.5 * kl.sum().item(), rel=1e-4)
    plain = dl.RBM(4, 6)
    plain.load_state_dict(rbm.state_dict())
    plain.compile(SGD(0.0))
    torch.set_rng_state(state)
    rest = plain.train_on_batch(X, return_dict=True)["loss"] + 0.01 * (rbm.weight**2).sum().item()
    assert logs["loss"] == pytest.approx(rest + logs["sparsity_loss"], rel=1e-4)


def test_sparsity_makes_units_rarer():
    mean = [trained(BITS, 30, sparsity=s)[0].transform(BITS).mean() for s in (None, 0.05)]
    assert mean[0] > 0.3 and mean[1] < 0.15


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_evaluate_gives_the_reconstruction_error_and_draws_nothing(kind):
    rbm, history = trained(X, kind=kind, fitting={"validation_data": X[:20]})
    assert set(history) == {
        f"{part}{name}"
        for part in ("", "val_")
        for name in ("loss", "reconstruction_error", "free_energy")
    }
    state = torch.get_rng_state()
    logs = rbm.evaluate(X, verbose=0, return_dict=True, batch_size=7)
    assert torch.equal(torch.get_rng_state(), state)
    mean = rbm.visible_mean(rbm(X)).detach()
    if kind == "bernoulli":
        expected = torch.nn.functional.binary_cross_entropy(mean, X, reduction="sum") / 50
    else:
        expected = ((mean - X) ** 2).sum() / 2 / 50
    assert logs["loss"] == logs["reconstruction_error"] == pytest.approx(expected.item(), rel=1e-5)
    assert logs["free_energy"] == pytest.approx(rbm.free_energy(X).mean(), rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"persistent": 7}], ids=str)
def test_sample_weights_are_factors_of_each_rows_part(options):
    rbm, _ = trained(X, **options)
    rbm.train()
    start = None if rbm.chains is None else rbm.chains.clone()

    def loss(weights):
        torch.manual_seed(0)
        if start is not None:
            rbm.chains.copy_(start)
        return rbm.compute_loss(X[:5], None, weights)[0].item()

    weights = torch.tensor([0.0, 2.0, 1.0, 0.5, 3.0])
    parts = [weight * loss(row) for weight, row in zip(weights.tolist(), torch.eye(5))]
    assert loss(weights) == pytest.approx(sum(parts), rel=1e-4)
    assert loss(torch.ones(5)) == pytest.approx(loss(None), rel=1e-6)
    torch.manual_seed(0)
    drawn = rbm.visible_given((torch.rand(5, 5) < rbm(X[:5])).float())
    if start is None:  # each row is compared with its own draw
        alone = rbm.free_energy_of(X[:5]) - rbm.free_energy_of(drawn)
        assert [5 * loss(row) for row in torch.eye(5)] == pytest.approx(alone.tolist(), abs=1e-4)


# -- what is drawn ---------------------------------------------------------------------------------


def test_gibbs_sampling_draws_from_the_model():
    rbm = wild(3, 4)
    _, _, energies = brute_energies(rbm)
    p = (-energies).exp().sum(1)
    p = (p / p.sum()).detach()
    dl.seed(0)
    rows = torch.from_numpy(rbm.sample(20000, steps=50))
    counts = torch.bincount((rows @ torch.tensor([8.0, 4, 2, 1])).long(), minlength=16)
    assert (counts / 20000 - p).abs().max() < 0.015
    again = rbm.gibbs(rows, steps=3)
    places = torch.from_numpy(again) @ torch.tensor([8.0, 4, 2, 1])
    counts = torch.bincount(places.long(), minlength=16)
    assert (counts / 20000 - p).abs().max() < 0.015


def test_gaussian_samples_have_the_moments_of_the_model():
    rbm = wild(3, 2, "gaussian", scale=0.7)
    h = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 3)
    means = rbm.visible_mean(h)
    p = (h @ rbm.hidden_bias + means.square().sum(1) / 2).softmax(0)
    dl.seed(0)
    rows = torch.from_numpy(rbm.sample(20000, steps=50))
    torch.testing.assert_close(rows.mean(0).double(), (p @ means).detach(), atol=0.05, rtol=0)
    centred = means - p @ means
    expected = (centred.T @ (p[:, None] * centred)).detach() + torch.eye(2)
    torch.testing.assert_close(rows.T.cov().double(), expected, atol=0.1, rtol=0)


def test_mean_gives_expectations_and_not_draws():
    rbm, _ = trained(BITS)
    means, rows = rbm.sample(20, 5, mean=True), rbm.gibbs(BITS, 2)
    assert ((means > 0) & (means < 1)).all() and set(np.unique(rows)) == {0.0, 1.0}


def test_samples_start_from_the_persistent_chains():
    rbm, _ = trained(BITS, persistent=4)
    with torch.no_grad():
        rbm.weight.zero_(), rbm.visible_bias.fill_(50.0)
        before = rbm.chains.clone()
    assert (rbm.sample(9, 1) == 1).all() and torch.equal(rbm.chains, before)


# -- the loop: shapes, sources, files, jit ---------------------------------------------------------


def test_transform_is_predict_and_the_torch_module_to_the_bit():
    rbm, _ = trained(X)
    np.testing.assert_array_equal(rbm.transform(X), rbm.predict(X))
    np.testing.assert_array_equal(rbm.to_torch()(X).detach(), rbm.predict(X))
    assert rbm.summary(print_fn=None).count("rbm (RBM)") == 1


@pytest.mark.parametrize("source", ["dataset", "loader", "generator", "numpy"])
def test_every_source_trains_alike(source):
    rows = TensorDataset(X)
    given = {
        "dataset": lambda: rows,
        "loader": lambda: DataLoader(rows, batch_size=10, generator=torch.Generator()),
        "generator": lambda: iter([(X[i : i + 10],) for i in range(0, 50, 10)]),
        "numpy": lambda: X.double().numpy(),
    }[source]()
    expected, _ = trained(X, 1, {"shuffle": False})
    steps = {"steps_per_epoch": 5} if source == "generator" else {}
    found, _ = trained(given, 1, {"shuffle": False, **steps})
    for own, other in zip(found.get_weights(), expected.get_weights()):
        np.testing.assert_array_equal(own, other)


def test_build_makes_weights_and_optimizer_with_numbers_of_their_own():
    dl.seed(0)
    rbm, dbn = dl.RBM(5), dl.DBN([4, 3])
    rbm.compile(SGD(0.1))
    rbm.build((None, 6))
    dbn.build(6)
    assert rbm.learning_rate == 0.1 and rbm.weight.shape == (5, 6) and dbn.is_built
    assert not torch.isin(rbm.weight, dbn.layers[0].weight).any()
    assert rbm.weight.std().item() == pytest.approx(0.01, rel=0.5)


def test_targets_are_passed_over():
    expected, _ = trained(X)
    found, _ = trained(X, fitting={"y": np.arange(50)})
    for own, other in zip(found.get_weights(), expected.get_weights()):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize(
    "options",
    [
        {"persistent": 7},
        {"kind": "gaussian", "k": 2, "sparsity": 0.2, "kernel_regularizer": "l2"},
        {"mean_field": True, "visible": 6},
    ],
    ids=str,
)
def test_a_saved_rbm_goes_on_to_the_same_bits(options, tmp_path):
    rbm, _ = trained(X, **options)
    rbm.save(tmp_path / "m.easydl")
    other = dl.load_model(tmp_path / "m.easydl")
    np.testing.assert_array_equal(rbm.predict(X), other.predict(X))
    weights = []
    for model in (rbm, other):
        dl.seed(5)
        model.fit(X, epochs=2, batch_size=10, verbose=0)
        weights.append(model.get_weights())
    assert len(weights[0]) == 3 + ("persistent" in options)
    for own, theirs in zip(*weights):
        np.testing.assert_array_equal(own, theirs)


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path):
    expected, _ = trained(X, persistent=7)

    def again(crash):
        backup = dl.callbacks.BackupAndRestore(tmp_path, save_freq=3, delete_checkpoint=False)
        return trained(X, fitting={"callbacks": [backup, Stop(crash)]}, persistent=7)[0]

    with pytest.raises(KeyboardInterrupt):
        again(9)
    for own, other in zip(again(0).get_weights(), expected.get_weights()):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize(
    "options",
    [
        {"persistent": 7, "k": 2},
        pytest.param({"kind": "gaussian", "mean_field": True}, marks=pytest.mark.slow),
        pytest.param({"sparsity": 0.1, "kernel_regularizer": "l2"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_jit_trains_to_the_same_weights(options, traced):
    found = []
    for jit in (False, True):
        dl.seed(0)
        rbm = dl.RBM(5, **options)
        rbm.compile(SGD(0.1, momentum=0.5), jit=jit, **({"steps_per_execution": 2} if jit else {}))
        history = rbm.fit(X, batch_size=10, epochs=2, verbose=0).history
        found.append((rbm.get_weights(), history))
    assert traced, "nothing was compiled"
    for own, other in zip(found[0][0], found[1][0]):
        np.testing.assert_allclose(own, other, atol=1e-6)
    for name, values in found[0][1].items():
        np.testing.assert_allclose(values, found[1][1][name], rtol=2e-5, atol=1e-6)


@pytest.mark.slow
def test_jit_by_torchs_own_compiler():
    dl.seed(0)
    rbm = dl.RBM(5, persistent=7)
    rbm.compile(SGD(0.1, momentum=0.5), jit=True, steps_per_execution=2)
    rbm.fit(X, batch_size=10, epochs=3, verbose=0)
    expected, _ = trained(X, persistent=7)
    for own, other in zip(rbm.get_weights(), expected.get_weights()):
        np.testing.assert_allclose(own, other, atol=1e-5)


def test_mixed_precision_trains():
    dl.seed(0)
    rbm = dl.RBM(5, persistent=7)
    rbm.compile(SGD(0.1, momentum=0.5), precision="bfloat16")
    rbm.fit(BITS, batch_size=10, epochs=60, verbose=0)
    assert rbm.weight.dtype == rbm.chains.dtype == torch.float32
    expected, _ = trained(BITS, 60, persistent=7)
    own, other = (model.log_likelihood(BITS).mean() for model in (rbm, expected))
    assert own == pytest.approx(other, abs=0.1)


# -- deep belief nets ------------------------------------------------------------------------------


def pretrained(x=X, layers=(5, 3), fitting=None, **options):
    dl.seed(0)
    dbn = dl.DBN(list(layers), **options)
    dbn.compile(SGD(0.1, momentum=0.5))
    histories = dbn.pretrain(x, 10, **({"epochs": 2, "verbose": 0} | (fitting or {})))
    return dbn, histories


def test_pretraining_is_the_fit_of_one_rbm_after_the_other():
    dbn, histories = pretrained(k=2, mean_field=False)
    dl.seed(0)
    second = dl.RBM(3, 5, k=2)
    first = dl.RBM(5, k=2)
    rows = X
    for rbm, history in zip((first, second), histories):
        rbm.compile(SGD(0.1, momentum=0.5))
        assert rbm.fit(rows, batch_size=10, epochs=2, verbose=0).history == history.history
        rows = rbm.transform(rows)
    np.testing.assert_array_equal(dbn.transform(X), rows)
    np.testing.assert_array_equal(dbn.predict(X), rows)
    np.testing.assert_array_equal(dbn.to_torch()(X).detach(), rows)


def test_pretraining_watches_validation_data_and_takes_torchs_optimizers():
    dl.seed(0)
    dbn = dl.DBN([5, 3])
    dbn.compile(torch.optim.Adam)
    histories = dbn.pretrain(X, validation_data=X[:20], verbose=0)
    for layer, rows, history in zip(dbn.layers, (X, dbn.layers[0].transform(X)), histories):
        expected = layer.evaluate(rows[:20], verbose=0)[0]
        assert history.history["val_loss"] == [pytest.approx(expected, rel=1e-5)]
        assert isinstance(layer.optimizer, torch.optim.Adam)
    dbn.compile(torch.optim.SGD(dbn.parameters(), 0.1))
    with pytest.raises(ValueError, match="each layer can have anew"):
        dbn.pretrain(X, verbose=0)


def test_layers_may_be_rbms_with_settings_of_their_own():
    dl.seed(0)
    layers = [dl.RBM(5, kind="gaussian", sparsity=0.1), dl.RBM(3, persistent=7)]
    dbn = dl.DBN(layers)
    for rate, layer in zip((0.01, 0.1), layers):
        layer.compile(SGD(rate))
    histories = dbn.pretrain(X, epochs=[2, 1], verbose=0)
    assert [len(h.epoch) for h in histories] == [2, 1]
    assert [layer.learning_rate for layer in layers] == [0.01, 0.1]
    assert layers[1].weight.shape == (3, 5)


@pytest.mark.parametrize("source", ["dataset", "loader", "function"])
def test_pretraining_reads_every_source(source):
    rows = TensorDataset(X)
    batches = [(X[i : i + 10],) for i in range(0, 50, 10)]
    given = {
        "dataset": rows,
        "loader": DataLoader(rows, batch_size=10, generator=torch.Generator()),
        "function": lambda: iter(batches),
    }[source]
    fitting = {"epochs": 1}
    dbn, _ = pretrained(given, fitting=fitting)
    assert dbn.transform(X).shape == (50, 3) and len(dbn.layers[1].history.epoch) == 1


def test_samples_of_a_dbn_come_down_from_the_top_rbm():
    dl.seed(0)
    dbn = dl.DBN([wild(4, 3).float(), wild(2, 4, seed=1).float()])
    lower = dbn.layers[0]
    x, _, energies = brute_energies(wild(2, 4, seed=1))
    p_middle = (-energies).exp().sum(1)
    expected = (p_middle / p_middle.sum()).float() @ lower.visible_mean(x.float())
    rows, means = dbn.sample(20000, 50), dbn.sample(20000, 50, mean=True)
    assert set(np.unique(rows)) == {0.0, 1.0} and ((means > 0) & (means < 1)).all()
    for found in (rows, means):
        np.testing.assert_allclose(found.mean(0), expected.detach(), atol=0.02)


def test_classifier_and_autoencoder_start_from_copies_of_the_weights():
    dbn, _ = pretrained()
    classifier, autoencoder = dbn.to_classifier(4), dbn.to_autoencoder()
    np.testing.assert_array_equal(classifier[:2](X).detach(), dbn.predict(X))
    codes = torch.from_numpy(autoencoder.encode(X))
    np.testing.assert_array_equal(codes, dbn.predict(X))
    lower, upper = dbn.layers
    down = lower.visible_mean(upper.visible_mean(codes)).detach()
    np.testing.assert_allclose(autoencoder.predict(X), down, atol=1e-6)
    before = dbn.get_weights()
    classifier.compile("sgd", "sparse_categorical_crossentropy")
    classifier.fit(X, np.arange(50) % 4, verbose=0)
    autoencoder.compile("sgd", "binary_crossentropy")
    autoencoder.fit(X, verbose=0)
    for own, other in zip(dbn.get_weights(), before):
        np.testing.assert_array_equal(own, other)
    assert classifier.predict(X).shape == (50, 4)


def test_autoencoder_of_gaussian_units_has_a_linear_output():
    dbn, _ = pretrained(X * 4 - 2, kind="gaussian")
    predicted = dbn.to_autoencoder().predict(X * 4 - 2)
    lower, upper = dbn.layers
    down = lower.visible_mean(upper.visible_mean(dbn(X * 4 - 2))).detach()
    np.testing.assert_allclose(predicted, down, atol=1e-6)


def test_a_saved_dbn_comes_back(tmp_path):
    dbn, _ = pretrained(layers=(dl.RBM(5, persistent=7), 3))
    dbn.save(tmp_path / "m.easydl")
    other = dl.load_model(tmp_path / "m.easydl")
    assert repr(other) == repr(dbn)
    for name, tensor in dbn.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert other.to_classifier(3).layers[0].weight.equal(dbn.layers[0].weight)
    weights = tmp_path / "w.safetensors"
    dbn.save_weights(weights)
    fresh = dl.DBN([dl.RBM(5, 6, persistent=7), 3])
    fresh.load_weights(weights)
    np.testing.assert_array_equal(
        fresh.to_autoencoder().predict(X), dbn.to_autoencoder().predict(X)
    )


def test_interrupted_pretraining_ends_with_the_same_bits(tmp_path):
    expected, _ = pretrained()

    class Once(dl.Callback):
        crashed = False

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1 and self.model.visible == 5 and not Once.crashed:
                Once.crashed = True
                raise KeyboardInterrupt

    fitting = {"checkpoint": tmp_path, "callbacks": [Once()]}
    with pytest.raises(KeyboardInterrupt):
        pretrained(fitting=fitting)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["layer_1", "layer_2"]
    found, _ = pretrained(fitting=fitting)
    for own, other in zip(found.get_weights(), expected.get_weights()):
        np.testing.assert_array_equal(own, other)


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dl.RBM(0), "hidden=0"),
        (lambda: dl.RBM(2.5), "hidden=2.5"),
        (lambda: dl.RBM(3, visible=-1), "visible=-1"),
        (lambda: dl.RBM(3, k=0), "k=0"),
        (lambda: dl.RBM(3, kind="gausian"), "Did you mean 'gaussian'"),
        (lambda: dl.RBM(3, kind=2), "kind=2"),
        (lambda: dl.RBM(3, persistent=True), "persistent=100"),
        (lambda: dl.RBM(3, persistent=0), "persistent=0"),
        (lambda: dl.RBM(3, persistent=5, mean_field=True), "one of them"),
        (lambda: dl.RBM(3, sparsity=0), "sparsity=0"),
        (lambda: dl.RBM(3, sparsity=1.5), "sparsity=1.5"),
        (lambda: dl.RBM(3, sparsity_cost=-1), "sparsity_cost=-1"),
        (lambda: dl.RBM(3, kernel_regularizer="l3"), "unknown regularizer"),
        (lambda: dl.RBM(3).sample(2), "before the shapes are known"),
        (lambda: dl.RBM(3).log_partition(), "before the shapes are known"),
        (lambda: dl.RBM(3, 4).sample(0), "n=0"),
        (lambda: dl.RBM(3, 4).sample(2, steps=0), "steps=0"),
        (lambda: dl.RBM(3, 6).gibbs(X, steps=0), "steps=0"),
        (lambda: dl.RBM(3, 4).log_partition("ais"), "Choose from: annealed, auto, exact"),
        (lambda: dl.RBM(30, 30).log_partition("exact"), "log_partition\\('annealed'\\)"),
        (lambda: dl.RBM(3, 6).log_likelihood(X), "zeros and ones"),
        (lambda: dl.RBM(3, 6).free_energy(X + 1), r"expected \[0, 1\]"),
        (lambda: dl.RBM(3, 6).transform(X[:, :4]), r"expected \(6,\)"),
        (lambda: dl.RBM(3, 6).build((None, 5)), "6 visible units"),
        (lambda: dl.RBM(3).build((8, 8)), "reshape"),
        (lambda: dl.DBN([3, dl.RBM(2)]).build((1, 8, 8)), "reshape"),
        (lambda: dl.DBN([]), "hidden units"),
        (lambda: dl.DBN([4, 0]), "hidden units of layer 2=0"),
        (lambda: dl.DBN([4, dl.RBM(3, kind="gaussian")]), "expected 4 Bernoulli"),
        (lambda: dl.DBN([4, dl.RBM(3, 5)]), "expected 4 Bernoulli"),
        (lambda: dl.DBN([4]).to_classifier(3), "before pretrain"),
        (lambda: dl.DBN([4]).to_autoencoder(), "before pretrain"),
        (lambda: dl.DBN([4]).pretrain(X), "before compile"),
        (lambda: dl.DBN([4]).sample(3), "before the shapes are known"),
        (lambda: pretrained(iter([X])), "can be read once"),
        (lambda: pretrained(fitting={"epochs": 0}), "epochs=0"),
        (lambda: pretrained(fitting={"epochs": [1, 2, 3]}), "for 2 layers"),
        (lambda: pretrained(X * 2), r"expected \[0, 1\]"),
        (lambda: pretrained()[0].to_classifier(1), "classes=1"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        make()
    assert re.search("expected|Choose from|Expected", str(caught.value))
    assert len(str(caught.value)) <= 600
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert sum("/easydl/" in frame.filename for frame in frames) <= 6


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X * 16, r"x holds numbers from .* to .*; expected \[0, 1\]"),
        (X - 0.5, r"expected \[0, 1\]"),
        (torch.full((4, 6), math.nan), "holds nan"),
        (torch.zeros(4, 1, 8, 8), "reshape"),
        (torch.zeros(0, 6), "no samples|0 samples|empty"),
        (DataLoader(TensorDataset(X * 2), batch_size=10), r"expected \[0, 1\]"),
    ],
    ids=["0..16", "negative", "nan", "pictures", "empty", "loader"],
)
def test_rows_that_binary_units_cannot_be_are_refused_before_the_first_step(x, message):
    dl.seed(0)
    rbm = dl.RBM(3)
    rbm.compile("sgd")
    with pytest.raises(ValueError, match=message):
        rbm.fit(x, verbose=0)
    if rbm.is_built:
        assert torch.equal(rbm.hidden_bias, torch.zeros(3))
    rbm = dl.RBM(3)
    rbm.compile("sgd")
    rbm.fit(X, verbose=0)


def test_a_loss_or_metrics_are_refused():
    for given in ({"loss": "mse"}, {"metrics": ["mae"]}):
        rbm = dl.RBM(3)
        with pytest.raises(ValueError, match="loss"):
            rbm.compile("sgd", **given)
            rbm.fit(X, verbose=0)
    dbn = dl.DBN([3])
    dbn.compile("sgd")
    with pytest.raises(ValueError, match="pretrain"):
        dbn.fit(X, verbose=0)


def test_float64_goes_out_as_it_is_and_draws_nothing():
    rbm = dl.RBM(3, 5).double()
    rbm._has_learned = True
    before = torch.get_rng_state()
    plain = rbm.to_torch()
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.rand(4, 5, dtype=torch.float64)
    assert torch.equal(plain(x), rbm(x)) and plain(x).dtype == torch.float64


def test_mixed_precision_leaves_the_free_energy_and_sparsity_their_digits():
    dl.seed(0)
    rbm = dl.RBM(400, 30, sparsity=0.1, k=1)
    with torch.no_grad():
        rbm.weight.normal_()
        rbm.hidden_bias[0] = 30.0  # a unit that is always on
    x = (torch.rand(50, 30) > 0.5).float()
    logged = {}
    for precision in ("float32", "bfloat16"):
        rbm.compile(dl.optimizers.SGD(0.0), precision=precision)
        dl.seed(1)
        logged[precision] = rbm.fit(x, batch_size=50, verbose=0).history
    energy = [logged[p]["free_energy"][0] for p in ("float32", "bfloat16")]
    assert abs(energy[1] - energy[0]) < 1e-3 * abs(energy[0])
    assert np.isfinite(logged["bfloat16"]["sparsity_loss"][0])
