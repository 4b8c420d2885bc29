"""Callbacks that change the training, as lines of the loop of ``model.source``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from easydl.export.code import literal, refuse


class Lines(NamedTuple):
    """Where a callback's lines stand: before all epochs, in one at three places, and behind."""

    before: list[str] = []
    first: list[str] = []
    logged: list[str] = []
    last: list[str] = []
    behind: list[str] = []


RATE = 'optimizer.param_groups[0]["lr"]'


def watching(callbacks: list[tuple[str, dict[str, Any]]], rates: list[float]) -> Lines:
    """The lines of all callbacks that a script can say.

    Args:
        callbacks: their names and settings, as ``History.arguments`` has them.
        rates: the learning rates of the epochs, where they were logged.

    Raises:
        ValueError: the same callback twice.
    """
    names = [name for name, _ in callbacks if name in WRITTEN]
    for name in set(names):
        if names.count(name) > 1:
            raise refuse(f"several callbacks {name}", "expected one.")
    found = Lines([], [], [], [], [])
    for name in sorted(names, key=list(WRITTEN).index):  # one that stops comes last
        made = WRITTEN[name](dict(callbacks)[name], rates)
        for lines, more in zip(found, made):
            lines += more
    return found


HELPER = '''
def improves(value, best):
    """Whether the value is below the best so far, compared as float32; any number beats a nan."""
    if best is None or best != best:
        return best is None or value == value
    return bool(np.float32(value) < np.float32(best))
'''


def watched(given: dict[str, Any]) -> tuple[str, str]:
    """The value that is watched, the less the better, and what must be less than the best."""
    value = f"logs[{literal(given['monitor'])}]"
    delta = given["min_delta"]
    return (
        value if given["mode"] == "min" else f"-{value}",
        f"value + {literal(delta)}" if delta else "value",
    )


def reduce_on_plateau(given: dict[str, Any], rates: list[float]) -> Lines:
    lowest, factor = literal(given["min_lr"]), literal(given["factor"])
    value, compared = watched(given)
    return Lines(
        before=["lowest, idle, cooldown = None, 0, 0  # the best value; epochs without a better"],
        logged=[f'logs["learning_rate"] = {RATE}'],
        last=[
            f"value, rate = {value}, {RATE}",
            "cooldown = max(cooldown - 1, 0)",
            f"if improves({compared}, lowest):",
            "    lowest, idle = value, 0",
            "elif cooldown == 0:",
            "    idle += 1",
            f"    if idle >= {given['patience']} and rate > {lowest}:",
            f"        {RATE} = max(rate * {factor}, {lowest})",
            f"        idle, cooldown = 0, {given['cooldown']}",
        ],
    )


def scheduled(given: dict[str, Any], rates: list[float]) -> Lines:
    return Lines(
        before=[f"rates = {literal(rates)}  # of the epochs"],
        first=[f"{RATE} = rates[epoch]"],
        logged=[f'logs["learning_rate"] = {RATE}'],
    )


def early_stopping(given: dict[str, Any], rates: list[float]) -> Lines:
    keeps = given["restore_best_weights"]
    copied = "{name: value.clone() for name, value in model.state_dict().items()}"
    (value, compared), base = watched(given), given["baseline"]
    if base is not None:
        base = literal(base if given["mode"] == "min" else -base)
    beats = [] if base is None else [f"if improves({compared}, {base}):"]
    inside = [
        f"value, waited = {value}, waited + 1",
        f"if improves({compared}, best):",
        "    best = value",
        *([f"    best_weights = {copied}"] if keeps else []),
        *[f"    {line}" for line in beats],
        f"    {'    ' if beats else ''}waited = 0",
        f"elif waited >= {given['patience']}:",
        "    break",
    ]
    if given["start_from_epoch"]:
        inside = [f"if epoch >= {given['start_from_epoch']}:", *[f"    {line}" for line in inside]]
    return Lines(
        before=[
            "best, waited = None, 0  # the best value so far, and the epochs since",
            *(["best_weights = None"] if keeps else []),
        ],
        last=inside,
        behind=["if best_weights is not None:", "    model.load_state_dict(best_weights)"]
        if keeps
        else [],
    )


WRITTEN: dict[str, Callable[[dict[str, Any], list[float]], Lines]] = {
    "LearningRateScheduler": scheduled,
    "ReduceLROnPlateau": reduce_on_plateau,
    "EarlyStopping": early_stopping,
}
WATCHING = ("ReduceLROnPlateau", "EarlyStopping")  # those that compare
CHANGING = ("ReduceLROnPlateau", "LearningRateScheduler")  # those that set the rate, and log it
