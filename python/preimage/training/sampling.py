"""Select the images and crops of a batch. They depend only on the step and the seed, so that runs can be resumed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch

from preimage.io import resize_and_center_crop
from preimage.pipelines.image_loading import Pixels
from preimage.training.images import ImageSet


class SampleIndex(NamedTuple):
    """Origin of a row of a batch.

    Attributes:
        image: Index of the image.
        epoch: Number of earlier passes over all images.
        position: Position of the row, counted through all batches.
    """

    image: int
    epoch: int
    position: int


def sample_indices(step: int, batch_size: int, count: int, seed: int) -> list[SampleIndex]:
    """Return which of `count` images are in a step's batch: every epoch is a permutation determined by the seed."""
    indices = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(position, count)
        indices.append(SampleIndex(int(_epoch_order(count, epoch, seed)[offset]), epoch, position))
    return indices


def batch_images(images: ImageSet, step: int, batch_size: int, seed: int) -> Iterator[tuple[SampleIndex, Pixels]]:
    """Yield index and pixels of the images in a step's batch.

    A bad image is replaced by the next one in the epoch's order. Whether an image can be decoded depends on its bytes
    alone, so batches stay a function of step and seed.
    """
    count = len(images)
    for sample in sample_indices(step, batch_size, count, seed):
        order, offset = _epoch_order(count, sample.epoch, seed), sample.position % count
        index, image = images.first_usable(int(order[(offset + further) % count]) for further in range(count))
        yield sample._replace(image=index), image


_last_order: tuple[tuple[int, int, int], np.ndarray] | None = None


def _epoch_order(count: int, epoch: int, seed: int) -> np.ndarray:
    global _last_order  # noqa: PLW0603 - a cache of one entry; a race costs one more shuffle
    key = (count, epoch, seed)
    cached = _last_order
    if cached is None or cached[0] != key:
        cached = (key, np.random.default_rng((seed, 0, epoch)).permutation(count))
        _last_order = cached
    return cached[1]


def random_crop(image: Pixels, size: int, min_area: float, random: np.random.Generator) -> Pixels:
    """Return a random square of an image, resized and mirrored with probability one half.

    Args:
        image: (H, W, 3) uint8.
        size: Side of the result in pixels.
        min_area: Minimum area of the square as a fraction of the largest square in the image.
        random: Source of randomness.

    Returns:
        (size, size, 3) uint8.
    """
    crop = random_square(image, size, min_area, random)
    return crop[:, ::-1] if random.random() < 0.5 else crop


def random_square(image: Pixels, size: int, min_area: float, random: np.random.Generator) -> Pixels:
    """Return a random square of an image as `random_crop` does, but never mirrored."""
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * math.sqrt(random.uniform(min_area, 1.0))))
    top = int(random.integers(0, height - side + 1))
    left = int(random.integers(0, width - side + 1))
    crop = image[top : top + side, left : left + side]
    if side != size:
        interpolation = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        crop = np.asarray(cv2.resize(crop, (size, size), interpolation=interpolation), np.uint8)
    return crop


def crop_batch(images: ImageSet, step: int, *, batch_size: int, size: int, min_crop: float, seed: int) -> torch.Tensor:
    """Return a step's batch of random crops, (B, 3, size, size) uint8."""
    batch = np.empty((batch_size, size, size, 3), np.uint8)
    for row, (sample, image) in enumerate(batch_images(images, step, batch_size, seed)):
        random = np.random.default_rng((seed, 1, sample.position))
        batch[row] = random_crop(image, size, min_crop, random)
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
