"""Test COLMAP models crafted to attack a reader: rejected with the file's name, quickly, and in little memory."""

from __future__ import annotations

import re
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colmap_models import POSE, images_bytes, images_text, points_bytes, points_text, write_model
from keypoint_attacks import BYTES, FRAMES
from keypoint_files import colmap_database
from preimage.errors import FileFormatError
from preimage.io import read_keypoints

IMAGES = {"a.jpg": (FRAMES[:, :2], np.array([3, -1, 7, -1, 3]))}
POINTS = {3: (255, 0, 7), 7: (1, 2, 3)}
HEADER = struct.pack("<I7dI", 1, *POSE, 1)
POINT = struct.pack("<Q3d3BdQ", 3, 0, 0, 0, 1, 2, 3, 0, 0)
FIRST = images_text({"a.jpg": IMAGES["a.jpg"]}).splitlines()[2]


def one(image: bytes) -> bytes:
    """Return the contents of images.bin with one image."""
    return struct.pack("<Q", 1) + HEADER + image


def assert_model_rejected(folder: Path, name: str, words: str) -> None:
    """Assert that a file of the model is rejected within 60 seconds of this process's time, and 64 MB."""
    (folder / "map.db").unlink(missing_ok=True)
    database = colmap_database(folder / "map.db", {"a.jpg": (FRAMES.astype(np.float32), BYTES)})
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(FileFormatError, match=rf"{re.escape(name)}.*({words})") as caught:
            read_keypoints(database, model=folder)[0]
        assert len(caught.value.problem) < 1000
        assert time.process_time() - start < 60  # a busy machine takes a few
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "truncated"),
        (struct.pack("<Q", 2**63), "at most.*9223372036854775808"),
        (struct.pack("<Q", 200_000), "truncated"),
        (one(b"a" * 5000), "name.*4096"),
        (one(b"a.jpg"), "name"),
        (one(b"../../etc/passwd\0" + struct.pack("<Q", 0)), "relative"),
        (one(b"\xff\xfe\0" + struct.pack("<Q", 0)), "UTF-8"),
        (one(b"a.jpg\0"), "truncated"),
        (one(b"a.jpg\0" + struct.pack("<Q", 2**62)), "200000"),
        (one(b"a.jpg\0" + struct.pack("<Q", 200_000)), "truncated.*a.jpg"),
        (images_bytes(IMAGES) + b"\0", "1 bytes after"),
        (images_bytes(IMAGES)[:-1], "truncated"),
        (struct.pack("<Q", 2) + images_bytes(IMAGES)[8:] * 2, "twice"),
        (images_bytes({"a.jpg": (FRAMES[:, :2], np.array([4, -1, 7, -1, 3]))}), "no 3D point 4"),
        (images_bytes({"a.jpg": (FRAMES[:, :2], np.array([2**62, -1, 7, -1, 3]))}), "no 3D point"),
        (images_bytes({"a.jpg": (FRAMES[:, :2] * np.inf, np.array([3, -1, 7, -1, 3]))}), "inf pixels|nan pixels"),
    ],
)
def test_images(tmp_path: Path, data: bytes, words: str) -> None:
    write_model(tmp_path, IMAGES, POINTS)
    (tmp_path / "images.bin").write_bytes(data)
    assert_model_rejected(tmp_path, "images.bin", words)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "truncated"),
        (struct.pack("<Q", 2**63), "at most.*9223372036854775808"),
        (struct.pack("<Q", 20_000_000), "truncated.*20000000 points"),
        (struct.pack("<Q", 2) + POINT, "truncated"),
        (struct.pack("<Q", 1) + POINT[:-8] + struct.pack("<Q", 2**61), "truncated.*track of point 3"),
        (struct.pack("<Q", 1) + POINT[:-8] + struct.pack("<Q", 1), "truncated.*track"),
        (struct.pack("<Q", 2) + POINT * 2, "point 3 twice"),
        (struct.pack("<Q", 1) + b"\xff" * 8 + POINT[8:], "negative"),
        (points_bytes(POINTS, IMAGES) + b"\0\0", "2 bytes after"),
        (points_bytes(dict.fromkeys(POINTS, (0, 0, 0)), IMAGES), "black"),
    ],
)
def test_points(tmp_path: Path, data: bytes, words: str) -> None:
    write_model(tmp_path, IMAGES, POINTS)
    (tmp_path / "points3D.bin").write_bytes(data)
    assert_model_rejected(tmp_path, "points3D.bin", words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 2 3\n", "line 1.*id, pose"),
        ("1 1 0 0 0 0 0 nan 1 a.jpg\n\n", "'nan'"),
        (f"{FIRST}\n1 2\n", "three numbers.*2"),
        (f"{FIRST}\n1 2 x\n", "'x'"),
        (f"{FIRST}\n1 2 0.5\n", "integers"),
        (f"{FIRST}\n1 2 -2\n", "integers"),
        (f"{FIRST}\n1 2 1e300\n", "integers"),
        (f"{FIRST}\n\n", "0 points2D"),
        (f"{FIRST}", "0 points2D"),
        (f"{FIRST}\n\n{FIRST}\n\n", "twice"),
        (f"{FIRST}\n" + "1 2 -1 " * 2_500_000, "bytes"),
        ("#" * (1 << 25), "bytes"),
    ],
)
def test_images_as_text(tmp_path: Path, text: str, words: str) -> None:
    write_model(tmp_path, IMAGES, POINTS, text=True)
    (tmp_path / "images.txt").write_text(text)
    assert_model_rejected(tmp_path, "images.txt", words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3 0 0 0 1 2 3\n", "line 1.*8 numbers"),
        ("3 0 0 0 1 2 256 0\n", "line 1.*0 to 255"),
        ("3 0 0 0 1 2 -1 0\n", "0 to 255"),
        ("3 0 0 0 1 2 0.5 0\n", "integers"),
        ("x 0 0 0 1 2 3 0\n", "line 1.*id"),
        (f"{2**63} 0 0 0 1 2 3 0\n", "line 1.*id"),
        (f"{'9' * 5000} 0 0 0 1 2 3 0\n", "line 1.*id"),
        ("-3 0 0 0 1 2 3 0\n", "negative"),
        ("3 0 0 0 1 2 3 0\n" * 2, "point 3 twice"),
        ("3 0 0 0 1 2 3 0 " + "1 2 " * 5_000_000, "line 1 has more"),
        ("\0" * 100, "line 1"),
    ],
)
def test_points_as_text(tmp_path: Path, text: str, words: str) -> None:
    write_model(tmp_path, IMAGES, POINTS, text=True)
    (tmp_path / "points3D.txt").write_text(text)
    assert_model_rejected(tmp_path, "points3D.txt", words)


def test_files_that_are_mostly_holes(tmp_path: Path) -> None:
    for name, count in (("images.bin", 20_000), ("points3D.bin", 20_000)):
        write_model(tmp_path, IMAGES, POINTS)
        with open(tmp_path / name, "r+b") as file:
            file.write(struct.pack("<Q", 0))
            file.truncate(1 << 40)
        assert_model_rejected(tmp_path, name, "bytes after")
        with open(tmp_path / name, "r+b") as file:
            file.write(struct.pack("<Q", count))
        assert_model_rejected(tmp_path, name, "bytes after|twice")


def test_a_model_that_changes_while_it_is_open(tmp_path: Path) -> None:
    database = colmap_database(tmp_path / "map.db", {"a.jpg": (FRAMES.astype(np.float32), BYTES)})
    for text in (False, True):
        folder = write_model(tmp_path / str(text), IMAGES, POINTS, text=text)
        file: Any = read_keypoints(database, model=folder)
        name = "images.txt" if text else "images.bin"
        (folder / name).write_bytes(b"")
        with pytest.raises(FileFormatError, match=name):
            file[0]


def test_the_models_of_these_tests_are_valid(tmp_path: Path) -> None:
    database = colmap_database(tmp_path / "map.db", {"a.jpg": (FRAMES.astype(np.float32), BYTES)})
    for text in (False, True):
        colors = read_keypoints(database, model=write_model(tmp_path / str(text), IMAGES, POINTS, text=text))[0].colors
        assert (colors[0] * 255).tolist() == pytest.approx([255, 0, 7])
    assert points_text(POINTS, IMAGES).count("\n") == 3
