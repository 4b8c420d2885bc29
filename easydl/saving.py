"""Weights in and out of files: safetensors, written atomically, never pickle."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

FOREIGN = (".h5", ".hdf5", ".keras", ".pt", ".pth")  # files of others, which easydl does not write


def save_weights(model: nn.Module, path: Any) -> None:
    """Write ``model.state_dict()`` to ``path``: beside it first, then moved into its place.

    Raises:
        ValueError: the model's shapes are not known yet, or the name ends in another format's.
        OSError: the folder cannot be written.
    """
    path = Path(path)
    if path.suffix in FOREIGN:
        raise ValueError(
            f"save_weights({str(path)!r}) was asked, but easydl writes safetensors; expected a "
            f"name such as {path.with_suffix('.safetensors').name!r}."
        )
    require_built(model, "save_weights")
    tensors = {key: t.detach().cpu().contiguous().clone() for key, t in model.state_dict().items()}
    write_atomically(path, save(tensors))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves either the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # tempfile's is for us alone
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_weights(model: nn.Module, path: Any) -> None:
    """Read a file of ``save_weights`` into ``model``; nothing changes unless everything fits.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file; weights of another architecture, listing the differences.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weight file at {str(path)!r}; expected one of save_weights.")
    try:
        tensors = load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(
            f"{str(path)!r} is no whole safetensors file ({error}); expected one of save_weights."
        ) from None
    require_built(model, "load_weights")
    check_same_architecture(model.state_dict(), tensors, str(path))
    model.load_state_dict(tensors)


def check_same_architecture(own: dict[str, Tensor], given: dict[str, Tensor], what: str) -> None:
    """Raise, listing what is missing, what is too much, and which shapes differ."""
    missing = [key for key in own if key not in given]
    extra = [key for key in given if key not in own]
    shapes = [
        f"{key}: {tuple(given[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in given and own[key].shape != given[key].shape
    ]
    if not (missing or extra or shapes):
        return
    parts = [
        f"{label} {', '.join(items[:3])}{f' and {len(items) - 3} more' if len(items) > 3 else ''}"
        for label, items in (("missing:", missing), ("not in the model:", extra), ("", shapes))
        if items
    ]
    raise ValueError(
        f"{what[:120]} holds weights of another architecture: {'; '.join(parts)[:330]}. Expected "
        "those of a model with the same layers."
    )


def set_weights(model: nn.Module, weights: Sequence[Any]) -> None:
    """Put arrays into ``model`` in ``state_dict`` order."""
    require_built(model, "set_weights")
    own = model.state_dict()
    count = len(weights) if hasattr(weights, "__len__") else 0
    if count != len(own):
        raise ValueError(
            f"set_weights was given {count} arrays, but the model has {len(own)}; "
            "expected what get_weights of the same architecture returns."
        )
    tensors = {key: torch.as_tensor(np.asarray(w)) for key, w in zip(own, weights)}
    check_same_architecture(own, tensors, "set_weights")
    model.load_state_dict(tensors)


def has_open_shapes(module: nn.Module) -> bool:
    """Whether a weight still waits for the input shape."""
    return any(isinstance(p, nn.parameter.UninitializedParameter) for p in module.parameters())


def require_built(model: nn.Module, verb: str) -> None:
    if has_open_shapes(model):
        raise ValueError(
            f"{verb} was called before the shapes are known; expected input_shape= on the first "
            "layer, model.build(shape), or a first fit."
        )
