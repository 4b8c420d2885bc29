"""One step: forward, loss, backward, and the library's only ``optimizer.step()``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from easydl.data.convert import rows_of
from easydl.training import fused
from easydl.training.products import fast_products

if TYPE_CHECKING:
    from easydl.model import Model
    from easydl.training.compiled import Compiled
    from easydl.training.heads import Head


class NotFinite(FloatingPointError):
    """The loss of a batch became nan or inf; the weights are those before that batch."""


def train_step(model: Model, x: Any, y: Any, w: Tensor | None) -> tuple[dict[str, Tensor], Any]:
    """Train on one batch; returns its losses by name and the outputs.

    With ``accumulate=k`` the weights move every k batches, by the gradient of the mean over all
    their rows: what one batch of that size would give. A loss that counts its targets otherwise
    (class weights, ignored targets, a sum) is joined by that count, if it is the only one.
    """
    state = model._compiled
    if state.waiting_batches == 0:
        for parameter in state.parameters:
            parameter.grad = None
    with state.autocast:
        loss, outputs, parts = state.compute_loss(model, x, y, w)
    check_finite_loss(state, loss)
    if state.accumulate > 1:
        rows = rows_counted(state.heads, x, y)
        state.waiting_rows = 1 if rows is None else state.waiting_rows + rows
        loss = loss if rows is None else loss * rows
    fused.backward(state.scaler.scale(loss))
    state.waiting_batches += 1
    if state.waiting_batches == state.accumulate:
        update_weights(model)
    return parts, outputs


def check_finite_loss(state: Compiled, loss: Tensor) -> None:
    """Stop before the weights move, where looking does not wait for the device."""
    if state.loss_is_free_to_read and state.strict and not math.isfinite(loss.item()):
        raise NotFinite(loss.item())


def rows_counted(heads: list[Head], x: Any, y: Any) -> int | Tensor | None:
    """What a batch's mean loss was divided by; ``None`` for sums."""
    if heads and all(head.sums for head in heads):
        return None
    counted = heads[0].rows_counted(y) if len(heads) == 1 else None
    return rows_of(x) if counted is None else counted


def update_weights(model: Model) -> None:
    """Clip, step, constrain, and move the schedule on."""
    state = model._compiled
    scaler, optimizer = state.scaler, state.optimizer
    if state.accumulate > 1 or state.clip_norm is not None or state.clip_value is not None:
        scaler.unscale_(optimizer)
        if state.accumulate > 1:
            rows = state.waiting_rows
            if isinstance(rows, Tensor):
                rows = rows.where(rows > 0, 1)  # only ignored targets: their gradient is 0
            for parameter in state.parameters:
                if parameter.grad is not None:
                    parameter.grad /= rows
        if state.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(state.parameters, state.clip_norm)
        if state.clip_value is not None:
            torch.nn.utils.clip_grad_value_(state.parameters, state.clip_value)
    scale = 1.0 if state.step_scheduler is None else scaler.get_scale()
    if scaler.is_enabled():
        scaler.step(optimizer)
        scaler.update()
    else:
        fused.step(optimizer)
    if state.constraints:
        with torch.no_grad():
            for parameter, constraint in state.constraints:
                if parameter.requires_grad:
                    parameter.copy_(constraint(parameter))
    if state.step_scheduler is not None and scaler.get_scale() >= scale:
        state.step_scheduler.step()  # a step skipped for float16's overflow does not count
    state.waiting_batches = state.waiting_rows = 0


def test_step_of_a_pass() -> Callable:
    """The losses by name and the outputs of one batch, without learning; for one pass.

    Its first batch tells who multiplies: asking costs 40 µs and more, by the number of layers.
    """
    products: Any = None

    def test_step(model: Model, x: Any, y: Any, w: Tensor | None) -> tuple[dict[str, Tensor], Any]:
        nonlocal products
        products = products or fast_products(model, rows_of(x))
        state = model._compiled
        with state.autocast, products:
            _, outputs, parts = state.compute_loss(model, x, y, w)
        return parts, outputs

    return test_step
