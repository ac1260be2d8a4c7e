"""Read network weights from files of several programs, and write them as safetensors. No objects are unpickled."""

from preimage.io.weights.readers import SUFFIXES, WeightFile, open_weights
from preimage.io.weights.safetensors_file import write_tensors

__all__ = ["SUFFIXES", "WeightFile", "open_weights", "write_tensors"]
