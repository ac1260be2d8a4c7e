"""Compute a feature cache shard by shard, so that an interrupted computation can be continued."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import shutil
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.pipelines.image_loading import Pixels, at_once, working_bytes
from preimage.pipelines.prefetch import in_order
from preimage.representations import Representation
from preimage.store import FeatureStore, StoreWriter, open_writer
from preimage.training.cached_dataset import CacheSettings, crop_key
from preimage.training.dataset import MAX_BATCH, are_probabilities
from preimage.training.images import ImageSet, Note, size_text

_MARGIN = 4.0  # in half precision, later features may exceed the largest value of the first shard by this factor
_MAX_ROUNDING = 0.01  # maximum rounding error of half precision, relative to a channel's standard deviation
_MIN_DEVIATION = 0.01  # minimum standard deviation of a channel, relative to the mean over the channels
_RESERVED_BYTES = 1 << 28  # space on the disk that a cache leaves free
_NOTE_EVERY = 30.0  # seconds
_POLL_EVERY = 0.2  # seconds between checks whether another run has finished the cache

Rows = NDArray[np.float32]


class NoRoomError(ValueError):
    """The disk is too small for a cache."""


@dataclasses.dataclass(frozen=True)
class CacheBuilder:
    """Compute a cache, or the part of it that is missing.

    Attributes:
        settings: Settings of the cache.
        path: Folder of the cache.
        representation: Representation that computes the features.
        images: Training images.
        device: Device on which the features are computed.
        workers: Number of threads that cut crops.
        note: Function called with progress and warnings.
        interrupted: Event that stops the computation with a ``KeyboardInterrupt``; complete shards are kept.
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
        """Return the complete cache. If several runs need it at once, one computes it and the others wait.

        Raises:
            NoRoomError: The disk is too small.
            ValueError: The folder contains other features, or features are NaN or infinite (the message names the
                image).
            FileFormatError: The store's index or an image is damaged.
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
            if store.index.complete and (intact := self._intact()) is not None:
                self.note(f"features of {settings.crops} crops of every image: all are in {self.path}")
                return intact
            for problem in store.check():
                self.note(f"{problem}: recomputed")
            self._fill(store)
            store.finish()
            return FeatureStore(self.path)

    def _intact(self) -> FeatureStore | None:
        """Return the store if it is intact. Its checksums are not compared again when it is read."""
        try:
            store = FeatureStore(self.path)
            store.verify()
        except FileFormatError:
            return None
        return store

    def _wait(self, waited: float) -> None:
        if not waited:
            self.note(f"another run computes {self.path}: waiting for it")
        if self.interrupted.wait(_POLL_EVERY):
            raise KeyboardInterrupt

    def _fill(self, store: StoreWriter) -> None:
        """Compute and write the missing shards, in float16 where that is precise enough."""
        begin = noted = time.monotonic()
        done = 0
        decided = any(entry.images for entry in store.index.shards)
        self._check_room(store, store.index.dtype if decided else "float16")
        while missing := store.index.missing:
            positions, rows = self._computed(store.index.positions(missing[0]))
            dtype = store.index.dtype
            if positions and not decided:
                dtype, decided = "float16" if half_precision_suffices(rows) else "float32", True
            elif dtype == "float16" and (overflow := self._overflow(positions, rows)):
                self.note(f"{overflow}: the cache is restarted in float32")
                dtype, done = "float32", 0
            if dtype != store.index.dtype:
                store.change_dtype(dtype)
            self._check_room(store, dtype)
            self._write(store, missing[0], positions, rows)
            done += len(store.index.positions(missing[0]))
            if time.monotonic() - noted > _NOTE_EVERY:
                noted = time.monotonic()
                left = (noted - begin) / done * self._missing_crops(store)
                self.note(f"{self._missing_crops(store)} crops left to cache, about {left / 60:.0f} minutes")
        self.note(f"features of {done} of {self.settings.count} crops computed in {time.monotonic() - begin:.0f} s")

    def _write(self, store: StoreWriter, number: int, positions: list[int], rows: Rows) -> None:
        crops = self.settings.crops
        sizes = [(self.settings.size, self.settings.size)] * len(positions)
        try:
            with store.shard(number) as writer:
                if positions:
                    keys = [crop_key(*divmod(position, crops)) for position in positions]
                    writer.append(keys, rows.astype(store.index.dtype, copy=False), sizes, sizes)
                left_out = {position // crops for position in set(store.index.positions(number)) - set(positions)}
                writer.skipped.extend(
                    (self.images.sources[index].name, self.images.bad[index]) for index in sorted(left_out)
                )
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise NoRoomError(f"{self.path}: {error.strerror}") from error

    def _missing_crops(self, store: StoreWriter) -> int:
        return sum(len(store.index.positions(number)) for number in store.index.missing)

    def _check_room(self, store: StoreWriter, dtype: str) -> None:
        needed = self._missing_crops(store) * self.settings.crop_bytes(dtype)
        free = max(0, bytes_free(self.path))
        if needed > free:
            raise NoRoomError(
                f"{self.path}: {size_text(needed)} of features do not fit on this disk, which has {size_text(free)} "
                "free: give fewer cache_crops, another cache_folder, or cache='off'"
            )

    def _computed(self, positions: range) -> tuple[list[int], Rows]:
        """Return the positions whose images are usable, and their features (B, C, h, w) or (B, C)."""
        settings = self.settings
        batch_size = at_once(working_bytes(self.representation, settings.size, settings.size), MAX_BATCH)
        parts = [positions[first : first + batch_size] for first in range(0, len(positions), batch_size)]
        usable: list[int] = []
        rows = np.empty((len(positions), *settings.shape), np.float32)
        batches = in_order(self._crops, parts, workers=self.workers, ahead=self.workers + 2, name="crop")
        with contextlib.closing(batches):
            for found, crops in batches:
                if self.interrupted.is_set():
                    raise KeyboardInterrupt
                if found:
                    rows[len(usable) : len(usable) + len(found)] = self._features(crops)
                    usable += found
        rows = rows[: len(usable)]
        finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
        if not finite.all():
            raise ValueError(f"features of {self._name(usable[int(finite.argmin())])} are NaN or infinite")
        return usable, rows

    def _crops(self, positions: Iterable[int]) -> tuple[list[int], Pixels]:
        """Return the positions whose images are usable, and their crops (B, size, size, 3)."""
        settings = self.settings
        found: list[int] = []
        crops = [np.empty((0, settings.size, settings.size, 3), np.uint8)]
        for position in positions:
            index, number = divmod(position, settings.crops)
            if (image := self.images.usable(index)) is not None:
                found.append(position)
                crops.append(settings.crop(image, index, number)[None])
        return found, np.concatenate(crops)

    def _features(self, crops: Pixels) -> Rows:
        images = torch.from_numpy(crops).permute(0, 3, 1, 2)
        with torch.no_grad():
            features: Rows = self.representation(images.to(self.device)).float().cpu().numpy()
        if features.shape[1:] != self.settings.shape:
            name = self.settings.spec.representation
            raise ValueError(
                f"{name} must compute features {self.settings.shape} according to its spec, got {features.shape[1:]}"
            )
        return features

    def _overflow(self, positions: list[int], rows: Rows) -> str:
        """Return a phrase about features that float16 cannot represent; empty if there are none."""
        largest = np.abs(rows).reshape(len(rows), -1).max(axis=1, initial=0)
        worst = int(largest.argmax()) if positions else 0
        if not positions or largest[worst] <= np.finfo(np.float16).max:
            return ""
        return f"features of {self._name(positions[worst])} reach {largest[worst]:g}, beyond half precision"

    def _name(self, position: int) -> str:
        return self.images.sources[position // self.settings.crops].name


def bytes_missing(settings: CacheSettings, folder: Path) -> int:
    """Return approximately how many bytes of a cache in that folder are missing, in half precision."""
    written = sum(path.stat().st_size for path in (folder / settings.digest()).glob("shard-*"))
    return max(0, settings.count * settings.crop_bytes("float16") - written)


def bytes_free(folder: Path) -> int:
    """Return how many bytes a cache may use of the disk on which `folder` is or will be."""
    parent = folder.absolute()
    while not parent.exists():
        parent = parent.parent
    return shutil.disk_usage(parent).free - _RESERVED_BYTES


def half_precision_suffices(rows: Rows) -> bool:
    """Return whether half precision has enough range and resolution for features like these.

    It is not enough for probabilities: networks take their logarithms, and half precision rounds small numbers to zero.
    """
    if are_probabilities(torch.from_numpy(rows)):
        return False
    if np.abs(rows).max() * _MARGIN > np.finfo(np.float16).max:
        return False
    channels = rows.reshape(*rows.shape[:2], -1)
    errors = np.sqrt(np.square(channels - channels.astype(np.float16)).mean(axis=(0, 2)))
    deviations = channels.std(axis=(0, 2))
    least = max(_MIN_DEVIATION * float(deviations.mean()), float(np.finfo(np.float32).tiny))
    return bool((errors <= _MAX_ROUNDING * np.maximum(deviations, least)).all())
