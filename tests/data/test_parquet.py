"""Parquet files train as the same rows in memory do, window by window, and errors name the row."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import easydl as dl
from easydl.data import as_source, parquet

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

COUNT, NAMES = 1003, ["a", "b", "c"]
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(COUNT, 3)).astype("float32")
Y = GENERATOR.integers(3, size=COUNT)


@pytest.fixture(autouse=True, params=[2, 8], ids=["between steps", "by a thread"])
def small_windows(monkeypatch, request):
    """Windows of 100 rows of four columns, so that there are many; read on two and more cores."""
    module = sys.modules["easydl.data.parquet"]  # the function has its name
    monkeypatch.setattr(module, "cpus", lambda: request.param)
    monkeypatch.setattr(module, "WINDOW_BYTES", 1600)
    monkeypatch.setattr(module, "CHUNK_BYTES", 1600)


@pytest.fixture(autouse=True)
def no_thread_stays():
    before = threading.enumerate()
    yield
    assert [t for t in threading.enumerate() if t not in before] == []


def written(path, rows=slice(None), group=70, x=X, **others):
    """A file of some rows in row groups of ``group``."""
    columns = {name: x[rows, i] for i, name in enumerate(NAMES)}
    pq.write_table(pa.table({**columns, "y": Y[rows], **others}), path, row_group_size=group)
    return path


def two_files(folder, group=70):
    return [
        written(folder / "1.parquet", slice(0, 400), group),
        written(folder / "2.parquet", slice(400, COUNT), group),
    ]


def compiled(**options):
    dl.seed(7)
    model = dl.Sequential([dl.Dense(4, "relu", input_dim=3), dl.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], **options)
    return model


def rows_of(source, number, **options):
    """``(batch sizes, rows)`` of an epoch, the features and the target beside each other."""
    source.batching(**{"batch_size": 32, "shuffle": True, "seed": 5, **options})
    batches = [(x, y) for x, y, _ in source.epoch(number)]
    source.close()
    rows = torch.cat([torch.cat([x, y[:, None].float()], 1) for x, y in batches])
    return [len(x) for x, _ in batches], rows.numpy()


ALL = np.concatenate([X, Y[:, None]], 1).astype("float32")


@pytest.mark.parametrize("group", [1, 7, 70, 2000])
@pytest.mark.parametrize("batch_size", [32, 300, 2000])
def test_fit_in_order_is_fit_on_the_arrays_to_the_bit(group, batch_size, tmp_path):
    if group == 1 and batch_size != 32:
        pytest.skip("slow, and the same")
    options = {"batch_size": batch_size, "shuffle": False, "epochs": 2, "verbose": 0}
    ours, theirs = compiled(), compiled()
    history = ours.fit(parquet(two_files(tmp_path, group), target="y"), **options)
    expected = theirs.fit(X, Y, **options)
    assert history.history == expected.history
    for one, other in zip(ours.get_weights(), theirs.get_weights()):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("group", [7, 70, 2000])
@pytest.mark.parametrize("merge", [False, True])
def test_each_row_comes_once_in_full_batches_in_an_order_of_seed_and_epoch(group, merge, tmp_path):
    source = as_source(parquet(two_files(tmp_path, group), target="y"))
    sizes, rows = rows_of(source, 0, batch_size=501 if merge else 32, merge_single=merge)
    assert sizes == ([501, 502] if merge else [32] * 31 + [11])
    if not merge:
        assert source.steps == 32
        np.testing.assert_array_equal(rows, rows_of(source, 0)[1])
        assert not np.array_equal(rows, rows_of(source, 1)[1])
        assert not np.array_equal(rows, rows_of(source, 0, seed=6)[1])
    ordered = [table[np.lexsort(table.T)] for table in (rows, ALL)]
    np.testing.assert_array_equal(*ordered)


def test_a_window_mixes_several_row_groups(tmp_path):
    source = as_source(parquet(two_files(tmp_path), target="y"))
    place = {row.tobytes(): i for i, row in enumerate(ALL)}
    order = np.array([place[row.tobytes()] for row in rows_of(source, 0)[1]])
    groups = np.where(order < 400, order // 70, 6 + (order - 400) // 70)
    assert min(len(set(groups[i : i + 100])) for i in range(0, 700, 100)) >= 3
    assert len(set(order[:100] // 5)) > 15  # not runs of neighbours
    assert abs(np.diff(order)).min() >= 1 and (np.diff(order) == 1).mean() < 0.1


def test_steps_of_an_epoch_go_on_through_the_file(tmp_path):
    source = as_source(parquet(two_files(tmp_path), target="y"))
    source.goes_on = True
    source.batching(32, True, 5, steps=16)
    halves = [[x for x, _, _ in source.epoch(number)] for number in range(4)]
    source.close()
    whole = as_source(source.parquet)
    for passed in range(2):
        together = torch.cat(halves[2 * passed] + halves[2 * passed + 1])
        np.testing.assert_array_equal(together, rows_of(whole, passed)[1][:, :3])
    with pytest.raises(ValueError, match=r"steps_per_epoch=33 .* make 32 steps"):
        compiled().fit(parquet(two_files(tmp_path), target="y"), steps_per_epoch=33, verbose=0)


def test_an_epoch_can_begin_amid_itself(tmp_path):
    source = as_source(parquet(two_files(tmp_path), target="y"))
    source.batching(32, True, 5)
    whole = [x for x, _, _ in source.epoch(3)]
    rest = [x for x, _, _ in source.epoch(3, 20)]
    source.close()
    np.testing.assert_array_equal(torch.cat(whole[20:]), torch.cat(rest))


def test_evaluate_predict_and_validation_are_those_of_the_arrays(tmp_path):
    paths = two_files(tmp_path)
    model = compiled()
    history = model.fit(
        parquet(paths, target="y"), validation_data=parquet(paths, target="y"), verbose=0
    ).history
    expected = model.evaluate(X, Y, verbose=0)
    assert model.evaluate(parquet(paths, target="y"), verbose=0) == pytest.approx(expected)
    assert [history["val_loss"][-1], history["val_accuracy"][-1]] == pytest.approx(expected)
    for given in (parquet(paths, columns=NAMES), parquet(paths, "y")):
        np.testing.assert_allclose(model.predict(given), model.predict(X), rtol=1e-6)
    assert history["loss"][0] > 0 and model.column_names["x"] == NAMES
    whole = np.random.default_rng(0).integers(0, 9, (100, 3))
    table = pa.table(dict(zip(NAMES, whole.T)))
    pq.write_table(table, tmp_path / "whole.parquet")
    plain = dl.Model(torch.nn.Linear(3, 1))
    given = plain.predict(parquet(tmp_path / "whole.parquet"))
    np.testing.assert_allclose(given, plain.predict(whole), rtol=1e-6)


def test_columns_are_matched_by_name(tmp_path):
    paths = two_files(tmp_path)
    model = compiled()
    model.fit(parquet(paths, target="y"), verbose=0)
    turned = parquet(paths, target="y", columns=["c", "a", "b"])
    np.testing.assert_allclose(model.predict(turned), model.predict(X), rtol=1e-6)
    with pytest.raises(ValueError, match="missing c"):
        model.predict(parquet(paths, columns=["a", "b", "y"]))


def test_several_targets_and_every_dtype(tmp_path):
    path = written(
        tmp_path / "1.parquet", x=X.astype("float64"), flag=Y > 1, small=Y.astype("uint16")
    )
    model = dl.Sequential([dl.Dense(2, input_dim=3)])
    model.compile("sgd", "mse")
    source = parquet(path, target=["flag", "small"], columns=["a", "b", "y"])
    model.fit(source, verbose=0)
    expected = np.stack([Y > 1, Y], 1).astype("float32")
    table = np.stack([X[:, 0], X[:, 1], Y], 1)
    assert model.evaluate(source, verbose=0) == pytest.approx(
        model.evaluate(table, expected, verbose=0)
    )


def test_labels_stay_whole_where_files_hold_them_signed_and_unsigned(tmp_path):
    """NumPy alone would join int64 and uint64 as float64, which is no class."""
    paths = [
        written(tmp_path / f"{dtype}.parquet", label=Y.astype(dtype))
        for dtype in ("int64", "uint64")
    ]
    stream = as_source(parquet(paths, target="label", columns=["a"])).batching(2 * len(X))
    labels = torch.cat([labels for _, labels, _ in stream.epoch(0)])
    stream.close()
    assert labels.dtype == torch.int64
    np.testing.assert_array_equal(labels, np.concatenate([Y, Y]))


def nan_at(row, column, value=np.nan):
    x = X.copy()
    x[row, column] = value
    return x


def test_what_is_no_number_is_named_with_file_row_and_column(tmp_path):
    good = written(tmp_path / "good.parquet", slice(0, 400))
    bad = tmp_path / "bad.parquet"
    for value in (np.nan, np.inf):
        paths = [good, written(bad, slice(400, COUNT), x=nan_at(733, 1, value))]
        with pytest.raises(ValueError, match=rf"bad.parquet: row 333, column 'b' holds {value}"):
            compiled().fit(parquet(paths, "y"), verbose=0)
    compiled(strict=False).evaluate(parquet(paths, "y"), verbose=0)
    paths = [good, bad]
    table = {name: X[:, i] for i, name in enumerate(NAMES)} | {"y": Y}
    pq.write_table(
        pa.table(table | {"a": [None if i == 512 else 1.0 for i in range(COUNT)]}), bad,
        row_group_size=70,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"bad.parquet: row 512, column 'a' is null"):
        compiled().fit(parquet(paths, "y"), verbose=0)
    pq.write_table(pa.table(table | {"b": ["red"] * COUNT}), bad)
    with pytest.raises(TypeError, match=r"bad.parquet: column 'b' holds string, such as 'red'"):
        parquet(paths, "y")
    pq.write_table(pa.table(table | {"y": Y + 3}), bad)
    with pytest.raises(ValueError, match=r"rows of x: y has labels from 0 to 5"):
        compiled().fit(parquet([good, bad], "y"), shuffle=False, verbose=0)


def test_what_cannot_be_read_is_refused(tmp_path):
    path = written(tmp_path / "1.parquet")
    with pytest.raises(ValueError, match=r"gives inputs only.*parquet\(path, target='a column'"):
        compiled().fit(parquet(path), verbose=0)
    (tmp_path / "text.parquet").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"text.parquet cannot be read as Parquet"):
        parquet(tmp_path / "text.parquet")
    with pytest.raises(FileNotFoundError, match=r"none\.parquet"):
        parquet(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match=r"1.parquet: unknown column 'price'"):
        parquet(path, target="price")
    with pytest.raises(ValueError, match="'y' twice"):
        parquet(path, target="y", columns=["a", "y"])
    with pytest.raises(ValueError, match="no path"):
        parquet([])
    pq.write_table(pa.table({"a": pa.array([], pa.float32())}), tmp_path / "0.parquet")
    with pytest.raises(ValueError, match="0 rows"):
        parquet(tmp_path / "0.parquet")
    with pytest.raises(ValueError, match="y was given beside a Parquet"):
        compiled().fit(parquet(path, "y"), Y)
    with pytest.raises(ValueError, match="validation_split"):
        compiled().fit(parquet(path, "y"), validation_split=0.2)


def test_the_thread_ends_where_training_or_reading_fails(tmp_path):
    paths = two_files(tmp_path)

    class Stops(dl.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3:
                raise KeyError("of the callback")

    before = threading.active_count()
    with pytest.raises(KeyError, match="of the callback") as caught:
        compiled().fit(parquet(paths, "y"), callbacks=[Stops()], verbose=0)
    assert threading.active_count() == before and caught.traceback
    given = parquet(paths, "y")
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[:100] + b"\0" * 10000 + content[10100:])
    with pytest.raises(OSError, match=r"2.parquet: row group \d+ cannot be read from its row 0"):
        compiled().fit(given, verbose=0)
    assert threading.active_count() == before


def test_reading_runs_no_operator_of_torch(tmp_path):
    # In a thread they would start a second team of OpenMP threads, which slows training four times.
    class Operators(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            views = ("aten.lift_fresh.default", "aten.detach.default")  # between NumPy and torch
            assert str(operator) in views, f"{operator} ran"
            return operator(*args, **(kwargs or {}))

    stream = as_source(parquet(two_files(tmp_path), "y")).batching(32, shuffle=True)
    stream.reorder("x", [2, 0, 1])
    with Operators():
        rows = sum(len(rows) for rows, _ in stream._windows(0))
    assert rows == COUNT


def test_stopping_early_and_fewer_steps_end_the_thread(tmp_path):
    before = threading.active_count()
    given = parquet(two_files(tmp_path), "y")
    model = compiled()
    model.fit(given, steps_per_epoch=3, verbose=0)
    model.evaluate(given, steps=3, verbose=0)
    model.predict(given, steps=3)
    assert threading.active_count() == before
