"""Numbers in text files, as many as memory allows and no more."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from preimage.io.atomic import StrPath
from preimage.io.file_types import SIGNATURE_BYTES, describe_signature, why_unsupported

# A number takes about 0.1 µs: with these limits any file is read, or refused, within two seconds or so. A keypoint
# takes 450 bytes in most formats, 750 in OpenCV's: there is room for those of a photograph of 12 megapixels.
MAX_TEXT = 32 << 20  # bytes
ROW = 4 + 128  # numbers of a keypoint
_MOST = 80_000 * ROW

_PART = 1 << 18  # bytes parsed together
_ALLOWED = b"0123456789+-.eE \t\r\n\v\f"  # so neither words (nan, inf) nor Python's 1_000
_MARKS = (
    (codecs.BOM_UTF8, None),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_TEXTS = (  # descriptions of files that may be what is looked for
    None,
    *("an empty file", "plain text", "UTF-16 text", "a YAML file", "a JSON file", "an XML file"),
    "an XML file of OpenCV's FileStorage",
)
_SEPARATOR = re.compile(rb"[\s,\]>]")


def read_text(path: StrPath) -> bytes:
    """A whole file as ASCII or UTF-8; ``ValueError`` if it is larger than `MAX_TEXT`, or no text."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_TEXT:
            _check_text(path, file.read(SIGNATURE_BYTES))
            raise ValueError(f"{size} bytes of text; up to {MAX_TEXT} are read")
        text = file.read(size)  # no more than was there: a larger buffer would be reserved whole
    return _decoded(path, text, whole=True)


def read_start(path: StrPath) -> bytes:
    """The first bytes of a text, decoded as `read_text` does; ``ValueError`` if it is no text."""
    with open(path, "rb") as file:
        return _decoded(path, file.read(SIGNATURE_BYTES), whole=False)


def _decoded(path: StrPath, text: bytes, *, whole: bool) -> bytes:
    """Text as ASCII or UTF-8, without a byte order mark, which tells UTF-16 and UTF-32 (as Windows' editors write).

    Raises:
        ValueError: it is no text; says what it is.
    """
    for mark, encoding in _MARKS:
        if text.startswith(mark):
            if encoding is None:
                return text[len(mark) :]
            try:
                return text[len(mark) :].decode(encoding, "strict" if whole else "ignore").encode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"is damaged text in {encoding}: {error}") from None
    start = text[:SIGNATURE_BYTES]
    for first, encoding in ((0, "utf-16-le"), (1, "utf-16-be")):  # UTF-16 without the mark: ASCII and zeros in turn
        letters, zeros = start[first::2], start[1 - first :: 2]
        if len(start) > 3 and not zeros.strip(b"\0") and letters.isascii() and b"\0" not in letters:
            return text.decode(encoding, "replace").encode("utf-8")
    _check_text(path, start)
    return text


def _check_text(path: StrPath, start: bytes) -> None:
    """``ValueError`` unless the first bytes are of a text that may be what is looked for; says what they are of."""
    if describe_signature(start) not in _TEXTS or re.search(rb"[\0-\x08\x0e-\x1a\x7f]", start):
        raise ValueError(why_unsupported(path, start))


def numbers(
    text: bytes, start: int = 0, end: int | None = None, clean: Callable[[bytes], bytes] | None = None
) -> NDArray[np.float64]:
    """Numbers between white space in ``text[start:end]``.

    Args:
        text: all of a file; parsed in parts, so that there is no second copy of it.
        start: where to begin.
        end: where to end.
        clean: makes white space of what else stands between numbers. It is given parts that end after white space, a
            comma, ``]`` or ``>``.

    Raises:
        ValueError: anything else is there, or more numbers than 80,000 keypoints have.
    """
    end = len(text) if end is None else end
    found = np.empty(min(_MOST, (end - start) // 2 + 1))  # memory is taken as it is filled
    count = 0
    while start < end:
        cut = _SEPARATOR.search(text, min(start + _PART, end), end)
        stop = cut.end() if cut else end
        part = text[start:stop] if clean is None else clean(text[start:stop])
        words = part.split()
        if part.translate(None, _ALLOWED):
            word = next(word for word in words if word.translate(None, _ALLOWED))
            raise ValueError(f"{word[:40].decode('utf-8', 'replace')!r} is not a number")
        if count + len(words) > len(found):
            raise ValueError(f"holds more than {_MOST} numbers")
        try:
            found[count : count + len(words)] = np.fromiter(map(float, words), np.float64, len(words))
        except ValueError:
            raise ValueError(f"{_first_strange(words)!r} is not a number") from None
        start, count = stop, count + len(words)
    return found[:count]


def _first_strange(words: list[bytes]) -> str:
    for word in words:
        try:
            float(word)
        except ValueError:
            return word[:40].decode("ascii", "replace")
    return ""


def header(text: bytes) -> tuple[int, int]:
    """The number in a first line such as ``300 128``, and where the rest starts; else ``ValueError``."""
    match = re.match(rb"\s*(\d{1,9})[ \t]+(\d{1,9})[ \t\r]*\n", text[:64] + b"\n")
    if match is None and not text.strip():
        raise ValueError("is an empty file; the number of keypoints and 128 come first, 0 128 where there are none")
    if match is None:
        raise ValueError("does not begin with the number of keypoints and 128")
    count, length = int(match[1]), int(match[2])
    if length != 128:
        raise ValueError(f"has descriptors of {length} numbers, which are not SIFT (128)")
    return count, min(match.end(), len(text))
