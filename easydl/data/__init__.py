"""Anything -> batches on the device: the only place that knows NumPy, pandas and loaders."""

from easydl.data.sources import Arrays, Stream, as_source

__all__ = ["Arrays", "Stream", "as_source"]
