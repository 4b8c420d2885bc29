"""A network's layers in order, for fine-tuning: what is frozen, and how fast each part learns."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import nn

from easydl.errors import check_between, check_positive_int, did_you_mean
from easydl.training.trainable import set_trainable, sync_trainable

if TYPE_CHECKING:
    from easydl.model import Model
    from easydl.training.compiled import Compiled

Part = nn.Module | nn.Parameter


def heads_of(model: Model) -> list[nn.Module]:
    """The last part with weights of its own, after the auxiliary heads where there are any."""
    root = root_of(model)
    names = getattr(model, "head_names", None)
    if names:
        return [root.get_submodule(name) for name in names]
    return [m for m in root.modules() if any(True for _ in m.parameters(recurse=False))][-1:]


def root_of(model: Any) -> nn.Module:
    """The network itself, where a ``Model`` only wraps it."""
    network = getattr(model, "network", None)
    return network if isinstance(network, nn.Module) else model


def layer_groups(model: Model) -> dict[str, list[Part]]:
    """The parts that have weights, from the first layer to the head, by their names.

    Containers are opened: a ``Sequential`` or ``ModuleList`` always, another module where it holds
    the head or more than half of all weights (the encoder of a vision transformer). A
    normalisation belongs to the part before it, with weights or without; a weight that stands
    alone to the first part; auxiliary heads to the head, which is the last.
    """
    from easydl.sequential import Sequential

    root, heads = root_of(model), heads_of(model)
    names = {module: name for name, module in root.named_modules()}
    for i, head in enumerate(heads[:-1]):  # an auxiliary classifier has layers of its own
        heads[i] = root.get_submodule(names[head].split(".")[0])
    half = sum(p.numel() for p in root.parameters()) / 2
    groups: dict[str, list[Part]] = {}
    loose: list[Part] = []

    def open_up(name: str, module: nn.Module) -> None:
        parameters = list(module.parameters())
        if module in heads:
            return
        if not parameters:  # statistics of a BatchNorm without weights stay with what is frozen
            if any(True for _ in module.buffers()):
                (groups[list(groups)[-1]] if groups else loose).append(module)
            return
        parts = list(module.named_children())
        chain = module is root or isinstance(module, (nn.Sequential, nn.ModuleList, Sequential))
        large = len(parts) > 1 and sum(p.numel() for p in parameters) > half
        if parts and (chain or large or any(part in heads for part in module.modules())):
            loose.extend(module.parameters(recurse=False))
            for key, part in parts:
                open_up(f"{name}.{key}" if name else key, part)
        elif groups and not parts and "Norm" in type(module).__name__:
            groups[list(groups)[-1]].append(module)
        else:
            groups[name] = [module]

    open_up("", root)
    if heads:
        groups[names[heads[-1]]] = list(heads)
        groups[next(iter(groups))].extend(loose)
    return groups


def freeze(model: Model, until: str | int | None) -> None:
    """See ``Model.freeze``."""
    groups = _groups_with_weights(model)
    names = list(groups)
    stop = len(names) - 1
    if isinstance(until, str):
        stop = names.index(_fitting(model, names, until, "freeze(until=…)")[0])
    elif until is not None:
        stop = check_positive_int("until", until, minimum=0)
    if not 0 < stop < len(names) and (stop or until is None):
        raise ValueError(
            f"freeze(until={until!r}) was asked of a network of {len(names)} groups of layers with "
            f"weights ({', '.join(names)[:200]}); expected the name of one of them, or a number "
            "below theirs. To freeze everything write model.trainable = False."
        )
    sync_trainable(model)
    for name in names[:stop]:
        _set(groups[name], False)


def unfreeze(model: Model, count: int | None) -> None:
    """See ``Model.unfreeze``."""
    sync_trainable(model)
    if count is None:
        set_trainable(model, True)
        return
    groups = _groups_with_weights(model)
    for name in list(groups)[-check_positive_int("n", count) :]:
        _set(groups[name], True)


def _groups_with_weights(model: Model) -> dict[str, list[Part]]:
    groups = layer_groups(model) if model.is_built else {}
    if not groups:
        raise ValueError(
            "the network has no weights yet that could be frozen or freed; expected shapes: "
            "model.build(input_shape), or a first fit."
        )
    return groups


def _fitting(model: Model, names: list[str], layer: Any, where: str) -> list[str]:
    """The groups of a layer, by its name in ``state_dict`` or in the summary.

    Raises:
        ValueError: it has none, with the nearest name.
    """
    keys = [key for key, _ in root_of(model).named_children()]
    called = dict(zip(model.layer_names(), keys)) | dict(zip(keys, keys))
    prefix = f"{called.get(layer, layer)}."
    fitting = [name for name in names if f"{name}.".startswith(prefix)]
    if not fitting:
        tops = {name.split(".")[0] for name in names}
        known = [name for name, key in called.items() if key in tops]
        raise ValueError(did_you_mean(f"layer in {where}", layer, [*known, *names]))
    return fitting


def parameters_of(parts: list[Part]) -> list[nn.Parameter]:
    """Their weights, shared ones as often as they are there."""
    modules = [[part] if isinstance(part, nn.Parameter) else part.parameters() for part in parts]
    return [parameter for parameters in modules for parameter in parameters]


def _set(parts: list[Part], flag: bool) -> None:
    for part in parts:
        if isinstance(part, nn.Module):
            set_trainable(part, flag)
        else:
            part.requires_grad_(flag)


# -- learning rates -----------------------------------------------------------------------------


def shares_for(model: Model, spread: float | dict[str, float]) -> dict[str, float]:
    """Each group's share of the learning rate; see ``Model.spread_learning_rate``."""
    names = list(_groups_with_weights(model))
    if not isinstance(spread, dict):
        ratio = check_between("ratio", spread, 1, math.inf, ends="[)")
        last = max(len(names) - 1, 1)
        return {name: ratio ** (i / last - 1) for i, name in enumerate(names)}
    shares = dict.fromkeys(names, 1.0)
    for key, share in spread.items():
        fitting = _fitting(model, names, key, "spread_learning_rate")
        shares |= dict.fromkeys(fitting, check_between(f"share of {key}", share, 0, 1))
    if max(shares.values()) < 1:
        raise ValueError(
            f"spread_learning_rate({spread!r:.100}) leaves no layer the whole learning rate; "
            "expected 1 for one of them, and a lower learning rate in compile."
        )
    return shares


def set_rate(model: Model, state: Compiled, rate: float) -> None:
    """A new learning rate of the groups whose share is 1; the others keep their shares of it."""
    held = state.optimizer.param_groups
    shares = _by_share(model, held) if state.is_spread else [1.0] * len(held)
    for group, share in zip(held, shares):
        group["lr"] = rate * share


def regroup(model: Model, state: Compiled) -> None:
    """Give the optimizer one group of weights for each share of its rate; its state stays."""
    optimizer, scheduler = state.optimizer, state.step_scheduler
    if len(optimizer.param_groups) > 1 and not state.is_spread:
        raise ValueError(
            "spread_learning_rate was asked, but the optimizer has groups of its own; expected "
            "one of them: compile('adam', …), or the rates in your groups alone."
        )
    if state.epoch_scheduler is not None:
        raise ValueError(
            "spread_learning_rate was called under a schedule of torch's, which has begun; "
            "expected it before compile, or an easydl schedule."
        )
    settings = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    if scheduler is not None:
        rate = float(optimizer.defaults["lr"])  # the schedule's highest
    else:
        rate = max(float(group["lr"]) for group in optimizer.param_groups)
    optimizer.param_groups[:] = [
        settings | {"params": parameters, "lr": rate * share}
        for share, parameters in _by_share(model, optimizer.param_groups).items()
    ]
    state.is_spread, state.jitted = bool(model.learning_rate_shares), None
    if scheduler is not None:
        state.step_scheduler = again = state.own_schedule.make(optimizer)
        again.last_epoch, again._step_count = scheduler.last_epoch, scheduler._step_count
        for group, share, factor in zip(optimizer.param_groups, again.base_lrs, again.lr_lambdas):
            group["lr"] = share * factor(again.last_epoch)


def _by_share(model: Model, held: list[dict[str, Any]]) -> dict[float, list[nn.Parameter]]:
    """The optimizer's weights by their share of the rate, in order of the layers."""
    waiting = {id(p): p for group in held for p in group["params"]}
    found: dict[float, list[nn.Parameter]] = {}
    for name, parts in layer_groups(model).items() if model.learning_rate_shares else ():
        for parameter in parameters_of(parts):
            if waiting.pop(id(parameter), None) is not None:
                share = model.learning_rate_shares.get(name, 1.0)
                found.setdefault(share, []).append(parameter)
    if waiting:
        found.setdefault(1.0, []).extend(waiting.values())
    return found
