"""Compute up-convolutions and chains of them, with forward and backward passes for each device."""

from preimage.ops.upconv.chain import upconv, upconv_chain, upconv_chain_distance

__all__ = ["upconv", "upconv_chain", "upconv_chain_distance"]
