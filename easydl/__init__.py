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
    plotting,
    regularizers,
    utils,
    vision,
)
from easydl.autoencoders import *  # noqa: F403
from easydl.autoencoders import __all__ as _autoencoders
from easydl.boltzmann import *  # noqa: F403
from easydl.boltzmann import __all__ as _boltzmann
from easydl.callbacks import Callback, History
from easydl.kalman import *  # noqa: F403
from easydl.kalman import __all__ as _kalman
from easydl.layers import *  # noqa: F403
from easydl.layers import __all__ as _layer_names
from easydl.model import Model
from easydl.saving import load_keras, load_model
from easydl.semisupervised import *  # noqa: F403
from easydl.semisupervised import __all__ as _semisupervised
from easydl.sequential import Sequential
from easydl.utils import seed
from easydl.variational import *  # noqa: F403
from easydl.variational import __all__ as _variational
from easydl.vision import finetune, pretrained
from easydl.vision.architectures import *  # noqa: F403
from easydl.vision.architectures import __all__ as _architectures

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
    "finetune",
    "initializers",
    "layers",
    "load_keras",
    "load_model",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "plotting",
    "pretrained",
    "regularizers",
    "seed",
    "utils",
    "vision",
    *_architectures,
    *_layer_names,
    *_autoencoders,
    *_boltzmann,
    *_kalman,
    *_semisupervised,
    *_variational,
]

keras1.install()  # the spellings of 2016
