"""Draw HOG features like VLFeat's ``vl_hog_render``, on the scale of cyvlfeat."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

GLYPH = 21  # pixels of the side of a glyph


def glyph_image(features: Array, orientations: int, variant: str) -> npt.NDArray[np.uint8]:
    """Draw one bar per orientation for each cell of (D, h, w) features, perpendicular to the gradient.

    Returns:
        (21 h, 21 w) uint8, scaled from the smallest to the largest value.
    """
    parts = 3 if variant == "UoCTTI" else 4
    weights = features[: parts * orientations].reshape(parts, orientations, *features.shape[1:]).sum(axis=0)
    drawn = np.einsum("ohw,oij->hiwj", weights, _bars(orientations))
    # Where bars cross, their sum is at most the largest weight of the cell.
    most = np.maximum(weights.max(axis=0), 0)[:, None, :, None]
    least = np.minimum(weights.min(axis=0), 0)[:, None, :, None]
    light = np.clip(drawn, least, most).reshape(GLYPH * features.shape[1], GLYPH * features.shape[2])
    scale = 255 / (light.max() - light.min() + np.finfo(np.float32).eps)
    shades: npt.NDArray[np.uint8] = (scale * (light - light.min())).astype(np.uint8)
    return shades


def _bars(orientations: int) -> Array:  # [orientations, 21, 21]
    """Draw the bar of each orientation with ones, from one end of the glyph to the other."""
    bars = np.zeros((orientations, GLYPH, GLYPH), np.float32)
    for orientation, bar in enumerate(bars):
        angle = math.fmod(orientation * math.pi / orientations + math.pi / 2, math.pi)
        x, y = GLYPH * math.cos(angle) / 2, GLYPH * math.sin(angle) / 2
        flat = angle <= math.pi / 4 or angle >= 3 * math.pi / 4
        slope = y / x if flat else x / y
        skip = int((1 - (abs(math.cos(angle)) if flat else math.sin(angle))) / 2 * GLYPH)
        along = np.arange(skip, GLYPH - skip)
        across = np.floor(slope * along + (1 - slope) * (GLYPH - 1) / 2 + 0.5).astype(int)
        if flat:
            bar[across, along] = 1
        else:
            bar[along, across] = 1
    return bars
