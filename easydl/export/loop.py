"""The training loop of the script of ``model.source``."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from torch.nn.modules.batchnorm import _BatchNorm

from easydl import constraints
from easydl.export.code import literal, optimizer_code, refuse
from easydl.export.layers import Part, constraint_code
from easydl.export.objective import rate_lines, scheduler_code
from easydl.schedules import LearningRateSchedule
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
    merges = any(isinstance(m, _BatchNorm) and not is_frozen(m) for m in model.modules())
    size = "sizes" if merges else "BATCH_SIZE"
    if fit["shuffle"]:
        pieces = "cut(len(order), PIECE)" if merges else "PIECE"
        lines = [
            "def batches(x, y, order):",
            '    """Inputs and targets in this order, batch by batch; gathers 8 MB at once."""',
            f"    for piece in order.split({pieces}):",
            *(["        sizes = cut(len(piece), BATCH_SIZE)"] if merges else []),
            f"        yield from zip(x[piece].split({size}), y[piece].split({size}))",
        ]
    else:
        lines = [
            "def batches(x, y):",
            '    """Inputs and targets, batch by batch."""',
            *(["    sizes = cut(len(x), BATCH_SIZE)"] if merges else []),
            f"    return zip(x.split({size}), y.split({size}))",
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


def train(model: Model, parts: list[Part], names: list[str], fit: dict[str, Any]) -> str:
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
    given = "model, x, y, x_val, y_val" if fit["validation_data"] else "model, x, y"
    lines += [f"def train({given}):", '    """Every epoch: all rows once, in a new order."""']
    if not fit["shuffle"]:
        lines[-1] = '    """Every epoch: all rows once, in their order."""'
    random = fit["split"] == "random" and fit["validation_split"]
    if fit["shuffle"] or random:
        lines.append(
            "    shuffle_seed = int(torch.randint(2**62, ()))  # epoch e has this seed + e"
        )
    if fit["validation_split"]:
        lines += held_out(fit, bool(random))
    lines.append(f"    parameters = {parameters if some else 'list(model.parameters())'}")
    schedule, rate = step_schedule(model), optimizer.param_groups[0]["lr"]
    if schedule is not None or state.epoch_scheduler is not None:
        rate = 1.0 if schedule is not None else optimizer.defaults["lr"]
    elif state.step_scheduler is not None:
        raise refuse(f"the schedule {type(state.step_scheduler).__name__}", "expected another.")
    maker, arguments = optimizer_code(optimizer, rate)
    lines += broken("    optimizer = ", f"{maker}(", ["parameters", *arguments], ")")
    if schedule is not None:
        lines.append(
            "    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate)  # × lr"
        )
    elif state.epoch_scheduler is not None:
        lines.append(f"    scheduler = {scheduler_code(state.epoch_scheduler)}")
    lines += ["    history = []", "    for epoch in range(EPOCHS):", "        model.train()"]
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
    lines += [f"        {line}" for line in step_lines(model, parts, names, order)]
    lines.append("        logs = dict(zip(FIGURES, (total / len(x)).tolist()))")
    if state.epoch_scheduler is not None:
        lines.append("        scheduler.step()")
    if has_validation:
        lines += [
            "        for name, value in evaluate(model, x_val, y_val).items():",
            '            logs["val_" + name] = value',
        ]
    lines += [
        '        text = " · ".join(f"{name} {value:.4f}" for name, value in logs.items())',
        '        print(f"epoch {epoch + 1}/{EPOCHS} · {text}")',
        "        history.append(logs)",
        "    return history",
    ]
    return "\n".join(lines)


def held_out(fit: dict[str, Any], random: bool) -> list[str]:
    cut = f"    cut = int(len(x) * (1 - {fit['validation_split']!r}))"
    if not random:
        return [
            cut + "  # the last rows are held out",
            "    x, x_val, y, y_val = x[:cut], x[cut:], y[:cut], y[cut:]",
        ]
    return [
        cut + "  # random rows are held out",
        "    generator = torch.Generator().manual_seed(shuffle_seed % 2**63)",
        "    rows = torch.randperm(len(x), generator=generator)",
        "    x, x_val, y, y_val = x[rows[:cut]], x[rows[cut:]], y[rows[:cut]], y[rows[cut:]]",
    ]


def step_lines(model: Model, parts: list[Part], names: list[str], order: str) -> list[str]:
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
    forward = [
        "out = model(xs)",
        "loss = loss_function(model, out, ys)",
    ]
    count = "total += figures(loss, out, ys)"
    if state.accumulate == 1:
        inside = ["optimizer.zero_grad()", *forward, "loss.backward()", *update, count]
        return [f"for xs, ys in batches(x, y{order}):", *[f"    {line}" for line in inside]]
    summed = getattr(state.heads[0].loss, "reduction", None) == "sum"
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
        f"parts = list(batches(x, y{order}))",
        *([] if summed else ["waiting = 0  # rows whose gradients wait for a step"]),
        "for number, (xs, ys) in enumerate(parts, start=1):",
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
