"""Objects as the Python that makes them, for the script of ``model.source``."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

from easydl import initializers
from easydl.saving.objects import arguments_of, names

#: arguments of convolutions and pooling whose one number stands for every axis
PER_AXIS = ("kernel_size", "stride", "padding", "dilation", "output_padding", "output_size")
RECURRENT = {
    "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False,
    "nonlinearity": "tanh", "proj_size": 0,
}  # fmt: skip


def refuse(part: str, advice: str, way: str = "") -> ValueError:
    """The error for what the script cannot say; ``way``: how else to leave easydl."""
    way = way or "model.to_torch() gives the network as a torch module."
    return ValueError(f"source() cannot write {part[:200]} as plain PyTorch; {advice} {way}")


def literal(value: Any) -> str:
    """A number, text, tuple or small tensor as Python."""
    if isinstance(value, Tensor):
        return f"torch.tensor({literal(value.tolist())})"
    if isinstance(value, (list, tuple)):
        inside = ", ".join(map(literal, value))
        if isinstance(value, list):
            return f"[{inside}]"
        return f"({inside}{',' if len(value) == 1 else ''})"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, str):
        return '"' + repr(value)[1:-1].replace('"', '\\"') + '"'
    raise refuse(f"the value {value!r:.80}", "expected a number or a text.")


def construct(module: nn.Module) -> str:
    """``nn.Linear(20, 64)``: a module of torch.nn with the arguments that differ from torch's own.

    Raises:
        ValueError: a class that is not torch's own, or one whose arguments cannot be read.
    """
    kind = type(module)
    if not names().get(id(kind), "").startswith("torch.nn."):
        raise refuse(
            f"the layer {kind.__name__}",
            "expected layers of torch.nn, or those of easydl that become such.",
        )
    arguments = {
        name: one_number(value) if name in PER_AXIS else value
        for name, value in arguments_of(module, kind.__name__).items()
    }
    if arguments.get("stride") == arguments.get("kernel_size"):  # of pooling, whose default it is
        arguments.pop("stride", None)
    if isinstance(module, nn.RNNBase):
        positional = [literal(arguments.pop(name)) for name in ("input_size", "hidden_size")]
        defaults = RECURRENT
    else:
        parameters = inspect.signature(kind).parameters
        defaults = {name: parameter.default for name, parameter in parameters.items()}
        required = [name for name in arguments if defaults.get(name) is inspect.Parameter.empty]
        positional = [literal(arguments.pop(name)) for name in required]
    named = [
        f"{name}={literal(value)}"
        for name, value in arguments.items()
        if isinstance(value, Tensor) or value != defaults.get(name)
    ]
    return f"nn.{kind.__name__}({', '.join(positional + named)})"


def one_number(value: Any) -> Any:
    """``(3, 3)`` as 3."""
    same = isinstance(value, tuple) and value and all(size == value[0] for size in value)
    return value[0] if same else value


def start(initializer: Any, target: str, shape: tuple[int, ...], what: str) -> list[str]:
    """The lines that draw what ``initializer`` draws into the parameter ``target``.

    Raises:
        ValueError: a function of the user's own.
    """
    kind, seed = type(initializer), getattr(initializer, "seed", None)
    own = "" if seed is None else f", generator=torch.Generator().manual_seed({seed})"
    if isinstance(initializer, initializers.Constant):
        value = initializer.value
        if value in (0, 1):
            return [f"nn.init.{'ones' if value else 'zeros'}_({target})"]
        return [f"nn.init.constant_({target}, {literal(value)})"]
    if kind is initializers.RandomNormal:
        numbers = f"{literal(initializer.mean)}, {literal(initializer.stddev)}"
        return [f"nn.init.normal_({target}, {numbers}{own})"]
    if kind is initializers.RandomUniform:
        numbers = f"{literal(initializer.minval)}, {literal(initializer.maxval)}"
        return [f"nn.init.uniform_({target}, {numbers}{own})"]
    if kind is initializers.TruncatedNormal:
        mean, std = initializer.mean, initializer.stddev
        numbers = ", ".join(map(literal, (mean, std, mean - 2 * std, mean + 2 * std)))
        return [f"nn.init.trunc_normal_({target}, {numbers}{own})"]
    if isinstance(initializer, initializers.VarianceScaling):
        return scaled(initializer, target, shape, own)
    if kind is initializers.Orthogonal:
        gain = "" if initializer.gain == 1 else f", {literal(initializer.gain)}"
        return [f"nn.init.orthogonal_({target}{gain}{own})"]
    if kind is initializers.Identity:
        times = "" if initializer.gain == 1 else f".mul_({literal(initializer.gain)})"
        return [f"nn.init.eye_({target}.data){times}"]
    name = getattr(initializer, "__name__", "")
    if name and getattr(nn.init, name, None) is initializer:
        return [f"nn.init.{name}({target})"]
    raise refuse(
        f"the initializer {initializer!r:.80} of {what}",
        "expected one of easydl.initializers or a function of torch.nn.init.",
    )


def scaled(
    initializer: initializers.VarianceScaling, target: str, shape: tuple[int, ...], own: str
) -> list[str]:
    """Glorot's, He's and LeCun's starts: torch's function where the numbers are the same."""
    scale, mode, distribution = initializer.scale, initializer.mode, initializer.distribution
    if (scale, mode, distribution) == (1, "fan_avg", "uniform") and len(shape) > 1:
        return [f"nn.init.xavier_uniform_({target}{own})"]
    fan_in, fan_out = initializers.fans(shape)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    std = f"math.sqrt({literal(scale)} / {literal(max(1.0, fan))})"
    why = f"  # {mode}, variance {literal(scale)} / fan"
    if distribution == "uniform":
        return [
            f"bound = math.sqrt(3) * {std}{why}",
            f"nn.init.uniform_({target}, -bound, bound{own})",
        ]
    if distribution == "truncated_normal":
        return [
            f"std = {std} / {initializers._TRUNCATED_STD!r}{why}, after cutting",
            f"nn.init.trunc_normal_({target}, 0.0, std, -2 * std, 2 * std{own})",
        ]
    return [f"nn.init.normal_({target}, 0.0, {std}{own}){why}"]


def optimizer_code(optimizer: torch.optim.Optimizer, rate: float) -> tuple[str, list[str]]:
    """``torch.optim.Adam`` and its arguments: ``lr=0.001``, ``fused=True``."""
    kind = type(optimizer)
    if getattr(torch.optim, kind.__name__, None) is not kind:
        raise refuse(f"the optimizer {kind.__name__}", "expected one of torch.optim or its name.")
    if len(optimizer.param_groups) > 1:
        raise refuse("an optimizer with several parameter groups", "expected one group.")
    group = dict(optimizer.param_groups[0])
    if not group.get("weight_decay"):
        group.pop("decoupled_weight_decay", None)  # a way to do nothing
    named = [f"lr={literal(rate)}"] + [
        f"{name}={literal(group[name])}"
        for name, parameter in inspect.signature(kind).parameters.items()
        if name not in ("params", "lr") and name in group and group[name] != parameter.default
    ]
    return f"torch.optim.{kind.__name__}", named
