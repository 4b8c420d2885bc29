"""The layers of a model as one flat list of torch modules, each with the code that makes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from easydl import constraints, layers, regularizers
from easydl.export.code import construct, literal, refuse, start
from easydl.layers.base import plain
from easydl.layers.windows import PADS, same_pads
from easydl.model import Model
from easydl.sequential import Sequential
from easydl.training.trainable import is_frozen

#: modules that the script defines where it needs them
HELPERS = {
    "AllSteps": '''
class AllSteps(nn.Module):
    """Of what a recurrent layer returns, (steps, state), every step: (N, T, H)."""

    def forward(self, result):
        return result[0]
''',
    "LastStep": '''
class LastStep(nn.Module):
    """Of what a recurrent layer returns, (steps, state), the last state: (N, H), or (N, 2 H)."""

    def forward(self, result):
        state = result[1][0] if isinstance(result[1], tuple) else result[1]  # an LSTM's is (h, c)
        return state[0] if len(state) == 1 else torch.cat([state[0], state[1]], -1)
''',
    "ResetBeforeGRU": '''
class ResetBeforeGRU(nn.Module):
    """A GRU that resets its state before the product with it; gives (steps, state) as nn.GRU."""

    def __init__(self, inputs, units, bias, gate, activation):
        super().__init__()
        self.weight_ih_l0 = nn.Parameter(torch.empty(3 * units, inputs))  # r, z and new state
        self.weight_hh_l0 = nn.Parameter(torch.empty(3 * units, units))
        self.bias_ih_l0 = nn.Parameter(torch.empty(3 * units)) if bias else None
        self.units, self.gate, self.activation = units, gate, activation

    def forward(self, x):
        sizes, h, steps = [2 * self.units, self.units], x.new_zeros(len(x), 1, self.units), []
        for_gates, for_state = self.weight_hh_l0.split(sizes)
        for inputs in F.linear(x, self.weight_ih_l0, self.bias_ih_l0).split(1, 1):
            gates, new = inputs.split(sizes, -1)
            r, z = self.gate(gates + F.linear(h, for_gates)).chunk(2, -1)
            n = self.activation(new + F.linear(r * h, for_state))
            h = (1 - z) * n + z * h
            steps.append(h)
        return torch.cat(steps, 1), h.transpose(0, 1)
''',
    "Backwards": '''
class Backwards(nn.Module):
    """The steps of (N, T, F) from the last to the first."""

    def forward(self, x):
        return x.flip(1)
''',
    "FeatureDropout": '''
class FeatureDropout(nn.Dropout1d):
    """Drops whole features of (N, T, F), the same ones at every step."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)
''',
    "Permute": '''
class Permute(nn.Module):
    """The axes in another order."""

    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.permute(self.axes)
''',
    "RepeatVector": '''
class RepeatVector(nn.Module):
    """(N, F) -> (N, n, F)."""

    def __init__(self, n):
        super().__init__()
        self.n = n

    def forward(self, x):
        return x.unsqueeze(1).repeat(1, self.n, 1)
''',
    "GaussianNoise": '''
class GaussianNoise(nn.Module):
    """Adds noise while training."""

    def __init__(self, stddev):
        super().__init__()
        self.stddev = stddev

    def forward(self, x):
        return x + self.stddev * torch.randn_like(x) if self.training else x
''',
}


@dataclass
class Part:
    """One entry of the script's ``nn.Sequential``.

    Attributes:
        code: what makes it.
        layer: the module with the weights, whose parameters have the same names; or None.
        after: lines that settle weights beside the initialisers; ``{}`` is the entry's name.
    """

    code: str
    layer: Any = None
    after: list[str] = field(default_factory=list)

    @property
    def is_torchs_own(self) -> bool:
        """Whether torch's constructor drew the weights."""
        return self.layer is not None and not hasattr(self.layer, "initializers")

    def starts(self, name: str) -> list[str]:
        """The lines that draw the first weights of the entry ``name``."""
        lines: list[str] = []
        if self.is_torchs_own:
            random = not isinstance(self.layer, (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.PReLU))
            lines += [f"{name}.reset_parameters()"] if random else []
        elif self.layer is not None:
            for key, initializer in self.layer.initializers.items():
                shape = tuple(getattr(self.layer, key).shape)
                made = start(initializer, f"{name}.{key}", shape, type(self.layer).__name__)
                if not (isinstance(self.layer, NORMS) and made[0] in torch_norm_start(name)):
                    lines += made
        return lines + [line.format(name) for line in self.after]

    def frozen(self, name: str) -> list[str]:
        """The lines that keep weights from learning."""
        own = [] if self.layer is None else list(self.layer.named_parameters(recurse=False))
        still = [key for key, parameter in own if not parameter.requires_grad]
        if still and len(still) == len(own):
            return [f"{name}.requires_grad_(False)"]
        return [f"{name}.{key}.requires_grad_(False)" for key in still]

    @property
    def is_frozen_norm(self) -> bool:
        return isinstance(self.layer, _BatchNorm) and is_frozen(self.layer)


NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
#: easydl's layers whose initialisers read the weights as torch keeps them
WEIGHTED = (
    layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Embedding, layers.PReLU,
    layers.BatchNormalization, layers.LayerNormalization, layers.GroupNormalization,
)  # fmt: skip


def torch_norm_start(name: str) -> list[str]:
    """What the constructors of torch's normalisations do already."""
    ones = [f"nn.init.ones_({name}.{key})" for key in ("weight", "running_var")]
    return ones + [f"nn.init.zeros_({name}.{key})" for key in ("bias", "running_mean")]


def parts_of(model: Any) -> list[Part]:
    """Every layer in order, nested lists of layers laid flat.

    Raises:
        ValueError: a layer that is neither torch's nor becomes torch's; one that stands twice.
    """
    parts = list(_parts(model))
    seen: set[int] = set()
    for part in parts:
        if part.layer is not None and id(part.layer) in seen:
            raise refuse(
                f"a {type(part.layer).__name__} that stands in two places, with the same weights",
                "expected layers of their own.",
            )
        seen.add(id(part.layer))
    return parts


def _parts(layer: Any) -> Iterator[Part]:
    kind = type(layer)
    if isinstance(layer, Model) and layer.network is not None and kind.forward is Model.forward:
        yield from _parts(layer.network)
        return
    if kind is nn.Sequential or kind.forward is Sequential.forward:
        check_hooks(layer)
        for inner in layer._modules.values():
            yield from _parts(inner)
        return
    check_hooks(layer)
    if kind.__module__.startswith("easydl.layers.") and getattr(layers, kind.__name__, 0) is kind:
        yield from easydl_parts(layer)
        return
    if hasattr(layer, "to_torch") or list(layer.children()):
        raise refuse(
            f"the layer {kind.__name__}, which is code of its own",
            "expected easydl's and torch's layers in a Sequential or nn.Sequential.",
        )
    own = layer if list(layer.parameters()) else None
    yield Part(construct(layer), own)


def check_hooks(layer: nn.Module) -> None:
    if getattr(layer, "activity_regularizer", None) is not None:
        raise refuse(f"activity_regularizer of {type(layer).__name__}", "expected none.")
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise refuse(f"the forward hooks of {type(layer).__name__}", "expected none.")


def easydl_parts(layer: Any) -> Iterator[Part]:
    """The torch modules that stand for one of easydl's layers."""
    if isinstance(layer, layers.Bidirectional):
        if layer.merge_mode != "concat":
            raise refuse(
                f"Bidirectional(merge_mode={layer.merge_mode!r})", "expected 'concat', the default."
            )
        layer = layer.layer
        check_hooks(layer)
    if isinstance(layer, nn.RNNBase):
        yield from recurrent_parts(layer)
        return
    if isinstance(layer, layers.Permute):
        yield Part(f"Permute(0, {', '.join(map(str, layer.dims))})")
        return
    if isinstance(layer, layers.RepeatVector):
        yield Part(f"RepeatVector({layer.n})")
        return
    if isinstance(layer, layers.GaussianNoise):
        yield Part(f"GaussianNoise({literal(layer.stddev)})")
        return
    twins: list[nn.Module] = []
    pads = moving_pads(layer)
    if pads is None:
        twins += leaves_of(plain(layer))
    else:
        rank = len(layer.kernel_size)
        if any(pads) and isinstance(layer, (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)):
            pad: Any = {1: nn.ConstantPad1d, 2: nn.ConstantPad2d, 3: nn.ConstantPad3d}[rank]
            twins.append(pad(tuple(pads), float("-inf")))
        elif any(pads) and hasattr(layer, "initializers"):
            twins.append(PADS[rank](tuple(pads)))
        elif any(pads):
            raise refuse(
                f"{type(layer).__name__}(padding='same'), whose pads do not count",
                "expected padding='valid'.",
            )
        graph = layer.to_torch()
        twins.append(next(graph.children()))
        activation = getattr(layer, "activation", None)
        twins += [] if activation is None else leaves_of(plain(activation))
    weighted = bool(getattr(layer, "initializers", None))
    if weighted and not isinstance(layer, WEIGHTED):
        raise refuse(f"the layer {type(layer).__name__}", "expected another one.")
    for twin in twins:
        if isinstance(twin, torch.fx.GraphModule):
            raise refuse(
                f"the layer {type(layer).__name__} as it is used here",
                "expected layers that are one of torch.nn's.",
            )
        code, after, owner = construct(twin), [], None
        if list(twin.parameters()):  # of the layer, or of an activation with weights
            owner, weighted = (layer, False) if weighted else (twin, False)
        if isinstance(twin, NORMS) and owner is layer:
            gone = [key for key, parameter in twin._parameters.items() if parameter is None]
            after = [f"{{}}.{key} = None" for key in gone if f"{key}=False" not in code]
        yield Part(code, owner, after)


def leaves_of(module: nn.Module) -> list[nn.Module]:
    if type(module) is not nn.Sequential:
        return [module]
    return [leaf for inner in module._modules.values() for leaf in leaves_of(inner)]  # type: ignore


def moving_pads(layer: Any) -> list[int] | None:
    """The pads of ``padding="same"`` that depend on the size; None where there are no such."""
    moves = getattr(layer, "same", None) or ("pads" in vars(layer) and layer.pads is None)
    if not moves:
        return None
    shape = getattr(layer, "built_for", (None,))
    if None in shape[1:]:
        raise refuse(
            f"{type(layer).__name__}(padding='same') for pictures of any size",
            "expected a size: input_shape=(…) on the first layer.",
        )
    rank = len(layer.kernel_size)
    dilation = getattr(layer, "dilation", 1) if hasattr(layer, "initializers") else 1
    dilation = dilation if isinstance(dilation, tuple) else (dilation,) * rank
    x = torch.empty((2, *shape[1:]), device="meta")
    return [int(n) for n in same_pads(x, layer.kernel_size, layer.stride, dilation)]


def recurrent_parts(layer: Any) -> Iterator[Part]:
    """torch's recurrent layer, and what takes the steps that are wanted out of its result."""
    if layer.input_dropout is not None:
        yield Part(f"FeatureDropout({literal(layer.input_dropout.p)})")
    sequences, backwards, both_ways, _ = layer.reading
    if backwards:
        yield Part("Backwards()")
    if not getattr(layer, "reset_after", True):
        if both_ways:
            raise refuse(
                "a GRU that reads both ways with reset_after=False",
                "expected reset_after=True, or one direction.",
            )
        inside = f"{construct(layer.gate)}, {construct(layer.squash)}"
        sizes = f"{layer.input_size}, {layer.hidden_size}, {layer.bias}"
        yield Part(f"ResetBeforeGRU({sizes}, {inside})", layer)
        yield Part("AllSteps()" if sequences else "LastStep()")
        return
    kind = {layers.LSTM: "LSTM", layers.GRU: "GRU", layers.SimpleRNN: "RNN"}[type(layer)]
    options = ["batch_first=True"]
    options += [] if layer.bias else ["bias=False"]
    options += ["bidirectional=True"] if both_ways else []
    if kind == "RNN" and layer.nonlinearity != "tanh":
        options.append(f"nonlinearity={literal(layer.nonlinearity)}")
    code = f"nn.{kind}({layer.input_size}, {layer.hidden_size}, {', '.join(options)})"
    after = []
    if layer.bias and getattr(layer, "unit_forget_bias", False):
        gate = f"[{layer.hidden_size}:{2 * layer.hidden_size}]"
        for end in ("", "_reverse") if both_ways else ("",):
            after.append(f"{{}}.bias_ih_l0{end}.data{gate} = 1.0  # the forget gate remembers")
    for name, _ in layer.named_buffers(recurse=False):
        after.append(f"nn.init.zeros_({{}}.{name}).requires_grad_(False)  # one bias is enough")
    yield Part(code, layer, after)
    yield Part("AllSteps()" if sequences else "LastStep()")


def penalty_code(regularizer: Any, weight: str) -> str:
    """The penalty of one weight as an expression."""
    l1, l2 = f"{weight}.abs().sum()", f"{weight}.square().sum()"
    if type(regularizer) is regularizers.L1:
        return f"{literal(regularizer.l1)} * {l1}"
    if type(regularizer) is regularizers.L2:
        return f"{literal(regularizer.l2)} * {l2}"
    if type(regularizer) is regularizers.L1L2:
        return f"({literal(regularizer.l1)} * {l1} + {literal(regularizer.l2)} * {l2})"
    raise refuse(f"the regularizer {regularizer!r:.80}", "expected L1, L2 or L1L2.")


def constraint_code(constraint: Any, weight: str) -> list[str]:
    """The lines that project one weight after a step."""
    kind = type(constraint)
    if kind is constraints.NonNeg:
        return [f"{weight}.clamp_(min=0)"]
    tiny = "norm.clamp(min=1e-7)"
    if kind is constraints.MaxNorm:
        change = [f"{weight}.mul_(norm.clamp(max={literal(constraint.max_value)}) / {tiny})"]
    elif kind is constraints.UnitNorm:
        change = [f"{weight}.div_({tiny})"]
    elif kind is constraints.MinMaxNorm:
        numbers = (constraint.min_value, constraint.max_value, constraint.rate)
        low, high, rate = map(literal, numbers)
        change = [
            f"wanted = {rate} * norm.clamp({low}, {high}) + (1 - {rate}) * norm",
            f"{weight}.mul_(wanted / {tiny})",
        ]
    else:
        raise refuse(f"the constraint {constraint!r:.80}", "expected one of easydl.constraints.")
    return [f"norm = norms({weight})", *change]
