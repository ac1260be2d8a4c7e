"""Histograms of oriented gradients, as in `cyvlfeat.hog`."""

from preimage.compat.cyvlfeat.hog.hog import hog

__all__ = ["hog"]
