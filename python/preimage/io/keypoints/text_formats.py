"""Text files of one image: VLFeat's ``.sift``, Lowe's ``.key``, and what COLMAP imports."""

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
    """A file of VLFeat's ``sift`` command: lines of x, y, σ, angle, and 128 whole numbers (512 · d).

    Our convention is VLFeat's. ``ValueError`` if it is none.
    """
    text = read_text(path)
    if re.match(rb"\s*\d+[ \t]+\d+[ \t\r]*\n", text[:64]):
        raise ValueError(
            "begins with a line of two numbers, as Lowe's and SiftGPU's files do; if it is Lowe's, name the format "
            "lowe (--keypoint-format lowe)"
        )
    rows = _rows(numbers(text), None)
    return as_keypoints(rows[:, :4], rows[:, 4:], lowe_order=False, normalization=normalization or "l2")


def read_lowe(path: StrPath, normalization: str | None = None) -> Keypoints:
    """A file of Lowe's program: ``N 128``, then row, column, scale, angle (y up), and 128 whole numbers each.

    ``ValueError`` if it is none.
    """
    frames, descriptors = _headed(path)
    ours = np.stack([frames[:, 1], frames[:, 0], frames[:, 2], -frames[:, 3]], axis=1)
    return as_keypoints(ours, descriptors, lowe_order=True, normalization=normalization or "l2")


def read_colmap_text(path: StrPath, normalization: str | None = None) -> Keypoints:
    """What COLMAP's ``feature_importer`` reads: ``N 128``, then x, y, scale, angle, and 128 numbers each.

    The center of the upper left pixel is (0.5, 0.5). ``ValueError`` if it is none.
    """
    frames, descriptors = _headed(path)
    ours = frames - np.array([_CORNER, _CORNER, 0, 0])
    return as_keypoints(ours, descriptors, lowe_order=True, normalization=normalization or "l2")


def _headed(path: StrPath) -> tuple[NDArray[Any], NDArray[Any]]:
    text = read_text(path)
    count, start = header(text)
    if 2 * ROW * check_count(count) > len(text) + 1:
        raise ValueError(f"cut short: {count} keypoints do not fit in {len(text)} bytes")
    rows = _rows(numbers(text, start), count)
    return rows[:, :4], rows[:, 4:]


def _rows(values: NDArray[np.float64], count: int | None) -> NDArray[np.float64]:
    if count is not None and len(values) != count * ROW:
        raise ValueError(f"{len(values)} numbers; {count} keypoints with 4 + 128 each have {count * ROW}")
    if len(values) % ROW:
        raise ValueError(f"{len(values)} numbers; keypoints have 4 + 128 each")
    return values.reshape(-1, ROW)
