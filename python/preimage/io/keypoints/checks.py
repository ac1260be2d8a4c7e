"""Check that units and positions of keypoints are plausible.

Files do not state their units, and keypoints with width and height exchanged, degrees instead of radians, or positions
relative to the image size would silently give a wrong image. Impossible values are errors, suspicious ones give notes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.io.feature_file import Size
from preimage.keypoints import Keypoints

_CORNER = 1.5  # pixels; relative positions in [-1, 1] are below it, wherever the origin is in the pixel
_FEW = 3  # distinct positions; that many below _CORNER are no coincidence
_MANY = 16  # angles; that many in the range of the other unit are no coincidence
_ENOUGH = 50  # keypoints, for statistics
_SMALLEST_MEDIAN = 0.25  # pixels; SIFT's scales begin at 0.9, or half of that in an image enlarged fourfold
_FIRST = 0.9  # σ of the smallest keypoints of OpenCV, COLMAP and VLFeat in an image enlarged twofold, pixels
_REACH = 0.6  # fraction of the image's sides that keypoints of photographs exceed in at least one direction

# Median of the sums of SIFT descriptors of unit norm. Measured with OpenCV's SIFT in 15 images and in the COLMAP
# databases of the tests: 5.7 to 7.5 for plain SIFT (4.9 for an image with 7 keypoints), 7.6 to 9.5 for RootSIFT, 3.9 to
# 5.4 for squared plain SIFT.
_ROOT_SUM = 7.8
_SQUARE_SUM = 5.4


def check_units(frames: NDArray[np.float64], *, degrees: bool) -> None:
    """Check the units of positions, scales and angles.

    Args:
        frames: (4, N), x, y, scale and angle; finite.
        degrees: Whether angles are expected in degrees instead of radians.

    Raises:
        ValueError: Positions or scales are not in pixels, or angles not in the expected unit.
    """
    positions, scale, angle = frames[:2], frames[2], frames[3]
    if not len(scale):
        return
    if np.abs(positions).max() <= _CORNER and len(np.unique(positions, axis=1).T) >= _FEW:
        raise ValueError(
            f"positions must be in pixels, not fractions of the image size, got {len(scale)} positions between "
            f"{positions.min():.3g} and {positions.max():.3g}"
        )
    if np.median(scale) < _SMALLEST_MEDIAN:
        raise ValueError(
            f"scales must be σ in pixels, for SIFT at least about 0.5, got a median of {np.median(scale):.3g}"
        )
    largest = float(np.abs(angle).max())
    turn = 360.0 if degrees else 2 * np.pi
    unit, other = ("degrees", "radians") if degrees else ("radians", "degrees")
    if largest > 2 * turn:
        hint = "" if degrees or largest > 720 else f"; are they in {other}?"
        raise ValueError(f"angles must be in {unit}, got {largest:g}{hint}")
    if degrees and len(angle) >= _MANY and largest < 6.3 and np.ptp(angle) > np.pi:
        raise ValueError(f"angles must be in {unit}, got {angle.min():.3g} to {angle.max():.3g}; are they in {other}?")


def check_descriptors(descriptors: NDArray[Any]) -> None:
    """Raise ``ValueError`` if descriptors contain negative or non-finite values, or all are zero."""
    low, high = (descriptors.min(), descriptors.max()) if descriptors.size else (0, 1)
    if not np.isfinite([float(low), float(high)]).all():
        raise ValueError(f"descriptors must be finite, got values from {low} to {high}")
    if low < 0:
        raise ValueError(
            f"SIFT descriptors must not be negative, got values from {low:.3g} to {high:.3g} (other features, or "
            "projected ones?)"
        )
    if high == 0:
        raise ValueError(f"all {len(descriptors)} descriptors are zero")


def examine(keypoints: Keypoints, size: Size) -> dict[str, str]:
    """Return notes on suspicious keypoints of an image, as sentences by topic.

    Args:
        keypoints: Keypoints of one image, after undoing the normalization.
        size: (height, width) of the image in pixels.

    Raises:
        ValueError: More than a few keypoints are outside the image or have impossible scales, so size or unit is wrong.
    """
    if not len(keypoints.x):
        return {}
    arrays = keypoints.to_numpy()
    return _positions(arrays, size) | _scales(arrays, size) | _descriptors(arrays)


def _positions(keypoints: Keypoints, size: Size) -> dict[str, str]:
    height, width = size
    shown = f"the image of {width}×{height} (width × height)"
    x, y = keypoints.x.astype(np.float64) + 0.5, keypoints.y.astype(np.float64) + 0.5
    count, outside, few = len(x), _outside(x, y, size), _few(len(x))
    if outside > few or outside == count:
        problem = f"{outside} of {count} keypoints are outside {shown}"
        if height != width and _outside(x, y, (width, height)) <= min(few, outside // 2):
            raise ValueError(f"{problem}; width and height exchanged?")
        extent = f"positions are between ({x.min():.0f}, {y.min():.0f}) and ({x.max():.0f}, {y.max():.0f})"
        raise ValueError(f"{problem}: {extent}. Is the image size that of the detection, and the unit pixels?")
    if outside:
        return {"outside": f"{outside} of {count} keypoints are outside {shown} and left out"}
    if count >= _ENOUGH and x.max() < _REACH * width and y.max() < _REACH * height:
        extent = f"({x.max():.0f}, {y.max():.0f})"
        return {"reach": f"keypoints extend only to {extent} in {shown}: were they detected at another resolution?"}
    return {}


def _few(count: int) -> int:
    """Return how many of `count` keypoints may be invalid before unit or size are considered wrong."""
    return 2 + count // 50


def _outside(x: NDArray[np.float64], y: NDArray[np.float64], size: Size) -> int:
    return int(np.count_nonzero((x < 0) | (x >= size[1]) | (y < 0) | (y >= size[0])))


def _descriptors(keypoints: Keypoints) -> dict[str, str]:
    sums = keypoints.descriptors.sum(axis=1)
    found, typical = {}, float(np.median(sums))
    if zero := int(np.count_nonzero(sums == 0)):
        found["zero"] = f"{zero} of {len(sums)} descriptors are zero"
    if len(sums) < _ENOUGH or _SQUARE_SUM <= typical <= _ROOT_SUM:
        return found
    reason = f"their entries sum to {typical:.1f}, those of plain SIFT to 5.7 to 7.5"
    if typical > _ROOT_SUM:
        found["root"] = (
            f"the descriptors look like RootSIFT ({reason}): give their normalization (--normalization l1_root, or "
            "l1_root_twice)"
        )
    else:
        found["square"] = (
            f"the descriptors look like plain SIFT read as RootSIFT ({reason}): give their normalization "
            "(--normalization l2)"
        )
    return found


def _scales(keypoints: Keypoints, size: Size) -> dict[str, str]:
    scale, (height, width) = keypoints.scale, size
    huge = int(np.count_nonzero(scale > max(size) / 2))
    if huge > _few(len(scale)) or huge == len(scale):
        raise ValueError(
            f"scales must be σ in pixels, got {huge} of {len(scale)} larger than half of the image of {width}×{height} "
            f"(width × height), up to {scale.max():.4g}"
        )
    if len(scale) < _ENOUGH or np.median(scale) >= _FIRST:
        return {}
    return {
        "scale": f"half of the scales are below {np.median(scale):.2f} pixels, smaller than SIFT detects: a scale is "
        "σ, and OpenCV's size is the diameter 2σ"
    }
