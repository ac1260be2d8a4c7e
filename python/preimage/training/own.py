"""Training on features of one's own: a file of them, and the images that they are of."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence

import torch

from preimage import representations
from preimage.io import FeatureFile, ImageSource, list_images
from preimage.io.arrays.own import read_own_features
from preimage.io.sources import IMAGE_SUFFIXES
from preimage.spec import Spec
from preimage.training.config import TrainConfig
from preimage.training.data import Batch, ImageSet, places_of, whole_images
from preimage.training.supply import Supply, example_indices, with_some_held_out

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
