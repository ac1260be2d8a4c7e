"""Weights from and to ``.safetensors``."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.arrays.stored import StoredArray
from preimage.io.atomic import StrPath, atomic_write

_DTYPES = {"F16": "<f2", "BF16": "<f4", "F32": "<f4", "F64": "<f8"}  # NumPy has no bfloat16
_CODES = {"float32": "F32", "float16": "F16"}


def read_tensors(path: StrPath) -> list[StoredArray]:
    """The floating-point tensors in a ``.safetensors`` file, bfloat16 as float32; `FileFormatError` if it is none."""
    arrays = []
    try:
        with safetensors.safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no dictionary
                part = file.get_slice(name)
                if part.get_dtype() in _DTYPES:
                    load = functools.partial(_load, path, name)
                    arrays.append(StoredArray(name, tuple(part.get_shape()), np.dtype(_DTYPES[part.get_dtype()]), load))
    except safetensors.SafetensorError as error:
        raise FileFormatError(path, f"no safetensors file: {error}") from error
    return arrays


def _load(path: StrPath, name: str) -> NDArray[Any]:
    try:
        with safetensors.safe_open(path, "pt") as file:  # torch knows bfloat16
            tensor = file.get_tensor(name)
            values: NDArray[Any] = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
            return values
    except safetensors.SafetensorError as error:
        raise FileFormatError(path, f"no safetensors file: {error}") from error


def write_tensors(path: StrPath, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write a ``.safetensors`` file atomically, without a second copy of the tensors in memory.

    Args:
        path: in a folder that exists.
        tensors: float32 or float16, by name.
        metadata: kept in the header.

    Raises:
        ValueError: another dtype, or a path that cannot be written to.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    # The widest first, which keeps every tensor aligned, as the format's own writer does.
    for name in (order := sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))):
        array = tensors[name]
        if array.dtype.name not in _CODES:
            raise ValueError(f"{name}: weights are float32 or float16, got {array.dtype.name}")
        offsets = [start, start + array.nbytes]
        entries[name] = {"dtype": _CODES[array.dtype.name], "shape": array.shape, "data_offsets": offsets}
        start += array.nbytes
    header = json.dumps(entries, separators=(",", ":")).encode("ascii")
    header += b" " * (-len(header) % 8)
    with atomic_write(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in order:
            array = np.ascontiguousarray(tensors[name])
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
