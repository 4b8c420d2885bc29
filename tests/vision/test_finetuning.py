"""finetune: the head first, then all at spread rates; descriptors for scikit-learn."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import easydl as dl


def pictures(count=36, side=16):
    """Stripes, checks and dots, in grey."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    kinds = [rows // 3 % 2, (rows // 3 + columns // 3) % 2, (rows % 4 == 0) & (columns % 4 == 0)]
    y = np.arange(count) % 3
    noise = generator.integers(0, 60, (count, side, side))
    return np.stack([kinds[k] * 180 for k in y]) + noise, y


X, Y = pictures()
X = X.astype(np.uint8)


def net(classes=3):
    dl.seed(0)
    return dl.Sequential(
        [
            dl.Conv2D(8, 3, activation="relu", input_shape=(1, 16, 16)),
            nn.BatchNorm2d(8),
            dl.Conv2D(8, 3, activation="relu"),
            dl.GlobalAveragePooling2D(),
            dl.Dense(classes, activation="softmax"),
        ]
    )


class Record(dl.Callback):
    """What learns in each epoch, at which rates."""

    def __init__(self):
        self.learning, self.rates, self.norms = [], [], []

    def on_epoch_end(self, epoch, logs=None):
        names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        self.learning.append("".join(sorted({name[0] for name in names})))
        self.rates.append([group["lr"] for group in self.model.optimizer.param_groups])
        self.norms.append(self.model.layers[1].running_mean.clone())


def test_the_head_learns_first_then_all_at_spread_rates():
    model, record = net(), Record()
    before = model.layers[1].running_mean.clone()
    data = dl.data.images(X, Y, split=0.25)
    found = dl.finetune(
        model, data, epochs=3, batch_size=9, augment=None, callbacks=[record], patience=0,
        learning_rate=0.02, verbose=0,
    )  # fmt: skip
    assert found is model
    assert record.learning == ["4", "0124", "0124", "0124"]
    assert torch.equal(record.norms[0], before) and not torch.equal(record.norms[1], before)
    assert record.rates[0] == [0.02]
    for rates in record.rates[1:]:
        assert rates[2] / rates[0] == pytest.approx(100) and rates[2] / rates[1] == pytest.approx(
            10
        )
    cycle = dl.optimizers.schedules.OneCycle(0.01, steps=9)
    assert [rates[2] for rates in record.rates[1:]] == pytest.approx([cycle(3), cycle(6), cycle(9)])
    assert model.history.epoch == [0, 1, 2, 3]
    assert len(model.history.history["val_accuracy"]) == 4 == len(model.history.to_frame())
    assert all(p.requires_grad for p in model.parameters())
    assert model.class_names == ["0", "1", "2"]


def test_every_step_by_hand_gives_the_same_weights():
    torch.set_num_threads(1)
    data = dl.data.images(X, Y, split=0.25, augment="light")
    one = net()
    dl.seed(5)
    dl.finetune(one, data, epochs=2, batch_size=9, patience=0, verbose=0)
    other = net()
    dl.seed(5)
    loss, settings = "sparse_categorical_crossentropy", {"batch_size": 9, "verbose": 0}
    other.freeze()
    other.compile(dl.optimizers.AdamW(1e-3, weight_decay=0.01), loss, metrics=["accuracy"])
    other.fit(data.train, validation_data=data.validation, **settings)
    other.unfreeze()
    cycle = dl.optimizers.schedules.OneCycle(5e-4, steps=6)
    other.compile(dl.optimizers.AdamW(cycle, weight_decay=0.01), loss, metrics=["accuracy"])
    other.spread_learning_rate(100)
    other.fit(data.train, validation_data=data.validation, epochs=3, initial_epoch=1, **settings)
    for key, value in other.state_dict().items():
        assert torch.equal(value, one.state_dict()[key]), key


def test_the_best_epoch_comes_back_and_training_stops():
    class Worse(dl.Callback):
        """Spoils the head after the second epoch."""

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                with torch.no_grad():
                    self.model.layers[-1].weight.mul_(-50)

    model = net()
    data = dl.data.images(X, Y, split=0.25)
    dl.finetune(
        model, data, epochs=8, augment=None, patience=2, callbacks=[Worse()], verbose=0,
        learning_rate=1e-4,
    )  # fmt: skip
    losses = model.history.history["val_loss"]
    assert len(losses) == 4  # of the head, the best, two that are not better
    assert model.evaluate(data.validation, return_dict=True)["loss"] == pytest.approx(losses[1])


def test_without_validation_all_epochs_run_and_the_cycle_ends_with_them():
    model, record = net(), Record()
    data = dl.data.images(X, Y)  # 36 pictures: 5 batches
    dl.finetune(
        model, data, epochs=2, batch_size=8, augment=None, precision="bfloat16", verbose=0,
        callbacks=[record], device="cpu",
    )  # fmt: skip
    cycle = dl.optimizers.schedules.OneCycle(5e-4, steps=10)
    assert [rates[-1] for rates in record.rates[1:]] == pytest.approx([cycle(5), cycle(10)])
    assert model._compiled.precision == "bfloat16"


def test_an_interruption_leaves_the_model_free_to_learn():
    def stop(epoch, logs):
        raise KeyboardInterrupt

    model = net()
    with pytest.raises(KeyboardInterrupt):
        dl.finetune(model, (X, Y), augment=None, callbacks=[stop], verbose=0)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_was_frozen_before_stays_frozen():
    model = net()
    model.freeze(until="2")
    before = model.layers[0].weight.clone()
    dl.finetune(model, (X, Y), epochs=1, augment=None, verbose=0)
    assert torch.equal(model.layers[0].weight, before)
    assert [p.requires_grad for p in model.parameters()] == [False] * 4 + [True] * 4


def test_settings_are_taken_and_mixed_pictures_too():
    data = dl.data.images(X, Y, split=0.25, mix="mixup", augment="light")
    model = dl.finetune(
        net(), data, epochs=1, head_epochs=0, spread=1, optimizer=dl.optimizers.SGD, verbose=0
    )
    assert isinstance(model.optimizer, torch.optim.SGD) and len(model.optimizer.param_groups) == 1
    assert model.history.epoch == [0]


def test_finetune_by_name_takes_weights_classes_and_transforms(tmp_path):
    dl.seed(0)
    base = dl.pretrained("squeezenet1_1", None, 7)
    torch.save(base.network.state_dict(), tmp_path / "w.pth")
    data = dl.data.images(X, list(np.array(["x", "y", "z"])[Y]), split=0.25, size=32)
    model = dl.finetune(
        "squeezenet1_1", data, epochs=1, weights=tmp_path / "w.pth", verbose=0, learning_rate=1e-9
    )
    assert model.class_names == ["x", "y", "z"] and model.transforms.size == (32, 32)
    assert model.transforms.mean == base.transforms.mean
    first = "features.0.weight"
    torch.testing.assert_close(
        model.state_dict()[first], base.state_dict()[first], atol=1e-6, rtol=0
    )
    picture = Image.fromarray(X[0])
    assert len(model.predict_labels(picture, top=2)) == 2


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((net(), 3), {}, "image_folder"),
        ((nn.Linear(2, 2), (X, Y)), {}, r"easydl\.Model"),
        ((net(2), (X, Y)), {}, "outputs|classes"),
        ((net(), (X, Y)), {"epochs": 0}, "epochs=0"),
        ((net(), (X, Y)), {"learning_rate": 0}, "learning_rate=0"),
        ((net(), (X, Y)), {"augment": "lite"}, "light"),
        (("resnet-18", (X, Y)), {}, "resnet18"),
    ],
)
def test_wrong_arguments_are_refused(arguments, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        dl.finetune(*arguments, **{"epochs": 1, "verbose": 0} | options)


# -- descriptors -----------------------------------------------------------------------------------


def fitted():
    model = net()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(dl.data.images(X, Y), verbose=0)
    return model


def test_features_are_what_the_layers_give_by_hand():
    model = fitted()
    ready = torch.tensor(X).unsqueeze(1) / 255.0
    maps = model.layers[:3]
    with torch.no_grad():
        model.eval()
        kept = ready
        for layer in maps:
            kept = layer(kept)
    data = dl.data.images(X, Y).train
    for found in (model.features(data), model.features(X), model.features(list(X))):
        np.testing.assert_allclose(found, kept.mean((2, 3)), rtol=1e-5, atol=1e-6)
    for layer in ("2", "conv2d_1", model.layers[2]):
        np.testing.assert_allclose(
            model.features(data, layer), kept.mean((2, 3)), rtol=1e-5, atol=1e-6
        )
    np.testing.assert_array_equal(model.features(data, "4"), model.predict(data))
    assert model.features(X[:2], "2", batch_size=1).dtype == np.float32
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_features_of_plain_rows_need_no_picture():
    model = dl.Sequential([dl.Dense(4, activation="relu", input_dim=3), dl.Dense(2)])
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    expected = np.maximum(x @ model.layers[0].weight.detach().numpy().T, 0)
    np.testing.assert_allclose(model.features(x), expected, rtol=1e-5, atol=1e-6)


def test_features_are_kept_for_the_same_weights_and_pictures(tmp_path, monkeypatch):
    model = fitted()
    data = dl.data.images(X, Y).train
    first = model.features(data, cache=tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()

    def refuse(*_):
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "map_rows", refuse)
        assert np.array_equal(model.features(data, cache=tmp_path / "kept"), first)
        for other in (data.pictures[:5], data):
            if other is data:
                with torch.no_grad():
                    model.layers[0].weight[0, 0, 0, 0] += 1
            with pytest.raises(AssertionError, match="computed again"):
                model.features(other, cache=tmp_path / "kept")
    file.write_bytes(b"damaged")
    with torch.no_grad():
        model.layers[0].weight[0, 0, 0, 0] -= 1
    np.testing.assert_allclose(model.features(data, cache=tmp_path / "kept"), first, rtol=1e-5)
    with pytest.raises(ValueError, match="cannot be told"):
        model.features(iter([X]), cache=tmp_path)


def test_pictures_of_another_size_have_descriptors_of_their_own(tmp_path):
    model = fitted()
    for size in (16, 20):
        data = dl.data.images(X, Y, size=size).train
        assert np.array_equal(model.features(data, cache=tmp_path), model.features(data))


@pytest.mark.parametrize("kind", ["rows", "maps"])
def test_features_are_those_before_a_relu_in_place(kind):
    first = nn.Linear(4, 6) if kind == "rows" else nn.Conv2d(1, 6, 2)
    relu = nn.ReLU(inplace=True)
    model = dl.Model(nn.Sequential(first, relu, nn.Flatten(), nn.Linear(6, 2)))
    x = torch.randn(8, *((4,) if kind == "rows" else (1, 2, 2)))
    with torch.no_grad():
        expected = first(x).flatten(1)
    np.testing.assert_allclose(model.features(x, "0"), expected, rtol=1e-5, atol=1e-6)
    assert (model.features(x, "0") < 0).any()


def test_a_layer_that_is_not_used_has_no_features():
    class Own(dl.Model):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ValueError, match="'spare' is not used"):
        Own().features(torch.randn(3, 4), "spare")


def test_a_changed_file_is_read_anew(tmp_path):
    model, path = fitted(), tmp_path / "a.bmp"
    found = []
    for time, grey in ((1, 40), (2, 200)):
        Image.new("L", (16, 16), grey).save(path)
        os.utime(path, ns=(time, time))
        found.append(model.features(path, cache=tmp_path / "kept"))
        assert np.array_equal(found[-1], model.features(path))
    assert not np.array_equal(*found)


def test_what_only_looks_the_same_is_not_taken_from_the_cache(tmp_path):
    def twice(x):
        return x * 2

    def more(x):
        return x + 1

    def by(factor):
        return lambda x: x * factor

    rows = np.ones((3, 4), "float32")
    for function in (lambda x: x * 2, lambda x: x * 3, by(4), by(5), twice, more):
        dl.seed(0)
        model = dl.Sequential([dl.Dense(4, input_dim=4), dl.Lambda(function), dl.Dense(2)])
        assert np.array_equal(model.features(rows, cache=tmp_path), model.features(rows))
    model = net()
    model.transforms = dl.vision.Transforms(16, channels=1)
    found = []
    for colour in ([200, 10, 10], [10, 200, 10]):
        picture = Image.new("P", (16, 16))
        picture.putpalette(colour * 256)
        found.append(model.features([picture], cache=tmp_path))
    assert not np.array_equal(*found)
    for value in (0.2, 0.7):
        model.transforms = lambda picture, value=value: torch.full((1, 16, 16), value)
        expected = model.features([picture])
        assert np.array_equal(model.features([picture], cache=tmp_path), expected)


def test_maps_with_the_channels_last_are_averaged_over_their_positions():
    dl.seed(0)
    model = dl.pretrained("swin_t", None, 2)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        model.eval()
        maps = model.network.features(x)
        for layer, kept in (("features", maps), ("norm", model.network.norm(maps))):
            expected = kept.mean((1, 2))
            np.testing.assert_allclose(model.features(x, layer), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.features(x, "permute"), model.features(x, "norm"), atol=1e-6)


@pytest.mark.parametrize("layer", ["2nd", nn.Linear(2, 2), "layer"])
def test_features_of_an_unknown_layer_are_refused(layer):
    with pytest.raises(ValueError, match=r"layer"):
        fitted().features(X, layer)


def test_descriptors_need_no_classes_in_common():
    model = fitted()
    strange = dl.data.images(X, list(np.array(["x", "y", "z"])[Y]))
    assert model.features(strange.train).shape == (36, 8)
    assert model.predict(strange.train).shape == (36, 3)
    with pytest.raises(ValueError, match="tells apart"):
        model.evaluate(strange.train)


def test_maps_are_averaged_or_given_whole():
    model = fitted()
    whole = model.features(X, "2", average=False)
    assert whole.shape == (36, 8 * 12 * 12)
    by_map = whole.reshape(36, 8, -1).mean(2)
    np.testing.assert_allclose(model.features(X, "2"), by_map, rtol=1e-4, atol=1e-6)


def test_a_new_head_changes_no_descriptor_that_is_kept(tmp_path):
    model = fitted()
    model.features(X, cache=tmp_path)
    with torch.no_grad():
        model.layers[-1].weight.add_(1)
    model.features(X, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    model.features(X, "4", cache=tmp_path)
    model.features(X, average=False, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_only_weights_that_nobody_gave_are_called_random():
    model = fitted()
    ready = (X[:2, None] / 255.0).astype("float32")
    again = dl.Sequential([*model.layers[:-1], dl.Flatten()])
    again.predict(ready)  # warnings are errors here
    with pytest.warns(UserWarning, match="random weights"):
        dl.Sequential([*model.layers[:-1], dl.Dense(3)]).predict(ready)
