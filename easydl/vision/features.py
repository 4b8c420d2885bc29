"""What a layer says of every row, as arrays for scikit-learn."""

from __future__ import annotations

import hashlib
import inspect
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from easydl.data.picture_sets import Pictures
from easydl.data.pictures import is_pil, raw_pictures, read_picture
from easydl.errors import check_path
from easydl.saving.container import write_atomically
from easydl.training.groups import heads_of, root_of
from easydl.vision.watching import find

if TYPE_CHECKING:
    from easydl.model import Model


def features(
    model: Model, x: Any, layer: Any, batch_size: int | None, average: bool, cache: Any
) -> np.ndarray:
    """See ``Model.features``."""
    if cache is None:
        return _computed(model, x, layer, batch_size, average)
    folder = check_path("cache", cache, "descriptors")
    path = folder / f"features-{_digest(model, x, layer, average)}.npy"
    if path.is_file():
        try:
            return np.load(path)
        except (ValueError, OSError, EOFError):  # a damaged file is made anew
            pass
    found = _computed(model, x, layer, batch_size, average)
    folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, found)
    write_atomically(path, content.getvalue())
    return found


def _computed(
    model: Model, x: Any, layer: Any, batch_size: int | None, average: bool
) -> np.ndarray:
    module = heads_of(model)[-1] if layer is None else find(model, layer)[1]
    kept: list[Tensor] = []

    def keep(_: nn.Module, inputs: Any, outputs: Any = None) -> None:
        found = inputs[0] if layer is None else outputs
        if not isinstance(found, Tensor) or found.dim() < 2:
            raise ValueError(
                f"layer {layer!r:.80} gives {type(found).__name__}; expected one tensor (N, …)."
            )
        if found.dim() == 4 and average:
            kept.append(found.mean((1, 2) if _is_channels_last(model, module) else (2, 3)))
        else:
            kept.append(found.flatten(1).clone())  # a ReLU behind it may work in place

    hook = (
        module.register_forward_pre_hook(keep)
        if layer is None
        else module.register_forward_hook(keep)
    )

    def descriptors(batch: Any) -> Tensor:
        kept.clear()
        model._plain_call(batch)
        if not kept:
            raise ValueError(f"layer {layer!r:.80} is not used by the network's forward.")
        return kept[-1]

    try:
        return model.map_rows(descriptors, x, batch_size)
    finally:
        hook.remove()


def _is_channels_last(model: Model, module: nn.Module) -> bool:
    """Whether maps are (H, W, C): in torchvision's Swin transformers, up to their last norm."""
    root: Any = root_of(model)
    if type(root).__module__ != "torchvision.models.swin_transformer":
        return False
    return module is root.norm or any(module is part for part in root.features.modules())


def _digest(model: Model, x: Any, layer: Any, average: bool) -> str:
    """SHA-256 of all that the descriptors depend on; a head is none of it, which may be new."""
    sums = hashlib.sha256()
    modules = dict(root_of(model).named_modules())
    names = {module: name for name, module in modules.items()}
    heads = tuple(f"{names[head]}." for head in heads_of(model)) if layer is None else ()
    if isinstance(layer, nn.Module):
        layer = next(name for name, module in modules.items() if module is layer)
    sums.update(repr((layer, average, type(root_of(model)))).encode())
    for name, module in modules.items():
        if f"{name}.".startswith(heads or "\0"):
            continue
        sums.update(f"{name} {type(module)} {module.extra_repr()}".encode())
        for value in vars(module).values():
            sums.update(_code(value) if inspect.isfunction(value) else b"")
    for value in (model.transforms, getattr(x, "transforms", None)):
        sums.update(_code(value) if inspect.isfunction(value) else repr(value).encode())
    for key, tensor in model.state_dict().items():
        if key.startswith(heads or "\0"):
            continue
        sums.update(f"{key}{tensor.dtype}{tuple(tensor.shape)}".encode())
        sums.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    pictures: Any = x.pictures if isinstance(x, Pictures) else raw_pictures(model, x)
    if isinstance(x, Pictures):
        sums.update(repr(x.size).encode())
    for part in [x] if pictures is None else pictures:
        if isinstance(part, (str, os.PathLike)):
            state = os.stat(part)
            sums.update(
                repr((str(Path(part).resolve()), state.st_size, state.st_mtime_ns)).encode()
            )
        elif isinstance(part, (np.ndarray, Tensor)) or is_pil(part):
            part = read_picture(part) if is_pil(part) else part
            array = part.detach().cpu().numpy() if isinstance(part, Tensor) else np.asarray(part)
            sums.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        else:
            raise ValueError(
                f"cache= was given for a {type(part).__name__}, whose contents cannot be told "
                "apart; expected arrays, paths or image_folder's pictures, or no cache."
            )
    return sums.hexdigest()[:32]


def _code(function: Any) -> bytes:
    """What a function does, as far as it can be told without its globals."""
    code = function.__code__
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return repr(
        (code.co_code, code.co_consts, code.co_names, function.__defaults__, cells)
    ).encode()
