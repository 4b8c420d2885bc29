"""fastai: Learner with accuracy on the training data by its own recorder; bar off."""

import fastai.callback.progress  # noqa: F401  gives the Learner its no_bar
from fastai.learner import AvgMetric, DataLoaders, Learner
from fastai.optimizer import OptimWrapper
from torch.utils.data import DataLoader, TensorDataset

from systems.loops import tensors


def start(work):
    x, y = tensors(work)
    if work.name == "vae":
        y = x
    data = TensorDataset(x, y)
    one_batch = DataLoader(TensorDataset(x[: work.batch], y[: work.batch]), work.batch)
    loaders = DataLoaders(DataLoader(data, batch_size=work.batch, shuffle=True), one_batch)

    def loss(outputs, y):
        return work.loss(outputs, y, y)

    def right(outputs, y):
        return (outputs.argmax(1) == y).float().mean()

    def optimizer(parameters, lr):
        return OptimWrapper(opt=work.optimize(network))

    network = work.network()
    metrics = [] if work.name == "vae" else [AvgMetric(right)]
    learner = Learner(loaders, network, loss, opt_func=optimizer, metrics=metrics, train_bn=True)
    learner.recorder.train_metrics = True
    learner.recorder.valid_metrics = False
    lr = 0.01 if work.optimizer == "sgd" else 0.001

    def train(epochs):
        with learner.no_bar(), learner.no_logging():
            learner.fit(epochs, lr)
        return float(learner.recorder.values[-1][0])

    return train
