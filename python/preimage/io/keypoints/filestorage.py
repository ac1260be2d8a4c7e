"""Read numbers and matrices from YAML, XML and JSON files of OpenCV's ``FileStorage``.

OpenCV's parser is not safe for files of unknown origin. This one reads only top-level nodes that are sequences of
numbers, nested or not, or matrices.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.io.keypoints.text import numbers

_SPACES = bytes.maketrans(b"[],", b"   ")
_BASE64 = re.compile(rb"!!binary|type_id=.binary|\$base64\$")
_TOP = {
    "yaml": re.compile(rb"\n([A-Za-z_][^\s:]{0,80})[ \t]*:"),
    "xml": re.compile(rb"\n<([A-Za-z_][\w.-]{0,80})"),
    "json": re.compile(rb'\n {4}"([^"\n]{1,80})"\s*:'),
}
_CHANNELS = re.compile(rb"([1-9]?[0-9]?)([a-z])")


@dataclasses.dataclass(frozen=True)
class _Node:
    """Range of a node's contents in the text."""

    start: int
    end: int
    is_matrix: bool


def syntax_of(text: bytes) -> str | None:
    """Return ``"yaml"``, ``"xml"`` or ``"json"`` according to the first bytes, or ``None``."""
    start = text[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"%YAML"):
        return "yaml"
    if start.startswith(b"<?xml") and b"<opencv_storage>" in start:
        return "xml"
    return "json" if start.startswith(b"{") else None


def read_node(text: bytes, syntax: str, name: str) -> NDArray[Any] | None:
    """Read the numbers of a top-level node.

    Returns:
        (N,) for a sequence, (rows, columns) for a matrix, or ``None`` if there is no such node.

    Raises:
        ValueError: The node is damaged or does not consist of numbers.
    """
    find = {"yaml": _yaml, "xml": _xml, "json": _json}[syntax]
    node = find(text, name.encode("ascii"))
    if node is None:
        return None
    try:
        if node.is_matrix:
            return _matrix(text, node, syntax)
        return numbers(text, node.start, node.end, _CLEAN[syntax])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def node_names(text: bytes, syntax: str) -> list[str]:
    """Return the names of the first top-level nodes, recognized by OpenCV's indentation, for error messages."""
    found = itertools.islice(_TOP[syntax].finditer(text), 20)
    return [match[1][:40].decode("utf-8", "replace") for match in found if match[1] != b"opencv_storage"]


def _yaml(text: bytes, name: bytes) -> _Node | None:
    match = re.search(rb"\n" + name + rb"[ \t]*:[ \t]*(!!opencv-matrix)?", text)
    if match is None:
        return None
    following = re.compile(rb"\n[^\s\-]").search(text, match.end())
    return _Node(match.end(), following.start() if following else len(text), match[1] is not None)


def _xml(text: bytes, name: bytes) -> _Node | None:
    if re.search(rb"<![A-Z]", text):
        raise ValueError("document types and entities are not supported")
    match = re.search(rb"<" + name + rb"([ \t][^<>]{0,200})?>", text)
    if match is None:
        return None
    end = text.find(b"</" + name + b">", match.end())
    if end < 0:
        raise ValueError(f"truncated: {name.decode()} is not closed")
    return _Node(match.end(), end, b'"opencv-matrix"' in (match[1] or b""))


def _json(text: bytes, name: bytes) -> _Node | None:
    match = re.search(rb'"' + name + rb'"\s*:\s*([\[{])', text)
    if match is None:
        return None
    is_matrix = match[1] == b"{"
    last = re.compile(rb"}" if is_matrix else rb'["{}:]').search(text, match.end())
    node = _Node(match.end(), last.start() if last else len(text), is_matrix)
    if is_matrix and text.find(b'"opencv-matrix"', node.start, node.end) < 0:
        raise ValueError(f"{name.decode()} must be a matrix")
    return node


def _matrix(text: bytes, node: _Node, syntax: str) -> NDArray[np.float64]:
    rows, columns = (int(text[slice(*_field(text, node, syntax, name, rb"(\d{1,9})"))]) for name in ("rows", "cols"))
    kind = _CHANNELS.fullmatch(text[slice(*_field(text, node, syntax, "dt", rb'"?([0-9a-z]{1,3})"?'))])
    if kind is None:
        raise ValueError("a matrix has an unknown element type")
    shape = rows, columns * int(kind[1] or 1)
    if shape[0] * shape[1] == 0:
        return np.zeros(shape)
    values = numbers(text, *_data(text, node, syntax), _CLEAN[syntax])
    if len(values) != shape[0] * shape[1]:
        raise ValueError(
            f"a matrix of {shape[0]} × {shape[1]} must have {shape[0] * shape[1]} values, got {len(values)}"
        )
    return values.reshape(shape)


def _field(text: bytes, node: _Node, syntax: str, name: str, pattern: bytes) -> tuple[int, int]:
    """Return the range of the group in `pattern`, which is the value of a field."""
    label = name.encode("ascii")
    before, after = {
        "yaml": (rb"\n[ \t]+" + label + rb":[ \t]*", b""),
        "xml": (rb"<" + label + rb">\s*", rb"\s*</" + label + rb">"),
        "json": (rb'"' + label + rb'"\s*:\s*', b""),
    }[syntax]
    match = re.compile(before + pattern + after).search(text, node.start, node.end)
    if match is None:
        raise ValueError(f"a matrix without {name}")
    return match.span(1)


def _data(text: bytes, node: _Node, syntax: str) -> tuple[int, int]:
    """Return the range of a matrix's numbers, its first list of data, searching for the end only once."""
    start, end = {
        "yaml": (rb"\n[ \t]+data:[ \t]*\[", b"]"),
        "xml": (rb"<data>", b"</data>"),
        "json": (rb'"data"\s*:\s*\[', b"]"),
    }[syntax]
    match = re.compile(start).search(text, node.start, node.end)
    stop = text.find(end, match.end(), node.end) if match else -1
    if match is None or stop < 0:
        if _BASE64.search(text, node.start, node.end):
            raise ValueError("base64 matrices are not supported: write the file without FILE_STORAGE_WRITE_BASE64")
        raise ValueError("a matrix without data")
    return match.end(), stop


def _without_brackets(part: bytes) -> bytes:
    return part.translate(_SPACES)


def _without_dashes(part: bytes) -> bytes:
    """Remove brackets, and the dashes that begin the entries of a YAML list."""
    part = part.translate(_SPACES)
    return re.sub(rb"-(?=\s)", b" ", part) if b"- " in part else part


def _without_tags(part: bytes) -> bytes:
    return part.replace(b"<_>", b" ").replace(b"</_>", b" ")


_CLEAN = {"yaml": _without_dashes, "json": _without_brackets, "xml": _without_tags}
