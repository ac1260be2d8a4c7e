"""Provide training data: the interface of datasets, and random crops with features computed when needed."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from preimage.inverters import extraction_device
from preimage.io.available_memory import bounded_bytes
from preimage.pipelines.image_loading import at_once, working_bytes
from preimage.representations import Representation
from preimage.spec import Spec
from preimage.training.config import TrainConfig
from preimage.training.image_sizes import side_of
from preimage.training.image_store import ImageStore
from preimage.training.images import BadImage, ImageSet
from preimage.training.sampling import (
    Crops,
    Integers,
    Samples,
    batch_images,
    batch_samples,
    center_crops,
    cut_crops,
    random_crops,
    spread_indices,
)
from preimage.training.split import ImageList, Split

MAX_BATCH = 32  # maximum number of images whose features are computed at once

_EXAMPLES = 256  # number of images over which the features' mean and standard deviation are computed
_VAL_IMAGE_BYTES = 1 << 29  # maximum size of decoded validation images in memory; further ones are decoded each time
_VAL_FEATURE_BYTES = 1 << 29  # maximum size of validation features in memory; otherwise they are computed each time
_VAL_FEATURE_FRACTION = 0.125  # fraction of the available memory, if that is less
_PROBABILITY_TOLERANCE = 1e-2  # rounding of the sum of a thousand probabilities in float16


class Batch(NamedTuple):
    """Input of a training step.

    Attributes:
        images: (B, 3, H, H) uint8, where H is ``size`` or one of the dataset's `other_sides`; with an `ImageStore`, its
            crops as numbers, (B, 7) float32.
        features: (B, C, h, w) or (B, C) float32, or ``None`` if the step computes them.

    In a run of several processes, B is the number of rows of this process.
    """

    images: torch.Tensor
    features: torch.Tensor | None


class Dataset(abc.ABC):
    """Training and validation images with their features.

    Args:
        config: The run's settings with their size resolved.
        split: Training and validation images.
        size: Side to which training images are resized and center-cropped when they are decoded; ``None`` does not
            change them.

    Attributes:
        config: The same settings.
        images: Training images.
        spec: Spec of the features.
        cells: (h, w) of an image's features; ``None`` for vectors.
        representation: Representation for batches without features; ``None`` if all batches contain features.
        feature_shape: (C, h, w) or (C,) of the features in every batch with images of ``size``; ``None`` if the step
            computes them.
        store: The training images in the device's memory, if they are there.
        other_sides: Sides in pixels that the images of half of the batches have, see `preimage.training.image_sizes`.
        local_rows: Rows of every batch that this process computes.
    """

    spec: Spec
    cells: tuple[int, int] | None
    representation: Representation | None = None
    feature_shape: tuple[int, ...] | None = None
    store: ImageStore | None = None
    other_sides: tuple[int, ...] = ()
    local_rows: slice

    def __init__(self, config: TrainConfig, split: Split, *, size: int | None = None) -> None:
        self.config, self._split = config, split
        self.local_rows = slice(0, config.batch_size)
        indices = {item.source.key: index for index, item in enumerate(split.train)}
        self._left_out = [bad for bad in split.skipped if bad.validation or bad.key not in indices]
        self.images = ImageSet(
            [item.source for item in split.train],
            size,
            digests=[item.digest for item in split.train],
            shapes=[item.shape for item in split.train],
            skip_bad=config.skip_bad,
            skipped={indices[bad.key]: bad.problem for bad in split.skipped if bad not in self._left_out},
        )
        self._val_images = ImageSet(
            [item.source for item in split.val],
            config.side,
            skip_bad=config.skip_bad,
            max_bytes=_VAL_IMAGE_BYTES,
        )

    @property
    def image_count(self) -> int:
        """Number of training images."""
        return len(self.images)

    @property
    def val_count(self) -> int:
        """Number of validation images."""
        return len(self._val_images)

    def image_list(self) -> ImageList:
        """Return the training and validation images, and those left out so far."""
        found = sorted(list(self.images.bad.items()))  # a copy first: threads add to it
        return ImageList(
            {item.source.key: item.digest for item in self._split.train},
            {item.source.key: item.digest for item in self._split.val},
            (*self._left_out, *(BadImage(self.images.sources[index].key, problem) for index, problem in found)),
        )

    def extract_on(self, device: torch.device) -> torch.device:
        """Compute features on this device from now on, or on the CPU if it does not support them; return the device."""
        return torch.device("cpu")

    def batch(self, step: int) -> Batch:
        """Return the rows of a step's batch that this process computes. Called from threads.

        They depend only on the step and the run's settings: all draws are made for the whole batch, or row by row.
        """
        config, store, rows = self.config, self.store, self.local_rows
        if store is not None:
            samples = batch_samples(step, config.batch_size, len(self.images), config.seed, self.images.bad).rows(rows)
            crops, features = self.rows(step, samples, store.shapes[samples.images])
            return Batch(store.numbers(samples.images, crops), features)
        samples, images = batch_images(self.images, step, config.batch_size, config.seed, rows)
        crops, features = self.rows(step, samples, np.array([image.shape[:2] for image in images]))
        return Batch(cut_crops(images, crops, side_of(step, config.side, self.other_sides, config.seed)), features)

    @abc.abstractmethod
    def rows(self, step: int, samples: Samples, shapes: Integers) -> tuple[Crops, torch.Tensor | None]:
        """Return the crops of the local rows of a batch, and their features unless they are computed from the crops.

        Args:
            step: Number of steps before.
            samples: The images of these rows.
            shapes: (H, W) of these images, (B, 2).
        """

    @abc.abstractmethod
    def examples(self, *, with_features: bool) -> Iterator[Batch]:
        """Yield some training images, resized and center-cropped, in order."""

    @abc.abstractmethod
    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the validation images with their features, or without them if their network is trained.

        `batch_size` must be the same at every call.
        """

    def _example_images(self) -> Iterator[tuple[torch.Tensor, list[int]]]:
        """Yield some training images (N, 3, H, W) uint8 and their indices."""
        empty, side = True, self.config.side
        each = 3 * side * side if self.representation is None else working_bytes(self.representation, side, side)
        for indices in spread_indices(len(self.images), _EXAMPLES, at_once(each, MAX_BATCH)):
            images = center_crops(self.images, side, indices)
            used = [index for index in indices if index not in self.images.bad]
            if used:
                empty = False
                yield images, used
        if empty:
            raise self.images.none_usable()

    def _val_image_batches(self, batch_size: int) -> Iterator[tuple[torch.Tensor, list[int]]]:
        """Yield the validation images (N, 3, H, W) uint8 and their indices."""
        for first in range(0, len(self._val_images), batch_size):
            indices = range(first, min(first + batch_size, len(self._val_images)))
            images = center_crops(self._val_images, self.config.side, indices)
            yield images, [index for index in indices if index not in self._val_images.bad]


class CropDataset(Dataset):
    """Random crops of the images, with features if the representation computes them in worker threads.

    Args:
        config: The run's settings with their size resolved.
        representation: The representation to invert.
        split: Training and validation images.

    Attributes:
        device: Device on which features are computed, except for those that the step computes.
    """

    representation: Representation
    device = torch.device("cpu")

    def __init__(self, config: TrainConfig, representation: Representation, split: Split) -> None:
        super().__init__(config, split)
        self.representation = representation
        self.spec = representation.spec
        self.cells = representation.feature_size(config.side, config.side)
        if representation.in_workers:
            self.feature_shape = (self.spec.channels, *(self.cells or ()))
        self._val_features: list[torch.Tensor] | None = None  # batch by batch

    def extract_on(self, device: torch.device) -> torch.device:
        self.device = extraction_device(self.representation, (self.config.side, self.config.side), device)
        return self.device

    def rows(self, step: int, samples: Samples, shapes: Integers) -> tuple[Crops, None]:
        config, rows = self.config, self.local_rows
        random = np.random.default_rng((config.seed, 1, step))
        all_shapes = np.ones((config.batch_size, 2), np.int64)  # crops of other rows are drawn, but not used
        all_shapes[rows] = shapes
        return random_crops(all_shapes, config.min_crop, random).rows(rows), None

    def batch(self, step: int) -> Batch:
        images, features = super().batch(step)
        if self.representation.in_workers:
            first, seed = self.local_rows.start, self.config.seed
            features = torch.cat(
                [
                    self.representation.for_training(images[row : row + 1], (seed, 2, step, first + row))
                    for row in range(len(images))
                ]
            )
        return Batch(images, features)

    def examples(self, *, with_features: bool) -> Iterator[Batch]:
        for images, _ in self._example_images():
            yield Batch(images, self._features(images) if with_features else None)

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        batches = self._val_image_batches(batch_size)
        if self.config.finetune:
            yield from (Batch(images, None) for images, _ in batches)
            return
        if self._val_features is not None:
            for (images, _), features in zip(batches, self._val_features, strict=True):
                yield Batch(images, features)
            return
        kept: list[torch.Tensor] = []
        room = bounded_bytes(_VAL_FEATURE_BYTES, _VAL_FEATURE_FRACTION)
        for images, _ in batches:
            features = self._features(images)
            room -= features.nbytes
            if room >= 0:
                kept.append(features)
            yield Batch(images, features)
        if room >= 0:
            self._val_features = kept

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.representation(images.to(self.device)).cpu()


def are_probabilities(features: torch.Tensor) -> bool:
    """Return whether features are vectors (B, C) that are never negative and sum to one."""
    if features.dim() != 2:
        return False
    return bool((features >= 0).all() and (features.float().sum(dim=1) - 1).abs().max() < _PROBABILITY_TOLERANCE)
