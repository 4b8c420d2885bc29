"""The ``.easydl`` file: a stored zip with one possible layout, so that no byte goes unchecked.

``manifest.json`` comes first and gives length, CRC-32 and SHA-256 of every other member. With it
all bytes outside the members are known: zip headers, directory and the comment at the end, which
holds the manifest's own SHA-256. The reader compares them and hashes the members; it never parses
what a stranger's zip may say. Any zip tool lists and unpacks the file; repacked, it is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import stat
import struct
import time
import uuid
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from easydl.errors import check_path

VERSION = 1
MANIFEST = "manifest.json"
MEMBERS = (  # in this order
    "weights.safetensors", "optimizer.safetensors", "trainer.json", "trainer.safetensors"
)  # fmt: skip
LARGEST_MANIFEST, MOST_PARTS = 4 * 2**20, 200_000  # bytes, and lists in JSON
COMMENT = b"sha256 of manifest.json: "

_MANY = 0xFFFFFFFF  # "see the zip64 field", which every entry has
_DATE = 0x21  # 1 January 1980: equal models make equal files
_START = struct.pack("<4s5H", b"PK\3\4", 45, 0, 0, 0, _DATE)
_LOCAL = struct.Struct("<10s4x3L2H")


def pack(manifest: dict[str, Any], members: dict[str, bytes]) -> list[bytes]:
    """The parts of the file, in order.

    Args:
        manifest: JSON values; the table of members is added.
        members: contents by a name of ``MEMBERS``.
    """
    members = {name: members[name] for name in MEMBERS if name in members}
    table = {
        name: {
            "length": len(content),
            "crc32": zlib.crc32(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        for name, content in members.items()
    }
    whole = {"format": "easydl model", "version": VERSION, **manifest, "members": table}
    text = json.dumps(whole, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > LARGEST_MANIFEST:
        raise ValueError(
            f"what is to be saved beside the weights takes {len(text):,} bytes as JSON; expected "
            f"at most {LARGEST_MANIFEST:,}. A long history may be it: write model.history = None."
        )
    *headers, end = _layout(text, table)
    parts = [part for pair in zip(headers, [text, *members.values()]) for part in pair]
    return [*parts, end]


def _layout(text: bytes, table: dict[str, Any]) -> list[bytes]:
    """The header before each member, manifest first, and what follows the last."""
    entries = [(MANIFEST, len(text), zlib.crc32(text))]
    entries += [(name, entry["length"], entry["crc32"]) for name, entry in table.items()]
    headers, directory, place = [], b"", 0
    for name, length, crc in entries:
        field = struct.pack("<2H2Q", 1, 16, length, length)
        names = (len(name), len(field))
        header = struct.pack("<3L2H", crc, _MANY, _MANY, *names) + name.encode() + field
        headers.append(_START + header)
        field = struct.pack("<2H3Q", 1, 24, length, length, place)
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 45 | 3 << 8, 45, 0, 0, 0, _DATE, crc, _MANY, _MANY,
            len(name), len(field), 0, 0, 0, (stat.S_IFREG | 0o644) << 16, _MANY,
        ) + name.encode() + field  # fmt: skip
        place += len(headers[-1]) + length
    count, size = len(entries), len(directory)
    comment = COMMENT + hashlib.sha256(text).hexdigest().encode()
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, place)
    end += struct.pack("<4sLQL", b"PK\6\7", 0, place + size, 1)
    end += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, _MANY, _MANY, len(comment))
    return [*headers, directory + end + comment]


class Reader:
    """An open ``.easydl`` file, whose manifest and layout are whole; members are hashed as read.

    Attributes:
        manifest: what ``pack`` was given, with ``members`` and ``version``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such format, a damaged file, or one of a newer easydl.
    """

    def __init__(self, path: Any) -> None:
        self.path = check_path("path", path, "m.easydl")
        if not os.path.isfile(path):  # a pipe would be waited for
            raise FileNotFoundError(
                f"no file at {str(self.path)!r:.300}; expected one of model.save."
            )
        self._file = open(self.path, "rb")  # noqa: SIM115 (closed by __exit__)
        try:
            self._read_manifest()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def _read_manifest(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        head = self._file.read(len(_START) + 16 + len(MANIFEST) + 20)
        name = head[len(_START) + 16 : -20]
        if not head.startswith(_START) or name != MANIFEST.encode():
            self._refuse(what_is(head))
        length = struct.unpack("<Q", head[-8:])[0]
        if length > min(LARGEST_MANIFEST, size):
            self._refuse(f"its manifest claims {length:,} bytes of at most {LARGEST_MANIFEST:,}")
        text = self._file.read(length)
        comment = COMMENT + hashlib.sha256(text).hexdigest().encode()
        self._file.seek(max(0, size - len(comment)))
        if self._file.read() != comment:
            self._refuse("it is damaged or cut off: manifest.json does not match its SHA-256")
        self.manifest = manifest = read_json(text, f"{self.path.name!r:.80}: manifest.json")
        if not isinstance(manifest, dict) or manifest.get("format") != "easydl model":
            self._refuse("its manifest is of another format")
        version = manifest.get("version")
        if type(version) is int and version > VERSION:
            self._refuse(f"it has format version {version}, this easydl reads {VERSION}: update it")
        if version != VERSION or type(version) is not int:
            self._refuse(f"its format version is {version!r:.40}, expected {VERSION}")
        table: Any = manifest.get("members")
        if not _is_table(table):
            self._refuse("its table of members is not one that easydl writes")
        headers = _layout(text, table)
        self._places: dict[str, int] = {}
        place = 0
        lengths = [length, *(entry["length"] for entry in table.values()), 0]
        whole = sum(map(len, headers)) + sum(lengths)
        if whole != size:
            self._refuse(f"it is damaged: {size:,} bytes, expected {whole:,}")
        for header, name, length in zip(headers, [MANIFEST, *table, "end"], lengths):
            self._file.seek(place)
            if self._file.read(len(header)) != header:
                self._refuse("it is damaged: its zip headers are not what model.save writes")
            self._places[name] = place + len(header)
            place += len(header) + length

    def __contains__(self, name: str) -> bool:
        return name in self.manifest["members"]

    def length(self, name: str) -> int:
        """Bytes of a member."""
        return self.manifest["members"][name]["length"]

    def read(self, name: str) -> bytes:
        """A member, compared with its SHA-256."""
        entry = self.manifest["members"][name]
        self._file.seek(self._places[name])
        content = self._file.read(entry["length"])
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            self._refuse(f"it is damaged: {name} does not match its SHA-256")
        return content

    def _refuse(self, reason: str) -> NoReturn:
        raise ValueError(
            f"{str(self.path)[-200:]!r} cannot be read: {reason:.300}. "
            "Expected a whole file of model.save."
        )


def _is_table(table: Any) -> bool:
    if not isinstance(table, dict) or MEMBERS[0] not in table:
        return False
    if list(table) != [name for name in MEMBERS if name in table]:
        return False
    return all(
        isinstance(entry, dict)
        and set(entry) == {"length", "crc32", "sha256"}
        and type(entry["length"]) is int
        and 0 <= entry["length"] < 2**62
        and type(entry["crc32"]) is int
        and 0 <= entry["crc32"] < 2**32
        for entry in table.values()
    )


def what_is(head: bytes) -> str:
    """What a file is by its first bytes, in words."""
    for start, kind in {
        b"\x89HDF\r\n\x1a\n": "it is an HDF5 file (Keras's .h5), not easydl's",
        b"\x89PNG": "it is a PNG picture",
        b"PK\3\4": "it is a zip file, but not as model.save writes it (another program's, or "
        "packed anew)",
        b"\x80": "it is a Python pickle, which can run code and is never read",
    }.items():
        if head.startswith(start):
            return kind
    if head[8:9] == b"{":
        return "it is a safetensors file, whose weights model.load_weights reads"
    return "it is no easydl model, or damaged at its start" if head else "it is empty"


def read_json(text: bytes, what: str) -> Any:
    """JSON without what readers differ about: no key twice, no NaN, no number without bounds."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key comes twice")
        return dict(pairs)

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise ValueError(f"the number {number:.30}")
        return float(number)

    def short(number: str) -> int:  # Python takes minutes for millions of digits
        if len(number) > 40:
            raise ValueError(f"a number of {len(number)} digits")
        return int(number)

    if text.count(b"[") + text.count(b"{") > MOST_PARTS:
        raise ValueError(f"{what} has more than {MOST_PARTS:,} lists; expected easydl's own.")
    hooks: dict[str, Any] = {"parse_float": finite, "parse_constant": finite, "parse_int": short}
    try:
        return json.loads(text.decode(), object_pairs_hook=once, **hooks)
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:
        reason = f"{error!s:.120}"
    raise ValueError(f"{what} is no valid JSON ({reason}); expected a file that easydl wrote.")


def write_atomically(path: Any, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Write a file so that a crash leaves either the old one or the new one, whole.

    What a killed process left beside it is removed by a later call, an hour after.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # tempfile's is for us alone
    try:
        with open(temporary, "xb") as file:
            for part in [content] if isinstance(content, bytes) else content:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(
                error.errno,
                f"{str(path)[-200:]!r} cannot be written ({error.strerror}); expected the name of "
                "a file in a folder that is there, has room, and may be written.",
            ) from None
        raise
    with contextlib.suppress(OSError):  # Windows has no folders to open, some discs no fsync
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    with contextlib.suppress(OSError):
        for other in path.parent.iterdir():
            ours = re.fullmatch(rf"\.{re.escape(path.name)}\.[0-9a-f]{{32}}", other.name)
            if ours and time.time() - other.stat().st_mtime > 3600:
                other.unlink(missing_ok=True)
