"""Every source, loss and number shown by ``fit`` is that of the loop by hand."""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict, defaultdict

import pytest
import torch
import torch.nn.functional as F
from plain_loop import (
    BATCH,
    ROWS,
    SAMPLE_WEIGHTS,
    TASKS,
    assert_same_history,
    assert_same_weights,
    batches_of,
    compare,
    cut,
    most_likely,
    plain_fit,
    plain_sgd,
    run_both,
    sgd,
)
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import easydl as dl
from easydl.data import arrays

# -- sources ----------------------------------------------------------------------------------


class Rows(Dataset):
    """A map-style Dataset that is not a TensorDataset: taken row by row."""

    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, index):
        return tuple(column[index] for column in self.columns)


def fit_beside_plain(task, source, data, epochs=3, plain_kwargs=None, **fit_kwargs):
    model, net = task.pair()
    history, expected = run_both(
        lambda: model.fit(source(), epochs=epochs, verbose=0, **fit_kwargs),
        lambda: plain_fit(
            net, data(), task.plain_loss, plain_sgd(net), epochs, hits=task.hits,
            **(plain_kwargs or {}),
        ),
    )  # fmt: skip
    assert_same_weights(model, net)
    assert_same_history(history, expected)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", [Rows, TensorDataset])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_dataset(task, kind, shuffle, weighted):
    columns = [task.x, task.y] + ([SAMPLE_WEIGHTS] if weighted else [])
    fit_beside_plain(
        task,
        lambda: kind(*columns),
        lambda: batches_of(*columns, shuffle=shuffle),
        shuffle=shuffle,
        batch_size=BATCH,
    )


@pytest.mark.parametrize("shuffle", [True, False])
def test_data_loader_keeps_its_own_order_and_batch_size(task, shuffle):
    loader = lambda: DataLoader(TensorDataset(task.x, task.y), 11, shuffle=shuffle)  # noqa: E731

    def data():
        one = loader()
        return lambda epoch: ((x, y, None) for x, y in one)

    fit_beside_plain(task, loader, data)


def test_generators(task):
    def endless():
        while True:
            yield from ((x, y) for x, y, _ in cut(BATCH, task.x, task.y, None))

    def data():
        stream = endless()
        return lambda epoch: ((*next(stream), None) for _ in range(5))

    fit_beside_plain(task, endless, data, steps_per_epoch=5)

    once = lambda: ((x, y) for x, y, _ in cut(BATCH, task.x, task.y, None))  # noqa: E731
    in_order = lambda: batches_of(task.x, task.y, shuffle=False)  # noqa: E731
    fit_beside_plain(task, lambda: once, in_order)
    fit_beside_plain(task, lambda: list(once()), in_order)


def test_class_weight_with_a_stream(task):
    weights = torch.tensor([0.5, 3.0, 1.0])[task.classes]
    count = int(task.classes.max()) + 1
    fit_beside_plain(
        task,
        lambda: list(cut(BATCH, task.x, task.y)),
        lambda: batches_of(task.x, task.y, weights, shuffle=False),
        class_weight=dict(enumerate([0.5, 3.0, 1.0][:count])),
    )


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", ["arrays", "dataset", "loader"])
def test_steps_per_epoch_goes_on_where_the_last_epoch_ended(task, kind, shuffle):
    given = {
        "arrays": (task.x, task.given_y),
        "dataset": (Rows(task.x, task.y),),
        "loader": (DataLoader(TensorDataset(task.x, task.y), BATCH, shuffle=shuffle),),
    }[kind]
    options = {"batch_size": BATCH, "epochs": 5, "steps_per_epoch": 4, "shuffle": shuffle}
    model, net = task.pair()

    def passes():
        if kind == "loader":
            each = lambda _: ((x, y, None) for x, y in given[0])  # noqa: E731
        else:
            each = batches_of(task.x, task.y, shuffle=shuffle)
        batches = itertools.chain.from_iterable(map(each, itertools.count()))
        return lambda epoch: itertools.islice(batches, 4)

    history, expected = run_both(
        lambda: model.fit(*given, **options, verbose=0),
        lambda: plain_fit(net, passes(), task.plain_loss, plain_sgd(net), 5, hits=task.hits),
    )
    assert_same_weights(model, net)
    assert_same_history(history, expected)


@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_gathered_in_several_chunks_are_the_same_batches(task, shuffle, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 1)  # each batch a chunk of its own
    compare(task, fit_kwargs={"shuffle": shuffle})
    one_row = task.x[:1].numel() * 4 + 32
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 2 * BATCH * one_row)
    compare(task, fit_kwargs={"shuffle": shuffle})


@pytest.mark.parametrize("kind", ["arrays", "chunks", "dataset"])
def test_last_single_row_joins_the_batch_before_it_where_a_batchnorm_learns(kind, monkeypatch):
    task, n = TASKS["cnn"], 17  # 4 batches of 4 and one row: 4, 4, 4, 5
    if kind == "chunks":
        monkeypatch.setattr(arrays, "CHUNK_BYTES", 1)
    model, net = task.pair()
    x, y = task.x[:n], task.y[:n]

    def data():
        seed = int(torch.randint(2**62, ()))

        def epoch_batches(epoch):
            order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + epoch))
            for rows in order[:12].split(4):
                yield x[rows], y[rows], None
            yield x[order[12:]], y[order[12:]], None

        return epoch_batches

    given = (Rows(x, y),) if kind == "dataset" else (x, y)
    history, expected = run_both(
        lambda: model.fit(*given, batch_size=4, epochs=3, verbose=0),
        lambda: plain_fit(net, data(), task.plain_loss, plain_sgd(net), 3, hits=task.hits),
    )
    assert_same_weights(model, net)
    assert_same_history(history, expected)


# -- losses, heads, constraints ---------------------------------------------------------------

G = torch.Generator().manual_seed(5)
REAL, POSITIVE = torch.randn(ROWS, 3, generator=G), torch.rand(ROWS, 3, generator=G) + 0.1
ZERO_ONE, SIGNS = (REAL > 0).float(), torch.sign(REAL)
LABELS = torch.randint(3, (ROWS,), generator=G)
SOFT = POSITIVE / POSITIVE.sum(1, keepdim=True)


def smooth(out, y, **kwargs):
    return F.cross_entropy(out, y, label_smoothing=0.1, **kwargs)


LOSSES = {
    "mse": ("mse", REAL, F.mse_loss),
    "mae": ("mae", REAL, F.l1_loss),
    "huber": (dl.losses.Huber(0.3), REAL, lambda o, y: F.huber_loss(o, y, delta=0.3)),
    "torch mse": (nn.MSELoss(), REAL, F.mse_loss),
    "torch smooth l1": (nn.SmoothL1Loss(), REAL, F.smooth_l1_loss),
    "function": (F.mse_loss, REAL, F.mse_loss),
    "keras order": (lambda y_true, y_pred: (2 * y_pred - y_true).abs().mean(), REAL,
                    lambda o, y: (2 * o - y).abs().mean()),
    "bce": ("binary_crossentropy", ZERO_ONE, F.binary_cross_entropy_with_logits),
    "torch bce": (nn.BCEWithLogitsLoss(), ZERO_ONE, F.binary_cross_entropy_with_logits),
    "soft labels": ("categorical_crossentropy", SOFT, F.cross_entropy),
    "smoothing": (dl.losses.CategoricalCrossentropy(label_smoothing=0.1), LABELS, smooth),
    "torch ce": (nn.CrossEntropyLoss(), LABELS, F.cross_entropy),
    "squared hinge": ("squared_hinge", SIGNS, lambda o, y: ((1 - y * o).clamp_min(0) ** 2).mean()),
}  # fmt: skip


def linear_pair(loss, activation=None, **kwargs):
    torch.manual_seed(3)
    model = dl.Sequential([dl.Dense(8, "tanh", input_shape=(6,)), dl.Dense(3, activation)])
    parts = [("0", nn.Linear(6, 8)), ("tanh", nn.Tanh()), ("1", nn.Linear(8, 3))]
    net = nn.Sequential(OrderedDict(parts))
    net.load_state_dict(model.state_dict())
    model.compile(sgd(), loss, device="cpu", **kwargs)
    return model, net


@pytest.mark.parametrize("name", LOSSES)
def test_loss(name):
    loss, y, by_hand = LOSSES[name]
    model, net = linear_pair(loss)
    x = TASKS["mlp"].x
    history, expected = run_both(
        lambda: model.fit(x, y, BATCH, 3, 0),
        lambda: plain_fit(net, batches_of(x, y), by_hand, plain_sgd(net), 3),
    )
    assert_same_weights(model, net)
    assert_same_history(history, expected)


@pytest.mark.parametrize("activation", ["softmax", None])
@pytest.mark.parametrize("y", [LABELS, LABELS.unsqueeze(1), LABELS.double(), F.one_hot(LABELS)])
def test_labels_in_any_form_meet_logits(y, activation):
    model, net = linear_pair("categorical_crossentropy", activation)
    x = TASKS["mlp"].x
    one_hot = y.shape[1:] == (3,)
    target = y.float() if one_hot else LABELS
    run_both(
        lambda: model.fit(x, y, BATCH, 3, 0),
        lambda: plain_fit(net, batches_of(x, target), F.cross_entropy, plain_sgd(net), 3),
    )
    assert_same_weights(model, net)


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 1)])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_column_of_targets_is_never_broadcast(shape, weighted):
    x, y = TASKS["mlp"].x, REAL[:, 0].reshape(shape)
    weights = SAMPLE_WEIGHTS if weighted else None
    torch.manual_seed(3)
    model = dl.Sequential([dl.Dense(1, input_shape=(6,))])
    net = nn.Sequential(nn.Linear(6, 1))
    net.load_state_dict(model.state_dict())
    model.compile(sgd(), "mse", metrics=["mae"], device="cpu")
    history, expected = run_both(
        lambda: model.fit(x, y.double().numpy(), BATCH, 3, 0, sample_weight=weights),
        lambda: plain_fit(
            net, batches_of(x, y.reshape(-1, 1), weights), F.mse_loss, plain_sgd(net), 3
        ),
    )
    assert_same_weights(model, net)
    assert history.history["loss"] == pytest.approx(expected["loss"], rel=1e-12, abs=0)
    error = (net(x) - y.reshape(-1, 1)).abs().double().mean().item()
    assert model.evaluate(x, y, verbose=0)[1] == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize(
    "weight, ignore", [([0.5, 2.0, 1.0], -100), (None, 2), ([1.0, 3.0, 0.25], 1)]
)
def test_torch_loss_that_divides_by_its_targets_weights(weight, ignore):
    weight = None if weight is None else torch.tensor(weight)
    loss = nn.CrossEntropyLoss(weight=weight, ignore_index=ignore)
    model, net = linear_pair(loss)
    x, optimizer = TASKS["mlp"].x, plain_sgd(net)
    factors = (torch.ones(3) if weight is None else weight).double()
    if ignore >= 0:
        factors[ignore] = 0

    def plain():
        history = []
        data = batches_of(x, LABELS)
        for epoch in range(3):
            total = 0.0
            for a, b, _ in data(epoch):
                value = loss(net(a), b)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                total += value.item() * factors[b].sum().item()
            history.append(total / factors[LABELS].sum().item())
        return {"loss": history}

    history, expected = run_both(lambda: model.fit(x, LABELS, BATCH, 3, 0), plain)
    assert_same_weights(model, net)
    assert_same_history(history, expected)


class TwoHeads(nn.Module):
    def __init__(self, named: bool, body: nn.Module):
        super().__init__()
        self.body, self.named = body, named
        self.kind, self.size = nn.Linear(8, 3), nn.Linear(8, 1)
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        h = self.drop(torch.relu(self.body(x)))
        outputs = self.kind(h), self.size(h)
        return dict(zip(("kind", "size"), outputs)) if self.named else outputs


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_several_outputs(named, weighted):
    x, weights = TASKS["mlp"].x, SAMPLE_WEIGHTS if weighted else None
    size = REAL[:, :1]
    torch.manual_seed(3)
    net = TwoHeads(named, nn.Linear(6, 8))
    body = dl.Dense(8, kernel_regularizer=dl.regularizers.L2(0.05))
    body.build((None, 6))
    model = dl.Model(TwoHeads(named, body))
    model.load_state_dict(net.state_dict())
    losses, factors = ["sparse_categorical_crossentropy", "mse"], [0.5, 2.0]
    y = (LABELS, size[:, 0])
    if named:
        names = ["kind", "size"]
        losses, factors, y = (dict(zip(names, v)) for v in (losses, factors, y))
    model.compile(sgd(0.01), losses, loss_weights=factors, device="cpu")

    def reduce(values, w):
        return (values.reshape(len(values)) * w).mean()

    def plain():
        optimizer, data = plain_sgd(net, 0.01), batches_of(x, (both := torch.arange(ROWS)), weights)
        history = defaultdict(list)
        net.train()
        for epoch in range(3):
            sums = torch.zeros(3, dtype=torch.float64)
            for a, rows, w in data(epoch):
                out = net(a)
                kind, number = out.values() if named else out
                if w is None:
                    parts = F.cross_entropy(kind, LABELS[rows]), F.mse_loss(number, size[rows])
                else:
                    parts = (
                        reduce(F.cross_entropy(kind, LABELS[rows], reduction="none"), w),
                        reduce(F.mse_loss(number, size[rows], reduction="none"), w),
                    )
                loss = 0.5 * parts[0] + 2.0 * parts[1] + 0.05 * net.body.weight.square().sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                sums += torch.stack([loss, *parts]).detach().double() * len(a)
            heads = ("kind", "size") if named else ("output_1", "output_2")
            for name, value in zip(("loss", *(f"{h}_loss" for h in heads)), sums / len(both)):
                history[name].append(value.item())
        return dict(history)

    history, expected = run_both(lambda: model.fit(x, y, BATCH, 3, 0, sample_weight=weights), plain)
    assert_same_weights(model, net)
    assert_same_history(history, expected)


def test_constraint_and_activity_penalty():
    x, y = TASKS["mlp"].x, REAL
    torch.manual_seed(3)
    model = dl.Sequential(
        [
            dl.Dense(8, activity_regularizer="l2", kernel_constraint="non_neg", input_shape=(6,)),
            dl.Dense(3, bias_regularizer=dl.regularizers.L1(0.03)),
        ]
    )
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    net.load_state_dict(model.state_dict())
    model.compile(sgd(0.02), "mse", device="cpu")
    seen = {}
    net[0].register_forward_hook(lambda m, i, out: seen.update(out=out))

    def penalty(net):
        activity = 0.01 * seen["out"].square().sum() / len(seen["out"])
        return 0.03 * net[1].bias.abs().sum() + activity

    def project(net):
        with torch.no_grad():
            net[0].weight.clamp_(min=0)

    history, expected = run_both(
        lambda: model.fit(x, y, BATCH, 3, 0),
        lambda: plain_fit(
            net, batches_of(x, y), F.mse_loss, plain_sgd(net, 0.02), 3,
            penalty=penalty, project=project,
        ),
    )  # fmt: skip
    assert_same_weights(model, net)
    assert_same_history(history, expected)
    assert model.layers[0].weight.min() == 0


# -- the numbers that are shown ---------------------------------------------------------------


def test_epoch_means_are_exact_over_many_ragged_batches_and_reading_them_early_changes_nothing():
    # 151 rows by 2: 76 batches, more than the meter keeps back.
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(151, 6, generator=g), torch.randint(3, (151,), generator=g)
    seen = []

    class Look(dl.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(logs["loss"])

    for callbacks in ([], [Look()]):
        model, net = linear_pair("sparse_categorical_crossentropy", metrics=["accuracy"])
        history, expected = run_both(
            lambda: model.fit(x, y, 2, 2, 0, callbacks),  # noqa: B023
            lambda: plain_fit(
                net, batches_of(x, y, size=2), F.cross_entropy, plain_sgd(net), 2,  # noqa: B023
                hits=most_likely,
            ),
        )  # fmt: skip
        assert_same_weights(model, net)
        assert_same_history(history, expected)
    assert [seen[75], seen[151]] == pytest.approx(expected["loss"], rel=1e-12, abs=0)


def test_validation_frequency():
    task = TASKS["mlp"]
    every, some = task.pair()[0], task.pair()[0]
    torch.manual_seed(7)
    full = every.fit(task.x, task.given_y, epochs=4, verbose=0, validation_split=0.25)
    torch.manual_seed(7)
    half = some.fit(
        task.x, task.given_y, epochs=4, verbose=0, validation_split=0.25, validation_freq=2
    )
    assert_same_weights(every, some)
    assert half.history["loss"] == full.history["loss"]
    assert half.history["val_loss"] == full.history["val_loss"][1::2]


def test_weighted_metrics_use_the_weights_and_metrics_do_not(task):
    model, net = task.pair(weighted_metrics=["accuracy"])
    model.fit(task.x, task.given_y, verbose=0)
    net.load_state_dict(model.state_dict())
    logs = model.evaluate(
        task.x, task.given_y, verbose=0, sample_weight=SAMPLE_WEIGHTS, return_dict=True
    )
    net.eval()
    hit = torch.stack([task.hits(net(x), y) for x, y in cut(1, task.x, task.y)]).double()
    w = SAMPLE_WEIGHTS.double()
    assert list(logs) == ["loss", "accuracy", "weighted_accuracy"]
    assert logs["accuracy"] == pytest.approx(hit.mean().item(), rel=1e-12)
    assert logs["weighted_accuracy"] == pytest.approx(((hit * w).sum() / w.sum()).item(), rel=1e-12)


def test_train_on_batch_is_one_plain_step(task):
    model, net = task.pair(accumulate=2, clip_norm=0.5)

    def ours():
        return [model.train_on_batch(x, y)[0] for x, y in cut(BATCH, task.x, task.y)]

    def plain():
        optimizer = plain_sgd(net)
        return [
            plain_fit(
                net, lambda _, b=batch: [b], task.plain_loss, optimizer, 1, clip_norm=0.5,
                accumulate=2,
            )["loss"][0]
            for batch in cut(BATCH, task.x, task.y, None)
        ]  # fmt: skip

    losses, expected = run_both(ours, plain)
    assert_same_weights(model, net)
    assert losses == pytest.approx(expected, rel=1e-12, abs=0)


def test_any_module_of_torch_is_trained_as_it_is():
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).to(memory_format=torch.channels_last)
    model = dl.Model(copy.deepcopy(net))
    model.compile(torch.optim.Adam, nn.CrossEntropyLoss(), metrics=["accuracy"], device="cpu")
    x = TASKS["cnn"].x
    history, expected = run_both(
        lambda: model.fit(x, LABELS, BATCH, 3, 0),
        lambda: plain_fit(
            net, batches_of(x, LABELS), F.cross_entropy, torch.optim.Adam(net.parameters()), 3,
            hits=most_likely,
        ),
    )  # fmt: skip
    assert_same_weights(model, net)
    assert_same_history(history, expected)
