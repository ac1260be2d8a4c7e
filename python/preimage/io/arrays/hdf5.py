"""Features from and to HDF5 files in the convention of hloc: one group an image, datasets inside.

hloc (https://github.com/cvg/Hierarchical-Localization, ``hloc/extract_features.py``) names the group after the image,
so that a key with slashes becomes nested groups, and stores ``image_size`` (width, height) as decoded beside what its
extractor gave, such as ``global_descriptor``. Dense maps are called ``features`` here.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.arrays.conventions import check_convention
from preimage.io.arrays.hdf5_checks import (
    check_dataset,
    check_inflation,
    filters,
    image_groups,
    require_h5py,
    text_attribute,
)
from preimage.io.arrays.hdf5_stream import Sink
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
_DAMAGED = "damaged: its contents do not match its checksum (fletcher32), or cannot be decompressed"
_UNCLOSED = (
    "its writer has not closed it: wait until it has, or, if it was killed, clear the mark it left (h5clear -s FILE; "
    "what was not written is lost)"
)
_REASONS = {  # by words of HDF5's
    "filter returned failure": _DAMAGED,
    "Fletcher32": _DAMAGED,
    "unable to lock file": "another program has it open for writing, and keeps it locked: wait for it, or close it "
    "(HDF5_USE_FILE_LOCKING=FALSE in the environment where the file system cannot lock)",
    "already open for": _UNCLOSED,
    "h5clear": _UNCLOSED,
    "truncated file": "cut short: its writer was stopped before it closed the file, or the copy is not complete",
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
    """Features from an HDF5 file in hloc's convention, read image by image on demand.

    Links (soft, external), external and virtual storage, and filters other than gzip, lzf, shuffle and fletcher32 are
    refused: nothing outside the file is ever touched.

    Args:
        path: a file with one group an image: a dataset ``features`` (C, h, w), or ``global_descriptor`` (C,); for
            dense SIFT in others' conventions ``descriptors`` and ``frames``; and optionally ``image_size`` (width,
            height) as decoded and ``processed_size`` (width, height), pixels. float16, float32 or float64.
        spec: what the features are of; files with an attribute ``spec`` (ours, JSON as a string of fixed
            length) tell it themselves.
        convention: of the arrays, see `preimage.io.arrays.conventions`; by default what an attribute ``convention``
            says, or ``"preimage"``.
        keys: one per image instead of the groups' names.
        processed_sizes: as for `read_numpy_features`; by default ``processed_size``, or ``image_size`` where the
            features' shape agrees with it.

    Raises:
        FileFormatError: another format, damaged (a wrong checksum is told when the features are read), something
            refused, or arrays that do not fit spec and convention.
        ValueError: no spec for a file that does not tell, or another spec or convention than it tells; keys or sizes that
            do not fit.
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
    """The arrays of an HDF5 file by their headers, and what the file says: spec, convention, and lists of sizes.

    Raises:
        FileFormatError, ImportError: see `read_hdf5_features`.
    """
    h5py = require_h5py()
    with open(path, "rb") as start:
        if start.read(8) != SIGNATURE:
            raise FileFormatError(path, mismatch("an HDF5 file", path))
    with hdf5_errors(path):
        file = h5py.File(path, "r")  # stays open for the loaders, and closes itself when they are dropped
        try:
            return _opened(h5py, path, file)
        except BaseException:
            file.close()
            raise


def _opened(h5py: ModuleType, path: StrPath, file: Any) -> tuple[list[StoredArray], dict[str, Any]]:
    """What `open_hdf5` gives, of an open file."""
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


@contextmanager
def hdf5_errors(path: StrPath, key: str = "") -> Iterator[None]:
    """Whatever HDF5 raises becomes an error that names file and image."""
    try:
        yield
    except FileFormatError:
        raise
    except _BROKEN as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError):
            problem = next((ours for theirs, ours in _REASONS.items() if theirs in problem), problem)
        raise FileFormatError(path, f"{key!r}: {problem}" if key else problem) from error


def _arrays(path: StrPath, file: Any, key: str, datasets: dict[str, Any]) -> Iterator[StoredArray]:
    """The arrays of one image."""
    single = [name for name in _SINGLE if name in datasets]
    names = single if len(single) == 1 else [name for name in _PAIR if name in datasets and not single]
    if len(names) != (1 if single else 2):
        raise ValueError(
            f"{key!r} holds {', '.join(sorted(datasets))}; right are features (C, h, w) or global_descriptor (C,), "
            "or descriptors and frames of dense SIFT (keypoints with SIFT descriptors are read by read_keypoints)"
        )
    for name in names:
        dataset = datasets[name]
        check_dataset(f"{key}/{name}", dataset)
        load = functools.partial(load_dataset, path, file, dataset.name)
        yield StoredArray(key if single else f"{key}/{name}", dataset.shape, dataset.dtype, load)


def load_dataset(path: StrPath, file: Any, name: str) -> NDArray[Any]:
    """The whole dataset of that name in an open file; `FileFormatError` if it is not sound."""
    with hdf5_errors(path, name.strip("/")):
        dataset = file[name]
        check_dataset(name, dataset)
        check_inflation(dataset)
        array: NDArray[Any] = dataset[()]
        return array


def read_size(dataset: Any) -> Size | None:
    """(height, width) from a dataset that holds (width, height); ``None`` if there is none."""
    if dataset is None:
        return None
    if dataset.shape != (2,) or dataset.dtype.kind not in "iu" or dataset.is_virtual or dataset.external:
        raise ValueError(f"{dataset.name} is no pair of whole numbers (width, height)")
    if not set(filters(dataset)) <= {3}:
        raise ValueError(f"{dataset.name} uses HDF5 filters")
    width, height = dataset[()].tolist()
    if not is_size((height, width)):
        raise ValueError(f"{dataset.name} is ({width}, {height}); whole numbers >= 1 are right")
    return height, width


def write_hdf5_features(
    path: StrPath,
    spec: Spec,
    records: Iterable[FeatureRecord],
    *,
    dtype: str = "float32",
    convention: str = "preimage",
) -> None:
    """Write features as HDF5 in hloc's convention, atomically, one image in memory at a time.

    Every image becomes a group named by its key with datasets ``features`` (or ``descriptors`` and ``frames``, for
    dense SIFT in others' conventions), ``image_size`` and ``processed_size``, both (width, height); all chunked, with a
    fletcher32 checksum. The file's attributes ``spec`` (JSON) and ``convention`` make it readable without more words.
    Equal features give equal files. Readable since HDF5 1.10.

    Args:
        path: the file to write; replaced only when all went well.
        spec: what every record's features are of.
        records: any iterable, consumed once.
        dtype: ``"float32"`` or ``"float16"``, as stored.
        convention: see `preimage.io.arrays.conventions`.

    Raises:
        ValueError: another dtype, a record that `write_features` would refuse, no record at all, keys of which one
            would be inside another's datasets, or a convention these features do not have.
        TypeError: features that are not a floating-point NumPy array.
        OSError: such as a full disk. After any error `path` is as it was.
        ImportError: h5py is not installed.
    """
    h5py = require_h5py()
    if dtype not in DTYPES:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}")
    check_convention(spec, convention)
    with atomic_write(path) as stream:
        count = 0
        sink = Sink(stream)
        with h5py.File(sink, "w", libver=("v110", "v110")) as file:
            file.attrs["spec"] = np.bytes_(spec.to_json().encode("ascii"))
            file.attrs["convention"] = np.bytes_(convention.encode("ascii"))
            for record, arrays in stored_records(spec, convention, records, dtype):
                _write_image(file, record, arrays)
                count += 1
                sink.check()
        sink.check()
        if not count:
            raise ValueError(f"{path}: no image to write")


def _write_image(file: Any, record: FeatureRecord, arrays: dict[str, NDArray[Any]]) -> None:
    sizes = {"image_size": record.original_size, "processed_size": record.processed_size}
    clash = f"{record.key!r} and another key would be in one place in an HDF5 file: use another format"
    try:
        group = file.require_group(record.key)
    except (TypeError, KeyError, ValueError) as error:  # a part of the key is another image's dataset
        raise ValueError(clash) from error
    for name, array in [*arrays.items(), *((name, np.array(size[::-1], np.int64)) for name, size in sizes.items())]:
        if name in group:
            raise ValueError(clash)
        chunks = _chunks(array.shape, array.dtype.itemsize)
        group.create_dataset(name, data=array, chunks=chunks, fletcher32=True, track_times=False)


def _chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The whole array if it is small, else as many of its first axes' entries as make a few megabytes."""
    sides = list(shape)
    for axis in range(len(sides)):
        rest = math.prod(sides[axis + 1 :]) * itemsize
        if math.prod(sides[axis:]) * itemsize <= _CHUNK_BYTES:
            break
        sides[axis] = max(1, _CHUNK_BYTES // rest)
    return tuple(sides)
