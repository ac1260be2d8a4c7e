"""Read keypoints and descriptors from COLMAP databases."""

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

_ROUND = 1e-3  # largest deviation of a shape from a circle, relative to the scale
_CORNER = 0.5  # COLMAP's origin is the corner of the upper left pixel
_NAME = "CASE WHEN typeof(name) = 'text' AND length(CAST(name AS BLOB)) <= 4096 THEN name END"
_SIFT = 0  # type of SIFT features in databases of COLMAP 4 and later


@dataclasses.dataclass(frozen=True)
class _Image:
    """Row of the table of images: its id, key and size, the shape of its keypoints, and its problem or nothing."""

    number: int
    key: str
    size: Size | None
    rows: int
    columns: int
    problem: str


@dataclasses.dataclass(frozen=True)
class _Blob:
    """Row of a table of arrays: its shape, and its problem or nothing."""

    rows: int
    columns: int
    problem: str = ""


def read_colmap(path: StrPath, normalization: str | None = None) -> KeypointFile:
    """Open all images of a COLMAP database, with their names as keys.

    COLMAP's origin is the corner of the upper left pixel, its angles are those of `Keypoints`, its descriptors are in
    Lowe's order and by default RootSIFT. Affine shapes are reduced to scale and orientation as COLMAP does; a note is
    added if this loses information.

    Args:
        path: Path of the database, which is opened read-only.
        normalization: See `read_keypoints`; ``"l1_root"`` by default, as in COLMAP.

    Raises:
        FileFormatError: The file is not a COLMAP database, is damaged or incompletely written, or no image has SIFT
            keypoints with scale, angle and descriptors. If only some have not, accessing them raises.
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
                    "affine": f"{sheared} of {image.rows} keypoints have an affine shape, which is replaced by a "
                    "circle of its mean radius: the image may be worse"
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
            raise ValueError(f"image {number} must have a numeric id and a name of at most 4096 bytes")
    images = []
    for (number, _, camera), key in zip(rows, as_keys(name for _, name, _ in rows), strict=True):
        size = sizes.get(camera)
        if size is not None and not is_size(size):
            raise ValueError(f"the image size of {key!r} must be two positive integers (height, width), got {size}")
        found = keypoints.get(number, _Blob(0, 0))
        problem = _problem(found, descriptors.get(number, _Blob(0, DESCRIPTOR)))
        images.append(_Image(number, key, size, found.rows, found.columns, problem and f"{key!r}: {problem}"))
    return images


def _blobs(database: sqlite3.Connection, table: str) -> dict[int, _Blob]:
    """Return rows and columns by image id, after comparing them with the number of bytes."""
    names = check_table(database, table, ("image_id", "rows", "cols", "data"))
    kind = _whole("type") if table == "descriptors" and "type" in names else str(_SIFT)
    length = "CASE typeof(data) WHEN 'blob' THEN length(data) WHEN 'null' THEN 0 END"
    blobs = {}
    dtype, other = ("float32", "float64") if table == "keypoints" else ("uint8", "float32")
    wanted = (*map(_whole, ("image_id", "rows", "cols")), kind, length)
    for image, rows, columns, number, size in _all(database, table, *wanted):
        check_count(rows)
        if not isinstance(image, int) or not isinstance(columns, int) or not 0 <= columns <= 10_000:
            raise ValueError(f"{table} of image {image} must have 0 to 10000 columns, got {columns}")
        problem = ""
        bytes_of = {name: rows * columns * np.dtype(name).itemsize for name in (dtype, other)}
        if number != _SIFT and rows:
            problem = f"features must be SIFT (type {_SIFT}), got type {number} for image {image}"
        elif size == bytes_of[other] and size:
            advice = " (512 times a descriptor of unit norm)" if dtype == "uint8" else ""
            problem = f"{table} must be {dtype}{advice}, got {other}"
        elif size != bytes_of[dtype]:
            problem = f"{table} must have {bytes_of[dtype]} bytes for {rows} × {columns} values of {dtype}, got {size}"
        blobs[image] = _Blob(rows, columns, problem)
    return blobs


def _problem(keypoints: _Blob, descriptors: _Blob) -> str:
    """Return why the keypoints and descriptors of an image are not valid, or nothing."""
    problem = keypoints.problem
    if not keypoints.rows or problem:
        pass
    elif descriptors.problem:
        problem = descriptors.problem
    elif keypoints.columns == 2:
        problem = "the keypoints are positions only, without scale and angle"
    elif keypoints.columns not in (4, 6):
        problem = f"the keypoints must have 4 or 6 columns, got {keypoints.columns}"
    elif descriptors.rows != keypoints.rows:
        problem = f"{keypoints.rows} keypoints, but {descriptors.rows} descriptors"
    elif descriptors.columns != DESCRIPTOR:
        problem = f"the descriptors must have {DESCRIPTOR} values (SIFT), got {descriptors.columns}"
    return problem


def _whole(column: str) -> str:
    return f"CASE typeof({column}) WHEN 'integer' THEN {column} END"


def _all(database: sqlite3.Connection, table: str, *columns: str) -> list[Any]:
    """Return expressions of all rows, each of bounded size, because a damaged tree can repeat a row forever."""
    rows = database.execute(f"SELECT {', '.join(columns)} FROM main.{table} LIMIT {MAX_IMAGES + 1}").fetchall()
    if len(rows) > MAX_IMAGES:
        raise ValueError(f"has more than {MAX_IMAGES} {table}")
    return rows


def _arrays(database: sqlite3.Connection, image: _Image) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Read frames (x, y, scale, angle), descriptors as stored, and the number of frames that are not circles."""
    sheared = 0
    check_table(database, "keypoints", ("image_id", "data"))
    check_table(database, "descriptors", ("image_id", "data"))
    frames = _blob(database, "keypoints", image.number, "<f4", (image.rows, image.columns)).astype(np.float64)
    descriptors = _blob(database, "descriptors", image.number, "u1", (image.rows, DESCRIPTOR))
    frames[:, :2] -= _CORNER
    if image.columns == 6:
        a11, a12, a21, a22 = frames[:, 2:].T
        with np.errstate(over="ignore", invalid="ignore"):  # as_keypoints reports them
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
        raise ValueError(f"its {table} were changed while the file was open")
    return np.frombuffer(found[0], dtype).reshape(shape)
