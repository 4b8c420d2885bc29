"""What every metric is, and what a function, or an object of torchmetrics' kind, becomes."""

from __future__ import annotations

import copy
import functools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from easydl.errors import check_between, is_dead_worker, refuse_turned, refuse_uncalled


class Metric:
    """Base of all metrics: subclass it with ``update`` and ``result`` for your own.

    Attributes:
        name: the key in the history.
        state: the sums so far, by name; ``reset`` empties it.
        by_rank: whether only the order of a row's outputs counts, which a softmax leaves; not
            inherited.

    Example:
        >>> class LargestError(Metric):
        ...     def update(self, y_pred, y_true, sample_weight=None):
        ...         error = (y_pred - y_true).abs().max()
        ...         self.state["max"] = torch.maximum(self.state.get("max", error), error)
        ...
        ...     def result(self):
        ...         return float(self.state["max"])
        >>> metric = LargestError()
        >>> metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.0]))
        >>> metric.name, metric.result()
        ('largest_error', 0.5)
    """

    by_rank = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        known = {
            "update(self, y_pred, y_true, sample_weight=None)": (
                "update_state", "call", "forward", "__call__",
            ),
            "result(self)": ("compute",),
            "reset(self)": ("reset_state", "reset_states"),
        }  # fmt: skip
        refuse_uncalled(cls, known)
        refuse_turned(cls.__name__, cls.update)

    def __init__(self, name: str | None = None) -> None:
        self.name = name or snake_case(type(self).__name__)
        self.state: dict[str, Tensor] = {}

    def update(self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None = None) -> None:
        """Take one batch in."""
        raise NotImplementedError(
            f"{type(self).__name__} has no update(self, y_pred, y_true, sample_weight=None)"
        )

    def result(self) -> Any:
        """The value over everything since ``reset``: a float, or an array where the class says."""
        raise NotImplementedError(f"{type(self).__name__} has no result(self)")

    def reset(self) -> None:
        """Forget everything."""
        self.state = {}

    def _add(self, **sums: Tensor) -> None:
        # Not in place: sums made under torch.inference_mode() may not be changed outside it.
        for key, value in sums.items():
            self.state[key] = self.state[key] + value if key in self.state else value

    def _read(self, *keys: str) -> list[np.ndarray]:
        return [self.state[key].cpu().double().numpy() for key in keys]


class Mean(Metric):
    """The mean over the rows; the value of a row is the mean of its elements, as in Keras."""

    def _values(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """One value for each row, position or element: (N, …)."""
        raise NotImplementedError

    def update(self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None = None) -> None:
        """Take one batch in."""
        self._take(self._values(y_pred.detach(), y_true.detach()), sample_weight)

    def _take(self, values: Tensor, sample_weight: Tensor | None) -> None:
        rows = values.shape[0]
        if sample_weight is None:
            # The count stays on the CPU: it is known without asking the device.
            self._add(total=sum_of_rows(values), count=torch.tensor(rows))
        else:
            weight = weights_for(self, sample_weight, values)
            self._add(total=sum_of_rows(values * weight), count=sum_of_rows(weight))

    def result(self) -> float:
        """The mean so far."""
        if not self.state:
            return 0.0
        total, count = self._read("total", "count")
        return float(ratio(total, count))


class FunctionMetric(Mean):
    """The mean of a function of the batch; what a callable in ``metrics=[…]`` becomes.

    Args:
        function: ``(y_pred, y_true) -> tensor``, a value for each row ``(N, …)`` or the mean of
            the batch, which then counts as many rows as the batch has.
        name: the key in the history; the function's own name if None.

    Raises:
        ValueError: if the function returns another number of rows, or a batch mean is to be
            weighted by row.

    Example:
        >>> metric = FunctionMetric(nn.functional.l1_loss)
        >>> metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        >>> metric.name, metric.result()
        ('l1_loss', 1.0)
    """

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        inner = function.func if isinstance(function, functools.partial) else function
        named = getattr(function, "__name__", None) or getattr(inner, "__name__", None)
        super().__init__(name or named or snake_case(type(inner).__name__))
        self.function = function

    def update(self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None = None) -> None:
        """Take one batch in."""
        y_pred, y_true = y_pred.detach(), y_true.detach()
        rows = y_pred.shape[0]
        # (N,) beside (N, 1) would broadcast to (N, N), and one row to all of them.
        if y_true.numel() == y_pred.numel() or y_true.shape[:1] != y_pred.shape[:1]:
            y_true = aligned(self, y_pred, y_true)
        values = torch.as_tensor(self.function(y_pred, y_true)).detach()
        if values.ndim == 0:
            if sample_weight is not None:
                raise ValueError(
                    f"{self.name} returned the mean of the batch, which sample weights cannot "
                    "weight any more; return one value for each row, for example with "
                    "reduction='none', or leave the weights out."
                )
            total = values.to(sum_dtype(values)) * rows
            self._add(total=total, count=torch.tensor(rows))
        elif values.shape[0] != rows:
            raise ValueError(
                f"{self.name} returned shape {tuple(values.shape)} for {rows} rows; expected one "
                "value for each row, (N,), or their mean."
            )
        else:
            self._take(values, sample_weight)


class ObjectMetric(Metric):
    """A metric of torchmetrics' kind: it takes batches in and is asked once, at the end.

    What an object with ``update(y_pred, y_true)``, ``compute()`` and ``reset()`` becomes in
    ``metrics=[…]``. Called like a function it would give each batch's value, and the mean of those
    is not the value of all rows. Checkpoints amid an epoch are left out beside such a metric.

    Args:
        metric: the object.
        name: the key in the history; the class's own in small letters if None.

    Shape:
        Probabilities ``(N, K, …)`` with class indices ``(N, …)`` after a crossentropy of classes,
        one-hot rows or not; after other losses outputs and targets ``(N, …)`` alike. Beside
        probabilities, targets of 0 and 1 are int64, unless the object takes floats alone.

    Raises:
        TypeError: a method is missing, ``update`` takes ``(y_true, y_pred)``, or ``compute`` gives
            neither a number nor a tensor.
        ValueError: with sample weights, which such metrics have no place for; where the object
            fails.

    Example:
        >>> import torchmetrics  # doctest: +SKIP
        >>> metric = ObjectMetric(torchmetrics.AUROC(task="binary"), "area")  # doctest: +SKIP
    """

    def __init__(self, metric: Any, name: str | None = None) -> None:
        super().__init__(name or snake_case(type(metric).__name__))
        if not counts_by_itself(metric):
            raise TypeError(
                f"{metric!r:.80} was given to ObjectMetric; expected an object with "
                "update(y_pred, y_true), compute() and reset(), as torchmetrics' are."
            )
        refuse_turned(type(metric).__name__, metric.update)
        self.metric = metric
        self.takes_integers: bool | None = None  # beside outputs of the same shape; not tried yet

    def update(self, y_pred: Tensor, y_true: Tensor, sample_weight: Tensor | None = None) -> None:
        """Take one batch in."""
        if sample_weight is not None:
            raise ValueError(
                f"{self.name} was given sample weights, which it has no place for; expected it in "
                "metrics=[…], not in weighted_metrics=[…]."
            )
        # Its sums may be changed in place later, outside of torch.inference_mode().
        with torch.inference_mode(False), torch.no_grad():
            if isinstance(self.metric, nn.Module):
                self.metric.to(y_pred.device)
            y_true = self._as_taken(y_pred, y_true)
            self._ask("update", y_pred.clone(), y_true.clone())

    def _as_taken(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Integers as floats for an object that wants such, as torchmetrics' correlations do."""
        if y_true.is_floating_point() or y_true.shape != y_pred.shape:
            return y_true
        if self.takes_integers is None:
            try:
                tried = copy.deepcopy(self.metric)
                tried.update(y_pred.clone(), y_true.clone())
                tried.compute()
                self.takes_integers = True
            except Exception:
                self.takes_integers = False
        return y_true if self.takes_integers else y_true.to(y_pred.dtype)

    def _ask(self, verb: str, *given: Tensor) -> Any:
        try:
            return getattr(self.metric, verb)(*given)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if is_dead_worker(error):
                raise
            what = " and ".join(f"{shaped(value)} of {value.dtype}" for value in given)
            raise ValueError(
                f"the metric {self.name} failed in {verb}({what}): {type(error).__name__}: "
                f"{str(error)[:250]}; expected a metric of such outputs and targets: write another "
                "task, num_classes or num_labels, or one of easydl's by name."
            ) from error

    def result(self) -> Any:
        """What ``compute`` gives: a number, or an array."""
        value = self._ask("compute")
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy().copy()
        if not isinstance(value, (int, float, np.ndarray, np.generic)):
            raise TypeError(
                f"{type(self.metric).__name__}.compute() returned a {type(value).__name__}; "
                "expected a number or a tensor. Write the metrics of a collection one by one."
            )
        return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.metric.reset()


def counts_by_itself(value: Any) -> bool:
    """Whether an object keeps its own sums, as metrics of torchmetrics do."""
    return all(callable(getattr(value, verb, None)) for verb in ("update", "compute", "reset"))


def class_indices(metric: Metric, y_pred: Tensor, y_true: Tensor) -> Tensor:
    """The right classes in the shape of the outputs without their last axis."""
    shape = y_pred.shape
    if one_column(y_pred):
        raise ValueError(
            f"{metric.name} was given one output column, shape {shaped(y_pred)}; expected one for "
            "each class. Write 'binary_accuracy' or 'accuracy' for yes/no outputs."
        )
    if y_true.shape == shape:
        return y_true.argmax(-1)
    if y_true.shape == shape[:-1]:
        return y_true
    if y_true.shape == (*shape[:-1], 1):
        return y_true.squeeze(-1)
    raise ValueError(
        f"{metric.name} was given targets of shape {shaped(y_true, y_pred)} for outputs of shape "
        f"{shaped(y_pred, y_true)}; expected class indices {shaped(y_pred[..., 0])} or one-hot "
        f"rows {shaped(y_pred)}."
    )


def aligned(metric: Metric, y_pred: Tensor, y_true: Tensor, hint: str = "") -> Tensor:
    """``y_true`` in the shape of ``y_pred``, if they differ by no more than a last axis of 1."""
    if y_true.shape == y_pred.shape:
        return y_true
    if (*y_true.shape, 1) == y_pred.shape or y_true.shape == (*y_pred.shape, 1):
        return y_true.reshape(y_pred.shape)
    raise ValueError(
        f"{metric.name} was given targets of shape {shaped(y_true, y_pred)} for outputs of shape "
        f"{shaped(y_pred, y_true)}, which would broadcast or fail; expected the same shape"
        f"{'; ' + hint if hint else ''}."
    )


def weights_for(metric: Metric, sample_weight: Tensor, values: Tensor) -> Tensor:
    """The weights in float64, with axes of 1 so that they multiply ``values`` as meant."""
    weight = sample_weight.detach().to(sum_dtype(values))
    if weight.ndim > 1 and weight.shape[1:].numel() == 1:
        weight = weight.reshape(-1)
    if weight.ndim == 0 or weight.shape != values.shape[: weight.ndim]:
        raise ValueError(
            f"{metric.name} was given sample weights of shape {shaped(sample_weight, values)} for "
            f"values of shape {shaped(values, sample_weight)}; expected one for each row, (N,)."
        )
    return weight.reshape(*weight.shape, *[1] * (values.ndim - weight.ndim))


def shaped(values: Tensor, other: Tensor | None = None) -> str:
    """A shape for messages: ``(N, 3)``, unless the rows of ``other`` are another number."""
    sizes = [str(size) for size in values.shape]
    if sizes and (other is None or values.shape[:1] == other.shape[:1]):
        sizes[0] = "N"
    return f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"


def sum_of_rows(values: Tensor) -> Tensor:
    """The sum over the rows of the mean of each, in integers where there is no mean to take."""
    elements = values.shape[1:].numel()
    if elements <= 1 and not values.is_floating_point():
        return values.sum()
    total = values.sum(dtype=sum_dtype(values))
    return total / elements if elements > 1 else total


def sum_dtype(values: Tensor) -> torch.dtype:
    return torch.float32 if values.device.type == "mps" else torch.float64


def floating(values: Tensor) -> Tensor:
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def one_column(y_pred: Tensor) -> bool:
    return y_pred.ndim == 1 or y_pred.shape[-1] == 1


def two_columns(metric: Metric, y_pred: Tensor) -> str:
    name = type(metric).__name__
    return (
        f"{metric.name} was given two output columns, shape {shaped(y_pred)}; expected one "
        f"column of probabilities. Write {name}(average='macro') for two classes (softmax), "
        f"{name}({'' if name == 'AUC' else 'thresholds=0.5, '}average='micro') for two labels "
        "that may hold together, or end the model with one sigmoid output."
    )


def ratio(above: Any, below: Any) -> np.ndarray:
    """``above / below``, and 0.0 where there is nothing below."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def finite(name: str, value: Any) -> float:
    return check_between(name, value, -math.inf, math.inf, ends="()")


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
