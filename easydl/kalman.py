"""The deep Kalman filter."""

from __future__ import annotations

__all__: list[str] = []
