"""Write COLMAP models in both formats, as described in COLMAP's documentation ("Output Format")."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

# By name: positions (N, 2), where the center of the first pixel is (0.5, 0.5), and ids of points (N,), -1 for none.
Images = Mapping[str, tuple[np.ndarray, np.ndarray]]
Points = Mapping[int, tuple[int, int, int]]  # colors by id

POSE = (1.0, 0.0, 0.0, 0.0, 0.5, -0.25, 3.0)


def images_bytes(images: Images) -> bytes:
    """Return the contents of images.bin."""
    parts = [struct.pack("<Q", len(images))]
    for number, (name, (positions, ids)) in enumerate(images.items(), 1):
        parts += [struct.pack("<I7dI", number, *POSE, 1), name.encode(), b"\0", struct.pack("<Q", len(ids))]
        for (x, y), point in zip(positions, ids, strict=True):
            parts.append(struct.pack("<ddq", x, y, point))
    return b"".join(parts)


def points_bytes(points: Points, images: Images) -> bytes:
    """Return the contents of points3D.bin."""
    parts = [struct.pack("<Q", len(points))]
    for point, color in points.items():
        track = _track(point, images)
        parts.append(struct.pack("<Q3d3BdQ", point, 1.0, 2.0, 3.0, *color, 0.5, len(track)))
        parts += [struct.pack("<II", *observation) for observation in track]
    return b"".join(parts)


def images_text(images: Images) -> str:
    """Return the contents of images.txt."""
    lines = ["# Image list with two lines of data per image:", f"# Number of images: {len(images)}"]
    for number, (name, (positions, ids)) in enumerate(images.items(), 1):
        lines.append(" ".join(map(str, (number, *POSE, 1, name))))
        lines.append(" ".join(f"{x!r} {y!r} {point}" for (x, y), point in zip(positions.tolist(), ids, strict=True)))
    return "\n".join(lines) + "\n"


def points_text(points: Points, images: Images) -> str:
    """Return the contents of points3D.txt."""
    lines = ["# 3D point list with one line of data per point:"]
    for point, color in points.items():
        track = [number for observation in _track(point, images) for number in observation]
        lines.append(" ".join(map(str, (point, 1.0, 2.0, 3.0, *color, 0.5, *track))))
    return "\n".join(lines) + "\n"


def write_model(folder: Path, images: Images, points: Points, *, text: bool = False) -> Path:
    """Write a model; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if text:
        (folder / "images.txt").write_text(images_text(images))
        (folder / "points3D.txt").write_text(points_text(points, images))
    else:
        (folder / "images.bin").write_bytes(images_bytes(images))
        (folder / "points3D.bin").write_bytes(points_bytes(points, images))
    return folder


def _track(point: int, images: Images) -> list[tuple[int, int]]:
    """Return (id of the image, index of the keypoint) of each observation."""
    return [
        (number, int(index))
        for number, (_, ids) in enumerate(images.values(), 1)
        for index in np.flatnonzero(np.asarray(ids) == point)
    ]
