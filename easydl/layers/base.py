"""What all layers share: their arguments, their deferred width, their checks, their way out.

A layer is any ``nn.Module``. easydl's own subclass the torch module they stand for and call the
functions below; nothing is inherited from easydl. The life of a layer:

``__init__``  ``setup(self, locals(), …)`` keeps the arguments; weights stay uninitialised.
``build``     ``start_build`` checks the shape and fixes the width, ``make_weights`` draws weights.
``forward``   ``prepare`` builds or checks, torch computes, ``activate`` applies the activation.
``to_torch``  ``twin`` (the torch class with the same arguments) or ``traced`` (a torch.fx graph).
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter, UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized

from easydl import activations, constraints, initializers, regularizers
from easydl.activations import traced as traced
from easydl.errors import check_flag, check_positive_int

Shape = Sequence[int | None]


class Takes(NamedTuple):
    """The input a layer accepts: its layout in words, its ranks, the axis that sets the width."""

    layout: str
    ranks: Sequence[int]
    axis: int | None = None


ANY = Takes("(N, …)", range(1, 99))
ROWS = Takes("(N, …, F)", range(2, 99), -1)
STEPS = Takes("(N, T, F)", (3,), -1)
LINES = Takes("(N, C, L)", (3,), 1)
PICTURES = Takes("(N, C, H, W)", (4,), 1)
VOLUMES = Takes("(N, C, D, H, W)", (5,), 1)
ANY_CHANNELS = Takes("(N, C, …)", range(2, 6), 1)
CHANNELS = {1: LINES, 2: PICTURES, 3: VOLUMES}


def setup(
    layer: Any,
    arguments: dict[str, Any],
    *,
    takes: Takes | None = None,
    gives: str | None = "as taken",
    activation: Any = None,
    weights: dict[str, str] | None = None,
) -> None:
    """Give ``layer`` the attributes of the layer protocol, read from its constructor's arguments.

    Args:
        arguments: ``locals()`` of ``__init__``; they stay as ``layer.config``, name by name.
        takes: the input accepted; None is anything, with nothing to build.
        gives: layout of 3-D output, (N, T, F) or (N, C, L); None where nobody can tell.
        activation: applied last in ``forward``; softmax acts over ``takes.axis``.
        weights: parameter name → Keras's word for it: ``{"weight": "kernel", "bias": "bias"}``
            reads ``kernel_initializer``, ``kernel_regularizer``, ``kernel_constraint`` …
    """
    names = list(inspect.signature(arguments["__class__"].__init__).parameters)[1:]
    layer.config = given = {name: arguments[name] for name in names}
    layer.name = _checked_name(given.get("name"))
    layer.given_input_shape = checked_sample_shape(given.get("input_shape"))
    layer.takes, layer.gives = takes or ANY, gives
    layer.built = takes is None
    layer.rank, layer.width, layer.smallest = None, None, None
    layer.activation = activations.get(activation, axis=layer.takes.axis or -1)
    layer.initializers, layer.penalties, layer.constraints = {}, [], []
    for name, word in (weights or {}).items():
        if getattr(layer, name) is None:  # use_bias=False
            continue
        is_buffer = name in layer._buffers  # torch's UninitializedBuffer cannot be copied
        setattr(layer, name, torch.empty(0) if is_buffer else UninitializedParameter())
        layer.initializers[name] = initializers.get(given[f"{word}_initializer"])
        penalty = regularizers.get(given.get(f"{word}_regularizer"))
        if penalty is not None:
            layer.penalties.append((name, penalty))
        constraint = constraints.get(given.get(f"{word}_constraint"))
        if constraint is not None:
            layer.constraints.append((name, constraint))
    layer.activity_regularizer = regularizers.get(given.get("activity_regularizer"))
    if layer.activity_regularizer is not None:
        keep_activities([layer], None)
        layer.register_forward_hook(_add_activity_penalty, with_kwargs=True)
    if given.get("trainable") is not None:
        layer.trainable = given["trainable"]


def parts_of(module: nn.Module) -> list[nn.Module]:
    """``module.modules()`` in the same order, a shared one each time; in a tenth of the time.

    A single row's way through ``predict`` is mostly such walks.
    """
    found, waiting = [], [module]
    while waiting:
        part = waiting.pop()
        found.append(part)
        if part._modules:
            waiting += [m for m in reversed(part._modules.values()) if m is not None]
    return found


def first_weight(module: nn.Module) -> nn.Parameter | None:
    """The first of ``module.parameters()``, without a walk through all that it has."""
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter
    for part in module._modules.values():
        found = None if part is None else first_weight(part)
        if found is not None:
            return found
    return None


def _get_trainable(layer: nn.Module) -> bool:
    """Whether the layer learns; assigning freezes or frees all in it, live."""
    return bool(layer.__dict__.get("trainable", True))  # kept as easydl.training.trainable says


def _set_trainable(layer: nn.Module, flag: Any) -> None:
    layer.__dict__["trainable"] = check_flag("trainable", flag)


trainable = property(_get_trainable, _set_trainable)


def start_build(layer: Any, input_shape: Shape) -> bool:
    """Check ``input_shape`` (batch axis first, None where open), fix the width; False if built."""
    shape = tuple(input_shape)
    check_input(layer, shape)
    if layer.built:
        return False
    layer.built_for = shape
    layer.rank, axis = len(shape), layer.takes.axis
    if axis is not None:
        if shape[axis] is None:
            raise ValueError(
                f"{label(layer)} was given the open input shape {shape}; its weights need the size "
                f"of axis {axis} of {layer.takes.layout}. Give it: input_shape={_example(layer)}."
            )
        layer.width = shape[axis]
    return True


def build_unweighted(layer: Any, input_shape: Shape) -> None:
    """``build`` of a layer without weights: the check alone."""
    layer.built = start_build(layer, input_shape) or layer.built


def make_weights(
    layer: Any,
    kernels: Callable[[Tensor], Iterable[Tensor]] = lambda weight: [weight],
    **shapes: Sequence[int],
) -> None:
    """Materialise and initialise the named parameters that the layer has, in the order given.

    Args:
        kernels: views of ``weight`` in the layout (out, in, *kernel) that initialisers read.
    """
    for name, shape in shapes.items():
        weight = getattr(layer, name)
        if weight is not None:
            if name in layer._buffers:
                setattr(layer, name, weight := weight.new_empty(shape))
            else:
                weight.materialize(tuple(shape))
            for part in kernels(weight.data) if name == "weight" else [weight]:
                fill(part, layer.initializers[name])
    layer.built = True


def fill(weight: Tensor, initializer: Callable[[Tensor], Any]) -> None:
    """``initializer`` into ``weight``, in place or by its result, whatever the weight's strides."""
    if weight.is_meta:  # it has no numbers: a file's come later
        return
    with torch.no_grad():
        values = torch.zeros(weight.shape, dtype=weight.dtype, device=weight.device)
        result = initializer(values)
        values = result if isinstance(result, Tensor) else values
        if values.shape != weight.shape:
            raise ValueError(
                f"the initializer {initializer!r} gave shape {tuple(values.shape)}; expected "
                f"{tuple(weight.shape)}, the shape of the tensor that it was given."
            )
        weight.copy_(values)


def prepare(layer: Any, x: Tensor) -> None:
    """Before computing: build from the first input, else compare its shape with the one built."""
    if layer.built:
        check_input(layer, x.shape)
    else:
        layer.build((None, *x.shape[1:]))


def can_be_left_out(module: Any) -> bool:
    """Whether this is a softmax or sigmoid that a loss may do itself: no formula of the user's."""
    known = isinstance(module, (nn.Softmax, nn.Sigmoid)) and not foreign_hooks(module)
    return known and type(module).forward.__module__.startswith(("torch.", "easydl."))


def takes_logits(module: nn.Module) -> bool:
    """Whether it can leave its last activation out, and no hook would see that it did."""
    forward = getattr(module.forward, "__func__", module.forward)
    return not foreign_hooks(module, before=False) and _names_logits(forward)


@functools.lru_cache(256)  # asked at every train_on_batch, and 10 µs of reading each time
def _names_logits(function: Any) -> bool:
    return "logits" in inspect.signature(function).parameters


def foreign_hooks(module: nn.Module, before: bool = True) -> list[Any]:
    """The forward hooks, those that run ``before`` it included, that are not easydl's own."""
    hooks = list(module._forward_hooks.values())
    hooks += module._forward_pre_hooks.values() if before else []
    functions = [getattr(hook, "func", hook) for hook in hooks]
    return [f for f in functions if not str(f.__module__).startswith("easydl.")]


def activate(layer: Any, y: Tensor, logits: bool) -> Tensor:
    """The layer's activation of ``y``, or ``y`` when the logits are asked for."""
    return y if logits or layer.activation is None else layer.activation(y)


def check_input(layer: Any, shape: Shape) -> None:
    """Compare rank, width and smallest picture with ``shape``; a handful of integer comparisons."""
    _, ranks, axis = layer.takes
    if len(shape) not in ranks:
        _refuse(layer, shape, "")
    if layer.width is not None and shape[axis] != layer.width:
        _refuse(layer, shape, "")
    if layer.smallest is not None:
        for size, least in zip(shape[2:], layer.smallest):
            if size is not None and size < least:
                _refuse(layer, shape, f"the window {tuple(layer.smallest)} does not fit into it")


def checked_sample_shape(shape: Any) -> tuple[int | None, ...] | None:
    """``20``, ``(20,)`` or ``(None, 6)`` as a tuple of whole numbers and None, open sizes."""
    if shape is None:
        return None
    sizes = (shape,) if hasattr(shape, "__index__") else tuple(shape)
    return tuple(
        None if size is None else check_positive_int("input_shape", size) for size in sizes
    )


def class_axis(rank: int) -> int:
    """Where features and classes are: the channels (1) of pictures and volumes, else the last."""
    return 1 if rank > 3 else -1


def label(layer: nn.Module) -> str:
    """How messages call the layer: ``dense_1 (Dense)``."""
    kind, name = type(layer).__name__, getattr(layer, "name", None)
    return f"{name} ({kind})" if name else kind


def output_shape(layer: nn.Module, input_shape: Any) -> Any:
    """The shape that ``layer`` gives for ``input_shape``, found by running two zero samples.

    Runs in eval mode without gradients, so nothing is drawn or counted except the weights of layers
    that this builds. Axes left open (None) are tried with two sizes and stay open if they matter.

    Args:
        layer: any ``nn.Module``; a layer not built yet is built.
        input_shape: a shape with the batch axis first, or a list of shapes for several inputs.

    Example:
        >>> output_shape(nn.Conv2d(3, 8, 3), (None, 3, None, 32))
        (None, 8, None, 30)
    """
    build(layer, input_shape)
    shapes = [tuple(shape) for shape in (input_shape if _several(input_shape) else [input_shape])]
    is_open = any(None in shape[1:] for shape in shapes)
    if is_open and has_unmade_weights(layer):
        raise ValueError(
            f"{label(layer)} was given the open input shape {input_shape} and has layers "
            "inside that are not built; give it whole sizes: input_shape=(…) on the first layer."
        )
    results = [_run_zeros(layer, shapes, _several(input_shape), 64)]
    if is_open:
        results.append(_run_zeros(layer, shapes, _several(input_shape), 96))
    if isinstance(results[0], list):
        return [same_or_open(*outputs) for outputs in zip(*results)]
    return same_or_open(*results)


def build(layer: Any, input_shape: Any) -> None:
    """``layer.build(input_shape)`` for every kind of layer that has or holds one."""
    if type(layer) is nn.Sequential:
        build_chain(layer, input_shape)
    elif hasattr(layer, "build_layers"):  # a Sequential
        layer.build_layers(tuple(input_shape[1:]), first=False)
    elif hasattr(layer, "build"):
        layer.build(input_shape)


def is_chain(module: Any) -> bool:
    """Whether the module is a list of layers: torch's Sequential or easydl's, no other family."""
    chain = isinstance(module, nn.Sequential) or hasattr(module, "build_layers")
    return chain and hasattr(module, "__len__")


def build_chain(layers: Iterable[nn.Module], input_shape: Any) -> Any:
    """Build ``layers`` one after the other; the shape that leaves the last."""
    layers = list(layers)
    for number, layer in enumerate(layers, start=1):
        check_chain(layers[:number])
        input_shape = output_shape(layer, input_shape)
    check_chain(layers)
    return input_shape


def check_chain(
    layers: Iterable[nn.Module], layout: str | None = None, source: Any = None
) -> tuple[str | None, Any]:
    """Refuse layers that read a tensor otherwise than the layers before meant it.

    3-D tensors are (N, T, F) or (N, C, L); pictures that come in as (N, H, W, C) are channels-last.
    A layer that keeps the layout passes it on, a chain or branches answer by their layers, and
    after what nobody knows (Lambda, modules of your own) anything goes. Dense and the
    normalisations tell only once they are built for 3-D inputs.

    Args:
        layout: of what comes in, where it is known; ``channels_last`` tells it from a shape.
        source: the layer that gave it.

    Returns:
        layout and source of what goes out.

    Raises:
        ValueError: naming both layers and what to put between them.

    Example:
        >>> from easydl.layers import LSTM, Conv1D
        >>> try:
        ...     check_chain([Conv1D(4, 3, name="conv"), nn.ReLU(), LSTM(4, name="lstm")])
        ... except ValueError as problem:
        ...     print(problem)
        lstm (LSTM) reads (N, T, F), but conv (Conv1D) gives (N, C, L). Put Permute((2, 1)) between.
    """
    for layer in layers:
        ways = _ways(layer)
        if ways:
            ends = [check_chain(way, layout, source) for way in ways]
            layout, source = next((end for end in ends if end[0]), (None, None))
            continue
        reads = getattr(layer, "takes", ANY).layout
        if (layout, reads) in _CLASHES:
            raise ValueError(_clash(layer, reads, source, layout))
        gives = _gives(layer, reads, layout)
        if gives != layout:
            layout, source = gives, layer
    return layout, source


CHANNELS_LAST = "(N, …, C)"
_CLASHES = {
    (STEPS.layout, LINES.layout),
    (STEPS.layout, ANY_CHANNELS.layout),
    (LINES.layout, STEPS.layout),
    (LINES.layout, ROWS.layout),
    (CHANNELS_LAST, PICTURES.layout),
    (CHANNELS_LAST, VOLUMES.layout),
    (CHANNELS_LAST, ANY_CHANNELS.layout),
}
_KEEPING = ("torch.nn.modules.activation", "torch.nn.modules.dropout")


def channels_last(sample_shape: Shape) -> str | None:
    """``CHANNELS_LAST`` for a picture or volume that is so beyond doubt, (32, 32, 3), else None."""
    *sizes, last = (size or 0 for size in sample_shape) if len(sample_shape) in (3, 4) else (0, 0)
    return CHANNELS_LAST if last in (1, 3, 4) and min(sizes) > 4 else None


def _ways(layer: Any) -> list[Any]:
    """The chains inside that read the layer's input; none where it is a layer of its own."""
    if is_chain(layer):
        return [list(layer)] if len(layer) else []
    return getattr(layer, "ways", [])


def _gives(layer: Any, reads: str, layout: str | None) -> str | None:
    gives = getattr(layer, "gives", None)
    if gives != "as taken" and type(layer).__module__ not in _KEEPING:
        return gives
    if reads in (STEPS.layout, LINES.layout):
        return reads
    if getattr(layer, "rank", None) == 3 and layout is None:
        return {ROWS.layout: STEPS.layout, ANY_CHANNELS.layout: LINES.layout}.get(reads)
    return layout


def _clash(layer: Any, reads: str, source: Any, layout: Any) -> str:
    if layout == CHANNELS_LAST:
        return (
            f"{label(layer)} reads {reads}, but samples of shape {source} have their channels "
            f"last. Turn the data, {TURN}, and write input_shape="
            f"{(source[-1], *source[:-1])}. To train on them as they are, put nn.Identity() first, "
            "or write compile(strict=False) and leave input_shape out."
        )
    ways_out = ["Put Permute((2, 1)) between"]
    for part, axis in ((layer, layout), (source, reads)):
        if "axis" in getattr(part, "config", {}):
            ways_out.append(f"write axis={-1 if axis in _STEPWISE else 1} in {label(part)}")
    if isinstance(layer, nn.Linear):
        ways_out.append("put Flatten() between")
    return (
        f"{label(layer)} reads {reads}, but {label(source)} gives {layout}. "
        f"{', or '.join(ways_out)}."
    )


_STEPWISE = (STEPS.layout, ROWS.layout)
TURN = "np.moveaxis(x, -1, 1) (in torch x.movedim(-1, 1))"


def has_unmade_weights(layer: nn.Module) -> bool:
    """Whether some parameter still waits for an input shape."""
    return any(isinstance(weight, UninitializedParameter) for weight in layer.parameters())


def twin(layer: Any, kind: type[nn.Module], **changes: Any) -> Any:
    """A ``kind`` (the torch class that ``layer`` subclasses) with its arguments and its values."""
    if has_unmade_weights(layer):
        raise ValueError(
            f"{label(layer)} has no weights yet, so to_torch has nothing to copy; build the model "
            "first: model.build(input_shape), or run one batch."
        )
    arguments = {}
    for name in inspect.signature(kind.__init__).parameters:
        if hasattr(layer, name) and name not in ("self", "device", "dtype"):
            arguments[name] = getattr(layer, name)
    if "bias" in arguments:
        arguments["bias"] = isinstance(arguments["bias"], Tensor)
    with torch.device("meta"):
        module = kind(**(arguments | changes))
    return copy_values(layer, module)


def copy_values(layer: nn.Module, module: Any) -> Any:
    """Give ``module`` copies of the parameters and buffers of ``layer``, and its mode."""
    for name, value in [
        *layer.named_parameters(recurse=False),
        *layer.named_buffers(recurse=False),
    ]:
        fresh = value.detach().clone()
        if name in module._parameters:
            fresh = Parameter(fresh, requires_grad=value.requires_grad)
        setattr(module, name, fresh)
    for name in module._parameters:
        if getattr(layer, name) is None:
            setattr(module, name, None)
    return module.train(layer.training)


def check_is_plain(layer: nn.Module) -> None:
    """Refuse what a twin, made of a layer's class and arguments, would not compute.

    Raises:
        ValueError: a formula in a subclass or in the object, hooks, pruned or parametrized weights.
    """
    from easydl.layers.custom import Layer
    from easydl.model import Model

    kind = type(layer)
    owner: Any = next((cls for cls in kind.__mro__ if "to_torch" in vars(cls)), kind)
    converts_itself = kind.__module__.startswith("easydl.") or isinstance(layer, (Layer, Model))
    same = (kind.forward, kind.__call__) == (owner.forward, owner.__call__)
    if foreign_hooks(layer) or is_parametrized(layer):
        what = "hooks or parametrizations"
    elif "forward" in vars(layer):
        what = "a forward that was set"
    elif not (same or converts_itself):
        what = "a formula of its own"
    else:
        return
    raise ValueError(
        f"{label(layer)} has {what}, which a plain torch layer would not have; expected none. For "
        f"a formula write to_torch(self) in {kind.__name__}, or the layer as an nn.Module."
    )


def plain(layer: nn.Module) -> nn.Module:
    """``layer`` with its activation as torch modules that need no easydl; values are copied."""
    if hasattr(layer, "to_torch"):
        check_is_plain(layer)
        module: nn.Module = layer.to_torch()  # type: ignore[operator]
        activation = getattr(layer, "activation", None)
        if isinstance(module, nn.Identity):  # an Activation layer
            module = plain(activation) if activation is not None else module
        elif activation is not None:
            module = nn.Sequential(module, plain(activation))
        if len({part.training for part in layer.modules()}) == 1:
            module.train(layer.training)  # else parts keep theirs: a frozen BatchNormalization
        return module
    module = copy.deepcopy(layer)
    if any(hasattr(part, "to_torch") for part in module.modules()):
        for name, child in module.named_children():
            setattr(module, name, plain(child))
    return module


def keep_activities(layers: Iterable[Any], start: float | None) -> None:
    """From now on ``layer.activity_penalty`` sums the uses of each layer from 0; None: it keeps
    nothing, since a tensor with a graph could not be copied or pickled."""
    for layer in layers:
        layer.activity_penalty = start


def _add_activity_penalty(
    layer: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: Tensor
) -> None:
    if layer.activity_penalty is None:
        return
    if options.get("logits") or (len(inputs) > 1 and inputs[1]):
        output = activate(layer, output, logits=False)
    penalty = layer.activity_regularizer(output) / len(output)
    layer.activity_penalty = layer.activity_penalty + penalty


def _checked_name(name: Any) -> str | None:
    if name is None or (isinstance(name, str) and name and "." not in name):
        return name
    raise ValueError(
        f"name={name!r} was given; expected a text without dots, for example name='encoder'."
    )


def _tokens(layer: Any) -> list[str]:
    """The layout as words, the width filled in where it is known: ``["N", "3", "H", "W"]``."""
    tokens = layer.takes.layout.strip("()").split(", ")
    if layer.width is not None:
        tokens[layer.takes.axis] = str(layer.width)
    return tokens


def _example(layer: Any) -> str:
    names = {
        "C": "3",
        "F": "20",
        "…": "10",
        "T": "None",
        "H": "32",
        "W": "32",
        "D": "16",
        "L": "100",
    }
    sizes = [names.get(token, token) for token in _tokens(layer)[1:]]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _refuse(layer: Any, shape: Shape, reason: str) -> None:
    tokens = _tokens(layer)
    given = ", ".join("N" if axis == 0 else str(size) for axis, size in enumerate(shape))
    raise ValueError(
        f"{label(layer)} was given input of shape ({given}{',' if len(shape) == 1 else ''}); "
        f"expected ({', '.join(tokens)}){': ' + reason if reason else ''}."
        f"{_way_out(layer, tuple(shape), len(tokens))}"
    )


def _way_out(layer: Any, shape: tuple[Any, ...], rank: int) -> str:
    if len(shape) < min(layer.takes.ranks):
        where = "x[:, None]" if layer.takes.axis == 1 else "x[..., None]"
        return f" An axis is missing: {where} adds one of size 1."
    if "C" in layer.takes.layout and len(shape) == rank > 3 and shape[-1] in (1, 3, 4):
        return f" If the channels are last, turn them: {TURN}."
    if None not in shape[1:] and layer.width == math.prod(shape[1:]):
        return " Put Flatten() before it."
    if len(shape) > max(layer.takes.ranks):
        return " An axis is too many; Flatten(), Reshape(…) or TimeDistributed(…) may be meant."
    return ""


def _run_zeros(layer: nn.Module, shapes: list[tuple], several: bool, size: int) -> Any:
    first = next(part for part in layer.modules() if not list(part.children()))
    like = next((p for p in layer.parameters() if p.is_floating_point()), torch.empty(0))
    dtype = torch.long if isinstance(first, nn.Embedding) else like.dtype
    batches = [
        torch.zeros(
            [2, *(size if n is None else n for n in s[1:])], dtype=dtype, device=like.device
        )
        for s in shapes
    ]
    modes = [(part, part.training) for part in layer.modules()]
    try:
        layer.eval()
        with torch.no_grad():
            result = layer(batches if several else batches[0])
    finally:
        for part, mode in modes:
            part.training = mode
    if isinstance(result, (tuple, list)):
        return [tuple(part.shape) for part in result]
    return tuple(result.shape)


def _several(input_shape: Any) -> bool:
    return bool(input_shape) and isinstance(input_shape[0], (tuple, list))


def same_or_open(*shapes: Sequence[int]) -> tuple[int | None, ...]:
    """One shape for several runs: the batch axis and the sizes that differ are None."""
    return (None, *(n[0] if len(set(n)) == 1 else None for n in list(zip(*shapes))[1:]))
