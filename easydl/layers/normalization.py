"""Normalisation over the batch, over the features, over groups of channels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from easydl.errors import check_between, check_positive_int
from easydl.layers.base import (
    ANY,
    ANY_CHANNELS,
    ROWS,
    Shape,
    Takes,
    class_axis,
    label,
    make_weights,
    prepare,
    setup,
    start_build,
    traced,
    twin,
)

_KINDS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


class BatchNormalization(nn.modules.batchnorm._BatchNorm):
    """Gives each channel mean 0 and variance 1 over the batch while training: ``γ x̂ + β``.

    In evaluation the running averages, ``running ← m·running + (1 − m)·batch``, stand in for the
    batch's. torch's kernel keeps the unbiased running variance, n/(n−1) times Keras's.

    Reference:
        S. Ioffe, C. Szegedy (2015), Batch Normalization, arXiv:1502.03167.

    Args:
        axis: 1, the channels, or -1 for the features of (N, T, F), as they leave recurrent layers.
        momentum: m in Keras's sense (torch's momentum is 1 − m).
        epsilon: added to the variance.
        center: have β.
        scale: have γ.
        beta_initializer, gamma_initializer: how β and γ start.
        moving_mean_initializer, moving_variance_initializer: how the running averages start.
        beta_regularizer, gamma_regularizer: penalties, added to the loss.
        beta_constraint, gamma_constraint: applied after every step.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.
        trainable: False freezes it, averages included.

    Shape:
        (N, F), (N, C, L), (N, C, H, W) or (N, C, D, H, W) → the same; (N, T, F) with ``axis=-1``.

    Example:
        >>> y = BatchNormalization()(torch.tensor([[1.0], [3.0]]))
        >>> y.round(decimals=2).flatten().tolist()
        [-1.0, 1.0]
    """

    width: int
    rank: int
    takes: Takes

    def __init__(
        self,
        axis: int = 1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
        trainable: bool | None = None,
    ) -> None:
        momentum = check_between("momentum", momentum, 0, 1)
        epsilon = check_between("epsilon", epsilon, 0, math.inf, ends="()")
        super().__init__(1, epsilon, round(1 - momentum, 10), device="meta")
        self.num_batches_tracked = torch.tensor(0)
        _setup(self, locals(), running_mean="moving_mean", running_var="moving_variance")
        self.num_features = 0

    def build(self, input_shape: Shape) -> None:
        """Make scale, shift and running averages for inputs of ``input_shape``."""
        if start_build(self, input_shape):
            self.num_features = self.width
            size = (self.width,)
            make_weights(self, weight=size, bias=size, running_mean=size, running_var=size)

    def forward(self, x: Tensor) -> Tensor:
        prepare(self, x)
        return _along(self.takes.axis, x, super().forward)

    def _check_input_dim(self, x: Tensor) -> None:
        pass  # prepare() has checked it

    def to_torch(self) -> nn.Module:
        """``nn.BatchNorm1d``, ``2d`` or ``3d`` by the rank built for."""
        return _to_torch(self, _KINDS[self.rank])


class LayerNormalization(nn.LayerNorm):
    """Gives the features of each sample, step or pixel mean 0 and variance 1: ``γ x̂ + β``.

    Works alike in training and evaluation and for a batch of one, hence its place in transformers.

    Reference:
        J. L. Ba, J. R. Kiros, G. E. Hinton (2016), Layer Normalization, arXiv:1607.06450.

    Args:
        axis: the axis of the features; None is the last of (N, F) and (N, T, F), and the channels
            (axis 1) of pictures and volumes. Several axes: use ``nn.LayerNorm``.
        epsilon: added to the variance.
        center: have β.
        scale: have γ.
        beta_initializer, gamma_initializer: how β and γ start.
        beta_regularizer, gamma_regularizer: penalties, added to the loss.
        beta_constraint, gamma_constraint: applied after every step.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.
        trainable: False freezes it.

    Shape:
        (N, F), (N, T, F) or (N, C, H, W) … → the same.

    Example:
        >>> LayerNormalization()(torch.tensor([[1.0, 3.0]])).round(decimals=2).tolist()
        [[-1.0, 1.0]]
    """

    width: int
    takes: Takes
    config: dict[str, Any]

    def __init__(
        self,
        axis: int | None = None,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
        trainable: bool | None = None,
    ) -> None:
        epsilon = check_between("epsilon", epsilon, 0, math.inf, ends="()")
        super().__init__(1, epsilon, device="meta")
        _setup(self, locals())
        self.normalized_shape = (0,)

    def build(self, input_shape: Shape) -> None:
        """Make scale and shift for inputs of ``input_shape``."""
        if self.config["axis"] is None and not self.built:
            self.takes = _TAKES[class_axis(len(input_shape))]
        if start_build(self, input_shape):
            self.normalized_shape = (self.width,)
            make_weights(self, weight=self.normalized_shape, bias=self.normalized_shape)

    def forward(self, x: Tensor) -> Tensor:
        prepare(self, x)
        return _along(self.takes.axis, x, super().forward, home=-1)

    def to_torch(self) -> nn.Module:
        """``nn.LayerNorm``, in a graph that moves the axis where it is not the last."""
        return _to_torch(self, nn.LayerNorm, home=-1)


class GroupNormalization(nn.GroupNorm):
    """Gives each group of channels of each sample mean 0 and variance 1: ``γ x̂ + β``.

    The choice for pictures when batches are too small for BatchNormalization.

    Reference:
        Y. Wu, K. He (2018), Group Normalization, arXiv:1803.08494.

    Args:
        groups: number of groups; the channels must divide by it. -1 is one group per channel
            (instance normalisation).
        axis: 1, the channels, or -1 for the features of (N, T, F).
        epsilon: added to the variance.
        center: have β.
        scale: have γ.
        beta_initializer, gamma_initializer: how β and γ start.
        beta_regularizer, gamma_regularizer: penalties, added to the loss.
        beta_constraint, gamma_constraint: applied after every step.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.
        trainable: False freezes it.

    Shape:
        (N, C, …) → the same.

    Raises:
        ValueError: if the channels do not divide by ``groups``.

    Example:
        >>> GroupNormalization(2)(torch.zeros(4, 8, 5, 5)).shape
        torch.Size([4, 8, 5, 5])
    """

    width: int
    takes: Takes

    def __init__(
        self,
        groups: int = 32,
        axis: int = 1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
        trainable: bool | None = None,
    ) -> None:
        groups = -1 if groups == -1 else check_positive_int("groups", groups)
        epsilon = check_between("epsilon", epsilon, 0, math.inf, ends="()")
        super().__init__(1, 1, epsilon, device="meta")
        _setup(self, locals())
        self.num_groups, self.num_channels = groups, 0

    def build(self, input_shape: Shape) -> None:
        """Make scale and shift for inputs of ``input_shape``."""
        if not start_build(self, input_shape):
            return
        self.num_channels = self.width
        if self.num_groups == -1:
            self.num_groups = self.width
        if self.width % self.num_groups:
            raise ValueError(
                f"{label(self)} was given {self.width} channels and groups={self.num_groups}; "
                f"expected channels that divide by groups, for example groups="
                f"{math.gcd(self.width, self.num_groups)}."
            )
        make_weights(self, weight=(self.width,), bias=(self.width,))

    def forward(self, x: Tensor) -> Tensor:
        prepare(self, x)
        return _along(self.takes.axis, x, super().forward)

    def to_torch(self) -> nn.Module:
        """``nn.GroupNorm``, in a graph that moves the axis where it is the last."""
        return _to_torch(self, nn.GroupNorm)


_TAKES = {1: ANY_CHANNELS, -1: ROWS}


def _setup(layer: Any, arguments: dict[str, Any], **buffers: str) -> None:
    axis = arguments["axis"]
    if axis not in (1, -1, None):
        raise ValueError(
            f"axis={axis!r} was given; expected 1 (the channels of pictures and signals) or -1 "
            "(the features of (N, F) and (N, T, F)). For several axes use nn.LayerNorm."
        )
    if not arguments["scale"]:
        layer.weight = None
    if not arguments["center"]:
        layer.bias = None
    weights = {"weight": "gamma", "bias": "beta", **buffers}
    setup(layer, arguments, takes=_TAKES.get(axis, ANY), weights=weights)


def _along(axis: int | None, x: Any, norm: Any, home: int = 1) -> Any:
    """``norm(x)``, with ``axis`` moved to the place ``home`` where torch's norm wants it."""
    return norm(x) if axis == home else norm(x.movedim(axis, home)).movedim(home, axis)


def _to_torch(layer: Any, kind: type[nn.Module], home: int = 1) -> nn.Module:
    module, axis = twin(layer, kind), layer.takes.axis
    if axis == home or layer.rank == 2:
        return module
    return traced(lambda x, norm: _along(axis, x, norm, home), norm=module)
