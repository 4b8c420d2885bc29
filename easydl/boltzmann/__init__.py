"""Restricted Boltzmann machines and the deep belief nets stacked of them."""

from __future__ import annotations

from easydl.boltzmann.dbn import DBN
from easydl.boltzmann.rbm import RBM

__all__ = ["DBN", "RBM"]
