"""Keras's module of models."""

from easydl.model import Model
from easydl.saving import load_keras, load_model
from easydl.sequential import Input, Sequential

__all__ = ["Input", "Model", "Sequential", "load_keras", "load_model"]
