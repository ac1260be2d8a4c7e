"""Convert keypoints of other programs: check values, reorder channels, undo normalizations."""

from __future__ import annotations

import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from preimage.errors import reader_errors
from preimage.io.atomic import StrPath
from preimage.io.keypoints.checks import check_descriptors, check_units
from preimage.keypoints import DESCRIPTOR, Keypoints

MAX_KEYPOINTS = 200_000  # maximum number per image; SIFT finds a fifth of this in a photograph of 12 megapixels
NORMALIZATIONS = ("l2", "l1_root", "l1_root_twice")

_BLOCK = 4096  # descriptors converted at once
_FARTHEST = 2.0**20  # largest coordinate or scale, pixels
_SMALLEST = 2.0**-10  # smallest scale, pixels
_LONGEST = 500  # characters of a message, which can quote the file
_REVERSED = -np.arange(8) % 8
_BROKEN = (
    *(ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, RecursionError, EOFError),
    *(NotImplementedError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile, sqlite3.Error),
)


@contextmanager
def file_errors(path: StrPath, key: str = "") -> Iterator[None]:
    """Convert any error that a damaged file raises to a `FileFormatError` with the names of file and image.

    NumPy does not warn about damaged numbers: `as_keypoints` reports them.
    """
    with reader_errors(path, _BROKEN, key, describe=_shortened), np.errstate(over="ignore", invalid="ignore"):
        yield


def _shortened(error: Exception, problem: str) -> str:
    return problem if len(problem) <= _LONGEST else f"{problem[:_LONGEST]}..."


def check_count(count: object) -> int:
    """Return a number of keypoints of an image; raises ``ValueError`` if it is invalid."""
    if not isinstance(count, int) or not 0 <= count <= MAX_KEYPOINTS:
        raise ValueError(f"an image must have 0 to {MAX_KEYPOINTS} keypoints, got {count!r}")
    return count


def as_keypoints(
    frames: NDArray[Any],
    descriptors: NDArray[Any],
    *,
    lowe_order: bool,
    normalization: str,
    response: NDArray[Any] | None = None,
    degrees: bool = False,
    colors: NDArray[Any] | None = None,
) -> Keypoints:
    """Check the arrays of one image and convert them to `Keypoints`.

    Args:
        frames: (N, 4), x and y (pixels, center of the upper left pixel is (0, 0)), scale σ (pixels) and angle (any
            range), as in `Keypoints`.
        descriptors: (N, 128), ≥ 0, of any norm, in VLFeat's or Lowe's order.
        lowe_order: Whether orientation bins are in reverse order, as in Lowe's program, SiftGPU, COLMAP and OpenCV.
        normalization: Normalization to undo: ``"l2"`` (none), ``"l1_root"`` (RootSIFT, square roots of entries that
            sum to 1), or ``"l1_root_twice"``.
        response: (N,), or ``None`` for zeros.
        degrees: Whether angles are in degrees instead of radians.
        colors: (N, 3), uint8 or in [0, 1] with NaN where unknown; or ``None`` without colors.

    Raises:
        ValueError: There are too many keypoints, shapes do not match, or values are not finite, not plausible, or in
            other units.
    """
    count = check_count(len(frames))
    if not count:
        return no_keypoints()  # empty arrays can have any shape
    if frames.shape != (count, 4) or descriptors.shape != (count, DESCRIPTOR):
        raise ValueError(
            f"frames and descriptors must have shapes ({count}, 4) and ({count}, {DESCRIPTOR}), got {frames.shape} and "
            f"{descriptors.shape}"
        )
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")
    if response is None:
        response = np.zeros(count, np.float32)
    if response.shape != (count,):
        raise ValueError(f"response must have shape ({count},), got {response.shape}")
    x, y, scale, angle = _checked_frames(frames, degrees)
    with np.errstate(over="ignore", invalid="ignore"):
        strength = response.astype(np.float32)
    if not np.isfinite(strength).all():
        raise ValueError(f"response must be finite, got {response[~np.isfinite(strength)][0]}")
    fields = {"x": x, "y": y, "scale": scale, "angle": angle, "response": strength}
    fields["descriptors"] = _unit_length(descriptors, lowe_order, normalization)
    if colors is not None:
        fields["colors"] = colors if colors.dtype == np.uint8 else colors.astype(np.float32)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in fields.items()}
    return Keypoints(**tensors, offsets=torch.tensor([0, count]))


def no_keypoints() -> Keypoints:
    """Return the keypoints of an image without keypoints."""
    none = torch.zeros(0)
    return Keypoints(none, none, none, none, none, torch.zeros(0, DESCRIPTOR), torch.tensor([0, 0]))


def _checked_frames(frames: NDArray[Any], degrees: bool) -> NDArray[np.float32]:
    """Check frames (N, 4) and return them as (4, N), with angles in [0, 2π)."""
    values = frames.T.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"positions, scales and angles must be finite, got {values[~np.isfinite(values)][0]}")
    if np.abs(values[:2]).max(initial=0) > _FARTHEST:
        raise ValueError(f"coordinates must be at most {_FARTHEST:g} pixels, got {np.abs(values[:2]).max():g}")
    if values.shape[1] and not _SMALLEST <= values[2].min() <= values[2].max() <= _FARTHEST:
        wrong = values[2].min() if values[2].min() < _SMALLEST else values[2].max()
        raise ValueError(f"scales must be positive and at most {_FARTHEST:g} pixels, got {wrong:g}")
    check_units(values, degrees=degrees)
    if degrees:
        values[3] = np.deg2rad(values[3])
    values[3] %= 2 * np.pi
    rounded = values.astype(np.float32)
    rounded[3, rounded[3] >= np.float32(2 * np.pi)] = 0
    return rounded


def _unit_length(descriptors: NDArray[Any], lowe_order: bool, normalization: str) -> NDArray[np.float32]:
    """Undo the normalization and return descriptors of unit norm; in blocks, to save memory."""
    check_descriptors(descriptors)
    unit = np.empty(descriptors.shape, np.float32)
    for start in range(0, len(descriptors), _BLOCK):
        with np.errstate(over="ignore", invalid="ignore"):
            values = descriptors[start : start + _BLOCK].astype(np.float32)
        if not np.isfinite(values).all():
            wrong = descriptors[start : start + _BLOCK][~np.isfinite(values)][0]
            raise ValueError(f"descriptors must be finite as float32, got {wrong}")
        _divide(values, values.max(axis=1))
        for _ in range(NORMALIZATIONS.index(normalization)):
            values *= values
        _divide(values, np.sqrt(np.einsum("nc,nc->n", values, values)))
        if lowe_order:
            values = values.reshape(-1, DESCRIPTOR // 8, 8)[:, :, _REVERSED].reshape(-1, DESCRIPTOR)
        unit[start : start + _BLOCK] = values
    return unit


def _divide(values: NDArray[np.float32], by: NDArray[np.float32]) -> None:
    values /= np.where(by > 0, by, 1)[:, None]
