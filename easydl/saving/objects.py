"""Layers, losses, optimizers … as JSON and back: ``{"name": …, "arguments": {…}}``.

Names are looked up in one closed table, the user's own in ``custom_objects``; nothing is imported
and nothing else is called. Arguments are numbers, texts, lists, small tensors and such objects.
"""

from __future__ import annotations

import enum
import functools
import inspect
import math
import numbers
import re
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from easydl.errors import did_you_mean, listed

#: modules of ``torch.nn`` whose arguments can be read off their attributes
TORCH = re.findall(
    r"\w+",
    """
    Linear Bilinear Identity Flatten Unflatten Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d
    ConvTranspose3d BatchNorm1d BatchNorm2d BatchNorm3d InstanceNorm1d InstanceNorm2d InstanceNorm3d
    GroupNorm LayerNorm RMSNorm LocalResponseNorm Dropout Dropout1d Dropout2d Dropout3d AlphaDropout
    FeatureAlphaDropout Embedding EmbeddingBag RNN LSTM GRU RNNCell LSTMCell GRUCell
    MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d LPPool1d LPPool2d
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d
    AdaptiveMaxPool3d Upsample UpsamplingNearest2d UpsamplingBilinear2d PixelShuffle PixelUnshuffle
    ChannelShuffle Fold Unfold ZeroPad1d ZeroPad2d ZeroPad3d ConstantPad1d ConstantPad2d
    ConstantPad3d ReflectionPad1d ReflectionPad2d ReflectionPad3d ReplicationPad1d ReplicationPad2d
    ReplicationPad3d CircularPad1d CircularPad2d CircularPad3d
    ReLU ReLU6 LeakyReLU PReLU RReLU ELU CELU SELU GELU GLU SiLU Mish Sigmoid Hardsigmoid LogSigmoid
    Tanh Hardtanh Tanhshrink Softshrink Hardshrink Hardswish Softmax Softmax2d LogSoftmax Softmin
    Softplus Softsign Threshold
    MSELoss L1Loss SmoothL1Loss HuberLoss CrossEntropyLoss NLLLoss BCELoss BCEWithLogitsLoss
    KLDivLoss PoissonNLLLoss SoftMarginLoss MultiLabelMarginLoss MultiLabelSoftMarginLoss
    MultiMarginLoss
    """,
)
_RECURRENT = (
    "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional",
)  # fmt: skip
_KEPT_AS = {"thresholds": "threshold"}  # constructor argument → attribute, where they differ
LARGEST_ARRAY, DEEPEST, MOST_LAYERS, MOST_MODULES = 10_000, 100, 1000, 50_000


@functools.cache
def table() -> dict[str, Any]:
    """Every name that a file may hold, and what it means."""
    from easydl import (
        autoencoders,
        boltzmann,
        constraints,
        initializers,
        kalman,
        layers,
        losses,
        metrics,
        optimizers,
        regularizers,
        schedules,
        semisupervised,
        variational,
    )
    from easydl.data.pictures import Transforms
    from easydl.model import Model
    from easydl.sequential import Sequential
    from easydl.vision.classifier import Classifier

    found: dict[str, Any] = {"Sequential": Sequential, "Model": Model}
    found |= {"vision.Classifier": Classifier, "vision.Transforms": Transforms}
    found |= {name: getattr(layers, name) for name in layers.__all__}
    del found["Input"], found["Layer"], found["Swish"]  # no layers of their own
    for room in (autoencoders, boltzmann, kalman, semisupervised, variational):
        found |= {name: getattr(room, name) for name in room.__all__}
    found |= {f"torch.nn.{name}": getattr(nn, name) for name in ["Sequential", *TORCH]}
    rooms = (constraints, initializers, losses, metrics, optimizers, regularizers, schedules)
    for room in rooms:
        for name, value in vars(room).items():
            own = str(getattr(value, "__module__", "")).startswith(room.__name__)
            if own and isinstance(value, type) and value.__name__ == name and name[0] != "_":
                found[f"{room.__name__.removeprefix('easydl.')}.{name}"] = value
    for name in ["FromTorch", "Optimizer", "Ready"]:
        del found[f"optimizers.{name}"]
    for name in ["LearningRateSchedule", "StepScheduler", "TorchSchedule"]:
        del found[f"schedules.{name}"]
    for name, function in vars(losses).items():
        if inspect.isfunction(function) and "y_pred" in inspect.signature(function).parameters:
            found[f"losses.{name}"] = function
    for name, value in vars(torch.optim).items():
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer):
            found[f"torch.optim.{name}"] = value
    del found["torch.optim.Optimizer"], found["torch.optim.LBFGS"]
    return found


@functools.cache
def names() -> dict[int, str]:
    """``table`` the other way round, by identity."""
    return {id(value): name for name, value in reversed(table().items())}


class Encoder:
    """Values as JSON, with the user's own classes and functions by name.

    Attributes:
        used: the user's objects that were met, by the name written.

    Args:
        custom: names for objects that have none: lambdas, partials.
    """

    def __init__(self, custom: dict[str, Any] | None = None) -> None:
        self.given = {id(value): name for name, value in (custom or {}).items()}
        self.used: dict[str, Any] = {}
        self._seen: dict[int, int] = {}

    def encode(self, value: Any, where: str) -> Any:
        """``value`` as JSON.

        Raises:
            ValueError: what cannot be written, by its place ``where``, and what to do.
        """
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str) and not isinstance(value, enum.Enum):
            return str(value)
        if isinstance(value, np.bool_):
            return bool(value)
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, numbers.Real):
            return float(value) if math.isfinite(value) else {"float": repr(float(value))}
        if isinstance(value, list):
            return [self.encode(item, f"{where}[{n}]") for n, item in enumerate(value)]
        if isinstance(value, tuple):
            return {"tuple": [self.encode(item, f"{where}[{n}]") for n, item in enumerate(value)]}
        if isinstance(value, dict):
            pairs = value.items()
            return {
                "dict": [
                    [self.encode(k, where), self.encode(v, f"{where}[{k!r}]")] for k, v in pairs
                ]
            }
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, (Tensor, np.ndarray)) and math.prod(value.shape) <= LARGEST_ARRAY:
            kind = "tensor" if isinstance(value, Tensor) else "array"
            dtype = str(value.dtype).removeprefix("torch.")
            return {kind: self.encode(value.tolist(), where), "dtype": dtype}
        return self._object(value, where)

    def _object(self, value: Any, where: str) -> Any:
        from easydl import activations, losses, optimizers, schedules

        if id(value) in self.given:
            return self._custom(self.given[id(value)], value)
        if isinstance(value, (optimizers.FromTorch, schedules.TorchSchedule)):
            return self.encode(value.maker, where)
        if isinstance(value, functools.partial) and value.func is losses._turned:
            return self.encode(value.args[0], where)
        if id(value) in names():
            return {"ref": names()[id(value)]}
        if inspect.isfunction(value) or inspect.isclass(value) or inspect.isbuiltin(value):
            if value in activations._MODULE_OF:
                return activations._MODULE_OF[value]
            if value.__name__.isidentifier():
                return self._custom(value.__name__, value)
        module = isinstance(value, nn.Module)
        if module and id(value) in self._seen:
            return {"again": self._seen[id(value)]}
        kind = type(value)
        if kind.__module__ in ("builtins", "functools", "types") or inspect.isroutine(value):
            raise ValueError(
                f"{where[:150]} is {value!r:.100}, which has no name to be found by; expected a "
                "function made by def, an easydl object, or a name for it: "
                "model.save(path, custom_objects={'my_name': it}), and the same in load_model. "
                "save_weights writes the weights alone."
            )
        place = f"{where}.{kind.__name__}" if where else kind.__name__
        entry: dict[str, Any] = {"name": names().get(id(kind))}
        if entry["name"] is None:
            self._custom(self.given.get(id(kind), kind.__name__), kind)
            entry = {"custom": self.given.get(id(kind), kind.__name__)}
        entry["arguments"] = {
            name: self.encode(argument, f"{place}({name})")
            for name, argument in arguments_of(value, place).items()
        }
        if module:
            self._seen[id(value)] = len(self._seen)
        return entry

    def _custom(self, name: str, value: Any) -> dict[str, str]:
        if self.used.setdefault(name, value) is not value:
            raise ValueError(
                f"two different objects are called {name!r}; expected a name for each: "
                f"model.save(path, custom_objects={{'{name}': …, 'other_name': …}})."
            )
        return {"custom": name}


def arguments_of(value: Any, where: str) -> dict[str, Any]:
    """The constructor's arguments, from ``get_config``, ``config`` or attributes of their names."""
    from easydl.optimizers import Optimizer

    found = _kept_arguments(value, where)
    if isinstance(value, Optimizer) and value.schedule is not None:
        if found.get("learning_rate") is None:
            raise ValueError(
                f"{where[:150]} has a schedule, of which its arguments {listed(found)} tell the "
                "file nothing; expected one called learning_rate."
            )
        found["learning_rate"] = value.schedule  # whose first rate self.learning_rate is
    return found


def _kept_arguments(value: Any, where: str) -> dict[str, Any]:
    from easydl.sequential import Sequential

    kind = type(value)
    if callable(getattr(value, "get_config", None)):
        return dict(value.get_config())
    if isinstance(value, enum.Enum):
        return {"value": value.value}
    if kind is nn.Sequential:
        return {"layers": dict(value._modules)}
    if kind is Sequential:
        return {"layers": list(value._modules.values()), "name": value.name}
    own = next(base for base in kind.__mro__ if "__init__" in base.__dict__)
    if own.__module__.startswith("easydl.layers.") and hasattr(value, "config"):
        return value.config
    if isinstance(value, nn.RNNBase) and id(kind) in names():
        extra = {nn.RNN: ["nonlinearity"], nn.LSTM: ["proj_size"]}.get(kind, [])
        return {name: getattr(value, name) for name in [*_RECURRENT, *extra]}
    torch_own = names().get(id(kind), "").startswith("torch.nn.")
    kept = getattr(value, "config", {})  # of easydl's layers, which the user's may extend
    if "options" in vars(value) and kind.__module__ == "easydl.losses":
        kept = value.options
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        attribute = _KEPT_AS.get(name, name)
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= {key: item for key, item in kept.items() if item is not None}
        elif name in ("trainable", "input_shape") and name in kept:
            found[name] = kept[name]
        elif hasattr(value, attribute):
            given = getattr(value, attribute)
            if torch_own and name == "bias" and (given is None or isinstance(given, Tensor)):
                given = given is not None
            if not torch_own or given is not parameter.default:
                found[name] = given
        elif name in kept:
            found[name] = kept[name]
        elif not torch_own or (name[0] != "_" and parameter.default is not None):
            advice = (
                "Write model.save_weights('w.safetensors'); to get it back make the network again "
                "and write load_weights('w.safetensors')."
            )
            if where.startswith("compile("):
                advice = (
                    "Write model.save(path, custom_objects={'mine': that object}) and load_model("
                    f"path, custom_objects={{'mine': {kind.__name__:.40}(…)}}); or compile without "
                    "it; or save_weights."
                )
            raise ValueError(
                f"{where[:150]} does not keep its argument {name!r}, so the file could not tell "
                f"how to make it again. {advice} In a class of your own expected self.{name}, or a "
                "method get_config(self) that returns the constructor's arguments."
            )
    if kind.__name__ == "Loss" and kind.__module__ == "easydl.losses":
        found |= value.options
    return found


class Decoder:
    """JSON of an ``Encoder`` as values again, with every name looked up.

    Attributes:
        used: whether an object of the user was made.

    Args:
        custom: the user's classes and functions by name.
    """

    def __init__(self, custom: dict[str, Any] | None = None) -> None:
        self.custom, self.used = custom or {}, False
        self._made: list[nn.Module] = []
        self._sizes: dict[int, int] = {}  # modules in each, shared ones as often as they are there

    def decode(self, value: Any, depth: int = 0) -> Any:
        """The value that was encoded.

        Raises:
            ValueError: a name that is neither easydl's nor in ``custom``, or another form.
        """
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, list):
            return [self.decode(item, depth + 1) for item in value]
        form = tuple(value)
        if form == ("tuple",) and isinstance(value["tuple"], list):
            return tuple(self.decode(value["tuple"], depth + 1))
        if form == ("dict",) and isinstance(value["dict"], list):
            return {self.decode(k, depth + 1): self.decode(v, depth + 1) for k, v in value["dict"]}
        if form == ("float",) and value["float"] in ("nan", "inf", "-inf"):
            return float(value["float"])
        if form == ("dtype",):
            return _dtype(value["dtype"])
        if form == ("tensor", "dtype"):
            return torch.tensor(
                self.decode(value["tensor"], depth + 1),
                dtype=_dtype(value["dtype"]),
                device="cpu",
            )
        if form == ("array", "dtype"):
            dtype = np.dtype(str(value["dtype"]))
            if dtype.kind not in "biuf":
                raise ValueError(f"an array of {dtype!s:.40}")
            return np.array(self.decode(value["array"], depth + 1), dtype)
        if form == ("again",) and type(value["again"]) is int:
            return self._made[value["again"]]
        if form == ("ref",):
            return self._look_up(value["ref"])
        if form == ("custom",):
            return self._look_up_custom(value["custom"])
        if len(form) == 2 and form[1] == "arguments" and isinstance(value["arguments"], dict):
            if form[0] == "name":
                kind = self._look_up(value["name"])
            elif form[0] == "custom":
                kind = self._look_up_custom(value["custom"])
                self.used = True
            else:
                raise ValueError(f"an entry of the form {form!s:.80}")
            arguments = {k: self.decode(v, depth + 1) for k, v in value["arguments"].items()}
            made = _make(kind, arguments)
            if isinstance(made, nn.Module):
                self._made.append(made)
                parts = [self._sizes.get(id(part), 1) for part in made._modules.values()]
                self._sizes[id(made)] = 1 + sum(parts)
                if self._sizes[id(made)] > MOST_MODULES:
                    raise ValueError(f"it has more than {MOST_MODULES:,} layers")
            return made
        raise ValueError(f"an entry of the form {form!s:.80}")

    def _look_up(self, name: Any) -> Any:
        if not isinstance(name, str) or name not in table():
            raise ValueError(did_you_mean("name", name, table())[:260])
        return table()[name]

    def _look_up_custom(self, name: Any) -> Any:
        if not isinstance(name, str) or name not in self.custom:
            raise ValueError(
                f"it names {name!r:.80}, which is not easydl's: write "
                f"load_model(path, custom_objects={{{name!r:.80}: …}}) with that class or function"
            )
        return self.custom[name]


def _dtype(name: Any) -> torch.dtype:
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"the dtype {name!r:.40}")
    return dtype


def _make(kind: Any, arguments: dict[str, Any]) -> Any:
    from easydl.sequential import Sequential

    if not isinstance(kind, type):
        raise ValueError(f"arguments for {kind!r:.60}, which is no class")
    count = arguments.get("num_layers", 1)
    if isinstance(count, int) and count > MOST_LAYERS:
        raise ValueError(f"num_layers={count}, more than {MOST_LAYERS}")
    if kind is nn.Sequential:
        return nn.Sequential(OrderedDict(arguments["layers"]))
    if kind is Sequential:  # layers are built later, each for its own shape
        model = Sequential(name=arguments["name"])
        for number, layer in enumerate(arguments["layers"]):
            model.add_module(str(number), layer)
        return model
    positional = ("function", "name") if kind.__name__ == "Loss" else ()
    return kind(*[arguments.pop(name) for name in positional if name in arguments], **arguments)
