"""Read frames and descriptors of VLFeat's MATLAB toolbox from MATLAB files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.io.arrays import mat5
from preimage.io.arrays.stored_arrays import role_of
from preimage.io.atomic import StrPath, as_keys
from preimage.io.feature_file import MAX_IMAGES
from preimage.io.keypoints.convert import as_keypoints, check_count, file_errors, no_keypoints
from preimage.io.keypoints.keypoint_file import KeypointFile
from preimage.keypoints import DESCRIPTOR, Keypoints

_FIRST = 1.0  # MATLAB counts pixels from 1
_ROWS = {"frames": 4, "descriptors": DESCRIPTOR}


@dataclasses.dataclass(frozen=True)
class _Image:
    key: str
    frames: mat5.Variable
    descriptors: mat5.Variable
    count: int


def read_mat(path: StrPath, normalization: str | None = None) -> KeypointFile:
    """Open the result of ``[F, D] = vl_sift(I)``, saved with ``save('x.mat', 'F', 'D', '-v7')``.

    Frames ``F`` (4, N) contain x, y (the upper left pixel is (1, 1)), σ and the angle in the image as displayed.
    Descriptors ``D`` (128, N) are in the order of VLFeat's C library, because the toolbox compensates for MATLAB's
    column-major order. The arrays are named ``F`` and ``D``, or ``frames`` and ``descrs`` or ``descriptors``; those of
    several images are prefixed with the image's name (``KEY_F``, ``KEY_D``). Other variables are ignored.

    Raises:
        FileFormatError: The file is of another format or version or damaged, or has no such pair of arrays.
        ImportError: SciPy is not installed.
    """
    mat5.require_scipy()
    with file_errors(path), open(path, "rb") as file:
        images = _images(Path(path).stem, list(mat5.variables(file)))
        keys = as_keys(image.key for image in images)
    chosen = normalization or "l2"

    def load(position: int) -> Keypoints:
        image = images[position]
        if not image.count:
            return no_keypoints()
        with file_errors(path, keys[position]), open(path, "rb") as again:
            frames = mat5.read(again, image.frames).T.astype(np.float64)
            descriptors: NDArray[Any] = mat5.read(again, image.descriptors).T
            frames[:, :2] -= _FIRST
            return as_keypoints(frames, descriptors, lowe_order=False, normalization=chosen)

    return KeypointFile(
        path,
        "mat",
        keys=keys,
        sizes=[None] * len(images),
        counts=[image.count for image in images],
        normalization=chosen,
        load=load,
    )


def holds_frames(path: StrPath) -> bool:
    """Return whether a MATLAB file contains frames and descriptors of sparse SIFT; dense SIFT has 2 or 3 rows."""
    with file_errors(path), open(path, "rb") as file:
        pairs = _pairs(Path(path).stem, list(mat5.variables(file)))
    return any(
        len(pair) == len(_ROWS) and all(pair[role].shape[axis] == rows for role, rows in _ROWS.items())
        for pair in pairs.values()
        for axis in (0, 1)  # transposed arrays are rejected later, with a message about the shape
    )


def _pairs(stem: str, variables: list[mat5.Variable]) -> dict[str, dict[str, mat5.Variable]]:
    """Return the numeric variables by key and role."""
    pairs: dict[str, dict[str, mat5.Variable]] = {}
    for variable in variables:
        key, role = role_of(variable.name)
        if not role or variable.dtype is None:
            continue
        if pairs.setdefault(key or stem, {}).setdefault(role, variable) is not variable:
            raise ValueError(f"{variable.name!r}: two arrays of {role} for one image")
    return pairs


def _images(stem: str, variables: list[mat5.Variable]) -> list[_Image]:
    images = []
    for key, pair in _pairs(stem, variables).items():
        if missing := [role for role in _ROWS if role not in pair]:
            raise ValueError(f"image {key!r} has no {missing[0]} (F and D of vl_sift, KEY_F and KEY_D)")
        frames, descriptors = pair["frames"], pair["descriptors"]
        count = frames.shape[1]
        if frames.shape[:1] + descriptors.shape[:1] == (6, DESCRIPTOR):
            raise ValueError(f"{frames.name!r} must have shape (4, {count}), got ellipses (6, {count})")
        if 0 in frames.shape and 0 in descriptors.shape:
            count = 0
        elif (frames.shape, descriptors.shape) != ((4, count), (DESCRIPTOR, count)):
            raise ValueError(
                f"{frames.name!r} and {descriptors.name!r} must have shapes (4, N) and ({DESCRIPTOR}, N), one column "
                f"per keypoint, got {frames.shape} and {descriptors.shape}"
            )
        images.append(_Image(key, frames, descriptors, check_count(count)))
        if len(images) > MAX_IMAGES:
            raise ValueError(f"must have at most {MAX_IMAGES} images")
    if not images:
        names = ", ".join(variable.name for variable in variables[:20]) or "none"
        raise ValueError(f"contains no frames and descriptors (F and D of vl_sift), only {names:.300}")
    return images
