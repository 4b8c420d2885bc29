"""The tuned loop with forward pass and loss compiled by ``torch.compile``, step by step."""

import torch

from systems.loops import accuracy_and_loss, batches, tensors


def start(work):
    network = work.network()
    x, y = tensors(work)
    optimizer = work.optimize(network, fused=True)

    @torch.compile
    def forward(xb, yb):
        outputs = network(xb)
        return work.loss(outputs, xb, yb), outputs

    def epoch():
        seen = []
        for xb, yb in batches(x, y, work.batch):
            loss, outputs = forward(xb, yb)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append((loss.detach(), outputs, yb))
        return accuracy_and_loss(work, seen)

    return epoch
