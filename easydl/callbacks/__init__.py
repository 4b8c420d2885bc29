"""Callbacks: what happens around training, one class each."""

from easydl.callbacks.base import Callback, LambdaCallback, get
from easydl.callbacks.early_stopping import EarlyStopping
from easydl.callbacks.history import History
from easydl.callbacks.progress import ProgressBar

__all__ = [
    "Callback",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "ProgressBar",
    "get",
]
