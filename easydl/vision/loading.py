"""torchvision on demand, with clear words where it cannot be loaded."""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType

import torch


def torchvision() -> ModuleType:
    """The torchvision package, imported at the first call.

    A torchvision that was built for another torch fails while it is imported, with "operator
    torchvision::nms does not exist" or a missing symbol. Everything in easydl that needs no
    torchvision goes on working without it.

    Raises:
        ImportError: it is missing, or does not fit this torch; with the command that mends it.

    Example:
        >>> torchvision().__name__
        'torchvision'
    """
    try:
        return importlib.import_module("torchvision")
    except Exception as error:  # of many kinds: RuntimeError, OSError, AttributeError …
        try:
            version = importlib.metadata.version("torchvision")
        except importlib.metadata.PackageNotFoundError:
            raise ImportError(
                "torchvision is not installed, and this needs it. Write: pip install torchvision"
            ) from error
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else repr(error)
        raise ImportError(
            f"torchvision {version} cannot be loaded beside torch {torch.__version__} ({reason}); "
            "expected a pair that was built together. "
            "Write: pip install --upgrade torch torchvision"
        ) from error
