"""The way back: a decoder that mirrors the encoder's Dense layers, tied to their weights or not."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from easydl.layers import Dense
from easydl.layers.base import (
    ROWS,
    Shape,
    activate,
    copy_values,
    label,
    make_weights,
    prepare,
    setup,
    start_build,
)


class Mirrored(nn.Linear):
    """The way back from the codes of ``source``, a Dense, to its inputs.

    Args:
        source: the layer that it undoes; it may still wait for its width.
        activation: applied last.
        tied: use the weight of ``source``, transposed, instead of one of its own.
        kernel_initializer, bias_initializer: how the weights start.
    """

    def __init__(
        self,
        source: Dense,
        activation: Any,
        tied: bool,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
    ) -> None:
        super().__init__(1, 1, device="meta")
        if tied:
            self.weight = None  # type: ignore[assignment]
        self.source = [source]  # in a list, so that its weights stay the encoder's alone
        weights = {"weight": "kernel", "bias": "bias"}
        setup(self, locals(), takes=ROWS, activation=activation, weights=weights)

    def build(self, input_shape: Shape) -> None:
        """Make the weights; ``source`` is built before."""
        if start_build(self, input_shape):
            self.in_features, self.out_features = self.source[0].out_features, self.source[0].width
            make_weights(
                self, weight=(self.out_features, self.in_features), bias=(self.out_features,)
            )

    def forward(self, x: Tensor, logits: bool = False) -> Tensor:
        prepare(self, x)
        weight = self.source[0].weight.t() if self.weight is None else self.weight
        return activate(self, F.linear(x, weight, self.bias), logits)

    def to_torch(self) -> nn.Linear:
        """``nn.Linear``; a tied weight is copied, in the same memory order for the same bits."""
        plain = nn.Linear(self.in_features, self.out_features, device="meta")
        copy_values(self, plain)
        if self.weight is None:
            weight = self.source[0].weight
            plain.weight = nn.Parameter(weight.detach().clone().t(), weight.requires_grad)
        return plain


def mirrored(layers: list[Any], output_activation: Any, tied: bool) -> list[Mirrored]:
    """Layers back through ``layers``, each as wide as what its counterpart takes.

    Raises:
        ValueError: a layer that is no Dense, by its place.
    """
    for number, layer in enumerate(layers, start=1):
        if not isinstance(layer, Dense):
            raise ValueError(
                f"decoder=None mirrors Dense layers, but layer {number} of the encoder is "
                f"{label(layer)}; expected decoder=[…] with the layers back, or Dense layers alone "
                "(rows in place of pictures: x.reshape(len(x), -1))."
            )
    activations = [output_activation, *(layer.config["activation"] for layer in layers)]
    return [
        Mirrored(layer, activation, tied, layer.config["kernel_initializer"])
        for layer, activation in reversed(list(zip(layers, activations)))
    ]
