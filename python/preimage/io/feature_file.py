"""Represent the features of one image, and files of features that are read on demand."""

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
MAX_IMAGES = 200_000  # in one file, except for feature stores

R = TypeVar("R")
V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class FeatureRecord:
    """Features of one image.

    Attributes:
        key: Name of the image: a relative path without suffix, unique within a file.
        features: (C, h, w), or (C,) for representations that return vectors; floating point.
        original_size: (height, width) of the decoded image in pixels.
        processed_size: (height, width) in pixels of the image that the features were computed from.
    """

    key: str
    features: NDArray[Any]
    original_size: Size
    processed_size: Size


class KeyedFile(Mapping[str, V], Generic[V, R]):
    """Mapping from image keys to the contents of a file; positions in the file are accepted instead of keys.

    Attributes:
        path: Path of the file or folder.
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

    def __fspath__(self) -> str:
        """Return the path, so that an open file can be passed to every function that takes a path."""
        return self.path

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r}, images={len(self)})"

    def key(self, position: int) -> str:
        """Return the key of the image at a position."""
        return self._keys[self._position(position)]

    def record(self, index: int | str) -> R:
        """Return the record of one image."""
        return self._record(self._position(index))

    def records(self) -> Iterator[R]:
        """Yield the record of each image, in file order."""
        return map(self._record, range(len(self)))

    @abc.abstractmethod
    def _load(self, position: int) -> V:
        """Read the value of the image at a position."""

    @abc.abstractmethod
    def _record(self, position: int) -> R:
        """Read the record of the image at a position."""

    def _position(self, index: int | str) -> int:
        """Return the position of a key, or the non-negative form of a position."""
        if isinstance(index, str):
            if index not in self._positions:
                raise KeyError(f"no image {index!r} in {self.path}")
            return self._positions[index]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"image index must be below {len(self)} in {self.path}, got {index}")
        return position


class FeatureFile(KeyedFile[NDArray[Any], FeatureRecord]):
    """Features of several images with one spec, each read on demand.

    A mapping from keys to arrays (C, h, w) or (C,); positions are accepted instead of keys. Every access may raise
    `FileFormatError` if the file is damaged.

    Attributes:
        path: Path of the file or folder.
        spec: Spec of the features.
        original_sizes: (N, 2) int32, (height, width) of each decoded image in pixels.
        processed_sizes: (N, 2) int32, (height, width) in pixels of the images that the features were computed from.
        dtype: Stored dtype, the widest if arrays differ: ``"float16"``, ``"float32"``, ``"float64"``, or ``"uint8"``
            (descriptors of VLFeat, which are returned as float32).
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
        """Return (height, width) in pixels of the image that the features at an index or key were computed from."""
        return _size(self.processed_sizes[self._position(index)])

    def stack(self) -> NDArray[Any]:
        """Return all features in one array, (N, C, h, w) or (N, C).

        Raises:
            ValueError: There are no features, or their shapes differ.
        """
        if not len(self):
            raise ValueError(f"{self.path}: contains no features to stack")
        first = self[0]
        stacked = np.empty((len(self), *first.shape), np.result_type(first.dtype, self.dtype))
        for position in range(len(self)):
            features = self[position]
            if features.shape != first.shape:
                raise ValueError(
                    f"{self.path}: features must have equal shapes to be stacked, {self.key(0)!r} has {first.shape} "
                    f"and {self.key(position)!r} has {features.shape}; read them one by one"
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
    """Return whether `value` is a pair of positive integers (height, width)."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) and 0 < side < 1 << 31 for side in value)
    )


def shape_problem(spec: Spec, shape: tuple[int, ...]) -> str | None:
    """Return why `shape` is not a shape of features of `spec`, or ``None`` if it is."""
    wanted = f"({spec.channels}, h, w)" if spec.stride is not None else f"({spec.channels},)"
    if len(shape) == (1 if spec.stride is None else 3) and shape[0] == spec.channels and min(shape) > 0:
        return None
    return f"features must have shape {wanted} for this spec, got {shape}"


def check_type(record: object, wanted: type) -> None:
    """Raise ``TypeError`` unless `record` is an instance of `wanted`."""
    if not isinstance(record, wanted):
        # Iterating over a file yields keys.
        name = type(record).__name__
        raise TypeError(f"records must be {wanted.__name__} objects, got {name}; those of a file are file.records()")


def check_record(record: FeatureRecord, spec: Spec, seen: set[str] | None = None) -> None:
    """Check that a record can be written, and add its key to `seen`.

    Raises:
        ValueError: The key is invalid or in `seen`, the features do not match the spec, or a size is not a pair of
            positive integers.
        TypeError: `record` is not a `FeatureRecord`, or its features are not a floating-point NumPy array.
    """
    check_type(record, FeatureRecord)
    if problem := key_problem(record.key):
        raise ValueError(problem)
    if seen is not None:
        if record.key in seen:
            raise ValueError(f"keys must be unique, got {record.key!r} twice")
        seen.add(record.key)
    features = record.features
    if not isinstance(features, np.ndarray) or features.dtype.kind != "f":
        what = getattr(features, "dtype", type(features).__name__)
        raise TypeError(f"{record.key!r}: features must be a floating-point NumPy array, got {what}")
    if problem := shape_problem(spec, features.shape):
        raise ValueError(f"{record.key!r}: {problem}")
    for name in ("original_size", "processed_size"):
        size = getattr(record, name)
        if not is_size(size):
            raise ValueError(f"{record.key!r}: {name} must be two positive integers (height, width), got {size!r}")


def stored_array(record: FeatureRecord, dtype: str) -> NDArray[Any]:
    """Return the features as a contiguous little-endian array of `dtype`.

    Raises:
        ValueError: A value overflows `dtype`.
    """
    kind = {"float32": "<f4", "float16": "<f2"}[dtype]
    try:
        with np.errstate(over="raise", invalid="ignore"):
            return record.features.astype(kind, order="C", copy=False)
    except FloatingPointError:
        largest = np.abs(record.features[np.isfinite(record.features)]).max()
        raise ValueError(f"{record.key!r}: features up to {largest:g} overflow {dtype}") from None
