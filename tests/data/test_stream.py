"""Datasets read by worker processes: the same bits for any count, none left, waiting told."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import random
import signal
import threading
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

import easydl as dl
from easydl.data import Stream, workers
from easydl.data.stream import reading

ROWS, BATCH = 22, 4
X = np.random.default_rng(0).normal(size=(ROWS, 5)).astype("float32")
Y = np.arange(ROWS) % 3


class Noisy(Dataset):
    """Every sample draws from the three global generators."""

    def __len__(self):
        return ROWS

    def __getitem__(self, i):
        noise = torch.rand(5) + random.random() + np.random.normal()
        return X[i] + noise.numpy(), Y[i]


class Batched(Noisy):
    def __getitems__(self, rows):
        return [self[i] for i in rows]


class Slow(Noisy):
    """Samples that take so long that workers pay."""

    def __getitem__(self, i):
        time.sleep(0.002)
        return super().__getitem__(i)


@pytest.fixture
def forced(monkeypatch):
    """Call it with how many workers the library shall choose."""

    def force(count):
        monkeypatch.setattr(workers.Reader, "_how_many", lambda self, number: count)

    return force


@pytest.fixture(autouse=True)
def nobody_left():
    yield
    assert multiprocessing.active_children() == []


def states():
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


def batches(given, passes=3, seed=5, shuffle=True, **options):
    source = Stream(given).batching(BATCH, shuffle=shuffle, seed=seed, **options)
    with reading(source, epochs=passes):
        return [[(x.clone(), y.clone()) for x, y, _ in source.epoch(n)] for n in range(passes)]


def same(one, other):
    return all(
        torch.equal(a, b)
        for one_pass, other_pass in itertools.zip_longest(one, other, fillvalue=())
        for first, second in itertools.zip_longest(one_pass, other_pass, fillvalue=(X, X))
        for a, b in zip(first, second)
    )


# -- the same for any number of workers ------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This DataLoader will create 5")
@pytest.mark.parametrize("kind", [Noisy, Batched, lambda: Subset(Noisy(), range(2, ROWS))])
def test_batches_are_the_same_to_the_bit_for_any_number_of_workers(forced, kind):
    found = []
    for count in (0, 1, 2, 5):
        forced(count)
        before = states()
        found.append(batches(kind()))
        assert states() == before  # of the training process
    assert all(same(found[0], other) for other in found[1:])
    first, second, _ = found[0]
    assert not same([first], [second])


def test_a_sample_is_a_function_of_seed_pass_and_index_alone():
    def by_label(given, **options):
        source = Stream(given).batching(**{"batch_size": 4, "shuffle": True, "seed": 5, **options})
        return {tuple(row.tolist()) for x, *_ in source.epoch(1) for row in x}

    expected = by_label(Noisy())
    torch.manual_seed(8), random.seed(8), np.random.seed(8)
    assert by_label(Noisy(), batch_size=7) == expected
    assert not by_label(Noisy(), seed=6) & expected
    assert len(expected) == ROWS


def test_every_sample_draws_other_numbers_from_each_generator():
    class Draws(Noisy):
        def __getitem__(self, i):
            return np.array([torch.rand(()).item(), np.random.rand(), random.random()], "f4"), 0

    source = Stream(Draws()).batching(BATCH, shuffle=True, seed=0)
    numbers = torch.cat([x for n in range(20) for x, *_ in source.epoch(n)])
    assert len(numbers.unique()) == numbers.numel()
    assert torch.corrcoef(numbers.T).fill_diagonal_(0).abs().max() < 0.15
    assert (numbers.mean(0) - 0.5).abs().max() < 0.05


def test_numpy_and_torch_draw_unlike_each_other():
    class Draws(Noisy):
        def __getitem__(self, i):
            random_bits = np.random.randint(2**27, dtype=np.uint32)
            return np.array([random_bits, torch.randint(2**27, ()).item()], "i8"), 0

    source = Stream(Draws()).batching(BATCH, shuffle=True, seed=0)
    numbers = torch.cat([x for x, *_ in source.epoch(0)])
    assert len(numbers.unique()) == 2 * ROWS


@pytest.mark.parametrize("shuffle", [True, False])
def test_fit_with_dropout_is_the_same_to_the_bit_for_any_number_of_workers(forced, shuffle):
    def trained(count):
        forced(count)
        dl.seed(3)
        model = dl.Sequential([dl.Dropout(0.5), dl.Dense(3, "softmax")])
        model.compile("adam", "sparse_categorical_crossentropy")
        history = model.fit(
            Noisy(), batch_size=BATCH, epochs=3, shuffle=shuffle, validation_data=Noisy(), verbose=0
        )
        seen = [model.evaluate(Noisy(), verbose=0), *model.predict(Noisy()).ravel().tolist()]
        return [*model.get_weights()[0].ravel().tolist(), *seen], history.history

    assert trained(0) == trained(2)


def test_fit_is_a_plain_loop_over_a_dataloader_of_the_same_order_to_the_bit(forced):
    class Rows(Noisy):
        def __getitem__(self, i):
            return X[i], Y[i]

    forced(2)
    dl.seed(3)
    model = dl.Sequential([dl.Dense(3, input_dim=5)])
    model.compile("sgd", torch.nn.CrossEntropyLoss())
    net = torch.nn.Linear(5, 3)
    net.load_state_dict(model.to_torch()[0].state_dict())
    torch.manual_seed(1)
    model.fit(Rows(), batch_size=BATCH, epochs=3, verbose=0)

    torch.manual_seed(1)
    seed = int(torch.randint(2**62, ()))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for epoch in range(3):
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed + epoch))
        for x, y in DataLoader(Rows(), BATCH, sampler=order.tolist()):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    for ours, theirs in zip(model.parameters(), net.parameters()):
        assert torch.equal(ours, theirs)


def test_two_evaluations_differ_where_a_dataset_is_random_and_repeat_by_the_seed():
    model = dl.Sequential([dl.Dense(1, input_dim=5)])
    model.compile("sgd", "mse")
    model.fit(Noisy(), verbose=0)
    torch_before = torch.get_rng_state()
    random.seed(4)
    first, second = model.predict(Noisy()), model.predict(Noisy())
    assert not np.array_equal(first, second)
    random.seed(4)
    assert np.array_equal(model.predict(Noisy()), first)
    assert torch.equal(torch.get_rng_state(), torch_before)


def test_a_dataset_that_draws_now_and_then_is_the_same_for_any_number_of_workers(forced):
    class Rarely(Noisy):
        def __getitem__(self, i):
            return super().__getitem__(i) if i in (5, 17) else (X[i], Y[i])

    found = []
    for count in (0, 2):
        forced(count)
        before = states()
        found.append(batches(Rarely()))
        assert states() == before
    assert same(*found)


# -- beginning amid a pass -------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 2])
def test_an_epoch_begins_at_any_batch_without_reading_those_before(forced, tmp_path, count):
    class Told(Noisy):
        def __getitem__(self, i):
            (tmp_path / str(i)).touch()
            return super().__getitem__(i)

    forced(count)
    whole = batches(Noisy(), passes=2)
    source = Stream(Told()).batching(BATCH, shuffle=True, seed=5)
    with reading(source, epochs=2):
        rest = [(x.clone(), y.clone()) for x, y, _ in source.epoch(1, start=4)]
    assert same([rest], [whole[1][4:]])
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(6))
    assert {int(path.name) for path in tmp_path.iterdir()} == set(order[16:].tolist())


def test_other_sources_leave_out_batches_by_reading_them():
    given = [(X[i : i + 4], Y[i : i + 4]) for i in range(0, ROWS, 4)]
    for make in (lambda: given, lambda: lambda: iter(given), lambda: DataLoader(Noisy(), 4)):
        first, second = Stream(make()), Stream(make())
        begun = first.epoch(0)
        assert [len(x) for x, *_ in itertools.islice(begun, 4)] == [4] * 4
        second.load_state_dict(first.state_dict())
        assert [len(x) for x, *_ in second.epoch(0, start=4)] == [4, 2]
        assert [len(x) for x, *_ in second.epoch(1)] == [4, 4, 4, 4, 4, 2]
        begun.close()


@pytest.mark.parametrize("count", [0, 2])
def test_a_last_single_row_is_merged_and_steps_end_an_epoch(forced, count):
    forced(count)
    short = Subset(Noisy(), range(9))
    sizes = [[len(x) for x, _ in one] for one in batches(short, merge_single=True)]
    assert sizes == [[4, 5]] * 3
    whole, cut = batches(Noisy()), batches(Noisy(), steps=2)
    assert same(cut, [one[:2] for one in whole])


# -- how many --------------------------------------------------------------------------------------


def chosen(given, monkeypatch, seconds, cpus=4, batch_size=4, passes=50, room=2**40):
    reader = workers.Reader(given, "x")
    reader.settle(batch_size, True, torch.device("cpu"), False, None)
    reader.samples.seconds, reader.passes, reader.row_bytes = seconds, passes, 2**20
    monkeypatch.setattr(workers, "cpus", lambda: cpus)
    usage = type("usage", (), {"free": room})
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: usage)
    return reader._how_many(0)


def test_the_count_follows_the_work_and_the_cpus(monkeypatch):
    def count(**options):
        return chosen(Noisy(), monkeypatch, **options)

    assert count(seconds=0.1) == 4
    assert count(seconds=0.1, cpus=2) == 2
    assert count(seconds=0.1, cpus=1) == 0
    assert count(seconds=0.1, cpus=64) == 6  # as many as there are batches
    assert count(seconds=1e-5) == 0  # read sooner than handed over
    assert count(seconds=0.002, passes=1) == 0  # over before the workers have started
    assert count(seconds=0.002, passes=4) == 1
    assert count(seconds=float("inf")) == 0  # nobody has looked yet
    assert count(seconds=0.1, batch_size=ROWS) == 0  # one batch
    assert count(seconds=0.1, room=2 * 3 * (3 * 4 * 2**20)) == 3


def with_file(dataset, path):
    dataset.file = open(path, "rb")  # noqa: SIM115
    return dataset


def with_own(dataset, **attributes):
    vars(dataset).update(attributes)
    return dataset


def test_a_dataset_that_processes_cannot_share_is_read_here_aloud(monkeypatch, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"1")
    inner = with_file(Noisy(), path)
    for dataset, word in (
        (inner, "cannot pickle"),
        (Subset(inner, range(ROWS)), "cannot pickle"),
        (with_own(Noisy(), transform=lambda x: inner.file), "cannot pickle"),
        (with_own(Noisy(), lock=threading.Lock()), "cannot pickle"),
        (with_own(Noisy(), own=np.random.default_rng(0)), "its own Generator"),
        (with_own(Noisy(), own=[random.Random(0)]), "its own Random"),
    ):
        with pytest.warns(UserWarning, match=rf"100 ms.*{word}.*num_workers=4") as caught:
            assert chosen(dataset, monkeypatch, seconds=0.1) == 0
        assert len(str(caught[0].message)) <= 600
    inner.file.close()
    with pytest.warns(UserWarning, match="/dev/shm has room for 1 MB"):
        assert chosen(Noisy(), monkeypatch, seconds=0.1, room=2**20) == 0
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: "spawn")
    with pytest.warns(UserWarning, match="not forked"):
        assert chosen(Noisy(), monkeypatch, seconds=0.1) == 0


def test_what_forked_processes_share_is_no_obstacle():
    class Local(Noisy):
        pass

    local = with_own(
        Local(),
        transform=lambda x: x + len(X),
        numbers=np.zeros(10**7),
        names=["a name"] * 10**6,
        tensor=torch.zeros(3),
        module=np,
        other=Noisy(),
    )
    local.itself = local
    assert workers.obstacle(local) is None


def test_too_few_processes_to_start_is_said_aloud(monkeypatch, forced):
    forced(2)
    expected = batches(Noisy())

    def full(self):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(multiprocessing.get_context("fork").Process, "start", full)
    with pytest.warns(UserWarning, match="2 could not be started.*temporarily unavailable"):
        assert same(batches(Noisy()), expected)


@pytest.mark.filterwarnings("ignore:predict was called")
def test_a_slow_dataset_gets_workers_by_itself_in_fit_evaluate_and_predict():
    class Who(Slow):
        def __getitem__(self, i):
            return super().__getitem__(i)[0] * 0 + os.getpid(), 0.0

    class Remember(torch.nn.Module):
        def forward(self, x):
            seen.update(x[:, 0].int().tolist())
            return x[:, :1] * 0

    seen: set = set()
    model = dl.Sequential([Remember(), dl.Dense(1)])
    model.compile("sgd", "mse")
    data = Subset(Who(), [i % ROWS for i in range(120)])
    for call in (model.fit, model.evaluate, model.predict):
        call(data, batch_size=BATCH, verbose=0)
        others = seen - {os.getpid() % 2**24}
        assert len(others) >= min(workers.cpus(), 2) - 1
        seen.clear()


# -- workers stay, and go --------------------------------------------------------------------------


def pids(source, number):
    return {int(x[0, 0]) for x, *_ in source.epoch(number)}


class Pid(Noisy):
    grade = 1

    def __getitem__(self, i):
        return np.array([os.getpid(), self.grade], "float64"), 0.0


def test_workers_stay_over_the_epochs_and_take_up_what_changed(forced):
    forced(2)
    data = Pid()
    source = Stream(data).batching(BATCH, shuffle=True, seed=0)
    with reading(source, epochs=4):
        first, second = pids(source, 0), pids(source, 1)
        assert first == second and len(first) == 2 and os.getpid() not in first
        data.grade = 2
        assert {float(x[0, 1]) for x, *_ in source.epoch(2)} == {2.0}
        third = pids(source, 3)
        assert len(third) == 2 and not third & first
    assert multiprocessing.active_children() == []


def interrupted(batch, logs):
    os.kill(os.getpid(), signal.SIGINT)


def failing(batch, logs):
    raise ArithmeticError("in a callback")


@pytest.mark.parametrize(
    ("hook", "kind"), [(interrupted, KeyboardInterrupt), (failing, ArithmeticError)]
)
@pytest.mark.parametrize("data", [Noisy, lambda: DataLoader(Noisy(), BATCH, num_workers=2)])
def test_no_worker_is_left_after_an_exception(forced, hook, kind, data):
    forced(2)
    model = dl.Sequential([dl.Dense(1, input_dim=5)])
    model.compile("sgd", "mse")
    with pytest.raises(kind) as caught:
        model.fit(
            data(), batch_size=BATCH, epochs=2, verbose=0,
            callbacks=[dl.callbacks.LambdaCallback(on_train_batch_end=hook)],
        )  # fmt: skip
    assert multiprocessing.active_children() == []
    del caught


class Broken(Noisy):
    def __init__(self, what, only_in=()):
        self.what, self.only_in = what, only_in

    def __getitem__(self, i):
        if i == 13 and (not self.only_in or multiprocessing.parent_process() is not None):
            self.what()
        return super().__getitem__(i)


def boom():
    raise KeyError("in the user's code")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("count", [0, 2])
def test_a_sample_that_fails_is_named_with_its_batch(forced, count):
    forced(count)
    model = dl.Sequential([dl.Dense(1, input_dim=5)])
    model.compile("sgd", "mse")
    words = r"batch 4 of epoch 1.*: sample 13: KeyError: \"in the user's code\""
    with pytest.raises(RuntimeError, match=words) as caught:
        model.fit(Broken(boom), batch_size=BATCH, shuffle=False, verbose=0)
    cause = caught.value.__cause__.__cause__
    assert isinstance(cause, KeyError) and cause.__traceback__.tb_next is not None


def test_a_sample_that_fails_in_workers_alone_is_read_here_aloud(forced):
    forced(0)
    expected = batches(Noisy())
    forced(2)
    with pytest.warns(UserWarning, match="worker processes failed.*sample 13: KeyError"):
        assert same(batches(Broken(boom, only_in="workers")), expected)


def test_a_worker_that_is_killed_is_an_error_with_the_batch(forced):
    forced(2)
    model = dl.Sequential([dl.Dense(1, input_dim=5)])
    model.compile("sgd", "mse")
    with pytest.raises(RuntimeError, match=r"(?s)batch \d.*DataLoader worker.*(killed|exited)"):
        model.fit(Broken(die, only_in="workers"), batch_size=BATCH, verbose=0)


def test_a_worker_that_is_killed_before_the_first_step_is_told_of_too(monkeypatch):
    """It reads ahead while the first batch is looked at; torch raises wherever Python is then."""
    model = dl.Sequential([dl.Dense(1, input_dim=5)])
    model.compile("sgd", "mse")
    monkeypatch.setattr("easydl.model.cut_for_a_pass", lambda *_, **__: time.sleep(30))
    loader = DataLoader(Broken(die), BATCH, num_workers=2)
    words = r"DataLoader worker .*(signal: Killed|exited unexpectedly)\. Expected worker processes"
    with pytest.raises(RuntimeError, match=words) as caught:
        model.evaluate(loader, verbose=0)
    del caught, loader
    gc.collect()  # the other worker, which torch 2.11 leaves
    for worker in multiprocessing.active_children():
        worker.terminate()
        worker.join()


def test_a_connection_that_a_dead_worker_left_is_told_as_its_death():
    class Gone:
        num_workers = 2

        def __iter__(self):
            yield X[:4], Y[:4].astype("float32")
            raise ConnectionResetError(104, "Connection reset by peer")

    model = dl.Sequential([dl.Dense(1, input_dim=5)])
    model.compile("sgd", "mse")
    with pytest.raises(RuntimeError, match=r"batch 2 of epoch 1.*Expected worker processes"):
        model.fit(Gone(), verbose=0)


@pytest.mark.parametrize("where", ["forward", "compute_loss", "metric"])
def test_a_worker_that_is_killed_is_not_taken_for_an_error_of_the_network(where):
    def die(*_, **options):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    class Model(dl.Sequential):
        forward = die if where == "forward" else dl.Sequential.forward
        compute_loss = die if where == "compute_loss" else dl.Sequential.compute_loss

    model = Model([dl.Dense(1, input_dim=5)])
    model.compile("sgd", "mse", metrics=[die] if where == "metric" else None)
    with pytest.raises(RuntimeError, match=r"DataLoader worker .*Expected worker processes"):
        model.fit(X, Y.astype("float32"), verbose=0)


# -- waiting ---------------------------------------------------------------------------------------


def waited(monkeypatch, reads, steps):
    """The share of a pass whose batches take ``reads`` and its steps ``steps`` seconds."""
    now = [0.0]
    monkeypatch.setattr("easydl.data.stream.perf_counter", lambda: now[0])

    def given():
        for seconds in reads:
            now[0] += seconds
            yield X[:4], Y[:4]

    source = Stream(given)
    for _, seconds in zip(source.epoch(0), steps):
        now[0] += seconds
    return source


def test_the_share_of_waiting_begins_with_the_first_batch(monkeypatch):
    assert waited(monkeypatch, [9, 1, 1], [2, 3, 1]).waiting == [2 / 8]
    assert waited(monkeypatch, [9, 0, 0], [2, 3, 1]).waiting == [0]
    assert waited(monkeypatch, [9], [1]).waiting == [0]


def test_fit_tells_of_waiting_where_it_is_felt(capsys):
    class Lazy(Noisy):
        def __getitem__(self, i):
            time.sleep(0.02)
            return X[i], Y[i].astype("float32")

    def loader(data):
        return DataLoader(data, BATCH)

    model = dl.Sequential([dl.Dense(1, input_dim=5)])
    model.compile("sgd", "mse")
    history = model.fit(loader(Lazy()), epochs=3, verbose=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(history.waiting) == 3 and min(history.waiting) > 0.5
    assert "waiting for data" in lines[1] and lines[1].endswith("%")
    assert "num_workers= in the DataLoader" in lines[-1]
    assert model.fit(loader(Noisy()), verbose=2).waiting[0] <= 1
    assert "waiting" not in capsys.readouterr().out
    assert model.fit(X, Y, verbose=0).waiting == []
