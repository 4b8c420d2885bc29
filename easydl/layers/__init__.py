"""Layers: thin ``torch.nn`` modules with Keras's names, arguments and defaults.

Pictures are (N, C, H, W), signals for Conv1D and pooling (N, C, L), as in torch; sequences for
recurrent layers, Embedding and TimeDistributed are (N, T, F). Any other ``nn.Module`` is a layer too.
"""

from easydl.layers.base import Layer, output_shape
from easydl.layers.convolution import Conv1D, Conv2D, Conv3D
from easydl.layers.core import Dense, Dropout, Flatten
from easydl.layers.embedding import Embedding
from easydl.layers.normalization import (
    BatchNormalization,
    GroupNormalization,
    LayerNormalization,
)
from easydl.layers.pooling import (
    AveragePooling1D,
    AveragePooling2D,
    AveragePooling3D,
    MaxPooling1D,
    MaxPooling2D,
    MaxPooling3D,
)
from easydl.layers.recurrent import GRU, LSTM, SimpleRNN

__all__ = [
    "GRU",
    "LSTM",
    "AveragePooling1D",
    "AveragePooling2D",
    "AveragePooling3D",
    "BatchNormalization",
    "Conv1D",
    "Conv2D",
    "Conv3D",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "GroupNormalization",
    "Layer",
    "LayerNormalization",
    "MaxPooling1D",
    "MaxPooling2D",
    "MaxPooling3D",
    "SimpleRNN",
]
