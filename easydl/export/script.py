"""``model.source``: the model and its training as a script of plain PyTorch."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from easydl.data.rows import CHUNK_BYTES
from easydl.errors import check_between, check_flag, check_positive_int, did_you_mean
from easydl.export.code import literal, refuse
from easydl.export.layers import (
    HELPERS,
    Part,
    parts_of,
    penalty_code,
)
from easydl.export.loop import (
    batches,
    broken,
    in_autocast,
    learning_rate,
    norms,
    terms,
    train,
    weighs,
)
from easydl.export.objective import (
    loss_lines,
    metric_codes,
    prediction_code,
    weighted_lines,
)
from easydl.export.plain import has_own_forward
from easydl.export.watching import CHANGING, HELPER, WATCHING, WRITTEN
from easydl.training.batches import rows_that_fit
from easydl.training.network import first_leaf, input_dtype
from easydl.training.prepare import has_standard_loss
from easydl.training.trainable import sync_trainable

if TYPE_CHECKING:
    from easydl.model import Model

DEFAULTS = {
    "epochs": 1, "batch_size": 32, "validation_split": 0.0, "split": "tail", "shuffle": True,
    "validation_data": False, "class_weight": None, "sample_weight": False,
    "validation_weight": False, "callbacks": (),
}  # fmt: skip
#: callbacks that look on and change no weight
LOOKING_ON = (
    "BackupAndRestore", "CSVLogger", "LambdaCallback", "ModelCheckpoint", "ProgressBar",
    "TensorBoard", "TerminateOnNaN", "function",
)  # fmt: skip


def source(
    model: Model,
    seed: int = 0,
    epochs: int | None = None,
    batch_size: int | None = None,
    validation_split: float | None = None,
    split: str | None = None,
    shuffle: bool | None = None,
) -> str:
    """See ``Model.source``."""
    seed = check_positive_int("seed", seed, minimum=0)
    check_can_be_written(model)
    sync_trainable(model)
    given = {
        "epochs": epochs, "batch_size": batch_size, "validation_split": validation_split,
        "split": split, "shuffle": shuffle,
    }  # fmt: skip
    fit = fit_arguments(model, {key: value for key, value in given.items() if value is not None})
    parts = parts_of(model)
    head = model._compiled.heads[0]
    if model._compiled.use_logits:
        parts.pop()  # the softmax or sigmoid that the loss has
    names = [f"model[{number}]" for number in range(len(parts))]
    check_weights(fit, head)
    objective = loss_function(model, head, parts, names, weighs(fit))
    blocks = [
        constants(model, fit, seed),
        load_data(model, head, fit),
        *[HELPERS[name].strip("\n") for name in HELPERS if uses(parts, name)],
        build_model(model, parts, names),
        objective,
        *probabilities(head),
        figures(model, head, is_one_hot(model) and takes_one_hot(head.loss)),
        evaluate(model, fit),
        *learning_rate(model),
        *norms(model, parts, names),
        *([HELPER.strip("\n")] if any(name in WATCHING for name, _ in fit["callbacks"]) else []),
        *batches(model, fit),
        train(model, parts, names, fit, labels_code(model, head)),
        main(fit),
    ]
    body = "\n\n\n".join(blocks)
    imports = [
        *(["import math\n"] if "math." in body else []),
        "import numpy as np",
        "import torch",
        *(["import torch.nn.functional as F"] if "F." in body else []),
        "from torch import nn",
    ]
    return header(fit, seed) + "\n".join(imports) + "\n\n" + body


def uses(parts: list[Part], name: str) -> bool:
    return any(part.code.startswith(f"{name}(") for part in parts)


def check_can_be_written(model: Model) -> None:
    """What no script can say is refused before anything is written."""
    state = model._compiled
    if model.own_loss:
        raise refuse(f"the loss of {type(model).__name__}", "expected a loss given to compile.")
    if state is None or not state.heads:
        raise ValueError(
            "source() was called before the model has seen data, which tell the shapes and the "
            "form of the loss; expected compile and fit, or evaluate, first."
        )
    if has_own_forward(model):
        raise refuse(
            f"the forward of {type(model).__name__}, which is code of its own",
            "expected a Sequential, or Model(nn.Sequential(…)).",
            "The class is a torch module already: derive it from nn.Module to use it without "
            "easydl, or write model.export('m.pt2').",
        )
    if not has_standard_loss(model):
        raise refuse(f"compute_loss of {type(model).__name__}", "expected a loss in compile.")
    if len(state.heads) > 1 or isinstance(state.loss, (list, tuple, dict)):
        raise refuse("several outputs", "expected one.")
    if len(state.heads_key[0]) > 1:
        raise refuse("several inputs", "expected one.")
    if not state.heads_key[1]:
        raise refuse("training without targets", "expected fit(x, y).")
    if input_dtype(model) != torch.float32:
        raise refuse(f"weights of {input_dtype(model)}", "expected float32.")
    for name, value, usual in (
        ("precision", state.precision, ("float32", "bfloat16")),
        ("jit", state.jit, (False,)),
    ):
        if value not in usual:
            raise refuse(f"compile({name}={value!r})", f"expected {name}={usual[0]!r}.")


def fit_arguments(model: Model, given: dict[str, Any]) -> dict[str, Any]:
    """Those given, else those of the last ``fit``, else its defaults; checked.

    Raises:
        ValueError: a fit that a script cannot repeat.
    """
    known = {} if model.history is None else model.history.arguments
    if model.history is not None and not known and not {"epochs", "batch_size"} <= set(given):
        raise ValueError(
            "source() was called on a model from a file, which does not keep fit's arguments; "
            "expected them: source(epochs=10, batch_size=32)."
        )
    if known.get("fits", 1) > 1 and "epochs" not in given:
        raise ValueError(
            f"the model was fit {known['fits']} times; the script trains once, from the first "
            "weights. Write source(epochs=…) for one fit of so many epochs."
        )
    if "epochs" not in given:
        check_unchanged(model, known)
    for name, usual in (
        ("steps_per_epoch", None),
        ("initial_epoch", 0),
    ):
        if known.get(name, usual) != usual:
            raise refuse(f"fit({name}=…)", f"expected a fit without {name}.")
    if not known.get("arrays", True):
        raise refuse("a fit on a Dataset, loader or generator", "expected arrays x and y.")
    used = [name for name, _ in known.get("callbacks", [])]
    changing = [name for name in used if name not in LOOKING_ON and name not in WRITTEN]
    if changing and "epochs" not in given:
        raise refuse(
            f"the callback {changing[0]}, which may change the training",
            "expected a fit without it, or the epochs that were trained: source(epochs=…).",
        )
    fit = DEFAULTS | {key: known[key] for key in DEFAULTS if key in known} | given
    check_positive_int("epochs", fit["epochs"])
    check_positive_int("batch_size", fit["batch_size"])
    fit["validation_split"] = check_between("validation_split", fit["validation_split"], 0, 1)
    fit["shuffle"] = check_flag("shuffle", fit["shuffle"])
    if fit["split"] not in ("tail", "random", "stratified"):
        raise ValueError(did_you_mean("split", fit["split"], ("tail", "random", "stratified")))
    if fit["validation_split"]:
        fit["validation_data"] = False
    return fit


def check_unchanged(model: Model, known: dict[str, Any]) -> None:
    """Refuse to describe a ``fit`` that began otherwise than the script, or whose model changed."""
    as_now = "or source(epochs=…) for a training of the model as it is now."
    if not known.get("first_weights", True):
        raise refuse(
            "a fit from weights that were put in, or trained, before it (load_weights, "
            "set_weights, load_state_dict, train_on_batch, layers of another model)",
            "expected the first fit of a model of random weights, " + as_now,
        )
    optimizer = model.optimizer
    if known and not model._compiled.has_trained:
        raise refuse("a fit before the last compile", f"expected compile, then fit, {as_now}")
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    changed = sorted(set(known.get("frozen", frozen)) ^ set(frozen))
    if changed:
        state = "frozen" if changed[0] in frozen else "free"
        raise refuse(
            f"a fit after which trainable was changed ({changed[0]!r:.80} is {state} now)",
            f"expected trainable as it was, {as_now}",
        )
    scheduled = model._compiled.step_scheduler or model._compiled.epoch_scheduler
    used = [name for name, _ in known.get("callbacks", [])]
    if scheduled is None and optimizer is not None and not set(used) & set(CHANGING):
        rate = optimizer.param_groups[0]["lr"]
        if rate != known.get("learning_rate", rate):
            raise refuse(
                f"a fit whose learning rate was changed from {known['learning_rate']:g} to "
                f"{rate:g}",
                f"expected the rate as it was, {as_now}",
            )


# -- the script, from top to bottom ----------------------------------------------------------------


def header(fit: dict[str, Any], seed: int) -> str:
    call = ["x", "y", f"epochs={fit['epochs']}", f"batch_size={fit['batch_size']}"]
    if fit["validation_split"]:
        call.append(f"validation_split={fit['validation_split']!r}")
        call += [] if fit["split"] == "tail" else [f"split={literal(fit['split'])}"]
    call += ["validation_data=(x_val, y_val)"] if fit["validation_data"] else []
    call += [] if fit["shuffle"] else ["shuffle=False"]
    call += [] if fit["class_weight"] is None else ["class_weight=…"]
    call += ["sample_weight=w"] if fit["sample_weight"] else []
    used = [f"{name}(…)" for name, _ in fit["callbacks"] if name in WRITTEN]
    call += [f"callbacks=[{', '.join(used)}]"] if used else []
    lines = [
        '"""A network and its training in plain PyTorch, written by easydl.',
        "",
        "Needs torch and NumPy alone. On the same machine and versions it gives, to the last bit,",
        "the weights of",
        "",
        f"    easydl.seed({seed})",
        "    model = …  # the layers in one list, then compile",
        *broken("    ", "model.fit(", call, ")"),
        '"""',
    ]
    return "\n".join(lines) + "\n\n"


def constants(model: Model, fit: dict[str, Any], seed: int) -> str:
    state = model._compiled
    rows = rows_that_fit(model, math.prod(state.heads_key[0][0][0]))
    rows = fit["batch_size"] if state.heads[0].sums else rows  # the loss grows with them
    names = ", ".join(map(literal, ["loss", *metric_codes(state.heads[0], False)]))
    lines = [
        f"SEED = {seed}",
        f"EPOCHS = {fit['epochs']}",
        f"BATCH_SIZE = {fit['batch_size']}",
        *(
            [f"PIECE = {piece_rows(model, fit)}  # rows gathered at once, 8 MB"]
            if fit["shuffle"]
            else []
        ),
        f"EVALUATION_ROWS = {rows}  # rows at a time where nothing is learnt",
        f"FIGURES = [{names}]",
    ]
    if state.accumulate > 1:
        lines.append(f"ACCUMULATE = {state.accumulate}  # batches to one step of the optimizer")
    if state.device.type != "cpu":
        lines.append(f'DEVICE = "{state.device}"')
    return "\n".join(lines)


def piece_rows(model: Model, fit: dict[str, Any]) -> int:
    """How many rows ``data.arrays`` gathers at once: whole batches, some 8 MB."""
    head = model._compiled.heads[0]
    x_bytes = 8 if isinstance(first_leaf(model), nn.Embedding) else 4
    labels = head.kind == "categorical" and not (is_one_hot(model) and takes_one_hot(head.loss))
    y_bytes = 8 * math.prod(head.positions) if labels else 4 * math.prod(head.shape)
    row = x_bytes * math.prod(model._compiled.heads_key[0][0][0]) + y_bytes + 4 * weighs(fit)
    return max(CHUNK_BYTES // (max(row, 1) * fit["batch_size"]), 1) * fit["batch_size"]


def load_data(model: Model, head: Any, fit: dict[str, Any]) -> str:
    """The user's place to fill in; casts and aligns as ``fit`` does."""
    x_shape = model._compiled.heads_key[0][0][0]
    whole = isinstance(first_leaf(model), nn.Embedding)
    x_kind, y_kind = ("int64" if whole else "float32"), "float32"
    shape, last = head.shape, ""
    if is_one_hot(model):
        if not takes_one_hot(head.loss):
            last = f".argmax({head.class_axis})"
    elif head.kind == "categorical":
        y_kind, shape = "int64", head.positions
    elif head.kind == "free":
        raise refuse(f"the loss {type(head.loss).__name__}", "expected a loss by name.")
    reshaped = ", ".join(map(str, ("len(y)", *shape)))
    moved = ".to(DEVICE)" if model._compiled.device.type != "cpu" else ""
    signs = head.threshold == 0
    arrays, result = ["x", "y"], ['pair(data["x"], data["y"])']
    if fit["sample_weight"]:
        arrays.append("w")
        result = [f"*{result[0]}", f'torch.from_numpy(data["w"]).to(torch.float32){moved}']
    if fit["validation_data"]:
        arrays += ["x_val", "y_val"]
        result = [f"*{result[0].lstrip('*')}", *result[1:], '*pair(data["x_val"], data["y_val"])']
    saved = ", ".join(f"{name}={name}" for name in arrays)
    lines = [
        "def load_data():",
        f'    """Put your data here: {", ".join(arrays)} as tensors.',
        "",
        "    As it stands it reads the file that this writes:",
        f'    np.savez("data.npz", {saved})',
        '    """',
        '    data = np.load("data.npz")',
        *(
            [f"    return {result[0]}"]
            if len(result) == 1
            else broken("    return ", "(", result, ")")
        ),
        "",
        "",
        "def pair(x, y):",
        f'    """Inputs {rows_of(x_shape)} and targets {rows_of(shape)}, in torch\'s types."""',
        f"    x = torch.from_numpy(x).to(torch.{x_kind}){moved}",
        f"    y = torch.from_numpy(y).to(torch.{y_kind}).reshape({reshaped}){last}{moved}",
    ]
    if signs:
        lines.append("    y = torch.where(((y == 0) | (y == 1)).all(), 2 * y - 1, y)  # -1 and 1")
    return "\n".join([*lines, "    return x, y"])


def is_one_hot(model: Model) -> bool:
    """Whether targets of classes came as rows like the outputs', and not as labels."""
    head, shape = model._compiled.heads[0], tuple(model._compiled.heads_key[1][0][0])
    if head.kind != "categorical":
        return False
    return [n for n in shape if n != 1] != [n for n in head.positions if n != 1]


def takes_one_hot(loss: Any) -> bool:
    return not isinstance(loss, nn.Module) or isinstance(loss, nn.CrossEntropyLoss)


def rows_of(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['N', *map(str, shape)])}{'' if shape else ','})"


def build_model(model: Model, parts: list[Part], names: list[str]) -> str:
    own = any(part.layer is not None and not part.is_torchs_own for part in parts)
    layers = [f"        {part.code}," for part in parts]
    if model._compiled.use_logits:
        layers[-1] += f"  # scores; the {model._compiled.heads[0].ending} is in the loss"
    lines = ["def build_model():", '    """The network with its first weights."""']
    if not own:
        lines.append("    torch.manual_seed(SEED)  # each layer draws its weights when made")
    lines += ["    model = nn.Sequential(", *layers, "    )"]
    if own:
        lines += [
            "    # The first weights, layer by layer: each line draws the next random numbers.",
            "    torch.manual_seed(SEED)",
        ]
        # torch's layers were there before easydl's were built: they drew first.
        for first in (True, False):
            for part, name in zip(parts, names):
                if part.is_torchs_own == first:
                    lines += [f"    {line}" for line in part.starts(name)]
    for part, name in zip(parts, names):
        lines += [f"    {line}" for line in part.frozen(name)]
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    if any(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions):
        lines.append(
            "    model.to(memory_format=torch.channels_last)  # where convolutions are faster"
        )
    if model._compiled.device.type != "cpu":
        lines.append("    model.to(DEVICE)")
    return "\n".join([*lines, "    return model"])


def check_weights(fit: dict[str, Any], head: Any) -> None:
    if weighs(fit) and head.weighted_metrics:
        raise refuse("weighted_metrics beside weights", "expected metrics.")
    if fit["validation_data"] and fit["validation_weight"]:
        raise refuse("weights in validation_data", "expected validation_data=(x, y).")


def labels_code(model: Model, head: Any) -> str:
    """The class of each row of ``y``, of which class weights and stratified splits speak."""
    if head.kind != "categorical":
        return "y.long().flatten()"
    rows = is_one_hot(model) and takes_one_hot(head.loss)
    return f"y.argmax({1 if head.class_axis == 1 else -1})" if rows else "y"


def loss_function(
    model: Model, head: Any, parts: list[Part], names: list[str], weighted: bool
) -> str:
    lines = ["def loss_function(model, out, y):", '    """The mean loss of one batch."""']
    if weighted:
        lines = [
            "def loss_function(model, out, y, w=None):",
            '    """The mean loss of one batch, each row times its weight."""',
            "    if w is None:",
            *[f"        {line}" for line in loss_lines(head)],
            "    else:",
            *[f"        {line}" for line in weighted_lines(head)],
        ]
    else:
        lines += [f"    {line}" for line in loss_lines(head)]
    if head.weight != 1:
        lines.append(f"    loss = loss * {literal(head.weight)}")
    penalties = terms(model, parts, names, "penalties")
    if penalties:
        lines[1] = '    """The mean loss of one batch, and what large weights cost."""'
        first, *others = [penalty_code(function, weight) for function, weight in penalties]
        lines.append(f"    penalty = {first}")
        lines += [f"    penalty = penalty + {other}" for other in others]
        return "\n".join([*lines, "    return loss + penalty"])
    if weighted:
        return "\n".join([*lines, "    return loss"])
    before, _, value = lines.pop().partition("loss = ")
    return "\n".join([*lines, f"{before}return {value}"])


def probabilities(head: Any) -> list[str]:
    code = prediction_code(head)
    if code == "out":
        return []
    text = "What the network's last scores say."
    return [f'def probabilities(out):\n    """{text}"""\n    return {code}']


def figures(model: Model, head: Any, one_hot: bool) -> str:
    codes = metric_codes(head, one_hot)
    lines = [
        "@torch.no_grad()",
        "def figures(loss, out, y):",
        '    """The numbers of FIGURES for one batch, each times its rows."""',
    ]
    if codes:
        out = "out.float()" if model._compiled.precision == "bfloat16" else "out"
        predicted = out if prediction_code(head) == "out" else f"probabilities({out})"
        lines.append(f"    predicted = {predicted}")
    lines += [
        *broken("    values = ", "[", ["loss", *codes.values()], "]"),
        "    return torch.tensor([float(value) for value in values], dtype=torch.float64) * len(y)",
    ]
    return "\n".join(lines)


def evaluate(model: Model, fit: dict[str, Any]) -> str:
    weighted = fit["sample_weight"]
    parts = ["x.split(EVALUATION_ROWS)", "y.split(EVALUATION_ROWS)"]
    more = ["    weights = [None] * len(x) if w is None else w.split(EVALUATION_ROWS)"]
    names = "xs, ys, ws" if weighted else "xs, ys"
    loop = f"    for {names} in zip({', '.join(parts + ['weights'] * weighted)}):"
    forward = ["out = model(xs)", f"loss = loss_function(model, out, ys{', ws' * weighted})"]
    lines = [
        "@torch.no_grad()",
        f"def evaluate(model, x, y{', w=None' * weighted}):",
        '    """The means over all rows, by name."""',
        "    model.eval()",
        "    total = torch.zeros(len(FIGURES), dtype=torch.float64)",
        *more * weighted,
        loop,
        *[f"        {line}" for line in in_autocast(model, forward)],
        "        total += figures(loss, out, ys)",
        "    return dict(zip(FIGURES, (total / len(x)).tolist()))",
    ]
    return "\n".join(lines)


def main(fit: dict[str, Any]) -> str:
    data = "x, y, w" if fit["sample_weight"] else "x, y"
    data += ", x_val, y_val" if fit["validation_data"] else ""
    return textwrap.dedent(f"""
        def main():
            {data} = load_data()
            model = build_model()
            train(model, {data})
            print("on these rows:", evaluate(model, x, y))
            return model


        if __name__ == "__main__":
            model = main()
    """).lstrip("\n")
