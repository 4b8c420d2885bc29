"""Models and weights in and out of files: whole or not at all, and never code."""

from easydl.saving.container import write_atomically
from easydl.saving.keras import load_keras
from easydl.saving.weights import (
    FOREIGN,
    check_same_architecture,
    has_first_weights,
    has_open_shapes,
    has_random_weights,
    load_weights,
    mark_as_given,
    require_built,
    save_weights,
    set_weights,
)
from easydl.saving.whole import load_model, save_model

__all__ = [
    "FOREIGN",
    "check_same_architecture",
    "has_first_weights",
    "has_open_shapes",
    "has_random_weights",
    "load_keras",
    "load_model",
    "load_weights",
    "mark_as_given",
    "require_built",
    "save_model",
    "save_weights",
    "set_weights",
    "write_atomically",
]
