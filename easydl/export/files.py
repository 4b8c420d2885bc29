"""``model.export``: the network as a file that torch or ONNX programs run without easydl."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from easydl.data import Arrays, as_source
from easydl.data.convert import Tree, leaves, map_tree
from easydl.errors import check_path, warn_user
from easydl.export.plain import has_own_forward, to_torch
from easydl.saving import write_atomically
from easydl.training.network import first_leaf, input_dtype, takes_keywords
from easydl.training.prepare import get_inputs_ready

if TYPE_CHECKING:
    from easydl.model import Model

UNKNOWN = (
    "export does not know what the network takes; expected a few rows of it: "
    "model.export(path, x=x_test[:5]), or x=(a[:5], b[:5]) for several inputs."
)
TOLERANCE = 1e-5  # of an output, and of its size where that is above 1
BATCHES = (1, 2, 5)  # rows that a file is tried with: it must not know the example's


def export(model: Model, path: Any, x: Any = None) -> None:
    """See ``Model.export``."""
    path = check_path("path", path, "m.onnx")
    if path.suffix not in WRITERS:
        raise ValueError(
            f"export({str(path)!r:.200}) was called; expected a name that ends in .pt2 "
            "(torch.export) or .onnx. Weights alone: save_weights('w.safetensors'); the whole "
            "model: save('m.easydl')."
        )
    if not model.is_built:
        raise ValueError(
            "export was called before the shapes are known; expected model.build(shape), or a fit, "
            "first."
        )
    missing = [name for name in NEEDED[path.suffix] if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"export to {path.suffix} needs {' and '.join(missing)}, which is not installed; write "
            "pip install 'easydl[onnx]'. A .pt2 file needs torch alone."
        )
    rows = example(model, x)
    network = copy.deepcopy(model) if has_own_forward(model) else to_torch(model)
    network = network.cpu().eval().requires_grad_(False)
    call = call_of(model, rows)
    try:
        with torch.no_grad():
            names = output_names(network(*call.args, **call.options))
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        if x is None:  # it takes several inputs, or indices
            raise ValueError(UNKNOWN) from error
        raise
    with quiet(), refusing(network):
        program = torch.export.export(
            network, call.args, call.options, dynamic_shapes=call.dynamic()
        )
        content, run = WRITERS[path.suffix](program, call, names)
    if run is not None:
        check(network, model, rows, run)
    write_atomically(path, content)
    if run is None:
        warn_user(
            f"{path.name} was written, but not compared with the model: that needs onnxruntime "
            "(pip install onnxruntime)."
        )


def example(model: Model, x: Any) -> Tree:
    """Rows as the network takes them: the user's, or random ones of the shape it was built for."""
    if x is not None:
        source = as_source(x)
        if not isinstance(source, Arrays):
            raise ValueError(
                f"export was given x={type(x).__name__}; expected a few rows as arrays, such as "
                "x=x_test[:5]."
            )
        get_inputs_ready(model, source)
        return some(source.peek(max(BATCHES))[0], max(BATCHES))
    shape = model.given_input_shape
    if shape is None:
        raise ValueError(UNKNOWN)
    size = (max(BATCHES), *(n or 8 for n in shape))
    generator = torch.Generator().manual_seed(0)
    table = first_leaf(model)
    if isinstance(table, nn.Embedding):
        return torch.randint(table.num_embeddings, size, generator=generator)
    return torch.randn(size, generator=generator).to(input_dtype(model))


def some(rows: Tree, count: int) -> Tree:
    """The first rows, again from the first where there are fewer."""
    return map_tree(lambda t: t[torch.arange(count) % len(t)], rows)


class Call:
    """How the network is called with some rows: its arguments, and names for its inputs."""

    def __init__(self, args: tuple, options: dict[str, Any], x: Tree):
        self.args, self.options, self.x = args, options, x
        several = [f"x_{n}" for n in range(1, len(leaves(x)) + 1)]
        self.names = list(x) if isinstance(x, dict) else several if len(several) > 1 else ["x"]

    def dynamic(self) -> Any:
        """The first axis of every input has any size, called "batch"."""
        batch = torch.export.Dim("batch")
        return map_tree(lambda _: {0: batch}, self.options or self.args)


def call_of(model: Any, x: Tree) -> Call:
    """As ``Model`` itself calls the network with ``x``."""
    if type(x) is tuple:
        return Call(x, {}, x)
    if type(x) is dict and takes_keywords(model, x):
        return Call((), x, x)
    return Call((x,), {}, x)


def output_names(outputs: Any) -> list[str]:
    if isinstance(outputs, dict):
        return [str(key) for key in outputs]
    count = len(leaves(outputs))
    return ["y"] if count == 1 else [f"y_{n}" for n in range(1, count + 1)]


Run = Callable[[Call], list[Tensor]]


def write_pt2(program: Any, call: Call, outputs: list[str]) -> tuple[bytes, Run | None]:
    """The file of ``torch.export``, and what runs it."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), lambda call: leaves(loaded(*call.args, **call.options))


def write_onnx(program: Any, call: Call, outputs: list[str]) -> tuple[bytes, Run | None]:
    """The ONNX file, and what runs it where onnxruntime is installed."""
    converted = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=call.names,
        output_names=outputs,
        dynamic_shapes=call.dynamic(),  # for the axis's name
    )
    assert converted is not None
    content = converted.model_proto.SerializeToString()
    if importlib.util.find_spec("onnxruntime") is None:
        return content, None
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(call: Call) -> list[Tensor]:
        given = {name: rows.numpy() for name, rows in zip(call.names, leaves(call.x))}
        return [torch.as_tensor(array) for array in session.run(None, given)]

    return content, run


NEEDED = {".pt2": (), ".onnx": ("onnx", "onnxscript")}
#: suffix -> what makes the file's bytes
WRITERS: dict[str, Callable[[Any, Call, list[str]], tuple[bytes, Run | None]]] = {
    ".pt2": write_pt2,
    ".onnx": write_onnx,
}


def check(network: nn.Module, model: Model, rows: Tree, run: Run) -> None:
    """Compare what the file computes with what the network computes, for 1, 2 and 5 rows.

    Raises:
        ValueError: they differ, or the file takes no batch of that size.
    """
    for count in BATCHES:
        call = call_of(model, some(rows, count))
        with torch.no_grad():
            expected = leaves(network(*call.args, **call.options))
        try:
            with quiet():
                found = run(call)
        except Exception as error:
            raise ValueError(
                f"the exported network fails for a batch of {count} rows, so no file was written; "
                "expected a forward that takes any number of rows (no view(32, …), no Python on "
                f"len(x)). It says: {first_line(error)}"
            ) from error
        for ours, theirs in zip(expected, found, strict=True):
            error_size = (ours - theirs.to(ours.dtype)).abs() / ours.abs().clamp_min(1)
            if ours.shape != theirs.shape or not bool((error_size <= TOLERANCE).all()):
                raise ValueError(
                    f"the exported network's outputs differ from the model's by "
                    f"{float(error_size.max()):.2g} for {count} rows, so no file was written; "
                    f"expected at most {TOLERANCE:g}. Random numbers in forward, or branches on "
                    "values, are fixed by an export: leave them out in evaluation mode."
                )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without torch's and onnx's remarks on their own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def refusing(network: nn.Module) -> Iterator[None]:
    """What torch cannot export, in one message."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"torch cannot export {type(network).__name__}; expected a forward of torch operations "
            "without Python branches on values, NumPy or .item(), for any number of rows. To move "
            f"the network in Python write model.to_torch(). It says: {first_line(error)}"
        ) from error


def first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200] if text else 'no reason'}"
