"""Read and write shards: safetensors files with the features, keys and sizes of images.

A feature store is a folder of shards; a single ``.safetensors`` file of features is one shard. Its tensors follow each
other without gaps:

- ``features`` (N, C, h, w) or (N, C), float16 or float32. If shapes differ, each run of consecutive images of one
  shape is a tensor ``features.I``, where I is the position of its first image.
- ``original_sizes``, ``processed_sizes`` (N, 2) int32: (height, width) in pixels.
- ``keys`` (number of bytes,) uint8: names of the images in UTF-8, separated by newlines.

The metadata contains ``spec``, ``dtype`` and three SHA-256 digests: ``features_sha256`` of the features,
``columns_sha256`` of the sizes and keys, and ``sha256`` of the header with those 64 digits replaced by zeros. Header
and columns are checked when a file is opened, the features when they are first read.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError, parse_json
from preimage.io.atomic import LONGEST_KEY, StrPath, atomic_write, key_problem
from preimage.io.checksum import ZEROS
from preimage.io.feature_file import DTYPES, Size, shape_problem
from preimage.io.file_types import SIGNATURE_BYTES, describe_signature, why_unsupported
from preimage.spec import Spec

VERSION = 2
SUFFIX = ".safetensors"
MAX_HEADER_BYTES = 32 << 20  # bounds the memory that a malicious header takes

_CODES = {"float32": "F32", "float16": "F16"}
_KINDS: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
_COLUMNS = (("original_sizes", "I32"), ("processed_sizes", "I32"), ("keys", "U8"))
_MAX_MARKS = 3_300_000  # brackets and commas in a header, which bounds the number of JSON values
MAX_SPEC_CHARACTERS = 1 << 16
_HEADER_BYTES = 1024  # reserved for the header before the features, in addition to the spec
_RUN_BYTES = 128  # and to this for every tensor of features
_BLOCK = 1 << 24
_PARALLEL_BYTES = 4 << 20  # minimum size of features that are hashed and written at the same time
_PREFIX = re.compile(
    rb'\{"__metadata__":\{"format":"preimage-features","format_version":"([1-9][0-9]{0,8})","sha256":"([0-9a-f]{64})"'
)
_PLAIN = bytes(range(48, 58)) + bytes(range(65, 91)) + bytes(range(97, 123)) + b"_-/\n"
_NOT_KEYS = (b"//", b"\n/", b"/\n", b"\n\n", b"\n__metadata__\n")  # of plain characters


@dataclass(frozen=True)
class Header:
    """Header of a file of features, of any version.

    Attributes:
        version: Version of the format.
        digest: Stored SHA-256 of the header (version 2) or of the whole file (version 1).
        position: Position of the digest in `text`.
        text: JSON text of the header.
        body: Offset of the tensors in the file.
    """

    version: int
    digest: str
    position: int
    text: bytes
    body: int


class ShardWriter:
    """Append images to a shard and hash what is written, see `write_shard`.

    Attributes:
        count: Number of images so far.
        digest: SHA-256 of the header, after `finish`.
        skipped: Name and problem of every skipped image, for the index of a store.
        nonfinite: Name of every image with NaN or infinite features, and their number, for the index of a store.
    """

    def __init__(self, file: BinaryIO, spec: Spec, dtype: str, runs: int) -> None:
        self._file, self._spec, self._dtype = file, spec, dtype
        self._room = runs
        self._spec_bytes = len(json.dumps(spec.to_json()))
        self._start = self._header_room(runs)
        self._features = hashlib.sha256()
        self._runs: list[tuple[int, tuple[int, ...]]] = []  # images, shape
        self._keys: list[str] = []
        self._original: list[Size] = []
        self._processed: list[Size] = []
        self.digest = ""
        self.count = 0
        self.skipped: list[tuple[str, str]] = []
        self.nonfinite: list[tuple[str, int]] = []
        file.seek(self._start)

    def append(
        self,
        keys: Sequence[str],
        features: NDArray[Any],
        original_sizes: Sequence[Size],
        processed_sizes: Sequence[Size],
    ) -> None:
        """Append images whose features have one shape.

        Args:
            keys: Keys of the B images.
            features: (B, C, h, w) or (B, C), of the shard's dtype.
            original_sizes: (height, width) of each decoded image in pixels.
            processed_sizes: (height, width) in pixels of the images that the features were computed from.
        """
        assert len(keys) == len(features) == len(original_sizes) == len(processed_sizes)
        shape = features.shape[1:]
        if self._runs and self._runs[-1][1] == shape:
            self._runs[-1] = (self._runs[-1][0] + len(keys), shape)
        else:
            self._runs.append((len(keys), shape))
            if len(self._runs) > self._room:
                self._make_room(4 * self._room)
        stored = np.ascontiguousarray(features, _KINDS[self._dtype]).reshape(-1).view(np.uint8).data
        self._write(stored)
        self._keys += keys
        self.count += len(keys)
        self._original += original_sizes
        self._processed += processed_sizes

    def _write(self, stored: memoryview) -> None:
        """Write features and hash them, at the same time if that is worth a thread."""
        if stored.nbytes < _PARALLEL_BYTES:
            self._features.update(stored)
            self._file.write(stored)
            return
        hashing = threading.Thread(target=self._features.update, args=(stored,), name="hash")
        hashing.start()
        try:
            self._file.write(stored)
        finally:
            hashing.join()

    def finish(self) -> None:
        """Write sizes, keys and the header, and set `digest`."""
        sizes = (np.array(pairs, "<i4").reshape(-1, 2).tobytes() for pairs in (self._original, self._processed))
        columns = [*sizes, "\n".join(self._keys).encode()]
        self._file.write(b"".join(columns))
        header = self._header([len(column) for column in columns], hashlib.sha256(b"".join(columns)).hexdigest())
        assert 8 + len(header) <= self._start
        text = header.ljust(self._start - 8)
        self.digest = hashlib.sha256(text).hexdigest()
        self._file.seek(0)
        self._file.write((len(text)).to_bytes(8, "little") + text.replace(ZEROS.encode(), self.digest.encode(), 1))

    def _header(self, column_bytes: Sequence[int], columns_digest: str) -> bytes:
        metadata = {
            "format": "preimage-features",
            "format_version": str(VERSION),
            "sha256": ZEROS,
            "features_sha256": self._features.hexdigest(),
            "columns_sha256": columns_digest,
            "spec": self._spec.to_json(),
            "dtype": self._dtype,
        }
        entries: dict[str, Any] = {"__metadata__": metadata}
        start = position = 0
        for count, shape in self._runs:
            name = "features" if len(self._runs) == 1 else f"features.{position}"
            end = start + count * math.prod(shape) * _KINDS[self._dtype].itemsize
            entries[name] = _entry(_CODES[self._dtype], (count, *shape), start, end)
            start, position = end, position + count
        for (name, code), count in zip(_COLUMNS, column_bytes, strict=True):
            shape = (count,) if code == "U8" else (position, 2)
            entries[name] = _entry(code, shape, start, start + count)
            start += count
        return json.dumps(entries, separators=(",", ":")).encode("ascii")

    def _make_room(self, runs: int) -> None:
        """Move the features, so that a header with `runs` tensors of features fits before them."""
        end, start = self._file.tell(), self._header_room(runs)
        if start > MAX_HEADER_BYTES:
            raise ValueError(f"a single file must have at most {self._room} changes of shape: write a folder")
        moved = start - self._start
        for first in reversed(range(self._start, end, _BLOCK)):  # from the end, because old and new range overlap
            self._file.seek(first)
            block = self._file.read(min(_BLOCK, end - first))
            self._file.seek(first + moved)
            self._file.write(block)
        self._file.seek(end + moved)
        self._start, self._room = start, runs

    def _header_room(self, runs: int) -> int:
        return -(-(_HEADER_BYTES + self._spec_bytes + runs * _RUN_BYTES) // 64) * 64


@contextmanager
def write_shard(path: StrPath, spec: Spec, dtype: str, *, runs: int = 1) -> Iterator[ShardWriter]:
    """Write a shard atomically, image by image or batch by batch.

    Args:
        path: Path of the file. An earlier file is replaced only on success.
        spec: Spec of the features.
        dtype: Stored dtype, ``"float32"`` or ``"float16"``.
        runs: Expected number of runs of images of one shape; if there are more, the file is rearranged.

    Raises:
        ValueError: `dtype` is invalid, the spec is changed by conversion to JSON, or there are too many runs.
        OSError: Any error of the operating system, such as a full disk. `path` is unchanged then.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if parse_spec(spec.to_json()) != spec:
        raise ValueError(f"the spec is changed by JSON (a parameter that is not a number?): {spec.to_json()}")
    with atomic_write(path) as file:
        writer = ShardWriter(file, spec, dtype, runs)
        yield writer
        writer.finish()


class Shard:
    """Shard opened for reading. Header and columns are checked immediately, the features when they are first read.

    Args:
        path: Path of the file.
        header: Header as returned by `read_header`, of this version of the format.
        size: Size of the file in bytes.

    Attributes:
        path: Path of the file.
        digest: SHA-256 of the header, which contains the digests of the rest.
        spec: Spec of the features.
        dtype: Stored dtype, ``"float32"`` or ``"float16"``.
        keys: Keys of the images, in file order.
        original_sizes: (N, 2) int32, (height, width) of each decoded image in pixels.
        processed_sizes: (N, 2) int32, (height, width) in pixels of the images that the features were computed from.

    Raises:
        FileFormatError: The file is damaged or inconsistent.
    """

    def __init__(self, path: StrPath, header: Header, size: int) -> None:
        self.path, self.digest = path, header.digest
        self._lock = threading.Lock()
        self._memory: NDArray[np.uint8] | None = None
        self._hashed: tuple[tuple[int, int], str] | None = None  # inode and time of the hashed file, features' digest
        self._size = size
        blank = header.text[: header.position] + ZEROS.encode() + header.text[header.position + len(ZEROS) :]
        if hashlib.sha256(blank).hexdigest() != header.digest:
            raise FileFormatError(path, "damaged: checksum mismatch in its header")
        try:
            columns = self._parse(header)
            with open(path, "rb") as file:
                file.seek(self._columns)
                stored = file.read(sum(columns))
            if hashlib.sha256(stored).hexdigest() != self._columns_digest:
                raise ValueError("damaged: checksum mismatch in its keys and sizes")
            first, second, _ = columns
            self.original_sizes = _sizes(stored[:first])
            self.processed_sizes = _sizes(stored[first : first + second])
            self.keys = _keys(stored[first + second :], len(self.original_sizes))
        except ValueError as error:
            raise FileFormatError(path, str(error)) from error

    def features(self, position: int) -> NDArray[Any]:
        """Return the features of one image, (C, h, w) or (C,), as a read-only view of the mapped file."""
        memory = self._mapped()
        run = int(np.searchsorted(self._firsts, position, side="right")) - 1
        first, start, shape = self._runs[run]
        kind = _KINDS[self.dtype]
        count = math.prod(shape) * kind.itemsize
        begin = start + (position - first) * count
        return memory[begin : begin + count].view(kind).reshape(shape)

    @property
    def runs(self) -> int:
        """Number of tensors of features, one for each run of images of one shape."""
        return len(self._runs)

    def verify(self) -> None:
        """Compare the features with their checksum.

        Raises:
            FileFormatError: The checksum does not match.
        """
        self._mapped()

    def unmap(self) -> None:
        """Release the mapped file and its descriptor, as soon as no view of its features is left."""
        with self._lock:
            self._memory = None

    def _mapped(self) -> NDArray[np.uint8]:
        with self._lock:
            if self._memory is None:
                self._memory = self._checked()
            return self._memory

    def _checked(self) -> NDArray[np.uint8]:
        """Map the file, and hash its features unless they were hashed before."""
        with open(self.path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size != self._size:
                raise FileFormatError(self.path, f"has {status.st_size} bytes, {self._size} when it was opened")
            memory = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        stamp = status.st_ino, status.st_mtime_ns
        if self._hashed is None or self._hashed[0] != stamp:
            self._hashed = stamp, hashlib.sha256(memory[self._body : self._columns].data).hexdigest()
        if self._hashed[1] != self._features_digest:
            raise FileFormatError(self.path, "damaged: checksum mismatch in its features")
        return memory

    def _parse(self, header: Header) -> list[int]:
        """Set the attributes stated in the header and return the number of bytes of each column."""
        entries = loads(header.text)
        metadata = entries.pop("__metadata__", None) if isinstance(entries, dict) else None
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("the header has no metadata")
        names = ("spec", "dtype", "features_sha256", "columns_sha256")
        if missing := [name for name in names if name not in metadata]:
            raise ValueError(f"the metadata lacks {', '.join(missing)}")
        self.spec, self.dtype = parse_spec(metadata["spec"]), metadata["dtype"]
        self._features_digest, self._columns_digest = metadata["features_sha256"], metadata["columns_sha256"]
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype[:40]!r}")
        self._body = end = header.body
        self._runs: list[tuple[int, int, tuple[int, ...]]] = []  # first position, first byte, shape of an image
        count = 0
        for name in [name for name in entries if name.partition(".")[0] == "features"]:
            if name not in (f"features.{count}", "features" if not count else ""):
                raise ValueError(f"tensor features.{count} is missing, got {name[:40]!r}")
            shape = _tensor(entries, name, _CODES[self.dtype], end - self._body)
            if problem := shape_problem(self.spec, shape[1:]):
                raise ValueError(problem)
            self._runs.append((count, end, shape[1:]))
            count += shape[0]
            end += math.prod(shape) * _KINDS[self.dtype].itemsize
        self._firsts = np.array([first for first, _, _ in self._runs], np.int64)
        self._columns, columns = end, []
        for name, code in _COLUMNS:
            shape = _tensor(entries, name, code, end - self._body)
            if code != "U8" and shape != (count, 2):
                raise ValueError(f"{name} must have shape ({count}, 2), got {shape}")
            columns.append(math.prod(shape) * (1 if code == "U8" else 4))
            end += columns[-1]
        if entries:
            raise ValueError(f"contains an unknown tensor {next(iter(entries))[:40]!r}")
        if end != self._size:
            raise ValueError(f"has {self._size} bytes, {end} according to its header: truncated or extended")
        return columns


def read_header(file: BinaryIO, size: int) -> Header:
    """Read the header of a file of features.

    Args:
        file: The file, at its beginning.
        size: Size of the file in bytes.

    Raises:
        ValueError: The file is something else, or damaged.
    """
    length = int.from_bytes(file.read(8), "little")
    opening = file.read(1)
    if size < 10 or opening != b"{" or length > size - 8:
        file.seek(0)
        start = file.read(SIGNATURE_BYTES)
        if describe_signature(start) == "a safetensors file":
            raise ValueError("not a feature store, or truncated: a safetensors file whose header exceeds the file")
        raise ValueError(why_unsupported(file.name, start))
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header must have at most {MAX_HEADER_BYTES} bytes, got {length}")
    text = opening + file.read(length - 1)
    match = _PREFIX.match(text)
    if match is None:
        raise ValueError("not a feature store, or damaged: a safetensors file without the format preimage-features")
    return Header(int(match[1]), match[2].decode(), match.start(2), text, 8 + length)


def check_version(version: int) -> None:
    """Raise ``ValueError`` if a version of the format is newer than `VERSION`."""
    if version > VERSION:
        raise ValueError(f"format version {version} is newer than {VERSION}: update preimage to read it")


def loads(text: bytes) -> Any:
    """Parse the JSON of a header in bounded memory and time.

    Raises:
        ValueError: The text is invalid, or larger than headers can be.
    """
    if problem := header_problem(text):
        raise ValueError(problem)
    return loads_text(text.decode("ascii"))


def header_problem(header: bytes) -> str | None:
    """Return why parsing a header could take too much memory or time, or ``None`` if it cannot."""
    if len(header) > MAX_HEADER_BYTES:
        return f"a header must have at most {MAX_HEADER_BYTES} bytes, got {len(header)}"
    if sum(map(header.count, (b"[", b"{", b","))) > _MAX_MARKS:
        return f"a header must have at most {_MAX_MARKS} values"
    if not header.isascii():
        return "a header must be ASCII"  # one wide character makes Python's string four times as large
    return None


def loads_text(text: str) -> Any:
    """Parse JSON in which all numbers are integers of at most 18 digits.

    Raises:
        ValueError: The text is invalid or contains other numbers.
    """
    return parse_json(text, parse_int=_whole_number, parse_float=_refuse, parse_constant=_refuse)


def parse_spec(text: str) -> Spec:
    """Parse the JSON of a spec.

    Raises:
        ValueError: The text is not a spec, or is too long.
    """
    if len(text) > MAX_SPEC_CHARACTERS:
        raise ValueError(f"a spec must have at most {MAX_SPEC_CHARACTERS} characters, got {len(text)}")
    try:
        return Spec.from_json(text)
    except (ValueError, TypeError) as error:
        raise ValueError(f"its spec cannot be read: {error}") from error


def _whole_number(digits: str) -> int:
    if len(digits) > 18:
        raise ValueError("a number has more than 18 digits")  # parsing takes quadratic time
    return int(digits)


def _refuse(text: str) -> None:
    raise ValueError(f"numbers must be integers, got {text[:40]!r}")


def _entry(code: str, shape: tuple[int, ...], start: int, end: int) -> dict[str, Any]:
    return {"dtype": code, "shape": shape, "data_offsets": [start, end]}


def _tensor(entries: dict[str, Any], name: str, code: str, start: int) -> tuple[int, ...]:
    """Remove a tensor from the entries and return its shape, after checking that it begins at `start`."""
    entry = entries.pop(name, None)
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or not all(type(side) is int and 0 <= side < 1 << 40 for side in shape):
        raise ValueError(f"no tensor {name[:40]!r} with a valid shape")
    width = {"F32": 4, "F16": 2, "I32": 4, "U8": 1}[code]
    if entry != _entry(code, shape, start, start + math.prod(shape) * width) | {"shape": shape}:  # type: ignore[arg-type]
        raise ValueError(f"tensor {name[:40]!r} must be {code} at byte {start}")
    return tuple(shape)


def _sizes(stored: bytes) -> NDArray[np.int32]:
    sizes = np.frombuffer(stored, "<i4").reshape(-1, 2)
    if sizes.size and sizes.min() < 1:
        raise ValueError(f"sizes must be positive, got {sizes.min()}")
    return sizes


def _keys(stored: bytes, count: int) -> list[str]:
    try:
        keys = stored.decode().split("\n") if count else []
    except UnicodeDecodeError:
        raise ValueError("its keys must be UTF-8") from None
    if len(keys) != count or (stored and not count):
        raise ValueError(f"{len(keys)} keys for {count} images")
    # Nearly all keys consist of plain characters: checking a million of them together takes a tenth of a second.
    around = b"\n" + stored + b"\n"
    plain = not stored.translate(None, _PLAIN) and not any(part in around for part in _NOT_KEYS)
    if not plain or max(map(len, keys), default=0) > LONGEST_KEY:
        for key in keys:
            if problem := key_problem(key):
                raise ValueError(problem)
    return keys
