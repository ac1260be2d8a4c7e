"""Training data: random crops whose features are computed, or precomputed features with their images."""

from __future__ import annotations

import abc
import dataclasses
import math
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import torch

from preimage import representations
from preimage.io import FeatureFile, ImageSource, decode_image, fit_image, list_images
from preimage.io.arrays.own import read_own_features
from preimage.io.sources import IMAGE_SUFFIXES
from preimage.representations import Representation
from preimage.spec import Spec
from preimage.training.config import TrainConfig

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


_STATISTICS_IMAGES = 256  # images that the features' mean and deviation are measured on
_AT_ONCE = 32  # of them in a network at a time
_ROUNDED = 1e-2  # how far the sum of a thousand probabilities in float16 is from one, at most
_KEPT_BYTES = 1 << 29  # of held-out images' features in memory; more are computed anew each time


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


_NAMED = 3  # examples in a message

Pair = tuple[ImageSource, int]  # an image, and the position of its features in the file


def open_own(config: TrainConfig, image_size: int) -> tuple[TrainConfig, Supply]:
    """The run's own features and their images, and its settings with the image size settled.

    Args:
        config: the run's settings, with ``features``.
        image_size: of images that neither the settings nor the file tell a size of, pixels.

    Raises:
        ValueError: the file's features are not of the images given, differ in shape, are NaN or infinite, or of images
            of another size than asked for; too few images.
        FileFormatError: the file is damaged or of another format.
    """
    assert config.features is not None
    if config.features_name in representations.names():
        raise ValueError(
            f"{config.features_name!r} is a representation of this package: give your features another name"
        )
    file = read_own_features(config.features, name=config.features_name, image_size=config.image_size or image_size)
    told = file.processed_sizes[0]
    sizes = sorted({(height, width) for height, width in file.processed_sizes})
    of_one_size = sizes == [(told[0], told[0])]
    if not of_one_size and file.spec.stride is not None:
        some = ", ".join(f"{height}×{width}" for height, width in sizes[:_NAMED])
        raise ValueError(
            f"{file.path}: its features are maps of images of {some}{', ...' if len(sizes) > _NAMED else ''} pixels; "
            "training takes those of squares of one size (preimage extract --size)"
        )
    if of_one_size and config.image_size not in (None, told[0]):
        raise ValueError(
            f"{file.path}: its features are of images of {told[0]} pixels, got image_size {config.image_size}"
        )
    config = dataclasses.replace(config, image_size=told[0] if of_one_size else config.image_size or image_size)
    pairs = matched(list_images(config.images), file, allow_missing=config.allow_missing)
    shape = _checked_shape(file, [position for _, position in pairs])
    return config, GivenFeatures(config, file, pairs, shape)


class GivenFeatures(Supply):
    """Whole images with features from a file: no crops, no mirror images, since the features are of the image as it is.

    Args:
        config: the run's settings, its image size settled.
        file: the features.
        pairs: the images, some of which are held out.
        shape: of each image's features.
    """

    def __init__(self, config: TrainConfig, file: FeatureFile, pairs: Sequence[Pair], shape: tuple[int, ...]) -> None:
        self._config, self._file = config, file
        trained, judging = with_some_held_out(pairs, config.validation_count)
        self._images = ImageSet([source for source, _ in trained], config.side)
        self._positions = [position for _, position in trained]
        self._held_out = whole_images(ImageSet([source for source, _ in judging]), config.side)
        self._held_out_positions = [position for _, position in judging]
        self.spec: Spec = file.spec
        self.cells = None if len(shape) == 1 else (shape[1], shape[2])
        self.feature_shape = shape
        self.image_count, self.held_out_count = len(trained), len(judging)

    def batch(self, step: int) -> Batch:
        places = places_of(step, self._config.batch_size, self.image_count, self._config.seed)
        return self._batch([place.image for place in places])

    def examples(self, *, with_features: bool) -> Iterator[Batch]:
        return map(self._batch, example_indices(self.image_count))

    def held_out(self, batch_size: int) -> Iterator[Batch]:
        parts = self._held_out.split(batch_size)
        for index, part in enumerate(parts):
            first = index * batch_size
            yield Batch(part, self._features(self._held_out_positions[first : first + batch_size]))

    def _batch(self, indices: Sequence[int]) -> Batch:
        images = torch.stack([torch.from_numpy(self._images[index]) for index in indices])
        return Batch(images.permute(0, 3, 1, 2), self._features([self._positions[index] for index in indices]))

    def _features(self, positions: Sequence[int]) -> torch.Tensor:
        return torch.stack([self._file[position] for position in positions])


def matched(sources: Sequence[ImageSource], file: FeatureFile, *, allow_missing: bool = False) -> list[Pair]:
    """Every image with the position of its features, in the images' order.

    A key of the file is an image's key, or that with an image's suffix.

    Raises:
        ValueError: two features are of one image; or images without features or features without an image, unless
            that is allowed and some fit.
    """
    known = {source.key for source in sources}
    positions: dict[str, int] = {}
    strangers = []
    for position, key in enumerate(file.keys):
        stem, suffix = os.path.splitext(key)
        image = key if key in known or suffix.lower() not in IMAGE_SUFFIXES else stem
        if image not in known:
            strangers.append(key)
        elif image in positions:
            first = file.keys[positions[image]]
            raise ValueError(f"{file.path}: {first!r} and {key!r} are both of image {image!r}: which is right?")
        else:
            positions[image] = position
    bare = [source.key for source in sources if source.key not in positions]
    if not positions or ((bare or strangers) and not allow_missing):
        raise ValueError(
            f"{file.path} and the images do not go together: {len(positions)} fit; "
            f"{_some(bare, 'image', 'without features')}; {_some(strangers, 'feature', 'without an image')}. "
            + (
                "Leave those out with allow_missing (--allow-missing)"
                if positions
                else "The keys are paths below the folder of images, with or without a suffix"
            )
        )
    return [(source, positions[source.key]) for source in sources if source.key in positions]


def _some(keys: Sequence[str], noun: str, what: str) -> str:
    examples = ", ".join(map(repr, keys[:_NAMED])) + (", ..." if len(keys) > _NAMED else "")
    return f"{len(keys)} {noun}{'' if len(keys) == 1 else 's'} {what}" + (f" ({examples})" if keys else "")


def _checked_shape(file: FeatureFile, positions: Sequence[int]) -> tuple[int, ...]:
    """The shape that all features have; ``ValueError`` if they differ or are not finite."""
    shape: tuple[int, ...] | None = None
    bad = []
    for position in positions:
        features = file[position]
        shape = shape or tuple(features.shape)
        if tuple(features.shape) != shape:
            raise ValueError(
                f"{file.path}: {file.keys[position]!r} has features {tuple(features.shape)}, the first image {shape}: "
                "training takes features of images of one size"
            )
        if not bool(torch.isfinite(features).all()):
            bad.append(file.keys[position])
    if bad:
        raise ValueError(f"{file.path}: {_some(bad, 'image', 'with features that are NaN or infinite')}")
    assert shape is not None  # there is at least one pair
    return shape
