"""The up-convolution: the layer, chains of it, and the arithmetic of each of their passes on each device."""

from preimage.ops.upconv.chain import upconv_chain, upconv_chain_distance
from preimage.ops.upconv.layer import upconv

__all__ = ["upconv", "upconv_chain", "upconv_chain_distance"]
