"""Anything -> batches on the device: the only place that knows NumPy, pandas and loaders."""

from easydl.data.arrays import Arrays
from easydl.data.sources import as_source
from easydl.data.stream import Stream

__all__ = ["Arrays", "Stream", "as_source"]
