"""``load_keras``; what reads Keras's files is imported when the first one comes."""

from __future__ import annotations

from typing import Any


def load_keras(path: Any) -> Any:
    """The model in a ``.keras`` file, or in an ``.h5`` of a whole model, with its weights.

    Sequential models and functional ones without branches, nested ones too. Nothing in the file is
    run or imported: layers come from a closed table, Lambda is refused. The model takes pictures
    as (N, C, H, W) where Keras's takes (N, H, W, C), volumes alike, and signals (N, C, L) where
    the first layer that looks is a Conv1D or pooling; sequences stay (N, T, F). A channels_first
    model takes what it took. What comes out is
    laid out likewise, and else equals Keras's to float tolerance. It is not compiled yet.

    Args:
        path: a file of Keras's ``model.save``.

    Returns:
        a built ``Sequential`` with the layers' names; frozen layers stay frozen.

    Raises:
        FileNotFoundError: no such file.
        ImportError: h5py is not installed.
        ValueError: a damaged or hostile file, one of weights alone, or a layer that easydl does
            not have, by its name.

    Example:
        >>> import easydl as dl
        >>> dl.load_keras("weights.png")
        Traceback (most recent call last):
        FileNotFoundError: no file at 'weights.png'; expected one of Keras.
    """
    from easydl.saving.keras_model import read_keras

    return read_keras(path)
