"""Read and write weights in ``.safetensors`` files."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.arrays.stored_arrays import StoredArray
from preimage.io.atomic import StrPath, atomic_write
from preimage.io.checksum import CHECKSUM, write_checksum

_DTYPES = {"F16": "<f2", "BF16": "<f4", "F32": "<f4", "F64": "<f8"}  # NumPy has no bfloat16
_CODES = {"<f2": "F16", "<f4": "F32", "<f8": "F64", "|u1": "U8"}


def read_tensors(path: StrPath) -> tuple[list[StoredArray], dict[str, str]]:
    """Return the floating-point tensors in a ``.safetensors`` file, bfloat16 as float32, and its metadata.

    Raises:
        FileFormatError: The file is damaged or of another format.
    """
    arrays = []
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                part = file.get_slice(name)
                if part.get_dtype() in _DTYPES:
                    load = functools.partial(_load, path, name)
                    arrays.append(StoredArray(name, tuple(part.get_shape()), np.dtype(_DTYPES[part.get_dtype()]), load))
    except safetensors.SafetensorError as error:
        raise FileFormatError(path, f"not a safetensors file: {error}") from error
    return arrays, metadata


def _load(path: StrPath, name: str) -> NDArray[Any]:
    try:
        with safetensors.safe_open(path, "pt") as file:  # torch supports bfloat16
            tensor = file.get_tensor(name)
            values: NDArray[Any] = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
            return values
    except safetensors.SafetensorError as error:
        raise FileFormatError(path, f"not a safetensors file: {error}") from error


def write_tensors(path: StrPath, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata to a ``.safetensors`` file, atomically. The folder must exist.

    Tensors may be of float16, float32, float64 or uint8. They are written one by one, without a copy of the file in
    memory. If the metadata contains ``sha256`` (zeros), it becomes the checksum of the file.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    little = {name: array.astype(array.dtype.newbyteorder("<"), copy=False) for name, array in tensors.items()}
    # The largest elements first, so that every tensor is aligned.
    arrays = dict(sorted(little.items(), key=lambda item: (-item[1].itemsize, item[0])))
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        entries[name] = {"dtype": _CODES[array.dtype.str], "shape": array.shape, "data_offsets": [start, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with atomic_write(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        if CHECKSUM in metadata:
            write_checksum(file)
