"""Read and write keypoints in NumPy ``.npz`` files.

The file, compressed or not, contains these arrays for every image, whose key is a relative path with or without
suffix::

    KEY/keypoints     float32 (N, 4)    x, y, scale, angle
    KEY/descriptors   (N, 128)          float16, float32 or float64; or uint8, 512 times the descriptor
    KEY/image_size    int64 (2,)        height and width in pixels, optional
    KEY/response      float32 (N,)      optional
    KEY/colors        (N, 3)            red, green and blue in [0, 1], NaN where unknown; or uint8; optional

all in the convention of `preimage.keypoints.Keypoints`. In a file of a single image the prefix ``KEY/`` can be omitted;
the key is then the name of the file without suffix.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.io.arrays.npy import open_npz
from preimage.io.arrays.stored_arrays import StoredArray
from preimage.io.atomic import StrPath, as_keys, atomic_write, key_problem
from preimage.io.feature_file import MAX_IMAGES, Size, check_type, is_size
from preimage.io.keypoints.convert import as_keypoints, check_count, file_errors, no_keypoints
from preimage.io.keypoints.keypoint_file import KeypointFile, KeypointRecord
from preimage.keypoints import COLORS, DESCRIPTOR, Keypoints

DTYPES = ("float32", "float16", "uint8")

_ROLES = ("keypoints", "descriptors", "image_size", "response", "colors")
_SCALE = 512  # factor of uint8 descriptors


def read_npz(path: StrPath, normalization: str | None = None) -> KeypointFile:
    """Open all images of an ``.npz`` file of keypoints.

    Raises:
        FileFormatError: The file is damaged or of another format, or arrays have other shapes or dtypes.
    """
    chosen = normalization or "l2"
    with file_errors(path):
        images = _images(Path(path).stem, open_npz(path, any_numbers=True))
        names = list(images)
        keys = as_keys(names)
        counts = [_count(key, roles) for key, roles in images.items()]
        sizes = [_size(key, roles.get("image_size")) for key, roles in images.items()]

    def load(position: int) -> Keypoints:
        if not counts[position]:
            return no_keypoints()
        roles = images[names[position]]
        arrays = {role: roles[role].load() for role in _ROLES if role in roles and role != "image_size"}
        with file_errors(path, keys[position]):
            return as_keypoints(
                arrays["keypoints"],
                arrays["descriptors"],
                lowe_order=False,
                normalization=chosen,
                response=arrays.get("response"),
                colors=arrays.get("colors"),
            )

    return KeypointFile(path, "preimage", keys=keys, sizes=sizes, counts=counts, normalization=chosen, load=load)


def _images(stem: str, arrays: list[StoredArray]) -> dict[str, dict[str, StoredArray]]:
    """Return the arrays by key and role."""
    images: dict[str, dict[str, StoredArray]] = {}
    for array in arrays:
        key, _, role = array.name.rpartition("/")
        if role not in _ROLES:
            raise ValueError(f"arrays must be named KEY/{', KEY/'.join(_ROLES)}, got {array.name!r}")
        if images.setdefault(key or stem, {}).setdefault(role, array) is not array:
            raise ValueError(f"contains {array.name!r} twice")
        if len(images) > MAX_IMAGES:
            raise ValueError(f"must have at most {MAX_IMAGES} images")
    return images


def _count(key: str, roles: dict[str, StoredArray]) -> int:
    """Return the number of keypoints, after checking the shapes and dtypes of all arrays."""
    for needed in ("keypoints", "descriptors"):
        if needed not in roles:
            raise ValueError(f"{key!r} has no {needed}")
    shape = roles["keypoints"].shape
    count = check_count(shape[0] if shape else None)
    if all(0 in roles[needed].shape for needed in ("keypoints", "descriptors")):
        return 0  # empty arrays can have any shape
    shapes = {"keypoints": (count, 4), "descriptors": (count, DESCRIPTOR), "image_size": (2,), "response": (count,)}
    shapes["colors"] = (count, COLORS)
    for role, array in roles.items():
        floats = array.dtype.kind == "f"
        if array.shape != shapes[role] or not (floats or role == "image_size" or array.dtype == np.uint8):
            raise ValueError(
                f"{array.name!r} must be a floating-point array {shapes[role]}, got {array.dtype.name} {array.shape}"
            )
    return count


def _size(key: str, array: StoredArray | None) -> Size | None:
    if array is None:
        return None
    values = array.load().tolist()
    if all(value == int(value) for value in values):
        values = [int(value) for value in values]
    if not is_size(tuple(values)):
        raise ValueError(f"image_size of {key!r} must be two positive integers (height, width), got {values}")
    return values[0], values[1]


def write_keypoints(path: StrPath, records: Iterable[KeypointRecord], *, dtype: str = "float32") -> None:
    """Write keypoints to an ``.npz`` file, atomically, with one image in memory at a time.

    Args:
        path: Path of the file, with the suffix ``.npz``. An earlier file is replaced only on success. Equal keypoints
            give identical files.
        records: Any iterable of records, such as ``file.records()`` of a file of another format, consumed once.
        dtype: Stored dtype of the descriptors: ``"float32"``, ``"float16"``, or ``"uint8"`` (512 times the descriptor,
            at most 255).

    Raises:
        ValueError: Suffix or `dtype` is invalid, a key is repeated or invalid, keypoints are invalid or of several
            images, a size is not a pair of positive integers, or there is no record.
        TypeError: A record is not a `KeypointRecord`.
        OSError: Any error of the operating system, such as a full disk. `path` is unchanged then.
    """
    if Path(path).suffix.lower() != ".npz":
        raise ValueError(f"{path}: suffix must be .npz, got {Path(path).suffix!r}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in _arrays(records, dtype):
            member = zipfile.ZipInfo(f"{name}.npy")  # constant date, so that equal keypoints give equal bytes
            with archive.open(member, "w", force_zip64=True) as output:
                np.lib.format.write_array(output, array, allow_pickle=False)
        if not archive.infolist():
            raise ValueError(f"{path}: no images to write")


def _arrays(records: Iterable[KeypointRecord], dtype: str) -> Iterator[tuple[str, NDArray[Any]]]:
    seen: set[str] = set()
    for record in records:
        check_type(record, KeypointRecord)
        key, keypoints, size = record.key, record.keypoints, record.image_size
        if problem := key_problem(key):
            raise ValueError(problem)
        if key in seen or len(seen) == MAX_IMAGES:
            raise ValueError(
                f"key {key!r} is used twice" if key in seen else f"at most {MAX_IMAGES} images are allowed"
            )
        seen.add(key)
        if len(keypoints) != 1:
            raise ValueError(f"{key!r}: keypoints must be those of one image, got a batch of {len(keypoints)}")
        if size is not None and not is_size(size):
            raise ValueError(f"{key!r}: image_size must be two positive integers (height, width), got {size!r}")
        keypoints = keypoints.to_numpy()
        frames = np.stack([getattr(keypoints, name) for name in ("x", "y", "scale", "angle")], axis=1)
        descriptors = keypoints.descriptors
        response = keypoints.response
        try:
            as_keypoints(frames, descriptors, lowe_order=False, normalization="l2", response=response)
        except ValueError as error:
            raise ValueError(f"{key!r}: {error}") from error
        yield f"{key}/keypoints", frames
        if dtype == "uint8":
            descriptors = np.minimum(np.round(descriptors * np.float32(_SCALE)), 255)
        yield f"{key}/descriptors", descriptors.astype(dtype)
        yield f"{key}/response", response
        if keypoints.colors is not None:
            yield f"{key}/colors", keypoints.colors
        if size is not None:
            yield f"{key}/image_size", np.array(size, np.int64)
