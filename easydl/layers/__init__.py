"""Layers: thin ``torch.nn`` modules with Keras's names, arguments and defaults.

Pictures are (N, C, H, W) and signals for Conv1D and pooling (N, C, L), as in torch; sequences for
recurrent layers, Embedding and TimeDistributed are (N, T, F). Any other ``nn.Module`` is a layer.
"""

from easydl.layers.activation import (
    ELU,
    GELU,
    SELU,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    Mish,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Swish,
    Tanh,
)
from easydl.layers.base import trainable
from easydl.layers.convolution import Conv1D, Conv2D, Conv3D
from easydl.layers.core import Activation, Dense, Flatten, Lambda, Permute, RepeatVector, Reshape
from easydl.layers.custom import Layer
from easydl.layers.dropout import (
    Dropout,
    GaussianNoise,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
)
from easydl.layers.embedding import Embedding
from easydl.layers.input import Input
from easydl.layers.local import LocallyConnected1D, LocallyConnected2D
from easydl.layers.merge import Add, Branches, Concatenate, Multiply, Residual
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
from easydl.layers.pooling_global import (
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalAveragePooling3D,
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    GlobalMaxPooling3D,
)
from easydl.layers.recurrent import GRU, LSTM, SimpleRNN
from easydl.layers.resampling import Cropping2D, UpSampling2D, ZeroPadding2D
from easydl.layers.separable import Conv2DTranspose, DepthwiseConv2D, SeparableConv2D
from easydl.layers.wrappers import Bidirectional, TimeDistributed

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "SELU",
    "Activation",
    "Add",
    "AveragePooling1D",
    "AveragePooling2D",
    "AveragePooling3D",
    "BatchNormalization",
    "Bidirectional",
    "Branches",
    "Concatenate",
    "Conv1D",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "Cropping2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Embedding",
    "Flatten",
    "GaussianNoise",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalAveragePooling3D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GlobalMaxPooling3D",
    "GroupNormalization",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Input",
    "Lambda",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "LocallyConnected1D",
    "LocallyConnected2D",
    "MaxPooling1D",
    "MaxPooling2D",
    "MaxPooling3D",
    "Mish",
    "Multiply",
    "PReLU",
    "Permute",
    "ReLU",
    "RepeatVector",
    "Reshape",
    "Residual",
    "SeparableConv2D",
    "SiLU",
    "Sigmoid",
    "SimpleRNN",
    "Softmax",
    "Softplus",
    "Softsign",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "Swish",
    "Tanh",
    "TimeDistributed",
    "UpSampling2D",
    "ZeroPadding2D",
]

for _name in __all__:
    if _name != "Input":
        globals()[_name].trainable = trainable  # of every layer alike, and of subclasses
