"""Compiled steps end where eager steps end, to float tolerance, dropout included."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.post_grad import remove_noop_ops, reorder_for_locality
from torch.fx.experimental.proxy_tensor import make_fx

import easydl as dl
from easydl.training import jit as jit_module
from easydl.training.jit import COPY, ByOneDNN, InPlace, PowersOnce, joined

N, CLASSES = 43, 3  # with batches of 4: ten full ones and one of three rows
X = torch.linspace(-2, 2, N * 5).sin().reshape(N, 5)
LABELS = torch.arange(N) * 7 % CLASSES
NUMBERS = X[:, :1] * X[:, 1:2]
WEIGHTS = torch.linspace(0.1, 2, N)
SCHEDULES = dl.optimizers.schedules


@pytest.fixture
def untraced(monkeypatch):
    """The steps run as they are, for what lies outside their graph."""
    functions = []

    def compiler(function, **named):
        functions.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compiler)
    return functions


@pytest.fixture(params=[False, True], ids=["in order", "reordered"])
def in_place(request, compile_by):
    """The graph that inductor is given, after ``InPlace`` and run as it is; how much was written.

    Reordered, as inductor does by default, a weight may be read after it was written.
    """
    written = []

    def inductor(module, inputs):
        graph = module.graph
        remove_noop_ops(graph)
        if request.param:
            reorder_for_locality(graph)
        before = len(graph.find_nodes(op="call_function", target=COPY))
        InPlace()(graph)
        written.append(len(graph.find_nodes(op="call_function", target=COPY)) - before)
        module.recompile()
        return make_boxed_func(module.forward)

    backend = aot_autograd(
        fw_compiler=inductor,
        decompositions=select_decomp_table(),
        keep_inference_input_mutations=True,
    )
    compile_by(backend)
    return written


def network():
    return dl.Sequential([
        dl.Dense(6, "tanh", kernel_regularizer="l2", bias_constraint="non_neg"),
        dl.Dropout(0.3),
        dl.BatchNormalization(),
        dl.Dense(CLASSES, "softmax"),
    ])  # fmt: skip


def small():
    return dl.Sequential([dl.Dropout(0.3), dl.Dense(CLASSES, "softmax")])


TWO = {"steps_per_execution": 2}


def fitted(make, x=X, y=LABELS, jit=False, compiling=None, fitting=None, loss=None, metrics=()):
    dl.seed(3)
    model = make()
    compiling = {"optimizer": "sgd"} | (compiling or {})
    loss = loss or "sparse_categorical_crossentropy"
    model.compile(**compiling, loss=loss, metrics=list(metrics), jit=jit)
    fitting = {"batch_size": 4, "epochs": 3, "verbose": 0} | (fitting or {})
    return model, model.fit(x, y, **fitting).history


def same(graphs, make=network, steps=2, **given):
    """Fit both ways and compare every weight, statistic and number of the history."""
    eager, expected = fitted(make, **copy.deepcopy(given))
    given["compiling"] = given.get("compiling", {}) | {"steps_per_execution": steps}
    model, history = fitted(make, jit=True, **given)
    assert graphs, "nothing was compiled"
    for (name, mine), theirs in zip(model.state_dict().items(), eager.state_dict().values()):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-6, msg=name)
    assert history.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=2e-5, err_msg=name)
    return model


OPTIMIZERS = {
    "sgd": optim.SGD,
    "momentum": functools.partial(optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": functools.partial(optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
    "adam": optim.Adam,
    "amsgrad": functools.partial(optim.Adam, lr=0.02, amsgrad=True, weight_decay=0.1),
    "adamw": functools.partial(optim.AdamW, lr=0.02, weight_decay=0.1),
    "rmsprop": functools.partial(optim.RMSprop, lr=0.01, momentum=0.5, centered=True),
    "adagrad": functools.partial(optim.Adagrad, lr=0.05, lr_decay=0.01),
    "adadelta": functools.partial(optim.Adadelta, lr=0.5, weight_decay=0.01),
    "adamax": functools.partial(optim.Adamax, lr=0.02),
    "nadam": functools.partial(optim.NAdam, lr=0.02),
    "radam": functools.partial(optim.RAdam, lr=0.02),
    "by name": "rmsprop",
}


USUAL = ("sgd", "adam", "adamw", "rmsprop")  # the others are compared in the soak


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in USUAL else pytest.mark.slow) for n in OPTIMIZERS],
)
def test_jit_every_optimizer(traced, name):
    model = same(traced, small, compiling={"optimizer": OPTIMIZERS[name]})
    assert len(traced) == 1  # neither the ragged batch nor the next epochs compile again
    assert model.optimizer.param_groups[0]["params"][0] is next(model.parameters())


def penalised():
    """A penalty that changes much within a call, and that nothing but the reported loss reads."""
    return dl.Sequential([dl.Dense(CLASSES, "softmax", kernel_regularizer=dl.regularizers.L2(0.5))])


@pytest.mark.parametrize("make", [small, penalised])
def test_jit_writes_every_step_where_the_last_was(request, in_place, make):
    same(in_place, make, steps=3, compiling={"optimizer": OPTIMIZERS["momentum"]})
    penalty_last = make is penalised and "reordered" in request.node.name  # it reads the kernel
    assert in_place == [6 if penalty_last else 8]  # weights and momenta after steps 1 and 2


class Remembering(dl.Model):
    """Reads the weight of the step before, and reports a copy of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.register_buffer("before", torch.zeros(5))

    def forward(self, x):
        return x * self.scale

    def compute_loss(self, x, y, sample_weight=None):
        change = self.scale.detach() - self.before
        self.before.copy_(self.scale.detach())
        outputs = self(x) + change
        loss = (outputs - 2 * x).square().mean()
        return loss, outputs, {"scale": self.scale[0].detach().clone()}


def test_jit_writes_nothing_that_a_later_step_reads(in_place):
    same(in_place, Remembering, y=None, steps=4)
    assert in_place == [0]


@pytest.mark.parametrize("late", ["place", "view", "mark"])
def test_what_is_read_later_is_not_written_before(late):
    graph, aten, stays = torch.fx.Graph(), torch.ops.aten, torch.ops.easydl.stays.default
    call = graph.call_function
    place = graph.placeholder("weight")
    view = call(aten.t.default, (place,))
    first = call(stays, (call(aten.add.Tensor, (place, 1.0)), "weight"))
    second = call(stays, (call(aten.mul.Tensor, (first, 2.0)), "weight"))
    third = call(stays, (call(aten.mul.Tensor, (second, 2.0)), "weight"))
    read = {"place": place, "view": view, "mark": first}[late]
    total = call(aten.sum.default, (read,))
    call(COPY, (place, third))
    graph.output(total)
    InPlace()(graph)
    tensor = torch.ones(2, 2)
    result = torch.fx.GraphModule(nn.Module(), graph)(tensor)
    assert result == (8 if late == "mark" else 4)
    assert tensor.tolist() == [[8, 8], [8, 8]]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_products_are_computed_by_onednn_and_others_left_alone(dtype):
    def computed(x, w, bias):
        part = torch.addmm(bias[:290], x, w[:, 5:295])  # of a larger matrix
        return x @ w, torch.addmm(bias, x, w.t()), part, x[:2] @ w, torch.addmm(bias, x, w, beta=2)

    given = [torch.randn(shape, dtype=dtype) for shape in ((128, 300), (300, 300), (300,))]
    module = make_fx(computed)(*given)
    ByOneDNN()(module.graph)
    module.recompile()
    products = module.graph.find_nodes(op="call_function", target=torch.ops.easydl.product.default)
    assert len(products) == (3 if dtype == torch.float32 else 0)
    for mine, plain in zip(module(*given), computed(*given)):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_jit_by_onednn_ends_where_eager_ends(monkeypatch):
    monkeypatch.setattr(jit_module, "mkl_is_slow", lambda: True)
    x = torch.randn(128 * 8, 400, generator=torch.Generator().manual_seed(0))

    def make():
        return dl.Sequential([dl.Dense(400, "relu"), dl.Dense(400, "tanh"), dl.Dense(CLASSES)])

    given = {"x": x, "y": x[:, :CLASSES].clone(), "loss": "mse", "fitting": {"batch_size": 128}}
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, acc_events=True) as seen:
        same([1], make, steps=3, **given)
    assert "easydl::product" in {event.key for event in seen.key_averages()}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_jit_writes_every_step_in_place_by_every_optimizer(in_place, name):
    model = same(in_place, small, steps=3, compiling={"optimizer": OPTIMIZERS[name]})
    kept = [key for values in model.optimizer.state.values() for key, v in values.items()
            if key != "step" and v is not None]  # fmt: skip
    assert in_place == [2 * (2 + len(kept))]


@pytest.mark.parametrize(
    "schedule",
    [
        SCHEDULES.ExponentialDecay(0.1, 7, 0.6),
        functools.partial(optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
        SCHEDULES.CosineDecay(0.1, 20, warmup_target=0.2, warmup_steps=5),
        SCHEDULES.PiecewiseConstantDecay([5, 13], [0.1, 0.05, 0.01]),
        SCHEDULES.InverseTimeDecay(0.1, 5, 0.5),
        SCHEDULES.PolynomialDecay(0.1, 25),
        SCHEDULES.CosineDecayRestarts(0.1, 9),
        SCHEDULES.OneCycle(0.1, 33),
    ],
    ids=lambda s: type(s).__name__,
)
def test_jit_every_schedule(request, schedule):
    # The rates are an argument of the graph, which is the same for all: two are traced.
    first = isinstance(schedule, (SCHEDULES.ExponentialDecay, functools.partial))
    compiled = request.getfixturevalue("traced" if first else "untraced")
    given = {"make": small, "compiling": {"optimizer": dl.optimizers.SGD(schedule)}}
    if isinstance(schedule, functools.partial):
        given = {"make": small, "compiling": {"optimizer": "sgd", "schedule": schedule}}
    model = same(compiled, **given)
    eager, _ = fitted(**given)
    assert model.learning_rate == eager.learning_rate
    assert len(compiled) == 1


CASES = {
    "clip_norm": {"compiling": {"clip_norm": 0.05}},
    "clip_value": {"make": small, "compiling": {"clip_value": 0.02}},
    "accumulate": {"compiling": {"accumulate": 3}},
    "accumulate, clip, schedule": {
        "make": small,
        "compiling": {
            "accumulate": 2,
            "clip_norm": 0.1,
            "optimizer": dl.optimizers.Adam(SCHEDULES.ExponentialDecay(0.01, 3, 0.8)),
        },
    },
    "accumulate, weighted classes": {
        "make": lambda: dl.Model(nn.Linear(5, CLASSES)),
        "loss": nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0])),
        "compiling": {"accumulate": 2},
    },
    "accumulate, sums": {
        "make": lambda: dl.Model(nn.Linear(5, 1)),
        "loss": nn.MSELoss(reduction="sum"),
        "y": NUMBERS,
        "compiling": {"accumulate": 2},
    },
    "bfloat16": {"make": small, "compiling": {"precision": "bfloat16"}},
    "sample_weight": {"make": small, "fitting": {"sample_weight": WEIGHTS}},
    "one step": {"steps": 1},
    "all steps": {"make": small, "steps": 99},
    "ignored labels": {
        "make": lambda: dl.Model(nn.Linear(5, CLASSES)),
        "loss": nn.CrossEntropyLoss(ignore_index=1),
    },
    "weighted classes": {
        "make": lambda: dl.Model(nn.Linear(5, CLASSES)),
        "loss": nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0])),
    },
}
AROUND = {
    "class_weight": {"fitting": {"class_weight": "balanced"}},
    "validation": {"fitting": {"validation_split": 0.3}},
    "metrics": {"metrics": ["accuracy", "f1_score", dl.metrics.TopKCategoricalAccuracy(2)]},
    "weighted metrics": {
        "compiling": {"weighted_metrics": ["accuracy"]},
        "fitting": {"sample_weight": WEIGHTS},
    },
    "a list of batches": {
        "x": [(X[i : i + 4], LABELS[i : i + 4]) for i in range(0, N, 4)],
        "y": None,
    },
}


class Remembers(dl.Model):
    """Keeps a number that is another in the first step, and stays."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, CLASSES)

    def forward(self, x):
        self.rows = len(x)
        return self.linear(x)


def test_jit_compiles_where_a_number_changes_in_the_first_step_alone(traced):
    same(traced, Remembers, fitting={"steps_per_epoch": 10})


def test_jit_leaves_a_loss_that_counts_to_the_eager_steps(traced):
    with pytest.warns(UserWarning, match=r"changes the Python number loss 0.calls.*eagerly"):
        fitted(lambda: dl.Model(nn.Linear(5, 1)), y=NUMBERS, jit=True, loss=CountingLoss())
    assert not traced


@pytest.mark.parametrize("case", CASES)
def test_jit_is_as_eager(traced, case):
    same(traced, **CASES[case])


@pytest.mark.parametrize("case", AROUND)
def test_jit_is_as_eager_around_the_steps(untraced, case):
    same(untraced, **AROUND[case])


class TwoHeads(dl.Model):
    def __init__(self):
        super().__init__()
        self.classes, self.number = nn.Linear(5, CLASSES), nn.Linear(5, 1)

    def forward(self, x):
        return {"classes": self.classes(x), "number": self.number(x)}


def test_jit_of_several_outputs(traced):
    same(
        traced,
        TwoHeads,
        y={"classes": LABELS, "number": NUMBERS},
        loss={"classes": "sparse_categorical_crossentropy", "number": "mse"},
        compiling={"loss_weights": {"classes": 2.0, "number": 0.5}},
    )


class Autoencoder(dl.Model):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 2), nn.Linear(2, 5)

    def forward(self, x):
        return self.outer(self.inner(x))

    def compute_loss(self, x, y, sample_weight=None):
        outputs = self(x + 0.1 * torch.randn_like(x))
        error, size = (outputs - x).square().mean(), self.inner(x).square().mean()
        return error + size, outputs, {"error": error, "size": size}


def test_jit_of_a_loss_of_ones_own(traced):
    same(traced, Autoencoder, y=None)


def test_jit_of_an_activity_penalty(traced):
    def make():
        return dl.Sequential([dl.Dense(4, "relu", activity_regularizer="l1"), dl.Dense(1)])

    same(traced, make, y=NUMBERS, loss="mse")


def test_jit_sees_what_is_frozen_and_freed_between_fits(traced):
    models = []
    for jit in (False, True):
        model, _ = fitted(network, jit=jit, compiling=TWO if jit else None)
        model.layers[0].trainable = False
        frozen = model.layers[0].weight.clone()
        model.fit(X, LABELS, 4, 2, verbose=0)
        assert torch.equal(frozen, model.layers[0].weight)
        model.layers[0].trainable = True
        model.fit(X, LABELS, 4, 2, verbose=0)
        assert not torch.equal(frozen, model.layers[0].weight)
        models.append(model)
    for mine, theirs in zip(*(model.state_dict().values() for model in models)):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-6)


def test_jit_leaves_out_what_has_no_gradient(traced):
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(5, CLASSES), nn.Linear(5, 1)

        def forward(self, x):
            return self.used(x)

    same(
        traced,
        lambda: dl.Model(Partly()),
        compiling={"optimizer": functools.partial(optim.AdamW, weight_decay=0.1)},
    )


def test_jit_runs_the_batch_hooks_once_a_call(traced):
    seen = []

    class Sees(dl.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(("begin", batch))

        def on_train_batch_end(self, batch, logs=None):
            seen.append(("end", batch))

    fitted(
        small,
        jit=True,
        compiling={"steps_per_execution": 4},
        fitting={"epochs": 1, "callbacks": [Sees()]},
    )
    ends = [(0, 0), (1, 4), (5, 8), (9, 9), (10, 10)]
    assert seen == [pair for a, b in ends for pair in (("begin", a), ("end", b))]


def test_jit_stops_at_nan(traced):
    x = X.clone() * 1e30
    with pytest.raises(FloatingPointError, match="loss became"):
        fitted(
            lambda: dl.Model(nn.Linear(5, 1)), x, NUMBERS, jit=True, loss="mse",
            compiling={"optimizer": dl.optimizers.SGD(1.0)},
        )  # fmt: skip


def test_jit_of_copies_trains_the_copy(traced):
    model, _ = fitted(small, jit=True, compiling=TWO)
    before = copy.deepcopy(model.state_dict())
    twin = copy.deepcopy(model)
    twin.fit(X, LABELS, 4, verbose=0)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))
    assert not torch.equal(twin.layers[-1].weight, model.layers[-1].weight)


class Lengthy(nn.Module):
    """Reads a number in the middle of the network, which no graph can."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, CLASSES)

    def forward(self, x):
        x = self.linear(x)
        return x * 2 if x.sum().item() > 0 else x


class Averaging(dl.Model):
    """Puts another tensor in a buffer's place, which ``functional_call`` would lose."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, CLASSES)
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.linear(x - self.mean)


class Counting(dl.Model):
    """Counts its calls in Python, which the trial of a compiled call would count, too."""

    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(5, CLASSES), 0

    def forward(self, x):
        self.calls += self.training
        return self.linear(x) * (1 + self.calls / 10)


class CountingLoss(dl.losses.Loss):
    def __init__(self):
        super().__init__(dl.losses.mean_squared_error, "counting")
        self.calls = 0

    def __call__(self, y_pred, y_true, reduction="mean"):
        self.calls += 1
        return self.calls * super().__call__(y_pred, y_true, reduction)


class Own(optim.SGD):
    """An optimizer that no table knows."""


@pytest.mark.parametrize(
    ("make", "compiling", "reason"),
    [
        (lambda: dl.Model(Lengthy()), {}, "torch cannot compile this model"),
        (network, {"optimizer": Own}, "Own has no compiled form"),
        (network, {"precision": "float16"}, "may skip steps"),
        (
            network,
            {
                "optimizer": functools.partial(optim.SGD, momentum=0.9),
                "schedule": functools.partial(
                    optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=99
                ),
            },
            "moves the momentum",
        ),
        (Averaging, {}, r"mean is assigned anew in a step, expected mean.copy_"),
        (Counting, {}, r"a step changes the Python number calls, expected a buffer"),
    ],
    ids=["reads a number", "own optimizer", "float16", "momentum", "buffer", "counter"],
)
def test_jit_falls_back_aloud_and_equal_to_the_bit(traced, make, compiling, reason):
    eager, expected = fitted(make, compiling=copy.deepcopy(compiling))
    with pytest.warns(UserWarning, match=rf"(?s)jit=True: .*{reason}.*eagerly"):
        model, history = fitted(make, jit=True, compiling=compiling)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-6)
    for mine, theirs in zip(model.state_dict().values(), eager.state_dict().values()):
        assert torch.equal(mine, theirs)


class Scaled(dl.Model):
    """Reads a number that a callback changes."""

    scale = 1.0

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, CLASSES)

    def forward(self, x):
        return self.linear(x) * self.scale


def test_jit_goes_on_eagerly_where_every_call_would_compile_anew(traced):
    class Anneals(dl.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.scale = 1.0 - epoch / 8

    given = {
        "make": Scaled,
        "fitting": {"epochs": 6, "callbacks": [Anneals()]},
        "compiling": {"optimizer": dl.optimizers.SGD(SCHEDULES.ExponentialDecay(0.1, 7, 0.6))},
    }
    with (
        torch._dynamo.config.patch(recompile_limit=2),
        pytest.warns(UserWarning, match="compiled too often, .* keeps changing; training goes on"),
    ):
        model = same(traced, **given)
    assert len(traced) == 2
    eager, _ = fitted(**given)
    assert model.learning_rate == eager.learning_rate


def test_steps_per_execution_needs_jit():
    with pytest.raises(ValueError, match="without jit=True"):
        network().compile("sgd", "mse", steps_per_execution=8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_jit_by_torchs_own_compiler(optimizer, capsys):
    eager, expected = fitted(network, compiling={"optimizer": optimizer})
    arguments = {"optimizer": optimizer, "steps_per_execution": 4}
    model, history = fitted(network, jit=True, compiling=arguments, fitting={"verbose": 2})
    assert "compiled in" in capsys.readouterr().out
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    for mine, theirs in zip(model.state_dict().values(), eager.state_dict().values()):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-6)


def test_batches_cut_from_one_piece_are_joined_without_a_copy():
    whole = torch.arange(24.0).reshape(8, 3)
    parts = list(whole.split(2))[1:]
    together = joined(parts)
    assert together.data_ptr() == parts[0].data_ptr()
    assert together.tolist() == whole[2:].tolist()
    for others in (parts[::-1], [parts[0], parts[2]], [part.clone() for part in parts]):
        assert joined(others).tolist() == torch.cat(others).tolist()


def test_jit_says_so_when_freezing_compiles_again(traced, capsys):
    dl.seed(3)
    model = dl.Sequential([dl.Dense(4, "tanh"), dl.Dense(CLASSES, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", jit=True, **TWO)
    model.fit(X, LABELS, batch_size=4, verbose=2)
    model.layers[0].trainable = False
    model.fit(X, LABELS, batch_size=4, verbose=2)
    assert capsys.readouterr().out.count("jit: compiling 2 training steps") == 2


@pytest.mark.slow
def test_powers_once_leaves_the_numbers_alone():
    """Through the real compiler: Adam's powers are float64 and computed outside the loops."""
    step = torch.tensor(12.0, dtype=torch.float64)

    def corrected(step, moment):
        return moment / (1 - 0.999**step)

    options = {"post_grad_custom_pre_pass": PowersOnce()}
    compiled = torch.compile(corrected, options=options)
    moment = torch.rand(1000, dtype=torch.float64)
    torch.testing.assert_close(compiled(step, moment), corrected(step, moment), rtol=1e-14, atol=0)
