"""Features whose distributions are studied: of images, or in a feature store."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from preimage.io import Listing
from preimage.io.store_index import INDEX
from preimage.pipelines.image_loading import Images, at_once, batches, working_bytes
from preimage.pipelines.inverter_choice import InverterChoice, fitting_inverter
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations import Representation
from preimage.store import FeatureStore
from preimage.studies.base import study_images

# Keys, features (B, ...), and the images (B, 3, H, W) if there are images.
Batch = tuple[Sequence[str], npt.NDArray[np.float32], torch.Tensor | None]


@dataclasses.dataclass(frozen=True)
class FeatureSource:
    """Features of images, batch by batch.

    Attributes:
        reconstructor: Representation and inverter.
        name: Name or folder of the inverter.
        images: Number of images.
        size: (H, W) of the images; ``None`` for inverters with an output region.
        batch_size: Number of images at once.
        listing: Images that are left out, and notes.
        batches: The batches in order, once.
    """

    reconstructor: Reconstructor
    name: str
    images: int
    size: tuple[int, int] | None
    batch_size: int
    listing: Listing
    batches: Iterator[Batch]


def feature_source(
    images: Images | FeatureStore,
    inverter: InverterChoice,
    representation: Representation | str | None,
    *,
    size: int | None,
    batch_size: int,
    device: str,
    skip_bad: bool,
) -> FeatureSource:
    """Return the features of images, or those in a feature store; see `preimage.study_random` for the arguments."""
    store = _as_store(images)
    if store is not None:
        return _of_store(store, inverter, representation, size, batch_size, device)
    reconstructor = Reconstructor(representation, inverter, device)
    side = reconstructor.side(size)
    listing = study_images(images, skip_bad=skip_bad)
    together = _together(reconstructor, side, side, batch_size)
    return FeatureSource(
        reconstructor,
        reconstructor.name,
        len(listing.sources),
        _whole(reconstructor, side, side),
        together,
        listing,
        _computed(reconstructor, listing, side, together),
    )


def _of_store(
    store: FeatureStore,
    inverter: InverterChoice,
    representation: Representation | str | None,
    size: int | None,
    batch_size: int,
    device: str,
) -> FeatureSource:
    if size is not None:
        raise ValueError(f"size must be None with a feature store, whose features are computed, got {size}")
    if len(store) < 2:
        raise ValueError(f"the study needs at least two images, got {len(store)} in {store.path}")
    network, name = fitting_inverter(inverter, store.spec, store.path)
    reconstructor = Reconstructor(representation, network, device)
    height, width = map(int, store.processed_sizes[0])
    together = _together(reconstructor, height, width, batch_size)
    return FeatureSource(
        reconstructor,
        name,
        len(store),
        _whole(reconstructor, height, width),
        together,
        Listing([]),
        _stored(store, together),
    )


def _computed(reconstructor: Reconstructor, listing: Listing, side: int, batch_size: int) -> Iterator[Batch]:
    for keys, images in batches(listing.sources, side, batch_size):
        yield keys, reconstructor.features(images).numpy(), images


def _stored(store: FeatureStore, batch_size: int) -> Iterator[Batch]:
    for keys, features, _, _ in store.batches(batch_size):
        yield keys, features.astype(np.float32), None


def _together(reconstructor: Reconstructor, height: int, width: int, batch_size: int) -> int:
    return at_once(working_bytes(reconstructor.representation, height, width, inverted=True), batch_size)


def _whole(reconstructor: Reconstructor, height: int, width: int) -> tuple[int, int] | None:
    return (height, width) if reconstructor.inverter.output_region is None else None


def _as_store(images: Images | FeatureStore) -> FeatureStore | None:
    """Return the feature store, or ``None`` for images."""
    if isinstance(images, FeatureStore):
        return images
    given = [images] if isinstance(images, str | PathLike) else list(images)
    if len(given) != 1 or not isinstance(given[0], str | PathLike):
        return None
    path = Path(os.fspath(given[0]))
    return FeatureStore(path) if (path / INDEX).is_file() or path.suffix == ".safetensors" else None
