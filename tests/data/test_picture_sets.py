"""Folders and arrays of pictures: classes, parts, augmentation, and what a model makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import v2

import easydl as dl
from easydl.data.augmentation import augmentation, mixer
from easydl.vision import Transforms

COLOURS = {"blue": (20, 30, 220), "green": (10, 200, 30), "red": (230, 20, 10)}


def draw(folder, count=5, names=COLOURS, side=12):
    generator = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            noise = generator.integers(0, 20, (side, side, 3))
            pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("pets"))


def small_net(classes=3, side=12):
    dl.seed(0)
    model = dl.Sequential(
        [
            dl.Conv2D(4, 3, activation="relu", input_shape=(3, side, side)),
            dl.GlobalAveragePooling2D(),
            dl.Dense(classes, activation="softmax"),
        ]
    )
    loss = "sparse_categorical_crossentropy"
    model.compile(dl.optimizers.Adam(0.05), loss, metrics=["accuracy"])
    return model


# -- folders ---------------------------------------------------------------------------------------


def test_classes_are_the_folders_in_alphabetical_order(folder):
    data = dl.data.image_folder(folder)
    assert data.class_names == ["blue", "green", "red"] and data.validation is None
    for path, label in zip(data.train.pictures, data.train.labels.tolist()):
        assert path.parent.name == data.class_names[label]
    assert repr(data) == "pictures: 15 train; 3 classes: blue, green, red"


def test_the_split_takes_its_share_of_each_class_and_is_the_same_again(folder):
    data, again = (dl.data.image_folder(folder, split=0.2) for _ in range(2))
    other = dl.data.image_folder(folder, split=0.2, seed=1)
    assert torch.bincount(data.validation.labels).tolist() == [1, 1, 1]
    assert torch.bincount(data.train.labels).tolist() == [4, 4, 4]
    assert data.validation.pictures == again.validation.pictures != other.validation.pictures
    assert not set(data.train.pictures) & set(data.validation.pictures)


def test_a_class_of_one_picture_cannot_be_split(tmp_path):
    draw(tmp_path, 3, ["red", "blue"])
    draw(tmp_path, 1, ["green"])
    with pytest.raises(ValueError, match="class 'green' has 1 picture"):
        dl.data.image_folder(tmp_path, split=0.4)


@pytest.mark.parametrize(
    "train, name, test",
    [("train", "validation", "test"), ("Training", "val", "Testing"), ("TRAIN", "Valid", "Test")],
)
def test_parts_may_be_folders(train, name, test, tmp_path):
    draw(tmp_path / train)
    draw(tmp_path / name, 2)
    draw(tmp_path / test, 1)
    (tmp_path / "__MACOSX").mkdir()
    data = dl.data.image_folder(tmp_path)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [15, 6, 3]


def test_a_part_without_a_class_or_with_a_strange_one_is_refused(tmp_path):
    draw(tmp_path / "train")
    draw(tmp_path / "val", 1, ["blue", "red"])
    with pytest.raises(ValueError, match=r"validation lacks the classes green and has none"):
        dl.data.image_folder(tmp_path)
    draw(tmp_path / "val", 1, ["green"])
    (tmp_path / "val" / "red").rename(tmp_path / "val" / "rad")
    with pytest.raises(ValueError, match=r"lacks the classes red and has rad"):
        dl.data.image_folder(tmp_path)


def test_an_empty_class_one_class_and_mixed_folders_are_refused(tmp_path):
    draw(tmp_path / "a")
    (tmp_path / "a" / "yellow").mkdir()
    (tmp_path / "a" / "yellow" / "notes.txt").write_text("none")
    with pytest.raises(ValueError, match=r"yellow.*holds no picture"):
        dl.data.image_folder(tmp_path / "a")
    draw(tmp_path / "b", names=["red"])
    with pytest.raises(ValueError, match=r"holds 1 folders.*two or more"):
        dl.data.image_folder(tmp_path / "b")
    draw(tmp_path / "c" / "train")
    draw(tmp_path / "c", names=["red"])
    with pytest.raises(ValueError, match=r"not both"):
        dl.data.image_folder(tmp_path / "c")
    with pytest.raises(ValueError, match=r"split=0\.2.*'train'"):
        dl.data.image_folder(tmp_path / "c", split=0.2)
    draw(tmp_path / "d" / "val")
    draw(tmp_path / "d" / "test")
    with pytest.raises(ValueError, match=r"folders test, val, parts without one to learn from"):
        dl.data.image_folder(tmp_path / "d")
    draw(tmp_path / "e")
    (tmp_path / "e" / "red").rename(tmp_path / "e" / "_others")
    assert dl.data.image_folder(tmp_path / "e").class_names == ["_others", "blue", "green"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        dl.data.image_folder(tmp_path / "nowhere")


def test_damaged_files_are_named_together_up_front(tmp_path):
    draw(tmp_path)
    (tmp_path / "red" / "bad.jpg").write_bytes(b"")
    whole = (tmp_path / "blue" / "1.png").read_bytes()
    (tmp_path / "blue" / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="2 of 17 files are no whole pictures") as caught:
        dl.data.image_folder(tmp_path)
    assert "cut.png" in str(caught.value) and "bad.jpg (empty)" in str(caught.value)
    data = dl.data.image_folder(tmp_path, check=False)
    with pytest.raises(RuntimeError, match=r"(cut\.png|bad\.jpg)"):
        small_net().fit(data, verbose=0)


# -- with a model ----------------------------------------------------------------------------------


def test_a_model_learns_from_a_folder_and_keeps_what_it_told(folder, tmp_path):
    data = dl.data.image_folder(folder, split=0.2)
    model = small_net()
    history = model.fit(data, epochs=12, verbose=0)
    assert history.history["val_accuracy"][-1] == 1
    assert model.evaluate(data.validation, return_dict=True)["accuracy"] == 1
    assert model.class_names == data.class_names
    assert model.transforms == Transforms(12)
    path = data.validation.pictures[-1]
    ((label, share),) = model.predict_labels(path)
    assert label == path.parent.name and share > 0.5
    model.save(tmp_path / "m.easydl")
    again = dl.load_model(tmp_path / "m.easydl")
    assert again.predict_labels(path) == model.predict_labels(path)


def test_fit_on_a_folder_equals_fit_on_its_pictures_as_arrays(folder):
    data = dl.data.image_folder(folder)
    torch.set_num_threads(1)
    ready = Transforms(12)
    x = torch.stack([ready(path) for path in data.train.pictures])
    one, other = small_net(), small_net()
    one.fit(data.train, epochs=2, shuffle=False, batch_size=4, verbose=0)
    other.fit(x, data.train.labels, epochs=2, shuffle=False, batch_size=4, verbose=0)
    for a, b in zip(one.parameters(), other.parameters()):
        assert torch.equal(a, b)


def test_other_classes_another_number_of_outputs_and_no_size_are_refused(folder, tmp_path):
    data = dl.data.image_folder(folder)
    model = small_net(classes=4)
    with pytest.raises(ValueError, match=r"4 outputs.*3 classes"):
        model.fit(data, verbose=0)
    assert model.class_names is None
    model = small_net()
    model.fit(data, verbose=0)
    draw(tmp_path, 1, ["blue", "green"])
    with pytest.raises(ValueError, match="tells apart blue, green, red, and the pictures"):
        model.evaluate(dl.data.image_folder(tmp_path).train)
    open_shape = dl.Conv2D(2, 3, input_shape=(3, None, None))
    open_model = dl.Sequential([open_shape, dl.GlobalAveragePooling2D(), dl.Dense(3)])
    open_model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="size=64"):
        open_model.fit(data, verbose=0)
    open_model = dl.Sequential([dl.Conv2D(2, 3), dl.GlobalAveragePooling2D(), dl.Dense(3)])
    open_model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="size=64"):
        open_model.fit(data, verbose=0)
    open_model.fit(dl.data.image_folder(folder, size=10), verbose=0)
    assert open_model.transforms == Transforms(10)
    with pytest.raises(TypeError, match=r"data\.train"):
        model.evaluate(data)
    with pytest.raises(ValueError, match="before a model said"):
        data.train[0]


def test_a_path_for_a_model_that_knows_no_pictures_is_refused(folder):
    model = small_net()
    path = folder / "red" / "0.png"
    with pytest.raises(ValueError, match=r"dl\.vision\.Transforms"):
        model.predict(path)
    with pytest.raises(ValueError, match=r"dl\.vision\.Transforms"):
        model.predict([Image.new("RGB", (12, 12))])
    with pytest.raises(TypeError, match=r"pandas\.read_csv"):
        model.predict("table.csv")


def test_own_transforms_are_used_as_they_are(folder):
    def ready(picture):
        return torch.full((3, 12, 12), float(np.asarray(picture).mean() > 0))

    data = dl.data.image_folder(folder, transforms=ready)
    model = small_net()
    model.fit(data, verbose=0)
    assert model.transforms is ready
    with pytest.raises(ValueError, match="transforms of your own"):
        model.fit(dl.data.image_folder(folder, transforms=ready, augment="light"), verbose=0)
    with pytest.raises(ValueError, match=r"size=8 was given.*transforms of your own"):
        model.fit(dl.data.image_folder(folder, size=8), verbose=0)
    with pytest.raises(ValueError, match="both given"):
        dl.data.image_folder(folder, transforms=ready, size=8)


def test_transforms_that_are_torch_modules_are_no_layer(folder, tmp_path):
    ready = v2.Compose([v2.Resize(12), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    model = small_net()
    data = dl.data.image_folder(folder, transforms=ready)
    model.fit(data, verbose=0)
    assert len(model.layers) == 3 and model.transforms is ready
    path = data.train.pictures[0]
    model.save(tmp_path / "m.easydl")
    names = ("Compose", "InterpolationMode", "Resize", "ToDtype", "ToImage")
    kinds = {name: getattr(v2, name) for name in names}
    again = dl.load_model(tmp_path / "m.easydl", custom_objects=kinds)
    assert len(again.layers) == 3 and type(again.transforms) is v2.Compose
    other = small_net()
    other.set_weights(model.get_weights())
    other.transforms = ready
    np.testing.assert_array_equal(other.predict(path), model.predict(path))
    assert len(other.layers) == 3 and "transforms" not in dict(other.named_modules())


def test_stored_numbers_are_no_input_of_a_model_that_knows_pictures(folder):
    model = small_net()
    model.fit(dl.data.image_folder(folder), verbose=0)
    stored = np.full((2, 3, 12, 12), 200, np.uint8)
    expected = model.predict(stored)
    np.testing.assert_allclose(model.predict(stored / np.float32(255)), expected, rtol=1e-5)
    for given in (stored.astype("float32"), stored.astype("uint16") * 257, stored.astype(int)):
        with pytest.raises(ValueError, match="from 0 to 1; expected uint8 pictures"):
            model.predict(given)
    model.compile("sgd", "sparse_categorical_crossentropy", strict=False)
    assert model.predict(stored.astype(int)).shape == (2, 3)


def test_three_axes_may_be_one_picture_or_several_where_grey_is_wanted():
    model = small_net()
    model.set_weights(model.get_weights())
    model.transforms = Transforms(12)
    assert model.predict(np.zeros((12, 12, 3), np.uint8)).shape == (1, 3)
    assert model.predict(np.zeros((5, 12, 12), np.uint8)).shape == (5, 3)
    model.transforms = Transforms(12, channels=1)
    with pytest.raises(ValueError, match="one picture in colour or several grey"):
        model.predict(np.zeros((3, 12, 12), np.uint8))


def regression_net():
    model = small_net(1)
    model.pop()
    model.add(dl.Dense(1))
    model.compile("sgd", "mse")
    model.transforms = Transforms(12)
    return model


def test_targets_of_paths_are_taken_as_they_are(folder):
    paths = dl.data.image_folder(folder).train.pictures
    y = np.linspace(0.1, 0.9, len(paths)).astype("float32")
    x = torch.stack([Transforms(12)(path) for path in paths])
    model = regression_net()
    assert model.evaluate(paths, y) == pytest.approx(model.evaluate(x, y))
    model = small_net()
    model.transforms, model.class_names = Transforms(12), sorted(COLOURS)
    names = [path.parent.name for path in paths]
    shares = np.full((len(paths), 3), 1 / 3)
    for given in (names, np.array(names), torch.tensor([sorted(COLOURS).index(n) for n in names])):
        expected = model.evaluate(x, [sorted(COLOURS).index(n) for n in names])
        assert model.evaluate(paths, given) == pytest.approx(expected)
    model.compile("sgd", "categorical_crossentropy")
    assert model.evaluate(paths, shares) == pytest.approx(model.evaluate(x, shares))
    with pytest.raises(ValueError, match="labels cat are not in"):
        model.evaluate(paths[:2], ["red", "cat"])
    for wrong in (y[:3], np.tile(y, 2)):
        with pytest.raises(ValueError, match=rf"15 pictures and {len(wrong)} targets"):
            model.fit(paths, wrong)


def test_balanced_classes_and_a_split_in_fit(tmp_path):
    draw(tmp_path, 6, ["red"])
    draw(tmp_path, 2, ["blue", "green"])
    data = dl.data.image_folder(tmp_path)
    x = torch.stack([Transforms(12)(path) for path in data.train.pictures])
    torch.set_num_threads(1)
    one, other = small_net(), small_net()
    one.fit(data, class_weight="balanced", shuffle=False, verbose=0)
    other.fit(x, data.train.labels, class_weight="balanced", shuffle=False, verbose=0)
    for a, b in zip(one.parameters(), other.parameters()):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match=r"with pictures.*image_folder\(path, split="):
        one.fit(data, validation_split=0.2, verbose=0)


def test_class_names_are_kept_as_text(tmp_path):
    model = small_net()
    for names in (np.array(["a", "b", "c"]), ("a", "b", "c"), [1, 2, 3]):
        model.class_names = names
        model.save(tmp_path / "m.easydl")
        assert dl.load_model(tmp_path / "m.easydl").class_names == [str(name) for name in names]
    with pytest.raises(TypeError, match="list of names"):
        model.class_names = "abc"


def test_one_unit_says_the_second_class_and_names_must_fit(folder):
    model = small_net(1)
    model.pop()
    model.add(dl.Dense(1, activation="sigmoid"))
    model.set_weights([*model.get_weights()[:-2], np.zeros((1, 4)), np.full(1, 2.0)])
    x, share = np.zeros((1, 3, 12, 12), "float32"), pytest.approx(1 / (1 + np.exp(-2)))
    model.class_names = ["no", "yes"]
    assert model.predict_labels(x) == [[("yes", share)]]
    assert [name for name, _ in model.predict_labels(x, top=5)[0]] == ["yes", "no"]
    model.class_names = ["a", "b", "c"]
    with pytest.raises(ValueError, match="3 names for 2 outputs"):
        model.predict_labels(x)


def test_labels_of_nan_are_refused():
    model = small_net()
    model.set_weights(model.get_weights())
    with torch.no_grad():
        model.layers[-1].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="no probabilities"):
        model.predict_labels(np.zeros((1, 3, 12, 12), "float32"))


# -- arrays and Datasets ---------------------------------------------------------------------------


def test_arrays_lists_and_datasets_give_the_same_pictures(folder):
    paths = dl.data.image_folder(folder).train.pictures
    arrays = np.stack([np.asarray(Image.open(path)) for path in paths])
    names = [path.parent.name for path in paths]
    numbers = [sorted(COLOURS).index(name) for name in names]

    class Own(Dataset):
        targets, classes = numbers, sorted(COLOURS)

        def __len__(self):
            return len(paths)

        def __getitem__(self, row):
            return Image.open(paths[row]), numbers[row]

    model = small_net()
    model.fit(dl.data.image_folder(folder), verbose=0)
    expected = model.predict(dl.data.image_folder(folder, split=0.2).validation)
    for data in (
        dl.data.images(arrays, names, split=0.2),
        dl.data.images(arrays / 255.0, names, split=0.2),
        dl.data.images(arrays.transpose(0, 3, 1, 2), numbers, split=0.2, class_names=[*COLOURS]),
        dl.data.images(list(map(str, paths)), names, split=0.2),
        dl.data.images([Image.open(path) for path in paths], names, split=0.2),
        dl.data.images(Own(), split=0.2),
    ):
        assert data.class_names == sorted(COLOURS)
        assert data.validation.labels.tolist() == [0, 1, 2]
        assert np.array_equal(model.predict(data.validation), expected)
        assert model.evaluate(data.train, return_dict=True)["loss"] > 0


def test_a_datasets_labels_are_those_that_it_gives():
    class Own(Dataset):
        targets = [0, 1, 2, 3] * 3
        target_transform = None

        def __len__(self):
            return 12

        def __getitem__(self, row):
            label = self.targets[row] % 2 if row > 4 else self.targets[row]
            return np.full((8, 8), 20 * row, np.uint8), label

    with pytest.raises(ValueError, match="row 6 is of class 2 and gives"):
        dl.data.images(Own())
    Own.target_transform = staticmethod(lambda label: label % 2)
    assert dl.data.images(Own()).train.labels.tolist() == [0, 1] * 6
    given = dl.data.images(Own(), [0, 1, 2] * 4, size=8)
    assert given.class_names == ["0", "1", "2"]
    assert [label for _, label in given.train.made_for(small_net())] == [0, 1, 2] * 4


def test_numbers_without_pictures_are_classes_too():
    data = dl.data.images(np.zeros((4, 8, 8), np.uint8), [0, 2, 2, 0])
    assert data.class_names == ["0", "1", "2"]


def test_columns_of_a_table_are_paths_and_labels(folder):
    pandas = pytest.importorskip("pandas")
    paths = dl.data.image_folder(folder).train.pictures
    table = pandas.DataFrame({"path": map(str, paths)}, index=range(50, 65))
    table["kind"] = [path.parent.name for path in paths]
    data = dl.data.images(table["path"], table["kind"], split=0.2)
    for path, label in zip(data.validation.pictures, data.validation.labels):
        assert f"/{data.class_names[label]}/" in path


@pytest.mark.parametrize(
    "y, names, message",
    [
        (["a", None, "b", "b"], None, "row 1 is missing"),
        ([0, 1, 1, 0], ["a", "a"], "different names"),
        ([0, 1], None, "4 pictures and 2 labels"),
        (None, None, "no labels"),
        ([0, 0, 0, 0], None, "two or more classes"),
        ([0, 1, 2, -1], None, "labels from -1 to 2"),
        ([0, 1, 2, 3], ["a", "b", "c"], "0 … 2"),
        (["a", "b", "c", "d"], ["a", "b", "c"], "labels d are not in"),
        ([0.5, 1, 0, 1], None, "class numbers or names"),
    ],
)
def test_wrong_labels_are_refused(y, names, message):
    with pytest.raises(ValueError, match=message):
        dl.data.images(np.zeros((4, 8, 8), np.uint8), y, class_names=names)


# -- augmentation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", ["light", "standard", "strong"])
def test_augmentation_changes_pictures_within_the_models_size(strength):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    ready = Transforms(24, 28, [0.5] * 3, [0.25] * 3)
    torch.manual_seed(0)
    change = augmentation(strength, ready)
    made = torch.stack([change(picture) for _ in range(8)])
    assert made.shape == (8, 3, 24, 24) and len(torch.unique(made, dim=0)) == 8
    assert -2 <= made.min() <= made.max() <= 2


def mirrored_share(strength):
    """How often a picture that is dark on the left comes out dark on the right."""
    x = np.zeros((32, 32, 3), np.uint8)
    x[:, 16:] = 250
    change = augmentation(strength, Transforms(16))
    torch.manual_seed(0)
    made = torch.stack([change(Image.fromarray(x)) for _ in range(60)])
    left, right = made[..., :8].mean((1, 2, 3)), made[..., 8:].mean((1, 2, 3))
    return float((left > right + 0.05).float().mean())


def test_only_light_augmentation_leaves_left_and_right():
    assert mirrored_share("light") == 0
    assert 0.3 < mirrored_share("standard") < 0.7


def test_each_strength_changes_what_it_says(monkeypatch):
    torch.manual_seed(0)
    plain, ready = Image.new("RGB", (32, 32), (120, 130, 140)), Transforms(16)
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 4, np.uint8), (64, 1)))

    def made(strength, picture):
        change = augmentation(strength, ready)
        return torch.stack([change(picture) for _ in range(80)])

    rows = [made(strength, ramp)[:, 0, 4:12] for strength in ("light", "standard")]
    narrowest = [float((row.amax((1, 2)) - row.amin((1, 2))).min()) for row in rows]
    assert narrowest[0] > 0.7 > narrowest[1]
    light, standard, strong = (made(s, plain) for s in ("light", "standard", "strong"))
    middle = light[:, :, 6:10, 6:10]
    torch.testing.assert_close(middle, ready(plain)[None, :, 6:10, 6:10].expand_as(middle))
    assert (standard.flatten(2).std(2) < 0.01).all()  # all over the picture alike
    levels = standard.mean((1, 2, 3)) / ready(plain).mean()
    assert 0.6 < levels.min() < 0.95 and 1.05 < levels.max() < 1.45
    assert strong.mean((1, 2, 3)).std() > 2 * standard.mean((1, 2, 3)).std()
    monkeypatch.setattr(v2, "TrivialAugmentWide", v2.Identity)
    erased = (made("strong", plain) == 0).all(1).any((1, 2))
    assert 0.1 < erased.float().mean() < 0.45


def test_only_training_pictures_are_changed(folder):
    data = dl.data.image_folder(folder, split=0.4, augment="standard")
    model = small_net()
    train, validation = (part.made_for(model, True) for part in (data.train, data.validation))
    plain = data.train.made_for(model)
    assert not torch.equal(train[0][0], train[0][0])
    assert torch.equal(validation[0][0], Transforms(12)(data.validation.pictures[0]))
    assert torch.equal(plain[0][0], Transforms(12)(data.train.pictures[0]))


@pytest.mark.parametrize("mix", ["mixup", "cutmix", "both"])
def test_mixed_pictures_have_shares_of_the_classes(mix, folder):
    torch.manual_seed(0)
    x = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 8, 8)
    mixed, shares = mixer(mix, 4)(x, torch.arange(4))
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    numbers = torch.arange(4.0)
    torch.testing.assert_close(
        mixed.mean((1, 2, 3)), shares @ numbers
    )  # as much of each as it says
    data = dl.data.image_folder(folder, split=0.4, mix=mix)
    model = small_net()
    model.compile(dl.optimizers.Adam(0.05), "categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(data, epochs=15, batch_size=5, verbose=0)
    assert history.history["val_accuracy"][-1] > 0.8
    batch = data.train.made_for(model, learning=True).__getitems__([0, 4, 8])
    assert any(0 < share < 1 for _, shares in batch for share in shares.tolist())
    assert data.validation.made_for(model)[0][1].tolist() == [1, 0, 0]


def test_order_and_changes_do_not_depend_on_the_workers(folder, monkeypatch):
    from easydl.data import workers

    def weights(count):
        monkeypatch.setattr(workers.Reader, "_how_many", lambda self, number: count)
        data = dl.data.image_folder(folder, augment="strong", mix="both")
        model = small_net()
        model.compile("sgd", "categorical_crossentropy")
        dl.seed(3)
        model.fit(data, epochs=2, batch_size=4, verbose=0)
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(weights(0), weights(2))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"augment": "standart"}, "Did you mean 'standard'"),
        ({"mix": "cutmixx"}, "Did you mean 'cutmix'"),
        ({"split": 1.5}, "1.5"),
        ({"size": 0}, "size"),
    ],
)
def test_wrong_settings_are_refused(arguments, message, folder):
    with pytest.raises(ValueError, match=message):
        small_net().fit(dl.data.image_folder(folder, **arguments), verbose=0)


def test_nothing_is_changed_at_random_outside_training(folder):
    data = dl.data.image_folder(folder, augment="strong", mix="both")
    model = small_net()
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    model.fit(data, verbose=0)
    for look in (model.features, model.predict, model.evaluate):
        assert np.array_equal(look(data.train), look(data.train))
    plain = dl.data.image_folder(folder)
    assert np.array_equal(model.predict(data.train), model.predict(plain.train))


def test_files_that_are_passed_over_are_told(tmp_path):
    draw(tmp_path)
    (tmp_path / "red" / "photo.heix").write_bytes(b"0")
    (tmp_path / "red" / ".hidden").write_bytes(b"0")
    with pytest.warns(UserWarning, match=r"1 files .* \(\.heix\).*photo\.heix"):
        dl.data.image_folder(tmp_path)


def test_a_folder_gives_labels_by_file_name_and_a_missing_path_is_said(folder):
    model = small_net()
    model.fit(dl.data.image_folder(folder), verbose=0)
    found = model.predict_labels(folder)
    assert next(iter(found)) == "blue/0.png" and len(found) == 15
    assert found["red/1.png"] == model.predict_labels([folder / "red" / "1.png"])[0]
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        model.predict([folder / "red" / "1.png", "nowhere.png"])


def test_floats_as_images_takes_them_are_pictures_for_predict_too(folder):
    x = np.stack([np.asarray(Image.open(folder / c / "0.png")) for c in COLOURS])
    model = small_net()
    model.fit(dl.data.images(x / 255.0, [0, 1, 2]), verbose=0)
    expected = model.predict(x)
    for given in (x / 255.0, (x / 255.0).transpose(0, 3, 1, 2).astype("float32")):
        np.testing.assert_allclose(model.predict(given), expected, rtol=1e-5)
    np.testing.assert_allclose(model.predict(x[0] / 255.0), expected[:1], rtol=1e-5)
    grey = (x[..., 0] / 255.0)[:2]
    assert model.predict(grey).shape == (2, 3)
