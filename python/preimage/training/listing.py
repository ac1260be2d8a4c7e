"""List the images of a run, without the sample sheets that training runs have written among them."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Sequence

from preimage.io import ImageSource, Listing, find_images
from preimage.io.urls import is_url
from preimage.training.checkpoint import CHECKPOINT
from preimage.training.config import SAMPLES, SETTINGS, TrainConfig
from preimage.training.images import Note, count_phrase
from preimage.training.split import ImageList

_SHEET = re.compile(r"step-\d+\.png")  # see preimage.training.validation.save_inverter


def list_images(
    paths: Sequence[str], config: TrainConfig, known: ImageList | None, note: Note, *, validation: bool = False
) -> tuple[Listing, set[str]]:
    """List images, except for the sample sheets of training runs.

    Args:
        paths: Folders, image files or shards, as in `preimage.io.find_images`.
        config: The run's settings.
        known: The images that a resumed run started with. It keeps those that are sample sheets.
        note: Called with the notes of the listing, and with the number of sample sheets that are left out.
        validation: Whether they are separate validation images.

    Returns:
        The images, and the keys of the sample sheets that are left out.

    Raises:
        ValueError: All images are sample sheets; also as `preimage.io.find_images`, which raises other errors too.
    """
    listing = find_images(paths, skip_bad=config.skip_bad)
    for sentence in listing.notes:
        note(sentence)
    kept: set[str] = set()
    if known is not None:
        kept = set(known.val if validation else known.train)
        if not (validation or config.val_images):
            kept |= known.val.keys()
    sheets = {source.key: source for source in _sheets(listing.sources, config.output) if source.key not in kept}
    if not sheets:
        return listing, set()
    images = "validation images" if validation else "images"
    left_out = count_phrase(list(sheets), "sample sheet", "of training runs")
    others = [source for source in listing.sources if source.key not in sheets]
    if not others:
        raise ValueError(f"no {images} are left without {left_out}: give photographs")
    note(f"left out of the {images}: {left_out}")
    return dataclasses.replace(listing, sources=others), set(sheets)


def _sheets(sources: Sequence[ImageSource], output: str) -> list[ImageSource]:
    """Return the sample sheets of training runs among the files on disk, looking at every folder once.

    Args:
        sources: Images.
        output: Folder of the present run, which may contain no other file of a run.
    """

    @functools.cache
    def holds_sheets(folder: str) -> bool:
        # Either of the two folders may be a link.
        places = {os.path.abspath(folder), os.path.realpath(folder)}
        return any(os.path.basename(place) == SAMPLES and _is_run(os.path.dirname(place), output) for place in places)

    named = [source for source in sources if _SHEET.fullmatch(os.path.basename(source.path))]  # which no shard is
    return [source for source in named if not is_url(source.path) and holds_sheets(os.path.dirname(source.path))]


def _is_run(folder: str, output: str) -> bool:
    return os.path.realpath(folder) == os.path.realpath(output) or any(
        os.path.isfile(os.path.join(folder, name)) for name in (SETTINGS, CHECKPOINT)
    )
