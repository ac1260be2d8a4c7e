"""Checksums that files contain themselves: the SHA-256 of the whole file with those 64 digits replaced by zeros.

JSON files contain theirs in the field ``sha256``, safetensors files in the metadata of that name.
"""

from __future__ import annotations

import hashlib
import re
from typing import BinaryIO

from preimage.errors import FileFormatError
from preimage.io.atomic import StrPath

CHECKSUM = "sha256"  # name of the field
ZEROS = "0" * 64

_MAX_HEADER_BYTES = 100_000_000  # of safetensors
_STORED = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_BLOCK = 1 << 20


def with_checksum(text: bytes) -> bytes:
    """Return a text with its checksum in place of the first 64 zeros."""
    return text.replace(ZEROS.encode(), hashlib.sha256(text).hexdigest().encode(), 1)


def check_text(text: bytes, stored: object) -> None:
    """Compare a text with the checksum that it contains.

    Raises:
        ValueError: The text is damaged.
    """
    digits = str(stored).encode()
    if hashlib.sha256(text.replace(digits, ZEROS.encode(), 1)).hexdigest().encode() != digits:
        raise ValueError("damaged: checksum mismatch")


def write_checksum(file: BinaryIO) -> None:
    """Replace the zeros in the metadata of a safetensors file, open for reading and writing, by its checksum."""
    found = _find(file)
    assert found is not None, "the metadata must contain the field sha256 with ZEROS"
    digest = file_digest(file, found[0])
    file.seek(found[0])
    file.write(digest.encode())


def has_checksum(path: StrPath) -> bool:
    """Return whether a safetensors file contains a checksum, without comparing it."""
    with open(path, "rb") as file:
        return _find(file) is not None


def check_file(path: StrPath, *, required: bool) -> None:
    """Compare a safetensors file with the checksum in its metadata, if it has one.

    Args:
        path: Path of the file.
        required: Whether a file without a checksum is damaged.

    Raises:
        FileFormatError: The file is damaged.
    """
    with open(path, "rb") as file:
        found = _find(file)
        if found is None and required:
            raise FileFormatError(path, "damaged: its metadata lacks a checksum")
        if found is not None and file_digest(file, found[0]) != found[1]:
            raise FileFormatError(path, "damaged: checksum mismatch (truncated, or bits changed)")


def file_digest(file: BinaryIO, position: int) -> str:
    """Return the SHA-256 of a file, in hexadecimal, with the 64 bytes at a position replaced by zeros."""
    file.seek(0)
    digest = hashlib.sha256(file.read(position))
    digest.update(ZEROS.encode())
    file.seek(position + len(ZEROS))
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _find(file: BinaryIO) -> tuple[int, str] | None:
    """Return the position and the digits of the checksum in the metadata of a safetensors file."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    found = _STORED.search(file.read(min(length, _MAX_HEADER_BYTES)))
    return None if found is None else (8 + found.start(1), found[1].decode())
