"""Keras's files, opened so that nothing in them can reach out, blow up or run.

A ``.keras`` file is a zip of ``config.json`` and ``model.weights.h5``; the others are HDF5:
``.weights.h5`` of Keras 3 (``layers/dense/vars/0``) and the older ``.h5`` (the layers' names in an
attribute ``layer_names``, those of their weights in ``weight_names``; a whole model also has
``model_config``). All links, sizes, filters and types are looked at before any number is read.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from easydl.saving.container import MANIFEST, read_json, what_is

HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\3\4"
SUFFIXES = (".keras", ".h5", ".hdf5")
CONFIG, WEIGHTS, METADATA = "config.json", "model.weights.h5", "metadata.json"
#: gates of Keras 1, sorted → in the order of Keras 2
GATES = {"hrz": "zrh", "cfio": "ifco"}
LARGEST_TEXT = 8 * 2**20  # bytes of config.json or of one attribute
LARGEST_DIRECTORY = 2**20  # bytes of a zip's list of members
MOST_OBJECTS, DEEPEST, MOST_NAMES = 20_000, 40, 20_000
LARGEST_RATIO = 1000  # bytes that one compressed byte may stand for
FREE = 2**20  # bytes that may stand for anything
MOST_FILTERS = {1: 1, 2: 1, 3: 1}  # gzip, shuffle, fletcher32: no others, which load libraries
CONTIGUOUS, CHUNKED, COMPACT = 1, 2, 0  # HDF5's layouts; 3 is virtual


class KerasFile:
    """An open file of Keras whose structure has been checked.

    Attributes:
        what: the file as messages call it.
        config: the architecture as Keras wrote it, None in a file of weights.
        shapes: shapes of the tensors by their places, ``"layers/dense/vars/0"``.
        groups: of the older form: weights by layer, ``[("dense", ["dense/dense/kernel:0", …]), …]``
            without the layers that have none; None for Keras 3's form.
        version, backend: what wrote it, where it says so.
        old: whether Keras before 3 wrote it; None where nothing tells.

    Raises:
        FileNotFoundError: no such file.
        ImportError: h5py is not installed.
        ValueError: another format, a damaged file, or one that holds more than numbers.
    """

    def __init__(self, path: Any) -> None:
        path = Path(path)
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError(f"no file at {str(path)!r:.300}; expected one of Keras.")
        try:
            import h5py
        except ImportError:
            raise ImportError(
                "reading files of Keras needs h5py, which is not installed; write "
                "pip install h5py, or convert the file where it is."
            ) from None
        self.what = repr(str(path)[-200:])
        self.config: Any = None
        self.version: str | None = None
        self.backend: str | None = None
        self._file: Any = None
        self._shown: dict[str, tuple[list[str], Callable[..., np.ndarray]]] = {}
        self._stream: Any = open(path, "rb")  # noqa: SIM115 (closed by __exit__)
        try:
            self._open(h5py)
        except Exception as error:
            self.__exit__()
            reason = str(error)
            if not isinstance(error, _Refused):
                reason = (
                    f"it is damaged ({reason.splitlines()[0][:160] if reason else error!r:.60})"
                )
            raise ValueError(
                f"{self.what} cannot be read: {reason[:330]}. Expected a "
                "whole file of Keras: .keras, .weights.h5 or .h5."
            ) from None

    def __enter__(self) -> KerasFile:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._file is not None:
            self._file.close()
        self._stream.close()

    def _open(self, h5py: Any) -> None:
        head = self._stream.read(8)
        self._stream.seek(0)
        if head.startswith(ZIP):
            if self._stream.read(43)[30:] == MANIFEST.encode():
                _refuse("it is a file of easydl's model.save: write dl.load_model('….easydl')")
            text, about, content = _unzipped(self._stream)
            self.config = _parsed(text, CONFIG)
            version = _parsed(about, METADATA).get("keras_version")
            self.version = version if isinstance(version, str) else None
            self._stream.close()
            self._stream = io.BytesIO(content)
        elif head != HDF5:
            _refuse(what_is(head))
        self._size = self._stream.seek(0, io.SEEK_END)
        self._stream.seek(0)
        self._file = h5py.File(self._stream, "r")
        self._datasets = _checked(self._file, h5py, self._size)
        self.shapes = {place: dataset.shape for place, dataset in self._datasets.items()}
        if self.config is None and "model_config" in self._file.attrs:
            self.config = _parsed(self._texts("/", "model_config")[0].encode(), "model_config")
        self.groups: list[tuple[str, list[str]]] | None = None
        root = "model_weights" if "model_weights" in self._file else ""
        names = self._texts(f"/{root}", "layer_names")
        if names or f"{root}/layer_0".strip("/") in self._file:
            self._read_groups(root, names)
        self.old: bool | None = not str(self.version).startswith("3.")
        if self.version is None and self.groups is None:
            named = "vars" in self._file and "name" in self._file["vars"].attrs
            self.old = False if named else None

    def _read_groups(self, root: str, names: list[str]) -> None:
        attributes = self._file[f"/{root}"].attrs
        for word in ("keras_version", "backend"):
            value = self._texts(f"/{root}", word) if word in attributes else [None]
            setattr(self, word.removeprefix("keras_"), value[0])
        groups: list[tuple[str, list[str]]] = []
        if not names:  # Keras 0.x: layer_0/param_0
            names = [f"layer_{n}" for n in range(MOST_NAMES) if f"{root}/layer_{n}" in self._file]
        for name in names:
            group = f"{root}/{name}".strip("/")
            if not isinstance(self._file.get(group), type(self._file["/"])):
                _refuse(f"it lists a layer {name!r:.80}, which is not in it")
            weights = self._texts(group, "weight_names")
            if not weights and "weight_names" not in self._file[group].attrs:
                old = [f"param_{n}" for n in range(len(self._file[group]))]
                weights = [word for word in old if word in self._file[group]]
            places = [f"{group}/{weight}" for weight in weights]
            lost = [place for place in places if place not in self.shapes]
            if lost or len(set(places)) < len(places):
                _refuse(f"it lists a weight {(lost or places)[0]!r:.80}, which is not in it once")
            if places:
                groups.append((name, self._joined(places)))
        self.groups = groups

    def _joined(self, places: list[str]) -> list[str]:
        """Keras 1's kernels of single gates, ``gru_1_W_z`` …, as one for all gates, W, U, b."""
        gates: dict[tuple[str, str], dict[str, str]] = {}
        for place in places:
            match = re.fullmatch(r"(.*)_([WUb])_([a-z])(:0)?", place)
            if match:
                layer, word, gate, _ = match.groups()
                gates.setdefault((layer, word), {})[gate] = place
        result = list(places)
        for (layer, word), parts in gates.items():
            order = GATES.get("".join(sorted(parts)))
            if order:
                sources = [parts[gate] for gate in order]
                shape = self.shapes[sources[0]]
                if not shape or any(self.shapes[place] != shape for place in sources):
                    _refuse(f"the gates {sources[0]!r:.80} … have different shapes")
                whole = f"{layer}_{word}"
                result[result.index(sources[0])] = whole
                result = [place for place in result if place not in sources]
                shape = (*shape[:-1], len(sources) * shape[-1])
                self.show(whole, shape, lambda *v: np.concatenate(v, -1), sources)
        return result

    def show(
        self,
        place: str,
        shape: tuple[int, ...],
        function: Callable[..., np.ndarray],
        sources: list[str] | None = None,
    ) -> None:
        """From now on ``place`` has ``function`` of the numbers at ``sources``, of this shape."""
        self.shapes[place] = shape
        self._shown[place] = (sources or [place], function)

    def _texts(self, group: str, name: str) -> list[str]:
        """The texts in an attribute; a long list is written in parts, ``layer_names0`` …"""
        attributes = self._file[group].attrs
        if name in attributes:
            return _text_attribute(attributes, name)
        found: list[str] = []
        for number in range(MOST_NAMES):
            if f"{name}{number}" not in attributes:
                break
            found += _text_attribute(attributes, f"{name}{number}")
            if len(found) > MOST_NAMES:
                _refuse(f"its {name} are more than {MOST_NAMES:,}")
        return found

    def read(self, place: str) -> np.ndarray:
        """The numbers at ``place`` as float32, or whole numbers as they are.

        Raises:
            ValueError: damaged numbers.
        """
        try:
            sources, function = self._shown.get(place, ([place], lambda values: values))
            values = function(*[self._datasets[source][()] for source in sources])
        except Exception as error:
            raise ValueError(
                f"{self.what} is damaged: {place!r:.120} cannot be read ({error!s:.120}); expected "
                "the file as Keras wrote it."
            ) from None
        return values.astype(np.float32, copy=False) if values.dtype.kind == "f" else values


class _Refused(ValueError):
    """With a reason in plain words."""


def _refuse(reason: str) -> NoReturn:
    raise _Refused(reason)


def _parsed(text: bytes, what: str) -> dict[str, Any]:
    if len(text) > LARGEST_TEXT:
        _refuse(f"its {what} has {len(text):,} bytes of at most {LARGEST_TEXT:,}")
    try:
        config = read_json(text, f"its {what}")
    except ValueError as error:
        _refuse(str(error).split("; expected")[0])
    if not isinstance(config, dict):
        _refuse(f"its {what} is no architecture")
    return config


def _unzipped(stream: Any) -> tuple[bytes, bytes, bytes]:
    """Architecture, metadata and HDF5 file in a ``.keras`` zip; their CRC-32s are compared."""
    size = stream.seek(0, io.SEEK_END)
    _check_directory(stream, size)
    with zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if len(set(names)) < len(names):
            _refuse("a member of the zip comes twice")
        for entry in entries:
            _check_member(entry)
        for name in (CONFIG, WEIGHTS):
            if name not in names:
                _refuse(f"it is a zip without {name}, so no .keras file of Keras 3")
        texts = [name for name in (CONFIG, METADATA) if name in names]
        for name in texts:
            if archive.getinfo(name).file_size > LARGEST_TEXT:
                _refuse(f"its {name} claims {archive.getinfo(name).file_size:,} bytes")
        if sum(archive.getinfo(name).compress_size for name in (*texts, WEIGHTS)) > size:
            _refuse("its members claim more bytes than the file has")
        about = archive.read(METADATA) if METADATA in names else b"{}"
        return archive.read(CONFIG), about, archive.read(WEIGHTS)


def _check_member(entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    if name not in (CONFIG, WEIGHTS, METADATA) and not name.startswith("assets/"):
        _refuse(f"it has a member {name!r:.80}, which Keras does not write")
    if ".." in name.split("/") or "\\" in name or (entry.external_attr >> 28) == 0o12:
        _refuse(f"its member {name!r:.80} points out of the file")
    if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        _refuse(f"its member {name!r:.80} is encrypted or packed in a way that Keras does not use")
    if entry.file_size > FREE + 100 * entry.compress_size:
        _refuse(f"its member {name!r:.80} unpacks {entry.compress_size:,} to {entry.file_size:,}")


def _check_directory(stream: Any, size: int) -> None:
    """Refuse a list of members that would take long to read."""
    start = max(0, size - 65_557)
    stream.seek(start)
    tail = stream.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) < end + 22:
        _refuse("it is cut off: the end of the zip is missing")
    length = struct.unpack_from("<L", tail, end + 12)[0]
    if tail[max(0, end - 20) : end].startswith(b"PK\6\7"):  # zip64
        stream.seek(max(0, start + end - 76))
        length = max(length, struct.unpack_from("<Q", stream.read(76).ljust(56), 40)[0])
    if length > LARGEST_DIRECTORY:
        _refuse(f"its list of members claims {length:,} bytes")


def _checked(file: Any, h5py: Any, size: int) -> dict[str, Any]:
    """The datasets of an HDF5 file by their places, after a look at every object in it."""
    found: dict[str, Any] = {}
    seen, waiting, numbers, objects = set(), [("", file["/"], 0)], 0, 0
    while waiting:
        place, group, depth = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen or depth > DEEPEST:
            _refuse(f"its groups are nested more than {DEEPEST} deep or hold one another")
        seen.add(address)
        objects += len(group)
        if objects > MOST_OBJECTS:
            _refuse(f"it has more than {MOST_OBJECTS:,} objects")
        for name in group:
            inside = f"{place}/{name}" if place else name
            link = group.get(name, getlink=True)
            if type(link) is not h5py.HardLink:
                _refuse(f"{inside!r:.80} is a link ({type(link).__name__}), which leads elsewhere")
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append((inside, item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                numbers += _check_dataset(item, inside, size)
                found[inside] = item
            else:
                _refuse(f"{inside!r:.80} is neither a group nor numbers")
    if numbers > 64 * FREE + 20 * size:
        _refuse(f"its {size:,} bytes claim to hold {numbers:,}")
    return found


def _check_dataset(dataset: Any, place: str, size: int) -> int:
    """The bytes of its numbers."""
    plan = dataset.id.get_create_plist()
    layout = plan.get_layout()  # first: to ask a virtual dataset for its shape opens other files
    if layout not in (CONTIGUOUS, CHUNKED, COMPACT) or plan.get_external_count():
        _refuse(f"{place!r:.80} has its numbers in other files")
    filters = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
    if any(filters.count(code) > MOST_FILTERS.get(code, 0) for code in filters):
        _refuse(f"{place!r:.80} is packed in a way that Keras does not use (filters {filters})")
    try:
        dtype = dataset.dtype
    except TypeError:
        dtype = np.dtype("O")
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        _refuse(f"{place!r:.80} holds {dtype!s:.40}; expected plain numbers, such as float32")
    shape = dataset.shape
    if shape is None or len(shape) > 8:
        _refuse(f"{place!r:.80} has no shape of a weight")
    length, stored = math.prod(shape) * dtype.itemsize, dataset.id.get_storage_size()
    allowed = FREE + LARGEST_RATIO * stored if layout == CHUNKED else stored
    if length > allowed or stored > size:
        _refuse(f"{place!r:.80} claims {length:,} bytes {shape}, and has {stored:,}")
    if layout == CHUNKED and math.prod(dataset.chunks) * dtype.itemsize > length + FREE:
        _refuse(f"{place!r:.80} has chunks of {dataset.chunks}, larger than itself")
    return length


def _text_attribute(attributes: Any, name: str) -> list[str]:
    place = attributes.get_id(name)
    shape = place.shape
    count = math.prod(shape) if shape is not None else 0
    if shape is None or len(shape) > 1 or count > MOST_NAMES:
        _refuse(f"its attribute {name!r:.60} is no text and no list of texts")
    if count == 0:
        return []  # Keras writes an empty list as numbers
    if place.get_storage_size() > LARGEST_TEXT or count * place.dtype.itemsize > LARGEST_TEXT:
        _refuse(f"its attribute {name!r:.60} is longer than {LARGEST_TEXT:,} bytes")
    value = attributes[name]
    values = [value] if shape == () else list(value)
    texts = [text.decode() if isinstance(text, bytes) else text for text in values]
    if not all(isinstance(text, str) for text in texts):
        _refuse(f"its attribute {name!r:.60} holds more than texts")
    return [str(text) for text in texts]
