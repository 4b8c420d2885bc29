"""Every hostile file gets an error of its own; proofs/hostile_files.py watches what they cost."""

from __future__ import annotations

import warnings

import pytest

import easydl as dl
from tests.saving import hostile, keras_hostile

#: which check must have found it, where another would, too, but later
WORDS = {
    "a function by its place": "unknown name 'os.system'",
    "a module of others": "unknown name 'subprocess.Popen'",
    "a loss by custom name": "names 'os.system', which is not easydl's",
    "a pickle renamed": "Python pickle, which can run code",
    "HDF5 renamed": "HDF5",
    "PNG renamed": "PNG",
    "a symlink": "not as model.save writes it",
    "a manifest of 2 GB": "claims 2,147,483,648 bytes",
    "a member of 2^61 bytes": "5,.*bytes, expected 2,305,843",
    "depth 10,000": "nested too deeply",
    "4 MB of empty lists": "more than 200,000 lists",
    "a number of 4 million digits": "4000000 digits",
    "an architecture 60 deep": "nested more than 100 deep",
    "an architecture of 2^40 layers": "more than 50,000 layers",
    "10^5 layers, one shared": "more than 50,000 layers",
    "10^14 units": "2,000,000,000,000,072 bytes of weights",
    "10^14 words": "3,600,000,000,000,000 bytes of weights",
    "10^9 LSTM layers": "num_layers=1000000000",
    "a newer version": "update it",
    "NaN": "the number NaN",
    "1e999": "the number 1e999",
    "a key twice": "a key comes twice",
    "a wrong hash": "weights.safetensors does not match its SHA-256",
    "unknown extras": "update easydl",
    "ties of other shapes": "ties '0.weight' to a weight of another shape",
    "optimizer state of one number": "does not belong to its weight",
    "optimizer groups of others": "other settings",
    "torch: compressed": "compressed or encrypted",
    "torch: a bomb of bytes": "'builtins.bytearray', which is no tensor",
    "torch: a pickle that runs": r"'\w+.system', which is no tensor",
    **keras_hostile.WORDS,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile, about members that come twice
        return hostile.write_all(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def model():
    return hostile.small_model()


@pytest.mark.parametrize("name", hostile.FILES)
def test_a_hostile_file_gets_a_clear_error(name, files, model):
    before = model.get_weights()
    with pytest.raises(ValueError, match=WORDS.get(name, ".")) as error:
        if files[name].suffix in (".easydl", ".keras"):
            dl.load_model(files[name])
        else:
            model.load_weights(files[name])
    assert 20 < len(str(error.value)) <= 600 and "xpected" in str(error.value)
    assert all((ours == kept).all() for ours, kept in zip(model.get_weights(), before))
    assert not (files[name].parent / "executed").exists()


def test_a_manifest_is_compared_with_its_hash_before_it_is_read(tmp_path):
    content = hostile.good().replace(b'"format":"easydl', b'"format";"easydl')
    (tmp_path / "m.easydl").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json does not match its SHA-256"):
        dl.load_model(tmp_path / "m.easydl")


def test_the_words_name_files_that_are_there():
    assert set(WORDS) <= set(hostile.FILES)
