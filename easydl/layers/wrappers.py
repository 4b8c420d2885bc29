"""Layers around a layer: at every step of a sequence, or in both directions of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from easydl.errors import look_up
from easydl.layers.base import (
    STEPS,
    Shape,
    Takes,
    build_chain,
    label,
    plain,
    prepare,
    setup,
    start_build,
    traced,
)
from easydl.layers.recurrent import GRU, LSTM, SimpleRNN

_BOTH_WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "sum": torch.add,
    "mul": torch.mul,
    "ave": lambda ahead, back: (ahead + back) / 2,
}


class TimeDistributed(nn.Module):
    """The same layer at every step: a Conv2D over the pictures of a film, say.

    Steps and samples run as one large batch, without a loop. Dense works on the last axis already.

    Args:
        layer: any layer.
        name: what summaries and messages call it.
        input_shape: sample shape (T, …) without the batch axis, on the first layer of a model.

    Shape:
        (N, T, …) → (N, T, what the layer makes of …).

    Raises:
        ValueError: for input without a step axis.

    Example:
        >>> from easydl.layers import Flatten
        >>> TimeDistributed(Flatten())(torch.zeros(2, 5, 3, 4)).shape
        torch.Size([2, 5, 12])
    """

    def __init__(
        self, layer: nn.Module, *, name: str | None = None, input_shape: Shape | None = None
    ) -> None:
        super().__init__()
        if not isinstance(layer, nn.Module):
            raise TypeError(
                f"layer={layer!r:.80} was given; expected a layer, for example "
                "TimeDistributed(Conv2D(8, 3))."
            )
        setup(self, locals(), takes=Takes("(N, T, …)", range(2, 99)), gives=STEPS.layout)
        self.layer = layer

    def build(self, input_shape: Shape) -> None:
        """Build the layer for one step of inputs of ``input_shape``."""
        build_chain([self.layer], (None, *input_shape[2:]))
        self.built = True

    def forward(self, x: Tensor) -> Tensor:
        prepare(self, x)
        return _at_every_step(x, self.layer)

    def to_torch(self) -> nn.Module:
        """A graph around the layer's torch module."""
        return traced(_at_every_step, layer=plain(self.layer))


def _at_every_step(x: Any, layer: Any) -> Any:
    return layer(x.flatten(0, 1)).unflatten(0, (-1, x.shape[1]))


class Bidirectional(nn.Module):
    """A recurrent layer that reads the sequence both ways, in one fused kernel of torch.

    Reference:
        M. Schuster, K. K. Paliwal (1997), Bidirectional recurrent neural networks.

    Args:
        layer: an LSTM, GRU or SimpleRNN that has not been built.
        merge_mode: ``"concat"``, ``"sum"``, ``"mul"``, ``"ave"``, or None for both outputs.
        name: what summaries and messages call it.
        input_shape: sample shape (T, F) or (None, F), on the first layer of a model.

    Shape:
        (N, T, F) → (N, 2·units) or (N, T, 2·units); ``units`` for the other modes.

    Raises:
        TypeError: for another layer.
        ValueError: for an unknown mode or a layer built already.

    Example:
        >>> Bidirectional(LSTM(4))(torch.zeros(2, 5, 3)).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        layer: Any,
        merge_mode: str | None = "concat",
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        super().__init__()
        setup(self, locals(), takes=STEPS, gives=getattr(layer, "gives", None))
        kind = next((kind for kind in (LSTM, GRU, SimpleRNN) if isinstance(layer, kind)), None)
        if kind is None:
            raise TypeError(
                f"layer={layer!r:.80} was given; expected an LSTM, GRU or SimpleRNN, for example "
                "Bidirectional(LSTM(32))."
            )
        if layer.built:
            raise ValueError(
                f"{label(layer)} was given after it was built for one direction; expected a new "
                "layer: Bidirectional(LSTM(32))."
            )
        if merge_mode is not None:
            look_up("merge_mode", merge_mode, {**_BOTH_WAYS, "concat": None})
        options: Any = {**layer.config, "bidirectional": True}
        self.layer = kind(**options)
        self.merge_mode = merge_mode

    def build(self, input_shape: Shape) -> None:
        """Build the layer in both directions."""
        start_build(self, input_shape)
        self.layer.build(input_shape)
        self.built = True

    def forward(self, x: Tensor) -> Any:
        prepare(self, x)
        return _joined(self.layer(x), self.merge_mode)

    def extra_repr(self) -> str:
        return f"merge_mode={self.merge_mode!r}"

    def to_torch(self) -> nn.Module:
        """A graph around torch's bidirectional module."""
        mode = self.merge_mode
        return traced(lambda x, layer: _joined(layer(x), mode), layer=plain(self.layer))


def _joined(y: Any, mode: str | None) -> Any:
    if mode == "concat":
        return y
    halves = y.chunk(2, -1)
    if mode is None:
        return halves[0], halves[1]
    return _BOTH_WAYS[mode](halves[0], halves[1])
