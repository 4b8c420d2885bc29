"""The tuned loop in a second process: how far two runs of one thing lie apart on this machine."""

from systems.tuned import start

__all__ = ["start"]
