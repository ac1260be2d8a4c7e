"""Select the images and crops of a batch. They depend only on the step and the seed, so that runs can be resumed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from preimage.io import resize_and_center_crop
from preimage.opencv import resize
from preimage.pipelines.image_loading import Pixels
from preimage.training.images import ImageSet

Integers = NDArray[np.int64]

_ALL_ROWS = slice(None)


class Samples(NamedTuple):
    """Origin of the rows of a batch.

    Attributes:
        images: Index of each row's image, (B,).
        epochs: Number of earlier passes over all images, (B,).
    """

    images: Integers
    epochs: Integers

    def rows(self, rows: slice) -> Samples:
        """Return some of the rows."""
        return Samples(self.images[rows], self.epochs[rows])


class Crops(NamedTuple):
    """A square of each image of a batch, (B,) each.

    Attributes:
        top, left, side: Position and side in pixels.
        mirrored: Whether the crop is mirrored.
    """

    top: Integers
    left: Integers
    side: Integers
    mirrored: NDArray[np.bool_]

    def rows(self, rows: slice) -> Crops:
        """Return some of the rows."""
        return Crops(self.top[rows], self.left[rows], self.side[rows], self.mirrored[rows])


def batch_samples(step: int, batch_size: int, count: int, seed: int, bad: Collection[int] = ()) -> Samples:
    """Return which of `count` images are in a step's batch: every epoch is a permutation determined by the seed.

    A bad image is replaced by the next one in the epoch's order. Whether an image can be decoded depends on its bytes
    alone, so batches stay a function of step and seed.

    Args:
        step: Number of steps before.
        batch_size: Batch size.
        count: Number of images.
        seed: Seed of the order.
        bad: Indices of bad images, fewer than `count`.
    """
    epochs, offsets = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), count)
    images = np.empty_like(offsets)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        order, rows = _epoch_order(count, epoch, seed), epochs == epoch
        images[rows] = order[offsets[rows]]
        for row in np.flatnonzero(rows) if bad else ():
            while int(images[row]) in bad:
                offsets[row] = (offsets[row] + 1) % count
                images[row] = order[offsets[row]]
    return Samples(images, epochs)


def batch_images(
    images: ImageSet, step: int, batch_size: int, seed: int, rows: slice = _ALL_ROWS
) -> tuple[Samples, list[Pixels]]:
    """Return indices and pixels of the images in some rows of a step's batch, without bad images.

    A row does not depend on which other rows are decoded: in place of bad images, it has the next usable one.

    Raises:
        ValueError: All images are bad.
    """
    while True:
        bad = set(list(images.bad))  # a copy: threads add to it
        if len(bad) == len(images):
            raise images.none_usable()
        samples = batch_samples(step, batch_size, len(images), seed, bad).rows(rows)
        found = [images.usable(int(index)) for index in samples.images]
        usable = [image for image in found if image is not None]
        if len(usable) == len(found):
            return samples, usable


_last_order: tuple[tuple[int, int, int], NDArray[np.int64]] | None = None


def _epoch_order(count: int, epoch: int, seed: int) -> Integers:
    global _last_order  # noqa: PLW0603 - a cache of one entry; a race costs one more shuffle
    key = (count, epoch, seed)
    cached = _last_order
    if cached is None or cached[0] != key:
        cached = (key, np.random.default_rng((seed, 0, epoch)).permutation(count))
        _last_order = cached
    return cached[1]


def random_crops(shapes: Integers, min_area: float, random: np.random.Generator) -> Crops:
    """Draw a random square in each of some images, mirrored with probability one half.

    Args:
        shapes: (H, W) of each image, (B, 2).
        min_area: Minimum area of a square as a fraction of the largest square in the image.
        random: Source of randomness.
    """
    area, *position, mirror = random.random((4, len(shapes)))
    shorter = shapes.min(axis=1)
    side = np.maximum(1, np.rint(shorter * np.sqrt(min_area + (1 - min_area) * area))).astype(np.int64)
    room = shapes - side[:, None]
    top, left = np.minimum((np.stack(position, axis=1) * (room + 1)).astype(np.int64), room).T
    return Crops(top, left, side, mirror < 0.5)


def random_square(shape: tuple[int, int], min_area: float, random: np.random.Generator) -> tuple[int, int, int]:
    """Draw top, left and side of a random square in one image. Caches of features depend on these draws."""
    height, width = shape
    side = max(1, round(min(height, width) * math.sqrt(random.uniform(min_area, 1.0))))
    top = int(random.integers(0, height - side + 1))
    return top, int(random.integers(0, width - side + 1)), side


def cut_square(image: Pixels, top: int, left: int, side: int, size: int) -> Pixels:
    """Return a square of an image (H, W, 3) uint8, resized to (size, size, 3)."""
    crop = image[top : top + side, left : left + side]
    return crop if side == size else resize(crop, size, size)


def cut_crops(images: Sequence[Pixels], crops: Crops, size: int) -> torch.Tensor:
    """Return the crops of images, resized and mirrored, (B, 3, size, size) uint8."""
    batch = np.empty((len(images), size, size, 3), np.uint8)
    for row, (image, top, left, side, mirrored) in enumerate(zip(images, *crops, strict=True)):
        crop = cut_square(image, top, left, side, size)
        batch[row] = crop[:, ::-1] if mirrored else crop
    return torch.from_numpy(batch).permute(0, 3, 1, 2)


def center_crops(images: ImageSet, size: int, indices: Sequence[int] | None = None) -> torch.Tensor:
    """Return the usable images of the indices, or all usable ones, resized and center-cropped.

    Returns:
        (N, 3, size, size) uint8.
    """
    found = [images.usable(index) for index in (range(len(images)) if indices is None else indices)]
    squares = [resize_and_center_crop(image, size) for image in found if image is not None]
    stack = np.stack(squares) if squares else np.empty((0, size, size, 3), np.uint8)
    return torch.from_numpy(stack).permute(0, 3, 1, 2)


def spread_indices(count: int, most: int, batch_size: int) -> Iterator[Sequence[int]]:
    """Yield at most `most` evenly spaced indices below `count`, in batches."""
    taken = min(count, most)
    spread = [index * count // taken for index in range(taken)]
    for first in range(0, taken, batch_size):
        yield spread[first : first + batch_size]
