"""Means over batches: exact for ragged ones, whenever they are read and however many come."""

from __future__ import annotations

import copy
import json
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, roc_auc_score
from torch import nn

import easydl as dl
from easydl.callbacks.backup import StateDecoder, StateEncoder
from easydl.saving.weights import from_safetensors, to_safetensors
from easydl.training import meter


def binary_model() -> dl.Sequential:
    dl.seed(0)
    model = dl.Sequential([dl.Dense(1, "sigmoid", input_dim=3)])
    model.compile("sgd", "binary_crossentropy", metrics=["accuracy", "auc"])
    return model


X = torch.randn(333, 3, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) + torch.linspace(-1, 1, 333) > 0).long()


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64, 400])
def test_evaluate_equals_sklearn_whatever_the_batches(batch_size):
    model = binary_model()
    result = model.evaluate(X, Y, batch_size=batch_size, verbose=0, return_dict=True)
    p = model(X).detach().squeeze(1)
    assert result["loss"] == pytest.approx(nn.functional.binary_cross_entropy(p, Y.float()).item())
    assert result["accuracy"] == pytest.approx(accuracy_score(Y, p > 0.5))
    assert result["auc"] == pytest.approx(roc_auc_score(Y, p), abs=1e-3)


@pytest.mark.parametrize("together", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("every", "cached", "largest"),
    [(1, 9, 10**9), (3, 9, 10**9), (64, 9, 10), (64, 9, 0), (64, 4, 10**9), (3, 0, 10**9)],
)
def test_means_do_not_depend_on_when_they_are_brought_up_to_date(
    monkeypatch, every, cached, largest, together
):
    expected = binary_model().evaluate(X, Y, batch_size=4, verbose=0)
    monkeypatch.setattr(meter, "EVERY", every)
    monkeypatch.setattr(meter, "CACHED", cached)
    monkeypatch.setattr(meter, "LARGEST", largest)
    monkeypatch.setattr(meter, "TOGETHER", together)
    assert binary_model().evaluate(X, Y, batch_size=4, verbose=0) == pytest.approx(expected)


def test_outputs_that_are_kept_are_joined_in_order_and_without_their_graph(monkeypatch):
    monkeypatch.setattr(meter, "TOGETHER", 3)
    model = binary_model()
    model.evaluate(X, Y, verbose=0)  # settles the heads
    gathered = meter.Meter(model._compiled.heads)
    batches = [model(x) for x in X[:80].split(10)]
    for outputs, y in zip(batches, Y[:80].split(10)):
        gathered.add({"loss": outputs.sum()}, 10, outputs, y, None)
    assert [len(outputs) for outputs in gathered._outputs] == [30, 30, 10, 10]
    assert torch.equal(torch.cat(gathered._outputs), torch.cat(batches))
    assert not any(outputs.requires_grad for outputs in gathered._outputs)


@pytest.mark.parametrize("metrics", [[], ["accuracy"]])
def test_targets_that_are_kept_count_as_memory_too(monkeypatch, metrics):
    kept = []
    add = meter.Meter.add

    def counted(self, *given):
        add(self, *given)
        kept.append(len(self._targets))

    monkeypatch.setattr(meter, "LARGEST", 60)
    monkeypatch.setattr(meter.Meter, "add", counted)
    model = dl.Model(nn.Conv1d(3, 2, 1))
    model.compile("sgd", nn.CrossEntropyLoss(weight=torch.ones(2)), metrics=metrics)
    model.evaluate(torch.randn(40, 3, 10), torch.ones(40, 10).long(), batch_size=2, verbose=0)
    assert max(kept) == (0 if metrics else 2)


def test_means_do_not_depend_on_how_often_they_are_read():
    class Reads(dl.Callback):
        def on_train_batch_end(self, batch, logs=None):
            assert set(dict(logs)) == {"loss", "accuracy", "auc"}

    histories = []
    for callbacks in ([], [Reads()]):
        model = binary_model()
        dl.seed(1)
        histories.append(model.fit(X, Y, 4, 2, 0, callbacks).history)
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-12)


def test_batch_logs_are_a_mapping_that_nobody_can_write():
    seen = []

    class Looks(dl.Callback):
        def on_train_batch_end(self, batch, logs=None):
            assert isinstance(logs, Mapping) and len(logs) == 3 and "loss" in logs
            assert list(logs) == ["loss", "accuracy", "auc"]
            assert "accuracy" in repr(logs)
            with pytest.raises(TypeError):
                logs["loss"] = 0.0
            seen.append(logs["loss"])

    history = binary_model().fit(X, Y, 100, verbose=0, callbacks=[Looks()])
    assert seen[-1] == history.history["loss"][0]


def test_loop_waits_for_the_device_only_when_somebody_reads(monkeypatch):
    reads = []
    read = meter.Meter.read
    monkeypatch.setattr(meter.Meter, "read", lambda self: reads.append(1) or read(self))

    class Counts(dl.Callback):
        def on_train_batch_end(self, batch, logs=None):
            pass

    model = binary_model()
    model.fit(X, Y, 4, 2, verbose=0, callbacks=[Counts()])
    reads.clear()
    model.fit(X, Y, 4, 2, verbose=2, callbacks=[Counts()])
    assert len(reads) == 2  # once an epoch


def test_history_of_a_long_epoch_is_a_mean_in_double_precision():
    model = dl.Model(nn.Linear(1, 1))
    model.compile(dl.optimizers.SGD(0.0), lambda p, y: (0 * p).sum() + y.mean())
    y = torch.full((30_000,), 0.1)
    loss = model.evaluate(torch.zeros(30_000, 1), y, batch_size=3, verbose=0)
    assert loss == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)


# -- ignored targets -------------------------------------------------------------------------------

EVERY_METRIC = ["accuracy", "f1", "confusion_matrix", dl.metrics.TopKCategoricalAccuracy(2)]


def custom(y_pred, y_true):
    return (y_pred.argmax(-1) == y_true).float().mean()


@pytest.mark.parametrize("batch_size", [1, 4, 50])
@pytest.mark.parametrize("shape", [(), (5,), (5, 2)], ids=str)
@pytest.mark.parametrize("ignored", [-100, 255, 1])
def test_metrics_leave_ignored_targets_out(ignored, shape, batch_size):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, *shape, generator=g)
    y = torch.randint(3, (20, *shape), generator=g)
    y[4:9] = ignored  # whole batches of nothing
    y.flatten()[::5] = ignored
    w = torch.linspace(0, 1, 20)
    model = dl.Model(nn.Identity() if not shape else nn.Sequential(nn.Identity()))
    loss = nn.CrossEntropyLoss(ignore_index=ignored)
    model.compile("sgd", loss, metrics=[*EVERY_METRIC, custom], weighted_metrics=["acc"])
    result = model.evaluate(x, y, batch_size, 0, return_dict=True)
    weighted = model.evaluate(x, y, batch_size, 0, sample_weight=w, return_dict=True)
    kept = y != ignored
    predicted, true = x.argmax(1)[kept], y[kept]
    assert result["loss"] == pytest.approx(loss(x, y).item(), rel=1e-6)
    for key in ("accuracy", "custom"):
        assert result[key] == pytest.approx(accuracy_score(true, predicted))
    assert result["confusion_matrix"].tolist() == (
        confusion_matrix(true, predicted, labels=range(3)).tolist()
    )
    two = x.movedim(1, -1)[kept].topk(2).indices
    assert result["top_k_categorical_accuracy"] == pytest.approx(
        (two == true[:, None]).any(1).double().mean().item()
    )
    weights = w.reshape(20, *[1] * len(shape)).expand(y.shape)[kept]
    assert weighted["acc"] == pytest.approx(accuracy_score(true, predicted, sample_weight=weights))


def test_metrics_of_a_pass_of_only_ignored_targets_are_empty():
    model = dl.Model(nn.Identity())
    model.compile("sgd", nn.CrossEntropyLoss(ignore_index=0), metrics=["accuracy", custom])
    x, y = 9 * torch.eye(3)[[0, 0, 0, 0]], torch.zeros(4).long()
    result = model.test_on_batch(x, y, return_dict=True)
    assert result["accuracy"] == result["custom"] == 0


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.classes = dl.Dense(3, input_dim=3, kernel_regularizer=dl.regularizers.L2(0.1))
        self.number = nn.Linear(3, 1)

    def forward(self, x):
        return {"kind": self.classes(x), "size": self.number(x)}


@pytest.mark.parametrize("metrics", [None, "mae"])
def test_losses_of_several_outputs_do_not_depend_on_the_batches(metrics):
    classes = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 2.0]), ignore_index=2)
    y = {"kind": torch.arange(333) // 7 % 3, "size": Y}
    net = TwoHeads()
    outputs = net(X)
    kind = classes(outputs["kind"], y["kind"]).item()
    size = nn.functional.mse_loss(outputs["size"][:, 0], Y.float()).item()
    model = dl.Model(net)
    model.compile(
        "sgd", {"kind": classes, "size": "mse"}, loss_weights={"kind": 2.0, "size": 0.5},
        metrics={"size": metrics} if metrics else None,
    )  # fmt: skip
    expected = 2 * kind + 0.5 * size + 0.1 * net.classes.weight.square().sum().item()
    for batch_size in (5, 64, 333):
        result = model.evaluate(X, y, batch_size, 0, return_dict=True)
        assert result["kind_loss"] == pytest.approx(kind, rel=1e-5)
        assert result["size_loss"] == pytest.approx(size, rel=1e-5)
        assert result["loss"] == pytest.approx(expected, rel=1e-5)


# -- memory ----------------------------------------------------------------------------------------


def test_meter_keeps_no_graph_and_counts_every_output(monkeypatch):
    class Two(nn.Linear):
        def forward(self, x):
            return tuple(super().forward(x).split([1, 2], 1))

    model = dl.Model(Two(3, 3))
    model.compile("sgd", "mse", metrics=["mae"])
    model.fit(X, (X[:, :1], X[:, 1:]), 333, verbose=0)
    kept = meter.Meter(model._compiled.heads)
    outputs = model(X)
    kept.add({"loss": outputs[0].sum()}, 333, outputs, (X[:, :1], X[:, 1:]), None)
    assert kept._size == 333 * 6
    tensors = [*kept._outputs[0], *kept._parts[0][0].values()]
    assert not any(tensor.requires_grad for tensor in tensors)
    monkeypatch.setattr(meter, "LARGEST", 333 * 12)
    kept.add({"loss": outputs[0].sum()}, 333, outputs, (X[:, :1], X[:, 1:]), None)
    assert not kept._outputs and not kept._targets


def test_a_meter_goes_on_from_what_it_has_gathered():
    """Amid a pass, with sums, outputs that wait, and nested parts."""
    model = binary_model()
    model.evaluate(X, Y, verbose=0)  # settles the heads
    batches = list(zip(X.split(7), Y.float().reshape(-1, 1).split(7)))

    def add(gathered, some):
        for x, y in some:
            outputs = model(x).detach()
            loss = nn.functional.binary_cross_entropy(outputs, y)
            gathered.add({"loss": loss}, len(x), outputs, y, None)

    whole = meter.Meter(model._compiled.heads)
    add(whole, batches[:20])
    whole.flush()
    add(whole, batches[20:25])
    state = whole.state_dict()
    state = {key: list(v) if isinstance(v, list) else dict(v) for key, v in state.items()}
    add(whole, batches[25:])
    expected = whole.read()
    again = meter.Meter(model._compiled.heads)
    again.load_state_dict(state, torch.device("cpu"))
    assert again._size == 5 * 7 * 2
    add(again, batches[25:])
    assert again.read() == expected
    nested = ({"a": torch.ones(2), "b": [torch.ones(1), 3]}, None)
    moved = meter.on_device(nested, torch.device("meta"))
    assert moved[0]["a"].is_meta and moved[0]["b"][0].is_meta
    assert moved[0]["b"][1] == 3 and moved[1] is None


class Backwards(dl.metrics.Recall):
    """A user's own, that counts otherwise than what it inherits from."""

    def update(self, y_pred, y_true, sample_weight=None):
        super().update(y_pred, y_true.flip(0), sample_weight)


@pytest.mark.parametrize("classes", [2, 3])
def test_metrics_that_count_together_equal_each_alone(classes):
    """Precision, recall and F1 count once where they count the same, and only there."""
    kinds = [dl.metrics.Precision, dl.metrics.Recall, dl.metrics.F1Score]
    if classes == 2:
        limits = ["thresholds", "thresholds", "threshold"]
        made = [(kind, {}) for kind in kinds]
        made += [(kind, {limit: 0.3}) for kind, limit in zip(kinds, limits)]
        made += [(Backwards, {})]
    else:
        averages = ["macro", "weighted", "micro"]
        made = [(kind, {"average": average}) for average in averages for kind in kinds]
        made += [(Backwards, {"average": "macro"})]

    def measured(chosen, weighted) -> dict[str, float]:
        dl.seed(0)
        last = dl.Dense(1, "sigmoid") if classes == 2 else dl.Dense(classes, "softmax")
        model = dl.Sequential([last])
        loss = "binary_crossentropy" if classes == 2 else "sparse_categorical_crossentropy"
        metrics = [kind(**options, name=f"m{i}") for i, (kind, options) in chosen]
        model.compile("sgd", loss, **{"weighted_metrics" if weighted else "metrics": metrics})
        weight = torch.linspace(0.1, 1, 333)
        y = Y if classes == 2 else (X.sum(1) > 0).long() + (X.sum(1) > 1)
        return model.fit(X, y, 16, 2, 0, sample_weight=weight if weighted else None).history

    kept = {}
    for weighted in (False, True):
        together = measured(list(enumerate(made)), weighted)
        for number, one in enumerate(made):
            alone = measured([(number, one)], weighted)[f"m{number}"]
            np.testing.assert_array_equal(together[f"m{number}"], alone)
        kept[weighted] = together
    assert kept[True]["m0"] != kept[False]["m0"]


COMES_BACK = [
    None, True, 2, 0.5, np.float64(0.5), "text", (1, [2.0]), {"a": {1: [None]}}, np.zeros((2, 3)),
    np.array(2), np.array([True]), torch.zeros(3, dtype=torch.bfloat16), torch.tensor(2),
    torch.zeros(4, 4)[::2, 1:].T,
]  # fmt: skip
LOST = [
    np.float32(0.5), np.int64(2), {3}, frozenset(), deque([1]), Counter("ab"), {("a", 1): 2},
    defaultdict(int), [{1}], {"a": deque()}, object(), np.array(["a"]), np.array([None]),
    np.zeros(2, ">f4"), np.zeros(2, np.longdouble), np.zeros(2).view(np.recarray), b"bytes",
    torch.zeros(2, dtype=torch.cfloat), torch.zeros(2).to_sparse(), nn.Parameter(torch.zeros(2)),
    torch.zeros(2, device="meta"), dl.metrics.AUC(), Fraction(1, 2),
]  # fmt: skip


@pytest.mark.parametrize("value", COMES_BACK + LOST, ids=repr)
def test_a_checkpoint_gives_back_what_it_says(value):
    assert meter.comes_back(value, torch.device("cpu")) == any(value is kept for kept in COMES_BACK)
    if meter.comes_back(value, torch.device("cpu")):
        tensors = {}
        text = json.dumps(StateEncoder(tensors).encode(value, ""))
        tensors = from_safetensors(to_safetensors(tensors), "")
        again = StateDecoder(tensors).decode(json.loads(text))
        assert isinstance(value, type(again)) and str(again) == str(value)


class Named(dl.Model):
    """One output each name, whose losses' parts are logged under another."""

    def __init__(self, names, parts=()):
        super().__init__()
        self.layers_of = nn.ModuleDict({name: nn.Linear(3, 1) for name in names})
        self.parts = parts

    def forward(self, x):
        outputs = {name: layer(x) for name, layer in self.layers_of.items()}
        return outputs if len(outputs) > 1 else outputs.popitem()[1]


class Parts(Named):
    def compute_loss(self, x, y, sample_weight=None):
        loss, outputs = super().compute_loss(x, y, sample_weight)
        return loss, outputs, dict.fromkeys(self.parts, loss / 2)


def called(name):
    return dl.metrics.MeanAbsoluteError(name)


TAKEN = {
    "loss": (Named("a"), [called("loss")]),
    "val_loss": (Named("a"), [called("val_loss")]),
    "val_mae": (Named("a"), ["mae", called("val_mae")]),
    "a_loss": (Named("ab"), {"a": [called("loss")]}),
    "a_b_mae": (Named(["a", "a_b"]), {"a": [called("b_mae")], "a_b": ["mae"]}),
    "val_b_loss": (Named(["val_b", "b"]), []),
    "mae": (Parts("a", ["mae"]), ["mae"]),
}


@pytest.mark.parametrize("name", TAKEN)
def test_two_logs_of_one_name_are_refused(name):
    model, metrics = TAKEN[name]
    model.compile("sgd", "mse", metrics=metrics)
    y = {key: X[:, :1] for key in model.layers_of}
    with pytest.raises(ValueError, match=f"two logs are called '{name}'.*FunctionMetric"):
        model.fit(X, y if len(y) > 1 else X[:, :1], verbose=0)


def test_a_part_of_the_loss_is_not_called_loss():
    model = Parts("a", ["loss"])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"Parts returned a part called 'loss'.*another name"):
        model.fit(X, X[:, :1], verbose=0)
    model = Parts("a", ["half"])
    model.compile("sgd", "mse", metrics=[called("val_half_error")])
    assert list(model.fit(X, X[:, :1], verbose=0).history) == ["loss", "half", "val_half_error"]


def test_metrics_and_weighted_metrics_count_apart():
    def fitted(**metrics) -> tuple[dict, list]:
        model = binary_model()
        model.compile("sgd", "binary_crossentropy", **metrics)
        weight = torch.linspace(0.1, 1, 333)
        history = model.fit(X, Y, 16, 1, 0, sample_weight=weight).history
        return history, metrics.get("metrics", [])

    precision, recall = dl.metrics.Precision, dl.metrics.Recall
    both, kept = fitted(metrics=[precision(), recall()], weighted_metrics=[recall(name="weighted")])
    assert both["recall"] == fitted(metrics=[recall()])[0]["recall"]
    assert both["weighted"] == fitted(weighted_metrics=[recall(name="weighted")])[0]["weighted"]
    assert both["weighted"] != both["recall"]
    kept[0].update(torch.zeros(9), torch.ones(9))  # by hand: nothing of the other moves
    assert kept[1].result() == both["recall"][-1]


def test_a_metric_may_write_into_what_it_is_given():
    class Clears(dl.metrics.Metric):
        def update(self, y_pred, y_true, sample_weight=None):
            y_pred.mul_(0), y_true.mul_(0)

        def result(self):
            return 0.0

    x, y = X.clone(), X.clone()
    model = dl.Model(nn.Identity())
    model.compile("sgd", "mse", metrics=[Clears()])
    model.evaluate(x, y, verbose=0)
    assert torch.equal(x, X) and torch.equal(y, X)


class Counting(dl.metrics.Metric):
    """Counts rows in an attribute of its own."""

    def __init__(self):
        super().__init__()
        self.rows, self.limit, self.seen = 0, 7, []

    def update(self, y_pred, y_true, sample_weight=None):
        self.rows += len(y_pred)

    def result(self):
        return float(self.rows)


def test_a_metric_whose_own_counter_reset_does_not_know_is_refused():
    model = binary_model()
    model.compile("sgd", "binary_crossentropy", metrics=[Counting()])
    with pytest.raises(ValueError, match=r"counting gathers in self.rows.*expected self.state"):
        model.fit(X, Y, verbose=0)
    Counting.reset = lambda self: setattr(self, "rows", 0)
    try:
        model.compile("sgd", "binary_crossentropy", metrics=[Counting()])
        assert model.fit(X, Y, epochs=2, verbose=0).history["counting"] == [333, 333]
    finally:
        del Counting.reset


UNFORGOTTEN = [
    (torch.zeros(()), lambda sums, y: sums + y.sum() + 1),
    (torch.zeros(2), lambda sums, y: sums.add_(1)),
    (np.zeros(2), lambda sums, y: sums + 1),
    (set(), lambda sums, y: sums | {len(sums)}),
    (deque(), lambda sums, y: sums.append(y) or sums),
    ([0.0, 0.0], lambda sums, y: [sums[0] + 1, sums[1]]),
    ({"rows": 0}, lambda sums, y: {"rows": sums["rows"] + 1}),
    ((0,), lambda sums, y: (sums[0] + 1,)),
    (np.int64(0), lambda sums, y: sums + 1),
    (0, lambda sums, y: sums + y.sum() + 1),
]


@pytest.mark.parametrize(("start", "add"), UNFORGOTTEN)
def test_a_metric_that_gathers_where_reset_forgets_nothing_is_refused(start, add):
    class Mine(dl.metrics.Metric):
        def update(self, y_pred, y_true, sample_weight=None):
            self.sums = add(self.sums, y_true)

        def result(self):
            return 0.0

    class Forgets(Mine):
        def reset(self):
            super().reset()
            self.sums = copy.deepcopy(start)

    model = binary_model()
    for mine in (Mine(), Forgets()):
        mine.sums, mine.told, mine.empty = copy.deepcopy(start), torch.tensor([1.0, np.nan]), np.nan
        model.compile("sgd", "binary_crossentropy", metrics=[mine])
        if type(mine) is Mine:
            with pytest.raises(ValueError, match=r"mine gathers in self.sums.*expected self.state"):
                model.fit(X, Y, verbose=0)
        else:
            model.fit(X, Y, verbose=0)


class Held:
    rows = 0


@pytest.mark.parametrize("form", [tuple, object])
def test_running_means_leave_tuples_and_objects_of_a_metric_as_they_were(form):
    class Rows(dl.metrics.Metric):
        def reset(self):
            super().reset()
            self.held, self.pair = Held(), (torch.zeros(1), 0)

        def update(self, y_pred, y_true, sample_weight=None):
            self.held.rows += len(y_pred)
            self.pair[0].add_(len(y_pred))

        def result(self):
            return self.held.rows if form is object else self.pair[0].item()

    class Looks(dl.Callback):
        def on_train_batch_end(self, batch, logs=None):
            assert logs["loss"] >= 0

    model = binary_model()
    model.compile("sgd", "binary_crossentropy", metrics=[Rows()])
    logs = model.fit(X, Y, 4, verbose=0, callbacks=[Looks()]).history
    assert logs["rows"] == [len(X)]


def writes_outputs(y_pred, y_true):
    return y_pred.sub_(y_true).abs().mean()


def writes_targets(y_pred, y_true):
    y_true -= 5
    return y_true.mean()


@pytest.mark.filterwarnings("ignore:predict was called before")
@pytest.mark.parametrize("function", [writes_outputs, writes_targets])
def test_a_metric_that_writes_into_its_rows_leaves_the_next_one_right(function):
    model = binary_model()
    model.compile("sgd", "binary_crossentropy", metrics=[function, "mae"])
    error = np.abs(model.predict(X) - Y.reshape(-1, 1).numpy()).mean()
    assert model.evaluate(X, Y, verbose=0)[2] == pytest.approx(error)


def test_a_loss_that_counts_its_targets_keeps_them_where_outputs_are_large(monkeypatch):
    monkeypatch.setattr(meter, "CACHED", 0)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))
    model = dl.Model(nn.Linear(3, 2))
    model.compile("sgd", loss, metrics=["accuracy"])
    found, accuracy = model.evaluate(X, Y, batch_size=16, verbose=0)
    outputs = model(X).detach()
    assert found == pytest.approx(loss(outputs, Y).item())
    assert accuracy == pytest.approx(accuracy_score(Y, outputs.argmax(1)))
