"""Features that anything made: what they are is told by the file, or by their shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from preimage.errors import FileFormatError
from preimage.io.arrays.by_suffix import NUMPY_SUFFIXES, is_foreign, read_foreign, told_spec
from preimage.io.arrays.h5 import open_hdf5
from preimage.io.arrays.keylists import keys_file, keys_of
from preimage.io.arrays.npy import open_arrays
from preimage.io.arrays.stored import StoredArray, feature_file
from preimage.io.atomic import StrPath
from preimage.io.features import read_features
from preimage.io.records import FeatureFile
from preimage.spec import USER_VARIANT, Spec

DEFAULT_NAME = "embedding"


def read_own_features(path: StrPath, *, name: str | None, image_size: int) -> FeatureFile:
    """Features of images, each under its key.

    A file that tells its spec is read as it says. Otherwise it is an ``.npz`` with one array (C,) or (C, h, w) an image
    under its key, or one stack of them and an array ``keys`` of strings; an ``.npy`` with a stack (N, C) or
    (N, C, h, w), and the keys in ``F.keys.txt`` beside ``F.npy``, a line each; or an HDF5 file with a group an image
    that holds ``features`` or ``global_descriptor``.

    Args:
        path: the file.
        name: what to call features of a file that does not tell; ``None`` is ``"embedding"``.
        image_size: side of the square images that such features are of, pixels.

    Raises:
        FileFormatError: damaged, of another format, or with arrays that are no features.
        ValueError: a name for features that have one, keys that are missing, too few or too many, or a file that
            has to tell its spec.
        ImportError: HDF5 without h5py, or ``.mat`` without SciPy.
    """
    suffix = Path(path).suffix.lower()
    if not is_foreign(path) or told_spec(path) is not None:
        if name is not None:
            raise ValueError(f"{path} says itself what its features are: give them no name")
        file = read_foreign(path) if is_foreign(path) else read_features(path)
        if not len(file):
            raise FileFormatError(path, "holds no images")
        return file
    if suffix == ".mat":
        raise ValueError(f"{path}: a MATLAB file does not tell how its arrays lie: give .npz, .npy or .h5")
    keys = None
    if suffix in NUMPY_SUFFIXES:
        arrays, keys = open_arrays(path), keys_of(path)
        if len(arrays) == 1 and keys is None:
            raise ValueError(
                f"{path}: nothing tells which image each row is of: write their keys, a line each, to "
                f"{keys_file(path)}" + (", or beside the array as 'keys'" if suffix == ".npz" else "")
            )
    else:
        arrays, _ = open_hdf5(path)
    if not arrays:
        raise FileFormatError(path, "holds no images")
    spec = _likely_spec(path, arrays, stacked=keys is not None, name=name, image_size=image_size)
    try:
        return feature_file(path, spec, "preimage", arrays, keys=keys, processed_sizes=(image_size, image_size))
    except FileFormatError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _likely_spec(
    path: StrPath, arrays: Sequence[StoredArray], *, stacked: bool, name: str | None, image_size: int
) -> Spec:
    """By the shape of the first image's features."""
    shape = arrays[0].shape[1:] if stacked else arrays[0].shape
    if len(shape) not in (1, 3):
        wanted = "(N, C) or (N, C, h, w)" if stacked else "(C,) or (C, h, w)"
        raise FileFormatError(path, f"{arrays[0].name!r} has shape {arrays[0].shape}; features are {wanted}")
    if len(shape) == 1:
        return Spec(name or DEFAULT_NAME, USER_VARIANT, channels=shape[0], stride=None)
    return Spec(name or DEFAULT_NAME, USER_VARIANT, channels=shape[0], stride=max(1, round(image_size / shape[1])))
