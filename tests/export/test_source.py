"""``model.source()``: a script without easydl that gives the same weights, to the last bit."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

import easydl as dl
from easydl.constraints import MaxNorm, MinMaxNorm, NonNeg, UnitNorm
from easydl.export.objective import rate_lines
from easydl.initializers import Identity, Orthogonal, RandomNormal, TruncatedNormal, VarianceScaling
from easydl.optimizers import schedules

RNG = np.random.default_rng(0)
ROWS = 53  # the last batch is ragged; 53 = 4 · 13 + 1 leaves a single row
X = RNG.normal(size=(ROWS, 6))
LABELS = RNG.integers(0, 3, ROWS)
NUMBERS = RNG.normal(size=ROWS)
YES = (NUMBERS > 0).astype(int)
STEPS = RNG.normal(size=(ROWS, 5, 3)).astype("float32")
WORDS = RNG.integers(0, 9, (ROWS, 6))
PICTURES = RNG.normal(size=(ROWS, 1, 28, 28)).astype("float32")
SMALL = RNG.normal(size=(ROWS, 2, 9, 7)).astype("float32")
SPARSE = "sparse_categorical_crossentropy"
SEED = 5


def sequential(*layers, **settings):
    """A function that makes and compiles the model."""

    def make():
        model = dl.Sequential([layer() for layer in layers])
        model.compile(**{name: s() if callable(s) else s for name, s in settings.items()})
        return model

    return make


def wrapped(*layers, **settings):
    def make():
        model = dl.Model(nn.Sequential(*[layer() for layer in layers]))
        model.compile(**settings)
        return model

    return make


def adam_with(schedule):
    return lambda: dl.optimizers.Adam(schedule)


def dense(*args, **options):
    return lambda: dl.Dense(*args, **options)


def layer(kind, *args, **options):
    return lambda: kind(*args, **options)


MLP = sequential(
    dense(16, "relu", kernel_regularizer="l2"),
    layer(dl.Dropout, 0.3),
    dense(3, "softmax"),
    optimizer=adam_with(schedules.CosineDecay(0.0, 20, 0.1, warmup_target=0.02, warmup_steps=4)),
    loss=SPARSE,
    metrics=["accuracy"],
)
LENET = sequential(
    layer(dl.Conv2D, 6, 5, padding="same", activation="relu", input_shape=(1, 28, 28)),
    layer(dl.MaxPooling2D, 2),
    layer(dl.Conv2D, 16, 5, activation="relu"),
    layer(dl.MaxPooling2D, 2),
    layer(dl.Flatten),
    dense(120, "relu"),
    dense(84, "relu"),
    dense(3, "softmax"),
    optimizer="adam",
    loss=SPARSE,
    metrics=["accuracy"],
)
LSTMS = sequential(
    layer(dl.LSTM, 8, return_sequences=True, dropout=0.2),
    layer(dl.LSTM, 6, return_sequences=True, go_backwards=True),
    layer(dl.LSTM, 4),
    dense(1),
    optimizer="rmsprop",
    loss="mse",
    metrics=["mae"],
)
NORMED = sequential(
    dense(12),
    layer(dl.BatchNormalization),
    layer(dl.ReLU),
    dense(1, "sigmoid"),
    optimizer=lambda: dl.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    loss="binary_crossentropy",
    metrics=["accuracy"],
    clip_norm=0.5,
)
REGRESSION = sequential(
    dense(8, "tanh", kernel_initializer="he_uniform", bias_initializer=0.1),
    dense(1),
    optimizer="sgd",
    loss="mse",
    metrics=["mae"],
)

CASES = {
    "mlp": (MLP, X, LABELS, {}),
    "lenet": (LENET, PICTURES, LABELS, {"epochs": 2}),
    "lstm": (LSTMS, STEPS, NUMBERS, {}),
    "norm": (NORMED, X, YES, {"batch_size": 13}),
    "tail": (REGRESSION, X, NUMBERS, {"validation_split": 0.25}),
    "random": (REGRESSION, X, NUMBERS, {"validation_split": 0.25, "split": "random"}),
    "unshuffled": (MLP, X, LABELS, {"shuffle": False, "validation_split": 0.1}),
    "validation_data": (NORMED, X, YES, {"validation_data": (X[:9], YES[:9])}),
    "torch": (
        wrapped(
            lambda: nn.Linear(6, 8),
            nn.GELU,
            lambda: nn.Dropout(0.1),
            lambda: nn.Linear(8, 3, bias=False),
            optimizer=torch.optim.AdamW,
            loss=nn.CrossEntropyLoss(label_smoothing=0.1),
            metrics=["accuracy"],
            clip_value=0.1,
        ),
        X,
        LABELS,
        {},
    ),
    "mixed": (
        sequential(
            lambda: dl.Input((6,)),
            lambda: nn.Linear(6, 8),
            lambda: nn.LayerNorm(8),
            dense(5, "gelu", kernel_initializer="lecun_normal"),
            lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh()),
            dense(3),
            optimizer="nadam",
            loss=SPARSE,
            schedule=lambda: lambda optimizer: StepLR(optimizer, 2, 0.5),
            metrics=["accuracy"],
        ),
        X,
        LABELS,
        {},
    ),
    "gru": (
        sequential(
            layer(dl.Embedding, 9, 5),
            layer(dl.Bidirectional, dl.GRU(4, return_sequences=True)),
            layer(dl.LayerNormalization),
            layer(dl.SimpleRNN, 4, activation="relu"),
            layer(dl.GaussianNoise, 0.1),
            dense(1, "sigmoid"),
            optimizer="adagrad",
            loss="binary_crossentropy",
            metrics=["accuracy"],
        ),
        WORDS,
        YES,
        {},
    ),
    "gru that resets before": (
        sequential(
            layer(dl.GRU, 5, reset_after=False, return_sequences=True, use_bias=False),
            layer(
                dl.GRU,
                4,
                "relu",
                "hard_sigmoid",
                reset_after=False,
                go_backwards=True,
                kernel_regularizer="l2",
            ),
            dense(1),
            optimizer="adam",
            loss="mse",
        ),
        STEPS,
        NUMBERS,
        {},
    ),
    "accumulate": (
        sequential(
            dense(8, "relu", kernel_constraint=MaxNorm(0.5), kernel_regularizer="l1_l2"),
            dense(8, "relu", kernel_constraint=MinMaxNorm(0.2, 0.6, 0.5), bias_regularizer="l1"),
            dense(8, "relu", kernel_constraint=UnitNorm(), bias_constraint=NonNeg()),
            dense(3, "softmax"),
            optimizer="adamw",
            loss=SPARSE,
            accumulate=3,
            clip_norm=1.0,
        ),
        X,
        LABELS,
        {},
    ),
    "pictures": (
        sequential(
            layer(dl.Conv2D, 4, 3, padding="same", strides=2, activation="elu"),
            layer(dl.MaxPooling2D, 2, padding="same"),
            layer(dl.BatchNormalization, scale=False),
            layer(dl.Conv2D, 4, 2, padding="same", use_bias=False),
            layer(dl.PReLU, shared_axes=(2, 3)),
            layer(dl.SpatialDropout2D, 0.2),
            layer(dl.GlobalAveragePooling2D),
            layer(dl.Reshape, (2, 2)),
            layer(dl.Permute, (2, 1)),
            layer(dl.Flatten),
            dense(3, "softmax"),
            optimizer="adamax",
            loss="categorical_crossentropy",
            metrics=["categorical_accuracy"],
        ),
        SMALL,
        np.eye(3)[LABELS],
        {"batch_size": 13},
    ),
    "signals": (
        sequential(
            layer(dl.Conv1D, 4, 3, padding="causal", activation="relu"),
            layer(dl.AveragePooling1D, 2),
            layer(dl.Flatten),
            layer(dl.RepeatVector, 2),
            layer(dl.GRU, 3, bidirectional=True),
            dense(2),
            optimizer="adadelta",
            loss="huber",
        ),
        STEPS.transpose(0, 2, 1),
        RNG.normal(size=(ROWS, 2)),
        {},
    ),
    "starts": (
        sequential(
            dense(6, kernel_initializer=Identity(0.5), bias_initializer=RandomNormal(0.1, 0.2)),
            dense(5, kernel_initializer=Orthogonal(2.0, seed=3), bias_initializer="ones"),
            dense(5, kernel_initializer=TruncatedNormal(0.1, 0.2), bias_initializer="uniform"),
            dense(5, kernel_initializer=VarianceScaling(0.5, "fan_out", "untruncated_normal")),
            dense(
                5,
                nn.PReLU(),
                kernel_initializer=nn.init.kaiming_normal_,
                bias_initializer="he_normal",
            ),
            dense(1, kernel_initializer="glorot_normal"),
            optimizer="sgd",
            loss="mae",
        ),
        X,
        NUMBERS,
        {},
    ),
}


def script_of(text: str) -> dict:
    space: dict = {"__name__": "script"}
    exec(compile(text, "script", "exec"), space)
    return space


def trained(make, x, y, **options):
    """The model that ``fit`` trains from the seed, and its history."""
    dl.seed(SEED)
    model = make()
    options = {"epochs": 3, "batch_size": 8, "verbose": 0} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows at random: a class may be missing
        history = model.fit(x, y, **options)
    return model, history


def assert_same_to_the_bit(model, history, text, arrays):
    assert "easydl" not in {n.module for n in ast.walk(ast.parse(text)) if hasattr(n, "module")}
    assert "import easydl" not in text
    assert max(map(len, text.splitlines())) <= 100
    np.savez("data.npz", **arrays)
    torch.manual_seed(123)  # the script seeds by itself
    space = script_of(text)
    data = space["load_data"]()
    network = space["build_model"]()
    logs = space["train"](network, *data)
    idle = {id(b) for k, b in model.named_buffers() if "bias_hh" in k}  # torch's second bias
    idle |= {id(p) for k, p in network.named_parameters() if "bias_hh" in k and not p.requires_grad}
    ours, theirs = (
        [v for v in m.state_dict(keep_vars=True).values() if id(v) not in idle]
        for m in (model, network)
    )
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        assert torch.equal(one, other)
    assert list(history.history) == list(logs[0])
    for name, values in history.history.items():
        np.testing.assert_allclose([log[name] for log in logs], values, rtol=1e-6, atol=0)
    rows = space["EVALUATION_ROWS"] if model._compiled.heads[0].sums else None
    expected = model.evaluate(arrays["x"], arrays["y"], rows, verbose=0, return_dict=True)
    found = space["evaluate"](network, *space["pair"](arrays["x"], arrays["y"]))
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_the_script_gives_the_same_bits(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make, x, y, options = CASES[case]
    model, history = trained(make, x, y, **options)
    arrays = {"x": x, "y": y}
    if "validation_data" in options:
        arrays |= dict(zip(("x_val", "y_val"), options["validation_data"]))
    assert_same_to_the_bit(model, history, model.source(SEED), arrays)


LOSSES = {
    "mse": (1, "tanh", NUMBERS),
    "mae": (1, None, NUMBERS),
    "mape": (1, None, NUMBERS),
    "msle": (1, "relu", np.abs(NUMBERS)),
    "huber": (2, None, RNG.normal(size=(ROWS, 2))),
    "log_cosh": (1, None, NUMBERS),
    "poisson": (1, "softplus", LABELS),
    "kl_divergence": (3, "softmax", RNG.dirichlet(np.ones(3), ROWS)),
    "cosine_similarity": (3, None, RNG.normal(size=(ROWS, 3))),
    "hinge": (1, "tanh", YES),
    "squared_hinge": (1, "tanh", 2 * YES - 1),
    "categorical_hinge": (3, None, np.eye(3)[LABELS]),
    "categorical_crossentropy": (3, None, np.eye(3)[LABELS]),
    "binary_crossentropy": (3, "sigmoid", np.eye(3)[LABELS]),
    dl.losses.CategoricalCrossentropy(label_smoothing=0.2): (3, "softmax", LABELS),
    dl.losses.BinaryCrossentropy(label_smoothing=0.2): (1, "sigmoid", YES),
    dl.losses.Huber(0.3): (1, None, NUMBERS),
    nn.SmoothL1Loss(beta=0.5): (1, None, NUMBERS),
    nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.5])): (1, None, YES),
    nn.MultiMarginLoss(): (3, None, LABELS),
    nn.L1Loss(reduction="sum"): (1, None, NUMBERS),
}


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_every_loss_gives_the_same_bits(loss, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    units, activation, y = LOSSES[loss]
    y = np.where(y == 0, 0.5, y) if loss == "mape" else y
    reach = 0.9 * np.tanh(y) if loss == "mse" else y
    make = sequential(
        dense(5, "tanh", bias_initializer="normal"),
        dense(units, activation, bias_initializer="ones"),
        optimizer="adam",
        loss=lambda: loss,
        loss_weights=0.5 if loss == "mae" else None,
    )
    model, history = trained(make, X, reach)
    assert_same_to_the_bit(model, history, model.source(SEED), {"x": X, "y": reach})


@pytest.mark.parametrize("target", ["labels", "rows"])
@pytest.mark.parametrize("places", ["steps", "pixels"])
def test_a_class_at_every_place(places, target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if places == "steps":
        x, shape = STEPS, (ROWS, 5)
        make = sequential(dense(3, "softmax"), optimizer="sgd", loss=SPARSE, metrics=["accuracy"])
    else:
        x, shape = SMALL, (ROWS, 9, 7)
        last = layer(dl.Conv2D, 3, 3, padding="same", activation="softmax")
        make = sequential(last, optimizer="sgd", loss=SPARSE, metrics=["accuracy"])
    y = np.random.default_rng(1).integers(0, 3, shape)
    if target == "rows":
        y = np.eye(3)[y] if places == "steps" else np.moveaxis(np.eye(3)[y], -1, 1)
    model, history = trained(make, x, y)
    assert_same_to_the_bit(model, history, model.source(SEED), {"x": x, "y": y})


SCHEDULES = [
    schedules.ExponentialDecay(0.1, 7, 0.6),
    schedules.ExponentialDecay(0.1, 7, 0.6, staircase=True),
    schedules.InverseTimeDecay(0.1, 7, 0.6),
    schedules.InverseTimeDecay(0.1, 7, 0.6, staircase=True),
    schedules.PolynomialDecay(0.3, 20, 0.01, power=1.7),
    schedules.PolynomialDecay(0.3, 20, 0.01, power=0.5, cycle=True),
    schedules.PiecewiseConstantDecay([5, 30], [0.3, 0.1, 0.02]),
    schedules.CosineDecay(0.3, 50, alpha=0.15),
    schedules.CosineDecay(0.01, 30, alpha=0.15, warmup_target=0.3, warmup_steps=7),
    schedules.CosineDecayRestarts(0.3, 7, t_mul=1.5, m_mul=0.7, alpha=0.05),
    schedules.CosineDecayRestarts(0.3, 7, t_mul=1.0),
    schedules.OneCycle(0.3, 40, warmup=0.25),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_rates_are_the_schedules(schedule):
    body = "\n".join("    " + line for line in rate_lines(schedule))
    space = script_of(f"import math\ndef learning_rate(step):\n{body}")
    assert [space["learning_rate"](n) for n in range(90)] == [schedule(n) for n in range(90)]


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch norm"])
@pytest.mark.parametrize("rows, batch_size, width", [(203, 3, 5), (203, 9, 33), (3004, 33, 1001)])
def test_batches_that_lie_askew_in_memory(rows, batch_size, width, norm, tmp_path, monkeypatch):
    # Products round by where a batch begins; of the last data 8 MB are less than all.
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(2).normal(size=(rows, width)).astype("float32")
    y = x[:, 0] * x[:, 1]
    first = [dense(33, "relu"), *([layer(dl.BatchNormalization)] if norm else [])]
    make = sequential(*first, dense(17, "relu"), dense(1), optimizer="adam", loss="mse")
    model, history = trained(make, x, y, batch_size=batch_size)
    assert_same_to_the_bit(model, history, model.source(SEED), {"x": x, "y": y})


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_real_digits_to_the_bit(threads, tmp_path, monkeypatch):
    from sklearn.datasets import load_digits

    torch.set_num_threads(threads)
    monkeypatch.chdir(tmp_path)
    x, y = load_digits(return_X_y=True)
    make = sequential(
        layer(dl.Reshape, (1, 8, 8)),
        layer(dl.Conv2D, 32, 3, padding="same", activation="relu"),
        layer(dl.BatchNormalization),
        layer(dl.MaxPooling2D, 2),
        layer(dl.Flatten),
        dense(64, "relu", kernel_regularizer="l2"),
        layer(dl.Dropout, 0.5),
        dense(10, "softmax"),
        optimizer=adam_with(schedules.OneCycle(0.01, 250)),
        loss=SPARSE,
        metrics=["accuracy"],
    )
    options = {"epochs": 5, "batch_size": 32, "validation_split": 0.1}
    model, history = trained(make, x / 16, y, **options)
    assert history.history["val_accuracy"][-1] > 0.8
    assert_same_to_the_bit(model, history, model.source(SEED), {"x": x / 16, "y": y})


def test_frozen_layers_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make():
        model = NORMED()
        model.layers[0].trainable = model.layers[1].trainable = False
        return model

    model, history = trained(make, X, YES)
    text = model.source(SEED)
    assert "model[1].eval()" in text
    assert_same_to_the_bit(model, history, text, {"x": X, "y": YES})


def test_on_a_gpu_model_and_data_move(monkeypatch):
    model, _ = trained(NORMED, X, YES)
    monkeypatch.setattr(model._compiled, "device", torch.device("cuda"))
    text = model.source(SEED)
    script_of(text)
    assert 'DEVICE = "cuda"' in text
    assert "model.to(DEVICE)" in text
    assert text.count(".to(DEVICE)") == 4  # and x, y, order


def test_it_runs_where_easydl_is_not(tmp_path):
    model, history = trained(MLP, X, LABELS)
    np.savez(tmp_path / "data.npz", x=X, y=LABELS)
    text = model.source(SEED).replace("import math", "import math\nimport sys", 1)
    text += "    torch.set_num_threads(1)\n    torch.save(model.state_dict(), 'weights.pt')\n"
    text += "    assert not any(name.startswith('easydl') for name in sys.modules)\n"
    (tmp_path / "script.py").write_text(text, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=environment | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert f"epoch 3/3 · loss {history.history['loss'][-1]:.4f}" in result.stdout
    weights = torch.load(tmp_path / "weights.pt")
    assert len(weights) == 4
    for ours, theirs in zip(model.state_dict().values(), weights.values(), strict=True):
        assert torch.equal(ours, theirs)


def test_arguments_go_before_those_of_the_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, _ = trained(MLP, X, LABELS)
    text = model.source(7, epochs=2, batch_size=5, shuffle=False, validation_split=0.2)
    dl.seed(7)
    again = MLP()
    history = again.fit(X, LABELS, 5, 2, 0, validation_split=0.2, shuffle=False)
    assert_same_to_the_bit(again, history, text, {"x": X, "y": LABELS})


def test_evaluate_is_enough_to_know_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dl.seed(SEED)
    model = REGRESSION()
    model.evaluate(X, NUMBERS, verbose=0)
    text = model.source(SEED, epochs=3, batch_size=8)
    model, history = trained(REGRESSION, X, NUMBERS)
    assert_same_to_the_bit(model, history, text, {"x": X, "y": NUMBERS})


class Own(nn.Linear):
    pass


class Mine(dl.callbacks.Callback):
    pass


class OwnSquare(dl.Model):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(6, 1)

    def forward(self, x):
        return self.line(x) ** 2


class OwnLoss(dl.Sequential):
    def compute_loss(self, x, y, sample_weight=None):
        out = self(x)
        return out.mean(), out


class Halving(schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1 * 0.5**step


def mse_of_mine(y_pred, y_true):
    return ((y_pred - y_true) ** 2).mean()


def one(**settings):
    return sequential(dense(1), **({"optimizer": "sgd", "loss": "mse"} | settings))


def shared():
    twice = nn.Linear(6, 6)
    model = dl.Sequential([dl.Input((6,)), twice, nn.ReLU(), twice, dl.Dense(1)])
    model.compile("sgd", "mse")
    return model


def own_loss():
    model = OwnLoss([dl.Dense(1)])
    model.compile("sgd", "mse")
    return model


def groups(parameters):
    return torch.optim.SGD([{"params": [p], "lr": 0.1} for p in parameters], lr=0.1)


REFUSED = {
    "the layer Own": (sequential(lambda: Own(6, 1), optimizer="sgd", loss="mse"), {}),
    "the layer Lambda": (
        sequential(dense(1), layer(dl.Lambda, torch.sin), optimizer="sgd", loss="mse"),
        {},
    ),
    "the layer Conv2DTranspose": (
        sequential(
            layer(dl.Reshape, (6, 1, 1)),
            layer(dl.Conv2DTranspose, 1, 1),
            layer(dl.Flatten),
            optimizer="sgd",
            loss="mse",
        ),
        {},
    ),
    "Bidirectional": (
        sequential(
            layer(dl.Reshape, (3, 2)),
            layer(dl.Bidirectional, dl.LSTM(1), merge_mode="sum"),
            optimizer="sgd",
            loss="mse",
        ),
        {},
    ),
    "the layer Residual": (
        sequential(layer(dl.Residual, [dl.Dense(6)]), dense(1), optimizer="sgd", loss="mse"),
        {},
    ),
    "the loss mse_of_mine": (one(loss=lambda: mse_of_mine), {}),
    "CrossEntropyLoss with weights": (
        sequential(dense(3), optimizer="sgd", loss=lambda: nn.CrossEntropyLoss(torch.ones(3))),
        {},
    ),
    "the metric 'r2'": (one(metrics=["r2"]), {}),
    "the schedule Halving": (one(optimizer=adam_with(Halving())), {}),
    "several parameter groups": (one(optimizer=lambda: groups), {}),
    "activity_regularizer of Dense": (
        sequential(dense(1, activity_regularizer="l2"), optimizer="sgd", loss="mse"),
        {},
    ),
    "the initializer": (
        sequential(
            dense(1, kernel_initializer=lambda w: w.fill_(0.3)), optimizer="sgd", loss="mse"
        ),
        {},
    ),
    "the regularizer": (
        sequential(
            dense(1, kernel_regularizer=lambda w: w.abs().max()), optimizer="sgd", loss="mse"
        ),
        {},
    ),
    "two places": (shared, {}),
    "compute_loss of OwnLoss": (own_loss, {}),
    "weighted_metrics beside weights": (
        one(weighted_metrics=["mae"]),
        {"sample_weight": np.arange(1, ROWS + 1)},
    ),
    "weights in validation_data": (
        one(),
        {"validation_data": (X[:9], NUMBERS[:9], np.arange(9.0))},
    ),
    "HuberLoss with weights": (
        one(loss=lambda: nn.HuberLoss(reduction="none")),
        {"sample_weight": np.arange(1, ROWS + 1)},
    ),
    "steps_per_epoch": (one(), {"steps_per_epoch": 2}),
    "initial_epoch": (one(), {"initial_epoch": 1}),
    "several callbacks EarlyStopping": (
        one(),
        {"callbacks": [dl.callbacks.EarlyStopping("loss"), dl.callbacks.EarlyStopping("loss")]},
    ),
    "the callback Mine": (one(), {"callbacks": Mine()}),
}


@pytest.mark.parametrize("part", REFUSED)
def test_what_cannot_be_written_is_named(part):
    make, options = REFUSED[part]
    labels = part == "CrossEntropyLoss with weights"
    model, _ = trained(make, X, LABELS if labels else NUMBERS, **options)
    with pytest.raises(ValueError, match=rf"source\(\) cannot write.*({part})") as caught:
        model.source(SEED)
    assert "to_torch" in str(caught.value)
    assert len(str(caught.value)) <= 600


def test_an_own_forward_is_named_with_a_way_that_is_open(tmp_path):
    dl.seed(SEED)
    model = OwnSquare()
    model.compile("sgd", "mse")
    model.fit(X, NUMBERS, verbose=0)
    with pytest.raises(ValueError, match=r"forward of OwnSquare.*export\('m\.pt2'\)") as caught:
        model.source(SEED)
    assert "to_torch" not in str(caught.value)  # which refuses it, too
    model.export(tmp_path / "m.pt2", x=X[:5])


def test_a_stream_is_named():
    data = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.ones(8, 6), torch.ones(8)), batch_size=4
    )
    dl.seed(SEED)
    model = one()()
    model.fit(data, verbose=0)
    with pytest.raises(ValueError, match="Dataset, loader or generator"):
        model.source()


def test_two_fits_are_not_one():
    model, _ = trained(one(), X, NUMBERS)
    model.fit(X, NUMBERS, verbose=0)
    with pytest.raises(ValueError, match=r"fit 2 times.*source\(epochs="):
        model.source()
    assert "EPOCHS = 4" in model.source(epochs=4)


def test_a_model_from_a_file_asks_for_the_arguments(tmp_path):
    model, _ = trained(one(), X, NUMBERS)
    model.save(tmp_path / "m.easydl")
    model = dl.load_model(tmp_path / "m.easydl")
    model.evaluate(X, NUMBERS, verbose=0)
    with pytest.raises(ValueError, match=r"from a file.*epochs=10, batch_size=32"):
        model.source()
    assert "EPOCHS = 3" in model.source(epochs=3, batch_size=8)
    model.fit(X, NUMBERS, verbose=0)
    with pytest.raises(ValueError, match="fit 2 times"):
        model.source()


@pytest.mark.parametrize("make", [lambda: dl.Sequential([dl.Dense(1)]), one()])
def test_it_needs_data_first(make):
    with pytest.raises(ValueError, match="before the model has seen data"):
        make().source()


@pytest.mark.parametrize(
    "arguments", [{"seed": -1}, {"epochs": 0}, {"batch_size": 2.5}, {"split": "tali"},
                  {"validation_split": 2}, {"shuffle": "no"}],
)  # fmt: skip
def test_arguments_are_checked(arguments):
    model, _ = trained(one(), X, NUMBERS)
    with pytest.raises(ValueError, match=next(iter(arguments))):
        model.source(**arguments)
