"""Lightning: a LightningModule, a DataLoader, torchmetrics; bar, logger and checkpoints off."""

import logging
import warnings

import lightning
import torchmetrics
from torch.utils.data import DataLoader, TensorDataset

from systems.loops import tensors


class Module(lightning.LightningModule):
    def __init__(self, work):
        super().__init__()
        self.work, self.network = work, work.network()
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=10)

    def training_step(self, batch, index):
        x, y = batch
        outputs = self.network(x)
        loss = self.work.loss(outputs, x, y)
        self.log("loss", loss, on_step=False, on_epoch=True)
        if self.work.name != "vae":
            self.accuracy(outputs, y)
            self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return self.work.optimize(self)


def start(work):
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = Module(work)
    loader = DataLoader(TensorDataset(*tensors(work)), batch_size=work.batch, shuffle=True)

    def train(epochs):
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, loader)
        return float(trainer.callback_metrics["loss"])

    return train
