"""How easydl speaks when something is wrong: what came, what was expected, what to write."""

from __future__ import annotations

import difflib
import functools
import inspect
import itertools
import operator
import os
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

HERE = str(Path(__file__).parent)
Function = TypeVar("Function", bound=Callable[..., Any])
LIVE_WORKERS = (
    "Expected worker processes that live on; a lack of memory ends them, or an error in compiled "
    "code that the Dataset calls."
)


def short_traceback(function: Function) -> Function:
    """``function`` whose errors show few frames of easydl: the outer two, the inner three.

    The message says what is wrong; the rooms between are noise. Frames of other code stay: your
    layers, losses and callbacks, and torch.
    """

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except Exception as error:
            if is_dead_worker(error):
                raise RuntimeError(f"{str(error).strip()} {LIVE_WORKERS}") from error
            if isinstance(error, TypeError) and error.__traceback__.tb_next is None:  # type: ignore[union-attr]
                raise TypeError(explained(error, function)) from None
            frames = []
            entry = error.__traceback__
            while entry is not None:
                frames.append(entry)
                entry = entry.tb_next
            own = [f for f in frames if f.tb_frame.f_code.co_filename.startswith(HERE)]
            kept = [f for f in frames if f not in own[2:-3]]
            for before, after in itertools.pairwise(kept):
                before.tb_next = after
            raise

    return call  # type: ignore[return-value]


def is_dead_worker(error: Exception) -> bool:
    """Whether torch says that a DataLoader's worker died: it does so wherever Python is then."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


def explained(error: TypeError, function: Callable) -> str:
    """The message of a call that does not fit ``function``, with the nearest argument's name."""
    word = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if word is None:
        return str(error)
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    text = did_you_mean(f"argument of {function.__name__}", word[1], names)
    if word[1] == "weights" and function.__module__.startswith("easydl.vision.architectures"):
        text += f" For published weights: easydl.pretrained({function.__name__.lower()!r})."
    return text


def refuse_uncalled(cls: type, known: dict[str, tuple[str, ...]]) -> None:
    """Refuse a user's method that goes by the name of another library: nobody would call it.

    Args:
        cls: the new class.
        known: a method that is called, with its arguments, and other libraries' names for it.

    Raises:
        TypeError: it defines such a name, and not the method.
    """
    others = ("easydl", "torch", "builtins", "typing", "abc")
    users = [base for base in cls.__mro__ if base.__module__.partition(".")[0] not in others]
    own = {name for base in users for name in vars(base)}
    written = {text for text in known if text.partition("(")[0] in own}
    for text, names in known.items():
        if text in written:
            continue
        for name in names:
            # update() may well call a compute() of its own, but nobody's update_state().
            if name in own and not (written and name in ("call", "compute", "forward")):
                raise TypeError(
                    f"{cls.__name__}.{name} was defined, which easydl never calls; expected {text}."
                )


def refuse_turned(name: str, update: Any) -> None:
    """Refuse a metric's ``update`` in Keras's order, in which outputs would count as targets."""
    try:
        names = list(inspect.signature(update, follow_wrapped=False).parameters)
    except (TypeError, ValueError):  # builtins do not tell
        return
    if [given for given in names if given != "self"][:2] == ["y_true", "y_pred"]:
        raise TypeError(
            f"{name}.update takes (y_true, y_pred), but is given the outputs first; expected "
            "update(self, y_pred, y_true, sample_weight=None)."
        )


def check_takes_three(name: str, compute_loss: Any) -> None:
    """A model's own loss is called with inputs, targets and weights, whichever it counts."""
    try:
        takes = inspect.signature(compute_loss, follow_wrapped=False)
        given = list(takes.bind(None, None, None).arguments)
    except ValueError:  # scripted functions do not tell
        return
    except TypeError as error:
        problem = f"cannot be called with inputs, targets and weights ({error})"
    else:
        if "sample_weight" not in takes.parameters or "sample_weight" in given:
            return
        problem = f"would get the weights as its {given[-1]!r}"  # Keras has another order
    raise TypeError(f"{name} {problem}; expected compute_loss(self, x, y, sample_weight=None).")


def made_of(what: str, kind: type) -> Any:
    """The object of a class that was given in its place."""
    try:
        return kind()
    except TypeError as error:
        raise TypeError(
            f"the class {kind.__name__} was given as the {what} and cannot be made without "
            f"arguments ({error!s:.200}); expected an object: {kind.__name__}(…)."
        ) from None


def listed(names: Iterable[Any], most: int = 200) -> str:
    """``a, b, c``, cut where it grows too long for a message."""
    text = ", ".join(map(str, names))
    return text if len(text) <= most else text[:most].rsplit(",", 1)[0] + ", …"


def warn_user(message: str) -> None:
    """A ``UserWarning`` that points at the line outside easydl from which all this was called."""
    level, frame = 2, inspect.currentframe()
    while frame is not None and (frame := frame.f_back) is not None:
        if not frame.f_code.co_filename.startswith(HERE):
            break
        level += 1
    warnings.warn(message, UserWarning, stacklevel=level)


def did_you_mean(kind: str, given: Any, choices: Iterable[str]) -> str:
    """The message for a mistyped name: the nearest match and the whole list.

    Example:
        >>> did_you_mean("loss", "msee", ["mse", "mae"])
        "unknown loss 'msee'. Did you mean 'mse'? Choose from: mae, mse."
    """
    names = sorted(set(choices))
    near = difflib.get_close_matches(str(given).lower(), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {str(given)[:60]!r}.{hint} Choose from: {listed(names, 420)}."


def look_up(kind: str, given: str, table: dict[str, Any]) -> Any:
    """``table[given]``, case-insensitively, or a ``ValueError`` with the nearest match.

    Example:
        >>> look_up("loss", "MSE", {"mse": 1})
        1
    """
    if given in table:
        return table[given]
    lowered = given.lower()
    for name, value in table.items():
        if name.lower() == lowered:
            return value
    raise ValueError(did_you_mean(kind, given, table))


def check_positive_int(name: str, value: Any, *, minimum: int = 1) -> int:
    """``value`` as an ``int`` that is at least ``minimum``, or an error that names the argument."""
    try:
        plain: Any = None if isinstance(value, bool) else value
        number = operator.index(plain)
    except TypeError:
        raise ValueError(
            f"{name}={value!r:.80} was given; expected a whole number of at least {minimum}, "
            f"for example {name}={max(minimum, 1)}."
        ) from None
    if number < minimum:
        raise ValueError(
            f"{name}={number} was given; expected a whole number of at least {minimum}."
        )
    return number


def check_path(name: str, value: Any, example: str) -> Path:
    """A path as ``Path``: text or ``os.PathLike`` of some length."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name}={value!r:.60} was given; expected a path, such as {example!r}.")
    if not os.fspath(value) or "\0" in str(value):
        raise ValueError(f"{name}={value!r:.60} was given; expected a path, such as {example!r}.")
    return Path(value)


def check_flag(name: str, value: Any) -> bool:
    """``value`` as a ``bool``, or an error: a text such as ``"no"`` would count as yes."""
    numpy_bool = type(value).__name__ in ("bool", "bool_")
    if not numpy_bool and not (isinstance(value, int) and value in (0, 1)):
        raise ValueError(f"{name}={value!r:.80} was given; expected True or False.")
    return bool(value)


def check_between(name: str, value: Any, low: float, high: float, *, ends: str = "[]") -> float:
    """``value`` as a ``float`` between ``low`` and ``high``; ``ends`` as in ``"[)"``."""
    try:
        plain: Any = None if isinstance(value, (bool, str)) else value
        number = float(plain)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}={value!r:.80} was given; expected a number between {low:g} and {high:g}."
        ) from None
    above = number >= low if ends[0] == "[" else number > low
    below = number <= high if ends[1] == "]" else number < high
    if not (above and below):
        raise ValueError(
            f"{name}={number:g} was given; expected a number in "
            f"{ends[0]}{low:g}, {high:g}{ends[1]}."
        )
    return number
