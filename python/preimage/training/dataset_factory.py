"""Open the dataset of a training run."""

from __future__ import annotations

import dataclasses

from preimage.inverters.plan import check_preset
from preimage.pipelines.image_loading import resolved_size
from preimage.representations import Representation, create_representation
from preimage.training.config import DEFAULT_SIZE, TrainConfig
from preimage.training.dataset import CropDataset, Dataset
from preimage.training.distributed import SINGLE_PROCESS, Processes
from preimage.training.finetuning import tunable_layer
from preimage.training.images import Note
from preimage.training.listing import list_images
from preimage.training.precomputed_dataset import open_precomputed
from preimage.training.split import ImageList, Item, Split, inspect_images, split_images


def ignore(sentence: str) -> None:
    """Ignore a note about the run."""


def open_dataset(
    config: TrainConfig,
    representation: Representation | None = None,
    *,
    known: ImageList | None = None,
    note: Note = ignore,
    processes: Processes = SINGLE_PROCESS,
) -> tuple[TrainConfig, Dataset]:
    """Return the run's settings with their size resolved, and its dataset.

    Args:
        config: The run's settings.
        representation: The representation that ``config.representation`` names, if it exists already.
        known: The images that a resumed run started with.
        note: Called with warnings and progress.
        processes: The processes of the run, of which the main one inspects the images.

    Raises:
        ValueError: The representation has another name; the representation or the file of features does not support the
            size; a cache of features that vary at random; a representation that cannot be fine-tuned; bad images or
            features (unless ``skip_bad``); too few images; images that are in both sets; or other images than those
            known.
    """
    if representation is not None and representation.name != config.representation:
        raise ValueError(
            f"the settings name representation {config.representation!r}, got a representation {representation.name!r}"
        )
    if config.features is not None:
        return open_precomputed(config, known, note, processes)
    assert config.representation is not None  # or there are features
    if representation is None:
        representation = create_representation(config.representation, **config.parameters)
    if config.preset is not None:
        check_preset(representation.name, config.preset)
    if config.cache == "on" and representation.in_workers:
        raise ValueError(
            f"cache must be 'auto' or 'off' for {representation.name}, got 'on': its features vary at random"
        )
    if config.finetune:
        tunable_layer(representation)
    config = dataclasses.replace(config, size=resolved_size(representation, config.size) or DEFAULT_SIZE)
    split = processes.from_main(lambda: _inspected(config, known, note))
    return config, CropDataset(config, representation, split)


def _inspected(config: TrainConfig, known: ImageList | None, note: Note) -> Split:
    """Inspect the images, and split them into training and validation images."""
    listing, _ = list_images(config.images, config, known, note)
    images, bad = inspect_images(listing, config, known, note)
    separate: list[Item] | None = None
    if config.val_images:
        listing, _ = list_images(config.val_images, config, known, note, validation=True)
        separate, more = inspect_images(listing, config, known, note, validation=True)
        bad += more
    return split_images(images, separate, bad, config, known, note)
