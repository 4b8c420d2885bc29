"""Files of Keras that want to do harm, each whole but for what it wants."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

BIG = 10**14
SHAPES = {"dense": (4, 5), "dense_1": (5, 3)}
Change = Callable[[Any], Any]


def hdf5(change: Change | None = None, libver: str = "earliest") -> bytes:
    """Weights as Keras 3 writes them, for hostile.small_model()."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=libver) as file:
        for name, (inputs, units) in SHAPES.items():
            file[f"layers/{name}/vars/0"] = np.ones((inputs, units), "f4")
            file[f"layers/{name}/vars/1"] = np.ones(units, "f4")
        file.create_group("layers/dropout/vars")
        if change is not None:
            change(file)
    return buffer.getvalue()


def without_kernel(file: Any) -> Any:
    del file["layers/dense/vars/0"]
    return file["layers/dense/vars"]


def kernel(**options: Any) -> bytes:
    return hdf5(lambda file: without_kernel(file).create_dataset("0", **options))


def kernel_is(value: Any) -> bytes:
    def put(file: Any) -> None:
        without_kernel(file)["0"] = value

    return hdf5(put)


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4, 5), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4, 5))
    without_kernel(file).create_virtual_dataset("0", layout)


def low_level(shape: tuple, chunks: tuple, *filters: tuple[int, tuple]) -> Change:
    """A kernel whose filters h5py itself would not set."""

    def put(file: Any) -> None:
        group = without_kernel(file)
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk(chunks)
        for code, values in filters:
            plan.set_filter(code, h5py.h5z.FLAG_OPTIONAL, values)
        space = h5py.h5s.create_simple(shape, (h5py.h5s.UNLIMITED,) * len(shape))
        h5py.h5d.create(group.id, b"0", h5py.h5t.IEEE_F32LE, space, plan)

    return put


def deep(depth: int) -> Change:
    return lambda file: file.create_group("/".join("a" * depth))


def circle(file: Any) -> None:
    file["layers/again"] = file["/"]


def crowd(file: Any) -> None:
    for number in range(30_000):  # as file.create_group does, but faster
        h5py.h5g.create(file.id, b"%d" % number)


def older(change: Change) -> bytes:
    """Weights in the form of model.save_weights of Keras 1 and 2."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["keras_version"], file.attrs["backend"] = "2.4.0", "tensorflow"
        file.attrs["layer_names"] = [b"dense", b"dense_1"]
        for name, (inputs, units) in SHAPES.items():
            file[f"{name}/{name}/kernel:0"] = np.ones((inputs, units), "f4")
            file[f"{name}/{name}/bias:0"] = np.ones(units, "f4")
            file[name].attrs["weight_names"] = [
                f"{name}/{w}:0".encode() for w in ("kernel", "bias")
            ]
        change(file)
    return buffer.getvalue()


def attribute(name: str, value: Any, group: str = "/") -> bytes:
    return older(lambda file: file[group].attrs.__setitem__(name, value))


def layer(kind: str, module: str = "keras.layers", registered: Any = None, **config: Any) -> dict:
    return {"module": module, "class_name": kind, "config": config, "registered_name": registered}


def model(*parts: dict) -> dict:
    start = layer("InputLayer", batch_shape=[None, 4], name="input")
    return layer("Sequential", "keras", name="m", layers=[start, *parts])


def dense(units: Any = 5, **more: Any) -> dict:
    return layer("Dense", name="dense", units=units, **more)


def zipped(config: Any, weights: bytes | None = None, *more: Any, method: int = 0) -> bytes:
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("metadata.json", b"{}")
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", hdf5() if weights is None else weights)
        for name, content in more:
            archive.writestr(name, content)
    return buffer.getvalue()


def good() -> bytes:
    last = layer("Dense", name="dense_1", units=3)
    return zipped(model(dense(), layer("Dropout", name="dropout", rate=0.5), last))


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def with_end(field: int, length: int, value: int) -> bytes:
    """A good file whose end of the zip says otherwise."""
    content = bytearray(good())
    place = content.rfind(b"PK\5\6") + field
    content[place : place + length] = value.to_bytes(length, "little")
    return bytes(content)


def encrypted() -> bytes:
    content = bytearray(good())
    for start, field in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.find(start) + field] |= 1
    return bytes(content)


def dotted(depth: int) -> bytes:
    return b'{"class_name":' * depth + b"1" + b"}" * depth


def nested(depth: int) -> dict:
    part = dense()
    for number in range(depth):
        part = layer("Sequential", "keras", name=f"s{number}", layers=[part])
    return model(part)


CODE = {"class_name": "__lambda__", "config": {"code": "4wAAAA==", "defaults": None}}
CALL = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}

#: what it is → (suffix, its bytes)
FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "h5: a link to /etc/passwd": (
        ".h5", lambda: kernel_is(h5py.ExternalLink("/etc/passwd", "/x"))
    ),
    "h5: a link within": (".h5", lambda: kernel_is(h5py.SoftLink("/layers/dense_1/vars/0"))),
    "h5: numbers in /etc/passwd": (
        ".h5", lambda: kernel(shape=(4, 5), dtype="f4", external=[("/etc/passwd", 0, 80)])
    ),
    "h5: a virtual kernel": (".h5", lambda: hdf5(virtual, "latest")),
    "h5: references": (
        ".h5", lambda: hdf5(lambda f: f.create_dataset("r", (4,), dtype=h5py.ref_dtype))
    ),
    "h5: texts": (".h5", lambda: hdf5(lambda f: f.create_dataset("t", data=["a", "b"]))),
    "h5: a type": (".h5", lambda: hdf5(lambda f: f.__setitem__("t", np.dtype("f4")))),
    "h5: 10^14 numbers": (".h5", lambda: kernel(shape=(BIG,), dtype="f4")),
    "h5: 10^14 numbers in chunks": (
        ".h5", lambda: kernel(shape=(BIG,), dtype="f4", chunks=(1024,), compression="gzip")
    ),
    "h5: a size of 2^62": (".h5", lambda: kernel(shape=(2**31, 2**31), dtype="u1", chunks=(1, 1))),
    "h5: a chunk of 4 GB": (".h5", lambda: hdf5(low_level((4, 5), (2**15, 2**15)))),
    "h5: 64 MB of zeros packed": (
        ".h5",
        lambda: kernel(
            data=np.zeros(2**26, "u1"), chunks=(2**26,), compression="gzip", compression_opts=9
        ),
    ),
    "h5: packed twice": (".h5", lambda: hdf5(low_level((4, 5), (4, 5), (1, (9,)), (1, (9,))))),
    "h5: a filter in a library": (".h5", lambda: hdf5(low_level((4, 5), (4, 5), (32001, ())))),
    "h5: groups 100 deep": (".h5", lambda: hdf5(deep(100))),
    "h5: groups in a circle": (".h5", lambda: hdf5(circle)),
    "h5: 30,000 groups": (".h5", lambda: hdf5(crowd)),
    "h5: cut off": (".h5", lambda: hdf5()[:3000]),
    "h5: noise": (".h5", lambda: hdf5()[:8] + np.random.default_rng(0).bytes(4000)),
    "h5: a pickle": (".h5", lambda: pickle.dumps({"a": 1})),
    "h5: layers elsewhere": (".h5", lambda: attribute("layer_names", [b"/etc/passwd", b"dense"])),
    "h5: weights of others": (".h5", lambda: attribute("weight_names", [b"../dense_1"], "dense")),
    "h5: a weight twice": (
        ".h5", lambda: attribute("weight_names", [b"dense/bias:0"] * 2, "dense")
    ),
    "h5: 50,000 names": (
        ".h5", lambda: older(lambda f: (
            f.attrs.pop("layer_names"),
            [f.attrs.create(f"layer_names{n}", np.full(5000, b"x")) for n in range(10)],
        )),
    ),
    "h5: names that are numbers": (".h5", lambda: attribute("layer_names", [1.0, 2.0])),
    "h5: a config of 9 MB": (".h5", lambda: attribute("model_config", "[" * 9 * 2**20)),
    "h5: complex kernel": (".h5", lambda: kernel(data=np.ones((4, 5), "c8"))),
    "h5: whole numbers": (".h5", lambda: kernel(data=np.ones((4, 5), "i4"))),
    "keras: Lambda": (".keras", lambda: zipped(model(layer("Lambda", name="x", function=CODE)))),
    "keras: a layer of os": (".keras", lambda: zipped(model(layer("system", "os", command="id")))),
    "keras: its author's Dense": (
        ".keras", lambda: zipped(model(layer("Dense", "evil", "evil>Dense", name="x", units=5)))
    ),
    "keras: registered Dense": (
        ".keras", lambda: zipped(model(layer("Dense", registered="evil>Dense", name="x", units=5)))
    ),
    "keras: a function as activation": (".keras", lambda: zipped(model(dense(activation=CALL)))),
    "keras: a function as penalty": (
        ".keras", lambda: zipped(model(dense(kernel_regularizer=CALL)))
    ),
    "keras: a vocabulary from a path": (
        ".keras", lambda: zipped(model(layer("StringLookup", vocabulary="/etc/passwd")))
    ),
    "keras: a member ../": (".keras", lambda: zipped(model(dense()), None, ("../evil.py", b"1"))),
    "keras: a member ../ in assets": (
        ".keras", lambda: zipped(model(dense()), None, ("assets/../../evil.py", b"1"))
    ),
    "keras: an absolute member": (
        ".keras", lambda: zipped(model(dense()), None, ("/tmp/evil.py", b"1"))
    ),
    "keras: a symlink": (
        ".keras", lambda: zipped(model(dense()), None, (link("assets/x"), b"/etc/passwd"))
    ),
    "keras: a member twice": (
        ".keras", lambda: zipped(model(dense()), None, ("config.json", b"{}"))
    ),
    "keras: encrypted": (".keras", encrypted),
    "keras: a bomb as config": (".keras", lambda: zipped(b" " * 2 * 10**7, method=8)),
    "keras: a bomb as weights": (
        ".keras", lambda: zipped(model(dense()), bytes(2 * 10**7), method=8)
    ),
    "keras: a config of 9 MB": (".keras", lambda: zipped(b'{"a":"' + b"x" * 9 * 2**20 + b'"}')),
    "keras: depth 10,000": (".keras", lambda: zipped(dotted(10_000))),
    "keras: NaN": (".keras", lambda: zipped(b'{"class_name":NaN,"config":{}}')),
    "keras: a list as config": (".keras", lambda: zipped(b"[]")),
    "keras: no config": (".keras", lambda: zipped({})),
    "keras: damaged": (".keras", lambda: good().replace(b"\0\0\x80?", b"\0\0\0@", 1)),
    "keras: cut off": (".keras", lambda: good()[:-30]),
    "keras: a list of 2^40 members": (".keras", lambda: with_end(12, 4, 2**31)),
    "keras: a pickle": (".keras", lambda: pickle.dumps({"a": 1})),
    "keras: 10^14 units": (".keras", lambda: zipped(model(dense(BIG)))),
    "keras: 10^14 units, kept in chunks": (
        ".keras",
        lambda: zipped(
            model(dense(BIG)),
            kernel(shape=(4, BIG), dtype="f4", chunks=(4, 1024), compression="gzip"),
        ),
    ),
    "keras: units as a path": (".keras", lambda: zipped(model(dense("/etc/passwd")))),
    "keras: units of 2^70": (".keras", lambda: zipped(model(dense(2**70)))),
    "keras: an input of 2^62": (
        ".keras",
        lambda: zipped(
            layer("Sequential", "keras", name="m", layers=[
                layer("InputLayer", batch_shape=[None, 2**31, 2**31, 3]), layer("Flatten"), dense()
            ])
        ),
    ),
    "keras: 5,000 layers": (
        ".keras", lambda: zipped(model(*[layer("ReLU", name=f"r{n}") for n in range(5000)]))
    ),
    "keras: nested 60 deep": (".keras", lambda: zipped(nested(60))),
    "keras: layers are a number": (
        ".keras", lambda: zipped(layer("Sequential", "keras", name="m", layers=7))
    ),
    "keras: a graph in a circle": (
        ".keras",
        lambda: zipped(layer("Functional", "keras", name="m", input_layers=["a", 0, 0],
            output_layers=["b", 0, 0], layers=[
                layer("InputLayer", name="a", batch_shape=[None, 4]) | {"inbound_nodes": []},
                layer("ReLU", name="b") | {"inbound_nodes": [[["c", 0, 0, {}]]]},
                layer("ReLU", name="c") | {"inbound_nodes": [[["b", 0, 0, {}]]]},
            ])),
    ),
}  # fmt: skip

#: which check must have found it, where another would, too, but later
WORDS = {
    "h5: a link to /etc/passwd": "'layers/dense/vars/0' is a link .ExternalLink",
    "h5: a link within": "is a link .SoftLink",
    "h5: numbers in /etc/passwd": "has its numbers in other files",
    "h5: a virtual kernel": "has its numbers in other files",
    "h5: references": "expected plain numbers",
    "h5: texts": "expected plain numbers",
    "h5: a type": "neither a group nor numbers",
    "h5: 10^14 numbers": "claims 400,000,000,000,000 bytes",
    "h5: 10^14 numbers in chunks": "claims 400,000,000,000,000 bytes",
    "h5: a chunk of 4 GB": "chunks of",
    "h5: 64 MB of zeros packed": "claims 67,108,864 bytes|claim to hold",
    "h5: packed twice": "packed in a way",
    "h5: a filter in a library": "filters .32001",
    "h5: groups 100 deep": "more than 40 deep",
    "h5: groups in a circle": "hold one another",
    "h5: 30,000 groups": "more than 20,000 objects",
    "h5: cut off": "truncated",
    "h5: a pickle": "Python pickle",
    "h5: layers elsewhere": "lists a layer '/etc/passwd'",
    "h5: weights of others": "lists a weight",
    "h5: a weight twice": "not in it once",
    "h5: 50,000 names": "more than 20,000",
    "h5: a config of 9 MB": "longer than|at most 8,388,608",
    "h5: whole numbers": "quantized",
    "keras: Lambda": "is code, which is never run",
    "keras: a layer of os": "module os, not Keras's",
    "keras: its author's Dense": "module evil, not Keras's",
    "keras: registered Dense": "not Keras's own",
    "keras: a function as activation": "the activation",
    "keras: a vocabulary from a path": "unknown layer 'StringLookup'",
    "keras: a member ../": r"'\.\./evil\.py', which Keras does not write",
    "keras: a member ../ in assets": "points out of the file",
    "keras: a symlink": "points out of the file",
    "keras: a member twice": "comes twice",
    "keras: encrypted": "encrypted",
    "keras: a bomb as config": "unpacks",
    "keras: a bomb as weights": "unpacks",
    "keras: a config of 9 MB": "claims 9,437,192 bytes",
    "keras: depth 10,000": "nested too deeply",
    "keras: NaN": "the number NaN",
    "keras: damaged": "CRC-32",
    "keras: cut off": "end of the zip is missing",
    "keras: a list of 2^40 members": "claims 2,147,483,648 bytes",
    "keras: 10^14 units": "another architecture",
    "keras: 10^14 units, kept in chunks": "claims 1,600,000,000,000,000 bytes",
    "keras: 5,000 layers": "more than 500 layers",
    "keras: nested 60 deep": "nested more than 20 deep",
    "keras: a graph in a circle": "no chain",
}
