"""The loop: the order of hooks is Keras's, means are exact, and an exception leaves no mess."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import easydl as dl
from easydl.callbacks import progress
from easydl.callbacks.base import HOOKS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

X = np.linspace(-1, 1, 24, dtype="float32").reshape(8, 3)
Y = X.sum(1, keepdims=True)


def recorder(base: type, stop_at: tuple = ()):
    """A callback of Keras or easydl that writes down every hook with its number and log names.

    ``stop_at`` is the hook and number where it sets ``stop_training``.
    """

    class Recorder(base):
        def __init__(self):
            super().__init__()
            self.calls = []

    def record(hook):
        def numbered(self, number, logs=None):
            self.calls.append((hook, number, *sorted(logs or {})))
            if (hook, number) == stop_at:
                self.model.stop_training = True

        def plain(self, logs=None):
            self.calls.append((hook, *sorted(logs or {})))

        return numbered if "epoch" in hook or "batch" in hook else plain

    for hook in HOOKS:
        setattr(Recorder, hook, record(hook))
    return Recorder()


def keras_model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    return model


def easydl_model(**options):
    model = dl.Sequential([dl.Dense(1, input_dim=3)])
    model.compile("sgd", "mse", metrics=["mae"], **options)
    return model


def one_epoch(epoch: int, batches: int, validated: bool) -> list[tuple]:
    """The hooks of an epoch, written out."""
    names = ["loss", "mae"]
    calls = [("on_epoch_begin", epoch)]
    for batch in range(batches):
        calls += [("on_train_batch_begin", batch), ("on_train_batch_end", batch, *names)]
    if validated:
        calls += [
            ("on_test_begin",),
            ("on_test_batch_begin", 0),
            ("on_test_batch_end", 0, *names),
            ("on_test_end", *names),
        ]
        names = [*names, "val_loss", "val_mae"]
    return [*calls, ("on_epoch_end", epoch, *names)]


# -- order of hooks -------------------------------------------------------------------------------


def test_hooks_of_fit_come_in_the_order_written_here():
    hooks = recorder(dl.Callback)
    easydl_model().fit(X, Y, 4, 2, verbose=0, validation_data=(X, Y), callbacks=hooks)
    assert hooks.calls == [
        ("on_train_begin",),
        ("on_epoch_begin", 0),
        ("on_train_batch_begin", 0),
        ("on_train_batch_end", 0, "loss", "mae"),
        ("on_train_batch_begin", 1),
        ("on_train_batch_end", 1, "loss", "mae"),
        ("on_test_begin",),
        ("on_test_batch_begin", 0),
        ("on_test_batch_end", 0, "loss", "mae"),
        ("on_test_end", "loss", "mae"),
        ("on_epoch_end", 0, "loss", "mae", "val_loss", "val_mae"),
        ("on_epoch_begin", 1),
        ("on_train_batch_begin", 0),
        ("on_train_batch_end", 0, "loss", "mae"),
        ("on_train_batch_begin", 1),
        ("on_train_batch_end", 1, "loss", "mae"),
        ("on_test_begin",),
        ("on_test_batch_begin", 0),
        ("on_test_batch_end", 0, "loss", "mae"),
        ("on_test_end", "loss", "mae"),
        ("on_epoch_end", 1, "loss", "mae", "val_loss", "val_mae"),
        ("on_train_end", "loss", "mae", "val_loss", "val_mae"),
    ]


@pytest.mark.parametrize(
    ("arguments", "stop_at"),
    [
        ({"epochs": 2, "validation_data": (X, Y), "validation_batch_size": 4}, ()),
        ({"epochs": 3, "initial_epoch": 1}, ()),
        ({"epochs": 1, "initial_epoch": 1}, ()),
        ({"epochs": 5, "validation_split": 0.5, "validation_freq": 2}, ()),
        ({"epochs": 2, "steps_per_epoch": 1}, ()),
        ({"epochs": 5, "validation_split": 0.5}, ("on_epoch_end", 1)),
        ({"epochs": 5, "validation_split": 0.25}, ("on_train_batch_end", 0)),
        ({"epochs": 5, "validation_split": 0.25}, ("on_epoch_begin", 1)),
        ({"epochs": 2, "batch_size": 3}, ()),
    ],
    ids=lambda value: " ".join(map(str, value)) if value else "",
)
def test_hooks_of_fit_come_in_keras_order(arguments, stop_at):
    theirs, ours = recorder(keras.callbacks.Callback, stop_at), recorder(dl.Callback, stop_at)
    arguments = {"batch_size": 4, "verbose": 0, **arguments}
    keras_history = keras_model().fit(X, Y, callbacks=[theirs], **arguments)
    history = easydl_model().fit(X, Y, callbacks=[ours], **arguments)
    assert ours.calls == theirs.calls
    assert history.epoch == keras_history.epoch
    assert {k: len(v) for k, v in history.history.items()} == {
        k: len(v) for k, v in keras_history.history.items()
    }
    assert history.params == keras_history.params == theirs.params == ours.params


def test_hooks_of_evaluate_come_in_keras_order():
    theirs, ours = recorder(keras.callbacks.Callback), recorder(dl.Callback)
    keras_model().evaluate(X, Y, batch_size=3, verbose=0, callbacks=[theirs])
    easydl_model().evaluate(X, Y, batch_size=3, verbose=0, callbacks=[ours])
    assert ours.calls == theirs.calls


def test_hooks_of_predict_come_in_keras_order():
    theirs, ours = recorder(keras.callbacks.Callback), recorder(dl.Callback)
    keras_model().predict(X, batch_size=3, verbose=0, callbacks=[theirs])
    model = easydl_model()
    model.train_on_batch(X, Y)
    model.predict(X, batch_size=3, callbacks=[ours])
    assert ours.calls == theirs.calls


def test_hooks_come_in_the_order_of_the_callbacks_after_history():
    seen = []

    class Named(dl.Callback):
        def __init__(self, name):
            self.name = name

        def on_epoch_end(self, epoch, logs=None):
            seen.append((self.name, len(self.model.history.epoch)))

    easydl_model().fit(X, Y, verbose=0, callbacks=[Named("a"), Named("b")])
    assert seen == [("a", 1), ("b", 1)]


def test_hooks_may_add_to_the_logs_of_an_epoch_for_those_after_them():
    class Adds(dl.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["extra"] = 1.5

    after = recorder(dl.Callback)
    history = easydl_model().fit(X, Y, verbose=0, callbacks=[Adds(), after])
    assert history.history["extra"] == [1.5]
    assert after.calls[-2:] == [
        ("on_epoch_end", 0, "extra", "loss", "mae"),
        ("on_train_end", "extra", "loss", "mae"),
    ]


def test_hooks_are_given_logs_even_when_there_are_none_as_in_keras():
    seen = []

    def takes_two(hook):
        numbered = "epoch" in hook or "batch" in hook
        return (lambda self, n, logs: seen.append((hook, len(logs)))) if numbered else (
            lambda self, logs: seen.append((hook, len(logs)))
        )  # fmt: skip

    callback = type("NoDefault", (dl.Callback,), {hook: takes_two(hook) for hook in HOOKS})()
    model = easydl_model()
    model.fit(X, Y, verbose=0, callbacks=[callback], validation_data=(X, Y))
    model.predict(X, callbacks=[callback])
    assert {hook for hook, _ in seen} == set(HOOKS)
    assert {hook for hook, size in seen if size} == {h for h in HOOKS if h.endswith("end")} - {
        "on_predict_end"
    }


def test_batch_logs_are_keras_running_means():
    def watcher(base):
        class Watcher(base):
            def on_train_begin(self, logs=None):
                self.seen = []

            def on_train_batch_end(self, batch, logs=None):
                self.seen.append((logs["loss"], logs["mae"]))

        return Watcher()

    theirs, ours = watcher(keras.callbacks.Callback), watcher(dl.Callback)
    reference, model = keras_model(), easydl_model()
    model.set_weights([w.T for w in reference.get_weights()])
    reference.fit(X, Y, batch_size=3, shuffle=False, verbose=0, callbacks=[theirs])
    model.fit(X, Y, batch_size=3, shuffle=False, verbose=0, callbacks=[ours])
    np.testing.assert_allclose(ours.seen, np.asarray(theirs.seen, dtype=float), rtol=1e-5)


# -- stopping and failing --------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["on_train_batch_begin", "on_train_batch_end", "on_test_end"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_exception_in_a_callback_passes_and_leaves_the_model_usable(failing, error):
    class Fails(dl.Callback):
        pass

    def fail(self, *_):
        if len(self.model.history.epoch) == 1:
            raise error("stop")

    setattr(Fails, failing, fail)
    hooks, model = recorder(dl.Callback), easydl_model()
    model.eval()
    with pytest.raises(error, match="stop"):
        model.fit(X, Y, 4, 3, verbose=0, validation_data=(X, Y), callbacks=[Fails(), hooks])
    assert model.history.epoch == [0] and len(model.history.history["val_loss"]) == 1
    assert hooks.calls[-1][0] == "on_train_end"
    assert [call for call in hooks.calls if call[0] == "on_epoch_end"] == [
        ("on_epoch_end", 0, "loss", "mae", "val_loss", "val_mae")
    ]
    assert not any(module.training for module in model.modules())
    assert torch.is_grad_enabled()
    assert model.fit(X, Y, verbose=0).epoch == [0]


def test_exception_in_the_network_restores_every_mode():
    class Breaks(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 4:
                raise RuntimeError("out of luck")
            return super().forward(x)

    network = nn.Sequential(Breaks(3, 1), nn.Dropout(0.5).eval())
    model = dl.Model(network)
    model.compile("sgd", "mse")
    before = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError, match="out of luck"):
        model.fit(X, Y, batch_size=2, verbose=0)
    assert [module.training for module in model.modules()] == before
    with pytest.raises(RuntimeError, match="out of luck"):
        network[0].calls = 2
        model.predict(X, batch_size=2)
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_fit_leaves_the_modes_as_they_were():
    model = dl.Model(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1)))
    model.network[1].eval()
    model.compile("sgd", "mse")
    before = [module.training for module in model.modules()]
    model.fit(X, Y, verbose=0)
    model.evaluate(X, Y, verbose=0)
    model.predict(X)
    model.train_on_batch(X, Y)
    model.test_on_batch(X, Y)
    assert [module.training for module in model.modules()] == before


def test_fit_trains_in_training_mode_and_validates_in_evaluation_mode():
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            seen.append((self.training, torch.is_grad_enabled()))
            return super().forward(x)

    model = dl.Model(Watched(3, 1))
    model.compile("sgd", "mse")
    model.fit(X, Y, 4, verbose=0, validation_data=(X, Y))
    assert seen[-3:] == [(True, True), (True, True), (False, False)]
    model.predict(X)
    assert seen[-1] == (False, False)


def test_stop_training_is_forgotten_by_the_next_fit():
    model = easydl_model()
    stop = recorder(dl.Callback, ("on_epoch_end", 0))
    assert model.fit(X, Y, epochs=3, verbose=0, callbacks=[stop]).epoch == [0]
    assert model.stop_training
    assert model.fit(X, Y, epochs=3, verbose=0).epoch == [0, 1, 2]


def test_nan_loss_stops_before_the_step_and_names_epoch_and_batch():
    class Breaks(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += self.training
            y = super().forward(x)
            return y * float("nan") if self.calls == 4 else y

    model = dl.Model(Breaks(3, 1))
    model.compile("sgd", "mse")
    weights = []
    keep = dl.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: weights.append(model.network.weight.tolist())
    )
    with pytest.raises(FloatingPointError, match=r"nan at epoch 2, batch 2.*learning rate"):
        model.fit(X, Y, 4, 3, verbose=0, callbacks=[keep])
    assert model.history.epoch == [0]
    assert model.network.weight.tolist() == weights[-1]
    assert model.fit(X, Y, verbose=0).epoch == [0]


def test_nan_loss_trains_on_when_not_strict():
    model = dl.Model(nn.Linear(3, 1))
    model.compile("sgd", lambda p, y: ((p - y) ** 2).mean() * float("nan"), strict=False)
    assert np.isnan(model.fit(X, Y, epochs=2, verbose=0).history["loss"]).tolist() == [True, True]


class Halves(nn.Linear):
    def forward(self, x):
        return super().forward(x.mul_(0.5) if self.training else x)


def halving(y_pred, y_true):
    y_true /= 2
    return ((y_pred - y_true) ** 2).mean()


@pytest.mark.parametrize("options", [{"shuffle": False}, {}], ids=["as they lie", "shuffled"])
@pytest.mark.parametrize(("layer", "loss"), [(Halves(3, 1), "mse"), (nn.Linear(3, 1), halving)])
def test_what_writes_into_the_data_is_refused_and_they_stay(layer, loss, options):
    x, y = torch.randn(12, 3), torch.randn(12, 1)
    kept, words = (x.clone(), y.clone()), r"changes its (inputs|targets) in place.*\.clone\(\)"
    model = dl.Model(layer)
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match=words):
        model.fit(x, y, 4, verbose=0, **options)
    if loss is halving:
        with pytest.raises(ValueError, match=words):
            model.evaluate(x, y, verbose=0)
    assert torch.equal(x, kept[0]) and torch.equal(y, kept[1])


@pytest.mark.parametrize("verb", ["fit", "evaluate"])
def test_a_write_into_a_later_batch_of_the_users_own_rows_is_refused(verb):
    class Late(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x.add_(1.0) if self.calls == 4 else x)

    x, y, network = torch.zeros(12, 3), torch.randn(12, 1), Late(3, 1)
    model = dl.Model(network)
    model.compile("sgd", "mse")
    model.evaluate(x, y, verbose=0)  # the model is known
    network.calls = 1
    options = {"shuffle": False} if verb == "fit" else {}
    with pytest.raises(ValueError, match=r"changes its inputs in place.*\.clone\(\)"):
        getattr(model, verb)(x, y, 4, verbose=0, **options)
    network.calls = 1
    model.fit(x, y, 4, verbose=0)  # shuffled rows are copies


def test_tensors_of_inference_mode_are_data_like_any_other():
    with torch.inference_mode():
        x, y = torch.randn(12, 3), torch.randn(12, 1)
    model = dl.Model(nn.Linear(3, 1))
    model.compile("sgd", "mse")
    assert len(model.fit(x, y, verbose=0).history["loss"]) == 1


def test_evaluating_amid_an_epoch_leaves_the_sums_of_the_epoch_alone():
    x, y = torch.randn(12, 4), torch.arange(12) % 3

    class Evaluates(dl.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.evaluate(x[:5], y[:5], verbose=0)

    histories = []
    for callbacks in ([], [Evaluates()]):
        dl.seed(0)
        model = dl.Sequential([dl.Dense(3, activation="softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy", "f1_score"])
        histories.append(model.fit(x, y, 4, 2, verbose=0, callbacks=callbacks).history)
    assert str(histories[0]) == str(histories[1])


@pytest.mark.parametrize("kept_back", [1, 131_072])
def test_another_model_with_the_same_metric_evaluates_amid_an_epoch(kept_back, monkeypatch):
    monkeypatch.setattr("easydl.training.meter.CACHED", kept_back)
    metric = dl.metrics.ConfusionMatrix(2)
    x, y = torch.randn(12, 2), torch.arange(12) % 2

    def network():
        model = dl.Sequential([dl.Dense(2, "softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=[metric])
        return model

    class Evaluates(dl.Callback):
        def on_train_batch_end(self, batch, logs=None):
            assert network().evaluate(x[:3], y[:3], verbose=0)[1].sum() == 3

    logs = network().fit(x, y, 4, verbose=0, callbacks=[Evaluates()]).history
    assert logs["confusion_matrix"][0].sum() == metric.result().sum() == 12


def test_compile_while_fit_runs_is_refused():
    class Compiles(dl.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.compile("adam", "mse")

    model = dl.Model(torch.nn.Linear(4, 3))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="compile was called while fit runs"):
        model.fit(torch.randn(8, 4), torch.randn(8, 3), 2, verbose=0, callbacks=[Compiles()])


# -- waiting for the device -----------------------------------------------------------------------


class Reads(TorchDispatchMode):
    """Counts the operators that make a GPU wait: their result is a number or sets a shape."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "equal")
    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.overloadpacket.__name__
        masked = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.count += masked or name in self.WAITING
        return operator(*args, **(kwargs or {}))


def reads_in(steps: int, **options) -> int:
    """Reads in a fit as on a GPU: a ragged last batch, metrics, validation, a hook, the bar."""
    x = torch.randn(2 * steps - 1, 3)
    y = torch.arange(len(x)) % 4
    metrics = ["accuracy", dl.metrics.F1Score(average="macro")]
    model = dl.Model(nn.Linear(3, 4))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=metrics, device="cpu",
                  **options)  # fmt: skip
    model._compiled.loss_is_free_to_read = False
    hook = dl.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    with Reads() as seen:
        model.fit(x, y, 2, verbose=1, validation_data=(x, y), validation_batch_size=2,
                  callbacks=[hook])  # fmt: skip
    return seen.count


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"accumulate": 2}], ids=str)
def test_steps_do_not_wait_for_the_device(options, monkeypatch, capsys):
    monkeypatch.setattr(progress, "REDRAW_EVERY", float("inf"))
    assert 0 < reads_in(140, **options) == reads_in(280, **options)


def test_redrawing_the_bar_is_what_reads_a_running_epoch(monkeypatch, capsys):
    monkeypatch.setattr(progress, "REDRAW_EVERY", float("inf"))
    epoch_ends = reads_in(140)
    monkeypatch.setattr(progress, "REDRAW_EVERY", 0.0)
    assert reads_in(140) >= epoch_ends + 140


def test_train_on_batch_learns_and_test_on_batch_does_not():
    x, y = torch.randn(9, 4), torch.arange(9) % 3
    model = dl.Model(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)))
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = model.get_weights()[0]
    assert model.test_on_batch(x, y) == pytest.approx(model.evaluate(x, y, verbose=0))
    assert (model.get_weights()[0] == before).all()
    model.train_on_batch(x, y)
    assert (model.get_weights()[0] != before).any()
