"""The layers every network has: Dense, the shapers, Lambda and Activation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easydl.errors import check_positive_int
from easydl.layers.base import (
    ANY,
    ROWS,
    STEPS,
    Shape,
    Takes,
    activate,
    build_unweighted,
    class_axis,
    label,
    make_weights,
    prepare,
    setup,
    start_build,
    traced,
    twin,
)


class Dense(nn.Linear):
    """A fully connected layer: ``activation(x Wᵀ + b)`` on the last axis.

    Args:
        units: width of the output.
        activation: a name, a module or a function; None is linear.
        use_bias: add b.
        kernel_initializer, bias_initializer: how W and b start.
        kernel_regularizer, bias_regularizer: penalties on W and b, added to the loss.
        activity_regularizer: penalty on the output, per sample.
        kernel_constraint, bias_constraint: applied to W and b after every step.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.
        input_dim: the same for flat samples: ``input_dim=20`` is ``input_shape=(20,)``.
        trainable: False freezes it.

    Shape:
        (N, …, F) → (N, …, units).

    Raises:
        ValueError: for units below 1, an unknown name, or an input of another width.

    Example:
        >>> Dense(10, activation="softmax")(torch.zeros(4, 20)).shape
        torch.Size([4, 10])
    """

    width: int

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
        input_dim: int | None = None,
        trainable: bool | None = None,
    ) -> None:
        units = check_positive_int("units", units)
        if input_dim is not None:
            input_shape = (check_positive_int("input_dim", input_dim),)
        super().__init__(1, units, bias=use_bias, device="meta")
        setup(
            self,
            locals(),
            takes=ROWS,
            activation=activation,
            weights={"weight": "kernel", "bias": "bias"},
        )
        self.in_features = 0

    def build(self, input_shape: Shape) -> None:
        """Make the weights for inputs of ``input_shape``."""
        if start_build(self, input_shape):
            self.in_features = self.width
            make_weights(
                self, weight=(self.out_features, self.in_features), bias=(self.out_features,)
            )

    def forward(self, x: Tensor, logits: bool = False) -> Tensor:
        prepare(self, x)
        return activate(self, super().forward(x), logits)

    def to_torch(self) -> nn.Linear:
        """The same as ``nn.Linear``."""
        return twin(self, nn.Linear)


class Flatten(nn.Flatten):
    """All axes but the batch in one.

    Channels-first pictures flatten in the order C, H, W, as in torch; Keras files have H, W, C.

    Args:
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, …) → (N, product of …).

    Example:
        >>> Flatten()(torch.zeros(4, 3, 8, 8)).shape
        torch.Size([4, 192])
    """

    def __init__(self, *, name: str | None = None, input_shape: Shape | None = None) -> None:
        super().__init__()
        setup(self, locals(), gives=None)

    def to_torch(self) -> nn.Flatten:
        """The same as ``nn.Flatten``."""
        return nn.Flatten()


class Reshape(nn.Module):
    """The entries of each sample in another shape.

    Args:
        target_shape: the new sample shape, without the batch axis; one size may be -1.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, …) → (N, *target_shape).

    Raises:
        ValueError: if the entries do not fill the new shape.

    Example:
        >>> Reshape((3, -1))(torch.zeros(4, 12)).shape
        torch.Size([4, 3, 4])
    """

    def __init__(
        self,
        target_shape: Sequence[int] | int,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        super().__init__()
        setup(self, locals(), takes=ANY, gives=None)
        sizes = (target_shape,) if isinstance(target_shape, int) else tuple(target_shape)
        for size in sizes:
            if size != -1:
                check_positive_int("target_shape", size)
        if sizes.count(-1) > 1 or not sizes:
            raise ValueError(
                f"target_shape={target_shape!r} was given; expected sizes of which at most one is "
                "-1 (computed from the others), for example (28, -1)."
            )
        self.target_shape = sizes

    def build(self, input_shape: Shape) -> None:
        """Check that ``input_shape`` fills the new shape."""
        self.built = True
        sizes: tuple[Any, ...] = tuple(input_shape)[1:]
        if None in sizes:
            return
        entries, target = math.prod(sizes), abs(math.prod(self.target_shape))
        if entries != target and (-1 not in self.target_shape or entries % target):
            raise ValueError(
                f"{label(self)} was given samples of shape {sizes}, {entries} entries; "
                f"target_shape={self.target_shape} needs "
                f"{'a multiple of ' if -1 in self.target_shape else ''}{target}."
            )

    def forward(self, x: Tensor) -> Tensor:
        self.build(x.shape)
        return x.reshape(x.shape[0], *self.target_shape)

    def extra_repr(self) -> str:
        return f"target_shape={self.target_shape}"

    def to_torch(self) -> nn.Module:
        """``nn.Flatten`` and ``nn.Unflatten``."""
        return nn.Sequential(nn.Flatten(), nn.Unflatten(1, self.target_shape))


_LAYOUTS = {
    rank: Takes(f"({', '.join(['N', *(f'axis {n + 1}' for n in range(rank))])})", (rank + 1,))
    for rank in range(1, 8)
}


class Permute(nn.Module):
    """The axes of each sample in another order; ``Permute((2, 1))`` turns (N, T, F) to (N, C, L).

    Args:
        dims: the axes in their new order, counted from 1; the batch axis stays.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, …) → (N, … in the new order).

    Raises:
        ValueError: if ``dims`` is no order of 1, 2, …, or the input has another rank.

    Example:
        >>> Permute((2, 1))(torch.zeros(4, 10, 3)).shape
        torch.Size([4, 3, 10])
    """

    def __init__(
        self, dims: Sequence[int], *, name: str | None = None, input_shape: Shape | None = None
    ) -> None:
        super().__init__()
        self.dims = tuple(dims)
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise ValueError(
                f"dims={self.dims} was given; expected each of 1 to {len(self.dims)} once (0, the "
                "batch axis, stays), for example dims=(2, 1)."
            )
        setup(self, locals(), takes=_LAYOUTS.get(len(self.dims), ANY), gives=None)

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        prepare(self, x)
        return x.permute(0, *self.dims)

    def extra_repr(self) -> str:
        return f"dims={self.dims}"

    def to_torch(self) -> nn.Module:
        """A graph of ``Tensor.permute``."""
        dims = self.dims
        return traced(lambda x: x.permute(0, *dims))


class RepeatVector(nn.Module):
    """The same vector at each of ``n`` steps: what a decoder reads in sequence to sequence.

    Args:
        n: number of steps.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, F) → (N, n, F).

    Raises:
        ValueError: for n below 1 or an input that is no vector per sample.

    Example:
        >>> RepeatVector(3)(torch.zeros(4, 5)).shape
        torch.Size([4, 3, 5])
    """

    def __init__(
        self, n: int, *, name: str | None = None, input_shape: Shape | None = None
    ) -> None:
        super().__init__()
        self.n = check_positive_int("n", n)
        setup(self, locals(), takes=Takes("(N, F)", (2,)), gives=STEPS.layout)

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        prepare(self, x)
        return x.unsqueeze(1).repeat(1, self.n, 1)

    def extra_repr(self) -> str:
        return f"n={self.n}"

    def to_torch(self) -> nn.Module:
        """A graph of ``Tensor.repeat``."""
        n = self.n
        return traced(lambda x: x.unsqueeze(1).repeat(1, n, 1))


class Lambda(nn.Module):
    """A function of one tensor as a layer.

    For weights or state write an ``nn.Module`` or a ``Layer`` instead.

    Args:
        function: tensor → tensor.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        what the function makes of it.

    Raises:
        TypeError: if ``function`` cannot be called, or in ``to_torch`` if torch.fx cannot read it.

    Example:
        >>> Lambda(lambda x: 2 * x)(torch.ones(2))
        tensor([2., 2.])
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        super().__init__()
        if not callable(function):
            raise TypeError(
                f"function={function!r} was given; expected a function of one tensor, for example "
                "Lambda(lambda x: x / 255)."
            )
        self.function = function
        setup(self, locals(), takes=ANY, gives=None)

    def build(self, input_shape: Shape) -> None:
        """Remember ``input_shape``, on which ``to_torch`` tries its graph out."""
        self.built, self.seen_shape = True, tuple(input_shape)

    def forward(self, x: Tensor) -> Tensor:
        if not self.built:
            self.build((None, *x.shape[1:]))
        return self.function(x)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def to_torch(self) -> nn.Module:
        """A torch.fx graph of the function, compared with it on one input."""
        graph = traced(self.function)
        if self.built and not self._agrees(graph):
            raise TypeError(
                f"{label(self)} holds a function that torch.fx cannot read: its graph gives other "
                "numbers (random numbers or a branch on values are fixed while reading). Write it "
                "with torch.rand_like(x) and torch.where, or as an nn.Module."
            )
        return graph

    def _agrees(self, graph: nn.Module) -> bool:
        shape = [2, *(8 if size is None else size for size in self.seen_shape[1:])]
        x = torch.linspace(-1, 1, math.prod(shape)).reshape(shape)
        results = []
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for run in (self.function, graph):
                torch.random.default_generator.manual_seed(0)
                results.append(run(x))
        return torch.equal(*results)


class Activation(nn.Module):
    """An activation as a layer of its own.

    Args:
        activation: a name, a module or a function; softmax acts over the channels of pictures and
            over the last axis elsewhere.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Raises:
        ValueError: for an unknown name, with the nearest match.

    Example:
        >>> Activation("relu")(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    built: bool
    config: dict[str, Any]

    def __init__(
        self, activation: Any, *, name: str | None = None, input_shape: Shape | None = None
    ) -> None:
        super().__init__()
        setup(self, locals(), takes=ANY, activation=activation)

    def build(self, input_shape: Shape) -> None:
        """Learn from the rank which axis holds the classes."""
        named = not isinstance(self.config["activation"], nn.Module)
        if not self.built and named and isinstance(self.activation, (nn.Softmax, nn.LogSoftmax)):
            self.activation.dim = class_axis(len(input_shape))
        self.built = True

    def forward(self, x: Tensor, logits: bool = False) -> Tensor:
        prepare(self, x)
        return activate(self, x, logits)

    def to_torch(self) -> nn.Identity:
        """``nn.Identity``: the activation is the model's to add."""
        return nn.Identity()
