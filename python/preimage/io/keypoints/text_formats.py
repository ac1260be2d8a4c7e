"""Read the keypoints of one image from text files: VLFeat's ``.sift``, Lowe's ``.key``, COLMAP's text import."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.io.atomic import StrPath
from preimage.io.keypoints.convert import as_keypoints, check_count
from preimage.io.keypoints.text import ROW, header, numbers, read_text
from preimage.keypoints import Keypoints

_CORNER = 0.5  # COLMAP's origin is the corner of the upper left pixel


def read_vlfeat(path: StrPath, normalization: str | None = None) -> Keypoints:
    """Read a file of VLFeat's ``sift`` command: lines of x, y, σ, angle, and 128 integers (512 · d).

    VLFeat's convention is that of `Keypoints`.

    Raises:
        ValueError: The file is damaged or of another format.
    """
    text = read_text(path)
    if re.match(rb"\s*\d+[ \t]+\d+[ \t\r]*\n", text[:64]):
        raise ValueError(
            "begins with a line of two numbers, as files of Lowe's program and SiftGPU do; for a file of Lowe's "
            "program, give the format lowe (--keypoint-format lowe)"
        )
    rows = _rows(numbers(text), None)
    return as_keypoints(rows[:, :4], rows[:, 4:], lowe_order=False, normalization=normalization or "l2")


def read_lowe(path: StrPath, normalization: str | None = None) -> Keypoints:
    """Read a file of Lowe's program: ``N 128``, then row, column, scale, angle (y up), and 128 integers each.

    Raises:
        ValueError: The file is damaged or of another format.
    """
    frames, descriptors = _frames_and_descriptors(path)
    converted = np.stack([frames[:, 1], frames[:, 0], frames[:, 2], -frames[:, 3]], axis=1)
    return as_keypoints(converted, descriptors, lowe_order=True, normalization=normalization or "l2")


def read_colmap_text(path: StrPath, normalization: str | None = None) -> Keypoints:
    """Read a file for COLMAP's ``feature_importer``: ``N 128``, then x, y, scale, angle, and 128 numbers each.

    The center of the upper left pixel is (0.5, 0.5).

    Raises:
        ValueError: The file is damaged or of another format.
    """
    frames, descriptors = _frames_and_descriptors(path)
    converted = frames - np.array([_CORNER, _CORNER, 0, 0])
    return as_keypoints(converted, descriptors, lowe_order=True, normalization=normalization or "l2")


def _frames_and_descriptors(path: StrPath) -> tuple[NDArray[Any], NDArray[Any]]:
    text = read_text(path)
    count, start = header(text)
    if 2 * ROW * check_count(count) > len(text) + 1:
        raise ValueError(f"truncated: {len(text)} bytes are too few for {count} keypoints")
    rows = _rows(numbers(text, start), count)
    return rows[:, :4], rows[:, 4:]


def _rows(values: NDArray[np.float64], count: int | None) -> NDArray[np.float64]:
    if count is not None and len(values) != count * ROW:
        raise ValueError(f"{count} keypoints must have {count * ROW} numbers, 4 + 128 each, got {len(values)}")
    if len(values) % ROW:
        raise ValueError(f"keypoints must have 4 + 128 numbers each, got {len(values)} in all")
    return values.reshape(-1, ROW)
