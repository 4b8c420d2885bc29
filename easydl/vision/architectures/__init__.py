"""Named networks: functions that return a ``Sequential`` whose layers are those of the drawing.

Example:
    >>> LeNet5().layers[0].name
    'C1'
"""

from easydl.vision.architectures.classics import AlexNet, DeepFace, LeNet5
from easydl.vision.architectures.deep import InceptionBlock, ResNet
from easydl.vision.architectures.presets import MLP, LSTMStack
from easydl.vision.architectures.vgg import VGG11, VGG13, VGG16, VGG19, SmallVGG

__all__ = [
    "MLP",
    "VGG11",
    "VGG13",
    "VGG16",
    "VGG19",
    "AlexNet",
    "DeepFace",
    "InceptionBlock",
    "LSTMStack",
    "LeNet5",
    "ResNet",
    "SmallVGG",
]
