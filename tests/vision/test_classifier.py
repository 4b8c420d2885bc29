"""Every classifier of torchvision: heads, weights, transforms; against torchvision itself."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models

import easydl as dl
from easydl.vision import Classifier, Transforms

NAMES = list_models(module=torchvision.models)
#: the twelve ways in which torchvision's networks end -> one of each
LAYOUTS = {
    "fc": "shufflenet_v2_x0_5",
    "classifier.6": "vgg11",
    "classifier.1": "mobilenet_v2",
    "classifier.3": "mobilenet_v3_small",
    "classifier.2": "convnext_tiny",
    "classifier.5": "maxvit_t",
    "classifier": "densenet121",
    "head": "swin_t",
    "heads.head": "vit_b_16",
    "classifier.1 (Conv2d)": "squeezenet1_1",
    "AuxLogits.fc, fc": "inception_v3",
    "aux1.fc2, aux2.fc2, fc": "googlenet",
}
QUICK = set(LAYOUTS.values()) - {"maxvit_t", "densenet121", "inception_v3", "swin_t"}
HEADS = {  # as torchvision's sources have them, by the beginning of the name
    "resne": ["fc"], "wide_resnet": ["fc"], "shufflenet": ["fc"], "regnet": ["fc"],
    "alexnet": ["classifier.6"], "vgg": ["classifier.6"], "efficientnet": ["classifier.1"],
    "mobilenet_v2": ["classifier.1"], "mnasnet": ["classifier.1"],
    "mobilenet_v3": ["classifier.3"], "convnext": ["classifier.2"], "maxvit": ["classifier.5"],
    "densenet": ["classifier"], "swin": ["head"], "vit": ["heads.head"],
    "squeezenet": ["classifier.1"], "inception": ["AuxLogits.fc", "fc"],
    "googlenet": ["aux1.fc2", "aux2.fc2", "fc"],
}  # fmt: skip


def side(name):
    return {"inception_v3": 299}.get(name, 224)


def swapped_on_meta(name):
    with torch.device("meta"):
        model = Classifier(name, 7)
        model.eval()
        size = side(name)
        return model, model(torch.zeros(2, 3, size, size), logits=True)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES],
)
def test_every_head_is_replaced_and_nothing_else(name):
    model, outputs = swapped_on_meta(name)
    assert outputs.shape == (2, 7)
    (heads,) = [v for k, v in HEADS.items() if name.startswith(k)]
    assert model.head_names == heads
    with torch.device("meta"):
        whole = Classifier(name, 1000)
    changed = {
        key.rpartition(".")[0]
        for key, weight in whole.state_dict().items()
        if weight.shape != model.state_dict()[key].shape
    }
    assert changed == set(heads)
    assert list(whole.state_dict()) == list(model.state_dict())


def test_torchvision_has_at_least_the_eighty_classifiers_that_the_tests_know():
    assert len(NAMES) >= 80
    for name in NAMES:
        assert sum(name.startswith(beginning) for beginning in HEADS) == 1, name


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS.values())
def test_a_training_step_changes_every_weight_of_each_layout(name):
    dl.seed(0)
    model = Classifier(name, 3)
    size = {"inception_v3": 299, "maxvit_t": 224, "vit_b_16": 224}.get(name, 64)
    model.compile(dl.optimizers.Adam(0.001), "sparse_categorical_crossentropy")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(4, 3, size, size)
    model.fit(x, np.array([0, 1, 2, 0]), batch_size=4, verbose=0)
    for key, weight in model.named_parameters():
        key = key.removeprefix("network.")
        assert not torch.equal(weight, before[key]), key
    assert model.predict(x).shape == (4, 3)
    np.testing.assert_allclose(model.predict(x).sum(1), 1, rtol=1e-5)


def small_googlenet():
    dl.seed(1)
    model = Classifier("googlenet", 3)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.parametrize("hooked", [False, True])
def test_auxiliary_heads_train_with_their_share_of_the_loss(hooked):
    model = small_googlenet()
    if hooked:  # which would see logits, were the softmax left out
        model.register_forward_hook(lambda module, inputs, outputs: None)
    twin = get_model("googlenet", weights=None, num_classes=3, aux_logits=True, init_weights=False)
    twin.load_state_dict(model.state_dict())
    model.double(), twin.double()  # BatchNorm over so few numbers amplifies float32's rounding
    for module in twin.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x, y = torch.randn(2, 3, 64, 64, dtype=torch.float64), torch.tensor([0, 2])
    model.compile(dl.optimizers.SGD(0.2), "sparse_categorical_crossentropy", loss_weights=[0.5])
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    twin.train()
    outputs = twin(x)
    loss = nn.functional.cross_entropy(outputs.logits, y)
    for extra in (outputs.aux_logits1, outputs.aux_logits2):
        loss = loss + 0.3 * nn.functional.cross_entropy(extra, y)
    loss.backward()
    optimizer.step()
    history = model.fit(x, y, batch_size=2, shuffle=False, verbose=0)
    assert history.history["loss"][0] == pytest.approx(0.5 * loss.item(), rel=1e-5)
    for key, weight in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], weight, rtol=1e-6, atol=1e-9)


# -- transforms ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photograph():
    from PIL import Image

    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (23, 31, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((431, 277))


def test_transforms_are_torchvisions_for_every_weights_entry(photograph):
    settings = {}
    for name in NAMES:
        for entry in get_model_weights(name):
            settings.setdefault(Transforms.of_weights(entry), entry)
    assert len(settings) >= 20  # different ones
    for ours, entry in settings.items():
        assert torch.equal(ours(photograph), entry.transforms()(photograph)), entry


def test_transforms_of_every_entry_have_the_settings_of_torchvision():
    for name in NAMES:
        for entry in get_model_weights(name):
            ours, theirs = Transforms.of_weights(entry), entry.transforms()
            assert [*ours.size] == theirs.crop_size * 2
            assert [ours.resize] == theirs.resize_size
            assert ours.interpolation_mode == theirs.interpolation
            assert ours.mean == tuple(theirs.mean) and ours.std == tuple(theirs.std)


@pytest.fixture(scope="module")
def small():
    """A classifier with transforms, as pretrained makes it, small enough for a test."""
    dl.seed(0)
    model = dl.pretrained("squeezenet1_1", None, ["cat", "dog", "pug"])
    model.transforms = model.transforms.resized(64)
    model._has_learned = True
    return model


def test_a_picture_predicts_the_same_as_path_pil_array_and_tensor(small, photograph, tmp_path):
    path = tmp_path / "new.png"
    photograph.save(path)
    array = np.asarray(photograph).copy()
    tensor = torch.tensor(array).permute(2, 0, 1)
    expected = (
        torch.softmax(small.network.eval()(small.transforms(photograph)[None]), 1).detach().numpy()
    )
    for given in (path, str(path), photograph, array, tensor, array[None], tensor[None]):
        assert np.array_equal(small.predict(given), expected)
    ready = small.transforms(path)[None]
    assert np.array_equal(small.predict(ready), expected)
    assert np.array_equal(small.predict(ready.numpy()), expected)
    for several in ([path, path], [photograph] * 2, np.stack([array] * 2), tmp_path):
        np.testing.assert_allclose(small.predict(several)[:1], expected, rtol=1e-5)


def test_predict_labels_names_the_likeliest_first(small, photograph, tmp_path):
    path = tmp_path / "new.png"
    photograph.save(path)
    labels = small.predict_labels(path, top=3)
    probabilities = small.predict(path)[0]
    order = np.argsort(-probabilities)
    assert labels == [(["cat", "dog", "pug"][i], float(probabilities[i])) for i in order]
    assert small.predict_labels([path, path])[1] == [labels[0]] or np.allclose(
        small.predict_labels([path, path])[1][0][1], labels[0][1], rtol=1e-5
    )
    ((name, found),) = small.predict_labels(tmp_path, top=2).items()
    assert name == "new.png" and len(found) == 2
    assert len(small.predict_labels(photograph, top=9)) == 3
    assert small.predict_labels(np.asarray(photograph)) == [labels[0]]
    for batch in (np.asarray(photograph)[None], [photograph]):  # one, but a batch
        assert small.predict_labels(batch) == [[labels[0]]]


def test_floats_that_nobody_normalised_are_refused(small):
    for x in (np.random.rand(2, 3, 64, 64), np.random.rand(2, 3, 64, 64) * 255 - 1):
        with pytest.raises(ValueError, match=r"normalised.*uint8 pictures or paths"):
            small.predict(x.astype("float32"))
    white = np.full((64, 64, 3), 255, np.uint8)
    # Its numbers, normalised, are all above 0.
    np.testing.assert_array_equal(
        small.predict(small.transforms(white)[None]), small.predict(white)
    )


# -- weights ---------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of torch.hub for one test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("EASYDL_OFFLINE", "1")
    folder = tmp_path / "hub" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def publish(monkeypatch, hub, name, state):
    """Put a file into the cache as torchvision's weights of ``name``: its name has its hash."""
    file = hub / "draft.pth"
    torch.save(state, file)
    start = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    entry = get_model_weights(name).DEFAULT
    path = file.rename(hub / f"{name}-{start}.pth")
    changed = entry.value.__class__(
        url=f"https://download.example/{path.name}",
        transforms=entry.value.transforms,
        meta=entry.value.meta,
    )
    monkeypatch.setattr(entry, "_value_", changed)
    return entry


def published_network(name):
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    dl.seed(3)
    return get_model(name, weights=None, **options)


@pytest.mark.parametrize(
    "name", ["squeezenet1_1", "mnasnet0_5", pytest.param("resnet18", marks=pytest.mark.slow)]
)
def test_published_weights_give_torchvisions_outputs(name, hub, monkeypatch):
    network = published_network(name).eval()
    entry = publish(monkeypatch, hub, name, network.state_dict())
    model = dl.pretrained(name)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model.eval()(x, logits=True), network(x))
    assert model.class_names == entry.meta["categories"]
    assert model.transforms == Transforms.of_weights(entry)
    assert model.provenance["url"] == entry.url and "license" in model.provenance
    assert model.predict_labels(np.zeros((64, 64, 3), np.uint8))[0][0] in model.class_names

    as_many = dl.pretrained(name, classes=1000)  # new ones
    head = as_many.network.get_submodule(as_many.head_names[-1])
    assert as_many.class_names is None and not head.bias.any() and head.weight.std() > 0
    assert not torch.equal(head.weight, network.get_submodule(as_many.head_names[-1]).weight)
    for weights in ("DEFAULT", entry.name, entry, str(entry)):
        again = dl.pretrained(name, weights, classes=["a", "b"])
        assert again.class_names == ["a", "b"]
        for key, value in network.state_dict().items():
            same = torch.equal(again.state_dict()[key], value)
            assert same != key.startswith(model.head_names[-1]), key


def test_published_googlenet_knows_pictures_normalised_as_for_the_others(hub, monkeypatch):
    dl.seed(3)
    network = get_model("googlenet", weights=None, init_weights=False, aux_logits=True)
    publish(monkeypatch, hub, "googlenet", network.state_dict())
    reference = get_model("googlenet", weights="DEFAULT").eval()  # torchvision's, from the cache
    model = dl.pretrained("googlenet").eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x, logits=True), reference(x))
    assert model.transform_input
    again = dl.pretrained("googlenet", classes=3)
    assert again.network.aux1.fc2.out_features == 3 == again.network.fc.out_features


def test_a_checkpoint_without_auxiliary_heads_has_its_head(tmp_path):
    network = get_model("googlenet", weights=None, init_weights=False, aux_logits=False)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    model = dl.pretrained("googlenet", tmp_path / "w.pth")
    assert model.provenance["head"] == "of the weights"
    assert torch.equal(model.network.fc.weight, network.fc.weight)


def test_published_densenet_has_the_names_of_before(hub, monkeypatch):
    network = published_network("densenet121").eval()
    old = {
        key.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.").replace("conv2.", "conv.2.")
        if "denselayer" in key
        else key: value
        for key, value in network.state_dict().items()
        if not key.endswith(".num_batches_tracked")
    }  # fmt: skip
    assert set(old) != set(network.state_dict())
    publish(monkeypatch, hub, "densenet121", old)
    reference = get_model("densenet121", weights="DEFAULT").eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(dl.pretrained("densenet121").eval()(x, logits=True), reference(x))


def test_missing_weights_name_file_and_folder(hub):
    with pytest.raises(FileNotFoundError, match=r"squeezenet1_1-b8a52dc0\.pth") as caught:
        dl.pretrained("squeezenet1_1")
    assert str(hub) in str(caught.value)


def test_a_damaged_file_in_the_cache_is_refused(hub, monkeypatch):
    entry = publish(
        monkeypatch, hub, "squeezenet1_1", published_network("squeezenet1_1").state_dict()
    )
    path = hub / entry.url.rpartition("/")[2]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="squeezenet1_1"):
        dl.pretrained("squeezenet1_1")


# -- checkpoints -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    dl.seed(5)
    return get_model("squeezenet1_1", weights=None, num_classes=4)


@pytest.mark.parametrize(
    "form",
    ["bare", "module", "compiled", "wrapped", "nested", "lightning", "safetensors", "easydl"],
)
def test_checkpoints_of_every_form_are_read_with_their_head(form, network, tmp_path):
    state = network.state_dict()
    path = tmp_path / "w.pth"
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path := tmp_path / "w.safetensors")
    elif form == "easydl":
        model = dl.pretrained("squeezenet1_1", None, 4)
        model.load_state_dict(state)
        model.transforms = Transforms(48, 50)
        model.save(path := tmp_path / "w.easydl")
    else:
        prefix = {"module": "module.", "compiled": "module._orig_mod.", "lightning": "model."}
        prefix["wrapped"] = "network.module."
        state = {prefix.get(form, "") + key: value for key, value in state.items()}
        outer = {"state_dict": state} if form in ("nested", "lightning") else state
        torch.save(outer, path)
    for classes in (None, 4, list("wxyz")):
        model = dl.pretrained("squeezenet1_1", path, classes)
        for key, value in network.state_dict().items():
            assert torch.equal(model.state_dict()[key], value), key
    assert model.class_names == list("wxyz")
    assert (model.transforms == Transforms(48, 50)) == (form == "easydl")
    assert model.provenance["head"] == "of the weights"


@pytest.mark.parametrize("head", ["other", "none"])
def test_a_head_that_does_not_fit_stays_new(head, network, tmp_path):
    state = network.state_dict()
    if head == "none":
        state = {key: value for key, value in state.items() if not key.startswith("classifier")}
    torch.save(state, tmp_path / "w.pth")
    model = dl.pretrained("squeezenet1_1", tmp_path / "w.pth", 4 if head == "none" else 7)
    assert model.provenance["head"] == "new"
    assert torch.equal(model.state_dict()["features.0.weight"], state["features.0.weight"])
    with pytest.warns(UserWarning, match="random weights"):
        model.predict(np.zeros((40, 40, 3), np.uint8))
    if head == "none":
        with pytest.raises(ValueError, match=r"classifier.1.weight.*classes=10"):
            dl.pretrained("squeezenet1_1", tmp_path / "w.pth")


def test_checkpoints_of_another_network_list_the_differences(network, tmp_path):
    state = network.state_dict()
    state["strange.weight"] = torch.zeros(3)
    del state["features.0.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"missing: features.0.weight.*strange.weight"):
        dl.pretrained("squeezenet1_1", tmp_path / "w.pth", 4)
    state = network.state_dict()
    state["features.0.weight"] = torch.zeros(3, 3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"features.0.weight: \(3, 3\) instead of \(64, 3, 3, 3\)"):
        dl.pretrained("squeezenet1_1", tmp_path / "w.pth", 4)
    state["features.0.weight"] = torch.full((64, 3, 3, 3), torch.nan)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="nan"):
        dl.pretrained("squeezenet1_1", tmp_path / "w.pth", 4)


def test_the_sha256_of_a_checkpoint_is_compared(network, tmp_path):
    torch.save(network.state_dict(), path := tmp_path / "w.pth")
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    dl.pretrained("squeezenet1_1", path, sha256=right)
    with pytest.raises(ValueError, match=f"SHA-256 {right}"):
        dl.pretrained("squeezenet1_1", path, sha256="0" * 64)


def test_a_network_of_ones_own_takes_a_checkpoint_without_its_head(tmp_path):
    def make(classes):
        return dl.Sequential(
            [dl.Dense(4, activation="relu", input_dim=3), dl.Dense(classes, activation="softmax")]
        )

    first = make(5)
    torch.save({f"module.{k}": v for k, v in first.state_dict().items()}, tmp_path / "w.pt")
    second = dl.pretrained(make(3), tmp_path / "w.pt")
    assert torch.equal(second.state_dict()["0.weight"], first.state_dict()["0.weight"])
    assert second.state_dict()["1.weight"].shape == (3, 4)
    third = dl.pretrained(make(5), tmp_path / "w.pt")
    assert torch.equal(third.state_dict()["1.weight"], first.state_dict()["1.weight"])
    with pytest.raises(ValueError, match="a checkpoint's path"):
        dl.pretrained(make(5))


# -- as a model ------------------------------------------------------------------------------------


def test_a_saved_classifier_comes_back_with_all_that_belongs_to_it(small, tmp_path):
    small.freeze()
    small.provenance = {"weights": "w.pth", "license": "mine"}
    small.save(tmp_path / "m.easydl")
    again = dl.load_model(tmp_path / "m.easydl")
    x = np.random.default_rng(0).integers(0, 256, (2, 70, 80, 3), dtype=np.uint8)
    assert np.array_equal(again.predict(x), small.predict(x))
    assert again.class_names == small.class_names and again.transforms == small.transforms
    assert again.provenance == small.provenance
    assert [p.requires_grad for p in again.parameters()] == [
        p.requires_grad for p in small.parameters()
    ]
    assert any(not p.requires_grad for p in again.parameters())
    small.unfreeze()


def test_to_torch_is_torchvisions_network_and_a_softmax(small):
    plain = small.to_torch()
    x = torch.randn(2, 3, 64, 64)
    assert not any(type(m).__module__.startswith("easydl") for m in plain.modules())
    assert torch.equal(plain.eval()(x), small.eval()(x))


def test_to_torch_has_one_output_in_training_too_where_there_are_auxiliary_heads():
    plain = dl.pretrained("googlenet", None, 3).to_torch()
    assert plain.training and plain(torch.randn(2, 3, 64, 64)).shape == (2, 3)


def test_double_softmax_is_refused_and_the_layers_have_torchvisions_names(small):
    small.compile("adam", nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="second time"):
        small.fit(torch.randn(3, 3, 64, 64), torch.tensor([0, 1, 2]), verbose=0)
    assert small.layer_names() == ["features", "classifier"]


def test_summary_knows_the_size_of_the_weights_pictures_before_any_came():
    text = dl.pretrained("squeezenet1_1", None, 3).summary(print_fn=None)
    assert "(None, 512, 13, 13)" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("resnet81",), "Did you mean 'resnet18'"),
        (("resnet18", "IMAGENET1K_V9"), "IMAGENET1K_V1"),
        (("resnet18", "ResNet50_Weights.IMAGENET1K_V1"), "in ResNet18_Weights"),
        (("resnet18", None, 1), "at least 2"),
        (("resnet18", None, ["a", "a"]), "different names"),
        (("resnet18", "nowhere.pth"), "no weight file"),
        ((3,), "unknown architecture"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        dl.pretrained(*arguments)
