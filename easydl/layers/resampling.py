"""Pictures larger or smaller, without weights."""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  (named by the doctests)
from torch import Tensor, nn

from easydl.errors import check_positive_int, look_up
from easydl.layers.base import PICTURES, Shape, build_unweighted, prepare, setup, twin
from easydl.layers.windows import check_channels_first, per_axis


class UpSampling2D(nn.Upsample):
    """Each picture ``size`` times larger: entries repeated, or interpolated between them.

    Args:
        size: factors for height and width; one whole number for both.
        data_format: None or ``"channels_first"``; there is no other.
        interpolation: ``"nearest"`` or ``"bilinear"`` (corners not aligned, as in Keras).
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, H, W) → (N, C, size·H, size·W).

    Raises:
        ValueError: for a size below 1 or another interpolation.

    Example:
        >>> UpSampling2D(2)(torch.tensor([[[[1.0, 2.0]]]]))
        tensor([[[[1., 1., 2., 2.],
                  [1., 1., 2., 2.]]]])
    """

    def __init__(
        self,
        size: Any = 2,
        data_format: str | None = None,
        interpolation: str = "nearest",
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        check_channels_first(data_format)
        look_up("interpolation", interpolation, {"nearest": None, "bilinear": None})
        super().__init__(
            scale_factor=per_axis("size", size, 2),
            mode=interpolation,
            align_corners=False if interpolation == "bilinear" else None,
        )
        setup(self, locals(), takes=PICTURES)

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        prepare(self, x)
        return super().forward(x)

    def to_torch(self) -> nn.Upsample:
        """The same as ``nn.Upsample``."""
        return twin(self, nn.Upsample)


class ZeroPadding2D(nn.ZeroPad2d):
    """A frame of zeros around each picture.

    Args:
        padding: one number for all sides, (height, width), or ((top, bottom), (left, right)).
        data_format: None or ``"channels_first"``; there is no other.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, H, W) → (N, C, top + H + bottom, left + W + right).

    Raises:
        ValueError: for another form of ``padding`` or negative numbers.

    Example:
        >>> ZeroPadding2D(1)(torch.ones(1, 1, 2, 2)).shape
        torch.Size([1, 1, 4, 4])
    """

    def __init__(
        self,
        padding: Any = 1,
        data_format: str | None = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        check_channels_first(data_format)
        super().__init__(_sides("padding", padding))
        setup(self, locals(), takes=PICTURES)

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        prepare(self, x)
        return super().forward(x)

    def to_torch(self) -> nn.ZeroPad2d:
        """The same as ``nn.ZeroPad2d``."""
        return twin(self, nn.ZeroPad2d)


class Cropping2D(nn.ZeroPad2d):
    """Rows and columns cut off each picture (to torch: negative padding).

    Args:
        cropping: one number for all sides, (height, width), or ((top, bottom), (left, right)).
        data_format: None or ``"channels_first"``; there is no other.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.

    Shape:
        (N, C, H, W) → (N, C, H − top − bottom, W − left − right).

    Raises:
        ValueError: for another form of ``cropping``, negative numbers, or nothing left.

    Example:
        >>> Cropping2D(((1, 0), (0, 2)))(torch.ones(1, 1, 4, 5)).shape
        torch.Size([1, 1, 3, 3])
    """

    def __init__(
        self,
        cropping: Any = 0,
        data_format: str | None = None,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
    ) -> None:
        check_channels_first(data_format)
        left, right, top, bottom = _sides("cropping", cropping)
        super().__init__((-left, -right, -top, -bottom))
        setup(self, locals(), takes=PICTURES)
        self.smallest = (top + bottom + 1, left + right + 1)

    build = build_unweighted

    def forward(self, x: Tensor) -> Tensor:
        prepare(self, x)
        return super().forward(x)

    def to_torch(self) -> nn.ZeroPad2d:
        """``nn.ZeroPad2d`` with negative pads."""
        return twin(self, nn.ZeroPad2d)


def _sides(name: str, value: Any) -> tuple[int, int, int, int]:
    """(left, right, top, bottom), torch's order."""
    rows, columns = (
        value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, value)
    )
    sides: list[int] = []
    for pair in (columns, rows):
        if isinstance(pair, (tuple, list)) and len(pair) != 2:
            raise ValueError(
                f"{name}={value!r} was given; expected one whole number, (height, width) or "
                f"((top, bottom), (left, right)), for example {name}=((1, 1), (2, 2))."
            )
        pair = pair if isinstance(pair, (tuple, list)) else (pair, pair)
        sides += [check_positive_int(name, side, minimum=0) for side in pair]
    return tuple(sides)  # type: ignore[return-value]
