"""Detect and describe keypoints like cyvlfeat's `sift`."""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from preimage.compat.cyvlfeat.images import gray_plane
from preimage.compat.cyvlfeat.sift.dsift import stored_descriptors
from preimage.ops.sift import GIVEN_FRAME, vlfeat_sift

Frames: TypeAlias = npt.NDArray[np.float32]

_MAGNIFICATION = 3  # VLFeat's default


def sift(
    image: npt.ArrayLike,
    n_octaves: int | None = None,
    n_levels: int = 3,
    first_octave: int = 0,
    peak_thresh: float = 0,
    edge_thresh: float = 10,
    norm_thresh: float | None = None,
    magnification: float = 3,
    window_size: float = 2,
    frames: npt.NDArray[Any] | None = None,
    force_orientations: bool = False,
    float_descriptors: bool = False,
    compute_descriptor: bool = False,
    verbose: bool = False,
) -> Frames | tuple[Frames, npt.NDArray[Any]]:
    """Detect keypoints, or take those given, and compute their descriptors.

    Args:
        image: (H, W) or (H, W, 1), used as float32, of any range.
        n_octaves: Number of octaves; by default, the shorter side of the last one has 16 to 31 pixels, if possible.
        n_levels: Number of levels per octave, 1 to 32.
        first_octave: First octave, at least -1, which enlarges the image twofold.
        peak_thresh: Smallest absolute difference of Gaussians, on the scale of the image.
        edge_thresh: Largest ratio of principal curvatures.
        norm_thresh: Norm below which descriptors are 0, on the scale of the image; 0 by default.
        magnification: Size of a spatial bin in scales, rounded towards zero; 3 if negative.
        window_size: Standard deviation of the window in bins, rounded towards zero.
        frames: (N, 4), (y, x, scale, angle) of keypoints to use instead of detecting any. As in cyvlfeat, they are
            sorted by scale, and an array that is contiguous float32 is sorted in place.
        force_orientations: Compute the angles of `frames`.
        float_descriptors: Return descriptors as float32 instead of uint8, on the same scale.
        compute_descriptor: Also return descriptors.
        verbose: Print the number of keypoints.

    Returns:
        (N, 4) float32 frames (y, x, scale, angle), pixels and radians; with `compute_descriptor` also descriptors
        (N, 128) uint8 or float32, min(512 d, 255) of descriptors d with unit norm.

    Raises:
        ValueError: The image is empty, the image or `frames` has another shape, or an option is invalid.
    """
    plane = gray_plane(image)
    bins, window = int(magnification), int(window_size)
    octaves = None if n_octaves is None else operator.index(n_octaves)
    if octaves is not None and octaves < 0:
        raise ValueError(f"n_octaves must be at least 0, got {octaves}")
    _check(n_levels, edge_thresh, peak_thresh, norm_thresh, bins, window)
    found = vlfeat_sift(
        plane,
        levels=operator.index(n_levels),
        first_octave=operator.index(first_octave),
        peak_threshold=peak_thresh,
        edge_threshold=edge_thresh,
        octaves=octaves,
        magnification=_MAGNIFICATION if bins < 0 else bins,
        window_size=window,
        norm_threshold=norm_thresh or 0.0,
        frames=None if frames is None else _sorted_by_scale(frames)[:, [1, 0, 2, 3]],
        orient=force_orientations,
    )
    result = np.stack([found.y, found.x, found.scale, found.angle], axis=1)
    if verbose:
        print(f"sift: {plane.shape[0]} x {plane.shape[1]} pixels, {len(result)} keypoints")
    if not compute_descriptor:
        return result
    return result, stored_descriptors(found.descriptors, float_descriptors)


def _check(
    levels: int, edge_thresh: float, peak_thresh: float, norm_thresh: float | None, bins: int, window: int
) -> None:
    """Raise ``ValueError`` for what cyvlfeat refuses, or what VLFeat divides by."""
    if levels < 1:
        raise ValueError(f"n_levels must be at least 1, got {levels}")
    if edge_thresh <= 0:
        raise ValueError(f"edge_thresh must be above 0, got {edge_thresh}")
    if peak_thresh < 0:
        raise ValueError(f"peak_thresh must be at least 0, got {peak_thresh}")
    if norm_thresh is not None and norm_thresh < 0:
        raise ValueError(f"norm_thresh must be at least 0, got {norm_thresh}")
    if bins == 0:
        raise ValueError("magnification must be at least 1 after rounding towards zero, got 0")
    if window < 1:
        raise ValueError(f"window_size must be at least 1 after rounding towards zero, got {window}")


def _sorted_by_scale(frames: npt.NDArray[Any]) -> Frames:
    """Return frames (N, 4) by increasing scale; sort contiguous float32 in place, so that rows match the result's."""
    if frames.ndim != 2 or frames.shape[1] != GIVEN_FRAME:
        raise ValueError(f"frames must have shape (N, {GIVEN_FRAME}), got {frames.shape}")
    rows = np.require(frames, np.float32, "C")
    ordered = rows[np.argsort(rows[:, 2], kind="stable")]
    if rows.flags.writeable:
        rows[:] = ordered
    return ordered
