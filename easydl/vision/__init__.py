"""Pictures: what needs torchvision, which is loaded when it is first used."""

from easydl.vision.loading import torchvision

__all__ = ["torchvision"]
