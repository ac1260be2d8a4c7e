"""Read SIFT keypoints from HDF5 files of hloc, which have one group per image.

The files of hloc's extractor (``hloc/extractors/dog.py``, in versions that write ``scales`` and ``oris``) have three
peculiarities. Positions are those of COLMAP, half a pixel off hloc's convention; the attribute ``uncertainty`` of
``keypoints``, which only hloc writes, is the factor by which the image was shrunk for detection, and so the size of
these pixels. ``oris`` are in degrees. RootSIFT is the square root of COLMAP's RootSIFT, so the root is taken twice.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.arrays.hdf5 import SIGNATURE, hdf5_errors, load_dataset, read_size
from preimage.io.arrays.hdf5_checks import check_dataset, image_groups, require_h5py
from preimage.io.atomic import StrPath
from preimage.io.feature_file import MAX_IMAGES, Size
from preimage.io.file_types import mismatch
from preimage.io.keypoints.convert import as_keypoints, check_count, file_errors, no_keypoints
from preimage.io.keypoints.keypoint_file import KeypointFile
from preimage.keypoints import DESCRIPTOR, Keypoints

_BLOCK = 4096  # descriptors checked at once
_CORNER = 0.5  # COLMAP's origin is the corner of the upper left pixel
_NEEDED = {"keypoints": 2, "descriptors": 2, "scales": 1, "oris": 1}


@dataclasses.dataclass(frozen=True)
class _Image:
    key: str
    count: int
    size: Size | None
    shift: float  # subtracted from the positions, pixels
    names: dict[str, str]  # names of the datasets in the file, by role


def read_hloc(path: StrPath, normalization: str | None = None) -> KeypointFile:
    """Open all images of an hloc file, with their names as keys.

    Args:
        path: Path of the file.
        normalization: See `read_keypoints`. By default ``"l2"`` for images whose descriptors are integers divided by
            512, which hloc writes for plain SIFT, and ``"l1_root_twice"`` for others, which it writes for RootSIFT.

    Raises:
        FileFormatError: The file is of another format or damaged, features are not SIFT, or scales or angles are
            missing.
        ImportError: h5py is not installed.
    """
    h5py = require_h5py()
    with open(path, "rb") as start:
        if start.read(len(SIGNATURE)) != SIGNATURE:
            raise FileFormatError(path, mismatch("an HDF5 file", path))
    with hdf5_errors(path):
        file = h5py.File(path, "r")  # stays open for `load`; closed when that is deleted
        try:
            images = [_listed(key, datasets) for key, _, datasets in image_groups(h5py, file)]
            if len(images) > MAX_IMAGES:
                raise ValueError(f"must have at most {MAX_IMAGES} images, got {len(images)}")
        except BaseException:
            file.close()
            raise

    def load(position: int) -> Keypoints:
        image = images[position]
        if not image.count:
            return no_keypoints()
        arrays = {role: load_dataset(path, file, name) for role, name in image.names.items()}
        with file_errors(path, image.key):
            return _converted(image, arrays, normalization)

    return KeypointFile(
        path,
        "hloc",
        keys=[image.key for image in images],
        sizes=[image.size for image in images],
        counts=[image.count for image in images],
        normalization=normalization or "l2 or l1_root_twice, recognized from the values",
        load=load,
    )


def _listed(key: str, datasets: dict[str, Any]) -> _Image:
    if missing := [name for name in _NEEDED if name not in datasets]:
        raise ValueError(
            f"{key!r} has no {', '.join(missing)}; SIFT keypoints must have {', '.join(_NEEDED)} (newer versions of "
            "hloc write scales and oris for SIFT)"
        )
    shapes = {name: datasets[name].shape for name in _NEEDED}
    size = read_size(datasets.get("image_size"))
    if all(shape is not None and 0 in shape for shape in shapes.values()):
        return _Image(key, 0, size, 0.0, {})  # empty arrays can have any shape
    if any(shape is None or len(shape) != rank for shape, rank in zip(shapes.values(), _NEEDED.values(), strict=True)):
        raise ValueError(f"{key!r} has datasets of invalid shapes {shapes}")
    count = check_count(int(shapes["keypoints"][0]))
    if shapes["descriptors"][0] != DESCRIPTOR:
        raise ValueError(
            f"descriptors of {key!r} must have shape ({DESCRIPTOR}, {count}) (SIFT), got {shapes['descriptors']}"
        )
    expected = {"keypoints": (count, 2), "descriptors": (DESCRIPTOR, count), "scales": (count,), "oris": (count,)}
    if shapes != expected:
        raise ValueError(f"datasets of {key!r} must have shapes {expected}, got {shapes}")
    kept = dict.fromkeys(_NEEDED)
    if "scores" in datasets and datasets["scores"].shape == (count,):
        kept["scores"] = None
    for name in kept:
        check_dataset(f"{key}/{name}", datasets[name])
    shift = _CORNER * _uncertainty(datasets["keypoints"])
    return _Image(key, count, size, shift, {name: datasets[name].name for name in kept})


def _uncertainty(dataset: Any) -> float:
    """Return the attribute ``uncertainty``, or 0 if there is none."""
    if "uncertainty" not in dataset.attrs:
        return 0.0
    attribute = dataset.attrs.get_id("uncertainty")
    if attribute.shape != () or attribute.dtype.kind != "f" or attribute.dtype.itemsize > 8:
        raise ValueError(f"the attribute uncertainty of {dataset.name} must be a number")
    value = float(dataset.attrs["uncertainty"])
    if not math.isfinite(value) or not 0 < value < 1e4:
        raise ValueError(f"the attribute uncertainty of {dataset.name} must be positive, got {value}")
    return value


def _converted(image: _Image, arrays: dict[str, NDArray[Any]], normalization: str | None) -> Keypoints:
    positions = arrays["keypoints"].astype(np.float64) - image.shift
    frames = np.column_stack([positions, arrays["scales"].astype(np.float64), arrays["oris"].astype(np.float64)])
    descriptors = arrays["descriptors"].T
    if normalization is None:
        normalization = "l2" if _is_plain(descriptors) else "l1_root_twice"
    return as_keypoints(
        frames,
        descriptors,
        lowe_order=True,
        normalization=normalization,
        response=arrays.get("scores"),
        degrees=True,
    )


def _is_plain(descriptors: NDArray[Any]) -> bool:
    """Return whether descriptors are integers, divided by 512 or not; half precision represents both exactly."""
    if descriptors.dtype.kind != "f":
        return True
    for start in range(0, len(descriptors), _BLOCK):
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = descriptors[start : start + _BLOCK].astype(np.float32) * 512
            if not (np.abs(scaled - np.round(scaled)) <= 2.0**-6).all():
                return False
    return True
