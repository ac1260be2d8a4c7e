"""Weights of networks from the files of other programs, and into safetensors. Nothing is unpickled into objects."""

from preimage.io.weights.readers import SUFFIXES, WeightFile, open_weights
from preimage.io.weights.safetensors_file import write_tensors

__all__ = ["SUFFIXES", "WeightFile", "open_weights", "write_tensors"]
