"""Recurrent layers over sequences (N, T, F): torch's fused kernels with Keras's meaning.

They return one tensor: the last step, (N, units), or every step, (N, T, units), with
``return_sequences=True``. ``GRU(reset_after=False)`` alone is a loop, since no kernel computes it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from easydl import activations
from easydl.errors import check_between, check_flag, check_positive_int, did_you_mean
from easydl.layers.base import (
    STEPS,
    Shape,
    label,
    make_weights,
    prepare,
    setup,
    start_build,
    traced,
    twin,
)

_GATES: tuple[str, ...] = ("sigmoid", "hard_sigmoid")
_WORDS = {"weight_ih_l0": "kernel", "weight_hh_l0": "recurrent", "bias_ih_l0": "bias"}


class SimpleRNN(nn.RNN):
    """The plain recurrent layer: ``h_t = tanh(W x_t + U h_{t−1} + b)``.

    Reference:
        J. L. Elman (1990), Finding structure in time.

    Args:
        units: width of the state and of the output.
        activation: ``"tanh"`` or ``"relu"``, those of torch's kernel.
        use_bias: have b.
        kernel_initializer, recurrent_initializer, bias_initializer: how W, U and b start.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: penalties on W, U and b.
        activity_regularizer: penalty on the output, per sample.
        kernel_constraint, recurrent_constraint, bias_constraint: applied after every step.
        dropout: part of the input features dropped while training, the same ones at every step.
        recurrent_dropout: only 0; torch's fused kernel has none.
        return_sequences: give every step, not only the last.
        go_backwards: read the sequence from its end (and give its steps in that order).
        bidirectional: read it both ways in one kernel; the two outputs side by side.
        name: what summaries and messages call it.
        input_shape: sample shape (T, F) or (None, F), on the first layer of a model.
        trainable: False freezes it.

    Shape:
        (N, T, F) → (N, units), or (N, T, units) with ``return_sequences``; twice the width if
        bidirectional.

    Raises:
        ValueError: for what torch's kernel does not have, or an input of another width.

    Example:
        >>> SimpleRNN(4)(torch.zeros(2, 5, 3)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        units: int,
        activation: str = "tanh",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        go_backwards: bool = False,
        *,
        bidirectional: bool = False,
        name: str | None = None,
        input_shape: Shape | None = None,
        trainable: bool | None = None,
    ) -> None:
        _check_activation("activation", activation, "tanh", "relu")
        super().__init__(**_torch_arguments(locals()), nonlinearity=activation)
        _setup(self, locals(), biases=1)

    def build(self, input_shape: Shape) -> None:
        """Make the weights for inputs of ``input_shape``."""
        _build(self, input_shape, gates=1)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return _output(self, x, super().forward)

    def flatten_parameters(self) -> None:
        if getattr(self, "built", False):
            super().flatten_parameters()

    def to_torch(self) -> nn.Module:
        """A graph around ``nn.RNN`` that gives the output this layer gives."""
        return _to_torch(self, nn.RNN, nonlinearity=self.nonlinearity)


class LSTM(nn.LSTM):
    """Long short-term memory: gates decide what a cell forgets, takes in and shows.

    ``c_t = f ⊙ c_{t−1} + i ⊙ tanh(W_c x_t + U_c h_{t−1} + b_c)``, ``h_t = o ⊙ tanh(c_t)``, with the
    gates i, f, o sigmoids of the same sums. One bias is trained, as in Keras; torch's second one is
    a buffer of zeros.

    Reference:
        S. Hochreiter, J. Schmidhuber (1997), Long short-term memory. Forget bias 1:
        R. Jozefowicz, W. Zaremba, I. Sutskever (2015).

    Args:
        units: width of the state and of the output.
        activation: ``"tanh"``, that of torch's kernel.
        recurrent_activation: ``"sigmoid"``, that of torch's kernel.
        use_bias: have b.
        kernel_initializer, recurrent_initializer, bias_initializer: how W, U and b start.
        unit_forget_bias: the forget gate's bias starts at 1.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: penalties on W, U and b.
        activity_regularizer: penalty on the output, per sample.
        kernel_constraint, recurrent_constraint, bias_constraint: applied after every step.
        dropout: part of the input features dropped while training, the same ones at every step.
        recurrent_dropout: only 0; torch's fused kernel has none.
        return_sequences: give every step, not only the last.
        go_backwards: read the sequence from its end (and give its steps in that order).
        bidirectional: read it both ways in one kernel; the two outputs side by side.
        name: what summaries and messages call it.
        input_shape: sample shape (T, F) or (None, F), on the first layer of a model.
        trainable: False freezes it.

    Shape:
        (N, T, F) → (N, units), or (N, T, units) with ``return_sequences``; twice the width if
        bidirectional.

    Raises:
        ValueError: for what torch's kernel does not have, or an input of another width.

    Example:
        >>> LSTM(4, return_sequences=True)(torch.zeros(2, 5, 3)).shape
        torch.Size([2, 5, 4])
    """

    def __init__(
        self,
        units: int,
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        go_backwards: bool = False,
        *,
        bidirectional: bool = False,
        name: str | None = None,
        input_shape: Shape | None = None,
        trainable: bool | None = None,
    ) -> None:
        _check_activation("activation", activation, "tanh")
        _check_activation("recurrent_activation", recurrent_activation, "sigmoid")
        super().__init__(**_torch_arguments(locals()))
        _setup(self, locals(), biases=1)
        self.unit_forget_bias = unit_forget_bias

    def build(self, input_shape: Shape) -> None:
        """Make the weights for inputs of ``input_shape``."""
        if _build(self, input_shape, gates=4) and self.unit_forget_bias:
            for name, bias in self.named_parameters():
                if name.startswith("bias_ih"):  # gates i, f, c, o
                    bias.data[self.hidden_size : 2 * self.hidden_size] = 1.0

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return _output(self, x, super().forward)

    def flatten_parameters(self) -> None:
        if getattr(self, "built", False):
            super().flatten_parameters()

    def to_torch(self) -> nn.Module:
        """A graph around ``nn.LSTM`` that gives the output this layer gives."""
        return _to_torch(self, nn.LSTM)


class GRU(nn.GRU):
    """The gated recurrent unit: an LSTM without a separate cell, with two gates.

    ``h_t = (1 − z) ⊙ n + z ⊙ h_{t−1}``, ``n = tanh(W x_t + b + r ⊙ (U h_{t−1} + b′))``: Keras's
    ``reset_after=True``, which has both biases. Gates stand in torch's order r, z, n; Keras's is
    z, r, n. With ``reset_after=False``, ``n = tanh(W x_t + b + U (r ⊙ h_{t−1}))``: the first
    paper's form, and the default of Keras before 2.3. torch has no kernel for it, so it runs step
    by step, and slower.

    Reference:
        K. Cho et al. (2014), arXiv:1406.1078.

    Args:
        units: width of the state and of the output.
        activation: ``"tanh"``, that of torch's kernel; any name with ``reset_after=False``.
        recurrent_activation: ``"sigmoid"``, that of torch's kernel; or ``"hard_sigmoid"`` with
            ``reset_after=False``.
        use_bias: have b and b′.
        kernel_initializer, recurrent_initializer, bias_initializer: how W, U and b, b′ start.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: penalties on them.
        activity_regularizer: penalty on the output, per sample.
        kernel_constraint, recurrent_constraint, bias_constraint: applied after every step.
        dropout: part of the input features dropped while training, the same ones at every step.
        recurrent_dropout: only 0; torch's fused kernel has none.
        return_sequences: give every step, not only the last.
        go_backwards: read the sequence from its end (and give its steps in that order).
        reset_after: False resets h before the product with U, and has no b′.
        bidirectional: read it both ways in one kernel; the two outputs side by side.
        name: what summaries and messages call it.
        input_shape: sample shape (T, F) or (None, F), on the first layer of a model.
        trainable: False freezes it.

    Shape:
        (N, T, F) → (N, units), or (N, T, units) with ``return_sequences``; twice the width if
        bidirectional.

    Raises:
        ValueError: for what torch's kernel does not have, or an input of another width.

    Example:
        >>> GRU(4)(torch.zeros(2, 5, 3)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        units: int,
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        go_backwards: bool = False,
        *,
        reset_after: bool = True,
        bidirectional: bool = False,
        name: str | None = None,
        input_shape: Shape | None = None,
        trainable: bool | None = None,
    ) -> None:
        if check_flag("reset_after", reset_after):
            _check_activation("activation", activation, "tanh")
            _check_activation("recurrent_activation", recurrent_activation, "sigmoid")
        else:
            for argument, given, offered in (
                ("activation", activation, tuple(activations.TABLE)),
                ("recurrent_activation", recurrent_activation, _GATES),
            ):
                if given not in offered:
                    raise ValueError(did_you_mean(argument, given, offered))
        super().__init__(**_torch_arguments(locals()))
        _setup(self, locals(), biases=2 if reset_after else 1)
        self.reset_after = reset_after
        if not reset_after:
            self.gate = activations.get(recurrent_activation)
            self.squash = activations.get(activation) or nn.Identity()
            for name in list(self._buffers):
                delattr(self, name)  # b′

    def build(self, input_shape: Shape) -> None:
        """Make the weights for inputs of ``input_shape``."""
        _build(self, input_shape, gates=3)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if self.reset_after:
            return _output(self, x, super().forward)
        parts = (self, self.gate, self.squash)
        return _output(self, x, lambda x: _reset_before(x, *parts, *_sizes(self, x.shape[1])))

    def flatten_parameters(self) -> None:
        if getattr(self, "built", False):
            super().flatten_parameters()

    def to_torch(self) -> nn.Module:
        """A graph around ``nn.GRU`` that gives the output this layer gives.

        Raises:
            ValueError: with ``reset_after=False``, a number of steps that is not known: the graph
                has every step written out.
        """
        return _to_torch(self, nn.GRU) if self.reset_after else _to_torch_steps(self)


def _check_activation(argument: str, given: Any, *offered: str) -> None:
    if given not in offered:
        names = " or ".join(map(repr, offered))
        raise ValueError(
            f"{argument}={given!r} was given; expected {names}: torch's fused kernel computes "
            f"nothing else inside the recurrence. Write {argument}={offered[0]!r} (other numbers "
            "than with yours), or the recurrence with nn.RNNCell, LSTMCell or GRUCell in your own "
            "module. GRU(reset_after=False) computes others."
        )


def _torch_arguments(given: dict[str, Any]) -> dict[str, Any]:
    if given["recurrent_dropout"]:
        raise ValueError(
            f"recurrent_dropout={given['recurrent_dropout']!r} was given; expected 0, since "
            "torch's fused kernel has none. Use dropout=… (on the inputs)."
        )
    if given["bidirectional"] and given["go_backwards"]:
        raise ValueError(
            "bidirectional=True and go_backwards=True were given; expected one of them, since a "
            "bidirectional layer reads both ways already."
        )
    return dict(
        input_size=1,
        hidden_size=check_positive_int("units", given["units"]),
        bias=given["use_bias"],
        batch_first=True,
        bidirectional=given["bidirectional"],
        device="meta",
    )


def _setup(layer: Any, arguments: dict[str, Any], biases: int) -> None:
    weights = dict(_WORDS)
    if biases == 2:
        weights["bias_hh_l0"] = "bias"
    if not layer.bias:
        weights = {name: word for name, word in weights.items() if word != "bias"}
    if layer.bidirectional:
        weights |= {f"{name}_reverse": word for name, word in weights.items()}
    gives = STEPS.layout if arguments["return_sequences"] else None
    setup(layer, arguments, takes=STEPS, gives=gives, weights=weights)
    layer.input_size = 0
    rate = check_between("dropout", arguments["dropout"], 0, 1, ends="[)")
    layer.input_dropout = nn.Dropout1d(rate) if rate else None
    layer.reading = (
        arguments["return_sequences"],
        arguments["go_backwards"],
        arguments["bidirectional"],
        isinstance(layer, nn.LSTM),
    )
    for name in [name for name in layer._parameters if name not in weights]:
        delattr(layer, name)  # torch's second bias: only the sum with the first matters
        layer.register_buffer(name, torch.zeros(layer.hidden_size))
    layer._init_flat_weights()


def _build(layer: Any, input_shape: Shape, gates: int) -> bool:
    if not start_build(layer, input_shape):
        return False
    layer.input_size = layer.width
    rows = gates * layer.hidden_size
    for name, buffer in list(layer.named_buffers(recurse=False)):
        layer.register_buffer(name, buffer.new_zeros(rows))
    kernels = {"weight_ih": (rows, layer.width), "weight_hh": (rows, layer.hidden_size)}
    shapes: Any = {name: kernels.get(name.split("_l0")[0], (rows,)) for name in layer.initializers}
    make_weights(layer, **shapes)
    layer._init_flat_weights()
    return True


def _output(layer: Any, x: Tensor, rnn: Any) -> Tensor:
    prepare(layer, x)
    return _read(x, rnn, layer.input_dropout, *layer.reading)


def _read(
    x: Any, rnn: Any, dropout: Any, sequences: bool, backwards: bool, both_ways: bool, cell: bool
) -> Any:
    """All steps that torch's ``rnn`` gives, or the last one of each direction."""
    if dropout is not None:  # (N, T, F): whole features, as in Keras
        x = dropout(x.transpose(1, 2)).transpose(1, 2)
    result = rnn(x.flip(1) if backwards else x)
    if sequences:
        return result[0]
    state = result[1][0] if cell else result[1]  # (directions, N, units)
    return torch.cat([state[0], state[1]], -1) if both_ways else state[0]


def _reset_before(
    x: Any, rnn: Any, gate: Any, squash: Any, steps: int, units: int, bias: bool, both_ways: bool
) -> Any:
    """What ``nn.GRU`` gives, all steps and the last state, with h reset before the product."""
    outputs, states = [], []
    for end in ("", "_reverse") if both_ways else ("",):
        kernel, recurrent = (getattr(rnn, f"weight_{word}_l0{end}") for word in ("ih", "hh"))
        shift = getattr(rnn, f"bias_ih_l0{end}") if bias else None
        sums = F.linear(x.flip(1) if end else x, kernel, shift).split([1] * steps, 1)
        for_gates, for_state = recurrent.split([2 * units, units])
        h, given = x.new_zeros((x.shape[0], 1, units)), []
        for step in range(steps):
            gates, new = sums[step].split([2 * units, units], -1)
            r, z = gate(gates + F.linear(h, for_gates)).chunk(2, -1)
            n = squash(new + F.linear(r * h, for_state))
            h = (1 - z) * n + z * h
            given.append(h)
        result = torch.cat(given, 1)
        outputs.append(result.flip(1) if end else result)
        states.append(h.squeeze(1))
    return torch.cat(outputs, -1), torch.stack(states)


def _to_torch(layer: Any, kind: type[nn.Module], **changes: Any) -> nn.Module:
    changes |= {
        name: getattr(layer, name)
        for name in ("input_size", "hidden_size", "bias", "batch_first", "bidirectional")
    }
    parts = {"rnn": twin(layer, kind, **changes)}
    if layer.input_dropout is not None:
        parts["dropout"] = nn.Dropout1d(layer.input_dropout.p)

    def read(x: Any, rnn: Any, dropout: Any = None) -> Any:
        return _read(x, rnn, dropout, *layer.reading)

    return traced(read, **parts).train(layer.training)


def _sizes(layer: Any, steps: int) -> Any:
    return steps, layer.hidden_size, layer.bias, layer.bidirectional


def _to_torch_steps(layer: Any) -> nn.Module:
    steps = layer.built_for[1] if layer.built else None
    if steps is None:
        raise ValueError(
            f"{label(layer)} was not built for sequences of one length, so to_torch cannot write "
            "the steps of reset_after=False out; expected input_shape=(steps, features), or "
            "reset_after=True, whose kernel loops itself."
        )
    weights = {
        name: Parameter(weight.detach().clone(), weight.requires_grad)
        for name, weight in layer.named_parameters(recurse=False)
    }
    parts = {"rnn": nn.ParameterDict(weights), "gate": layer.gate, "squash": layer.squash}
    if layer.input_dropout is not None:
        parts["dropout"] = nn.Dropout1d(layer.input_dropout.p)
    sizes = _sizes(layer, steps)

    def read(x: Any, rnn: Any, gate: Any, squash: Any, dropout: Any = None) -> Any:
        run = lambda x: _reset_before(x, rnn, gate, squash, *sizes)  # noqa: E731
        return _read(x, run, dropout, *layer.reading)

    return traced(read, **parts).train(layer.training)
