"""Functions of scikit-image, by their names there."""

from preimage.compat.skimage import feature

__all__ = ["feature"]
