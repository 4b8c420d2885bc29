"""Files that want to do harm: each is made whole, with the right hashes, as an attacker would."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import easydl as dl
from easydl.saving.container import MANIFEST, pack
from easydl.saving.whole import contents
from tests.saving import keras_hostile

BIG = 10**14
WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {Evil.mark}",)

    mark = "/dev/null"


def small_model() -> dl.Sequential:
    dl.seed(0)
    model = dl.Sequential([dl.Dense(5, "relu", input_dim=4), dl.Dropout(0.5), dl.Dense(3)])
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(torch.ones(8, 4), torch.ones(8, 3), verbose=0)
    return model


once = functools.cache(lambda: contents(small_model()))


def whole() -> tuple[dict[str, Any], dict[str, bytes]]:
    manifest, members = once()
    return json.loads(json.dumps(manifest)), dict(members)


def safetensors(
    header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None
) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def zipped(members: list[tuple[Any, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def wrapped(name: str, **arguments: Any) -> dict[str, Any]:
    """The architecture of a model around one module of torch."""
    network = {"name": f"torch.nn.{name}", "arguments": arguments}
    return {"name": "Model", "arguments": {"network": network, "name": "m"}}


def manifest_with(path: str, value: Any, **others: Any) -> bytes:
    """A whole file, but for one entry of the manifest: ``"architecture/arguments/name"``."""
    manifest, members = whole()
    manifest |= others
    *way, last = path.split("/")
    owner: Any = manifest
    for key in way:
        owner = owner[int(key)] if isinstance(owner, list) else owner[key]
    owner[int(last) if isinstance(owner, list) else last] = value
    return b"".join(pack(manifest, members))


def member_with(name: str, content: bytes) -> bytes:
    manifest, members = whole()
    return b"".join(pack(manifest, {**members, name: content}))


def raw_manifest(text: bytes) -> bytes:
    """A file whose manifest is ``text``, with its SHA-256 and the layout that it asks for."""
    import hashlib

    from easydl.saving import container

    _, members = whole()
    try:
        parts = container._layout(text, json.loads(text)["members"])
    except Exception:  # no such layout can be
        parts = container._layout(text, {})
    body = [text, *members.values()]
    inside = b"".join(a + b for a, b in zip(parts, body))
    assert parts[-1].endswith(hashlib.sha256(text).hexdigest().encode())
    return inside + parts[-1]


def manifest_text(change: Callable[[str], str]) -> bytes:
    manifest, members = whole()
    parts = pack(manifest, members)
    return raw_manifest(change(parts[1].decode()).encode())


def table_with(change: Callable[[dict[str, Any]], Any]) -> bytes:
    def edit(text: str) -> str:
        manifest = json.loads(text)
        change(manifest["members"])
        return json.dumps(manifest)

    return manifest_text(edit)


def good() -> bytes:
    return b"".join(pack(*whole()))


def entries(changed: Callable[[list], list]) -> bytes:
    """The members of a whole file, packed anew by zipfile."""
    with zipfile.ZipFile(io.BytesIO(good())) as archive:
        members: list = [(name, archive.read(name)) for name in archive.namelist()]
    return zipped(changed(members))


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def flagged() -> bytes:
    content = bytearray(good())
    content[6] |= 1  # encrypted, says the local header
    return bytes(content)


def doubling(depth: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": "torch.nn.ReLU", "arguments": {}}
    for number in range(depth):
        layers = {"dict": [["a", entry], ["b", {"again": number}]]}
        entry = {"name": "torch.nn.Sequential", "arguments": {"layers": layers}}
    return {"name": "Model", "arguments": {"network": entry, "name": "m"}}


def torch_zip(content: bytes, method: int = zipfile.ZIP_STORED, data: bytes = b"\0" * 64) -> bytes:
    members = [("a/data.pkl", content), ("a/byteorder", b"little"), ("a/data/0", data)]
    return zipped([*members, ("a/version", b"3\n")], method)


def torch_saved(value: Any, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


TENSOR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
DENSE = "architecture/arguments/layers/0/arguments"
EVIL_CALL = {"name": "subprocess.Popen", "arguments": {"args": ["touch", "mark"]}}

#: what it is → (suffix, its bytes)
FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a pickle renamed": (".easydl", lambda: pickle.dumps(Evil())),
    "a pickle as weights": (".easydl", lambda: member_with(WEIGHTS, pickle.dumps(Evil()))),
    "a pickle as optimizer": (".easydl", lambda: member_with(OPTIMIZER, pickle.dumps(Evil()))),
    "a pickle among the members": (
        ".easydl",
        lambda: entries(lambda members: [*members, ("data.pkl", pickle.dumps(Evil()))]),
    ),
    "a lambda as marshalled code": (
        ".easydl",
        lambda: manifest_with(
            "architecture/arguments/layers/0",
            {
                "name": "Lambda",
                "arguments": {"function": {"class_name": "__lambda__", "code": "4w"}},
            },
        ),
    ),
    "a function by its place": (
        ".easydl",
        lambda: manifest_with(
            "architecture/arguments/layers/0",
            {"name": "Lambda", "arguments": {"function": {"ref": "os.system"}}},
        ),
    ),
    "a module of others": (".easydl", lambda: manifest_with("architecture", EVIL_CALL)),
    "eval": (
        ".easydl",
        lambda: manifest_with("architecture", {"name": "builtins.eval", "arguments": {}}),
    ),
    "torch.hub": (
        ".easydl",
        lambda: manifest_with("architecture", {"name": "torch.hub.load", "arguments": {}}),
    ),
    "a loss by custom name": (
        ".easydl",
        lambda: manifest_with("compile/loss", {"custom": "os.system"}),
    ),
    "an optimizer of others": (".easydl", lambda: manifest_with("compile/optimizer", EVIL_CALL)),
    "a ready optimizer of others": (
        ".easydl",
        lambda: manifest_with("compile/optimizer", {"ready": "os.system", "groups": []}),
    ),
    "a path as units": (".easydl", lambda: manifest_with(f"{DENSE}/units", "/etc/passwd")),
    "a URL as initializer": (
        ".easydl",
        lambda: manifest_with(f"{DENSE}/kernel_initializer", "http://localhost/x.pt"),
    ),
    "a path as metric": (
        ".easydl",
        lambda: manifest_with("compile/metrics", ["file:///etc/hosts"]),
    ),
    "a metric's call": (".easydl", lambda: manifest_with("compile/metrics", [EVIL_CALL])),
    "a member ../": (
        ".easydl",
        lambda: entries(lambda members: [*members, ("../../evil.py", b"print(1)")]),
    ),
    "an absolute member": (
        ".easydl",
        lambda: entries(lambda members: [*members, ("/tmp/evil.py", b"print(1)")]),
    ),
    "a symlink": (
        ".easydl",
        lambda: entries(lambda members: [members[0], (link(WEIGHTS), b"/etc/passwd")]),
    ),
    "a member twice": (
        ".easydl",
        lambda: entries(lambda members: [*members, ("x", b""), ("x", b"")]),
    ),
    "a member too many": (
        ".easydl",
        lambda: table_with(lambda t: t.update({"evil.py": t[WEIGHTS]})),
    ),
    "a member too few": (".easydl", lambda: table_with(lambda t: t.pop(WEIGHTS))),
    "a member's table as a list": (
        ".easydl",
        lambda: manifest_text(lambda t: t.replace('"members":{', '"members":[{') + "]"),
    ),
    "a zip bomb": (
        ".easydl",
        lambda: zipped([(MANIFEST, b" " * 10**8)], zipfile.ZIP_DEFLATED),
    ),
    "encrypted": (".easydl", flagged),
    "a manifest of 2 GB": (
        ".easydl",
        lambda: good()[:55] + struct.pack("<Q", 2**31) + good()[63:],
    ),
    "a member of 2^61 bytes": (
        ".easydl",
        lambda: table_with(lambda t: t[WEIGHTS].update(length=2**61)),
    ),
    "a member of -1 bytes": (".easydl", lambda: table_with(lambda t: t[WEIGHTS].update(length=-1))),
    "depth 10,000": (
        ".easydl",
        lambda: raw_manifest(b'{"members":{},"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    ),
    "depth 1,000,000": (".easydl", lambda: raw_manifest(b"[" * 1_000_000 + b"]" * 1_000_000)),
    "4 MB of empty lists": (".easydl", lambda: raw_manifest(b"[" + b"[]," * 1_390_000 + b"[]]")),
    "a number of 4 million digits": (".easydl", lambda: raw_manifest(b"1" * 4_000_000)),
    "10^5 layers, one shared": (
        ".easydl",
        lambda: manifest_with(
            "architecture/arguments/layers",
            [{"name": "torch.nn.ReLU", "arguments": {}}] + [{"again": 0}] * 100_000,
        ),
    ),
    "an architecture 60 deep": (".easydl", lambda: manifest_with("architecture", doubling(60))),
    "an architecture of 2^40 layers": (
        ".easydl",
        lambda: manifest_with("architecture", doubling(40)),
    ),
    "10^14 units": (".easydl", lambda: manifest_with(f"{DENSE}/units", BIG)),
    "10^14 units of a width of 10^14": (
        ".easydl",
        lambda: manifest_with("built/0", {"tuple": [None, BIG]}),
    ),
    "10^14 words": (
        ".easydl",
        lambda: manifest_with(
            "architecture",
            wrapped("Embedding", num_embeddings=BIG, embedding_dim=9),
            built={},
        ),
    ),
    "10^9 LSTM layers": (
        ".easydl",
        lambda: manifest_with(
            "architecture", wrapped("LSTM", input_size=1, hidden_size=1, num_layers=10**9)
        ),
    ),
    "a bool as version": (".easydl", lambda: manifest_with("version", True)),
    "a newer version": (".easydl", lambda: manifest_with("version", 999)),
    "another format": (".easydl", lambda: manifest_with("format", "keras")),
    "unknown extras": (".easydl", lambda: manifest_with("extras", {"hook": "os.system"})),
    "NaN": (".easydl", lambda: manifest_text(lambda t: t.replace('"units":5', '"units":NaN'))),
    "1e999": (".easydl", lambda: manifest_text(lambda t: t.replace('"units":5', '"units":1e999'))),
    "a key twice": (
        ".easydl",
        lambda: manifest_text(lambda t: t.replace('"units":5', '"units":5,"units":6')),
    ),
    "no UTF-8": (".easydl", lambda: raw_manifest(b'{"members": {}, "a": "\xff\xfe"}')),
    "a wrong hash": (
        ".easydl",
        lambda: table_with(lambda t: t[WEIGHTS].update(sha256="0" * 64)),
    ),
    "bytes before": (".easydl", lambda: b"MZ" + good()),
    "bytes after": (".easydl", lambda: good() + b"<script>"),
    "HDF5 renamed": (".easydl", lambda: b"\x89HDF\r\n\x1a\n" + bytes(900)),
    "PNG renamed": (".easydl", lambda: b"\x89PNG\r\n\x1a\n" + bytes(900)),
    "empty": (".easydl", lambda: b""),
    "ties to a method": (".easydl", lambda: manifest_with("tied", {"forward": "0.weight"})),
    "ties of other shapes": (".easydl", lambda: manifest_with("tied", {"0.weight": "0.bias"})),
    "a layer built that is none": (".easydl", lambda: manifest_with("built", {"__class__": [1]})),
    "a dtype that is none": (".easydl", lambda: manifest_with("dtypes", {"0.bias": "__class__"})),
    "an earlier layer that is none": (
        ".easydl",
        lambda: manifest_with("architecture/arguments/layers/0", {"again": 7}),
    ),
    "an array of objects": (
        ".easydl",
        lambda: manifest_with("column_names", {"array": [1], "dtype": "O"}),
    ),
    "a history that is none": (".easydl", lambda: manifest_with("history", 5)),
    "optimizer state of one number": (
        ".easydl",
        lambda: member_with(
            OPTIMIZER, safetensors({"0.exp_avg": {**TENSOR, "shape": [1, 4]}}, bytes(16))
        ),
    ),
    "optimizer groups of others": (
        ".easydl",
        lambda: manifest_with("training/dict/0/1/0", {"dict": [["params", [9]]]}),
    ),
    "weights: header of 2^63": (
        ".easydl",
        lambda: member_with(WEIGHTS, safetensors(b"{}", bytes(200), 2**63)),
    ),
    "weights: no header": (".easydl", lambda: member_with(WEIGHTS, b"\1")),
    "header of 2^63": (".safetensors", lambda: safetensors(b"{}", b"", 2**63)),
    "overlapping offsets": (
        ".safetensors",
        lambda: safetensors({"a": TENSOR, "b": TENSOR}, bytes(16)),
    ),
    "offsets beyond the end": (
        ".safetensors",
        lambda: safetensors({"a": {**TENSOR, "data_offsets": [0, BIG]}}, bytes(16)),
    ),
    "10^14 numbers": (
        ".safetensors",
        lambda: safetensors({"a": {**TENSOR, "shape": [BIG]}}, bytes(16)),
    ),
    "a size of 2^70": (
        ".safetensors",
        lambda: safetensors({"a": {**TENSOR, "shape": [2**70]}}, bytes(16)),
    ),
    "a pickle as safetensors": (".safetensors", lambda: pickle.dumps(Evil())),
    "a model as safetensors": (".safetensors", good),
    "torch: a pickle that runs": (".pt", lambda: torch_saved({"a": Evil()})),
    "torch: the old form that runs": (".pth", lambda: torch_saved({"a": Evil()}, legacy=True)),
    "torch: a bare pickle": (".pt", lambda: pickle.dumps(Evil(), protocol=2)),
    "torch: a module": (".pt", lambda: torch_saved(torch.nn.Linear(2, 2))),
    "torch: a bomb of bytes": (
        ".pt",
        lambda: torch_zip(b"\x80\x02cbuiltins\nbytearray\nq\x00\x8a\x05\x00\x00\x00\x00\x7f\x85R."),
    ),
    "torch: compressed": (
        ".pt",
        lambda: torch_zip(b"\x80\x02}.", zipfile.ZIP_DEFLATED, bytes(10**8)),
    ),
    "torch: numbers that are not there": (
        ".pt",
        lambda: torch_saved({"0.weight": torch.ones(4)}).replace(b"K\x04", b"K\xff"),
    ),
    "torch: 10^14 numbers of one": (
        ".pt",
        lambda: torch_saved({"0.weight": torch.ones(1).expand(10**9, 10**5)}),
    ),
    "torch: a list": (".pt", lambda: torch_saved([torch.ones(3)])),
    "torch: TorchScript": (
        ".pt",
        lambda: zipped([("a/data.pkl", b"\x80\x02."), ("a/code/x.py", b"")]),
    ),
    **keras_hostile.FILES,
}


def write_all(folder: Path, every: int = 1) -> dict[str, Path]:
    """The hostile files, or every second, third … of them, in ``folder``, by what they are."""
    Evil.mark = str(folder / "executed")
    found = {}
    for number, (name, (suffix, make)) in enumerate(list(FILES.items())[::every]):
        found[name] = folder / f"{number:02d}{suffix}"
        found[name].write_bytes(make())
    return found
