"""From the arrays in a file to the features of images: which arrays belong to which image, in which convention."""

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
from preimage.io.atomic import StrPath, as_keys
from preimage.io.feature_file import MAX_IMAGES, FeatureFile, FeatureRecord, Size, check_record, is_size, stored_array
from preimage.spec import Spec

MAX_ARRAY_BYTES = 4 << 30  # of one array, which may lie compressed a thousandfold

_FLOATS = "float16, float32 or float64 are right"
_ROLE = re.compile(r"(?:(?P<key>.+)[/_.])?(?P<role>descriptors|descrs|d|frames|f)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class StoredArray:
    """An array in a file, read when wanted.

    Attributes:
        name: how the file calls it; an image's key, or that and the array's role.
        shape: as stored.
        dtype: as stored.
        load: reads it; raises `FileFormatError`.
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
    keys: Sequence[str] | None = None,
    processed_sizes: Sequence[Size] | Size | None = None,
    stored_sizes: Sequence[Size | None] | None = None,
    original_sizes: Sequence[Size | None] | None = None,
) -> FeatureFile:
    """The features that a file's arrays hold.

    Args:
        path: of the file, for messages and for the key of a single image.
        spec: what the features are of.
        convention: see `conventions`; checked already.
        arrays: one stack of several images, or one array per image, or descriptors and frames of each.
        keys: one per image, instead of the arrays' names.
        processed_sizes: (height, width), pixels, one for all or one each, instead of what the features cover.
        stored_sizes: what the file says of them, one each: taken where features of that shape come from an image of
            that size (some makers tell the size before resizing), and for vectors.
        original_sizes: what the file says, one each; otherwise the processed sizes.

    Raises:
        FileFormatError: the arrays do not fit spec and convention.
        ValueError: keys or sizes that do not fit the file, or sizes missing.
    """
    try:
        images = _images(Path(path).stem, spec, convention, arrays)
        if stored_sizes is not None and len(stored_sizes) != len(images):
            raise ValueError(f"holds {len(images)} images in the place of {len(stored_sizes)}")
        if keys is None:
            check_keys([image.key for image in images], len(images))
    except FileFormatError:
        raise
    except ValueError as error:
        raise FileFormatError(path, str(error)) from error
    names = check_keys([image.key for image in images] if keys is None else keys, len(images))
    if stored_sizes is None:
        stored_sizes = [None] * len(images)
    sizes = _checked_sizes(processed_sizes, [image.shape for image in images], spec, stored_sizes)
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
    """Return an array in this machine's byte order; torch takes no other."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def agreed_spec(path: StrPath, given: Spec | None, told: Spec | None) -> Spec:
    """The spec that the caller gives, or the file tells; ``ValueError`` if there is none or they differ."""
    if given is None and told is None:
        raise ValueError(
            f"{path}: plain arrays do not say what they are; give the representation and its parameters "
            "(--representation hog -p cell_size=8) or --spec FILE.json"
        )
    if given is not None and told is not None and (differences := told.differences(given)):
        raise ValueError(f"{path} holds other features (file != asked for): {'; '.join(differences)}")
    spec = told if given is None else given
    assert spec is not None
    return spec


def agreed_convention(path: StrPath, given: str | None, told: str | None) -> str | None:
    """The convention that the caller names, or the file tells, if any; ``ValueError`` if they differ."""
    if given is not None and told is not None and given != told:
        raise ValueError(f"{path} says that its convention is {told!r}, not {given!r}")
    return told if given is None else given


def check_array(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """``ValueError`` unless an array of that kind could be features and is worth reading."""
    if (dtype.kind != "f" and dtype != np.uint8) or dtype.itemsize > 8:
        raise ValueError(f"{name!r} is an array of {dtype.name}; {_FLOATS}")
    if min(shape, default=1) < 1:
        raise ValueError(f"{name!r} is an array of shape {shape}, which holds nothing")
    count = dtype.itemsize
    for side in shape:
        count *= side
    if count > MAX_ARRAY_BYTES:
        raise ValueError(f"{name!r} has {count} bytes; {MAX_ARRAY_BYTES} are allowed")


def stored_records(
    spec: Spec, convention: str, records: Iterable[FeatureRecord], dtype: str
) -> Iterator[tuple[FeatureRecord, dict[str, NDArray[Any]]]]:
    """Every record, checked, with its arrays as they go to disk, by role (see `conventions.from_planar`)."""
    seen: set[str] = set()
    for record in records:
        check_record(record, spec, seen)
        if len(seen) > MAX_IMAGES:
            raise ValueError(f"more than {MAX_IMAGES} images do not fit in one file: write several")
        try:
            arrays = conventions.from_planar(spec, convention, record.features)
        except ValueError as error:
            raise ValueError(f"{record.key!r}: {error}") from error
        kept = {"frames": arrays.pop("frames")} if "frames" in arrays else {}
        stored = {role: stored_array(replace(record, features=array), dtype) for role, array in arrays.items()}
        yield record, stored | kept


def _images(stem: str, spec: Spec, convention: str, arrays: Sequence[StoredArray]) -> list[_Image]:
    if not arrays:
        raise ValueError("holds no arrays")
    if conventions.has_frames(spec, convention):
        return [_sift_image(key, spec, convention, *pair) for key, pair in _pairs(stem, arrays).items()]
    for array in arrays:
        if array.dtype == np.uint8:
            raise ValueError(
                f"{array.name!r} is an array of uint8; {_FLOATS} (uint8 SIFT descriptors are read with "
                f"representation dense-sift and the convention matlab, matlab-transposed or cyvlfeat)"
            )
    if len(arrays) == 1:
        return _one_array(stem, spec, convention, arrays[0])
    images = []
    for array in arrays:
        try:
            shape = conventions.planar_shape(spec, convention, array.shape)
        except ValueError as error:
            raise ValueError(f"{array.name!r}: {error}") from error
        images.append(_Image(array.name, shape, _planar(spec, convention, array.load)))
    return images


def _one_array(stem: str, spec: Spec, convention: str, array: StoredArray) -> list[_Image]:
    """The images in a single array, which is one image or a stack."""
    stack = conventions.stack_of(spec, convention, array.shape)
    if stack is None:
        try:
            shape = conventions.planar_shape(spec, convention, array.shape)
        except ValueError as error:
            problem, dot, reason = str(error).partition(". ")
            raise ValueError(f"{problem}, or a stack of such{dot}{reason}") from error
        return [_Image(array.name or stem, shape, _planar(spec, convention, array.load))]
    axis, count = stack
    if count > MAX_IMAGES:
        raise ValueError(f"a stack of {count} images; {MAX_IMAGES} are allowed")
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
    """Return key and role of an array of a pair: ``"frames"``, ``"descriptors"``, or empty if it is none."""
    match = _ROLE.fullmatch(name)
    if match is None:
        return "", ""
    return match["key"] or "", "descriptors" if match["role"].lower().startswith("d") else "frames"


def _pairs(stem: str, arrays: Sequence[StoredArray]) -> dict[str, tuple[StoredArray, StoredArray]]:
    """Descriptors and frames of each image, by key."""
    found: dict[str, dict[str, StoredArray]] = {}
    for array in arrays:
        key, role = role_of(array.name)
        if not role:
            raise ValueError(
                f"{array.name!r}: dense SIFT of this convention comes as pairs of arrays named descriptors and frames "
                "(D and F, KEY_descriptors and KEY_frames)"
            )
        if found.setdefault(key or stem, {}).setdefault(role, array) is not array:
            raise ValueError(f"{array.name!r}: there are two arrays of {role} for one image")
    for key, roles in found.items():
        if len(roles) < 2:
            raise ValueError(f"there are only {next(iter(roles))} of image {key!r}: the grid needs both")
    return {key: (roles["descriptors"], roles["frames"]) for key, roles in found.items()}


def _sift_image(key: str, spec: Spec, convention: str, descriptors: StoredArray, frames: StoredArray) -> _Image:
    if frames.dtype.kind != "f" or len(frames.shape) != 2 or not {2, 3} & set(frames.shape):
        sparse = "; those of sparse SIFT (4 numbers) are read without representation and convention"
        raise ValueError(
            f"{frames.name!r}: frames of dense SIFT are 2 or 3 floating-point numbers each, got {frames.shape}"
            + (sparse if 4 in frames.shape else "")
        )
    try:
        size = conventions.sift_grid(spec, convention, descriptors.shape, frames.load())
    except FileFormatError:
        raise
    except ValueError as error:
        raise ValueError(f"{descriptors.name!r}: {error}") from error
    return _Image(key, (128, *size), lambda: conventions.sift_to_planar(convention, descriptors.load(), size))


def _is_frames(array: StoredArray, spec: Spec, convention: str) -> bool:
    return conventions.has_frames(spec, convention) and role_of(array.name)[1] == "frames"


def check_keys(keys: Sequence[str], count: int) -> list[str]:
    """The keys as `as_key` has them, if they can name that many images; else ``ValueError``."""
    if len(keys) != count:
        raise ValueError(f"{len(keys)} keys for {count} images")
    return as_keys(keys)


def _checked_sizes(
    sizes: Sequence[Size] | Size | None,
    shapes: Sequence[tuple[int, ...]],
    spec: Spec,
    told: Sequence[Size | None],
) -> list[Size]:
    if sizes is None:
        return [_likely_size(spec, shape, size) for shape, size in zip(shapes, told, strict=True)]
    given: list[Any] = [sizes] * len(shapes) if is_size(sizes) else list(sizes)
    if len(given) != len(shapes) or not all(map(is_size, given)):
        raise ValueError(f"processed_sizes is one (height, width) or {len(shapes)} of them, got {sizes!r:.200}")
    return [(height, width) for height, width in given]


def _likely_size(spec: Spec, shape: tuple[int, ...], told: Size | None) -> Size:
    """The size of the image that features of `shape` come from: as told if that is possible, else what they cover."""
    stride = spec.stride
    if stride is None:
        if told is None:
            raise ValueError("vectors do not tell the size of their images: give processed_sizes=(height, width)")
        return told
    size = conventions.covered(spec, shape[1], shape[2])
    if told is not None and all(abs(ours - theirs) < stride for ours, theirs in zip(size, told, strict=True)):
        return told
    return size
