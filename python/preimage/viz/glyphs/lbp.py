"""Draw LBP histograms as edges, colored by their brighter side."""

from __future__ import annotations

import colorsys
import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

CHANNELS = 58
NUM_DIRECTIONS = 16
_NOISE = 57  # channel of all patterns that are not uniform
_SUPERSAMPLING = 8
_BACKGROUND = 0.24  # brightness of a cell that consists only of texture
_FAINTEST = 0.01  # smallest weight drawn with full brightness; noise in a cell of 16 × 16 gives half of it


def direction_color(direction: int, count: int) -> npt.NDArray[np.float32]:
    """Return the RGB color in [0, 1] of direction 2π · `direction` / `count` (y down); red is to the right."""
    return np.array(colorsys.hls_to_rgb(direction / count, 0.66, 0.8), np.float32)


def lbp_map(features: Array, cell_pixels: int = 20) -> npt.NDArray[np.uint8]:
    """Draw strokes along the edges of each cell, colored by the brighter side, on gray where the cell is textured.

    A uniform pattern is a run of neighbors that are brighter than their center. The middle of the run points to the
    brighter side, in one of 16 directions, so there is an edge across it. A run of four neighbors is the clearest
    evidence, a run of one or seven is weak (the weight is the sine of half the run's angle). The fractions of the
    cell's pixels are added with these weights for each of the 16 directions. The part that all directions have in
    common, as in noise, is subtracted, and each local maximum is drawn as a stroke across its direction: red if it is
    brighter to the right, green-yellow below, turquoise to the left, violet above. The gray of the cell is the fraction
    of patterns that are not uniform.

    Args:
        features: (58, h, w), any float type, variant ``vlfeat-uniform``, which are square roots of
            fractions. Non-finite values are drawn as zero.
        cell_pixels: Side of one drawn cell in pixels, at least 4.

    Returns:
        (h * cell_pixels, w * cell_pixels, 3) uint8 RGB.

    Raises:
        ValueError: Another shape, or cells too small to draw in.
    """
    values = np.asarray(features, dtype=np.float32)
    if values.ndim != 3 or values.shape[0] != CHANNELS or 0 in values.shape:
        raise ValueError(f"features must have shape (58, h, w), got {values.shape}")
    if cell_pixels < 4:
        raise ValueError(f"cell_pixels must be at least 4, got {cell_pixels}")
    _, height, width = values.shape
    fraction = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).reshape(CHANNELS, -1) ** 2
    strokes = edge_strengths(fraction)
    shade = _BACKGROUND * np.clip(fraction[_NOISE] / max(float(np.percentile(fraction[_NOISE], 98)), 1e-6), 0, 1)
    drawn = np.broadcast_to(shade[:, None, None, None], (shade.size, cell_pixels, cell_pixels, 3)).copy()
    for direction, stencil in enumerate(_stencils(cell_pixels)):
        covered = strokes[direction][:, None, None] * stencil
        np.maximum(drawn, covered[..., None] * direction_color(direction, NUM_DIRECTIONS), out=drawn)
    rows = drawn.reshape(height, width, cell_pixels, cell_pixels, 3).transpose(0, 2, 1, 3, 4)
    return np.rint(rows.reshape(height * cell_pixels, width * cell_pixels, 3) * 255).astype(np.uint8)


def edge_strengths(fraction: Array) -> npt.NDArray[np.float32]:
    """Return strengths (16, cells) in [0, 1] of edges brighter towards k · 22.5°, from fractions (58, cells)."""
    weights = _directions() @ fraction
    weights = np.maximum(weights - np.sort(weights, axis=0)[NUM_DIRECTIONS // 2 - 2], 0)
    peak = (weights >= np.roll(weights, 1, axis=0)) & (weights > np.roll(weights, -1, axis=0))
    weights = np.where(peak, weights, 0)
    scale = max(float(np.percentile(weights.max(axis=0), 95)), _FAINTEST)
    strengths: npt.NDArray[np.float32] = np.clip(weights / scale, 0, 1)
    return strengths


@functools.cache
def _directions() -> npt.NDArray[np.float32]:
    """Return the weights (16, 58) of patterns for directions: a run of j from bit i points to (2i + j - 1) · 22.5°."""
    table = np.zeros((NUM_DIRECTIONS, CHANNELS), np.float32)
    for start in range(8):
        for run in range(1, 8):
            table[(2 * start + run - 1) % NUM_DIRECTIONS, start * 7 + run - 1] = math.sin(math.pi * run / 8)
    # Runs of odd length point between the directions of runs of even length.
    return table / table.sum(axis=1, keepdims=True)


@functools.lru_cache(maxsize=8)
def _stencils(cell_pixels: int) -> npt.NDArray[np.float32]:
    """Return (16, cell_pixels, cell_pixels) fractions of the pixels covered by the stroke across each direction."""
    side = cell_pixels * _SUPERSAMPLING
    centers = (np.arange(side) + 0.5) / _SUPERSAMPLING - cell_pixels / 2
    y, x = np.meshgrid(centers, centers, indexing="ij")
    half_width = max(0.5, cell_pixels * 0.075)
    strokes = []
    for direction in range(NUM_DIRECTIONS):
        angle = direction * 2 * math.pi / NUM_DIRECTIONS
        across = x * math.cos(angle) + y * math.sin(angle)
        along = y * math.cos(angle) - x * math.sin(angle)
        inside = (np.abs(along) <= cell_pixels * 0.46) & (np.abs(across) <= half_width)
        blocks = inside.reshape(cell_pixels, _SUPERSAMPLING, cell_pixels, _SUPERSAMPLING)
        strokes.append(blocks.mean(axis=(1, 3)))
    result = np.stack(strokes).astype(np.float32)
    result.setflags(write=False)
    return result
