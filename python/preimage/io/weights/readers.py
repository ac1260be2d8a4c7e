"""Choose the reader of a file of weights."""

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
_TORCHS = (_TORCH, "a Python pickle", "a tar archive", _ZIP)
# What `describe_signature` calls the files that belong to a suffix.
_OWN = {
    ".npz": ("NumPy arrays (.npz)", _ZIP),
    ".safetensors": ("a safetensors file",),
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".bin"), _TORCHS),
}
SUFFIXES = (".caffemodel", ".npz", ".safetensors", ".pth", ".pt", ".pth.tar", ".ckpt", ".bin")


@dataclass(frozen=True)
class WeightFile:
    """Hold what a file of weights contains.

    Attributes:
        arrays: by their headers, each read when wanted.
        layers: names of all layers in the order in which they run, where the file tells: a ``.caffemodel``, or what
            was converted from one.
        metadata: what else the file tells, by name (``.safetensors``).
    """

    arrays: list[StoredArray]
    layers: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def open_weights(path: StrPath) -> WeightFile:
    """The arrays in a file of weights, by its suffix, one of `SUFFIXES`; PyTorch's files by what is in them.

    Raises:
        FileFormatError: another suffix; damaged, cut short, or holding anything but numbers.
        OSError: it cannot be opened.
    """
    with open(path, "rb") as file:  # whatever the readers make of a path that is none
        start = file.read(SIGNATURE_BYTES)
    if not start:
        raise FileFormatError(path, "is empty")
    suffix = Path(path).suffix.lower()
    if Path(path).name.lower().endswith((".pth.tar", ".pt.tar")):  # as PyTorch's ImageNet program names checkpoints
        suffix = ".pth"
    what = describe_signature(start)
    if suffix not in SUFFIXES and what == _TORCH:  # checkpoint.tar, or no suffix at all
        suffix = ".pth"
    try:
        return _read(path, suffix)
    except FileFormatError as error:
        if what is None or what in _OWN.get(suffix, ()):
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
    raise FileFormatError(path, f"weights come as {', '.join(SUFFIXES)}, not {suffix or 'without a suffix'}")
