"""Features from and to plain NumPy files, which know nothing of a spec: the caller names it."""

from __future__ import annotations

import ast
import functools
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.arrays.conventions import check_convention, has_frames
from preimage.io.arrays.keys import KEYS_MEMBER, holds_objects, holds_text, keys_of
from preimage.io.arrays.stored_arrays import MAX_ARRAY_BYTES, StoredArray, feature_file, stored_records
from preimage.io.atomic import StrPath, atomic_write
from preimage.io.feature_file import DTYPES, FeatureFile, FeatureRecord, Size
from preimage.io.file_types import mismatch
from preimage.spec import Spec

_MAX_NPY_HEADER = 10_000  # bytes; NumPy writes 118
_BROKEN = (ValueError, TypeError, SyntaxError, EOFError, OverflowError, RecursionError, MemoryError, struct.error)
_BROKEN_ZIP = (*_BROKEN, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, IndexError, KeyError)


def read_numpy_features(
    path: StrPath,
    spec: Spec,
    *,
    convention: str = "preimage",
    keys: Sequence[str] | None = None,
    processed_sizes: Sequence[Size] | Size | None = None,
) -> FeatureFile:
    """Features from an ``.npy`` or ``.npz`` file, never unpickled.

    Args:
        path: an ``.npy`` file with one array, (B, C, h, w), (C, h, w), (B, C) or (C,), which is mapped, or an
            ``.npz`` file with either one such array or one (C, h, w) or (C,) array per image under its key.
            Arrays are float16, float32 or float64.
        spec: what the features are of; its channels and stride must fit the shapes.
        convention: how the arrays are laid out, see `preimage.io.arrays.conventions`; other conventions than
            ``"preimage"`` have other shapes, and dense SIFT then comes in an ``.npz`` file as a pair of arrays
            ``KEY/descriptors`` (also uint8) and ``KEY/frames``, or just ``descriptors`` and ``frames``.
        keys: one per image. Otherwise those of `preimage.io.arrays.keys`, the names in an ``.npz`` file of
            one array per image, the file's stem for a single image, and ``00000``, ``00001``, … for a stack.
        processed_sizes: (height, width) of the images the features were computed from, pixels, one for all or
            one each; otherwise the pixels that the features cover, (h · stride, w · stride) for cells, which
            vectors do not have.

    Returns:
        A `FeatureFile`; its original sizes equal its processed sizes, as the file does not hold them.

    Raises:
        FileFormatError: not such a file, object arrays, another dtype, or shapes that do not fit spec and convention.
        ValueError: keys or sizes that do not fit the file, or sizes missing; a convention these features do not have.
    """
    check_convention(spec, convention)
    arrays = open_arrays(path)
    if keys is None:
        keys = keys_of(path)
    return feature_file(path, spec, convention, arrays, keys=keys, processed_sizes=processed_sizes)


def open_arrays(path: StrPath) -> list[StoredArray]:
    """The arrays in an ``.npy`` or ``.npz`` file by their headers; `FileFormatError` if they are no features."""
    try:
        with open(path, "rb") as file:
            signature = file.read(4)
        if signature.startswith(b"PK"):
            return open_npz(path)
        if signature == b"\x93NUM":
            return _open_npy(path)
        raise ValueError(mismatch("an .npy or .npz file", path))
    except _BROKEN_ZIP as error:
        raise FileFormatError(path, str(error) or "damaged") from error


def _open_npy(path: StrPath) -> list[StoredArray]:
    with open(path, "rb") as file:
        shape, dtype = _read_npy_header(file, os.fstat(file.fileno()).st_size)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return [StoredArray(Path(path).stem, shape, dtype, lambda: array)]


def open_npz(path: StrPath, *, any_numbers: bool = False) -> list[StoredArray]:
    """The arrays in an ``.npz`` file by their headers; with `any_numbers` also integers and empty arrays.

    Raises:
        ValueError, zipfile.BadZipFile and their like: damaged, or not such arrays.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(mismatch("an .npz file, or cut short", path))
    archive = zipfile.ZipFile(path)  # stays open for `load`, and closes itself when that is dropped
    arrays = []
    for member in archive.infolist():
        if member.file_size > MAX_ARRAY_BYTES:
            raise ValueError(f"{member.filename!r} has {member.file_size} bytes; {MAX_ARRAY_BYTES} are allowed")
        if member.header_offset < 0:
            raise ValueError(f"{member.filename!r} begins before the file does")  # seeking there is an OSError
        if member.filename == KEYS_MEMBER and not any_numbers:
            with archive.open(member) as file:
                if holds_text(file):
                    continue
            with archive.open(member) as file:
                if holds_objects(file):
                    raise ValueError(
                        "its keys are Python objects, which would have to be unpickled: save them as strings, "
                        "keys=np.array(keys, dtype=str)"
                    )
        with archive.open(member) as file:
            try:
                shape, dtype = _read_npy_header(file, member.file_size, any_numbers)
            except _BROKEN as error:
                raise ValueError(f"{member.filename!r}: {error}") from error
        name = member.filename.removesuffix(".npy")
        arrays.append(StoredArray(name, shape, dtype, functools.partial(_read_member, archive, member, path)))
    if not arrays:
        raise ValueError("an .npz file without arrays")
    return arrays


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: StrPath) -> NDArray[Any]:
    try:
        with archive.open(member) as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            file.read(1)  # at the end of the member its checksum is compared
            return array
    except _BROKEN_ZIP as error:
        raise FileFormatError(path, f"{member.filename!r} is damaged: {error}") from error


def _read_npy_header(file: IO[bytes], size: int, any_numbers: bool = False) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype; ``ValueError`` unless they are floats, nothing is empty, and `size` bytes are enough."""
    magic = file.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError("not an .npy array")
    code = "<H" if magic[6] == 1 else "<I"
    prefix = file.read(struct.calcsize(code))
    (length,) = struct.unpack(code, prefix)
    if length > _MAX_NPY_HEADER:
        raise ValueError(f"an .npy header of {length} bytes; at most {_MAX_NPY_HEADER} are right")
    shape, dtype = _described(file.read(length), any_numbers)
    if min(shape, default=1) < (0 if any_numbers else 1):
        raise ValueError(f"an array of shape {shape}, which holds nothing")
    needed = math.prod(shape) * dtype.itemsize + len(magic) + len(prefix) + length
    if needed > size:
        raise ValueError(f"cut short: {size} bytes, but an array of shape {shape} needs {needed}")
    return shape, dtype


def _described(header: bytes, any_numbers: bool = False) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype from the dictionary in an .npy header, read more strictly than NumPy does."""
    try:
        fields = ast.literal_eval(header.decode("utf-8").strip())
    except _BROKEN as error:
        raise ValueError("an .npy header that is no dictionary") from error
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise ValueError("an .npy header without shape and dtype")
    descr, shape = fields["descr"], fields["shape"]
    if "O" in str(descr):
        raise ValueError(
            "an array of Python objects, which would have to be unpickled: save numbers instead (dtype=np.float32)"
        )
    wanted = "[<>=|]?(?:f[248]|[iu][1248])" if any_numbers else "[<>=|]?f[248]|[|<=]?u1"
    if not isinstance(descr, str) or not re.fullmatch(wanted, descr):
        simple = isinstance(descr, str) and re.fullmatch(r"[<>=|][biuc](1|2|4|8|16)", descr)
        came = _name(descr) if simple else f"{descr!r:.60}"
        raise ValueError(f"an array of {came}; float16, float32 or float64 are right")
    if not isinstance(shape, tuple) or not all(type(side) is int for side in shape):
        raise ValueError(f"an array of shape {shape!r:.60}")
    return shape, np.dtype(descr)


def _name(descr: str) -> str:
    try:
        return np.dtype(descr).name
    except TypeError:
        return repr(descr)


def write_numpy_features(
    path: StrPath,
    spec: Spec,
    records: Iterable[FeatureRecord],
    *,
    dtype: str = "float32",
    convention: str = "preimage",
) -> None:
    """Write features as plain NumPy, atomically, one image in memory at a time.

    Args:
        path: with suffix ``.npy``: one array (B, C, h, w) or (B, C); with ``.npz``: one array per image under its
            key, uncompressed. Spec and sizes are not kept.
        spec: what every record's features are of.
        records: any iterable, such as ``file.records()``; consumed once.
        dtype: ``"float32"`` or ``"float16"``, as stored.
        convention: see `preimage.io.arrays.conventions`. Dense SIFT in others' conventions becomes two arrays an
            image, ``KEY/descriptors`` and ``KEY/frames``, which needs ``.npz``; an ``.npy`` stack always has the
            image's axis first.

    Raises:
        ValueError: another suffix or dtype, a record that `write_features` would refuse, no record at all, a convention
            these features do not have, or, for ``.npy``, images of different shapes.
        TypeError: features that are not a floating-point NumPy array.
        OSError: such as a full disk. After any error `path` is as it was.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".npy", ".npz"):
        raise ValueError(f"{path}: the suffix is .npy or .npz, got {suffix!r}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}")
    check_convention(spec, convention)
    if suffix == ".npy" and (convention.startswith("matlab") or has_frames(spec, convention)):
        raise ValueError(f"{path}: features in convention {convention!r} are not written as one .npy array, use .npz")
    with atomic_write(path) as file:
        written = (_write_npz if suffix == ".npz" else _write_npy)(file, _named(spec, convention, records, dtype))
        if not written:
            raise ValueError(f"{path}: no image to write")


def _named(
    spec: Spec, convention: str, records: Iterable[FeatureRecord], dtype: str
) -> Iterator[tuple[str, NDArray[Any]]]:
    for record, arrays in stored_records(spec, convention, records, dtype):
        for role, array in arrays.items():
            yield record.key if len(arrays) == 1 else f"{record.key}/{role}", array


def _write_npz(file: IO[bytes], arrays: Iterable[tuple[str, NDArray[Any]]]) -> int:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for key, array in arrays:
            member = zipfile.ZipInfo(f"{key}.npy")  # dated 1980: equal features give equal bytes
            with archive.open(member, "w", force_zip64=True) as output:
                np.lib.format.write_array(output, array, allow_pickle=False)
        return len(archive.infolist())


def _write_npy(file: IO[bytes], arrays: Iterable[tuple[str, NDArray[Any]]]) -> int:
    count, shape, descr = 0, (), ""
    for key, array in arrays:
        if count == 0:
            shape, descr = array.shape, array.dtype.str
            file.write(_npy_header(0, shape, descr))
        if array.shape != shape:
            raise ValueError(
                f"{key!r} has shape {array.shape}, the first image {shape}: "
                "different shapes do not fit in one array, write .npz"
            )
        file.write(array.tobytes())
        count += 1
    file.seek(0)
    file.write(_npy_header(count, shape, descr) if count else b"")
    return count


def _npy_header(count: int, shape: tuple[int, ...], descr: str) -> bytes:
    """A version 1 header of 256 bytes whatever the count, which is known last."""
    fields = {"descr": descr, "fortran_order": False, "shape": (count, *shape)}
    return b"\x93NUMPY\1\0" + (246).to_bytes(2, "little") + repr(fields).ljust(245).encode("ascii") + b"\n"
