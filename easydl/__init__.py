"""easydl: a thin, Keras-like facade over PyTorch.

Example:
    >>> import easydl as dl
    >>> model = dl.Sequential([dl.Dense(64, activation="relu"), dl.Dense(10, activation="softmax")])
    >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
"""

from easydl import (
    activations,
    callbacks,
    constraints,
    data,
    initializers,
    keras1,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    regularizers,
    utils,
)
from easydl.callbacks import Callback, History
from easydl.layers import *  # noqa: F403
from easydl.layers import __all__ as _layer_names
from easydl.model import Model
from easydl.saving import load_keras, load_model
from easydl.sequential import Sequential
from easydl.utils import seed

__version__ = "0.1.0"

__all__ = [
    "Callback",
    "History",
    "Model",
    "Sequential",
    "activations",
    "callbacks",
    "constraints",
    "data",
    "initializers",
    "layers",
    "load_keras",
    "load_model",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "regularizers",
    "seed",
    "utils",
    *_layer_names,
]

keras1.install()  # the spellings of 2016
