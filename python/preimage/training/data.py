"""Training images: decoded once, cropped at random, always the same for the same seed and step."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import torch

from preimage.io import ImageSource, decode_image, fit_image

_CACHE_BYTES = 4 << 30  # decoded images kept in memory; what does not fit is decoded anew each time


class ImageSet:
    """Images by index, as decoded 8-bit RGB.

    Args:
        sources: where the encoded images are.
        size: they are fitted to, pixels; ``None`` leaves them as they are.
    """

    def __init__(self, sources: Sequence[ImageSource], size: int | None = None) -> None:
        self.sources = sources
        self._size = size
        self._decoded: dict[int, np.ndarray] = {}
        self._room = _CACHE_BYTES

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB; `FileFormatError` names an image that cannot be decoded."""
        if index in self._decoded:
            return self._decoded[index]
        source = self.sources[index]
        image = fit_image(decode_image(source.read(), name=source.name), self._size)
        if image.nbytes <= self._room:
            self._room -= image.nbytes
            self._decoded[index] = image
        return image


def random_crop(image: np.ndarray, size: int, min_area: float, random: np.random.Generator) -> np.ndarray:
    """A random square of at least ``min_area`` of the largest one, resized to size×size, mirrored half the time."""
    crop = random_square(image, size, min_area, random)
    return crop[:, ::-1] if random.random() < 0.5 else crop


def random_square(image: np.ndarray, size: int, min_area: float, random: np.random.Generator) -> np.ndarray:
    """The same, never mirrored."""
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * math.sqrt(random.uniform(min_area, 1.0))))
    top = int(random.integers(0, height - side + 1))
    left = int(random.integers(0, width - side + 1))
    crop = image[top : top + side, left : left + side]
    if side != size:
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)
    return crop


def training_batch(
    images: ImageSet, step: int, *, batch_size: int, size: int, min_crop: float, seed: int
) -> torch.Tensor:
    """The batch of a step, (B, 3, size, size) uint8: a function of its arguments alone, so that runs resume."""
    batch = np.empty((batch_size, size, size, 3), np.uint8)
    for row, place in enumerate(places_of(step, batch_size, len(images), seed)):
        random = np.random.default_rng((seed, 1, place.position))
        batch[row] = random_crop(images[place.image], size, min_crop, random)
    return torch.from_numpy(batch).permute(0, 3, 1, 2)


class Place(NamedTuple):
    """What stands in a row of a batch.

    Attributes:
        image: its index.
        epoch: how often every image has come before.
        position: of the row, counted through all batches.
    """

    image: int
    epoch: int
    position: int


def places_of(step: int, batch_size: int, count: int, seed: int) -> list[Place]:
    """Which of `count` images a step takes: all of them once an epoch, in an order that the seed decides."""
    places = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(position, count)
        places.append(Place(int(_epoch_order(count, epoch, seed)[offset]), epoch, position))
    return places


_last_order: tuple[tuple[int, int, int], np.ndarray] | None = None


def _epoch_order(count: int, epoch: int, seed: int) -> np.ndarray:
    global _last_order  # noqa: PLW0603 - one slot of memory; a race costs one more shuffle
    wanted = (count, epoch, seed)
    known = _last_order
    if known is None or known[0] != wanted:
        known = (wanted, np.random.default_rng((seed, 0, epoch)).permutation(count))
        _last_order = known
    return known[1]


class Batch(NamedTuple):
    """What a training step takes.

    Attributes:
        images: (B, 3, size, size) uint8.
        features: (B, C, h, w) or (B, C) float32 of them, where they are there already.
    """

    images: torch.Tensor
    features: torch.Tensor | None


T = TypeVar("T")


def prepared(prepare: Callable[[int], T], first: int, last: int, workers: int) -> Generator[T, None, None]:
    """What `prepare` gives for `first` up to but without `last`, in order, prepared ahead in threads."""
    with ThreadPoolExecutor(workers, thread_name_prefix="preimage-batch") as pool:

        def submit(index: int) -> Future[T]:
            return pool.submit(prepare, index)

        ahead = [submit(index) for index in range(first, min(first + workers + 1, last))]
        try:
            for index in range(first, last):
                ready = ahead.pop(0).result()
                if index + workers + 1 < last:
                    ahead.append(submit(index + workers + 1))
                yield ready
        finally:
            for future in ahead:
                future.cancel()


def whole_images(images: ImageSet, size: int) -> torch.Tensor:
    """All images, each fitted to size×size: (N, 3, size, size) uint8."""
    squares = [fit_image(images[index], size) for index in range(len(images))]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
