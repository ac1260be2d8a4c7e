"""Read the wire format of Protocol Buffers, checking all lengths.

A message is a range of bytes. Nested messages are traversed by the caller, which knows the fields that contain them, so
the depth of nesting needs no limit here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_KINDS = {VARINT: "a varint", FIXED64: "8 bytes", BYTES: "bytes with a length", FIXED32: "4 bytes"}
_LARGEST_NUMBER = (1 << 29) - 1  # largest number of a field


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: Number of the field in the schema.
        kind: `VARINT`, `FIXED64`, `BYTES` or `FIXED32`.
        start: Offset of the value in the file.
        stop: Offset of the end of the value.
        value: Value of a `VARINT`, an unsigned 64-bit number; otherwise 0.
    """

    number: int
    kind: int
    start: int
    stop: int
    value: int


def fields(data: memoryview, start: int, stop: int) -> Iterator[Field]:
    """Yield the fields of the message in bytes `start` to `stop`.

    Raises:
        ValueError: The message is truncated or invalid.
    """
    at = start
    while at < stop:
        begin = at
        tag, at = varint(data, at, stop)
        number, kind = tag >> 3, tag & 7
        if not 1 <= number <= _LARGEST_NUMBER or kind not in _KINDS:
            raise ValueError(f"invalid field at byte {begin}: number {number}, wire type {kind}")
        value, end = 0, at
        if kind == VARINT:
            value, end = varint(data, at, stop)
        elif kind == BYTES:
            length, at = varint(data, at, stop)
            end = at + length
        else:
            end = at + (8 if kind == FIXED64 else 4)
        if end > stop:
            raise ValueError(f"truncated: {stop - at} of {end - at} bytes of field {number} at byte {begin}")
        yield Field(number, kind, at, end, value)
        at = end


def varint(data: memoryview, at: int, stop: int) -> tuple[int, int]:
    """Return a number of up to 64 bits and the offset of its end.

    Raises:
        ValueError: The number does not end before `stop`, or has more bits.
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            raise ValueError(f"truncated: the number at byte {at} does not end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
    raise ValueError(f"the number before byte {at} has more than 64 bits")


def expect(field: Field, *kinds: int) -> Field:
    """Return the field; raises ``ValueError`` unless it is of one of `kinds`."""
    if field.kind not in kinds:
        wanted = " or ".join(_KINDS[kind] for kind in kinds)
        raise ValueError(f"field {field.number} at byte {field.start} must be {wanted}, got {_KINDS[field.kind]}")
    return field
