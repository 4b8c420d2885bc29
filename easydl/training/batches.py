"""Which rows are held out, and how many make a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from easydl.data import Arrays
from easydl.data.split import split_rows, warn_of_missing_classes
from easydl.errors import check_positive_int
from easydl.training.class_weight import class_labels, is_pictures
from easydl.training.prepare import Source, check_own_targets, get_ready, shapes_of
from easydl.training.trainable import is_frozen

if TYPE_CHECKING:
    from easydl.model import Model
    from easydl.training.heads import Head


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
        validation = model._source(x, y, weights, what=what)
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
    """Rows at a time where nothing is learnt: 32 to 8,192, 2 to 4 MB in the widest layer."""
    if source.samples is None or source.samples <= fallback:
        return fallback
    return rows_that_fit(model, sum(math.prod(shape) for shape in shapes_of(source.peek()[0])))


def rows_that_fit(model: Model, numbers: int) -> int:
    """The same for samples of so many numbers: a power of two, which kernels like best."""
    widest = model.widest_row
    if not widest and len(model.given_input_shape or ()) == 3:
        widest = 16 * numbers  # pictures: VGG's first maps have 21 times their numbers, ResNet's 5
    rows = 2**20 / max(numbers, widest, 1)
    return 2 ** int(math.log2(min(max(rows, 32), 8192)))


def cut_for_a_pass(
    model: Model,
    source: Source,
    batch_size: int | None,
    steps: int | None,
    device: Any,
    usual: int = 32,
    heads: Sequence[Head] = (),
) -> None:
    """Settle the batches where nothing is learnt: of ``usual`` rows where ``steps`` counts them.

    So, too, where the loss of one of the ``heads`` is the sum over a batch.
    """
    if batch_size is None:
        sums = any(head.sums for head in heads)
        batch_size = usual if sums or steps else rows_per_pass(model, source, usual)
    check_positive_int("batch_size", batch_size)
    if steps is not None:
        check_positive_int("steps", steps)
    source.batching(batch_size, device=device, steps=steps)
