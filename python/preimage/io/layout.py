"""The bytes of a feature file: a safetensors header in one canonical form, and the digest over the whole file.

Layout, version 1: 8 bytes header length (little-endian), the header, then the tensors one after another without
gaps, in the order of the keys. The header is ASCII JSON padded with spaces to a multiple of 8 bytes::

    {"__metadata__":{"format":"preimage-features","format_version":"1","sha256":"<64 hex digits>",
     "spec":…,"dtype":…,"keys":…,"original_sizes":…,"processed_sizes":…},"<key>":{"dtype":…,"shape":…,"data_offsets":…},…}

The metadata values are strings, as safetensors asks; spec, keys and sizes are JSON inside them. `sha256` is taken
over the whole file with its own 64 digits set to ``0``: any safetensors reader can open the file, and this one
notices a change to any bit of it. A reader rebuilds the header from what it parsed and demands equality, which
leaves no room for duplicate names, overlapping offsets or anything unknown.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from preimage.io.atomic import key_problem
from preimage.spec import Spec

VERSION = 1
DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2)}
DIGEST_LENGTH = 64
MAX_IMAGES = 200_000  # in one file
MAX_HEADER_BYTES = 32 << 20  # enough for them, with keys of 30 characters; bounds what a hostile header costs

_MAX_MARKS = 3_300_000  # brackets and commas, so values, in a header (16 an image): the other half of that bound
_MAX_SPEC_CHARACTERS = 1 << 16
_PREFIX = re.compile(
    rb'\{"__metadata__":\{"format":"preimage-features","format_version":"([1-9][0-9]{0,8})","sha256":"([0-9a-f]{64})"'
)

Size = tuple[int, int]


@dataclass
class Layout:
    """What a header says: the spec, and per image key, shape and sizes, in file order."""

    spec: Spec
    dtype: str
    keys: list[str] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    original_sizes: list[Size] = field(default_factory=list)
    processed_sizes: list[Size] = field(default_factory=list)

    def byte_counts(self) -> list[int]:
        """Bytes of each tensor."""
        width = DTYPES[self.dtype][1]
        return [math.prod(shape) * width for shape in self.shapes]

    def header(self, digest: str) -> bytes:
        """The header in its canonical form, padding included, without the 8 bytes of its length."""
        metadata = {
            "format": "preimage-features",
            "format_version": str(VERSION),
            "sha256": digest,
            "spec": self.spec.to_json(),
            "dtype": self.dtype,
            "keys": _compact(self.keys),
            "original_sizes": _compact(self.original_sizes),
            "processed_sizes": _compact(self.processed_sizes),
        }
        entries: dict[str, Any] = {"__metadata__": metadata}
        start = 0
        for key, shape, count in zip(self.keys, self.shapes, self.byte_counts(), strict=True):
            entries[key] = {
                "dtype": DTYPES[self.dtype][0],
                "shape": shape,
                "data_offsets": [start, start + count],
            }
            start += count
        text = _compact(entries).encode("ascii")
        return text + b" " * (-len(text) % 8)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def find_digest(header: bytes) -> tuple[int, str, int] | None:
    """``(format version, digest, position of the digest)`` of a feature file's header, ``None`` if it is none."""
    match = _PREFIX.match(header)
    return match and (int(match[1]), match[2].decode(), match.start(2))


def header_problem(header: bytes) -> str | None:
    """Why parsing `header` could take too much memory or time, or ``None`` when it cannot."""
    if len(header) > MAX_HEADER_BYTES:
        return f"a header of {len(header)} bytes; at most {MAX_HEADER_BYTES} are right"
    if sum(map(header.count, (b"[", b"{", b","))) > _MAX_MARKS:
        return f"a header of more than {_MAX_MARKS} values"
    if not header.isascii():
        return "a header with bytes that are not ASCII"  # one wide character makes Python's text four times as big
    return None


def parse(header: bytes) -> Layout:
    """The layout a version 1 header describes; ``ValueError`` says what is wrong with it."""
    if problem := header_problem(header):
        raise ValueError(problem)
    found = find_digest(header)
    entries = _loads(header.decode("ascii"))
    metadata = entries.get("__metadata__") if isinstance(entries, dict) else None
    if found is None or not isinstance(metadata, dict):
        raise ValueError("the header holds no metadata")
    texts = [metadata.get(name) for name in ("spec", "dtype", "keys", "original_sizes", "processed_sizes")]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("the metadata lacks spec, dtype, keys or sizes")
    spec, dtype, keys, original_sizes, processed_sizes = map(str, texts)
    if dtype not in DTYPES:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}, got {dtype[:40]!r}")
    layout = Layout(parse_spec(spec), dtype, _keys(keys))
    layout.original_sizes = _sizes(original_sizes, len(layout.keys))
    layout.processed_sizes = _sizes(processed_sizes, len(layout.keys))
    layout.shapes = [_shape(layout.spec, key, entries.get(key)) for key in layout.keys]
    if layout.header(found[1]) != header:
        raise ValueError("the header is not in the form that version 1 prescribes")
    return layout


def shape_problem(spec: Spec, shape: tuple[int, ...]) -> str | None:
    """Why features of `shape` do not fit `spec`, or ``None`` when they do."""
    wanted = f"({spec.channels}, h, w)" if spec.stride is not None else f"({spec.channels},)"
    if len(shape) == (1 if spec.stride is None else 3) and shape[0] == spec.channels and min(shape) > 0:
        return None
    return f"the spec asks for features {wanted}, got {shape}"


def is_size(value: object) -> bool:
    """Whether `value` is two whole numbers >= 1: (height, width)."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) and 0 < side < 1 << 31 for side in value)
    )


def _loads(text: str) -> Any:
    try:
        return json.loads(text, parse_int=_whole_number, parse_float=_refuse, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _whole_number(digits: str) -> int:
    if len(digits) > 18:
        raise ValueError("a number of more than 18 digits")  # parsing long ones takes quadratic time
    return int(digits)


def _refuse(text: str) -> None:
    raise ValueError(f"{text[:40]!r} where a whole number belongs")


def parse_spec(text: str) -> Spec:
    """The spec in `text`; ``ValueError`` if it is none, or longer than any spec needs to be."""
    if len(text) > _MAX_SPEC_CHARACTERS:
        raise ValueError(f"a spec of {len(text)} characters; at most {_MAX_SPEC_CHARACTERS} are right")
    try:
        return Spec.from_json(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"its spec cannot be read: {error}") from error


def _keys(text: str) -> list[str]:
    keys = _loads(text)
    if not isinstance(keys, list):
        raise ValueError("the keys are no list")
    for key in keys:
        if problem := key_problem(key):
            raise ValueError(problem)
    if len(set(keys)) < len(keys):
        raise ValueError("two images have one key")
    return keys


def _sizes(text: str, count: int) -> list[Size]:
    sizes = _loads(text)
    if not isinstance(sizes, list) or len(sizes) != count or not all(map(is_size, sizes)):
        raise ValueError(f"the sizes are not {count} pairs of whole numbers >= 1")
    return [(height, width) for height, width in sizes]


def _shape(spec: Spec, key: str, entry: object) -> tuple[int, ...]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or not all(type(side) is int and 0 < side < 1 << 40 for side in shape):
        raise ValueError(f"no tensor with a proper shape under key {key!r}")
    if problem := shape_problem(spec, tuple(shape)):
        raise ValueError(f"{problem} under key {key!r}")
    return tuple(shape)
