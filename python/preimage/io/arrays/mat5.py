"""List, read and write the variables of MATLAB v5 files (``save -v6`` and ``save -v7``).

SciPy reads and writes the values. Headers are checked here first, because damaged ones can crash SciPy (1.10.1 and
1.17.1):

- ``loadmat`` looks up the stored type of numbers in a C table without a bounds check: a type of 8, 10 or 100000
  instead of 9 (double) is a segmentation fault.
- ``whosmat`` and ``loadmat`` allocate and fill the length in a name's tag, up to 4 GiB; a compressed variable of 1 MB
  made ``whosmat`` use 2 GB.
- ``whosmat`` does not distinguish complex from real numbers, or encodings of text, and inflates 128 kB of each
  variable.

A file consists of a header of 128 bytes and one element per variable: a tag of type and byte count, then a matrix
element, or a zlib stream of one. A matrix element begins with flags, dimensions and name, each an element padded to 8
bytes; the values follow, whose number must match the dimensions. Only the first bytes of each variable are read or
inflated to list them. Cells, structs, objects and sparse arrays are listed, but not read.

Source: MathWorks, "MAT-File Format", version 5 (R2023b).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from preimage.io.file_types import describe_signature
from preimage.optional import import_optional

HEADER_BYTES = 128
MAX_VARIABLES = 400_000
MAX_BYTES_WRITTEN = (1 << 31) - 256  # maximum size of a variable, MATLAB's limit for this version

_MATRIX, _COMPRESSED = 14, 15
_HEAD = 1024  # bytes that contain flags, dimensions and name: at most 63 characters and 32 dimensions
_STORED = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2}  # bytes per value of each type
_TEXTS = {1, 2, 4, 16, 17}
_NUMBERS = _STORED.keys() - {16, 17}
_NUMERIC = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_NAMES = {1: "a cell array", 2: "a struct", 3: "an object", 4: "text", 5: "a sparse array"}
_COMPLEX, _LOGICAL = 0x0800, 0x0200
_TEXT = b"MATLAB 5.0 MAT-file, written by preimage".ljust(116)


@dataclass(frozen=True)
class Variable:
    """Header of a variable.

    Attributes:
        name: Name of the variable.
        shape: Shape: rows, columns, …
        dtype: Dtype of the values; ``None`` if they are not real numbers.
        kind: ``"numbers"``, ``"text"``, or a description of another type.
        start: Offset of the variable's element in the file, including the tag.
        size: Number of bytes of the element, including the tag.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    kind: str
    start: int
    size: int


def require_scipy() -> ModuleType:
    """Return the module ``scipy.io``; ``ImportError`` explains how to install it."""
    return import_optional("scipy")


def variables(file: IO[bytes]) -> Iterator[Variable]:
    """Yield the variables of an open file.

    Raises:
        ValueError: The file is damaged, or not a MATLAB v5 file.
    """
    file.seek(0, 2)
    end = file.tell()
    order = _byte_order(_exactly(file, 0, HEADER_BYTES))
    start = HEADER_BYTES
    for _ in range(MAX_VARIABLES):
        if start + 8 > end:
            if start < end:
                raise ValueError("truncated, or followed by other data")
            return
        kind, size = struct.unpack(order + "II", _exactly(file, start, 8))
        remaining = end - start - 8
        if kind not in (_MATRIX, _COMPRESSED):
            raise ValueError(f"contains an element of type {kind}, which is not a variable")
        if size > remaining:
            raise ValueError(f"truncated: {remaining} of {size} bytes of a variable")
        head, total = _exactly(file, start + 8, min(size, 4 * _HEAD)), size
        if kind == _COMPRESSED:
            head, total = _inflated_head(head, order)
        yield Variable(*_described(head, order, total), start, size + 8)
        start += size + 8
    if start < end:
        raise ValueError(f"contains more than {MAX_VARIABLES} variables")


def read(file: IO[bytes], variable: Variable) -> NDArray[Any]:
    """Read the values of a variable, with its dtype and shape.

    Raises:
        ValueError: The variable is damaged.
    """
    dtype, found = variable.dtype, _loaded(file, variable, chars_as_strings=False)
    if found.shape != variable.shape or dtype is None:
        raise ValueError(f"{variable.name!r} is damaged")
    # MATLAB stores floating-point arrays of whole numbers as integers, and never uses a wider type.
    if not np.can_cast(found.dtype, dtype) and (dtype.kind, found.dtype.kind) not in (("f", "i"), ("f", "u")):
        raise ValueError(f"{variable.name!r} is damaged: {dtype.name} stored as {found.dtype.name}")
    return found.astype(dtype, copy=False)


def read_text(file: IO[bytes], variable: Variable) -> str:
    """Read a text variable of one row.

    Raises:
        ValueError: The variable is damaged.
    """
    return str(_loaded(file, variable, chars_as_strings=True).item())


def write(file: IO[bytes], entries: Iterable[tuple[str, NDArray[Any] | str]]) -> None:
    """Write variables without compression, one at a time. Vectors become columns. Equal entries give equal bytes.

    Raises:
        ValueError: A variable has more bytes than MATLAB v5 files allow.
    """
    require_scipy().savemat(file, SimpleNamespace(items=lambda: map(_writable, entries)), oned_as="column")
    file.seek(0)
    file.write(_TEXT)  # SciPy writes the date


def _writable(entry: tuple[str, NDArray[Any] | str]) -> tuple[str, NDArray[Any] | str]:
    name, value = entry
    size = len(value) if isinstance(value, str) else value.nbytes
    if size > MAX_BYTES_WRITTEN:
        raise ValueError(f"{name} must have at most {MAX_BYTES_WRITTEN} bytes in a MATLAB v5 file, got {size}")
    return entry


class _Excerpt:
    """View of a file with only one of its variables, because SciPy would traverse all variables before it."""

    def __init__(self, file: IO[bytes], variable: Variable) -> None:
        self._file, self._at = file, 0
        self._parts = ((HEADER_BYTES, 0), (HEADER_BYTES + variable.size, variable.start - HEADER_BYTES))

    def read(self, count: int) -> bytes:
        end, shift = self._parts[self._at >= HEADER_BYTES]
        self._file.seek(self._at + shift)
        data = self._file.read(max(0, min(count, end - self._at)))
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (self._at if whence else 0)
        return self._at

    def tell(self) -> int:
        return self._at


def _loaded(file: IO[bytes], variable: Variable, *, chars_as_strings: bool) -> NDArray[Any]:
    """Read a variable with SciPy, after its header was checked."""
    scipy_io = require_scipy()
    try:
        found = scipy_io.loadmat(
            _Excerpt(file, variable),
            variable_names=[variable.name],
            chars_as_strings=chars_as_strings,
            verify_compressed_data_integrity=True,
            uint16_codec="utf-16-le",
        )[variable.name]
        if not isinstance(found, np.ndarray):
            raise TypeError(found)
    except Exception as error:  # SciPy, zlib and NumPy raise many types for damaged files
        raise ValueError(f"{variable.name!r} is damaged: {error or type(error).__name__}") from error
    return found


def _byte_order(head: bytes) -> str:
    if head.startswith(b"MATLAB 7.3") or head[:8] == b"\x89HDF\r\n\x1a\n":
        raise ValueError("is a MATLAB v7.3 file (HDF5): save it with '-v7' instead")
    order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
    if order is None or struct.unpack(order + "H", head[124:126])[0] >> 8 != 1 or 0 in head[:4]:
        what = describe_signature(head)
        but = f", but {what}" if what else ""
        raise ValueError(f"is not a MATLAB v5 file{but} (v4 files are not supported: save with '-v7')")
    return order


def _exactly(file: IO[bytes], offset: int, count: int) -> bytes:
    file.seek(offset)
    data = file.read(count)
    if len(data) < count:
        raise ValueError("truncated")
    return data


def _inflated_head(compressed: bytes, order: str) -> tuple[bytes, int]:
    """Return the first bytes of the matrix in a zlib stream, and the size in its tag."""
    try:
        head = zlib.decompressobj().decompress(compressed, _HEAD)
    except zlib.error as error:
        raise ValueError(f"contains a damaged variable: {error}") from error
    if len(head) < 8:
        raise ValueError("contains a damaged variable")
    kind, size = struct.unpack(order + "II", head[:8])
    if kind != _MATRIX:
        raise ValueError(f"contains an element of type {kind}, which is not a variable")
    return head[8:], size


def _described(head: bytes, order: str, total: int) -> tuple[str, tuple[int, ...], np.dtype[Any] | None, str]:
    """Return name, shape, dtype and kind of a variable from the first bytes of its element.

    Everything that could crash SciPy is rejected here, so the parts are parsed as SciPy parses them.
    """
    parts, start = [], 0
    for expected in ((6,), (5,), (1, 16)):
        kind, count, begin, start = _tag(head, start, order)
        if kind not in expected or begin + count > len(head):
            raise ValueError("contains a variable with a damaged header")
        parts.append(head[begin : begin + count])
    flags, sides, letters = parts
    if len(flags) != 8:
        raise ValueError("contains a variable without flags")
    if not 8 <= len(sides) <= 128 or len(sides) % 4:
        raise ValueError("contains a variable without dimensions")
    what, dtype = _kind(struct.unpack(order + "II", flags)[0])
    shape = struct.unpack(f"{order}{len(sides) // 4}i", sides)
    name = letters.decode("latin-1")
    if len(letters) > 63 or min(shape) < 0:
        raise ValueError(f"contains a variable with a damaged name or size ({name!r:.40}, {shape})")
    if not name or name.startswith("_"):  # function workspaces have no name; SciPy uses underscores for other entries
        return name, shape, None, "a variable whose name is not valid in MATLAB"
    if dtype is None and what != "text":
        return name, shape, None, what
    kind, count, begin, _ = _tag(head, start, order)
    known = kind in (_TEXTS if dtype is None else _NUMBERS)
    fits = known and count == math.prod(shape) * _STORED[kind]
    if dtype is None and not fits:  # in text that is not ASCII the number of bytes is not that of characters
        return name, shape, None, "text of another encoding"
    if not known:
        raise ValueError(f"{name!r} has data of an invalid type {kind}")
    if not fits or begin + count > total:
        raise ValueError(f"{name!r} has {count} bytes of data, which do not match its shape {shape}")
    return name, shape, dtype, what


def _kind(word: int) -> tuple[str, np.dtype[Any] | None]:
    """Return the kind of a variable according to its flags, and the dtype of numbers."""
    if word & _COMPLEX:
        return "a complex array", None
    if word & _LOGICAL:
        return "a logical array", None
    if (number := word & 0xFF) in _NUMERIC:
        return "numbers", np.dtype(_NUMERIC[number])
    return _NAMES.get(number, "of an unknown class"), None


def _tag(head: bytes, start: int, order: str) -> tuple[int, int, int, int]:
    """Return type, byte count, start of the data, and start of the next element. The tag can contain up to 4 bytes."""
    if start + 8 > len(head):
        raise ValueError("contains a variable with a damaged header")
    kind, count = struct.unpack_from(order + "II", head, start)
    if kind >> 16 > 4:
        raise ValueError("contains a variable with a damaged header")
    if kind >> 16:
        return kind & 0xFFFF, kind >> 16, start + 4, start + 8
    return kind, count, start + 8, start + 8 + count + -count % 8
