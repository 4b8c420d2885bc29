"""Batches: every source gives the same training, every row comes once, orders are repeatable."""

from __future__ import annotations

import itertools
import os
import warnings

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import easydl as dl
from easydl.data import Arrays, Stream, arrays, as_source
from easydl.data.convert import leaves

ROWS, BATCH = 22, 4
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(ROWS, 5)).astype("float32")
Y = GENERATOR.integers(3, size=ROWS)


class Rows(Dataset):
    """A map-style dataset that counts who asks it."""

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return X[index], Y[index]


class Flow(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y))


class OldSequence:
    """Keras's Sequence: batches by index, told of the epoch's end."""

    ends = 0

    def __len__(self):
        return -(-ROWS // BATCH)

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return X[rows], Y[rows]

    def on_epoch_end(self):
        self.ends += 1


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def batches():
    return [(X[i : i + BATCH], Y[i : i + BATCH]) for i in range(0, ROWS, BATCH)]


def endless():
    return itertools.cycle(batches())


def endless_generator():
    while True:
        yield from batches()


STEPS = len(batches())
FORMS = {
    "float64": lambda: {"x": X.astype("float64"), "y": Y},
    "lists": lambda: {"x": X.tolist(), "y": Y.tolist()},
    "list of rows": lambda: {"x": list(X), "y": list(Y)},
    "fortran order": lambda: {"x": np.asfortranarray(X), "y": Y.astype("int32")},
    "negative strides": lambda: {"x": X[::-1].copy()[::-1], "y": Y[::-1].copy()[::-1]},
    "read-only": lambda: {"x": read_only(X), "y": read_only(Y)},
    "frame and series": lambda: {"x": pd.DataFrame(X), "y": pd.Series(Y)},
    "frame and frame": lambda: {"x": pd.DataFrame(X), "y": pd.DataFrame({"label": Y})},
    "tensors": lambda: {"x": torch.tensor(X), "y": torch.tensor(Y)},
    "float labels": lambda: {"x": X, "y": Y.astype("float32")[:, None]},
    "one-hot": lambda: {"x": X, "y": np.eye(3)[Y]},
    "TensorDataset": lambda: {"x": TensorDataset(torch.tensor(X), torch.tensor(Y))},
    "Dataset": lambda: {"x": Rows()},
    "IterableDataset": lambda: {"x": Flow()},
    "DataLoader": lambda: {"x": DataLoader(Rows(), BATCH)},
    "DataLoader of an IterableDataset": lambda: {"x": DataLoader(Flow(), BATCH)},
    "list of batches": lambda: {"x": batches()},
    "Sequence": lambda: {"x": OldSequence()},
    "function": lambda: {"x": lambda: iter(batches())},
    "function with steps": lambda: {"x": batches_of_ten, "steps_per_epoch": STEPS},
    "endless iterator": lambda: {"x": endless(), "steps_per_epoch": STEPS},
    "endless generator": lambda: {"x": endless_generator(), "steps_per_epoch": STEPS},
    "reset loader": lambda: {"x": DataLoader(Rows(), BATCH), "steps_per_epoch": STEPS},
}


def batches_of_ten():
    return itertools.chain(batches(), batches())


def trained(**arguments):
    """Weights and history of three epochs in order."""
    dl.seed(7)
    model = dl.Sequential([dl.Dense(4, "relu", input_dim=5), dl.Dense(3, "softmax")])
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    arguments = {"batch_size": BATCH, "epochs": 3, "shuffle": False, "verbose": 0, **arguments}
    history = model.fit(**arguments)
    return model.get_weights(), history.history


@pytest.mark.parametrize("form", FORMS)
def test_fit_is_the_same_to_the_bit_from_every_source(form):
    expected, expected_history = trained(x=X, y=Y)
    weights, history = trained(**FORMS[form]())
    for ours, theirs in zip(weights, expected):
        np.testing.assert_array_equal(ours, theirs)
    assert history["accuracy"] == expected_history["accuracy"]
    assert history["loss"] == pytest.approx(expected_history["loss"], rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_evaluate_and_predict_are_the_same_from_every_source(form):
    dl.seed(7)
    model = dl.Sequential([dl.Dense(3, "softmax", input_dim=5)])
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    model.train_on_batch(X, Y)
    arguments = FORMS[form]()
    steps = arguments.pop("steps_per_epoch", None)
    result = model.evaluate(**arguments, batch_size=BATCH, steps=steps, verbose=0)
    assert result == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-6)
    predicted = model.predict(FORMS[form]()["x"], batch_size=BATCH, steps=steps)
    np.testing.assert_allclose(predicted, model.predict(X), rtol=1e-6)


SAMPLERS = {
    "shuffle": {"shuffle": True},
    "subset": {"sampler": SubsetRandomSampler(range(ROWS))},
    "weighted": {"sampler": WeightedRandomSampler(torch.ones(ROWS), ROWS, replacement=False)},
    "batches": {"batch_sampler": BatchSampler(RandomSampler(range(ROWS)), BATCH, drop_last=False)},
    "distributed": {"sampler": DistributedSampler(range(ROWS), num_replicas=1, rank=0)},
    "a sampler of batches": {
        "sampler": BatchSampler(RandomSampler(range(ROWS)), BATCH, drop_last=False)
    },
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_random_order_is_for_fit_and_evaluate_alone(name):
    size = {"batch_size": None if name == "a sampler of batches" else BATCH}
    size = {} if name == "batches" else size
    loader = DataLoader(Rows(), **SAMPLERS[name], **size)
    model = dl.Autoencoder([dl.Dense(2)], [dl.Dense(5)])
    model.compile("sgd", "mse")
    model.fit(loader, verbose=0)
    assert model.evaluate(loader, verbose=0) == pytest.approx(model.evaluate(X, X, verbose=0))
    for verb in (model.predict, model.encode):
        with pytest.raises(ValueError, match=r"Sampler, .* in order. .*shuffle=False\)"):
            verb(loader)
    model.compile("sgd", "mse", strict=False)
    found, expected = model.predict(loader), model.predict(X)
    np.testing.assert_allclose(np.sort(found, axis=0), np.sort(expected, axis=0), rtol=1e-5)


class WithoutLength(Sampler):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


class AllOfThem(BatchSampler):
    def __iter__(self):
        yield from ([row] for row in self.sampler)


class Iterable(IterableDataset):
    def __iter__(self):
        return iter(X)


def test_predict_tells_of_rows_that_a_loader_leaves_out():
    model = dl.Autoencoder([dl.Dense(2)], [dl.Dense(5)])
    model.compile("sgd", "mse")
    model.fit(X, verbose=0)
    rest = ROWS % BATCH
    with pytest.warns(UserWarning, match=f"its last {rest} of {ROWS} samples get no row") as told:
        assert len(model.predict(DataLoader(Rows(), BATCH, drop_last=True))) == ROWS - rest
    assert rest and told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(DataLoader(Rows(), 1, drop_last=True))
        for batches in (WithoutLength(range(ROWS)), AllOfThem(range(ROWS), BATCH, True)):
            given = {"sampler": batches, "batch_size": BATCH, "drop_last": True}
            if isinstance(batches, BatchSampler):
                given = {"batch_sampler": batches}
            model.predict(DataLoader(Rows(), **given))
        loader = DataLoader(Iterable(), BATCH, drop_last=True)
        assert len(model.predict(loader)) == ROWS - rest
        model.evaluate(DataLoader(Rows(), BATCH, drop_last=True), verbose=0)


def test_an_order_that_is_no_random_one_is_predicted():
    model = dl.Model(torch.nn.Linear(5, 1))
    for options in ({}, {"sampler": DistributedSampler(X, 1, 0, shuffle=False)}):
        found = model.predict(DataLoader(Rows(), BATCH, **options))
        np.testing.assert_allclose(found, model.predict(X), rtol=1e-5)


@pytest.mark.parametrize("form", ["tensors", "Dataset", "TensorDataset", "frame and series"])
def test_fit_shuffles_arrays_and_datasets_alike(form):
    expected, _ = trained(x=X, y=Y, shuffle=True)
    weights, _ = trained(**FORMS[form](), shuffle=True)
    for ours, theirs in zip(weights, expected):
        np.testing.assert_array_equal(ours, theirs)
    unshuffled, _ = trained(x=X, y=Y)
    assert not np.array_equal(unshuffled[0], expected[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_fit_is_the_same_to_the_bit_whatever_the_number_of_workers(workers):
    def shuffled(workers):
        return trained(x=DataLoader(Rows(), BATCH, shuffle=True, num_workers=workers))[0]

    for ours, theirs in zip(shuffled(workers), shuffled(0)):
        np.testing.assert_array_equal(ours, theirs)


def test_fit_changes_nothing_of_the_callers_data():
    x, y = X.astype("float64"), Y.copy()
    w = np.ones(ROWS)
    trained(x=x, y=y, sample_weight=w, shuffle=True, class_weight="balanced")
    np.testing.assert_array_equal(x, X.astype("float64"))
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(w, 1)


# -- several inputs and weights --------------------------------------------------------------------


def test_as_source_reads_a_tuple_a_dict_and_a_list_of_arrays_as_several_inputs():
    for given in ((X, X[:, :2]), [X, X[:, :2]], {"a": X, "b": X[:, :2]}):
        source = as_source(given, Y)
        assert [leaf.shape[1] for leaf in leaves(source.inputs)] == [5, 2]
        first, *_ = source.batching(4).epoch(0)
        parts = list(first[0].values()) if isinstance(given, dict) else list(first[0])
        np.testing.assert_array_equal(parts[1], X[:4, :2])


def test_as_source_reads_weights_wherever_they_come_from():
    w = np.linspace(0, 1, ROWS)
    for source in (
        as_source(X, Y, w),
        as_source(X, Y, w[:, None]),
        as_source(TensorDataset(*map(torch.tensor, (X, Y, w)))),
        as_source([(X[i : i + 4], Y[i : i + 4], w[i : i + 4]) for i in range(0, ROWS, 4)]),
    ):
        taken = torch.cat([weights for _, _, weights in source.batching(4).epoch(0)])
        assert taken.dtype == torch.float32
        np.testing.assert_allclose(taken, w, rtol=1e-6)


# -- how arrays are cut ----------------------------------------------------------------------------


def numbered(samples: int, **options) -> Arrays:
    """Rows that know their number: inputs i, targets 10 i, weights 100 i."""
    rows = torch.arange(samples, dtype=torch.float32)
    return Arrays(rows[:, None].clone(), 10 * rows, 100 * rows).batching(**options)


def cut(source: Arrays, epoch: int = 0) -> list[list[int]]:
    """The row numbers of each batch, after checking that the columns agree."""
    result = []
    for x, y, w in source.epoch(epoch):
        assert torch.equal(10 * x[:, 0], y) and torch.equal(100 * x[:, 0], w)
        result.append(x[:, 0].int().tolist())
    return result


def joined(lists: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(lists))


@pytest.mark.parametrize(
    ("samples", "batch_size", "merge", "expected"),
    [
        (6, 3, False, [3, 3]),
        (7, 3, False, [3, 3, 1]),
        (7, 3, True, [3, 4]),
        (8, 3, True, [3, 3, 2]),
        (3, 1, False, [1, 1, 1]),
        (1, 3, True, [1]),
        (2, 5, True, [2]),
        (5, 2**31, False, [5]),
    ],
)
def test_arrays_are_cut_into_batches(samples, batch_size, merge, expected):
    source = numbered(samples, batch_size=batch_size, merge_single=merge)
    assert [len(rows) for rows in cut(source)] == expected
    assert source.steps == len(expected)
    assert joined(cut(source)) == list(range(samples))


def test_arrays_order_is_a_function_of_seed_and_epoch_alone():
    source = numbered(30, batch_size=4, shuffle=True, seed=3)
    first, second = cut(source, 0), cut(source, 1)
    torch.manual_seed(99)
    assert cut(source, 0) == first != second
    assert cut(numbered(30, batch_size=4, shuffle=True, seed=3), 1) == second
    assert cut(numbered(30, batch_size=4, shuffle=True, seed=4), 0) != first
    assert sorted(joined(first)) == sorted(joined(second)) == list(range(30))
    assert cut(numbered(30, batch_size=7, shuffle=True, seed=3), 0)[0] == joined(first)[:7]


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("samples", [12, 13, 21, 22, 25])
def test_arrays_are_cut_alike_whatever_is_gathered_at_once(monkeypatch, samples, shuffle, merge):
    options = {"batch_size": 4, "shuffle": shuffle, "seed": 1, "merge_single": merge}
    expected = cut(numbered(samples, **options))
    for size in (1, 12 * 4, 12 * 8, 12 * 12 + 1):  # a row is 12 bytes: 1, 1, 2 and 3 batches
        monkeypatch.setattr(arrays, "CHUNK_BYTES", size)
        assert cut(numbered(samples, **options)) == expected


def test_arrays_end_after_the_steps_asked_for():
    source = numbered(20, batch_size=4, steps=2)
    assert cut(source) == cut(source, 1) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert source.steps == 2


def test_arrays_in_training_take_up_a_new_order_amid_an_epoch():
    whole = numbered(11, batch_size=4, shuffle=True, seed=3)
    source = numbered(11, batch_size=4, shuffle=True, seed=3, steps=2)
    source.goes_on = True
    taken = [rows for epoch in range(3) for rows in cut(source, epoch)]
    assert taken == cut(whole, 0) + cut(whole, 1)


def rows_of_fit(library, *data, **options):
    """The first number of each row that the network saw, batch by batch: in training, beside it."""
    seen: dict[bool, list] = {True: [], False: []}

    def look(x, training):
        seen[training].append([int(number) for number in x[:, 0]])
        return x

    class Look(keras.layers.Layer):
        def call(self, x, training=False):
            return look(x, bool(training))

    class Watch(torch.nn.Module):
        def forward(self, x):
            return look(x, self.training)

    layers = [Look()] if library is keras else [Watch()]
    model = library.Sequential([*layers, (library if library is dl else keras.layers).Dense(1)])
    model.compile("sgd", "mse", **({"run_eagerly": True} if library is keras else {}))
    model.build((None, 1))
    seen[True].clear(), seen[False].clear()
    model.fit(*data, shuffle=False, verbose=0, **options)
    return seen[True], seen[False][-options["epochs"] :]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("form", ["arrays", "Dataset", "loader", "list", "function", "Sequence"])
@pytest.mark.parametrize(
    ("rows", "batch_size", "steps", "epochs"),
    [(12, 3, 2, 3), (12, 3, 4, 2), (10, 3, 3, 3), (10, 4, 2, 4), (10, 4, 3, 2)],
)
def test_fit_goes_on_where_steps_per_epoch_ended_as_keras_does(
    form, rows, batch_size, steps, epochs
):
    x, y = np.arange(rows, dtype="float32")[:, None], np.zeros((rows, 1), "float32")
    held_out = {"validation_data": (x + 100, y), "validation_steps": 1}
    options = {"epochs": epochs, "steps_per_epoch": steps, "validation_batch_size": 2, **held_out}
    theirs, theirs_held_out = rows_of_fit(keras, x, y, batch_size=batch_size, **options)

    pairs = [(x[i : i + batch_size], y[i : i + batch_size]) for i in range(0, rows, batch_size)]
    sequence = type("Sequence", (OldSequence,), {
        "__len__": lambda self: len(pairs), "__getitem__": lambda self, index: pairs[index],
    })  # fmt: skip
    single = TensorDataset(torch.tensor(x), torch.tensor(y))
    data = {
        "arrays": (x, y),
        "Dataset": (torch.utils.data.Subset(single, range(rows)),),
        "loader": (DataLoader(single, batch_size),),
        "list": (pairs,),
        "function": (lambda: iter(pairs),),
        "Sequence": (sequence(),),
    }[form]
    ours, ours_held_out = rows_of_fit(dl, *data, batch_size=batch_size, **options)
    assert len(ours) == epochs * steps
    assert ours[: len(theirs)] == theirs  # Keras cuts an epoch short where the rows ran out
    assert ours == list(itertools.islice(itertools.cycle(theirs[: len(pairs)]), len(ours)))
    assert ours_held_out == theirs_held_out == epochs * [[100, 101]]


def test_arrays_split_shares_memory_where_the_rows_are_a_range():
    source = numbered(10)
    train, held_out = source.split(slice(0, 7), slice(7, 10))
    assert train.inputs.data_ptr() == source.inputs.data_ptr()
    assert cut(held_out) == [[7, 8, 9]]


# -- streams ---------------------------------------------------------------------------------------


def taken(source: Stream, epoch: int = 0) -> list[int]:
    return [len(x) for x, _, _ in source.epoch(epoch)]


def test_stream_peek_loses_no_batch():
    for given in (batches(), iter(batches()), DataLoader(Rows(), BATCH), Rows(), lambda: batches()):
        source = Stream(given)
        x, y, _ = source.peek()
        np.testing.assert_array_equal(x, X[:2])
        np.testing.assert_array_equal(y, Y[:2])
        source.peek()
        assert taken(source.batching(BATCH)) == [4, 4, 4, 4, 4, 2]


def test_stream_knows_its_steps_when_its_length_is_known():
    assert Stream(DataLoader(Rows(), 5)).steps == 5
    assert Stream(Rows()).batching(BATCH).steps == 6
    assert Stream(batches()).steps == 6
    assert Stream(iter(batches())).steps is None
    assert Stream(iter(batches())).batching(steps=3).steps == 3
    assert Stream(Flow()).batching(BATCH).steps is None


def test_stream_goes_on_in_a_generator_where_the_last_epoch_ended():
    numbers = ((np.full((2, 1), i, "float32"), np.zeros(2)) for i in itertools.count())
    source = Stream(numbers)
    source.peek()
    source.batching(steps=3)
    first = [int(x[0]) for x, _, _ in source.epoch(0)]
    second = [int(x[0]) for x, _, _ in source.epoch(1)]
    assert (first, second) == ([0, 1, 2], [3, 4, 5])


@pytest.mark.parametrize("goes_on", [False, True])
def test_stream_goes_on_in_a_loader_in_training_alone(goes_on):
    source = Stream(DataLoader(Rows(), BATCH))
    source.goes_on = goes_on
    source.peek()
    source.batching(steps=4)
    taken = [x for epoch in range(3) for x, _, _ in source.epoch(epoch)]
    found = np.concatenate([x[:1] for x in taken])
    order = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5] if goes_on else [0, 1, 2, 3] * 3
    np.testing.assert_array_equal(found, X[::BATCH][order])


def test_stream_whose_pass_is_shorter_than_an_epoch_says_so_in_the_first():
    source = Stream(DataLoader(Rows(), BATCH))
    source.goes_on, source.steps_name = True, "steps_per_epoch"
    with pytest.raises(ValueError, match=r"after 6 batches in epoch 1.*Write steps_per_epoch=6"):
        taken(source.batching(steps=7))


def test_stream_merges_a_last_single_row_into_the_batch_before():
    rows = [5, 5, 1]
    source = Stream([(np.ones((n, 2)), np.ones(n)) for n in rows])
    assert taken(source.batching(merge_single=True)) == [5, 6]
    assert taken(source.batching(merge_single=False)) == [5, 5, 1]


def test_stream_merges_a_last_single_row_once_when_a_generator_goes_on():
    numbers = itertools.cycle([(np.full((n, 2), n, "float32"), np.ones(n)) for n in (3, 4, 1)])
    source = Stream(numbers).batching(merge_single=True, steps=2)
    assert [taken(source, epoch) for epoch in range(3)] == [[3, 5], [3, 5], [3, 5]]


def test_fit_with_batchnorm_merges_the_last_row_of_a_loader():
    rows = TensorDataset(torch.randn(9, 3), torch.randn(9, 1))
    model = dl.Sequential([dl.BatchNormalization(input_shape=(3,)), dl.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(DataLoader(rows, 4), epochs=2, verbose=0)
    assert model.evaluate(DataLoader(rows, 4), verbose=0) == pytest.approx(
        model.evaluate(*rows.tensors, verbose=0)
    )


def test_stream_tells_a_sequence_of_each_epochs_end():
    source = Stream(given := OldSequence())
    source.peek()
    assert [len(taken(source, epoch)) for epoch in range(3)] == [6, 6, 6]
    assert given.ends == 3


def test_stream_shuffles_a_dataset_by_seed_and_epoch():
    def order(seed, epoch):
        source = Stream(Rows()).batching(BATCH, shuffle=True, seed=seed)
        return torch.cat([x for x, _, _ in source.epoch(epoch)])[:, 0].tolist()

    assert order(0, 0) == order(0, 0) != order(0, 1)
    assert sorted(order(0, 0)) == sorted(X[:, 0].tolist())


def test_stream_takes_a_batch_of_inputs_alone():
    for given in ([(X[:4],), (X[4:],)], (part for part in (X[:4], X[4:]))):
        source = Stream(given)
        assert [(len(x), y, w) for x, y, w in source.epoch(0)] == [
            (4, None, None),
            (18, None, None),
        ]


def test_stream_says_that_a_generator_ran_out():
    source = Stream(iter(batches()))
    taken(source)
    with pytest.raises(ValueError, match=r"no batch in epoch 2.*runs only once.*function"):
        taken(source, 1)


def test_stream_says_that_a_generator_ended_early():
    source = Stream(iter(batches())).batching(steps=8)
    with pytest.raises(ValueError, match="ended after 6 batches in epoch 1; expected 8"):
        taken(source)


def test_stream_may_fill_one_buffer_again_and_again():
    x, y = torch.randn(12, 3).numpy(), torch.randn(12, 1).numpy()

    def refilled():
        buffer = np.empty((4, 3), "float32")
        for start in range(0, 12, 4):
            buffer[:] = x[start : start + 4]
            yield buffer, y[start : start + 4]

    losses = []
    for data in (refilled(), [(x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)]):
        dl.seed(0)
        model = dl.Sequential([dl.Dense(1)])
        model.compile("sgd", "mse")
        losses.append(model.fit(data, steps_per_epoch=3, verbose=0).history["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("rows", [50, 500_000])  # in one piece of 8 MB, and in two
def test_a_pass_begun_amid_it_lays_its_batches_where_they_would_lie(rows):
    x = torch.arange(rows * 5.0).reshape(-1, 5)
    source = Arrays(x, None, None).batching(3, shuffle=True, seed=1)
    start = rows // 3 - 7
    whole = [x for x, _, _ in source.epoch(0)][start:]
    rest = [x for x, _, _ in source.epoch(0, start)]
    assert len(rest) == len(whole) >= 7 and all(map(torch.equal, rest, whole))
    # Matrix products round otherwise where a batch begins elsewhere in a line of the cache.
    assert [x.data_ptr() % 64 for x in rest] == [x.data_ptr() % 64 for x in whole]
    assert len({x.data_ptr() % 64 for x in rest}) > 1


def test_several_tables_without_targets_must_have_the_same_row_labels():
    first = pd.DataFrame({"a": [1.0, 2.0, 3.0]})
    second = pd.DataFrame({"b": [1.0, 2.0, 3.0]}, index=[2, 1, 0])
    for tables in ((first, second), {"one": first, "two": second}):
        with pytest.raises(ValueError, match="different row labels: row 0"):
            as_source(tables)
