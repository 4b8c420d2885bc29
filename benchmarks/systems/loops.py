"""What the hand-written loops share: data as tensors, batches, and the numbers of an epoch."""

import itertools

import torch


def tensors(work):
    x, y = work.data()
    return torch.from_numpy(x), torch.from_numpy(y)


def batches(x, y, size):
    """One ``randperm`` an epoch; 8 MB of rows gathered at once, then split."""
    rows = max(8 * 2**20 // (x[0].numel() * 4 * size), 1) * size
    for piece in torch.randperm(len(x)).split(rows):
        yield from zip(x.index_select(0, piece).split(size), y.index_select(0, piece).split(size))


def epoch_of(work, x, y, forward, optimizer, most=None):
    """An epoch, or its first ``most`` steps, by a real optimizer; returns the mean loss.

    ``forward(xb, yb)`` gives the loss and the outputs of a batch.
    """
    seen = []
    for xb, yb in itertools.islice(batches(x, y, work.batch), most):
        loss, outputs = forward(xb, yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append((loss.detach(), outputs, yb))
    return accuracy_and_loss(work, seen)


def accuracy_and_loss(work, seen):
    """The epoch's mean loss; the accuracy is computed as well and thrown away."""
    if work.name != "vae":
        outputs = torch.cat([o.detach() for _, o, _ in seen])
        _ = float((outputs.argmax(1) == torch.cat([y for _, _, y in seen])).float().mean())
    counts = torch.tensor([float(len(y)) for _, _, y in seen])
    return float((torch.stack([loss for loss, _, _ in seen]) * counts).sum() / counts.sum())


def repeated(epoch):
    """``train(epochs)``, which returns the last epoch's loss."""

    def train(epochs):
        for _ in range(epochs):
            loss = epoch()
        return loss

    return train
