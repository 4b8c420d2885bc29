"""The deep Kalman filter: sequences driven by a hidden state, trained by a bound."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from easydl.errors import check_flag, check_positive_int, did_you_mean, short_traceback
from easydl.layers import GRU, Dense
from easydl.model import Model, sample_shape
from easydl.saving import require_built
from easydl.sequential import Sequential
from easydl.training.batches import rows_that_fit
from easydl.variational import LIKELIHOODS, check_unit_interval, mean_of, mean_of_rows, misfit

__all__ = ["DeepKalmanFilter"]


class DeepKalmanFilter(Model):
    """A state-space model with neural networks in it (Krishnan, Shalit and Sontag 2015).

    A hidden state moves by a network G with noise S, and a network F shows it::

        z₁ ~ N(m, s),   z_t ~ N(G(z_{t−1}, u_{t−1}), S(z_{t−1}, u_{t−1})),   x_t ~ p(x | F(z_t))

    Training minimises the negative evidence lower bound in nats per sequence: summed over time and
    features, mean over the sequences (equation 6 there)::

        loss = reconstruction_loss + kl_loss
        reconstruction_loss = −Σ log p(x_t | z_t),  z drawn from q
        kl_loss = KL(q(z₁ | x) ‖ p(z₁)) + Σ KL(q(z_t | z_{t−1}, x) ‖ p(z_t | z_{t−1}, u_{t−1}))

    q sees the past and the future: a bidirectional GRU reads the whole sequence and gives for each
    step a Gaussian factor in z_t, by which the transition is multiplied (the way of Johnson et al.
    2016)::

        q(z_t | z_{t−1}, x) ∝ p(z_t | z_{t−1}, u_{t−1}) · exp(a_t z_t − ½ b_t z_t²),  b_t > 0

    In the linear Gaussian model with one latent dimension the exact posterior has this form. S is
    diagonal. The model trains without targets and without a loss: ``compile("adam")``, ``fit(x)``.
    The bound needs one drawn path a sequence, in evaluation too, from torch's global generator;
    ``predict`` draws nothing: it gives the means of x along the path of mean states.

    Args:
        latent: numbers in the state z.
        hidden: units of the hidden layers of G, S and F, and of the GRU in each direction.
        likelihood: ``"gaussian"``, with a noise variance learnt for each feature, or
            ``"bernoulli"`` for numbers in [0, 1].
        linear: G and F affine and S constant: the model of the Kalman filter. Only the inference
            network has hidden units then.
        controls: the last so many features of each row are u, known inputs that are not modelled:
            ``fit(np.concatenate([x, u], axis=2))``.
        name: shown by ``summary``.

    Shape:
        (N, T, features + controls); T may change from call to call.

    Raises:
        ValueError: an argument out of range; data of another shape, or that the likelihood has no
            number for, before the first step.

    Example:
        >>> import easydl as dl
        >>> dl.seed(0)
        >>> model = dl.DeepKalmanFilter(latent=2, hidden=8)
        >>> model.compile("adam")
        >>> history = model.fit(torch.randn(6, 5, 3), verbose=0)
        >>> list(history.history)
        ['loss', 'reconstruction_loss', 'kl_loss']
        >>> model.forecast(torch.randn(2, 5, 3), steps=4).shape
        (2, 4, 3)
    """

    own_loss = "a bound of the likelihood"
    emission: Sequential
    output_log_variance: nn.Parameter

    @short_traceback
    def __init__(
        self,
        latent: int,
        hidden: int = 64,
        likelihood: str = "gaussian",
        linear: bool = False,
        controls: int = 0,
        *,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if likelihood not in LIKELIHOODS:
            raise ValueError(did_you_mean("likelihood", likelihood, LIKELIHOODS))
        self.likelihood = likelihood
        self.latent = check_positive_int("latent", latent)
        self.hidden = check_positive_int("hidden", hidden)
        self.linear = check_flag("linear", linear)
        self.controls = check_positive_int("controls", controls, minimum=0)
        self.built_for: tuple[int | None, ...] | None = None
        known = self.latent + self.controls
        self.initial_mean = nn.Parameter(torch.zeros(self.latent))
        self.initial_log_variance = nn.Parameter(torch.zeros(self.latent))
        self.dynamics = Dense(self.latent, kernel_initializer="identity", input_shape=(known,))
        self.dynamics.build((None, known))
        self.transition_log_variance = nn.Parameter(torch.full((self.latent,), -2.0))
        if not self.linear:
            self.transition = Sequential(
                [Dense(self.hidden, "tanh", input_shape=(known,)), Dense(2 * self.latent)]
            )
        self.inference = GRU(self.hidden, return_sequences=True, bidirectional=True)
        self.message = Dense(2 * self.latent, input_shape=(2 * self.hidden,))
        self.message.build((None, None, 2 * self.hidden))

    # -- shapes ------------------------------------------------------------------------------

    @short_traceback
    def build(self, input_shape: Any) -> None:
        """Fix the number of features: ``build((T, F))``, or ``build((None, T, F))``; T is open."""
        self.build_layers(sample_shape(input_shape))

    def build_layers(self, shape: tuple[int | None, ...], first: bool = True) -> None:
        """Make what depends on the number of features.

        Raises:
            ValueError: samples that are no sequences, or have no feature beside the controls.
        """
        self._check_shape(shape, f"data with samples of shape {tuple(shape)}")
        if self.built_for is not None:
            return
        width = shape[-1]
        if width is None or width <= self.controls:
            raise ValueError(
                f"samples of shape {tuple(shape)} were given with controls={self.controls}; "
                "expected (T, F) with at least one feature more than controls."
            )
        features = width - self.controls
        layers: list[Any] = [Dense(features)]
        if not self.linear:
            layers.insert(0, Dense(self.hidden, "tanh"))
        self.emission = Sequential(layers)
        self.emission.build((self.latent,))
        if self.likelihood == "gaussian":
            self.output_log_variance = nn.Parameter(torch.zeros(features))
        self.inference.build((None, None, width))
        self.built_for = (None, *shape)
        self.settle(shape)

    def _check_shape(self, shape: tuple[int | None, ...], what: str) -> None:
        width = "F" if self.built_for is None else self.built_for[-1]
        if len(shape) != 2 or 0 in shape or (self.built_for and shape[-1] != width):
            advice = " A series of one feature: x[:, :, None]." if len(shape) == 1 else ""
            raise ValueError(
                f"a DeepKalmanFilter was given {what}; expected sequences (N, T, {width}), "
                f"T at least 1, the last {self.controls} features being controls.{advice}"
            )

    def check_inputs(self, x: Tensor, what: str) -> None:
        """Refuse rows of another shape, and for a Bernoulli likelihood values outside [0, 1]."""
        self._check_shape(tuple(x.shape[1:]), f"{what} of shape {tuple(x.shape)}")
        seen = self._split(x)[0]
        if self.likelihood == "bernoulli":
            check_unit_interval(seen, what)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Observations and controls, the latter of width 0 where there are none."""
        return x[..., : x.shape[-1] - self.controls], x[..., x.shape[-1] - self.controls :]

    # -- the generative model ----------------------------------------------------------------

    def _move(self, z: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(z_t | z_{t−1}, u_{t−1})."""
        before = torch.cat([z, u], -1) if self.controls else z
        mean, log_variance = self.dynamics(before), self.transition_log_variance.expand_as(z)
        if self.linear:
            return mean, log_variance
        change, scale = self.transition(before).chunk(2, -1)
        return mean + change, log_variance + scale

    def _start(self, rows: int) -> tuple[Tensor, Tensor]:
        return self.initial_mean.expand(rows, -1), self.initial_log_variance.expand(rows, -1)

    def _mean(self, z: Tensor) -> Tensor:
        """The mean of p(x_t | z_t)."""
        return mean_of(self, self.emission(z))

    # -- inference ---------------------------------------------------------------------------

    def _messages(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The factors a and b > 0 of every step, each (N, T, latent)."""
        whole = self.initial_mean.dtype  # mixed precision would round the KL terms to three digits
        pull, precision = self.message(self.inference(x)).to(whole).chunk(2, -1)
        return pull, nn.functional.softplus(precision)

    def _paths(
        self, pull: Tensor, precision: Tensor, u: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A path of q for each row, with ``noise`` (N, T, latent), or that of means for ``None``.

        Returns:
            z; how far q's mean is from the transition's, in standard deviations of the latter; q's
            variance as a share of the transition's. Each (N, T, latent).
        """
        columns = [part.unbind(1) for part in (pull, precision, u)]  # slices cost more backward
        z, steps = columns[0][0], []
        for t, (a, b, _) in enumerate(zip(*columns)):
            if t == 0:
                mean, log_variance = self._start(len(z))
            else:
                mean, log_variance = self._move(z, columns[2][t - 1])
            variance = log_variance.exp()
            share = 1 / (1 + variance * b)
            shift = share * variance * (a - b * mean)
            z = mean + shift
            if noise is not None:
                z = z + (variance * share).sqrt() * noise[:, t]
            steps.append((z, shift / variance.sqrt(), share))
        z, shift, share = (torch.stack(column, 1) for column in zip(*steps))
        return z, shift, share

    def _terms(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """−log p(x_t | z_t) and KL terms of one drawn path a sequence, and the outputs."""
        seen, u = self._split(x)
        pull, precision = self._messages(x)
        z, shift, share = self._paths(pull, precision, u, torch.randn_like(pull))
        kl = 0.5 * (share + shift.square() - 1 - share.log())
        outputs = self.emission(z)
        return misfit(self, outputs, seen), kl, outputs

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """The means of x_t along the path of mean states, (N, T, F)."""
        return self._mean(self._mean_path(x))

    def _mean_path(self, x: Tensor) -> Tensor:
        return self._paths(*self._messages(x), self._split(x)[1], None)[0]

    def compute_loss(self, x: Tensor, y: Any = None, sample_weight: Tensor | None = None) -> tuple:
        """The negative bound of a batch, in nats per sequence; ``y`` is passed over.

        Returns:
            ``(loss, outputs, parts)``: what ``emission`` gives for a drawn path;
            ``reconstruction_loss`` and ``kl_loss``.
        """
        misfits, kl, outputs = self._terms(x)
        parts = {
            "reconstruction_loss": mean_of_rows(misfits, sample_weight),
            "kl_loss": mean_of_rows(kl, sample_weight),
        }
        return parts["reconstruction_loss"] + parts["kl_loss"], outputs, parts

    # -- what it is for ----------------------------------------------------------------------

    @short_traceback
    def bound(self, x: Any, samples: int = 1, batch_size: int | None = None) -> np.ndarray:
        """The evidence lower bound of every sequence, in nats: the mean over ``samples`` paths.

        Args:
            x, batch_size: as in ``predict``.
            samples: paths a sequence, drawn by torch's global generator.

        Returns:
            NumPy array ``(N,)``.
        """
        check_positive_int("samples", samples)

        def mean_bound(rows: Tensor) -> Tensor:
            parts = [self._terms(rows)[:2] for _ in range(samples)]
            return -torch.stack([m.sum((1, 2)) + kl.sum((1, 2)) for m, kl in parts]).mean(0)

        return self.map_rows(mean_bound, x, batch_size)

    @short_traceback
    def log_likelihood(
        self, x: Any, samples: int = 100, batch_size: int | None = None
    ) -> np.ndarray:
        """log p(x) of every sequence by importance sampling, in nats (Burda et al. 2016)::

            log 1/k Σ p(x | zᵢ) p(zᵢ) / q(zᵢ | x),  paths z₁ … z_k drawn from q

        In the mean it lies below the true value, and rises to it with k.

        Args:
            x, batch_size: as in ``predict``.
            samples: k, paths a sequence, drawn by torch's global generator.

        Returns:
            NumPy array ``(N,)``.
        """
        check_positive_int("samples", samples)
        return self.map_rows(lambda rows: self._log_mean_weight(rows, samples), x, batch_size)

    def _log_mean_weight(self, x: Tensor, samples: int) -> Tensor:
        seen, u = self._split(x)
        pull, precision = self._messages(x)
        at_once = max(1, rows_that_fit(self, pull[0].numel()) // len(x))
        total = pull.new_full((len(x),), -math.inf)
        for start in range(0, samples, at_once):
            count = min(at_once, samples - start)
            many, strong, known = (part.repeat(count, 1, 1) for part in (pull, precision, u))
            noise = torch.randn_like(many)
            z, shift, share = self._paths(many, strong, known, noise)
            # log p(z_t | z_{t−1}) − log q(z_t | z_{t−1}, x), whose constants cancel
            away = shift + share.sqrt() * noise
            ratio = 0.5 * (noise.square() + share.log() - away.square())
            fits = -misfit(self, self.emission(z), seen.repeat(count, 1, 1))
            weights = (fits.sum((1, 2)) + ratio.sum((1, 2))).reshape(count, len(x))
            total = torch.logaddexp(total, weights.logsumexp(0))
        return total - math.log(samples)

    @short_traceback
    def encode(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """The states of every sequence, smoothed: each q's mean, from the mean of the one before.

        Args:
            x, batch_size: as in ``predict``.

        Returns:
            NumPy array ``(N, T, latent)``; the last step has seen no future: it is filtered.
        """
        return self.map_rows(self._mean_path, x, batch_size)

    @short_traceback
    def sample(self, n: int, steps: int, noise: bool = False, controls: Any = None) -> np.ndarray:
        """New sequences: states drawn from the start on.

        Args:
            n: how many.
            steps: T.
            noise: whether to draw from p(x_t | z_t), too; its mean when ``False``.
            controls: ``(n, steps, controls)``, where the model has some.

        Returns:
            NumPy array ``(n, steps, F)``; drawn by torch's global generator.
        """
        require_built(self, "sample")
        rows, steps = check_positive_int("n", n), check_positive_int("steps", steps)
        u = self._ready_controls(controls, rows, steps)
        with torch.inference_mode():
            mean, log_variance = self._start(rows)
            z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            x = torch.cat([self._mean(z)[:, None], self._roll(z, u, steps - 1)], 1)
            if noise and self.likelihood == "bernoulli":
                x = torch.bernoulli(x)
            elif noise:
                x = x + (0.5 * self.output_log_variance).exp() * torch.randn_like(x)
            return x.float().cpu().numpy()

    @short_traceback
    def forecast(
        self,
        x: Any,
        steps: int,
        samples: int = 100,
        controls: Any = None,
        return_std: bool = False,
    ) -> Any:
        """What comes after every sequence: paths from its filtered state on, and their mean.

        Args:
            x: as in ``predict``.
            steps: how far.
            samples: paths a sequence, drawn by torch's global generator.
            controls: of the steps to come, ``(N, steps, controls)``, where the model has some.
            return_std: the standard deviation of an observation, too: paths and noise.

        Returns:
            NumPy array ``(N, steps, F)``, or two with ``return_std``.
        """
        steps, samples = check_positive_int("steps", steps), check_positive_int("samples", samples)

        def last_states(rows: Tensor) -> Tensor:
            """(n, samples · latent + controls): drawn states and the controls of the last step."""
            u = self._split(rows)[1]
            pull, precision, known = (
                part.repeat_interleave(samples, 0) for part in (*self._messages(rows), u)
            )
            z = self._paths(pull, precision, known, torch.randn_like(pull))[0][:, -1]
            return torch.cat([z.reshape(len(rows), -1), u[:, -1]], 1)

        states = torch.from_numpy(self.map_rows(last_states, x)).to(self.initial_mean)
        later = self._ready_controls(controls, len(states), steps)
        z, now = self._split(states)
        u = torch.cat([now[:, None], later], 1)
        means, deviations = [], []
        at_once = max(1, rows_that_fit(self, self.hidden) // samples)
        with torch.inference_mode():
            for rows, known in zip(z.split(at_once), u.split(at_once)):
                start = rows.reshape(-1, self.latent)
                paths = self._roll(start, known.repeat_interleave(samples, 0), steps)
                paths = paths.reshape(len(rows), samples, *paths.shape[1:])
                means.append(paths.mean(1))
                variance = paths.var(1, correction=0)
                if self.likelihood == "gaussian":
                    variance = variance + self.output_log_variance.exp()
                else:
                    variance = means[-1] * (1 - means[-1])
                deviations.append(variance.sqrt())
        mean, deviation = (torch.cat(c).float().cpu().numpy() for c in (means, deviations))
        return (mean, deviation) if return_std else mean

    def _roll(self, z: Tensor, u: Tensor, steps: int) -> Tensor:
        """Means of x for ``steps`` steps after the states ``z``, along drawn paths."""
        path = [z]
        for t in range(steps):
            mean, log_variance = self._move(path[-1], u[:, t])
            path.append(mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
        return self._mean(torch.stack(path, 1)[:, 1:])

    def _ready_controls(self, controls: Any, rows: int, steps: int) -> Tensor:
        shape = (rows, steps, self.controls)
        given = np.zeros(shape) if controls is None and not self.controls else controls
        if given is None or np.shape(given) != shape:
            raise ValueError(
                f"controls of shape {None if given is None else np.shape(given)} were given; "
                f"expected {shape}: one row of controls for each of the {steps} steps."
            )
        u = torch.as_tensor(given, dtype=self.initial_mean.dtype, device=self.device)
        if not bool(torch.isfinite(u).all()):
            raise ValueError("controls holds nan or inf; expected finite numbers.")
        return u
