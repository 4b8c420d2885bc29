"""Which rows are held out for validation."""

from __future__ import annotations

import torch
from torch import Tensor

from easydl.errors import check_between, did_you_mean, warn_user

HOW = ("tail", "random", "stratified")


def split_rows(
    samples: int, fraction: float, how: str, labels: Tensor | None, seed: int
) -> tuple[slice | Tensor, slice | Tensor]:
    """Rows for training and for validation.

    Args:
        fraction: share held out; training gets ``floor(samples·(1 − fraction))`` rows, as in Keras.
        how: ``"tail"`` (Keras: the last rows, before any shuffling), ``"random"``, or
            ``"stratified"`` (every class with its share).
        labels: ``(N,)`` class indices, or ``None``.
        seed: decides the random rows.

    Raises:
        ValueError: a fraction outside (0, 1), an empty part, labels missing for "stratified".
    """
    if how not in HOW:
        raise ValueError(did_you_mean("split", how, HOW))
    fraction = check_between("validation_split", fraction, 0, 1, ends="()")
    train_count = int(samples * (1 - fraction))
    if not 0 < train_count < samples:
        raise ValueError(
            f"validation_split={fraction:g} of {samples} samples leaves {train_count} for training "
            f"and {samples - train_count} for validation; expected at least 1 on each side."
        )
    if how == "tail":
        return slice(0, train_count), slice(train_count, samples)
    generator = torch.Generator().manual_seed(seed % 2**63)
    order = torch.randperm(samples, generator=generator)
    if how == "random":
        return order[:train_count], order[train_count:]
    if labels is None:
        raise ValueError(
            "split='stratified' was given, but the targets are not class labels; "
            "expected split='random' or 'tail'."
        )
    return _stratified(order, labels, fraction)


def _stratified(order: Tensor, labels: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    shuffled = labels[order]
    for label in torch.unique(labels):
        rows = order[shuffled == label]
        cut = min(max(round(len(rows) * (1 - fraction)), 1), len(rows) - 1)
        if len(rows) < 2:
            raise ValueError(
                f"split='stratified' needs at least 2 samples of each class; class {int(label)} "
                "has 1. Drop it, or write split='random'."
            )
        held_out[rows[cut:]] = True
    return order[~held_out[order]], order[held_out[order]]


def warn_of_missing_classes(train: Tensor, held_out: Tensor) -> None:
    """Warn when a class stands on one side of the split only, as sorted labels make happen."""
    before, after = set(torch.unique(train).tolist()), set(torch.unique(held_out).tolist())
    for missing, part, other in (
        (before - after, "validation", "training"),
        (after - before, "training", "validation"),
    ):
        if missing:
            names = ", ".join(map(str, sorted(missing)[:8])) + (", …" if len(missing) > 8 else "")
            warn_user(
                f"validation_split holds out the last rows: class {names} of the {other} part is "
                f"missing from the {part} part. If the rows are sorted, write "
                "split='stratified' in fit."
            )
