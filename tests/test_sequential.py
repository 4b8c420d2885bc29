"""``Sequential``: shapes that come from wherever they can, a list of layers, logits on request."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pytest
import torch
from torch import nn

import easydl as dl
from easydl.model import snake_case

X = torch.linspace(-1, 1, 40).reshape(10, 4)
Y = torch.arange(10) % 3


def weights_of(model) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in model.parameters()]


# -- where the shapes come from --------------------------------------------------------------------


def by_input():
    return dl.Sequential([dl.Input((4,)), dl.Dense(5), dl.Dense(3)])


def by_input_shape():
    return dl.Sequential([dl.Dense(5, input_shape=(4,)), dl.Dense(3)])


def by_input_dim():
    return dl.Sequential([dl.Dense(5, input_dim=4), dl.Dense(3)])


def by_build():
    model = dl.Sequential([dl.Dense(5), dl.Dense(3)])
    model.build((4,))
    return model


def by_keras_build():
    model = dl.Sequential([dl.Dense(5), dl.Dense(3)])
    model.build((None, 4))
    return model


def by_add():
    model = dl.Sequential()
    model.add(dl.Input(4))
    model.add(dl.Dense(5))
    model.add(dl.Dense(3))
    return model


def by_call():
    model = dl.Sequential([dl.Dense(5), dl.Dense(3)])
    model(X)
    return model


def by_fit():
    model = dl.Sequential([dl.Dense(5), dl.Dense(3)])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, Y, verbose=0)
    return model


def by_first_torch_layer():
    return dl.Sequential([nn.Linear(4, 5), nn.Linear(5, 3)])


WAYS = [
    by_input, by_input_shape, by_input_dim, by_build, by_keras_build, by_add, by_call, by_fit,
    by_first_torch_layer,
]  # fmt: skip


@pytest.mark.parametrize("make", WAYS)
def test_sequential_learns_its_shapes(make):
    model = make()
    assert model.is_built
    assert weights_of(model) == [(5, 4), (5,), (3, 5), (3,)]
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


@pytest.mark.parametrize("make", WAYS[1:6])
def test_sequential_trains_the_same_whichever_way_the_shape_came(make):
    def trained(make):
        dl.seed(0)
        model = make()
        model.compile("adam", "sparse_categorical_crossentropy")
        dl.seed(1)
        return model.fit(X, Y, 4, 2, verbose=0).history

    assert trained(make) == trained(by_input)


def test_sequential_without_a_shape_waits_for_it():
    model = dl.Sequential([dl.Dense(5), dl.Dense(3)])
    assert not model.is_built and model.output_shape is None
    model.compile("adam", "mse")
    assert model.optimizer is None
    with pytest.raises(ValueError, match="no optimizer yet"):
        _ = model.learning_rate
    model.build((4,))
    assert model.is_built and model.output_shape == (None, 3)
    assert model.learning_rate == 0.001


def test_sequential_output_shapes_equal_keras():
    ours = dl.Sequential(
        [
            dl.Conv2D(4, 3, padding="same", strides=2, input_shape=(2, 9, 9)),
            dl.MaxPooling2D(2),
            dl.Flatten(),
            dl.Dense(3),
        ]
    )
    theirs = keras.Sequential(
        [
            keras.Input((9, 9, 2)),
            keras.layers.Conv2D(4, 3, padding="same", strides=2),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    assert ours.output_shape == theirs.output_shape
    assert ours.count_params() == theirs.count_params()


def test_sequential_refuses_a_first_batch_that_does_not_fit():
    with pytest.raises(ValueError, match=r"linear|Linear.*\(N?"):
        dl.Sequential([dl.Input((4,)), nn.Linear(5, 3)])


# -- a list of layers ------------------------------------------------------------------------------


def test_sequential_is_a_list_of_its_layers():
    first, second = dl.Dense(5, input_dim=4), nn.Linear(5, 3)
    model = dl.Sequential([first, second])
    assert len(model) == 2 and list(model) == model.layers == [first, second]
    assert model[0] is first and model[-1] is second
    assert isinstance(model[:1], dl.Sequential) and model[:1].layers == [first]
    assert torch.equal(model[:1](X), first(X))


def test_sequential_takes_an_nn_sequential_apart():
    parts = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    assert dl.Sequential(parts).layers == list(parts)


def test_sequential_of_layers_without_brackets_asks_for_a_list():
    with pytest.raises(TypeError, match=r"expected one list.*Sequential\(\["):
        dl.Sequential(dl.Dense(3), dl.Dense(3))


def test_unnamed_models_inside_are_numbered_and_named_ones_keep_apart():
    model = dl.Sequential([dl.Sequential([dl.Dense(3)]), dl.Sequential([dl.Dense(2)])])
    assert model.layer_names() == ["sequential", "sequential_1"]
    assert model.get_layer("sequential_1") is model.layers[1]
    model.build((4,))
    assert model.output_shape == (None, 2)
    with pytest.raises(ValueError, match="'twin'"):
        dl.Sequential([dl.Sequential(name="twin"), dl.Sequential(name="twin")])


# -- open sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: dl.Sequential([dl.Input((None, 6)), dl.LSTM(3)]),
        lambda: dl.Sequential([dl.LSTM(3, input_shape=(None, 6))]),
        lambda: dl.Sequential([dl.Sequential([dl.LSTM(3)])]),
        lambda: dl.Sequential([dl.Sequential([dl.LSTM(3, input_shape=(None, 6))])]),
    ],
)
def test_sequences_of_any_length(make):
    model = make()
    if not model.is_built:
        model.build((None, None, 6))
    assert model.output_shape == (None, 3)
    assert "(None, 3)" in model.summary(print_fn=None)
    model.compile("sgd", "mse")
    for length in (5, 9):
        model.fit(torch.randn(4, length, 6), torch.randn(4, 3), verbose=0)


def test_words_of_any_number_and_pictures_of_any_size():
    model = dl.Sequential(
        [dl.Input((None,)), dl.Embedding(9, 4), dl.LSTM(3, return_sequences=True)]
    )
    assert model.output_shape == (None, None, 3)
    text = model.summary(print_fn=None)
    assert text.count("(None, None, 4)") == text.count("(None, None, 3)") == 1
    assert "Multiply-adds" not in text
    net = dl.Sequential([dl.Conv2D(5, 3, input_shape=(3, None, None)), dl.GlobalMaxPooling2D()])
    assert net.output_shape == (None, 5)
    assert "(None, 5, None, None)" in net.summary(print_fn=None)
    model.build((7,))  # one of the lengths that it takes
    with pytest.raises(ValueError, match=r"shape \(None,\)"):
        model.build((7, 2))


def test_model_built_for_open_sizes_of_other_parts():
    inner = dl.Sequential([dl.LSTM(3, input_shape=(None, 6))])
    assert dl.Sequential([dl.Input((10, 6)), inner]).output_shape == (None, 3)
    wrapped = dl.Model(dl.Sequential([dl.LSTM(3)]))
    wrapped.build((None, None, 6))
    assert wrapped.is_built


@pytest.mark.parametrize(
    ("layer", "hint"),
    [
        (dl.Dense, r"write Dense\(…\)"),
        (lambda x: x, r"write Lambda\(function\)"),
        ("relu", "'relu'"),
        (None, "NoneType"),
    ],
)
def test_sequential_refuses_what_is_no_layer(layer, hint):
    with pytest.raises(TypeError, match=f"(?s)Sequential was given.*{hint}"):
        dl.Sequential([layer])


def test_add_and_pop_change_the_model_that_trains():
    model = by_input()
    model.compile("sgd", "mse")
    model.fit(X, torch.zeros(10, 3), verbose=0)
    assert isinstance(model.pop(), dl.Dense)
    model.add(dl.Dense(2, "softmax"))
    assert weights_of(model) == [(5, 4), (5,), (2, 5), (2,)]
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = model.get_weights()
    model.fit(X, Y.clamp_max(1), verbose=0)
    assert all(not np.array_equal(a, b) for a, b in zip(model.get_weights(), before))


def test_add_after_compile_trains_the_new_layer():
    model = by_input()
    model.compile("sgd", "mse")
    model.fit(X, torch.zeros(10, 3), verbose=0)
    model.add(dl.Dense(1))
    before = model.get_weights()
    model.fit(X, torch.zeros(10), verbose=0)
    assert not np.array_equal(model.get_weights()[-2], before[-2])
    assert sum(len(group["params"]) for group in model.optimizer.param_groups) == 6


def test_pop_refuses_an_empty_model():
    with pytest.raises(ValueError, match="without layers"):
        dl.Sequential().pop()


def test_input_must_come_first_and_needs_a_shape():
    with pytest.raises(ValueError, match="expected it to be the first"):
        dl.Sequential([dl.Dense(3), dl.Input((4,))])
    with pytest.raises(ValueError, match=r"Input\(\(20,\)\)"):
        dl.Input()


def test_layer_names_are_numbered_as_in_keras():
    def layers(of):
        return [of.Dense(2), of.Conv2D(2, 3), of.Dense(2), of.MaxPooling2D(), of.LSTM(2),
                of.Dense(2), of.BatchNormalization(), of.Dense(1, name="last")]  # fmt: skip

    keras.utils.clear_session()
    expected = [layer.name for layer in keras.Sequential(layers(keras.layers)).layers]
    assert dl.Sequential(layers(dl.layers)).layer_names() == expected


@pytest.mark.parametrize(
    "name", [name for name in dl.layers.__all__ if hasattr(keras.layers, name)]
)
def test_layer_names_are_keras_words(name):
    assert snake_case(name) == keras.src.utils.naming.to_snake_case(name)


# -- models in models ------------------------------------------------------------------------------


def test_sequential_in_a_sequential_trains_as_one_list_would():
    def layers():
        dl.seed(0)
        return dl.Dense(5, "tanh", input_dim=4), dl.Dense(6, "relu"), dl.Dense(3, "softmax")

    def trained(make):
        first, second, third = layers()
        model = make(first, second, third)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        dl.seed(1)
        return model.fit(X, Y, 4, 3, verbose=0).history

    flat = trained(lambda a, b, c: dl.Sequential([a, b, c]))
    assert flat == trained(lambda a, b, c: dl.Sequential([dl.Sequential([a, b]), c]))
    assert flat == trained(lambda a, b, c: dl.Sequential([a, dl.Sequential([b, c])]))


def test_sequential_in_a_sequential_is_built_from_outside():
    model = dl.Sequential([dl.Sequential([dl.Dense(5), dl.Dense(6)]), dl.Dense(3)])
    model.build((4,))
    assert weights_of(model) == [(5, 4), (5,), (6, 5), (6,), (3, 6), (3,)]
    assert list(model.state_dict())[:2] == ["0.0.weight", "0.0.bias"]


def test_sequential_takes_a_model_as_a_layer_with_bare_keys():
    part = dl.Model(nn.Linear(4, 5))
    model = dl.Sequential([part, dl.Dense(3, input_shape=(5,))])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, Y, verbose=0)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


# -- logits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "last",
    [
        lambda: [dl.Dense(3, "softmax")],
        lambda: [dl.Dense(3), nn.Softmax(dim=-1)],
        lambda: [dl.Dense(3), dl.Activation("softmax")],
        lambda: [dl.Sequential([dl.Dense(3, "softmax")])],
        lambda: [dl.Dense(3, activation=nn.Softmax(-1))],
    ],
    ids=["activation", "nn.Softmax", "Activation", "nested", "module"],
)
def test_logits_leave_out_the_last_softmax(last):
    dl.seed(0)
    model = dl.Sequential([dl.Dense(5, "tanh", input_dim=4), *last()])
    logits = model(X, logits=True)
    torch.testing.assert_close(logits.softmax(-1), model(X))
    assert logits.sum(-1).sub(1).abs().min() > 1e-3
    # A wrong label by far: a clipped probability would have lost its gradient.
    for parameter in model.parameters():
        parameter.data *= 200
    model.compile(dl.optimizers.SGD(1e-3), "sparse_categorical_crossentropy")
    expected = nn.functional.cross_entropy(model(X, logits=True), Y).item()
    assert expected > 20
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_logits_leave_out_the_last_sigmoid():
    dl.seed(0)
    model = dl.Sequential([dl.Dense(1, "sigmoid", input_dim=4)])
    for parameter in model.parameters():
        parameter.data *= 300
    model.compile("sgd", "binary_crossentropy")
    y = (X[:, :1] > 0).float()
    expected = nn.functional.binary_cross_entropy_with_logits(model(X, logits=True), y).item()
    assert expected > 20
    assert model.evaluate(X, y, verbose=0) == pytest.approx(expected, rel=1e-5)
