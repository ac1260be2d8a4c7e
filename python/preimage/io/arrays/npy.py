"""Read and write features in ``.npy`` and ``.npz`` files, which do not contain the spec."""

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
from preimage.io.arrays.keys import KEYS_MEMBER, StoredKeys, dtype_name, holds_keys, keys_of, keys_text, replacing_keys
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
    keys: Sequence[str] | StoredKeys | None = None,
    processed_sizes: Sequence[Size] | Size | None = None,
) -> FeatureFile:
    """Open features in an ``.npy`` or ``.npz`` file. Nothing is unpickled.

    Args:
        path: Path of an ``.npy`` file with one array (B, C, h, w), (C, h, w), (B, C) or (C,), which is memory-mapped,
            or of an ``.npz`` file with one such array, or with one array (C, h, w) or (C,) per image under its key.
            Arrays must be float16, float32 or float64.
        spec: Spec of the features, whose channels and stride must match the shapes.
        convention: Convention of the arrays, see `preimage.io.arrays.conventions`. Shapes differ in conventions other
            than ``"preimage"``, and dense SIFT is a pair of arrays ``KEY/descriptors`` (also uint8) and
            ``KEY/frames``, or just ``descriptors`` and ``frames``, in an ``.npz`` file.
        keys: Keys of the images. By default they are read as described in `preimage.io.arrays.keys`, or are the names
            in an ``.npz`` file of one array per image, the file's stem for a single image, and ``00000``, ``00001``, …
            for a stack.
        processed_sizes: (height, width) in pixels of the images that the features were computed from, one for all or
            one per image. The default is the smallest possible size, (h · stride, w · stride) for cells; there is
            none for vectors.

    Returns:
        The features, whose original sizes equal its processed sizes.

    Raises:
        FileFormatError: The file is of another format, contains object arrays or another dtype, or its shapes do not
            match spec and convention.
        ValueError: Keys or sizes do not match the file, sizes are missing, or the spec does not support the convention.
    """
    check_convention(spec, convention)
    arrays = open_arrays(path)
    if keys is None:
        keys = keys_of(path)
    return feature_file(path, spec, convention, arrays, keys=keys, processed_sizes=processed_sizes)


def open_arrays(path: StrPath) -> list[StoredArray]:
    """Return the arrays in an ``.npy`` or ``.npz`` file, not yet read.

    Raises:
        FileFormatError: The file is damaged, of another format, or contains arrays that cannot be features.
    """
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
    """Return the arrays in an ``.npz`` file, not yet read.

    Args:
        path: Path of the file.
        any_numbers: Also accept arrays of integers and empty arrays.

    Raises:
        ValueError, zipfile.BadZipFile, and other errors of `zipfile` and NumPy: The file is damaged or contains other
            arrays.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(mismatch("an .npz file, or truncated", path))
    archive = zipfile.ZipFile(path)  # stays open for the loaders; closed when they are deleted
    arrays = []
    for member in archive.infolist():
        if member.file_size > MAX_ARRAY_BYTES:
            raise ValueError(f"{member.filename!r} must have at most {MAX_ARRAY_BYTES} bytes, got {member.file_size}")
        if member.header_offset < 0:
            raise ValueError(f"{member.filename!r} begins before the file")  # seeking there would be an OSError
        if member.filename == KEYS_MEMBER and not any_numbers:
            with archive.open(member) as file:
                if holds_keys(file):
                    continue
        with archive.open(member) as file:
            try:
                shape, dtype = _read_npy_header(file, member.file_size, any_numbers)
            except _BROKEN as error:
                raise ValueError(f"{member.filename!r}: {error}") from error
        name = member.filename.removesuffix(".npy")
        arrays.append(StoredArray(name, shape, dtype, functools.partial(_read_member, archive, member, path)))
    if not arrays:
        raise ValueError("an .npz file without arrays")
    if not any_numbers:
        _check_keys_are_not_numbers(arrays)
    return arrays


def _check_keys_are_not_numbers(arrays: Sequence[StoredArray]) -> None:
    """Raise ``ValueError`` if an array ``keys`` of numbers is not the features of an image of that name."""
    others = [array for array in arrays if array.name != "keys"]
    for array in arrays:
        if array.name == "keys" and len(array.shape) == 1 and others and all(len(one.shape) > 1 for one in others):
            raise ValueError(f"keys must be strings, got {array.dtype.name}: keys=np.array(keys, dtype=str)")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: StrPath) -> NDArray[Any]:
    try:
        with archive.open(member) as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            file.read(1)  # the checksum is compared at the end of the member
            return array
    except _BROKEN_ZIP as error:
        raise FileFormatError(path, f"{member.filename!r} is damaged: {error}") from error


def _read_npy_header(file: IO[bytes], size: int, any_numbers: bool = False) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype, after checking that they are valid for features and fit into `size` bytes."""
    magic = file.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError("not an .npy array")
    code = "<H" if magic[6] == 1 else "<I"
    prefix = file.read(struct.calcsize(code))
    (length,) = struct.unpack(code, prefix)
    if length > _MAX_NPY_HEADER:
        raise ValueError(f"an .npy header must have at most {_MAX_NPY_HEADER} bytes, got {length}")
    shape, dtype = _described(file.read(length), any_numbers)
    if min(shape, default=1) < (0 if any_numbers else 1):
        raise ValueError(f"an array must not be empty, got shape {shape}")
    needed = math.prod(shape) * dtype.itemsize + len(magic) + len(prefix) + length
    if needed > size:
        raise ValueError(f"truncated: {size} of {needed} bytes of an array of shape {shape}")
    return shape, dtype


def _described(header: bytes, any_numbers: bool = False) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Parse shape and dtype from the dictionary in an .npy header, more strictly than NumPy."""
    try:
        fields = ast.literal_eval(header.decode("utf-8").strip())
    except _BROKEN as error:
        raise ValueError("an .npy header that is not a dictionary") from error
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise ValueError("an .npy header without shape and dtype")
    descr, shape = fields["descr"], fields["shape"]
    if "O" in str(descr):
        raise ValueError("an array of Python objects, which are not unpickled: save numbers instead (dtype=np.float32)")
    wanted = "[<>=|]?(?:f[248]|[iu][1248])" if any_numbers else "[<>=|]?f[248]|[|<=]?u1"
    if not isinstance(descr, str) or not re.fullmatch(wanted, descr):
        simple = isinstance(descr, str) and re.fullmatch(r"[<>=|][biuc](1|2|4|8|16)", descr)
        came = dtype_name(descr) if simple else f"{descr!r:.60}"
        raise ValueError(f"dtype must be float16, float32 or float64, got {came}")
    if not isinstance(shape, tuple) or not all(type(side) is int for side in shape):
        raise ValueError(f"the shape of an array must be a tuple of integers, got {shape!r:.60}")
    return shape, np.dtype(descr)


def write_numpy_features(
    path: StrPath,
    spec: Spec,
    records: Iterable[FeatureRecord],
    *,
    dtype: str = "float32",
    convention: str = "preimage",
) -> None:
    """Write features to an ``.npy`` or ``.npz`` file, atomically, with one image in memory at a time.

    Args:
        path: Path of the file. With the suffix ``.npy`` it contains one array (B, C, h, w) or (B, C), and a text file
            ``F.keys.txt`` next to ``F.npy`` the keys of its rows, one per line; with ``.npz`` it contains one
            uncompressed array per image under its key. Spec and sizes are not stored.
        spec: Spec of the features.
        records: Any iterable of records, such as ``file.records()``, consumed once.
        dtype: Stored dtype, ``"float32"`` or ``"float16"``.
        convention: Convention of the arrays, see `preimage.io.arrays.conventions`. Dense SIFT in conventions other
            than ``"preimage"`` needs ``.npz``, with two arrays ``KEY/descriptors`` and ``KEY/frames`` per image.

    Raises:
        ValueError: Suffix or `dtype` is invalid, a record is invalid (see `preimage.write_features`), there is no
            record, the spec does not support the convention, or (``.npy``) images have different shapes, or a key
            cannot be a line of a text file.
        TypeError: Features are not a floating-point NumPy array.
        OSError: Any error of the operating system, such as a full disk. `path` is unchanged then.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".npy", ".npz"):
        raise ValueError(f"{path}: suffix must be .npy or .npz, got {suffix!r}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    check_convention(spec, convention)
    if suffix == ".npy" and (convention.startswith("matlab") or has_frames(spec, convention)):
        raise ValueError(f"{path}: one .npy array cannot store convention {convention!r}, use .npz")
    arrays = _named(spec, convention, records, dtype)
    if suffix == ".npy":
        with replacing_keys(path) as replace_keys, atomic_write(path) as file:
            if not (keys := _write_npy(file, arrays)):
                raise ValueError(f"{path}: no images to write")
            data = keys_text(path, keys)
            file.flush()
            os.fsync(file.fileno())  # a full disk is an error here, before the earlier keys are set aside
            replace_keys(data)
        return
    with atomic_write(path) as file:
        if not _write_npz(file, arrays):
            raise ValueError(f"{path}: no images to write")


def _named(
    spec: Spec, convention: str, records: Iterable[FeatureRecord], dtype: str
) -> Iterator[tuple[str, NDArray[Any]]]:
    for record, arrays in stored_records(spec, convention, records, dtype):
        for role, array in arrays.items():
            yield record.key if len(arrays) == 1 else f"{record.key}/{role}", array


def _write_npz(file: IO[bytes], arrays: Iterable[tuple[str, NDArray[Any]]]) -> int:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for key, array in arrays:
            member = zipfile.ZipInfo(f"{key}.npy")  # constant date, so that equal features give equal bytes
            with archive.open(member, "w", force_zip64=True) as output:
                np.lib.format.write_array(output, array, allow_pickle=False)
        return len(archive.infolist())


def _write_npy(file: IO[bytes], arrays: Iterable[tuple[str, NDArray[Any]]]) -> list[str]:
    """Write a stack of arrays, and return their keys."""
    keys: list[str] = []
    shape, descr = (), ""
    for key, array in arrays:
        if not keys:
            shape, descr = array.shape, array.dtype.str
            file.write(_npy_header(0, shape, descr))
        if array.shape != shape:
            raise ValueError(
                f"features must have equal shapes in an .npy file, {key!r} has {array.shape} and the first image has "
                f"{shape}: write .npz"
            )
        file.write(array.tobytes())
        keys.append(key)
    file.seek(0)
    file.write(_npy_header(len(keys), shape, descr) if keys else b"")
    return keys


def _npy_header(count: int, shape: tuple[int, ...], descr: str) -> bytes:
    """Return a version 1 header, always of 256 bytes, because the count is known only at the end."""
    fields = {"descr": descr, "fortran_order": False, "shape": (count, *shape)}
    return b"\x93NUMPY\1\0" + (246).to_bytes(2, "little") + repr(fields).ljust(245).encode("ascii") + b"\n"
