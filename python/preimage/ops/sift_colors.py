"""Sample the colors of images at keypoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.keypoints import COLORS, Keypoints


def sample_colors(images: npt.NDArray[Any], keypoints: Keypoints) -> npt.NDArray[np.float32]:
    """Return the colors of checked images at the keypoints, interpolated bilinearly between the four nearest pixels.

    This is what COLMAP averages over the observations of a 3D point. Pixels outside the image are those at its edge.

    Args:
        images: (B, C, H, W), C 1 or 3 (RGB), uint8 (divided by 255) or floating, clipped to [0, 1].
        keypoints: Keypoints of the B images, in arrays.

    Returns:
        (N, 3) float32 in [0, 1]; NaN next to pixels that are NaN.
    """
    height, width = images.shape[2:]
    if not len(keypoints.x):
        return np.zeros((0, COLORS), np.float32)
    image = np.repeat(np.arange(len(images)), np.diff(keypoints.offsets))
    x, y = (np.clip(at, 0, side - 1) for at, side in ((keypoints.x, width), (keypoints.y, height)))
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left)[:, None], (y - top)[:, None]

    def pixels(row: npt.NDArray[np.int64], column: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        found = images[image, :, row, column]  # [N, C]
        values = found.astype(np.float32)
        return np.clip(values / np.float32(255) if found.dtype == np.uint8 else values, 0, 1)

    upper = pixels(top, left) * (1 - across) + pixels(top, right) * across
    lower = pixels(bottom, left) * (1 - across) + pixels(bottom, right) * across
    colors = np.clip(upper * (1 - down) + lower * down, 0, 1)  # rounding may exceed 1
    return np.ascontiguousarray(np.broadcast_to(colors, (len(colors), COLORS)), np.float32)
