"""The base class, functions as callbacks, and what every callback must keep to."""

import pytest
import torch
from torch import nn

from easydl import callbacks
from easydl.callbacks.base import HOOKS, Callback, LambdaCallback, get, overrides

CLASSES = [
    getattr(callbacks, name)
    for name in callbacks.__all__
    if isinstance(getattr(callbacks, name), type)
]


def make(kind, folder):
    """One of each class, as a user would make it."""
    arguments = {
        "BackupAndRestore": (folder / "backup",),
        "CSVLogger": (folder / "log.csv",),
        "LearningRateScheduler": (lambda epoch: 0.1,),
        "ModelCheckpoint": (folder / "{epoch}.safetensors",),
        "TensorBoard": (folder / "board",),
    }
    return kind(*arguments.get(kind.__name__, ()))


class Model(nn.Linear):
    def __init__(self):
        super().__init__(2, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        self.stop_training = False

    def save_weights(self, path):
        torch.save(self.state_dict(), path)


def a_whole_fit(callback, model, epochs=2):
    callback.set_model(model)
    callback.set_params({"verbose": 0, "epochs": epochs, "steps": None})
    callback.on_train_begin()
    for epoch in range(epochs):
        callback.on_epoch_begin(epoch)
        for batch in range(3):
            callback.on_train_batch_begin(batch)
            callback.on_train_batch_end(batch, {"loss": 0.5})
        callback.on_test_begin()
        callback.on_test_batch_begin(0)
        callback.on_test_batch_end(0, {"loss": 0.5})
        callback.on_test_end({"loss": 0.5})
        callback.on_epoch_end(epoch, {"loss": 0.5, "val_loss": 0.5 - 0.1 * epoch})
    callback.on_train_end()


@pytest.mark.parametrize("kind", CLASSES)
def test_every_callback_survives_two_fits_and_an_evaluation(kind, tmp_path):
    callback, model = make(kind, tmp_path), Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    a_whole_fit(callback, model)
    a_whole_fit(callback, model)
    callback.on_test_begin()
    callback.on_test_batch_end(0, {"loss": 0.5})
    callback.on_test_end({"loss": 0.5})
    callback.on_predict_begin()
    callback.on_predict_batch_end(0, {"outputs": None})
    callback.on_predict_end()
    assert callback.model is model
    assert callback.params["epochs"] == 2
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", CLASSES)
def test_every_callback_can_end_a_fit_that_never_began(kind, tmp_path):
    callback = make(kind, tmp_path)
    callback.set_model(Model())
    callback.on_train_end()  # the on_train_begin of another callback raised


@pytest.mark.parametrize("kind", CLASSES)
def test_every_callback_ends_well_when_an_exception_strikes_in_a_batch(kind, tmp_path):
    callback = make(kind, tmp_path)
    callback.set_model(Model())
    callback.set_params({"verbose": 1, "epochs": 2, "steps": 3})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    callback.on_train_batch_begin(0)
    callback.on_train_end({})
    a_whole_fit(callback, Model())


@pytest.mark.parametrize("kind", CLASSES)
def test_every_callback_has_the_hooks_of_keras_and_a_docstring(kind):
    for hook in HOOKS:
        assert callable(getattr(kind, hook))
    assert kind.__doc__.splitlines()[0].endswith((".", "…"))


def test_hooks_are_those_of_keras():
    keras = pytest.importorskip("keras")
    theirs = {name for name in vars(keras.callbacks.Callback) if name.startswith("on_")}
    assert theirs - set(HOOKS) == {"on_batch_begin", "on_batch_end"}
    assert set(HOOKS) <= theirs


def test_on_batch_end_is_another_name_of_on_train_batch_end():
    class Old(Callback):
        def on_batch_begin(self, batch, logs=None):
            self.begun = batch

        def on_batch_end(self, batch, logs=None):
            self.ended = batch

    old = Old()
    old.on_train_batch_begin(3)
    old.on_train_batch_end(4)
    assert (old.begun, old.ended) == (3, 4)
    assert overrides(old, "on_train_batch_end")

    class Both(Old):
        def on_batch_end(self, batch, logs=None):
            raise AssertionError("the newer name wins")

        def on_train_batch_end(self, batch, logs=None):
            self.ended = -batch

    both = Both()
    both.on_train_batch_end(4)
    assert both.ended == -4


def test_overrides_is_true_only_for_hooks_that_somebody_wrote():
    written = LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    assert [hook for hook in HOOKS if overrides(written, hook)] == ["on_train_batch_end"]
    assert not any(overrides(Callback(), hook) for hook in HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_lambda_callback_calls_the_function_of_its_hook(hook):
    calls = []
    callback = LambdaCallback(**{hook: lambda *given: calls.append(given)})
    for other in HOOKS:
        given = (7, {"loss": 1.0}) if "epoch" in other or "batch" in other else ({"loss": 1.0},)
        getattr(callback, other)(*given)
    assert len(calls) == 1
    assert calls[0][-1] == {"loss": 1.0}


def test_lambda_callback_refuses_what_is_no_function():
    with pytest.raises(TypeError) as error:
        LambdaCallback(on_epoch_end=3)
    assert str(error.value) == (
        "LambdaCallback(on_epoch_end=3) was given; expected a function, "
        "for example on_epoch_end=lambda epoch, logs: print(logs)."
    )
    with pytest.raises(TypeError, match="unexpected keyword argument 'on_epoch_ends'"):
        LambdaCallback(on_epoch_ends=print)


def test_get_takes_a_callback_a_class_and_a_function():
    callback = Callback()
    assert get(callback) is callback
    assert type(get(callbacks.TerminateOnNaN)) is callbacks.TerminateOnNaN
    seen = []
    get(lambda epoch, logs: seen.append((epoch, logs))).on_epoch_end(2, {"loss": 1.0})
    assert seen == [(2, {"loss": 1.0})]
    assert get(max).on_epoch_end(2, 3) == 3  # a builtin hides its signature


def test_get_refuses_other_things_with_what_to_write():
    with pytest.raises(TypeError) as error:
        get("early_stopping")
    assert str(error.value) == (
        "callbacks=[…] has 'early_stopping' (str); expected an easydl.callbacks.Callback such as "
        "EarlyStopping(patience=3), or a function f(epoch, logs) to call after every epoch."
    )
    with pytest.raises(TypeError, match=r"has the class dict \(type\); expected an easydl"):
        get(dict)
    with pytest.raises(TypeError) as error:
        get(lambda epoch: None)
    assert str(error.value) == (
        "callbacks=[…] has the function <lambda>(epoch); expected one that takes (epoch, logs), "
        "for example lambda epoch, logs: print(logs)."
    )
