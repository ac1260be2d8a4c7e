"""Read the vectors of a flat FAISS index. The file is memory-mapped, and FAISS is not needed.

The layout is that of ``faiss/impl/index_write.cpp``: a four-letter type, dimension, number of vectors, two numbers
without meaning, a flag, the metric, and for a flat index the number of floats and the float32 vectors. An `IndexIDMap`
contains an index and after it the number of ids and the int64 ids.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from preimage.errors import FileFormatError
from preimage.io.arrays.stored_arrays import StoredArray
from preimage.io.atomic import StrPath

_FLAT = {b"IxF2": "IndexFlatL2", b"IxFI": "IndexFlatIP", b"IxFl": "IndexFlat"}
_ID_MAPS = {b"IxMp": "IndexIDMap", b"IxM2": "IndexIDMap2"}
# Types that are recognized only to say what they are, by the start of their four letters.
_OTHERS = {
    **{b"IwFl": "IndexIVFFlat", b"IwPQ": "IndexIVFPQ", b"IwSQ": "IndexIVFScalarQuantizer", b"IvFl": "IndexIVFFlat"},
    **{b"IxPQ": "IndexPQ", b"IxPq": "IndexPQ", b"IxSQ": "IndexScalarQuantizer", b"IxPT": "IndexPreTransform"},
    **{b"IHNf": "IndexHNSWFlat", b"IHNp": "IndexHNSWPQ", b"IHNs": "IndexHNSWSQ", b"IxHe": "IndexLSH"},
    **{b"INSf": "IndexNSGFlat", b"IxRF": "IndexRefineFlat", b"IBxF": "IndexBinaryFlat"},
}
_MAX_DIMENSION = 1 << 20
_COUNT = struct.Struct("<Q")
_HEADER = struct.Struct("<iqqq?i")  # dimension, vectors, two without meaning, whether it is trained, metric


class _Header(NamedTuple):
    dimension: int
    vectors: int


def open_faiss(path: StrPath) -> StoredArray:
    """Return the vectors (N, d) float32 of a flat FAISS index, not yet read.

    Args:
        path: Path of a file of ``faiss.write_index`` with an `IndexFlatL2`, `IndexFlatIP` or `IndexFlat`, also inside
            an `IndexIDMap` or `IndexIDMap2`, whose vectors are returned in ascending order of their ids.

    Raises:
        FileFormatError: The file is damaged or truncated, or an index of another type; the message names the type.
    """
    size = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            order = None
            kind = file.read(4)
            if kind in _ID_MAPS:
                outer = _read_header(file)
                kind = file.read(4)
                _check_flat(kind, "an IndexIDMap of ")
                header, start = _read_flat(file, size)
                order = _read_order(file, size, outer, header)
            else:
                _check_flat(kind)
                header, start = _read_flat(file, size)
            if file.read(1):
                raise ValueError("there are further bytes after the index")
    except (ValueError, struct.error) as error:
        problem = "truncated" if isinstance(error, struct.error) else str(error)
        raise FileFormatError(path, problem) from error
    shape = header.vectors, header.dimension

    def load() -> npt.NDArray[np.float32]:
        vectors = np.memmap(path, "<f4", "r", offset=start, shape=shape)
        return vectors if order is None else vectors[order]

    return StoredArray("vectors", shape, np.dtype("<f4"), load)


def _check_flat(kind: bytes, owner: str = "") -> None:
    if kind in _FLAT:
        return
    known = _OTHERS.get(kind) or _ID_MAPS.get(kind)
    if known is None and not (len(kind) == 4 and kind[:1] == b"I" and kind.isalnum()):
        raise ValueError("not a FAISS index")
    raise ValueError(
        f"the vectors of a flat index are read (IndexFlatL2, IndexFlatIP, also in an IndexIDMap), got {owner}"
        f"{known or 'type ' + kind.decode()}: save the vectors as an array, "
        "np.save('index.npy', index.reconstruct_n(0, index.ntotal))"
    )


def _read_header(file: BinaryIO) -> _Header:
    dimension, count, _, _, _, metric = _HEADER.unpack(file.read(_HEADER.size))
    if not 0 < dimension <= _MAX_DIMENSION or count < 0:
        raise ValueError(f"damaged: it claims {count} vectors of {dimension} numbers")
    if metric > 1:
        file.read(4)  # the argument of the metric
    return _Header(dimension, count)


def _read_flat(file: BinaryIO, size: int) -> tuple[_Header, int]:
    """Return the header of a flat index and the offset of its vectors, and skip these."""
    header = _read_header(file)
    (floats,) = _COUNT.unpack(file.read(_COUNT.size))
    start = file.tell()
    if floats != header.vectors * header.dimension:
        raise ValueError(f"damaged: {floats} floats for {header.vectors} vectors of {header.dimension} numbers")
    if start + 4 * floats > size:
        raise ValueError(f"truncated: {size} of {start + 4 * floats} bytes")
    if not floats:
        raise ValueError("contains no vectors")
    file.seek(start + 4 * floats)
    return header, start


def _read_order(file: BinaryIO, size: int, outer: _Header, inner: _Header) -> npt.NDArray[np.int64]:
    """Return the positions of the vectors in ascending order of their ids."""
    (count,) = _COUNT.unpack(file.read(_COUNT.size))
    if outer != inner or count != inner.vectors:
        raise ValueError(f"damaged: {count} ids for {inner.vectors} vectors")
    if file.tell() + 8 * count > size:
        raise ValueError(f"truncated: {size} of {file.tell() + 8 * count} bytes")
    ids = np.frombuffer(file.read(8 * count), "<i8")
    order = np.argsort(ids, kind="stable")
    if (np.diff(ids[order]) == 0).any():
        raise ValueError("two vectors have the same id")
    return order
