"""What a callback is: methods that ``fit``, ``evaluate`` and ``predict`` call at fixed moments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

Logs = Mapping[str, Any] | None

HOOKS = (
    "on_train_begin",
    "on_train_end",
    "on_epoch_begin",
    "on_epoch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_begin",
    "on_test_end",
    "on_test_batch_begin",
    "on_test_batch_end",
    "on_predict_begin",
    "on_predict_end",
    "on_predict_batch_begin",
    "on_predict_batch_end",
)


class Callback:
    """Base of every callback: override the hooks you need, all others cost nothing.

    Inside a hook ``self.model`` is the model in training and ``self.params`` is
    ``{"verbose", "epochs", "steps"}``. ``self.model.stop_training = True`` ends training: it is
    looked at after every batch and epoch, as in Keras, and an epoch cut short is still validated.
    ``epoch`` and ``batch`` count from 0.

    The ``logs`` of ``on_epoch_end`` are a plain dict of floats; what a callback writes into it is
    seen by the callbacks after it and kept in the history. The ``logs`` of batch hooks are
    read-only running means that wait for the device when an entry is *read*: read them a few
    times a second at most. As in Keras, ``on_batch_begin`` and ``on_batch_end`` are other names
    of ``on_train_batch_begin`` and ``on_train_batch_end``.

    Example:
        >>> class Target(Callback):
        ...     "Stop as soon as the loss is good enough."
        ...
        ...     def on_epoch_end(self, epoch, logs=None):
        ...         self.model.stop_training = logs["loss"] < 0.1
        >>> overrides(Target(), "on_epoch_end"), overrides(Target(), "on_train_batch_end")
        (True, False)
    """

    model: Any = None
    params: dict[str, Any] | None = None
    keeps: tuple[str, ...] = ()  # the attributes that tell how far it is, for checkpoints

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for moment in ("begin", "end"):
            if f"on_batch_{moment}" in vars(cls) and f"on_train_batch_{moment}" not in vars(cls):
                setattr(cls, f"on_train_batch_{moment}", vars(cls)[f"on_batch_{moment}"])

    def set_model(self, model: Any) -> None:
        """Called once by ``fit``, ``evaluate`` or ``predict`` before any hook."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called once before any hook with ``{"verbose", "epochs", "steps"}``."""
        self.params = params

    def state_dict(self) -> dict[str, Any]:
        """What it must know to go on after a crash; numbers, texts, tensors, lists, dicts."""
        return {name: getattr(self, name) for name in self.keeps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave; called after ``on_train_begin``."""
        vars(self).update(state)

    def on_train_begin(self, logs: Logs = None) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs = None) -> None:
        """After the last epoch, also when training ends by an exception."""

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Before the first batch of an epoch."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """After the batches of an epoch and its validation."""

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Before a training step."""

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """After a training step."""

    def on_test_begin(self, logs: Logs = None) -> None:
        """Before an evaluation, also the validation inside ``fit``."""

    def on_test_end(self, logs: Logs = None) -> None:
        """After an evaluation."""

    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Before a batch of an evaluation."""

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        """After a batch of an evaluation."""

    def on_predict_begin(self, logs: Logs = None) -> None:
        """Before a prediction."""

    def on_predict_end(self, logs: Logs = None) -> None:
        """After a prediction."""

    def on_predict_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Before a batch of a prediction."""

    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None:
        """After a batch of a prediction."""


class LambdaCallback(Callback):
    """A callback from functions, one keyword a hook, where a class would be too much.

    Args:
        on_epoch_end: ``f(epoch, logs)``; so are ``on_epoch_begin`` and, with ``batch``, the batch
            hooks.
        on_train_begin: ``f(logs)``; so are all other ``…_begin`` and ``…_end``.

    Raises:
        TypeError: If a hook is not callable.

    Example:
        >>> talk = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))
        >>> talk.on_epoch_end(0, {"loss": 0.5})
        0 0.5
    """

    def __init__(
        self,
        on_epoch_begin: Callable | None = None,
        on_epoch_end: Callable | None = None,
        on_train_begin: Callable | None = None,
        on_train_end: Callable | None = None,
        on_train_batch_begin: Callable | None = None,
        on_train_batch_end: Callable | None = None,
        *,
        on_test_begin: Callable | None = None,
        on_test_end: Callable | None = None,
        on_test_batch_begin: Callable | None = None,
        on_test_batch_end: Callable | None = None,
        on_predict_begin: Callable | None = None,
        on_predict_end: Callable | None = None,
        on_predict_batch_begin: Callable | None = None,
        on_predict_batch_end: Callable | None = None,
    ) -> None:
        given = locals()
        for hook in HOOKS:
            function = given[hook]
            if function is None:
                continue
            if not callable(function):
                raise TypeError(
                    f"LambdaCallback({hook}={function!r:.60}) was given; expected a function, "
                    f"for example {hook}=lambda {_arguments(hook)}: print(logs)."
                )
            setattr(self, hook, function)


def overrides(callback: Callback, hook: str) -> bool:
    """Whether ``callback`` does anything at ``hook``; the loop skips batch hooks that do not."""
    method = getattr(callback, hook)
    return getattr(method, "__func__", method) is not getattr(Callback, hook)


def get(spec: Any) -> Callback:
    """A callback from a callback, its class, or a function ``f(epoch, logs)`` for epoch ends.

    Raises:
        TypeError: For anything else, or a function that can't be called with ``(epoch, logs)``.

    Example:
        >>> get(lambda epoch, logs: print(f"epoch {epoch} is over")).on_epoch_end(3, {})
        epoch 3 is over
    """
    if isinstance(spec, Callback):
        return spec
    if inspect.isclass(spec) and issubclass(spec, Callback):
        return spec()
    if not callable(spec) or inspect.isclass(spec):
        kind = f"the class {spec.__name__}" if inspect.isclass(spec) else f"{spec!r:.60}"
        raise TypeError(
            f"callbacks=[…] has {kind} ({type(spec).__name__}); expected an "
            "easydl.callbacks.Callback such as EarlyStopping(patience=3), "
            "or a function f(epoch, logs) to call after every epoch."
        )
    try:
        inspect.signature(spec).bind(0, {})
    except ValueError:  # a builtin that doesn't tell its signature
        pass
    except TypeError:
        raise TypeError(
            f"callbacks=[…] has the function {getattr(spec, '__name__', spec)}"
            f"{inspect.signature(spec)}; expected one that takes (epoch, logs), "
            "for example lambda epoch, logs: print(logs)."
        ) from None
    return LambdaCallback(on_epoch_end=spec)


def _arguments(hook: str) -> str:
    for first in ("epoch", "batch"):
        if first in hook:
            return f"{first}, logs"
    return "logs"


def settings_of(callback: Any) -> tuple[str, dict[str, Any]]:
    """The name of its class and its plain settings, for ``model.source``."""
    goal = getattr(callback, "goal", None)
    everything = getattr(callback, "__dict__", {}) | ({} if goal is None else vars(goal))
    plain = (bool, int, float, str, type(None))
    return type(callback).__name__, {k: v for k, v in everything.items() if isinstance(v, plain)}
