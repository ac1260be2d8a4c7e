"""SIFT in the HDF5 files of hloc: one group an image.

What hloc's own extractor writes (``hloc/extractors/dog.py``, in versions that keep ``scales`` and ``oris``) has three
peculiarities, which are undone here. Its positions are COLMAP's, half a pixel off hloc's convention: the attribute
``uncertainty`` of ``keypoints``, which only hloc's extraction writes, is by how much the image was shrunk for
detection, so how far that half pixel reaches. Its ``oris`` are degrees. Its RootSIFT is the root of COLMAP's RootSIFT,
so a root taken twice.
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

_BLOCK = 4096  # descriptors looked at together
_CORNER = 0.5
_NEEDED = {"keypoints": 2, "descriptors": 2, "scales": 1, "oris": 1}


@dataclasses.dataclass(frozen=True)
class _Image:
    key: str
    count: int
    size: Size | None
    shift: float  # of its positions, pixels
    names: dict[str, str]  # of its datasets in the file, by role


def read_hloc(path: StrPath, normalization: str | None = None) -> KeypointFile:
    """All images of a file, by name.

    Args:
        path: the file.
        normalization: see `read_keypoints`. By default ``"l2"`` for images whose descriptors are whole numbers over
            512, as hloc writes plain SIFT, and ``"l1_root_twice"`` for the others, as it writes RootSIFT.

    Raises:
        FileFormatError: no such file, damaged, features other than SIFT, or keypoints without scale or angle.
        ImportError: h5py is not installed.
    """
    h5py = require_h5py()
    with open(path, "rb") as start:
        if start.read(len(SIGNATURE)) != SIGNATURE:
            raise FileFormatError(path, mismatch("an HDF5 file", path))
    with hdf5_errors(path):
        file = h5py.File(path, "r")  # stays open for `load`, and closes itself when that is dropped
        try:
            images = [_listed(key, datasets) for key, _, datasets in image_groups(h5py, file)]
            if len(images) > MAX_IMAGES:
                raise ValueError(f"has more than {MAX_IMAGES} images")
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
        normalization=normalization or "told by the numbers: l2 or l1_root_twice",
        load=load,
    )


def _listed(key: str, datasets: dict[str, Any]) -> _Image:
    if missing := [name for name in _NEEDED if name not in datasets]:
        raise ValueError(
            f"{key!r} has no {', '.join(missing)}; SIFT keypoints need {', '.join(_NEEDED)} (hloc writes scales and "
            "oris for SIFT only, and only its newer versions do)"
        )
    shapes = {name: datasets[name].shape for name in _NEEDED}
    size = read_size(datasets.get("image_size"))
    if all(shape is not None and 0 in shape for shape in shapes.values()):
        return _Image(key, 0, size, 0.0, {})  # nothing, in whatever shape
    if any(shape is None or len(shape) != rank for shape, rank in zip(shapes.values(), _NEEDED.values(), strict=True)):
        raise ValueError(f"{key!r} has arrays of shapes {shapes}")
    count = check_count(int(shapes["keypoints"][0]))
    if shapes["descriptors"][0] != DESCRIPTOR:
        raise ValueError(
            f"{key!r} has descriptors of shape {shapes['descriptors']}, which are not SIFT ({DESCRIPTOR}, {count})"
        )
    right = {"keypoints": (count, 2), "descriptors": (DESCRIPTOR, count), "scales": (count,), "oris": (count,)}
    if shapes != right:
        raise ValueError(f"{key!r} has arrays of shapes {shapes}; {right} are right")
    kept = dict.fromkeys(_NEEDED)
    if "scores" in datasets and datasets["scores"].shape == (count,):
        kept["scores"] = None
    for name in kept:
        check_dataset(f"{key}/{name}", datasets[name])
    shift = _CORNER * _uncertainty(datasets["keypoints"])
    return _Image(key, count, size, shift, {name: datasets[name].name for name in kept})


def _uncertainty(dataset: Any) -> float:
    """The attribute; 0 if there is none."""
    if "uncertainty" not in dataset.attrs:
        return 0.0
    attribute = dataset.attrs.get_id("uncertainty")
    if attribute.shape != () or attribute.dtype.kind != "f" or attribute.dtype.itemsize > 8:
        raise ValueError(f"the attribute uncertainty of {dataset.name} is no number")
    value = float(dataset.attrs["uncertainty"])
    if not math.isfinite(value) or not 0 < value < 1e4:
        raise ValueError(f"the attribute uncertainty of {dataset.name} is {value}")
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
    """Whether they are whole numbers, over 512 or not; half precision keeps these exactly."""
    if descriptors.dtype.kind != "f":
        return True
    for start in range(0, len(descriptors), _BLOCK):
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = descriptors[start : start + _BLOCK].astype(np.float32) * 512
            if not (np.abs(scaled - np.round(scaled)) <= 2.0**-6).all():
                return False
    return True
