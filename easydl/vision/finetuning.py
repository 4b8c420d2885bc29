"""A pretrained network for your pictures: first its new head learns, then all of it."""

from __future__ import annotations

import math
import os
from typing import Any

from easydl import optimizers, schedules
from easydl.callbacks import Callback, EarlyStopping
from easydl.data.picture_sets import PictureData, image_folder, images
from easydl.errors import check_between, check_positive_int
from easydl.model import Model, as_list
from easydl.vision.classifier import pretrained

__all__ = ["GradualUnfreezing", "finetune"]


def adamw(learning_rate: Any) -> optimizers.AdamW:
    """AdamW with weight decay 0.01."""
    return optimizers.AdamW(learning_rate, weight_decay=0.01)


def finetune(
    model: str | Model,
    data: Any,
    epochs: int = 5,
    *,
    weights: Any = "DEFAULT",
    head_epochs: int = 1,
    learning_rate: float = 1e-3,
    spread: float = 100.0,
    batch_size: int = 32,
    augment: Any = "standard",
    optimizer: Any = adamw,
    patience: int = 3,
    callbacks: Any = None,
    device: Any = "auto",
    precision: str = "float32",
    verbose: int | str = "auto",
) -> Model:
    """Train a pretrained network for new classes, as one does by default.

    The head learns for ``head_epochs`` while all else is frozen, BatchNorm's statistics too. Then
    everything learns, the first layers ``spread`` times more slowly than the head, at half the
    rate, which rises and falls once (one-cycle). Training ends when the validation loss has not
    fallen for ``patience`` epochs; the weights of the best epoch come back. Every step can be done
    by hand: ``pretrained``, ``freeze``, ``compile``, ``fit``, ``unfreeze``,
    ``spread_learning_rate``.

    Reference: Howard and Ruder, 2018, arXiv:1801.06146; fastai's ``fine_tune``.

    Args:
        model: a name of ``torchvision.models``, or a model whose last layer fits the classes.
        data: what ``image_folder`` or ``images`` returned; a folder's path, for its train/ and
            validation/; or ``(x, y)``, of which a fifth is held out.
        epochs: of the whole network, after those of the head.
        weights: as in ``pretrained``, for a name.
        head_epochs: of the head alone; 0: none.
        learning_rate: of the head while it learns alone; the whole network has half of it.
        spread: how many times more slowly the first layers learn; 1: all alike.
        batch_size: pictures a step.
        augment: as in ``image_folder``, where the data do not say it; ``None``: not at all.
        optimizer: a function of the learning rate or schedule, such as ``optimizers.SGD``.
        patience: epochs without a lower validation loss; 0: no early stopping.
        callbacks, verbose: as in ``fit``.
        device, precision: as in ``compile``.

    Returns:
        the model, ready for ``evaluate``, ``predict_labels`` and ``save``; ``model.history`` has
        all its epochs.

    Raises:
        ValueError: data without two classes, or for another number of outputs.

    Example:
        >>> data = image_folder("pets/", split=0.2)  # doctest: +SKIP
        >>> model = finetune("resnet18", data)  # doctest: +SKIP
    """
    check_positive_int("epochs", epochs)
    check_positive_int("head_epochs", head_epochs, minimum=0)
    check_positive_int("patience", patience, minimum=0)
    check_between("learning_rate", learning_rate, 0, math.inf, ends="()")
    data = as_data(data)
    train, validation = data.train, data.validation
    if train.augment is None and augment is not None:
        train = train.changed_by(augment)
    made: Any = model
    if isinstance(model, str):
        made = pretrained(model, weights, data.class_names)
    elif not isinstance(model, Model):
        raise TypeError(
            f"finetune was given a {type(model).__name__}; expected the name of a network of "
            "torchvision, or a model: easydl.Model(network)."
        )
    loss = "categorical_crossentropy" if train.shares else "sparse_categorical_crossentropy"

    def compile_at(rate: Any) -> None:
        made.compile(
            optimizer(rate), loss, metrics=["accuracy"], device=device, precision=precision
        )

    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "validation_data": validation,
        "verbose": verbose,
    }
    first = None
    if head_epochs:
        learns = [parameter.requires_grad for parameter in made.parameters()]
        made.freeze()
        try:
            compile_at(learning_rate)
            first = made.fit(train, epochs=head_epochs, callbacks=callbacks, **settings)
        finally:  # also where it is interrupted
            made.unfreeze()
            for parameter, flag in zip(made.parameters(), learns):
                parameter.requires_grad_(flag)
    hooks = as_list(callbacks)
    if validation is not None and patience:
        hooks.append(EarlyStopping(patience=patience, restore_best_weights=True))
    steps = max(epochs * math.ceil(len(train) / batch_size), 2)
    compile_at(schedules.OneCycle(learning_rate / 2, steps))
    made.spread_learning_rate(spread)
    last = head_epochs + epochs
    history = made.fit(train, epochs=last, initial_epoch=head_epochs, callbacks=hooks, **settings)
    if first is not None:
        history.prepend(first)
    return made


def as_data(data: Any) -> PictureData:
    """What ``finetune`` was given: parts as they are, ``(x, y)`` with a fifth held out."""
    if isinstance(data, PictureData):
        return data
    if isinstance(data, tuple) and len(data) == 2:
        return images(*data, split=0.2)
    if isinstance(data, (str, os.PathLike)):
        return image_folder(data)
    raise TypeError(
        f"finetune was given a {type(data).__name__} as data; expected what image_folder(path, "
        "split=0.2) or images(x, y, split=0.2) returns, or (x, y)."
    )


class GradualUnfreezing(Callback):
    """Let one more group of layers learn every so many epochs, from the head to the first.

    Freeze the rest before: ``model.freeze()``. What was learned for other data is left alone until
    what stands behind it has settled.

    Reference: Howard and Ruder, 2018, arXiv:1801.06146, section 3.3.

    Args:
        every: epochs from one to the next.
        n: groups of layers with weights that are freed at a time, see ``model.layer_groups()``.

    Example:
        >>> model.freeze()  # doctest: +SKIP
        >>> model.fit(data.train, epochs=5, callbacks=[GradualUnfreezing()])  # doctest: +SKIP
    """

    def __init__(self, every: int = 1, n: int = 1) -> None:
        self.every = check_positive_int("every", every)
        self.n = check_positive_int("n", n)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.unfreeze(1 + epoch // self.every * self.n)
