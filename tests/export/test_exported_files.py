"""``model.export``: files that torch and onnxruntime run, with the model's outputs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

import easydl as dl
from easydl.export import files

X = torch.linspace(-1, 1, 40).reshape(10, 4)
PICTURES = torch.linspace(-1, 1, 5 * 2 * 9 * 8).reshape(5, 2, 9, 8)
STEPS = torch.linspace(-1, 1, 5 * 6 * 3).reshape(5, 6, 3)
WORDS = torch.arange(30).reshape(5, 6) % 9


def mlp():
    return dl.Sequential(
        [dl.Dense(8, "relu", input_dim=4), dl.Dropout(0.5), dl.BatchNormalization(),
         dl.Dense(3, "softmax")]
    )  # fmt: skip


def cnn():
    return dl.Sequential(
        [
            dl.Conv2D(4, 3, padding="same", strides=2, activation="tanh", input_shape=(2, 9, 8)),
            dl.BatchNormalization(),
            dl.MaxPooling2D(2, padding="same"),
            dl.Flatten(),
            dl.Dense(3),
        ]
    )


def lstm():
    return dl.Sequential(
        [dl.LSTM(4, return_sequences=True, input_shape=(6, 3)), dl.GRU(3, go_backwards=True)]
    )


def words():
    return dl.Sequential(
        [dl.Embedding(9, 5, input_shape=(6,)), dl.Bidirectional(dl.LSTM(3)), dl.Dense(2)]
    )


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 2), nn.Linear(3, 2)

    def forward(self, a, b):
        return {"sum": self.left(a) + self.right(b), "difference": self.left(a) - self.right(b)}


class OwnForward(dl.Model):
    def __init__(self):
        super().__init__()
        self.part, self.drop = dl.Dense(3), dl.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.part(x)).exp(), x.sum(1)


def own():
    model = OwnForward()
    model.build((4,))
    return model


CASES = {mlp: X, cnn: PICTURES, lstm: STEPS, words: WORDS, own: X}


def made(make):
    dl.seed(0)
    model = make()
    model(CASES[make])
    return model


def run_onnx(path, **inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {name: np.asarray(value) for name, value in inputs.items()})


def flat(outputs):
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


@pytest.mark.parametrize("make", CASES)
def test_pt2_runs_for_any_number_of_rows(make, tmp_path, capfd):
    model = made(make)
    model.train()
    model.export(tmp_path / "m.pt2")
    assert capfd.readouterr() == ("", "")
    assert model.training
    program = torch.export.load(tmp_path / "m.pt2").module()
    model.eval()
    for rows in (1, 2, 3, 5):
        x = CASES[make][:rows]
        for found, expected in zip(flat(program(x)), flat(model(x)), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["m.pt2"]


@pytest.mark.parametrize(
    "make", [mlp, *(pytest.param(m, marks=pytest.mark.slow) for m in (cnn, lstm, words, own))]
)
def test_onnx_runs_for_any_number_of_rows(make, tmp_path, capfd):
    pytest.importorskip("onnxscript")
    model = made(make)
    path = tmp_path / "m.onnx"
    model.export(path)
    assert capfd.readouterr() == ("", "")
    model.eval()
    for rows in (1, 2, 3, 5):
        x = CASES[make][:rows]
        with torch.no_grad():
            expected = flat(model(x))
        for one, other in zip(run_onnx(path, x=x), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    import onnx

    graph = onnx.load(path).graph
    assert [entry.name for entry in graph.input] == ["x"]
    names = [entry.name for entry in graph.output]
    assert names == (["y_1", "y_2"] if make is own else ["y"])
    for entry in (*graph.input, *graph.output):
        assert entry.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.slow
def test_pt2_runs_where_easydl_is_not(tmp_path):
    model = made(mlp)
    model.export(tmp_path / "m.pt2")
    model.eval()
    torch.save((X, model(X).detach()), tmp_path / "expected.pt")
    code = """
        import sys, torch
        torch.set_num_threads(1)
        x, expected = torch.load("expected.pt")
        found = torch.export.load("m.pt2").module()(x)
        assert torch.allclose(found, expected, atol=1e-5)
        assert not any(name.startswith("easydl") for name in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    subprocess.run(command, cwd=tmp_path, env={}, check=True)


A, B = torch.linspace(-1, 1, 20).reshape(5, 4), torch.linspace(0, 1, 15).reshape(5, 3)


@pytest.mark.parametrize(
    "x", [pytest.param((A, B), marks=pytest.mark.slow), {"b": B, "a": A}], ids=["tuple", "dict"]
)
def test_several_inputs_and_outputs(x, tmp_path):
    pytest.importorskip("onnxscript")
    network = TwoHeads()
    model = dl.Model(network)
    model.export(tmp_path / "m.pt2", x)
    program = torch.export.load(tmp_path / "m.pt2").module()
    for key, expected in network(A[:3], B[:3]).items():
        found = program(A[:3], B[:3]) if isinstance(x, tuple) else program(a=A[:3], b=B[:3])
        torch.testing.assert_close(found[key], expected)
    model.export(tmp_path / "m.onnx", x)
    names = ("x_1", "x_2") if isinstance(x, tuple) else ("a", "b")
    found = run_onnx(tmp_path / "m.onnx", **dict(zip(names, (A[:3], B[:3]))))
    for one, other in zip(found, network(A[:3], B[:3]).values(), strict=True):
        np.testing.assert_allclose(one, other.detach(), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"does not know what the network takes.*x=\(a\[:5\]"):
        model.export(tmp_path / "m.pt2")


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 2)

    def forward(self, x):
        return self.table(x).sum(1)


class Branch(nn.Module):
    def forward(self, x):
        return 2 * x if x.sum() > 0 else x


class FiveRows(nn.Module):
    def forward(self, x):
        return x.reshape(5, 4) * 2


class Random(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


@pytest.mark.parametrize("network", [Branch(), FiveRows()], ids=lambda n: type(n).__name__)
def test_what_torch_cannot_export_is_said(network, tmp_path, capfd):
    model = dl.Model(network)
    with pytest.raises(ValueError, match=f"cannot export {type(network).__name__}.*any number"):
        model.export(tmp_path / "m.pt2", X[:5])
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_otherwise_is_not_written(tmp_path):
    (tmp_path / "m.pt2").write_text("the old one")
    with pytest.raises(ValueError, match=r"differ from the model's by 0\.\d+.*Random numbers"):
        dl.Model(Random()).export(tmp_path / "m.pt2", X[:5])
    assert (tmp_path / "m.pt2").read_text() == "the old one"


@pytest.mark.parametrize("name", ["m", "m.pth", "m.ONNX.txt", "m.pt"])
def test_another_suffix_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"\.pt2 \(torch\.export\) or \.onnx"):
        made(mlp).export(tmp_path / name)


def test_the_shapes_must_be_known(tmp_path):
    with pytest.raises(ValueError, match=r"before the shapes are known.*build"):
        dl.Sequential([dl.Dense(3)]).export(tmp_path / "m.pt2")
    with pytest.raises(ValueError, match=r"does not know.*x=x_test\[:5\]"):
        dl.Model(nn.Linear(4, 3)).export(tmp_path / "m.pt2")
    inner = dl.Model(Table())
    inner.build((3,))
    with pytest.raises(ValueError, match=r"does not know.*x=x_test\[:5\]"):
        inner.export(tmp_path / "m.pt2")
    inner.export(tmp_path / "m.pt2", [[1, 2, 3], [4, 5, 8]])
    with pytest.raises(ValueError, match="expected a few rows as arrays"):
        made(mlp).export(tmp_path / "m.pt2", iter([X]))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    absent = lambda name: None if name == "onnxscript" else found(name)  # noqa: E731
    monkeypatch.setattr(files.importlib.util, "find_spec", absent)
    with pytest.raises(ImportError, match=r"onnxscript.*pip install 'easydl\[onnx\]'"):
        made(mlp).export(tmp_path / "m.onnx")


def test_without_onnxruntime_it_says_that_nothing_was_compared(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    found = importlib.util.find_spec
    absent = lambda name: None if name == "onnxruntime" else found(name)  # noqa: E731
    monkeypatch.setattr(files.importlib.util, "find_spec", absent)
    with pytest.warns(UserWarning, match="not compared with the model.*onnxruntime"):
        made(mlp).export(tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size > 100


def test_rows_of_another_dtype_are_cast(tmp_path):
    made(mlp).export(tmp_path / "m.pt2", X.double().numpy())
    made(mlp).export(str(tmp_path / "n.pt2"), X[:1])  # one row is enough
