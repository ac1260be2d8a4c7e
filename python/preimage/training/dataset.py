"""Training data: random crops whose features are computed, or precomputed features with their images."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import torch

from preimage.errors import FileFormatError
from preimage.inverters import extraction_device
from preimage.io import FeatureFile, ImageSource, Listing, find_images, fit_image
from preimage.io.arrays import is_foreign
from preimage.io.arrays.own import read_own_features
from preimage.io.memory import bounded_bytes
from preimage.io.sources import IMAGE_SUFFIXES
from preimage.pipelines.loading import at_once, working_bytes
from preimage.representations import Representation, create_representation, list_representations
from preimage.spec import Spec
from preimage.store import FeatureStore
from preimage.training.config import SAMPLES, TrainConfig
from preimage.training.images import (
    NAMED,
    BadImage,
    Division,
    ImageList,
    ImageSet,
    Item,
    Note,
    Pixels,
    leave_out,
    look_at,
    of_image,
    some,
    with_features,
)

AT_ONCE = 32  # images whose features are computed together, at most

_IMAGE_SIZE = 256  # of images that nothing says a size of
_STATISTICS_IMAGES = 256  # images that the features' mean and deviation are measured on
_ROUNDED = 1e-2  # how far the sum of a thousand probabilities in float16 is from one, at most
_HELD_OUT_BYTES = 1 << 29  # of decoded held-out images in memory; more are decoded anew each time
_KEPT_BYTES = 1 << 29  # of held-out images' features in memory; more are computed anew each time
_KEPT_SHARE = 0.125  # of the memory that is available, if that is less
_LEAST_HELD_OUT = 2

T = TypeVar("T")
Pair = tuple[ImageSource, int]  # an image, and the position of its features in the file


class Batch(NamedTuple):
    """What a training step takes.

    Attributes:
        images: (B, 3, size, size) uint8.
        features: (B, C, h, w) or (B, C) float32 of them, where they are there already.
    """

    images: torch.Tensor
    features: torch.Tensor | None


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
    """Return which of `count` images a step takes: all of them once an epoch, in an order that the seed decides."""
    places = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(position, count)
        places.append(Place(int(_epoch_order(count, epoch, seed)[offset]), epoch, position))
    return places


def images_of(images: ImageSet, step: int, batch_size: int, seed: int) -> Iterator[tuple[Place, Pixels]]:
    """Yield the places of a step with their images.

    In the place of an image that is left out comes the next one of the epoch's order. Whether an image can be decoded
    depends on its bytes alone, so batches stay a function of step and seed.
    """
    count = len(images)
    for place in places_of(step, batch_size, count, seed):
        order, offset = _epoch_order(count, place.epoch, seed), place.position % count
        index, image = images.first_usable(int(order[(offset + further) % count]) for further in range(count))
        yield place._replace(image=index), image


_last_order: tuple[tuple[int, int, int], np.ndarray] | None = None


def _epoch_order(count: int, epoch: int, seed: int) -> np.ndarray:
    global _last_order  # noqa: PLW0603 - one slot of memory; a race costs one more shuffle
    wanted = (count, epoch, seed)
    known = _last_order
    if known is None or known[0] != wanted:
        known = (wanted, np.random.default_rng((seed, 0, epoch)).permutation(count))
        _last_order = known
    return known[1]


def random_crop(image: Pixels, size: int, min_area: float, random: np.random.Generator) -> Pixels:
    """Return a random square of at least ``min_area`` of the largest one, as size×size, mirrored half the time."""
    crop = random_square(image, size, min_area, random)
    return crop[:, ::-1] if random.random() < 0.5 else crop


def random_square(image: Pixels, size: int, min_area: float, random: np.random.Generator) -> Pixels:
    """Return the same, never mirrored."""
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * math.sqrt(random.uniform(min_area, 1.0))))
    top = int(random.integers(0, height - side + 1))
    left = int(random.integers(0, width - side + 1))
    crop = image[top : top + side, left : left + side]
    if side != size:
        interpolation = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        crop = np.asarray(cv2.resize(crop, (size, size), interpolation=interpolation), np.uint8)
    return crop


def training_batch(
    images: ImageSet, step: int, *, batch_size: int, size: int, min_crop: float, seed: int
) -> torch.Tensor:
    """Return the batch of a step, (B, 3, size, size) uint8: a function of its arguments alone, so that runs resume."""
    batch = np.empty((batch_size, size, size, 3), np.uint8)
    for row, (place, image) in enumerate(images_of(images, step, batch_size, seed)):
        random = np.random.default_rng((seed, 1, place.position))
        batch[row] = random_crop(image, size, min_crop, random)
    return torch.from_numpy(batch).permute(0, 3, 1, 2)


def whole_images(images: ImageSet, size: int, indices: Sequence[int] | None = None) -> torch.Tensor:
    """Return all images, or those of the indices, but for bad ones: (N, 3, size, size) uint8, each fitted to that."""
    found = [images.usable(index) for index in (range(len(images)) if indices is None else indices)]
    squares = [fit_image(image, size) for image in found if image is not None]
    stack = np.stack(squares) if squares else np.empty((0, size, size, 3), np.uint8)
    return torch.from_numpy(stack).permute(0, 3, 1, 2)


def example_indices(count: int, together: int) -> Iterator[Sequence[int]]:
    """Yield evenly spread indices of some of `count` images, `together` at a time."""
    taken = min(count, _STATISTICS_IMAGES)
    spread = [index * count // taken for index in range(taken)]
    for first in range(0, taken, together):
        yield spread[first : first + together]


def are_probabilities(features: torch.Tensor) -> bool:
    """Return whether these are vectors (B, C) that are never negative and sum to one."""
    if features.dim() != 2:
        return False
    return bool((features >= 0).all() and (features.float().sum(dim=1) - 1).abs().max() < _ROUNDED)


class Dataset(abc.ABC):
    """Training and held-out images, and what is known of their features.

    Args:
        config: the run's settings, its image size settled.
        division: its images.

    Attributes:
        config: the same settings.
        images: to train on.
        spec: of the features.
        cells: (h, w) of an image's features; ``None`` for vectors.
        representation: computes the features of batches that come without; ``None`` where all come with them.
        feature_shape: (C, h, w) or (C,) of the features that every batch brings; ``None`` where the step computes them.
    """

    spec: Spec
    cells: tuple[int, int] | None
    representation: Representation | None = None
    feature_shape: tuple[int, ...] | None = None

    def __init__(self, config: TrainConfig, division: Division, *, size: int | None = None) -> None:
        self.config, self._division = config, division
        positions = {item.source.key: index for index, item in enumerate(division.trained)}
        self._left_out = [bad for bad in division.skipped if bad.validation or bad.key not in positions]
        self.images = ImageSet(
            [item.source for item in division.trained],
            size,
            digests=[item.digest for item in division.trained],
            skip_bad=config.skip_bad,
            skipped={positions[bad.key]: bad.problem for bad in division.skipped if bad not in self._left_out},
        )
        self._held_out = ImageSet(
            [item.source for item in division.held_out],
            config.side,
            skip_bad=config.skip_bad,
            most_bytes=_HELD_OUT_BYTES,
        )

    @property
    def image_count(self) -> int:
        """Number of training images."""
        return len(self.images)

    @property
    def held_out_count(self) -> int:
        """Number of held-out images."""
        return len(self._held_out)

    def image_list(self) -> ImageList:
        """Return which images the run trains on, holds out and has left out so far."""
        found = sorted(list(self.images.bad.items()))  # a copy first: threads add to it
        return ImageList(
            {item.source.key: item.digest for item in self._division.trained},
            {item.source.key: item.digest for item in self._division.held_out},
            (*self._left_out, *(BadImage(self.images.sources[index].key, problem) for index, problem in found)),
        )

    def compute_on(self, device: torch.device) -> torch.device:
        """Choose where features are computed from now on: on the device, unless that is not possible."""
        return torch.device("cpu")

    @abc.abstractmethod
    def batch(self, step: int) -> Batch:
        """Return the batch of a step: a function of the step and the run's settings alone. Called in threads."""

    @abc.abstractmethod
    def examples(self, *, with_features: bool) -> Iterator[Batch]:
        """Yield some images that are trained on, whole, in order."""

    @abc.abstractmethod
    def held_out(self, batch_size: int) -> Iterator[Batch]:
        """Yield the held-out images, whole, with their features, in batches of one size for the whole run."""

    def _whole_examples(self) -> Iterator[tuple[torch.Tensor, list[int]]]:
        """Yield some training images (N, 3, H, W) uint8, and their indices."""
        none, side = True, self.config.side
        each = 3 * side * side if self.representation is None else working_bytes(self.representation, side, side)
        for indices in example_indices(len(self.images), at_once(each, AT_ONCE)):
            some_images = whole_images(self.images, side, indices)
            used = [index for index in indices if index not in self.images.bad]
            if used:
                none = False
                yield some_images, used
        if none:
            self.images.first_usable(iter(()))  # says so

    def _whole_held_out(self, batch_size: int) -> Iterator[tuple[torch.Tensor, list[int]]]:
        """Yield the held-out images, and their indices."""
        for first in range(0, len(self._held_out), batch_size):
            indices = range(first, min(first + batch_size, len(self._held_out)))
            part = whole_images(self._held_out, self.config.side, indices)
            yield part, [index for index in indices if index not in self._held_out.bad]


class CropDataset(Dataset):
    """Random crops of the images, with their features where the representation computes them in workers.

    Args:
        config: the run's settings, its image size settled.
        representation: what is inverted.
        division: the run's images.

    Attributes:
        device: where features are computed that are not computed by the step.
    """

    representation: Representation
    device = torch.device("cpu")

    def __init__(self, config: TrainConfig, representation: Representation, division: Division) -> None:
        super().__init__(config, division)
        self.representation = representation
        self.spec = representation.spec
        self.cells = representation.feature_size(config.side, config.side)
        self._kept: list[torch.Tensor] | None = None  # features of the held-out images, batch by batch

    def compute_on(self, device: torch.device) -> torch.device:
        self.device = extraction_device(self.representation, (self.config.side, self.config.side), device)
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
        for images, _ in self._whole_examples():
            yield Batch(images, self._features(images, self.device) if with_features else None)

    def held_out(self, batch_size: int) -> Iterator[Batch]:
        if self._kept is not None:
            for (part, _), features in zip(self._whole_held_out(batch_size), self._kept, strict=True):
                yield Batch(part, features)
            return
        kept: list[torch.Tensor] = []
        room = bounded_bytes(_KEPT_BYTES, _KEPT_SHARE)
        for part, _ in self._whole_held_out(batch_size):
            features = self._features(part, self.device)
            room -= features.nbytes
            if room >= 0:
                kept.append(features)
            yield Batch(part, features)
        if room >= 0:
            self._kept = kept

    def _features(self, images: torch.Tensor, device: torch.device) -> torch.Tensor:
        with torch.no_grad():
            return self.representation(images.to(device)).cpu()


class PrecomputedDataset(Dataset):
    """Whole images with features from a file: no crops, no mirror images, since the features are of the image as it is.

    Args:
        config: the run's settings, its image size settled.
        file: the features.
        division: the run's images.
        shape: of each image's features.
    """

    def __init__(self, config: TrainConfig, file: FeatureFile, division: Division, shape: tuple[int, ...]) -> None:
        super().__init__(config, division, size=config.side)
        self._file = file
        self._positions = [item.position for item in division.trained]
        self._held_out_positions = [item.position for item in division.held_out]
        self.spec = file.spec
        self.cells = None if len(shape) == 1 else (shape[1], shape[2])
        self.feature_shape = shape

    def batch(self, step: int) -> Batch:
        config = self.config
        found = list(images_of(self.images, step, config.batch_size, config.seed))
        pixels = torch.stack([torch.from_numpy(image) for _, image in found]).permute(0, 3, 1, 2)
        return Batch(pixels, self._features([self._positions[place.image] for place, _ in found]))

    def examples(self, *, with_features: bool) -> Iterator[Batch]:
        for images, indices in self._whole_examples():
            yield Batch(images, self._features([self._positions[index] for index in indices]))

    def held_out(self, batch_size: int) -> Iterator[Batch]:
        for part, indices in self._whole_held_out(batch_size):
            yield Batch(part, self._features([self._held_out_positions[index] for index in indices]))

    def _features(self, positions: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self._file[position] for position in positions])).float()


def silent(sentence: str) -> None:
    """Say nothing."""


def open_dataset(
    config: TrainConfig,
    representation: Representation | None = None,
    *,
    known: ImageList | None = None,
    note: Note = silent,
) -> tuple[TrainConfig, Dataset]:
    """Return the run's dataset, and its settings with the image size settled.

    Args:
        config: the run's settings.
        representation: what its ``representation`` names, where that is made already.
        known: the images that the run began with, if it goes on.
        note: gets sentences about what is left out.

    Raises:
        ValueError: a representation of another name, an image size that the representation or the file of features
            does not have, a cache of features that vary at random, bad images or features (unless ``skip_bad``), too
            few images, images that are both trained on and held out, or other images than those known.
    """
    if representation is not None and representation.name != config.representation:
        raise ValueError(
            f"the settings name {config.representation!r}, the representation given is {representation.name}"
        )
    if config.features is not None:
        return _open_features(config, known, note)
    assert config.representation is not None  # or there are features
    if representation is None:
        representation = create_representation(config.representation, **config.parameters)
    if config.cache == "on" and representation.in_workers:
        raise ValueError(f"features of {representation.name} vary at random in training: they are not cached")
    side = representation.image_side
    if side is not None and config.size not in (None, side):
        raise ValueError(f"{representation.name} takes images of {side}×{side} pixels only, got size {config.size}")
    config = dataclasses.replace(config, size=side or config.size or _IMAGE_SIZE)
    images, bad = _looked_at(_listed(config.images, config, note), config, known, note)
    held_out: list[Item] | None = None
    if config.val_images:
        listed = _listed(config.val_images, config, note)
        held_out, more = _looked_at(listed, config, known, note, validation=True)
        bad += more
    return config, CropDataset(config, representation, _divided(images, held_out, bad, config, known, note))


def with_some_held_out(items: Sequence[T], count: int) -> tuple[list[T], list[T]]:
    """Return those to train on, and `count` held out of them: evenly spread, so the same whatever the seed.

    Raises:
        ValueError: too few.
    """
    if len(items) < count + 1:
        raise ValueError(
            f"{len(items)} images are too few to hold {count} out of them; give val_images or a smaller val_count"
        )
    chosen = {index * len(items) // count for index in range(count)}
    return (
        [item for index, item in enumerate(items) if index not in chosen],
        [item for index, item in enumerate(items) if index in chosen],
    )


def _listed(paths: Sequence[str], config: TrainConfig, note: Note) -> Listing:
    """Return the images but for those that the run has made: its sample sheets, if its folder is among the images."""
    own = os.path.join(os.path.abspath(config.output), SAMPLES, "step-")
    listing = find_images(paths, skip_bad=config.skip_bad)
    for sentence in listing.notes:
        note(sentence)
    others = [source for source in listing.sources if not os.path.abspath(source.path).startswith(own)]
    if own_count := len(listing.sources) - len(others):
        note(f"{own_count} sample sheets in {config.output}, the run's own, are not trained on")
    return dataclasses.replace(listing, sources=others)


def _looked_at(
    listing: Listing,
    config: TrainConfig,
    known: ImageList | None,
    note: Note,
    *,
    validation: bool = False,
) -> tuple[list[Item], list[BadImage]]:
    """Return the images that can be used, and those that cannot and are left out."""
    items: list[Item] = []
    bad = [BadImage(name, problem, validation) for name, problem in listing.skipped]
    for source, looked in zip(listing.sources, look_at(listing.sources, note), strict=True):
        if looked.problem:
            bad.append(BadImage(source.key, looked.problem, validation))
        else:
            items.append(Item(source, looked.digest))
    count = len(listing.sources) + len(listing.skipped)
    if known is None:
        leave_out(bad, count, skip_bad=config.skip_bad)
    else:
        before = {one.key for one in known.skipped if one.validation == validation}
        leave_out([one for one in bad if one.key not in before], count, skip_bad=False, begun=True)
    return items, bad


def _divided(
    images: list[Item],
    held_out: list[Item] | None,
    bad: list[BadImage],
    config: TrainConfig,
    known: ImageList | None,
    note: Note,
) -> Division:
    """Return which images are trained on and which are held out: as they were if the run goes on.

    Args:
        images: that can be used.
        held_out: separate ones; ``None`` holds some of `images` out.
        bad: what is left out.
        config: the run's settings, its image size settled.
        known: the images that the run began with, if it goes on.
        note: gets sentences.
    """
    if known is not None:
        separate = held_out is not None
        return Division(images, held_out or [], ()).resumed(known, separate=separate)
    if held_out is None:
        trained, judging = with_some_held_out(images, config.val_count)
    else:
        trained, judging = images, held_out
    judging, more = _decodable(judging, config, separate=held_out is not None)
    twice = _on_both_sides(trained, judging)
    if twice and held_out is not None:
        raise ValueError(
            f"{len(twice)} images are both trained on and held out, for example {twice[0]!r}: "
            "an error measured on them would mean nothing"
        )
    if twice:
        note(
            f"{len(twice)} of {len(judging)} held-out images are among the training images too, under other names, "
            f"first {twice[0]!r}: the error measured on them says little about images never seen"
        )
    return Division(trained, judging, (*bad, *more))


def _decodable(held_out: list[Item], config: TrainConfig, *, separate: bool) -> tuple[list[Item], list[BadImage]]:
    """Return the held-out images that can be decoded, and those that cannot and are left out."""
    images = ImageSet([item.source for item in held_out], config.side, skip_bad=config.skip_bad, most_bytes=0)
    for index in range(len(images)):
        images.usable(index)
    bad = [BadImage(held_out[index].source.key, problem, separate) for index, problem in images.bad.items()]
    leave_out(bad, len(held_out), skip_bad=config.skip_bad)
    if bad and len(held_out) - len(bad) < _LEAST_HELD_OUT:
        raise ValueError(f"validation takes at least {_LEAST_HELD_OUT} images, 1 can be used: {bad[0].problem}")
    return [item for index, item in enumerate(held_out) if index not in images.bad], bad


def _on_both_sides(trained: Sequence[Item], held_out: Sequence[Item]) -> list[str]:
    """Return the keys of held-out images whose contents are trained on."""
    seen = {of_image(item.digest) for item in trained}
    return [item.source.key for item in held_out if of_image(item.digest) in seen]


def _open_features(config: TrainConfig, known: ImageList | None, note: Note) -> tuple[TrainConfig, Dataset]:
    """Return the run's own features with their images, and its settings with the image size settled.

    Raises:
        ValueError: the file's features are not of the images given, differ in shape, are NaN or infinite, or of images
            of another size than asked for; too few images.
        FileFormatError: the file is damaged or of another format.
    """
    assert config.features is not None
    if config.features_name in list_representations():
        raise ValueError(
            f"{config.features_name!r} is a representation of this package: give your features another name"
        )
    odd: dict[str, str] = {}
    if is_foreign(config.features):
        file = read_own_features(
            config.features,
            name=config.features_name,
            image_size=config.size or _IMAGE_SIZE,
            odd=odd if config.skip_bad else None,
        )
    else:
        file = FeatureStore(config.features)
        if config.features_name is not None:
            raise ValueError(f"{config.features} says itself what its features are: give them no name")
    if not len(file):
        raise FileFormatError(config.features, "holds no images")
    told = file.processed_size(0)
    sizes = sorted({(height, width) for height, width in file.processed_sizes.tolist()})
    of_one_size = sizes == [(told[0], told[0])]
    if not of_one_size and file.spec.stride is not None:
        named = ", ".join(f"{height}×{width}" for height, width in sizes[:NAMED])
        raise ValueError(
            f"{file.path}: its features are maps of images of {named}{', ...' if len(sizes) > NAMED else ''} pixels; "
            "training takes those of squares of one size (preimage extract --size)"
        )
    if of_one_size and config.size not in (None, told[0]):
        raise ValueError(f"{file.path}: its features are of images of {told[0]} pixels, got size {config.size}")
    config = dataclasses.replace(config, size=told[0] if of_one_size else config.size or _IMAGE_SIZE)
    listing = _listed(config.images, config, note)
    odd = {_image_key(key, {source.key for source in listing.sources}): shape for key, shape in odd.items()}
    bad = [BadImage(key, f"{file.path}: {key!r} has features {shape}") for key, shape in odd.items()]
    rest = [source for source in listing.sources if source.key not in odd]
    pairs = matched(rest, file, allow_missing=config.allow_missing or config.skip_bad, note=note)
    shape, digests, more = _checked_features(file, pairs)
    bad += more
    before = set() if known is None else {one.key for one in known.skipped}
    bad_now = [one for one in bad if one.key not in before]
    leave_out(bad_now, len(listing.sources), skip_bad=config.skip_bad, begun=known is not None)
    good = [(source, position) for source, position in pairs if source.key in digests]
    items, unreadable = _looked_at(Listing([source for source, _ in good], listing.skipped), config, known, note)
    positions = {source.key: position for source, position in good}
    own = [
        Item(source, with_features(digest, digests[source.key]), positions[source.key]) for source, digest, _ in items
    ]
    return config, PrecomputedDataset(config, file, _divided(own, None, bad + unreadable, config, known, note), shape)


def matched(
    sources: Sequence[ImageSource], file: FeatureFile, *, allow_missing: bool = False, note: Note = silent
) -> list[Pair]:
    """Return every image with the position of its features, in the images' order.

    A key of the file is an image's key, or that with an image's suffix.

    Raises:
        ValueError: two features are of one image; or images without features or features without an image, unless
            that is allowed and some fit.
    """
    known = {source.key for source in sources}
    positions: dict[str, int] = {}
    strangers = []
    for position, key in enumerate(file):
        image = _image_key(key, known)
        if image not in known:
            strangers.append(key)
        elif image in positions:
            first = file.key(positions[image])
            raise ValueError(f"{file.path}: {first!r} and {key!r} are both of image {image!r}: which is right?")
        else:
            positions[image] = position
    bare = [source.key for source in sources if source.key not in positions]
    apart = f"{some(bare, 'image', 'without features')}; {some(strangers, 'feature', 'without an image')}"
    if not positions or ((bare or strangers) and not allow_missing):
        raise ValueError(
            f"{file.path} and the images do not go together: {len(positions)} fit; {apart}. "
            + (
                "Leave those out with allow_missing (--allow-missing)"
                if positions
                else "The keys are paths below the folder of images, with or without a suffix"
            )
        )
    if bare or strangers:
        note(f"{file.path}: {len(positions)} images with features; left out are {apart}")
    return [(source, positions[source.key]) for source in sources if source.key in positions]


def _image_key(key: str, known: set[str]) -> str:
    """Return the image's key for one of a file of features, which may end in an image's suffix."""
    stem, suffix = os.path.splitext(key)
    return key if key in known or suffix.lower() not in IMAGE_SUFFIXES else stem


def _checked_features(
    file: FeatureFile, pairs: Sequence[Pair]
) -> tuple[tuple[int, ...], dict[str, str], list[BadImage]]:
    """Return the shape that most features have, a digest of those of every image that can be used, and the others."""
    shapes: dict[str, tuple[int, ...]] = {}
    digests: dict[str, str] = {}
    bad: list[BadImage] = []
    for source, position in pairs:
        key = file.key(position)
        try:
            features = file[position]
        except FileFormatError as error:
            bad.append(BadImage(source.key, str(error)))
            continue
        if not np.isfinite(features).all():
            bad.append(BadImage(source.key, f"{file.path}: {key!r} has features that are NaN or infinite"))
            continue
        shapes[source.key] = features.shape
        digests[source.key] = hashlib.sha256(features.tobytes()).hexdigest()[:16]
    common = Counter(shapes.values()).most_common(1)[0][0] if shapes else ()
    for key, shape in shapes.items():
        if shape != common:
            bad.append(BadImage(key, f"{file.path}: {key!r} has features {shape}, most have {common}"))
            del digests[key]
    return common, digests, bad
