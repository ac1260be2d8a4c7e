"""COLMAP's database: keypoints and descriptors of all images."""

from __future__ import annotations

import dataclasses
import sqlite3
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.io.atomic import StrPath, key_problem
from preimage.io.keypoints.convert import as_keypoints, check_count, naming, no_keypoints
from preimage.io.keypoints.records import KeypointFile
from preimage.io.keypoints.sqlite import check_table, open_database
from preimage.io.layout import MAX_IMAGES, Size, is_size
from preimage.keypoints import DESCRIPTOR, Keypoints

_CORNER = 0.5  # the origin is the corner of the upper left pixel
_NAME = "CASE WHEN typeof(name) = 'text' AND length(CAST(name AS BLOB)) <= 4096 THEN name END"
_SIFT = 0  # COLMAP's number for it, in databases of COLMAP 4 and later


@dataclasses.dataclass(frozen=True)
class _Image:
    """One image as listed: the key of its rows, its name and size, and the shape of its keypoints."""

    number: int
    name: str
    size: Size | None
    rows: int
    columns: int


def read_colmap(path: StrPath, normalisation: str | None = None) -> KeypointFile:
    """All images of a database, by name.

    COLMAP's origin is the corner of the upper left pixel, its angles are ours, its descriptors are in Lowe's order and
    by default RootSIFT; affine shapes become the scale and orientation that COLMAP itself takes of them.

    Args:
        path: the database; opened for reading only, and nothing but it.
        normalisation: see `read_keypoints`; ``"l1_root"`` by default, as COLMAP's own default is.

    Raises:
        FileFormatError: no such database, damaged, not all written, of features other than SIFT, or keypoints
            without scale, angle or descriptors.
    """
    normalisation = normalisation or "l1_root"
    with naming(path), open_database(path) as database:
        images = _images(database)

    def load(position: int) -> Keypoints:
        image = images[position]
        if not image.rows:
            return no_keypoints()
        with naming(path, image.name), open_database(path) as again:
            frames, descriptors = _arrays(again, image)
            return as_keypoints(frames, descriptors, lowe_order=True, normalisation=normalisation)

    return KeypointFile(
        path,
        "colmap",
        keys=[image.name for image in images],
        sizes=[image.size for image in images],
        counts=[image.rows for image in images],
        normalisation=normalisation,
        load=load,
    )


def _images(database: sqlite3.Connection) -> list[_Image]:
    check_table(database, "images", ("image_id", "name", "camera_id"))
    check_table(database, "cameras", ("camera_id", "width", "height"))
    cameras = _all(database, "cameras", *map(_whole, ("camera_id", "width", "height")))
    sizes = {camera: (height, width) for camera, width, height in cameras}
    keypoints = _shapes(database, "keypoints")
    descriptors = _shapes(database, "descriptors")
    images = []
    seen = set()
    for number, name, camera in _all(database, "images", _whole("image_id"), _NAME, _whole("camera_id")):
        if not isinstance(number, int) or name is None:
            raise ValueError(f"image {number} has no number, or a name that is no text or very long")
        if problem := key_problem(name):
            raise ValueError(f"an image's {problem}")
        if name in seen:
            raise ValueError(f"lists image {name!r} twice")
        seen.add(name)
        rows, columns = keypoints.get(number, (0, 0))
        _check_shapes(name, rows, columns, *descriptors.get(number, (0, DESCRIPTOR)))
        size = sizes.get(camera)
        if size is not None and not is_size(size):
            raise ValueError(f"the camera of {name!r} has an image size of {size}")
        images.append(_Image(number, name, size, rows, columns))
    return images


def _shapes(database: sqlite3.Connection, table: str) -> dict[int, tuple[int, int]]:
    """Rows and columns by image, checked against the bytes that are there."""
    names = check_table(database, table, ("image_id", "rows", "cols", "data"))
    kind = _whole("type") if table == "descriptors" and "type" in names else str(_SIFT)
    length = "CASE typeof(data) WHEN 'blob' THEN length(data) WHEN 'null' THEN 0 END"
    shapes = {}
    itemsize = 4 if table == "keypoints" else 1
    wanted = (*map(_whole, ("image_id", "rows", "cols")), kind, length)
    for image, rows, columns, number, size in _all(database, table, *wanted):
        if number != _SIFT and rows:
            raise ValueError(f"holds features of another kind (type {number} of image {image}), not SIFT")
        check_count(rows)
        if not isinstance(image, int) or not isinstance(columns, int) or not 0 <= columns <= 10_000:
            raise ValueError(f"{table} of image {image} have {columns} columns")
        if size != rows * columns * itemsize:
            raise ValueError(f"{table} of image {image}: {size} bytes for {rows} × {columns} numbers")
        shapes[image] = rows, columns
    return shapes


def _check_shapes(name: str, rows: int, columns: int, described: int, length: int) -> None:
    if not rows:
        return
    if columns == 2:
        raise ValueError(f"the keypoints of {name!r} are positions only, without scale and angle")
    if columns not in (4, 6):
        raise ValueError(f"the keypoints of {name!r} have {columns} columns; 4 or 6 are right")
    if described != rows:
        raise ValueError(f"image {name!r} has {rows} keypoints, but {described} descriptors")
    if length != DESCRIPTOR:
        raise ValueError(f"the descriptors of {name!r} have {length} numbers and are not SIFT ({DESCRIPTOR})")


def _whole(column: str) -> str:
    return f"CASE typeof({column}) WHEN 'integer' THEN {column} END"


def _all(database: sqlite3.Connection, table: str, *columns: str) -> list[Any]:
    """Some expressions of all rows; each is small, since a damaged tree may repeat one row without end."""
    rows = database.execute(f"SELECT {', '.join(columns)} FROM main.{table} LIMIT {MAX_IMAGES + 1}").fetchall()
    if len(rows) > MAX_IMAGES:
        raise ValueError(f"has more than {MAX_IMAGES} {table}")
    return rows


def _arrays(database: sqlite3.Connection, image: _Image) -> tuple[NDArray[Any], NDArray[Any]]:
    """Frames in our convention, and descriptors as they are."""
    check_table(database, "keypoints", ("image_id", "data"))
    check_table(database, "descriptors", ("image_id", "data"))
    frames = _blob(database, "keypoints", image.number, "<f4", (image.rows, image.columns)).astype(np.float64)
    descriptors = _blob(database, "descriptors", image.number, "u1", (image.rows, DESCRIPTOR))
    frames[:, :2] -= _CORNER
    if image.columns == 6:
        a11, a12, a21, a22 = frames[:, 2:].T
        with np.errstate(over="ignore", invalid="ignore"):  # told as such further on
            scale = (np.hypot(a11, a21) + np.hypot(a12, a22)) / 2
        frames = np.stack([frames[:, 0], frames[:, 1], scale, np.arctan2(a21, a11)], axis=1)
    return frames, descriptors


def _blob(database: sqlite3.Connection, table: str, number: int, dtype: str, shape: tuple[int, int]) -> NDArray[Any]:
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize
    found = database.execute(
        f"SELECT data FROM main.{table} WHERE image_id = ? AND typeof(data) = 'blob' AND length(data) = ? LIMIT 1",
        (number, size),
    ).fetchone()
    if found is None or not isinstance(found[0], bytes) or len(found[0]) != size:
        raise ValueError(f"its {table} cannot be found any more")
    return np.frombuffer(found[0], dtype).reshape(shape)
