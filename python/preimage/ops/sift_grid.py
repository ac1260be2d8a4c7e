"""Rasterize sparse keypoints onto a grid of cells, the input of convolutional inverters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.keypoints import COLORS, GRID_CHANNELS, Keypoints
from preimage.ops import _native
from preimage.ops._images import (
    DType,
    check_dtype,
    check_positive_int,
    cpu_threads,
    describe_array,
    describe_output,
    is_tensor,
)

DTYPES = ("float32", "float16")
_LIMIT = 2**30  # exclusive upper limit of sizes in the kernel
_FIELDS = ("x", "y", "scale", "angle", "descriptors")


def sift_grid(
    keypoints: Keypoints,
    image_size: tuple[int, int],
    cell_size: int = 4,
    *,
    seed: int = 0,
    descriptor_scale: float = 1.0,
    dtype: DType = "float32",
) -> Any:
    """Rasterize keypoints onto a grid, with at most one keypoint in each cell of cell_size × cell_size pixels.

    A keypoint is in cell (⌊(y + 0.5) / cell_size⌋, ⌊(x + 0.5) / cell_size⌋), because a pixel extends half a pixel to
    either side of its center. Keypoints outside the image are left out. If a cell contains several keypoints, the one
    with the largest key is used, where the key of the k-th keypoint of its image is the k-th output of splitmix64 with
    the initial state `seed`. The choice is uniform over all seeds, and does not depend on other cells or images.

    Args:
        keypoints: Keypoints of a batch of B images.
        image_size: (H, W) of all images in pixels, at least 1 and below 2³⁰.
        cell_size: Side of a cell in pixels, at least 1 and below 2³⁰.
        seed: Seed of the random choice; its lowest 64 bits are used.
        descriptor_scale: Factor of the descriptors.
        dtype: Dtype of the result as a name or a dtype of torch or NumPy: float32, or float16, rounded from float32.

    Returns:
        (B, 133, ⌈H / cell_size⌉, ⌈W / cell_size⌉) of `dtype`, or 136 channels for keypoints with colors, contiguous; a
        tensor for keypoints in tensors, a NumPy array for keypoints in arrays. Channels 0 to 127 are the descriptor
        times `descriptor_scale`; 128 and 129 are (x + 0.5) mod cell_size and (y + 0.5) mod cell_size, the position in
        the cell in pixels; 130 and 131 are sine and cosine of the angle; 132 is the natural logarithm of the scale; 133
        to 135 are red, green and blue minus 0.5, and 0 where the color is unknown. Cells without a keypoint are 0 in
        all channels; in others sine and cosine are never both 0.

    Raises:
        TypeError: `keypoints` is not a `Keypoints` object, or `cell_size`, `seed` or a size is not an int.
        ValueError: A size or `cell_size` is out of range, positions, angles or scales are not finite, a scale is not
            positive, colors are outside [0, 1], `descriptor_scale` is not finite, or `dtype` is invalid.
    """
    _check(keypoints, image_size, cell_size, seed, descriptor_scale)
    name = check_dtype(dtype, DTYPES, keypoints.x)
    signed = (seed + 2**63) % 2**64 - 2**63
    if is_tensor(keypoints.x):
        from preimage.ops.sift_grid_torch import sift_grid_torch

        return sift_grid_torch(keypoints, image_size, cell_size, signed, float(descriptor_scale), name)
    rows, columns = -(-image_size[0] // cell_size), -(-image_size[1] // cell_size)
    channels = GRID_CHANNELS if keypoints.colors is None else GRID_CHANNELS + COLORS
    grid = np.empty((len(keypoints), channels, rows, columns), name)
    sift_grid_into(
        keypoints, grid, image_size, cell_size, seed=signed, descriptor_scale=descriptor_scale, threads=cpu_threads()
    )
    return grid


def sift_grid_into(
    keypoints: Keypoints,
    grid: npt.NDArray[Any],
    image_size: tuple[int, int],
    cell_size: int,
    *,
    seed: int = 0,
    descriptor_scale: float,
    threads: int,
) -> None:
    """Compute `sift_grid` of keypoints in arrays into `grid`, (B, 133, h, w), or (B, 136, h, w) with colors.

    The grid is float32 or float16, and C-contiguous.

    Raises:
        ValueError: The shape, dtype or strides of `grid` are wrong, or keypoints are not finite.
    """
    x, y, scale, angle, descriptors = (np.ascontiguousarray(getattr(keypoints, name)) for name in _FIELDS)
    colors = () if keypoints.colors is None else (describe_array(np.ascontiguousarray(keypoints.colors)),)
    _native.sift_grid(
        describe_array(x),
        describe_array(y),
        describe_array(scale),
        describe_array(angle),
        describe_array(descriptors),
        keypoints.offsets.tolist(),
        describe_output(grid),
        (image_size[0], image_size[1]),
        cell_size,
        seed,
        descriptor_scale,
        threads,
        *colors,
    )


def _check(
    keypoints: Keypoints, image_size: tuple[int, int], cell_size: int, seed: int, descriptor_scale: float
) -> None:
    if not isinstance(keypoints, Keypoints):
        raise TypeError(f"keypoints must be preimage.Keypoints, got {type(keypoints).__name__}")
    if not isinstance(image_size, (tuple, list)) or len(image_size) != 2:
        raise TypeError(f"image_size must be (height, width), got {image_size!r}")
    height, width = image_size
    check_positive_int("image height", height)
    check_positive_int("image width", width)
    check_positive_int("cell_size", cell_size)
    if max(height, width, cell_size) >= _LIMIT:
        raise ValueError(f"image_size and cell_size must be below 2^30, got {height} x {width} and {cell_size}")
    if type(seed) is not int:
        raise TypeError(f"seed must be an int, got {seed!r}")
    if not isinstance(descriptor_scale, (float, int)) or not math.isfinite(descriptor_scale):
        raise ValueError(f"descriptor_scale must be a finite number, got {descriptor_scale!r}")
