"""Draw HOG features like VLFeat's ``vl_hog_render``."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

NUM_ORIENTATIONS = 9
_SUPERSAMPLING = 8


def hog_glyphs(features: Array, cell_pixels: int = 16, *, full_scale: float | None = None) -> npt.NDArray[np.uint8]:
    """Draw a star of strokes for each cell, light on black.

    A cell gets one stroke for each undirected orientation, perpendicular to the gradient (along the edge that caused
    it). Its brightness is the sum of the two directed channels and the undirected one, as in VLFeat. Where strokes
    cross, they never add up to more than the largest weight of their cell.

    Args:
        features: (31, h, w), any float type, variant ``vlfeat-uoctti``. Non-finite values are drawn as zero.
        cell_pixels: Side of one drawn cell in pixels, at least 4.
        full_scale: Weight drawn as white; the largest possible is 1.2. By default the 95th percentile of the
            cells' strongest strokes, so that a single strong edge does not darken the others.

    Returns:
        (h * cell_pixels, w * cell_pixels, 3) uint8 RGB.

    Raises:
        ValueError: Another shape, or cells too small to draw in.
    """
    values = np.asarray(features, dtype=np.float32)
    if values.ndim != 3 or values.shape[0] != 31 or 0 in values.shape:
        raise ValueError(f"features must have shape (31, h, w), got {values.shape}")
    finite = np.nan_to_num(values[:27], nan=0.0, posinf=0.0, neginf=0.0)
    weights = finite.reshape(3, NUM_ORIENTATIONS, *values.shape[1:]).sum(axis=0)
    return _stars(weights, cell_pixels, full_scale, first_angle=0.0)


def hog_block_glyphs(
    features: Array, block_size: int, cell_pixels: int = 16, *, full_scale: float | None = None
) -> npt.NDArray[np.uint8]:
    """Draw HOG features of overlapping blocks as `hog_glyphs` draws those of cells, each cell once.

    The brightness of a stroke is the mean over the blocks that contain the cell.

    Args:
        features: (block_size² · orientations, h, w), any float type, variant ``dalal-triggs``. Non-finite values are
            drawn as zero.
        block_size: Side of a block in cells, at least 1.
        cell_pixels: Side of one drawn cell in pixels, at least 4.
        full_scale: Weight drawn as white, see `hog_glyphs`; the largest possible is 1.

    Returns:
        ((h + block_size - 1) * cell_pixels, (w + block_size - 1) * cell_pixels, 3) uint8 RGB.

    Raises:
        ValueError: Another shape, or cells too small to draw in.
    """
    values = np.asarray(features, dtype=np.float32)
    if block_size < 1 or values.ndim != 3 or values.shape[0] % block_size**2 or 0 in values.shape:
        raise ValueError(
            f"features must have shape (N · {block_size}², h, w) for a block_size of {block_size}, got {values.shape}"
        )
    _, height, width = values.shape
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    blocks = finite.reshape(block_size, block_size, -1, height, width)
    shape = height + block_size - 1, width + block_size - 1
    weights, count = np.zeros((blocks.shape[2], *shape), np.float32), np.zeros(shape, np.float32)
    for row, column in np.ndindex(block_size, block_size):
        weights[:, row : row + height, column : column + width] += blocks[row, column]
        count[row : row + height, column : column + width] += 1
    return _stars(weights / count, cell_pixels, full_scale, first_angle=math.pi / (2 * len(weights)))


def _stars(weights: Array, cell_pixels: int, full_scale: float | None, *, first_angle: float) -> npt.NDArray[np.uint8]:
    """Draw the strokes of weights (orientations, h, w), the first of which is for gradients at `first_angle`."""
    if cell_pixels < 4:
        raise ValueError(f"cell_pixels must be at least 4, got {cell_pixels}")
    if full_scale is not None and not full_scale > 0:
        raise ValueError(f"full_scale must be positive, got {full_scale}")
    orientations, height, width = weights.shape
    weights = weights.reshape(orientations, height * width).clip(min=0)
    strongest = weights.max(axis=0)
    scale = full_scale if full_scale is not None else float(np.percentile(strongest, 95))
    stencils = _stencils(cell_pixels, orientations, first_angle)
    cells = np.minimum(weights.T @ stencils, strongest[:, None])  # (cells, pixels of a cell)
    light = np.clip(cells / max(scale, 1e-6), 0.0, 1.0)
    drawn = light.reshape(height, width, cell_pixels, cell_pixels).transpose(0, 2, 1, 3)
    gray = np.rint(drawn.reshape(height * cell_pixels, width * cell_pixels) * 255).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


@functools.lru_cache(maxsize=8)
def _stencils(cell_pixels: int, orientations: int, first_angle: float) -> npt.NDArray[np.float32]:
    """Return (orientations, cell_pixels²) fractions of the pixels covered by the strokes, which have equal area."""
    side = cell_pixels * _SUPERSAMPLING
    centers = (np.arange(side) + 0.5) / _SUPERSAMPLING - cell_pixels / 2
    y, x = np.meshgrid(centers, centers, indexing="ij")
    half_length = cell_pixels * 0.47  # a gap, so that the strokes of neighboring cells do not connect
    half_width = max(0.5, cell_pixels * 0.045)
    strokes = []
    for orientation in range(orientations):
        angle = first_angle + orientation * math.pi / orientations + math.pi / 2
        along = x * math.cos(angle) + y * math.sin(angle)
        across = y * math.cos(angle) - x * math.sin(angle)
        inside = (np.abs(along) <= half_length) & (np.abs(across) <= half_width)
        blocks = inside.reshape(cell_pixels, _SUPERSAMPLING, cell_pixels, _SUPERSAMPLING)
        strokes.append(blocks.mean(axis=(1, 3)).reshape(-1))
    result = np.stack(strokes).astype(np.float32)
    result.setflags(write=False)
    return result
