"""``model.save`` and ``load_model``: the same model back, and the same training from there on."""

from __future__ import annotations

import enum
import functools
import json
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import easydl as dl
from easydl.saving.objects import TORCH, table
from tests.layers.test_layers_contract import CASES, PAIR, Scale

S = dl.optimizers.schedules

X = torch.linspace(-1, 1, 160).reshape(40, 4)
Y = torch.arange(40) % 3


def back(model, path, custom=None, **options):
    """The model after its way through a file; saved again it gives the same bytes."""
    model.save(path, custom_objects=custom, **options)
    other = dl.load_model(path, custom_objects=custom)
    again = path.with_name("again.easydl")
    other.save(again, custom_objects=custom, **options)
    assert again.read_bytes() == path.read_bytes()
    return other


def assert_same_weights(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        assert torch.equal(ours[name], theirs[name]), name
    assert not any(t.is_meta for t in [*other.parameters(), *other.buffers()])


# -- architectures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "make", "shape"), [case for case in CASES if case[2] is not PAIR], ids=lambda v: str(v)
)
def test_every_layer_comes_back(name, make, shape, tmp_path):
    custom = {"Scale": Scale}
    layer = make()
    if name == "Lambda":
        custom["mean_plus_one"] = layer.function
    integers = name == "Embedding"
    x = torch.randint(0, 10, shape) if integers else torch.randn(shape)
    model = dl.Model(nn.Sequential(layer))
    model(x)  # builds it
    for value in model.state_dict().values():
        value.copy_(torch.rand(value.shape) if value.is_floating_point() else value + 3)
    before = torch.get_rng_state()
    other = back(model, tmp_path / "m.easydl", custom)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_weights(model, other)
    torch.manual_seed(0)
    ours = model(x)
    torch.manual_seed(0)
    theirs = other(x)
    for a, b in zip(
        ours if type(ours) is tuple else [ours], theirs if type(ours) is tuple else [theirs]
    ):
        assert torch.equal(a, b)
    model.eval(), other.eval()
    assert str(model) == str(other)
    for a, b in zip(model.modules(), other.modules()):
        assert getattr(a, "penalties", None) == getattr(b, "penalties", None)


TORCH_ARGUMENTS = {
    "Linear": (4, 3, False), "Bilinear": (2, 3, 4), "Unflatten": (1, (2, 2)),
    "Conv1d": (2, 4, 3, 2, 1), "Conv2d": (2, 4, (3, 2), 1, "same", 1, 2), "Conv3d": (1, 2, 2),
    "ConvTranspose1d": (2, 3, 2, 2, 1, 1), "ConvTranspose2d": (2, 3, 2),
    "ConvTranspose3d": (2, 3, 2),
    "BatchNorm1d": (3, 1e-4, 0.2, False), "BatchNorm2d": (3,), "BatchNorm3d": (3,),
    "InstanceNorm1d": (3,), "InstanceNorm2d": (3, 1e-3, 0.3, True, True), "InstanceNorm3d": (3,),
    "GroupNorm": (2, 4), "LayerNorm": ((3, 2), 1e-4), "RMSNorm": (5,), "LocalResponseNorm": (2,),
    "Embedding": (5, 3, 1), "EmbeddingBag": (5, 3), "RNN": (2, 3), "LSTM": (2, 3, 2), "GRU": (2, 3),
    "RNNCell": (2, 3, True, "relu"), "LSTMCell": (2, 3, False), "GRUCell": (2, 3),
    "MaxPool1d": (2, 3), "MaxPool2d": ((2, 3),), "MaxPool3d": (2,), "AvgPool1d": (2,),
    "AvgPool2d": (2, 1), "AvgPool3d": (2,), "LPPool1d": (2, 3), "LPPool2d": (2, 3),
    "AdaptiveAvgPool1d": (2,), "AdaptiveAvgPool2d": ((2, None),), "AdaptiveAvgPool3d": (2,),
    "AdaptiveMaxPool1d": (2,), "AdaptiveMaxPool2d": (2,), "AdaptiveMaxPool3d": (2,),
    "Upsample": (None, 2.0, "bilinear", True), "UpsamplingNearest2d": (None, 2),
    "UpsamplingBilinear2d": ((4, 5),), "PixelShuffle": (2,), "PixelUnshuffle": (2,),
    "ChannelShuffle": (2,), "Fold": ((4, 4), 2), "Unfold": (2, 1), "Dropout": (0.3,),
    "ZeroPad1d": (1,), "ZeroPad2d": ((1, 2, 3, 4),), "ZeroPad3d": (1,), "ConstantPad1d": (1, 2.5),
    "ConstantPad2d": (1, 2.5), "ConstantPad3d": (1, 2.5), "ReflectionPad1d": (1,),
    "ReflectionPad2d": (1,), "ReflectionPad3d": (1,), "ReplicationPad1d": (1,),
    "ReplicationPad2d": (1,), "ReplicationPad3d": (1,), "CircularPad1d": (1,),
    "CircularPad2d": (1,), "CircularPad3d": (1,), "PReLU": (3, 0.1), "Hardtanh": (-2.0, 3.0),
    "Threshold": (0.1, 20.0), "Softmax": (1,), "LogSoftmax": (1,), "Softmin": (1,),
    "GELU": ("tanh",),
    "HuberLoss": ("none", 2.0), "CrossEntropyLoss": (torch.tensor([1.0, 0.1, 3.0]), None, 1),
    "BCEWithLogitsLoss": (None, None, None, "sum", torch.tensor([2.0])),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_every_torch_module_of_the_table_comes_back(name, tmp_path):
    module = getattr(nn, name)(*TORCH_ARGUMENTS.get(name, ()))
    for value in module.state_dict().values():
        value.copy_(torch.rand(value.shape))
    model = dl.Model(nn.Sequential(module))
    other = back(model, tmp_path / "m.easydl")
    assert_same_weights(model, other)
    assert str(other) == str(model)
    settings = {k: v for k, v in vars(module).items() if k[0] != "_" and not torch.is_tensor(v)}
    assert {k: vars(other.network[0])[k] for k in settings} == settings


def cnn():
    return dl.Sequential(
        [
            dl.Conv2D(4, 3, activation="relu", input_shape=(1, 8, 8), name="first"),
            dl.Sequential([nn.BatchNorm2d(4), dl.Residual([dl.Conv2D(4, 3, padding="same")])]),
            dl.Flatten(),
            dl.Dense(
                3,
                "softmax",
                kernel_initializer=dl.initializers.HeNormal(seed=2),
                kernel_regularizer=dl.regularizers.L1L2(1e-3, 1e-4),
                bias_constraint=dl.constraints.MinMaxNorm(0.1, 2.0, rate=0.5),
            ),
        ],
        name="digits",
    )


def test_a_nested_model_comes_back_with_names_penalties_and_shapes(tmp_path):
    model = cnn()
    other = back(model, tmp_path / "m.easydl")
    assert_same_weights(model, other)
    assert other.name == "digits" and other.layer_names() == model.layer_names()
    assert other.built_shape == other.given_input_shape == (1, 8, 8)
    assert other.layers[3].penalties == model.layers[3].penalties
    assert other.layers[3].constraints == model.layers[3].constraints
    assert other.layers[3].config == model.layers[3].config
    x = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    model.eval(), other.eval()
    assert torch.equal(model(torch.tensor(x)), other(torch.tensor(x)))
    assert other.summary(print_fn=None) == model.summary(print_fn=None)
    with pytest.raises(ValueError, match=r"first \(Conv2D\)"):
        other(torch.zeros(2, 3, 8, 8))


def test_the_widest_layer_is_known_after_loading(tmp_path):
    model = dl.Sequential([dl.Conv2D(40, 3, input_shape=(3, 32, 32)), dl.Flatten(), dl.Dense(2)])
    model.try_out(torch.zeros(2, 3, 32, 32))
    model.save(tmp_path / "m.easydl")
    assert dl.load_model(tmp_path / "m.easydl").widest_row == model.widest_row == 40 * 30 * 30


class Told(dl.optimizers.SGD):
    def get_config(self):
        return {"learning_rate": self.learning_rate}


class Untold(dl.optimizers.Optimizer):
    def __init__(self, rate):
        super().__init__(rate)
        self.rate = self.learning_rate

    def make(self, params):
        return torch.optim.SGD(params, lr=self.rate)


def test_the_schedule_of_an_optimizer_of_the_user_comes_back_or_is_asked_for(tmp_path):
    x, path = torch.ones(8, 1), tmp_path / "m.easydl"
    for kind in (Told, Untold):
        model = dl.Sequential([dl.Dense(1, input_dim=1)])
        model.compile(kind(S.ExponentialDecay(0.1, 1, 0.5)), "mse")
        model.fit(x, x, 4, verbose=0)
        if kind is Untold:
            with pytest.raises(ValueError, match=r"schedule.*arguments rate.*learning_rate"):
                model.save(path)
            continue
        model.save(path)
        again = dl.load_model(path, custom_objects={"Told": Told})
        for one in (model, again):
            one.fit(x, x, 4, verbose=0)
        assert again.learning_rate == model.learning_rate == 0.1 / 2**4


def test_open_shapes_stay_open(tmp_path):
    model = dl.Sequential([dl.LSTM(3, input_shape=(None, 2)), dl.Dense(1)])
    other = back(model, tmp_path / "m.easydl")
    assert other.built_shape == (None, 2)
    assert torch.equal(other(torch.ones(2, 9, 2)), model(torch.ones(2, 9, 2)))


def test_shared_layers_and_tied_weights_stay_shared(tmp_path):
    layer = dl.Dense(4, kernel_regularizer="l2")
    model = dl.Sequential([dl.Dense(4, input_dim=4), layer, nn.ReLU(), layer, dl.Dense(4)])
    model.get_submodule("4").weight = model.get_submodule("0").weight
    other = back(model, tmp_path / "m.easydl")
    assert other.get_submodule("1") is other.get_submodule("3")
    assert other.get_submodule("4").weight is other.get_submodule("0").weight
    assert torch.equal(other(X), model(X))
    assert len(list(other.parameters())) == len(list(model.parameters()))
    wrapped = dl.Model(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    wrapped.network[1].weight = wrapped.network[0].weight
    wrapped = back(wrapped, tmp_path / "w.easydl")
    assert wrapped.network[1].weight is wrapped.network[0].weight


class Scaled(nn.Module):
    """Keeps its arguments in attributes; has a buffer that no file holds."""

    def __init__(self, size: int, factor: float = 2.0):
        super().__init__()
        self.size, self.factor = size, factor
        self.register_buffer("steps", torch.arange(size) * factor, persistent=False)
        self.line = dl.Dense(size)

    def forward(self, x):
        return self.line(x) * self.steps


class Two(dl.Model):
    """A model of the user's with ``get_config``."""

    def __init__(self, width):
        super().__init__()
        self.body, self.head = dl.Dense(width, "tanh"), nn.Linear(width, 3)

    def get_config(self):
        return {"width": self.head.in_features}

    def forward(self, x):
        return self.head(self.body(x))


class ByItem(nn.Module):
    """Its constructor looks at numbers, as many networks do."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.rates = [x.item() for x in torch.linspace(0, 1, width)]
        self.line = nn.Linear(width, width)

    def forward(self, x):
        return self.line(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: dl.Sequential([Scaled(4, 3.0), dl.Dense(3)]),
        lambda: Two(5),
        lambda: dl.Model(ByItem(4)),
    ],
    ids=["attributes", "get_config", "item in constructor"],
)
def test_classes_of_the_user_come_back_through_custom_objects(make, tmp_path):
    model, custom = make(), {"Scaled": Scaled, "Two": Two, "ByItem": ByItem}
    model(X)
    path = tmp_path / "m.easydl"
    before = torch.get_rng_state()
    model.save(path)  # needs no names: they have their own
    other = dl.load_model(path, custom)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_weights(model, other)
    assert torch.equal(model(X), other(X))
    with pytest.raises(ValueError, match=r"custom_objects=\{'(Scaled|Two|ByItem)'"):
        dl.load_model(path)


# -- what cannot be written ------------------------------------------------------------------------


class Forgets(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.line = nn.Linear(4, size)


def changed():
    model = dl.Sequential([dl.Dropout(0.5), dl.Dense(2, input_dim=4)])
    model.build((4,))
    model.layers[0].p = 0.25
    return model


def replaced():
    model = dl.Sequential([dl.Residual([dl.Dense(4)], input_shape=(4,))])
    model.layers[0].layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    return model


def compiled(**settings):
    model = dl.Sequential([dl.Dense(3, input_dim=4)])
    model.compile(**{"optimizer": "sgd", "loss": "mse", **settings})
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dl.Sequential([dl.Dense(2)]), "save was called before the shapes are known"),
        (lambda: dl.Model(Forgets(3)), "does not keep its argument 'size'"),
        (changed, r"0 \(Dropout\) was changed after it was made: p=0.25 instead of 0.5"),
        (replaced, "0.layers"),
        (lambda: dl.Model(dl.Lambda(lambda x: x)), r"Lambda\(function\) is <function"),
        (lambda: compiled(loss=lambda a, b: (a - b).mean()), r"compile\(loss\) is <function"),
        (lambda: compiled(metrics=[functools.partial(F.l1_loss)]), r"compile\(metrics\)\[0\]"),
        (
            lambda: compiled(optimizer=lambda p: torch.optim.SGD(p, 0.1)),
            r"compile\(optimizer\) is <function",
        ),
        (lambda: dl.Model(nn.MultiheadAttention(4, 2)), "MultiheadAttention does not keep"),
    ],
)  # fmt: skip
def test_what_the_file_could_not_tell_is_refused_by_name(make, words, tmp_path):
    with pytest.raises(ValueError, match=words) as error:
        make().save(tmp_path / "m.easydl")
    assert len(str(error.value)) <= 600
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".h5", ".keras", ".pt", ".safetensors", ".onnx", ".npz"])
def test_save_refuses_the_suffix_of_another_format(suffix, tmp_path):
    with pytest.raises(ValueError, match=r"expected, for example, 'm\.easydl'"):
        compiled().save(tmp_path / f"m{suffix}")


def test_a_network_of_others_is_saved_by_the_way_that_the_message_names(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    model = dl.Model(torchvision.models.resnet18(num_classes=2))
    path = tmp_path / "w.safetensors"
    with pytest.raises(ValueError, match=r"save_weights\(.*make the network again") as error:
        model.save(tmp_path / "m.easydl")
    assert len(str(error.value)) <= 600
    model.save_weights(path)
    again = dl.Model(torchvision.models.resnet18(num_classes=2))
    again.load_weights(path)
    x = torch.ones(1, 3, 32, 32)
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


class Largest:
    """Of torchmetrics' kind; keeps its argument under another name."""

    def __init__(self, scale):
        self.factor, self.found = scale, 0.0

    def update(self, y_pred, y_true):
        self.found = max(self.found, self.factor * float(y_pred.max()))

    def compute(self):
        return self.found

    def reset(self):
        self.found = 0.0


def test_a_metric_of_others_is_saved_by_the_way_that_the_message_names(tmp_path):
    path, given = tmp_path / "m.easydl", Largest(3)
    model = compiled(metrics=["mae", given])
    way = r"\[1\]\.Largest .*objects={'mine': that object}.*{'mine': Largest\(…\)}.*self.scale"
    with pytest.raises(ValueError, match=way) as error:
        model.save(path)
    assert len(str(error.value)) <= 600 and "make the network" not in str(error.value)
    model.save(path, custom_objects={"mine": given})
    again = dl.load_model(path, custom_objects={"mine": Largest(3)})
    x, y = torch.ones(5, 4), torch.ones(5, 3)
    assert again.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)


def test_a_file_of_nan_is_refused_unless_it_says_not_strict(tmp_path):
    model = compiled()
    model.layers[0].weight.data[0, 1] = np.nan
    model.save(tmp_path / "m.easydl")
    with pytest.raises(ValueError, match=r"'0\.weight' holds nan.*strict=False"):
        dl.load_model(tmp_path / "m.easydl")
    with pytest.raises(ValueError, match=r"'0\.weight' holds nan"):
        compiled().load_weights(tmp_path / "m.easydl")
    model.compile("sgd", "mse", strict=False)
    model.save(tmp_path / "m.easydl")
    assert dl.load_model(tmp_path / "m.easydl").layers[0].weight[0, 1].isnan()


# -- training goes on ------------------------------------------------------------------------------


def half(pred, true):
    return ((pred - F.one_hot(true, 3)) ** 2).sum(1) / 2


class Halving(dl.optimizers.schedules.LearningRateSchedule):
    def __init__(self, start):
        self.start = start

    def __call__(self, step):
        return self.start * 0.9**step


def every_third_frozen(model):
    model.layers[0].trainable = False
    return model


CUSTOM = {"half": half, "Halving": Halving}

SETTINGS = {
    "adam": {"optimizer": "adam"},
    "amsgrad": {"optimizer": dl.optimizers.Adam(0.01, amsgrad=True)},
    "adamw": {"optimizer": dl.optimizers.AdamW(0.01), "clip_norm": 0.5},
    "nadam": {"optimizer": "nadam", "accumulate": 2},
    "adamax": {"optimizer": "adamax"},
    "sgd": {"optimizer": dl.optimizers.SGD(0.1, momentum=0.9, nesterov=True)},
    "rmsprop": {"optimizer": dl.optimizers.RMSprop(momentum=0.5, centered=True)},
    "adagrad": {"optimizer": "adagrad"},
    "adadelta": {"optimizer": dl.optimizers.Adadelta(1.0)},
    "schedule": {"optimizer": dl.optimizers.SGD(S.CosineDecay(0.1, 40), momentum=0.9)},
    "own schedule": {"optimizer": "adam", "schedule": Halving(0.01)},
    "cycle": {"optimizer": "sgd", "schedule": S.OneCycle(0.1, 40)},
    "torch class": {"optimizer": torch.optim.NAdam},
    "own loss": {"optimizer": "adam", "loss": half, "metrics": [half, "accuracy"]},
    "torch loss": {
        "optimizer": "adam",
        "loss": nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.1]), label_smoothing=0.1),
        "head": None,
    },
    "metrics": {
        "optimizer": "sgd",
        "metrics": ["acc", dl.metrics.Precision(average="macro"), dl.metrics.AUC("PR", "macro")],
        "weighted_metrics": [dl.metrics.ConfusionMatrix(3, name="table")],
    },
    "bfloat16": {"optimizer": "adam", "precision": "bfloat16"},
}  # fmt: skip


def network(head="softmax"):
    return dl.Sequential(
        [dl.Dense(6, "relu", input_dim=4), nn.BatchNorm1d(6), dl.Dropout(0.3), dl.Dense(3, head)]
    )


def train(model, epochs=2):
    dl.seed(7)
    model.fit(X, Y, epochs=epochs, batch_size=8, verbose=0, validation_split=0.2)
    return model.history


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_fit_after_load_goes_on_to_the_same_bits(settings, frozen, tmp_path):
    settings = {"loss": "sparse_categorical_crossentropy", **settings}
    dl.seed(1)
    model = network(settings.pop("head", "softmax"))
    model.compile(**settings)
    if frozen:
        model.layers[0].trainable = False
        model.layers[3].bias.requires_grad_(False)
    train(model)
    other = back(model, tmp_path / "m.easydl", CUSTOM)
    assert repr(other.history.history) == repr(model.history.history)
    assert other.history.epoch == [0, 1] and other.history.epochs_of("loss") == [0, 1]
    flags = [p.requires_grad for p in model.parameters()]
    assert [p.requires_grad for p in other.parameters()] == flags
    assert other.layers[0].trainable is not frozen or not frozen
    ours, theirs = train(model), train(other)
    assert_same_weights(model, other)
    assert repr(ours.history) == repr(theirs.history)
    fresh = dl.load_model(tmp_path / "m.easydl", CUSTOM)
    for kept in fresh.optimizer.state.values():
        for value in kept.values():
            value.zero_()
    if settings["optimizer"] != "sgd":  # which has no state
        train(fresh)
        ours, theirs = model.state_dict(), fresh.state_dict()
        assert not all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_convolutions_go_on_to_the_same_bits_in_their_layout(tmp_path):
    dl.seed(0)
    x, y = torch.rand(24, 1, 8, 8), torch.arange(24) % 3
    model = cnn()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=8, verbose=0)
    other = back(model, tmp_path / "m.easydl")
    assert other.layers[0].weight.stride() == model.layers[0].weight.stride()
    moment = other.optimizer.state[other.layers[0].weight]["exp_avg"]
    assert moment.stride() == other.layers[0].weight.stride()
    for each in (model, other):
        dl.seed(3)
        each.fit(x, y, batch_size=8, epochs=3, verbose=0)
    assert_same_weights(model, other)


def test_weights_keep_the_layout_that_they_had(tmp_path):
    bare = cnn().to(memory_format=torch.channels_last)
    assert back(bare, tmp_path / "bare.easydl").layers[0].weight.stride() == (9, 1, 3, 1)
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 1, 8, 8)).sum().backward()
    optimizer.step()  # an optimizer with a state keeps compile from changing the layout
    model.compile(optimizer, "sparse_categorical_crossentropy")
    kernel = model.layers[1][1].layers[0].weight
    assert kernel.is_contiguous()
    other = back(model, tmp_path / "m.easydl")
    assert other.layers[1][1].layers[0].weight.stride() == kernel.stride()


def test_a_ready_torch_optimizer_with_groups_goes_on(tmp_path):
    dl.seed(0)
    model = network()
    first, *rest = model.parameters()
    model.compile(
        torch.optim.AdamW([{"params": [first], "lr": 0.1}, {"params": rest[:4]}], lr=0.01),
        "sparse_categorical_crossentropy",
    )
    train(model)
    other = back(model, tmp_path / "m.easydl")
    assert [len(g["params"]) for g in other.optimizer.param_groups] == [1, 4]
    assert type(other.optimizer) is torch.optim.AdamW
    train(model), train(other)
    assert_same_weights(model, other)


def test_include_optimizer_false_leaves_its_state_out(tmp_path):
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    train(model)
    other = back(model, tmp_path / "m.easydl", include_optimizer=False)
    assert other.optimizer is not None and not other.optimizer.state
    assert "optimizer.safetensors" not in zipfile.ZipFile(tmp_path / "m.easydl").namelist()
    assert other.evaluate(X, Y, verbose=0) == model.evaluate(X, Y, verbose=0)


def test_a_model_without_compile_and_one_with_columns(tmp_path):
    pandas = pytest.importorskip("pandas")
    model = network()
    frame = pandas.DataFrame(X.numpy(), columns=["a", "b", "c", "d"])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(frame, Y, verbose=0)
    other = back(model, tmp_path / "m.easydl")
    assert other.column_names == model.column_names
    bare = back(network(), tmp_path / "bare.easydl")
    assert bare.optimizer is None and bare.history is None
    with pytest.warns(UserWarning, match="random weights"):
        bare.predict(X)


def test_kept_by_several_outputs_and_loss_dicts(tmp_path):
    model = dl.Model(nn.Sequential(dl.Dense(3), dl.Branches([dl.Dense(1), dl.Dense(2)], None)))
    losses = ["mse", nn.HuberLoss(delta=0.5)]
    model.compile("adam", losses, loss_weights=[1, 0.3], metrics=[["mae"], []])
    targets = (torch.ones(40, 1), torch.ones(40, 2))
    model.fit(X, targets, verbose=0)
    other = back(model, tmp_path / "m.easydl")
    assert other.evaluate(X, targets, verbose=0) == model.evaluate(X, targets, verbose=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_another_dtype_come_back(dtype, tmp_path):
    model = dl.Sequential([dl.Dense(3, input_dim=4), nn.BatchNorm1d(3)]).to(dtype)
    other = back(model, tmp_path / "m.easydl")
    assert_same_weights(model, other)
    assert other.layers[0].weight.dtype == dtype


# -- the file --------------------------------------------------------------------------------------


def test_any_zip_tool_reads_the_file_and_finds_only_json_and_tensors(tmp_path):
    path = tmp_path / "m.easydl"
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy")
    train(model)
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "manifest.json",
            "weights.safetensors",
            "optimizer.safetensors",
        ]
        manifest = json.loads(archive.read("manifest.json"))
        weights = archive.read("weights.safetensors")
    assert manifest["version"] == 1 and manifest["architecture"]["name"] == "Sequential"
    assert str(tmp_path) not in json.dumps(manifest)
    (tmp_path / "weights.safetensors").write_bytes(weights)
    fresh = network()
    fresh.load_weights(tmp_path / "weights.safetensors")
    assert_same_weights(model, fresh)


def test_weights_alone_are_read_out_of_a_model_file(tmp_path):
    model, other = network(), network()
    model.save(tmp_path / "m.easydl")
    other.load_weights(tmp_path / "m.easydl")
    assert_same_weights(model, other)


def test_a_file_of_a_newer_easydl_says_so(tmp_path, monkeypatch):
    from easydl.saving import container

    monkeypatch.setattr(container, "VERSION", 2)
    network().save(tmp_path / "m.easydl")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format version 2, this easydl reads 1: update it"):
        dl.load_model(tmp_path / "m.easydl")


def test_load_model_names_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file at .*nowhere\.easydl"):
        dl.load_model(tmp_path / "nowhere.easydl")
    assert dl.models.load_model is dl.load_model


def test_the_table_holds_nothing_but_the_building_blocks_of_models():
    rooms = "model sequential schedules optimizers losses metrics initializers regularizers"
    families = "autoencoders. boltzmann. variational semisupervised kalman"
    families += " vision.classifier data.pictures"
    homes = [f"easydl.{room}" for room in f"{rooms} {families} layers. constraints".split()]
    for name, value in table().items():
        assert value.__module__.startswith((*homes, "torch.nn.modules.", "torch.optim")), name


class Doubled(nn.Linear):
    """A layer whose arguments bring a hook."""

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.register_forward_hook(twice)


def twice(module, inputs, outputs):
    return outputs * 2


def test_hooks_that_the_file_would_not_hold_are_refused(tmp_path):
    model = dl.Sequential([Doubled(4, 3), nn.Linear(3, 1)])
    other = back(model, tmp_path / "m.easydl", {"Doubled": Doubled})  # which puts it on
    torch.testing.assert_close(other(X), model(X), rtol=0, atol=0)
    model.layers[1].register_forward_hook(twice)
    with pytest.raises(ValueError, match=r"1 \(Linear\) has forward hooks, which the file would"):
        model.save(tmp_path / "m.easydl", custom_objects={"Doubled": Doubled})


class Mode(str, enum.Enum):
    LOUD = "loud"


class Spoken(nn.Linear):
    def __init__(self, in_features, out_features, mode):
        super().__init__(in_features, out_features)
        self.mode = mode


def test_an_argument_that_is_one_of_an_enum_comes_back_as_it_was(tmp_path):
    model = dl.Sequential([Spoken(4, 3, Mode.LOUD)])
    other = back(model, tmp_path / "m.easydl", {"Spoken": Spoken, "Mode": Mode})
    assert other.layers[0].mode is Mode.LOUD
