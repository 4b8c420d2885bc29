"""One output of the network: its loss, its metrics, and what its targets must look like.

A ``Head`` is made from the first rows of data, before any step, so that every mismatch between
last activation, loss and targets is found then, and what has one meaning is settled then.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from easydl import losses
from easydl.data.convert import check_finite
from easydl.losses import Loss
from easydl.metrics import (
    AUC,
    Accuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    ConfusionMatrix,
    F1Score,
    Metric,
    ObjectMetric,
    Precision,
    TopKCategoricalAccuracy,
)

COUNTING = (
    AUC, Accuracy, BinaryAccuracy, CategoricalAccuracy, ConfusionMatrix, F1Score, Precision,
    TopKCategoricalAccuracy,
)  # fmt: skip
LARGEST = (Accuracy, CategoricalAccuracy, ConfusionMatrix, TopKCategoricalAccuracy)

PROBABILITIES = ("softmax", "sigmoid")
LOGIT_LOSSES = (nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)

#: autograd's name of the operation that made an output -> its activation
ENDINGS = {
    "SoftmaxBackward0": "softmax",
    "SigmoidBackward0": "sigmoid",
    "LogSoftmaxBackward0": "log_softmax",
    "ReluBackward0": "relu",
    "TanhBackward0": "tanh",
    "SoftplusBackward0": "softplus",
    "ExpBackward0": "exponential",
    "AddmmBackward0": "linear",
    "ConvolutionBackward0": "linear",
}
#: what an output can be
REACH = {
    "softmax": (0.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "log_softmax": (-inf, 0.0),
    "relu": (0.0, inf),
    "softplus": (0.0, inf),
    "exponential": (0.0, inf),
    "tanh": (-1.0, 1.0),
}
ANY = (-inf, inf)
#: the outputs and the targets that a loss is defined for, where these are not any numbers
DOMAINS = {
    "binary_crossentropy": (ANY, (0, 1)),
    "BCEWithLogitsLoss": (ANY, (0, 1)),
    "MultiLabelSoftMarginLoss": (ANY, (0, 1)),
    "BCELoss": ((0, 1), (0, 1)),
    "kl_divergence": ((0, 1), (0, 1)),
    "KLDivLoss": ((-inf, 0), (0, 1)),
    "poisson": ((0, inf), (0, inf)),
    "PoissonNLLLoss": (ANY, (0, inf)),
    "mean_squared_logarithmic_error": (ANY, (0, inf)),
    "hinge": (ANY, (-1, 1)),
    "squared_hinge": (ANY, (-1, 1)),
    "SoftMarginLoss": (ANY, (-1, 1)),
    "categorical_hinge": (ANY, (0, 1)),
}
#: losses whose outputs are scores or logarithms: their targets are no values to be reached
SCORED = (
    "categorical_hinge", "BCEWithLogitsLoss", "MultiLabelSoftMarginLoss", "KLDivLoss",
    "PoissonNLLLoss",
)  # fmt: skip
TWO_VALUED = ("hinge", "squared_hinge", "SoftMarginLoss")
NORMALISING = ("LogSoftmax", "Softmax", "Sigmoid", "LogSigmoid", "BinaryCrossEntropyWithLogits")
CUTS = ("Select", "Slice", "Index")
MIRRORS = ("Rsub", "Clamp")  # which keep a probability one: 1 - p, and away from 0
VIEWS = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Permute", "Transpose", "Clone")


def is_of_classes(metric: Any) -> bool:
    """Whether an object of torchmetrics takes class indices."""
    return type(metric).__module__.startswith("torchmetrics") and hasattr(metric, "num_classes")


def ending_of(output: Tensor) -> str | None:
    """The activation that made ``output``, read from autograd's graph; ``None`` if it is none.

    Rows that sum to 1 are a softmax however they were computed; what a sigmoid or a softmax gave
    stays a probability where it was only cut, clamped or taken from 1.
    """
    ending = _activation(VIEWS, output)
    if ending is None and _activation(VIEWS + CUTS, output) not in PROBABILITIES:
        ending = _activation(VIEWS + CUTS, output)
    if ending is not None or not output.numel() or not 0 <= output.min() <= output.max() <= 1:
        return ending
    if any(bool(((output.sum(axis) - 1).abs() < 1e-4).all()) for axis in range(1, output.dim())):
        return "softmax"
    return "sigmoid" if _activation(VIEWS + CUTS + MIRRORS, output) in PROBABILITIES else None


def _activation(hidden: tuple[str, ...], output: Tensor) -> str | None:
    node = _through(hidden, output.grad_fn)
    return None if node is None else ENDINGS.get(node.name())


def _through(names: tuple[str, ...], node: Any) -> Any:
    """The node behind those of ``names``."""
    while node is not None and node.name().startswith(names) and node.next_functions:
        node = node.next_functions[0][0]
    return node


class Head:
    """Loss, metrics and target rules of one output.

    Args:
        name: the output's name, ``""`` for a single one.
        loss: what ``losses.get`` returned, or ``None`` where ``compute_loss`` is the user's own.
        metrics, weighted_metrics: ``(key, metric)`` pairs.
        weight: this head's factor in the total loss.
        output: a few rows of this output, without the activation that ``activation`` names.
        activation: the softmax or sigmoid that training leaves out (the loss has it), or ``None``.
        sample: the matching rows of the targets, or ``None``.
        strict: whether to refuse a suspicious pairing of activation and loss.
    """

    def __init__(
        self,
        name: str,
        loss: Any,
        metrics: list[tuple[str, Metric]],
        weighted_metrics: list[tuple[str, Metric]],
        weight: float,
        output: Tensor,
        ending: str | None,
        activation: nn.Module | None,
        sample: Tensor | None,
        strict: bool = True,
    ):
        self.name, self.weight, self.strict = name, weight, strict
        self.metrics, self.weighted_metrics = metrics, weighted_metrics
        self.label = f"output {name!r}" if name else "the output"
        self.shape = tuple(output.shape[1:])
        self.dtype = output.dtype
        self.activation = activation
        self.ignored_index: int | None = None
        self.ending = ending
        if loss is not None and strict:
            check_activation(loss, ending, self.shape, output, self.label)
        self.loss = _choose_form(loss, ending, activation)
        self.per_sample = losses.per_sample_form(self.loss)
        self.sums = losses.reduction_of(self.loss) == "sum"  # grows with the batch's rows
        self.kind = self._kind(output, sample)
        self.class_axis = self._class_axis(output, activation, sample)
        if self.kind == "categorical":
            self.classes = self.shape[self.class_axis - 1 if self.class_axis > 0 else -1]
            rest = list(self.shape)
            del rest[self.class_axis - 1 if self.class_axis > 0 else -1]
            self.positions = tuple(rest)
            if strict and ending == "softmax":
                self._check_softmax_axis(output)
        if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)):
            self.ignored_index = loss.ignore_index
        self.ignores = self.ignored_index is not None and self.ignored_index >= 0
        self.counts_by_target = self.ignores or (
            self.ignored_index is not None and loss.weight is not None
        )
        self.to_predictions = self._to_predictions()
        self.threshold = 0.0 if _name(self.loss) in TWO_VALUED else 0.5

    # -- what the loss and the metrics are given ----------------------------------------------

    def compute(self, output: Tensor, y: Tensor, sample_weight: Tensor | None) -> Tensor:
        """The mean loss over the batch, a scalar; with weights ``Σ w·loss / N``, as Keras does.

        ``N`` is what the loss divides by without weights: ``rows_counted``, else the rows.
        """
        if self.class_axis == 1 and isinstance(self.loss, Loss):
            output = output.movedim(1, -1)
        if sample_weight is None:
            loss = self.loss(output, y)
            if self.counts_by_target and loss.dim() == 0:
                counted = losses.denominator(self.loss, y)
                # Only ignored targets: torch's mean over nothing is nan, but its gradient is 0.
                loss = loss if counted is None else loss.where(counted > 0, 0)
            return loss if loss.dim() == 0 else loss.mean()
        values = self.per_sample(output, y) * sample_weight
        counted = self.rows_counted(y)
        if counted is None:
            return values.mean()
        return values.sum() / counted.where(counted > 0, 1)

    def rows_counted(self, y: Tensor) -> Tensor | None:
        """What torch divided the loss by, in rows, where these are not simply the batch's.

        A target counts as much as its class weighs, an ignored one nothing.
        """
        found = losses.denominator(self.loss, y) if self.counts_by_target else None
        return None if found is None else found * (len(y) / y.numel())

    def with_rows(self, output: Tensor, rows: int) -> Tensor:
        """The output, with its first axis again where squeeze() took it from a batch of one row."""
        if output.dim() and output.shape[0] == rows:
            return output
        if output.numel() != rows * torch.Size(self.shape).numel():
            raise ValueError(
                f"{self.label} has shape {tuple(output.shape)} in training for {rows} rows; "
                f"expected {(rows, *self.shape)}, as in evaluation."
            )
        return output.reshape(rows, *self.shape)

    def predictions(self, output: Tensor) -> Tensor:
        """What metrics see: probabilities where the loss worked on logits, classes last."""
        output = output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
        if self.to_predictions is not None:
            output = self.to_predictions(output)
        return output.movedim(1, -1) if self.class_axis == 1 and output.dim() > 2 else output

    def measured(self, output: Tensor) -> Tensor:
        """The predictions for the metrics; a softmax that none of them would see is left out."""
        if isinstance(self.to_predictions, nn.Softmax) and all(
            ranks_only(metric) for _, metric in self.metrics + self.weighted_metrics
        ):
            output = output.float()
            return output.movedim(1, -1) if self.class_axis == 1 and output.dim() > 2 else output
        return self.predictions(output)

    def without_ignored(
        self, outputs: Tensor, labels: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The rows or positions, one after the other, whose target the loss does not ignore."""
        if not self.ignores or labels.is_floating_point():
            return outputs, labels, weights
        kept = labels != self.ignored_index
        if weights is not None:
            weights = weights.reshape(len(labels), *[1] * (labels.dim() - 1)).expand_as(labels)
            weights = weights[kept]
        return outputs[kept], labels[kept], weights

    def labels(self, y: Tensor) -> Tensor:
        """Targets as metrics want them: classes last."""
        if self.kind == "categorical" and y.is_floating_point() and self.class_axis == 1:
            return y.movedim(1, -1) if y.dim() > 2 and not isinstance(self.loss, Loss) else y
        return y

    def seen_by(self, metric: Metric, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """A hinge's −1 … 1 as 0 … 1 for the metrics that count classes, and torch's form of them.

        Objects of torchmetrics' kind get what torch's crossentropy does: classes at axis 1, the
        right ones as indices. One-hot rows they would take for several labels. Yes and no beside
        probabilities are integers: curves and ranks of labels refuse others.
        """
        if isinstance(metric, ObjectMetric) and (
            self.kind == "categorical"
            or (self.ending == "softmax" and is_of_classes(metric.metric))
        ):
            one_hot = labels.shape == outputs.shape and labels.is_floating_point()
            return outputs.movedim(-1, 1), labels.argmax(-1) if one_hot else labels
        if isinstance(metric, ObjectMetric) and (self.to_predictions or self.ending == "sigmoid"):
            whole = bool(((labels == 0) | (labels == 1)).all())
            return outputs, labels.long() if whole else labels
        if self.threshold == 0 and isinstance(metric, COUNTING):
            return (outputs + 1) / 2, (labels + 1) / 2
        return outputs, labels

    # -- what the targets must look like ------------------------------------------------------

    def targets(self, y: Tensor, what: str = "y") -> Tensor:
        """``y`` cast and aligned to this output, after checking every entry.

        Raises:
            ValueError: shapes that do not fit, labels out of range, values no probability.
        """
        if self.strict:
            check_finite(y, what)
        if self.kind == "categorical":
            return self._class_targets(y, what)
        if self.kind == "elementwise":
            y = self._value_targets(y, what)
        elif _same_but_ones(y, self.shape):
            # (N,) beside (N, 1) would broadcast to N × N in a loss of the user's own, too.
            y = self._cast(y, what).reshape(len(y), *self.shape)
        else:
            y = self._cast(y, what) if y.is_floating_point() else y.long()
        if self.strict and tuple(y.shape[1:]) == self.shape:
            self._check_metrics(y, what)
        return y

    def _cast(self, y: Tensor, what: str) -> Tensor:
        cast = y.to(self.dtype)
        if self.strict and cast.dtype != y.dtype:
            check_finite(cast, what, y)
        return cast

    def class_indices(self, y: Tensor) -> Tensor:
        """The class of each sample, for class weights and stratified splits."""
        if self.kind == "categorical" and y.is_floating_point():
            return y.argmax(1 if self.class_axis == 1 else -1)
        return y.long().flatten()

    def _class_targets(self, y: Tensor, what: str) -> Tensor:
        shape = tuple(y.shape[1:])
        mask = (1, *self.positions) if self.class_axis == 1 else self.positions
        if shape in (self.positions, self.positions + (1,), mask):
            return self._index_targets(y.reshape(len(y), *self.positions), what)
        axis = self.class_axis if self.class_axis > 0 else y.dim() - 1
        if shape != self.shape and _same_but_ones(y, self.shape) and len(self.shape) == 1:
            y, shape = y.reshape(len(y), *self.shape), self.shape
        if shape != self.shape:
            raise ValueError(
                f"{what} has shape {_rows(shape)} but {self.label} has shape "
                f"{_rows(self.shape)}; expected labels of shape {_rows(self.positions)} with "
                f"values 0 … {self.classes - 1}, or one-hot rows of shape {_rows(self.shape)}."
            )
        y = self._cast(y, what)
        check_distribution(y, axis, what)
        takes_soft = isinstance(self.loss, (Loss, nn.CrossEntropyLoss))
        if not takes_soft:
            return y.argmax(axis)
        if self.class_axis == 1 and isinstance(self.loss, Loss) and y.dim() > 2:
            y = y.movedim(1, -1)
        return y

    def _index_targets(self, y: Tensor, what: str) -> Tensor:
        if y.is_floating_point():
            fraction = y != y.round()
            if bool(fraction.any()):
                raise ValueError(
                    f"{what} holds {float(y[fraction][0]):g}; {_name(self.loss)} expects whole "
                    f"class labels 0 … {self.classes - 1}. For numbers to predict write "
                    "loss='mse' and a last layer Dense(1)."
                )
        y = y.long()
        if y.numel() == 0:
            return y
        valid = y if self.ignored_index is None else y[y != self.ignored_index]
        if valid.numel() == y.numel():
            low, high = (int(v) for v in torch.aminmax(y))
        else:
            self.ignores = self.counts_by_target = True
            low, high = (int(v) for v in torch.aminmax(valid)) if valid.numel() else (0, 0)
        if low < 0 or high >= self.classes:
            shift = (
                f" Labels that start at 1: write {what} - 1."
                if low == 1 and high == self.classes
                else f" For {high + 1} classes write Dense({high + 1}) as the last layer."
                if low >= 0
                else " Write labels from 0, or np.unique(…, return_inverse=True)."
            )
            if isinstance(self.loss, Loss) and type(self.loss).__module__ != Loss.__module__:
                shift += f" If they are no classes, make {_name(self.loss)} a plain function."
            raise ValueError(
                f"{what} has labels from {low} to {high}, but {self.label} has {self.classes} "
                f"classes; expected labels 0 … {self.classes - 1}.{shift}"
            )
        return y

    def _value_targets(self, y: Tensor, what: str) -> Tensor:
        name, shape = _name(self.loss), tuple(y.shape[1:])
        domain = DOMAINS.get(name, (ANY, ANY))[1]
        if shape != self.shape:
            if not _same_but_ones(y, self.shape):
                raise ValueError(
                    f"{what} has shape {_rows(shape)} but {self.label} has shape "
                    f"{_rows(self.shape)}; {name} compares them entry by entry and expects equal "
                    f"shapes. {self._advice(y, domain == (0, 1))}"
                )
            y = y.reshape(len(y), *self.shape)
        y = self._cast(y, what)
        if name in TWO_VALUED and bool(((y == 0) | (y == 1)).all()):
            y = 2 * y - 1  # Keras's rule: 0/1 targets mean −1/1
        if not self.strict or not y.numel():
            return y
        low, high = (float(v) for v in torch.aminmax(y))
        two_valued = name not in TWO_VALUED or bool((y.abs() == 1).all())
        if low < domain[0] or high > domain[1] or not two_valued:
            fix = (
                f"{what} / 255" if high == 255 and low >= 0
                else f"({what} + 1) / 2" if (low, high) == (-1, 1)
                else f"{what} - {low:g}" if high - low == 1
                else "loss='mse' for numbers, 'sparse_categorical_crossentropy' for labels"
            )  # fmt: skip
            expected = "between {:g} and {:g}".format(*domain)
            raise ValueError(
                f"{what} ranges from {low:g} to {high:g}; {name} expects targets "
                f"{'-1 or 1' if name in TWO_VALUED else expected}. Write {fix}."
            )
        least, most = ANY if name in SCORED else REACH.get(self.ending or "", ANY)
        if low < least or high > most:
            raise ValueError(
                f"{what} ranges from {low:g} to {high:g}, but {self.label} ends in {self.ending}, "
                f"which gives {least:g} to {most:g} only; expected targets that it can reach. "
                "Scale them, or leave the last layer without an activation."
            )
        if name == "mean_absolute_percentage_error" and bool((y == 0).any()):
            raise ValueError(
                f"{what} holds 0, of which no error is a percentage; {name} expects targets other "
                "than 0. Write loss='mae'."
            )
        if name in ("categorical_hinge", "kl_divergence") and self.shape[-1:] > (1,):
            check_distribution(y, y.dim() - 1, what)
        return y

    def _check_metrics(self, y: Tensor, what: str) -> None:
        """Metrics that count classes mean nothing for other targets: accuracy of a regression."""
        counting = [m for _, m in self.metrics + self.weighted_metrics if isinstance(m, COUNTING)]
        if not counting:
            return
        name, (_, labels) = counting[0].name, self.seen_by(counting[0], y, self.labels(y))
        odd = (labels != 0) & (labels != 1)
        if bool(odd.any()):
            raise ValueError(
                f"{name} counts classes, but {what} holds {float(labels[odd][0]):g}; expected 0 or "
                "1 in every entry. For numbers write metrics=['mae'] or ['r2']; for labels a "
                "crossentropy loss."
            )
        largest = [m for m in counting if isinstance(m, LARGEST) or takes_largest(m)]
        if largest and self.shape[-1:] > (1,) and bool((labels.sum(-1) != 1).any()):
            raise ValueError(
                f"{largest[0].name} takes the largest output as the class, but {what} has rows "
                "with several labels or none; expected one-hot rows. Write "
                "metrics=['binary_accuracy'], or easydl.metrics.F1Score(average='macro', "
                "threshold=0.5), and so for precision and recall."
            )

    @torch.no_grad()
    def try_thrice(self, output: Tensor, y: Tensor) -> None:
        """See whether a loss of the user's own is the sum over a batch: it grows with the rows.

        Asked are plain functions, and copies of modules without weights. A loss that is 0, or fails
        for more rows, is taken for a mean, as most are.
        """
        given = self.loss
        weightless = isinstance(given, nn.Module) and not given.state_dict()
        if losses.reduction_of(given) is not None or not (inspect.isfunction(given) or weightless):
            return
        try:
            self.loss = copy.deepcopy(given)  # which may count its calls
            once, twice, thrice = (
                self.compute(torch.cat([output] * n), torch.cat([y] * n), None) for n in (1, 2, 3)
            )
        except Exception:
            return
        finally:
            self.loss = given
        grows = torch.isclose(torch.stack([twice, thrice]), torch.stack([2 * once, 3 * once]), 1e-3)
        self.sums = bool(once != 0) and bool(grows.all())

    def read_graph(self, loss: Tensor, output: Tensor) -> None:
        """See in autograd's graph whether a loss of any make applies softmax or sigmoid itself.

        To probabilities it must not; from logits, metrics need the probabilities as well.
        """
        if self.activation is not None:
            return
        end = _through(VIEWS, output.grad_fn)
        nodes: list[Any] = [loss.grad_fn]
        seen: set[Any] = set()
        while nodes:
            node = nodes.pop()
            for following in () if node is None else (n for n, _ in node.next_functions):
                before = _through(VIEWS, following)
                if before is end and node.name().removesuffix("Backward0") in NORMALISING:
                    self._know_normaliser(node.name().removesuffix("Backward0"))
                if before is not None and before is not end and before not in seen:
                    seen.add(before)
                    nodes.append(before)

    def _know_normaliser(self, operation: str) -> None:
        if self.ending in PROBABILITIES and self.strict:
            raise ValueError(
                f"{self.label} ends in {self.ending}, but {_name(self.loss)} applies {operation} "
                f"to it a second time; expected logits. Either remove the {self.ending} from the "
                "last layer, or write a loss of probabilities, such as "
                "'sparse_categorical_crossentropy'."
            )
        if self.to_predictions is None and self.ending not in PROBABILITIES:
            several = len(self.shape) == 1 or self.kind == "categorical"
            softmax = several and "Softmax" in operation
            self.to_predictions = nn.Softmax(dim=self.class_axis) if softmax else torch.sigmoid

    def _check_softmax_axis(self, output: Tensor) -> None:
        sums = output.sum(self.class_axis)
        if bool(((sums - 1).abs() > 1e-2).any()):
            raise ValueError(
                f"{self.label} {_rows(self.shape)} ends in a softmax over another axis than the "
                f"{self.classes} classes: they sum to {float(sums.flatten()[0]):.3g}; expected 1. "
                "Write activation='softmax' in the last layer, or nn.Softmax(dim=-1)."
            )

    def _advice(self, y: Tensor, binary: bool) -> str:
        whole = not y.is_floating_point() or bool((y == y.round()).all())
        if whole and y.numel() == len(y) and len(self.shape) == 1 and self.shape[0] > 1:
            if binary:
                return "For one label among several write loss='sparse_categorical_crossentropy'."
            return (
                "For class labels write loss='sparse_categorical_crossentropy' or "
                "easydl.utils.to_categorical(y)."
            )
        if torch.Size(y.shape[1:]).numel() == torch.Size(self.shape).numel():
            return f"Write y.reshape(-1, {', '.join(map(str, self.shape))})."
        if binary and self.shape == (1,) and y.dim() == 2 and bool((y.sum(1) == 1).all()):
            return "For one-hot rows of two classes write y.argmax(1), or Dense(2) with softmax."
        if y.dim() == 2 and len(self.shape) == 1:
            return f"For {y.shape[1]} targets a sample write Dense({y.shape[1]}) as the last layer."
        if type(self.loss).__module__ not in (Loss.__module__, "torch.nn.modules.loss"):
            return "If that is what the formula takes, make it a function (y_pred, y_true)."
        return "Change the last layer or the targets."

    # -- settled once ------------------------------------------------------------------------

    def _kind(self, output: Tensor, sample: Tensor | None) -> str:
        loss = self.loss
        if getattr(loss, "crossentropy", None) == "categorical" or losses.is_index_loss(loss):
            return "categorical" if self.shape else "free"
        if isinstance(loss, Loss) and loss.name == "categorical_hinge":
            return "elementwise"
        if isinstance(loss, Loss) and self._takes_labels(output, sample):
            return "categorical"
        if loss is not None and losses.is_elementwise(loss):
            return "elementwise"
        return "free"

    def _takes_labels(self, output: Tensor, y: Tensor | None) -> bool:
        """Whether ``y`` may be labels and the formula, a user's, works with such, on zeros."""
        shape, given = self.shape, () if y is None else tuple(y.shape[1:])
        if y is None or not shape or 1 in (shape[0], shape[-1]):
            return False
        if given not in (shape[:-1], (*shape[:-1], 1)):
            return False
        rows = 3 if shape[0] == 2 else 2  # so that entries to compare would not broadcast
        zeros = output.new_zeros(rows, *shape)
        try:
            with torch.no_grad(), torch.random.fork_rng([]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.loss(zeros, zeros[..., 0].long())
        except Exception:
            return False
        return bool((y == y.round()).all())

    def _class_axis(
        self, output: Tensor, activation: nn.Module | None, sample: Tensor | None
    ) -> int:
        """Axis of the classes: −1, or 1 for torch's losses and for pictures (N, K, H, W)."""
        if self.kind != "categorical" or output.dim() <= 2:
            return -1
        if not isinstance(self.loss, Loss):
            if output.dim() == 3 and self.shape[0] == self.shape[1] and self.strict:
                raise ValueError(
                    f"{self.label} has shape {_rows(self.shape)}, and {_name(self.loss)} expects "
                    "the classes at axis 1, where layers have the steps. Write "
                    "loss='sparse_categorical_crossentropy' and activation='softmax', or "
                    "strict=False if they are at axis 1."
                )
            return 1
        if isinstance(activation, nn.Softmax) and activation.dim is not None:
            return 1 if activation.dim in (1, 1 - output.dim()) else -1
        if sample is None:
            return -1
        shape = tuple(sample.shape[1:])
        if shape == self.shape:
            first, last = (bool((sample.sum(axis) == 1).all()) for axis in (1, -1))
            return 1 if first and not last else -1
        last = shape in (self.shape[:-1], self.shape[:-1] + (1,))
        first = shape in (self.shape[1:], self.shape[1:] + (1,), (1, *self.shape[1:]))
        if last and first and self.shape[0] != self.shape[-1]:
            last = False
        if last and first:
            raise ValueError(
                f"{self.label} has shape {_rows(self.shape)} and y {_rows(shape)}: the classes "
                "could be at axis 1 or last. End the network in activation='softmax', which says "
                "it, or give one-hot targets."
            )
        return 1 if first else -1

    def _to_predictions(self) -> Any:
        if self.activation is not None:
            return self.activation
        if self.loss is None:
            return None
        from_logits = getattr(self.loss, "from_logits", False)
        crossentropy = getattr(self.loss, "crossentropy", None)
        if (crossentropy == "binary" and from_logits) or isinstance(
            self.loss, nn.BCEWithLogitsLoss
        ):
            return torch.sigmoid
        if (crossentropy == "categorical" and from_logits) or isinstance(
            self.loss, (nn.CrossEntropyLoss, nn.NLLLoss)
        ):
            return nn.Softmax(dim=self.class_axis)
        return None


def ranks_only(metric: Metric) -> bool:
    """Whether a softmax changes nothing for it; a subclass says so itself or sees probabilities."""
    kind = type(metric)
    own = kind.__module__.startswith("easydl.metrics.")
    return metric.by_rank and (own or "by_rank" in vars(kind))


def _choose_form(loss: Any, ending: str | None, activation: nn.Module | None) -> Any:
    """A crossentropy by name in the form that fits what the network ends in."""
    if getattr(loss, "crossentropy", None) is None or loss.from_logits:
        return loss
    if activation is None and ending in PROBABILITIES:
        return loss  # probabilities that cannot be undone: the clipped logarithm
    loss = copy.copy(loss)
    loss.from_logits, loss.options = True, loss.options | {"from_logits": True}
    return loss


def takes_largest(metric: Metric) -> bool:
    """Whether precision, recall or F1 is of the class with the largest output."""
    averaged = isinstance(metric, F1Score) or getattr(metric, "average", None) is not None
    return isinstance(metric, (F1Score, Precision)) and metric.threshold is None and averaged


def check_activation(
    loss: Any, ending: str | None, shape: tuple[int, ...], output: Tensor, label: str
) -> None:
    """Refuse pairs of last activation and loss whose numbers would be wrong.

    Raises:
        ValueError: with both ways out.
    """
    kind = getattr(loss, "crossentropy", None)
    name = _name(loss)
    width = shape[-1] if shape else 1
    wants_logits = isinstance(loss, LOGIT_LOSSES) or getattr(loss, "from_logits", False)
    if wants_logits and ending in PROBABILITIES:
        several = isinstance(loss, (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss))
        named = "binary" if kind == "binary" or several else "sparse_categorical"
        raise ValueError(
            f"{label} ends in {ending}, but {name} applies it a second time (it expects logits). "
            f"Either remove the {ending} from the last layer, or keep it and write "
            f"loss='{named}_crossentropy'."
        )
    low, high = REACH.get(ending or "", (float(output.min()), float(output.max())))
    low, high = ANY if ending == "linear" else (low, high)
    if losses.says_probabilities(loss) and not 0 <= low <= high <= 1:
        given = f"ends in {ending}" if ending in REACH else "ends in no softmax or sigmoid"
        raise ValueError(
            f"{label} {given}, but {name} has from_logits=False and expects probabilities. Either "
            "end in activation='softmax' or 'sigmoid', or write from_logits=True, or a "
            "crossentropy by name, such as loss='sparse_categorical_crossentropy', which takes "
            "raw scores."
        )
    least, most = DOMAINS.get(name, (ANY, ANY))[0]
    if low < least or high > most:
        given = f"ends in {ending}" if ending in REACH else f"gives {low:.3g} to {high:.3g}"
        fitting = " or ".join(repr(a) for a, reach in REACH.items() if reach == (least, most))
        raise ValueError(
            f"{label} {given}, but {name} expects outputs between {least:g} and {most:g}. Either "
            f"end in activation={fitting}, or choose another loss: nn.BCEWithLogitsLoss() and the "
            "crossentropies by name take raw scores."
        )
    if kind == "binary" and not wants_logits and ending is None and 0 <= low <= high <= 1:
        raise ValueError(
            f"{label} gives {low:.3g} to {high:.3g}, which could be probabilities or raw scores: "
            f"no last activation is seen. Expected one meaning for {name}: write "
            "loss=nn.BCELoss() for probabilities, nn.BCEWithLogitsLoss() for raw scores."
        )
    if ending == "softmax" and bool((output == 1).all()):
        raise ValueError(
            f"{label} is a softmax over one unit, which is always 1; {name} expects outputs that "
            "can differ. Write activation='sigmoid', or one unit a class."
        )
    if name == "cosine_similarity" and width == 1:
        raise ValueError(
            f"{label} has one unit, whose cosine is always -1 or 1; {name} expects vectors."
        )
    if isinstance(loss, nn.NLLLoss) and ending != "log_softmax":
        normal = output.dim() > 1 and bool((output.logsumexp(1).abs() < 1e-3).all())
        if not normal:
            raise ValueError(
                f"{label} does not end in log_softmax, which NLLLoss expects. Either write "
                "loss=nn.CrossEntropyLoss(), or end in nn.LogSoftmax(dim=1)."
            )
    if kind == "categorical" or isinstance(loss, nn.CrossEntropyLoss):
        if width == 1 and len(shape) == 1:
            raise ValueError(
                f"{label} has one unit, whose softmax is always 1, but {name} expects one unit a "
                "class. For two classes write Dense(1, activation='sigmoid') with "
                "loss='binary_crossentropy', or Dense(2, activation='softmax')."
            )
    if kind == "categorical" and ending == "sigmoid":
        raise ValueError(
            f"{label} ends in sigmoid, but {name} expects one distribution over the classes. "
            "Either write activation='softmax' (one label a sample), or "
            "loss='binary_crossentropy' (several labels a sample)."
        )
    if kind is not None and ending in ("relu", "tanh"):
        out = "softmax" if kind == "categorical" else "sigmoid"
        raise ValueError(
            f"{label} ends in {ending}, but {name} expects probabilities or raw scores. Either "
            f"write activation={out!r}, or leave the last layer without an activation."
        )
    if kind == "binary" and ending == "log_softmax":
        raise ValueError(
            f"{label} ends in log_softmax, but {name} expects probabilities: write "
            "loss='sparse_categorical_crossentropy', or activation='sigmoid'."
        )


def check_distribution(y: Tensor, axis: int, what: str) -> None:
    """One-hot or soft rows: entries ≥ 0 that sum to 1."""
    sums = y.sum(axis).reshape(len(y), -1)
    wrong = ((sums - 1).abs() > 1e-3).any(1) | (y.reshape(len(y), -1) < 0).any(1)
    if bool(wrong.any()):
        row = int(wrong.to(torch.uint8).argmax())
        raise ValueError(
            f"{what} has rows that are not one-hot: row {row} sums to {float(sums[row, 0]):g}, "
            f"smallest entry {float(y[row].min()):g}; expected entries ≥ 0 that sum to 1. For "
            "several labels a sample write activation='sigmoid' and loss='binary_crossentropy'."
        )


def _name(loss: Any) -> str:
    return str(getattr(loss, "name", None) or getattr(loss, "__name__", type(loss).__name__))


def _rows(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(["N", *map(str, shape)]) + ("," if not shape else "") + ")"


def _same_but_ones(y: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether the shapes differ only in axes of length 1."""
    return [n for n in y.shape[1:] if n != 1] == [n for n in shape if n != 1]
