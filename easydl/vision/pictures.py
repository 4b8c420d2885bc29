"""Pictures as the input of a network, for those who look inside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from easydl.data.pictures import Transforms, raw_pictures, read_picture, transforms_of

__all__ = ["Transforms", "read_picture"]


def inputs_for(model: nn.Module, pictures: Any) -> Tensor:
    """Pictures as the input of ``model``, on its device.

    Args:
        pictures: a path, a folder, PIL pictures or uint8 arrays, which go through the model's
            transforms; or float arrays or tensors ``(N, C, H, W)`` or ``(C, H, W)``, as they are.

    Returns:
        ``(N, C, H, W)``.

    Raises:
        ValueError: pictures, and the model has no transforms.
    """
    found = raw_pictures(model, pictures)
    if found is None:
        given = pictures if isinstance(pictures, Tensor) else np.asarray(pictures)
        tensor = torch.as_tensor(given)
        tensor = tensor[None] if tensor.dim() == 3 else tensor
    else:
        transforms = transforms_of(model)
        tensor = torch.stack([transforms(picture) for picture in found])
    first = next(model.parameters(), None)
    return tensor.float() if first is None else tensor.to(first.device, first.dtype)
