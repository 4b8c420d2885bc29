"""Restricted Boltzmann machines and the deep belief nets stacked of them."""

from __future__ import annotations

__all__: list[str] = []
