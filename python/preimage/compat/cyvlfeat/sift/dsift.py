"""Compute dense SIFT descriptors like cyvlfeat's `dsift`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.compat.cyvlfeat.images import gray_plane
from preimage.compat.cyvlfeat.sift.geometry import DEFAULT_GEOMETRY, dense_sift_of_geometry, grid_of
from preimage.ops import dense_sift as dense_sift_op

Ints = int | Sequence[int] | npt.NDArray[Any]
_WINDOW_SIZE = 2.0  # VLFeat's default, in bins
_SCALE = np.float32(512)  # of stored descriptors, which are at most 255


def dsift(
    image: npt.ArrayLike,
    step: Ints = 1,
    size: Ints = 3,
    bounds: Sequence[int] | npt.NDArray[Any] | None = None,
    window_size: float = -1,
    norm: bool = False,
    fast: bool = False,
    float_descriptors: bool = False,
    geometry: Sequence[int] | npt.NDArray[Any] = DEFAULT_GEOMETRY,
    verbose: bool = False,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    """Compute SIFT descriptors on a regular grid.

    Args:
        image: (H, W) or (H, W, 1), used as float32, of any range; it is not smoothed.
        step: Distance between descriptors in pixels, one int or (y, x).
        size: Size of the spatial bins in pixels, one int or (y, x).
        bounds: (top, left, bottom, right) of the centers of bins, inclusive; ``None`` for the whole image.
        window_size: Standard deviation of the Gaussian window in bins; 2 if negative.
        norm: Add the norms to `frames`.
        fast: Weight whole bins instead of pixels by the Gaussian.
        float_descriptors: Return descriptors as float32 instead of uint8, on the same scale.
        geometry: Numbers of bins along y and x and of orientations.
        verbose: Print the number of descriptors.

    Returns:
        ``frames`` (N, 2) float32, centers (y, x) in pixels, or (N, 3) with the norm of each descriptor; and
        ``descriptors`` (N, D) uint8 or float32, min(512 d, 255) of descriptors d with unit norm, where D is the product
        of `geometry`, by default 128. They are ordered row by row; N is 0 if none is within the bounds.

    Raises:
        ValueError: The image is empty or has another shape, bounds are outside the image, or an option is invalid.
    """
    plane = gray_plane(image)
    height, width = plane.shape
    box = _ints("bounds", (0, 0, height - 1, width - 1) if bounds is None else bounds, 4, 0)
    if box[2] > height - 1 or box[3] > width - 1:
        raise ValueError(f"bounds must be inside the image of {height} x {width} pixels, got {box}")
    sizes, steps, bins = (
        _ints("size", size, 2, 1),
        _ints("step", step, 2, 1),
        _ints("geometry", geometry, 3, 1),
    )
    window = float(window_size) if window_size >= 0 else _WINDOW_SIZE
    if not 0 < window < math.inf:
        raise ValueError(f"window_size must be above 0 bins and finite, got {window_size}")
    rows, columns = grid_of(box, steps, sizes, bins)
    if 0 in (*rows.shape, *columns.shape) or min(height, width) < 2:
        empty = np.empty((0, 3 if norm else 2), np.float32)
        return empty, np.empty((0, math.prod(bins)), np.float32 if float_descriptors else np.uint8)
    if bins == DEFAULT_GEOMETRY and sizes[0] == sizes[1]:
        found, norms = _with_kernel(plane, box, steps, sizes[0], window, fast, float_descriptors)
    else:
        unit, norms = dense_sift_of_geometry(plane, rows, columns, sizes, bins, window, fast)
        found = stored_descriptors(unit, float_descriptors)
    center_y, center_x = (np.float32(0.5 * side * (count - 1)) for side, count in zip(sizes, bins, strict=False))
    frames = np.empty((len(rows), len(columns), 3 if norm else 2), np.float32)
    frames[..., 0] = (rows + center_y)[:, None]
    frames[..., 1] = columns + center_x
    if norm:
        frames[..., 2] = norms
    if verbose:
        print(f"dsift: {height} x {width} pixels, {len(rows)} x {len(columns)} descriptors")
    return frames.reshape(len(found), -1), found


def _with_kernel(
    plane: npt.NDArray[np.float32],
    box: tuple[int, ...],
    steps: tuple[int, ...],
    bin_size: int,
    window_size: float,
    fast: bool,
    as_floats: bool,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """Return stored descriptors (N, 128) and norms (h, w) of the native kernel, whose steps along y and x are equal."""
    step = math.gcd(*steps)
    features, norms = dense_sift_op.dense_sift(
        plane,
        step=step,
        bin_size=bin_size,
        window="flat" if fast else "gaussian",
        window_size=window_size,
        bounds=(box[0], box[1], box[2], box[3]),
        norms=True,
        dtype="float32" if as_floats else "uint8",
    )
    every = (..., slice(None, None, steps[0] // step), slice(None, None, steps[1] // step))
    found = np.ascontiguousarray(features[every].reshape(dense_sift_op.CHANNELS, -1).T)
    return stored_descriptors(found, True) if as_floats else found, norms[0][every]


def stored_descriptors(unit: npt.NDArray[np.float32], as_floats: bool) -> npt.NDArray[Any]:
    """Return descriptors of unit norm on the scale of cyvlfeat."""
    scaled, most = unit * _SCALE, np.float32(255)
    return np.minimum(scaled, most) if as_floats else np.fmin(scaled, most).astype(np.uint8)  # as bytes, NaN is 255


def _ints(name: str, value: Ints, count: int, least: int) -> tuple[int, ...]:
    """Return `count` ints; one int stands for `count` equal ones.

    Raises:
        ValueError: There are more or fewer, or one is below `least`.
    """
    values = np.atleast_1d(np.asarray(value))
    if np.ndim(value) == 0 and count == 2:
        values = values.repeat(count)
    if values.shape != (count,):
        raise ValueError(f"{name} must contain {count} ints, got {value!r}")
    if values.min() < least:
        raise ValueError(f"{name} must contain ints of at least {least}, got {value!r}")
    return tuple(int(entry) for entry in values)
