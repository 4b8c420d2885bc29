"""Words to vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from easydl.errors import check_positive_int
from easydl.layers.base import ANY, STEPS, Shape, make_weights, prepare, setup, start_build, twin


class Embedding(nn.Embedding):
    """A table of ``input_dim`` vectors; an index reads its row. Starts as U(±0.05), as in Keras.

    Args:
        input_dim: number of rows, the largest index plus one.
        output_dim: width of a row.
        embeddings_initializer: how the table starts.
        embeddings_regularizer: penalty on the table, added to the loss.
        embeddings_constraint: applied to the table after every step.
        mask_zero: not offered; torch's kernels have no masks.
        name: what summaries and messages call it.
        input_shape: sample shape without the batch axis, on the first layer of a model.
        trainable: False freezes it.

    Shape:
        (N, …) of integers → (N, …, output_dim).

    Raises:
        ValueError: for sizes below 1 or ``mask_zero=True``.

    Example:
        >>> Embedding(1000, 8)(torch.zeros(4, 12, dtype=torch.long)).shape
        torch.Size([4, 12, 8])
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: bool = False,
        *,
        name: str | None = None,
        input_shape: Shape | None = None,
        trainable: bool | None = None,
    ) -> None:
        input_dim = check_positive_int("input_dim", input_dim)
        output_dim = check_positive_int("output_dim", output_dim)
        if mask_zero:
            raise ValueError(
                "mask_zero=True was given; torch's kernels have no masks, so it would be ignored. "
                "Pad the sequences at the front, where the last step stays real, and leave it out."
            )
        # Else torch draws one: on the meta device that imports its compiler, which takes seconds.
        open_table = torch.empty(input_dim, output_dim, device="meta")
        super().__init__(input_dim, output_dim, _weight=open_table)
        setup(self, locals(), takes=ANY, gives=STEPS.layout, weights={"weight": "embeddings"})

    def build(self, input_shape: Shape) -> None:
        """Make the table; it is the same for every ``input_shape``."""
        if start_build(self, input_shape):
            self.gives = STEPS.layout if len(input_shape) == 2 else None
            make_weights(self, weight=(self.num_embeddings, self.embedding_dim))

    def forward(self, x: Tensor) -> Tensor:
        prepare(self, x)
        return super().forward(x)

    def to_torch(self) -> nn.Embedding:
        """The same as ``nn.Embedding``."""
        return twin(self, nn.Embedding, _weight=torch.empty_like(self.weight, device="meta"))
