"""The training loop of the script of ``model.source``."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from easydl import constraints
from easydl.export.code import literal, optimizer_code, refuse
from easydl.export.layers import Part, constraint_code
from easydl.export.objective import rate_lines, scheduler_code
from easydl.export.watching import watching
from easydl.schedules import LearningRateSchedule
from easydl.training.class_weight import class_factors
from easydl.training.trainable import is_frozen

if TYPE_CHECKING:
    from easydl.model import Model


def learning_rate(model: Model) -> list[str]:
    schedule = step_schedule(model)
    if schedule is None:
        return []
    lines = [
        "def learning_rate(step):",
        '    """The rate of the optimizer\'s step number ``step``, from 0."""',
        *[f"    {line}" for line in rate_lines(schedule)],
    ]
    return ["\n".join(lines)]


def norms(model: Model, parts: list[Part], names: list[str]) -> list[str]:
    if all(isinstance(c, constraints.NonNeg) for c, _ in terms(model, parts, names, "constraints")):
        return []
    return [
        textwrap.dedent('''
            def norms(weight):
                """The length of each unit's incoming weights."""
                axes = tuple(range(1, weight.ndim)) or 0
                return torch.linalg.vector_norm(weight, dim=axes, keepdim=True)
        ''').strip("\n")
    ]


def batches(model: Model, fit: dict[str, Any]) -> list[str]:
    """How rows are gathered and cut, as ``data.arrays`` does: their places in memory decide, too.

    A matrix product of some kernels rounds otherwise where a batch does not begin at a multiple of
    64 bytes.
    """
    several = "x, y, w" if weighs(fit) else "x, y"
    merges = any(isinstance(m, _BatchNorm) and not is_frozen(m) for m in model.modules())
    size = "sizes" if merges else "BATCH_SIZE"
    if fit["shuffle"]:
        pieces = "cut(len(order), PIECE)" if merges else "PIECE"
        lines = [
            f"def batches({several}, order):",
            '    """Inputs and targets in this order, batch by batch; gathers 8 MB at once."""',
            f"    for piece in order.split({pieces}):",
            *(["        sizes = cut(len(piece), BATCH_SIZE)"] if merges else []),
            f"        yield from zip(*[part[piece].split({size}) for part in ({several})])"
            if weighs(fit)
            else f"        yield from zip(x[piece].split({size}), y[piece].split({size}))",
        ]
    else:
        lines = [
            f"def batches({several}):",
            '    """Inputs and targets, batch by batch."""',
            *(["    sizes = cut(len(x), BATCH_SIZE)"] if merges else []),
            f"    return zip({', '.join(f'{part}.split({size})' for part in several.split(', '))})",
        ]
    return [*([CUT.strip("\n")] if merges else []), "\n".join(lines)]


CUT = '''
def cut(count, size):
    """The sizes of the pieces of ``count`` rows; a last row alone joins those before it."""
    sizes = [size] * (count // size) + ([count % size] if count % size else [])
    if len(sizes) > 1 and sizes[-1] == 1:  # BatchNorm needs two
        sizes[-2:] = [size + 1]
    return sizes
'''


def step_schedule(model: Model) -> LearningRateSchedule | None:
    state = model._compiled
    schedule = state.schedule or getattr(state.optimizer_spec, "schedule", None)
    return schedule if isinstance(schedule, LearningRateSchedule) else None


def weighs(fit: dict[str, Any]) -> bool:
    """Whether rows have weights."""
    return fit["sample_weight"] or fit["class_weight"] is not None


def in_autocast(model: Model, lines: list[str]) -> list[str]:
    if model._compiled.precision == "float32":
        return lines
    kind = model._compiled.device.type
    return [
        f'with torch.autocast("{kind}", dtype=torch.bfloat16):',
        *[f"    {line}" for line in lines],
    ]


def train(
    model: Model, parts: list[Part], names: list[str], fit: dict[str, Any], labels: str
) -> str:
    state, optimizer = model._compiled, model.optimizer
    assert optimizer is not None
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not {id(p) for p in learning} <= held:
        raise refuse("an optimizer that holds a part of the weights", "expected all of them.")
    frozen = len(learning) < len(list(model.parameters()))
    some = frozen or any(".requires_grad_(False)" in line for part in parts for line in part.after)
    parameters = "[p for p in model.parameters() if p.requires_grad]"
    lines = []
    has_validation = bool(fit["validation_split"] or fit["validation_data"])
    given = "model, x, y, w" if fit["sample_weight"] else "model, x, y"
    given += ", x_val, y_val" if fit["validation_data"] else ""
    lines += [f"def train({given}):", '    """Every epoch: all rows once, in a new order."""']
    if not fit["shuffle"]:
        lines[-1] = '    """Every epoch: all rows once, in their order."""'
    random = fit["split"] != "tail" and fit["validation_split"]
    if fit["shuffle"] or random:
        lines.append(
            "    shuffle_seed = int(torch.randint(2**62, ()))  # epoch e has this seed + e"
        )
    if fit["validation_split"]:
        lines += held_out(fit, labels)
    lines += class_weights(model, fit, labels)
    lines.append(f"    parameters = {parameters if some else 'list(model.parameters())'}")
    schedule, rate = step_schedule(model), optimizer.param_groups[0]["lr"]
    if schedule is not None or state.epoch_scheduler is not None:
        rate = 1.0 if schedule is not None else optimizer.defaults["lr"]
    elif state.step_scheduler is not None:
        raise refuse(f"the schedule {type(state.step_scheduler).__name__}", "expected another.")
    logged = [] if model.history is None else model.history.history.get("learning_rate", [])
    watched = watching(list(fit["callbacks"]), logged)
    if watched.logged:  # a callback changes the rate
        rate = logged[0]
    used = [name for name, _ in fit["callbacks"]]
    if watched.first and len(logged) < fit["epochs"] and "EarlyStopping" not in used:
        raise refuse(
            f"more rates of a LearningRateScheduler than those of its {len(logged)} epochs",
            "expected a fit of so many epochs.",
        )
    maker, arguments = optimizer_code(optimizer, rate)
    lines += broken("    optimizer = ", f"{maker}(", ["parameters", *arguments], ")")
    if schedule is not None:
        lines.append(
            "    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate)  # × lr"
        )
    elif state.epoch_scheduler is not None:
        lines.append(f"    scheduler = {scheduler_code(state.epoch_scheduler)}")
    lines += [f"    {told}" for told in watched.before]
    lines += ["    history = []", "    for epoch in range(EPOCHS):", "        model.train()"]
    lines += [f"        {told}" for told in watched.first]
    for part, name in zip(parts, names):
        if part.is_frozen_norm:
            lines.append(f"        {name}.eval()  # frozen: its statistics stay, too")
    order = ""
    if fit["shuffle"]:
        moved = ".to(DEVICE)" if state.device.type != "cpu" else ""
        order = ", order"
        lines += [
            "        generator = torch.Generator().manual_seed((shuffle_seed + epoch) % 2**63)",
            f"        order = torch.randperm(len(x), generator=generator){moved}",
        ]
    lines += ["        total = torch.zeros(len(FIGURES), dtype=torch.float64)"]
    lines += [f"        {line}" for line in step_lines(model, parts, names, order, weighs(fit))]
    lines.append("        logs = dict(zip(FIGURES, (total / len(x)).tolist()))")
    if state.epoch_scheduler is not None:
        lines.append("        scheduler.step()")
    weights = ", w_val" if fit["sample_weight"] and fit["validation_split"] else ""
    if has_validation:
        lines += [
            f"        for name, value in evaluate(model, x_val, y_val{weights}).items():",
            '            logs["val_" + name] = value',
        ]
    lines += [
        *[f"        {line}" for line in watched.logged],
        '        text = " · ".join(f"{name} {value:.4f}" for name, value in logs.items())',
        '        print(f"epoch {epoch + 1}/{EPOCHS} · {text}")',
        "        history.append(logs)",
        *[f"        {line}" for line in watched.last],
        *[f"    {line}" for line in watched.behind],
        "    return history",
    ]
    return "\n".join(lines)


def class_weights(model: Model, fit: dict[str, Any], labels: str) -> list[str]:
    """The lines that make the rows' weights ``w`` of their classes."""
    spec = fit["class_weight"]
    if spec is None:
        return []
    head = model._compiled.heads[0]
    if getattr(head, "positions", ()):
        raise refuse("class weights of every place", "expected one class a row.")
    moved = ".to(DEVICE)" if model._compiled.device.type != "cpu" else ""
    if spec == "balanced":
        classes = head.classes if head.kind == "categorical" else 2
        lines = [
            f"    counts = torch.bincount({labels}, minlength={classes})",
            "    present = int((counts > 0).sum())",
            "    factors = len(y) / (present * counts.clamp_min(1))  # of each class",
        ]
    else:
        factors = class_factors(spec, head, torch.empty(0, dtype=torch.long))
        lines = [f"    factors = torch.tensor({literal(factors.tolist())}){moved}"]
    times = "w * " if fit["sample_weight"] else ""
    return [*lines, f"    w = {times}factors.float()[{labels}]  # what each row counts"]


def held_out(fit: dict[str, Any], labels: str) -> list[str]:
    cut = f"    cut = int(len(x) * (1 - {fit['validation_split']!r}))"
    several = ("x", "y", "w") if fit["sample_weight"] else ("x", "y")
    names = ", ".join(f"{part}, {part}_val" for part in several)
    parts = ", ".join(f"{part}[rows], {part}[held]" for part in several)
    if fit["split"] == "stratified":
        return [
            "    # of every class its share of random rows is held out",
            "    generator = torch.Generator().manual_seed(shuffle_seed % 2**63)",
            "    rows = torch.randperm(len(x), generator=generator)",
            f"    labels, is_held = {labels}.cpu(), torch.zeros(len(x), dtype=torch.bool)",
            "    for label in labels.unique():",
            "        own = rows[labels[rows] == label]",
            f"        cut = round(len(own) * (1 - {fit['validation_split']!r}))",
            "        is_held[own[min(max(cut, 1), len(own) - 1) :]] = True",
            "    rows, held = rows[~is_held[rows]], rows[is_held[rows]]",
            f"    {names} = {parts}",
        ]
    if fit["split"] == "tail":
        return [
            cut + "  # the last rows are held out",
            f"    {names} = {', '.join(f'{part}[:cut], {part}[cut:]' for part in several)}",
        ]
    return [
        cut + "  # random rows are held out",
        "    generator = torch.Generator().manual_seed(shuffle_seed % 2**63)",
        "    rows = torch.randperm(len(x), generator=generator)",
        "    held, rows = rows[cut:], rows[:cut]",
        f"    {names} = {parts}",
    ]


def step_lines(
    model: Model, parts: list[Part], names: list[str], order: str, weighted: bool
) -> list[str]:
    """The loop over the batches of one epoch."""
    state = model._compiled
    update = []
    if state.clip_norm is not None:
        update.append(f"nn.utils.clip_grad_norm_(parameters, {literal(state.clip_norm)})")
    if state.clip_value is not None:
        update.append(f"nn.utils.clip_grad_value_(parameters, {literal(state.clip_value)})")
    update.append("optimizer.step()")
    bounds = terms(model, parts, names, "constraints")
    if bounds:
        update.append("with torch.no_grad():  # what the weights must satisfy")
        for constraint, weight in bounds:
            update += [f"    {line}" for line in constraint_code(constraint, weight)]
    if step_schedule(model) is not None:
        update.append("scheduler.step()")
    given, cut = ("x, y, w", "xs, ys, ws") if weighted else ("x, y", "xs, ys")
    loss = f"loss = loss_function(model, out, {cut.removeprefix('xs, ')})"
    forward = in_autocast(model, ["out = model(xs)", loss])
    count = "total += figures(loss, out, ys)"
    if state.accumulate == 1:
        inside = ["optimizer.zero_grad()", *forward, "loss.backward()", *update, count]
        return [f"for {cut} in batches({given}{order}):", *[f"    {line}" for line in inside]]
    summed = state.heads[0].sums
    inside = [
        *forward,
        "loss.backward()" if summed else "(loss * len(xs)).backward()  # a sum, divided below",
        "waiting += 1" if summed else "waiting += len(xs)",
        count,
        "if number % ACCUMULATE == 0 or number == len(parts):",
        *([] if summed else ["    for p in parameters:", "        p.grad /= waiting"]),
        *[f"    {line}" for line in update],
        "    optimizer.zero_grad()",
        "    waiting = 0",
    ]
    if summed:
        inside = [line for line in inside if "waiting" not in line]
    return [
        f"parts = list(batches({given}{order}))",
        *([] if summed else ["waiting = 0  # rows whose gradients wait for a step"]),
        f"for number, ({cut}) in enumerate(parts, start=1):",
        *[f"    {line}" for line in inside],
    ]


def terms(model: Model, parts: list[Part], names: list[str], what: str) -> list[tuple[Any, str]]:
    """``(penalty or constraint, "model[0].weight")`` of every weight that learns."""
    found = []
    for part, name in zip(parts, names):
        for key, function in getattr(part.layer, what, ()):
            if getattr(part.layer, key).requires_grad:
                found.append((function, f"{name}.{key}"))
    return found


def broken(start: str, opening: str, items: list[str], closing: str) -> list[str]:
    """``start[item, item]`` in one line, or in several where that is too long."""
    line = f"{start}{opening}{', '.join(items)}{closing}"
    if len(line) <= 100:
        return [line]
    indent = " " * (len(start) - len(start.lstrip()))
    inside = [f"{indent}    {item}," for item in items]
    return [f"{start}{opening}", *inside, f"{indent}{closing}"]
