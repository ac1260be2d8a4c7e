"""Protocol buffers' wire format, as far as reading takes it: fields one after another, every length checked.

A message is a range of bytes; a field that is a message itself is walked by whoever knows that it is one, so how deep
a file nests costs nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_KINDS = {VARINT: "a number", FIXED64: "8 bytes", BYTES: "bytes with their length", FIXED32: "4 bytes"}
_LARGEST_NUMBER = (1 << 29) - 1  # that a field can have


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: as the schema calls it.
        kind: `VARINT`, `FIXED64`, `BYTES` or `FIXED32`.
        start: first byte of the value, counted from the file's beginning.
        stop: byte after it.
        value: of a `VARINT`, an unsigned 64-bit number; else 0.
    """

    number: int
    kind: int
    start: int
    stop: int
    value: int


def fields(data: memoryview, start: int, stop: int) -> Iterator[Field]:
    """The fields of the message in bytes `start` to `stop`.

    Raises:
        ValueError: it is cut short, or these bytes are no message; says where and what is missing.
    """
    at = start
    while at < stop:
        begin = at
        tag, at = varint(data, at, stop)
        number, kind = tag >> 3, tag & 7
        if not 1 <= number <= _LARGEST_NUMBER or kind not in _KINDS:
            raise ValueError(f"byte {begin} begins no field: number {number}, kind {kind}")
        value, end = 0, at
        if kind == VARINT:
            value, end = varint(data, at, stop)
        elif kind == BYTES:
            length, at = varint(data, at, stop)
            end = at + length
        else:
            end = at + (8 if kind == FIXED64 else 4)
        if end > stop:
            raise ValueError(f"cut short: field {number} at byte {begin} has {end - at} bytes, {stop - at} are left")
        yield Field(number, kind, at, end, value)
        at = end


def varint(data: memoryview, at: int, stop: int) -> tuple[int, int]:
    """A number of up to 64 bits and the byte after it.

    Raises:
        ValueError: it does not end before `stop`, or has more bits.
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            raise ValueError(f"cut short: a number at byte {at} has no end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
    raise ValueError(f"a number of more than 64 bits before byte {at}")


def expect(field: Field, *kinds: int) -> Field:
    """The field, if it is of one of these kinds; else ``ValueError``."""
    if field.kind not in kinds:
        wanted = " or ".join(_KINDS[kind] for kind in kinds)
        raise ValueError(
            f"field {field.number} at byte {field.start} holds {_KINDS[field.kind]}; {wanted} would be right"
        )
    return field
