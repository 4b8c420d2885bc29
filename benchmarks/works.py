"""The five trainings that every system does: the same numbers, network, optimizer and batches.

The data are random but can be learned (a random teacher gives the labels), so that the losses
beside the times show that the work was the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Work:
    """A training; ``shape`` is one sample's, ``optimizer`` has its default settings.

    ``epochs`` are trained and timed at a time: about a second of work.
    """

    name: str
    shape: tuple[int, ...]
    rows: int
    batch: int
    optimizer: str
    epochs: int

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """``x (rows, *shape)`` float32 and labels ``y (rows,)`` int64 from 0 to 9."""
        random = np.random.default_rng(0)
        x = random.random((self.rows, *self.shape), dtype=np.float32)
        teacher = random.standard_normal((int(np.prod(self.shape)), 10)).astype(np.float32)
        return x, (x.reshape(self.rows, -1) - 0.5).dot(teacher).argmax(1)

    def network(self) -> nn.Module:
        """A plain torch network, with the same first weights in every system that is torch."""
        torch.manual_seed(0)
        return NETWORKS[self.name]()

    def loss(self, outputs: Tensor | tuple[Tensor, ...], x: Tensor, y: Tensor) -> Tensor:
        """Mean loss of a batch: crossentropy, or a VAE's negative evidence lower bound."""
        if self.name != "vae":
            return F.cross_entropy(outputs, y)
        picture, mean, log_variance = outputs
        error = F.binary_cross_entropy_with_logits(picture, x, reduction="sum")
        kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
        return (error + kl) / len(x)

    def optimize(self, network: nn.Module, **options: bool) -> torch.optim.Optimizer:
        """torch's optimizer with Keras's learning rates: SGD 0.01, Adam 0.001."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(network.parameters(), lr=0.01, **options)
        return torch.optim.Adam(network.parameters(), lr=0.001, **options)

    def smaller(self, part: int) -> Work:
        """The same with fewer rows, for a quick look."""
        return replace(self, rows=self.rows // part)


class LSTMStack(nn.Module):
    """Three LSTMs of 32 units, the last state to ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.last = nn.LSTM(16, 32, 3, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.lstm(x)[0][:, -1])


class VAE(nn.Module):
    """784-400-20-400-784; returns the picture's logits, mean and log-variance of the code."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.mean, self.spread = (
            nn.Linear(784, 400),
            nn.Linear(400, 20),
            nn.Linear(400, 20),
        )
        self.back, self.picture = nn.Linear(20, 400), nn.Linear(400, 784)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = F.relu(self.inner(x))
        mean, log_variance = self.mean(hidden), self.spread(hidden)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.picture(F.relu(self.back(code))), mean, log_variance


NETWORKS = {
    "small_mlp": lambda: nn.Sequential(
        nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10)
    ),
    "mlp": lambda: nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    ),
    "lenet": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    ),
    "lstm": LSTMStack,
    "vae": VAE,
}  # fmt: skip

WORKS = {
    work.name: work
    for work in [
        Work("small_mlp", (20,), 10_000, 16, "sgd", 8),
        Work("mlp", (784,), 60_000, 128, "adam", 1),
        Work("lenet", (1, 28, 28), 10_000, 64, "adam", 3),
        Work("lstm", (50, 16), 4_000, 64, "adam", 2),
        Work("vae", (784,), 20_000, 128, "adam", 2),
    ]
}
