"""What the tests of several families need."""

from __future__ import annotations

import easydl as dl


class Stop(dl.Callback):
    """Ends the training by Ctrl-C after so many batches; 0: never."""

    def __init__(self, after):
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


class Rows:
    """Counts rows, in the way of torchmetrics' objects, where only it knows."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.rows = 0

    def update(self, y_pred, y_true):
        self.rows += len(y_pred)

    def compute(self):
        return float(self.rows)
