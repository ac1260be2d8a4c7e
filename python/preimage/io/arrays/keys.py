"""Read and write the keys of plain arrays, in a text file next to an ``.npy`` file or an array in an ``.npz`` file."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import IO

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.atomic import LONGEST_KEY, StrPath, as_keys, atomic_write
from preimage.io.feature_file import MAX_IMAGES

KEYS_MEMBER = "keys.npy"
_MAX_BYTES = 64 << 20
_DTYPE = re.compile(rb"\x93NUMPY[\1-\3]\0.{2,4}\{'descr': (?:'([^']{2,20})'|\[)", re.DOTALL)
_LINE_END = re.compile(r"\r\n|\r|\n")  # not those of `str.splitlines`, some of which can be in a key


@dataclass(frozen=True)
class StoredKeys:
    """Keys of the rows of an array, as they are stored.

    Attributes:
        path: File that contains them: that of the array, or a text file.
        keys: The keys, not yet checked.
    """

    path: StrPath
    keys: Sequence[str]


def check_keys(path: StrPath, keys: Sequence[str] | StoredKeys, count: int) -> list[str]:
    """Return `as_keys` of the keys of `count` images.

    Args:
        path: File of the images.
        keys: Keys from the caller, or from a file.
        count: Number of images in the file.

    Raises:
        FileFormatError: Keys from a file are too few, too many or invalid, or two images have the same key.
        ValueError: The same for keys from the caller.
    """
    stored = keys if isinstance(keys, StoredKeys) else None
    found = keys.keys if isinstance(keys, StoredKeys) else keys
    try:
        if len(found) != count:
            numbers = f"{len(found)} key{'s' * (len(found) != 1)} for {count} image{'s' * (count != 1)}"
            beside = stored is not None and os.fspath(stored.path) != os.fspath(path)
            raise ValueError(f"{numbers} in {os.fspath(path)}: it must have one line per image" if beside else numbers)
        return as_keys(found)
    except ValueError as error:
        if stored is not None:
            raise FileFormatError(stored.path, str(error)) from error
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def keys_file(path: StrPath) -> Path:
    """Return the path of the keys of an array's rows: ``F.keys.txt`` for ``F.npy``."""
    return Path(path).with_suffix(".keys.txt")


def keys_of(path: StrPath) -> StoredKeys | None:
    """Read the keys of a stack of arrays: the lines of `keys_file`, or the array ``keys`` of an ``.npz`` file.

    Returns:
        Keys, or ``None`` if there are none.

    Raises:
        FileFormatError: The keys cannot be read or are too many.
    """
    with open(path, "rb") as file:
        inside = file.read(4) == b"PK\x03\x04"
    return _keys_inside(path) if inside else _keys_beside(keys_file(path))


def read_keys(path: StrPath) -> StoredKeys:
    """Read keys from a text file, one per line, UTF-8; `FileFormatError` for anything else."""
    if (keys := _keys_beside(Path(path))) is None:
        raise FileNotFoundError(f"{path}: no such file of keys")
    return keys


def holds_keys(file: IO[bytes]) -> bool:
    """Return whether the array ``keys`` of an ``.npz`` file contains keys, by its header.

    It contains the features of an image of that name if they are floating-point numbers.

    Raises:
        ValueError: It contains neither.
    """
    match = _DTYPE.match(file.read(128))
    if match is None:
        return False  # not a header of NumPy, for which there is another error
    descr = (match[1] or b"V").decode("latin-1")
    kind = descr.lstrip("<>=|")
    if kind == "O":
        raise ValueError(
            "its keys are Python objects, which are not unpickled: save them as strings, keys=np.array(keys, dtype=str)"
        )
    if re.fullmatch(r"[US]\d+", kind):
        if len(kind) > 5:
            raise ValueError(f"keys must have at most {LONGEST_KEY} characters, got an array of {descr!r}")
        return True
    if not re.fullmatch(r"f\d+", kind):
        raise ValueError(f"keys must be strings, got {dtype_name(descr)}: keys=np.array(keys, dtype=str)")
    return False


def dtype_name(descr: str) -> str:
    """Return the name of a dtype in a header of NumPy, or the text itself for an invalid one."""
    try:
        return np.dtype(descr).name
    except TypeError:
        return repr(descr)


def _keys_beside(path: Path) -> StoredKeys | None:
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_BYTES:
        raise FileFormatError(path, f"a list of keys must have at most {_MAX_BYTES} bytes, got {path.stat().st_size}")
    try:
        return StoredKeys(path, _lines(path.read_bytes()))
    except UnicodeDecodeError as error:
        raise FileFormatError(path, f"must be UTF-8, or UTF-16 with a byte order mark: {error}") from error


def _lines(data: bytes) -> list[str]:
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    lines = _LINE_END.split(data.decode("utf-16" if marked else "utf-8-sig"))
    while lines and not lines[-1].strip():  # editors leave blank lines at the end
        del lines[-1]
    return lines


def _keys_inside(path: StrPath) -> StoredKeys | None:
    try:
        with zipfile.ZipFile(path) as archive:
            member = next((member for member in archive.infolist() if member.filename == KEYS_MEMBER), None)
            if member is None:
                return None
            with archive.open(member) as file:
                if not holds_keys(file):
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
    keys = [key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key) for key in array.tolist()]
    return StoredKeys(path, keys)


def keys_text(path: StrPath, keys: Sequence[str]) -> bytes:
    """Return the contents of `keys_file`, which `keys_of` reads as the same keys.

    Raises:
        ValueError: The keys are too long for such a file, or one is a line that would not be read.
    """
    data = "".join(f"{key}\n" for key in keys).encode()
    if len(data) > _MAX_BYTES:
        raise ValueError(
            f"{path}: keys next to an .npy file have at most {_MAX_BYTES} bytes, got {len(data)}: write .npz"
        )
    for key, line in zip_longest(keys, _lines(data)):
        if key != line:
            raise ValueError(f"{path}: key {key!r:.80} cannot be a line of a text file: write .npz")
    return data


@contextlib.contextmanager
def replacing_keys(path: StrPath) -> Iterator[Callable[[bytes], None]]:
    """Replace the keys of an array together with the array.

    Two files cannot be replaced at once, so the earlier keys are set aside before the array is replaced, and the new
    ones are renamed after it: a kill in between leaves an array without keys, never one with the keys of another.

    Yields a function that takes the new contents of `keys_file`. It must be called when only the renaming of the array
    is left, which the block does after it. If the block fails before that, the earlier keys are put back.

    Args:
        path: Path of the array.
    """
    keys = Path(os.path.realpath(keys_file(path)))  # a link is followed, as `atomic_write` does
    earlier = _identity(path)
    # The name depends on that of the keys only, so that the next writer deletes what a killed one has left.
    aside = keys.with_name(f".preimage-{hashlib.sha256(os.fsencode(keys.name) + b'/aside').hexdigest()[:16]}.tmp")
    may_be_aside = False
    with contextlib.ExitStack() as renamed_last:

        def prepare(data: bytes) -> None:
            nonlocal may_be_aside
            file = renamed_last.enter_context(atomic_write(keys_file(path)))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a full disk is an error here, before anything is replaced
            aside.unlink(missing_ok=True)
            may_be_aside = True
            with contextlib.suppress(FileNotFoundError):
                os.replace(keys, aside)

        try:
            yield prepare
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to report
                if may_be_aside and _identity(path) == earlier:
                    os.replace(aside, keys)
                elif may_be_aside:  # interrupted after the array was replaced
                    aside.unlink(missing_ok=True)
            raise
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _identity(path: StrPath) -> tuple[int, int] | None:
    """Return what tells a file from others, or ``None`` if it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
