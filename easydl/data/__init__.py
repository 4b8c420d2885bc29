"""Anything -> batches on the device: the only place that knows NumPy, pandas and loaders."""

from easydl.data.arrays import Arrays as Arrays
from easydl.data.parquet import parquet
from easydl.data.picture_sets import image_folder, images
from easydl.data.sources import as_source as as_source
from easydl.data.stream import Stream as Stream

__all__ = ["image_folder", "images", "parquet"]
