"""Weights of Keras's files in the layouts of torch.

| layer | Keras | here |
|---|---|---|
| Dense | kernel (in, out) | weight (out, in) |
| Conv1D, 2D, 3D | kernel (*window, in, out) | weight (out, in, *window) |
| Conv2DTranspose | kernel (*window, out, in) | weight (in, out, *window) |
| DepthwiseConv2D, the first part of SeparableConv2D | (*window, C, m) | (C·m, 1, *window) |
| LSTM | kernel (in, 4u), gates i, f, c, o; one bias | transposed; a second bias of zeros |
| GRU | kernel (in, 3u), gates z, r, h; bias (2, 3u) | transposed, gates r, z, n; two biases |
| GRU(reset_after=False) | bias (3u,) | one bias |
| BatchNormalization | gamma, beta, moving_mean, moving_variance | the same numbers |
| PReLU | alpha (*S, C) | weight (C, *S) |

Pictures (N, H, W, C) are (N, C, H, W) here. A ``Flatten`` behind them gives its features in the
order C, H, W instead of H, W, C, so the weights that read them are sorted (a Dense's columns, a
BatchNormalization's numbers …), and so are those that write what a ``Reshape`` makes a picture of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from easydl import layers
from easydl.layers.base import label

Put = Callable[[np.ndarray], np.ndarray]


@dataclass(eq=False)
class Leaf:
    """A layer in its place.

    Attributes:
        path: where Keras 3 keeps its weights, ``"layers/sequential/layers/dense"``.
        top: number of the layer of the whole model that it is in.
        timed: whether it works at every step of sequences.
        rows, columns: channels of the picture whose flattened order the features have that it
            reads and writes; 1 where the order is Keras's.
        first: whether it reads tensors with the channels first.
    """

    layer: Any
    path: str
    top: int
    timed: bool
    rows: int = 1
    columns: int = 1
    first: bool = False
    slots: list[Slot] = field(default_factory=list)


class Slot(NamedTuple):
    """One weight of Keras: its word, its place below ``path``, its shape, what it fills here."""

    word: str
    place: str
    shape: tuple[int, ...]
    fills: list[tuple[Tensor, Put]]
    learns: bool = True


def _sorted(values: np.ndarray, channels: int) -> np.ndarray:
    """Rows in the order H, W, C of Keras as C, H, W."""
    if channels == 1:
        return values
    return values.reshape(-1, channels, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)


def slots_of(leaf: Leaf) -> list[Slot]:
    """The weights of a layer, in the order in which Keras keeps them."""
    layer, rows, columns = leaf.layer, leaf.rows, leaf.columns

    def vectors(*entries: tuple[str, Any]) -> list[Slot]:
        present = [(word, tensor) for word, tensor in entries if tensor is not None]
        return [
            Slot(
                word, f"vars/{n}", (tensor.numel(),), [(tensor, lambda v: _sorted(v, rows))],
                not word.startswith("moving"),
            )
            for n, (word, tensor) in enumerate(present)
        ]  # fmt: skip

    def biased(kernels: list[Slot], bias: Any) -> list[Slot]:
        if bias is None:
            return kernels
        place = f"vars/{len(kernels)}"
        put = lambda values: _sorted(values, columns)  # noqa: E731
        return [*kernels, Slot("bias", place, (bias.numel(),), [(bias, put)])]

    if isinstance(layer, layers.Bidirectional):
        layer = layer.layer
    if isinstance(layer, nn.RNNBase):
        return _recurrent(layer, rows)
    if isinstance(layer, layers.SeparableConv2D):
        deep, flat = _depthwise(layer.depthwise), _kernel(layer.pointwise)
        flat = flat._replace(word="pointwise_kernel", place="vars/1")
        return biased([deep, flat], layer.pointwise.bias)
    if isinstance(layer, layers.DepthwiseConv2D):
        return biased([_depthwise(layer)], layer.bias)
    if isinstance(layer, _ConvNd):
        return biased([_kernel(layer)], layer.bias)
    if isinstance(layer, nn.Linear):
        shape = layer.weight.shape[::-1]
        put = lambda values: _sorted(_sorted(values, rows).T, columns)  # noqa: E731
        return biased([Slot("kernel", "vars/0", tuple(shape), [(layer.weight, put)])], layer.bias)
    if isinstance(layer, nn.Embedding):
        weight = layer.weight
        return [Slot("embeddings", "vars/0", tuple(weight.shape), [(weight, lambda v: v)])]
    if isinstance(layer, (_BatchNorm, nn.LayerNorm, nn.GroupNorm)):
        statistics = [("moving_mean", "running_mean"), ("moving_variance", "running_var")]
        return vectors(
            ("gamma", layer.weight),
            ("beta", layer.bias),
            *((word, getattr(layer, name, None)) for word, name in statistics),
        )
    if isinstance(layer, layers.PReLU):
        return _prelu(leaf)
    if list(layer.parameters()):
        raise ValueError(
            f"{label(layer)} has weights, and easydl knows no layer of Keras that has the same; "
            "expected easydl's layers or torch's Linear, Conv, BatchNorm, LayerNorm and Embedding. "
            "Build the model without it, read the weights, and put it in."
        )
    return []


def _kernel(layer: Any) -> Slot:
    rank = len(layer.kernel_size)
    axes = (rank + 1, rank, *range(rank))
    put = lambda values: values.transpose(axes)  # noqa: E731
    channels = tuple(layer.weight.shape[1::-1])  # torch's other way round, transposed or not
    return Slot("kernel", "vars/0", (*layer.kernel_size, *channels), [(layer.weight, put)])


def _depthwise(layer: Any) -> Slot:
    shape = (*layer.kernel_size, layer.width, layer.config["depth_multiplier"])
    put = lambda values: values.transpose(2, 3, 0, 1)  # noqa: E731
    return Slot("kernel", "vars/0", shape, [(layer.weight, put)])


def _prelu(leaf: Leaf) -> list[Slot]:
    layer = leaf.layer
    sizes = tuple(layer.slopes)
    put: Put = lambda values: _sorted(values, leaf.rows)  # noqa: E731
    if leaf.first and len(sizes) > 1:
        sizes = (*sizes[1:], sizes[0])
        put = lambda values: np.moveaxis(values, -1, 0)  # noqa: E731
    return [Slot("alpha", "vars/0", sizes, [(layer.weight, put)])]


def _recurrent(layer: Any, rows: int) -> list[Slot]:
    if not hasattr(layer, "reading") or not layer.batch_first:
        raise ValueError(f"{label(layer)} is torch's own; expected easydl.LSTM, GRU or SimpleRNN.")
    units = layer.hidden_size
    order = (1, 0, 2) if isinstance(layer, nn.GRU) else range(layer.weight_ih_l0.shape[0] // units)

    def gates(values: np.ndarray) -> np.ndarray:  # (gates · units, …)
        return np.concatenate([values[gate * units : (gate + 1) * units] for gate in order])

    slots = []
    ends = {"": "forward_layer/", "_reverse": "backward_layer/"}
    for end, place in (ends if layer.bidirectional else {"": ""}).items():
        kernel, recurrent = (getattr(layer, f"weight_{word}_l0{end}") for word in ("ih", "hh"))
        entries: list[tuple[str, Any, list]] = [
            ("kernel", kernel.shape[::-1], [(kernel, lambda v: gates(_sorted(v, rows).T))]),
            ("recurrent_kernel", recurrent.shape[::-1], [(recurrent, lambda v: gates(v.T))]),
        ]
        if layer.bias:
            first = getattr(layer, f"bias_ih_l0{end}")
            fills: list[tuple[Tensor, Put]] = [(first, gates)]
            shape = tuple(first.shape)
            if getattr(layer, "reset_after", False):
                shape, second = (2, *shape), getattr(layer, f"bias_hh_l0{end}")
                fills = [(first, lambda v: gates(v[0])), (second, lambda v: gates(v[1]))]
            entries.append(("bias", shape, fills))
        slots += [
            Slot(word, f"{place}cell/vars/{n}", tuple(shape), fills)
            for n, (word, shape, fills) in enumerate(entries)
        ]
    return slots
