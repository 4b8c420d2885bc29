"""The tuned loop with forward pass and loss compiled by ``torch.compile``, step by step."""

import torch

from systems.loops import epoch_of, repeated, tensors


def start(work):
    network = work.network()
    x, y = tensors(work)
    optimizer = work.optimize(network, fused=True)

    @torch.compile
    def forward(xb, yb):
        outputs = network(xb)
        return work.loss(outputs, xb, yb), outputs

    return repeated(lambda: epoch_of(work, x, y, forward, optimizer))
