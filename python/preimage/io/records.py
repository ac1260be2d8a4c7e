"""Features in memory: one image's, and a collection read on demand whatever file is behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from preimage.io.atomic import StrPath, key_problem
from preimage.io.keyed import KeyedFile
from preimage.io.layout import Size, is_size, shape_problem
from preimage.spec import Spec


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


class FeatureFile(KeyedFile):
    """Features of several images with one spec, read image by image on demand.

    Indexing by position or key gives a float32 tensor of its own memory, (C, h, w) or (C,); iterating gives
    `FeatureRecord`s with float32 arrays; doubles beyond its range become infinite. Every access may raise
    `FileFormatError` if the file behind it fails.

    Attributes:
        path: where the features came from.
        spec: the representation they are of.
        keys: one per image, in file order.
        original_sizes: (height, width) per image as decoded, pixels.
        processed_sizes: (height, width) per image of what the features were computed from, pixels.
        dtype: how they are stored: ``"float16"``, ``"float32"``, ``"float64"``, or ``"uint8"`` (VLFeat's descriptors).
    """

    def __init__(
        self,
        path: StrPath,
        spec: Spec,
        *,
        keys: Sequence[str],
        original_sizes: Sequence[Size],
        processed_sizes: Sequence[Size],
        dtype: str,
        load: Callable[[int], NDArray[Any]],
    ) -> None:
        super().__init__(path, keys)
        self.spec = spec
        self.original_sizes = tuple(original_sizes)
        self.processed_sizes = tuple(processed_sizes)
        self.dtype = dtype
        self._load = load

    def __getitem__(self, index: int | str) -> torch.Tensor:
        """Features of one image, (C, h, w) or (C,) float32; ``KeyError`` / ``IndexError`` if there is none."""
        return torch.from_numpy(self._array(self._position(index)))

    def __iter__(self) -> Iterator[FeatureRecord]:
        return map(self.record, range(len(self)))

    def record(self, index: int | str) -> FeatureRecord:
        """Features (float32), key and sizes of one image."""
        position = self._position(index)
        return FeatureRecord(
            self.keys[position],
            self._array(position),
            self.original_sizes[position],
            self.processed_sizes[position],
        )

    def stack(self) -> torch.Tensor:
        """All images in one tensor, (B, C, h, w) or (B, C) float32; ``ValueError`` if their shapes differ."""
        if not self.keys:
            raise ValueError(f"{self.path}: holds no image to stack")
        first = self[0]
        stacked = torch.empty((len(self), *first.shape))
        for position, key in enumerate(self.keys):
            features = self[position]
            if features.shape != first.shape:
                raise ValueError(
                    f"{self.path}: {key!r} has shape {tuple(features.shape)} and {self.keys[0]!r} has "
                    f"{tuple(first.shape)}; features of different sizes do not stack, take them one by one"
                )
            stacked[position] = features
        return stacked

    def _array(self, position: int) -> NDArray[np.float32]:
        with np.errstate(over="ignore", invalid="ignore"):  # doubles beyond float32 become infinite
            return np.array(self._load(position), dtype=np.float32, order="C")  # always a copy: nobody holds the file


def check_record(record: FeatureRecord, spec: Spec, seen: set[str]) -> None:
    """Refuse a record no file should hold, or whose key is in `seen`, to which it is added.

    Raises:
        ValueError: a key that repeats or is no relative path, features that do not fit the spec, or a size that is
            not two whole numbers >= 1.
        TypeError: features that are not a floating-point NumPy array.
    """
    if problem := key_problem(record.key):
        raise ValueError(problem)
    if record.key in seen:
        raise ValueError(f"key {record.key!r} comes twice; every image needs a key of its own")
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
    seen.add(record.key)


def stored_array(record: FeatureRecord, dtype: str) -> NDArray[Any]:
    """The features as they go to disk, little-endian; ``ValueError`` if they overflow `dtype`."""
    kind = {"float32": "<f4", "float16": "<f2"}[dtype]
    try:
        with np.errstate(over="raise"):
            return record.features.astype(kind, order="C", copy=False)
    except FloatingPointError:
        largest = np.abs(record.features[np.isfinite(record.features)]).max()
        raise ValueError(f"{record.key!r}: features up to {largest:g} do not fit in {dtype}") from None
