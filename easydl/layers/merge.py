"""Layers side by side: Inception's branches, ResNet's shortcuts, and sums of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from easydl.errors import look_up
from easydl.layers.base import (
    ANY,
    Shape,
    build_chain,
    class_axis,
    label,
    plain,
    prepare,
    setup,
    traced,
)

MERGES: dict[str, Callable[[Sequence[Any]], Any]] = {
    "add": lambda parts: reduce(torch.add, parts),
    "multiply": lambda parts: reduce(torch.mul, parts),
    "average": lambda parts: reduce(torch.add, parts) / len(parts),
    "max": lambda parts: reduce(torch.maximum, parts),
}


class Branches(nn.Module):
    """Several branches read the same input; their outputs become one, as in Inception.

    Reference:
        C. Szegedy et al. (2014), Going deeper with convolutions, arXiv:1409.4842.

    Args:
        branches: each a layer or a list of layers, applied in order; ``[]`` passes the input on.
        merge: ``"concat"``, ``"add"``, ``"multiply"``, ``"average"``, ``"max"``, or None for a
            tuple of all outputs.
        axis: along which to concatenate; None is the channels (1) of pictures and volumes, the last
            axis of (N, F). For 3-D outputs say 1 for (N, C, L) or -1 for (N, T, F).
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        what the branches take → their outputs, merged.

    Raises:
        ValueError: for an unknown merge, or outputs that do not fit together, with their shapes.

    Example:
        >>> from easydl.layers import Dense
        >>> Branches([Dense(2), [Dense(8), Dense(3)]])(torch.zeros(4, 5)).shape
        torch.Size([4, 5])
    """

    def __init__(
        self,
        branches: Sequence[Any],
        merge: str | None = "concat",
        axis: int | None = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        super().__init__()
        if not branches:
            raise ValueError(
                "branches=[] was given; expected at least one layer or list of layers."
            )
        if merge is not None:
            look_up("merge", merge, {**MERGES, "concat": None})
        setup(self, locals(), takes=ANY, gives=None)
        self.branches = nn.ModuleList(_chain(branch) for branch in branches)
        self.merge, self.axis = merge, axis

    @property
    def ways(self) -> list[Any]:
        """The chains that read the input."""
        return [[branch] for branch in self.branches]

    def build(self, input_shape: Shape) -> None:
        """Build the branches in order and compare their outputs."""
        shapes = [build_chain([branch], input_shape) for branch in self.branches]
        if self.merge == "concat":
            self.axis = _checked_axis(self, self.axis, shapes)
        elif self.merge is not None:
            _check_alike(self, shapes)
        self.built = True

    def forward(self, x: Any) -> Any:
        prepare(self, x)
        return _merged([branch(x) for branch in self.branches], self.merge, self.axis)

    def extra_repr(self) -> str:
        return f"merge={self.merge!r}"

    def to_torch(self) -> nn.Module:
        """A graph that joins the branches' torch modules."""
        merge, axis = self.merge, self.axis

        def run(x: Any, branches: Any) -> Any:
            return _merged([branch(x) for branch in branches], merge, axis)

        branches = nn.ModuleList(plain(branch) for branch in self.branches)
        return traced(run, branches=branches)


class Residual(nn.Module):
    """``layers(x) + x``: the layers learn only what is to change, so very deep networks train.

    Reference:
        K. He, X. Zhang, S. Ren, J. Sun (2015), Deep residual learning, arXiv:1512.03385.

    Args:
        layers: a layer or a list of layers, applied in order.
        shortcut: a layer or a list of layers on the way past; None passes the input on. Where the
            layers change the shape: ``Conv2D(filters, 1, strides=2)``.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        what the layers take → what they give.

    Raises:
        ValueError: if the two ways end with different shapes.

    Example:
        >>> from easydl.layers import Conv2D
        >>> Residual([Conv2D(3, 3, padding="same")])(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        layers: Any,
        shortcut: Any = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        super().__init__()
        setup(self, locals(), takes=ANY)
        self.layers = _chain(layers)
        self.shortcut = _chain([] if shortcut is None else shortcut)

    @property
    def ways(self) -> list[Any]:
        """The chains that read the input."""
        return [[self.layers], [self.shortcut]]

    def build(self, input_shape: Shape) -> None:
        """Build both ways in order and compare where they end."""
        ends = [build_chain([way], input_shape) for way in (self.layers, self.shortcut)]
        if ends[0] != ends[1]:
            raise ValueError(
                f"{label(self)} was given layers that end with shape {ends[0]} and a shortcut that "
                f"ends with {ends[1]}; expected the same. Give the shortcut a layer that changes "
                "the shape alike, for example shortcut=Conv2D(filters, 1, strides=…)."
            )
        self.built = True

    def forward(self, x: Tensor) -> Tensor:
        prepare(self, x)
        return self.layers(x) + self.shortcut(x)

    def to_torch(self) -> nn.Module:
        """A graph that adds the two ways' torch modules."""
        ways = {"layers": plain(self.layers), "shortcut": plain(self.shortcut)}

        def add(x: Any, layers: Any, shortcut: Any) -> Any:
            return layers(x) + shortcut(x)

        return traced(add, **ways)


class Concatenate(nn.Module):
    """A list of tensors, side by side along one axis; for networks of your own.

    Args:
        axis: None is the channels (1) of pictures and volumes, the last axis of (N, F). For 3-D
            tensors say 1 for (N, C, L) or -1 for (N, T, F).
        name: what summaries and messages call it.

    Shape:
        a list of tensors, alike but for ``axis`` → one tensor.

    Raises:
        ValueError: for shapes that do not fit together.

    Example:
        >>> Concatenate()([torch.zeros(4, 2), torch.ones(4, 3)]).shape
        torch.Size([4, 5])
    """

    def __init__(self, axis: int | None = None, *, name: str | None = None) -> None:
        super().__init__()
        setup(self, locals(), gives=None)
        self.axis = axis

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        shapes = _remember(self, parts)
        return torch.cat(list(parts), _checked_axis(self, self.axis, shapes))

    def to_torch(self) -> nn.Module:
        """A graph of ``torch.cat`` for as many tensors as it was last given."""
        axis = _checked_axis(self, self.axis, _remembered(self))
        return _list_graph(self, lambda parts: torch.cat(list(parts), axis))


class Add(nn.Module):
    """The sum of a list of tensors of one shape; a size of 1 is repeated.

    Args:
        name: what summaries and messages call it.

    Shape:
        a list of tensors → one tensor.

    Raises:
        ValueError: for shapes that do not fit together.

    Example:
        >>> Add()([torch.ones(2), torch.ones(2)])
        tensor([2., 2.])
    """

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__()
        setup(self, locals(), gives=None)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        _check_alike(self, _remember(self, parts))
        return MERGES["add"](parts)

    def to_torch(self) -> nn.Module:
        """A graph of ``torch.add`` for as many tensors as it was last given."""
        return _list_graph(self, MERGES["add"])


class Multiply(nn.Module):
    """The product, entry by entry, of a list of tensors of one shape; a size of 1 is repeated.

    Args:
        name: what summaries and messages call it.

    Shape:
        a list of tensors → one tensor.

    Raises:
        ValueError: for shapes that do not fit together.

    Example:
        >>> Multiply()([2 * torch.ones(2), 3 * torch.ones(2)])
        tensor([6., 6.])
    """

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__()
        setup(self, locals(), gives=None)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        _check_alike(self, _remember(self, parts))
        return MERGES["multiply"](parts)

    def to_torch(self) -> nn.Module:
        """A graph of ``torch.mul`` for as many tensors as it was last given."""
        return _list_graph(self, MERGES["multiply"])


def _chain(layers: Any) -> nn.Module:
    """A layer as it is, a list of layers as ``nn.Sequential``."""
    if isinstance(layers, nn.Module):
        return layers
    if isinstance(layers, (list, tuple)) and all(isinstance(part, nn.Module) for part in layers):
        return nn.Sequential(*layers)
    raise TypeError(
        f"{layers!r:.80} was given; expected a layer or a list of layers (instances of nn.Module)."
    )


def _merged(parts: Sequence[Any], merge: str | None, axis: Any) -> Any:
    if merge is None:
        return tuple(parts)
    return torch.cat(list(parts), axis) if merge == "concat" else MERGES[merge](parts)


def _remember(layer: Any, parts: Any) -> list[tuple[int, ...]]:
    """The shapes of a list of tensors, kept for ``to_torch``."""
    if isinstance(parts, Tensor) or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(
            f"{label(layer)} was given {type(parts).__name__}; expected a list of tensors, [a, b]."
        )
    layer.seen_shapes = [tuple(part.shape) for part in parts]
    return layer.seen_shapes


def _remembered(layer: Any) -> list[tuple[int, ...]]:
    if not hasattr(layer, "seen_shapes"):
        raise ValueError(
            f"{label(layer)} has seen no tensors, so to_torch cannot know how many to expect; call "
            "it once first."
        )
    return layer.seen_shapes


def _list_graph(layer: Any, merge: Callable[[Sequence[Any]], Any]) -> nn.Module:
    count = len(_remembered(layer))
    return traced(lambda parts: merge([parts[n] for n in range(count)]))


def _checked_axis(layer: nn.Module, axis: int | None, shapes: Sequence[Any]) -> int:
    """The axis to concatenate along, once all ``shapes`` agree on the others."""
    rank = len(shapes[0])
    if axis is None:
        if rank == 3:
            raise ValueError(
                f"{label(layer)} was given outputs of shapes {list(shapes)}, which may be "
                "(N, C, L) or (N, T, F); expected axis=1 or axis=-1."
            )
        axis = class_axis(rank)
    others = {tuple(size for n, size in enumerate(s) if n != axis % rank) for s in shapes}
    if len(others) > 1 or {len(shape) for shape in shapes} != {rank}:
        raise ValueError(
            f"{label(layer)} was given outputs of shapes {list(shapes)}; expected shapes alike in "
            f"every axis but {axis}. Padding 'same' keeps pictures alike in size."
        )
    return axis


def _check_alike(layer: nn.Module, shapes: Sequence[Any]) -> None:
    alike = all(len(set(sizes) - {1}) <= 1 for sizes in zip(*shapes))
    if not alike or len({len(shape) for shape in shapes}) > 1:
        raise ValueError(
            f"{label(layer)} was given outputs of shapes {list(shapes)}; expected the same shape."
        )
