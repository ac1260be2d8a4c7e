"""Arrays as pictures: RGB, 8 bits a channel."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Picture = npt.NDArray[np.uint8]


def as_picture(image: Array) -> Picture:
    """Any picture as (H, W, 3) uint8 RGB.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3); uint8, or float in [0, 1] (clipped; non-finite values become 0).
    """
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(f"a picture has shape (H, W) or (H, W, 3), got {np.shape(image)}")
    if np.issubdtype(pixels.dtype, np.floating):
        finite = np.nan_to_num(pixels.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)
        pixels = np.rint(finite.clip(0, 1) * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"a picture is uint8 or float, got {pixels.dtype}")
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def fit_into(picture: Picture, tile: int) -> Picture:
    """Scale a picture so that its longer side is `tile` pixels."""
    height, width = picture.shape[:2]
    factor = tile / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if size == (width, height):
        return picture
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=method), np.uint8)
