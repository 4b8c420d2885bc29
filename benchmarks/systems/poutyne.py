"""Poutyne: Model with the batch metric "accuracy"; arrays as they are, bar off."""

import torch
from poutyne import Model


def start(work):
    x, y = work.data()
    network = work.network()
    if work.name == "vae":
        target, metrics = torch.from_numpy(x), []

        def loss(outputs, x):
            return work.loss(outputs, x, x)
    else:
        target, metrics = torch.from_numpy(y), ["accuracy"]
        loss = "cross_entropy"
    model = Model(network, work.optimize(network), loss, batch_metrics=metrics)

    def train(epochs):
        logs = model.fit(
            torch.from_numpy(x), target, epochs=epochs, batch_size=work.batch, verbose=False
        )
        return logs[-1]["loss"]

    return train
