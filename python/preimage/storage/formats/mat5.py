"""The bytes of a MATLAB v5 file (``save -v6`` and ``save -v7``): numeric and text variables, nothing nested.

A file is 128 bytes of header, then one element a variable: a tag of type and byte count, then a matrix element, or a
zlib stream that holds one. A matrix element consists of flags, dimensions, name and data, each an element padded to
8 bytes. Only the first bytes of each are read to list the variables, and no more bytes than a variable's own
dimensions ask for are ever read or decompressed. Cells, structs, objects and sparse arrays are listed, never read.

Source: MathWorks, "MAT-File Format", version 5 (R2023b); ``scipy.io`` is what the tests compare with.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

HEADER_BYTES = 128
MAX_VARIABLES = 400_000
MAX_BYTES_WRITTEN = (1 << 31) - 256  # of one variable; MATLAB's limit for this version

_MATRIX, _COMPRESSED = 14, 15
_HEAD = 1024  # flags, dimensions and name are within these bytes: at most 63 characters and 32 dimensions
_BLOCK = 1 << 16
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "i1", 2: "u1", 4: "u2", 16: "u1", 17: "u2"}
_NUMERIC = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_NAMES = {1: "a cell array", 2: "a struct", 3: "an object", 5: "a sparse array"}
_CHAR, _COMPLEX, _LOGICAL = 4, 0x0800, 0x0200


@dataclass(frozen=True)
class Variable:
    """A variable of a file, by its header.

    Attributes:
        name: as MATLAB knows it.
        shape: rows, columns, …
        dtype: of its numbers; ``None`` if it cannot be read (see `kind`). Text is uint16.
        kind: ``"numbers"``, ``"text"``, or what it is instead.
        stored: of its numbers in the file, which may be smaller.
        offset: of its element's contents in the file.
        size: of them, bytes.
        compressed: whether they are a zlib stream.
        data_start: of the numbers within the (decompressed) element.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    kind: str
    stored: np.dtype[Any]
    offset: int
    size: int
    compressed: bool
    data_start: int


def variables(file: IO[bytes]) -> Iterator[Variable]:
    """The variables of an open file; ``ValueError`` says what is wrong with it."""
    file.seek(0, 2)
    end = file.tell()
    order = _byte_order(_exactly(file, 0, HEADER_BYTES))
    offset = HEADER_BYTES
    for _ in range(MAX_VARIABLES):
        if offset + 8 > end:
            if offset < end:
                raise ValueError("cut short, or other bytes at its end")
            return
        kind, size = struct.unpack(order + "II", _exactly(file, offset, 8))
        offset += 8
        if kind not in (_MATRIX, _COMPRESSED):
            raise ValueError(f"holds an element of type {kind}, which is no variable")
        if size > end - offset:
            raise ValueError(f"cut short: a variable of {size} bytes, of which {end - offset} are there")
        head = _exactly(file, offset, min(size, 4 * _HEAD))
        if kind == _COMPRESSED:
            head, size_inside = _decompressed_head(head, order)
            yield _described(head, order, offset, size, size_inside)
        else:
            yield _described(head, order, offset, size, None)
        offset += size
    if offset < end:
        raise ValueError(f"holds more than {MAX_VARIABLES} variables")


def read(file: IO[bytes], variable: Variable) -> NDArray[Any]:
    """The numbers of a variable, in its dtype and shape; ``ValueError`` if they are damaged."""
    assert variable.dtype is not None
    count = math.prod(variable.shape) * variable.stored.itemsize
    file.seek(variable.offset)
    if variable.compressed:
        data = _inflate(file, variable, count)
    else:
        data = _exactly(file, variable.offset + variable.data_start, count)
    numbers = np.frombuffer(data, variable.stored).astype(variable.dtype, copy=False)
    return numbers.reshape(variable.shape, order="F")


def text(numbers: NDArray[Any]) -> str:
    """The characters of a text variable with one row."""
    return numbers.astype("<u2").reshape(-1).tobytes().decode("utf-16-le")


def header(order: str = "<") -> bytes:
    """The first 128 bytes of a file; the same every time."""
    words = b"MATLAB 5.0 MAT-file, written by preimage"
    return words.ljust(116) + bytes(8) + struct.pack(order + "HH", 0x0100, 0x4D49)


def matrix(name: str, array: NDArray[Any] | str) -> bytes:
    """A variable as an element, uncompressed; single, double or uint8 numbers, or ASCII text as a row.

    Raises:
        ValueError: another dtype, or more bytes than MATLAB reads.
    """
    if isinstance(array, str):
        data, shape, kind, stored = array.encode("ascii"), (1, len(array)), _CHAR, 16
    else:
        codes = {"float64": (6, 9), "float32": (7, 7), "uint8": (9, 2)}
        if array.dtype.name not in codes:
            raise ValueError(f"a MATLAB file holds float32, float64 or uint8 here, got {array.dtype}")
        kind, stored = codes[array.dtype.name]
        shape = array.shape if array.ndim > 1 else (array.size, 1)
        data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(order="F")
    if len(data) > MAX_BYTES_WRITTEN:
        raise ValueError(f"{name} has {len(data)} bytes; a variable of a v5 file has at most {MAX_BYTES_WRITTEN}")
    body = b"".join(
        [
            _element(6, struct.pack("<II", kind, 0)),
            _element(5, struct.pack(f"<{len(shape)}i", *shape)),
            _element(1, name.encode("ascii")),
            _element(stored, data),
        ]
    )
    return struct.pack("<II", _MATRIX, len(body)) + body


def _element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def _byte_order(head: bytes) -> str:
    if head.startswith(b"MATLAB 7.3") or head[:8] == b"\x89HDF\r\n\x1a\n":
        raise ValueError("is a MATLAB v7.3 file, which is HDF5 inside: save it with '-v7' instead")
    order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
    if order is None or struct.unpack(order + "H", head[124:126])[0] >> 8 != 1:
        raise ValueError("is no MATLAB v5 file (v4 files are not read: save with '-v7')")
    return order


def _exactly(file: IO[bytes], offset: int, count: int) -> bytes:
    file.seek(offset)
    data = file.read(count)
    if len(data) < count:
        raise ValueError("cut short")
    return data


def _decompressed_head(compressed: bytes, order: str) -> tuple[bytes, int]:
    """The first bytes of the matrix in a zlib stream, and the size its tag tells."""
    try:
        head = zlib.decompressobj().decompress(compressed, _HEAD)
    except zlib.error as error:
        raise ValueError(f"holds a damaged variable: {error}") from error
    if len(head) < 8:
        raise ValueError("holds a damaged variable")
    kind, size = struct.unpack(order + "II", head[:8])
    if kind != _MATRIX:
        raise ValueError(f"holds an element of type {kind}, which is no variable")
    return head, size


def _described(head: bytes, order: str, offset: int, size: int, size_inside: int | None) -> Variable:
    """The variable that an element's first bytes describe; its numbers must fill the element."""
    start = 0 if size_inside is None else 8
    total = size if size_inside is None else size_inside + 8
    kind, flags, start = _part(head, start, order)
    if kind != 6 or len(flags) != 8:
        raise ValueError("holds a variable without flags")
    word = struct.unpack(order + "I", flags[:4])[0]
    kind, sides, start = _part(head, start, order)
    if kind != 5 or not 8 <= len(sides) <= 128 or len(sides) % 4:
        raise ValueError("holds a variable without dimensions")
    shape = struct.unpack(f"{order}{len(sides) // 4}i", sides)
    kind, name_bytes, start = _part(head, start, order)
    name = name_bytes.decode("ascii", "replace")
    if kind not in (1, 2, 16) or len(name_bytes) > 63 or min(shape) < 0:
        raise ValueError(f"holds a variable with a damaged name or size ({name!r:.40}, {shape})")
    what, dtype, codes = _kind(word)
    stored = np.dtype("u1")
    if dtype is not None:
        try:
            stored, start = _data(head, start, order, codes, name, math.prod(shape), total)
        except ValueError:
            if what != "text":  # text that is not ASCII has another number of bytes than characters
                raise
            what, dtype = "text of another encoding", None
    return Variable(name, shape, dtype, what, stored, offset, size, size_inside is not None, start)


def _kind(word: int) -> tuple[str, np.dtype[Any] | None, dict[int, str]]:
    """What a variable is, by its flags; the dtype of what can be read."""
    number = word & 0xFF
    if word & _COMPLEX:
        return "a complex array", None, {}
    if word & _LOGICAL:
        return "a logical array", None, {}
    if number == _CHAR:
        return "text", np.dtype("u2"), _TEXTS
    if number in _NUMERIC:
        return "numbers", np.dtype(_NUMERIC[number]), _STORED
    return _NAMES.get(number, "of an unknown class"), None, {}


def _part(head: bytes, start: int, order: str) -> tuple[int, bytes, int]:
    """Type and bytes of a short element, and where the next begins."""
    kind, count, begin, following = _tag(head, start, order)
    if begin + count > len(head):
        raise ValueError("holds a variable whose description is damaged")
    return kind, head[begin : begin + count], following


def _tag(head: bytes, start: int, order: str) -> tuple[int, int, int, int]:
    """Type, byte count, where the bytes begin, and where the next element does. Up to 4 bytes may lie in the tag."""
    if start + 8 > len(head):
        raise ValueError("holds a variable whose description is damaged")
    kind, count = struct.unpack(order + "II", head[start : start + 8])
    if kind >> 16 > 4:
        raise ValueError("holds a variable whose description is damaged")
    if kind >> 16:
        return kind & 0xFFFF, kind >> 16, start + 4, start + 8
    return kind, count, start + 8, start + 8 + count + -count % 8


def _data(
    head: bytes, start: int, order: str, codes: dict[int, str], name: str, count: int, total: int
) -> tuple[np.dtype[Any], int]:
    """How the numbers are stored and where they begin; refused if they are not as many as the dimensions say."""
    kind, size, begin, _ = _tag(head, start, order)
    if kind not in codes:
        raise ValueError(f"holds {name!r} with data of type {kind}")
    stored = np.dtype(order + codes[kind])
    if count * stored.itemsize != size or begin + size > total:
        raise ValueError(f"holds {name!r} with {size} bytes of data, which its size does not fit")
    return stored, begin


def _inflate(file: IO[bytes], variable: Variable, count: int) -> bytes:
    """`count` bytes of a variable's numbers; its zlib stream must end right after, with the right checksum."""
    stream, left = zlib.decompressobj(), variable.size
    skip, data, waiting = variable.data_start, bytearray(), b""
    wanted = skip + count + 8  # up to 7 bytes of padding; one more would show what does not belong there
    seen = 0
    try:
        while not stream.eof and seen < wanted:
            if not waiting:
                block = file.read(min(_BLOCK, left))
                left -= len(block)
                if not block:
                    break
                waiting = block
            piece = stream.decompress(waiting, min(_BLOCK * 16, wanted - seen))
            waiting = stream.unconsumed_tail
            data += piece[max(0, skip - seen) :]
            seen += len(piece)
    except zlib.error as error:
        raise ValueError(f"{variable.name!r} is damaged: {error}") from error
    if not stream.eof or len(data) < count:
        raise ValueError(f"{variable.name!r} is damaged or cut short")
    return bytes(memoryview(data)[:count])
