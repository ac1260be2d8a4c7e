"""Open an index of features, and match it with the photographs that the features were computed from."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from os import PathLike

import numpy as np
import torch

from preimage.io import FeatureFile, ImageSource, KeypointFile, Listing, is_keypoint_file, read_keypoints
from preimage.io.arrays import is_array_file
from preimage.io.arrays.keys import read_keys
from preimage.io.arrays.user_features import read_user_features
from preimage.keypoints import Keypoints
from preimage.pipelines.image_loading import as_batch, load, usable
from preimage.spec import Spec
from preimage.store import FeatureStore
from preimage.studies.inputs import check_finite
from preimage.studies.mitigations import Items
from preimage.training.config import DEFAULT_SIZE
from preimage.training.precomputed_dataset import image_size_of, match_features

LEAST = 4  # photographs; the nearest neighbor is taken from one half of them for the other
_MAX_BYTES = 4 << 30  # maximum size of the features in memory
SIFT = "sift"


@dataclasses.dataclass(frozen=True)
class AuditIndex:
    """Features or keypoints, and the photographs that belong to them.

    Attributes:
        path: Path of the file or store.
        file: The features or keypoints.
        spec: Spec of the features; ``None`` for keypoint files.
        side: Side in pixels to which photographs are resized and center-cropped.
        sources: Photographs with features, in their order.
        positions: Position in the file of the features of each photograph.
        listing: All photographs given.
        notes: Sentences about photographs and features that are left out.
    """

    path: str
    file: FeatureFile | KeypointFile
    spec: Spec | None
    side: int
    sources: list[ImageSource]
    positions: list[int]
    listing: Listing
    notes: tuple[str, ...]

    @property
    def is_keypoints(self) -> bool:
        """Return whether the features are sparse SIFT keypoints."""
        return self.spec is None or self.spec.representation == SIFT

    def items(self, rows: Sequence[int]) -> Items:
        """Return the features (N, C) or (N, C, h, w) float32 of some photographs, or their keypoints.

        Raises:
            ValueError: Features that are not finite, of several shapes, or too large for memory.
        """
        if self.is_keypoints:
            return Keypoints.cat([self._keypoints(row) for row in rows]).to_torch()
        assert isinstance(self.file, FeatureFile)
        first = self.file[self.positions[rows[0]]]
        if (size := 4 * first.size * len(rows)) > _MAX_BYTES:
            raise ValueError(
                f"{self.path}: the features of {len(rows)} photographs take {size >> 20} MiB of memory, at most "
                f"{_MAX_BYTES >> 20} are allowed: reduce max_images (--max-images)"
            )
        values = np.empty((len(rows), *first.shape), np.float32)
        for number, row in enumerate(rows):
            features = self.file[self.positions[row]]
            if features.shape != first.shape:
                raise ValueError(
                    f"{self.path}: features must have one shape, {self.sources[rows[0]].key!r} has {first.shape} and "
                    f"{self.sources[row].key!r} has {features.shape}: extract them at one size (--size)"
                )
            with np.errstate(over="ignore"):  # doubles beyond float32 become infinite
                values[number] = features
        tensor = torch.from_numpy(values)
        check_finite([self.sources[row].key for row in rows], tensor, f"the features in {self.path}")
        return tensor

    def _keypoints(self, row: int) -> Keypoints:
        """Return the keypoints of a photograph in the square that is compared."""
        file, position = self.file, self.positions[row]
        if isinstance(file, KeypointFile):
            size = file.sizes[position] or decoded_size(self.sources[row])
            return in_square(file[position], size, self.side)
        assert self.spec is not None and self.spec.stride is not None
        grid = np.array(file[position], np.float32)
        check_finite([self.sources[row].key], torch.from_numpy(grid)[None], f"the features in {self.path}")
        scale = float(str(self.spec.parameters.get("descriptor_scale", 1.0)))
        return Keypoints.from_grid(grid[None], self.spec.stride, descriptor_scale=scale)


def open_index(
    features: str | PathLike[str],
    listing: Listing,
    *,
    spec: Spec | None = None,
    size: int | None = None,
    keys: str | PathLike[str] | None = None,
) -> AuditIndex:
    """Open features or keypoints, and match them with photographs by key.

    Args:
        features: Feature store, plain arrays, vectors in a Parquet file or a flat FAISS index, or keypoint file.
        listing: The photographs.
        spec: Spec of features whose file contains none, if it is known.
        size: Side in pixels of the photographs, for files that do not contain it; ``None`` is 256.
        keys: File with the keys of the rows of an array, one per line. Without one, and without keys in the file or
            next to it, rows belong to the photographs sorted by key.

    Raises:
        ValueError: Features of other photographs, or fewer than four that match; another spec or size.
        FileFormatError: A damaged file, or one of another format.
    """
    path = os.fspath(features)
    notes: list[str] = []
    file: FeatureFile | KeypointFile
    if keys is not None and (not is_array_file(path) or is_keypoint_file(path)):
        raise ValueError(f"{path} contains the keys of its images: omit keys (--keys), which are for plain arrays")
    if is_keypoint_file(path):
        file = read_keypoints(path)
    elif is_array_file(path):
        file = read_user_features(
            path,
            name=None,
            image_size=DEFAULT_SIZE if size is None else size,
            spec=spec,
            keys=None if keys is None else read_keys(keys),
            default_keys=sorted(source.key for source in listing.sources),
        )
    else:
        file = FeatureStore(path)
        if spec is not None and (differences := file.spec.differences(spec)):
            raise ValueError(f"{path} contains other features (file != requested): {'; '.join(differences)}")
    if not len(file):
        raise ValueError(f"{path}: contains no images")
    pairs = match_features(listing.sources, file, allow_missing=True, note=notes.append)
    if len(pairs) < LEAST:
        raise ValueError(
            f"{path}: an audit needs at least {LEAST} photographs with features, got {len(pairs)}; keys must be paths "
            "relative to the folder of photographs, with or without suffix"
        )
    is_keypoints = isinstance(file, KeypointFile)
    side = (DEFAULT_SIZE if size is None else size) if isinstance(file, KeypointFile) else image_size_of(file, size)
    return AuditIndex(
        path=path,
        file=file,
        spec=None if is_keypoints else file.spec,  # type: ignore[union-attr]
        side=side,
        sources=[source for source, _ in pairs],
        positions=[position for _, position in pairs],
        listing=listing,
        notes=tuple(notes),
    )


def photographs(sources: Sequence[ImageSource], side: int) -> torch.Tensor:
    """Return photographs (N, 3, side, side) uint8, resized and center-cropped; ``ValueError`` for a bad one (named)."""
    return as_batch([item.pixels for item in usable(load(sources, side), None) if item.pixels is not None])


def decoded_size(source: ImageSource) -> tuple[int, int]:
    """Return (H, W) of a photograph; ``ValueError`` if it cannot be decoded."""
    return next(usable(load([source], 1), None)).original_size


def in_square(keypoints: Keypoints, size: tuple[int, int], side: int) -> Keypoints:
    """Return the keypoints of an image of (H, W) pixels in its center square, resized to `side` pixels."""
    shorter = min(size)
    factor = side / shorter
    top, left = ((length - shorter) // 2 for length in size)
    arrays = keypoints.to_numpy()
    moved = dataclasses.replace(
        arrays,
        x=((arrays.x - left + 0.5) * factor - 0.5).astype(np.float32),
        y=((arrays.y - top + 0.5) * factor - 0.5).astype(np.float32),
        scale=(arrays.scale * factor).astype(np.float32),
    )
    inside = (moved.x >= -0.5) & (moved.x < side - 0.5) & (moved.y >= -0.5) & (moved.y < side - 0.5)
    return moved.select(inside)
