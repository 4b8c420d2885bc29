"""Autoencoders: plain, tied, contractive, denoising and stacked.

``fit(x)`` trains them to give their inputs back; the code in the middle is what they learned.
"""

from easydl.autoencoders.family import Autoencoder, DenoisingAutoencoder, StackedAutoencoder
from easydl.autoencoders.noise import MaskingNoise, SaltAndPepperNoise

__all__ = [
    "Autoencoder",
    "DenoisingAutoencoder",
    "MaskingNoise",
    "SaltAndPepperNoise",
    "StackedAutoencoder",
]
