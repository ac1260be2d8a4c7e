"""Read a COLMAP model, and give the colors of its 3D points to the keypoints that observe them.

A model is a folder with ``images.bin`` and ``points3D.bin``, or the same as text (``.txt``), as described in COLMAP's
documentation ("Output Format"). Cameras are not used. The observations of an image are in the order of its keypoints in
the database; each names its 3D point, or none with the id -1.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from preimage.io.atomic import StrPath, as_keys
from preimage.io.feature_file import MAX_IMAGES
from preimage.io.keypoints.colmap_points import (
    PointColors,
    is_text,
    read_exactly,
    read_points,
    text_lines,
)
from preimage.io.keypoints.convert import check_count, file_errors
from preimage.io.keypoints.keypoint_file import KeypointFile
from preimage.io.keypoints.text import numbers
from preimage.keypoints import Keypoints

FORMATS = ("colmap", "hloc")  # formats whose images can be joined: they keep the names and the order of keypoints

_COUNT = struct.Struct("<Q")
_IMAGE = struct.Struct("<60xI")  # id and pose (skipped), camera
_OBSERVATION = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<i8")])
_LONGEST_NAME = 4096  # bytes
_HEADER = 9  # numbers before the name in text: id, pose and camera
_CORNER = 0.5  # COLMAP's origin is the corner of the upper left pixel
_SHIFTED = 2.0  # median distance in pixels above which observations are not those of the keypoints
_LARGEST_ID = 2.0**53  # in text, exact as float64


@dataclasses.dataclass(frozen=True)
class _Image:
    """Position of the observations of an image in the file: first byte, and their number if it is known."""

    start: int
    count: int | None


class ColmapModel:
    """The images of a model, whose observations are read on demand, and the colors of its points.

    Attributes:
        path: File of the images.
        points: Ids and colors of the points.
        images: Images by key.
    """

    def __init__(self, path: Path, points: PointColors, images: dict[str, _Image]) -> None:
        self.path, self.points, self.images = path, points, images

    def colors(self, key: str, keypoints: Keypoints) -> NDArray[np.float32]:
        """Return the colors [N, 3] of the keypoints of an image, NaN for those that are part of no point.

        Raises:
            FileFormatError: The file is damaged, or the observations are not those of the keypoints.
        """
        observations = self.observations(key)
        with file_errors(self.path, key):
            count = len(keypoints.x)
            if len(observations) != count:
                raise ValueError(
                    f"the model has {len(observations)} points2D of this image, but there are {count} keypoints: is it "
                    "of these keypoints?"
                )
            if count:
                apart = np.hypot(
                    observations["x"] - _CORNER - np.asarray(keypoints.x),
                    observations["y"] - _CORNER - np.asarray(keypoints.y),
                )
                if not (distance := float(np.median(apart))) <= _SHIFTED:
                    raise ValueError(
                        f"the model's points2D of this image are {distance:.3g} pixels away from its keypoints "
                        "(median): is the model of these keypoints, and not of undistorted images?"
                    )
            return self.points.at(observations["point"])

    def observations(self, key: str) -> NDArray[np.void]:
        """Return the observations of an image [N]: x and y in pixels, from the image's corner, and the id of the point.

        Raises:
            FileFormatError: The file is damaged.
        """
        image = self.images[key]
        with file_errors(self.path, key), open(self.path, "rb") as file:
            file.seek(image.start)
            if is_text(self.path):
                _, line = next(text_lines(file), (0, b""))
                return _parsed(line)
            assert image.count is not None
            data = read_exactly(file, image.count * _OBSERVATION.itemsize)
            return np.frombuffer(data, _OBSERVATION)


def read_model(folder: StrPath) -> ColmapModel:
    """Read the colors of the points and the list of images of a model; its binary files if it has both.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The folder contains no model.
        FileFormatError: A file is damaged, or the points have no colors.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{os.fspath(folder)}: no such folder")
    for suffix in (".bin", ".txt"):
        images, points = Path(folder, f"images{suffix}"), Path(folder, f"points3D{suffix}")
        if images.is_file() and points.is_file():
            return ColmapModel(images, read_points(points), read_images(images))
    inside = sorted(entry.name for entry in Path(folder).iterdir() if (entry / "images.bin").is_file())
    hint = f"; {Path(folder, inside[0])} is one" if inside else ""
    raise ValueError(
        f"{os.fspath(folder)}: a COLMAP model must have images.bin and points3D.bin, or images.txt and "
        f"points3D.txt{hint}"
    )


def with_model(file: KeypointFile, folder: StrPath) -> KeypointFile:
    """Return a keypoint file whose keypoints have the colors of the model's points.

    Keypoints that are part of no point, and those of images that are not in the model, have unknown colors.

    Raises:
        ValueError: The format of the file does not keep the order of COLMAP's keypoints, or the model contains none of
            its images.
        FileFormatError: The model is damaged, or its points have no colors. The observations of an image are read on
            access, which raises if they do not match its keypoints.
    """
    if file.format not in FORMATS:
        raise ValueError(
            f"{file.path}: a COLMAP model is for keypoints of {' and '.join(FORMATS)}, not {file.format}: omit model"
        )
    model = read_model(folder)
    if not any(key in model.images for key in file):
        names = ", ".join(map(repr, list(model.images)[:2])) or "none"
        raise ValueError(
            f"{os.fspath(folder)} contains none of the images of {file.path}: its {len(model.images)} images are "
            f"{names}{', …' if len(model.images) > 2 else ''}"
        )
    notes: dict[str, dict[str, str]] = {}

    def load(position: int) -> Keypoints:
        keypoints, key = file[position], file.key(position)
        notes[key] = dict(file.notes.get(key, {}))
        if key not in model.images:
            notes[key]["model"] = "the image is not part of the model: its keypoints have no colors"
            return keypoints.with_colors()
        return dataclasses.replace(keypoints, colors=torch.from_numpy(model.colors(key, keypoints)))

    return KeypointFile(
        file.path,
        file.format,
        keys=list(file),
        sizes=file.sizes,
        counts=file.counts,
        normalization=file.normalization,
        load=load,
        notes=notes,
    )


def read_images(path: StrPath) -> dict[str, _Image]:
    """List the images of ``images.bin`` or, by the suffix ``.txt``, ``images.txt``, by their keys.

    Raises:
        FileFormatError: The file is damaged.
    """
    with file_errors(path), open(path, "rb") as file:
        names, images = _text_images(file) if is_text(path) else _binary_images(file)
        return dict(zip(as_keys(names), images, strict=True))


def _binary_images(file: BinaryIO) -> tuple[list[str], list[_Image]]:
    size = os.fstat(file.fileno()).st_size
    (count,) = _COUNT.unpack(read_exactly(file, _COUNT.size))
    _check_images(count)
    names: list[str] = []
    images: list[_Image] = []
    for _ in range(count):
        read_exactly(file, _IMAGE.size)
        start = file.tell()
        name, end, _ = file.read(_LONGEST_NAME + 1).partition(b"\0")
        if not end:
            raise ValueError(f"the name of image {len(names)} must have at most {_LONGEST_NAME} bytes")
        file.seek(start + len(name) + 1)
        (observations,) = _COUNT.unpack(read_exactly(file, _COUNT.size))
        names.append(_decoded(name))
        images.append(_Image(file.tell(), check_count(observations)))
        after = file.tell() + observations * _OBSERVATION.itemsize
        if after > size:
            raise ValueError(f"truncated in the {observations} points2D of {names[-1]!r:.80}")
        file.seek(after)
    if file.tell() != size:
        raise ValueError(f"has {size - file.tell()} bytes after its {count} images")
    return names, images


def _text_images(file: BinaryIO) -> tuple[list[str], list[_Image]]:
    names: list[str] = []
    images: list[_Image] = []
    lines = text_lines(file)
    for number, line in lines:
        if not line.strip():
            continue
        words = line.split(None, _HEADER)
        if len(words) <= _HEADER:
            raise ValueError(f"line {number} must have the id, pose, camera and name of an image")
        numbers(b" ".join(words[:_HEADER]))  # raises unless they are
        names.append(_decoded(words[_HEADER].rstrip(b"\r\n")))
        images.append(_Image(file.tell(), None))
        _check_images(len(names))
        next(lines, None)  # the observations, an empty line if there are none
    return names, images


def _check_images(count: int) -> None:
    if count > MAX_IMAGES:
        raise ValueError(f"must have at most {MAX_IMAGES} images, got {count}")


def _decoded(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"the names of images must be UTF-8, got {name[:40]!r}") from None


def _parsed(line: bytes) -> NDArray[np.void]:
    """Return the observations of a line of x, y and the id of a point, each."""
    values = numbers(line)
    if len(values) % 3:
        raise ValueError(f"points2D must have three numbers each, got {len(values)} in all")
    table = values.reshape(-1, 3)
    check_count(len(table))
    ids = table[:, 2]
    if not ((ids == np.floor(ids)) & (ids >= -1) & (ids < _LARGEST_ID)).all():
        raise ValueError("the ids of points must be integers of at least -1")
    observations = np.empty(len(table), _OBSERVATION)
    observations["x"], observations["y"], observations["point"] = table.T
    return observations
