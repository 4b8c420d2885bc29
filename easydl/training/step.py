"""One step: forward, loss, backward, and the library's only ``optimizer.step()``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from easydl.data.convert import leaves
from easydl.training import fused

if TYPE_CHECKING:
    from easydl.model import Model


class NotFinite(FloatingPointError):
    """The loss of a batch became nan or inf; the weights are those before that batch."""


def train_step(model: Model, x: Any, y: Any, w: Tensor | None) -> tuple[dict[str, Tensor], Any]:
    """Train on one batch; returns its losses by name and the outputs.

    With ``accumulate=k`` the weights move every k batches, by the gradient of the mean over all
    their rows: what one batch of that size would give.
    """
    state = model._compiled
    if state.waiting_batches == 0:
        for parameter in state.parameters:
            parameter.grad = None
    with state.autocast:
        loss, outputs, parts = state.compute_loss(model, x, y, w)
    if state.loss_is_free_to_read and state.strict and not math.isfinite(loss.item()):
        raise NotFinite(loss.item())
    if state.accumulate > 1:
        rows = len(leaves(x)[0])
        state.waiting_rows += rows
        state.scaler.scale(loss * rows).backward()
    else:
        state.scaler.scale(loss).backward()
    state.waiting_batches += 1
    if state.waiting_batches == state.accumulate:
        update_weights(model)
    return parts, outputs


def update_weights(model: Model) -> None:
    """Clip, step, constrain, and move the schedule on."""
    state = model._compiled
    scaler, optimizer = state.scaler, state.optimizer
    if state.accumulate > 1 or state.clip_norm is not None or state.clip_value is not None:
        scaler.unscale_(optimizer)
        if state.accumulate > 1:
            for parameter in state.parameters:
                if parameter.grad is not None:
                    parameter.grad /= state.waiting_rows
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


def test_step(model: Model, x: Any, y: Any, w: Tensor | None) -> tuple[dict[str, Tensor], Any]:
    """The losses by name and the outputs of one batch, without learning."""
    state = model._compiled
    with state.autocast:
        _, outputs, parts = state.compute_loss(model, x, y, w)
    return parts, outputs
