"""Read and write features as plain arrays, in the format given by the file's suffix."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from preimage.io.arrays.conventions import check_convention, has_frames
from preimage.io.arrays.faiss_index import open_faiss
from preimage.io.arrays.hdf5 import open_hdf5, read_hdf5_features, write_hdf5_features
from preimage.io.arrays.hdf5_checks import require_h5py
from preimage.io.arrays.keys import StoredKeys, keys_file, keys_of, replacing_keys
from preimage.io.arrays.mat import open_mat, read_mat_features, write_mat_features
from preimage.io.arrays.mat5 import require_scipy
from preimage.io.arrays.npy import open_arrays, read_numpy_features, write_numpy_features
from preimage.io.arrays.parquet_vectors import open_parquet
from preimage.io.arrays.stored_arrays import StoredArray, agreed_spec, feature_file
from preimage.io.atomic import StrPath, move_into_place
from preimage.io.feature_file import FeatureFile, FeatureRecord, Size
from preimage.spec import Spec

NUMPY_SUFFIXES = (".npy", ".npz")
HDF5_SUFFIXES = (".h5", ".hdf5")
SUFFIXES = (*NUMPY_SUFFIXES, ".mat", *HDF5_SUFFIXES)
VECTOR_SUFFIXES = (".parquet", ".faiss", ".index")  # files of vectors, which are only read


def is_array_file(path: StrPath) -> bool:
    """Return whether a path has the suffix of a file of plain arrays, or is a file of vectors of another program."""
    suffix = Path(path).suffix.lower()
    return suffix in SUFFIXES or (suffix in VECTOR_SUFFIXES and Path(path).is_file())


def read_array_file(
    path: StrPath,
    spec: Spec | None = None,
    convention: str | None = None,
    *,
    fallback: Spec | None = None,
    image_size: Size | None = None,
    variables: Sequence[str] | None = None,
) -> FeatureFile:
    """Open features in an ``.npy``, ``.npz``, ``.mat``, ``.h5`` or ``.hdf5`` file, or vectors in another file.

    Vectors are also read from ``.parquet`` files, see `open_parquet`, and from flat FAISS indices (``.faiss`` or
    ``.index``), see `open_faiss`.

    Args:
        path: Path of the file.
        spec: Spec of the features. ``.mat`` and HDF5 files written by this package contain it.
        convention: Convention of the arrays, see `preimage.io.arrays.conventions`; by default the one stated in the
            file, or ``"preimage"``. It is required for ``.mat`` files of other programs.
        fallback: Spec used if `spec` is ``None`` and the file contains none.
        image_size: (height, width) in pixels of the images that the features were computed from, for files without a
            spec; required for vectors.
        variables: Variables to read from a MATLAB file; ``None`` reads all.

    Raises:
        FileFormatError: The file is damaged, of another format, or does not match spec and convention.
        ValueError: Spec or convention is missing or differs from the file's; the suffix is not supported.
        ImportError: h5py (for HDF5), SciPy (for ``.mat``) or pyarrow (for Parquet) is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (*SUFFIXES, *VECTOR_SUFFIXES):
        raise ValueError(f"{path}: suffix must be one of {', '.join((*SUFFIXES, *VECTOR_SUFFIXES))}, got {suffix!r}")
    if variables is not None and suffix != ".mat":
        raise ValueError(f"{path}: variables can be selected in MATLAB files only")
    sizes = None
    if (fallback is not None or image_size is not None) and stored_spec(path, variables) is None:
        spec, sizes = spec or fallback, image_size
    if suffix == ".mat":
        return read_mat_features(path, spec, convention=convention, variables=variables, processed_sizes=sizes)
    if suffix in HDF5_SUFFIXES:
        return read_hdf5_features(path, spec, convention=convention, processed_sizes=sizes)
    if suffix in VECTOR_SUFFIXES:
        array, keys = open_vectors(path)
        spec = agreed_spec(path, spec, None)
        check_convention(spec, chosen := convention or "preimage")
        return feature_file(path, spec, chosen, [array], keys=keys, processed_sizes=sizes)
    if spec is None:
        open_arrays(path)  # reports an unreadable file before the missing spec
    return read_numpy_features(
        path, agreed_spec(path, spec, None), convention=convention or "preimage", processed_sizes=sizes
    )


def open_vectors(path: StrPath) -> tuple[StoredArray, StoredKeys | None]:
    """Return the vectors (N, C) of a Parquet file or a FAISS index, and their keys; ``None`` if it has none.

    The keys of a FAISS index, and of a Parquet file without a column of keys, are in ``F.keys.txt`` next to it, one per
    line, in the order of the vectors.
    """
    if Path(path).suffix.lower() != ".parquet":
        return open_faiss(path), keys_of(path)
    array, keys = open_parquet(path)
    return array, keys_of(path) if keys is None else StoredKeys(path, keys)


def stored_spec(path: StrPath, variables: Sequence[str] | None = None) -> Spec | None:
    """Return the spec stored in a file of arrays, or ``None`` if there is none."""
    suffix = Path(path).suffix.lower()
    if suffix in (*NUMPY_SUFFIXES, *VECTOR_SUFFIXES):
        return None
    spec: Spec | None = (open_mat(path, variables) if suffix == ".mat" else open_hdf5(path))[1].get("spec")
    return spec


def check_writable(path: StrPath, spec: Spec, dtype: str, convention: str | None) -> None:
    """Check that features can be written to `path`, before any are computed.

    Raises:
        ValueError: The format does not support the dtype or convention, or the file of the keys of an ``.npy`` file
            is not a regular file or belongs to another file.
        OSError: The name of the file of keys is too long.
        ImportError: h5py or SciPy is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix in VECTOR_SUFFIXES:
        raise ValueError(f"{path}: files of {suffix} are only read; suffix must be one of {', '.join(SUFFIXES)}")
    chosen = convention or default_convention(path, spec)
    check_convention(spec, chosen)
    if suffix == ".mat" and dtype != "float32":
        raise ValueError(f"{path}: dtype must be 'float32' (single) in a MATLAB file, got {dtype!r}")
    if suffix == ".npy" and (chosen.startswith("matlab") or has_frames(spec, chosen)):
        raise ValueError(f"{path}: one .npy array cannot store convention {chosen!r}, use .npz")
    if suffix == ".npy":
        _check_keys_file(path)
    if suffix in HDF5_SUFFIXES:
        require_h5py()
    if suffix == ".mat":
        require_scipy()


def _check_keys_file(path: StrPath) -> None:
    """Raise unless the keys of an ``.npy`` file can be written next to it."""
    keys = keys_file(path)
    try:
        mode = os.stat(keys).st_mode
    except OSError as error:  # other errors than a long name are those of writing the array, too
        if error.errno == errno.ENAMETOOLONG:
            raise
    else:
        if not stat.S_ISREG(mode):
            raise ValueError(f"{keys}: not a regular file, cannot be replaced by the keys of {path}")
    for suffix in VECTOR_SUFFIXES:
        if (other := Path(path).with_suffix(suffix)).is_file():
            raise ValueError(
                f"{path}: its keys would be written to {keys}, where those of {other} are: use another name"
            )


def default_convention(path: StrPath, spec: Spec) -> str:
    """Return the default convention for writing: ``"matlab"`` for ``.mat`` files if the spec supports it."""
    if Path(path).suffix.lower() == ".mat":
        try:
            check_convention(spec, "matlab")
            return "matlab"
        except ValueError:
            pass
    return "preimage"


def write_array_file(
    path: StrPath,
    spec: Spec,
    records: Iterable[FeatureRecord],
    *,
    dtype: str = "float32",
    convention: str | None = None,
) -> None:
    """Write features to an ``.npy``, ``.npz``, ``.mat``, ``.h5`` or ``.hdf5`` file, atomically.

    Args:
        path: Path of the file. An earlier file is replaced only on success. The keys of ``F.npy`` are written to
            ``F.keys.txt``.
        spec: Spec of the features.
        records: Any iterable of records, consumed once.
        dtype: Stored dtype, ``"float32"``, or ``"float16"`` except for ``.mat``.
        convention: Convention of the arrays, see `preimage.io.arrays.conventions`; ``None`` uses `default_convention`.

    Raises:
        ValueError: The features cannot be written in this format, see `write_numpy_features`, `write_mat_features` and
            `write_hdf5_features`.
        OSError: Any error of the operating system, such as a full disk. `path` is unchanged then.
        ImportError: h5py (for HDF5) or SciPy (for ``.mat``) is not installed.
    """
    check_writable(path, spec, dtype, convention)
    suffix = Path(path).suffix.lower()
    chosen = convention or default_convention(path, spec)
    if suffix in HDF5_SUFFIXES:
        write_hdf5_features(path, spec, records, dtype=dtype, convention=chosen)
    elif suffix == ".mat":
        write_mat_features(path, spec, records, dtype=dtype, convention=chosen)
    else:
        write_numpy_features(path, spec, records, dtype=dtype, convention=chosen)


def move_array_file(finished: Path, path: StrPath) -> None:
    """Rename a file of `write_array_file` within one file system, and copy the keys next to an ``.npy`` file.

    Raises:
        OSError: Any error of the operating system, with `path` as its path.
    """
    if finished.suffix != ".npy":
        move_into_place(finished, path)
        return
    with replacing_keys(path) as replace_keys:
        replace_keys(keys_file(finished).read_bytes())
        move_into_place(finished, path)
