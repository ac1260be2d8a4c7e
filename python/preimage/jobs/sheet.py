"""A picture sheet: originals, what their features look like, and what comes back from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch

from preimage.analysis import ErrorReport, NormalisedError, Originals
from preimage.inverters import checked_device
from preimage.jobs.choosing import InverterChoices, Pairing, RepresentationChoices, pairings
from preimage.jobs.figure import Subject, figure
from preimage.jobs.loading import Images, Pixels, as_batch, as_pixels, as_sources, load
from preimage.report.glyphs import draw_features, has_drawing
from preimage.report.sheet import SMALLEST_TILE
from preimage.storage import write_png


@dataclasses.dataclass(frozen=True)
class SheetColumn:
    """A representation on the sheet.

    Attributes:
        representation: its name.
        inverter: name or folder of the inverter used; ``None`` if there are no reconstructions.
        missing: why there are none, one line; else empty.
        error: normalised error over the sheet's images; ``None`` without reconstructions, or where there are no two
            images that differ.
    """

    representation: str
    inverter: str | None
    missing: str
    error: float | None


@dataclasses.dataclass(frozen=True)
class SheetSummary:
    """What a sheet shows.

    Attributes:
        output: the PNG written.
        columns: one entry a representation.
        images: how many photographs.
        width: of the PNG, pixels.
        height: of the PNG, pixels.
    """

    output: Path
    columns: tuple[SheetColumn, ...]
    images: int
    width: int
    height: int


def sheet(
    images: Images,
    output: str | PathLike[str],
    *,
    inverter: InverterChoices = None,
    representation: RepresentationChoices = None,
    size: int = 256,
    tile: int = 320,
    device: str = "cpu",
) -> SheetSummary:
    """Photographs, their features and what comes back from these, as one PNG.

    For one representation a row an image: photograph, features, reconstruction. For several two rows an image, as in
    the paper: a column each, features above and reconstruction below. Features that no shipped inverter fits are drawn
    without the reconstruction; the summary says why. From two images on each reconstruction's error is told.

    Args:
        images: a path or paths (folders, files, tar shards), or sources.
        output: the PNG to write; an earlier one is replaced.
        inverter: shipped names, folders or inverters, at most one for each representation; the others take the
            shipped inverter that fits.
        representation: what to invert, one or several; a name stands for the parameters that its inverter takes, or
            the default ones. ``None`` takes what the inverters are for, or HOG if there are none.
        size: short side resized to this many pixels and the centre square cut out.
        tile: side of a picture on the sheet, pixels.
        device: where the inverters run.

    Raises:
        ValueError: a bad image (named), an inverter for another representation, no such device, a `size` too small for
            a representation, a tile under 32, or an output that is a folder or named like another kind of file.
        LookupError: no shipped inverter fits, and there is no drawing of such features either.
    """
    path = Path(output)
    if path.is_dir() or path.suffix.lower() not in ("", ".png"):
        raise ValueError(f"the sheet is a PNG file, got {path}{' (a folder)' if path.is_dir() else ''}")
    if tile < SMALLEST_TILE:
        raise ValueError(f"tile is at least {SMALLEST_TILE} pixels, got {tile}")
    place = checked_device(device)
    pairs = [_ready(pair, size, place) for pair in pairings(inverter, representation)]
    specs = [pair.representation.spec for pair in pairs]
    subjects = []
    for item in load(as_sources(images), size):
        if item.pixels is None:
            raise ValueError(item.problem)
        drawn, returned = zip(*(_shown(pair, item.pixels, place, tile) for pair in pairs), strict=True)
        subjects.append(Subject(item.source.key, item.pixels, drawn, returned))
    reports = _reports(subjects)
    page = figure(specs, subjects, [None if report is None else report.per_image for report in reports], tile=tile)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, page)
    columns = [
        SheetColumn(pair.representation.name, pair.name, pair.missing, None if report is None else report.error)
        for pair, report in zip(pairs, reports, strict=True)
    ]
    return SheetSummary(path, tuple(columns), len(subjects), page.shape[1], page.shape[0])


def _reports(subjects: Sequence[Subject]) -> list[ErrorReport | None]:
    """For each representation the errors; ``None`` without reconstructions, or where no two photographs differ."""
    originals = Originals()
    for subject in subjects:
        originals.add(_unit(subject.pixels))
    reports: list[ErrorReport | None] = []
    for column, first in enumerate(subjects[0].returned):
        if first is None or not originals.differ():
            reports.append(None)
            continue
        judge = NormalisedError(originals)
        for subject in subjects:
            picture = subject.returned[column]
            assert picture is not None  # there is an inverter for all photographs, or for none
            judge.update(_unit(subject.pixels), _unit(picture))
        reports.append(judge.report())
    return reports


def _unit(pixels: Pixels) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return as_batch([pixels]).float() / 255


def _ready(pair: Pairing, size: int, place: torch.device) -> Pairing:
    """The pairing with its inverter in place; something of it can be shown, of images this large."""
    pair.representation.feature_size(size, size)
    if pair.inverter is None:
        if not has_drawing(pair.representation.spec):
            raise LookupError(pair.missing)
        return pair
    return dataclasses.replace(pair, inverter=pair.inverter.to(place))


def _shown(pair: Pairing, pixels: Pixels, place: torch.device, tile: int) -> tuple[Pixels | None, Pixels | None]:
    """An image's features drawn, and the reconstruction from them."""
    with torch.inference_mode():
        features = pair.representation(as_batch([pixels]))
        drawn = draw_features(pair.representation.spec, features[0].numpy(), tile, image=pixels)
        if pair.inverter is None:
            return drawn, None
        return drawn, as_pixels(pair.inverter(features.to(place), image_size=pixels.shape[:2])[0])
