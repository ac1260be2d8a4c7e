"""Features that anything made: what they are is told by the file, or by their shapes alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from preimage.errors import FileFormatError
from preimage.io.arrays.formats import NUMPY_SUFFIXES, read_array_file, stored_spec
from preimage.io.arrays.hdf5 import open_hdf5
from preimage.io.arrays.keys import keys_file, keys_of
from preimage.io.arrays.npy import open_arrays
from preimage.io.arrays.stored_arrays import feature_file
from preimage.io.atomic import StrPath
from preimage.io.feature_file import FeatureFile
from preimage.spec import USER_VARIANT, Spec

DEFAULT_NAME = "embedding"


def read_user_features(
    path: StrPath, *, name: str | None, image_size: int, odd: dict[str, str] | None = None
) -> FeatureFile:
    """Features of images, each under its key.

    A file that tells its spec is read as it says. Otherwise it is an ``.npz`` with one array (C,) or (C, h, w) an image
    under its key, or one stack of them and an array ``keys`` of strings; an ``.npy`` with a stack (N, C) or
    (N, C, h, w), and the keys in ``F.keys.txt`` beside ``F.npy``, a line each; or an HDF5 file with a group an image
    that holds ``features`` or ``global_descriptor``.

    Args:
        path: the file.
        name: what to call features of a file that does not tell; ``None`` is ``"embedding"``.
        image_size: side of the square images that such features are of, pixels.
        odd: gets the key and shape of arrays of another kind than most, which are then left out: vectors among maps,
            or another number of channels. ``None`` refuses a file with such arrays.

    Raises:
        FileFormatError: damaged, of another format, or with arrays that are no features.
        ValueError: a name for features that have one, keys that are missing, too few or too many, or a file that
            has to tell its spec.
        ImportError: HDF5 without h5py, or ``.mat`` without SciPy.
    """
    suffix = Path(path).suffix.lower()
    if stored_spec(path) is not None:
        if name is not None:
            raise ValueError(f"{path} says itself what its features are: give them no name")
        return read_array_file(path)
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
        raise FileFormatError(path, "holds no arrays")
    stacked = keys is not None
    common = Counter(array.shape for array in arrays).most_common(1)[0][0]
    if odd is not None and not stacked and len(common) in (1, 3):
        alike = [len(array.shape) == len(common) and array.shape[0] == common[0] for array in arrays]
        pairs = list(zip(arrays, alike, strict=True))
        odd |= {array.name: f"{array.shape}, most have {common}" for array, same in pairs if not same}
        arrays = [array for array, same in pairs if same]
    spec = _likely_spec(path, arrays[0].name, common, stacked=stacked, name=name, image_size=image_size)
    try:
        return feature_file(path, spec, "preimage", arrays, keys=keys, processed_sizes=(image_size, image_size))
    except FileFormatError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _likely_spec(
    path: StrPath, array: str, shape: tuple[int, ...], *, stacked: bool, name: str | None, image_size: int
) -> Spec:
    """Return the spec that the shape of an array suggests."""
    features = shape[1:] if stacked else shape
    if len(features) not in (1, 3):
        wanted = "(N, C) or (N, C, h, w)" if stacked else "(C,) or (C, h, w)"
        raise FileFormatError(path, f"{array!r} has shape {shape}; features are {wanted}")
    if len(features) == 1:
        return Spec(name or DEFAULT_NAME, USER_VARIANT, channels=features[0], stride=None)
    return Spec(
        name or DEFAULT_NAME, USER_VARIANT, channels=features[0], stride=max(1, round(image_size / features[1]))
    )
