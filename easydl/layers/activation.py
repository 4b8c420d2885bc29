"""Activations as layers of their own; ``activation="…"`` on a layer does the same in one line.

All but PReLU work on any shape. Where Keras's default differs from torch's it is Keras's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easydl.errors import check_between, check_positive_int
from easydl.layers.base import (
    ANY,
    Shape,
    class_axis,
    label,
    make_weights,
    prepare,
    setup,
    traced,
    twin,
)


class ReLU(nn.ReLU):
    """``max(x, 0)``: cheap, and its gradient does not vanish for positive sums.

    Reference:
        X. Glorot, A. Bordes, Y. Bengio (2011), Deep sparse rectifier neural networks.

    Args:
        max_value: the largest output; None is no limit.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Example:
        >>> ReLU(max_value=6)(torch.tensor([-1.0, 2.0, 8.0]))
        tensor([0., 2., 6.])
    """

    def __init__(
        self,
        max_value: float | None = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        super().__init__()
        if max_value is not None:
            max_value = check_between("max_value", max_value, 0, math.inf, ends="(]")
        self.max_value = max_value
        setup(self, locals())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.max_value is None else x.clamp(0.0, self.max_value)

    def to_torch(self) -> nn.Module:
        """``nn.ReLU``, or ``nn.Hardtanh`` from 0 to ``max_value``."""
        return nn.ReLU() if self.max_value is None else nn.Hardtanh(0.0, self.max_value)


class LeakyReLU(nn.LeakyReLU):
    """``x`` where positive, ``negative_slope · x`` elsewhere: no unit dies.

    Args:
        negative_slope: 0.3, as in Keras (torch's default is 0.01).
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Example:
        >>> LeakyReLU()(torch.tensor([-10.0, 2.0]))
        tensor([-3.,  2.])
    """

    def __init__(
        self,
        negative_slope: float = 0.3,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        super().__init__(check_between("negative_slope", negative_slope, 0, math.inf))
        setup(self, locals())

    def to_torch(self) -> nn.LeakyReLU:
        """The same as ``nn.LeakyReLU``."""
        return twin(self, nn.LeakyReLU)


class ELU(nn.ELU):
    """``x`` where positive, ``alpha · (eˣ − 1)`` elsewhere.

    Reference:
        D.-A. Clevert, T. Unterthiner, S. Hochreiter (2015), arXiv:1511.07289.

    Args:
        alpha: the limit for very negative x is ``-alpha``.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Example:
        >>> ELU()(torch.tensor([0.0, 2.0]))
        tensor([0., 2.])
    """

    def __init__(
        self, alpha: float = 1.0, *, name: str | None = None, input_shape: Shape | None = None
    ) -> None:
        super().__init__(check_between("alpha", alpha, 0, math.inf))
        setup(self, locals())

    def to_torch(self) -> nn.ELU:
        """The same as ``nn.ELU``."""
        return twin(self, nn.ELU)


class Softmax(nn.Softmax):
    """``e^{x_k} / Σ_j e^{x_j}``: one probability per class.

    Args:
        axis: of the classes; None is the channels of pictures (axis 1) and the last axis elsewhere.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Example:
        >>> Softmax()(torch.zeros(1, 4))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def __init__(
        self,
        axis: int | None = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        super().__init__(axis)
        setup(self, locals(), takes=ANY)

    def build(self, input_shape: Shape) -> None:
        """Learn from the rank which axis holds the classes."""
        if self.dim is None:
            self.dim = class_axis(len(input_shape))
        self.built = True

    def forward(self, x: Tensor) -> Tensor:
        prepare(self, x)
        return super().forward(x)

    def to_torch(self) -> nn.Softmax:
        """The same as ``nn.Softmax``."""
        return twin(self, nn.Softmax)


class PReLU(nn.PReLU):
    """``x`` where positive, ``α · x`` elsewhere, with a learned α for every entry of a sample.

    Reference:
        K. He et al. (2015), Delving deep into rectifiers, arXiv:1502.01852.

    Args:
        alpha_initializer: how α starts.
        alpha_regularizer: penalty on α, added to the loss.
        alpha_constraint: applied to α after every step.
        shared_axes: axes, counted from 1, along which α is one: ``(2, 3)`` gives a picture one α
            per channel, as ``nn.PReLU`` has.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.
        trainable: False freezes it.

    Shape:
        (N, …) → the same.

    Raises:
        ValueError: for an axis that the input has not, or samples of another shape.

    Example:
        >>> PReLU("ones")(torch.tensor([[-1.0, 2.0]])).tolist()
        [[-1.0, 2.0]]
    """

    def __init__(
        self,
        alpha_initializer: Any = "zeros",
        alpha_regularizer: Any = None,
        alpha_constraint: Any = None,
        shared_axes: Sequence[int] | None = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
        trainable: bool | None = None,
    ) -> None:
        super().__init__(device="meta")
        setup(self, locals(), takes=ANY, weights={"weight": "alpha"})
        self.shared_axes = tuple(
            check_positive_int("shared_axes", axis) for axis in shared_axes or ()
        )
        self.num_parameters = 0

    def build(self, input_shape: Shape) -> None:
        """Make α for inputs of ``input_shape``."""
        sizes: list[Any] = list(input_shape[1:])
        if self.shared_axes and max(self.shared_axes) > len(sizes):
            raise ValueError(
                f"{label(self)} was given shared_axes={self.shared_axes} and samples of shape "
                f"{tuple(sizes)}; expected axes from 1 to {len(sizes)}."
            )
        for axis in self.shared_axes:
            sizes[axis - 1] = 1
        if None in sizes:
            raise ValueError(
                f"{label(self)} was given samples of the open shape {tuple(input_shape[1:])}; "
                "expected whole sizes, or the open axes in shared_axes."
            )
        if self.built:
            self._check(input_shape)
            return
        self.built_for, self.slopes = tuple(input_shape), sizes
        self.num_parameters = math.prod(sizes)
        per_channel = self.num_parameters == sizes[0]  # then torch's kernel computes it
        make_weights(self, weight=sizes[:1] if per_channel else sizes)

    def _check(self, shape: Shape) -> None:
        fits = all(a in (1, size) for a, size in zip(self.slopes, shape[1:]))
        if not fits or len(shape) != len(self.slopes) + 1:
            raise ValueError(
                f"{label(self)} was given samples of shape {tuple(shape[1:])}; expected "
                f"{tuple(self.slopes)}, the shape of its slopes (1 fits every size)."
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.built:
            self._check(x.shape)
        else:
            self.build((None, *x.shape[1:]))
        return super().forward(x) if self.weight.ndim == 1 else _prelu(x, self.weight)

    def to_torch(self) -> nn.Module:
        """``nn.PReLU``, or a graph where α varies along several axes."""
        module = twin(self, nn.PReLU)
        return module if module.weight.ndim == 1 else traced(_prelu, weight=module.weight)


def _prelu(x: Any, weight: Any) -> Any:
    return torch.where(x > 0, x, weight * x)


class Sigmoid(nn.Sigmoid):
    """``1 / (1 + e⁻ˣ)``: a probability.

    Args:
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Example:
        >>> Sigmoid()(torch.tensor([0.0])).tolist()
        [0.5]
    """

    def __init__(self, *, name: str | None = None, input_shape: Shape | None = None) -> None:
        super().__init__()
        setup(self, locals())

    def to_torch(self) -> nn.Sigmoid:
        """The same as ``nn.Sigmoid``."""
        return nn.Sigmoid()


class Tanh(nn.Tanh):
    """``tanh x``, between -1 and 1.

    Args:
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Example:
        >>> Tanh()(torch.tensor([0.0])).tolist()
        [0.0]
    """

    def __init__(self, *, name: str | None = None, input_shape: Shape | None = None) -> None:
        super().__init__()
        setup(self, locals())

    def to_torch(self) -> nn.Tanh:
        """The same as ``nn.Tanh``."""
        return nn.Tanh()


class SELU(nn.SELU):
    """The scaled ELU that keeps mean 0 and variance 1 through deep Dense networks.

    Start the kernels with ``"lecun_normal"``, as the proof assumes.

    Reference:
        G. Klambauer et al. (2017), Self-normalizing neural networks, arXiv:1706.02515.

    Args:
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Example:
        >>> SELU()(torch.tensor([0.0])).tolist()
        [0.0]
    """

    def __init__(self, *, name: str | None = None, input_shape: Shape | None = None) -> None:
        super().__init__()
        setup(self, locals())

    def to_torch(self) -> nn.SELU:
        """The same as ``nn.SELU``."""
        return nn.SELU()


class GELU(nn.GELU):
    """``x · Φ(x)``, a smooth ReLU, exact as in Keras; transformers use it.

    Reference:
        D. Hendrycks, K. Gimpel (2016), arXiv:1606.08415.

    Args:
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Example:
        >>> GELU()(torch.tensor([0.0])).tolist()
        [0.0]
    """

    def __init__(self, *, name: str | None = None, input_shape: Shape | None = None) -> None:
        super().__init__()
        setup(self, locals())

    def to_torch(self) -> nn.GELU:
        """The same as ``nn.GELU``."""
        return nn.GELU()


class SiLU(nn.SiLU):
    """``x · sigmoid(x)``, also called swish.

    Reference:
        P. Ramachandran, B. Zoph, Q. Le (2017), Searching for activation functions.

    Args:
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Example:
        >>> SiLU()(torch.tensor([0.0])).tolist()
        [0.0]
    """

    def __init__(self, *, name: str | None = None, input_shape: Shape | None = None) -> None:
        super().__init__()
        setup(self, locals())

    def to_torch(self) -> nn.SiLU:
        """The same as ``nn.SiLU``."""
        return nn.SiLU()


Swish = SiLU


class Mish(nn.Mish):
    """``x · tanh(ln(1 + eˣ))``.

    Reference:
        D. Misra (2019), arXiv:1908.08681.

    Args:
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Example:
        >>> Mish()(torch.tensor([0.0])).tolist()
        [0.0]
    """

    def __init__(self, *, name: str | None = None, input_shape: Shape | None = None) -> None:
        super().__init__()
        setup(self, locals())

    def to_torch(self) -> nn.Mish:
        """The same as ``nn.Mish``."""
        return nn.Mish()


class Softplus(nn.Softplus):
    """``ln(1 + eˣ)``, a smooth and positive ReLU, for scales and rates.

    Args:
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Example:
        >>> Softplus()(torch.tensor([0.0])).tolist()
        [0.6931471824645996]
    """

    def __init__(self, *, name: str | None = None, input_shape: Shape | None = None) -> None:
        super().__init__()
        setup(self, locals())

    def to_torch(self) -> nn.Softplus:
        """The same as ``nn.Softplus``."""
        return nn.Softplus()


class Softsign(nn.Softsign):
    """``x / (1 + |x|)``, between -1 and 1 with slow tails.

    Args:
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Example:
        >>> Softsign()(torch.tensor([1.0])).tolist()
        [0.5]
    """

    def __init__(self, *, name: str | None = None, input_shape: Shape | None = None) -> None:
        super().__init__()
        setup(self, locals())

    def to_torch(self) -> nn.Softsign:
        """The same as ``nn.Softsign``."""
        return nn.Softsign()


class Hardtanh(nn.Hardtanh):
    """``x`` cut to [-1, 1].

    Args:
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Example:
        >>> Hardtanh()(torch.tensor([-3.0, 0.5])).tolist()
        [-1.0, 0.5]
    """

    def __init__(self, *, name: str | None = None, input_shape: Shape | None = None) -> None:
        super().__init__()
        setup(self, locals())

    def to_torch(self) -> nn.Hardtanh:
        """The same as ``nn.Hardtanh``."""
        return nn.Hardtanh()


class Hardsigmoid(nn.Hardsigmoid):
    """``min(max(x / 6 + ½, 0), 1)``, a sigmoid of straight lines.

    Args:
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Example:
        >>> Hardsigmoid()(torch.tensor([3.0])).tolist()
        [1.0]
    """

    def __init__(self, *, name: str | None = None, input_shape: Shape | None = None) -> None:
        super().__init__()
        setup(self, locals())

    def to_torch(self) -> nn.Hardsigmoid:
        """The same as ``nn.Hardsigmoid``."""
        return nn.Hardsigmoid()


class Hardswish(nn.Hardswish):
    """``x · hardsigmoid(x)``, for small devices.

    Args:
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Example:
        >>> Hardswish()(torch.tensor([3.0])).tolist()
        [3.0]
    """

    def __init__(self, *, name: str | None = None, input_shape: Shape | None = None) -> None:
        super().__init__()
        setup(self, locals())

    def to_torch(self) -> nn.Hardswish:
        """The same as ``nn.Hardswish``."""
        return nn.Hardswish()
