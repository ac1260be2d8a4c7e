"""Where a run's batches come from: random crops whose features are computed, or features that are there already."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

from preimage.representations import Representation
from preimage.spec import Spec
from preimage.training.config import TrainConfig
from preimage.training.data import Batch, ImageSet, training_batch, whole_images

_STATISTICS_IMAGES = 256  # images that the features' mean and deviation are measured on
_AT_ONCE = 32  # of them in a network at a time
_ROUNDED = 1e-2  # how far the sum of a thousand probabilities in float16 is from one, at most
_KEPT_BYTES = 1 << 29  # of held-out images' features in memory; more are computed anew each time

T = TypeVar("T")


class Supply(abc.ABC):
    """Images to train on and to judge by, and what is known of their features.

    Attributes:
        spec: of the features.
        cells: (h, w) of an image's features; ``None`` for vectors.
        representation: computes the features of batches that come without; ``None`` where all come with them.
        feature_shape: (C, h, w) or (C,) of the features that every batch brings; ``None`` where the step computes them.
        image_count: how many images are trained on.
        held_out_count: how many judge.
    """

    spec: Spec
    cells: tuple[int, int] | None
    representation: Representation | None = None
    feature_shape: tuple[int, ...] | None = None
    image_count: int
    held_out_count: int

    def compute_on(self, device: torch.device) -> torch.device:
        """Where features are computed from now on: on the device, unless that is not possible."""
        return torch.device("cpu")

    @abc.abstractmethod
    def batch(self, step: int) -> Batch:
        """The batch of a step: a function of the step and the run's settings alone. Called in threads."""

    @abc.abstractmethod
    def examples(self, *, with_features: bool) -> Iterator[Batch]:
        """Some images that are trained on, whole, in order."""

    @abc.abstractmethod
    def held_out(self, batch_size: int) -> Iterator[Batch]:
        """The images that judge, whole, with their features, in batches of one size for the whole run."""


class FreshCrops(Supply):
    """Other crops of the images every time, with their features where the representation is one for workers.

    Args:
        config: the run's settings, its image size settled.
        representation: what is inverted.
        images: to train on.
        held_out: (N, 3, H, W) uint8.

    Attributes:
        device: where features are computed that are not computed by the step.
    """

    representation: Representation
    device = torch.device("cpu")

    def __init__(
        self, config: TrainConfig, representation: Representation, images: ImageSet, held_out: torch.Tensor
    ) -> None:
        self.config, self.representation, self.images = config, representation, images
        self.spec = representation.spec
        self.cells = representation.feature_size(config.side, config.side)
        self.image_count, self.held_out_count = len(images), len(held_out)
        self._held_out = held_out
        self._kept: list[Batch] | None = None  # what `held_out` gave the first time

    def compute_on(self, device: torch.device) -> torch.device:
        if device.type != "cpu" and not self.representation.in_workers:
            try:
                self._features(torch.zeros(1, 3, self.config.side, self.config.side, dtype=torch.uint8), device)
            except Exception:  # whatever it is, the CPU does it
                return self.device
            self.device = device
        return self.device

    def batch(self, step: int) -> Batch:
        config = self.config
        pixels = training_batch(
            self.images,
            step,
            batch_size=config.batch_size,
            size=config.side,
            min_crop=config.min_crop,
            seed=config.seed,
        )
        if not self.representation.in_workers:
            return Batch(pixels, None)
        return Batch(pixels, self.representation.for_training(pixels, (config.seed, 2, step)))

    def examples(self, *, with_features: bool) -> Iterator[Batch]:
        for indices in example_indices(len(self.images)):
            some = whole_images(ImageSet([self.images.sources[index] for index in indices]), self.config.side)
            yield Batch(some, self._features(some, self.device) if with_features else None)

    def held_out(self, batch_size: int) -> Iterator[Batch]:
        if self._kept is not None:
            yield from self._kept
            return
        judging: list[Batch] = []
        room = _KEPT_BYTES
        for part in self._held_out.split(batch_size):
            features = self._features(part, self.device)
            room -= features.nbytes
            if room >= 0:
                judging.append(Batch(part, features))
            yield Batch(part, features)
        if room >= 0:
            self._kept = judging

    def _features(self, images: torch.Tensor, device: torch.device) -> torch.Tensor:
        with torch.no_grad():
            return self.representation(images.to(device)).cpu()


def are_probabilities(features: torch.Tensor) -> bool:
    """Are these vectors (B, C) that are never negative and sum to one?"""
    if features.dim() != 2:
        return False
    return bool((features >= 0).all() and (features.float().sum(dim=1) - 1).abs().max() < _ROUNDED)


def example_indices(count: int) -> Iterator[Sequence[int]]:
    """Evenly spread indices of some of `count` images, a few at a time."""
    some = min(count, _STATISTICS_IMAGES)
    spread = [index * count // some for index in range(some)]
    for first in range(0, some, _AT_ONCE):
        yield spread[first : first + _AT_ONCE]


def with_some_held_out(items: Sequence[T], count: int) -> tuple[list[T], list[T]]:
    """Those to train on, and `count` held out of them: evenly spread, so the same whatever the seed.

    Raises:
        ValueError: too few.
    """
    if len(items) < count + 1:
        raise ValueError(
            f"{len(items)} images are too few to hold {count} out of them; "
            "give validation_images or a smaller validation_count"
        )
    chosen = {index * len(items) // count for index in range(count)}
    return (
        [item for index, item in enumerate(items) if index not in chosen],
        [item for index, item in enumerate(items) if index in chosen],
    )
