"""Loss, metrics and learning rates as lines of the script of ``model.source``."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from easydl import losses, metrics, schedules
from easydl.export.code import construct, literal, refuse
from easydl.losses import Loss

EPS = literal(losses.EPSILON)
#: Keras's losses as expressions; ``out`` are the outputs, ``y`` the targets
EXPRESSIONS = {
    "mean_squared_error": "F.mse_loss(out, y)",
    "mean_absolute_error": "(out - y).abs().mean()",
    "mean_absolute_percentage_error": (
        f"(100 * ((y - out) / y.abs().clamp_min({EPS})).abs()).mean()"
    ),
    "mean_squared_logarithmic_error": (
        f"((out.clamp_min({EPS}).log1p() - y.clamp_min({EPS}).log1p()) ** 2).mean()"
    ),
    "huber": 'F.huber_loss(out, y, reduction="none", delta={delta}).mean()',
    "log_cosh": (
        "((out - y).abs() + F.softplus(-2 * (out - y).abs()) - 0.6931471805599453).mean()"
    ),
    "poisson": f"(out - y * (out + {EPS}).log()).mean()",
    "cosine_similarity": "-F.cosine_similarity(out, y, dim=-1).mean()",
    "hinge": "(1 - y * out).clamp_min(0).mean()",
    "squared_hinge": "((1 - y * out).clamp_min(0) ** 2).mean()",
    "categorical_hinge": ("(1 + ((1 - y) * out).amax(-1) - (y * out).sum(-1)).clamp_min(0).mean()"),
}


def loss_lines(head: Any) -> list[str]:
    """The lines that make ``loss`` of ``out`` and ``y``.

    Raises:
        ValueError: a loss of the user's own, or one that torch averages over its class weights.
    """
    loss = head.loss
    if isinstance(loss, nn.Module):
        if head.counts_by_target or getattr(loss, "reduction", "mean") == "none":
            raise refuse(
                f"{type(loss).__name__} with weights, ignored targets or without a mean",
                "expected a mean over all rows.",
            )
        return [f"loss = {construct(loss)}(out, y)"]
    kind = getattr(loss, "crossentropy", None)
    if type(loss).__module__ != Loss.__module__ or not isinstance(loss, Loss):
        raise refuse(
            f"the loss {getattr(loss, '__name__', type(loss).__name__)}, which is code of its own",
            "expected a loss by name or of torch.nn.",
        )
    smoothing = getattr(loss, "label_smoothing", 0.0)
    if kind is not None and not loss.from_logits:
        raise refuse(
            f"{loss.name} of probabilities that do not come from a last softmax or sigmoid",
            "expected a network that ends in one, or in raw scores.",
        )
    if kind == "categorical":
        option = f", label_smoothing={literal(smoothing)}" if smoothing else ""
        several = len(head.shape) > 1 and head.class_axis == -1
        if not several:
            return [f"loss = F.cross_entropy(out, y{option})"]
        target = "y.movedim(-1, 1) if y.is_floating_point() else y"
        return [
            f"target = {target}  # torch wants the classes at axis 1",
            f"loss = F.cross_entropy(out.movedim(-1, 1), target{option})",
        ]
    if kind == "binary":
        target = "y"
        if smoothing:
            target = f"y * (1 - {literal(smoothing)}) + 0.5 * {literal(smoothing)}"
        return [f"loss = F.binary_cross_entropy_with_logits(out, {target})"]
    if loss.name == "kl_divergence" and len(head.shape):
        return [
            f"p, q = y.clamp({EPS}, 1.0), out.clamp({EPS}, 1.0)",
            "loss = (p * (p / q).log()).sum(-1).mean()",
        ]
    if loss.name not in EXPRESSIONS:
        raise refuse(f"the loss {loss!r:.80}", "expected another one by name.")
    return ["loss = " + EXPRESSIONS[loss.name].format(delta=literal(loss.options.get("delta")))]


def weighted_lines(head: Any) -> list[str]:
    """The lines that make ``loss`` of ``out``, ``y`` and the rows' weights ``w``."""
    loss = head.loss
    if isinstance(loss, nn.Module):
        if getattr(loss, "reduction", None) != "mean":
            raise refuse(f"weights with {type(loss).__name__}", "expected a mean over rows.")
        single: Any = copy.copy(loss)
        single.reduction = "none"
        before, value = [], f"values = {construct(single)}(out, y)"
    else:
        *before, last = loss_lines(head)
        value = last.replace("loss = ", "values = ")
        if value.endswith(".mean()"):
            value = value.removesuffix(".mean()")
        elif value.startswith("values = F."):
            value = f'{value.removesuffix(")")}, reduction="none")'
        else:
            raise refuse(f"weights with the loss {loss!r:.80}", "expected another one by name.")
    flat = getattr(head.loss, "crossentropy", None) == "categorical" or value.endswith(".sum(-1)")
    rows = "values" if flat and len(head.shape) < 2 else "values.reshape(len(y), -1).mean(1)"
    return [*before, value, f"loss = ({rows} * w).mean()"]


def prediction_code(head: Any) -> str:
    """What the metrics see, and ``predict`` gives, of ``out``."""
    function = head.to_predictions
    if function is None:
        code = "out"
    elif function is torch.sigmoid or isinstance(function, nn.Sigmoid):
        code = "torch.sigmoid(out)"
    elif isinstance(function, nn.Softmax):
        code = f"out.softmax({literal(-1 if function.dim is None else function.dim)})"
    else:
        raise refuse(f"the last activation {type(function).__name__}", "expected softmax, sigmoid.")
    return code


def metric_codes(head: Any, one_hot: bool) -> dict[str, str]:
    """Each metric's name, and the mean of one batch of ``predicted`` and ``y`` as an expression.

    Args:
        one_hot: whether the targets of classes are rows, and not labels.
    """
    found = {}
    for key, metric in head.metrics + head.weighted_metrics:
        code = metric_code(metric, head, one_hot or head.kind != "categorical")
        if code is None or (head.threshold == 0 and not code.endswith("square()")):
            raise refuse(
                f"the metric {key!r}",
                "expected accuracy, binary_accuracy, categorical_accuracy, mse or mae: leave it "
                "out of compile, which changes no weight.",
            )
        found[key] = f"({code}).double().mean()"
    return found


def metric_code(metric: Any, head: Any, one_hot: bool) -> str | None:
    """One value a row or position."""
    kind, one_column = type(metric), not head.shape or head.shape[-1] == 1
    if head.class_axis == 1 and len(head.shape) > 1:
        one_column = False
    if kind is metrics.BinaryAccuracy:
        return f"(predicted > {literal(metric.threshold)}) == y"
    if kind is metrics.Accuracy and one_column:
        return "(predicted > 0.5) == y"
    if kind in (
        metrics.Accuracy,
        metrics.CategoricalAccuracy,
        metrics.SparseCategoricalAccuracy,
    ):
        axis = 1 if head.class_axis == 1 else -1
        return f"predicted.argmax({axis}) == {f'y.argmax({axis})' if one_hot else 'y'}"
    if kind is metrics.MeanSquaredError:
        return "(predicted - y).square()"
    if kind is metrics.MeanAbsoluteError:
        return "(predicted - y).abs()"
    return None


def rate_lines(schedule: Any) -> list[str]:
    """The body of ``learning_rate(step)`` for a schedule of easydl.

    Raises:
        ValueError: a subclass of the user's.
    """
    kind, given = type(schedule), {k: literal(v) for k, v in vars(schedule).items()}
    first = given.get("initial_learning_rate")
    if kind in (schedules.ExponentialDecay, schedules.InverseTimeDecay):
        passed = f"step / {given['decay_steps']}"
        passed = f"math.floor({passed})" if schedule.staircase else f"({passed})"
        if kind is schedules.ExponentialDecay:
            return [f"return {first} * {given['decay_rate']} ** {passed}"]
        return [f"return {first} / (1 + {given['decay_rate']} * {passed})"]
    if kind is schedules.PolynomialDecay:
        again = " * max(1, math.ceil(step / {decay_steps}))" if schedule.cycle else ""
        last = given["end_learning_rate"]
        return [
            ("length = {decay_steps}" + again).format(**given),
            "left = 1 - min(step, length) / length",
            f"return ({first} - {last}) * left ** {given['power']} + {last}",
        ]
    if kind is schedules.PiecewiseConstantDecay:
        return [
            f"values = {given['values']}",
            f"return values[sum(step > boundary for boundary in {given['boundaries']})]",
        ]
    if kind is schedules.CosineDecay:
        peak, warm = literal(schedule.peak_learning_rate), given["warmup_steps"]
        since = f"(step - {warm})" if schedule.warmup_steps else "step"
        lines = [
            f"passed = min({since} / {given['decay_steps']}, 1.0)",
            f"return {peak} * {half_cosine('passed', schedule.alpha)}",
        ]
        if schedule.warmup_steps:
            rise = f"({peak} - {first}) * step / {warm}"
            lines = [f"if step < {warm}:", f"    return {first} + {rise}", *lines]
        return lines
    if kind is schedules.CosineDecayRestarts:
        length = f"length, restarts = {given['first_decay_steps']}, 0"
        if schedule.t_mul == 1:
            search = ["restarts = math.floor(step / length)", "step = step - restarts * length"]
        else:
            search = [
                "step = float(step)",
                "while step >= length:",
                "    step -= length",
                f"    length *= {given['t_mul']}",
                "    restarts += 1",
            ]
        height = f"{first} * {given['m_mul']} ** restarts"
        return [
            length,
            *search,
            f"return {height} * {half_cosine('step / length', schedule.alpha)}",
        ]
    if kind is schedules.OneCycle:
        return [
            f"top, last = {given['warmup']} * {given['steps']} - 1, {given['steps']} - 1",
            "if step < top:",
            f"    foot, down = {first}, 1 - step / top",
            "else:",
            f"    foot, down = {given['end_learning_rate']}, min((step - top) / (last - top), 1.0)",
            f"return foot + ({given['max_learning_rate']} - foot) * {half_cosine('down', 0.0)}",
        ]
    raise refuse(f"the schedule {kind.__name__}", "expected one of easydl.optimizers.schedules.")


def half_cosine(passed: str, floor: float) -> str:
    """From 1 to ``floor`` while ``passed`` goes from 0 to 1, in the same order of operations."""
    wave = f"0.5 * (1 + math.cos(math.pi * {wrapped(passed)}))"
    return f"((1 - {literal(floor)}) * {wave} + {literal(floor)})"


def wrapped(text: str) -> str:
    return f"({text})" if " " in text else text


def scheduler_code(scheduler: Any) -> str:
    """A scheduler of torch that is stepped once an epoch."""
    kind, name = type(scheduler), type(scheduler).__name__
    attributes = {
        "StepLR": ("step_size", "gamma"),
        "ExponentialLR": ("gamma",),
        "CosineAnnealingLR": ("T_max", "eta_min"),
        "LinearLR": ("start_factor", "end_factor", "total_iters"),
        "ConstantLR": ("factor", "total_iters"),
        "PolynomialLR": ("total_iters", "power"),
    }.get(name)
    if attributes is None or getattr(lr_scheduler, name) is not kind:
        raise refuse(
            f"the schedule {name}", "expected one of easydl.optimizers.schedules, or StepLR."
        )
    named = ", ".join(f"{key}={literal(getattr(scheduler, key))}" for key in attributes)
    return f"torch.optim.lr_scheduler.{name}(optimizer, {named})"
