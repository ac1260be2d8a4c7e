"""Features in memory: one image's, and a collection read on demand whatever file is behind it."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preimage.io.atomic import StrPath, key_problem
from preimage.spec import Spec

Size = tuple[int, int]
DTYPES = ("float32", "float16")
MAX_IMAGES = 200_000  # in one file of another format

R = TypeVar("R")
V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class FeatureRecord:
    """The features of one image.

    Attributes:
        key: names the image; a relative path without suffix, unique within a file.
        features: (C, h, w), or (C,) for a representation that gives a vector; floating point.
        original_size: (height, width) of the image as decoded, pixels.
        processed_size: (height, width) of what the features were computed from, pixels.
    """

    key: str
    features: NDArray[Any]
    original_size: Size
    processed_size: Size


class KeyedFile(Mapping[str, V], Generic[V, R]):
    """Map keys to what a file holds of each image; positions in the file are taken in place of keys.

    Attributes:
        path: of the file or folder.
    """

    def __init__(self, path: StrPath, keys: Sequence[str]) -> None:
        self.path = os.fspath(path)
        self._keys = keys
        self._positions = dict(zip(keys, range(len(keys)), strict=True))

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._positions

    def __getitem__(self, index: int | str) -> V:
        return self._load(self._position(index))

    def key(self, position: int) -> str:
        """Return the key of the image at a position."""
        return self._keys[self._position(position)]

    def record(self, index: int | str) -> R:
        """Return all that is stored of one image."""
        return self._record(self._position(index))

    def records(self) -> Iterator[R]:
        """Yield all that is stored of each image, in file order."""
        return map(self._record, range(len(self)))

    @abc.abstractmethod
    def _load(self, position: int) -> V:
        """Read what is mapped from the key at a position."""

    @abc.abstractmethod
    def _record(self, position: int) -> R:
        """Read all that is stored of the image at a position."""

    def _position(self, index: int | str) -> int:
        """Return the position of a key, or a position counted from the end where it is negative."""
        if isinstance(index, str):
            if index not in self._positions:
                raise KeyError(f"no image {index!r} in {self.path}")
            return self._positions[index]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"image {index} of {self.path}, which holds {len(self)}")
        return position


class FeatureFile(KeyedFile[NDArray[Any], FeatureRecord]):
    """Features of several images with one spec, read image by image on demand.

    A mapping from keys to arrays (C, h, w) or (C,); positions are taken in place of keys. Every access may raise
    `FileFormatError` if the file behind it fails.

    Attributes:
        path: where the features came from.
        spec: the representation they are of.
        original_sizes: (N, 2), (height, width) of each image as decoded, pixels.
        processed_sizes: (N, 2), (height, width) of what the features were computed from, pixels.
        dtype: of the arrays, as stored: ``"float16"``, ``"float32"``, ``"float64"``, or ``"uint8"`` (VLFeat's
            descriptors, which come as float32); where arrays differ, the widest.
    """

    def __init__(
        self,
        path: StrPath,
        spec: Spec,
        *,
        keys: Sequence[str],
        original_sizes: ArrayLike,
        processed_sizes: ArrayLike,
        dtype: str,
        load: Callable[[int], NDArray[Any]],
    ) -> None:
        super().__init__(path, keys)
        self.spec = spec
        self.original_sizes = np.asarray(original_sizes, np.int32).reshape(-1, 2)
        self.processed_sizes = np.asarray(processed_sizes, np.int32).reshape(-1, 2)
        self.dtype = dtype
        self._read = load

    def processed_size(self, index: int | str) -> Size:
        """Return (height, width) of what the features of one image were computed from, pixels."""
        return _size(self.processed_sizes[self._position(index)])

    def stack(self) -> NDArray[Any]:
        """Return all features in one array, (N, C, h, w) or (N, C); ``ValueError`` if their shapes differ."""
        if not len(self):
            raise ValueError(f"{self.path}: holds no image to stack")
        first = self[0]
        stacked = np.empty((len(self), *first.shape), np.result_type(first.dtype, self.dtype))
        for position in range(len(self)):
            features = self[position]
            if features.shape != first.shape:
                raise ValueError(
                    f"{self.path}: {self.key(position)!r} has shape {features.shape} and {self.key(0)!r} has "
                    f"{first.shape}; features of different sizes do not stack, take them one by one"
                )
            stacked[position] = features
        return stacked

    def _load(self, position: int) -> NDArray[Any]:
        return self._read(position)

    def _record(self, position: int) -> FeatureRecord:
        sizes = _size(self.original_sizes[position]), _size(self.processed_sizes[position])
        return FeatureRecord(self._keys[position], self._load(position), *sizes)


def _size(pair: NDArray[Any]) -> Size:
    return int(pair[0]), int(pair[1])


def is_size(value: object) -> bool:
    """Return whether `value` is two whole numbers >= 1: (height, width)."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) and 0 < side < 1 << 31 for side in value)
    )


def shape_problem(spec: Spec, shape: tuple[int, ...]) -> str | None:
    """Return why features of `shape` do not fit `spec`, or ``None`` when they do."""
    wanted = f"({spec.channels}, h, w)" if spec.stride is not None else f"({spec.channels},)"
    if len(shape) == (1 if spec.stride is None else 3) and shape[0] == spec.channels and min(shape) > 0:
        return None
    return f"the spec asks for features {wanted}, got {shape}"


def check_type(record: object, wanted: type) -> None:
    """Refuse what is no record, such as the keys that iterating over a file gives; ``TypeError``."""
    if not isinstance(record, wanted):
        name = type(record).__name__
        raise TypeError(f"every record is a {wanted.__name__}, got {name}: a file's are file.records()")


def check_record(record: FeatureRecord, spec: Spec, seen: set[str] | None = None) -> None:
    """Refuse a record that no file should hold, or whose key is in `seen`, to which it is added.

    Raises:
        ValueError: a key that repeats or is no relative path, features that do not fit the spec, or a size that is
            not two whole numbers >= 1.
        TypeError: no record, or features that are not a floating-point NumPy array.
    """
    check_type(record, FeatureRecord)
    if problem := key_problem(record.key):
        raise ValueError(problem)
    if seen is not None:
        if record.key in seen:
            raise ValueError(f"key {record.key!r} comes twice; every image needs a key of its own")
        seen.add(record.key)
    features = record.features
    if not isinstance(features, np.ndarray) or features.dtype.kind != "f":
        what = getattr(features, "dtype", type(features).__name__)
        raise TypeError(f"{record.key!r}: features are a floating-point NumPy array, got {what}")
    if problem := shape_problem(spec, features.shape):
        raise ValueError(f"{record.key!r}: {problem}")
    for name in ("original_size", "processed_size"):
        size = getattr(record, name)
        if not is_size(size):
            raise ValueError(f"{record.key!r}: {name} is (height, width), whole numbers >= 1, got {size!r}")


def stored_array(record: FeatureRecord, dtype: str) -> NDArray[Any]:
    """Return the features as they go to disk, little-endian; ``ValueError`` if they overflow `dtype`."""
    kind = {"float32": "<f4", "float16": "<f2"}[dtype]
    try:
        with np.errstate(over="raise"):
            return record.features.astype(kind, order="C", copy=False)
    except FloatingPointError:
        largest = np.abs(record.features[np.isfinite(record.features)]).max()
        raise ValueError(f"{record.key!r}: features up to {largest:g} do not fit in {dtype}") from None
