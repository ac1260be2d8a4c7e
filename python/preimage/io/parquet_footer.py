"""Read the sizes of row groups from the footer of a Parquet file.

pyarrow has them, too, but ends the process when it is asked for those of a damaged footer: the exception leaves a
function that may not raise any. Its readers of schemas and of row groups do not have this fault.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_TRAILER = 8  # bytes: length of the footer, and "PAR1"
_MAX_FOOTER = 1 << 26  # bytes
# Types of Thrift's compact protocol, in which the footer is written.
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


class RowGroup(NamedTuple):
    """Number of rows of a row group, and uncompressed size of each of its columns in bytes; not to be trusted."""

    rows: int
    column_bytes: list[int]


def read_row_groups(file: BinaryIO) -> list[RowGroup]:
    """Return what the footer of a Parquet file states about its row groups.

    Raises:
        ValueError, IndexError, RecursionError: The footer is damaged.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TRAILER))
    length = int.from_bytes(file.read(4), "little")
    if length > min(_MAX_FOOTER, size - _TRAILER):
        raise ValueError(f"a footer of {length} bytes in a file of {size} bytes")
    file.seek(size - _TRAILER - length)
    footer = _Compact(file.read(length))
    for field, kind in footer.fields():
        if (field, kind) == (4, _LIST):
            return [_row_group(footer) for _ in footer.structs()]
        footer.skip(kind)
    raise ValueError("a footer without row groups")


def _row_group(footer: _Compact) -> RowGroup:
    rows, sizes = -1, []
    for field, kind in footer.fields():
        if (field, kind) == (1, _LIST):
            sizes = [_chunk_bytes(footer) for _ in footer.structs()]
        elif (field, kind) == (3, _I64):
            rows = footer.integer()
        else:
            footer.skip(kind)
    return RowGroup(rows, sizes)


def _chunk_bytes(footer: _Compact) -> int:
    size = -1
    for field, kind in footer.fields():
        if (field, kind) != (3, _STRUCT):
            footer.skip(kind)
            continue
        for inner, inner_kind in footer.fields():
            if (inner, inner_kind) == (6, _I64):
                size = footer.integer()
            else:
                footer.skip(inner_kind)
    return size


class _Compact:
    """Reader of Thrift's compact protocol. Every value takes a byte at least, so that reading ends with the data."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """Yield the number and type of each field of a struct; the caller reads or skips its value."""
        field = 0
        while header := self._byte():
            field = field + (header >> 4) if header >> 4 else self.integer()
            yield field, header & 15

    def structs(self) -> range:
        """Return the range of the structs in a list, which the caller reads."""
        count, kind = self._list()
        if kind != _STRUCT and count:
            raise ValueError(f"a list of type {kind} in place of structs")
        return range(count)

    def integer(self) -> int:
        """Return an integer of 16 to 64 bits."""
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def skip(self, kind: int, *, boolean_bytes: int = 0) -> None:
        """Skip a value; booleans take a byte in a list, none in a struct."""
        if kind in (_TRUE, _FALSE):
            self._advance(boolean_bytes)
        elif kind in (_BYTE, _DOUBLE):
            self._advance(1 if kind == _BYTE else 8)
        elif kind in (_I16, _I32, _I64):
            self._varint()
        elif kind == _BINARY:
            self._advance(self._varint())
        elif kind in (_LIST, _SET):
            count, inner = self._list()
            for _ in range(count):
                self.skip(inner, boolean_bytes=1)
        elif kind == _MAP:
            count = self._varint()
            kinds = self._byte() if count else 0
            for _ in range(count):
                self.skip(kinds >> 4, boolean_bytes=1)
                self.skip(kinds & 15, boolean_bytes=1)
        elif kind == _STRUCT:
            for _, inner in self.fields():
                self.skip(inner)
        else:
            raise ValueError(f"unknown type {kind}")

    def _list(self) -> tuple[int, int]:
        header = self._byte()
        return self._varint() if header >> 4 == 15 else header >> 4, header & 15

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("an integer of more than 10 bytes")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _advance(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise ValueError("the footer ends within a value")
