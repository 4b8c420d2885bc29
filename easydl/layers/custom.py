"""``Layer``, for layers of your own."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from easydl import constraints, initializers, regularizers
from easydl.activations import trace_module
from easydl.layers.base import ANY, Shape, fill, label, plain, setup


class Layer(nn.Module):
    """A layer of your own, à la Keras: weights made in ``build``, the sum in ``call``.

    Any ``nn.Module`` may stand in a model; this class is for layers that want to see the input
    shape before they make their weights.

    Args:
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, if it comes first in a model.
        trainable: False freezes it.

    Example:
        >>> class Scale(Layer):
        ...     def build(self, input_shape):
        ...         self.add_weight((input_shape[-1],), "ones", name="scale")
        ...
        ...     def call(self, x):
        ...         return x * self.scale
        >>> Scale()(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    like: Tensor
    penalties: list[tuple[str, Any]]
    constraints: list[tuple[str, Any]]

    def __init__(
        self,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
        trainable: bool | None = None,
    ) -> None:
        super().__init__()
        setup(self, locals(), takes=ANY, gives=None)
        self.register_forward_pre_hook(_build_first)
        # follows .to() and .double(), so that weights are made where the layer is by then
        self.register_buffer("like", torch.empty(0), persistent=False)

    def __init_subclass__(cls) -> None:
        """A user's ``build`` runs once, whoever calls it, and need not say that it did."""
        super().__init_subclass__()
        if "build" in cls.__dict__:
            cls.build = _once(cls.build)  # type: ignore[method-assign]

    def add_weight(
        self,
        shape: Sequence[int] | int = (),
        initializer: Any = "glorot_uniform",
        *,
        name: str,
        trainable: bool = True,
        regularizer: Any = None,
        constraint: Any = None,
    ) -> Parameter:
        """Make the parameter ``self.<name>``, initialised and, if asked, penalised or constrained.

        Raises:
            ValueError: if a weight of that name exists.
        """
        if name in self._parameters:
            raise ValueError(f"{label(self)} has a weight {name!r} already; expected a new name.")
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        weight = Parameter(self.like.new_empty(sizes), requires_grad=trainable)
        fill(weight, initializers.get(initializer))
        self.register_parameter(name, weight)
        if regularizer is not None:
            self.penalties.append((name, regularizers.get(regularizer)))
        if constraint is not None:
            self.constraints.append((name, constraints.get(constraint)))
        return weight

    def build(self, input_shape: Shape) -> None:
        """Make the weights for inputs of ``input_shape`` (batch axis first, as None)."""
        self.built = True

    def forward(self, x: Any) -> Any:
        return self.call(x)

    def call(self, x: Any) -> Any:
        """What the layer computes; write this or ``forward``."""
        raise NotImplementedError(
            f"{label(self)} has neither call nor forward; write def call(self, x)."
        )

    def to_torch(self) -> nn.Module:
        """A torch.fx graph of what the layer computes, with copies of its weights."""
        module = copy.deepcopy(self)
        for name, child in module.named_children():
            setattr(module, name, plain(child))
        return trace_module(module)


def _once(build_method: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(build_method)
    def build_once(layer: Layer, input_shape: Any) -> None:
        if not layer.built:
            build_method(layer, input_shape)
            layer.built, layer.built_for = True, input_shape

    return build_once


def _build_first(layer: Any, inputs: tuple[Any, ...]) -> None:
    if not layer.built:
        x = inputs[0]
        several = isinstance(x, (tuple, list))
        shapes = [(None, *part.shape[1:]) for part in (x if several else [x])]
        layer.build(shapes if several else shapes[0])
