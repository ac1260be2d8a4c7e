"""Read which shared libraries an ELF file asks for, as `readelf -d` prints them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

_DYNAMIC = 2  # type of a program header
_LOAD = 1
_NEEDED, _STRING_TABLE, _RPATH, _RUNPATH = 1, 5, 15, 29  # tags of the dynamic section


class Dynamic(NamedTuple):
    """Contents of the dynamic section, which the loader reads."""

    needed: tuple[str, ...]
    """Libraries to load."""
    search: tuple[str, ...]
    """RPATH and RUNPATH: where to look for them first."""


def is_elf(path: Path) -> bool:
    """Return whether this is a 64-bit little-endian ELF file."""
    with path.open("rb") as file:
        return file.read(6) == b"\x7fELF\x02\x01"


def read_dynamic(path: Path) -> Dynamic:
    """Return the entries of the dynamic section of a 64-bit little-endian ELF file."""
    data = path.read_bytes()
    (table,) = struct.unpack_from("<Q", data, 32)
    entry_size, count = struct.unpack_from("<HH", data, 54)
    loads, entries = [], []
    for index in range(count):
        kind, _, offset, address, _, size = struct.unpack_from("<IIQQQQ", data, table + index * entry_size)
        if kind == _LOAD:
            loads.append((address, offset, size))
        elif kind == _DYNAMIC:
            entries = [struct.unpack_from("<qQ", data, at) for at in range(offset, offset + size, 16)]
    (strings,) = (value for tag, value in entries if tag == _STRING_TABLE)
    (start,) = (strings - address + offset for address, offset, size in loads if 0 <= strings - address < size)

    def texts(*tags: int) -> tuple[str, ...]:
        found = [start + value for tag, value in entries if tag in tags]
        return tuple(data[at : data.index(b"\0", at)].decode() for at in found)

    return Dynamic(needed=texts(_NEEDED), search=texts(_RPATH, _RUNPATH))
