"""The semi-supervised VAE: a classifier that learns from rows without labels, too."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easydl.data.rows import Rows
from easydl.errors import check_between, check_positive_int, did_you_mean, short_traceback
from easydl.layers import Dense, Flatten
from easydl.layers.base import build
from easydl.model import Model, sample_shape
from easydl.saving import require_built
from easydl.sequential import Sequential
from easydl.training.heads import ANY
from easydl.variational import (
    LIKELIHOODS,
    check_decoder,
    check_reach,
    check_unit_interval,
    decoded,
    draw,
    kl_divergence,
    mean_of,
    mean_of_rows,
    misfit,
    observed,
)

__all__ = ["SemiSupervisedVAE"]


class SemiSupervisedVAE(Model):
    """A VAE whose class is a second hidden variable: model M2 of Kingma et al. (2014).

    ``p(y)`` is uniform over K classes, ``p(z) = N(0, I)``, the decoder gives ``p(x | y, z)``, the
    encoder ``q(z | x, y)``, the classifier ``q(y | x)``, which is what ``predict`` gives. The loss
    is in nats per sample, summed over features, mean over rows. A row with a label has ``−L(x, y) −
    alpha · log q(y | x)``, one without ``−U(x)``::

        −L(x, y) = −log p(x | y, z) + log K + KL(q(z | x, y) ‖ N(0, I)),   z drawn from q(z | x, y)
        −U(x)    = Σ q(y | x) · −L(x, y)  −  entropy of q(y | x)

    In the history ``loss = reconstruction_loss + kl_loss + alpha · classification_loss``: what
    stands behind −log p(x | y, z), the KL terms of z and of y (log K for a known class), and
    −log q(y | x), 0 for rows without a label; each a mean over all rows.

    ``y`` holds classes 0 … K − 1, and −1 where the label is not known. Compile without a loss:
    ``compile("adam")``, ``fit(x, y)``. All classes of all rows are computed in one pass, so a step
    takes about K times as long as a VAE's. Evaluation draws codes, too, from torch's global
    generator; ``predict`` draws nothing.

    M1 + M2 of the paper is M2 on the codes of a VAE trained before, on all rows::

        codes = vae.encode(x)[0]
        model = SemiSupervisedVAE(…, likelihood="gaussian")
        model.fit(codes, y);   vae.decode(model.sample(10, label=3))

    Args:
        encoder: layers that take rows ``(N, features + classes)``: x made flat, beside the class
            as a one-hot row. Dense layers for mean and log-variance of z are added.
        decoder: layers that take ``(N, latent + classes)`` and give the inputs' shape. For
            ``"bernoulli"`` the last may have a sigmoid or nothing.
        classifier: layers that take x in its own shape; a Dense layer for the logits of the
            classes is added, behind a flattening. ``[]`` makes it logistic regression.
        classes: K.
        latent: numbers in a code z.
        likelihood: ``"bernoulli"`` for inputs in [0, 1], or ``"gaussian"`` for any, with a learnt
            variance for all features together.
        alpha: weight of the classification of each row with a label. The paper's is 0.1 · N /
            (number of labels).
        name: shown by ``summary``.

    Raises:
        ValueError: an argument out of range; a decoder that does not give the inputs' shape; labels
            missing or out of range, or data that the likelihood has no number for, before the
            first step.

    Example:
        >>> import easydl as dl
        >>> dl.seed(0)
        >>> model = dl.SemiSupervisedVAE(
        ...     encoder=[dl.Dense(16, "relu")], decoder=[dl.Dense(16, "relu"), dl.Dense(8)],
        ...     classifier=[dl.Dense(16, "relu")], classes=3, latent=2)
        >>> model.compile("adam")
        >>> history = model.fit(torch.eye(8), [0, 1, 2, -1, -1, -1, -1, -1], verbose=0)
        >>> list(history.history)
        ['loss', 'reconstruction_loss', 'kl_loss', 'classification_loss']
        >>> model.predict(torch.eye(8)).shape, model.sample(5, label=2).shape
        ((8, 3), (5, 8))
    """

    own_loss = "a bound of the likelihood"
    output_log_variance: Tensor

    @short_traceback
    def __init__(
        self,
        encoder: Iterable[Any],
        decoder: Iterable[Any],
        classifier: Iterable[Any],
        classes: int,
        latent: int = 20,
        likelihood: str = "bernoulli",
        alpha: float = 1.0,
        *,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if likelihood not in LIKELIHOODS:
            raise ValueError(did_you_mean("likelihood", likelihood, LIKELIHOODS))
        self.likelihood = likelihood
        self.classes = check_positive_int("classes", classes, minimum=2)
        self.latent = check_positive_int("latent", latent)
        self.alpha = check_between("alpha", alpha, 0, math.inf, ends="[)")
        self.built_shape: tuple[int | None, ...] | None = None
        self._ends_in_sigmoid: bool | None = None  # known at the first use
        self.reach = ANY  # of the decoder's last activation
        self.encoder = encoder if isinstance(encoder, Sequential) else Sequential(encoder)
        self.mean = Dense(self.latent, name="mean")
        self.log_variance = Dense(self.latent, name="log_variance")
        self.decoder = decoder if isinstance(decoder, Sequential) else Sequential(decoder)
        if not len(self.decoder):
            raise ValueError("decoder=[] was given; expected layers, for example [Dense(64)].")
        self.classifier = (
            classifier if isinstance(classifier, Sequential) else Sequential(classifier)
        )
        self.logits = Dense(self.classes, name="logits")
        if likelihood == "gaussian":
            self.output_log_variance = nn.Parameter(torch.tensor(0.0))

    # -- shapes and data ---------------------------------------------------------------------

    @short_traceback
    def build(self, input_shape: Any) -> None:
        """Fix the shapes: ``build((64,))``, or Keras's ``build((None, 64))``."""
        self.build_layers(sample_shape(input_shape))

    def build_layers(self, shape: tuple[int | None, ...], first: bool = True) -> None:
        """Build the networks for samples of ``shape``.

        Raises:
            ValueError: an open size, or a decoder that does not fit.
        """
        self._check_shape(tuple(shape), f"data with samples of shape {tuple(shape)}")
        if self.built_shape is not None:
            return
        if None in shape:
            raise ValueError(
                f"a SemiSupervisedVAE was given the open input shape {shape}; expected whole sizes."
            )
        numbers = math.prod(size or 1 for size in shape)
        self.encoder.build((numbers + self.classes,))
        self.classifier.build(shape)
        for network, heads in (
            (self.encoder, (self.mean, self.log_variance)),
            (self.classifier, (self.logits,)),
        ):
            inner = network.output_shape or ()
            for head in heads:
                build(head, (None, math.prod(size or 1 for size in inner[1:])))
        self.decoder.build_layers((self.latent + self.classes,), first=False)
        check_decoder(self, shape)
        self.built_shape = tuple(shape)
        self.settle(shape)

    def _check_shape(self, shape: tuple[int | None, ...], what: str) -> None:
        if self.built_shape is not None and shape != self.built_shape:
            raise ValueError(
                f"{what} were given, but the SemiSupervisedVAE is built for samples of shape "
                f"{self.built_shape}; expected those, or a new model."
            )

    def check_inputs(self, x: Tensor, what: str) -> None:
        """Refuse rows of another shape, and for a Bernoulli likelihood values outside [0, 1]."""
        self._check_shape(tuple(x.shape[1:]), f"{what} of shape {tuple(x.shape)}")
        if self.likelihood == "bernoulli":
            check_unit_interval(x, what)
        else:
            check_reach(self, x, what)

    def check_targets(self, y: Any, what: str) -> None:
        """Refuse what are no classes 0 … K − 1 or −1, and labels that are all missing at first."""
        if y is None:
            raise ValueError(
                f"{what}=None was given; expected a class for each row, 0 … {self.classes - 1}, "
                "and -1 where it is not known."
            )
        pieces = [y[piece] for piece in y.pieces()] if isinstance(y, Rows) else [y]
        if not all(isinstance(p, Tensor) and p.numel() == len(p) for p in pieces):
            raise ValueError(
                f"{what} of shape {tuple(getattr(y, 'shape', ()))} was given; expected one class a "
                f"row, 0 … {self.classes - 1}, and -1 where it is not known: for one-hot rows "
                f"write {what.split()[0]}.argmax(1)."
            )
        labels = torch.cat([piece.flatten() for piece in pieces])
        labels = labels if labels.is_floating_point() else labels.long()
        wrong = (labels != labels.round()) | (labels < -1) | (labels >= self.classes)
        if bool(wrong.any()):
            row = int(wrong.to(torch.uint8).argmax())
            raise ValueError(
                f"{what} holds {labels[row]:g} in row {row}; expected classes 0 … "
                f"{self.classes - 1}, and -1 where the label is not known. For more classes write "
                "classes=…."
            )
        if not self._has_learned and bool((labels == -1).all()):
            raise ValueError(
                f"{what} holds no label, only -1, and the model has seen none so far; expected "
                "some rows with classes. Without any label write easydl.VAE."
            )

    # -- the networks ------------------------------------------------------------------------

    def _logits(self, x: Tensor) -> Tensor:
        return self.logits(self.classifier(x).flatten(1)).to(self.logits.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """The probability of each class, q(y | x), ``(N, classes)``."""
        return self._logits(x).softmax(1)

    def to_torch(self) -> nn.Module:
        """x -> q(y | x), the classifier as plain torch layers; equal to the bit."""
        require_built(self, "to_torch")
        layers = [*self.classifier.layers, Flatten(), self.logits, nn.Softmax(1)]
        return Sequential(layers).to_torch().train(self.training)

    def _posterior(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x, y) for one-hot rows ``y``."""
        inner = self.encoder(torch.cat([x.flatten(1), y], 1)).flatten(1)
        whole = self.mean.weight.dtype  # mixed precision would round the KL term to three digits
        return self.mean(inner).to(whole), self.log_variance(inner).to(whole)

    def _terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """−log p(x | y, z) for one drawn z, and the KL term of z: each ``(N, K)``, for every y."""
        every = torch.eye(self.classes, dtype=x.dtype, device=x.device).repeat(len(x), 1)
        x = x.repeat_interleave(self.classes, 0)
        mean, log_variance = self._posterior(x, every)
        outputs = decoded(self, torch.cat([draw(mean, log_variance), every], 1))
        shape = (-1, self.classes)
        return (
            misfit(self, outputs, x).flatten(1).sum(1).reshape(shape),
            kl_divergence(mean, log_variance).sum(1).reshape(shape),
        )

    def compute_loss(self, x: Tensor, y: Any, sample_weight: Tensor | None = None) -> tuple:
        """The loss of a batch in nats per sample; ``y`` holds classes and −1.

        Returns:
            ``(loss, outputs, parts)``: the logits of q(y | x); ``reconstruction_loss``,
            ``kl_loss`` and ``classification_loss``, the last without ``alpha``.
        """
        logits = self._logits(x)
        log_q = logits.log_softmax(1)
        y = y.reshape(-1, 1).long()
        known = y >= 0
        answers = torch.zeros_like(log_q).scatter(1, y.clamp(min=0), 1.0)
        weights = torch.where(known, answers, log_q.exp())
        misfits, kl = self._terms(x)
        # KL(weights ‖ uniform) = log K − entropy, which is 0 for a known class
        kl_of_class = math.log(self.classes) + torch.where(known, 0.0, weights * log_q).sum(1)
        parts = {
            "reconstruction_loss": (weights * misfits).sum(1),
            "kl_loss": (weights * kl).sum(1) + kl_of_class,
            "classification_loss": -torch.where(known, answers * log_q, 0.0).sum(1),
        }
        parts = {name: mean_of_rows(p[:, None], sample_weight) for name, p in parts.items()}
        loss = parts["reconstruction_loss"] + parts["kl_loss"]
        loss = loss + self.alpha * parts["classification_loss"]
        state = self._compiled
        if state is not None and (state.penalties or state.active):
            loss = loss + self.penalty()
        return loss, logits, parts

    # -- what it is for ----------------------------------------------------------------------

    @short_traceback
    def sample(self, n: int, label: Any = None, noise: bool = False) -> np.ndarray:
        """New data: codes of the prior, decoded for a class.

        Args:
            n: how many.
            label: the class, or one for each; drawn uniformly when ``None``.
            noise: whether to draw from p(x | y, z), too; its mean when ``False``.

        Returns:
            NumPy array ``(n, …)``; drawn by torch's global generator.
        """
        require_built(self, "sample")
        n = check_positive_int("n", n)
        if label is None:
            label = torch.randint(self.classes, (n,))
        labels = np.asarray(label)
        fits = labels.dtype.kind in "iu" and labels.shape in ((), (n,))
        if not fits or ((labels < 0) | (labels >= self.classes)).any():
            raise ValueError(
                f"label={label!r:.80} was given; expected a class 0 … {self.classes - 1}, or {n} "
                "of them."
            )
        y = F.one_hot(torch.as_tensor(labels).long().expand(n), self.classes).float()
        means = self._decode(torch.cat([torch.randn(n, self.latent), y], 1))
        return observed(self, means) if noise else means

    @short_traceback
    def analogies(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """Every row as it would look in every class: its code, decoded with each y.

        The code is the mean of q(z | x, y) for the likeliest class (figure 1 of Kingma et al.).

        Args:
            x, batch_size: as in ``predict``.

        Returns:
            NumPy array ``(N, classes, …)``.
        """

        def codes(rows: Tensor) -> Tensor:
            likeliest = F.one_hot(self._logits(rows).argmax(1), self.classes)
            return self._posterior(rows, likeliest.to(rows.dtype))[0]

        z = torch.from_numpy(self.map_rows(codes, x, batch_size))
        every = torch.eye(self.classes).repeat(len(z), 1)
        rows = self._decode(torch.cat([z.repeat_interleave(self.classes, 0), every], 1))
        return rows.reshape(len(z), self.classes, *rows.shape[1:])

    def _decode(self, codes: Tensor) -> np.ndarray:
        """The means of p(x | y, z) for codes beside one-hot classes."""

        def means(rows: Tensor) -> Tensor:
            return mean_of(self, decoded(self, rows))

        return self.decoder.map_rows(means, codes)
