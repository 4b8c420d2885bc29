"""``.pt`` and ``.pth`` files of torch: their tensors, read in a mode that cannot run code."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch
from torch import Tensor

#: what a pickle of tensors may name; the rest is refused before anything is unpickled
KNOWN = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch.storage UntypedStorage",
}
STORAGE = re.compile(r"torch \w+Storage")
LARGEST_PICKLE = 64 * 2**20  # bytes; weights lie outside it


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """The state_dict in a file of ``torch.save``; a ``"module."`` before every name is dropped.

    It may stand alone, or under ``"state_dict"`` or ``"model"``. torch guards the bytes of its zip
    files by CRC-32 alone, which is compared for every member; those of the form before torch 1.6
    by nothing at all.

    Raises:
        ValueError: a damaged file, or one that holds more than tensors.
    """
    content = path.read_bytes()
    what = repr(str(path)[-200:])
    try:
        if content.startswith(b"PK"):
            _check_zip(content)
        else:
            stream = io.BytesIO(content)  # magic number, protocol, system, tensors, keys
            for _ in range(5):
                _check_pickle(stream)
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return _state_dict(found)
    except Exception as error:
        raise ValueError(
            f"{what} cannot be read as weights of torch: {str(error).splitlines()[0][:220]}. "
            "Expected torch.save(network.state_dict(), path), whole."
        ) from None


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)


def _check_zip(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if len(set(names)) < len(names):
            _refuse("a member comes twice")
        if any(entry.compress_type or entry.flag_bits & 1 for entry in entries):
            _refuse("it has compressed or encrypted members, which torch.save does not write")
        if sum(entry.file_size for entry in entries) > len(content):
            _refuse("its members claim more bytes than the file has")
        damaged = archive.testzip()
        if damaged is not None:
            _refuse(f"its member {damaged!r:.80} is damaged (CRC-32)")
        pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        if len(pickles) != 1 or any("/code/" in name for name in names):
            _refuse("it is no file of torch.save (a TorchScript archive holds code)")
        if pickles[0].file_size > LARGEST_PICKLE:
            _refuse(f"its pickle has {pickles[0].file_size:,} bytes of at most {LARGEST_PICKLE:,}")
        _check_pickle(io.BytesIO(archive.read(pickles[0])))


def _check_pickle(stream: BinaryIO) -> None:
    """Refuse a pickle that names anything but tensors, without running it."""
    for opcode, argument, place in pickletools.genops(stream):
        if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"):
            _refuse(f"it holds more than tensors (pickle opcode {opcode.name})")
        if opcode.name == "GLOBAL" and not _is_known(str(argument)):
            _refuse(f"it holds {str(argument).replace(' ', '.')!r:.80}, which is no tensor")
        if place is not None and place > LARGEST_PICKLE:
            _refuse("its pickle is too long")


def _is_known(name: str) -> bool:
    dtype = getattr(torch, name.removeprefix("torch "), None)
    return name in KNOWN or bool(STORAGE.fullmatch(name)) or isinstance(dtype, torch.dtype)


def _state_dict(found: Any) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found:
        _refuse(f"it holds a {type(found).__name__} without named tensors")
    strange = [key for key, value in found.items() if not _is_plain(key, value)]
    if strange:
        _refuse(f"its entry {strange[0]!r:.80} is no dense tensor")
    prefix = "module." if all(key.startswith("module.") for key in found) else ""
    return {key[len(prefix) :]: value.detach() for key, value in found.items()}


def _is_plain(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided
