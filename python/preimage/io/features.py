"""The feature file, written and read: features, spec, keys, sizes, and a checksum over every bit."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io import layout as _layout
from preimage.io.atomic import StrPath, atomic_write
from preimage.io.layout import Layout
from preimage.io.records import FeatureFile, FeatureRecord, check_record, stored_array
from preimage.io.signatures import SIGNATURE_BYTES, describe_file
from preimage.io.unread import unread
from preimage.spec import Spec

_BLOCK = 1 << 20
_READ = 1 << 30  # bytes that a system call takes
_SPOOL_IN_MEMORY = 32 << 20  # bytes of features that never see the disk twice
_ZEROS = "0" * _layout.DIGEST_LENGTH


def write_features(path: StrPath, spec: Spec, records: Iterable[FeatureRecord], *, dtype: str = "float32") -> None:
    """Write a feature file (a valid safetensors file), one record at a time, atomically.

    The tensors go to a spool first (32 MiB of memory, then an unnamed temporary file in the same folder) because the
    header, which comes before them, is known only when the last record has come. So memory stays small whatever
    the number of images, and the folder needs room for twice the file while it is written.

    Args:
        path: the file to write; replaced only when all went well.
        spec: what every record's features are of.
        records: any iterable, consumed once. Non-finite features are stored as they are.
        dtype: ``"float32"`` or ``"float16"``, as stored.

    Raises:
        ValueError: a key that repeats or is no relative path, features that do not fit the spec or overflow
            float16, a size that is not two whole numbers >= 1, or more than 200,000 images (fewer with long keys).
        TypeError: features that are not a floating-point NumPy array.
        OSError: such as a full disk. After any error `path` is as it was.
    """
    if dtype not in _layout.DTYPES:
        raise ValueError(f"dtype is one of {', '.join(_layout.DTYPES)}, got {dtype!r}")
    if _layout.parse_spec(spec.to_json()) != spec:
        raise ValueError(f"the spec does not survive JSON (a parameter that is not a number?): {spec.to_json()}")
    layout = Layout(spec, dtype)
    with (
        atomic_write(path) as file,
        tempfile.SpooledTemporaryFile(_SPOOL_IN_MEMORY, dir=os.path.dirname(os.path.realpath(path))) as spool,
    ):
        seen: set[str] = set()
        header_bytes = len(layout.header(_ZEROS))
        for record in records:
            check_record(record, spec, seen)
            header_bytes += _header_share(record)
            if len(seen) > _layout.MAX_IMAGES or header_bytes > _layout.MAX_HEADER_BYTES:
                raise ValueError(f"more than {len(seen) - 1} images do not fit in one feature file: write several")
            values = np.ascontiguousarray(stored_array(record, dtype))
            if values.nbytes > _SPOOL_IN_MEMORY:
                spool.rollover()  # else the spool would take it into memory first
            spool.write(values.reshape(-1).view(np.uint8).data)
            layout.keys.append(record.key)
            layout.shapes.append(record.features.shape)
            layout.original_sizes.append(record.original_size)
            layout.processed_sizes.append(record.processed_size)
            del record, values  # not kept while the next one, perhaps as large, is made
        _assemble(file, layout, spool)


def _header_share(record: FeatureRecord) -> int:
    """About the bytes that the record adds to the header, on the low side."""
    numbers = len(f"{record.original_size}{record.processed_size}{record.features.shape}")
    return 2 * len(record.key) + numbers + 60


def _assemble(file: BinaryIO, layout: Layout, spool: Any) -> None:
    header = layout.header(_ZEROS)
    if problem := _layout.header_problem(header):
        raise ValueError(f"{len(layout.keys)} images do not fit in one feature file, {problem}: write several")
    start = len(header).to_bytes(8, "little") + header
    digest = hashlib.sha256(start)
    file.write(start)
    spool.seek(0)
    while block := spool.read(_BLOCK):
        digest.update(block)
        file.write(block)
    found = _layout.find_digest(header)
    assert found is not None
    file.seek(8 + found[2])
    file.write(digest.hexdigest().encode())


def read_features(path: StrPath) -> FeatureFile:
    """Open a feature file: the whole file is checked against its digest; features load on demand.

    Raises:
        FileFormatError: not a feature file, truncated, changed anywhere, of a newer version, or inconsistent.
        FileNotFoundError: there is no such file.
    """
    with open(path, "rb") as file:
        try:
            layout, start = _verified_layout(file)
        except ValueError as error:
            raise FileFormatError(path, str(error)) from error
        tensors = _Bytes(file.fileno(), path)
    kind = np.dtype("<f4" if layout.dtype == "float32" else "<f2")
    shapes, starts = layout.shapes, [start]
    for count in layout.byte_counts():
        starts.append(starts[-1] + count)

    def load(position: int) -> NDArray[Any]:
        values = np.empty(shapes[position], kind)
        tensors.read_into(values, starts[position])
        return values

    return FeatureFile(
        path,
        layout.spec,
        keys=layout.keys,
        original_sizes=layout.original_sizes,
        processed_sizes=layout.processed_sizes,
        dtype=layout.dtype,
        load=load,
    )


class _Bytes:
    """A file that stays readable when another takes its place, of which only what is asked for comes into memory."""

    def __init__(self, descriptor: int, path: StrPath) -> None:
        self._file = open(os.dup(descriptor), "rb", buffering=0)  # noqa: SIM115 - closed with the last reader
        self._path = path
        self._lock = threading.Lock()

    def __del__(self) -> None:
        self._file.close()

    def read_into(self, values: NDArray[Any], start: int) -> None:
        """Fill an array; `FileFormatError` if the file has become shorter."""
        wanted = values.reshape(-1).view(np.uint8).data
        with self._lock:
            self._file.seek(start)
            while wanted:
                count = self._file.readinto(wanted[:_READ])
                if not count:
                    raise FileFormatError(self._path, "has become shorter since it was opened")
                wanted = wanted[count:]


def _verified_layout(file: BinaryIO) -> tuple[Layout, int]:
    """The parsed header and where the tensors start; ``ValueError`` says what is wrong with the file."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    opening = file.read(1)
    if size < 10 or opening != b"{" or length > size - 8:
        file.seek(0)
        start = file.read(SIGNATURE_BYTES)
        if describe_file(start) == "a safetensors file":
            raise ValueError("not a feature file, or cut short: a safetensors file whose header goes beyond its end")
        raise ValueError(unread(file.name, start))
    if length > _layout.MAX_HEADER_BYTES:
        raise ValueError(f"its header claims {length} bytes; at most {_layout.MAX_HEADER_BYTES} are right")
    header = opening + file.read(length - 1)
    found = _layout.find_digest(header)
    if found is None:
        raise ValueError("no feature file: a safetensors header without the preimage-features mark, or damaged")
    version, digest, position = found
    actual = hashlib.sha256(length.to_bytes(8, "little"))
    actual.update(header[:position] + _ZEROS.encode() + header[position + len(_ZEROS) :])
    while block := file.read(_BLOCK):
        actual.update(block)
    if actual.hexdigest() != digest:
        raise ValueError("damaged: its checksum does not match its contents (cut short, or bits changed)")
    if version > _layout.VERSION:
        raise ValueError(f"format version {version} is newer than {_layout.VERSION}: update preimage to read it")
    layout = _layout.parse(header)
    if sum(layout.byte_counts()) != size - 8 - length:
        raise ValueError(f"{size - 8 - length} bytes of features, but the header describes other sizes")
    return layout, 8 + length


__all__ = ["FeatureFile", "FeatureRecord", "read_features", "write_features"]
