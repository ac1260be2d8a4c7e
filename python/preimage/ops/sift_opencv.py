"""Compute SIFT keypoints with OpenCV, in the convention of `preimage.Keypoints`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from preimage.keypoints import DESCRIPTOR, Keypoints
from preimage.opencv import quiet_opencv

_cv2: Any = cv2  # the stubs lack SIFT_create

# OpenCV detects keypoints in the image enlarged twofold. The center of its pixel u is at (u + 0.5) / 2 - 0.5 in the
# original image, but OpenCV returns u / 2.
POSITION_SHIFT = 0.25

# OpenCV's channel for each of our channels: the order of orientations is reversed.
_CHANNELS = np.arange(DESCRIPTOR) // 8 * 8 + -np.arange(DESCRIPTOR) % 8


def opencv_sift(images: npt.NDArray[Any], threads: int) -> Keypoints:
    """Compute the keypoints of `cv2.SIFT_create()`.

    Args:
        images: (B, C, H, W), C 1 or 3, uint8, or float32 in [0, 1].
        threads: Number of threads, each of which processes whole images.
    """
    workers = min(threads, len(images))
    if workers <= 1:
        return Keypoints.cat([_of_image(image) for image in images])
    with ThreadPoolExecutor(workers) as pool:
        return Keypoints.cat(list(pool.map(_of_image, images)))


def _of_image(image: npt.NDArray[Any]) -> Keypoints:
    """Compute the keypoints of an image (C, H, W)."""
    with quiet_opencv:
        found, described = _cv2.SIFT_create().detectAndCompute(_gray(image), None)
    fields = [(k.pt[0], k.pt[1], k.size, k.angle, k.response, k.octave) for k in found]
    x, y, size, angle, response, octave = np.array(fields, dtype=np.float64).reshape(-1, 6).T
    descriptors = np.zeros((0, DESCRIPTOR), np.float32) if described is None else described[:, _CHANNELS]
    lengths = np.linalg.norm(descriptors, axis=1, keepdims=True)
    descriptors = descriptors / np.where(lengths > 0, lengths, 1)
    radians = np.deg2rad(angle).astype(np.float32)
    radians[radians >= np.float32(2 * np.pi)] = 0
    # Sort by octave, level, row and column, as VLFeat does. OpenCV packs the octave (signed) into the lowest byte and
    # the level into the next.
    packed = octave.astype(np.int64)
    order = np.lexsort((angle, x, y, packed >> 8 & 255, (packed + 128) % 256))
    floats = {
        "x": x - POSITION_SHIFT,
        "y": y - POSITION_SHIFT,
        "scale": size / 2,
        "angle": radians,
        "response": response,
        "descriptors": descriptors,
    }
    ordered = {name: value[order].astype(np.float32) for name, value in floats.items()}
    return Keypoints(**ordered, offsets=np.array([0, len(found)], np.int64))


def _gray(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return the luma (H, W) of an image (C, H, W), uint8 or float32 in [0, 1], rounded to uint8; NaN becomes 0."""
    if image.dtype == np.uint8 and len(image) == 1:
        return np.ascontiguousarray(image[0])
    unit = image.astype(np.float32) / np.float32(255 if image.dtype == np.uint8 else 1)
    if len(unit) == 3:
        gray = np.float32(0.299) * unit[0] + np.float32(0.587) * unit[1] + np.float32(0.114) * unit[2]
    else:
        gray = unit[0]
    return np.rint(np.clip(np.nan_to_num(gray), 0, 1) * np.float32(255)).astype(np.uint8)
