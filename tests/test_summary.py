"""The table of a model: Keras's shapes and counts, multiply-adds in closed form."""

from __future__ import annotations

import os
import re

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import pytest
import torch
from torch import nn

import easydl as dl

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def rows_of(model) -> list[tuple[str, str, str]]:
    """``(name, output shape, parameters)`` of each layer, read from the printed table."""
    lines = model.summary(print_fn=None).splitlines()
    found = [re.fullmatch(r"(\S+) \(\w+\)\s{2,}(.+?)\s{2,}(\S+)", line) for line in lines]
    return [match.groups() for match in found if match]


def multiply_adds(model) -> int:
    text = model.summary(print_fn=None)
    return int(re.search(r"Multiply-adds per sample: ([\d,]+)", text)[1].replace(",", ""))


def totals_of(text: str) -> list[int]:
    found = re.findall(r"(?:Total|Trainable|Non-trainable) params: ([\d,]+)", text)
    return [int(number.replace(",", "")) for number in found]


def mlp(of, shape):
    return [of.Dense(32, activation="relu"), of.Dropout(0.5), of.Dense(10, activation="softmax")]


def cnn(of, shape):
    return [
        of.Conv2D(8, 3, padding="same", activation="relu"),
        of.BatchNormalization(),
        of.MaxPooling2D(2),
        of.Conv2D(4, 3, strides=2, use_bias=False),
        of.Flatten(),
        of.Dense(5),
    ]


def lstm(of, shape):
    return [of.LSTM(6, return_sequences=True), of.LSTM(5), of.Dense(1, activation="sigmoid")]


def texts(of, shape):
    return [of.Embedding(50, 8), of.GRU(4), of.LayerNormalization(), of.Dense(2)]


@pytest.mark.parametrize(
    ("layers", "ours", "theirs"),
    [
        (mlp, (20,), (20,)),
        (cnn, (3, 12, 10), (12, 10, 3)),
        (lstm, (7, 3), (7, 3)),
        (texts, (9,), (9,)),
    ],
    ids=["mlp", "cnn", "lstm", "texts"],
)
def test_summary_equals_keras(layers, ours, theirs):
    model = dl.Sequential([dl.Input(ours), *layers(dl.layers, ours)])
    keras.utils.clear_session()
    twin = keras.Sequential([keras.Input(theirs), *layers(keras.layers, theirs)])
    expected = []
    for layer in twin.layers:
        shape = tuple(layer.output.shape)
        if len(shape) == 4:  # channels last there, first here
            shape = (shape[0], shape[3], shape[1], shape[2])
        expected.append((layer.name, str(shape), f"{layer.count_params():,}"))
    assert rows_of(model) == expected
    assert model.count_params() == twin.count_params()
    lines = []
    twin.summary(print_fn=lambda line, **_: lines.append(line))
    assert totals_of(model.summary(print_fn=None)) == totals_of("\n".join(lines))


@pytest.mark.parametrize(
    ("layers", "shape", "expected"),
    [
        ([dl.Dense(7), dl.Dense(3)], (5,), 5 * 7 + 7 * 3),
        ([dl.Dense(4, use_bias=False)], (6, 5), 6 * 5 * 4),
        ([dl.Conv2D(4, 3)], (2, 9, 8), 7 * 6 * 4 * 2 * 9),
        ([dl.Conv2D(4, 3, padding="same", strides=2)], (2, 9, 8), 5 * 4 * 4 * 2 * 9),
        ([dl.Conv2D(4, 3, groups=2)], (2, 9, 8), 7 * 6 * 4 * 9),
        ([dl.Conv1D(4, 3)], (2, 9), 7 * 4 * 2 * 3),
        ([dl.LSTM(6)], (7, 3), 7 * 4 * 6 * (3 + 6)),
        ([dl.GRU(6)], (7, 3), 7 * 3 * 6 * (3 + 6)),
        ([dl.SimpleRNN(6)], (7, 3), 7 * 6 * (3 + 6)),
        ([dl.LSTM(6, return_sequences=True), dl.LSTM(5), dl.Dense(2)], (7, 3),
         7 * 4 * 6 * (3 + 6) + 7 * 4 * 5 * (6 + 5) + 5 * 2),
        ([dl.Flatten(), dl.Dropout(0.5), dl.Dense(2)], (3, 4), 12 * 2),
        ([dl.Embedding(9, 4), dl.LSTM(3)], (5,), 5 * 4 * 3 * (4 + 3)),
        ([nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)], (5,), 5 * 7 + 7 * 3),
    ],
    ids=lambda value: "-".join(type(v).__name__ for v in value) if isinstance(value, list) else "",
)  # fmt: skip
def test_summary_counts_multiply_adds(layers, shape, expected):
    assert multiply_adds(dl.Sequential([dl.Input(shape), *layers])) == expected


def test_summary_leaves_no_trace():
    model = dl.Sequential(
        [dl.Dense(4, input_dim=3), dl.BatchNormalization(), dl.Dropout(0.5), dl.Dense(1)]
    )
    model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    model.summary(print_fn=None)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_hooks for module in model.modules())


def test_summary_prints_once_and_returns_the_text(capsys):
    model = dl.Sequential([dl.Dense(1, input_dim=3)], name="mine")
    text = model.summary()
    assert capsys.readouterr().out == text + "\n"
    assert text.startswith("Model: 'mine' on cpu")
    lines = []
    assert model.summary(print_fn=lines.append) == text and lines == [text]
    assert capsys.readouterr().out == ""


def test_summary_says_when_the_shapes_are_open():
    model = dl.Sequential([dl.Dense(4), dl.Dense(1)])
    text = model.summary(print_fn=None)
    assert rows_of(model) == [("dense", "?", "?"), ("dense_1", "?", "?")]
    assert "build()" in text and "Total params" not in text
    assert "Total params: 21" in model.summary((3,), print_fn=None)


def test_summary_counts_frozen_weights_live():
    model = dl.Sequential([dl.Dense(4, input_dim=3), dl.Dense(1)])
    model.layers[0].trainable = False
    assert totals_of(model.summary(print_fn=None)) == [21, 5, 16]
    model.layers[0].trainable = True
    assert totals_of(model.summary(print_fn=None)) == [21, 21, 0]


def test_summary_of_a_wrapped_network_shows_its_parts():
    model = dl.Model(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))
    rows = [("linear", "(None, 5)", "25"), ("re_lu", "(None, 5)", "0"),
            ("linear_1", "(None, 3)", "18")]  # fmt: skip
    text = model.summary((4,), print_fn=None)
    assert rows_of(model) == rows and "Multiply-adds per sample: 35" in text


def test_summary_of_several_inputs_still_counts_parameters():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(4, 2), nn.Linear(3, 2)

        def forward(self, a, b):
            return self.left(a) + self.right(b)

    model = dl.Model(Two())
    model.compile("sgd", "mse")
    model.fit((torch.ones(4, 4), torch.ones(4, 3)), torch.ones(4, 2), verbose=0)
    assert totals_of(model.summary(print_fn=None)) == [18, 18, 0]


def test_summary_of_nested_models_counts_each_part_once():
    model = dl.Sequential([dl.Sequential([dl.Dense(4, input_dim=3), dl.Dense(2)]), dl.Dense(1)])
    assert [(shape, count) for _, shape, count in rows_of(model)] == [
        ("(None, 2)", "26"), ("(None, 1)", "3"),
    ]  # fmt: skip
    assert multiply_adds(model) == 12 + 8 + 2
