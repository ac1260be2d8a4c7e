"""Which reader a file of weights takes, and what all of them give."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from preimage.errors import FileFormatError
from preimage.io.arrays.npy import open_arrays
from preimage.io.arrays.stored import StoredArray
from preimage.io.atomic import StrPath
from preimage.io.weights.caffemodel import read_caffemodel
from preimage.io.weights.pytorch import read_state_dict
from preimage.io.weights.safetensors_file import read_tensors

SUFFIXES = (".caffemodel", ".npz", ".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class WeightFile:
    """What a file of weights holds.

    Attributes:
        arrays: by their headers, each read when wanted.
        layers: names of all layers in the order in which they run, where the file tells (``.caffemodel``).
    """

    arrays: list[StoredArray]
    layers: tuple[str, ...] = ()


def open_weights(path: StrPath) -> WeightFile:
    """The arrays in a file of weights, by its suffix, one of `SUFFIXES`.

    Raises:
        FileFormatError: another suffix; damaged, cut short, or holding anything but numbers.
        OSError: it cannot be opened.
    """
    with open(path, "rb") as file:  # whatever the readers make of a path that is none
        if os.fstat(file.fileno()).st_size == 0:
            raise FileFormatError(path, "is empty")
    match Path(path).suffix.lower():
        case ".caffemodel":
            arrays, layers = read_caffemodel(path)
            return WeightFile(arrays, tuple(layers))
        case ".npz":
            return WeightFile(open_arrays(path))
        case ".safetensors":
            return WeightFile(read_tensors(path))
        case ".pth" | ".pt":
            return WeightFile(read_state_dict(path))
        case suffix:
            raise FileFormatError(path, f"weights come as {', '.join(SUFFIXES)}, not {suffix or 'without a suffix'}")
