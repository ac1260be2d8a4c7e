"""Read text files and the numbers in them, in bounded memory and time."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from preimage.io.atomic import StrPath
from preimage.io.file_types import SIGNATURE_BYTES, describe_signature, why_unsupported

# Parsing a number takes about 0.1 µs: with these limits any file is read or rejected in about two seconds. A keypoint
# takes 450 bytes in most formats and 750 in OpenCV's, so keypoints of photographs of 12 megapixels fit.
MAX_TEXT = 32 << 20  # bytes
ROW = 4 + 128  # numbers per keypoint
_MOST = 80_000 * ROW

_PART = 1 << 18  # bytes parsed at once
_ALLOWED = b"0123456789+-.eE \t\r\n\v\f"  # excludes nan, inf, and 1_000, which `float` accepts
_MARKS = (
    (codecs.BOM_UTF8, None),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_TEXTS = (  # descriptions of files that can be keypoints
    None,
    *("an empty file", "plain text", "UTF-16 text", "a YAML file", "a JSON file", "an XML file"),
    "an XML file of OpenCV FileStorage",
)
_SEPARATOR = re.compile(rb"[\s,\]>]")


def read_text(path: StrPath) -> bytes:
    """Read a text file as ASCII or UTF-8.

    Raises:
        ValueError: The file is larger than `MAX_TEXT`, or not text.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_TEXT:
            _check_text(path, file.read(SIGNATURE_BYTES))
            raise ValueError(f"a text file must have at most {MAX_TEXT} bytes, got {size}")
        text = file.read(size)  # Python would allocate a larger buffer as a whole
    return _decoded(path, text, whole=True)


def read_start(path: StrPath) -> bytes:
    """Read the first bytes of a text file, decoded as in `read_text`.

    Raises:
        ValueError: The file is not text.
    """
    with open(path, "rb") as file:
        return _decoded(path, file.read(SIGNATURE_BYTES), whole=False)


def _decoded(path: StrPath, text: bytes, *, whole: bool) -> bytes:
    """Return text as ASCII or UTF-8 without a byte order mark. UTF-16 and UTF-32, common on Windows, are converted."""
    for mark, encoding in _MARKS:
        if text.startswith(mark):
            if encoding is None:
                return text[len(mark) :]
            try:
                return text[len(mark) :].decode(encoding, "strict" if whole else "ignore").encode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"is damaged text in {encoding}: {error}") from None
    start = text[:SIGNATURE_BYTES]
    for first, encoding in ((0, "utf-16-le"), (1, "utf-16-be")):  # without a mark: ASCII alternating with zeros
        letters, zeros = start[first::2], start[1 - first :: 2]
        if len(start) > 3 and not zeros.strip(b"\0") and letters.isascii() and b"\0" not in letters:
            return text.decode(encoding, "replace").encode("utf-8")
    _check_text(path, start)
    return text


def _check_text(path: StrPath, start: bytes) -> None:
    """Raise ``ValueError`` unless the first bytes are those of a text format that can contain keypoints."""
    if describe_signature(start) not in _TEXTS or re.search(rb"[\0-\x08\x0e-\x1a\x7f]", start):
        raise ValueError(why_unsupported(path, start))


def numbers(
    text: bytes, start: int = 0, end: int | None = None, clean: Callable[[bytes], bytes] | None = None
) -> NDArray[np.float64]:
    """Parse the numbers in ``text[start:end]``, which are separated by white space.

    Args:
        text: Contents of a file, parsed in parts to save memory.
        start: Start of the range.
        end: End of the range; ``None`` is the end of `text`.
        clean: Function that replaces other separators by white space. It receives parts that end after white space, a
            comma, ``]`` or ``>``.

    Raises:
        ValueError: There is anything else, or more numbers than 80,000 keypoints have.
    """
    end = len(text) if end is None else end
    found = np.empty(min(_MOST, (end - start) // 2 + 1))  # pages are allocated when they are written
    count = 0
    while start < end:
        cut = _SEPARATOR.search(text, min(start + _PART, end), end)
        stop = cut.end() if cut else end
        part = text[start:stop] if clean is None else clean(text[start:stop])
        words = part.split()
        if part.translate(None, _ALLOWED):
            word = next(word for word in words if word.translate(None, _ALLOWED))
            raise ValueError(f"numbers expected, got {word[:40].decode('utf-8', 'replace')!r}")
        if count + len(words) > len(found):
            raise ValueError(f"at most {_MOST} numbers are allowed")
        try:
            found[count : count + len(words)] = np.fromiter(map(float, words), np.float64, len(words))
        except ValueError:
            raise ValueError(f"numbers expected, got {_first_invalid(words)!r}") from None
        start, count = stop, count + len(words)
    return found[:count]


def _first_invalid(words: list[bytes]) -> str:
    for word in words:
        try:
            float(word)
        except ValueError:
            return word[:40].decode("ascii", "replace")
    return ""


def header(text: bytes) -> tuple[int, int]:
    """Return the number of keypoints in a first line such as ``300 128``, and the start of the next line.

    Raises:
        ValueError: There is no such line.
    """
    match = re.match(rb"\s*(\d{1,9})[ \t]+(\d{1,9})[ \t\r]*\n", text[:64] + b"\n")
    if match is None and not text.strip():
        raise ValueError("must begin with the number of keypoints and 128, got an empty file (0 128 if there are none)")
    if match is None:
        raise ValueError("must begin with the number of keypoints and 128")
    count, length = int(match[1]), int(match[2])
    if length != 128:
        raise ValueError(f"descriptors must have 128 values (SIFT), got {length}")
    return count, min(match.end(), len(text))
