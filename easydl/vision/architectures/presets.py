"""The two plain stacks of the slides: dense layers, and LSTMs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from easydl.errors import short_traceback
from easydl.layers import LSTM, Dense, Dropout, Flatten
from easydl.layers.base import Shape, checked_sample_shape
from easydl.sequential import Sequential
from easydl.vision.architectures.shared import built, check_dropout, check_widths, output_layer


@short_traceback
def MLP(
    units: int | Sequence[int] = 64,
    classes: int = 10,
    input_shape: Shape | int | None = None,
    *,
    activation: Any = "relu",
    dropout: float = 0.5,
    output_activation: Any = "auto",
) -> Sequential:
    """A multilayer perceptron: dense layers, each followed by Dropout.

    The defaults are the feed-forward net of the slides, which has 20 inputs: Dense 64 relu →
    Dropout 0.5 → Dense 10 softmax.

    Args:
        units: width of each hidden layer, ``(128, 64)``, or of the only one, ``64``.
        classes: how many; 1 is a yes or no. For regression: how many numbers, with
            ``output_activation=None``.
        input_shape: of one sample, ``20`` or ``(20,)``; pictures ``(1, 8, 8)`` are flattened
            first. None learns it from the first batch.
        activation: of the hidden layers.
        dropout: the share of each hidden layer's outputs that is dropped in training; 0 for none.
        output_activation: ``"auto"`` is softmax, or sigmoid for one class; None gives the sums,
            for regression.

    Raises:
        ValueError: widths below 1, no class, a dropout of 1 or more.

    Example:
        >>> MLP(input_shape=20).count_params()
        1994
        >>> house_prices = MLP((32, 16), 1, 8, dropout=0, output_activation=None)
        >>> house_prices.layers[-1]
        Dense(in_features=16, out_features=1, bias=True)
    """
    widths = check_widths("units", units)
    rate = check_dropout(dropout)
    shape = checked_sample_shape(input_shape)
    layers: list[nn.Module] = [Flatten()] if shape is not None and len(shape) > 1 else []
    for width in widths:
        layers.append(Dense(width, activation=activation))
        if rate:
            layers.append(Dropout(rate))
    layers.append(output_layer(classes, output_activation))
    return built(layers, shape, "mlp")


@short_traceback
def LSTMStack(
    units: int | Sequence[int] = (32, 32, 32),
    classes: int = 10,
    input_shape: Shape | None = None,
    *,
    dropout: float = 0.0,
    output_activation: Any = "auto",
) -> Sequential:
    """LSTMs on top of each other: all give whole sequences but the last, which gives its last step.

    The defaults are the stack of the slides: LSTM 32 → LSTM 32 → LSTM 32 → Dense 10 softmax.

    Reference:
        S. Hochreiter, J. Schmidhuber (1997), Long short-term memory.

    Args:
        units: width of each LSTM, or of the only one.
        classes: how many; 1 is a yes or no. For regression: how many numbers, with
            ``output_activation=None``.
        input_shape: (steps, features); ``(None, 6)`` for sequences of any length. None learns it
            from the first batch.
        dropout: the share of each LSTM's outputs that is dropped in training.
        output_activation: ``"auto"`` is softmax, or sigmoid for one class; None gives the sums,
            for regression.

    Raises:
        ValueError: widths below 1, no class, a dropout of 1 or more, another number of axes.

    Example:
        >>> LSTMStack(input_shape=(8, 16)).count_params()
        23242
    """
    widths = check_widths("units", units)
    rate = check_dropout(dropout)
    if input_shape is not None and (not isinstance(input_shape, Sequence) or len(input_shape) != 2):
        raise ValueError(
            f"LSTMStack was given input_shape={input_shape!r:.60}; expected (steps, features), for "
            "example (8, 16), or (None, 16) for any number of steps."
        )
    shape = checked_sample_shape(input_shape)
    layers: list[nn.Module] = []
    for number, width in enumerate(widths, start=1):
        layers.append(LSTM(width, return_sequences=number < len(widths)))
        if rate:
            layers.append(Dropout(rate))
    layers.append(output_layer(classes, output_activation))
    return built(layers, shape, "lstm_stack")
