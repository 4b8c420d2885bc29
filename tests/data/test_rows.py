"""Arrays stay where they are: nothing that fits is copied, files are never read in whole."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch

import easydl as dl
from easydl.data import as_source, rows
from easydl.training import prepare

COUNT, FEATURES = 203, 5
GENERATOR = np.random.default_rng(0)
X = GENERATOR.integers(0, 100, (COUNT, FEATURES)).astype("float32")
Y = GENERATOR.integers(3, size=COUNT)
DTYPES = ["float32", "float64", "float16", "uint8", "uint16", ">f4", ">i2", "int32", "longdouble"]


def mapped(array, path, mode="r"):
    """The array in a file, mapped."""
    np.save(path, array)
    return np.load(path, mmap_mode=mode)


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Pieces of a few rows, so that there are many."""
    monkeypatch.setattr(rows, "CHUNK_BYTES", 1000)
    monkeypatch.setattr("easydl.data.arrays.CHUNK_BYTES", 1000)


def compiled():
    dl.seed(7)
    model = dl.Sequential([dl.Dense(4, "relu", input_dim=FEATURES), dl.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def trained(x, y, **arguments):
    """Weights and history of two shuffled epochs."""
    model = compiled()
    history = model.fit(x, y, batch_size=16, epochs=2, verbose=0, **arguments)
    return [*model.get_weights(), *history.history.values(), model.predict(x)]


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs):
        np.testing.assert_array_equal(one, other)


def address(leaf):
    return (leaf.array if isinstance(leaf, rows.Rows) else leaf).data_ptr()


@pytest.mark.parametrize("kind", ["array", "read-only", "memmap", "writable memmap", "tensor"])
def test_what_fits_is_shared_after_all_checks(kind, tmp_path):
    x, y = {
        "array": lambda: (X.copy(), Y.copy()),
        "read-only": lambda: (read_only(X), read_only(Y)),
        "memmap": lambda: (mapped(X, tmp_path / "x.npy"), mapped(Y, tmp_path / "y.npy")),
        "writable memmap": lambda: (mapped(X, tmp_path / "x.npy", "r+"), Y),
        "tensor": lambda: (torch.tensor(X), torch.tensor(Y)),
    }[kind]()
    source = as_source(x, y)
    prepare.get_ready(compiled(), source)
    for given, held in ((x, source.inputs), (y, source.targets)):
        pointer = given.ctypes.data if isinstance(given, np.ndarray) else given.data_ptr()
        assert address(held) == pointer
        assert isinstance(held, torch.Tensor) == (kind in ("array", "tensor") or given is Y)


def test_a_series_is_shared():
    series = pd.Series(Y)
    source = as_source(X, series)
    prepare.get_ready(compiled(), source)
    assert address(source.targets) == series.to_numpy().ctypes.data


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_fit_on_a_file_is_fit_on_the_array_to_the_bit(dtype, shuffle, tmp_path):
    x, y = mapped(X.astype(dtype), tmp_path / "x.npy"), mapped(Y, tmp_path / "y.npy")
    assert_same(trained(x, y, shuffle=shuffle), trained(X, Y, shuffle=shuffle))


LABELS = {"float": Y.astype("f4"), "column": Y[:, None], "one-hot": np.eye(3)[Y], ">i2": ">i2"}


@pytest.mark.parametrize("form", LABELS)
def test_labels_in_a_file_are_cast_as_in_memory(form, tmp_path):
    labels = Y.astype(">i2") if form == ">i2" else LABELS[form]
    assert_same(trained(X, mapped(labels, tmp_path / "y.npy")), trained(X, labels.astype("f4")))


@pytest.mark.parametrize(
    "cut",
    [lambda x: x[::-1], lambda x: x[:, 1:], lambda x: x[::2], np.asfortranarray, lambda x: x[:1]],
)
def test_any_layout_in_a_file_is_read(cut, tmp_path):
    given = cut(mapped(X, tmp_path / "x.npy"))
    source = as_source(given)
    np.testing.assert_array_equal(source.inputs[:] if len(given) else 0, cut(X))
    order = torch.randperm(len(given))
    np.testing.assert_array_equal(source.inputs[order], cut(X)[order.numpy()])


@pytest.mark.parametrize("split", ["tail", "random", "stratified"])
def test_a_file_is_split_and_weighted_as_an_array(split, tmp_path):
    options = {"validation_split": 0.3, "split": split, "class_weight": "balanced"}
    x, y = mapped(X.astype("f8"), tmp_path / "x.npy"), mapped(Y, tmp_path / "y.npy")
    weights = np.linspace(0, 1, COUNT)
    in_file = mapped(weights, tmp_path / "w.npy")
    ours = trained(x, y, sample_weight=in_file, **options)
    for one, other in zip(ours, trained(X, Y, sample_weight=weights, **options)):
        np.testing.assert_allclose(one, other, rtol=1e-6)  # pieces of other sizes are summed


def test_an_autoencoder_and_several_inputs_read_files(tmp_path):
    x = mapped(X / 100, tmp_path / "x.npy")

    class Two(dl.Model):
        def __init__(self):
            super().__init__()
            self.last = torch.nn.Linear(FEATURES, FEATURES)

        def forward(self, a, b):
            return self.last(a + b)

    weights = []
    for given in (x, X / 100):
        dl.seed(0)
        model = Two()
        model.compile("sgd", "mse")
        model.fit((given, given), given, verbose=0)
        weights.append(model.get_weights())
    assert_same(*weights)


def test_large_arrays_in_memory_are_cast_piece_by_piece(monkeypatch):
    monkeypatch.setattr(rows, "LARGE", 100)
    for x in (X.astype("f8"), torch.tensor(X).double()):
        source = as_source(x, Y)
        prepare.get_ready(compiled(), source)
        assert isinstance(source.inputs, rows.Rows) and source.targets is not None
        assert_same(trained(x, Y), trained(X, Y))
    source = as_source(X, Y)
    prepare.get_ready(compiled(), source)
    assert source.inputs.data_ptr() == X.ctypes.data


def test_a_training_that_writes_into_its_rows_leaves_read_only_memory_alone(tmp_path):
    class Writes(dl.Sequential):
        def compute_loss(self, x, y, sample_weight=None):
            x.mul_(2)
            y.add_(1)
            return super().compute_loss(x, y - 1, sample_weight)

    for x, y in (
        (read_only(X), read_only(Y)),
        (mapped(X, tmp_path / "x.npy"), mapped(Y, tmp_path / "y.npy")),
    ):
        model = Writes([dl.Dense(3, "softmax", input_dim=FEATURES)])
        model.compile("sgd", "sparse_categorical_crossentropy", strict=False)  # else refused
        model.fit(x, y, shuffle=False, verbose=0)
        np.testing.assert_array_equal(x, X)
        np.testing.assert_array_equal(y, Y)


def test_checks_of_files_name_the_piece_and_the_row(tmp_path):
    x = X.copy()
    x[60, 2] = np.nan  # pieces are of 50 rows: 1000 bytes of 5 floats
    with pytest.raises(ValueError, match=r"x\[50:100\] holds nan at row 10, column 2"):
        compiled().fit(mapped(x, tmp_path / "x.npy"), Y)
    y = Y.copy()
    y[130] = 3
    with pytest.raises(ValueError, match=r"y\[125:203\] has labels from 0 to 3"):
        compiled().fit(X, mapped(y, tmp_path / "y.npy"))
    with pytest.raises(ValueError, match="x holds nan at row 60, column 2"):
        compiled().fit(read_only(x), Y)
    with pytest.raises(TypeError, match="complex"):
        compiled().fit(mapped(X.astype("c8"), tmp_path / "c.npy"), Y)
    with pytest.raises(ValueError, match=r"1e\+300 at row 0, column 0, which is inf"):
        compiled().fit(mapped(X.astype("f8") * 0 + 1e300, tmp_path / "l.npy"), Y)


MEMORY = """
    import numpy as np, torch
    import easydl as dl

    def held():
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3

    torch.set_num_threads(1)
    x = np.memmap({path!r}, {dtype!r}, "r", shape=({rows}, 1000))
    y = np.zeros({rows}, "int64")
    y[::2] = 1
    def model():
        model = dl.Sequential([dl.Dense(2, "softmax", input_dim=1000)])
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model
    model().fit(np.ones((100, 1000), "f4"), y[:100], verbose=0)
    before, most = held(), 0.0
    class Watch(dl.Callback):
        def on_train_batch_end(self, batch, logs=None):
            global most
            most = max(most, held())
    network = model()
    network.fit(x, y, batch_size=512, verbose=0, callbacks=[Watch()], validation_split=0.1)
    network.evaluate(x, y, verbose=0, callbacks=[Watch()])
    print(max(most, held()) - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("megabytes", "dtype"),
    [
        (100, "float32"),
        pytest.param(300, "float32", marks=pytest.mark.slow),
        pytest.param(300, ">i2", marks=pytest.mark.slow),
    ],
)
def test_a_file_trains_in_less_than_50_mb(megabytes, dtype, tmp_path):
    path, count = str(tmp_path / "x.bin"), megabytes * 1000 // np.dtype(dtype).itemsize
    with open(path, "wb") as file:
        file.truncate(count * 1000 * np.dtype(dtype).itemsize)  # zeros that take no disk
    code = textwrap.dedent(MEMORY.format(path=path, dtype=dtype, rows=count))
    # glibc would keep freed pieces for itself; so it gives them back, and what is held is seen.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 50
