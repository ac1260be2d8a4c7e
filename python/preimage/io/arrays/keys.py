"""Read the keys of plain arrays, from a text file next to an ``.npy`` file or an array in an ``.npz`` file."""

from __future__ import annotations

import codecs
import re
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.atomic import StrPath
from preimage.io.feature_file import MAX_IMAGES

KEYS_MEMBER = "keys.npy"
_MAX_BYTES = 64 << 20
_OBJECTS = re.compile(rb"\x93NUMPY[\1-\3]\0.{2,4}\{'descr': '\|?O'", re.DOTALL)
_TEXT = re.compile(rb"\x93NUMPY[\1-\3]\0.{2,4}\{'descr': '[<>|=]?[US]\d{1,4}'", re.DOTALL)


def keys_file(path: StrPath) -> Path:
    """Return the path of the keys of an array's rows: ``F.keys.txt`` for ``F.npy``."""
    return Path(path).with_suffix(".keys.txt")


def keys_of(path: StrPath) -> list[str] | None:
    """Read the keys of a stack of arrays: the lines of `keys_file`, or the array ``keys`` of an ``.npz`` file.

    Returns:
        Keys, or ``None`` if there are none.

    Raises:
        FileFormatError: The keys cannot be read or are too many.
    """
    with open(path, "rb") as file:
        inside = file.read(4) == b"PK\x03\x04"
    return _keys_inside(path) if inside else _keys_beside(keys_file(path))


def read_keys(path: StrPath) -> list[str]:
    """Read keys from a text file, one per line, UTF-8; `FileFormatError` for anything else."""
    if (keys := _keys_beside(Path(path))) is None:
        raise FileNotFoundError(f"{path}: no such file of keys")
    return keys


def holds_objects(file: IO[bytes]) -> bool:
    """Return whether a file contains an ``.npy`` array of Python objects, by its header."""
    return _OBJECTS.match(file.read(128)) is not None


def holds_text(file: IO[bytes]) -> bool:
    """Return whether a file contains an ``.npy`` array of strings, by its header."""
    return _TEXT.match(file.read(128)) is not None


def _keys_beside(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_BYTES:
        raise FileFormatError(path, f"a list of keys must have at most {_MAX_BYTES} bytes, got {path.stat().st_size}")
    try:
        data = path.read_bytes()
        marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = data.decode("utf-16" if marked else "utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise FileFormatError(path, f"must be UTF-8, or UTF-16 with a byte order mark: {error}") from error
    while lines and not lines[-1].strip():  # editors leave blank lines at the end
        del lines[-1]
    return lines


def _keys_inside(path: StrPath) -> list[str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            member = next((member for member in archive.infolist() if member.filename == KEYS_MEMBER), None)
            if member is None:
                return None
            with archive.open(member) as file:
                if not holds_text(file):
                    return None
            if member.file_size > _MAX_BYTES:
                raise ValueError(f"at most {_MAX_BYTES} bytes are allowed, got {member.file_size}")
            with archive.open(member) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
                file.read(1)  # the checksum is compared at the end of the member
    except FileFormatError:
        raise
    except Exception as error:  # zipfile and NumPy raise many types
        raise FileFormatError(path, f"its keys cannot be read: {error}") from error
    if array.ndim != 1 or len(array) > MAX_IMAGES:
        raise FileFormatError(path, f"its keys must have shape (N,) with N <= {MAX_IMAGES}, got {array.shape}")
    return [key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key) for key in array.tolist()]
