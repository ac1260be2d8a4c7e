"""Draw dense SIFT: a grid of descriptors, each of 4×4 stars with eight arms."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from preimage.opencv import quiet_opencv
from preimage.viz.glyphs.lbp import direction_color

Array = npt.NDArray[Any]

CHANNELS, _BINS, _DIRECTIONS = 128, 4, 8
_SUPERSAMPLING = 4
_FRACTION_BITS = 4  # fractional bits of OpenCV's coordinates
_PAPER, _LINE = 14, 52
_SHADES = 4
_LEAST = 0.2  # arms shorter than this fraction of the longest are omitted, so that the main directions stand out


@quiet_opencv
def sift_glyphs(features: Array, tile: int = 320, *, glyph_pixels: int = 24) -> npt.NDArray[np.uint8]:
    """Draw every k-th descriptor in both directions, so that each is legible.

    A descriptor is drawn as a square of 4×4 stars, one for each bin. A star has eight arms, one for each direction of
    the gradient (towards the brighter side), whose length and brightness are the value of the bin; the smallest are
    omitted. Colors are those of `lbp_map`: red to the right, green-yellow down, turquoise to the left, violet up. The
    squares do not overlap, although the descriptors overlap on the image.

    Args:
        features: (128, h, w), any float type, channel t + 8·binx + 32·biny. Non-finite values are drawn as zero.
        tile: Longer side of the drawing in pixels, approximately.
        glyph_pixels: Minimum side of a descriptor's square in pixels, at least 12; descriptors are skipped to reach it.

    Returns:
        Image (H, W, 3) uint8 RGB, whose longer side is about `tile` pixels, or more if a single descriptor needs
        more.

    Raises:
        ValueError: Another shape, or squares too small to draw in.
    """
    values = np.asarray(features, dtype=np.float32)
    if values.ndim != 3 or values.shape[0] != CHANNELS or 0 in values.shape:
        raise ValueError(f"features must have shape (128, h, w), got {values.shape}")
    if glyph_pixels < 12 or tile < 1:
        raise ValueError(f"glyph_pixels must be at least 12 and tile positive, got {glyph_pixels} and {tile}")
    _, height, width = values.shape
    every = max(1, math.ceil(glyph_pixels * max(height, width) / tile))
    rows, columns = (np.arange((side - 1) % every // 2, side, every) for side in (height, width))
    chosen = np.nan_to_num(values[:, rows][:, :, columns], nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    side = max(glyph_pixels, tile // max(len(rows), len(columns)))
    canvas = _squares(len(rows), len(columns), side * _SUPERSAMPLING)
    _draw_stars(canvas, chosen.reshape(_BINS, _BINS, _DIRECTIONS, len(rows), len(columns)), side * _SUPERSAMPLING)
    size = len(columns) * side, len(rows) * side
    return np.asarray(cv2.resize(canvas, size, interpolation=cv2.INTER_AREA), np.uint8)


def _squares(rows: int, columns: int, side: int) -> npt.NDArray[np.uint8]:
    """Return a dark canvas with thin lines between the descriptors."""
    canvas = np.full((rows * side, columns * side, 3), _PAPER, np.uint8)
    for row in range(1, rows):
        canvas[row * side - 2 : row * side + 2] = _LINE
    for column in range(1, columns):
        canvas[:, column * side - 2 : column * side + 2] = _LINE
    return canvas


@quiet_opencv
def _draw_stars(canvas: npt.NDArray[np.uint8], values: Array, side: int) -> None:
    """Draw arms whose length and brightness are the values (biny, binx, t, rows, columns)."""
    _, _, _, rows, columns = values.shape
    bin_side = 0.92 * side / _BINS
    biny, binx, row, column = np.meshgrid(*map(np.arange, (_BINS, _BINS, rows, columns)), indexing="ij")
    center_y, center_x = (
        at * side + (side - bin_side * (_BINS - 1)) / 2 + bins * bin_side for at, bins in ((row, biny), (column, binx))
    )
    scale = max(float(np.percentile(values.max(axis=2), 98)), 1e-6)
    thickness = max(1, round(bin_side * 0.15))
    starts = np.stack([center_x, center_y], axis=-1)
    for direction in range(_DIRECTIONS):
        angle = direction * 2 * math.pi / _DIRECTIONS
        strength = np.minimum(values[:, :, direction] / scale, 1)
        ends = starts + (strength * bin_side * 0.7)[..., None] * np.array([math.cos(angle), math.sin(angle)])
        arms = np.rint(np.stack([starts, ends], axis=-2) * (1 << _FRACTION_BITS)).astype(np.int32)
        shades = np.ceil((strength - _LEAST) / (1 - _LEAST) * _SHADES)
        for shade in range(1, _SHADES + 1):
            chosen = arms[shades == shade]
            if not len(chosen):
                continue
            light = 0.3 + 0.7 * shade / _SHADES
            color = (direction_color(direction, _DIRECTIONS) * 255 * light).tolist()
            cv2.polylines(canvas, list(chosen), False, color, thickness, cv2.LINE_AA, _FRACTION_BITS)
