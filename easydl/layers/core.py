"""The layers every network has: Dense, the shapers and Dropout."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from easydl.errors import check_between, check_positive_int
from easydl.layers.base import (
    ROWS,
    Shape,
    activate,
    build_unweighted,
    make_weights,
    prepare,
    setup,
    start_build,
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

    Shape:
        (N, …) → (N, product of …).

    Example:
        >>> Flatten()(torch.zeros(4, 3, 8, 8)).shape
        torch.Size([4, 192])
    """

    def __init__(self, *, name: str | None = None, input_shape: Shape | None = None) -> None:
        super().__init__()
        setup(self, locals())

    build = build_unweighted

    def to_torch(self) -> nn.Flatten:
        """The same as ``nn.Flatten``."""
        return nn.Flatten()


class Dropout(nn.Dropout):
    """Sets each entry to 0 with probability ``rate`` while training, and scales the others up.

    Reference:
        N. Srivastava et al. (2014), Dropout: a simple way to prevent neural networks from
        overfitting.

    Args:
        rate: probability to drop, in [0, 1).
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        any → the same.

    Raises:
        ValueError: for a rate outside [0, 1).

    Example:
        >>> Dropout(0.5).eval()(torch.ones(3))
        tensor([1., 1., 1.])
    """

    def __init__(
        self, rate: float, *, name: str | None = None, input_shape: Shape | None = None
    ) -> None:
        super().__init__(check_between("rate", rate, 0, 1, ends="[)"))
        setup(self, locals())

    build = build_unweighted

    def to_torch(self) -> nn.Dropout:
        """The same as ``nn.Dropout``."""
        return twin(self, nn.Dropout)
