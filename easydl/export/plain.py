"""The way out: a plain torch module with the same weights and the same outputs."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from torch import nn

from easydl.layers.base import check_is_plain, plain

if TYPE_CHECKING:
    from easydl.model import Model


def to_torch(model: Model) -> nn.Module:
    """See ``Model.to_torch``.

    A ``Sequential`` becomes an ``nn.Sequential`` whose ``state_dict`` keys stay the same: an
    activation stands behind its layer under a name of its own. A wrapped network is copied.

    Raises:
        ValueError: a subclass with its own ``forward``, which is code only its class has.
    """
    if has_own_forward(model):
        raise ValueError(
            f"{type(model).__name__} has its own forward or __call__, which only its class can "
            "run; expected a Sequential or Model(network). Its layers convert one by one: "
            "layer.to_torch()."
        )
    if not model.is_built:
        raise ValueError(
            "to_torch was called before the shapes are known; expected model.build(shape)."
        )
    return _convert(model if model.network is None else model.network)


def has_own_forward(model: Model) -> bool:
    """Whether a subclass computes in code of its own."""
    from easydl.model import Model
    from easydl.sequential import Sequential

    forward = type(model).forward
    if type(model).__call__ is not nn.Module.__call__:
        return True
    if forward is Sequential.forward:
        return False
    return forward is not Model.forward or model.network is None


def _convert(module: Any) -> nn.Module:
    """``module`` without easydl; a list of layers stays one list, so that its keys stay."""
    from easydl.sequential import Sequential

    if type(module) is not nn.Sequential and type(module).forward is not Sequential.forward:
        return plain(module)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    places: dict[nn.Module, str] = {}  # a layer that stands in several shares its weights in all
    for name, layer in module._modules.items():
        first = places.setdefault(layer, name)
        if first != name:
            parts[name] = parts[first]
            if f"{first}_activation" in parts:
                parts[f"{name}_activation"] = parts[f"{first}_activation"]
            continue
        activation = getattr(layer, "activation", None)
        if hasattr(layer, "to_torch") and isinstance(activation, nn.Module):
            check_is_plain(layer)
            parts[name] = layer.to_torch()
            parts[f"{name}_activation"] = plain(activation)
        else:
            parts[name] = _convert(layer)
    result = nn.Sequential(parts)
    result.training = module.training  # the parts have their own: a frozen BatchNormalization
    return result
