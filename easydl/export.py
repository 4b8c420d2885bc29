"""The way out: a plain torch module with the same weights and the same outputs."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from easydl.model import Model


def to_torch(model: Model) -> nn.Module:
    """See ``Model.to_torch``.

    A ``Sequential`` becomes an ``nn.Sequential`` whose ``state_dict`` keys stay the same: an
    activation stands behind its layer under a name of its own. A wrapped network is copied.

    Raises:
        ValueError: a subclass with its own ``forward``, which is code only its class has.
    """
    from easydl.sequential import Sequential

    if isinstance(model, Sequential):
        if not model.is_built:
            raise ValueError(
                "to_torch was called before the shapes are known; expected model.build(shape)."
            )
        return _sequential(model).train(model.training)
    if model.network is not None:
        return copy.deepcopy(model.network)
    raise ValueError(
        f"{type(model).__name__} has its own forward, which only its class can run; expected a "
        "Sequential or Model(network). Its layers convert one by one: layer.to_torch()."
    )


def _sequential(model: Model) -> nn.Sequential:
    from easydl.sequential import Sequential

    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for index, layer in enumerate(model.layers):
        if isinstance(layer, Sequential):
            parts[str(index)] = _sequential(layer)
            continue
        plain = layer.to_torch() if hasattr(layer, "to_torch") else copy.deepcopy(layer)
        parts[str(index)] = plain
        activation = getattr(layer, "activation", None)
        if isinstance(activation, nn.Module) and hasattr(layer, "to_torch"):
            parts[f"{index}_activation"] = copy.deepcopy(activation)
    return nn.Sequential(parts)
