"""Read image files of scikit-image for descriptors."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import skimage.data

NAMES = [
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png"),
    *("coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "microaneurysms.png", "moon.png"),
    *("motorcycle_left.png", "motorcycle_right.png", "page.png", "retina.jpg", "rocket.jpg", "text.png"),
]


def rgb(name: str, largest: int = 700) -> np.ndarray:
    """Read (H, W, 3) uint8: the upper left part, at most `largest` pixels a side."""
    image = cv2.imread(str(Path(skimage.data_dir) / name), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(image[:largest, :largest, ::-1])


def gray(name: str, largest: int = 500) -> np.ndarray:
    """Read (H, W) float32 in [0, 1]: the upper left part, at most `largest` pixels a side."""
    image = cv2.imread(str(Path(skimage.data_dir) / name), cv2.IMREAD_GRAYSCALE)[:largest, :largest]
    return np.ascontiguousarray(image.astype(np.float32) / np.float32(255))


def planes(image: np.ndarray) -> np.ndarray:
    """Convert (H, W, 3) uint8 to (3, H, W) float32 in [0, 1]."""
    return np.ascontiguousarray(image.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
