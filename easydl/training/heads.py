"""One output of the network: its loss, its metrics, and what its targets must look like.

A ``Head`` is made from the first rows of data, before any step, so that every mismatch between
last activation, loss and targets is found then, and what has one meaning is settled then.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from easydl import losses
from easydl.losses import Loss
from easydl.metrics import Metric

PROBABILITIES = ("softmax", "sigmoid")
BOUNDED = ("relu", "tanh", "log_softmax", "hardtanh", "leaky_relu", "elu", "gelu", "silu")
LOGIT_LOSSES = (nn.CrossEntropyLoss, nn.BCEWithLogitsLoss)

#: autograd's name of the operation that made an output -> its activation
ENDINGS = {
    "SoftmaxBackward0": "softmax",
    "SigmoidBackward0": "sigmoid",
    "LogSoftmaxBackward0": "log_softmax",
    "ReluBackward0": "relu",
    "TanhBackward0": "tanh",
}
VIEWS = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Permute", "Transpose", "Clone")


def ending_of(output: Tensor) -> str | None:
    """The activation that made ``output``, read from autograd's graph; ``None`` if it is none."""
    node = output.grad_fn
    while node is not None and node.name().startswith(VIEWS) and node.next_functions:
        node = node.next_functions[0][0]
    return None if node is None else ENDINGS.get(node.name())


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
        if loss is not None and strict:
            check_activation(loss, ending, self.shape, output, self.label)
        self.loss = _choose_form(loss, ending, activation)
        self.per_sample = losses.per_sample_form(self.loss)
        self.kind = self._kind()
        self.class_axis = self._class_axis(output, activation, sample)
        if self.kind == "categorical":
            self.classes = self.shape[self.class_axis - 1 if self.class_axis > 0 else -1]
            rest = list(self.shape)
            del rest[self.class_axis - 1 if self.class_axis > 0 else -1]
            self.positions = tuple(rest)
        if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)):
            self.ignored_index = loss.ignore_index
        self.counts_by_target = isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) and (
            loss.weight is not None or loss.ignore_index >= 0
        )
        self.to_predictions = self._to_predictions()

    # -- what the loss and the metrics are given ----------------------------------------------

    def compute(self, output: Tensor, y: Tensor, sample_weight: Tensor | None) -> Tensor:
        """The mean loss over the batch, a scalar; with weights ``Σ w·loss / N``, as Keras does."""
        if self.class_axis == 1 and isinstance(self.loss, Loss):
            output = output.movedim(1, -1)
        if sample_weight is None:
            loss = self.loss(output, y)
            if self.counts_by_target and loss.dim() == 0:
                counted = losses.denominator(self.loss, y)
                # Only ignored targets: torch's mean over nothing is nan, but its gradient is 0.
                loss = loss if counted is None else loss.where(counted > 0, 0)
            return loss if loss.dim() == 0 else loss.mean()
        return (self.per_sample(output, y) * sample_weight).mean()

    def predictions(self, output: Tensor) -> Tensor:
        """What metrics see: probabilities where the loss worked on logits, classes last."""
        output = output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
        if self.to_predictions is not None:
            output = self.to_predictions(output)
        return output.movedim(1, -1) if self.class_axis == 1 and output.dim() > 2 else output

    def labels(self, y: Tensor) -> Tensor:
        """Targets as metrics want them: classes last."""
        if self.kind == "categorical" and y.is_floating_point() and self.class_axis == 1:
            return y.movedim(1, -1) if y.dim() > 2 and not isinstance(self.loss, Loss) else y
        return y

    # -- what the targets must look like ------------------------------------------------------

    def targets(self, y: Tensor, what: str = "y") -> Tensor:
        """``y`` cast and aligned to this output, after checking every entry.

        Raises:
            ValueError: shapes that do not fit, labels out of range, values no probability.
        """
        if self.kind == "categorical":
            return self._class_targets(y, what)
        if self.kind == "elementwise":
            return self._value_targets(y, what)
        y = y.to(self.dtype) if y.is_floating_point() else y.long()
        if y.shape[1:] != self.shape and y.is_floating_point() and _same_but_ones(y, self.shape):
            y = y.reshape(len(y), *self.shape)
        return y

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
        y = y.to(self.dtype)
        sums = y.sum(axis).reshape(len(y), -1)
        wrong = ((sums - 1).abs() > 1e-3).any(1) | (y.reshape(len(y), -1) < 0).any(1)
        if bool(wrong.any()):
            row = int(wrong.to(torch.uint8).argmax())
            raise ValueError(
                f"{what} has rows that are not one-hot: row {row} sums to {float(sums[row, 0]):g}, "
                f"smallest entry {float(y[row].min()):g}; expected entries ≥ 0 that sum to 1. For "
                "several labels a sample write activation='sigmoid' and loss='binary_crossentropy'."
            )
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
            self.counts_by_target = True
            low, high = (int(v) for v in torch.aminmax(valid)) if valid.numel() else (0, 0)
        if low < 0 or high >= self.classes:
            shift = (
                f" Labels that start at 1: write {what} - 1."
                if low == 1 and high == self.classes
                else f" For {high + 1} classes write Dense({high + 1}) as the last layer."
                if low >= 0
                else " Write labels from 0, or np.unique(…, return_inverse=True)."
            )
            raise ValueError(
                f"{what} has labels from {low} to {high}, but {self.label} has {self.classes} "
                f"classes; expected labels 0 … {self.classes - 1}.{shift}"
            )
        return y

    def _value_targets(self, y: Tensor, what: str) -> Tensor:
        binary = getattr(self.loss, "crossentropy", None) == "binary" or isinstance(
            self.loss, (nn.BCELoss, nn.BCEWithLogitsLoss)
        )
        shape = tuple(y.shape[1:])
        if shape != self.shape:
            if not _same_but_ones(y, self.shape):
                raise ValueError(
                    f"{what} has shape {_rows(shape)} but {self.label} has shape "
                    f"{_rows(self.shape)}; {_name(self.loss)} compares them entry by entry and "
                    f"expects equal shapes. {self._advice(y, binary)}"
                )
            y = y.reshape(len(y), *self.shape)
        y = y.to(self.dtype)
        if binary and y.numel():
            low, high = (float(v) for v in torch.aminmax(y))
            if low < 0 or high > 1:
                fix = (
                    f"{what} / 255" if high == 255 and low >= 0
                    else f"({what} + 1) / 2" if (low, high) == (-1, 1)
                    else f"{what} - {low:g}" if high - low == 1
                    else "loss='mse' for numbers, 'sparse_categorical_crossentropy' for labels"
                )  # fmt: skip
                raise ValueError(
                    f"{what} ranges from {low:g} to {high:g}; {_name(self.loss)} expects targets "
                    f"between 0 and 1. Write {fix}."
                )
        if isinstance(self.loss, Loss) and self.loss.name in ("hinge", "squared_hinge"):
            if bool(((y == 0) | (y == 1)).all()):
                y = 2 * y - 1  # Keras's rule: 0/1 targets mean −1/1
        return y

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
        if y.dim() == 2 and len(self.shape) == 1:
            return f"For {y.shape[1]} targets a sample write Dense({y.shape[1]}) as the last layer."
        return "Change the last layer or the targets."

    # -- settled once ------------------------------------------------------------------------

    def _kind(self) -> str:
        loss = self.loss
        if getattr(loss, "crossentropy", None) == "categorical" or losses.is_index_loss(loss):
            return "categorical" if self.shape else "free"
        if isinstance(loss, Loss) and loss.name == "categorical_hinge":
            return "elementwise"
        if loss is not None and losses.is_elementwise(loss):
            return "elementwise"
        return "free"

    def _class_axis(
        self, output: Tensor, activation: nn.Module | None, sample: Tensor | None
    ) -> int:
        """Axis of the classes: −1, or 1 for torch's losses and for pictures (N, K, H, W)."""
        if self.kind != "categorical" or output.dim() <= 2:
            return -1
        if not isinstance(self.loss, Loss):
            return 1
        if isinstance(activation, nn.Softmax) and activation.dim is not None:
            return 1 if activation.dim in (1, 1 - output.dim()) else -1
        if sample is None:
            return -1
        shape = tuple(sample.shape[1:])
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


def _choose_form(loss: Any, ending: str | None, activation: nn.Module | None) -> Any:
    """A crossentropy by name in the form that fits what the network ends in."""
    if getattr(loss, "crossentropy", None) is None or loss.from_logits:
        return loss
    if activation is None and ending in PROBABILITIES:
        return loss  # probabilities that cannot be undone: the clipped logarithm
    if loss.crossentropy == "categorical":
        return losses.CategoricalCrossentropy(True, loss.label_smoothing)
    return losses.BinaryCrossentropy(True, loss.label_smoothing)


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
        named = "binary" if kind == "binary" or isinstance(loss, nn.BCEWithLogitsLoss) else (
            "sparse_categorical"
        )  # fmt: skip
        raise ValueError(
            f"{label} ends in {ending}, but {name} applies it a second time (it expects logits). "
            f"Either remove the {ending} from the last layer, or keep it and write "
            f"loss='{named}_crossentropy'."
        )
    if isinstance(loss, nn.BCELoss) and ending != "sigmoid":
        low, high = float(output.min()), float(output.max())
        if ending is not None or low < 0 or high > 1:
            raise ValueError(
                f"{label} does not end in a sigmoid (it ranges from {low:.3g} to {high:.3g}), but "
                "BCELoss expects probabilities. Either end in activation='sigmoid', or write "
                "loss=nn.BCEWithLogitsLoss()."
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
    if kind == "binary" and ending == "softmax" and width == 1:
        raise ValueError(
            f"{label} is a softmax over one unit, which is always 1; {name} expects "
            "activation='sigmoid'."
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


def _name(loss: Any) -> str:
    return str(getattr(loss, "name", None) or getattr(loss, "__name__", type(loss).__name__))


def _rows(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(["N", *map(str, shape)]) + ("," if not shape else "") + ")"


def _same_but_ones(y: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether the shapes differ only in axes of length 1."""
    return [n for n in y.shape[1:] if n != 1] == [n for n in shape if n != 1]
