"""Train on user-provided features in a file, and the images that they were computed from.

The images are resized and center-cropped, but never randomly cropped or mirrored, because the features belong to the
original images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from typing import Any

import numpy as np
import torch

from preimage.errors import FileFormatError
from preimage.io import FeatureFile, ImageSource, Listing
from preimage.io.arrays import is_array_file
from preimage.io.arrays.user_features import read_user_features
from preimage.io.feature_file import KeyedFile
from preimage.io.image_source import IMAGE_SUFFIXES
from preimage.representations import list_representations
from preimage.store import FeatureStore
from preimage.training.config import DEFAULT_SIZE, TrainConfig
from preimage.training.dataset import Batch, Dataset
from preimage.training.distributed import Processes
from preimage.training.images import NAMED, BadImage, Note, count_phrase, refuse_bad
from preimage.training.listing import list_images
from preimage.training.sampling import Crops, Integers, Samples
from preimage.training.split import ImageList, Item, Split, inspect_images, joint_digest, split_images

Pair = tuple[ImageSource, int]  # an image, and the position of its features in the file


class PrecomputedDataset(Dataset):
    """Images with user-provided features from a file.

    Args:
        config: The run's settings with their size resolved.
        file: The features.
        split: Training and validation images.
        shape: Shape of each image's features.
    """

    def __init__(self, config: TrainConfig, file: FeatureFile, split: Split, shape: tuple[int, ...]) -> None:
        super().__init__(config, split, size=config.side)
        self._file = file
        self._positions = [item.position for item in split.train]
        self._val_positions = [item.position for item in split.val]
        self.spec = file.spec
        self.cells = None if len(shape) == 1 else (shape[1], shape[2])
        self.feature_shape = shape

    def rows(self, step: int, samples: Samples, shapes: Integers) -> tuple[Crops, torch.Tensor]:
        """Return whole images, which are squares already, and their features."""
        zero = np.zeros(len(shapes), np.int64)
        crops = Crops(zero, zero, shapes[:, 0], np.zeros(len(shapes), np.bool_))
        return crops, self._features([self._positions[index] for index in samples.images])

    def examples(self, *, with_features: bool) -> Iterator[Batch]:
        for images, indices in self._example_images():
            yield Batch(images, self._features([self._positions[index] for index in indices]))

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        for images, indices in self._val_image_batches(batch_size):
            yield Batch(images, self._features([self._val_positions[index] for index in indices]))

    def _features(self, positions: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self._file[position] for position in positions])).float()


def open_precomputed(
    config: TrainConfig, known: ImageList | None, note: Note, processes: Processes
) -> tuple[TrainConfig, PrecomputedDataset]:
    """Open the file ``config.features`` and the images that its features were computed from.

    Args:
        config: The run's settings.
        known: The images that a resumed run started with.
        note: Called with warnings and progress.
        processes: The processes of the run, of which the main one inspects images and features.

    Returns:
        The settings with their size resolved, and the dataset.

    Raises:
        ValueError: Features and images do not match; features differ in shape, are NaN or infinite, or belong to images
            of another size than ``config.size``; or there are too few images.
        FileFormatError: The file is damaged or of another format.
    """
    file, misshapen = open_feature_file(config)
    config = dataclasses.replace(config, size=image_size_of(file, config.size))
    split, shape = processes.from_main(lambda: _inspected(config, file, misshapen, known, note))
    return config, PrecomputedDataset(config, file, split, shape)


def _inspected(
    config: TrainConfig, file: FeatureFile, misshapen: dict[str, str], known: ImageList | None, note: Note
) -> tuple[Split, tuple[int, ...]]:
    """Inspect images and features; return their split into training and validation images, and the features' shape."""
    given, sheets = list_images(config.images, config, known, note)
    separate = Listing([])
    if config.val_images:
        separate, more = list_images(config.val_images, config, known, note, validation=True)
        sheets |= more
        if both := {source.key for source in given.sources} & {source.key for source in separate.sources}:
            raise ValueError(
                "images and val_images must have different keys, because the features of both are in one file, got "
                f"{min(both)!r} in both"
            )
    listing = Listing(given.sources + separate.sources, given.skipped + separate.skipped)
    keys = {source.key for source in listing.sources}
    sheets -= keys
    misshapen = {_image_key(key, keys | sheets): shape for key, shape in misshapen.items()}
    misshapen = {key: shape for key, shape in misshapen.items() if key not in sheets}
    bad = [BadImage(key, f"{file.path}: {key!r} has features {shape}") for key, shape in misshapen.items()]
    others = [source for source in listing.sources if source.key not in misshapen]
    allow_missing = config.allow_missing or config.skip_bad
    pairs = match_features(others, file, left_out=sheets, allow_missing=allow_missing, note=note)
    shape, digests, bad_features = _check_features(file, pairs)
    bad += bad_features
    before = set() if known is None else {one.key for one in known.skipped}
    new = [one for one in bad if one.key not in before]
    refuse_bad(new, len(listing.sources), skip_bad=config.skip_bad, resumed=known is not None)
    positions = {source.key: position for source, position in pairs if source.key in digests}

    def inspected(listed: Listing, *, validation: bool = False) -> list[Item]:
        valid = dataclasses.replace(listed, sources=[one for one in listed.sources if one.key in positions])
        items, unreadable = inspect_images(valid, config, known, note, validation=validation)
        bad.extend(unreadable)
        return [
            item._replace(
                digest=joint_digest(item.digest, digests[item.source.key]), position=positions[item.source.key]
            )
            for item in items
        ]

    items = inspected(given)
    val = inspected(separate, validation=True) if config.val_images else None
    return split_images(items, val, bad, config, known, note), shape


def open_feature_file(config: TrainConfig) -> tuple[FeatureFile, dict[str, str]]:
    """Return the features of a run's file, and the shapes of those left out because they differ from most.

    Raises:
        ValueError: A name of features that is taken, or given for a file that has one.
        FileFormatError: The file is damaged, empty or of another format.
    """
    assert config.features is not None
    if config.features_name in list_representations():
        raise ValueError(
            f"features_name must not be that of a representation of this package, got {config.features_name!r}"
        )
    misshapen: dict[str, str] = {}
    if is_array_file(config.features):
        file: FeatureFile = read_user_features(
            config.features,
            name=config.features_name,
            image_size=config.size or DEFAULT_SIZE,
            excluded=misshapen if config.skip_bad else None,
        )
    else:
        file = FeatureStore(config.features)
        if config.features_name is not None:
            raise ValueError(
                f"{config.features} contains the name of its features: features_name must not be given, "
                f"got {config.features_name!r}"
            )
    if not len(file):
        raise FileFormatError(config.features, "contains no images")
    return file, misshapen


def image_size_of(file: FeatureFile, size: int | None) -> int:
    """Return the side of the images: the one stated in the file, if all images are squares of one size.

    Raises:
        ValueError: Another `size` than that, or maps of images that are not squares of one size.
    """
    stated = file.processed_size(0)[0]
    sizes = sorted({(height, width) for height, width in file.processed_sizes.tolist()})
    if sizes == [(stated, stated)]:
        if size not in (None, stated):
            raise ValueError(f"{file.path}: size must be that of the features' images, {stated}, got {size}")
        return stated
    if file.spec.stride is not None:
        named = ", ".join(f"{height}×{width}" for height, width in sizes[:NAMED])
        raise ValueError(
            f"{file.path}: its maps belong to images of {named}{', ...' if len(sizes) > NAMED else ''} pixels; "
            "training needs maps of square images of one size (preimage extract --size)"
        )
    return size or DEFAULT_SIZE


def match_features(
    sources: Sequence[ImageSource],
    file: KeyedFile[Any, Any],
    *,
    left_out: Set[str] = frozenset(),
    allow_missing: bool = False,
    note: Note,
) -> list[Pair]:
    """Return every image with the position of its features, in the images' order.

    Keys in the file are the images' keys, with or without the suffix of an image.

    Args:
        sources: Images.
        file: The features.
        left_out: Keys of further images, whose features are left out with them.
        allow_missing: Whether to leave out images without features and features without an image.
        note: Called with the number of images and features that are left out because of `allow_missing`.

    Raises:
        ValueError: There are two features for one image; or images without features or features without an image,
            unless these are allowed and some features match.
    """
    keys = {source.key for source in sources}
    known = keys | left_out
    positions: dict[str, int] = {}
    unmatched = []
    for position, key in enumerate(file):
        image = _image_key(key, known)
        if image not in keys:
            if image not in left_out:
                unmatched.append(key)
        elif image in positions:
            first = file.key(positions[image])
            raise ValueError(f"{file.path}: {first!r} and {key!r} are both keys of image {image!r}")
        else:
            positions[image] = position
    bare = [source.key for source in sources if source.key not in positions]
    rest = (
        f"{count_phrase(bare, 'image', 'without features')}; {count_phrase(unmatched, 'feature', 'without an image')}"
    )
    if not positions or ((bare or unmatched) and not allow_missing):
        raise ValueError(
            f"{file.path} and the images do not match: {len(positions)} match; {rest}. "
            + (
                "allow_missing (--allow-missing) leaves those out"
                if positions
                else "Keys must be paths relative to the folder of images, with or without a suffix"
            )
        )
    if bare or unmatched:
        note(f"{file.path}: {len(positions)} images with features; left out are {rest}")
    return [(source, positions[source.key]) for source in sources if source.key in positions]


def _image_key(key: str, known: Set[str]) -> str:
    """Return the image's key for a key of a feature store, which may end in an image's suffix."""
    stem, suffix = os.path.splitext(key)
    return key if key in known or suffix.lower() not in IMAGE_SUFFIXES else stem


def _check_features(file: FeatureFile, pairs: Sequence[Pair]) -> tuple[tuple[int, ...], dict[str, str], list[BadImage]]:
    """Return the most common shape, a digest of every image's valid features, and the images with other features."""
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
