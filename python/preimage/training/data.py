"""Training images: decoded once, cropped at random, always the same for the same seed and step."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import torch

from preimage.representations import Representation
from preimage.storage import ImageSource, decode_image, fit_image

_CACHE_BYTES = 4 << 30  # decoded images kept in memory; what does not fit is decoded anew each time


class ImageSet:
    """Images by index, as decoded 8-bit RGB.

    Args:
        sources: where the encoded images are.
    """

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self.sources = sources
        self._decoded: dict[int, np.ndarray] = {}
        self._room = _CACHE_BYTES

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB; `FileFormatError` names an image that cannot be decoded."""
        if index in self._decoded:
            return self._decoded[index]
        source = self.sources[index]
        image = decode_image(source.read(), name=source.name)
        if image.nbytes <= self._room:
            self._room -= image.nbytes
            self._decoded[index] = image
        return image


def random_crop(image: np.ndarray, size: int, min_area: float, random: np.random.Generator) -> np.ndarray:
    """A random square of at least ``min_area`` of the largest one, resized to size×size, mirrored half the time."""
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * math.sqrt(random.uniform(min_area, 1.0))))
    top = int(random.integers(0, height - side + 1))
    left = int(random.integers(0, width - side + 1))
    crop = image[top : top + side, left : left + side]
    if side != size:
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)
    return crop[:, ::-1] if random.random() < 0.5 else crop


def training_batch(
    images: ImageSet, step: int, *, batch_size: int, size: int, min_crop: float, seed: int
) -> torch.Tensor:
    """The batch of a step, (B, 3, size, size) uint8: a function of its arguments alone, so that runs resume."""
    batch = np.empty((batch_size, size, size, 3), np.uint8)
    for row in range(batch_size):
        position = step * batch_size + row
        epoch, offset = divmod(position, len(images))
        order = _epoch_order(len(images), epoch, seed)
        random = np.random.default_rng((seed, 1, position))
        batch[row] = random_crop(images[order[offset]], size, min_crop, random)
    return torch.from_numpy(batch).permute(0, 3, 1, 2)


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
        features: of them, where the workers compute these.
    """

    images: torch.Tensor
    features: torch.Tensor | None


def training_batches(
    images: ImageSet,
    first_step: int,
    last_step: int,
    *,
    batch_size: int,
    size: int,
    min_crop: float,
    seed: int,
    workers: int,
    representation: Representation | None = None,
) -> Generator[Batch, None, None]:
    """The batches of steps ``first_step`` up to but without ``last_step``, prepared ahead in threads.

    With their features if `representation` is one for workers.
    """

    def batch(step: int) -> Batch:
        pixels = training_batch(images, step, batch_size=batch_size, size=size, min_crop=min_crop, seed=seed)
        if representation is None or not representation.in_workers:
            return Batch(pixels, None)
        return Batch(pixels, representation.for_training(pixels, (seed, 2, step)))

    with ThreadPoolExecutor(workers, thread_name_prefix="preimage-batch") as pool:

        def prepare(step: int) -> Future[Batch]:
            return pool.submit(batch, step)

        ahead = [prepare(step) for step in range(first_step, min(first_step + workers + 1, last_step))]
        try:
            for step in range(first_step, last_step):
                ready = ahead.pop(0).result()
                if step + workers + 1 < last_step:
                    ahead.append(prepare(step + workers + 1))
                yield ready
        finally:
            for future in ahead:
                future.cancel()


def whole_images(images: ImageSet, size: int) -> torch.Tensor:
    """All images, each fitted to size×size: (N, 3, size, size) uint8."""
    squares = [fit_image(images[index], size) for index in range(len(images))]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
