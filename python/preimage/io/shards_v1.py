"""Read single files of features in format version 1: one tensor per image, keys and sizes in the metadata.

``preimage convert`` rewrites them in the current format.
"""

from __future__ import annotations

import math
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.atomic import StrPath, key_problem
from preimage.io.checksum import file_digest
from preimage.io.feature_file import FeatureFile, Size, is_size, shape_problem
from preimage.io.shards import Header, loads, loads_text, parse_spec
from preimage.spec import Spec

_KINDS: dict[str, tuple[str, np.dtype[Any]]] = {
    "float32": ("F32", np.dtype("<f4")),
    "float16": ("F16", np.dtype("<f2")),
}


def read_features_v1(path: StrPath, file: BinaryIO, header: Header, size: int) -> FeatureFile:
    """Open a file of features in format version 1 and compare its contents with its checksum.

    Args:
        path: Path of the file.
        file: The file, open for reading.
        header: Header as returned by `preimage.io.shards.read_header`.
        size: Size of the file in bytes.

    Raises:
        FileFormatError: The file is damaged or inconsistent.
    """
    if file_digest(file, 8 + header.position) != header.digest:
        raise FileFormatError(path, "damaged: checksum mismatch (truncated, or bits changed)")
    try:
        return _opened(path, header, size)
    except ValueError as error:
        raise FileFormatError(path, str(error)) from error


def _opened(path: StrPath, header: Header, size: int) -> FeatureFile:
    entries = loads(header.text)
    metadata = entries.pop("__metadata__")
    names = ("spec", "dtype", "keys", "original_sizes", "processed_sizes")
    if not isinstance(metadata, dict) or not all(isinstance(metadata.get(name), str) for name in names):
        raise ValueError("the metadata lacks spec, dtype, keys or sizes")
    spec, dtype = parse_spec(metadata["spec"]), metadata["dtype"]
    if dtype not in _KINDS:
        raise ValueError(f"dtype must be one of {', '.join(_KINDS)}, got {dtype[:40]!r}")
    keys = _keys(metadata["keys"])
    code, kind = _KINDS[dtype]
    shapes: list[tuple[int, ...]] = []
    starts = [header.body]
    for key in keys:
        shape = _shape(spec, key, entries.pop(key, None), code, starts[-1] - header.body, kind.itemsize)
        shapes.append(shape)
        starts.append(starts[-1] + math.prod(shape) * kind.itemsize)
    if entries or starts[-1] != size:
        raise ValueError("damaged: its header does not match its tensors")
    memory = np.memmap(path, np.uint8, "r")

    def load(position: int) -> NDArray[Any]:
        stored = np.asarray(memory[starts[position] : starts[position + 1]])
        return stored.view(kind).reshape(shapes[position])

    return FeatureFile(
        path,
        spec,
        keys=keys,
        original_sizes=_sizes(metadata["original_sizes"], len(keys)),
        processed_sizes=_sizes(metadata["processed_sizes"], len(keys)),
        dtype=dtype,
        load=load,
    )


def _keys(text: str) -> list[str]:
    keys = loads_text(text)
    if not isinstance(keys, list):
        raise ValueError("the keys must be a list")
    for key in keys:
        if problem := key_problem(key):
            raise ValueError(problem)
    if len(set(keys)) < len(keys):
        raise ValueError("two images have the same key")
    return keys


def _sizes(text: str, count: int) -> list[Size]:
    sizes = loads_text(text)
    if not isinstance(sizes, list) or len(sizes) != count or not all(map(is_size, sizes)):
        raise ValueError(f"the sizes must be {count} pairs of positive integers")
    return [(height, width) for height, width in sizes]


def _shape(spec: Spec, key: str, entry: object, code: str, start: int, width: int) -> tuple[int, ...]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or not all(type(side) is int and 0 < side < 1 << 40 for side in shape):
        raise ValueError(f"key {key!r} has no tensor with a valid shape")
    if problem := shape_problem(spec, tuple(shape)):
        raise ValueError(f"key {key!r}: {problem}")
    offsets = [start, start + math.prod(shape) * width]
    if entry != {"dtype": code, "shape": shape, "data_offsets": offsets}:
        raise ValueError(f"the tensor of key {key!r} must be {code} at byte {start}")
    return tuple(shape)
