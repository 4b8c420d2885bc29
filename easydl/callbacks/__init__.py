"""Callbacks: what happens around training, one class each."""

from easydl.callbacks.backup import BackupAndRestore
from easydl.callbacks.base import Callback, LambdaCallback, get
from easydl.callbacks.early_stopping import EarlyStopping
from easydl.callbacks.files import CSVLogger, ModelCheckpoint, TensorBoard
from easydl.callbacks.history import History
from easydl.callbacks.learning_rate import LearningRateScheduler, ReduceLROnPlateau
from easydl.callbacks.progress import ProgressBar
from easydl.callbacks.terminate_on_nan import TerminateOnNaN

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ProgressBar",
    "ReduceLROnPlateau",
    "TensorBoard",
    "TerminateOnNaN",
    "get",
]
