"""Features from and to plain NumPy files, which know nothing of a spec: the caller names it."""

from __future__ import annotations

import ast
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.spec import Spec
from preimage.storage.files import StrPath, atomic_write, key_problem
from preimage.storage.layout import DTYPES, Size, is_size, shape_problem
from preimage.storage.records import FeatureFile, FeatureRecord, check_record, stored_array

MAX_ARRAY_BYTES = 4 << 30  # of one array inside an .npz file, which may be compressed a thousandfold

_MAX_NPY_HEADER = 10_000  # bytes; NumPy writes 118
_BROKEN = (ValueError, TypeError, SyntaxError, EOFError, OverflowError, RecursionError, MemoryError, struct.error)
_BROKEN_ZIP = (*_BROKEN, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, IndexError, KeyError)


def read_array_features(
    path: StrPath,
    spec: Spec,
    *,
    keys: Sequence[str] | None = None,
    processed_sizes: Sequence[Size] | Size | None = None,
) -> FeatureFile:
    """Features from an ``.npy`` or ``.npz`` file, never unpickled.

    Args:
        path: an ``.npy`` file with one array, (B, C, h, w), (C, h, w), (B, C) or (C,), which is mapped, or an
            ``.npz`` file with either one such array or one (C, h, w) or (C,) array per image under its key.
            Arrays are float16, float32 or float64.
        spec: what the features are of; its channels and stride must fit the shapes.
        keys: one per image. Otherwise the names in an ``.npz`` file of one array per image, the file's stem for a
            single image, and ``00000``, ``00001``, … for a stack.
        processed_sizes: (height, width) of the images the features were computed from, pixels, one for all or
            one each; otherwise (h · stride, w · stride), which vectors do not have.

    Returns:
        A `FeatureFile`; its original sizes equal its processed sizes, as the file does not hold them.

    Raises:
        FileFormatError: not such a file, object arrays, another dtype, or shapes that do not fit the spec.
        ValueError: keys or sizes that do not fit the file, or sizes missing.
    """
    try:
        with open(path, "rb") as file:
            signature = file.read(4)
        if signature == b"PK\x03\x04":
            names, shapes, dtype, load = _open_npz(path, spec)
        elif signature == b"\x93NUM":
            names, shapes, dtype, load = _open_npy(path, spec)
        else:
            raise ValueError("neither an .npy nor an .npz file")
    except _BROKEN_ZIP as error:
        raise FileFormatError(path, str(error) or "damaged") from error
    keys = _checked_keys(names if keys is None else keys, len(shapes))
    sizes = _checked_sizes(processed_sizes, shapes, spec)
    return FeatureFile(path, spec, keys=keys, original_sizes=sizes, processed_sizes=sizes, dtype=dtype, load=load)


_Opened = tuple[list[str], list[tuple[int, ...]], str, Callable[[int], NDArray[Any]]]


def _open_npy(path: StrPath, spec: Spec) -> _Opened:
    with open(path, "rb") as file:
        shape, dtype = _read_npy_header(file, os.fstat(file.fileno()).st_size)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return *_split(Path(path).stem, shape, spec), dtype.name, _loader(array, len(shape), spec)


def _open_npz(path: StrPath, spec: Spec) -> _Opened:
    archive = zipfile.ZipFile(path)  # stays open for `load`, and closes itself when that is dropped
    members = archive.infolist()
    shapes, kinds = [], []
    for member in members:
        if member.file_size > MAX_ARRAY_BYTES:
            raise ValueError(f"{member.filename!r} has {member.file_size} bytes; {MAX_ARRAY_BYTES} are allowed")
        if member.header_offset < 0:
            raise ValueError(f"{member.filename!r} begins before the file does")  # seeking there is an OSError
        with archive.open(member) as file:
            try:
                shape, dtype = _read_npy_header(file, member.file_size)
            except _BROKEN as error:
                raise ValueError(f"{member.filename!r}: {error}") from error
        shapes.append(shape)
        kinds.append(dtype)
    if not members:
        raise ValueError("an .npz file without arrays")
    dtype = np.result_type(*set(kinds))
    if len(members) == 1 and shape_problem(spec, shapes[0]):
        array = _read_member(archive, members[0], path)
        return *_split(Path(path).stem, shapes[0], spec), dtype.name, _loader(array, len(shapes[0]), spec)
    names = [member.filename.removesuffix(".npy") for member in members]
    for name, shape in zip(names, shapes, strict=True):
        if problem := key_problem(name) or shape_problem(spec, shape):
            raise ValueError(f"{name!r}: {problem}")
    return names, shapes, dtype.name, lambda position: _read_member(archive, members[position], path)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: StrPath) -> NDArray[Any]:
    try:
        with archive.open(member) as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            file.read(1)  # at the end of the member its checksum is compared
            return array
    except _BROKEN_ZIP as error:
        raise FileFormatError(path, f"{member.filename!r} is damaged: {error}") from error


def _read_npy_header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype; ``ValueError`` unless they are floats, nothing is empty, and `size` bytes are enough."""
    magic = file.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError("not an .npy array")
    code = "<H" if magic[6] == 1 else "<I"
    prefix = file.read(struct.calcsize(code))
    (length,) = struct.unpack(code, prefix)
    if length > _MAX_NPY_HEADER:
        raise ValueError(f"an .npy header of {length} bytes; at most {_MAX_NPY_HEADER} are right")
    shape, dtype = _described(file.read(length))
    if min(shape, default=1) < 1:
        raise ValueError(f"an array of shape {shape}, which holds nothing")
    needed = math.prod(shape) * dtype.itemsize + len(magic) + len(prefix) + length
    if needed > size:
        raise ValueError(f"cut short: {size} bytes, but an array of shape {shape} needs {needed}")
    return shape, dtype


def _described(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype from the dictionary in an .npy header, read more strictly than NumPy does."""
    try:
        fields = ast.literal_eval(header.decode("utf-8").strip())
    except _BROKEN as error:
        raise ValueError("an .npy header that is no dictionary") from error
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise ValueError("an .npy header without shape and dtype")
    descr, shape = fields["descr"], fields["shape"]
    if "O" in str(descr):
        raise ValueError("an array of Python objects, which would have to be unpickled: save numbers instead")
    if not isinstance(descr, str) or not re.fullmatch("[<>=|]?f[248]", descr):
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


def _split(stem: str, shape: tuple[int, ...], spec: Spec) -> tuple[list[str], list[tuple[int, ...]]]:
    """Keys and shapes of the images in one array, which is a single image or a stack."""
    if shape_problem(spec, shape) is None:
        return [stem], [shape]
    if not shape or (problem := shape_problem(spec, shape[1:])):
        problem = shape_problem(spec, shape)
        raise ValueError(f"{problem}, or a stack of such")
    return [f"{index:05d}" for index in range(shape[0])], [shape[1:]] * shape[0]


def _loader(array: NDArray[Any], rank: int, spec: Spec) -> Callable[[int], NDArray[Any]]:
    single = rank == (1 if spec.stride is None else 3)
    return lambda position: array if single else array[position]


def _checked_keys(keys: Sequence[str], count: int) -> list[str]:
    if len(keys) != count:
        raise ValueError(f"{len(keys)} keys for {count} images")
    for key in keys:
        if problem := key_problem(key):
            raise ValueError(problem)
    if len(set(keys)) < count:
        raise ValueError("two images have one key")
    return list(keys)


def _checked_sizes(sizes: Sequence[Size] | Size | None, shapes: Sequence[tuple[int, ...]], spec: Spec) -> list[Size]:
    if sizes is None:
        if spec.stride is None:
            raise ValueError("vectors do not tell the size of their images: give processed_sizes=(height, width)")
        return [(shape[1] * spec.stride, shape[2] * spec.stride) for shape in shapes]
    given: list[Any] = [sizes] * len(shapes) if is_size(sizes) else list(sizes)
    if len(given) != len(shapes) or not all(map(is_size, given)):
        raise ValueError(f"processed_sizes is one (height, width) or {len(shapes)} of them, got {sizes!r:.200}")
    return [(height, width) for height, width in given]


def write_array_features(
    path: StrPath, spec: Spec, records: Iterable[FeatureRecord], *, dtype: str = "float32"
) -> None:
    """Write features as plain NumPy, atomically, one image in memory at a time.

    Args:
        path: with suffix ``.npy``: one array (B, C, h, w) or (B, C); with ``.npz``: one array per image under its
            key, uncompressed. Spec and sizes are not kept.
        spec: what every record's features are of.
        records: any iterable, such as a `FeatureFile`; consumed once.
        dtype: ``"float32"`` or ``"float16"``, as stored.

    Raises:
        ValueError: another suffix or dtype, a record that `write_features` would refuse, no record at all, or, for
            ``.npy``, images of different shapes.
        TypeError: features that are not a floating-point NumPy array.
        OSError: such as a full disk. After any error `path` is as it was.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".npy", ".npz"):
        raise ValueError(f"{path}: the suffix is .npy or .npz, got {suffix!r}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}")
    with atomic_write(path) as file:
        written = (_write_npz if suffix == ".npz" else _write_npy)(file, _arrays(spec, records, dtype))
        if not written:
            raise ValueError(f"{path}: no image to write")


def _arrays(spec: Spec, records: Iterable[FeatureRecord], dtype: str) -> Iterator[tuple[str, NDArray[Any]]]:
    seen: set[str] = set()
    for record in records:
        check_record(record, spec, seen)
        yield record.key, stored_array(record, dtype)


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
