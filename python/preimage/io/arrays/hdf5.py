"""Read and write features in HDF5 files with the structure of hloc: one group of datasets per image.

hloc (https://github.com/cvg/Hierarchical-Localization, ``hloc/extract_features.py``) names the group after the image,
so that a key with slashes becomes nested groups, and stores ``image_size`` (width, height) of the decoded image next to
the output of its extractor, such as ``global_descriptor``. Dense maps are called ``features`` here.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError, reader_errors
from preimage.io.arrays.conventions import check_convention
from preimage.io.arrays.hdf5_checks import (
    check_dataset,
    check_inflation,
    filters,
    image_groups,
    require_h5py,
    text_attribute,
)
from preimage.io.arrays.hdf5_stream import OutputStream
from preimage.io.arrays.stored_arrays import StoredArray, agreed_convention, agreed_spec, feature_file, stored_records
from preimage.io.atomic import StrPath, atomic_write
from preimage.io.feature_file import DTYPES, FeatureFile, FeatureRecord, Size, is_size
from preimage.io.file_types import mismatch
from preimage.io.shards import parse_spec
from preimage.old_names import HDF5_ATTRIBUTES
from preimage.spec import Spec

_SINGLE = ("features", "global_descriptor")
_PAIR = ("descriptors", "frames")
SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CHUNK_BYTES = 4 << 20
_DAMAGED = "damaged: checksum mismatch (fletcher32), or its data cannot be decompressed"
_UNCLOSED = (
    "not closed by the program that writes it: wait for it, or, if it was killed, clear the flag (h5clear -s FILE; "
    "unwritten data is lost)"
)
_REASONS = {  # by parts of HDF5's messages
    "filter returned failure": _DAMAGED,
    "Fletcher32": _DAMAGED,
    "unable to lock file": "another program has it open for writing and locks it: wait for it, or close it "
    "(set HDF5_USE_FILE_LOCKING=FALSE on file systems that do not support locks)",
    "already open for": _UNCLOSED,
    "h5clear": _UNCLOSED,
    "truncated file": "truncated: the program that wrote it was stopped before closing it, or the copy is incomplete",
}
_BROKEN = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, NotImplementedError),
    *(OverflowError, MemoryError, RecursionError, zlib.error),
)


def read_hdf5_features(
    path: StrPath,
    spec: Spec | None = None,
    *,
    convention: str | None = None,
    keys: Sequence[str] | None = None,
    processed_sizes: Sequence[Size] | Size | None = None,
) -> FeatureFile:
    """Open features in an HDF5 file with the structure of hloc. Images are read on demand.

    Soft and external links, external and virtual storage, and filters other than gzip, lzf, shuffle and fletcher32 are
    rejected: nothing outside the file is opened.

    Args:
        path: Path of a file with one group per image, which contains a dataset ``features`` (C, h, w) or
            ``global_descriptor`` (C,), or for dense SIFT in other conventions ``descriptors`` and ``frames``; float16,
            float32 or float64; and optionally ``image_size`` (width, height) of the decoded image and
            ``processed_size`` (width, height), in pixels.
        spec: Spec of the features. Files written by this package contain it as an attribute ``spec`` (JSON, string of
            fixed length).
        convention: Convention of the arrays, see `preimage.io.arrays.conventions`; by default that of the attribute
            ``convention``, or ``"preimage"``.
        keys: Keys of the images, instead of the groups' names.
        processed_sizes: As in `read_numpy_features`; by default ``processed_size``, or ``image_size`` if it agrees
            with the shape of the features.

    Raises:
        FileFormatError: The file is of another format or damaged (checksums are compared when features are read), it
            contains something that is rejected, or its arrays do not match spec and convention.
        ValueError: The spec is missing, spec or convention differ from the file's, or keys or sizes do not match.
        ImportError: h5py is not installed.
    """
    arrays, notes = open_hdf5(path)
    spec = agreed_spec(path, spec, notes["spec"])
    convention = agreed_convention(path, convention, notes["convention"]) or "preimage"
    check_convention(spec, convention)
    return feature_file(
        path,
        spec,
        convention,
        arrays,
        keys=keys,
        processed_sizes=processed_sizes,
        stored_sizes=notes["processed"],
        original_sizes=notes["original"],
    )


def open_hdf5(path: StrPath) -> tuple[list[StoredArray], dict[str, Any]]:
    """Return the arrays in an HDF5 file, not yet read, and its metadata.

    Returns:
        The arrays, and a dictionary with ``spec``, ``convention``, and the lists of sizes ``processed`` and
        ``original``.

    Raises:
        FileFormatError, ImportError: See `read_hdf5_features`.
    """
    h5py = require_h5py()
    with open(path, "rb") as start:
        if start.read(8) != SIGNATURE:
            raise FileFormatError(path, mismatch("an HDF5 file", path))
    with hdf5_errors(path):
        file = h5py.File(path, "r")  # stays open for the loaders; closed when they are deleted
        try:
            return _opened(h5py, path, file)
        except BaseException:
            file.close()
            raise


def _opened(h5py: ModuleType, path: StrPath, file: Any) -> tuple[list[StoredArray], dict[str, Any]]:
    """Return the arrays and metadata of an open file."""
    labels = [_labels(h5py, file)]
    arrays: list[StoredArray] = []
    processed: list[Size | None] = []
    original: list[Size | None] = []
    for key, group, datasets in image_groups(h5py, file):
        arrays += _arrays(path, file, key, datasets)
        original.append(read_size(datasets.get("image_size")))
        processed.append(read_size(datasets.get("processed_size")) or original[-1])
        if labels[0] == (None, None):
            labels.append(_labels(h5py, group))
    found = [entry for entry in labels if entry != (None, None)]
    if len(set(found)) > 1:
        raise ValueError("its images have different specs")
    spec, convention = found[0] if found else (None, None)
    known = None if spec is None else parse_spec(spec)
    if known is not None and convention is not None:
        check_convention(known, convention)
    return arrays, {"spec": known, "convention": convention, "processed": processed, "original": original}


def _labels(h5py: ModuleType, entry: Any) -> tuple[str | None, str | None]:
    """Return the spec and the convention that an entry's attributes state."""
    found = {}
    for name in ("spec", *HDF5_ATTRIBUTES, "convention"):
        if (text := text_attribute(h5py, entry, name)) is not None:
            found[HDF5_ATTRIBUTES.get(name, name)] = text
    return found.get("spec"), found.get("convention")


def hdf5_errors(path: StrPath, key: str = "") -> AbstractContextManager[None]:
    """Convert any error that HDF5 raises to a `FileFormatError` with the names of file and image."""
    return reader_errors(path, _BROKEN, key, describe=_describe)


def _describe(error: Exception, problem: str) -> str:
    if not isinstance(error, OSError):
        return problem
    return next((reason for part, reason in _REASONS.items() if part in problem), problem)


def _arrays(path: StrPath, file: Any, key: str, datasets: dict[str, Any]) -> Iterator[StoredArray]:
    """Yield the arrays of one image."""
    single = [name for name in _SINGLE if name in datasets]
    names = single if len(single) == 1 else [name for name in _PAIR if name in datasets and not single]
    if len(names) != (1 if single else 2):
        raise ValueError(
            f"{key!r} must contain features (C, h, w), global_descriptor (C,), or descriptors and frames of dense "
            f"SIFT, got {', '.join(sorted(datasets))} (keypoints with SIFT descriptors are read by read_keypoints)"
        )
    for name in names:
        dataset = datasets[name]
        check_dataset(f"{key}/{name}", dataset)
        load = functools.partial(load_dataset, path, file, dataset.name)
        yield StoredArray(key if single else f"{key}/{name}", dataset.shape, dataset.dtype, load)


def load_dataset(path: StrPath, file: Any, name: str) -> NDArray[Any]:
    """Read a dataset of an open file.

    Raises:
        FileFormatError: The dataset is damaged or rejected.
    """
    with hdf5_errors(path, name.strip("/")):
        dataset = file[name]
        check_dataset(name, dataset)
        check_inflation(dataset)
        array: NDArray[Any] = dataset[()]
        return array


def read_size(dataset: Any) -> Size | None:
    """Read (height, width) from a dataset that contains (width, height); ``None`` if there is no dataset."""
    if dataset is None:
        return None
    if dataset.shape != (2,) or dataset.dtype.kind not in "iu" or dataset.is_virtual or dataset.external:
        raise ValueError(f"{dataset.name} must be a pair of integers (width, height)")
    if not set(filters(dataset)) <= {3}:
        raise ValueError(f"{dataset.name} must not use HDF5 filters")
    width, height = dataset[()].tolist()
    if not is_size((height, width)):
        raise ValueError(f"{dataset.name} must be two positive integers (width, height), got ({width}, {height})")
    return height, width


def write_hdf5_features(
    path: StrPath,
    spec: Spec,
    records: Iterable[FeatureRecord],
    *,
    dtype: str = "float32",
    convention: str = "preimage",
) -> None:
    """Write features to an HDF5 file with the structure of hloc, atomically, with one image in memory at a time.

    Every image becomes a group named by its key, with the datasets ``features`` (or ``descriptors`` and ``frames`` for
    dense SIFT in other conventions), ``image_size`` and ``processed_size``, both (width, height); all are chunked,
    with fletcher32 checksums. The attributes ``spec`` (JSON) and ``convention`` describe the arrays. Equal features
    give identical files, which HDF5 1.10 and later read.

    Args:
        path: Path of the file. An earlier file is replaced only on success.
        spec: Spec of the features.
        records: Any iterable of records, consumed once.
        dtype: Stored dtype, ``"float32"`` or ``"float16"``.
        convention: Convention of the arrays, see `preimage.io.arrays.conventions`.

    Raises:
        ValueError: `dtype` is invalid, a record is invalid (see `preimage.write_features`), there is no record, a key
            is inside another image's group under a dataset's name, or the spec does not support the convention.
        TypeError: Features are not a floating-point NumPy array.
        OSError: Any error of the operating system, such as a full disk. `path` is unchanged then.
        ImportError: h5py is not installed.
    """
    h5py = require_h5py()
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    check_convention(spec, convention)
    with atomic_write(path) as stream:
        count = 0
        output = OutputStream(stream)
        with h5py.File(output, "w", libver=("v110", "v110")) as file:
            file.attrs["spec"] = np.bytes_(spec.to_json().encode("ascii"))
            file.attrs["convention"] = np.bytes_(convention.encode("ascii"))
            for record, arrays in stored_records(spec, convention, records, dtype):
                _write_image(file, record, arrays)
                count += 1
                output.check()
        output.check()
        if not count:
            raise ValueError(f"{path}: no images to write")


def _write_image(file: Any, record: FeatureRecord, arrays: dict[str, NDArray[Any]]) -> None:
    sizes = {"image_size": record.original_size, "processed_size": record.processed_size}
    clash = f"key {record.key!r} conflicts with another key in an HDF5 file: use another format"
    try:
        group = file.require_group(record.key)
    except (TypeError, KeyError, ValueError) as error:  # a part of the key is a dataset of another image
        raise ValueError(clash) from error
    for name, array in [*arrays.items(), *((name, np.array(size[::-1], np.int64)) for name, size in sizes.items())]:
        if name in group:
            raise ValueError(clash)
        chunks = _chunks(array.shape, array.dtype.itemsize)
        group.create_dataset(name, data=array, chunks=chunks, fletcher32=True, track_times=False)


def _chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the chunk shape: the whole array if it is small, else blocks along the first axes of a few megabytes."""
    sides = list(shape)
    for axis in range(len(sides)):
        rest = math.prod(sides[axis + 1 :]) * itemsize
        if math.prod(sides[axis:]) * itemsize <= _CHUNK_BYTES:
            break
        sides[axis] = max(1, _CHUNK_BYTES // rest)
    return tuple(sides)
