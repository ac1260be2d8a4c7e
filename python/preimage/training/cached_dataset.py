"""Train on cached features: those of some random crops of every image, computed once and kept in a feature store.

The pixels of a crop are a function of the run's seed, the image and the crop's number, so only the features need to be
stored: training cuts the same crops again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from preimage.old_names import CACHE_SOURCE, SPEC_PARAMETERS, original
from preimage.pipelines.image_loading import Pixels
from preimage.representations import Representation
from preimage.spec import Spec
from preimage.store import FeatureStore, shard_length
from preimage.training.config import TrainConfig
from preimage.training.dataset import Batch, CropDataset, Dataset
from preimage.training.images import ImageSet
from preimage.training.sampling import Crops, Integers, Samples, cut_square, random_square
from preimage.training.split import ImageList

_MAX_SHARD_CROPS = 4096  # maximum number of crops in a shard, which is what an interruption may lose


@dataclasses.dataclass(frozen=True)
class CacheSettings:
    """Everything that determines the features in a cache.

    Attributes:
        spec: Spec of the features.
        shape: (C, h, w) or (C,) of a crop's features.
        images: Digest of the images' keys and contents, in order.
        image_count: Number of images.
        crops: Number of crops of each image.
        size: Side of a crop in pixels.
        min_crop: Minimum area of a crop, as a fraction of the largest square in the image.
        seed: Seed of the crops.
    """

    spec: Spec
    shape: tuple[int, ...]
    images: str
    image_count: int
    crops: int
    size: int
    min_crop: float
    seed: int

    @property
    def count(self) -> int:
        """Number of crops of all images."""
        return self.image_count * self.crops

    @property
    def source(self) -> dict[str, Any]:
        """Settings in the store's index, besides spec and count."""
        return {name: getattr(self, name) for name in ("images", "crops", "size", "min_crop", "seed")}

    @property
    def shard_length(self) -> int:
        """Number of crops in a shard: all crops of some images."""
        fitting = min(_MAX_SHARD_CROPS, shard_length(self.crop_bytes("float16")))
        return max(1, fitting // self.crops) * self.crops

    def crop_bytes(self, dtype: str) -> int:
        """Return the number of bytes of a crop's features."""
        return math.prod(self.shape) * np.dtype(dtype).itemsize

    def digest(self) -> str:
        """Return the name of the cache's folder: a digest with field names of version 0.1, so that its caches match."""
        spec = self.spec.to_dict()
        spec["parameters"] = original(spec["parameters"], SPEC_PARAMETERS)
        fields = [spec, self.image_count, original(self.source, CACHE_SOURCE)]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    def crop(self, image: Pixels, index: int, number: int) -> Pixels:
        """Cut a crop of an image. Odd crops mirror the even ones before them.

        Args:
            image: (H, W, 3) uint8.
            index: Index of the image.
            number: Number of the crop, below `crops`.

        Returns:
            (size, size, 3) uint8.
        """
        height, width = image.shape[:2]
        crop = cut_square(image, *self.square((height, width), index, number), self.size)
        return crop[:, ::-1] if number % 2 else crop

    def square(self, shape: tuple[int, int], index: int, number: int) -> tuple[int, int, int]:
        """Return top, left and side of a crop of an image of shape (H, W)."""
        random = np.random.default_rng((self.seed, 3, index, number // 2))
        return random_square(shape, self.min_crop, random)

    def crop_number(self, epoch: int, index: int) -> int:
        """Return the crop of an image in an epoch: all are used, in random order, before any is used again."""
        cycle, offset = divmod(epoch, self.crops)
        return int(np.random.default_rng((self.seed, 4, index, cycle)).permutation(self.crops)[offset])


def cache_settings(config: TrainConfig, representation: Representation, images: ImageSet, crops: int) -> CacheSettings:
    """Return the settings of a run's cache with this number of crops of every image."""
    spec, cells = representation.spec, representation.feature_size(config.side, config.side)
    return CacheSettings(
        spec=spec,
        shape=(spec.channels, *(cells or ())),
        images=images.digest(),
        image_count=len(images),
        crops=crops,
        size=config.side,
        min_crop=config.min_crop,
        seed=config.seed,
    )


def crop_key(index: int, number: int) -> str:
    """Return the key of a crop in the store, such as ``"000012.3"``."""
    return f"{index:06d}.{number}"


class CachedDataset(Dataset):
    """Crops with their cached features; each epoch uses another crop of each image.

    Args:
        uncached: The dataset whose features are cached; its validation images are used as they are.
        settings: Settings of the cache.
        store: The complete cache.
    """

    def __init__(self, uncached: CropDataset, settings: CacheSettings, store: FeatureStore) -> None:
        self._uncached, self.settings, self._store = uncached, settings, store
        self.spec, self.cells, self.representation = uncached.spec, uncached.cells, uncached.representation
        self.config, self.images = uncached.config, uncached.images
        self.feature_shape, self.local_rows = settings.shape, uncached.local_rows

    def rows(self, step: int, samples: Samples, shapes: Integers) -> tuple[Crops, torch.Tensor]:
        settings = self.settings
        squares = np.empty((len(shapes), 3), np.int64)
        mirrored = np.empty(len(shapes), np.bool_)
        features = np.empty((len(shapes), *settings.shape), np.float32)
        found = zip(samples.images.tolist(), samples.epochs.tolist(), shapes.tolist(), strict=True)
        for row, (index, epoch, (height, width)) in enumerate(found):
            number = settings.crop_number(epoch, index)
            squares[row] = settings.square((height, width), index, number)
            mirrored[row] = number % 2
            features[row] = self._store[crop_key(index, number)]
        top, left, side = squares.T
        return Crops(top, left, side, mirrored), torch.from_numpy(features)

    @property
    def val_count(self) -> int:
        return self._uncached.val_count

    def image_list(self) -> ImageList:
        return self._uncached.image_list()

    def examples(self, *, with_features: bool) -> Iterator[Batch]:
        return self._uncached.examples(with_features=with_features)

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        return self._uncached.val_batches(batch_size)
