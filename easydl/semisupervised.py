"""The semi-supervised variational autoencoder."""

from __future__ import annotations

__all__: list[str] = []
