"""The up-convolution: the layer, chains of it, and the arithmetic of each of their passes on each device."""

from preimage.ops.upconv.layer import upconv

__all__ = ["upconv"]
