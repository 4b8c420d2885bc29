"""Losses by Keras's names, as functions in torch's order ``(y_pred, y_true)``.

Every function takes ``reduction="mean"`` (a scalar: the mean over samples and positions) or
``reduction="none"`` (one number a sample, shape ``(N,)``). Crossentropies are in nats. Any torch
loss and any callable ``(y_pred, y_true) -> tensor`` can be given to ``compile`` instead of a name.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easydl.errors import check_between, listed, look_up, made_of, refuse_uncalled

EPSILON = 1e-7  # Keras's fuzz factor, the bound of probabilities inside a logarithm
NUMBERS_AT_ONCE = {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 0)


def _reduce(values: Tensor, reduction: str) -> Tensor:
    """The mean of all values, or of each sample's, ``(N,)``."""
    if reduction == "mean":
        return values.mean()
    if reduction != "none":
        raise ValueError(
            f"reduction={reduction!r:.60} was given; expected 'mean' (a scalar) or 'none' (one "
            "number a sample): write loss(y_pred, y_true, reduction='none').sum() for a sum."
        )
    if values.dim() == 0:
        raise ValueError(
            "reduction='none' was given for one sample without a sample axis; expected y_pred of "
            "shape (N, …): write y_pred.unsqueeze(0) and y_true.unsqueeze(0)."
        )
    return values.flatten(1).mean(1) if values.dim() > 1 else values


def mean_squared_error(y_pred: Tensor, y_true: Tensor, reduction: str = "mean") -> Tensor:
    """Mean of ``(y_pred − y_true)²``, in the targets' unit squared.

    Shape:
        Outputs and targets alike, ``(N,)`` or ``(N, …)``; gives a scalar, or ``(N,)``.

    Example:
        >>> mean_squared_error(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
        tensor(4.)
    """
    if reduction == "mean":
        return F.mse_loss(y_pred, y_true)
    return _reduce((y_pred - y_true) ** 2, reduction)


def mean_absolute_error(y_pred: Tensor, y_true: Tensor, reduction: str = "mean") -> Tensor:
    """Mean of ``|y_pred − y_true|``, in the targets' unit.

    Shape:
        Outputs and targets alike, ``(N,)`` or ``(N, …)``; gives a scalar, or ``(N,)``.

    Example:
        >>> mean_absolute_error(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
        tensor(2.)
    """
    return _reduce((y_pred - y_true).abs(), reduction)


def mean_absolute_percentage_error(
    y_pred: Tensor, y_true: Tensor, reduction: str = "mean"
) -> Tensor:
    """Mean of ``100·|y_true − y_pred| / max(|y_true|, 1e-7)``, in percent.

    Shape:
        Outputs and targets alike, ``(N,)`` or ``(N, …)``; gives a scalar, or ``(N,)``.

    Example:
        >>> mean_absolute_percentage_error(torch.tensor([[3.0]]), torch.tensor([[4.0]]))
        tensor(25.)
    """
    return _reduce(100 * ((y_true - y_pred) / y_true.abs().clamp_min(EPSILON)).abs(), reduction)


def mean_squared_logarithmic_error(
    y_pred: Tensor, y_true: Tensor, reduction: str = "mean"
) -> Tensor:
    """Mean of ``(log(1 + y_true) − log(1 + y_pred))²``, both bounded below by 1e-7; no unit.

    Shape:
        Outputs and targets alike, ``(N,)`` or ``(N, …)``; gives a scalar, or ``(N,)``.

    Example:
        >>> y_pred, y_true = torch.tensor([[1.0]]), torch.tensor([[3.0]])
        >>> round(float(mean_squared_logarithmic_error(y_pred, y_true)), 4)
        0.4805
    """
    first, second = y_pred.clamp_min(EPSILON).log1p(), y_true.clamp_min(EPSILON).log1p()
    return _reduce((first - second) ** 2, reduction)


def huber(y_pred: Tensor, y_true: Tensor, reduction: str = "mean", *, delta: float = 1.0) -> Tensor:
    """Mean of Huber's loss: squared for small errors, linear beyond ``delta``.

    Formula: with ``e = y_pred − y_true``, ``½e²`` where ``|e| ≤ delta``, else
    ``delta·(|e| − ½delta)``; in the targets' unit squared.

    Reference: P. J. Huber, 1964, "Robust estimation of a location parameter".

    Shape:
        Outputs and targets alike, ``(N,)`` or ``(N, …)``; gives a scalar, or ``(N,)``.

    Example:
        >>> huber(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
        tensor(1.5000)
    """
    return _reduce(F.huber_loss(y_pred, y_true, reduction="none", delta=delta), reduction)


def log_cosh(y_pred: Tensor, y_true: Tensor, reduction: str = "mean") -> Tensor:
    """Mean of ``log(cosh(e))`` for ``e = y_pred − y_true``, near ½e², far out ``|e| − log 2``.

    Computed as ``|e| + log(1 + exp(−2|e|)) − log 2``, which does not overflow; no unit.

    Shape:
        Outputs and targets alike, ``(N,)`` or ``(N, …)``; gives a scalar, or ``(N,)``.

    Example:
        >>> log_cosh(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
        tensor(1.3250)
    """
    error = (y_pred - y_true).abs()
    return _reduce(error + F.softplus(-2 * error) - 0.6931471805599453, reduction)


def poisson(y_pred: Tensor, y_true: Tensor, reduction: str = "mean") -> Tensor:
    """Mean of ``y_pred − y_true·log(y_pred + 1e-7)`` for predicted rates.

    The negative log likelihood of counts, in nats, without ``log(y_true!)``.

    Shape:
        Outputs and targets alike, ``(N,)`` or ``(N, …)``; gives a scalar, or ``(N,)``.

    Example:
        >>> poisson(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
        tensor(1.0000)
    """
    return _reduce(y_pred - y_true * (y_pred + EPSILON).log(), reduction)


def kl_divergence(y_pred: Tensor, y_true: Tensor, reduction: str = "mean") -> Tensor:
    """Kullback–Leibler divergence ``Σ y_true·log(y_true / y_pred)`` over the last axis, nats.

    Shape:
        Outputs and targets alike, probabilities ``(N, …, K)``, or ``(N,)``, which is one column;
        gives a scalar, or ``(N,)``.

    Example:
        >>> kl_divergence(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]]))
        tensor(0.6931)
    """
    p, q = y_true.clamp(EPSILON, 1.0), y_pred.clamp(EPSILON, 1.0)
    terms = p * (p / q).log()
    return _reduce(terms.sum(-1) if terms.dim() > 1 else terms, reduction)


def cosine_similarity(y_pred: Tensor, y_true: Tensor, reduction: str = "mean") -> Tensor:
    """Minus the cosine of the angle between rows: −1 means equal directions.

    Formula: ``−Σ p·t / (‖p‖ · ‖t‖)`` over the last axis.

    Shape:
        Outputs and targets alike, ``(N, …, D)``; gives a scalar, or ``(N,)``.

    Example:
        >>> cosine_similarity(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
        tensor(-1.)
    """
    return _reduce(-F.cosine_similarity(y_pred, y_true, dim=-1), reduction)


def hinge(y_pred: Tensor, y_true: Tensor, reduction: str = "mean") -> Tensor:
    """Mean of ``max(1 − y_true·y_pred, 0)`` for targets −1 and 1; 0 and 1 mean the same.

    Shape:
        Outputs and targets alike, ``(N,)`` or ``(N, …)``; gives a scalar, or ``(N,)``.

    Example:
        >>> hinge(torch.tensor([[0.5], [0.5]]), torch.tensor([[1], [0]]))
        tensor(1.)
    """
    return _reduce((1 - _signs(y_true, y_pred) * y_pred).clamp_min(0), reduction)


def squared_hinge(y_pred: Tensor, y_true: Tensor, reduction: str = "mean") -> Tensor:
    """Mean of ``max(1 − y_true·y_pred, 0)²`` for targets −1 and 1; 0 and 1 mean the same.

    Shape:
        Outputs and targets alike, ``(N,)`` or ``(N, …)``; gives a scalar, or ``(N,)``.

    Example:
        >>> squared_hinge(torch.tensor([[0.5], [0.5]]), torch.tensor([[1], [0]]))
        tensor(1.2500)
    """
    return _reduce((1 - _signs(y_true, y_pred) * y_pred).clamp_min(0) ** 2, reduction)


def _signs(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """0 and 1 as −1 and 1, as Keras takes them, without waiting for the device to look."""
    y_true = y_true.to(y_pred.dtype)
    return torch.where(((y_true == 0) | (y_true == 1)).all(), 2 * y_true - 1, y_true)


def categorical_hinge(y_pred: Tensor, y_true: Tensor, reduction: str = "mean") -> Tensor:
    """Mean of ``max(1 + max over wrong classes − right class, 0)`` for one-hot targets.

    Shape:
        Outputs and targets alike, ``(N, …, K)``; gives a scalar, or ``(N,)``.

    Example:
        >>> categorical_hinge(torch.tensor([[0.5, 0.25]]), torch.tensor([[1.0, 0.0]]))
        tensor(0.7500)
    """
    right = (y_true * y_pred).sum(-1)
    wrong = ((1 - y_true) * y_pred).amax(-1)
    return _reduce((1 + wrong - right).clamp_min(0), reduction)


class Loss:
    """A loss with its arguments; called as torch's losses are.

    Subclass it for a loss with options, or pass any callable ``(y_pred, y_true)`` to ``compile``.
    A formula of your own gets targets of the outputs' shape, or, if it takes them, class labels
    ``(N, …)`` as int64 for outputs ``(N, …, K)``.

    Args:
        function: one of this module's functions, or yours with a ``reduction`` argument; left out
            by a subclass with a ``__call__(self, y_pred, y_true, reduction="mean")`` of its own.
        name: shown in messages; the class's own by default.
        options: further arguments of ``function``.

    Shape:
        ``y_pred`` and ``y_true`` as the function's; the result is a scalar, or ``(N,)``.

    Example:
        >>> loss = Loss(huber, "wide_huber", delta=5.0)
        >>> loss, loss(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
        (<loss wide_huber(delta=5.0)>, tensor(2.))
    """

    crossentropy: str | None = None  # "categorical" or "binary"
    from_logits = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        known = "__call__(self, y_pred, y_true, reduction='mean')"
        refuse_uncalled(cls, {known: ("call", "forward")})

    def __init__(
        self,
        function: Callable[..., Tensor] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        if function is None and options:
            raise TypeError(
                f"{type(self).__name__} was given {listed(options)}, but has no function to hand "
                "them to; expected an __init__ of its own that keeps them as attributes."
            )
        self.function, self.options = function, options
        self.name = name or type(self).__name__

    def __call__(self, y_pred: Tensor, y_true: Tensor, reduction: str = "mean") -> Tensor:
        if self.function is None:
            raise NotImplementedError(
                f"{type(self).__name__} has neither a function nor a "
                "__call__(self, y_pred, y_true, reduction='mean')"
            )
        return self.function(y_pred, y_true, reduction=reduction, **self.options)

    def __repr__(self) -> str:
        inside = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        return f"<loss {self.name}({inside})>"


class CategoricalCrossentropy(Loss):
    """Crossentropy of one label among K: ``−Σ_k y_k log p_k``, nats per sample.

    Takes class indices or one-hot (soft) targets alike. In ``fit`` it is computed from the logits
    by torch's fused kernel whenever the last layer ends in softmax or in nothing at all.

    Args:
        from_logits: the outputs are raw scores, softmax is part of the loss.
        label_smoothing: share of the target given to all classes alike, 0 ≤ s < 1.

    Shape:
        Outputs ``(N, …, K)``; targets ``(N, …)`` indices or ``(N, …, K)``; gives a scalar, or
        ``(N,)``.

    Example:
        >>> loss = CategoricalCrossentropy(from_logits=True)
        >>> round(float(loss(torch.zeros(1, 2), torch.tensor([1]))), 4)
        0.6931
    """

    crossentropy = "categorical"

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0):
        self.from_logits = from_logits
        self.label_smoothing = check_between("label_smoothing", label_smoothing, 0, 1, ends="[)")
        self.name = "categorical_crossentropy"
        self.options = {"from_logits": from_logits, "label_smoothing": label_smoothing}

    def __call__(self, y_pred: Tensor, y_true: Tensor, reduction: str = "mean") -> Tensor:
        logits = y_pred if self.from_logits else y_pred.clamp(EPSILON, 1 - EPSILON).log()
        if logits.dim() > 2:  # torch wants the classes at axis 1
            logits = logits.movedim(-1, 1)
            y_true = y_true.movedim(-1, 1) if y_true.is_floating_point() else y_true
        smoothing = self.label_smoothing
        if self.from_logits:
            short = _short_rows(logits, y_true)
            if short:
                logits, y_true = logits.t().contiguous()[None], y_true.t()[None]
            if reduction == "mean":
                return F.cross_entropy(logits, y_true, label_smoothing=smoothing)
            loss = F.cross_entropy(logits, y_true, reduction="none", label_smoothing=smoothing)
            return _reduce(loss[0] if short else loss, reduction)
        # Clipped probabilities need no second normalisation.
        if not y_true.is_floating_point():
            y_true = F.one_hot(y_true, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
        if smoothing:
            y_true = y_true * (1 - smoothing) + smoothing / logits.shape[1]
        return _reduce(-(y_true * logits).sum(1), reduction)


def _short_rows(logits: Tensor, y_true: Tensor) -> bool:
    """Whether torch is 2 to 4 times faster with the classes one below the other.

    Its kernel for rows takes those shorter than a vector register number by number. Training keeps
    to it: few rows gain nothing, and the last bit may differ.
    """
    return (
        not logits.requires_grad
        and logits.dim() == 2
        and 1 < logits.shape[1] < NUMBERS_AT_ONCE
        and len(logits) == len(y_true) >= 1000
        and logits.device.type == "cpu"
        and logits.dtype == torch.float32
        and y_true.dtype in (torch.long, torch.float32)
    )


class SparseCategoricalCrossentropy(CategoricalCrossentropy):
    """Crossentropy of one label among K, for targets that are class indices; the same loss.

    Formula: ``−log p_y``, nats per sample.

    Args:
        from_logits: the outputs are raw scores, softmax is part of the loss.

    Shape:
        Outputs ``(N, …, K)``; targets ``(N, …)`` indices; gives a scalar, or ``(N,)``.

    Example:
        >>> loss = SparseCategoricalCrossentropy()
        >>> round(float(loss(torch.tensor([[0.5, 0.5]]), torch.tensor([1]))), 4)
        0.6931
    """

    def __init__(self, from_logits: bool = False):
        super().__init__(from_logits)
        self.name = "sparse_categorical_crossentropy"
        self.options = {"from_logits": from_logits}


class BinaryCrossentropy(Loss):
    """Crossentropy of independent yes/no targets: ``−y log p − (1−y) log(1−p)``, mean, nats.

    In ``fit`` it is computed from the logits whenever the last layer ends in sigmoid or in nothing.

    Args:
        from_logits: the outputs are raw scores, the sigmoid is part of the loss.
        label_smoothing: pulls targets towards ½, 0 ≤ s < 1.

    Shape:
        Outputs and targets alike, ``(N,)``, ``(N, 1)`` or ``(N, …)``; gives a scalar, or ``(N,)``.

    Example:
        >>> loss = BinaryCrossentropy()
        >>> round(float(loss(torch.tensor([[0.5]]), torch.tensor([[1.0]]))), 4)
        0.6931
    """

    crossentropy = "binary"

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0):
        self.from_logits = from_logits
        self.label_smoothing = check_between("label_smoothing", label_smoothing, 0, 1, ends="[)")
        self.name = "binary_crossentropy"
        self.options = {"from_logits": from_logits, "label_smoothing": label_smoothing}

    def __call__(self, y_pred: Tensor, y_true: Tensor, reduction: str = "mean") -> Tensor:
        if self.label_smoothing:
            y_true = y_true * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        if self.from_logits:
            if reduction == "mean":
                return F.binary_cross_entropy_with_logits(y_pred, y_true)
            loss = F.binary_cross_entropy_with_logits(y_pred, y_true, reduction="none")
        else:
            p = y_pred.clamp(EPSILON, 1 - EPSILON)
            loss = -(y_true * p.log() + (1 - y_true) * (1 - p).log())
        return _reduce(loss, reduction)


class Huber(Loss):
    """Huber's loss with its bend at ``delta``: squared for small errors, linear beyond.

    Formula: with ``e = y_pred − y_true``, ``½e²`` where ``|e| ≤ delta``, else
    ``delta·(|e| − ½delta)``; in the targets' unit squared.

    Args:
        delta: the error where the line begins, in the targets' unit.

    Shape:
        Outputs and targets alike, ``(N,)`` or ``(N, …)``; gives a scalar, or ``(N,)``.

    Example:
        >>> Huber(delta=5.0)(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
        tensor(2.)
    """

    def __init__(self, delta: float = 1.0):
        super().__init__(huber, "huber", delta=check_between("delta", delta, 0, 1e30, ends="(]"))


def _simple(name: str, function: Callable[..., Tensor]) -> type[Loss]:
    """The class of a loss without arguments of its own."""

    def __init__(self: Loss, *given: Any, **options: Any) -> None:
        if given or options:
            raise TypeError(
                f"{name} was given {[*given, *options]!s:.80}; expected no arguments: write "
                f"{name}(), and loss(y_pred, y_true, reduction='none') for one number a sample."
            )
        Loss.__init__(self, function, function.__name__)

    inside = {"__init__": __init__, "__doc__": function.__doc__, "__module__": __name__}
    return type(name, (Loss,), inside)


MeanSquaredError = _simple("MeanSquaredError", mean_squared_error)
MeanAbsoluteError = _simple("MeanAbsoluteError", mean_absolute_error)
MeanAbsolutePercentageError = _simple("MeanAbsolutePercentageError", mean_absolute_percentage_error)
MeanSquaredLogarithmicError = _simple("MeanSquaredLogarithmicError", mean_squared_logarithmic_error)
LogCosh = _simple("LogCosh", log_cosh)
Poisson = _simple("Poisson", poisson)
KLDivergence = _simple("KLDivergence", kl_divergence)
CosineSimilarity = _simple("CosineSimilarity", cosine_similarity)
Hinge = _simple("Hinge", hinge)
SquaredHinge = _simple("SquaredHinge", squared_hinge)
CategoricalHinge = _simple("CategoricalHinge", categorical_hinge)

#: name -> what makes the loss; Keras's names and their short forms.
NAMES: dict[str, type[Loss]] = {
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "mae": MeanAbsoluteError,
    "mean_absolute_percentage_error": MeanAbsolutePercentageError,
    "mape": MeanAbsolutePercentageError,
    "mean_squared_logarithmic_error": MeanSquaredLogarithmicError,
    "msle": MeanSquaredLogarithmicError,
    "huber": Huber,
    "log_cosh": LogCosh,
    "logcosh": LogCosh,
    "poisson": Poisson,
    "kl_divergence": KLDivergence,
    "kld": KLDivergence,
    "cosine_similarity": CosineSimilarity,
    "hinge": Hinge,
    "squared_hinge": SquaredHinge,
    "categorical_hinge": CategoricalHinge,
    "categorical_crossentropy": CategoricalCrossentropy,
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "binary_crossentropy": BinaryCrossentropy,
}


def get(spec: Any) -> Any:
    """A name, class, function, torch loss or callable as a callable ``(y_pred, y_true)``.

    A function whose parameters are called ``(y_true, y_pred)``, as Keras writes them, is called in
    that order: the names leave no doubt.

    Raises:
        ValueError: an unknown name, with the nearest one.
        TypeError: anything that cannot be called.
    """
    if isinstance(spec, str):
        return look_up("loss", spec, NAMES)()
    if isinstance(spec, type):
        return get(made_of("loss", spec))
    kind = type(spec).__name__
    if isinstance(spec, (Loss, nn.Module)):
        if ("name" if isinstance(spec, Loss) else "_modules") not in vars(spec):
            raise TypeError(
                f"the loss {kind} was given, which its base has not set up; expected "
                f"{kind}.__init__ to begin with super().__init__()."
            )
    verbs = ("update_state",), ("update", "result", "reset"), ("update", "compute", "reset")
    if any(all(hasattr(spec, verb) for verb in needed) for needed in verbs):
        raise TypeError(
            f"loss={kind}(…) was given, which counts over batches as metrics do; expected a "
            "function (y_pred, y_true) -> tensor of one batch, a torch loss, or a name such as "
            f"'mse'. To watch it write metrics=[{kind}(…)]."
        )
    if not callable(spec):
        raise TypeError(
            f"loss={spec!r} was given; expected a name such as 'mse', a torch loss such as "
            "nn.CrossEntropyLoss(), or a function (y_pred, y_true) -> tensor."
        )
    if inspect.isfunction(spec) and spec in FUNCTIONS:
        return FUNCTIONS[spec]()
    if inspect.isfunction(spec) and spec.__module__ == __name__:
        return Loss(spec, spec.__name__)
    return in_torch_order(spec)


def in_torch_order(function: Callable) -> Callable:
    """``function``, turned round if it calls its parameters ``(y_true, y_pred)`` as Keras does."""
    try:
        called = function.forward if isinstance(function, nn.Module) else function
        names = list(inspect.signature(called).parameters)[:2]
    except (TypeError, ValueError):  # builtins do not tell
        return function
    if names != ["y_true", "y_pred"]:
        return function
    turned = functools.partial(_turned, function)
    turned.__name__ = getattr(function, "__name__", type(function).__name__)  # type: ignore
    return turned


def _as_given(loss: Any) -> Any:
    """The loss that ``in_torch_order`` was given."""
    turned = isinstance(loss, functools.partial) and loss.func is _turned
    return loss.args[0] if turned else loss


def reduction_of(loss: Any) -> str | None:
    """``"mean"``, ``"sum"`` or ``"none"``, where a loss tells, inside a partial, too."""
    loss = _as_given(loss)
    while isinstance(loss, functools.partial):
        if "reduction" in loss.keywords:
            return loss.keywords["reduction"]
        loss = loss.func
    return getattr(loss, "reduction", None)


def says_probabilities(loss: Any) -> bool:
    """Whether a loss of another make, such as Keras's, is set to ``from_logits=False``."""
    loss = _as_given(loss)
    if isinstance(loss, Loss):
        return False
    try:
        argument = inspect.signature(loss).parameters.get("from_logits")
    except (TypeError, ValueError):  # builtins do not tell
        argument = None
    return getattr(loss, "from_logits", None if argument is None else argument.default) is False


def per_sample_form(loss: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """The same loss giving one number a sample, ``(N,)``, for sample and class weights.

    Raises (when called):
        ValueError: a callable that gives only a batch mean, which no sample weight can reach.
    """
    if getattr(loss, "reduction", "mean") == "sum":
        return functools.partial(_refuse_sum, loss)
    by_batch = getattr(loss, "reduction", "mean") == "batchmean"  # torch's sum over positions
    if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
        loss = copy.copy(loss)
        loss.reduction = "none"
    elif isinstance(loss, Loss) or inspect.isfunction(loss):
        takes = inspect.signature(loss).parameters.values()
        options = isinstance(loss, Loss) and any(p.kind is p.VAR_KEYWORD for p in takes)
        if options or any(p.name == "reduction" for p in takes):
            loss = functools.partial(loss, reduction="none")
    # Not a closure: models are pickled whole.
    return functools.partial(_values_of, loss, by_batch)


def _values_of(loss: Any, by_batch: bool, y_pred: Tensor, y_true: Tensor) -> Tensor:
    values = loss(y_pred, y_true)
    if values.dim() == 0:
        raise ValueError(
            f"the loss {getattr(loss, '__name__', type(loss).__name__)} returned one number for a "
            f"batch of {len(y_pred)}; sample and class weights expect one a sample: return a "
            "tensor of shape (N,), or use a torch loss or a name."
        )
    if by_batch:
        return values.reshape(len(values), -1).sum(1)
    return _reduce(values, "none")


def _refuse_sum(loss: Any, y_pred: Tensor, y_true: Tensor) -> Tensor:
    raise ValueError(
        f"{type(loss).__name__}(reduction='sum') was given with sample or class weights, whose "
        "loss is a mean; expected reduction='mean'."
    )


def _turned(function: Any, y_pred: Tensor, y_true: Tensor) -> Tensor:
    return function(y_true, y_pred)


def denominator(loss: Any, y_true: Tensor) -> Tensor | None:
    """What torch divided a batch's loss by, where that is not the number of samples.

    ``nn.CrossEntropyLoss`` with ``weight`` or ``ignore_index`` divides by the weights of the
    targets it counts; averaging such batches by their size would be wrong. ``None`` elsewhere.
    """
    if not isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) or loss.reduction != "mean":
        return None
    if y_true.is_floating_point():
        return None
    counted = y_true != loss.ignore_index
    if loss.weight is None:
        return counted.sum()
    return loss.weight[y_true.clamp_min(0)].where(counted, 0).sum()


def is_index_loss(loss: Any) -> bool:
    """Whether a torch loss takes class indices."""
    return isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss))


def is_elementwise(loss: Any) -> bool:
    """Whether the loss compares outputs and targets of one shape."""
    if isinstance(loss, Loss):
        return loss.crossentropy != "categorical"
    return isinstance(loss, ELEMENTWISE)


ELEMENTWISE = (
    nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss,
    nn.KLDivLoss, nn.PoissonNLLLoss, nn.SoftMarginLoss, nn.MultiLabelSoftMarginLoss,
)  # fmt: skip

#: torch's losses as functions -> the classes that easydl knows; nothing else differs
FUNCTIONS: dict[Any, Callable[[], nn.Module]] = {
    F.mse_loss: nn.MSELoss,
    F.l1_loss: nn.L1Loss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.kl_div: nn.KLDivLoss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
    F.soft_margin_loss: nn.SoftMarginLoss,
    F.multilabel_soft_margin_loss: nn.MultiLabelSoftMarginLoss,
    F.multi_margin_loss: nn.MultiMarginLoss,
}

__all__ = [
    "NAMES",
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "CategoricalHinge",
    "CosineSimilarity",
    "Hinge",
    "Huber",
    "KLDivergence",
    "LogCosh",
    "Loss",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Poisson",
    "SparseCategoricalCrossentropy",
    "SquaredHinge",
    "categorical_hinge",
    "cosine_similarity",
    "get",
    "hinge",
    "huber",
    "kl_divergence",
    "log_cosh",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "poisson",
    "squared_hinge",
]
