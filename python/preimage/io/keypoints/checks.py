"""Units and places of keypoints: what cannot be right is refused, what may be wrong is remarked on.

A file does not tell its units. Exchanged sides, degrees in the place of radians, or shares of the image's sides in the
place of pixels give a picture all the same, and a wrong one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.io.feature_file import Size
from preimage.keypoints import Keypoints

_CORNER = 1.5  # pixels: where coordinates in [-1, 1] lie, with any origin's half pixel
_FEW = 3  # distinct positions, from which on it is no chance that all lie there
_MANY = 16  # angles, likewise
_ENOUGH = 50  # keypoints, for statistics
_SMALLEST_MEDIAN = 0.25  # pixels; SIFT's scales begin at 0.9, or half that in an image enlarged fourfold
_FIRST = 0.9  # σ of OpenCV's, COLMAP's and VLFeat's smallest keypoints in an image enlarged twofold, pixels
_REACH = 0.6  # of the image's sides; keypoints of photographs reach further in one direction at least

# The median of the sums of SIFT descriptors of length 1. In 15 pictures with OpenCV's SIFT and in COLMAP's golden
# databases: 5.7 to 7.5 for plain ones (4.9 for one with 7 keypoints), 7.6 to 9.5 for RootSIFT, 3.9 to 5.4 for squares.
_ROOT_SUM = 7.8
_SQUARE_SUM = 5.4


def check_units(frames: NDArray[np.float64], *, degrees: bool) -> None:
    """``ValueError`` if positions, scales or angles are in other units than pixels and radians, or degrees.

    Args:
        frames: (4, N), finite: x, y, scale and angle.
        degrees: whether the format has degrees.
    """
    places, scale, angle = frames[:2], frames[2], frames[3]
    if not len(scale):
        return
    if np.abs(places).max() <= _CORNER and len(np.unique(places, axis=1).T) >= _FEW:
        raise ValueError(
            f"all {len(scale)} positions lie between {places.min():.3g} and {places.max():.3g}: they are pixels, not "
            "shares of the image's sides"
        )
    if np.median(scale) < _SMALLEST_MEDIAN:
        raise ValueError(f"scales around {np.median(scale):.3g}: they are σ in pixels, which SIFT finds from 0.5 on")
    most = float(np.abs(angle).max())
    turn = 360.0 if degrees else 2 * np.pi
    unit, other = ("degrees", "radians") if degrees else ("radians", "degrees")
    if most > 2 * turn:
        raise ValueError(f"an angle of {most:g} {unit}" + ("" if degrees or most > 720 else f"; is it in {other}?"))
    if degrees and len(angle) >= _MANY and most < 6.3 and np.ptp(angle) > np.pi:
        raise ValueError(f"angles between {angle.min():.3g} and {angle.max():.3g} {unit}; are they in {other}?")


def check_descriptors(descriptors: NDArray[Any]) -> None:
    """``ValueError`` if any descriptor holds what SIFT's do not, or all of them hold nothing."""
    low, high = (descriptors.min(), descriptors.max()) if descriptors.size else (0, 1)
    if not np.isfinite([float(low), float(high)]).all():
        raise ValueError("a descriptor holds a number that is not finite")
    if low < 0:
        raise ValueError(
            f"descriptors hold numbers from {low:.3g} to {high:.3g}; SIFT's are not negative (other features, or "
            "projected ones?)"
        )
    if high == 0:
        raise ValueError(f"all {len(descriptors)} descriptors are zero")


def examine(keypoints: Keypoints, size: Size) -> dict[str, str]:
    """Return what looks wrong with the keypoints of an image but may be right: sentences under a word for their kind.

    Args:
        keypoints: of one image, normalization undone.
        size: (height, width) of the image, pixels.

    Raises:
        ValueError: more than a few keypoints lie outside of the image, or have scales that no keypoint in it can have,
            so that the size, or the unit, is wrong.
    """
    if not len(keypoints.x):
        return {}
    arrays = keypoints.to_numpy()
    return _places(arrays, size) | _scales(arrays, size) | _descriptors(arrays)


def _places(keypoints: Keypoints, size: Size) -> dict[str, str]:
    height, width = size
    shown = f"the image of {width}×{height} (width × height)"
    x, y = keypoints.x.astype(np.float64) + 0.5, keypoints.y.astype(np.float64) + 0.5
    count, outside, few = len(x), _outside(x, y, size), _few(len(x))
    if outside > few or outside == count:
        problem = f"{outside} of {count} keypoints lie outside of {shown}"
        if height != width and _outside(x, y, (width, height)) <= min(few, outside // 2):
            raise ValueError(f"{problem}; width and height exchanged?")
        reach = f"they reach from ({x.min():.0f}, {y.min():.0f}) to ({x.max():.0f}, {y.max():.0f})"
        raise ValueError(f"{problem}: {reach}. Is it the size of the image that they were found in, are they pixels?")
    if outside:
        return {"outside": f"{outside} of {count} keypoints lie outside of {shown} and are left out"}
    if count >= _ENOUGH and x.max() < _REACH * width and y.max() < _REACH * height:
        reach = f"({x.max():.0f}, {y.max():.0f})"
        return {"reach": f"the keypoints reach to {reach} only in {shown}: were they found at another resolution?"}
    return {}


def _few(count: int) -> int:
    """Return how many of `count` keypoints may be wrong without the unit, or the size, being wrong."""
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
    sums_up = f"their entries sum to {typical:.1f}; those of plain SIFT to 5.7 to 7.5"
    if typical > _ROOT_SUM:
        found["root"] = (
            f"the descriptors look like RootSIFT ({sums_up}): name their normalization (--normalization l1_root, or "
            "l1_root_twice)"
        )
    else:
        found["square"] = (
            f"the descriptors look like plain SIFT taken for RootSIFT ({sums_up}): name their normalization "
            "(--normalization l2)"
        )
    return found


def _scales(keypoints: Keypoints, size: Size) -> dict[str, str]:
    scale, (height, width) = keypoints.scale, size
    huge = int(np.count_nonzero(scale > max(size) / 2))
    if huge > _few(len(scale)) or huge == len(scale):
        raise ValueError(
            f"{huge} of {len(scale)} scales are larger than half of the image of {width}×{height} (width × height), up "
            f"to {scale.max():.4g}: they are σ in pixels"
        )
    if len(scale) < _ENOUGH or np.median(scale) >= _FIRST:
        return {}
    return {
        "scale": f"half of the scales are below {np.median(scale):.2f} pixels, less than SIFT finds: a scale is σ, and "
        "OpenCV's size is the diameter, 2σ"
    }
