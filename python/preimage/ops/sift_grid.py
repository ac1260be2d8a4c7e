"""Sparse keypoints drawn onto a grid of cells, one a cell: what a convolutional inverter can take."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.keypoints import Keypoints
from preimage.ops import _native
from preimage.ops._images import (
    DType,
    check_dtype,
    check_whole,
    cpu_threads,
    describe_array,
    describe_output,
    is_tensor,
)

CHANNELS = 128 + 5
DTYPES = ("float32", "float16")
_LIMIT = 2**30  # the kernel's
_FIELDS = ("x", "y", "scale", "angle", "descriptors")


def sift_grid(
    keypoints: Keypoints,
    image_size: tuple[int, int],
    cell: int = 4,
    *,
    seed: int = 0,
    descriptor_scale: float = 1.0,
    dtype: DType = "float32",
) -> Any:
    """At most one keypoint for every cell of cell × cell pixels, its descriptor and place as channels.

    A keypoint lies in cell (⌊(y + 0.5) / cell⌋, ⌊(x + 0.5) / cell⌋): a pixel's square spans half a pixel on either
    side of its center. Those outside the image are left out. Of several in a cell one is drawn: the one with the
    largest key, where keypoint k of its image (from 0) has the key splitmix64 gives as output number k when started
    at `seed` (unsigned 64-bit integers, wrapping around). All seeds together draw evenly, and the other keypoints of
    an image, or the other images, make no difference to a draw beyond the index.

    Args:
        keypoints: of a batch of B images, from `preimage.sift` or elsewhere.
        image_size: (H, W) in pixels, that of every image in the batch; at least 1 and below 2³⁰.
        cell: side of a cell in pixels, at least 1 and below 2³⁰.
        seed: of the draw; of larger integers the lowest 64 bits count.
        descriptor_scale: what descriptors are multiplied by.
        dtype: of the result: float32 or float16, rounded from float32; a name or a dtype of torch or NumPy.

    Returns:
        (B, 133, ⌈H / cell⌉, ⌈W / cell⌉) of `dtype`, contiguous; a torch tensor for keypoints in tensors, a NumPy array
        for those in arrays. Channels 0 to 127: the descriptor times
        `descriptor_scale`; 128 and 129: (x + 0.5) mod cell and (y + 0.5) mod cell, pixels from the cell's left and
        upper edge; 130 and 131: sine and cosine of the angle; 132: natural logarithm of the scale. All 0 in cells
        that hold no keypoint (elsewhere sine and cosine are never both 0).

    Raises:
        TypeError: `keypoints` is something else; `cell`, `seed` or a size is not an int.
        ValueError: a size or `cell` out of range; coordinates, angles or scales that are not finite, or scales not
            above 0; a `descriptor_scale` that is not finite; an unknown `dtype`.
    """
    _check(keypoints, image_size, cell, seed, descriptor_scale)
    name = check_dtype(dtype, DTYPES, keypoints.x)
    signed = (seed + 2**63) % 2**64 - 2**63
    if is_tensor(keypoints.x):
        from preimage.ops.sift_grid_torch import grid_of_tensors

        return grid_of_tensors(keypoints, image_size, cell, signed, float(descriptor_scale), name)
    rows, columns = -(-image_size[0] // cell), -(-image_size[1] // cell)
    grid = np.empty((len(keypoints), CHANNELS, rows, columns), name)
    sift_grid_into(
        keypoints, grid, image_size, cell, seed=signed, descriptor_scale=descriptor_scale, threads=cpu_threads()
    )
    return grid


def sift_grid_into(
    keypoints: Keypoints,
    grid: npt.NDArray[Any],
    image_size: tuple[int, int],
    cell: int,
    *,
    seed: int = 0,
    descriptor_scale: float,
    threads: int,
) -> None:
    """Write the grid (B, 133, rows, columns), float32 or float16, C-contiguous, of keypoints in arrays in place.

    Raises:
        ValueError: `grid` of another shape, dtype or layout; keypoints that are not finite.
    """
    x, y, scale, angle, descriptors = (np.ascontiguousarray(getattr(keypoints, name)) for name in _FIELDS)
    _native.sift_grid(
        describe_array(x),
        describe_array(y),
        describe_array(scale),
        describe_array(angle),
        describe_array(descriptors),
        keypoints.offsets.tolist(),
        describe_output(grid),
        (image_size[0], image_size[1]),
        cell,
        seed,
        descriptor_scale,
        threads,
    )


def _check(keypoints: Keypoints, image_size: tuple[int, int], cell: int, seed: int, descriptor_scale: float) -> None:
    if not isinstance(keypoints, Keypoints):
        raise TypeError(f"keypoints must be preimage.Keypoints, got {type(keypoints).__name__}")
    if not isinstance(image_size, tuple | list) or len(image_size) != 2:
        raise TypeError(f"image_size must be (height, width), got {image_size!r}")
    height, width = image_size
    check_whole("the image's height", height)
    check_whole("the image's width", width)
    check_whole("cell", cell)
    if max(height, width, cell) >= _LIMIT:
        raise ValueError(f"the image's sides and the cell must be below 2^30, got {height} x {width} and {cell}")
    if type(seed) is not int:
        raise TypeError(f"seed must be an int, got {seed!r}")
    if not isinstance(descriptor_scale, float | int) or not math.isfinite(descriptor_scale):
        raise ValueError(f"descriptor_scale must be a finite number, got {descriptor_scale!r}")
