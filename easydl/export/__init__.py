"""The ways out: a plain torch module, a file for other programs, a plain PyTorch script."""

from easydl.export.files import export
from easydl.export.plain import to_torch
from easydl.export.script import source

__all__ = ["export", "source", "to_torch"]
