"""Assign the arrays in a file to images, and convert them to planar features."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.arrays import conventions
from preimage.io.arrays.keys import StoredKeys, check_keys
from preimage.io.atomic import StrPath
from preimage.io.feature_file import MAX_IMAGES, FeatureFile, FeatureRecord, Size, check_record, is_size, stored_array
from preimage.spec import Spec

MAX_ARRAY_BYTES = 4 << 30  # maximum size of an array, which can be a thousand times smaller in a compressed file

_FLOATS = "float16, float32 or float64"
_ROLE = re.compile(r"(?:(?P<key>.+)[/_.])?(?P<role>descriptors|descrs|d|frames|f)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class StoredArray:
    """Array in a file, read on demand.

    Attributes:
        name: Name in the file: the key of an image, or key and role of the array.
        shape: Stored shape.
        dtype: Stored dtype.
        load: Function that reads the array; it can raise `FileFormatError`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], NDArray[Any]]


@dataclass(frozen=True)
class _Image:
    key: str
    shape: tuple[int, ...]
    load: Callable[[], NDArray[Any]]


def feature_file(
    path: StrPath,
    spec: Spec,
    convention: str,
    arrays: Sequence[StoredArray],
    *,
    keys: Sequence[str] | StoredKeys | None = None,
    processed_sizes: Sequence[Size] | Size | None = None,
    stored_sizes: Sequence[Size | None] | None = None,
    original_sizes: Sequence[Size | None] | None = None,
    advice: str = "",
) -> FeatureFile:
    """Return the features contained in the arrays of a file.

    Args:
        path: Path of the file, for error messages and the key of a single image.
        spec: Spec of the features.
        convention: Convention of the arrays, which the spec must support.
        arrays: One stack of several images, one array per image, or descriptors and frames of each image.
        keys: Keys of the images, instead of the arrays' names, from the caller or from a file.
        processed_sizes: (height, width) in pixels of the images that the features were computed from, one for all or
            one per image.
        stored_sizes: Sizes stated in the file, one per image, which then has one array each. Without `processed_sizes`
            they are used for vectors, and for maps if the shape can result from that size (some programs store the size
            before resizing).
        original_sizes: Sizes of the decoded images stated in the file, one per image; by default the processed sizes.
        advice: What to do about a file with other arrays than features, for the error message.

    Raises:
        FileFormatError: The arrays do not match spec and convention, or keys from a file do not match the arrays.
        ValueError: Keys from the caller or sizes do not match the file, or sizes are missing.
    """
    try:
        if not arrays:
            raise ValueError("contains no arrays")
        if conventions.has_frames(spec, convention):
            pairs = _pairs(Path(path).stem, arrays).items()
            images = [_dense_sift_image(key, spec, convention, *pair) for key, pair in pairs]
        elif len(arrays) == 1 and stored_sizes is None:
            _check_not_uint8(arrays)
            images = _one_array(Path(path).stem, spec, convention, arrays[0])
        else:
            _check_not_uint8(arrays)
            if stored_sizes is None:
                _check_stack_is_alone(spec, convention, arrays, isinstance(keys, StoredKeys), advice)
            images = _images(spec, convention, arrays)
        if stored_sizes is not None and len(stored_sizes) != len(images):
            raise ValueError(f"contains {len(images)} images instead of {len(stored_sizes)}")
    except FileFormatError:
        raise
    except ValueError as error:
        raise FileFormatError(path, str(error)) from error
    given = StoredKeys(path, [image.key for image in images]) if keys is None else keys
    names = check_keys(path, given, len(images))
    if stored_sizes is None:
        stored_sizes = [None] * len(images)
    try:
        sizes = _checked_sizes(processed_sizes, [image.shape for image in images], spec, stored_sizes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    originals = sizes if original_sizes is None else original_sizes
    return FeatureFile(
        path,
        spec,
        keys=names,
        original_sizes=[given or size for given, size in zip(originals, sizes, strict=True)],
        processed_sizes=sizes,
        dtype=np.result_type(*{array.dtype for array in arrays if not _is_frames(array, spec, convention)}).name,
        load=lambda position: _native(images[position].load()),
    )


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array in native byte order, which torch requires."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def agreed_spec(path: StrPath, given: Spec | None, stored: Spec | None) -> Spec:
    """Return the given or else the stored spec.

    Raises:
        ValueError: Both are ``None``, or they differ.
    """
    if given is None and stored is None:
        raise ValueError(
            f"{path}: plain arrays do not contain a spec; give the representation and its parameters "
            "(preimage invert --representation hog -p cell_size=8) or --spec FILE.json"
        )
    if given is not None and stored is not None and (differences := stored.differences(given)):
        raise ValueError(f"{path} contains other features (file != requested): {'; '.join(differences)}")
    spec = stored if given is None else given
    assert spec is not None
    return spec


def agreed_convention(path: StrPath, given: str | None, stored: str | None) -> str | None:
    """Return the given or else the stored convention, if any.

    Raises:
        ValueError: They differ.
    """
    if given is not None and stored is not None and given != stored:
        raise ValueError(f"{path}: convention must be {stored!r}, as stated in the file, got {given!r}")
    return stored if given is None else given


def check_array(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise ``ValueError`` unless an array of this shape and dtype can be features."""
    if (dtype.kind != "f" and dtype != np.uint8) or dtype.itemsize > 8:
        raise ValueError(f"{name!r} must be an array of {_FLOATS}, got {dtype.name}")
    if min(shape, default=1) < 1:
        raise ValueError(f"{name!r} must not be empty, got shape {shape}")
    count = dtype.itemsize
    for side in shape:
        count *= side
    if count > MAX_ARRAY_BYTES:
        raise ValueError(f"{name!r} must have at most {MAX_ARRAY_BYTES} bytes, got {count}")


def stored_records(
    spec: Spec, convention: str, records: Iterable[FeatureRecord], dtype: str
) -> Iterator[tuple[FeatureRecord, dict[str, NDArray[Any]]]]:
    """Check records, and yield each with its arrays to write, by role (see `conventions.from_planar`)."""
    seen: set[str] = set()
    for record in records:
        check_record(record, spec, seen)
        if len(seen) > MAX_IMAGES:
            raise ValueError(f"at most {MAX_IMAGES} images fit in one file: write several files")
        try:
            arrays = conventions.from_planar(spec, convention, record.features)
        except ValueError as error:
            raise ValueError(f"{record.key!r}: {error}") from error
        kept = {"frames": arrays.pop("frames")} if "frames" in arrays else {}
        stored = {role: stored_array(replace(record, features=array), dtype) for role, array in arrays.items()}
        yield record, stored | kept


def _check_not_uint8(arrays: Sequence[StoredArray]) -> None:
    for array in arrays:
        if array.dtype == np.uint8:
            raise ValueError(
                f"{array.name!r} must be an array of {_FLOATS}, got uint8 (uint8 SIFT descriptors need the "
                f"representation dense-sift and the convention matlab, matlab-transposed or cyvlfeat)"
            )


def _images(spec: Spec, convention: str, arrays: Sequence[StoredArray]) -> list[_Image]:
    """Return the images of arrays that are one image each."""
    images = []
    for array in arrays:
        try:
            shape = conventions.planar_shape(spec, convention, array.shape)
        except ValueError as error:
            raise ValueError(f"{array.name!r}: {error}") from error
        images.append(_Image(array.name, shape, _planar(spec, convention, array.load)))
    return images


def _check_stack_is_alone(spec: Spec, convention: str, arrays: Sequence[StoredArray], keyed: bool, advice: str) -> None:
    """Raise ``ValueError`` if a file contains a stack of images and other arrays, and not just one array per image."""

    def is_image(array: StoredArray) -> bool:
        try:
            return bool(conventions.planar_shape(spec, convention, array.shape))
        except ValueError:
            return False

    images = sum(map(is_image, arrays))
    stacks = [array for array in arrays if conventions.stack_of(spec, convention, array.shape)]
    if stacks and (images < len(arrays) if keyed else not images):
        raise ValueError(stack_problem(arrays, stacks, keyed) + advice)


def stack_problem(arrays: Sequence[StoredArray], stacks: Sequence[StoredArray], keyed: bool) -> str:
    """Return the message for a file with a stack of images and other arrays.

    Args:
        arrays: All arrays of the file except its keys.
        stacks: Those of them that can be the stack.
        keyed: Whether the file contains keys.
    """

    def listed(some: Sequence[StoredArray]) -> str:
        return ", ".join(f"{array.name!r} {array.shape}" for array in some[:3]) + (", ..." if len(some) > 3 else "")

    wanted = "one stacked array and `keys` were expected" if keyed else "one stacked array was expected"
    if len(stacks) != 1:
        return f"{wanted}, got {len(arrays)} arrays: {listed(arrays)}"
    others = [array for array in arrays if array is not stacks[0]]
    return f"{wanted}; besides {listed(stacks)} also found {listed(others)}"


def _one_array(stem: str, spec: Spec, convention: str, array: StoredArray) -> list[_Image]:
    """Return the images in a single array, which is one image or a stack."""
    stack = conventions.stack_of(spec, convention, array.shape)
    if stack is None:
        try:
            shape = conventions.planar_shape(spec, convention, array.shape)
        except ValueError as error:
            problem, dot, reason = str(error).partition(". ")
            raise ValueError(f"{problem}, or be a stack of such arrays{dot}{reason}") from error
        return [_Image(array.name or stem, shape, _planar(spec, convention, array.load))]
    axis, count = stack
    if count > MAX_IMAGES:
        raise ValueError(f"a stack must have at most {MAX_IMAGES} images, got {count}")
    shape = conventions.planar_shape(spec, convention, array.shape[:axis] + array.shape[axis + 1 :])
    whole = functools.cache(array.load)

    def part(index: int) -> NDArray[Any]:
        found: NDArray[Any] = np.moveaxis(whole(), axis, 0)[index]
        return found

    loads = (functools.partial(part, index) for index in range(count))
    return [_Image(f"{index:05d}", shape, _planar(spec, convention, load)) for index, load in enumerate(loads)]


def _planar(spec: Spec, convention: str, load: Callable[[], NDArray[Any]]) -> Callable[[], NDArray[Any]]:
    return lambda: conventions.to_planar(spec, convention, load())


def role_of(name: str) -> tuple[str, str]:
    """Return key and role (``"frames"`` or ``"descriptors"``) of an array; both are empty for other names."""
    match = _ROLE.fullmatch(name)
    if match is None:
        return "", ""
    return match["key"] or "", "descriptors" if match["role"].lower().startswith("d") else "frames"


def _pairs(stem: str, arrays: Sequence[StoredArray]) -> dict[str, tuple[StoredArray, StoredArray]]:
    """Return descriptors and frames of each image, by key."""
    found: dict[str, dict[str, StoredArray]] = {}
    for array in arrays:
        key, role = role_of(array.name)
        if not role:
            raise ValueError(
                f"{array.name!r}: dense SIFT in this convention must be pairs of arrays named descriptors and frames "
                "(D and F, KEY_descriptors and KEY_frames)"
            )
        if found.setdefault(key or stem, {}).setdefault(role, array) is not array:
            raise ValueError(f"{array.name!r}: two arrays of {role} for one image")
    for key, roles in found.items():
        if len(roles) < 2:
            raise ValueError(f"image {key!r} must have descriptors and frames, got only {next(iter(roles))}")
    return {key: (roles["descriptors"], roles["frames"]) for key, roles in found.items()}


def _dense_sift_image(key: str, spec: Spec, convention: str, descriptors: StoredArray, frames: StoredArray) -> _Image:
    if frames.dtype.kind != "f" or len(frames.shape) != 2 or not {2, 3} & set(frames.shape):
        sparse = "; sparse SIFT (4 numbers per frame) is read without representation and convention"
        raise ValueError(
            f"{frames.name!r}: frames of dense SIFT must have 2 or 3 floating-point numbers each, got {frames.shape}"
            + (sparse if 4 in frames.shape else "")
        )
    try:
        size = conventions.dense_sift_grid(spec, convention, descriptors.shape, frames.load())
    except FileFormatError:
        raise
    except ValueError as error:
        raise ValueError(f"{descriptors.name!r}: {error}") from error
    return _Image(key, (128, *size), lambda: conventions.dense_sift_to_planar(convention, descriptors.load(), size))


def _is_frames(array: StoredArray, spec: Spec, convention: str) -> bool:
    return conventions.has_frames(spec, convention) and role_of(array.name)[1] == "frames"


def _checked_sizes(
    sizes: Sequence[Size] | Size | None,
    shapes: Sequence[tuple[int, ...]],
    spec: Spec,
    stored: Sequence[Size | None],
) -> list[Size]:
    if sizes is None:
        return [_likely_size(spec, shape, size) for shape, size in zip(shapes, stored, strict=True)]
    given: list[Any] = [sizes] * len(shapes) if is_size(sizes) else list(sizes)
    if len(given) != len(shapes) or not all(map(is_size, given)):
        raise ValueError(
            f"processed_sizes must be one (height, width), or {len(shapes)} of them in a list, got {sizes!r:.200}"
        )
    return [(height, width) for height, width in given]


def _likely_size(spec: Spec, shape: tuple[int, ...], stored: Size | None) -> Size:
    """Return the stored size if features of `shape` can come from it, else the smallest possible size."""
    stride = spec.stride
    if stride is None:
        if stored is None:
            raise ValueError("processed_sizes=(height, width) is required for vectors, got None")
        return stored
    size = conventions.covered(spec, shape[1], shape[2])
    if stored is not None and all(abs(least - side) < stride for least, side in zip(size, stored, strict=True)):
        return stored
    return size
