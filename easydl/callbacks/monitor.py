"""What callbacks that watch one entry of the logs share: its name, and which way is better."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from easydl.callbacks.base import Callback, overrides
from easydl.errors import did_you_mean

# The last word that stands here tells the direction: mean_squared_error, head_accuracy, val_auc_1.
# fmt: off
BETTER_WHEN_LOW = {
    "loss", "error", "mse", "mae", "mape", "msle", "rmse", "rmsle", "crossentropy", "nll",
    "hinge", "poisson", "divergence", "cosh", "logcosh", "huber", "perplexity", "brier", "bpd",
    "wer", "cer",
}
BETTER_WHEN_HIGH = {
    "acc", "accuracy", "auc", "auroc", "auprc", "precision", "recall", "sensitivity",
    "specificity", "f1", "fbeta", "r2", "iou", "io", "dice", "jaccard", "similarity",
    "correlation", "pearson", "spearman", "kappa", "mcc", "bleu", "psnr", "ssim",
}
# fmt: on


class Monitor:
    """One entry of the logs and which way is better, as Keras defines it.

    Args:
        owner: The callback's class name, for messages.
        name: The entry, e.g. ``"val_loss"``.
        mode: ``"min"``, ``"max"``, or ``"auto"``: by the name.
        min_delta: What is less of a change is no improvement; its sign does not matter, as in
            Keras.

    Raises:
        ValueError: For another ``mode``; for ``"auto"`` with a name that doesn't tell.
    """

    def __init__(self, owner: str, name: str, mode: str = "auto", min_delta: float = 0.0) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"{owner}: {did_you_mean('mode', mode, ('auto', 'min', 'max'))}")
        if mode == "auto":
            mode = _direction(owner, name)
        self.owner, self.name, self.mode = owner, name, mode
        self.min_delta = abs(min_delta)
        self.known = (
            False  # the entry exists, though validation_freq may leave it out of some epochs
        )

    def improves(self, value: float, reference: float | None) -> bool:
        """Whether ``value`` beats ``reference`` by more than ``min_delta``, compared as float32.

        That is Keras's precision: 0.7 after 0.8 is a tie for a ``min_delta`` of 0.1. The first
        value is an improvement, also a NaN, and any number beats a NaN (where Keras keeps it).
        """
        if reference is None or reference != reference:
            return reference is None or value == value
        sign = 1 if self.mode == "min" else -1
        pair = torch.tensor([value + sign * self.min_delta, reference], dtype=torch.float32)
        ours, best = pair.tolist()
        return ours < best if self.mode == "min" else ours > best

    def read(self, logs: Mapping[str, Any] | None) -> float | None:
        """The entry's value, or ``None`` in an epoch without validation when others have one."""
        logs = logs or {}
        if self.name not in logs and not self.known:
            self.check(logs)
        self.known = True
        if self.name not in logs:
            return None
        if np.ndim(logs[self.name]):
            raise ValueError(
                f"{self.owner}(monitor={self.name!r:.60}): the entry is an array of shape "
                f"{np.shape(logs[self.name])}, one number a class; expected one number. Write the "
                "metric as an object with average='macro', such as "
                "dl.metrics.F1Score(average='macro')."
            )
        return float(logs[self.name])

    def check(self, names: Iterable[str]) -> None:
        """Raise when the entry is not one of ``names``.

        Raises:
            ValueError: With the names there are, and the nearest.
        """
        names = list(names)
        try:
            self.name = find_entry(f"{self.owner}(monitor=…)", self.name, names)
        except ValueError as error:
            if not self.name.startswith("val_") or any(name.startswith("val_") for name in names):
                raise
            own = self.name.removeprefix("val_")
            other = f", or write monitor={own!r:.60}" if own in names else ""
            raise ValueError(
                f"{error} There is no validation: give fit validation_data or "
                f"validation_split{other}."
            ) from None
        self.known = True


def find_entry(who: str, name: str, names: Sequence[str]) -> str:
    """``name``, if the logs have it.

    Raises:
        ValueError: With the nearest of the names there are.
    """
    if name in names:
        return name
    shown = difflib.get_close_matches(name, names, n=len(names) or 1, cutoff=0.0)
    while len(", ".join(shown)) > 200 and len(shown) > 1:
        shown.pop()
    more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
    text = did_you_mean("entry", name, [one[:80] for one in shown])
    raise ValueError(f"{who}: {text.removesuffix('.')}{more}.")


def check_monitors(callbacks: Sequence[Callback], names: Iterable[str]) -> None:
    """Check every ``monitor`` before training against the names that the epoch logs will have.

    A callback of the user's own may write more entries into the logs (a common way to add a
    metric): behind such a one a missing entry is refused at the end of the first epoch only.

    Raises:
        ValueError: With the names there are.
    """
    names = set(names)
    more_may_come = False
    for callback in callbacks:
        if hasattr(callback, "check_monitor"):
            try:
                callback.check_monitor(names)
            except ValueError:
                if not more_may_come:
                    raise
        names |= set(getattr(callback, "adds", ()))
        own = type(callback).__module__.startswith("easydl.callbacks.")
        written_by_user = not own or "on_epoch_end" in vars(callback)  # the latter: LambdaCallback
        more_may_come |= written_by_user and overrides(callback, "on_epoch_end")


def _direction(owner: str, name: str) -> str:
    words = name.lower().split("_")
    if not {"neg", "negative", "minus"} & set(words):
        for word in reversed(words):
            if word in BETTER_WHEN_LOW:
                return "min"
            if word in BETTER_WHEN_HIGH:
                return "max"
    raise ValueError(
        f"{owner}(monitor={name!r:.60}) was given; the name does not tell whether low or high "
        "is better: write mode='min' or mode='max'."
    )
