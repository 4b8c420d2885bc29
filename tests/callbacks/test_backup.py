"""A training that crashed and goes on ends with the bits of one that did not.

The crash is an exception from a callback, after which everything is made anew.
"""

import os
import random
import shutil
import sys
from collections import Counter, deque

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import easydl as dl
from easydl.callbacks import BackupAndRestore, Callback, backup
from proofs import full_disk, resume
from tests.helpers import Rows

X = torch.randn(70, 6, generator=torch.Generator().manual_seed(5))
Y = (X.sum(1) > 0).long()
WHOLE = {"x": X, "y": Y}


class Crash(Exception):
    pass


class Bomb(Callback):
    """Ends the training in the middle of it, after so many batches; 0: never."""

    def __init__(self, at):
        self.at = at

    def on_train_batch_end(self, batch, logs=None):
        self.at -= 1
        if self.at == 0:
            raise Crash


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """The processes killed here leave the kernel alive, which has the bytes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def network(optimizer="adam", **options):
    model = dl.Sequential(
        [
            dl.Dense(8, "relu", input_dim=6),
            dl.BatchNormalization(),
            dl.Dropout(0.3),
            dl.Dense(2, "softmax"),
        ]
    )
    options = {"metrics": ["accuracy"]} | options
    model.compile(optimizer, "sparse_categorical_crossentropy", **options)
    return model


def fit(make, folder=None, crash=0, save_freq=2, seed=0):
    """The model after training, or ``None`` where it crashed."""
    dl.seed(seed)
    model, options = make()
    options = {"epochs": 3, "batch_size": 10, "verbose": 0, "callbacks": []} | options
    options["callbacks"] = [*options["callbacks"], Bomb(crash)]
    if folder is not None:
        options["callbacks"].append(BackupAndRestore(folder, save_freq, delete_checkpoint=False))
    try:
        model.fit(**options)
    except Crash:
        return None
    return model


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return set(one) == set(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(np.all(one == other))


def state_of(model):
    optimizer, history = model.optimizer.state_dict(), model.history
    return [dict(model.state_dict()), optimizer, history.history, history.epoch]


def ends_with_the_same_bits(make, folder):
    """Crashes amid the first epoch, amid the second, and after a checkpoint between the two."""
    expected = state_of(fit(make))
    for save_freq, crash in ((2, 4), (2, 10), ("epoch", 9)):
        place = folder / f"{save_freq} {crash}"
        assert fit(make, place, crash, save_freq) is None
        assert same(state_of(fit(make, place, 0, "epoch")), expected), (save_freq, crash)


# -- where the batches come from -------------------------------------------------------------------


class Noisy(Dataset):
    """Augmented with random numbers of all three kinds."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i] + torch.rand(6) + random.random() + float(np.random.rand()), Y[i]


class Mixed(IterableDataset):
    def __iter__(self):
        for i in np.random.permutation(70):
            yield X[i] + torch.rand(()), Y[i]


class Sequence:
    """Keras's: it shuffles itself, and tells how."""

    def __init__(self):
        self.order = np.arange(70)

    def __len__(self):
        return 7

    def __getitem__(self, i):
        rows = self.order[i * 10 : i * 10 + 10]
        return X[rows], Y[rows]

    def on_epoch_end(self):
        np.random.shuffle(self.order)

    def state_dict(self):
        return {"order": self.order}

    def load_state_dict(self, state):
        self.order = state["order"]


def batches():
    order = np.random.permutation(70)
    for i in range(0, 70, 10):
        yield X[order[i : i + 10]] + float(np.random.rand()), Y[order[i : i + 10]]


def endless():
    while True:
        yield from batches()


def with_one_row_left():
    return iter([(X[i : i + 10], Y[i : i + 10]) for i in range(0, 60, 10)] + [(X[:1], Y[:1])])


def loader(**options):
    return DataLoader(Noisy(), 10, **{"shuffle": True} | options)


def own_generator():
    return loader(generator=torch.Generator().manual_seed(4))


SOURCES = {
    "arrays": lambda: WHOLE | {"validation_split": 0.2, "split": "stratified"},
    "arrays in order": lambda: WHOLE | {"shuffle": False},
    "arrays, part by part": lambda: WHOLE | {"steps_per_epoch": 5},
    "arrays with one row left": lambda: {"x": X[:61], "y": Y[:61]},
    "weighted rows": lambda: WHOLE | {"sample_weight": torch.linspace(0.1, 1, 70)},
    "weighted classes": lambda: WHOLE | {"class_weight": {0: 1.0, 1: 3.0}},
    "TensorDataset": lambda: {"x": TensorDataset(X, Y)},
    "Dataset": lambda: {"x": Noisy(), "validation_data": Noisy()},
    "Dataset in order": lambda: {"x": Noisy(), "shuffle": False},
    "Dataset, part by part": lambda: {"x": Noisy(), "steps_per_epoch": 5},
    "DataLoader": lambda: {"x": loader(), "validation_data": loader()},
    "DataLoader, part by part": lambda: {"x": loader(), "steps_per_epoch": 5},
    "DataLoader with a generator": lambda: {"x": own_generator()},
    "function": lambda: {"x": batches, "validation_data": batches},
    "function, part by part": lambda: {"x": batches, "steps_per_epoch": 5},
    "generator": lambda: {"x": endless(), "steps_per_epoch": 5},
    "generators": lambda: {
        "x": endless(),
        "steps_per_epoch": 5,
        "validation_data": endless(),
        "validation_steps": 2,
        "validation_freq": 2,
    },
    "one row left": lambda: {"x": with_one_row_left},
    "IterableDataset": lambda: {"x": Mixed()},
    "Sequence": lambda: {"x": Sequence()},
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_goes_on(name, tmp_path):
    ends_with_the_same_bits(lambda: (network(), SOURCES[name]()), tmp_path)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
@pytest.mark.parametrize("stay", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_loader_with_workers_goes_on(stay, tmp_path):
    def make():
        workers = {"num_workers": 2, "persistent_workers": stay, "multiprocessing_context": "fork"}
        return network(), {"x": loader(**workers)}

    expected = state_of(fit(make, tmp_path / "whole"))
    assert fit(make, tmp_path / "a", crash=8) is None
    assert same(state_of(fit(make, tmp_path / "a")), expected)


def test_parquet_goes_on(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    table = {f"f{i}": X[:, i].numpy() for i in range(6)} | {"y": Y.numpy()}
    path = tmp_path / "t.parquet"
    arrow.parquet = pytest.importorskip("pyarrow.parquet")
    arrow.parquet.write_table(arrow.table(table), path, row_group_size=20)
    make = lambda: (network(), {"x": dl.data.parquet(path, target="y"), "steps_per_epoch": 5})  # noqa: E731
    ends_with_the_same_bits(make, tmp_path)


def test_a_sequence_that_shuffles_in_secret_is_told(tmp_path):
    class Secret(Sequence):
        state_dict = load_state_dict = property()  # as if there were none

    make = lambda: (network(), {"x": Secret()})  # noqa: E731
    assert fit(make, tmp_path, crash=13) is None
    with pytest.warns(UserWarning, match="on_epoch_end changed is not in the checkpoint"):
        fit(make, tmp_path)


# -- what is trained, and how ----------------------------------------------------------------------


class Own(torch.optim.Optimizer):
    """Keeps a number and a tensor that is not of the weight's size."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state["count"] = state.get("count", 0) + 1
            state["sum"] = state.get("sum", 0.0) + parameter.grad.sum()
            parameter -= 0.01 / state["count"] * parameter.grad + 1e-4 * state["sum"]


def sequential(optimizer):
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2)]
    parts.append(lr_scheduler.StepLR(optimizer, 1, 0.5))
    return lr_scheduler.SequentialLR(optimizer, parts, [1])


def plateau(optimizer):
    return lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)


SETTINGS = {
    "rmsprop": {"optimizer": "rmsprop"},
    "momentum": {"optimizer": dl.optimizers.SGD(0.1, momentum=0.9)},
    "nadam": {"optimizer": "nadam"},
    "adagrad": {"optimizer": "adagrad"},
    "adafactor": {"optimizer": torch.optim.Adafactor},
    "own optimizer": {"optimizer": Own},
    "schedule by steps": {
        "optimizer": dl.optimizers.Adam(dl.schedules.ExponentialDecay(0.1, 5, 0.5))
    },
    "schedules in one": {"schedule": sequential},
    "plateau": {"schedule": plateau},
    "accumulate": {"accumulate": 3},
    "bfloat16": {"precision": "bfloat16", "clip_norm": 0.5},
    "float16": {"precision": "float16"},
    "metrics": {"metrics": ["accuracy", dl.metrics.ConfusionMatrix(2)]},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_goes_on(name, tmp_path):
    ends_with_the_same_bits(lambda: (network(**SETTINGS[name]), WHOLE), tmp_path)


class Freeze(Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.model.layers[0].trainable = False


CALLBACKS = {
    "plateau": lambda: dl.callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=1),
    "scheduler": lambda: dl.callbacks.LearningRateScheduler(lambda epoch, rate: 0.7 * rate),
    "early stopping": lambda: dl.callbacks.EarlyStopping(
        "loss", patience=1, min_delta=0.5, restore_best_weights=True
    ),
    "freeze": Freeze,
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_every_callback_goes_on(name, tmp_path):
    ends_with_the_same_bits(
        lambda: (network(), WHOLE | {"callbacks": [CALLBACKS[name]()]}), tmp_path
    )


def test_files_of_callbacks_are_those_of_the_uninterrupted_run(tmp_path):
    def make():
        path = tmp_path / "files"
        keep = dl.callbacks.ModelCheckpoint(path / "best.safetensors", save_best_only=True)
        often = dl.callbacks.ModelCheckpoint(path / "{epoch}-{batch}.safetensors", save_freq=3)
        table = dl.callbacks.CSVLogger(path / "log.csv")
        return network(), WHOLE | {"callbacks": [keep, often, table], "validation_split": 0.2}

    found = []
    for crash in (0, 8):
        if fit(make, tmp_path / f"{crash}", crash) is None:
            fit(make, tmp_path / f"{crash}")
        found.append({p.name: p.read_bytes() for p in (tmp_path / "files").iterdir()})
        shutil.rmtree(tmp_path / "files")
    assert found[0] == found[1]
    assert len(found[0]) == 8


class Autoencoder(dl.Model):
    """Draws in the loss, and has named parts of it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return self.layer(x)

    def compute_loss(self, x, y, sample_weight=None):
        outputs = self(x + torch.randn_like(x))
        error, size = (outputs - x).square().mean(), self.layer.weight.square().mean()
        return error + size, outputs, {"error": error, "size": size}


class Tied(nn.Module):
    """A network that cannot be saved whole: what it was made from is unknown."""

    def __init__(self, secret):
        super().__init__()
        self.one, self.two, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.out(torch.dropout(self.two(self.one(x).relu()), 0.2, self.training))


def test_models_of_ones_own_go_on(tmp_path):
    def autoencoder():
        model = Autoencoder()
        model.compile("adam", None)
        return model, {"x": X}

    def tied():
        model = dl.Model(Tied(object()))
        model.compile("adamw", nn.CrossEntropyLoss(), metrics=["accuracy"])
        return model, WHOLE

    ends_with_the_same_bits(autoencoder, tmp_path / "a")
    ends_with_the_same_bits(tied, tmp_path / "b")


# -- when and where --------------------------------------------------------------------------------


def plain():
    return network(), WHOLE


def test_a_script_without_a_seed_goes_on_with_the_seed_it_had(tmp_path):
    fit(plain, tmp_path, crash=8, seed=1)
    assert same(state_of(fit(plain, tmp_path, seed=2)), state_of(fit(plain, seed=1)))


def test_a_crash_before_the_first_checkpoint_goes_on_from_the_start(tmp_path):
    fit(plain, tmp_path, crash=1, seed=1)
    assert same(state_of(fit(plain, tmp_path, seed=2)), state_of(fit(plain, seed=1)))


def test_many_crashes(tmp_path):
    for crash in (3, 2, 5, 1, 4):
        assert fit(plain, tmp_path, crash) is None
    assert same(state_of(fit(plain, tmp_path)), state_of(fit(plain)))


def test_the_clock_saves_amid_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(backup, "SECONDS", 0.0)
    monkeypatch.setattr(backup, "REST", 0)
    assert fit(plain, tmp_path, crash=3, save_freq="epoch") is None
    assert sorted(os.listdir(tmp_path))[-1] == "epoch00000-batch00000002.easydl"
    assert same(state_of(fit(plain, tmp_path, save_freq="epoch")), state_of(fit(plain)))


def test_metrics_of_other_libraries_are_kept_between_epochs_only(tmp_path):
    def make():
        return network(metrics=[Rows()]), WHOLE

    assert fit(make, tmp_path, crash=10) is None
    assert all(name.endswith("-batch00000000.easydl") for name in os.listdir(tmp_path))
    again = fit(make, tmp_path)
    assert again.history.history["rows"] == [70.0] * 3
    assert same(state_of(again), state_of(fit(make)))


class Held(dl.metrics.Metric):
    """Rows and their number so far, gathered in an object of some kind."""

    def __init__(self, start, add, read):
        super().__init__()
        self.start, self.add, self.read = start, add, read

    def update(self, y_pred, y_true, sample_weight=None):
        self.sums = self.add(self.sums, y_true)

    def result(self):
        return float(self.read(self.sums))

    def reset(self):
        super().reset()
        self.sums = self.start()


def appended(sums, y):
    sums.append(y.sum())
    return sums


def counted(sums, y):
    sums.update({"rows": len(y)})
    return sums


HELD = {  # what the sums are at first, with a batch, in the end; and whether a checkpoint has them
    "nothing at first": (lambda: None, lambda s, y: (s or 0) + y.sum(), float, True),
    "tensor": (lambda: torch.zeros(()), lambda s, y: s.add_(y.sum()), float, True),
    "array": (lambda: np.zeros(2), lambda s, y: s + float(y.sum()), lambda s: s.sum(), True),
    "number": (lambda: 0, lambda s, y: s + np.float64(0.1) * len(y), float, True),
    "list of tensors": (list, appended, sum, True),
    "tuple in a dict": (
        lambda: {"sums": (0, 0.0)},
        lambda s, y: {"sums": (s["sums"][0] + 1, s["sums"][1] + float(y.sum()))},
        lambda s: sum(s["sums"]),
        True,
    ),
    "deque": (deque, appended, sum, False),
    "set": (set, lambda s, y: s | {len(s)}, len, False),
    "counter": (Counter, counted, lambda s: s["rows"], False),
    "short number": (lambda: np.float32(0), lambda s, y: s + np.float32(len(y)), float, False),
    "metric": (
        lambda: dl.metrics.MeanSquaredError(),
        lambda s, y: s.update(y.float(), 0 * y) or s,
        lambda s: s.result(),
        False,
    ),
    "object": (Rows, lambda s, y: s.update(y, y) or s, Rows.compute, False),
    "complex tensor": (lambda: torch.zeros((), dtype=torch.cfloat), lambda s, y: s + y.sum(),
                       lambda s: s.real, False),
}  # fmt: skip


@pytest.mark.parametrize("kept_back", [1, 131_072])
@pytest.mark.parametrize("name", HELD)
def test_what_a_metric_holds_comes_back_or_no_checkpoint_is_amid_an_epoch(
    name, kept_back, tmp_path, monkeypatch
):
    monkeypatch.setattr("easydl.training.meter.CACHED", kept_back)
    *how, amid = HELD[name]

    def make():
        return network(metrics=[Held(*how), "accuracy", len_of]), WHOLE

    assert fit(make, tmp_path, crash=10) is None
    assert amid == any("-batch00000000" not in name for name in os.listdir(tmp_path))
    assert same(state_of(fit(make, tmp_path)), state_of(fit(make)))


def test_checkpoints_amid_an_epoch_have_the_sums_of_every_metric_by_name(tmp_path):
    other = ("categorical", "confusion", "cosine")  # which have several columns
    names = [name for name in dl.metrics.NAMES if not any(word in name for word in other)]

    def make():
        model = dl.Sequential([dl.Dense(1, "sigmoid", input_dim=6)])
        model.compile("adam", "binary_crossentropy", metrics=[*names, "hinge", dl.losses.Huber()])
        return model, WHOLE

    assert fit(make, tmp_path, crash=10) is None
    assert any("-batch00000000" not in name for name in os.listdir(tmp_path))
    assert same(state_of(fit(make, tmp_path)), state_of(fit(make)))


def len_of(y_pred, y_true):
    return torch.tensor(float(len(y_pred)))


class StopInValidation(Callback):
    def __init__(self, error):
        self.error = error

    def on_test_batch_end(self, batch, logs=None):
        if self.error is not None and self.model.history.epoch == [0, 1]:
            raise self.error


def test_ctrl_c_in_the_last_validation_and_the_same_model_again(tmp_path):
    options = WHOLE | {"validation_split": 0.2, "verbose": 0, "epochs": 3}
    expected = fit(lambda: (network(), options | {"callbacks": [StopInValidation(None)]}))
    dl.seed(0)
    model, stop = network(), StopInValidation(KeyboardInterrupt())
    options |= {"batch_size": 10, "checkpoint": tmp_path, "callbacks": [stop, Bomb(0)]}
    with pytest.raises(KeyboardInterrupt):
        model.fit(**options)
    stop.error = None
    model.fit(**options)
    assert same(state_of(model), state_of(expected))


def test_more_epochs_go_on_and_none_left_are_told(tmp_path):
    options = WHOLE | {"epochs": 2, "checkpoint": tmp_path}
    first = fit(lambda: (network(), options))
    with pytest.warns(UserWarning, match="nothing is left to train"):
        again = fit(lambda: (network(), options))
    assert same(state_of(again), state_of(first))
    more = fit(lambda: (network(), options | {"epochs": 3}))
    assert same(state_of(more), state_of(fit(plain)))


def test_delete_checkpoint_removes_it_at_the_end_alone(tmp_path):
    def run(crash):
        model = network()
        keep = BackupAndRestore(tmp_path, save_freq=3)
        model.fit(X, Y, batch_size=10, verbose=0, callbacks=[keep, Bomb(crash)])

    with pytest.raises(Crash):
        run(5)
    assert os.listdir(tmp_path)
    run(0)
    assert not os.listdir(tmp_path)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:nothing is left to train")  # killed behind its last save
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
@pytest.mark.parametrize(
    "kills", [pytest.param(1, id="a share"), pytest.param(20, id="all", marks=pytest.mark.slow)]
)
def test_killed_processes_end_with_the_same_bits(kills, tmp_path):
    exact, counts = resume.prove(tmp_path, kills, seed=kills)
    assert exact == dict.fromkeys(resume.SETUPS, kills)
    assert counts["killed"] >= 3 * kills


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_compiled_steps_go_on(accumulate, tmp_path):
    """Crashes after the first compiled call of an epoch, in its eager rest, and in the second."""

    def compiled():
        model = dl.Sequential([dl.Dense(4, "relu", input_dim=6), dl.Dropout(0.3), dl.Dense(2)])
        options = {"jit": True, "steps_per_execution": 2, "accumulate": accumulate}
        model.compile("adam", "sparse_categorical_crossentropy", **options)
        return model, WHOLE

    def eager():
        model, data = compiled()
        model._compiled.jit = False
        return model, data

    expected = state_of(fit(compiled))
    assert not same(state_of(fit(eager))[0], expected[0])  # what is compiled rounds otherwise
    for crash in (2, 3, 7):
        folder = tmp_path / str(crash)
        assert fit(compiled, folder, crash, save_freq=1) is None
        assert same(state_of(fit(compiled, folder, save_freq=1, seed=9)), expected), crash


def test_the_proof_sees_random_states_that_do_not_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(backup, "set_random_state", lambda state: torch.manual_seed(1))
    *_, dropout = resume.SETUPS
    monkeypatch.setattr(resume, "SETUPS", {dropout: resume.SETUPS[dropout]})
    exact, _ = resume.prove(tmp_path, 2)
    assert exact[dropout] < 2


# -- files -----------------------------------------------------------------------------------------


def test_two_generations_are_kept_and_a_damaged_one_is_passed_over(tmp_path):
    expected = state_of(fit(plain))
    assert fit(plain, tmp_path, crash=10) is None
    names = sorted(os.listdir(tmp_path))
    assert names == ["epoch00001-batch00000000.easydl", "epoch00001-batch00000002.easydl"]
    newest = tmp_path / names[1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match="batch00000002.easydl is passed over: .*damaged"):
        assert fit(plain, tmp_path, crash=2, save_freq=1) is None
    # The damaged one, which is later, is not what is kept instead of the new one.
    assert same(state_of(fit(plain, tmp_path)), expected)


def test_where_none_can_be_read_nothing_is_begun_anew(tmp_path):
    fit(plain, tmp_path, crash=9)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="none of the checkpoints"):
        fit(plain, tmp_path)
    assert len(os.listdir(tmp_path)) == 2


def test_what_a_killed_save_left_is_removed(tmp_path):
    fit(plain, tmp_path, crash=9)
    (tmp_path / f".epoch00001-batch00000004.easydl.{'0' * 32}").write_text("half")
    fit(plain, tmp_path)
    assert sorted(os.listdir(tmp_path)) == [
        "epoch00002-batch00000006.easydl", "epoch00003-batch00000000.easydl"
    ]  # fmt: skip


def test_the_newest_checkpoint_is_a_model_file(tmp_path):
    model = fit(plain, tmp_path)
    loaded = dl.load_model(sorted(tmp_path.iterdir())[-1])
    assert same(dict(loaded.state_dict()), dict(model.state_dict()))


def other_network(**options):
    return lambda: (network(**options), WHOLE)


def wider():
    model = dl.Sequential([dl.Dense(9, input_dim=6), dl.Dense(2, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model, WHOLE


def other_activation():
    model = network()
    layers = [dl.Dense(8, "tanh", input_dim=6), dl.BatchNormalization(), dl.Dropout(0.3)]
    model = dl.Sequential([*layers, dl.Dense(2, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model, WHOLE


REFUSED = {
    "another model": (wider, r"0.weight: \(8, 6\) instead of \(9, 6\)"),
    "another activation": (other_activation, "'relu' there, 'tanh' here"),
    "other rows": (lambda: (network(), {"x": X[:60], "y": Y[:60]}), "samples 70 there, 60 here"),
    "other numbers": (lambda: (network(), {"x": X + 1e-6, "y": Y}), r"data\[0\] .*float32.* there"),
    "other labels": (lambda: (network(), {"x": X, "y": 1 - Y}), r"data\[1\] .*int64 .* there"),
    "other batches": (lambda: (network(), WHOLE | {"batch_size": 7}), "batch_size 10 there, 7"),
    "another order": (lambda: (network(), WHOLE | {"shuffle": False}), "shuffle True there"),
    "other steps": (lambda: (network(), WHOLE | {"steps_per_epoch": 5}), "steps 7 there, 5 here"),
    "another start": (lambda: (network(), WHOLE | {"initial_epoch": 1}), "initial_epoch 0 there"),
    "another optimizer": (other_network(optimizer="sgd"), "Adam.* there, .*SGD.* here"),
    "another rate": (
        other_network(optimizer=dl.optimizers.Adam(0.5)), "learning_rate 0.001 there, 0.5 here"
    ),
    "other metrics": (other_network(metrics=[]), "names .* there"),
    "another accumulation": (other_network(accumulate=2), "accumulate 1 there, 2 here"),
    "other callbacks": (
        lambda: (network(), WHOLE | {"callbacks": [Freeze()]}), "callbacks .*Bomb.* there"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_checkpoint_of_another_training_is_refused(name, tmp_path):
    make, words = REFUSED[name]
    fit(plain, tmp_path, crash=3)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match=words) as caught:
        fit(make, tmp_path)
    assert len(str(caught.value)) <= 600
    assert sorted(os.listdir(tmp_path)) == before


def test_what_cannot_be_kept_is_told_before_the_first_step(tmp_path):
    class Mine(Callback):
        keeps = ("thing",)
        thing = object()

    model = network()
    before = model.get_weights()[0].copy()
    with pytest.raises(ValueError, match=r"Mine.state_dict\(\).*thing.*no checkpoint can keep"):
        model.fit(X, Y, verbose=0, checkpoint=tmp_path, callbacks=[Mine()])
    assert (model.get_weights()[0] == before).all()


def test_a_place_without_room_or_permission_is_told_before_the_first_step(tmp_path, monkeypatch):
    def refused(folder, words):
        model = network()
        before = model.get_weights()[0].copy()
        with pytest.raises((ValueError, OSError), match=words):
            model.fit(X, Y, verbose=0, checkpoint=folder)
        assert (model.get_weights()[0] == before).all()

    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is a file")
    refused(tmp_path / "file" / "a", "is a file|Not a directory|nothing can be written")
    if hasattr(os, "geteuid"):
        with full_disk.locked(tmp_path):
            refused(tmp_path / "a", "Permission denied")
        with full_disk.full_after(100):
            refused(tmp_path / "b", "File too large")
    nearly_full = lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", nearly_full)
    refused(tmp_path / "c", "1,000 bytes of room; expected about")
