"""skorch: NeuralNet with an accuracy callback on the training batches; printing off."""

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import BatchScoring, PassthroughScoring


class Net(NeuralNet):
    work = None

    def get_loss(self, y_pred, y_true, X=None, training=False):
        return self.work.loss(y_pred, X, y_true)


def start(work):
    x, y = work.data()
    Net.work = work
    torch.manual_seed(0)
    callbacks = [("loss", PassthroughScoring("train_loss", on_train=True))]
    if work.name != "vae":
        callbacks.append(("accuracy", BatchScoring(right, name="accuracy", on_train=True)))
    net = Net(
        work.network(),
        torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD if work.optimizer == "sgd" else torch.optim.Adam,
        lr=0.01 if work.optimizer == "sgd" else 0.001,
        batch_size=work.batch,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=callbacks,
        callbacks__print_log=None,
    ).initialize()

    def train(epochs):
        net.partial_fit(x, y.astype(np.int64), epochs=epochs)
        return net.history[-1, "train_loss"]

    return train


def right(net, x, y):
    """Accuracy on a batch; skorch hands over the outputs it has kept."""
    outputs = next(iter(net.forward_iter(x)))
    return float((outputs.argmax(1) == torch.as_tensor(y)).float().mean())
