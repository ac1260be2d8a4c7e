"""OpenCV's SIFT in our convention."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from preimage.keypoints import DESCRIPTOR, Keypoints

_cv2: Any = cv2  # its stubs do not know SIFT_create

# OpenCV finds keypoints in the image enlarged twofold, whose pixel u is centered on (u + 0.5) / 2 - 0.5, and takes that
# for u / 2.
POSITION_SHIFT = 0.25

# Where our descriptors' channels are in OpenCV's, whose orientations run from columns away from rows.
_CHANNELS = np.arange(DESCRIPTOR) // 8 * 8 + -np.arange(DESCRIPTOR) % 8


def opencv_sift(images: npt.NDArray[Any], threads: int) -> Keypoints:
    """(B, C, H, W), C 1 or 3, uint8 or float32 in [0, 1] -> keypoints as `cv2.SIFT_create()` finds them.

    Images are shared out among threads, which does not change the numbers.
    """
    workers = min(threads, len(images))
    if workers <= 1:
        return Keypoints.cat([_of_image(image) for image in images])
    with ThreadPoolExecutor(workers) as pool:
        return Keypoints.cat(list(pool.map(_of_image, images)))


def _of_image(image: npt.NDArray[Any]) -> Keypoints:
    """(C, H, W) -> a batch of one."""
    found, described = _cv2.SIFT_create().detectAndCompute(_gray(image), None)
    fields = [(k.pt[0], k.pt[1], k.size, k.angle, k.response, k.octave) for k in found]
    x, y, size, angle, response, octave = np.array(fields, dtype=np.float64).reshape(-1, 6).T
    descriptors = np.zeros((0, DESCRIPTOR), np.float32) if described is None else described[:, _CHANNELS]
    lengths = np.linalg.norm(descriptors, axis=1, keepdims=True)
    descriptors = descriptors / np.where(lengths > 0, lengths, 1)
    radians = np.deg2rad(angle).astype(np.float32)
    radians[radians >= np.float32(2 * np.pi)] = 0
    # By octave and level, then down and across, as VLFeat yields them. OpenCV packs the octave (signed) into the
    # lowest byte and the level into the next.
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
    """(C, H, W), uint8 or float32 in [0, 1] -> the luma (H, W), rounded to uint8; 0 for what is not a number."""
    if image.dtype == np.uint8 and len(image) == 1:
        return np.ascontiguousarray(image[0])
    unit = image.astype(np.float32) / np.float32(255 if image.dtype == np.uint8 else 1)
    if len(unit) == 3:
        gray = np.float32(0.299) * unit[0] + np.float32(0.587) * unit[1] + np.float32(0.114) * unit[2]
    else:
        gray = unit[0]
    return np.rint(np.clip(np.nan_to_num(gray), 0, 1) * np.float32(255)).astype(np.uint8)
