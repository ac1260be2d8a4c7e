"""COLMAP's database: keypoints and descriptors of all images."""

from __future__ import annotations

import dataclasses
import sqlite3
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.atomic import StrPath, as_keys
from preimage.io.feature_file import MAX_IMAGES, Size, is_size
from preimage.io.keypoints.convert import as_keypoints, check_count, file_errors, no_keypoints
from preimage.io.keypoints.keypoint_file import KeypointFile
from preimage.io.keypoints.sqlite import check_table, open_database
from preimage.keypoints import DESCRIPTOR, Keypoints

_ROUND = 1e-3  # of the scale: a shape that is closer to a circle is one
_CORNER = 0.5  # the origin is the corner of the upper left pixel
_NAME = "CASE WHEN typeof(name) = 'text' AND length(CAST(name AS BLOB)) <= 4096 THEN name END"
_SIFT = 0  # COLMAP's number for it, in databases of COLMAP 4 and later


@dataclasses.dataclass(frozen=True)
class _Image:
    """One image as listed: the number of its rows, its key and size, the shape of its keypoints, and what is wrong."""

    number: int
    key: str
    size: Size | None
    rows: int
    columns: int
    problem: str


@dataclasses.dataclass(frozen=True)
class _Blob:
    """One row of a table of arrays, by its shape; what is wrong with it, where that names no image yet."""

    rows: int
    columns: int
    problem: str = ""


def read_colmap(path: StrPath, normalization: str | None = None) -> KeypointFile:
    """All images of a database, by name.

    COLMAP's origin is the corner of the upper left pixel, its angles are ours, its descriptors are in Lowe's order and
    by default RootSIFT; affine shapes become the scale and orientation that COLMAP itself takes of them, which is noted
    where it leaves something out.

    Args:
        path: the database; opened for reading only, and nothing but it.
        normalization: see `read_keypoints`; ``"l1_root"`` by default, as COLMAP's own default is.

    Raises:
        FileFormatError: no such database, damaged, not all written, or every image that has keypoints has features
            other than SIFT, or keypoints without scale, angle or descriptors. Where only some have, asking for them
            raises it.
    """
    normalization = normalization or "l1_root"
    with file_errors(path), open_database(path) as database:
        images = _images(database)
        wrong = [image.problem for image in images if image.problem]
        if wrong and len(wrong) == sum(image.rows > 0 for image in images):
            raise ValueError(wrong[0])
    notes: dict[str, dict[str, str]] = {}

    def load(position: int) -> Keypoints:
        image = images[position]
        if image.problem:
            raise FileFormatError(path, image.problem)
        if not image.rows:
            return no_keypoints()
        with file_errors(path, image.key), open_database(path) as again:
            frames, descriptors, sheared = _arrays(again, image)
            if sheared:
                notes[image.key] = {
                    "affine": f"{sheared} of {image.rows} keypoints have an affine shape, which is taken for a circle "
                    "of its mean radius: the picture may be worse"
                }
            return as_keypoints(frames, descriptors, lowe_order=True, normalization=normalization)

    return KeypointFile(
        path,
        "colmap",
        keys=[image.key for image in images],
        sizes=[image.size for image in images],
        counts=[image.rows for image in images],
        normalization=normalization,
        load=load,
        notes=notes,
    )


def _images(database: sqlite3.Connection) -> list[_Image]:
    check_table(database, "images", ("image_id", "name", "camera_id"))
    check_table(database, "cameras", ("camera_id", "width", "height"))
    cameras = _all(database, "cameras", *map(_whole, ("camera_id", "width", "height")))
    sizes = {camera: (height, width) for camera, width, height in cameras}
    keypoints = _blobs(database, "keypoints")
    descriptors = _blobs(database, "descriptors")
    rows = _all(database, "images", _whole("image_id"), _NAME, _whole("camera_id"))
    for number, name, _ in rows:
        if not isinstance(number, int) or name is None:
            raise ValueError(f"image {number} has no number, or a name that is no text or very long")
    images = []
    for (number, _, camera), key in zip(rows, as_keys(name for _, name, _ in rows), strict=True):
        size = sizes.get(camera)
        if size is not None and not is_size(size):
            raise ValueError(f"the camera of {key!r} has an image size of {size}")
        found = keypoints.get(number, _Blob(0, 0))
        problem = _problem(found, descriptors.get(number, _Blob(0, DESCRIPTOR)))
        images.append(_Image(number, key, size, found.rows, found.columns, problem and f"{key!r}: {problem}"))
    return images


def _blobs(database: sqlite3.Connection, table: str) -> dict[int, _Blob]:
    """Rows and columns by image, compared with the bytes that are there."""
    names = check_table(database, table, ("image_id", "rows", "cols", "data"))
    kind = _whole("type") if table == "descriptors" and "type" in names else str(_SIFT)
    length = "CASE typeof(data) WHEN 'blob' THEN length(data) WHEN 'null' THEN 0 END"
    blobs = {}
    dtype, other = ("float32", "float64") if table == "keypoints" else ("uint8", "float32")
    wanted = (*map(_whole, ("image_id", "rows", "cols")), kind, length)
    for image, rows, columns, number, size in _all(database, table, *wanted):
        check_count(rows)
        if not isinstance(image, int) or not isinstance(columns, int) or not 0 <= columns <= 10_000:
            raise ValueError(f"{table} of image {image} have {columns} columns")
        problem = ""
        bytes_of = {name: rows * columns * np.dtype(name).itemsize for name in (dtype, other)}
        if number != _SIFT and rows:
            problem = f"holds features of another kind (type {number} of image {image}), not SIFT"
        elif size == bytes_of[other] and size:
            advice = " (512 times the entries of a descriptor of length 1)" if dtype == "uint8" else ""
            problem = f"its {table} are {other}; COLMAP's are {dtype}{advice}"
        elif size != bytes_of[dtype]:
            problem = f"its {table} have {size} bytes for {rows} × {columns} numbers of {dtype}"
        blobs[image] = _Blob(rows, columns, problem)
    return blobs


def _problem(keypoints: _Blob, descriptors: _Blob) -> str:
    """Why the keypoints and descriptors of an image cannot be read; empty where they can."""
    problem = keypoints.problem
    if not keypoints.rows or problem:
        pass
    elif descriptors.problem:
        problem = descriptors.problem
    elif keypoints.columns == 2:
        problem = "the keypoints are positions only, without scale and angle"
    elif keypoints.columns not in (4, 6):
        problem = f"the keypoints have {keypoints.columns} columns; 4 or 6 are right"
    elif descriptors.rows != keypoints.rows:
        problem = f"{keypoints.rows} keypoints, but {descriptors.rows} descriptors"
    elif descriptors.columns != DESCRIPTOR:
        problem = f"the descriptors have {descriptors.columns} numbers and are not SIFT ({DESCRIPTOR})"
    return problem


def _whole(column: str) -> str:
    return f"CASE typeof({column}) WHEN 'integer' THEN {column} END"


def _all(database: sqlite3.Connection, table: str, *columns: str) -> list[Any]:
    """Some expressions of all rows; each is small, since a damaged tree may repeat one row without end."""
    rows = database.execute(f"SELECT {', '.join(columns)} FROM main.{table} LIMIT {MAX_IMAGES + 1}").fetchall()
    if len(rows) > MAX_IMAGES:
        raise ValueError(f"has more than {MAX_IMAGES} {table}")
    return rows


def _arrays(database: sqlite3.Connection, image: _Image) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Frames in our convention, descriptors as they are, and how many frames were more than turned and scaled."""
    sheared = 0
    check_table(database, "keypoints", ("image_id", "data"))
    check_table(database, "descriptors", ("image_id", "data"))
    frames = _blob(database, "keypoints", image.number, "<f4", (image.rows, image.columns)).astype(np.float64)
    descriptors = _blob(database, "descriptors", image.number, "u1", (image.rows, DESCRIPTOR))
    frames[:, :2] -= _CORNER
    if image.columns == 6:
        a11, a12, a21, a22 = frames[:, 2:].T
        with np.errstate(over="ignore", invalid="ignore"):  # told as such further on
            scale = (np.hypot(a11, a21) + np.hypot(a12, a22)) / 2
            sheared = int(np.count_nonzero(np.abs(a11 - a22) + np.abs(a12 + a21) > _ROUND * scale))
        frames = np.stack([frames[:, 0], frames[:, 1], scale, np.arctan2(a21, a11)], axis=1)
    return frames, descriptors, sheared


def _blob(database: sqlite3.Connection, table: str, number: int, dtype: str, shape: tuple[int, int]) -> NDArray[Any]:
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize
    found = database.execute(
        f"SELECT data FROM main.{table} WHERE image_id = ? AND typeof(data) = 'blob' AND length(data) = ? LIMIT 1",
        (number, size),
    ).fetchone()
    if found is None or not isinstance(found[0], bytes) or len(found[0]) != size:
        raise ValueError(f"its {table} cannot be found any more")
    return np.frombuffer(found[0], dtype).reshape(shape)
