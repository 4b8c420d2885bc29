"""The semi-supervised VAE: its objective by brute force, and a model like the others."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.distributions as td
from helpers import Stop
from torch.utils.data import DataLoader, TensorDataset

import easydl as dl

K, LATENT = 3, 2
X = torch.rand(12, 5, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, -1, -1, 0, -1, 1, 2, -1, -1, -1])


def model_of(seed=0, **arguments):
    dl.seed(seed)
    model = dl.SemiSupervisedVAE(
        **{
            "encoder": [dl.Dense(6, "tanh")],
            "decoder": [dl.Dense(6, "tanh"), dl.Dense(5)],
            "classifier": [dl.Dense(6, "tanh")],
            "classes": K,
            "latent": LATENT,
            "alpha": 0.7,
            **arguments,
        }
    )
    model.compile("adam")
    return model


def built(**arguments):
    model = model_of(**arguments)
    model.build((5,))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.7)
    return model


def by_hand(model, x, y, noise):
    """(loss, classification) of each row: every row and class by itself, as in the paper."""
    found = []
    for n in range(len(x)):
        row = x[n : n + 1]
        q = td.Categorical(logits=model.logits(model.classifier(row))[0])
        minus_l = []
        for label in range(K):
            one_hot = torch.zeros(1, K)
            one_hot[0, label] = 1
            inner = model.encoder(torch.cat([row, one_hot], 1))
            posterior = td.Normal(model.mean(inner), (0.5 * model.log_variance(inner)).exp())
            z = posterior.mean + posterior.stddev * noise[n, label]
            outputs = model.decoder(torch.cat([z, one_hot], 1))
            if model.likelihood == "gaussian":
                shown = td.Normal(outputs, (0.5 * model.output_log_variance).exp())
            else:
                shown = td.Bernoulli(logits=outputs, validate_args=False)
            kl = td.kl_divergence(posterior, td.Normal(0.0, 1.0)).sum()
            minus_l.append(-shown.log_prob(row).sum() + np.log(K) + kl)
        if y[n] >= 0:
            classification = -q.log_prob(y[n])
            found.append((minus_l[int(y[n])] + model.alpha * classification, classification))
        else:
            total = sum(p * term for p, term in zip(q.probs, minus_l)) - q.entropy()
            found.append((total, torch.zeros(())))
    return torch.stack([f[0] for f in found]), torch.stack([f[1] for f in found])


# -- the objective -------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("labels", ["some", "all", "none"])
def test_the_loss_is_the_sum_over_classes_by_hand(likelihood, labels):
    model = built(likelihood=likelihood)
    y = {"some": Y, "all": Y % K, "none": torch.full_like(Y, -1)}[labels]
    dl.seed(5)
    loss, logits, parts = model.compute_loss(X, y)
    dl.seed(5)
    noise = torch.randn(len(X) * K, LATENT).reshape(len(X), K, LATENT)
    losses, classification = by_hand(model, X, y, noise)
    torch.testing.assert_close(loss, losses.mean(), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(parts["classification_loss"], classification.mean())
    total = parts["reconstruction_loss"] + parts["kl_loss"] + 0.7 * parts["classification_loss"]
    torch.testing.assert_close(total, loss)
    torch.testing.assert_close(logits.softmax(1), model(X))
    weights = torch.arange(12.0)
    dl.seed(5)
    weighted = model.compute_loss(X, y, weights)[0]
    torch.testing.assert_close(weighted, (weights * losses).mean(), rtol=1e-6, atol=1e-4)


def test_the_gradient_is_that_of_the_sum_by_hand():
    model = built()
    dl.seed(5)
    own = torch.autograd.grad(model.compute_loss(X, Y)[0], list(model.parameters()))
    dl.seed(5)
    noise = torch.randn(len(X) * K, LATENT).reshape(len(X), K, LATENT)
    other = torch.autograd.grad(by_hand(model, X, Y, noise)[0].mean(), list(model.parameters()))
    for one, two in zip(own, other):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_the_unlabelled_bound_lies_below_the_likelihood():
    """log p(x) of a model with one binary pixel and known codes, by summing over y and z."""
    model = built(
        decoder=[dl.Dense(5)], encoder=[dl.Dense(4, "tanh")], latent=1, likelihood="bernoulli"
    )
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=5)))
    grid = torch.linspace(-8, 8, 2001)
    prior = td.Normal(0.0, 1.0).log_prob(grid).exp() * (grid[1] - grid[0])
    likelihood = torch.zeros(len(bits))
    with torch.no_grad():
        for label in range(K):
            one_hot = torch.nn.functional.one_hot(torch.tensor(label), K).expand(len(grid), K)
            logits = model.decoder(torch.cat([grid[:, None], one_hot], 1))
            for n, row in enumerate(bits):
                fits = td.Bernoulli(logits=logits).log_prob(row).sum(1).exp()
                likelihood[n] += (prior * fits).sum() / K
    assert float(likelihood.sum()) == pytest.approx(1, abs=1e-4)  # a distribution over all 32
    unlabelled = torch.full((len(bits),), -1)
    with torch.no_grad():
        draws = torch.stack([-model.compute_loss(bits, unlabelled)[0] for _ in range(300)])
    exact = likelihood.log().mean()
    assert draws.mean() + 3 * draws.std() / 300**0.5 < exact


# -- learning ------------------------------------------------------------------------------------


def test_unlabelled_rows_tell_the_classes_apart():
    """Two clusters, one label in each: the bound draws the border where the rows are few."""
    g = torch.Generator().manual_seed(0)
    truth = torch.arange(200) % 2
    centres = torch.tensor([[-1.0, 0.0], [1.0, 0.6]])
    x = centres[truth] + 0.3 * torch.randn(200, 2, generator=g)
    y = torch.full((200,), -1)
    y[:2] = truth[:2]
    dl.seed(0)
    model = dl.SemiSupervisedVAE(
        [dl.Dense(8, "tanh")], [dl.Dense(2)], [], classes=2, latent=1, likelihood="gaussian",
        alpha=20.0,
    )  # fmt: skip
    model.compile(dl.optimizers.Adam(0.02))
    model.fit(x, y, batch_size=50, epochs=40, verbose=0)
    assert (model.predict_classes(x) == truth.numpy()).mean() > 0.97
    samples = model.sample(500, label=1)
    np.testing.assert_allclose(samples.mean(0), centres[1], atol=0.25)


def test_fit_is_a_plain_torch_loop():
    model, twin = model_of(), model_of()
    for one in (model, twin):
        dl.seed(2)
        one.build((5,))
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3, eps=1e-7)
    dl.seed(3)
    model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    dl.seed(3)
    for _ in range(2):
        for x, y in zip(X.split(4), Y.split(4)):
            optimizer.zero_grad()
            twin.compute_loss(x, y)[0].backward()
            optimizer.step()
    for own, other in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_allclose(own, other, atol=2e-6)


@pytest.mark.parametrize("source", ["numpy", "floats", "column", "dataset", "loader", "generator"])
def test_every_source_trains_alike(source):
    data = TensorDataset(X, Y)
    given = {
        "numpy": (X.double().numpy(), Y.numpy().astype("int32")),
        "floats": (X, Y.float()),
        "column": (X, Y[:, None]),
        "dataset": (data,),
        "loader": (DataLoader(data, batch_size=4, generator=torch.Generator()),),
        "generator": (((X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8)),),
    }[source]
    found = []
    for arrays in ((X, Y), given):
        model = model_of()
        dl.seed(3)
        steps = {"steps_per_epoch": 3} if source == "generator" and arrays is given else {}
        model.fit(*arrays, batch_size=4, shuffle=False, verbose=0, **steps)
        found.append(model.get_weights())
    for own, other in zip(*found):
        np.testing.assert_array_equal(own, other)


def test_predictions_history_and_evaluation():
    model = model_of()
    history = model.fit(X, Y, epochs=2, validation_data=(X[:3], Y[:3]), verbose=0).history
    parts = ["loss", "reconstruction_loss", "kl_loss", "classification_loss"]
    assert list(history) == parts + [f"val_{part}" for part in parts]
    probabilities = model.predict(X)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(model.predict_classes(X), probabilities.argmax(1))
    assert list(model.evaluate(X, Y, verbose=0, return_dict=True)) == parts
    unlabelled = np.full(12, -1)  # allowed once some labels were seen
    assert model.evaluate(X, unlabelled, verbose=0, return_dict=True)["classification_loss"] == 0
    assert "logits (Dense)" in model.summary(print_fn=None)


def test_samples_and_analogies():
    model = built()
    dl.seed(1)
    one = model.sample(4, label=1)
    dl.seed(1)
    np.testing.assert_array_equal(one, model.sample(4, label=[1, 1, 1, 1]))
    dl.seed(1)
    assert not np.allclose(one, model.sample(4, label=2))
    assert one.min() > 0 and one.max() < 1
    assert set(np.unique(model.sample(50, noise=True))) == {0, 1}
    assert built(likelihood="gaussian").sample(4, noise=True).shape == (4, 5)
    rows = model.analogies(X)
    label = int(model(X)[3].argmax())
    with torch.no_grad():
        one_hot = torch.eye(K)
        z = model.mean(model.encoder(torch.cat([X[3], one_hot[label]])[None]))
        for k in range(K):
            shown = model.decoder(torch.cat([z, one_hot[k : k + 1]], 1)).sigmoid()
            np.testing.assert_allclose(rows[3, k], shown[0], atol=1e-6)


def test_pictures_and_the_codes_of_a_vae():
    pictures = torch.rand(12, 1, 4, 4)
    model = model_of(
        decoder=[dl.Dense(16), dl.Reshape((1, 4, 4))],
        classifier=[dl.Conv2D(2, 3, activation="relu")],
    )
    model.fit(pictures, Y, verbose=0)
    assert model.predict(pictures).shape == (12, K)
    assert model.sample(2).shape == (2, 1, 4, 4)
    assert model.analogies(pictures).shape == (12, K, 1, 4, 4)
    vae = dl.VAE([dl.Dense(6)], [dl.Dense(5)], latent=4)  # M1 + M2, as the docstring says
    vae.compile("adam")
    vae.fit(X, verbose=0)
    codes = vae.encode(X)[0]
    model = model_of(decoder=[dl.Dense(4)], likelihood="gaussian")
    model.fit(codes, Y, verbose=0)
    assert vae.decode(model.sample(3, label=2)).shape == (3, 5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_save_and_load_go_on_to_the_same_bits(tmp_path, likelihood):
    model = model_of(likelihood=likelihood)
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0)
    model.save(tmp_path / "m.easydl")
    other = dl.load_model(tmp_path / "m.easydl")
    np.testing.assert_array_equal(model.predict(X), other.predict(X))
    for one in (model, other):
        dl.seed(4)
        one.fit(X, Y, batch_size=4, epochs=2, verbose=0)
    for own, loaded in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(own, loaded)


def test_training_stopped_amid_an_epoch_goes_on_to_the_same_bits(tmp_path):
    def train(folder, after=0):
        model = model_of()
        backup = dl.callbacks.BackupAndRestore(folder, save_freq=1, delete_checkpoint=False)
        model.fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=[Stop(after), backup])
        return model.get_weights()

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "a", 5)
    for own, whole in zip(train(tmp_path / "a"), train(tmp_path / "b")):
        np.testing.assert_array_equal(own, whole)


def test_mixed_precision_keeps_the_terms_whole():
    model = model_of()
    model.compile("adam", precision="bfloat16")
    model.build((5,))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _, parts = model.compute_loss(X, Y)
    assert {loss.dtype, *(part.dtype for part in parts.values())} == {torch.float32}


@pytest.mark.slow
def test_jit_trains_as_eagerly():
    found = []
    for jit in (False, True):
        model = model_of()
        model.compile("adam", jit=jit, steps_per_execution=2 if jit else "auto")
        dl.seed(3)
        model.fit(X.repeat(4, 1), Y.repeat(4), batch_size=4, epochs=2, verbose=0)
        found.append(model.get_weights())
    for own, other in zip(*found):
        np.testing.assert_allclose(own, other, atol=1e-5)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"classes": 1}, "classes=1"),
        ({"latent": 0}, "latent=0"),
        ({"alpha": -1}, "alpha=-1"),
        ({"likelihood": "normal"}, "unknown likelihood"),
        ({"decoder": []}, r"decoder=\[\] was given"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        model_of(**arguments)


@pytest.mark.parametrize("source", ["arrays", "loader"])
@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X, None, "y=None was given; expected a class for each row, 0 … 2, and -1"),
        (X, Y + 1, "y holds 3 in row 2; expected classes 0 … 2"),
        (X, Y - 1, "y holds -2 in row 3"),
        (X, Y + 0.5, "y holds 0.5 in row 0"),
        (X, torch.eye(12, 3), r"one-hot rows write y.argmax\(1\)"),
        (X, torch.full_like(Y, -1), "holds no label, only -1"),
        (X * 2, Y, "Bernoulli likelihood expects 0 to 1"),
        (X[:, :, None].expand(12, 5, 2), Y, "the decoder gives samples of shape"),
    ],
)
def test_bad_data_are_refused_before_the_first_step(x, y, words, source):
    model = model_of()
    if source == "loader":
        if y is not None and bool((y == -1).all()):
            pytest.skip("a stream may have its labels later")
        x = DataLoader(TensorDataset(x) if y is None else TensorDataset(x, y), batch_size=12)
        y = None
    with pytest.raises(ValueError, match=words) as error:
        model.fit(x, y, verbose=0)
    assert len(str(error.value)) <= 600
    if model.optimizer is not None:
        assert not model.optimizer.state


def test_what_does_not_fit_the_model_is_refused():
    model = model_of()
    with pytest.raises(ValueError, match="sample was called before the shapes are known"):
        model.sample(3)
    model.fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match="built for samples of shape"):
        model.predict(torch.rand(3, 4))
    for label in (3, -1, 0.5, [0, 1], "one"):
        with pytest.raises((ValueError, TypeError), match="label="):
            model.sample(3, label=label)
    with pytest.raises(ValueError, match="expected none: compile"):
        model.compile("adam", "mse")
    model = model_of(decoder=[dl.Dense(5, "relu")])
    with pytest.raises(ValueError, match="decoder ends in ReLU"):
        model.fit(X, Y, verbose=0)


def test_a_split_that_leaves_training_no_label_is_refused():
    labels = torch.full((len(X),), -1)
    labels[-2:] = 1
    with pytest.raises(ValueError, match="y of the training part holds no label"):
        model_of().fit(X, labels, validation_split=0.5, verbose=0)


def test_the_classifier_goes_out_as_plain_torch():
    model = model_of()
    model.fit(X, Y, verbose=0)
    plain = model.to_torch().eval()
    assert not any(type(part).__module__.startswith("easydl") for part in plain.modules())
    np.testing.assert_array_equal(plain(X).detach().numpy(), model.predict(X))
