"""Read the colors of the 3D points of COLMAP models, ``points3D.bin`` and ``points3D.txt``.

COLMAP's documentation ("Output Format") describes both formats. A point consists of its id, position, color, error, and
track, a list of observations; only ids and colors are used. Numbers in the binary format are little-endian.
"""

from __future__ import annotations

import array
import dataclasses
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.atomic import StrPath
from preimage.io.keypoints.convert import file_errors

MAX_POINTS = 20_000_000  # of a model

_COUNT = struct.Struct("<Q")
_POINT = struct.Struct("<q24xBBB8xQ")  # id, position (skipped), color, error (skipped), length of the track
_OBSERVATION = 8  # bytes
_MAX_LINE = 16 << 20  # bytes of a line of text: an image's keypoints, or the track of a point
_NUMBERS = 8  # of a point in text, before its track
_BUFFER = 1 << 20  # bytes
_IDS = 1 << 63  # larger ids do not fit


@dataclasses.dataclass(frozen=True)
class PointColors:
    """Colors of the 3D points of a model.

    Attributes:
        ids: [M] int64, in increasing order.
        colors: [M, 3] uint8, red, green and blue.
    """

    ids: NDArray[np.int64]
    colors: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the colors [N, 3] in [0, 1] of points; rows of NaN where an id is negative.

        Raises:
            ValueError: There is no point with one of the ids.
        """
        found = np.full((len(ids), 3), np.nan, np.float32)
        known = ids >= 0
        wanted = ids[known]
        places = np.searchsorted(self.ids, wanted)
        present = places < len(self.ids)
        present[present] = self.ids[places[present]] == wanted[present]
        if not present.all():
            raise ValueError(f"there is no 3D point {wanted[~present][0]}")
        found[known] = self.colors[places] / np.float32(255)
        return found


def read_points(path: StrPath) -> PointColors:
    """Read the ids and colors of ``points3D.bin`` or, by the suffix ``.txt``, ``points3D.txt``.

    Raises:
        FileFormatError: The file is damaged, or all points are black because no colors were extracted.
    """
    ids, colors = array.array("q"), bytearray()
    with file_errors(path):
        with open(path, "rb", buffering=_BUFFER) as file:
            for number, color in _text_points(file) if is_text(path) else _binary_points(file):
                ids.append(number)
                colors += color
        found = np.frombuffer(ids, np.int64) if ids else np.zeros(0, np.int64)
        order = np.argsort(found, kind="stable")
        points = PointColors(found[order], np.frombuffer(bytes(colors), np.uint8).reshape(-1, 3)[order])
        if len(points) and points.ids[0] < 0:
            raise ValueError(f"ids of points must not be negative, got {points.ids[0]}")
        if (points.ids[1:] == points.ids[:-1]).any():
            raise ValueError(f"contains point {points.ids[:-1][points.ids[1:] == points.ids[:-1]][0]} twice")
    if len(points) and not points.colors.any():
        raise FileFormatError(path, f"contains no colors: all {len(points)} points are black (colmap color_extractor)")
    return points


def _binary_points(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    size = os.fstat(file.fileno()).st_size
    (count,) = _COUNT.unpack(read_exactly(file, _COUNT.size))
    position = _COUNT.size
    _check_number(count)
    if count * _POINT.size > size - position:
        raise ValueError(f"truncated: {size} bytes are too few for {count} points")
    for _ in range(count):
        number, red, green, blue, length = _POINT.unpack(read_exactly(file, _POINT.size))
        position += _POINT.size + length * _OBSERVATION
        if position > size:
            raise ValueError(f"truncated in the track of point {number}, which has {length} observations")
        file.seek(length * _OBSERVATION, os.SEEK_CUR)
        yield number, bytes((red, green, blue))
    if position != size:
        raise ValueError(f"has {size - position} bytes after its {count} points")


def _text_points(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    count = 0
    for number, line in text_lines(file):
        if not line.strip():
            continue
        count += 1
        _check_number(count)
        words = line.split(None, _NUMBERS)
        if len(words) < _NUMBERS:
            raise ValueError(f"line {number} must have the {_NUMBERS} numbers of a point and its track")
        try:
            point, color = int(words[0]), bytes(map(int, words[4:7]))
            if point >= _IDS:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"line {number} must begin with an id and have a color of three integers from 0 to 255"
            ) from None
        yield point, color


def _check_number(count: int) -> None:
    if count > MAX_POINTS:
        raise ValueError(f"must have at most {MAX_POINTS} points, got {count}")


def is_text(path: StrPath) -> bool:
    """Return whether a file of a model is in the text format."""
    return os.fspath(path).lower().endswith(".txt")


def text_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not comments, with their numbers from 1; ``ValueError`` for one that is too long."""
    number = 0
    while line := file.readline(_MAX_LINE + 1):
        number += 1
        if len(line) > _MAX_LINE:
            raise ValueError(f"line {number} has more than {_MAX_LINE} bytes")
        if not line.startswith(b"#"):
            yield number, line


def read_exactly(file: BinaryIO, count: int) -> bytes:
    """Read this number of bytes; ``ValueError`` at the end of the file."""
    data = file.read(count)
    if len(data) < count:
        raise ValueError(f"truncated: {count} bytes expected, got {len(data)}")
    return data
