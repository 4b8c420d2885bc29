"""Variational autoencoders: Gaussian codes, trained by the evidence lower bound."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easydl.errors import check_between, check_positive_int, did_you_mean, short_traceback
from easydl.layers import Dense, Flatten, Reshape
from easydl.layers.base import build
from easydl.model import Model, sample_shape
from easydl.saving import require_built
from easydl.sequential import Sequential
from easydl.training.batches import rows_that_fit
from easydl.training.heads import ANY, REACH, ending_of
from easydl.training.network import without_trace

__all__ = ["VAE"]

LIKELIHOODS = ("bernoulli", "gaussian")


class VAE(Model):
    """A variational autoencoder (Kingma and Welling 2014; Rezende et al. 2014).

    The encoder gives a Gaussian over codes, q(z | x), the decoder a distribution over data,
    p(x | z), and a code of the prior N(0, I) makes new data. Training minimises the negative
    evidence lower bound, in nats per sample (summed over features, mean over rows)::

        loss = reconstruction_loss + beta · kl_loss
        reconstruction_loss = −log p(x | z),  z = mean + exp(½ log_variance) · ε,  ε ~ N(0, I)
        kl_loss = KL(q(z | x) ‖ N(0, I)) = ½ Σ (mean² + exp(log_variance) − 1 − log_variance)

    Both parts are in the history. ``compile`` takes no loss; ``fit(x)`` no targets, and labels that
    a data source has are passed over. Warm-up and free bits shape training alone: ``val_loss`` and
    ``evaluate`` are without them, so that epochs can be compared.

    Each loss needs one drawn code a row, in evaluation too, from torch's global generator: two
    calls of ``evaluate`` differ by Monte-Carlo error, unless ``easydl.seed(…)`` stands before each.
    ``predict`` draws nothing: it reconstructs from the mean code.

    Args:
        encoder: layers, without those for mean and log-variance: two Dense layers of ``latent``
            units are added, behind a flattening. ``[]`` makes the encoder linear.
        decoder: layers from codes ``(N, latent)`` to the inputs' shape. For ``"bernoulli"`` the
            last may have a sigmoid or nothing; training uses the logits either way.
        latent: numbers in a code.
        likelihood: ``"bernoulli"`` for inputs in [0, 1] (a density for 0 and 1 alone), or
            ``"gaussian"`` for any, with the decoder's output as mean.
        beta: weight of the KL term; above 1 for codes that are easier to tell apart (Higgins et
            al. 2017), when the loss is no bound of the likelihood any more.
        kl_warmup: training batches over which that weight grows linearly from 0 to ``beta`` (Bowman
            et al. 2016); counted in the buffer ``kl_steps``, so that a saved model goes on.
        free_bits: nats for each latent dimension below which its KL, the mean over the batch, is
            not pushed (Kingma et al. 2016).
        variance: of the Gaussian likelihood, one for all features. ``None`` learns it, from 1 on,
            as ``exp(output_log_variance)``; a number keeps it.
        name: shown by ``summary``.

    Raises:
        ValueError: an argument out of range; a decoder that does not give the inputs' shape, or
            ends in another activation than the likelihood allows; data that the likelihood has no
            number for, before the first step.

    Example:
        >>> import easydl as dl
        >>> dl.seed(0)
        >>> vae = dl.VAE([dl.Dense(16, "relu")], [dl.Dense(16, "relu"), dl.Dense(8)], latent=2)
        >>> vae.compile("adam")
        >>> history = vae.fit(torch.eye(8), epochs=2, verbose=0)
        >>> list(history.history)
        ['loss', 'reconstruction_loss', 'kl_loss']
        >>> vae.sample(3).shape
        (3, 8)
    """

    own_loss = "the evidence lower bound"
    kl_steps: Tensor
    output_log_variance: Tensor

    @short_traceback
    def __init__(
        self,
        encoder: Iterable[Any],
        decoder: Iterable[Any],
        latent: int = 20,
        likelihood: str = "bernoulli",
        beta: float = 1.0,
        kl_warmup: int = 0,
        free_bits: float = 0.0,
        variance: float | None = None,
        *,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if likelihood not in LIKELIHOODS:
            raise ValueError(did_you_mean("likelihood", likelihood, LIKELIHOODS))
        if variance is not None and likelihood != "gaussian":
            raise ValueError(
                f"variance={variance!r:.40} was given with likelihood={likelihood!r}, which has "
                "none; expected likelihood='gaussian'."
            )
        self.latent = check_positive_int("latent", latent)
        self.likelihood = likelihood
        self.beta = check_between("beta", beta, 0, math.inf, ends="[)")
        self.kl_warmup = check_positive_int("kl_warmup", kl_warmup, minimum=0)
        self.free_bits = check_between("free_bits", free_bits, 0, math.inf, ends="[)")
        self.variance = variance
        self.built_shape: tuple[int | None, ...] | None = None
        self._ends_in_sigmoid: bool | None = None  # known at the first use
        self.reach = ANY  # of the decoder's last activation
        self.encoder = encoder if isinstance(encoder, Sequential) else Sequential(encoder)
        self.mean = Dense(self.latent, name="mean")
        self.log_variance = Dense(self.latent, name="log_variance")
        self.decoder = decoder if isinstance(decoder, Sequential) else Sequential(decoder)
        if not len(self.decoder):
            raise ValueError("decoder=[] was given; expected layers, for example [Dense(64)].")
        if self.kl_warmup:
            self.register_buffer("kl_steps", torch.tensor(0))
        if likelihood == "gaussian" and variance is None:
            self.output_log_variance = nn.Parameter(torch.tensor(0.0))
        elif likelihood == "gaussian":
            self.variance = check_between("variance", variance, 0, math.inf, ends="()")
            self.register_buffer("output_log_variance", torch.tensor(math.log(self.variance)))
        if self.encoder.given_input_shape is not None:
            self.build_layers(self.encoder.given_input_shape)

    @property
    def layers(self) -> list[Any]:
        """The encoder's layers, those of mean and log-variance, the decoder's."""
        return [*self.encoder.layers, self.mean, self.log_variance, *self.decoder.layers]

    # -- shapes ------------------------------------------------------------------------------

    @short_traceback
    def build(self, input_shape: Any) -> None:
        """Fix the shapes: ``build((64,))``, or Keras's ``build((None, 64))``."""
        shape = sample_shape(input_shape)
        if self.built_shape is not None:
            self._check_shape(shape, f"build({input_shape!r:.80})")
        self.build_layers(shape)

    def build_layers(self, shape: tuple[int | None, ...], first: bool = True) -> None:
        """Build encoder, heads and decoder for samples of ``shape``.

        Raises:
            ValueError: an open size, or a decoder that does not fit.
        """
        if self.built_shape is not None:
            return
        if None in shape:
            raise ValueError(
                f"a VAE was given the open input shape {shape}; expected whole sizes, which its "
                "codes are made from."
            )
        self.encoder.build(shape)
        inner = self.encoder.output_shape
        assert inner is not None
        for head in (self.mean, self.log_variance):
            build(head, (None, math.prod(size or 1 for size in inner[1:])))
        self.decoder.build_layers((self.latent,), first=False)
        check_decoder(self, shape)
        self.built_shape = tuple(shape)
        self.settle(shape)

    def _check_shape(self, shape: tuple[int | None, ...], what: str) -> None:
        if shape != self.built_shape:
            raise ValueError(
                f"{what} has samples of shape {shape}, but the VAE is built for "
                f"{self.built_shape}; expected that shape, or a new model."
            )

    def check_inputs(self, x: Tensor, what: str) -> None:
        """Refuse rows of another shape, and for a Bernoulli likelihood values outside [0, 1]."""
        if self.built_shape is not None:
            self._check_shape(tuple(x.shape[1:]), what)
        if self.likelihood == "bernoulli":
            check_unit_interval(x, what)
        else:
            check_reach(self, x, what)

    # -- the two networks --------------------------------------------------------------------

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each ``(N, latent)``, as tensors."""
        inner = self.encoder(x).flatten(1)
        whole = self.mean.weight.dtype  # mixed precision would round the KL term to three digits
        return self.mean(inner).to(whole), self.log_variance(inner).to(whole)

    def likelihood_mean(self, z: Tensor) -> Tensor:
        """The mean of p(x | z), as a tensor: probabilities for a Bernoulli likelihood."""
        return mean_of(self, decoded(self, z))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """The reconstruction from the mean code: the mean of p(x | z)."""
        return self.likelihood_mean(self.posterior(x)[0])

    def to_torch(self) -> nn.Module:
        """x -> its reconstruction from the mean code, as plain torch layers; equal to the bit."""
        require_built(self, "to_torch")
        layers = [*self.encoder.layers, Flatten(), self.mean, *self.decoder.layers]
        if self.likelihood == "bernoulli" and not self._ends_in_sigmoid:
            layers.append(nn.Sigmoid())
        return Sequential(layers).to_torch().train(self.training)

    # -- the loss ----------------------------------------------------------------------------

    def compute_loss(self, x: Tensor, y: Any = None, sample_weight: Tensor | None = None) -> tuple:
        """The negative evidence lower bound of a batch, in nats per sample; ``y`` is passed over.

        Returns:
            ``(loss, outputs, parts)``: the decoder's outputs for one drawn code a row (logits for a
            Bernoulli likelihood); ``reconstruction_loss`` and ``kl_loss``, the latter without
            ``beta``, warm-up or free bits.
        """
        mean, log_variance = self.posterior(x)
        outputs = decoded(self, draw(mean, log_variance))
        terms = misfit(self, outputs, x)
        kl = kl_divergence(mean, log_variance)
        parts = {
            "reconstruction_loss": mean_of_rows(terms, sample_weight),
            "kl_loss": mean_of_rows(kl, sample_weight),
        }
        loss = parts["reconstruction_loss"] + self._kl_penalty(kl, parts["kl_loss"], sample_weight)
        state = self._compiled
        if state is not None and (state.penalties or state.active):
            loss = loss + self.penalty()
        return loss, outputs, parts

    def _kl_penalty(self, kl: Tensor, kl_loss: Tensor, weight: Tensor | None) -> Tensor:
        """The KL term of the loss; ``kl`` is ``(N, latent)``."""
        if not self.training:
            return self.beta * kl_loss
        if self.free_bits:
            by_dimension = (kl if weight is None else kl * weight[:, None]).mean(0)
            kl_loss = by_dimension.clamp(min=self.free_bits).sum()
        if not self.kl_warmup:
            return self.beta * kl_loss
        factor = self.beta * (self.kl_steps / self.kl_warmup).clamp(max=1)
        self.kl_steps.add_(1)
        return factor * kl_loss

    # -- what it is for ----------------------------------------------------------------------

    @short_traceback
    def encode(self, x: Any, batch_size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and log-variance of q(z | x) for every row.

        Args:
            x, batch_size: as in ``predict``.

        Returns:
            two NumPy arrays ``(N, latent)``; the first is what to plot or to classify by.
        """
        mean, log_variance = self.map_rows(self.posterior, x, batch_size)
        return mean, log_variance

    @short_traceback
    def decode(self, z: Any, batch_size: int | None = None) -> np.ndarray:
        """The mean of p(x | z) for every code: probabilities for a Bernoulli likelihood.

        Args:
            z: codes ``(N, latent)``.
            batch_size: rows at a time; chosen by the library by default.

        Returns:
            NumPy array ``(N, …)`` of the inputs' shape.
        """
        require_built(self, "decode")
        return self.decoder.map_rows(self.likelihood_mean, z, batch_size)

    @short_traceback
    def sample(self, n: int, noise: bool = False) -> np.ndarray:
        """New data: ``n`` codes of the prior N(0, I), decoded.

        Args:
            n: how many.
            noise: whether to draw from p(x | z), too, as a sample of the model is; its mean, which
                looks better, when ``False``.

        Returns:
            NumPy array ``(n, …)``; drawn by torch's global generator.
        """
        means = self.decode(torch.randn(check_positive_int("n", n), self.latent))
        return observed(self, means) if noise else means

    @short_traceback
    def reconstruct(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """Every row encoded and decoded again, from the mean code; what ``predict`` gives.

        Args:
            x, batch_size: as in ``predict``.
        """
        return self.map_rows(self.forward, x, batch_size)

    @short_traceback
    def interpolate(self, a: Any, b: Any, steps: int = 8) -> np.ndarray:
        """What lies between two samples: points on the line between their mean codes, decoded.

        Args:
            a, b: one sample each, or as many rows each.
            steps: points on the line, both ends among them; 2 or more.

        Returns:
            NumPy array ``(steps, …)``, or ``(N, steps, …)`` for rows.
        """
        require_built(self, "interpolate")
        check_positive_int("steps", steps, minimum=2)
        ends = [value if isinstance(value, Tensor) else np.asarray(value) for value in (a, b)]
        if ends[0].shape != ends[1].shape:
            raise ValueError(
                f"interpolate was given a of shape {tuple(ends[0].shape)} and b of shape "
                f"{tuple(ends[1].shape)}; expected the same."
            )
        single = ends[0].ndim == len(self.built_shape or ())
        first, last = (self.encode(end[None] if single else end)[0] for end in ends)
        share = np.linspace(0, 1, steps, dtype=first.dtype)[:, None]
        codes = (1 - share) * first[:, None] + share * last[:, None]
        decoded = self.decode(codes.reshape(-1, self.latent))
        decoded = decoded.reshape(len(first), steps, *decoded.shape[1:])
        return decoded[0] if single else decoded

    @short_traceback
    def log_likelihood(self, x: Any, samples: int = 100, batch_size: int | None = None) -> Any:
        """log p(x) of every row by importance sampling, in nats (Burda et al. 2016)::

            log 1/k Σ p(x | zᵢ) p(zᵢ) / q(zᵢ | x),  z₁ … zₖ drawn from q(z | x)

        In the mean it lies below the true value, and rises to it with k; with k = 1 it is the
        evidence lower bound. For a Bernoulli likelihood it is a log-probability where the data are
        0 and 1, not grey. As many codes are held at a time as rows in ``predict``.

        Args:
            x: as in ``predict``.
            samples: k, codes a row; 100 or more to report, drawn by torch's global generator.
            batch_size: rows at a time; chosen by the library by default.

        Returns:
            NumPy array ``(N,)``, float32.
        """
        check_positive_int("samples", samples)
        return self.map_rows(lambda rows: self._log_mean_weight(rows, samples), x, batch_size)

    def _log_mean_weight(self, x: Tensor, samples: int) -> Tensor:
        mean, log_variance = self.posterior(x)
        at_once = max(1, rows_that_fit(self, x[0].numel()) // len(x))
        total = torch.full_like(mean[:, 0], -math.inf)
        for start in range(0, samples, at_once):
            count = min(at_once, samples - start)
            noise = torch.randn(count, *mean.shape, dtype=mean.dtype, device=mean.device)
            z = mean + noise * (0.5 * log_variance).exp()
            outputs = decoded(self, z.flatten(0, 1))
            terms = misfit(self, outputs, x.repeat(count, *[1] * (x.dim() - 1)))
            fits = -terms.flatten(1).sum(1).reshape(count, len(x))
            # log p(z) − log q(z | x), whose constants cancel
            prior = 0.5 * (noise.square() + log_variance - z.square()).sum(-1)
            total = torch.logaddexp(total, (fits + prior).logsumexp(0))
        return total - math.log(samples)


def draw(mean: Tensor, log_variance: Tensor) -> Tensor:
    """One code a row from N(mean, exp(log_variance)), through which gradients flow."""
    return mean + torch.randn_like(mean) * (0.5 * log_variance).exp()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) ‖ N(0, 1)) of each number, in nats (Kingma, Welling 2014)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def mean_of_rows(terms: Tensor, weight: Tensor | None = None) -> Tensor:
    """``(N, …)`` summed over features, mean over rows; each row times its weight."""
    if weight is None:
        return terms.sum() / len(terms)
    return (terms.flatten(1).sum(1) * weight).mean()


def decoded(model: Any, codes: Tensor) -> Tensor:
    """The decoder's outputs for codes ``(n, …)``: for a Bernoulli likelihood logits, else means.

    ``model`` has ``decoder``, ``likelihood`` and ``_ends_in_sigmoid``, ``None`` until it is known.
    """
    if model._ends_in_sigmoid is None:
        activation = model.decoder.final_activation()
        model._ends_in_sigmoid = isinstance(activation, nn.Sigmoid)
    if model.likelihood == "bernoulli" and model._ends_in_sigmoid:
        return model.decoder(codes, logits=True)
    return model.decoder(codes)


def mean_of(model: Any, outputs: Tensor) -> Tensor:
    """The mean of p(x | z), for what ``decoded`` gives: of a Bernoulli likelihood probabilities."""
    return outputs.sigmoid() if model.likelihood == "bernoulli" else outputs


def misfit(model: Any, outputs: Tensor, x: Tensor) -> Tensor:
    """−log p(x | z) in nats, of each feature, for what ``decoded`` gives."""
    if model.likelihood == "bernoulli":
        return F.binary_cross_entropy_with_logits(outputs, x, reduction="none")
    log_variance = model.output_log_variance
    scaled = (x - outputs).square() * (-log_variance).exp()
    return 0.5 * (scaled + log_variance + math.log(2 * math.pi))


def observed(model: Any, means: np.ndarray) -> np.ndarray:
    """Data drawn from p(x | z), for its means."""
    if model.likelihood == "bernoulli":
        return torch.bernoulli(torch.from_numpy(means)).numpy()
    deviation = float(model.output_log_variance.detach().cpu().exp().sqrt())
    return means + deviation * torch.randn(means.shape).numpy()


def check_unit_interval(x: Tensor, what: str) -> None:
    """Refuse numbers outside [0, 1], for which a Bernoulli likelihood has no value."""
    if not x.numel():
        return
    low, high = (float(value) for value in torch.aminmax(x))
    if low < 0 or high > 1:
        scaled = f"{what.split()[0]} / {high:g}" if low >= 0 else "min-max scaling"
        raise ValueError(
            f"{what} holds values from {low:g} to {high:g}; a Bernoulli likelihood expects "
            f"0 to 1: write {scaled}, or likelihood='gaussian'."
        )


def last_activation(decoder: Sequential) -> nn.Module | None:
    """The activation that the outputs have passed last, if any."""
    shaping = (nn.Flatten, nn.Unflatten, Reshape)
    layers = [layer for layer in decoder if not isinstance(layer, shaping)]
    last: Any = layers[-1] if layers else None
    if isinstance(last, Sequential):
        return last_activation(last)
    own = type(last).__module__ in ("torch.nn.modules.activation", "easydl.layers.activation")
    return last if own else getattr(last, "activation", None)


def reach_of(activation: nn.Module | None) -> tuple[float, float]:
    """The least and the largest number that an activation gives, as far as it has bounds."""
    if activation is None or list(activation.parameters()):
        return ANY
    with torch.no_grad():
        low, high = torch.aminmax(activation(torch.linspace(-1e4, 1e4, 20001)[:, None]))
    return (float(low) if low > -100 else -math.inf, float(high) if high < 100 else math.inf)


def check_reach(model: Any, x: Tensor, what: str) -> None:
    """Refuse numbers that a Gaussian likelihood's decoder cannot have as means."""
    if model.reach != ANY and x.numel():
        low, high = (float(value) for value in torch.aminmax(x))
        if low < model.reach[0] or high > model.reach[1]:
            raise ValueError(
                f"{what} holds values from {low:g} to {high:g}, but the decoder's last activation "
                f"gives {model.reach[0]:g} to {model.reach[1]:g} only; expected numbers that it "
                "can reach: scale them, or leave the last layer without an activation."
            )


def check_decoder(model: Any, shape: tuple[int | None, ...]) -> None:
    """Refuse a built decoder that gives another shape, or ends as its likelihood does not allow."""
    given = (model.decoder.output_shape or ())[1:]
    if given != tuple(shape):
        sizes = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
        advice = f"make its last layer give {sizes}"
        if None not in given and math.prod(given) == math.prod(shape):  # type: ignore[arg-type]
            advice = f"put Reshape({sizes}) last" if len(shape) > 1 else "put Flatten() last"
        raise ValueError(
            f"the decoder gives samples of shape {given}, but the inputs have {sizes}; "
            f"expected the same: {advice}."
        )
    strict = model._is_strict
    if not strict:
        return
    activation = last_activation(model.decoder)
    model.reach = reach_of(activation)
    if model.likelihood != "bernoulli":
        return
    if model.reach != ANY and not isinstance(activation, nn.Sigmoid):
        raise ValueError(
            f"the decoder ends in {type(activation).__name__}, which gives {model.reach[0]:g} to "
            f"{model.reach[1]:g}, but a Bernoulli likelihood is trained on logits, any numbers; "
            "expected a sigmoid as the very last, or none: the library applies it."
        )
    with without_trace(model):
        codes = torch.randn(2, *model.decoder.built_shape, device=model.device)
        ending = ending_of(decoded(model, codes.to(model.mean.weight.dtype)))
    if ending in REACH:
        last = type(model.decoder[-1]).__name__
        raise ValueError(
            f"the decoder ends in a {ending} before or in its last layer ({last}), but a "
            "Bernoulli likelihood is trained on logits; expected a sigmoid as the very last, "
            "or none: leave the activation out, the library applies the sigmoid."
        )
