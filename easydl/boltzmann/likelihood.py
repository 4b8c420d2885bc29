"""The partition function of an RBM: by enumeration, or by annealed importance sampling."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from easydl.errors import warn_user

if TYPE_CHECKING:
    from easydl.boltzmann.rbm import RBM

MOST_UNITS = 20  # of the side that is enumerated
AT_ONCE = 2**12  # of its states


def fewer_units(rbm: RBM) -> int:
    """Units of the side to enumerate: the smaller one, the hidden one of a Gaussian RBM."""
    hidden, visible = rbm.weight.shape
    return hidden if rbm.kind == "gaussian" else min(visible, hidden)


def states(units: int, like: Tensor) -> Iterator[Tensor]:
    """All ``2**units`` rows of zeros and ones, piece by piece."""
    bits = torch.arange(units, device=like.device)
    for first in range(0, 2**units, AT_ONCE):
        numbers = torch.arange(first, min(first + AT_ONCE, 2**units), device=like.device)
        yield (numbers[:, None] >> bits & 1).to(like.dtype)


def exact_log_partition(rbm: RBM) -> Tensor:
    """log Z as the sum over all states of one side, the other one in closed form.

    Gradients flow to the weights. For a hidden state h of a Gaussian RBM the integral over x is
    (2π)^(D/2) exp(dᵀh + bᵀWh + ½‖Wh‖²).
    """
    weight, b, d = rbm.weight, rbm.visible_bias, rbm.hidden_bias
    parts = []
    if rbm.kind == "bernoulli" and len(b) <= len(d):
        parts = [-rbm.free_energy_of(x) for x in states(len(b), weight)]
    else:
        for h in states(len(d), weight):
            field = h @ weight
            if rbm.kind == "bernoulli":
                parts.append(h @ d + F.softplus(b + field).sum(1))
            else:
                integral = len(b) / 2 * math.log(2 * math.pi) + field.square().sum(1) / 2
                parts.append(h @ d + field @ b + integral)
    return torch.stack([part.logsumexp(0) for part in parts]).logsumexp(0)


def annealed_log_partition(rbm: RBM, base: Tensor, chains: int, steps: int) -> float:
    """log Z by annealed importance sampling (Salakhutdinov and Murray 2008; Neal 2001).

    The energies go linearly, in ``steps`` steps, from those of the base-rate model, whose visible
    units have the biases ``base`` and know nothing of the hidden ones, to the RBM's. Warns where a
    few of the ``chains`` carry nearly all the weight.
    """
    weight, b, d = rbm.weight, rbm.visible_bias, rbm.hidden_bias
    x = rbm.draw_visible(base.expand(chains, -1))
    log_weights = x.new_zeros(chains)
    for step in range(steps):
        low, high = step / steps, (step + 1) / steps
        activity = F.linear(x, weight, d)
        log_weights += (high - low) * (rbm.visible_term(x, b) - rbm.visible_term(x, base))
        log_weights += (F.softplus(high * activity) - F.softplus(low * activity)).sum(1)
        h = draw(torch.sigmoid(high * activity))
        x = rbm.draw_visible((1 - high) * base + high * (b + h @ weight))
    effective = 1 / log_weights.softmax(0).square().sum().item()
    if effective < chains / 10:
        warn_user(
            f"annealed importance sampling gave {effective:.1f} of {chains} chains nearly all the "
            f"weight, so that log Z is uncertain; write log_partition(steps={10 * steps})."
        )
    zero = len(b) / 2 * math.log(2 * math.pi)
    if rbm.kind == "bernoulli":
        zero = F.softplus(base).sum().item()
    log_mean = log_weights.logsumexp(0).item() - math.log(chains)
    return zero + len(d) * math.log(2) + log_mean


def draw(probabilities: Tensor) -> Tensor:
    """Zeros and ones; four times as fast as ``torch.bernoulli`` on a CPU."""
    uniform = torch.rand(probabilities.shape, device=probabilities.device)
    return (uniform < probabilities).to(probabilities.dtype)
