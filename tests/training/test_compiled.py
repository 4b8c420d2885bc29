"""What compile is told: devices, outputs by name, one entry an output."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import easydl as dl
from easydl.training import compiled
from tests.helpers import Rows


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_device_auto_prefers_cuda_then_mps(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert compiled.choose_device("auto") == torch.device(expected)


def test_device_takes_what_torch_takes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compiled.choose_device("cuda:1") == torch.device("cuda:1")
    assert compiled.choose_device(torch.device("cpu")) == torch.device("cpu")
    assert compiled.choose_device("gpu") == torch.device("cuda")


def test_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device='cuda'.*no CUDA GPU.*'cpu'"):
        compiled.choose_device("cuda")
    with pytest.raises(ValueError, match=r"unknown device 'cdua'.*'cuda'"):
        compiled.choose_device("cdua")


def test_outputs_are_named_by_their_keys_or_places():
    one = torch.zeros(2, 1)
    assert compiled.output_names(one) == [""]
    assert compiled.output_names({"a": one, "b": one}) == ["a", "b"]
    assert compiled.output_names((one, one)) == ["output_1", "output_2"]
    with pytest.raises(TypeError, match=r"returned a tuple.*easydl\.LSTM"):
        compiled.output_names(nn.LSTM(1, 1)(one[None]))


def test_spread_gives_one_entry_an_output():
    names = ["a", "b"]
    assert compiled.spread("loss", "mse", names) == ["mse", "mse"]
    assert compiled.spread("loss", ["mse", "mae"], names) == ["mse", "mae"]
    assert compiled.spread("loss", {"b": "mae"}, names, default=1) == [1, "mae"]
    with pytest.raises(ValueError, match=r"unknown output in loss 'bb'.*'b'"):
        compiled.spread("loss", {"bb": "mae"}, names)
    with pytest.raises(ValueError, match=r"3 entries for 2 outputs"):
        compiled.spread("loss", [1, 2, 3], names)


def test_a_list_for_named_outputs_follows_keras_or_is_refused():
    assert compiled.spread("loss", ["mse", "mae"], ["a", "b"]) == ["mse", "mae"]
    many = [f"output_{number}" for number in range(1, 12)]
    assert compiled.spread("loss", many, many) == many
    for spread in (compiled.spread, compiled.spread_metrics):
        with pytest.raises(ValueError, match=r"alphabetical order.*loss=\{'b': …, 'a': …\}"):
            spread("loss", ["mse", "mae"], ["b", "a"])
    y = torch.zeros(2), torch.ones(2)
    assert compiled.order_targets(y, ["a", "b"]) == list(y)
    with pytest.raises(ValueError, match=r"alphabetical order.*y=\{'b': …, 'a': …\}"):
        compiled.order_targets(y, ["b", "a"])


def test_metrics_in_a_list_are_one_each_and_a_single_one_serves_every_output():
    names = ["a", "b"]
    assert compiled.spread_metrics("metrics", ["mae"], names) == [["mae"], ["mae"]]
    assert compiled.spread_metrics("metrics", "mae", names) == [["mae"], ["mae"]]
    assert compiled.spread_metrics("metrics", [], names) == [[], []]
    assert compiled.spread_metrics("metrics", ["mae", "mse"], names) == [["mae"], ["mse"]]
    assert compiled.spread_metrics("metrics", ["mae", "mse"], [""]) == [["mae", "mse"]]
    assert compiled.spread_metrics("metrics", ["mae", None], names) == [["mae"], []]
    with pytest.raises(ValueError, match=r"3 entries for 2 outputs.*dict by name: a, b"):
        compiled.spread_metrics("metrics", ["mae", "mse", "r2"], names)
    assert compiled.spread_metrics("metrics", [["mae"], []], names) == [["mae"], []]
    assert compiled.spread_metrics("metrics", {"b": "mae"}, names) == [[], ["mae"]]
    assert compiled.spread_metrics("metrics", None, names) == [[], []]


def test_metric_object_given_once_is_counted_apart_for_each_output():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 1), nn.Linear(2, 1)

        def forward(self, x):
            return {"a": self.first(x), "b": self.second(x)}

    x, y = torch.randn(9, 2), torch.randn(9)
    model = dl.Model(Two())
    model.compile("sgd", "mse", metrics=[dl.metrics.MeanAbsoluteError()])
    logs = model.evaluate(x, {"a": y, "b": 3 * y}, verbose=0, return_dict=True)
    outputs = model(x)
    keys = [key for key in logs if "loss" not in key]
    expected = [(outputs[n][:, 0] - t).abs().mean().item() for n, t in (("a", y), ("b", 3 * y))]
    assert [logs[key] for key in keys] == pytest.approx(expected, rel=1e-5)


def test_a_metric_object_given_twice_is_counted_apart():
    mae, raw, x = dl.metrics.MeanAbsoluteError(), Rows(), torch.randn(9, 2)
    again, weights = dl.metrics.ObjectMetric(raw, "again"), torch.arange(9.0)
    model = dl.Model(nn.Linear(2, 1))
    model.compile("sgd", "mse", metrics=[mae, mae, raw, again], weighted_metrics=[mae])
    logs = model.fit(x, x[:, 0], sample_weight=weights, verbose=0).history
    keys = ["mean_absolute_error", "mean_absolute_error_1", "weighted_mean_absolute_error"]
    assert list(logs) == ["loss", *keys[:2], "rows", "again", keys[2]]
    assert logs["rows"] == logs["again"] == [9]
    assert logs[keys[0]] == logs[keys[1]] != logs[keys[2]]
    assert [mae.result()] == logs[keys[0]] and raw.compute() == 9  # the owner's own


def test_keys_of_the_history_are_never_equal():
    plain, weighted = compiled.unique_keys(
        [(key, None) for key in ("mae_1", "mae", "mae", "mae")], [("mae", None), ("mae", None)]
    )
    assert [key for key, _ in plain] == ["mae_1", "mae", "mae_2", "mae_3"]
    assert [key for key, _ in weighted] == ["weighted_mae", "weighted_mae_1"]


def test_loss_by_name_serves_as_a_metric():
    x, y = torch.randn(9, 2), torch.randn(9)
    model = dl.Model(nn.Linear(2, 1))
    model.compile("sgd", "mse", metrics=["log_cosh", "mse"])
    result = model.evaluate(x, y, verbose=0, return_dict=True)
    assert list(result) == ["loss", "log_cosh", "mse"]
    assert result["mse"] == pytest.approx(result["loss"])


def test_compile_that_fails_leaves_the_earlier_one_in_force():
    model = dl.Model(nn.Linear(2, 1))
    model.compile("sgd", "mse")
    optimizer = model.optimizer
    with pytest.raises(ValueError, match="unknown loss"):
        model.compile("sgd", "mze")
    assert model.optimizer is optimizer
    model.fit(torch.randn(4, 2), torch.randn(4), verbose=0)


def test_pictures_are_laid_out_channels_last_before_the_optimizer_has_state(tmp_path):
    model = dl.Sequential([dl.Conv2D(4, 3, input_shape=(2, 6, 6)), dl.Flatten(), dl.Dense(3)])
    before = [weight.copy() for weight in model.get_weights()]
    model.compile("adam", "mse")
    weight = model.layers[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    model.save_weights(tmp_path / "weights.safetensors")
    model.load_weights(tmp_path / "weights.safetensors")
    for mine, old in zip(model.get_weights(), before):
        np.testing.assert_array_equal(mine, old)
    other = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3))
    ready = torch.optim.Adagrad(other.parameters())
    dl.Model(other).compile(ready, "mse")
    assert other[0].weight.is_contiguous()  # as the state that its optimizer already has


class Watched(dl.Model):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x * self.weight

    def compute_loss(self, x, y, sample_weight=None):
        outputs = self(x)
        return outputs.sum(), outputs, {"first": self.weight[0]}


def test_a_part_that_is_a_view_of_a_weight_is_what_it_was_before_the_step():
    model = Watched()
    model.compile("sgd")
    history = model.fit(torch.ones(4, 3), batch_size=4, verbose=0).history
    assert history["first"] == [1.0]
