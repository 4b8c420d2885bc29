"""The restricted Boltzmann machine, trained by contrastive divergence on the one loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import UninitializedParameter

from easydl import regularizers
from easydl.boltzmann.likelihood import (
    MOST_UNITS,
    annealed_log_partition,
    draw,
    exact_log_partition,
    fewer_units,
)
from easydl.errors import check_between, check_flag, check_positive_int, look_up, short_traceback
from easydl.layers import Dense
from easydl.model import Model, sample_shape
from easydl.saving import require_built
from easydl.sequential import Sequential

KINDS = {"bernoulli": "bernoulli", "gaussian": "gaussian"}


class RBM(Model):
    """Restricted Boltzmann machine: E(x, h) = −xᵀWh − bᵀx − dᵀh, p(x, h) = exp(−E) / Z.

    Hidden units are binary. Visible ones are binary (``"bernoulli"``: data in [0, 1], grey values
    read as the probability of a one) or real with unit variance (``"gaussian"``:
    E = ½‖x − b‖² − xᵀWh − dᵀh, so standardise the data).

    ``fit`` needs no targets and ``compile`` no loss. The loss of training is the mean of
    F(x) − F(x′) with the free energy F(x) = −log Σ_h exp(−E(x, h)) and the model's draws x′ held
    fixed: its gradient is the CD-k update (Hinton 2002), or with ``persistent`` that of persistent
    CD (Tieleman 2008). Its value says little. Logged beside it, in nats per sample:
    ``reconstruction_error``, the crossentropy (Gaussian: half the squared error) of x against its
    mean-field reconstruction through the hidden probabilities, and ``free_energy``; a validation
    free energy that leaves that of training behind shows overfitting (Hinton 2010). ``evaluate``
    and validation give the reconstruction error as the loss, without drawing; ``log_likelihood``
    is the honest measure.

    Momentum comes with the optimizer, ``rbm.compile(dl.optimizers.SGD(0.05, momentum=0.5))``;
    weight decay of the weights alone with ``kernel_regularizer``, of all parameters with torch's:
    ``lambda p: torch.optim.SGD(p, 0.05, momentum=0.5, weight_decay=1e-4)``. ``predict`` gives the
    hidden probabilities.

    Args:
        hidden: number of hidden units.
        visible: number of visible units; from the first data by default.
        kind: of the visible units, ``"bernoulli"`` or ``"gaussian"``.
        k: Gibbs steps of each update.
        persistent: number of chains that go on from update to update (and are saved); ``False``:
            chains start from the data.
        mean_field: end the k steps with E[x | h] in place of a draw (Hinton 2010, section 3): less
            noise and better features of grey values, a little less likelihood.
        sparsity: each hidden unit's target for its mean probability in a batch; ``None``: none.
        sparsity_cost: factor of Σ_j KL(sparsity ‖ mean probability of j), which the loss gains
            (Hinton 2010, section 11).
        kernel_regularizer: penalty of W alone, such as ``regularizers.L2(1e-4)``.
        name: shown by ``summary``.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> import easydl as dl
        >>> dl.seed(0)
        >>> rbm = dl.RBM(4)
        >>> rbm.compile(dl.optimizers.SGD(0.1, momentum=0.5))
        >>> history = rbm.fit(torch.eye(6), epochs=2, verbose=0)
        >>> rbm.sample(3, steps=10).shape, rbm.transform(torch.eye(6)).shape
        ((3, 6), (6, 4))
    """

    own_loss = "contrastive divergence"

    def __init__(
        self,
        hidden: int,
        visible: int | None = None,
        kind: str = "bernoulli",
        k: int = 1,
        persistent: int | bool = False,
        mean_field: bool = False,
        sparsity: float | None = None,
        sparsity_cost: float = 1.0,
        kernel_regularizer: Any = None,
        *,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.hidden = check_positive_int("hidden", hidden)
        self.visible = None if visible is None else check_positive_int("visible", visible)
        if not isinstance(kind, str):
            raise TypeError(f"kind={kind!r:.60} was given; expected 'bernoulli' or 'gaussian'.")
        self.kind = look_up("kind", kind, KINDS)
        self.k = check_positive_int("k", k)
        if persistent is True:
            raise ValueError("persistent=True was given; expected how many chains: persistent=100.")
        self.persistent = persistent is not False and check_positive_int("persistent", persistent)
        self.mean_field = check_flag("mean_field", mean_field)
        if self.mean_field and self.persistent:
            raise ValueError(
                f"mean_field=True was given with persistent={persistent}; expected one of them: "
                "chains that go on are draws."
            )
        self.sparsity = sparsity
        if sparsity is not None:
            self.sparsity = check_between("sparsity", sparsity, 0, 1, ends="()")
        self.sparsity_cost = check_between("sparsity_cost", sparsity_cost, 0, math.inf, ends="[)")
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.penalties = []  # read by compile
        if self.kernel_regularizer is not None:
            self.penalties = [("weight", self.kernel_regularizer)]
        self.weight: Any = UninitializedParameter()  # Wᵀ, as torch's Linear has it
        self.visible_bias: Any = UninitializedParameter()
        self.hidden_bias = nn.Parameter(torch.zeros(self.hidden))
        self.chains: Tensor | None
        self.register_buffer("chains", None)
        self.built_shape: tuple[int | None, ...] | None = None
        if self.visible is not None:
            self.build_layers((self.visible,))

    @short_traceback
    def build(self, input_shape: Any) -> None:
        """Make the weights for rows of so many numbers: ``build((64,))``, or ``(None, 64)``."""
        shape = sample_shape(input_shape)
        if self.built_shape not in (None, shape):
            raise ValueError(
                f"build({input_shape!r:.80}) was called on an RBM of {self.visible} visible units; "
                "expected that shape, or a new RBM."
            )
        self.build_layers(shape)

    def build_layers(self, shape: tuple[int | None, ...]) -> None:
        """Make the weights, N(0, 0.01²) as Hinton (2010) advises, for samples of ``shape``."""
        if self.built_shape is not None:
            return
        if len(shape) != 1 or shape[0] is None:
            raise ValueError(
                f"an RBM was given samples of shape {shape}; expected rows of numbers, (N, units): "
                "write x.reshape(len(x), -1)."
            )
        self.visible = visible = shape[0]
        self.weight.materialize((self.hidden, visible))
        self.visible_bias.materialize((visible,))
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.visible_bias)
        if self.persistent:
            chains = torch.zeros(self.persistent, visible).to(self.weight)
            self.chains = (
                chains.normal_() if self.kind == "gaussian" else chains.uniform_().round_()
            )
        self.built_shape = (visible,)
        self.settle(shape)

    @property
    def layers(self) -> list[Any]:
        """The RBM itself, as the one layer that ``summary`` shows."""
        return [self]

    def extra_repr(self) -> str:
        return f"hidden={self.hidden}, visible={self.visible}, kind={self.kind!r}"

    # -- the model's formulas, on tensors ------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """p(h = 1 | x), ``(N, visible)`` -> ``(N, hidden)``."""
        self.build_layers(tuple(x.shape[1:]))
        return torch.sigmoid(F.linear(x, self.weight, self.hidden_bias))

    def visible_term(self, x: Tensor, bias: Tensor) -> Tensor:
        """What the energy has of x alone, negative: bᵀx, or −½‖x − b‖²; ``(N,)``."""
        if self.kind == "gaussian":
            return (x - bias).square().sum(1) / -2
        return (x * bias).sum(1)

    def free_energy_of(self, x: Tensor, activity: Tensor | None = None) -> Tensor:
        """F(x) of a batch, ``(N,)``, with gradients; ``activity`` is xW + d where it is known."""
        if activity is None:
            activity = self._activity(x)
        return -self.visible_term(x, self.visible_bias) - F.softplus(activity).sum(1)

    def _activity(self, x: Tensor) -> Tensor:
        # Mixed precision would leave the sum over units three digits.
        return F.linear(x, self.weight, self.hidden_bias).to(self.weight.dtype)

    def visible_mean(self, h: Tensor) -> Tensor:
        """E[x | h], ``(N, hidden)`` -> ``(N, visible)``."""
        activity = torch.addmm(self.visible_bias, h, self.weight)
        return activity if self.kind == "gaussian" else torch.sigmoid(activity)

    def draw_visible(self, activity: Tensor) -> Tensor:
        """x drawn for the activities b + Wh."""
        if self.kind == "gaussian":
            return activity + torch.randn_like(activity)
        return draw(torch.sigmoid(activity))

    def visible_given(self, h: Tensor) -> Tensor:
        """x drawn given h, ``(N, hidden)`` -> ``(N, visible)``."""
        return self.draw_visible(torch.addmm(self.visible_bias, h, self.weight))

    # -- training ------------------------------------------------------------------------------

    def check_inputs(self, x: Tensor, what: str) -> None:
        """Refuse rows of another width, and what is no probability where units are binary."""
        if tuple(x.shape[1:]) != (self.visible,):
            raise ValueError(
                f"{what} has rows of shape {tuple(x.shape[1:])}; expected ({self.visible},), the "
                "RBM's visible units. Pictures: write x.reshape(len(x), -1)."
            )
        if self.kind == "bernoulli" and x.numel():
            low, high = (float(value) for value in torch.aminmax(x))
            if low < 0 or high > 1:
                raise ValueError(
                    f"{what} holds numbers from {low:g} to {high:g}; expected [0, 1], what binary "
                    "units can be: scale them, x / x.max(), or standardise them for "
                    "RBM(kind='gaussian')."
                )

    def compute_loss(self, x: Any, y: Any, sample_weight: Tensor | None = None) -> tuple:
        """F(x) − F(x′) in training, the reconstruction error in evaluation; see the class."""
        activity = self._activity(x)
        energy = self.free_energy_of(x, activity)
        hidden = torch.sigmoid(activity)
        with torch.no_grad():
            error = self._reconstruction_error(x, hidden)
        loss = error
        if self.training:
            with torch.no_grad():
                start = hidden if self.chains is None else self(self.chains)
                for _ in range(self.k - 1):
                    start = self(self.visible_given(draw(start)))
                last = self.visible_mean if self.mean_field else self.visible_given
                samples = last(draw(start))
                if self.chains is not None:
                    self.chains.copy_(samples)
            of_model = self.free_energy_of(samples)
            loss = energy - (of_model if self.chains is None else of_model.mean())
        parts = {"reconstruction_error": error, "free_energy": energy.detach()}
        if sample_weight is not None:
            loss = loss * sample_weight
            parts = {name: part * sample_weight for name, part in parts.items()}
        loss = loss.mean()
        parts = {name: part.mean() for name, part in parts.items()}
        if self.training:
            if self.sparsity is not None:
                sparse = regularizers.KLSparsity(self.sparsity, self.sparsity_cost)
                parts["sparsity_loss"] = sparse(hidden) / len(hidden)
                loss = loss + parts["sparsity_loss"]
            loss = loss + self.penalty()
        return loss, hidden, parts

    def _reconstruction_error(self, x: Tensor, hidden: Tensor) -> Tensor:
        activity = torch.addmm(self.visible_bias, hidden, self.weight)
        if self.kind == "gaussian":
            return (x - activity).square().sum(1) / 2
        return F.binary_cross_entropy_with_logits(activity, x, reduction="none").sum(1)

    def to_torch(self) -> nn.Module:
        """x -> p(h = 1 | x) as torch's ``Linear`` and ``Sigmoid``, the same to the bit."""
        return Sequential([dense(self.weight, self.hidden_bias)]).to_torch()

    # -- what it is asked afterwards -----------------------------------------------------------

    @short_traceback
    def transform(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """The hidden probabilities p(h = 1 | x), ``(N, hidden)``, as ``predict`` gives them.

        Args:
            x, batch_size: as in ``predict``.
        """
        return self.map_rows(self, x, batch_size)

    @short_traceback
    def free_energy(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """F(x) = −log Σ_h exp(−E(x, h)) of each row in nats, ``(N,)``; log p(x) = −F(x) − log Z.

        Args:
            x, batch_size: as in ``predict``.
        """
        return self.map_rows(self.free_energy_of, x, batch_size)

    @short_traceback
    def gibbs(self, x: Any, steps: int = 1, mean: bool = False) -> np.ndarray:
        """Rows drawn by block Gibbs sampling from ``x``: h given x, x given h, ``steps`` times.

        Args:
            x: as in ``predict``, where the chains start.
            steps: Gibbs steps.
            mean: give E[x | h] of the last step, which makes better pictures, instead of a draw.

        Returns:
            ``(N, visible)``.
        """
        check_positive_int("steps", steps)
        check_flag("mean", mean)
        return self.map_rows(lambda rows: self._gibbs(rows, steps, mean), x)

    @short_traceback
    def sample(self, n: int, steps: int = 1000, mean: bool = False) -> np.ndarray:
        """``n`` rows drawn from the model, each the end of a Gibbs chain of its own.

        The chains start from the persistent ones, if there are, else from the visible biases.

        Args:
            n: number of rows.
            steps: Gibbs steps; too few stay near the start.
            mean: as in ``gibbs``.

        Returns:
            ``(n, visible)``.
        """
        check_positive_int("n", n)
        check_positive_int("steps", steps)
        check_flag("mean", mean)
        require_built(self, "sample")
        with torch.inference_mode():
            if self.chains is None:
                start = self.draw_visible(self.visible_bias.expand(n, -1))
            else:
                start = self.chains[torch.arange(n, device=self.device) % len(self.chains)]
            return self._gibbs(start, steps, mean).float().cpu().numpy()

    def _gibbs(self, x: Tensor, steps: int, mean: bool = False) -> Tensor:
        for _ in range(steps - 1 if mean else steps):
            x = self.visible_given(draw(self(x)))
        return self.visible_mean(draw(self(x))) if mean else x

    @short_traceback
    def log_partition(
        self, method: str = "auto", chains: int = 100, steps: int = 1000, x: Any = None
    ) -> float:
        """log Z in nats.

        Exact by enumeration of the smaller side (the hidden one of a Gaussian RBM) up to 20 units,
        else an estimate by annealed importance sampling from a base-rate model (Salakhutdinov and
        Murray 2008), whose mean Z is right and whose log is rather low.

        Args:
            method: ``"exact"``, ``"annealed"``, or ``"auto"``: exact where that is possible.
            chains: annealed chains; more make the estimate steadier.
            steps: temperatures between the base-rate model and this one; more make it better.
            x: rows whose means are the base rates; 100 Gibbs steps of the model by default.

        Raises:
            ValueError: ``"exact"`` for more than 20 units on both sides.
        """
        methods = {"auto": "auto", "exact": "exact", "annealed": "annealed"}
        method = look_up("method", method, methods)
        check_positive_int("chains", chains)
        check_positive_int("steps", steps)
        require_built(self, "log_partition")
        units = fewer_units(self)
        if method == "exact" and units > MOST_UNITS:
            raise ValueError(
                f"log_partition('exact') was asked of {tuple(self.weight.shape)} units; expected "
                f"at most {MOST_UNITS} to enumerate: write log_partition('annealed')."
            )
        with torch.inference_mode():
            if method == "exact" or (method == "auto" and units <= MOST_UNITS):
                return exact_log_partition(self).item()
            if x is None:
                rates = torch.from_numpy(self.sample(chains, 100, mean=True))
            else:
                rates = torch.from_numpy(self.map_rows(lambda rows: rows, x))
            base = rates.mean(0).to(self.weight)
            if self.kind == "bernoulli":
                base = base.clamp(0.02, 0.98).logit()
            return annealed_log_partition(self, base, chains, steps)

    @short_traceback
    def log_likelihood(
        self, x: Any, log_partition: float | None = None, batch_size: int | None = None
    ) -> np.ndarray:
        """log p(x) = −F(x) − log Z of each row, in nats, ``(N,)``.

        Args:
            x: as in ``predict``; zeros and ones for binary units.
            log_partition: log Z where it is known; ``self.log_partition()`` by default.
            batch_size: as in ``predict``.

        Raises:
            ValueError: grey values, which have no probability under binary units.
        """

        def of_rows(rows: Tensor) -> Tensor:
            if self.kind == "bernoulli" and bool(((rows != 0) & (rows != 1)).any()):
                raise ValueError(
                    "log_likelihood was given numbers between 0 and 1, which binary units never "
                    "are; expected zeros and ones: write x > 0.5, or a draw, rng.random(x.shape) "
                    "< x."
                )
            return -self.free_energy_of(rows)

        unnormalised = self.map_rows(of_rows, x, batch_size)
        log_z = self.log_partition() if log_partition is None else float(log_partition)
        return unnormalised - log_z


def dense(weight: Tensor, bias: Tensor, activation: str | None = "sigmoid") -> Dense:
    """A layer with copies of ``weight`` (out, in) and ``bias``, of their dtype, on their device."""
    layer = Dense(weight.shape[0], activation=activation, kernel_initializer="zeros")
    layer.build((None, weight.shape[1]))
    layer.to(weight)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer
