"""Representations: named functions from images to features."""

from preimage.representations import alexnet, dense_sift, hog, lbp, sift  # noqa: F401 - registers them
from preimage.representations.base import Representation, create, from_spec, names, parameters, register

__all__ = ["Representation", "create", "from_spec", "names", "parameters", "register"]
