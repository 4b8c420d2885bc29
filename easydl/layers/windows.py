"""Sizes, strides and paddings of sliding windows: what convolution and pooling share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch.nn.functional as F
from torch import Tensor, nn

from easydl.errors import check_positive_int, look_up
from easydl.layers.base import TURN

PADS: dict[int, Any] = {1: nn.ZeroPad1d, 2: nn.ZeroPad2d, 3: nn.ZeroPad3d}


def per_axis(name: str, value: Any, rank: int, *, minimum: int = 1) -> tuple[int, ...]:
    """``value`` as one whole number per spatial axis; a single number stands for all.

    Raises:
        ValueError: for another count of numbers, or numbers below ``minimum``.
    """
    if isinstance(value, (tuple, list)):
        if len(value) != rank:
            raise ValueError(
                f"{name}={value!r} was given; expected one whole number or {rank}, one per axis, "
                f"for example {name}={(max(minimum, 2),) * rank}."
            )
        return tuple(check_positive_int(name, size, minimum=minimum) for size in value)
    return (check_positive_int(name, value, minimum=minimum),) * rank


def check_padding(padding: Any, *names: str) -> str:
    """``padding`` as one of ``names``, or an error that names the layer for other paddings."""
    if not isinstance(padding, str):
        raise ValueError(
            f"padding={padding!r} was given; expected one of {', '.join(map(repr, names))}. For "
            "explicit pads put ZeroPadding2D(…) before the layer."
        )
    return look_up("padding", padding, {name: name for name in names})


def check_channels_first(data_format: Any) -> None:
    """Refuse ``data_format="channels_last"``."""
    if data_format not in (None, "channels_first"):
        raise ValueError(
            f"data_format={data_format!r} was given; easydl's pictures are channels-first, as in "
            f"torch: (N, C, H, W). Leave it out, and turn the data: {TURN}."
        )


def reach(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """How many entries a dilated kernel covers along each axis."""
    return tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation))


def same_pads(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """Pads in ``F.pad``'s order that give ⌈size / stride⌉ windows; an odd one goes to the end."""
    pads: list[Any] = []
    for axis, (covered, step) in enumerate(zip(reach(kernel, dilation), stride), start=2):
        windows = (x.shape[axis] + step - 1) // step
        wanted = (windows - 1) * step + covered - x.shape[axis]
        total = (wanted + abs(wanted)) // 2  # max(wanted, 0), which torch.fx could not record
        pads = [total // 2, total - total // 2, *pads]
    return pads


def fixed_pads(
    padding: str, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[int] | None:
    """Pads in ``F.pad``'s order where no input size matters, else None."""
    total = [covered - 1 for covered in reach(kernel, dilation)]
    if padding == "valid":
        return [0] * 2 * len(total)
    if padding == "causal":
        return [total[0], 0]
    if math.prod(stride) > 1:
        return None
    return [pad for n in reversed(total) for pad in (n // 2, n - n // 2)]


def is_even(pads: list[int] | None) -> TypeGuard[list[int]]:
    """Whether ``pads`` are the same at both ends of each axis, which torch can add by itself."""
    return pads is not None and pads[::2] == pads[1::2]


def padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """``F.pad``, skipped where there is nothing to pad."""
    return F.pad(x, pads, value=value) if any(pads) else x
