"""Compute dense SIFT with other numbers of bins, or bins that are not square, in NumPy: `vl_dsift` in general."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

DEFAULT_GEOMETRY = (4, 4, 8)
_CLIP = np.float32(0.2)
_DEAD_ZONE = np.float32(1e-8)  # square roots of smaller numbers are 0 in VLFeat
_EPSILON = np.finfo(np.float32).eps


def grid_of(
    box: tuple[int, ...], steps: tuple[int, ...], sizes: tuple[int, ...], bins: tuple[int, ...]
) -> tuple[Indices, Indices]:
    """Return the rows and the columns of the centers of the first bins of the descriptors within the bounds."""
    rows, columns = (
        np.arange(box[axis], box[axis + 2] - (bins[axis] - 1) * sizes[axis] + 1, steps[axis], dtype=np.int64)
        for axis in (0, 1)
    )
    return rows, columns


def dense_sift_of_geometry(
    plane: Array,  # [H, W]
    rows: Indices,
    columns: Indices,
    sizes: tuple[int, ...],
    bins: tuple[int, ...],
    window_size: float,
    fast: bool,
) -> tuple[Array, Array]:
    """Compute descriptors of unit norm and norms.

    Args:
        plane: (H, W), at least 2 x 2 pixels.
        rows: (h,), centers of the first bins of the descriptors.
        columns: (w,), likewise.
        sizes: Sizes of bins along y and x in pixels.
        bins: Numbers of bins along y and x, and of orientations.
        window_size: Standard deviation of the Gaussian in bins.
        fast: Weight every bin by the mean of the Gaussian over it.

    Returns:
        Descriptors (h * w, bins), orientation fastest, then x; and norms (h, w).
    """
    down, across, orientations = bins
    sums = np.empty((len(rows), len(columns), down, across, orientations), np.float32)
    weights = [_kernels(size, count, window_size, fast) for size, count in zip(sizes, bins, strict=False)]
    for orientation, votes in enumerate(_votes(plane, orientations)):
        for y in range(down):
            lines = _correlate(votes, rows + y * sizes[0], weights[0][y])
            for x in range(across):
                sums[:, :, y, x, orientation] = _correlate(lines.T, columns + x * sizes[1], weights[1][x]).T
    descriptors = sums.reshape(len(rows) * len(columns), -1)
    pixels = math.prod((count - 1) * size + 1 for count, size in zip(bins, sizes, strict=False))
    norms = descriptors.sum(axis=1) / np.float32(pixels)
    unit = _normalized(np.minimum(_normalized(descriptors), _CLIP))
    return unit, norms.reshape(len(rows), len(columns))


def _votes(
    plane: Array,  # [H, W]
    orientations: int,
) -> list[Array]:  # [H, W] for every orientation
    """Split the magnitude of the gradient linearly between the two nearest orientations."""
    gy, gx = np.gradient(plane)
    squares = gx * gx + gy * gy
    strength = np.where(squares < _DEAD_ZONE, 0, np.sqrt(squares))
    # VLFeat's approximation of the arc tangent, `vl_fast_atan2_f`.
    length = np.abs(gy) + _EPSILON
    ratio = np.where(gx < 0, gx + length, gx - length) / (np.abs(gx) + length)
    angle = np.where(gx < 0, 3 * np.pi / 4, np.pi / 4) + (0.1821 * ratio * ratio - 0.9675) * ratio
    position = np.where(gy < 0, 2 * np.pi - angle, angle) * (orientations / (2 * np.pi))
    before = np.floor(position)
    share = position - before
    first = np.nan_to_num(before).astype(np.int64) % orientations  # where it is NaN, so is the share
    second = (first + 1) % orientations
    planes = []
    for bin_index in range(orientations):
        # With one orientation, both are the same; VLFeat then keeps the second.
        vote = np.where(second == bin_index, share, np.where(first == bin_index, 1 - share, 0))
        planes.append((vote * strength).astype(np.float32))
    return planes


def _kernels(size: int, count: int, window_size: float, fast: bool) -> Array:  # [count, 2 · size - 1]
    """Compute the weights of the pixels around the center of each bin: a triangle times the window."""
    offset = np.arange(1 - size, size)
    from_center = offset + size * (np.arange(count)[:, None] - 0.5 * (count - 1))
    gaussian = np.exp(-0.5 * (from_center / (size * window_size)) ** 2)
    triangle = 1 - np.abs(offset) / size
    weights: Array = (triangle * (gaussian.mean(axis=1, keepdims=True) if fast else gaussian)).astype(np.float32)
    return weights


def _correlate(
    planes: Array,  # [H, W]
    centers: Indices,  # [h]
    weights: Array,  # [2 r + 1]
) -> Array:  # [h, W]
    """Correlate along the first axis at these centers; pixels outside are those at the border."""
    radius = len(weights) // 2
    result = np.zeros((len(centers), planes.shape[1]), np.float32)
    for offset, weight in zip(range(-radius, radius + 1), weights, strict=True):
        result += weight * planes[np.clip(centers + offset, 0, len(planes) - 1)]
    return result


def _normalized(descriptors: Array) -> Array:  # [N, D]
    """Divide by the norms, and set descriptors of flat patches to 0, as `preimage.dense_sift` does."""
    squares = np.einsum("nd,nd->n", descriptors, descriptors)[:, None]
    flat = squares < _DEAD_ZONE
    unit: Array = np.where(flat, 0, descriptors / (np.sqrt(np.where(flat, 1, squares)) + _EPSILON)).astype(np.float32)
    return unit
