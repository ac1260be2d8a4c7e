"""Numbers in text files, as many as memory allows and no more."""

from __future__ import annotations

import os
import re
import warnings

import numpy as np
from numpy.typing import NDArray

from preimage.storage.files import StrPath

MAX_TEXT = 64 << 20  # bytes: over 100,000 keypoints of one image

_NOT_NUMBERS = re.compile(rb"[^-+0-9.eE\s]")


def read_text(path: StrPath) -> bytes:
    """A whole file; ``ValueError`` if it is larger than any one image's keypoints."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_TEXT:
            raise ValueError(f"{size} bytes of text; up to {MAX_TEXT} are read")
        return file.read(size)  # no more than was there: a larger buffer would be reserved whole


def numbers(text: bytes) -> NDArray[np.float64]:
    """Numbers between white space; ``ValueError`` if anything else is there."""
    if found := _NOT_NUMBERS.search(text):
        around = text[max(0, found.start() - 8) : found.start() + 8].decode("ascii", "replace")
        raise ValueError(f"{around!r} is not a number")
    if not text.strip():
        return np.zeros(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of NumPy, where a number is malformed
        try:
            return np.fromstring(text, dtype=np.float64, sep=" ")
        except (DeprecationWarning, ValueError) as error:
            raise ValueError("holds something that is not a number") from error


def header(text: bytes) -> tuple[int, int]:
    """The two whole numbers of a first line such as ``300 128``, and where the rest starts; else ``ValueError``."""
    match = re.match(rb"\s*(\d{1,9})[ \t]+(\d{1,9})[ \t\r]*\n", text[:64] + b"\n")
    if match is None:
        raise ValueError("does not begin with the number of keypoints and 128")
    count, length = int(match[1]), int(match[2])
    if length != 128:
        raise ValueError(f"has descriptors of {length} numbers, which are not SIFT (128)")
    return count, min(match.end(), len(text))
