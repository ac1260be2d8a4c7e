"""From what files hold to our convention: checks, orders of channels, normalizations."""

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

from preimage.errors import FileFormatError
from preimage.io.atomic import StrPath
from preimage.io.keypoints.checks import check_descriptors, check_units
from preimage.keypoints import DESCRIPTOR, Keypoints

MAX_KEYPOINTS = 200_000  # of one image: five times what SIFT finds in a photograph of 12 megapixels
NORMALIZATIONS = ("l2", "l1_root", "l1_root_twice")

_BLOCK = 4096  # descriptors worked on together
_FARTHEST = 2.0**20  # pixels; a coordinate or scale beyond is no photograph's
_SMALLEST = 2.0**-10  # pixels
_LONGEST = 500  # characters of a message, which may quote what is in the file
_REVERSED = -np.arange(8) % 8
_BROKEN = (
    *(ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, RecursionError, EOFError),
    *(NotImplementedError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile, sqlite3.Error),
)


@contextmanager
def file_errors(path: StrPath, key: str = "") -> Iterator[None]:
    """Whatever a damaged file raises becomes a `FileFormatError` that names file and image."""
    try:
        yield
    except FileFormatError:
        raise
    except _BROKEN as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        problem = problem if len(problem) <= _LONGEST else f"{problem[:_LONGEST]}..."
        raise FileFormatError(path, f"{key!r}: {problem}" if key else problem) from error


def check_count(count: object) -> int:
    """A number of keypoints that an image may have; else ``ValueError``."""
    if not isinstance(count, int) or not 0 <= count <= MAX_KEYPOINTS:
        raise ValueError(f"{count!r} keypoints of one image; 0 to {MAX_KEYPOINTS} are read")
    return count


def as_keypoints(
    frames: NDArray[Any],
    descriptors: NDArray[Any],
    *,
    lowe_order: bool,
    normalization: str,
    response: NDArray[Any] | None = None,
    degrees: bool = False,
) -> Keypoints:
    """Keypoints of one image from arrays, checked.

    Args:
        frames: (N, 4): x, y, scale and angle as in `Keypoints`, but for the angle's range.
        descriptors: (N, 128), ≥ 0, of any length, in VLFeat's order or Lowe's.
        lowe_order: orientations run the other way round, as in Lowe's program, SiftGPU, COLMAP and OpenCV.
        normalization: what has been done to them: ``"l2"`` (their lengths were made equal), ``"l1_root"`` (RootSIFT:
            the roots of entries that sum to 1), or ``"l1_root_twice"`` (that of that); it is undone.
        response: (N,).
        degrees: whether the angles are degrees.

    Raises:
        ValueError: too many of them, shapes that disagree, numbers that are not finite, beyond reason, or in other
            units.
    """
    count = check_count(len(frames))
    if not count:
        return no_keypoints()  # whatever shape the other arrays of nothing have
    if frames.shape != (count, 4) or descriptors.shape != (count, DESCRIPTOR):
        raise ValueError(f"{count} keypoints of shape {frames.shape} with descriptors {descriptors.shape}")
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization is one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")
    if response is None:
        response = np.zeros(count, np.float32)
    if response.shape != (count,):
        raise ValueError(f"{count} keypoints with responses of shape {response.shape}")
    x, y, scale, angle = _checked_frames(frames, degrees)
    with np.errstate(over="ignore", invalid="ignore"):
        strength = response.astype(np.float32)
    if not np.isfinite(strength).all():
        raise ValueError("a keypoint's response is no finite number")
    fields = {"x": x, "y": y, "scale": scale, "angle": angle, "response": strength}
    fields["descriptors"] = _unit_length(descriptors, lowe_order, normalization)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in fields.items()}
    return Keypoints(**tensors, offsets=torch.tensor([0, count]))


def no_keypoints() -> Keypoints:
    """Those of an image that has none."""
    none = torch.zeros(0)
    return Keypoints(none, none, none, none, none, torch.zeros(0, DESCRIPTOR), torch.tensor([0, 0]))


def _checked_frames(frames: NDArray[Any], degrees: bool) -> NDArray[np.float32]:
    """(N, 4) -> (4, N), angles in [0, 2π)."""
    values = frames.T.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a keypoint's position, scale or angle is no finite number")
    if np.abs(values[:2]).max(initial=0) > _FARTHEST:
        raise ValueError(f"a keypoint {np.abs(values[:2]).max():g} pixels away from the image's corner")
    if values.shape[1] and not _SMALLEST <= values[2].min() <= values[2].max() <= _FARTHEST:
        wrong = values[2].min() if values[2].min() < _SMALLEST else values[2].max()
        raise ValueError(f"a keypoint of scale {wrong:g}; scales are above 0, in pixels")
    check_units(values, degrees=degrees)
    if degrees:
        values[3] = np.deg2rad(values[3])
    values[3] %= 2 * np.pi
    rounded = values.astype(np.float32)
    rounded[3, rounded[3] >= np.float32(2 * np.pi)] = 0
    return rounded


def _unit_length(descriptors: NDArray[Any], lowe_order: bool, normalization: str) -> NDArray[np.float32]:
    """In parts, so that no second copy of them all is needed."""
    check_descriptors(descriptors)
    unit = np.empty(descriptors.shape, np.float32)
    for start in range(0, len(descriptors), _BLOCK):
        with np.errstate(over="ignore", invalid="ignore"):
            values = descriptors[start : start + _BLOCK].astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError("a descriptor holds a number that is not finite")  # as float32
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
