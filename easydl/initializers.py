"""How a weight starts: Keras's initialisers, by name, in place, drawn by ``torch.nn.init``.

An initialiser is any callable that takes a tensor and fills it in place, so every function of
``torch.nn.init`` is one too: ``Dense(10, kernel_initializer=torch.nn.init.xavier_normal_)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easydl.errors import check_between, look_up

Initializer = Callable[[Tensor], Any]

# The standard deviation of N(0, 1) cut at ±2: what a truncated draw must be divided by.
_TRUNCATED_STD = 0.87962566103423978


def get(spec: Any) -> Initializer:
    """The initialiser that ``spec`` means: a name, an object, a class, a function or a number.

    Args:
        spec: ``"glorot_uniform"``, ``HeNormal(seed=1)``, ``torch.nn.init.ones_``, ``0.5``.

    Raises:
        ValueError: for an unknown name, with the nearest match.
        TypeError: for anything that cannot be called.

    Example:
        >>> get("ones")(torch.empty(2))
        tensor([1., 1.])
    """
    if isinstance(spec, str):
        family = {"xavier": "glorot", "kaiming": "he"}.get(spec.lower(), spec.lower())
        if family in ("glorot", "he", "lecun"):
            raise ValueError(
                f"unknown initializer {spec!r}. Did you mean '{family}_uniform' or "
                f"'{family}_normal'? It is expected to say what it draws from."
            )
        spec = look_up("initializer", spec, TABLE)
    if isinstance(spec, type):
        spec = spec()
    if isinstance(spec, (int, float)) and not isinstance(spec, bool):
        spec = Constant(spec)
    if not callable(spec):
        raise TypeError(
            f"initializer {spec!r} was given; expected a name such as 'glorot_uniform', a number "
            "or a function that fills a tensor in place, such as torch.nn.init.ones_."
        )
    return spec


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight in torch's layout (out, in, *kernel), as Keras counts."""
    if len(shape) < 2:
        size = shape[0] if shape else 1
        return size, size
    receptive_field = math.prod(shape[2:])
    return shape[1] * receptive_field, shape[0] * receptive_field


@dataclass(frozen=True)
class Constant:
    """Every entry is ``value``.

    Example:
        >>> Constant(0.5)(torch.empty(2))
        tensor([0.5000, 0.5000])
    """

    value: float = 0.0

    def __call__(self, tensor: Tensor) -> Tensor:
        return nn.init.constant_(tensor, self.value)


class Zeros(Constant):
    """Every entry is 0, the usual start of a bias.

    Example:
        >>> Zeros()(torch.empty(2))
        tensor([0., 0.])
    """

    def __init__(self) -> None:
        super().__init__(0.0)


class Ones(Constant):
    """Every entry is 1, the usual start of a scale.

    Example:
        >>> Ones()(torch.empty(2))
        tensor([1., 1.])
    """

    def __init__(self) -> None:
        super().__init__(1.0)


@dataclass(frozen=True)
class RandomNormal:
    """Draws from N(mean, stddev²).

    Example:
        >>> RandomNormal(mean=3.0, stddev=0.0)(torch.empty(2))
        tensor([3., 3.])
    """

    mean: float = 0.0
    stddev: float = 0.05
    seed: int | None = None

    def __call__(self, tensor: Tensor) -> Tensor:
        return nn.init.normal_(tensor, self.mean, self.stddev, generator=_stream(self.seed, tensor))


@dataclass(frozen=True)
class RandomUniform:
    """Draws from U[minval, maxval).

    Example:
        >>> w = RandomUniform(-1.0, 1.0, seed=0)(torch.empty(100))
        >>> bool(w.abs().max() <= 1)
        True
    """

    minval: float = -0.05
    maxval: float = 0.05
    seed: int | None = None

    def __call__(self, tensor: Tensor) -> Tensor:
        stream = _stream(self.seed, tensor)
        return nn.init.uniform_(tensor, self.minval, self.maxval, generator=stream)


@dataclass(frozen=True)
class TruncatedNormal:
    """Draws from N(mean, stddev²), again whenever a draw lies outside mean ± 2·stddev.

    Example:
        >>> w = TruncatedNormal(stddev=0.1, seed=0)(torch.empty(100))
        >>> bool(w.abs().max() <= 0.2)
        True
    """

    mean: float = 0.0
    stddev: float = 0.05
    seed: int | None = None

    def __call__(self, tensor: Tensor) -> Tensor:
        low, high = self.mean - 2 * self.stddev, self.mean + 2 * self.stddev
        stream = _stream(self.seed, tensor)
        return nn.init.trunc_normal_(tensor, self.mean, self.stddev, low, high, generator=stream)


@dataclass(frozen=True)
class VarianceScaling:
    """Draws with variance ``scale / fan``, so that signals keep their size from layer to layer.

    Glorot, He and LeCun are its named cases. A truncated normal is widened by 1/0.8796, so that the
    variance after cutting at two standard deviations is the one asked for, as in Keras.

    Reference:
        K. He, X. Zhang, S. Ren, J. Sun (2015), Delving Deep into Rectifiers, arXiv:1502.01852.

    Args:
        scale: numerator of the variance.
        mode: ``"fan_in"``, ``"fan_out"`` or ``"fan_avg"``.
        distribution: ``"truncated_normal"``, ``"untruncated_normal"`` or ``"uniform"``.
        seed: draws of their own, else from torch's global stream.

    Example:
        >>> limit = (6 / (20 + 30)) ** 0.5
        >>> w = VarianceScaling(1.0, "fan_avg", "uniform", seed=0)(torch.empty(30, 20))
        >>> bool(w.abs().max() <= limit)
        True
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"
    seed: int | None = None

    def __post_init__(self) -> None:
        check_between("scale", self.scale, 0, math.inf, ends="(]")
        look_up("mode", self.mode, dict.fromkeys(("fan_in", "fan_out", "fan_avg")))
        look_up("distribution", self.distribution, _DISTRIBUTIONS)

    def __call__(self, tensor: Tensor) -> Tensor:
        fan_in, fan_out = fans(tuple(tensor.shape))
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        std = math.sqrt(self.scale / max(1.0, fan))
        return look_up("distribution", self.distribution, _DISTRIBUTIONS)(std, self.seed)(tensor)


_DISTRIBUTIONS: dict[str, Callable[[float, int | None], Initializer]] = {
    "truncated_normal": lambda std, seed: TruncatedNormal(0.0, std / _TRUNCATED_STD, seed),
    "untruncated_normal": lambda std, seed: RandomNormal(0.0, std, seed),
    "uniform": lambda std, seed: RandomUniform(-math.sqrt(3) * std, math.sqrt(3) * std, seed),
}


class GlorotUniform(VarianceScaling):
    """U[±√(6 / (fan_in + fan_out))], the start of Dense and Conv kernels.

    Reference:
        X. Glorot, Y. Bengio (2010), Understanding the difficulty of training deep feedforward
        neural networks, equation 16.

    Example:
        >>> w = GlorotUniform(seed=0)(torch.empty(30, 20))
        >>> bool(w.abs().max() <= (6 / (20 + 30)) ** 0.5)
        True
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(1.0, "fan_avg", "uniform", seed)


class GlorotNormal(VarianceScaling):
    """Truncated normal of variance 2 / (fan_in + fan_out).

    Example:
        >>> GlorotNormal(seed=0)(torch.empty(300, 200)).std().round(decimals=3)  # √(2 / 500)
        tensor(0.0630)
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(1.0, "fan_avg", "truncated_normal", seed)


class HeUniform(VarianceScaling):
    """U[±√(6 / fan_in)], for layers before a ReLU.

    Example:
        >>> w = HeUniform(seed=0)(torch.empty(30, 24))
        >>> bool(w.abs().max() <= 0.5)  # √(6 / 24)
        True
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(2.0, "fan_in", "uniform", seed)


class HeNormal(VarianceScaling):
    """Truncated normal of variance 2 / fan_in, for layers before a ReLU.

    Example:
        >>> HeNormal(seed=0)(torch.empty(300, 200)).std().round(decimals=2)  # √(2 / 200)
        tensor(0.1000)
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(2.0, "fan_in", "truncated_normal", seed)


class LecunUniform(VarianceScaling):
    """U[±√(3 / fan_in)].

    Example:
        >>> w = LecunUniform(seed=0)(torch.empty(30, 12))
        >>> bool(w.abs().max() <= 0.5)  # √(3 / 12)
        True
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(1.0, "fan_in", "uniform", seed)


class LecunNormal(VarianceScaling):
    """Truncated normal of variance 1 / fan_in, for layers before a SELU.

    Example:
        >>> LecunNormal(seed=0)(torch.empty(300, 100)).std().round(decimals=2)  # √(1 / 100)
        tensor(0.1000)
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(1.0, "fan_in", "truncated_normal", seed)


@dataclass(frozen=True)
class Orthogonal:
    """A (semi-)orthogonal matrix times ``gain``: repeated products neither grow nor shrink.

    Example:
        >>> w = Orthogonal(seed=0)(torch.empty(3, 3))
        >>> torch.allclose(w @ w.T, torch.eye(3), atol=1e-6)
        True
    """

    gain: float = 1.0
    seed: int | None = None

    def __call__(self, tensor: Tensor) -> Tensor:
        return nn.init.orthogonal_(tensor, self.gain, generator=_stream(self.seed, tensor))


@dataclass(frozen=True)
class Identity:
    """The identity matrix times ``gain``, for a square Dense or recurrent kernel.

    Example:
        >>> Identity(2.0)(torch.empty(2, 2))
        tensor([[2., 0.],
                [0., 2.]])
    """

    gain: float = 1.0

    def __call__(self, tensor: Tensor) -> Tensor:
        if tensor.ndim != 2:
            raise ValueError(
                f"Identity was given a weight of shape {tuple(tensor.shape)}; expected a matrix. "
                "For a convolution use 'orthogonal' or torch.nn.init.dirac_."
            )
        return nn.init.eye_(tensor).mul_(self.gain)


TABLE: dict[str, Callable[[], Initializer]] = {
    "zeros": Zeros,
    "ones": Ones,
    "constant": Constant,
    "normal": RandomNormal,
    "random_normal": RandomNormal,
    "uniform": RandomUniform,
    "random_uniform": RandomUniform,
    "truncated_normal": TruncatedNormal,
    "variance_scaling": VarianceScaling,
    "glorot_uniform": GlorotUniform,
    "glorot_normal": GlorotNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
    "lecun_uniform": LecunUniform,
    "lecun_normal": LecunNormal,
    "xavier_uniform": GlorotUniform,  # torch's words
    "xavier_normal": GlorotNormal,
    "kaiming_uniform": HeUniform,
    "kaiming_normal": HeNormal,
    "orthogonal": Orthogonal,
    "identity": Identity,
}


def _stream(seed: int | None, tensor: Tensor) -> torch.Generator | None:
    return None if seed is None else torch.Generator(tensor.device).manual_seed(seed)
