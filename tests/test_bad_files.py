"""Bad files and paths: refused aloud as in ``test_bad_input``, with the model as it was."""

from __future__ import annotations

import os
import pickle
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import easydl as dl
from easydl import callbacks
from tests.test_bad_input import (
    LABELS,
    T,
    V,
    X,
    Y,
    classifier,
    fit,
    no_hang,
    normalised,
    refusal,
    regression,
)

assert no_hang  # the fixture
OS = OSError
NAMES = list("abcd")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Relative paths of the tables lie in an empty folder, with good and bad files in it."""
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder")
    open("empty", "w").close()
    with open("text.easydl", "w") as file:
        file.write("a text, and no model\n" * 20)
    for suffix in ("safetensors", "pt", "h5", "keras", "parquet", "weights.h5"):
        with open(f"text.{suffix}", "w") as file:
            file.write("a text, and no model\n" * 20)
        open(f"empty.{suffix}", "w").close()
    with zipfile.ZipFile("other.easydl", "w") as file:
        file.writestr("readme.txt", "of something else")
    with open("pickle.easydl", "wb") as file:
        pickle.dump({"weight": X}, file)
    np.save("array.npy", X)
    os.rename("array.npy", "array.safetensors")


def saved(name="m.easydl", make=regression):
    model = make().model
    model.save(name)
    return name


def weights(name="w.safetensors", make=regression):
    make().model.save_weights(name)
    return name


def state(**changed):
    """The weights of ``regression`` with some replaced, or left out by None."""
    found = dict(regression().model.state_dict()) | changed
    return {name: value.contiguous() for name, value in found.items() if value is not None}


def cut(name):
    """The first two thirds of a file."""
    with open(name, "rb") as file:
        content = file.read()
    with open(name, "wb") as file:
        file.write(content[: 2 * len(content) // 3])
    return name


def flipped(name):
    """One byte changed."""
    with open(name, "r+b") as file:
        file.seek(os.path.getsize(name) // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    return name


def written(value, name="w.pt"):
    torch.save(value, name)
    return name


def tensors(value, name="w.safetensors"):
    save_file(value, name)
    return name


def loading(make_path):
    return lambda model: dl.load_model(make_path())


def reading_weights(make_path):
    return lambda model: model.load_weights(make_path())


def interrupted(folder="runs", make=regression, **options):
    """A folder with checkpoints of another training."""
    made = make()
    arguments = {"epochs": 2, "verbose": 0, "batch_size": 5, "shuffle": False}
    made.model.fit(made.x, made.y, checkpoint=folder, **{**arguments, **options})
    return folder


def after(prepare, make=regression):
    """``make``, with ``prepare`` done before it."""
    return lambda: (prepare(), make())[1]


def resuming(folder="runs", **options):
    def do(model):
        arguments = {"epochs": 3, "verbose": 0, "batch_size": 5, "shuffle": False}
        x, y = options.pop("x", X), options.pop("y", Y)
        model.fit(x, y, checkpoint=folder, **{**arguments, **options})

    return do


def spoiled(folder):
    """All its checkpoints cut."""
    for name in os.listdir(folder):
        cut(os.path.join(folder, name))
    return folder


def with_callback(make):
    return lambda model: fit(callbacks=[make()], validation_data=(X, Y))(model)


def table(name="t.parquet", **columns):
    """X and Y as a Parquet file, some columns replaced, or left out by None."""
    found = {n: X[:, i] for i, n in enumerate(NAMES)} | {"y": Y} | columns
    pq.write_table(pa.table({n: v for n, v in found.items() if v is not None}), name)
    return name


def parquet(make_path, target="y", verb="fit", columns=None, **options):
    def do(model):
        data = dl.data.parquet(make_path(), target=target, columns=columns)
        getattr(model, verb)(data, verbose=0, **options)

    return do


def filled(index, value):
    array = X[:, 0].copy()
    array[index] = value
    return array


# id: model, what is tried, exception, words of the message
FILES = {
    # -- load_model
    "no file": (regression, loading(lambda: "none.easydl"), OS, "none.easydl"),
    "a folder": (regression, loading(lambda: "folder"), (V, OS), "folder"),
    "an empty file": (regression, loading(lambda: "empty"), V, "empty"),
    "a text": (regression, loading(lambda: "text.easydl"), V, "text.easydl"),
    "a zip of something else": (regression, loading(lambda: "other.easydl"), V, "other.easydl"),
    "a pickle": (regression, loading(lambda: "pickle.easydl"), V, "pickle.easydl"),
    "half a model": (regression, loading(lambda: cut(saved())), V, "m.easydl"),
    "a model with a byte changed": (regression, loading(lambda: flipped(saved())), V, "m.easydl"),
    "weights as a model": (regression, loading(weights), V, "load_weights"),
    "torch's file as a model": (
        regression, loading(lambda: written(state(), "w.easydl")), V, "w.easydl",
    ),
    "a text as a Keras model": (regression, loading(lambda: "text.keras"), V, "text.keras"),
    "a text as an old Keras model": (regression, loading(lambda: "text.h5"), V, "text.h5"),
    "a number as a path": (regression, loading(lambda: 3), T, "3"),
    "None as a path": (regression, loading(lambda: None), T, "None"),
    "a path with a zero byte": (regression, loading(lambda: "a\0b"), V, "x00"),
    "a very long path": (regression, loading(lambda: "n" * 5000), OS, "nnn"),
    "custom_objects that is a list": (
        regression, lambda m: dl.load_model(saved(), custom_objects=[1]), T, "custom_objects",
    ),
    # -- load_weights
    "no weights": (regression, reading_weights(lambda: "none.safetensors"), OS, "none"),
    "no name": (regression, reading_weights(lambda: ""), (V, OS), "''"),
    "a folder of weights": (regression, reading_weights(lambda: "folder"), (V, OS), "folder"),
    "weights: empty": (regression, reading_weights(lambda: "empty.safetensors"), V, "no whole"),
    "weights: a text": (regression, reading_weights(lambda: "text.safetensors"), V, "no whole"),
    "weights: an array": (regression, reading_weights(lambda: "array.safetensors"), V, "no whole"),
    "weights: torch's, empty": (regression, reading_weights(lambda: "empty.pt"), V, "empty.pt"),
    "weights: torch's, a text": (regression, reading_weights(lambda: "text.pt"), V, "text.pt"),
    "weights: Keras's, a text": (
        regression, reading_weights(lambda: "text.weights.h5"), V, "text.weights.h5",
    ),
    "weights: Keras's, empty": (regression, reading_weights(lambda: "empty.h5"), V, "empty.h5"),
    "half the weights": (regression, reading_weights(lambda: cut(weights())), V, "no whole"),
    "weights with a byte changed": (
        regression, reading_weights(lambda: flipped(weights())), V, "w.safetensors",
    ),
    "half of torch's weights": (
        regression, reading_weights(lambda: cut(written(state()))), V, "w.pt",
    ),
    "a pickled network": (
        regression, reading_weights(lambda: written(regression().model.to_torch())), V, "w.pt",
    ),
    "a list of weights": (
        regression, reading_weights(lambda: written(list(state().values()))), V, "w.pt",
    ),
    "a tensor as weights": (regression, reading_weights(lambda: written(torch.ones(3))), V, "w.pt"),
    "weights of another network": (
        regression, reading_weights(lambda: weights(make=classifier)), V, r"\(3, 8\)",
    ),
    "a model file of another network": (
        regression, reading_weights(lambda: saved(make=normalised)), V, "1.",
    ),
    "a weight too few": (
        regression, reading_weights(lambda: tensors(state(**{"1.bias": None}))), V, "1.bias",
    ),
    "a weight too many": (
        regression, reading_weights(lambda: tensors(state(more=torch.ones(2)))), V, "more",
    ),
    "a weight of another shape": (
        regression, reading_weights(lambda: tensors(state(**{"1.bias": torch.ones(2)}))), V,
        "1.bias", r"\(2,\)", r"\(1,\)",
    ),
    "a weight of complex numbers": (
        regression, reading_weights(lambda: tensors(state(**{"1.bias": torch.ones(1) * 1j}))),
        (V, T), "1.bias|complex",
    ),
    "weights by number": (regression, reading_weights(lambda: 3), T, "3"),
    "weights from None": (regression, reading_weights(lambda: None), T, "None"),
    # -- writing
    "save: a folder": (regression, lambda m: m.save("folder"), (V, OS), "folder"),
    "save: into no folder": (regression, lambda m: m.save("/proc/no/m.easydl"), OS, "/proc/no"),
    "save: below a file": (regression, lambda m: m.save("empty/m.easydl"), OS, "empty"),
    "save: no name": (regression, lambda m: m.save(""), (V, OS), "''"),
    "save: None": (regression, lambda m: m.save(None), T, "None"),
    "save: a number": (regression, lambda m: m.save(3), T, "3"),
    "save: a very long name": (
        regression, lambda m: m.save("n" * 300 + ".easydl"), OS, "nnn|too long",
    ),
    "save: as Keras": (regression, lambda m: m.save("m.keras"), V, "m.easydl"),
    "save_weights: a folder": (regression, lambda m: m.save_weights("folder"), (V, OS), "folder"),
    "save_weights: below a file": (
        regression, lambda m: m.save_weights("empty/w.safetensors"), OS, "empty",
    ),
    "save_weights: no name": (regression, lambda m: m.save_weights(""), (V, OS), "''"),
    "save_weights: None": (regression, lambda m: m.save_weights(None), T, "None"),
    "save_weights: as torch": (regression, lambda m: m.save_weights("w.pt"), V, "safetensors"),
    "export: another kind": (regression, lambda m: m.export("m.h5"), V, ".pt2", ".onnx"),
    "export: no suffix": (regression, lambda m: m.export("m"), V, ".pt2"),
    "export: None": (regression, lambda m: m.export(None), T, "None"),
    "export: below a file": (regression, lambda m: m.export("empty/m.pt2"), OS, "empty"),
    "export: into no folder": (regression, lambda m: m.export("/proc/no/m.pt2"), OS, "/proc/no"),
    "export: rows too narrow": (
        regression, lambda m: m.export("m.pt2", X[:, :3]), V, r"\(20, 3\)", "dense",
    ),
    "export: text as rows": (regression, lambda m: m.export("m.pt2", "rows.csv"), T, "rows.csv"),
    # -- fit(checkpoint=…) and callbacks that write
    "checkpoint: a file": (regression, fit(checkpoint="empty"), OS, "empty", "folder"),
    "checkpoint: below a file": (regression, fit(checkpoint="empty/runs"), (V, OS), "empty"),
    "checkpoint: nowhere": (regression, fit(checkpoint="/proc/no/runs"), (V, OS), "/proc/no"),
    "checkpoint: a number": (regression, fit(checkpoint=3), T, "3"),
    "checkpoint: True": (regression, fit(checkpoint=True), T, "True"),
    "checkpoint: no name": (regression, fit(checkpoint=""), (V, OS), "''"),
    "checkpoint: a list": (regression, fit(checkpoint=["a"]), T, "list|'a'"),
    "checkpoint: another network": (
        after(interrupted, classifier), resuming(y=LABELS), V, "checkpoint",
    ),
    "checkpoint: another batch size": (
        after(interrupted), resuming(batch_size=4), V, "batch_size", "4", "5",
    ),
    "checkpoint: fewer rows": (
        after(interrupted), resuming(x=X[:15], y=Y[:15]), V, "20", "15",
    ),
    "checkpoint: another optimizer": (
        after(interrupted, lambda: regression(optimizer="adam")), resuming(), V, "Adam", "SGD",
    ),
    "checkpoint: shuffled now": (after(interrupted), resuming(shuffle=True), V, "shuffle"),
    "checkpoint: all damaged": (
        after(lambda: spoiled(interrupted())), resuming(), V, "none of the checkpoints",
    ),
    "BackupAndRestore every 0 batches": (
        regression, with_callback(lambda: callbacks.BackupAndRestore("r", save_freq=0)), V,
        "save_freq=0",
    ),
    "BackupAndRestore every epcoh": (
        regression, with_callback(lambda: callbacks.BackupAndRestore("r", save_freq="epcoh")), V,
        "'epcoh'",
    ),
    "ModelCheckpoint: a folder": (
        regression, with_callback(lambda: callbacks.ModelCheckpoint("folder")), (V, OS), "folder",
    ),
    "ModelCheckpoint: below a file": (
        regression, with_callback(lambda: callbacks.ModelCheckpoint("empty/w.safetensors")),
        (V, OS), "empty",
    ),
    "ModelCheckpoint: a placeholder mistyped": (
        regression,
        with_callback(lambda: callbacks.ModelCheckpoint("{epohc}.safetensors")), V, "epohc",
    ),
    "CSVLogger: a folder": (
        regression, with_callback(lambda: callbacks.CSVLogger("folder")), (V, OS), "folder",
    ),
    "CSVLogger: below a file": (
        regression, with_callback(lambda: callbacks.CSVLogger("empty/log.csv")), (V, OS), "empty",
    ),
    # -- Parquet
    "parquet: no file": (regression, parquet(lambda: "none.parquet"), OS, "none.parquet"),
    "parquet: a folder": (regression, parquet(lambda: "folder"), (V, OS), "folder"),
    "parquet: empty": (regression, parquet(lambda: "empty.parquet"), V, "empty.parquet"),
    "parquet: a text": (regression, parquet(lambda: "text.parquet"), V, "text.parquet"),
    "parquet: half a file": (regression, parquet(lambda: cut(table())), V, "t.parquet"),
    "parquet: a number": (regression, parquet(lambda: 3), T, "3"),
    "parquet: None": (regression, parquet(lambda: None), T, "None"),
    "parquet: no path": (regression, parquet(list), V, "no path"),
    "parquet: no rows": (
        regression,
        parquet(lambda: table(**{n: pa.array([], pa.float32()) for n in [*NAMES, "y"]})), V,
        "0 rows",
    ),
    "parquet: an unknown target": (
        regression, parquet(table, target="yy"), V, "'yy'", "Did you mean 'y'",
    ),
    "parquet: an unknown column": (
        regression, parquet(table, columns=["a", "bb"]), V, "'bb'", "Did you mean 'b'",
    ),
    "parquet: a target by number": (regression, parquet(table, target=4), (V, T), "4"),
    "parquet: a column twice": (regression, parquet(table, columns=["a", "a"]), V, "'a' twice"),
    "parquet: the target as a feature": (
        regression, parquet(table, columns=["a", "y"]), V, "'y' twice",
    ),
    "parquet: no columns": (regression, parquet(table, columns=[]), V, "no column"),
    "parquet: no target": (
        regression, parquet(lambda: table(y=None), target=None), V, "inputs only",
    ),
    "parquet: text in a column": (
        regression, parquet(lambda: table(b=["red"] * 20)), T, "'b'", "'red'",
    ),
    "parquet: dates in a column": (
        regression, parquet(lambda: table(b=np.full(20, "2026-01-01", "datetime64[s]"))), T, "'b'",
    ),
    "parquet: lists in a column": (
        regression, parquet(lambda: table(b=[[1.0, 2.0]] * 20)), T, "'b'", "list",
    ),
    "parquet: null": (
        regression, parquet(lambda: table(b=[None] + [1.0] * 19)), V, "row 0, column 'b' is null",
    ),
    "parquet: nan": (
        regression, parquet(lambda: table(a=filled(7, np.nan))), V, "row 7, column 'a' holds nan",
    ),
    "parquet: inf": (regression, parquet(lambda: table(a=filled(7, -np.inf))), V, "row 7", "-inf"),
    "parquet: nan in the targets": (
        regression, parquet(lambda: table(y=filled(7, np.nan))), V, "row 7, column 'y'",
    ),
    "parquet: too large for float32": (
        regression, parquet(lambda: table(a=np.full(20, 1e300))), V, "float32",
    ),
    "parquet: labels from 1": (
        classifier, parquet(lambda: table(y=LABELS + 1)), V, "1 to 3", "0 … 2",
    ),
    "parquet: targets of two columns": (
        regression, parquet(lambda: table(z=Y), target=["y", "z"]), V, r"\(N, 2\)", r"\(N, 1\)",
    ),
    "parquet: too few columns": (
        regression, parquet(table, columns=["a", "b", "c"]), V, "3", "4", "dense",
    ),
    "parquet: a second file of other columns": (
        regression, parquet(lambda: [table(), table("u.parquet", d=None)]), V, "u.parquet", "'d'",
    ),
    "parquet: a file that is not there among others": (
        regression, parquet(lambda: [table(), "none.parquet"]), OS, "none.parquet",
    ),
    "parquet: y beside it": (regression, parquet(table, y=Y), V, "y was given beside"),
    "parquet: weights beside it": (
        regression, parquet(table, sample_weight=np.ones(20)), V, "sample_weight",
    ),
    "parquet: validation_split": (regression, parquet(table, validation_split=0.2), V, "split"),
    "parquet: steps_per_epoch too many": (
        regression, parquet(table, steps_per_epoch=9), V, "9",
    ),
    "parquet: validation of other columns": (
        regression,
        lambda m: fit(
            dl.data.parquet(table(), "y"), None,
            validation_data=dl.data.parquet(table("u.parquet", d=None), "y"),
        )(m), V, "'d'|missing d|3",
    ),
    "parquet: evaluate without targets": (
        regression, parquet(lambda: table(y=None), target=None, verb="evaluate"), V, "inputs only",
    ),
    "parquet: predict on text": (
        regression, parquet(lambda: table(b=["red"] * 20), verb="predict"), T, "'b'",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:the checkpoint.*passed over")
@pytest.mark.parametrize("name", FILES)
def test_files_are_refused(name):
    make, do, kind, *words = FILES[name]
    before = sorted(os.listdir())
    refusal(make(), do, kind, words)
    made_by_the_test = {"m.easydl", "w.safetensors", "w.easydl", "w.pt", "runs", "r"}
    left = set(os.listdir()) - set(before) - made_by_the_test
    assert all(name.endswith(".parquet") for name in left), left
