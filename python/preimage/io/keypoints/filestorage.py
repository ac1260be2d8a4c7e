"""Files of OpenCV's ``FileStorage``: nodes of numbers and matrices in YAML, XML or JSON as OpenCV writes them.

OpenCV's own parser is not meant for files of unknown origin, so this reads the little that is needed: nodes at the top,
each a sequence of numbers (nested or not) or a matrix.
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
    """Where a node's content stands in the text."""

    start: int
    end: int
    is_matrix: bool


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
    """The names of the first nodes at the top, as OpenCV indents them; for messages."""
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
        raise ValueError("declares a document type or entities, which are not read")
    match = re.search(rb"<" + name + rb"([ \t][^<>]{0,200})?>", text)
    if match is None:
        return None
    end = text.find(b"</" + name + b">", match.end())
    if end < 0:
        raise ValueError(f"cut short: {name.decode()} does not end")
    return _Node(match.end(), end, b'"opencv-matrix"' in (match[1] or b""))


def _json(text: bytes, name: bytes) -> _Node | None:
    match = re.search(rb'"' + name + rb'"\s*:\s*([\[{])', text)
    if match is None:
        return None
    is_matrix = match[1] == b"{"
    last = re.compile(rb"}" if is_matrix else rb'["{}:]').search(text, match.end())
    node = _Node(match.end(), last.start() if last else len(text), is_matrix)
    if is_matrix and text.find(b'"opencv-matrix"', node.start, node.end) < 0:
        raise ValueError(f"{name.decode()} is no matrix")
    return node


def _matrix(text: bytes, node: _Node, syntax: str) -> NDArray[np.float64]:
    rows, columns = (int(text[slice(*_field(text, node, syntax, name, rb"(\d{1,9})"))]) for name in ("rows", "cols"))
    kind = _CHANNELS.fullmatch(text[slice(*_field(text, node, syntax, "dt", rb'"?([0-9a-z]{1,3})"?'))])
    if kind is None:
        raise ValueError("a matrix of an unknown type")
    shape = rows, columns * int(kind[1] or 1)
    if shape[0] * shape[1] == 0:
        return np.zeros(shape)
    values = numbers(text, *_data(text, node, syntax), _CLEAN[syntax])
    if len(values) != shape[0] * shape[1]:
        raise ValueError(f"{len(values)} numbers in a matrix of {shape[0]} × {shape[1]}")
    return values.reshape(shape)


def _field(text: bytes, node: _Node, syntax: str, name: str, pattern: bytes) -> tuple[int, int]:
    """Where the group in `pattern` stands."""
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
    """Where a matrix's numbers stand: its first list of data, whose end is looked for only once."""
    start, end = {
        "yaml": (rb"\n[ \t]+data:[ \t]*\[", b"]"),
        "xml": (rb"<data>", b"</data>"),
        "json": (rb'"data"\s*:\s*\[', b"]"),
    }[syntax]
    match = re.compile(start).search(text, node.start, node.end)
    stop = text.find(end, match.end(), node.end) if match else -1
    if match is None or stop < 0:
        if _BASE64.search(text, node.start, node.end):
            raise ValueError("a matrix in base64, which is not read: write the file without FILE_STORAGE_WRITE_BASE64")
        raise ValueError("a matrix without data")
    return match.end(), stop


def _without_brackets(part: bytes) -> bytes:
    return part.translate(_SPACES)


def _without_dashes(part: bytes) -> bytes:
    """Nor the dashes that begin the entries of a YAML list."""
    part = part.translate(_SPACES)
    return re.sub(rb"-(?=\s)", b" ", part) if b"- " in part else part


def _without_tags(part: bytes) -> bytes:
    return part.replace(b"<_>", b" ").replace(b"</_>", b" ")


_CLEAN = {"yaml": _without_dashes, "json": _without_brackets, "xml": _without_tags}
