"""Autoencoders: plain, denoising and stacked."""

from __future__ import annotations

__all__: list[str] = []
