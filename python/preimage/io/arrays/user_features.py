"""Read user-provided features, whose spec is in the file or follows from the shapes of the arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from preimage.errors import FileFormatError
from preimage.io.arrays.formats import (
    HDF5_SUFFIXES,
    NUMPY_SUFFIXES,
    VECTOR_SUFFIXES,
    open_vectors,
    read_array_file,
    stored_spec,
)
from preimage.io.arrays.hdf5 import open_hdf5
from preimage.io.arrays.keys import StoredKeys, keys_file, keys_of
from preimage.io.arrays.npy import open_arrays
from preimage.io.arrays.stored_arrays import StoredArray, feature_file, stack_problem
from preimage.io.atomic import StrPath
from preimage.io.feature_file import FeatureFile
from preimage.spec import USER_VARIANT, Spec

DEFAULT_NAME = "embedding"
_KEYS_INSIDE = {".npz": ", or to an array 'keys' in the file", ".parquet": ", or to a column 'key' of the file"}


def read_user_features(
    path: StrPath,
    *,
    name: str | None,
    image_size: int,
    excluded: dict[str, str] | None = None,
    spec: Spec | None = None,
    keys: Sequence[str] | StoredKeys | None = None,
    default_keys: Sequence[str] | None = None,
) -> FeatureFile:
    """Open user-provided features of images.

    The spec is read from the file if it contains one. Otherwise the file must be an ``.npz`` with one array (C,) or
    (C, h, w) per image under its key, or with one stack of them and an array ``keys`` of strings; an ``.npy`` with a
    stack (N, C) or (N, C, h, w), and the keys in ``F.keys.txt`` next to ``F.npy``, one per line; a flat FAISS index
    ``F.faiss`` with such keys; a Parquet file with a column of vectors and one of keys, or with such keys; or an HDF5
    file with one group per image that contains ``features`` or ``global_descriptor``.

    Args:
        path: Path of the file.
        name: Name of features whose file contains no spec; ``None`` is ``"embedding"``.
        image_size: Side in pixels of the square images that such features were computed from.
        excluded: Dictionary that receives key and shape of the arrays that differ in rank or number of channels from
            most others, and are left out. ``None`` raises for such arrays.
        spec: Spec of features whose file contains none, if it is known.
        keys: Keys of the rows of a stack, instead of those in or next to the file.
        default_keys: Keys of the rows of a stack whose file has none.

    Raises:
        FileFormatError: The file is damaged, of another format, its arrays are not features, or keys from a file do
            not match them.
        ValueError: `name` is given although the file contains a spec, keys are missing or those from the caller do not
            match the arrays, or the file must contain its spec.
        ImportError: h5py (for HDF5) or SciPy (for ``.mat``) is not installed.
    """
    suffix = Path(path).suffix.lower()
    if stored_spec(path) is not None:
        if name is not None:
            raise ValueError(f"{path} contains a spec, which names its features: omit the name {name!r}")
        return read_array_file(path, spec)
    if suffix == ".mat":
        raise ValueError(f"{path}: a MATLAB file does not state its convention: use .npz, .npy or .h5")
    arrays, keys = _arrays_and_keys(path, keys, default_keys)
    stacked = keys is not None
    common = Counter(array.shape for array in arrays).most_common(1)[0][0]
    if excluded is not None and not stacked and len(common) in (1, 3):
        alike = [len(array.shape) == len(common) and array.shape[0] == common[0] for array in arrays]
        pairs = list(zip(arrays, alike, strict=True))
        excluded |= {array.name: f"{array.shape}, most have {common}" for array, same in pairs if not same}
        arrays = [array for array, same in pairs if same]
    if spec is None:
        array = next(array.name for array in arrays if array.shape == common)
        spec = _likely_spec(path, array, common, stacked=stacked, name=name, image_size=image_size)
    return feature_file(path, spec, "preimage", arrays, keys=keys, processed_sizes=(image_size, image_size))


def _arrays_and_keys(
    path: StrPath, keys: Sequence[str] | StoredKeys | None, default_keys: Sequence[str] | None
) -> tuple[list[StoredArray], Sequence[str] | StoredKeys | None]:
    """Return the arrays of a file without a spec; and the keys of their rows if there is only one, a stack."""
    suffix = Path(path).suffix.lower()
    stored: StoredKeys | None = None
    if suffix in NUMPY_SUFFIXES:
        arrays, stored = open_arrays(path), keys_of(path)
    elif suffix in VECTOR_SUFFIXES:
        array, stored = open_vectors(path)
        arrays = [array]
    else:
        arrays, _ = open_hdf5(path)
    if not arrays:
        raise FileFormatError(path, "contains no arrays")
    if suffix in HDF5_SUFFIXES or (len(arrays) > 1 and stored is None):
        if keys is not None:
            raise ValueError(
                f"{path} contains the keys of its {len(arrays)} arrays: omit keys, which are for one stack"
            )
        return arrays, None
    if len(arrays) > 1 and stored is not None:
        stacks = [array for array in arrays if len(array.shape) in (2, 4) and array.shape[0] == len(stored.keys)]
        raise FileFormatError(path, stack_problem(arrays, stacks, keyed=True))
    chosen = next((found for found in (keys, stored, default_keys) if found is not None), None)
    if chosen is None:
        raise ValueError(
            f"{path}: the keys of the rows are missing: write them, one per line, to {keys_file(path)}"
            + _KEYS_INSIDE.get(suffix, "")
        )
    return arrays, chosen


def _likely_spec(
    path: StrPath, array: str, shape: tuple[int, ...], *, stacked: bool, name: str | None, image_size: int
) -> Spec:
    """Return a spec for features whose arrays have the given shape."""
    features = shape[1:] if stacked else shape
    if len(features) not in (1, 3):
        wanted = "(N, C) or (N, C, h, w)" if stacked else "(C,) or (C, h, w)"
        hint = ""
        if not stacked and len(shape) in (2, 4) and Path(path).suffix.lower() == ".npz":
            hint = "; a stack of images must be the only array besides `keys`"
        raise FileFormatError(path, f"{array!r} must have shape {wanted}, got {shape}{hint}")
    if len(features) == 1:
        return Spec(name or DEFAULT_NAME, USER_VARIANT, channels=features[0], stride=None)
    return Spec(
        name or DEFAULT_NAME, USER_VARIANT, channels=features[0], stride=max(1, round(image_size / features[1]))
    )
