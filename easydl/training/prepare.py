"""From what the user gave to what the loop takes: building, settling the heads, checking data."""

from __future__ import annotations

import math
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any

import torch
from numpy import generic, ndarray
from torch import Tensor, nn

from easydl.callbacks.monitor import check_monitors as check_monitored_names
from easydl.data import Arrays, Stream
from easydl.data.convert import Tree, cast_inputs, check_finite, leaves, map_tree, rows_of, versions
from easydl.data.parquet import ParquetStream
from easydl.data.read import Batch, ready_weights
from easydl.data.rows import Rows, ready_leaf
from easydl.errors import is_dead_worker, warn_user
from easydl.layers.base import parts_of
from easydl.training.compiled import Compiled, order_targets
from easydl.training.meter import Meter, copied, set_aside, sums_of, take_back
from easydl.training.network import dtype_of, first_leaf, input_dtype, keeps_integers, without_trace
from easydl.training.trainable import sync_trainable

if TYPE_CHECKING:
    from easydl.model import Model

Source = Arrays | Stream
#: where compute_loss compares outputs with targets: Model's own, and those that add to it
STANDARD = ("easydl.model", "easydl.autoencoders.family", "easydl.vision.classifier")


def get_ready(model: Model, source: Source, what: str = "") -> None:
    """Build the network if need be, settle the heads, and check and cast the data.

    Arrays are checked whole, now; a stream batch by batch, on the CPU, as it comes.
    """
    state = model._compiled
    state.notice_new_parameters(model)
    get_inputs_ready(model, source, what)
    x, y, _ = source.peek()
    reproduces = model.reproduces_inputs and (y is None or labels_only(source, x, y))
    if reproduces:
        y = x
        if isinstance(source, Arrays):
            source.targets = source.inputs
    if y is None and state.loss is not None and has_standard_loss(model):
        given = f"{what} was given without targets" if what else "y=None was given"
        expected = "fit(x, y), fit(x, x) to reproduce the inputs, or batches (inputs, targets)"
        if what:
            expected = f"{what}=(x, y), or batches (inputs, targets)"
        if isinstance(source, Stream):
            given = f"{source.what} gives inputs only"
        if isinstance(source, ParquetStream):
            expected = "easydl.data.parquet(path, target='a column')"
        raise ValueError(
            f"{given}, but the loss compares outputs with targets; expected targets: {expected}."
        )
    if state.loss is None and (state.metrics or state.weighted_metrics):
        raise ValueError(
            "metrics were given without a loss, which tells what outputs and targets are; expected "
            "loss= as well (compute_loss stays the model's own), or metrics as parts that "
            "compute_loss returns: (loss, outputs, {'name': value})."
        )
    if state.loss is None and has_standard_loss(model):
        raise ValueError(
            "compile was given no loss; expected one, for example loss='mse' or "
            "loss='sparse_categorical_crossentropy'."
        )
    if isinstance(source, Stream):
        assert source.prepare is not None
        x, _, _ = source.prepare((x, y, None))
        y = x if reproduces else y
    sync_trainable(model)
    fresh = False
    if state.loss is not None:
        fresh = state.know_outputs(model, x, y)
    elif not model.is_built:
        model.try_out(x)
    model.to(state.device)
    state.know_parameters(model)
    if isinstance(source, Arrays):
        name = f"y of {what}" if what else "y"
        source.targets = ready_targets(state, source.targets, name)
        check_own_targets(model, source.targets, name)
    else:
        inputs_prepared = source.prepare
        assert inputs_prepared is not None

        def prepare_batch(batch: Batch) -> Batch:
            x, y, w = inputs_prepared(batch)
            y = x if reproduces else y
            try:
                y = ready_targets(state, y, "y")
                check_own_targets(model, y, "y")
            except ValueError as error:
                raise ValueError(f"{source.place}: {error}") from None
            return x, y, None if w is None else ready_weights(w)

        source.prepare = prepare_batch
    if fresh and has_standard_loss(model):
        rehearse(model, source)


def check_own_targets(model: Model, y: Tree, what: str) -> None:
    """What a family that is compiled without a loss says of its targets."""
    if model._compiled.strict and not model._compiled.heads:
        model.check_targets(y, what)


def labels_only(source: Source, x: Tree, y: Tree) -> bool:
    """Whether a stream's targets can only be labels, which an autoencoder passes over.

    Raises:
        ValueError: arrays of another shape than the inputs', which were given as targets.
    """
    if shapes_of(x) == shapes_of(y):
        return False
    if isinstance(source, Arrays):
        raise ValueError(
            f"y has samples of shape {str(shapes_of(y))[1:-1]}, but an autoencoder gives back the "
            f"inputs' {str(shapes_of(x))[1:-1]}; expected no y, fit(x), or the rows to give back. "
            "To classify: model.to_classifier(classes), after fit(x)."
        )
    return True


def get_inputs_ready(model: Any, source: Source, what: str = "") -> None:
    """Build the network if need be; check and cast the inputs."""
    name = f"x of {what}" if what else "x"
    plain = isinstance(source, Arrays) and type(source.inputs) is Tensor and not source.columns
    given: Any = source.inputs if plain else None  # type: ignore[union-attr]
    if plain and model.inputs_known == kind_of_inputs(model, given):
        source.inputs = ready_rows(model, given, name, model.inputs_known[0])
        return
    x, _, _ = source.peek()
    first = first_leaf(model)
    dtype, whole = input_dtype(model), keeps_integers(model, first)
    strict = model._is_strict
    if hasattr(model, "build_layers") and (isinstance(x, dict) or len(leaves(x)) > 1):
        raise ValueError(
            f"{name} holds {len(leaves(x))} arrays ({type(x).__name__}); a Sequential expects one "
            "array (N, …). For several inputs subclass easydl.Model; rows in a list: np.stack."
        )
    match_columns(model, source)

    def ready_inputs(x: Tree, name: str) -> Tree:
        places = iter(tables)

        def ready(given: Tensor | Rows) -> Tensor | Rows:
            table = next(places)

            def cast(rows: Tensor) -> Tensor:
                tensor = cast_inputs(rows, dtype, whole)
                return tensor if table is None else tensor.long()

            def check(rows: Tensor, name: str) -> Tensor:
                tensor = ready_rows(model, rows, name, dtype, whole)
                if table is not None:
                    check_indices(table, tensor, name)
                    tensor = tensor.long()
                return tensor

            return ready_leaf(given, name, check, cast)

        x = map_tree(ready, x)
        check_fits(model, x, name)
        if shapes_of(x) not in shapes and has_standard_loss(model):
            shapes.add(shapes_of(x))
            try_rows(model, x, name)
        return x

    if model.given_input_shape is None or not model.is_built:
        rows = leaves(x)[0]
        if not model.is_built and strict:
            check_finite(rows, name, may_fill=True)
        model.given_input_shape = tuple(rows.shape[1:])
        if isinstance(x, Tensor) and hasattr(model, "build_layers"):
            model.build_layers(tuple(rows.shape[1:]))
    tables = tables_of(model, first, x, dtype, whole)
    shapes = {shapes_of(x)}  # of a stream: a batch of a new shape is tried before it is trained on
    if isinstance(source, Arrays):
        source.inputs = ready_inputs(source.inputs, name)
        if plain and not whole and tables == [None]:
            model.inputs_known = kind_of_inputs(model, given)
    else:
        stream = source
        stream.prepare = lambda batch: (
            ready_inputs(batch[0], f"inputs of {stream.place}"),
            *batch[1:],
        )


def kind_of_inputs(model: Model, x: Tensor) -> tuple:
    """All that the checks of one plain array depend on, beside its numbers."""
    parts = parts_of(model)  # the model left out: one that holds itself waits for the collector
    return dtype_of(parts), x.shape[1:], parts[1:]


def ready_rows(
    model: Model, rows: Tensor, name: str, dtype: torch.dtype, whole: bool = False
) -> Tensor:
    """Rows cast, their numbers checked."""
    tensor = cast_inputs(rows, dtype, whole)
    if model._is_strict:
        check_finite(tensor, name, rows, may_fill=True)
        warn_of_rounding(tensor, rows, name)
        model.check_inputs(tensor, name)
    return tensor


def warn_of_rounding(tensor: Tensor, given: Tensor, name: str) -> None:
    """Tell of whole numbers that a cast brings too close together, such as timestamps."""
    if given.element_size() < 4 or given.is_floating_point() or not tensor.is_floating_point():
        return
    low, high = (end.double() for end in torch.aminmax(given.reshape(len(given), -1), dim=0))
    spacing = torch.maximum(low.abs(), high.abs()) * torch.finfo(tensor.dtype).eps
    felt = (spacing > 2) & (high > low) & (high - low < 1000 * spacing)
    if felt.any():
        column = int(felt.to(torch.uint8).argmax())
        step = 2 ** math.floor(math.log2(float(spacing[column])))
        warn_user(
            f"{name} holds whole numbers from {int(low[column]):,} to {int(high[column]):,} in "
            f"column {column}, which {tensor.dtype} rounds to multiples of {step:,}. Expected "
            "numbers of the size of 1: subtract the mean, divide by the deviation."
        )


def check_learns(model: nn.Module) -> None:
    """Something must be there to learn."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "every weight of the network is frozen, or there is none, so that training could "
            "change nothing; expected one that learns: model.trainable = True."
        )


def shapes_of(x: Tree) -> tuple:
    return tuple(tuple(leaf.shape[1:]) for leaf in leaves(x))


def try_rows(model: Any, x: Tree, name: str) -> None:
    try:
        model.try_out(map_tree(lambda t: t[:2].to(model.device), x))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def match_columns(model: Any, source: Source) -> None:
    """A table's columns in the order of the table that the model was fitted to."""
    for part, given in source.columns.items():
        known = model.column_names.get(part, given)
        if known == given or len(given) == 1:
            continue
        if set(known) == set(given) and len(set(known)) == len(known) == len(given):
            order = [given.index(column) for column in known]
            source.reorder(part, order)  # type: ignore[union-attr]  # only tables have columns
        elif list(range(len(given))) not in (known, given):  # pandas' numbers are no names
            missing = ", ".join(str(c) for c in known if c not in given) or "none"
            extra = ", ".join(str(c) for c in given if c not in known) or "none"
            raise ValueError(
                f"{part} is a table of other columns than the one the model was fitted to: missing "
                f"{missing[:120]}; not known {extra[:120]}. Expected the same names; to go by "
                f"position write {part}.to_numpy()."
            )


def rehearse(model: Model, source: Source) -> None:
    """Loss and metrics of the first rows, without a trace: what cannot work says so before a step.

    Raises:
        ValueError: the loss fails, gives no tensor, ignores the weights of the network, or applies
            softmax a second time; a metric does not fit.
    """
    state = model._compiled
    batch = source.peek()
    if isinstance(source, Stream):
        assert source.prepare is not None
        batch = source.prepare(batch)
    x, y, w = map_tree(lambda t: t.to(state.device, copy=True), batch)
    made: list[tuple[Tree, list[int]]] = []  # the network's outputs before the loss has them
    hook = model.register_forward_hook(lambda _, x, tree: made.append((tree, versions(tree))))
    with without_trace(model), state.autocast:
        try:
            loss, outputs, *parts = model.compute_loss(x, y, w)
        except (RuntimeError, TypeError, AttributeError, IndexError) as error:
            if is_dead_worker(error):
                raise
            shapes = [", ".join(str(tuple(t.shape)) for t in leaves(tree)) for tree in (x, y)]
            raise ValueError(
                f"the loss failed for inputs {shapes[0]} and targets {shapes[1]}: "
                f"{type(error).__name__}: {str(error)[:250]}. Expected a function "
                "(y_pred, y_true) -> tensor, as every torch loss of two arguments is."
            ) from error
        finally:
            hook.remove()
        written = any(versions(tree) != before for tree, before in made)
        if written and state.strict and (state.metrics or state.weighted_metrics):
            raise ValueError(
                "the loss changes y_pred in place, which the metrics see after it; expected it to "
                "leave y_pred alone: begin by y_pred = y_pred.clone()."
            )
        for head, output, target in zip(state.heads, leaves(outputs), leaves(y)):
            head.read_graph(loss, output)
            head.try_thrice(output, target)
        if not loss.requires_grad and any(p.requires_grad for p in model.parameters()):
            raise ValueError(
                "the loss does not depend on the network's weights, so nothing could learn; "
                "expected torch operations on y_pred all the way (no .detach(), .item(), NumPy, "
                "argmax or comparison)."
            )
        held = set_aside(state.heads)  # an epoch under way may count on them
        try:
            rehearse_metrics(state, {"loss": loss} | dict(*parts), (x, y, w), outputs)
        finally:
            take_back(held)


def rehearse_metrics(
    state: Compiled, losses: dict[str, Tensor], batch: Batch, outputs: Any
) -> None:
    """The metrics of one batch, each of which must be counted and forgotten."""
    x, y, w = batch
    meter = Meter(state.heads)
    kept = [(metric, held_by(metric)) for _, metric in meter.named_metrics]
    try:
        with warnings.catch_warnings():  # of one class in two rows, say
            warnings.simplefilter("ignore")
            meter.add(losses, rows_of(x), outputs, y, w)
            meter.read()
    except Exception as error:
        if isinstance(error, (ValueError, torch.OutOfMemoryError)) or is_dead_worker(error):
            raise
        raise ValueError(
            f"the metric {meter.asked} failed on the first rows: {type(error).__name__}: "
            f"{str(error)[:300]}; expected a function (y_pred, y_true) -> tensor, a name, or a "
            "Metric with update(self, y_pred, y_true, sample_weight=None)."
        ) from error
    meter.reset()
    for metric, before in kept:
        after = vars(metric)
        if gathered := [name for name in before if not is_same(before[name], after.get(name))]:
            raise ValueError(
                f"the metric {metric.name} gathers in self.{gathered[0]}, which reset() leaves "
                "as it is, so that rows of earlier passes would count; expected "
                f"self.state[{gathered[0]!r}], which is emptied, or a reset(self) of its own "
                "that calls super().reset()."
            )


def held_by(metric: Any) -> dict[str, Any]:
    """Copies of what a metric may gather in beside its ``state``; what begins with _ is its own."""
    names = [name for name in sums_of(metric) if name != "state" and name[0] != "_"]
    return {name: copied(vars(metric)[name]) for name in names}


def is_same(before: Any, after: Any) -> bool:
    """Whether something is as it was; ``None`` may be filled in, and objects do not tell."""
    if isinstance(before, (Tensor, ndarray)) and type(after) is type(before):
        same: Any = before.shape == after.shape and (
            (before == after) | ((before != before) & (after != after))
        )
        return bool(same is not False and same.all())
    if isinstance(before, dict) and isinstance(after, dict):
        return before.keys() == after.keys() and all(
            is_same(v, after[k]) for k, v in before.items()
        )
    if isinstance(before, (list, tuple, deque)) and isinstance(after, (list, tuple, deque)):
        return len(before) == len(after) and all(map(is_same, before, after))
    if isinstance(before, (int, float, str, set, generic, Tensor, ndarray)):
        return type(after) is type(before) and (before == after or before != before)
    return True


def ready_targets(state: Compiled, y: Tree, what: str) -> Tree:
    """Targets cast and aligned, in the outputs' order."""
    if y is None or not state.heads:

        def check(rows: Tensor, what: str) -> Tensor:
            if state.strict:
                check_finite(rows, what)
            return rows.float() if rows.dtype == torch.float64 else rows

        return map_tree(lambda t: ready_leaf(t, what, check), y)
    if len(state.heads) == 1 and not isinstance(y, (tuple, dict)):
        return ready_leaf(y, what, state.heads[0].targets)
    names = [head.name for head in state.heads]
    ready = [
        ready_leaf(target, f"{what}[{head.name!r:.40}]" if head.name else what, head.targets)
        for head, target in zip(state.heads, order_targets(y, names))
        if target is not None
    ]
    return ready[0] if len(ready) == 1 else tuple(ready)


def has_standard_loss(model: Model) -> bool:
    """Whether the loss compares outputs with targets."""
    return type(model).compute_loss.__module__ in STANDARD


def tables_of(
    model: Any, first: nn.Module | None, x: Tree, dtype: torch.dtype, whole: bool
) -> list[nn.Embedding | None]:
    """For each input the Embedding that takes it as it is, found by watching a few rows pass."""
    if first is not None:
        return [first if isinstance(first, nn.Embedding) else None] * len(leaves(x))
    x = map_tree(lambda t: cast_inputs(t, dtype, whole), x)
    rows = [leaf.to(model.device, copy=True) for leaf in leaves(x)]
    found: dict[int, nn.Embedding] = {}

    def look(table: Any, args: tuple) -> None:
        for i, row in enumerate(rows):
            if args and args[0] is row:
                found[i] = table
                check_indices(table, row, "x")

    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    hooks = [table.register_forward_pre_hook(look) for table in tables]
    moved = iter(rows)
    try:
        if tables and model.is_built:
            with without_trace(model):
                model._plain_call(map_tree(lambda _: next(moved), x))
    except Exception:
        pass  # what does not fit is told by the checks that follow
    finally:
        for hook in hooks:
            hook.remove()
    return [found.get(i) for i in range(len(rows))]


def check_indices(table: nn.Embedding, tensor: Tensor, what: str) -> None:
    """Indices must lie in the Embedding's table."""
    if not tensor.numel():
        return
    low, high = (int(v) for v in torch.aminmax(tensor))
    if low < 0 or high >= table.num_embeddings:
        advice = f"Write Embedding({high + 1}, …), or map rare entries to one index."
        if low < 0:  # what pandas, say, calls unknown
            advice = (
                "Map what is below 0 to an index of its own: x + "
                f"{-low} for example, with Embedding({max(high + 1 - low, 1)}, …)."
            )
        raise ValueError(
            f"{what} holds indices from {low} to {high}, but the Embedding's table has "
            f"{table.num_embeddings} rows; expected 0 … {table.num_embeddings - 1}. {advice}"
        )
    if tensor.is_floating_point() and bool((tensor != tensor.round()).any()):
        raise ValueError(
            f"{what} holds fractions; an Embedding expects whole indices "
            f"0 … {table.num_embeddings - 1}."
        )


def check_fits(model: Model, x: Tree, what: str) -> None:
    """The rows have the shape the network was built for."""
    built = getattr(model, "built_shape", None)
    if built is None or not isinstance(x, Tensor) or not model.layers:
        return
    layer = model.layers[0]
    axis = getattr(getattr(layer, "takes", None), "axis", None)

    def fits(shape: tuple, axis: int | None) -> bool:
        if len(shape) != len(built) or axis is None:
            return len(shape) == len(built)
        return (0, *shape)[axis] == (0, *built)[axis]

    shape = tuple(x.shape[1:])
    if not fits(shape, axis):
        name = model.layer_names()[0]
        advice = f"x.reshape(-1, {', '.join(map(str, built))}) if the numbers agree"
        if tuple(x.shape) == built or (axis is not None and fits(tuple(x.shape), axis)):
            advice = "x[None] if it is one sample, which still needs the batch's axis"
        elif len(shape) == len(built) - 1:
            advice = f"np.expand_dims(x, {1 if len(built) == 3 else -1})"
        elif len(shape) == 3 == len(built) and shape == (*built[1:], built[0]):
            advice = "np.moveaxis(x, -1, 1): channels come first here"
        elif len(shape) == len(built):
            advice = "the same features as before, or a new model"
        raise ValueError(
            f"{what} has shape {(len(x), *shape)}, but layer {name!r} ({type(layer).__name__}) "
            f"expects {('N', *built)}. Write {advice}."
        )


def check_monitors(hooks: list, state: Compiled, validates: bool) -> None:
    """A callback that watches a name nobody logs is found before the first step."""
    if not state.heads:
        return
    names = ["loss"]
    for head in state.heads:
        prefix = f"{head.name}_" if head.name else ""
        names += [f"{prefix}loss"] if head.name else []
        names += [prefix + key for key, _ in head.metrics + head.weighted_metrics]
    if validates:
        names += [f"val_{name}" for name in names]
    check_monitored_names(hooks, names)


def say_what_will_be_done(
    model: Model, source: Source, validation: Source | None, epochs: int
) -> None:
    """The line above the first epoch."""
    reader = getattr(source, "reader", None)
    count = source.samples if reader is None else len(reader.dataset)
    samples = "a stream" if count is None else f"{count:,} samples"
    steps = f"{source.steps:,} steps" if source.steps is not None else "all batches"
    text = f"training on {model._compiled.device}: {samples}, {steps} × {epochs} epochs"
    if validation is not None and validation.samples is not None:
        text += f", validating on {validation.samples:,}"
    print(text)
