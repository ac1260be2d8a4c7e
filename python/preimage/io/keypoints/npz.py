"""Our own keypoint file, plain NumPy: any program can write it, and read it.

An ``.npz`` file, compressed or not, with arrays for every image under its key (a relative path, with or without
suffix)::

    KEY/keypoints     float32 (N, 4)    x, y, scale, angle
    KEY/descriptors   (N, 128)          float16, float32 or float64; or uint8, 512 times the descriptor
    KEY/image_size    int64 (2,)        height, width, pixels; may be left out
    KEY/response      float32 (N,)      may be left out

all in the convention of `preimage.keypoints.Keypoints`. The file of a single image may leave out ``KEY/``; its key is
then the file's name without suffix.
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
from preimage.keypoints import DESCRIPTOR, Keypoints

DTYPES = ("float32", "float16", "uint8")

_ROLES = ("keypoints", "descriptors", "image_size", "response")
_SCALE = 512  # of descriptors as bytes


def read_npz(path: StrPath, normalization: str | None = None) -> KeypointFile:
    """All images of one of our files, by key.

    Raises:
        FileFormatError: no such file, damaged, or arrays of other shapes or types.
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
            )

    return KeypointFile(path, "preimage", keys=keys, sizes=sizes, counts=counts, normalization=chosen, load=load)


def _images(stem: str, arrays: list[StoredArray]) -> dict[str, dict[str, StoredArray]]:
    """The arrays by key and role."""
    images: dict[str, dict[str, StoredArray]] = {}
    for array in arrays:
        key, _, role = array.name.rpartition("/")
        if role not in _ROLES:
            raise ValueError(f"{array.name!r} is none of KEY/{', KEY/'.join(_ROLES)}")
        if images.setdefault(key or stem, {}).setdefault(role, array) is not array:
            raise ValueError(f"holds {array.name!r} twice")
        if len(images) > MAX_IMAGES:
            raise ValueError(f"has more than {MAX_IMAGES} images")
    return images


def _count(key: str, roles: dict[str, StoredArray]) -> int:
    """The number of keypoints, if all arrays have the shapes for that."""
    for needed in ("keypoints", "descriptors"):
        if needed not in roles:
            raise ValueError(f"there is no {needed} of {key!r}")
    shape = roles["keypoints"].shape
    count = check_count(shape[0] if shape else None)
    if all(0 in roles[needed].shape for needed in ("keypoints", "descriptors")):
        return 0  # nothing, in whatever shape
    right = {"keypoints": (count, 4), "descriptors": (count, DESCRIPTOR), "image_size": (2,), "response": (count,)}
    for role, array in roles.items():
        floats = array.dtype.kind == "f"
        if array.shape != right[role] or not (floats or role == "image_size" or array.dtype == np.uint8):
            raise ValueError(f"{array.name!r} is {array.dtype.name} {array.shape}; {right[role]} are right")
    return count


def _size(key: str, array: StoredArray | None) -> Size | None:
    if array is None:
        return None
    values = array.load().tolist()
    if all(value == int(value) for value in values):
        values = [int(value) for value in values]
    if not is_size(tuple(values)):
        raise ValueError(f"the image size of {key!r} is {values}; (height, width) is right")
    return values[0], values[1]


def write_keypoints(path: StrPath, records: Iterable[KeypointRecord], *, dtype: str = "float32") -> None:
    """Write keypoints as ``.npz``, atomically, one image in memory at a time.

    Args:
        path: the file to write, with the suffix ``.npz``; replaced only when all went well. Equal keypoints give equal
            files.
        records: any iterable, such as ``file.records()`` of another format's; consumed once.
        dtype: of the descriptors: ``"float32"``, ``"float16"``, or ``"uint8"`` (512 times the descriptor, at most 255).

    Raises:
        ValueError: another suffix or dtype, a key that repeats or is no relative path, keypoints that are not those of
            one image or that no file may hold, a size that is not two whole numbers >= 1, or no record at all.
        TypeError: no record.
        OSError: such as a full disk. After any error `path` is as it was.
    """
    if Path(path).suffix.lower() != ".npz":
        raise ValueError(f"{path}: the suffix is .npz")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}")
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in _arrays(records, dtype):
            member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980: equal keypoints give equal bytes
            with archive.open(member, "w", force_zip64=True) as output:
                np.lib.format.write_array(output, array, allow_pickle=False)
        if not archive.infolist():
            raise ValueError(f"{path}: no image to write")


def _arrays(records: Iterable[KeypointRecord], dtype: str) -> Iterator[tuple[str, NDArray[Any]]]:
    seen: set[str] = set()
    for record in records:
        check_type(record, KeypointRecord)
        key, keypoints, size = record.key, record.keypoints, record.image_size
        if problem := key_problem(key):
            raise ValueError(problem)
        if key in seen or len(seen) == MAX_IMAGES:
            raise ValueError(f"key {key!r} comes twice" if key in seen else f"more than {MAX_IMAGES} images")
        seen.add(key)
        if len(keypoints) != 1:
            raise ValueError(f"{key!r}: the keypoints of one image, a batch of one, got {len(keypoints)}")
        if size is not None and not is_size(size):
            raise ValueError(f"{key!r}: image_size is (height, width), whole numbers >= 1, got {size!r}")
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
        if size is not None:
            yield f"{key}/image_size", np.array(size, np.int64)
