"""Feature files of other makers, in and out, by the suffix of their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from preimage.io.arrays.conventions import check_convention, has_frames
from preimage.io.arrays.hdf5 import open_hdf5, read_hdf5_features, write_hdf5_features
from preimage.io.arrays.hdf5_checks import require_h5py
from preimage.io.arrays.mat import open_mat, read_mat_features, write_mat_features
from preimage.io.arrays.mat5 import require_scipy
from preimage.io.arrays.npy import open_arrays, read_numpy_features, write_numpy_features
from preimage.io.arrays.stored_arrays import agreed_spec
from preimage.io.atomic import StrPath
from preimage.io.feature_file import FeatureFile, FeatureRecord, Size
from preimage.spec import Spec

NUMPY_SUFFIXES = (".npy", ".npz")
HDF5_SUFFIXES = (".h5", ".hdf5")
SUFFIXES = (*NUMPY_SUFFIXES, ".mat", *HDF5_SUFFIXES)


def is_array_file(path: StrPath) -> bool:
    """Whether the suffix says that the file is of another maker's format."""
    return Path(path).suffix.lower() in SUFFIXES


def read_array_file(
    path: StrPath,
    spec: Spec | None = None,
    convention: str | None = None,
    *,
    fallback: Spec | None = None,
    image_size: Size | None = None,
    variables: Sequence[str] | None = None,
) -> FeatureFile:
    """Features from an ``.npy``, ``.npz``, ``.mat``, ``.h5`` or ``.hdf5`` file, by its suffix.

    Args:
        path: the file.
        spec: what the features are of; our own ``.mat`` and HDF5 files tell it themselves.
        convention: of the arrays, see `conventions`; by default what our own files tell, or ``"preimage"``. Others'
            ``.mat`` files need it named.
        fallback: the spec, where neither `spec` nor the file tells one.
        image_size: (height, width) of the images that features were computed from, of a file that tells no spec;
            needed for vectors.
        variables: which to read of a MATLAB file that holds others too; ``None`` takes all.

    Raises:
        FileFormatError: damaged, of another format, or not fitting spec and convention.
        ValueError: spec or convention are missing, or not what the file tells; another suffix.
        ImportError: HDF5 without h5py, or ``.mat`` without SciPy.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: the suffix is one of {', '.join(SUFFIXES)}, got {suffix!r}")
    if variables is not None and suffix != ".mat":
        raise ValueError(f"{path}: variables are named for MATLAB files only")
    sizes = None
    if (fallback is not None or image_size is not None) and stored_spec(path, variables) is None:
        spec, sizes = spec or fallback, image_size
    if suffix == ".mat":
        return read_mat_features(path, spec, convention=convention, variables=variables, processed_sizes=sizes)
    if suffix in HDF5_SUFFIXES:
        return read_hdf5_features(path, spec, convention=convention, processed_sizes=sizes)
    if spec is None:
        open_arrays(path)  # so that a file that cannot be read at all is reported first
    return read_numpy_features(
        path, agreed_spec(path, spec, None), convention=convention or "preimage", processed_sizes=sizes
    )


def stored_spec(path: StrPath, variables: Sequence[str] | None = None) -> Spec | None:
    """What a foreign file says that its features are; ``None`` if it is silent."""
    suffix = Path(path).suffix.lower()
    if suffix in NUMPY_SUFFIXES:
        return None
    told: Spec | None = (open_mat(path, variables) if suffix == ".mat" else open_hdf5(path))[1].get("spec")
    return told


def check_writable(path: StrPath, spec: Spec, dtype: str, convention: str | None) -> None:
    """``ValueError`` or ``ImportError`` if features could not be written to `path`, before any are computed."""
    suffix = Path(path).suffix.lower()
    chosen = convention or default_convention(path, spec)
    check_convention(spec, chosen)
    if suffix == ".mat" and dtype != "float32":
        raise ValueError(f"{path}: a MATLAB file holds float32 (single), got dtype {dtype!r}")
    if suffix == ".npy" and (chosen.startswith("matlab") or has_frames(spec, chosen)):
        raise ValueError(f"{path}: features in convention {chosen!r} are not written as one .npy array, use .npz")
    if suffix in HDF5_SUFFIXES:
        require_h5py()
    if suffix == ".mat":
        require_scipy()


def default_convention(path: StrPath, spec: Spec) -> str:
    """The convention that features are written in if none is named: MATLAB's own for ``.mat`` where there is one."""

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
    """Write features to an ``.npy``, ``.npz``, ``.mat``, ``.h5`` or ``.hdf5`` file, by its suffix, atomically.

    Args:
        path: the file to write; replaced only when all went well.
        spec: what every record's features are of.
        records: any iterable, consumed once.
        dtype: ``"float32"``, or ``"float16"`` where the format knows it.
        convention: see `conventions`; ``None`` takes `default_convention`.

    Raises:
        ValueError: see the formats' own writers; another suffix.
        OSError: such as a full disk. After any error `path` is as it was.
        ImportError: HDF5 without h5py, or ``.mat`` without SciPy.
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
