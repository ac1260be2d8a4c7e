"""Draw sparse SIFT keypoints: circles with radii in proportion to the scale, and hands in their directions."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from preimage.keypoints import COLORS, GRID_CHANNELS, Keypoints
from preimage.opencv import quiet_opencv
from preimage.viz.glyphs.lbp import direction_color
from preimage.viz.sheets import as_rgb

Array = npt.NDArray[Any]
RgbImage = npt.NDArray[np.uint8]

_RADIUS = 1.5  # radius of a circle in scales; descriptors extend to six, but such circles would overlap too much
_SMALLEST = 3.2  # minimum radius in pixels of the drawing, so that the hand is visible
_SUPERSAMPLING = 4
_FRACTION_BITS = 4  # fractional bits of OpenCV's coordinates
_PAPER = 14
_COLORS = 72  # number of colors around the circle
_ROOM = 150  # pixels of the drawing for each keypoint; more keypoints would overlap
_DIMMED = 0.6  # brightness of the image in the background


@quiet_opencv
def sift_keypoints(
    x: Array,
    y: Array,
    scale: Array,
    angle: Array,
    image_size: tuple[int, int],
    *,
    image: Array | None = None,
    tile: int = 320,
    most: int | None = None,
) -> RgbImage:
    """Draw keypoints over the image, in gray and darkened, or over a dark background.

    A keypoint is drawn as a circle with a radius of one and a half scales, and a hand from its center along its angle,
    the direction of its strongest gradient. The color is that of the direction in `lbp_map`: red to the right,
    green-yellow down, turquoise to the left, violet up. Large circles are drawn first, so that small ones stay visible.
    If there are more than `most` keypoints, those with the largest scales are drawn. Keypoints that are not finite,
    whose scale is not above 0, or that are outside the image are omitted.

    Args:
        x: (N,) pixels to the right of the center of the upper left pixel, any real type.
        y: (N,) pixels below it.
        scale: (N,) σ in pixels.
        angle: (N,) radians, from +x towards +y (down).
        image_size: (H, W) in pixels, of the image they were found in.
        image: The image, (H, W, 3) or (H, W), uint8 or float in [0, 1].
        tile: Longer side of the drawing in pixels.
        most: Maximum number of keypoints; by default one for every 150 pixels of the drawing.

    Returns:
        Image (H, W, 3) uint8 RGB, whose longer side is `tile` pixels.

    Raises:
        ValueError: Arrays of different lengths, an image of another size, or an `image_size` or `tile` below 1.
    """
    table = np.stack([np.asarray(values, np.float64).reshape(-1) for values in (x, y, scale, angle)])
    height, width = image_size
    if min(height, width, tile) < 1:
        raise ValueError(f"image_size and tile must be at least 1 pixel, got {height} × {width} and {tile}")
    if image is not None and np.shape(image)[:2] != (height, width):
        raise ValueError(f"the image has {height} × {width} pixels, got shape {np.shape(image)}")
    factor = tile / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    right, down = table[:2] + 0.5
    inside = (right >= 0) & (right <= width) & (down >= 0) & (down <= height)
    table = table[:, inside & np.isfinite(table).all(axis=0) & (table[2] > 0)]
    limit = size[0] * size[1] // _ROOM if most is None else most
    largest = np.argsort(-table[2], kind="stable")[:limit]
    canvas = _background(image, (size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING))
    _draw(canvas, table[:, largest], factor * _SUPERSAMPLING)
    return np.asarray(cv2.resize(canvas, size, interpolation=cv2.INTER_AREA), np.uint8)


def keypoint_grid(features: Array, cell_size: int, *, image: Array | None = None, tile: int = 320) -> RgbImage:
    """Draw the keypoints of a grid of cells, at most one for each cell, as `sift_keypoints` does.

    Args:
        features: (133, h, w) of `preimage.sift_grid`, or (136, h, w) with colors, any float type. Cells that are not
            finite are omitted.
        cell_size: Side of a cell in pixels.
        image: Image that the keypoints were found in; ``None`` for a dark background of the size of the cells.
        tile: Longer side of the drawing in pixels.

    Raises:
        ValueError: Another shape, or an image that the cells do not cover exactly.
    """
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 3 or values.shape[0] not in (GRID_CHANNELS, GRID_CHANNELS + COLORS) or 0 in values.shape:
        raise ValueError(f"features must have shape (133, h, w), or (136, h, w) with colors, got {values.shape}")
    _, rows, columns = values.shape
    size = (rows * cell_size, columns * cell_size) if image is None else (image.shape[0], image.shape[1])
    if tuple(-(-side // cell_size) for side in size) != (rows, columns):
        raise ValueError(
            f"{rows} × {columns} cells of {cell_size} pixels do not cover exactly {size[0]} × {size[1]} pixels"
        )
    found = Keypoints.from_grid(values[None], cell_size)
    scale = np.minimum(found.scale, max(size))
    return sift_keypoints(found.x, found.y, scale, found.angle, size, image=image, tile=tile)


@quiet_opencv
def _background(image: Array | None, size: tuple[int, int]) -> RgbImage:
    """Return the image in gray and darkened, or a dark background, of (W, H) pixels."""
    if image is None:
        return np.full((size[1], size[0], 3), _PAPER, np.uint8)
    gray = cv2.cvtColor(as_rgb(image), cv2.COLOR_RGB2GRAY).astype(np.float32)
    large = cv2.resize(gray * _DIMMED + _PAPER, size, interpolation=cv2.INTER_LINEAR)
    return np.repeat(np.rint(large).astype(np.uint8)[:, :, None], 3, axis=2)


@quiet_opencv
def _draw(canvas: RgbImage, keypoints: Array, factor: float) -> None:
    """Draw circles with hands for keypoints (4, N), in order and enlarged by `factor`."""
    one = 1 << _FRACTION_BITS
    line, halo = round(1.0 * _SUPERSAMPLING), round(2.4 * _SUPERSAMPLING)
    for x, y, scale, angle in keypoints.T:
        radius = min(max(_RADIUS * scale * factor, _SMALLEST * _SUPERSAMPLING), 2.0 * max(canvas.shape))
        center = (x + 0.5) * factor - 0.5, (y + 0.5) * factor - 0.5
        tip = center[0] + radius * math.cos(angle), center[1] + radius * math.sin(angle)
        middle, end = (tuple(round(value * one) for value in point) for point in (center, tip))
        color = (direction_color(round(angle / (2 * math.pi) * _COLORS) % _COLORS, _COLORS) * 255).tolist()
        for ink, thickness in (((_PAPER,) * 3, halo), (color, line)):
            cv2.circle(canvas, middle, round(radius * one), ink, thickness, cv2.LINE_AA, _FRACTION_BITS)
            cv2.line(canvas, middle, end, ink, thickness, cv2.LINE_AA, _FRACTION_BITS)
