"""Weight files: the same numbers back, whole files or none, and clear words about strangers."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import easydl as dl
from easydl import saving

X = torch.linspace(-1, 1, 40).reshape(10, 4)


def convolutional():
    return dl.Sequential(
        [dl.Conv2D(2, 3, input_shape=(1, 6, 6)), dl.BatchNormalization(), dl.Flatten(), dl.Dense(3)]
    )


MODELS = {
    "dense": lambda: dl.Sequential([dl.Dense(5, "relu", input_dim=4), dl.Dense(3, "softmax")]),
    "convolutional": convolutional,
    "recurrent": lambda: dl.Sequential([dl.LSTM(3, input_shape=(5, 2)), dl.Dense(1)]),
    "embedding": lambda: dl.Sequential([dl.Embedding(7, 3, input_shape=(4,)), dl.LSTM(2)]),
    "wrapped": lambda: dl.Model(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))),
    "nested": lambda: dl.Sequential([dl.Sequential([dl.Dense(2, input_dim=4)]), dl.Dense(1)]),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_weights_come_back_as_they_were(make, tmp_path):
    dl.seed(0)
    model, other = make(), make()
    for value in model.state_dict().values():
        value.copy_(torch.rand(value.shape) if value.is_floating_point() else value + 3)
    model.save_weights(tmp_path / "weights.safetensors")
    other.load_weights(str(tmp_path / "weights.safetensors"))
    for (name, ours), theirs in zip(model.state_dict().items(), other.state_dict().values()):
        assert torch.equal(ours, theirs), name
        assert ours.dtype == theirs.dtype


def test_weights_file_is_a_plain_safetensors_file_with_torch_keys(tmp_path):
    model = dl.Model(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    model.save_weights(tmp_path / "weights.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    assert set(tensors) == set(model.network.state_dict())
    nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).load_state_dict(tensors)


def test_load_weights_takes_a_file_that_torch_users_wrote(tmp_path):
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "weights.safetensors")
    model = dl.Model(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))
    model.load_weights(tmp_path / "weights.safetensors")
    assert torch.equal(model(X), network(X))


def test_save_weights_takes_transposed_and_shared_parameters(tmp_path):
    def tied():
        network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        network[1].weight = network[0].weight
        return dl.Model(network)

    model, other = tied(), tied()
    model.network[0].weight.data = model.network[0].weight.data.T
    model.save_weights(tmp_path / "weights.safetensors")
    other.load_weights(tmp_path / "weights.safetensors")
    np.testing.assert_equal(other.get_weights(), model.get_weights())


def test_load_weights_after_fit_takes_effect_in_training(tmp_path):
    model = MODELS["dense"]()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(X, torch.arange(10) % 3, verbose=0)
    model.save_weights(tmp_path / "weights.safetensors")
    kept = model.get_weights()
    model.fit(X, torch.arange(10) % 3, verbose=0)
    model.load_weights(tmp_path / "weights.safetensors")
    np.testing.assert_equal(model.get_weights(), kept)
    model.fit(X, torch.arange(10) % 3, verbose=0)
    assert not np.array_equal(model.get_weights()[0], kept[0])


def test_predict_does_not_warn_after_load_weights(tmp_path):
    MODELS["dense"]().save_weights(tmp_path / "weights.safetensors")
    model = MODELS["dense"]()
    model.load_weights(tmp_path / "weights.safetensors")
    model.predict(X)


# -- whole or not at all ---------------------------------------------------------------------------


def fails(*_, **__):
    raise OSError("disk full")


@pytest.mark.parametrize("where", ["replace", "fsync"])
def test_save_weights_leaves_the_old_file_whole_when_it_fails(where, tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    model = MODELS["dense"]()
    model.save_weights(path)
    before = path.read_bytes()
    model.layers[0].weight.data += 1
    monkeypatch.setattr(os, where, fails)
    with pytest.raises(OSError, match="disk full"):
        model.save_weights(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.safetensors"]


def test_write_atomically_cleans_up_after_a_keyboard_interrupt(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saving.write_atomically(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == []


def test_write_atomically_makes_a_file_that_others_may_read_as_usual(tmp_path):
    saving.write_atomically(tmp_path / "ours", b"content")
    (tmp_path / "usual").write_bytes(b"content")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_load_weights_changes_nothing_when_it_fails(tmp_path):
    path = tmp_path / "weights.safetensors"
    dl.Sequential([dl.Dense(5, input_dim=4), dl.Dense(2)]).save_weights(path)
    model = MODELS["dense"]()
    before = model.get_weights()
    with pytest.raises(ValueError, match="another architecture"):
        model.load_weights(path)
    np.testing.assert_equal(model.get_weights(), before)


# -- clear words -----------------------------------------------------------------------------------


def test_load_weights_lists_what_differs_in_another_architecture(tmp_path):
    path = tmp_path / "weights.safetensors"
    dl.Sequential([dl.Dense(6, input_dim=4), dl.Dense(3, use_bias=False)]).save_weights(path)
    model = dl.Sequential([dl.Dense(5, input_dim=4), dl.Dense(3)])
    with pytest.raises(
        ValueError, match=r"missing: 1\.bias; .*0\.weight: \(6, 4\) instead of \(5, 4\)"
    ):
        model.load_weights(path)
    smaller = dl.Sequential([dl.Dense(6, input_dim=4)])
    with pytest.raises(ValueError, match=r"not in the model: 1\.weight"):
        smaller.load_weights(path)


def test_load_weights_names_a_damaged_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    MODELS["dense"]().save_weights(path)
    whole = path.read_bytes()
    for content in (whole[:-9], whole[:20], b"", b"something else altogether", b"\x00" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"weights\.safetensors' is (no whole|damaged)"):
            MODELS["dense"]().load_weights(path)


def test_load_weights_names_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weight file at .*nowhere\.safetensors"):
        MODELS["dense"]().load_weights(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    "suffix", [".h5", ".hdf5", ".pt", ".PTH", ".keras", ".easydl", ".npz", ".onnx", ".pkl"]
)
def test_save_weights_refuses_the_suffix_of_another_format(suffix, tmp_path):
    with pytest.raises(ValueError, match=r"writes safetensors.*'model\.safetensors'"):
        MODELS["dense"]().save_weights(tmp_path / f"model{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["w", "w.best", "epoch-0.25"])
def test_save_weights_takes_names_that_are_no_format(name, tmp_path):
    MODELS["dense"]().save_weights(tmp_path / name)
    MODELS["dense"]().load_weights(tmp_path / name)


@pytest.mark.parametrize("verb", ["save_weights", "load_weights", "set_weights"])
def test_weights_wait_until_the_shapes_are_known(verb, tmp_path):
    path = tmp_path / "weights.safetensors"
    MODELS["dense"]().save_weights(path)
    model = dl.Sequential([dl.Dense(5), dl.Dense(3)])
    with pytest.raises(ValueError, match=f"{verb} was called before the shapes are known"):
        getattr(model, verb)([] if verb == "set_weights" else path)


# -- what others wrote -----------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "lr": 0.1},
        lambda state: {"model": dict(state), "optimizer": {}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {key: nn.Parameter(v, v.is_floating_point()) for key, v in state.items()},
    ],
    ids=["bare", "state_dict", "model", "module.", "parameters"],
)
def test_load_weights_takes_files_of_torch(wrap, legacy, tmp_path):
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    path = tmp_path / "weights.pt"
    content = wrap(network.state_dict())
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    model = dl.Model(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    model.load_weights(path)
    for ours, theirs in zip(model.state_dict().values(), network.state_dict().values()):
        assert torch.equal(ours, theirs)


def test_load_weights_casts_the_floats_of_others(tmp_path):
    network = nn.Linear(4, 3)
    safetensors.torch.save_file(network.half().state_dict(), tmp_path / "w.safetensors")
    torch.save(network.double().state_dict(), tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        model = dl.Model(nn.Linear(4, 3))
        model.load_weights(tmp_path / name)
        assert model.network.weight.dtype == torch.float32
        assert torch.equal(model.network.weight, network.weight.float())


@pytest.mark.parametrize("kind", [torch.int64, torch.complex64])
def test_load_weights_refuses_numbers_of_another_kind(kind, tmp_path):
    state = {"weight": torch.ones(3, 4, dtype=kind), "bias": torch.ones(3)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(
        ValueError, match=r"'weight' is torch\.\w+; expected numbers like torch.float"
    ):
        dl.Model(nn.Linear(4, 3)).load_weights(tmp_path / "w.pt")


def test_a_damaged_file_of_torch_is_refused_by_its_crc(tmp_path):
    path = tmp_path / "w.pt"
    network = nn.Linear(40, 30)
    torch.save(network.state_dict(), path)
    whole = path.read_bytes()
    place = whole.index(network.weight.detach().numpy().tobytes()) + 99
    damaged = bytearray(whole)
    damaged[place] ^= 1
    path.write_bytes(damaged)
    model = dl.Model(nn.Linear(40, 30))
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"data/0' is damaged \(CRC-32\)"):
        model.load_weights(path)
    np.testing.assert_equal(model.get_weights(), before)
    path.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match="cannot be read as weights of torch"):
        model.load_weights(path)


def test_a_changed_number_in_our_file_is_refused_and_in_a_foreign_one_unknowable(tmp_path):
    model = MODELS["dense"]()
    model.save_weights(tmp_path / "ours.safetensors")
    safetensors.torch.save_file(model.state_dict(), tmp_path / "theirs.safetensors")
    for name in ("ours", "theirs"):
        path = tmp_path / f"{name}.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged: its numbers do not match the SHA-256"):
        model.load_weights(tmp_path / "ours.safetensors")
    model.load_weights(tmp_path / "theirs.safetensors")


def test_renamed_weights_of_equal_shape_are_refused(tmp_path):
    model = dl.Sequential([dl.Dense(4, input_dim=4), dl.Dense(4)])
    path = tmp_path / "weights.safetensors"
    model.save_weights(path)
    content = path.read_bytes()
    swapped = content.replace(b"0.weight", b"x.weight").replace(b"1.weight", b"0.weight")
    path.write_bytes(swapped.replace(b"x.weight", b"1.weight"))
    with pytest.raises(ValueError, match="damaged"):
        model.load_weights(path)


def test_files_left_by_a_killed_save_go_after_an_hour(tmp_path):
    model = MODELS["dense"]()
    path = tmp_path / "weights.safetensors"
    old, young = (tmp_path / f".weights.safetensors.{digit * 32}" for digit in "ab")
    other = tmp_path / ".weights.safetensors.keep"
    for file in (old, young, other):
        file.write_bytes(b"half")
    for file in (old, other):
        os.utime(file, (1e9, 1e9))
    model.save_weights(path)
    assert sorted(tmp_path.iterdir()) == sorted([path, young, other])


def test_no_length_of_a_header_is_taken_for_another_format(tmp_path):
    path = tmp_path / "weights.safetensors"
    model = dl.Model(nn.Linear(4, 3))
    for length in (0x0280, 0x0480, 0x0189, 0x4B50):  # begin as a pickle, a PNG or a zip does
        weight = {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}
        bias = {"dtype": "F32", "shape": [3], "data_offsets": [48, 60]}
        header = json.dumps({"weight": weight, "bias": bias})
        numbers = np.arange(15, dtype=np.float32)
        path.write_bytes(
            length.to_bytes(8, "little") + header.ljust(length).encode() + numbers.tobytes()
        )
        model.load_weights(path)
        assert model.network.bias.tolist() == [12, 13, 14]


# -- numbers that are none -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.nan, "'1.running_var' holds nan"),
        (-np.inf, "'1.running_var' holds -inf"),
        (1e300, "holds 1e[+]300 of torch.float64, too large for torch.float32"),
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_that_are_not_finite_are_refused(value, says, suffix, tmp_path):
    def network():
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))

    state = {key: t.double() if t.is_floating_point() else t for key, t in
             network().state_dict().items()}  # fmt: skip
    state["1.running_var"][2] = value
    path = tmp_path / f"w.{suffix}"
    (torch.save if suffix == "pt" else safetensors.torch.save_file)(state, path)
    model = dl.Model(network())
    before = model.get_weights()
    with pytest.raises(ValueError, match=says) as error:
        model.load_weights(path)
    assert len(str(error.value)) <= 600
    np.testing.assert_equal(model.get_weights(), before)
    model.compile("sgd", "mse", strict=False)
    model.load_weights(path)
    assert not model.network[1].running_var.isfinite().all()


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.line = nn.Linear(3, 3)


def test_a_mask_may_hold_inf_and_no_nan(tmp_path):
    model = dl.Model(Masked())
    model.save_weights(tmp_path / "w.safetensors")
    model.load_weights(tmp_path / "w.safetensors")
    model.network.mask[0, 0] = torch.nan
    model.save_weights(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="'mask' holds nan"):
        model.load_weights(tmp_path / "w.safetensors")
