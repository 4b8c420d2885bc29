"""THE loop: epochs, batches, validation, callbacks and history, in one function."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from easydl.callbacks import BackupAndRestore, Callback, TerminateOnNaN
from easydl.callbacks.base import overrides
from easydl.data import Arrays, Stream
from easydl.data.convert import map_tree, rows_of, versions
from easydl.training.meter import BatchLogs, Meter, set_aside, take_back
from easydl.training.step import NotFinite, test_step_of_a_pass, train_step, update_weights
from easydl.training.trainable import modes_of, restore_modes, sync_trainable

if TYPE_CHECKING:
    from easydl.model import Model


def run_epochs(
    model: Model,
    train: Arrays | Stream | None,
    validation: Arrays | Stream | None,
    callbacks: Sequence[Callback],
    epochs: int = 1,
    initial_epoch: int = 0,
    validated: Container[int] = (1,),
    backup: BackupAndRestore | None = None,
) -> dict[str, float]:
    """Train for some epochs, validating after each; or only evaluate, where ``train`` is ``None``.

    ``validated`` are the epochs, from 1, after which validation runs; ``backup``, one of the
    ``callbacks``, knows where an interrupted training goes on.

    Returns the logs of the last epoch. Whatever happens, every module is in its earlier mode
    afterwards and the callbacks' ``on_train_end`` has run.
    """
    state = model._compiled
    modes = modes_of(model)
    gathered = set_aside(state.heads) if train is None else []
    logs: dict[str, float] = {}
    position = initial_epoch, 0
    try:
        if train is not None:
            for callback in callbacks:
                callback.on_train_begin({})
            if backup is not None:
                initial_epoch = epochs if model.stop_training else backup.epoch
        for epoch in range(initial_epoch, epochs):
            logs, meter = {}, Meter(state.heads, state.loss_is_free_to_read)
            passes: list[tuple[Any, str]] = []
            if train is not None:
                for callback in callbacks:
                    callback.on_epoch_begin(epoch, {})
                check_rate(state.optimizer)
                passes.append((train, "train"))
            if validation is not None and epoch + 1 in validated:
                passes.append((validation, "test"))
            sync_trainable(model)
            for source, kind in passes:
                learning = kind == "train"
                model.train(learning)
                meter.reset()
                running = BatchLogs(meter)
                batch = 0
                if backup is not None and learning:
                    batch = backup.resume(epoch, meter)
                begin, end = batch_hooks(callbacks, kind)
                if not learning:
                    for callback in callbacks:
                        callback.on_test_begin({})
                with torch.set_grad_enabled(learning):
                    batches, first = source.epoch(epoch, batch), batch
                    for x, y, w, step, count in steps_of(model, source, batches, learning):
                        position = epoch, batch
                        for hook in begin:
                            hook(batch, {})
                        if batch == first:
                            x, y, w = copy_of(x, y, w)
                        theirs = not (learning and source.shuffle)  # else the rows are copies
                        watched = state.strict and (batch == first or theirs)
                        before = versions((x, y)) if watched else None
                        parts, outputs = step(model, x, y, w)
                        if before is not None:
                            check_unchanged(before, x, y)
                        meter.add(parts, rows_of(x), outputs, y, w)
                        batch += count
                        for hook in end:
                            hook(batch - 1, running)
                        if backup is not None and learning:
                            backup.after_batch(epoch, batch, count, meter)
                        if model.stop_training and learning:
                            break
                    if learning and state.waiting_batches:
                        update_weights(model)
                results = meter.read()
                if learning:
                    logs.update(results)
                    check_finite_logs(results, state.strict)
                else:
                    prefix = "" if train is None else "val_"
                    logs.update({prefix + name: value for name, value in results.items()})
                    for callback in callbacks:
                        callback.on_test_end(results)
            if train is not None:
                if isinstance(state.epoch_scheduler, ReduceLROnPlateau):
                    state.epoch_scheduler.step(logs.get("val_loss", logs["loss"]))
                elif state.epoch_scheduler is not None:
                    state.epoch_scheduler.step()
                for callback in callbacks:
                    callback.on_epoch_end(epoch, logs)
                if backup is not None:
                    backup.after_epoch(epoch)
            if model.stop_training:
                break
        if train is not None and state.strict:
            check_finite_weights(model)
    except NotFinite as error:
        if not any(isinstance(callback, TerminateOnNaN) for callback in callbacks):
            raise FloatingPointError(
                not_finite_message(float(error.args[0]), place(*position))
            ) from None
        model.stop_training = True
    except torch.OutOfMemoryError as error:
        raise torch.OutOfMemoryError(
            f"the device ran out of memory at {place(*position)}. Write a smaller batch_size, or "
            f"accumulate=2 with half of it, or precision='bfloat16'. torch says: {error}"
        ) from None
    finally:
        if train is not None:
            state.waiting_batches = state.waiting_rows = 0
        take_back(gathered)  # a callback may have called this amid an epoch, whose sums go on
        restore_modes(modes)
        if train is not None:
            with contextlib.ExitStack() as ends:  # all of them, even where one fails
                for callback in reversed(callbacks):
                    ends.callback(callback.on_train_end, logs)
    return logs


def one_batch(model: Model, source: Arrays | Stream, learning: bool) -> dict[str, float]:
    """One step on everything in ``source``, for ``train_on_batch`` and ``test_on_batch``."""
    state = model._compiled
    modes = modes_of(model)
    gathered = set_aside(state.heads)  # a callback may have called this amid an epoch
    try:
        meter = Meter(state.heads)
        model.train(learning)
        with torch.set_grad_enabled(learning):
            x, y, w = copy_of(*next(iter(source.epoch(0))))
            step = train_step if learning else test_step_of_a_pass()
            before = versions((x, y))
            parts, outputs = step(model, x, y, w)
            if state.strict:
                check_unchanged(before, x, y)
            if learning and state.waiting_batches:
                update_weights(model)
            meter.add(parts, rows_of(x), outputs, y, w)
        return meter.read()
    finally:
        take_back(gathered)
        restore_modes(modes)


def steps_of(
    model: Model, source: Any, batches: Iterator[Any], learning: bool
) -> Iterator[tuple[Any, Any, Any, Callable, int]]:
    """``(x, y, w, step, count)``: a batch, what is done with it, and how many batches it joins."""
    state = model._compiled
    if learning and state.jit:
        from easydl.training.jit import Jit

        state.jitted = state.jitted or Jit(model)
        return state.jitted.epoch(batches, source.steps)
    step = train_step if learning else test_step_of_a_pass()
    return ((x, y, w, step, 1) for x, y, w in batches)


def batch_hooks(callbacks: Sequence[Callback], kind: str) -> tuple[list[Callable], list[Callable]]:
    """The hooks around a "train", "test" or "predict" batch that somebody wrote."""
    names = (f"on_{kind}_batch_begin", f"on_{kind}_batch_end")
    begin, end = (
        [getattr(callback, name) for callback in callbacks if overrides(callback, name)]
        for name in names
    )
    return begin, end


def copy_of(x: Any, y: Any, w: Any) -> tuple[Any, Any, Any]:
    """A batch that may be written to; targets that are the inputs stay so, as jit has them."""
    twice = y is x
    x, y, w = map_tree(torch.clone, (x, y, w))
    return x, x if twice else y, w


def check_unchanged(before: list[int], x: Any, y: Any) -> None:
    """What a step wrote into would be the user's own data where they are not shuffled."""
    if versions((x, y)) != before:
        what = "inputs" if versions(x) != before[: len(versions(x))] else "targets"
        raise ValueError(
            f"the network or the loss changes its {what} in place, and so would your data; "
            "expected it to leave them alone: begin by .clone(), or write inplace=False."
        )


def check_finite_logs(logs: dict[str, float], strict: bool) -> None:
    """On a GPU the loss is read once an epoch; this is where nan is found there."""
    loss = logs.get("loss", 0.0)
    if strict and (loss != loss or abs(loss) == float("inf")):
        raise NotFinite(loss)


def check_rate(optimizer: Any) -> None:
    """Keras's ``optimizer.learning_rate = …`` would set an attribute that torch never reads."""
    for word in {"learning_rate", "lr"} & vars(optimizer).keys():
        value = vars(optimizer).pop(word)
        raise AttributeError(
            f"optimizer.{word} = {value!r:.40} was set, which a torch optimizer does not read; "
            "expected model.learning_rate = …"
        )


def check_finite_weights(model: Model) -> None:
    """A last step of infinite gradients spoils the weights after a loss that was still fine."""
    for parameter in model.parameters():
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            raise NotFinite(float("nan"))


def place(epoch: int, batch: int) -> str:
    """Both count from 0, in words from 1."""
    return f"epoch {epoch + 1}, batch {batch + 1}"


def not_finite_message(loss: float, position: str) -> str:
    return (
        f"the loss became {loss} at {position}; expected a finite number. Training stopped there "
        "with the history kept. Write a smaller learning rate, clip_norm=1.0 in compile, or scale "
        "the inputs to about [0, 1]; compile(strict=False) trains on."
    )
