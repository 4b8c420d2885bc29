"""From what the user gave to what the loop takes: every check before the first step stands here."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from easydl.callbacks.monitor import check_monitors as check_monitored_names
from easydl.data import Arrays, Stream, as_source
from easydl.data.convert import Tree, cast_inputs, check_finite, leaves, map_tree, rows_of
from easydl.data.picture_sets import Pictures, readable
from easydl.data.read import Batch, ready_weights
from easydl.data.rows import Rows, ready_leaf
from easydl.data.split import split_rows, warn_of_missing_classes
from easydl.errors import check_between, check_positive_int, warn_user
from easydl.layers.base import is_chain, parts_of
from easydl.training.compiled import Compiled, order_targets
from easydl.training.meter import Meter
from easydl.training.step import test_step, train_step, update_weights
from easydl.training.trainable import is_frozen, modes_of, restore_modes, sync_trainable

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
        given = "y=None was given"
        if isinstance(source, Stream):
            given = f"{source.what} gives inputs only"
        raise ValueError(
            f"{given}, but the loss compares outputs with targets; expected targets: fit(x, y), "
            "fit(x, x) to reproduce the inputs, or batches (inputs, targets)."
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
    strict = model._compiled is None or model._compiled.strict
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
    if model._compiled is None or model._compiled.strict:
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
    with without_trace(model), state.autocast:
        try:
            loss, outputs, *parts = model.compute_loss(x, y, w)
        except (RuntimeError, TypeError, AttributeError, IndexError) as error:
            shapes = [", ".join(str(tuple(t.shape)) for t in leaves(tree)) for tree in (x, y)]
            raise ValueError(
                f"the loss failed for inputs {shapes[0]} and targets {shapes[1]}: "
                f"{type(error).__name__}: {str(error)[:250]}. Expected a function "
                "(y_pred, y_true) -> tensor, as every torch loss of two arguments is."
            ) from error
        for head, output in zip(state.heads, leaves(outputs)):
            head.read_graph(loss, output)
        if not loss.requires_grad and any(p.requires_grad for p in model.parameters()):
            raise ValueError(
                "the loss does not depend on the network's weights, so nothing could learn; "
                "expected torch operations on y_pred all the way (no .detach(), .item(), NumPy, "
                "argmax or comparison)."
            )
        meter = Meter(state.heads)
        named = {"loss": loss} | (parts[0] if parts else {})
        try:
            meter.add(named, rows_of(x), outputs, y, w)
            meter.read()
        except (RuntimeError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(
                f"a metric failed on the first rows: {type(error).__name__}: {str(error)[:300]}. "
                "Expected a function (y_pred, y_true) -> tensor, or a name."
            ) from error


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


def input_dtype(model: nn.Module) -> torch.dtype:
    """The network's floating dtype: float32 unless the user made it another."""
    return dtype_of(parts_of(model))


def dtype_of(parts: list[nn.Module]) -> torch.dtype:
    for part in parts:
        for parameter in part._parameters.values():
            if parameter is not None and parameter.is_floating_point():
                return parameter.dtype
    return torch.float32


def keeps_integers(model: nn.Module, first: nn.Module | None) -> bool:
    """Whether whole numbers go in as they are: a network whose first layer is an Embedding."""
    parts = parts_of(model) if first is None else [first]
    return any(isinstance(part, (nn.Embedding, nn.EmbeddingBag)) for part in parts)


def first_leaf(module: Any) -> nn.Module | None:
    """The layer that sees the inputs, where the structure tells."""
    while is_chain(module) and len(module):
        module = module[0]
    network = getattr(module, "network", None)
    if isinstance(network, nn.Sequential):
        return first_leaf(network)
    own = [part for name, part in module._modules.items() if name != "activation"]
    return None if own else module


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
        raise ValueError(
            f"{what} holds indices from {low} to {high}, but the Embedding's table has "
            f"{table.num_embeddings} rows; expected 0 … {table.num_embeddings - 1}. Write "
            f"Embedding({high + 1}, …), or map rare entries to one index."
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


def hold_out(
    model: Model,
    source: Source,
    validation_data: Any,
    validation_split: float,
    split: str,
    seed: int,
) -> tuple[Source, Source | None]:
    """Training and validation sources; only the former goes on where an epoch ended early."""
    if validation_data is not None:
        if validation_split:
            raise ValueError(
                f"validation_data and validation_split={validation_split:g} were both given; "
                "expected one of them."
            )
        parts = validation_data
        batches = isinstance(parts, list) and all(isinstance(p, tuple) for p in parts)
        if isinstance(parts, (tuple, list)) and len(parts) in (2, 3) and not batches:
            x, y, weights = (*parts, None)[:3]
            what = "x of validation_data"
        else:
            x, y, weights, what = parts, None, None, "validation_data"
        validation = as_source(*readable(model, x, y), weights, what)
        get_ready(model, validation, what="validation_data")
        train = source
    elif split in ("random", "stratified") and not validation_split:
        raise ValueError(
            f"split={split!r} was given without validation_split, so that nothing is held out; "
            "expected both: validation_split=0.2."
        )
    elif split != "tail" or validation_split:
        if not isinstance(source, Arrays):
            what, instead = "a stream", "validation_data=…, or arrays"
            if is_pictures(source):
                what, instead = "pictures", "images(x, y, split=…) or image_folder(path, split=…)"
            raise ValueError(
                f"validation_split={validation_split:g} was given with {what}, which cannot be "
                f"cut; expected {instead}."
            )
        labels = class_labels(model, source.targets)
        rows = split_rows(source.samples, validation_split, split, labels, seed)
        if labels is not None and split == "tail":
            warn_of_missing_classes(labels[rows[0]], labels[rows[1]])
        train, validation = source.split(*rows)
        check_own_targets(model, train.targets, "y of the training part")
        for part, weights in (("training", train.weights), ("validation", validation.weights)):
            if weights is not None and not weights.any():
                raise ValueError(
                    f"sample_weight is 0 for every sample of the {part} part; expected some above "
                    "0. Write split='random'."
                )
    else:
        train, validation = source, None
    train.steps_name, train.goes_on = "steps_per_epoch", True
    if validation is not None:
        validation.steps_name = "validation_steps"
    return train, validation


def is_pictures(source: Source) -> bool:
    """Whether a stream reads pictures, whose labels are all known."""
    return isinstance(getattr(source, "source", None), Pictures)


def class_labels(model: Model, y: Tree) -> Tensor | None:
    """Each row's class, where the targets are classes."""
    heads = model._compiled.heads
    if len(heads) != 1 or y is None:
        return None
    if isinstance(y, Rows):
        parts = [class_labels(model, y[piece]) for piece in y.pieces()]
        return None if any(part is None for part in parts) else torch.cat(parts)  # type: ignore
    head = heads[0]
    if head.kind == "categorical":
        return None if head.positions else head.class_indices(y)
    binary = getattr(head.loss, "crossentropy", None) == "binary" and head.shape in ((), (1,))
    return head.class_indices(y) if binary and bool((y == y.round()).all()) else None


def apply_class_weight(model: Model, source: Source, class_weight: Any) -> None:
    """Turn class weights into sample weights, times those given."""
    if class_weight is None:
        return
    head = model._compiled.heads[0] if len(model._compiled.heads) == 1 else None
    if head is None:
        raise ValueError(
            "class_weight was given for a network with several outputs or a loss of its own; "
            "expected sample_weight."
        )

    def weights_of(y: Tree) -> Tensor:
        labels = class_labels(model, y)
        if labels is None:
            raise ValueError(
                f"class_weight was given, but the targets of {head.label} are not one class a "
                "sample; expected a crossentropy loss, or sample_weight."
            )
        counted = labels != (-1 if head.ignored_index is None else head.ignored_index)
        factors = class_factors(class_weight, head, labels[counted])
        return factors[labels.where(counted, 0)].where(counted, 1.0)

    if isinstance(source, Arrays):
        weights = weights_of(source.targets)
        if not weights.any():
            raise ValueError("class_weight is 0 for every class in y; expected some above 0.")
        source.weights = weights if source.weights is None else source.weights * weights
        return
    labels = class_labels(model, source.source.labels) if is_pictures(source) else None
    if labels is not None and isinstance(class_weight, str):
        class_weight = class_factors(class_weight, head, labels).tolist()
    if isinstance(class_weight, str) and class_weight == "balanced":
        raise ValueError(
            "class_weight='balanced' needs all labels at once, which a stream (Dataset, loader, "
            "generator) gives batch by batch; expected a dict {class: factor}, such as "
            "{0: 1.0, 1: 5.0}, or arrays."
        )
    inner = source.prepare
    assert inner is not None

    def weighted(batch: Batch) -> Batch:
        x, y, w = inner(batch)
        factors = weights_of(y)
        return x, y, factors if w is None else w * factors

    source.prepare = weighted


def class_factors(class_weight: Any, head: Any, labels: Tensor) -> Tensor:
    """One factor a class."""
    classes = head.classes if head.kind == "categorical" else 2
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(
                f"class_weight={class_weight!r} was given; expected 'balanced' or a dict."
            )
        counts = torch.bincount(labels, minlength=classes)
        present = int((counts > 0).sum())
        return torch.where(counts > 0, len(labels) / (present * counts.clamp_min(1)), 0.0).float()
    factors = torch.ones(classes)
    if not isinstance(class_weight, dict):
        if not hasattr(class_weight, "__len__") or len(class_weight) != classes:
            raise ValueError(
                f"class_weight={class_weight!r:.80} was given; expected 'balanced', a dict "
                f"{{class: factor}}, or {classes} factors."
            )
        class_weight = dict(enumerate(class_weight))
    for label, factor in class_weight.items():
        if not hasattr(label, "__index__") or not 0 <= label < classes:
            raise ValueError(
                f"class_weight names class {label!r:.60}; expected classes 0 … {classes - 1}."
            )
        factors[int(label)] = check_between(
            f"class_weight of class {label}", factor, 0, float("inf"), ends="[)"
        )
    return factors


def needs_two_rows(model: nn.Module, batch_size: int, source: Source) -> bool:
    """Whether a last batch of one row must be merged: a BatchNorm that learns needs two.

    Raises:
        ValueError: one row is all there is.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and not is_frozen(m)]
    if not norms:
        return False
    flat = [m for m in norms if isinstance(m, nn.BatchNorm1d) or getattr(m, "rank", 0) == 2]
    samples = source.samples
    if flat and isinstance(source, Arrays) and (batch_size == 1 or samples == 1):
        given = f"batch_size={batch_size}" if samples != 1 else "1 sample"
        raise ValueError(
            f"{given} was given, but BatchNormalization takes its statistics over the batch and "
            "expects at least 2 rows: write batch_size=2 or more, or LayerNormalization."
        )
    return True


def rows_per_pass(model: Model, source: Source, fallback: int = 32) -> int:
    """Rows at a time where nothing is learnt: what a layer takes in is 6 to 12 MB, or less."""
    if source.samples is None or source.samples <= fallback:
        return fallback
    return rows_that_fit(model, sum(math.prod(shape) for shape in shapes_of(source.peek()[0])))


def rows_that_fit(model: Model, numbers: int) -> int:
    """The same for samples of so many numbers: a power of two, which kernels like best."""
    rows = 2**21 / max(numbers, model.widest_row, 1)
    return 2 ** round(math.log2(min(max(rows, 32), 8192)))


def cut_for_a_pass(
    model: Model,
    source: Source,
    batch_size: int | None,
    steps: int | None,
    device: Any,
    usual: int = 32,
) -> None:
    """Settle the batches where nothing is learnt: of ``usual`` rows where ``steps`` counts them."""
    if batch_size is None:
        batch_size = rows_per_pass(model, source, usual) if steps is None else usual
    check_positive_int("batch_size", batch_size)
    if steps is not None:
        check_positive_int("steps", steps)
    source.batching(batch_size, device=device, steps=steps)


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


def one_batch(model: Model, source: Source, learning: bool) -> dict[str, float]:
    """One step on everything in ``source``, for ``train_on_batch`` and ``test_on_batch``."""
    state = model._compiled
    modes = modes_of(model)
    meter = Meter(state.heads)
    try:
        model.train(learning)
        with torch.set_grad_enabled(learning):
            x, y, w = next(iter(source.epoch(0)))
            parts, outputs = (train_step if learning else test_step)(model, x, y, w)
            if learning and state.waiting_batches:
                update_weights(model)
            meter.add(parts, rows_of(x), outputs, y, w)
        return meter.read()
    finally:
        restore_modes(modes)


@contextlib.contextmanager
def without_trace(model: Model) -> Iterator[None]:
    """Evaluation mode with gradients; modes and random numbers are as before afterwards."""
    modes = modes_of(model)
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        model.eval()
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            yield
    finally:
        restore_modes(modes)


def try_out(model: Model, x: Tree) -> Any:
    """See ``Model.try_out``."""
    trail: list[str] = []
    names = {module: name for name, module in model.named_modules()}
    x = map_tree(torch.clone, x)
    rows = rows_of(x)

    def watch(module: nn.Module, args: tuple) -> None:
        shapes = [tuple(a.shape) for a in args if isinstance(a, Tensor)]
        kind = f"{names[module] or 'network'} ({type(module).__name__})"
        trail.append(f"{kind}, given {', '.join(map(str, shapes))}")
        taken = max((math.prod(shape) // rows for shape in shapes), default=0)
        given = 0
        if isinstance(module, nn.RNNBase) and shapes:  # the states at all steps
            width = module.hidden_size * (2 if module.bidirectional else 1)
            given = math.prod(shapes[0][:-1]) // rows * width
        model.widest_row = max(model.widest_row, taken, given)

    watched = [
        module.register_forward_pre_hook(watch) for module in model.modules() if module is not model
    ]
    try:
        with without_trace(model):
            outputs = model._plain_call(x)
    except (RuntimeError, IndexError, TypeError) as error:
        if isinstance(error, NotImplementedError):
            raise
        shapes = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in leaves(x))
        where = f" It failed in layer {trail[-1]}." if trail else ""
        raise ValueError(
            f"the network was given rows of shape {shapes}; expected what it is made for.{where} "
            "torch says: "
            f"{str(error).splitlines()[0][:260] if str(error) else type(error).__name__}"
        ) from error
    finally:
        for hook in watched:
            hook.remove()
    changing = getattr(first_leaf(model), "inplace", False)  # a Dropout does so in training alone
    if changing or any(leaf._version for leaf in leaves(x)):
        raise ValueError(
            "the network changes its inputs in place, and so would your data; expected it to leave "
            "them alone: begin its forward by x = x.clone(), or write inplace=False."
        )
    return outputs
