"""Files of OpenCV's ``FileStorage``: nodes of numbers and matrices in YAML, XML or JSON as OpenCV writes them.

OpenCV's own parser is not meant for files of unknown origin, so this reads the little that is needed: two nodes at the
top, each a sequence of numbers (nested or not) or a matrix.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.storage.keypoints.text import numbers

_SPACES = bytes.maketrans(b"[],", b"   ")
_CHANNELS = re.compile(rb"([1-9]?[0-9]?)([a-z])")


def syntax_of(text: bytes) -> str | None:
    """``"yaml"``, ``"xml"`` or ``"json"`` by the first bytes; ``None`` for anything else."""
    start = text[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"%YAML"):
        return "yaml"
    if start.startswith(b"<?xml") and b"<opencv_storage>" in start:
        return "xml"
    return "json" if start.startswith(b"{") else None


def read_node(text: bytes, syntax: str, name: str) -> NDArray[Any] | None:
    """The numbers of a node at the top: (N,) for a sequence, (rows, columns) for a matrix; ``None`` if there is none.

    Raises:
        ValueError: it is damaged, or something else than numbers.
    """
    find = {"yaml": _yaml, "xml": _xml, "json": _json}[syntax]
    found = find(text, name.encode("ascii"))
    if found is None:
        return None
    body, is_matrix = found
    try:
        return _matrix(body, syntax) if is_matrix else _sequence(body, syntax)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _yaml(text: bytes, name: bytes) -> tuple[bytes, bool] | None:
    match = re.search(rb"^" + name + rb"[ \t]*:", text, re.MULTILINE)
    if match is None:
        return None
    following = re.compile(rb"^[^\s\-]", re.MULTILINE).search(text, match.end())
    body = text[match.end() : following.start() if following else len(text)].lstrip(b" \t")
    if body.startswith(b"!!opencv-matrix"):
        return body, True
    return body, False


def _xml(text: bytes, name: bytes) -> tuple[bytes, bool] | None:
    if re.search(rb"<![A-Z]", text):
        raise ValueError("declares a document type or entities, which are not read")
    match = re.search(rb"<" + name + rb"(?:[ \t]+([^<>]{0,200}))?>", text)
    if match is None:
        return None
    end = text.find(b"</" + name + b">", match.end())
    if end < 0:
        raise ValueError(f"cut short: {name.decode()} does not end")
    return text[match.end() : end], b'"opencv-matrix"' in (match[1] or b"")


def _json(text: bytes, name: bytes) -> tuple[bytes, bool] | None:
    match = re.search(rb'"' + name + rb'"\s*:\s*([\[{])', text)
    if match is None:
        return None
    if match[1] == b"{":
        end = text.find(b"}", match.end())
        body = text[match.end() : end if end >= 0 else len(text)]
        if b'"opencv-matrix"' not in body:
            raise ValueError(f"{name.decode()} is no matrix")
        return body, True
    end = re.compile(rb'["{}:]').search(text, match.end())  # type: ignore[assignment]
    return text[match.end() : end.start() if end else len(text)], False  # type: ignore[attr-defined]


def _sequence(body: bytes, syntax: str) -> NDArray[np.float64]:
    if syntax == "yaml":
        body = re.sub(rb"^[ \t]*-(?=[ \t])", b" ", body, flags=re.MULTILINE)
    if syntax == "xml":
        return numbers(body.replace(b"<_>", b" ").replace(b"</_>", b" "))
    return numbers(body.translate(_SPACES))


def _matrix(body: bytes, syntax: str) -> NDArray[np.float64]:
    rows, columns = (int(_field(body, syntax, name, rb"(\d{1,9})")) for name in ("rows", "cols"))
    kind = _CHANNELS.fullmatch(_field(body, syntax, "dt", rb'"?([0-9a-z]{1,3})"?'))
    if kind is None:
        raise ValueError("a matrix of an unknown type")
    data = _field(body, syntax, "data", rb"\s*([^<]*)" if syntax == "xml" else rb"\[([^\]]*)\]", needed=rows * columns)
    values = numbers(data.translate(_SPACES))
    shape = rows, columns * int(kind[1] or 1)
    if len(values) != shape[0] * shape[1]:
        raise ValueError(f"{len(values)} numbers in a matrix of {shape[0]} × {shape[1]}")
    return values.reshape(shape)


def _field(body: bytes, syntax: str, name: str, pattern: bytes, needed: int = 1) -> bytes:
    label = name.encode("ascii")
    before, after = {
        "yaml": (rb"^[ \t]+" + label + rb":\s*", b""),
        "xml": (rb"<" + label + rb">\s*", rb"\s*</" + label + rb">"),
        "json": (rb'"' + label + rb'"\s*:\s*', b""),
    }[syntax]
    match = re.search(before + pattern + after, body, re.MULTILINE)
    if match is None:
        if needed == 0:
            return b""
        raise ValueError(f"a matrix without {name}")
    return match[1]
