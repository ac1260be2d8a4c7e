"""Training on cached features: those of some random crops of every image, computed once into a feature store.

A view is a random crop or its mirror image. Which pixels it shows is a function of the run's seed, the image and the
view's number, so training cuts the same pixels again without keeping them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.pipelines.loading import at_once, working_bytes
from preimage.pipelines.prefetch import in_order
from preimage.representations import Representation
from preimage.spec import Spec
from preimage.store import FeatureStore, StoreWriter, open_writer, shard_length
from preimage.training.config import TrainConfig
from preimage.training.dataset import AT_ONCE, Batch, CropDataset, Dataset, are_probabilities, images_of, random_square
from preimage.training.images import ImageList, ImageSet, Note, Pixels

_SHARD_VIEWS = 4096  # at most: what an interruption may cost
_MARGIN = 4.0  # by which later features may exceed the first shard's largest value in half precision
_COARSEST = 0.01  # error of half precision allowed, as a share of a channel's deviation
_LEAST_SHARE = 0.01  # of the mean deviation, for channels that hardly vary
_LEFT_OVER = 1 << 28  # bytes of the disk that a cache leaves free
_NOTE_EVERY = 30.0  # seconds
_LOOK_EVERY = 0.2  # seconds, for whether another run has finished

Rows = NDArray[np.float32]


class NoRoomError(ValueError):
    """The disk is too small for a cache."""


@dataclasses.dataclass(frozen=True)
class CacheSettings:
    """All that decides the features in a cache.

    Attributes:
        spec: of the features.
        shape: (C, h, w) or (C,) of a view's features.
        images: digest of the images' keys and contents, in order.
        image_count: number of images.
        views: number of views of each image.
        size: side of a view, pixels.
        min_crop: smallest area of a view, as a share of the image's largest square.
        seed: of the crops.
    """

    spec: Spec
    shape: tuple[int, ...]
    images: str
    image_count: int
    views: int
    size: int
    min_crop: float
    seed: int

    @property
    def count(self) -> int:
        """Number of views of all images."""
        return self.image_count * self.views

    @property
    def source(self) -> dict[str, Any]:
        """What the store's index says beside spec and count."""
        return {name: getattr(self, name) for name in ("images", "views", "size", "min_crop", "seed")}

    @property
    def shard_length(self) -> int:
        """Number of views in a shard: all those of some images."""
        fitting = min(_SHARD_VIEWS, shard_length(self.view_bytes("float16")))
        return max(1, fitting // self.views) * self.views

    def view_bytes(self, dtype: str) -> int:
        """Return the bytes of a view's features."""
        return math.prod(self.shape) * np.dtype(dtype).itemsize

    def digest(self) -> str:
        """Return the name of the cache's folder."""
        fields = [self.spec.to_dict(), self.image_count, self.source]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    def pixels(self, image: Pixels, index: int, view: int) -> Pixels:
        """Cut a view of image number `index`, (size, size, 3). Odd views mirror the even ones before them."""
        random = np.random.default_rng((self.seed, 3, index, view // 2))
        crop = random_square(image, self.size, self.min_crop, random)
        return crop[:, ::-1] if view % 2 else crop

    def view_in(self, epoch: int, index: int) -> int:
        """Return which view of image number `index` an epoch takes: all come, in random order, before any returns."""
        turn, place = divmod(epoch, self.views)
        return int(np.random.default_rng((self.seed, 4, index, turn)).permutation(self.views)[place])


def cache_settings(config: TrainConfig, representation: Representation, images: ImageSet, views: int) -> CacheSettings:
    """Return the settings of a run's cache with so many views of every image."""
    spec, cells = representation.spec, representation.feature_size(config.side, config.side)
    return CacheSettings(
        spec=spec,
        shape=(spec.channels, *(cells or ())),
        images=images.digest(),
        image_count=len(images),
        views=views,
        size=config.side,
        min_crop=config.min_crop,
        seed=config.seed,
    )


def view_key(index: int, view: int) -> str:
    """Return the key of a view in the store, such as ``"000012.3"``."""
    return f"{index:06d}.{view}"


class CachedDataset(Dataset):
    """Batches of views with their cached features: every epoch another view of each image, until all have come.

    Args:
        fresh: the images, and all that is not trained on.
        settings: of the cache.
        store: the complete cache.
    """

    def __init__(self, fresh: CropDataset, settings: CacheSettings, store: FeatureStore) -> None:
        self._fresh, self._settings, self._store = fresh, settings, store
        self.spec, self.cells, self.representation = fresh.spec, fresh.cells, fresh.representation
        self.config, self.images = fresh.config, fresh.images
        self.feature_shape = settings.shape

    def batch(self, step: int) -> Batch:
        config, settings = self.config, self._settings
        pixels = np.empty((config.batch_size, settings.size, settings.size, 3), np.uint8)
        features = np.empty((config.batch_size, *settings.shape), np.float32)
        for row, (place, image) in enumerate(images_of(self.images, step, config.batch_size, config.seed)):
            view = settings.view_in(place.epoch, place.image)
            pixels[row] = settings.pixels(image, place.image, view)
            features[row] = self._store[view_key(place.image, view)]
        return Batch(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(features))

    @property
    def held_out_count(self) -> int:
        return self._fresh.held_out_count

    def image_list(self) -> ImageList:
        return self._fresh.image_list()

    def examples(self, *, with_features: bool) -> Iterator[Batch]:
        return self._fresh.examples(with_features=with_features)

    def held_out(self, batch_size: int) -> Iterator[Batch]:
        return self._fresh.held_out(batch_size)


@dataclasses.dataclass(frozen=True)
class CacheBuilder:
    """Computes a cache, or what is missing of it.

    Attributes:
        settings: of the cache.
        path: its folder.
        representation: computes the features.
        images: the training images.
        device: where the features are computed.
        workers: number of threads that cut crops.
        note: called with sentences about the work.
        interrupted: once set, the building stops with a ``KeyboardInterrupt``; complete shards are kept.
    """

    settings: CacheSettings
    path: Path
    representation: Representation
    images: ImageSet
    device: torch.device
    workers: int
    note: Note
    interrupted: threading.Event

    def build(self) -> FeatureStore:
        """Return the complete cache. Of several runs that want to fill it one does, and the others wait.

        Raises:
            NoRoomError: the disk is too small.
            ValueError: the folder holds other features, or features are NaN or infinite (names the image).
            FileFormatError: the store's index or an image is damaged.
        """
        settings = self.settings
        with open_writer(
            self.path,
            settings.spec,
            None,
            count=settings.count,
            length=settings.shard_length,
            source=settings.source,
            wait=self._wait,
            remedy="remove it",
        ) as store:
            if store.index.complete and (sound := self._sound()) is not None:
                self.note(f"features of {settings.views} views of every image: all are in {self.path}")
                return sound
            for problem in store.check():
                self.note(f"{problem}: computed anew")
            self._fill(store)
            store.finish()
            return FeatureStore(self.path)

    def _sound(self) -> FeatureStore | None:
        """Return the store if nothing of it is damaged. Its features are not hashed again when they are read."""
        try:
            store = FeatureStore(self.path)
            store.verify()
        except FileFormatError:
            return None
        return store

    def _wait(self, waited: float) -> None:
        if not waited:
            self.note(f"another run fills {self.path}: waiting for it")
        if self.interrupted.wait(_LOOK_EVERY):
            raise KeyboardInterrupt

    def _fill(self, store: StoreWriter) -> None:
        """Compute and write the missing shards, in float16 where that is exact enough."""
        begin = told = time.monotonic()
        done = 0
        decided = any(entry.images for entry in store.index.shards)
        self._check_room(store, store.index.dtype if decided else "float16")
        while missing := store.index.missing:
            views, rows = self._computed(store.index.positions(missing[0]))
            dtype = store.index.dtype
            if views and not decided:
                dtype, decided = "float16" if _fits_half(rows) else "float32", True
            elif dtype == "float16" and (overflow := self._overflow(views, rows)):
                self.note(f"{overflow}: the cache is begun anew in float32")
                dtype, done = "float32", 0
            if dtype != store.index.dtype:
                store.change_dtype(dtype)
            self._check_room(store, dtype)
            self._write(store, missing[0], views, rows)
            done += len(store.index.positions(missing[0]))
            if time.monotonic() - told > _NOTE_EVERY:
                told = time.monotonic()
                left = (told - begin) / done * self._missing_views(store)
                self.note(f"{self._missing_views(store)} views to be cached, about {left / 60:.0f} minutes left")
        self.note(f"features of {done} of {self.settings.count} views computed in {time.monotonic() - begin:.0f} s")

    def _write(self, store: StoreWriter, number: int, views: list[int], rows: Rows) -> None:
        sizes = [(self.settings.size, self.settings.size)] * len(views)
        try:
            with store.shard(number) as writer:
                if views:
                    keys = [view_key(*divmod(view, self.settings.views)) for view in views]
                    writer.append(keys, rows.astype(store.index.dtype, copy=False), sizes, sizes)
                left_out = {view // self.settings.views for view in set(store.index.positions(number)) - set(views)}
                writer.skipped.extend(
                    (self.images.sources[index].name, self.images.bad[index]) for index in sorted(left_out)
                )
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise NoRoomError(f"{self.path}: {error.strerror}") from error

    def _missing_views(self, store: StoreWriter) -> int:
        return sum(len(store.index.positions(number)) for number in store.index.missing)

    def _check_room(self, store: StoreWriter, dtype: str) -> None:
        needed = self._missing_views(store) * self.settings.view_bytes(dtype)
        free = max(0, bytes_free(self.path))
        if needed > free:
            raise NoRoomError(
                f"{self.path}: {size_text(needed)} of features do not fit on this disk ({size_text(free)} to "
                "spare): give fewer cache_crops, another cache_folder, or cache='off'"
            )

    def _computed(self, positions: range) -> tuple[list[int], Rows]:
        """Return the positions that are not of bad images, and their features (B, C, h, w) or (B, C)."""
        settings = self.settings
        together = at_once(working_bytes(self.representation, settings.size, settings.size), AT_ONCE)
        parts = [positions[first : first + together] for first in range(0, len(positions), together)]
        views: list[int] = []
        rows = np.empty((len(positions), *settings.shape), np.float32)
        crops = in_order(self._crops, parts, workers=self.workers, ahead=self.workers + 2, name="crop")
        with contextlib.closing(crops):
            for found, pixels in crops:
                if self.interrupted.is_set():
                    raise KeyboardInterrupt
                if found:
                    rows[len(views) : len(views) + len(found)] = self._features(pixels)
                    views += found
        rows = rows[: len(views)]
        finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
        if not finite.all():
            raise ValueError(f"features of {self._name(views[int(finite.argmin())])} are NaN or infinite")
        return views, rows

    def _crops(self, positions: Iterable[int]) -> tuple[list[int], Pixels]:
        """Return the positions that are not of bad images, and the pixels of their views, (B, size, size, 3)."""
        settings = self.settings
        found: list[int] = []
        pixels = [np.empty((0, settings.size, settings.size, 3), np.uint8)]
        for position in positions:
            index, view = divmod(position, settings.views)
            if (image := self.images.usable(index)) is not None:
                found.append(position)
                pixels.append(settings.pixels(image, index, view)[None])
        return found, np.concatenate(pixels)

    def _features(self, pixels: Pixels) -> Rows:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        with torch.no_grad():
            features: Rows = self.representation(images.to(self.device)).float().cpu().numpy()
        if features.shape[1:] != self.settings.shape:
            name = self.settings.spec.representation
            raise ValueError(f"{name} gives features {features.shape[1:]}, but {self.settings.shape} by its spec")
        return features

    def _overflow(self, views: list[int], rows: Rows) -> str:
        """Return what float16 does not hold; empty if it holds all."""
        largest = np.abs(rows).reshape(len(rows), -1).max(axis=1, initial=0)
        worst = int(largest.argmax()) if views else 0
        if not views or largest[worst] <= np.finfo(np.float16).max:
            return ""
        return f"features of {self._name(views[worst])} reach {largest[worst]:g}, more than half precision holds"

    def _name(self, view: int) -> str:
        return self.images.sources[view // self.settings.views].name


def bytes_missing(settings: CacheSettings, folder: Path) -> int:
    """Return about how many bytes a cache in that folder of caches has yet to write, in half precision."""
    there = sum(path.stat().st_size for path in (folder / settings.digest()).glob("shard-*"))
    return max(0, settings.count * settings.view_bytes("float16") - there)


def bytes_free(folder: Path) -> int:
    """Return how many bytes a cache may take of the disk where `folder` is or will be."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free - _LEFT_OVER


def size_text(count: int) -> str:
    """Return a number of bytes for a person."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _fits_half(rows: Rows) -> bool:
    """Return whether half precision has room for features like these, and tells them apart.

    Not for probabilities: their logarithms are what a network learns from, and half precision has few small numbers.
    """
    if are_probabilities(torch.from_numpy(rows)):
        return False
    if np.abs(rows).max() * _MARGIN > np.finfo(np.float16).max:
        return False
    channels = rows.reshape(*rows.shape[:2], -1)
    errors = np.sqrt(np.square(channels - channels.astype(np.float16)).mean(axis=(0, 2)))
    deviations = channels.std(axis=(0, 2))
    least = max(_LEAST_SHARE * float(deviations.mean()), float(np.finfo(np.float32).tiny))
    return bool((errors <= _COARSEST * np.maximum(deviations, least)).all())
