"""The way out: a plain torch module, equal to the bit, that runs where easydl is not installed."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import easydl as dl

X = torch.linspace(-1, 1, 40).reshape(10, 4)
PICTURES = torch.linspace(-1, 1, 10 * 2 * 8 * 8).reshape(10, 2, 8, 8)
STEPS = torch.linspace(-1, 1, 10 * 6 * 3).reshape(10, 6, 3)
WORDS = torch.arange(60).reshape(10, 6) % 9


def mlp():
    return dl.Sequential(
        [dl.Dense(8, "relu", input_dim=4), dl.Dropout(0.5), dl.Dense(3, "softmax")]
    )


def cnn():
    return dl.Sequential(
        [
            dl.Conv2D(4, 3, padding="same", strides=2, activation="tanh", input_shape=(2, 8, 8)),
            dl.BatchNormalization(),
            dl.MaxPooling2D(2),
            dl.Flatten(),
            dl.Dense(3, "sigmoid"),
        ]
    )


def recurrent():
    return dl.Sequential(
        [dl.LSTM(4, return_sequences=True, input_shape=(6, 3)), dl.GRU(3), dl.Dense(1)]
    )


def words():
    return dl.Sequential([dl.Embedding(9, 5, input_shape=(6,)), dl.LSTM(3), dl.Dense(2, "softmax")])


def mixed():
    return dl.Sequential(
        [dl.Input((4,)), nn.Linear(4, 6), dl.Lambda(torch.square), dl.Dense(5, nn.GELU()),
         nn.BatchNorm1d(5), dl.GaussianNoise(0.1), dl.Reshape((5, 1)), nn.Flatten(), nn.Softmax(-1)]
    )  # fmt: skip


def nested():
    inner = dl.Sequential([dl.Dense(5, "relu", input_dim=4), dl.Sequential([dl.Dense(6, "tanh")])])
    return dl.Sequential([inner, dl.Dropout(0.3), dl.Dense(2)])


def torch_in_between():
    part = nn.Sequential(dl.Dense(5, "relu", input_dim=4), nn.Sequential(nn.Linear(5, 3)))
    return dl.Sequential([part, dl.Dense(2, "softmax")])


def wrapped():
    return dl.Model(nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.2), nn.Linear(5, 3)))


def wrapped_with_easydl_layers():
    return dl.Model(
        nn.Sequential(dl.Dense(5, "relu", input_dim=4), nn.Dropout(0.2), nn.Linear(5, 3))
    )


def model_in_a_sequential():
    return dl.Sequential([dl.Input((4,)), dl.Model(nn.Linear(4, 5)), dl.Dense(3, "softmax")])


class Mine(dl.Sequential):
    """A subclass that changes nothing in forward."""


def subclassed():
    return Mine([dl.Dense(3, "tanh", input_dim=4), Mine([dl.Dense(2)])])


VARIANTS = {
    mlp: X, cnn: PICTURES, recurrent: STEPS, words: WORDS, mixed: X, nested: X,
    torch_in_between: X, wrapped: X, wrapped_with_easydl_layers: X, model_in_a_sequential: X,
    subclassed: X,
}  # fmt: skip


def made(make) -> dl.Model:
    """A model with weights, statistics and modes of its own."""
    dl.seed(0)
    model = make()
    model.train()
    model(VARIANTS[make])
    return model


def outputs(module, x, training: bool) -> torch.Tensor:
    module.train(training)
    torch.manual_seed(3)
    return module(x)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("make", VARIANTS)
def test_to_torch_is_equal_to_the_bit(make, training):
    model, x = made(make), VARIANTS[make]
    plain = model.to_torch()
    assert torch.equal(outputs(plain, x, training), outputs(model, x, training))


@pytest.mark.parametrize("make", VARIANTS)
def test_to_torch_has_no_easydl_in_it(make):
    for module in made(make).to_torch().modules():
        assert "easydl" not in type(module).__module__, type(module)


@pytest.mark.parametrize("make", [mlp, cnn, mixed, nested, torch_in_between, wrapped])
def test_to_torch_has_the_same_gradients(make):
    model, x = made(make), VARIANTS[make]
    plain = model.to_torch()
    for module in (model, plain):
        module.zero_grad()
        outputs(module, x, True).square().sum().backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    "make", [mlp, nested, torch_in_between, wrapped, wrapped_with_easydl_layers]
)
def test_to_torch_keeps_the_keys(make):
    model = made(make)
    plain = model.to_torch()
    assert list(plain.state_dict()) == list(model.state_dict())
    plain.load_state_dict(model.state_dict())


def test_a_layer_that_stands_twice_stays_there():
    twice, activation = nn.Linear(4, 4), nn.ReLU()
    model = dl.Sequential([dl.Input((4,)), twice, activation, twice, activation, dl.Dense(2)])
    plain = model.to_torch()
    assert torch.equal(plain(X), model(X))
    assert plain[0] is plain[2]
    assert list(plain.state_dict()) == list(model.state_dict())


def test_to_torch_copies():
    model = made(mlp)
    plain = model.to_torch()
    plain[0].weight.data += 1
    assert not torch.equal(plain[0].weight, model.layers[0].weight)


@pytest.mark.parametrize("training", [False, True])
def test_to_torch_keeps_the_mode_and_what_is_frozen(training):
    model = made(cnn)
    model.layers[1].trainable = False
    model.layers[0].trainable = False
    model.compile("sgd", "binary_crossentropy")
    model.fit(PICTURES, torch.ones(10, 3), verbose=0)
    model.train(training)
    plain = model.to_torch()
    assert plain.training is training
    frozen = {name for name, parameter in plain.named_parameters() if not parameter.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"0", "1"}
    norm = plain.get_submodule("1")
    statistics = norm.running_mean.clone()
    plain(PICTURES)
    assert torch.equal(norm.running_mean, statistics)
    torch.testing.assert_close(plain(PICTURES), model(PICTURES), rtol=0, atol=0)


def test_to_torch_waits_until_the_shapes_are_known():
    with pytest.raises(ValueError, match=r"before the shapes are known.*build"):
        dl.Sequential([dl.Dense(3)]).to_torch()


class OwnForward(dl.Model):
    def __init__(self):
        super().__init__()
        self.part = nn.Linear(4, 3)

    def forward(self, x):
        return self.part(x).exp()


class OwnSum(dl.Sequential):
    def forward(self, x, logits=False):
        return super().forward(x) + 1


class OwnScale(dl.Model):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "make",
    [OwnForward, lambda: OwnSum([dl.Dense(3, input_dim=4)]), lambda: OwnScale(nn.Linear(4, 3))],
    ids=["Model", "Sequential", "wrapper"],
)
def test_to_torch_refuses_code_that_only_its_class_has(make):
    with pytest.raises(ValueError, match=r"Own\w+ has its own forward.*layer\.to_torch\(\)"):
        make().to_torch()


class Louder(dl.Dense):
    def forward(self, x, logits=False):
        return super().forward(x, logits) * 2


class LouderCall(dl.Dropout):
    def __call__(self, x):
        return super().__call__(x) * 2


class LouderModel(dl.Sequential):
    def __call__(self, x):
        return super().__call__(x) * 2


class LouderLayer(dl.layers.Layer):
    def forward(self, x):
        return x * 2


def changed(change):
    model = mlp()
    change(model.layers[0])
    return model


@pytest.mark.filterwarnings("ignore:predict was called before fit")
@pytest.mark.parametrize(
    "make",
    [
        lambda: dl.Sequential([Louder(3, input_dim=4)]),
        lambda: dl.Model(nn.Sequential(nn.Linear(4, 4), Louder(3, input_dim=4))),
        lambda: dl.Sequential([dl.Dense(3, input_dim=4), LouderCall(0.5)]),
        lambda: LouderModel([dl.Dense(3, input_dim=4)]),
        lambda: changed(lambda layer: layer.register_forward_hook(lambda m, x, y: y * 3)),
        lambda: changed(
            lambda layer: setattr(layer, "forward", lambda x, logits=False: x.repeat(1, 2))
        ),
        lambda: changed(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
        lambda: changed(nn.utils.parametrizations.weight_norm),
    ],
    ids=["forward", "inside", "call", "model", "hook", "set", "pruned", "weight norm"],
)
def test_to_torch_refuses_what_a_twin_would_not_compute(make):
    model = make()
    model.predict(X)
    with pytest.raises(ValueError, match=r"formula of its own|hooks or par|was set|own forward"):
        model.to_torch()


def test_to_torch_keeps_the_formula_of_a_layer_of_ones_own():
    model = dl.Sequential([dl.Dense(3, input_dim=4), LouderLayer()])
    with torch.no_grad():
        assert torch.equal(model.to_torch()(X), model.layers[0](X) * 2)


RUN = """
    import pickle, sys

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "easydl":
                raise ImportError("easydl is not installed here")

    sys.meta_path.insert(0, Refuse())
    import torch
    torch.set_num_threads(1)
    for module, x, expected in pickle.load(sys.stdin.buffer):
        assert torch.equal(module(x), expected)
    assert not any(name.startswith("easydl") for name in sys.modules)
    print("ran")
"""


def test_to_torch_runs_where_easydl_cannot_be_imported(tmp_path):
    cases = []
    for make, x in VARIANTS.items():
        plain = made(make).to_torch().eval()
        with torch.no_grad():
            cases.append((plain, x, plain(x)))
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN)],
        input=pickle.dumps(cases),
        capture_output=True,
        cwd=tmp_path,
    )
    assert result.stdout.decode().strip() == "ran", result.stderr.decode()
