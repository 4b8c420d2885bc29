"""An optimizer in a file: what it is, and its state, so that training goes on to the same bits."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from easydl.saving.objects import Decoder, Encoder, names, table

_SINGLE = (
    "step",
    "mu_product",
    "eta",
    "mu",
)  # numbers in torch's states; the rest is weight by weight


def optimizer_to_json(encoder: Encoder, model: Any) -> Any:
    """What ``compile`` was given; of a ready torch optimizer its class, groups and weights."""
    from easydl.optimizers import Ready

    spec = model._compiled.optimizer_spec
    if not isinstance(spec, Ready):
        return encoder.encode(spec, "compile(optimizer)")
    optimizer, kind = spec.optimizer, type(spec.optimizer)
    if not names().get(id(kind), "").startswith("torch.optim."):
        raise ValueError(
            f"compile(optimizer) is a {kind.__name__} of your own; expected one of torch.optim or "
            "easydl.optimizers, or a function params -> optimizer, which custom_objects can name."
        )
    keys = {id(parameter): name for name, parameter in model.named_parameters()}
    arguments = inspect.signature(kind).parameters
    defaults = {k: v for k, v in optimizer.defaults.items() if k in arguments}
    groups = [
        {k: v for k, v in group.items() if k != "params"}
        | {"params": [keys[id(parameter)] for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    return {
        "ready": names()[id(kind)],
        "defaults": encoder.encode(defaults, "compile(optimizer)"),
        "groups": encoder.encode(groups, "compile(optimizer)"),
    }


def optimizer_from_json(decoder: Decoder, model: Any, value: Any) -> Any:
    """What to give to ``compile``."""
    if not isinstance(value, dict) or "ready" not in value:
        return decoder.decode(value)
    kind = table().get(value["ready"])
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise ValueError(f"the optimizer {value['ready']!r:.60}")
    parameters = dict(model.named_parameters())
    groups = [
        {**group, "params": [parameters[name] for name in group["params"]]}
        for group in decoder.decode(value["groups"])
    ]
    return kind(groups, **decoder.decode(value["defaults"]))


def training_state(
    encoder: Encoder, model: Any, known: bool = True
) -> tuple[Any, dict[str, Tensor]]:
    """The state of optimizer, schedule and scaler: JSON, and tensors by ``number.name``.

    Args:
        known: whether the optimizer's state must be as large as its weights, as most of torch's is.
    """
    state = model._compiled
    packed = state.optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for number, entries in packed["state"].items():
        for name, value in entries.items():
            (tensors if isinstance(value, Tensor) else scalars)[f"{number}.{name}"] = value
    _check_shapes(state.optimizer, tensors, known)
    value = {
        "groups": packed["param_groups"],
        "scalars": scalars,
        "step_schedule": _schedule_state(state.step_scheduler),
        "epoch_schedule": _schedule_state(state.epoch_scheduler),
        "scaler": state.scaler.state_dict(),
    }
    return encoder.encode(value, "the optimizer's state"), tensors


def restore_training_state(
    model: Any, value: dict[str, Any], tensors: dict[str, Tensor], known: bool = True
) -> None:
    """Put what ``training_state`` gave into the compiled model.

    Raises:
        ValueError: groups, names or shapes that the optimizer does not have.
    """
    state = model._compiled
    optimizer = state.optimizer
    own = optimizer.state_dict()["param_groups"]
    given = value["groups"]
    for before, group in zip(own, given):
        if set(group) - {"initial_lr"} != set(before) - {"initial_lr"}:
            raise ValueError("its optimizer has other settings than this version's")
        if group["params"] != before["params"] or not all(map(_is_plain, group.values())):
            raise ValueError("its optimizer is for other weights")
    if len(own) != len(given):
        raise ValueError("its optimizer has another number of groups")
    _check_shapes(optimizer, tensors, known)
    parameters = _numbered(optimizer)
    packed: dict[int, dict[str, Any]] = {}
    for key, entry in [*value["scalars"].items(), *tensors.items()]:
        number, _, name = key.partition(".")
        if isinstance(entry, Tensor) and entry.dim() == 4:  # laid out as its weight is
            weight = parameters[int(number)]
            if entry.shape == weight.shape:
                entry = torch.empty_like(weight, dtype=entry.dtype).copy_(entry)
        packed.setdefault(int(number), {})[name] = entry
    optimizer.load_state_dict({"state": packed, "param_groups": given})
    for scheduler, name in (
        (state.step_scheduler, "step_schedule"),
        (state.epoch_scheduler, "epoch_schedule"),
    ):
        if scheduler is not None and value[name] is not None:
            _restore_schedule(scheduler, value[name])
    if state.scaler.is_enabled() and value["scaler"]:
        state.scaler.load_state_dict(value["scaler"])


def _schedule_state(scheduler: Any) -> Any:
    if scheduler is None:
        return None
    state = {k: v for k, v in scheduler.state_dict().items() if k != "lr_lambdas"}
    if "_schedulers" in state:
        state["_schedulers"] = [_schedule_state(part) for part in scheduler._schedulers]
    return state


def _restore_schedule(scheduler: Any, state: dict[str, Any]) -> None:
    parts, state = state.get("_schedulers", []), dict(state)
    state.pop("_schedulers", None)
    own = getattr(scheduler, "_schedulers", [])
    if set(state) - set(vars(scheduler)) or (parts and len(parts) != len(own)):
        raise ValueError("its schedule is of another kind")
    vars(scheduler).update(state)
    for part, value in zip(own, parts):
        _restore_schedule(part, value)


def _numbered(optimizer: Any) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _check_shapes(optimizer: Any, tensors: dict[str, Tensor], known: bool) -> None:
    """torch's fused kernels read as many numbers as the weight has, whatever the state has."""
    parameters = _numbered(optimizer)
    if not known and not any(group.get("fused") for group in optimizer.param_groups):
        return
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        known = number.isdecimal() and int(number) < len(parameters)
        expected = torch.Size() if name in _SINGLE else known and parameters[int(number)].shape
        if not known or tensor.shape != expected or not tensor.is_floating_point():
            raise ValueError(
                f"the optimizer's state {key!r:.60} has shape {tuple(tensor.shape)}, which does "
                "not belong to its weight; include_optimizer=False leaves the state out"
            )


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, Tensor))
