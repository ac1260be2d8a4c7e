"""Representations: named functions from images to features."""

from preimage.representations import hog as _hog  # registers it
from preimage.representations.base import Representation, create, from_spec, names, parameters, register

__all__ = ["Representation", "create", "from_spec", "names", "parameters", "register"]

del _hog
