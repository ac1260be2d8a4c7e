"""MATLAB v5 files (``save -v6`` and ``save -v7``): SciPy reads and writes their variables, this checks their headers.

Only variables whose headers were checked here reach SciPy, which damaged ones can bring down (1.10.1 and 1.17.1):

- ``loadmat`` looks up the stored type of numbers in a C table without comparing it with the table's length: a type
  of 8, 10 or 100000 in the place of 9 (double) ends the interpreter with a segmentation fault.
- ``whosmat`` and ``loadmat`` reserve and fill what a name's tag asks for, up to 4 GiB; a compressed variable of 1 MB
  made ``whosmat`` use 2 GB.
- ``whosmat`` does not tell complex numbers from real ones, nor text's encoding, and inflates 128 kB of each variable.

A file is 128 bytes of header, then one element a variable: a tag of type and byte count, then a matrix element, or a
zlib stream that holds one. A matrix element begins with flags, dimensions and name, each an element padded to 8 bytes;
then come the numbers, which must be exactly as many as the dimensions say. No more than the first bytes of each
variable are read or inflated to list them. Cells, structs, objects and sparse arrays are listed, never read.

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
MAX_BYTES_WRITTEN = (1 << 31) - 256  # of one variable; MATLAB's limit for this version

_MATRIX, _COMPRESSED = 14, 15
_HEAD = 1024  # flags, dimensions and name are within these bytes: at most 63 characters and 32 dimensions
_STORED = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2}  # bytes of each type
_TEXTS = {1, 2, 4, 16, 17}
_NUMBERS = _STORED.keys() - {16, 17}
_NUMERIC = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_NAMES = {1: "a cell array", 2: "a struct", 3: "an object", 4: "text", 5: "a sparse array"}
_COMPLEX, _LOGICAL = 0x0800, 0x0200
_WORDS = b"MATLAB 5.0 MAT-file, written by preimage".ljust(116)


@dataclass(frozen=True)
class Variable:
    """A variable of a file, by its header.

    Attributes:
        name: as MATLAB knows it.
        shape: rows, columns, …
        dtype: of its numbers; ``None`` if it has none that can be read (see `kind`).
        kind: ``"numbers"``, ``"text"``, or what it is instead.
        start: of its element in the file, with the tag.
        size: of the element, bytes, with the tag.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    kind: str
    start: int
    size: int


def require_scipy() -> ModuleType:
    """``scipy.io``, or an ``ImportError`` that says how to get it."""
    return import_optional("scipy")


def variables(file: IO[bytes]) -> Iterator[Variable]:
    """The variables of an open file; ``ValueError`` says what is wrong with it."""
    file.seek(0, 2)
    end = file.tell()
    order = _byte_order(_exactly(file, 0, HEADER_BYTES))
    start = HEADER_BYTES
    for _ in range(MAX_VARIABLES):
        if start + 8 > end:
            if start < end:
                raise ValueError("cut short, or other bytes at its end")
            return
        kind, size = struct.unpack(order + "II", _exactly(file, start, 8))
        left = end - start - 8
        if kind not in (_MATRIX, _COMPRESSED):
            raise ValueError(f"holds an element of type {kind}, which is no variable")
        if size > left:
            raise ValueError(f"cut short: a variable of {size} bytes, of which {left} are there")
        head, total = _exactly(file, start + 8, min(size, 4 * _HEAD)), size
        if kind == _COMPRESSED:
            head, total = _inflated_head(head, order)
        yield Variable(*_described(head, order, total), start, size + 8)
        start += size + 8
    if start < end:
        raise ValueError(f"holds more than {MAX_VARIABLES} variables")


def read(file: IO[bytes], variable: Variable) -> NDArray[Any]:
    """The numbers of a variable, in its dtype and shape; ``ValueError`` if they are damaged."""
    dtype, found = variable.dtype, _loaded(file, variable, chars_as_strings=False)
    if found.shape != variable.shape or dtype is None:
        raise ValueError(f"{variable.name!r} is damaged")
    # MATLAB stores floating-point numbers that are whole as integers, and nothing in a type that holds more.
    if not np.can_cast(found.dtype, dtype) and (dtype.kind, found.dtype.kind) not in (("f", "i"), ("f", "u")):
        raise ValueError(f"{variable.name!r} is damaged: {dtype.name} stored as {found.dtype.name}")
    return found.astype(dtype, copy=False)


def read_text(file: IO[bytes], variable: Variable) -> str:
    """A text variable with one row; ``ValueError`` if it is damaged."""
    return str(_loaded(file, variable, chars_as_strings=True).item())


def write(file: IO[bytes], entries: Iterable[tuple[str, NDArray[Any] | str]]) -> None:
    """Write variables, uncompressed, taking one at a time; vectors become columns. Equal entries give equal bytes.

    Raises:
        ValueError: more bytes than MATLAB reads in one variable.
    """
    require_scipy().savemat(file, SimpleNamespace(items=lambda: map(_writable, entries)), oned_as="column")
    file.seek(0)
    file.write(_WORDS)  # SciPy tells the date


def _writable(entry: tuple[str, NDArray[Any] | str]) -> tuple[str, NDArray[Any] | str]:
    name, value = entry
    size = len(value) if isinstance(value, str) else value.nbytes
    if size > MAX_BYTES_WRITTEN:
        raise ValueError(f"{name} has {size} bytes; a variable of a v5 file has at most {MAX_BYTES_WRITTEN}")
    return entry


class _Excerpt:
    """The header of a file and one of its variables, as if there were no other: SciPy would walk past all before."""

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
    """What SciPy reads of a variable whose header was found right."""
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
    except Exception as error:  # whatever SciPy, zlib and NumPy make of damaged bytes
        raise ValueError(f"{variable.name!r} is damaged: {error or type(error).__name__}") from error
    return found


def _byte_order(head: bytes) -> str:
    if head.startswith(b"MATLAB 7.3") or head[:8] == b"\x89HDF\r\n\x1a\n":
        raise ValueError("is a MATLAB v7.3 file, which is HDF5 inside: save it with '-v7' instead")
    order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
    if order is None or struct.unpack(order + "H", head[124:126])[0] >> 8 != 1 or 0 in head[:4]:
        what = describe_signature(head)
        but = f", but {what}" if what else ""
        raise ValueError(f"is no MATLAB v5 file{but} (v4 files are not read: save with '-v7')")
    return order


def _exactly(file: IO[bytes], offset: int, count: int) -> bytes:
    file.seek(offset)
    data = file.read(count)
    if len(data) < count:
        raise ValueError("cut short")
    return data


def _inflated_head(compressed: bytes, order: str) -> tuple[bytes, int]:
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
    return head[8:], size


def _described(head: bytes, order: str, total: int) -> tuple[str, tuple[int, ...], np.dtype[Any] | None, str]:
    """Name, shape, dtype and kind of the variable that an element's first bytes describe.

    What is refused here SciPy must not see; its parts lie where SciPy looks for them.
    """
    parts, start = [], 0
    for expected in ((6,), (5,), (1, 16)):
        kind, count, begin, start = _tag(head, start, order)
        if kind not in expected or begin + count > len(head):
            raise ValueError("holds a variable whose description is damaged")
        parts.append(head[begin : begin + count])
    flags, sides, letters = parts
    if len(flags) != 8:
        raise ValueError("holds a variable without flags")
    if not 8 <= len(sides) <= 128 or len(sides) % 4:
        raise ValueError("holds a variable without dimensions")
    what, dtype = _kind(struct.unpack(order + "II", flags)[0])
    shape = struct.unpack(f"{order}{len(sides) // 4}i", sides)
    name = letters.decode("latin-1")
    if len(letters) > 63 or min(shape) < 0:
        raise ValueError(f"holds a variable with a damaged name or size ({name!r:.40}, {shape})")
    if not name or name.startswith("_"):  # function workspaces have none; SciPy gives other things such names
        return name, shape, None, "of a name that MATLAB does not give"
    if dtype is None and what != "text":
        return name, shape, None, what
    kind, count, begin, _ = _tag(head, start, order)
    known = kind in (_TEXTS if dtype is None else _NUMBERS)
    fits = known and count == math.prod(shape) * _STORED[kind]
    if dtype is None and not fits:  # text that is not ASCII has another number of bytes than characters
        return name, shape, None, "text of another encoding"
    if not known:
        raise ValueError(f"holds {name!r} with data of type {kind}")
    if not fits or begin + count > total:
        raise ValueError(f"holds {name!r} with {count} bytes of data, which its size does not fit")
    return name, shape, dtype, what


def _kind(word: int) -> tuple[str, np.dtype[Any] | None]:
    """What a variable is, by its flags, and the dtype of numbers."""
    if word & _COMPLEX:
        return "a complex array", None
    if word & _LOGICAL:
        return "a logical array", None
    if (number := word & 0xFF) in _NUMERIC:
        return "numbers", np.dtype(_NUMERIC[number])
    return _NAMES.get(number, "of an unknown class"), None


def _tag(head: bytes, start: int, order: str) -> tuple[int, int, int, int]:
    """Type, byte count, where the bytes begin, and where the next element does. Up to 4 bytes may lie in the tag."""
    if start + 8 > len(head):
        raise ValueError("holds a variable whose description is damaged")
    kind, count = struct.unpack_from(order + "II", head, start)
    if kind >> 16 > 4:
        raise ValueError("holds a variable whose description is damaged")
    if kind >> 16:
        return kind & 0xFFFF, kind >> 16, start + 4, start + 8
    return kind, count, start + 8, start + 8 + count + -count % 8
