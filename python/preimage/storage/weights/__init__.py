"""Weights of networks from the files of other programs, and into safetensors. Nothing is unpickled into objects."""

from preimage.storage.weights.readers import SUFFIXES, WeightFile, open_weights
from preimage.storage.weights.safetensors_file import write_tensors

__all__ = ["SUFFIXES", "WeightFile", "open_weights", "write_tensors"]
