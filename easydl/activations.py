"""Activation functions by name: Keras's names, torch's modules.

Where Keras and torch disagree on a default, the Keras name means what Keras means
(``"leaky_relu"`` has slope 0.2, as ``keras.activations.leaky_relu``; the layer LeakyReLU 0.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from easydl.errors import look_up

TABLE: dict[str, Callable[[], nn.Module] | None] = {
    "linear": None,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "celu": nn.CELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "mish": nn.Mish,
    "sigmoid": nn.Sigmoid,
    "hard_sigmoid": nn.Hardsigmoid,
    "log_sigmoid": nn.LogSigmoid,
    "tanh": nn.Tanh,
    "hard_tanh": nn.Hardtanh,
    "tanh_shrink": nn.Tanhshrink,
    "soft_shrink": nn.Softshrink,
    "hard_shrink": nn.Hardshrink,
    "hard_silu": nn.Hardswish,
    "hard_swish": nn.Hardswish,
    "softmax": nn.Softmax,
    "log_softmax": nn.LogSoftmax,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "exponential": lambda: traced(torch.exp),
}

# These functions get their module, so that a model can see that its last activation is a softmax.
_MODULE_OF: dict[Any, str] = {
    torch.relu: "relu",
    F.relu: "relu",
    torch.tanh: "tanh",
    F.tanh: "tanh",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    torch.softmax: "softmax",
    F.softmax: "softmax",
    torch.log_softmax: "log_softmax",
    F.log_softmax: "log_softmax",
    F.logsigmoid: "log_sigmoid",
}


def get(spec: Any, *, axis: int = -1) -> nn.Module | None:
    """The module that ``spec`` means; None for no activation (``None``, ``"linear"``).

    Args:
        spec: a name, a module, a module class (``nn.ReLU``) or a function of one tensor
            (``torch.sin``; read with ``torch.fx``, so it must not branch on values).
        axis: the class axis for softmax and log-softmax, 1 in convolutions.

    Raises:
        ValueError: for an unknown name, with the nearest match.
        TypeError: for anything that cannot be called or read.

    Example:
        >>> get("relu"), get("linear")
        (ReLU(), None)
        >>> get("softmax", axis=1)
        Softmax(dim=1)
    """
    if spec is not None and not isinstance(spec, str) and not callable(spec):
        raise TypeError(
            f"activation={spec!r} was given; expected None, a name such as 'relu', an nn.Module "
            "such as nn.ReLU() or a function of one tensor such as torch.sin."
        )
    if not isinstance(spec, nn.Module):
        spec = _MODULE_OF.get(spec, spec)
    if isinstance(spec, str):
        spec = look_up("activation", spec, TABLE)
        module = spec() if spec else None
    elif isinstance(spec, type):
        module = spec()
    else:
        module = spec if spec is None or isinstance(spec, nn.Module) else traced(spec)
    if isinstance(module, (nn.Softmax, nn.LogSoftmax)) and module.dim is None:
        module = type(module)(dim=axis)  # torch would guess the axis from the rank
    return module


def traced(function: Callable[..., Any], **parts: Any) -> fx.GraphModule:
    """A plain torch module that computes ``function(x, **parts)`` and needs no easydl.

    ``torch.fx`` records the operations once; ``parts`` are the modules and parameters that the
    function uses, kept whole. Sizes read from ``x.shape`` stay open; Python ``if`` on them cannot.

    Raises:
        TypeError: if torch.fx cannot read the function.

    Example:
        >>> traced(lambda x, line: line(x) + 1, line=nn.Identity())(torch.ones(2))
        tensor([2., 2.])
    """

    class Root(nn.Module):
        def forward(self, x: Any) -> Any:
            return function(x, **{name: getattr(self, name) for name in parts})

    root = Root()
    for name, part in parts.items():
        setattr(root, name, part)
    return trace_module(root)


def trace_module(module: nn.Module) -> fx.GraphModule:
    """``module`` as a graph of torch operations and of its children, which it shares."""

    class WholeChildren(fx.Tracer):  # local: a graph remembers, and would pickle, a public tracer
        def is_leaf_module(self, child: nn.Module, name: str) -> bool:
            return True

    try:
        graph = WholeChildren().trace(module)
        for node in graph.nodes:
            node.type = None  # an annotation, as text, which torch 2.11 could not pickle
        return fx.GraphModule(module, graph)
    except Exception as problem:
        raise TypeError(
            f"torch.fx cannot read {getattr(module, 'name', None) or type(module).__name__} as "
            f"torch operations ({str(problem)[:200]}). Write it without Python branches on "
            "tensors, or as an nn.Module, which every layer list takes."
        ) from problem
