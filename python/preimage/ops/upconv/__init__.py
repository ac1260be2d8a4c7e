"""Up-convolutions, chains of them, and the implementations of their forward and backward passes on each device."""

from preimage.ops.upconv.chain import upconv, upconv_chain, upconv_chain_distance

__all__ = ["upconv", "upconv_chain", "upconv_chain_distance"]
