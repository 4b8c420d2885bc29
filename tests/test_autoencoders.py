"""Autoencoders, against PCA, plain torch loops, autograd's Jacobian and each other."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers import Stop
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader, TensorDataset

import easydl as dl
from easydl.autoencoders.family import squared_jacobian

X = torch.rand(50, 8, generator=torch.Generator().manual_seed(1))


def small(kind=dl.Autoencoder, seed=0, **arguments):
    dl.seed(seed)
    if "decoder" not in arguments:
        arguments.setdefault("output_activation", "sigmoid")
    return kind([dl.Dense(6, "tanh", input_dim=8), dl.Dense(3, "sigmoid")], **arguments)


def pictures(**arguments):
    dl.seed(0)
    return dl.Autoencoder(
        [dl.Conv2D(4, 3, strides=2, padding="same", activation="relu"), dl.Conv2D(2, 3)],
        [dl.Conv2DTranspose(4, 3), dl.Conv2DTranspose(1, 2, strides=2, activation="sigmoid")],
        **arguments,
    )


def fitted(model, x=X, optimizer="adam", loss="mse", **arguments):
    model.compile(optimizer, loss)
    model.fit(x, verbose=0, **({"epochs": 1} | arguments))
    return model


def same(one, other):
    for own, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(
            torch.as_tensor(own).detach(), torch.as_tensor(theirs).detach()
        )


# -- what is known exactly ------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_a_linear_autoencoder_spans_the_subspace_of_pca(tied):
    rows = np.random.default_rng(0).normal(size=(200, 3)) * [3, 2, 1.5]
    mixing = np.random.default_rng(1).normal(size=(3, 10)) / 3
    rows = rows @ mixing + 0.3 * np.random.default_rng(2).normal(size=(200, 10))
    rows = (rows - rows.mean(0)).astype("float32")
    dl.seed(0)
    model = dl.Autoencoder([dl.Dense(3)], tied=tied)
    rate = dl.optimizers.schedules.OneCycle(0.05, 800)
    model.compile(dl.optimizers.Adam(rate), "mse")
    model.fit(rows, batch_size=100, epochs=400, verbose=0)
    pca = PCA(3).fit(rows)
    spanned = model.decode(np.eye(3, dtype="float32")) - model.decode(np.zeros((1, 3), "float32"))
    angle = np.degrees(subspace_angles(spanned.T, pca.components_.T).max())
    error = ((model.predict(rows) - rows) ** 2).mean()
    best = ((pca.inverse_transform(pca.transform(rows)) - rows) ** 2).mean()
    assert angle <= 1
    assert best * 0.9999 <= error <= best * 1.01


class ByHand(nn.Module):
    """x' = σ(Vσ(W₂tanh(W₁x + b₁) + b₂) …) with torch alone; V are own weights or W, transposed."""

    def __init__(self, model):
        super().__init__()
        self.layers = nn.ParameterList(
            nn.Parameter(p.detach().clone()) for p in model.encoder.parameters()
        )
        self.back = nn.ParameterList(
            nn.Parameter(p.detach().clone()) for p in model.decoder.parameters()
        )

    def forward(self, x):
        w1, b1, w2, b2 = self.layers
        z = F.linear(torch.tanh(F.linear(x, w1, b1)), w2, b2).sigmoid()
        v2, d2, v1, d1 = (
            self.back if len(self.back) == 4 else (w2.t(), self.back[0], w1.t(), self.back[1])
        )
        return F.linear(torch.tanh(F.linear(z, v2, d2)), v1, d1).sigmoid()


def masked(x):
    return torch.where(torch.rand_like(x) >= 0.3, x, 0.0)


def salted(x):
    draw = torch.rand_like(x)
    return torch.where(draw < 0.1, 0.0, torch.where(draw < 0.2, 1.0, x))


NOISES = {
    "none": (None, lambda x: x),
    "masking": (0.3, masked),
    "salt and pepper": (dl.SaltAndPepperNoise(0.2), salted),
    "gaussian": (dl.GaussianNoise(0.3), lambda x: x + 0.3 * torch.randn_like(x)),
    "a function": (lambda x: x * 0.5, lambda x: x * 0.5),
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("noise", NOISES)
def test_it_trains_as_a_plain_loop_does(noise, tied):
    layer, corrupt = NOISES[noise]
    model = small(noise=layer, tied=tied)
    model.build((8,))
    plain = ByHand(model)
    model.compile(dl.optimizers.SGD(0.5), "mse")
    torch.manual_seed(7)
    model.fit(X, batch_size=8, epochs=3, shuffle=False, verbose=0)
    torch.manual_seed(7)
    optimizer = torch.optim.SGD(plain.parameters(), 0.5)
    for _ in range(3):
        for x in X.split(8):
            optimizer.zero_grad()
            F.mse_loss(plain(corrupt(x)), x).backward()
            optimizer.step()
    same(model.encoder.parameters(), plain.layers)
    same(model.decoder.parameters(), plain.back)


@pytest.mark.parametrize("kind", ["one sigmoid layer", "deep", "pictures"])
def test_the_contractive_penalty_is_that_of_autograds_jacobian(kind):
    x = X[:6] if kind != "pictures" else torch.rand(3, 1, 8, 8)
    model = pictures() if kind == "pictures" else small()
    if kind == "one sigmoid layer":
        model = dl.Autoencoder([dl.Dense(4, "sigmoid")])
    model.build(x.shape[1:])
    jacobian = torch.autograd.functional.jacobian
    rows = [jacobian(lambda row: model.encoder(row[None])[0], row).square().sum() for row in x]
    torch.testing.assert_close(squared_jacobian(model.encoder, x), torch.stack(rows))
    if kind == "one sigmoid layer":  # Rifai et al. 2011, equation 7
        h = model.encoder(x)
        closed = ((h * (1 - h)) ** 2 @ model.encoder[0].weight.square().sum(1)).mean()
        found = squared_jacobian(model.encoder, x).mean()
        torch.testing.assert_close(found, closed)
        weight = model.encoder[0].weight
        by_function, by_formula = (torch.autograd.grad(v, weight)[0] for v in (found, closed))
        torch.testing.assert_close(by_function, by_formula)


def test_the_contractive_penalty_is_part_of_the_loss_and_logged():
    with_it, without = small(contractive=0.5), small()
    for model in (with_it, without):
        model.build((8,))
        model.compile("sgd", "mse")
    expected = 0.5 * squared_jacobian(without.encoder, X).mean().item()
    found = with_it.evaluate(X, verbose=0, return_dict=True)
    assert found["contractive_loss"] == pytest.approx(expected)
    assert found["loss"] == pytest.approx(without.evaluate(X, verbose=0) + expected)
    history = with_it.fit(X, epochs=20, validation_split=0.2, verbose=0).history
    without.fit(X, epochs=20, validation_split=0.2, verbose=0)
    assert set(history) == {"loss", "contractive_loss", "val_loss", "val_contractive_loss"}
    sizes = [squared_jacobian(m.encoder, X).mean().item() for m in (with_it, without)]
    assert sizes[0] < sizes[1]


def test_sparse_codes_by_the_penalties_of_their_layer():
    means = {}
    for penalty in (None, "l1", dl.regularizers.KLSparsity(0.05, weight=1.0)):
        dl.seed(0)
        model = dl.Autoencoder(
            [dl.Dense(6, "sigmoid", activity_regularizer=penalty)], [dl.Dense(8, "sigmoid")]
        )
        fitted(model, optimizer=dl.optimizers.Adam(0.05), epochs=60)
        means[str(penalty)] = model.encode(X).mean()
    none, l1, kl = means.values()
    assert l1 < none / 2
    assert abs(kl - 0.05) < 0.02


# -- noise ------------------------------


def test_masking_sets_to_zero_and_scales_nothing():
    x = torch.full((400, 100), 0.7)
    made = dl.MaskingNoise(0.3)(x)
    assert made.unique().tolist() == pytest.approx([0, 0.7])
    assert (made == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)


def test_salt_and_pepper_are_equally_many():
    x = torch.full((400, 100), 0.5)
    made = dl.SaltAndPepperNoise(0.4, low=-1, high=2)(x)
    assert made.unique().tolist() == [-1, 0.5, 2]
    for value in (-1, 2):
        assert (made == value).float().mean().item() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("layer", [dl.MaskingNoise(0.3), dl.SaltAndPepperNoise(0.4)])
def test_noise_layers_are_still_in_evaluation_and_become_torch(layer):
    x = torch.rand(20, 5)
    plain = layer.to_torch()
    torch.manual_seed(0)
    made = layer.train()(x)
    torch.manual_seed(0)
    dropped = plain.train()(x)
    assert not torch.equal(made, x)
    assert torch.equal(made, dropped)
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(plain.eval()(x), x)
    assert all(not type(part).__module__.startswith("easydl") for part in plain.modules())


def test_noise_is_in_training_alone_and_the_target_is_clean():
    seen, targets = [], []

    def blank(x):
        seen.append(len(x))
        return x.zero_()  # in place: the batch, which is the target as well, must not change

    def loss(y_pred, y_true):
        targets.append(y_true.clone())
        return (y_pred - y_true).square().mean()

    model = small(noise=blank)
    model.compile("sgd", loss)
    model.fit(X.clone(), batch_size=10, shuffle=False, validation_split=0.2, verbose=0)
    assert seen == [10] * 4
    assert torch.equal(torch.cat([t for t in targets if len(t) == 10])[:40], X[:40])
    model.evaluate(X, verbose=0)
    model.predict(X), model.encode(X), model.decode(model.encode(X))
    assert seen == [10] * 4


@pytest.mark.parametrize("kind", [dl.Autoencoder, dl.DenoisingAutoencoder])
@pytest.mark.parametrize(
    ("noise", "says"),
    [
        (1.0, r"noise=1 was given; expected a number in \[0, 1\)"),
        (-0.1, "noise=-0.1"),
        (float("nan"), "noise=nan"),
        ("gaussian", r"GaussianNoise\(0.3\)"),
        (True, "noise=True"),
        (dl.GaussianNoise, r"noise=GaussianNoise\(0.3\)"),
    ],
)
def test_noise_out_of_its_range_is_refused(kind, noise, says):
    with pytest.raises(ValueError, match=says):
        small(kind, noise=noise)
    for make in (dl.MaskingNoise, dl.SaltAndPepperNoise):
        with pytest.raises(ValueError, match="rate=1"):
            make(1)


@pytest.mark.parametrize("noise", [lambda x: x[:1], lambda x: None, lambda x: x.sum()])
def test_noise_of_another_shape_is_refused_before_a_step(noise):
    model = small(noise=noise)
    model.build((8,))
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"noise made .* expected a tensor of the same shape"):
        fitted(model)
    same(model.get_weights(), before)


# -- the two halves ------------------------------


@pytest.mark.parametrize("place", ["whole", "decoder", "subclass"])
def test_hooks_and_a_decoder_s_own_forward_see_probabilities(place):
    class Own(dl.Sequential):
        def forward(self, x):
            seen.append(super().forward(x))
            return seen[-1]

    seen = []
    kind = Own if place == "subclass" else dl.Sequential
    model = dl.Autoencoder([dl.Dense(3)], kind([dl.Dense(8, "sigmoid")]))
    model.compile("sgd", "binary_crossentropy")
    if place != "subclass":
        part = model if place == "whole" else model.decoder
        part.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs))
    loss = model.evaluate(X, batch_size=len(X), verbose=0)
    assert seen[-1].min() >= 0 and seen[-1].max() <= 1
    expected = torch.nn.functional.binary_cross_entropy(seen[-1], X)
    assert loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("make", "tied"), [(small, False), (small, True), (pictures, False)])
def test_encode_and_decode_are_the_halves_of_predict(make, tied):
    x = X if make is small else torch.rand(9, 1, 8, 8)
    model = fitted(make(noise=0.3, tied=tied), x)
    model.train()
    codes = model.encode(x)
    assert isinstance(codes, np.ndarray) and codes.dtype == np.float32
    assert codes.shape == ((50, 3) if make is small else (9, 2, 2, 2))
    close = np.testing.assert_allclose  # rows in other batches round otherwise
    close(model.decode(codes), model.predict(x), atol=1e-6)
    close(codes, model.encode(x.double().numpy(), batch_size=4), atol=1e-6)
    assert model.training and model.encoder.training
    same([model.to_torch().eval()(x)], [model.eval()(x)])


def test_encode_takes_what_fit_takes():
    table = pd.DataFrame(X.numpy(), columns=list("abcdefgh"))
    model = fitted(small(), table)
    expected = model.encode(X)
    same([model.encode(table[list("hgfedcba")])], [expected])
    loader = DataLoader(TensorDataset(X), batch_size=16)
    np.testing.assert_allclose(model.encode(loader), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="expects"):
        model.encode(X[:, :5])
    with pytest.raises(ValueError, match="expects"):
        model.decode(X)
    with pytest.raises(ValueError, match="nan"):
        model.encode(X / 0 * 0)


def test_a_loader_trains_as_arrays_do():
    rows = fitted(small(), X, batch_size=10, epochs=2, shuffle=False)
    loader = fitted(small(), DataLoader(TensorDataset(X), batch_size=10), epochs=2)
    same(rows.get_weights(), loader.get_weights())


def test_metrics_validation_and_logits():
    model = small(tied=True)
    model.compile("adam", "binary_crossentropy", metrics=["mae"])
    history = model.fit(X, epochs=2, validation_split=0.2, verbose=0).history
    assert set(history) == {"loss", "mae", "val_loss", "val_mae"}
    found, expected = model.predict(X), X.numpy()
    loss = F.binary_cross_entropy(torch.from_numpy(found), X).item()
    assert model.evaluate(X, verbose=0) == pytest.approx([loss, abs(found - expected).mean()])


def test_a_classifier_shares_the_layers_of_the_encoder():
    labels = torch.arange(50) % 4
    model = fitted(small())
    classifier = model.to_classifier(4)
    assert classifier.layers[:2] == model.encoder.layers
    assert type(classifier) is dl.Sequential
    before = model.encode(X)
    classifier.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    classifier.fit(X, labels, verbose=0)
    assert classifier.predict(X).shape == (50, 4)
    assert not np.array_equal(model.encode(X), before)
    model.encoder.trainable = False
    before = model.encode(X)
    classifier.fit(X, labels, verbose=0)
    same([model.encode(X)], [before])
    flat = fitted(pictures(), torch.rand(9, 1, 8, 8)).to_classifier(3)
    assert flat.output_shape == (None, 3)


def test_a_classifier_before_any_fit_is_refused(tmp_path):
    model = small()
    model.build((8,))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"before any fit.*expected model.fit\(x\)"):
            model.to_classifier(4)
        with pytest.warns(UserWarning) if _ == 0 else nullcontext():
            model.predict(X)
    fitted(small()).save_weights(tmp_path / "w.safetensors")
    model.load_weights(tmp_path / "w.safetensors")
    assert model.to_classifier(4).output_shape == (None, 4)
    for classes in (1, 0, 2.5, "ten"):
        with pytest.raises(ValueError, match="classes="):
            model.to_classifier(classes)


def test_the_halves_warn_before_any_fit():
    model = dl.Autoencoder([dl.Dense(3)], [dl.Dense(8)])
    with pytest.raises(ValueError, match="decode was called before"):
        model.decode(np.zeros((2, 3)))
    with pytest.warns(UserWarning, match="encode was called before fit"):
        model.encode(X)


def test_the_summary_shows_the_layers_of_both():
    model = pictures(noise=0.3)
    text = model.summary((1, 8, 8), print_fn=None)
    assert "conv2d_transpose (Conv2DTranspose)" in text and "(None, 1, 8, 8)" in text
    assert f"{sum(p.numel() for p in model.parameters()):,}" in text
    assert model.get_layer("conv2d_1") is model.encoder[1]


# -- files ------------------------------

MODELS = {
    "mirrored": lambda: small(contractive=0.1),
    "tied": lambda: small(tied=True),
    "masking": lambda: small(dl.DenoisingAutoencoder),
    "salt and pepper": lambda: small(
        dl.DenoisingAutoencoder, noise=dl.SaltAndPepperNoise(0.1, 0, 2)
    ),
    "own decoder": lambda: small(decoder=dl.Sequential([dl.Dense(5, "relu"), dl.Dense(8)])),
    "sparse": lambda: dl.Autoencoder(
        [dl.Dense(3, "sigmoid", activity_regularizer=dl.regularizers.KLSparsity(0.1))]
    ),
    "stacked": lambda: dl.StackedAutoencoder([6, 3], "tanh", noise=0.2, tied=True),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_goes_on_to_the_same_bits(name, tmp_path):
    dl.seed(0)
    model = fitted(MODELS[name]())
    model.save(tmp_path / "m.easydl")
    other = dl.load_model(tmp_path / "m.easydl")
    assert type(other) is type(model)
    assert other.get_config().keys() == model.get_config().keys()
    same([other.predict(X), other.encode(X)], [model.predict(X), model.encode(X)])
    for each in (model, other):
        torch.manual_seed(3)
        each.fit(X, epochs=2, verbose=0)
    same(other.get_weights(), model.get_weights())
    if model.tied:
        assert len(other.state_dict()) == 6
    assert other.to_classifier(3).output_shape == (None, 3)


@pytest.mark.parametrize("name", ["tied", "masking"])
def test_an_interrupted_training_goes_on_amid_the_epoch(name, tmp_path):
    def train(*callbacks):
        dl.seed(0)
        model = MODELS[name]()
        model.compile("adam", "mse")
        model.fit(X, batch_size=5, epochs=3, verbose=0, callbacks=list(callbacks))
        return model.get_weights()

    backup = dl.callbacks.BackupAndRestore
    with pytest.raises(KeyboardInterrupt):
        train(backup(tmp_path, save_freq=3), Stop(16))
    again = train(backup(tmp_path, save_freq=3), Stop(0))
    same(again, train())


@pytest.mark.parametrize("name", ["tied", "own decoder"])
def test_export_writes_the_network_without_the_noise(name, tmp_path):
    model = fitted(MODELS[name]())
    model.export(tmp_path / "m.pt2")
    program = torch.export.load(tmp_path / "m.pt2")
    np.testing.assert_allclose(program.module()(X).detach(), model.predict(X), atol=1e-6)
    with pytest.raises(ValueError, match="plain PyTorch"):
        model.source()


# -- layer by layer ------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_pretraining_is_an_autoencoder_a_layer_on_the_codes_below(tied):
    dl.seed(0)
    model = dl.StackedAutoencoder([6, 4, 2], noise=0.2, tied=tied)
    model.compile(dl.optimizers.Adam(0.01), "mse")
    model.build((8,))
    start = model.state_dict()
    start = {name: value.clone() for name, value in start.items()}
    torch.manual_seed(5)
    histories = model.pretrain(X, batch_size=10, epochs=2, verbose=0)
    torch.manual_seed(5)
    codes = X
    for number, width in enumerate([6, 4, 2]):
        state = torch.get_rng_state()  # pretraining draws no weights
        level = dl.DenoisingAutoencoder(
            [dl.Dense(width, "sigmoid")], noise=0.2, tied=tied, output_activation="sigmoid"
        )
        level.build(codes.shape[1:])
        back = f"decoder.{2 - number}."
        for part, prefix in ((level.encoder[0], f"encoder.{number}."), (level.decoder[0], back)):
            part.load_state_dict({k: start[prefix + k] for k in part.state_dict()})
        level.compile(dl.optimizers.Adam(0.01), "mse")
        torch.set_rng_state(state)
        history = level.fit(codes, batch_size=10, epochs=2, verbose=0)
        assert histories[number].history == history.history
        same(level.encoder[0].state_dict().values(), model.encoder[number].state_dict().values())
        same(
            level.decoder[0].state_dict().values(), model.decoder[2 - number].state_dict().values()
        )
        codes = level.encode(codes)
    same([model.encode(X)], [codes])
    assert len(model.fit(X, verbose=0).history["loss"]) == 1
    assert model.to_classifier(3).layers[0] is model.encoder[0]


def test_pretraining_takes_the_arguments_of_fit(tmp_path):
    def train(epochs):
        dl.seed(0)
        model = dl.StackedAutoencoder([6, 3])
        model.compile("adam", "mse", metrics=["mae"])
        stop = dl.callbacks.EarlyStopping("val_mae", patience=50)
        histories = model.pretrain(
            DataLoader(TensorDataset(X), batch_size=10), epochs=epochs, verbose=0, callbacks=[stop],
            validation_data=X[:20], checkpoint=tmp_path / "layers",
        )  # fmt: skip
        return model, histories

    model, histories = train(2)
    assert [set(h.history) for h in histories] == [{"loss", "mae", "val_loss", "val_mae"}] * 2
    assert sorted(p.name for p in (tmp_path / "layers").iterdir()) == ["layer_1", "layer_2"]
    with pytest.warns(UserWarning, match="nothing is left to train"):
        again, _ = train(2)
    same(again.get_weights(), model.get_weights())


def test_pretraining_passes_over_layers_without_weights():
    rows = torch.rand(20, 1, 4, 4)
    dl.seed(0)
    model = dl.Autoencoder(
        [dl.Flatten(), dl.Dense(5, "relu"), dl.Dense(2)],
        [dl.Dense(5, "relu"), dl.Dense(16, "sigmoid"), dl.Reshape((1, 4, 4))],
    )
    model.compile("adam", "mse")
    assert len(model.pretrain(rows, verbose=0)) == 2
    assert model.encode(rows).shape == (20, 2)


def test_what_pretraining_cannot_take_is_refused():
    model = dl.StackedAutoencoder([6, 3])
    with pytest.raises(ValueError, match="pretrain was called before compile"):
        model.pretrain(X)
    model.compile("adam", "mse")
    for given in ({"x": (row for row in X)}, {"x": X, "validation_data": (X, X)}):
        with pytest.raises(ValueError, match="read once for each layer"):
            model.pretrain(**given)
    odd = small(decoder=[dl.Dense(8)])
    odd.compile("adam", "mse")
    with pytest.raises(ValueError, match="2 layers in the encoder and 1 in the decoder"):
        odd.pretrain(X)
    with pytest.raises(ValueError, match="batch_size"):
        model.pretrain(X, batch_size=0)
    model.compile(torch.optim.SGD(model.parameters(), 0.1), "mse")
    with pytest.raises(ValueError, match="made for the whole model"):
        model.pretrain(X)
    model.compile(torch.optim.Adam, "mse", schedule=lambda o: ExponentialLR(o, 0.9))
    assert len(model.pretrain(X, verbose=0)) == 2


# -- bad input ------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: dl.Autoencoder([]), r"encoder=\[\] was given"),
        (lambda: dl.Autoencoder([dl.Dense(2)], []), r"decoder=\[\] was given"),
        (lambda: dl.Autoencoder([dl.Dense(2)], [dl.Dense(8)], tied=True), "decoder=None"),
        (lambda: dl.Autoencoder([dl.Dense(2)], [dl.Dense(8)], output_activation="relu"), "None"),
        (
            lambda: dl.Autoencoder([dl.Dense(2), dl.Dropout(0.5)]),
            "layer 2 of the encoder is Dropout",
        ),
        (lambda: dl.Autoencoder([dl.Dense(2)], contractive=-1), "contractive=-1"),
        (lambda: dl.Autoencoder([dl.Dense(2)], output_activation="sigmoidd"), "sigmoid"),
        (
            lambda: dl.Autoencoder(
                [dl.Dense(2), dl.BatchNormalization()], [dl.Dense(8)], contractive=1
            ),
            "LayerNormalization",
        ),
        (lambda: dl.StackedAutoencoder(64), r"units=\[256, 64\]"),
        (lambda: dl.StackedAutoencoder([]), r"encoder=\[\]"),
        (lambda: dl.StackedAutoencoder([4, -1]), "units=-1"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(make, says):
    with pytest.raises(ValueError, match=says) as refusal:
        make()
    assert len(str(refusal.value)) <= 600


@pytest.mark.parametrize("verb", ["fit", "predict", "build"])
@pytest.mark.parametrize(
    ("decoder", "shape", "says"),
    [
        (
            [dl.Dense(7)],
            (8,),
            r"decoder gives \('N', 7\), but the inputs are \('N', 8\).*Dense\(8\)",
        ),
        ([dl.Dense(16)], (1, 4, 4), r"Reshape\(\(1, 4, 4\)\)"),
    ],
)
def test_a_decoder_that_does_not_fit_the_inputs_is_refused(verb, decoder, shape, says):
    encoder = [dl.Flatten(), dl.Dense(2)] if len(shape) > 1 else [dl.Dense(2)]
    decoder = [type(decoder[0])(decoder[0].out_features)]
    model = dl.Autoencoder(encoder, decoder)
    model.compile("adam", "mse")
    given = shape if verb == "build" else torch.rand(10, *shape)
    for _ in range(2):  # a second call does not pass over what the first has built
        with pytest.raises(ValueError, match=says):
            getattr(model, verb)(given)


def test_rows_that_do_not_fit_are_refused():
    model = fitted(small())
    with pytest.raises(ValueError, match="expects"):
        model.fit(X[:, :5], verbose=0)
    with pytest.raises(ValueError, match="nan"):
        model.fit(X * float("nan"), verbose=0)
    with pytest.raises(ValueError, match="built for samples of"):
        model.build((5,))
    with pytest.raises(ValueError):  # a sigmoid does not give them back
        fitted(small(), 5 * X)


# -- compiled, and on an accelerator ------------------------------


@pytest.mark.slow  # the compiler takes 5 s and 17 s
@pytest.mark.parametrize(
    "arguments",
    [
        {"tied": True, "noise": 0.3},
        {"contractive": 0.1},
    ],
)
def test_compiled_training_gives_the_same_numbers(arguments, recwarn):
    found = []
    for jit in (True, False):
        model = small(**arguments)
        model.compile("adam", "mse", jit=jit, steps_per_execution=2 if jit else "auto")
        found.append(model.fit(X[:48], batch_size=8, epochs=4, verbose=0).history["loss"])
    assert not [w for w in recwarn if "goes on eagerly" in str(w.message)]
    np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", MODELS)
def test_on_a_gpu(name):
    dl.seed(0)
    model = MODELS[name]()
    model.compile("adam", "mse", device="cuda")
    model.pretrain(X, verbose=0) if name == "stacked" else None
    model.fit(X, epochs=2, verbose=0)
    assert model.device.type == "cuda"
    codes = model.encode(X)
    np.testing.assert_allclose(model.decode(codes), model.predict(X), atol=1e-6)
    model.to_classifier(3).predict(X)
