"""Open files of network weights of any supported format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from preimage.errors import FileFormatError
from preimage.io.arrays.npy import open_arrays
from preimage.io.arrays.stored_arrays import StoredArray
from preimage.io.atomic import StrPath
from preimage.io.file_types import SIGNATURE_BYTES, describe_signature
from preimage.io.weights.caffemodel import read_caffemodel
from preimage.io.weights.pytorch import read_state_dict
from preimage.io.weights.safetensors_file import read_tensors

_ZIP = "a zip archive (unpack it first)"
_TORCH = "a PyTorch file"
# Descriptions by `describe_signature` that are expected for a suffix.
_EXPECTED = {
    ".npz": ("NumPy arrays (.npz)", _ZIP),
    ".safetensors": ("a safetensors file",),
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".bin"), (_TORCH, "a Python pickle", "a tar archive", _ZIP)),
}
SUFFIXES = (".caffemodel", ".npz", ".safetensors", ".pth", ".pt", ".pth.tar", ".ckpt", ".bin")


@dataclass(frozen=True)
class WeightFile:
    """Contents of a file of weights.

    Attributes:
        arrays: Arrays, read on demand.
        layers: Names of all layers in order of execution; empty unless the file is a ``.caffemodel`` or was converted
            from one.
        metadata: Metadata of a ``.safetensors`` file, by name.
    """

    arrays: list[StoredArray]
    layers: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def open_weights(path: StrPath) -> WeightFile:
    """Open a file of weights, whose format is given by its suffix, one of `SUFFIXES`.

    PyTorch checkpoints are recognized by their contents, too.

    Raises:
        FileFormatError: The suffix is not supported, or the file is damaged, truncated, or contains other data.
        OSError: The file cannot be opened.
    """
    with open(path, "rb") as file:
        start = file.read(SIGNATURE_BYTES)
    if not start:
        raise FileFormatError(path, "is empty")
    suffix = Path(path).suffix.lower()
    if Path(path).name.lower().endswith((".pth.tar", ".pt.tar")):  # names of checkpoints in PyTorch's ImageNet example
        suffix = ".pth"
    what = describe_signature(start)
    if suffix not in SUFFIXES and what == _TORCH:  # checkpoint.tar, or no suffix at all
        suffix = ".pth"
    try:
        return _read(path, suffix)
    except FileFormatError as error:
        if what is None or what in _EXPECTED.get(suffix, ()):
            raise
        raise FileFormatError(path, f"{error.problem}; the file looks like {what}") from error


def _read(path: StrPath, suffix: str) -> WeightFile:
    match suffix:
        case ".caffemodel":
            arrays, layers = read_caffemodel(path)
            return WeightFile(arrays, tuple(layers))
        case ".npz":
            return WeightFile(open_arrays(path))
        case ".safetensors":
            arrays, metadata = read_tensors(path)
            return WeightFile(arrays, tuple(filter(None, metadata.get("layers", "").split(","))), metadata)
        case ".pth" | ".pt" | ".ckpt" | ".bin":
            return WeightFile(read_state_dict(path))
    raise FileFormatError(path, f"suffix must be one of {', '.join(SUFFIXES)}, got {suffix or 'none'}")
