"""Weights in and out of files: safetensors, written atomically, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from easydl.errors import check_path
from easydl.layers.base import parts_of
from easydl.saving.container import MEMBERS, Reader, read_json, what_is, write_atomically

WHOLE = (".easydl",)  # what model.save writes
FOREIGN = (  # names of other formats, which neither save nor save_weights writes
    ".h5", ".hdf5", ".keras", ".pt", ".pth", ".onnx", ".pt2", ".npz", ".npy", ".pkl", ".pickle",
    ".joblib", ".json", ".csv", ".txt", ".zip", ".bin", ".ckpt", ".tflite", ".pb", ".mat",
)  # fmt: skip
LARGEST_HEADER = 16 * 2**20  # bytes; safetensors itself takes up to 100 MB
MARK = "sha256 of names, shapes and numbers: "
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool, "C64": torch.complex64,
}  # fmt: skip


def save_weights(model: nn.Module, path: Any) -> None:
    """Write ``model.state_dict()`` to ``path``: beside it first, then moved into its place.

    The header holds a SHA-256 of the names, shapes and numbers, which ``load_weights`` compares.

    Raises:
        ValueError: the model's shapes are not known yet, or the name ends in another format's.
        OSError: the folder cannot be written.
    """
    path = check_path("path", path, "w.safetensors")
    suffix = path.suffix.lower()
    if suffix in FOREIGN + WHOLE:
        hint = {
            ".easydl": " For the whole model write model.save(path).",
            ".onnx": " For the network write model.export(path).",
            ".pt2": " For the network write model.export(path).",
        }
        raise ValueError(
            f"save_weights({str(path)!r:.200}) was asked, but easydl writes safetensors; expected "
            f"a name such as {path.with_suffix('.safetensors').name!r:.100}.{hint.get(suffix, '')}"
        )
    require_built(model, "save_weights")
    content = to_safetensors(model.state_dict())
    note = {"__metadata__": {"easydl": MARK + _digest(content, "the weights")}}
    header = json.dumps(note | _header(content, "the weights")).encode()
    header += b" " * (-len(header) % 8)
    start = 8 + int.from_bytes(content[:8], "little")
    head = len(header).to_bytes(8, "little") + header
    write_atomically(path, (head, memoryview(content)[start:]))


def to_safetensors(tensors: dict[str, Tensor]) -> bytes:
    """Tensors of any strides, shared ones too, as the bytes of a safetensors file."""
    whole = {key: t.detach().cpu().contiguous() for key, t in tensors.items()}
    seen: set[int] = set()
    for key, tensor in whole.items():
        place = tensor.untyped_storage().data_ptr()
        if place in seen or tensor.untyped_storage().nbytes() != tensor.nbytes:
            whole[key] = tensor.clone()
        seen.add(place)
    return save(whole)


def _header(content: bytes, what: str) -> dict[str, Any]:
    """The table of tensors at the start of a safetensors file, before any is allocated."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(LARGEST_HEADER, len(content) - 8):
        raise ValueError(
            f"{what} is no whole safetensors file (its header claims {length:,} bytes, of "
            f"{len(content):,} in the file); expected one of save_weights."
        )
    header = read_json(content[8 : 8 + length], f"{what} is no whole safetensors file: its header")
    fits = isinstance(header, dict) and all(
        isinstance(entry, dict) and ("shape" in entry or name == "__metadata__")
        for name, entry in header.items()
    )
    if not fits:
        raise ValueError(
            f"{what} is no whole safetensors file (its header lists no tensors); expected one of "
            "save_weights."
        )
    return header


def _digest(content: bytes, what: str) -> str:
    """SHA-256 of names, dtypes, shapes, places and numbers, whatever else the header says."""
    header = _header(content, what)
    header.pop("__metadata__", None)
    names = json.dumps(sorted(header.items())).encode()
    start = 8 + int.from_bytes(content[:8], "little")
    sums = hashlib.sha256(len(names).to_bytes(8, "little") + names)
    sums.update(memoryview(content)[start:])
    return sums.hexdigest()


def from_safetensors(
    content: bytes, what: str, shapes: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The tensors in ``content``.

    Args:
        shapes: what must be in it, name by name; compared before anything is allocated.

    Raises:
        ValueError: a damaged file, or other tensors than ``shapes``.
    """
    header = _header(content, what)
    note = header.pop("__metadata__", {})
    ours = "easydl" in note or any(MARK in str(value) for value in note.values())  # one may be hit
    if ours and note.get("easydl") != MARK + _digest(content, what):
        raise ValueError(
            f"{what} is damaged: its numbers do not match the SHA-256 that save_weights wrote; "
            "expected the file as it was saved."
        )
    if shapes is not None:
        given = {}
        for name, entry in header.items():
            sizes = entry["shape"]
            if entry.get("dtype") not in DTYPES or not _is_shape(sizes):
                raise ValueError(f"{what}: {name!r:.80} has no dtype and shape that torch knows.")
            given[name] = torch.empty(sizes, dtype=DTYPES[entry["dtype"]], device="meta")
        check_same_architecture(shapes, given, what)
        for name, tensor in given.items():
            if tensor.dtype != shapes[name].dtype:
                raise ValueError(
                    f"{what}: {name!r:.80} is {tensor.dtype}; expected {shapes[name].dtype}."
                )
    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{what} is no whole safetensors file ({error!s:.200}); expected one of save_weights."
        ) from None


def _is_shape(sizes: Any) -> bool:
    return isinstance(sizes, list) and all(type(n) is int and 0 <= n < 2**31 for n in sizes)


def load_weights(model: nn.Module, path: Any) -> None:
    """Read a file of weights into ``model``; nothing changes unless everything fits.

    A safetensors file of ``save_weights`` or of others, the weights of a ``.easydl`` file, a
    ``.pt``/``.pth`` file of torch (see ``read_torch_file``), or a file of Keras, ``.keras`` or
    ``.h5`` (see ``keras_weights``). HDF5 is known by its first bytes, whatever its name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file; weights of another architecture, listing the differences; nan
            or inf, unless the model is compiled with ``strict=False``.
    """
    path = check_path("path", path, "w.safetensors")
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"no weight file at {str(path)!r:.300}; expected one of save_weights."
        )
    what = repr(str(path)[-200:])
    require_built(model, "load_weights")
    with open(path, "rb") as file:
        head = file.read(8)
    if head == b"\x89HDF\r\n\x1a\n" or path.suffix.lower() in (".keras", ".h5", ".hdf5"):
        from easydl.saving.keras_weights import load_keras_weights

        return load_keras_weights(model, path)
    tensors = read_tensors(path)
    own = model.state_dict()
    check_same_architecture(own, tensors, what)
    check_kinds(own, tensors, what)
    check_finite(model, tensors, what)
    model.load_state_dict(tensors)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors by name in a safetensors, ``.easydl``, ``.pt`` or ``.pth`` file, CPU.

    Raises:
        ValueError: a damaged file, or one of another format.
    """
    what = repr(str(path)[-200:])
    if path.suffix.lower() in (".pt", ".pth"):
        from easydl.saving.torchfile import read_torch_file

        return read_torch_file(path)
    if path.suffix.lower() in WHOLE:
        with Reader(path) as reader:
            return from_safetensors(reader.read(MEMBERS[0]), what)
    content = path.read_bytes()
    if int.from_bytes(content[:8], "little") > LARGEST_HEADER:  # another format's name
        raise ValueError(
            f"{what} is no whole safetensors file ({what_is(content[:8])}); expected one of "
            "save_weights, or a name that ends as its format does: .easydl, .pt or .pth."
        )
    return from_safetensors(content, what)


def check_kinds(own: dict[str, Tensor], given: dict[str, Tensor], what: str) -> None:
    """Refuse whole numbers for floating ones and the other way round, and complex ones."""
    for key, tensor in given.items():
        if tensor.is_floating_point() != own[key].is_floating_point() or tensor.is_complex():
            raise ValueError(
                f"{what}: {key!r:.80} is {tensor.dtype}; expected numbers like {own[key].dtype}."
            )


def is_strict(model: Any) -> bool:
    """Whether ``compile(strict=False)`` was not said."""
    return getattr(model, "_is_strict", True)


def check_finite(model: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Refuse nan, inf, and numbers that overflow to inf as the model's, by the first weight.

    Buffers may hold inf, as masks do, but for the averages of normalisation layers.
    """
    if not is_strict(model):
        return
    own = model.state_dict(keep_vars=True)
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() or not own[key].is_floating_point():
            continue
        numbers = tensor.to(own[key].dtype)
        if bool(numbers.isfinite().all()):
            continue
        mask = not isinstance(own[key], nn.Parameter) and ".running_" not in f".{key}"
        if mask and not bool((numbers.isnan() | (numbers.isinf() & tensor.isfinite())).any()):
            continue
        wrong = int((~numbers.isfinite()).flatten().nonzero()[0])
        value = tensor.flatten()[wrong].item()
        reason = f" of {tensor.dtype}, too large for {own[key].dtype}" if value - value == 0 else ""
        raise ValueError(
            f"{what[:120]}: the weight {key!r:.80} holds {value:.6g}{reason}, so predictions would "
            "be nan or inf; expected finite numbers, of a training that did not diverge. "
            "compile(strict=False), before the weights are loaded or the model is saved, lets them "
            "pass."
        )


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


def mark_as_given(model: nn.Module) -> None:
    """Note in every module that its weights are no longer its first ones, whoever uses it next."""
    for part in parts_of(model):
        part.__dict__["_was_given_weights"] = True


def mark_as_random(model: nn.Module) -> None:
    """Take back what ``mark_as_given`` noted."""
    for part in parts_of(model):
        part.__dict__.pop("_was_given_weights", None)


def has_first_weights(model: nn.Module) -> bool:
    """Whether nothing was put into its modules, and none was trained, since they were made."""
    return not any("_was_given_weights" in part.__dict__ for part in parts_of(model))


def has_random_weights(model: nn.Module) -> bool:
    """Whether a part has weights that nobody gave it and no training changed."""
    return any(
        "_was_given_weights" not in part.__dict__
        and any(parameter is not None for parameter in part._parameters.values())
        for part in parts_of(model)
    )


def has_open_shapes(module: nn.Module) -> bool:
    """Whether a weight still waits for the input shape."""
    return any(
        isinstance(parameter, nn.parameter.UninitializedParameter)
        for part in parts_of(module)
        for parameter in part._parameters.values()
    )


def require_built(model: nn.Module, verb: str) -> None:
    if has_open_shapes(model):
        raise ValueError(
            f"{verb} was called before the shapes are known; expected input_shape= on the first "
            "layer, model.build(shape), or a first fit."
        )
