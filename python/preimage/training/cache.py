"""Features of some views of every training image, computed once and kept on disk.

A view is a random crop or its mirror image. Which pixels it shows is a function of the run's seed, the image and the
view's number, so training cuts the same pixels again without keeping them.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from preimage.pipelines.loading import at_once, working_bytes
from preimage.representations import Representation
from preimage.training.cache_files import CacheFolder, CacheSettings, Rows, alone_in
from preimage.training.config import TrainConfig
from preimage.training.dataset import AT_ONCE, are_probabilities, random_square
from preimage.training.images import ImageSet
from preimage.training.prefetch import prepared

_MARGIN = 4.0  # by which later features may exceed the first shard's largest value in half precision
_COARSEST = 0.01  # error of half precision allowed, as a share of a channel's deviation
_LEAST_SHARE = 0.01  # of the mean deviation, for channels that hardly vary
_LEFT_OVER = 1 << 28  # bytes of the disk that a cache leaves free
_NOTE_EVERY = 30.0  # seconds
_LOOK_EVERY = 0.2  # seconds, for whether another run has finished

Pixels = npt.NDArray[np.uint8]


def cache_settings(config: TrainConfig, representation: Representation, images: ImageSet, views: int) -> CacheSettings:
    """Return what a run's cache of so many views would hold."""
    spec, cells = representation.spec, representation.feature_size(config.side, config.side)
    return CacheSettings(
        spec=spec,
        images=images.digest(),
        image_count=len(images),
        views=views,
        size=config.side,
        min_crop=config.min_crop,
        seed=config.seed,
        shape=(spec.channels, *(cells or ())),
    )


def view_of(image: Pixels, settings: CacheSettings, index: int, view: int) -> Pixels:
    """(size, size, 3): a view's pixels, of image number `index`. Odd views mirror the even ones before them."""
    random = np.random.default_rng((settings.seed, 3, index, view // 2))
    crop = random_square(image, settings.size, settings.min_crop, random)
    return crop[:, ::-1] if view % 2 else crop


def view_at(settings: CacheSettings, index: int, epoch: int) -> int:
    """The view that an epoch takes of image number `index`: each comes once, in random order, before any returns."""
    turn, place = divmod(epoch, settings.views)
    return int(np.random.default_rng((settings.seed, 4, index, turn)).permutation(settings.views)[place])


def bytes_missing(settings: CacheSettings, folder: Path) -> int:
    """About the bytes that the cache has yet to write there, in half precision."""
    there = sum(path.stat().st_size for path in (folder / settings.digest()).glob("shard-*.npy"))
    return max(0, settings.rows * settings.row_bytes("float16") - there)


def bytes_free(folder: Path) -> int:
    """What a cache may fill of the disk where `folder` is or will be."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free - _LEFT_OVER


class NoRoomError(ValueError):
    """The disk is too small for a cache."""


class _OverflowError(Exception):
    """Features that half precision does not hold."""


class CacheBuilder:
    """Fills a cache, and takes over what is there of it.

    Args:
        settings: what it is to hold.
        folder: of caches; this one's is a folder in it.
        representation: computes the features.
        images: the training images.
        device: where they are computed.
        workers: threads that cut crops.
        note: gets sentences about what goes on.
        interrupted: once set, the building stops with a ``KeyboardInterrupt``; whole shards are kept.
    """

    def __init__(
        self,
        settings: CacheSettings,
        folder: Path,
        representation: Representation,
        images: ImageSet,
        *,
        device: torch.device,
        workers: int,
        note: Callable[[str], None],
        interrupted: threading.Event,
    ) -> None:
        self._settings, self._representation, self._images = settings, representation, images
        self._device, self._workers, self._note, self._interrupted = device, workers, note, interrupted
        self._path = folder / settings.digest()
        self._cache: CacheFolder

    def build(self) -> CacheFolder:
        """The complete cache. Of several runs that want to fill it one does, and the others wait.

        Raises:
            NoRoomError: the disk is too small.
            ValueError: it is of other features, or its features are NaN or infinite (names the image).
            FileFormatError: its manifest or an image is damaged.
        """
        with alone_in(self._path, self._wait):
            self._cache = CacheFolder(self._path, self._settings)
            return self._filled()

    def _wait(self, waited: float) -> None:
        """While another run fills the cache."""
        if not waited:
            self._note(f"another run fills {self._path}: waiting for it")
        if self._interrupted.wait(_LOOK_EVERY):
            raise KeyboardInterrupt

    def _filled(self) -> CacheFolder:
        try:
            self._fill()
        except _OverflowError as error:
            self._note(f"{error}: the cache is begun anew in float32")
            self._cache.decide("float32")
            self._fill()
        return self._cache

    def _fill(self) -> None:
        settings, cache = self._settings, self._cache
        missing = [shard for shard in range(settings.shards) if not self._is_whole(shard)]
        if not missing:
            self._note(f"features of {settings.views} views of every image: all are in {cache.path}")
            return
        self._check_room(missing)
        begin = told = time.monotonic()
        for count, shard in enumerate(missing):
            rows = self._rows(shard)
            if cache.dtype is None:
                cache.decide("float16" if _half_will_do(rows) else "float32")
                self._check_room(missing)
            elif cache.dtype == "float16":
                self._check_half(shard, rows)
            self._write(shard, rows, missing[count:])
            if time.monotonic() - told > _NOTE_EVERY:
                told = time.monotonic()
                left = (told - begin) / (count + 1) * (len(missing) - count - 1)
                self._note(f"shard {count + 1} of {len(missing)} of the feature cache, {left / 60:.0f} minutes left")
        count = sum(len(settings.rows_of(shard)) for shard in missing)
        self._note(f"features of {count} of {settings.rows} views computed in {time.monotonic() - begin:.0f} s")

    def _write(self, shard: int, rows: Rows, missing: Sequence[int]) -> None:
        try:
            self._cache.write(shard, rows)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._check_room(missing)  # something else has filled the disk meanwhile
            raise NoRoomError(f"{self._cache.path}: {error.strerror}") from error

    def _is_whole(self, shard: int) -> bool:
        state = self._cache.state(shard)
        if state not in ("whole", "absent"):
            self._note(f"shard {shard} of {self._cache.path} is damaged and computed anew: {state}")
            self._cache.remove(shard)
        return state == "whole"

    def _check_room(self, missing: Sequence[int]) -> None:
        settings, cache = self._settings, self._cache
        row = settings.row_bytes(cache.dtype or "float16")
        needed, free = sum(len(settings.rows_of(shard)) for shard in missing) * row, bytes_free(cache.path)
        if needed > free:
            raise NoRoomError(
                f"{cache.path}: {size_text(needed)} of features do not fit on this disk ({size_text(max(free, 0))} "
                "to spare): give fewer cache_views, another cache_folder, or cache='off'"
            )

    def _rows(self, shard: int) -> Rows:
        """The features of a shard's views."""
        settings = self._settings
        wanted = settings.rows_of(shard)
        together = at_once(working_bytes(self._representation, settings.size, settings.size), AT_ONCE)
        parts = [wanted[first : first + together] for first in range(0, len(wanted), together)]
        rows = np.empty((len(wanted), *settings.shape), np.float32)
        done = 0
        with contextlib.closing(
            prepared(lambda part: self._pixels(parts[part]), 0, len(parts), self._workers)
        ) as batches:
            for pixels in batches:
                if self._interrupted.is_set():
                    raise KeyboardInterrupt
                features = self._features(pixels)
                rows[done : done + len(features)] = features
                done += len(features)
        if not np.isfinite(rows).all():
            bad = int(np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))[0])
            raise ValueError(f"features of {self._name(wanted[bad])} are NaN or infinite")
        return rows

    def _features(self, pixels: torch.Tensor) -> Rows:
        settings = self._settings
        with torch.no_grad():
            features: Rows = self._representation(pixels.to(self._device)).float().cpu().numpy()
        if features.shape[1:] != settings.shape:
            name = settings.spec.representation
            raise ValueError(f"{name} gives features {features.shape[1:]}, but {settings.shape} by its spec")
        return features

    def _pixels(self, rows: range) -> torch.Tensor:
        views = [self._view(row) for row in rows]
        return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)

    def _view(self, row: int) -> Pixels:
        index, view = divmod(row, self._settings.views)
        image = self._images.usable(index)
        if image is None:  # nobody will ask for its views: another image takes its turns
            return np.zeros((self._settings.size, self._settings.size, 3), np.uint8)
        return view_of(image, self._settings, index, view)

    def _check_half(self, shard: int, rows: Rows) -> None:
        largest = np.abs(rows).reshape(len(rows), -1).max(axis=1)
        worst = int(largest.argmax())
        if largest[worst] > np.finfo(np.float16).max:
            name = self._name(self._settings.rows_of(shard)[worst])
            raise _OverflowError(f"features of {name} reach {largest[worst]:g}, more than half precision holds")

    def _name(self, row: int) -> str:
        return self._images.sources[row // self._settings.views].name


def _half_will_do(rows: Rows) -> bool:
    """Whether half precision has room for features like these, and tells them apart.

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


def size_text(count: int) -> str:
    """A number of bytes for a person."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
