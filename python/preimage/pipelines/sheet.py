"""Write sheets of photographs, features and reconstructions, as in the paper's figures."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from preimage.inverters import resolve_device
from preimage.io import ImageSource, write_png
from preimage.io.folders import check_output_file, make_folders
from preimage.metrics import ErrorReport, NormalizedError, Originals
from preimage.pipelines.image_loading import (
    Images,
    Pixels,
    Skipped,
    as_batch,
    as_listing,
    as_pixels,
    load,
    none_usable,
    resolved_size,
    usable,
)
from preimage.pipelines.inverter_choice import InverterChoices, Pairing, RepresentationChoices, pairings
from preimage.pipelines.reconstruct import Comparison, Reconstructor
from preimage.pipelines.sampling import Sampling, pixel_deviation
from preimage.representations.registry import class_of
from preimage.spec import Spec
from preimage.viz.deviation_map import MEANING, TITLE, draw_deviation, draw_scale
from preimage.viz.sheets import SMALLEST_TILE, draw_sheet

_NO_INVERTER = "\nThere is no inverter\nfor these features."
_CANNOT_SAMPLE = "\nThis inverter\ncannot sample."
_BELOW = "Reconstructions, each from\nthe features above it alone."
ERROR_NOTE = "Error: distance from the photograph, over the average distance between two of these photographs."
_SAMPLE_NOTE = "Samples: images that the features allow, drawn at random."


@dataclasses.dataclass(frozen=True)
class SheetRow:
    """A photograph, and its features and reconstruction for each representation.

    Attributes:
        key: Name of the photograph.
        pixels: The photograph, (H, W, 3) uint8 RGB.
        drawings: Drawing of its features for each representation; ``None`` if they cannot be drawn.
        reconstructions: Reconstruction for each representation; ``None`` without an inverter.
        samples: Samples and the map of their deviation for each representation, which may have none; empty for a sheet
            without samples.
    """

    key: str
    pixels: Pixels
    drawings: tuple[Pixels | None, ...]
    reconstructions: tuple[Pixels | None, ...]
    samples: tuple[tuple[Pixels, ...], ...] = ()


def title_of(spec: Spec) -> str:
    """Return the name of a representation in prose, for example ``dense SIFT``."""
    return class_of(spec.representation).title or spec.representation


def column_titles(spec: Spec) -> list[str]:
    """Return the column titles for one representation: photograph, features (if they can be drawn), reconstruction."""
    middle = [f"Its {title_of(spec)} features"] if class_of(spec.representation).drawing else []
    return ["Photograph", *middle, "From the features alone"]


def sample_titles(count: int) -> list[str]:
    """Return the titles of `count` samples and of the map of their deviation."""
    return [*(f"Sample {number}" for number in range(1, count + 1)), TITLE]


def draw(
    specs: Sequence[Spec], photographs: Sequence[SheetRow], errors: Sequence[Sequence[float] | None], *, tile: int
) -> Pixels:
    """Draw the sheet.

    For one representation, a row shows photograph, features and reconstruction. For several, as in the paper, there are
    two rows for each photograph, features above and reconstructions below, with a column for each representation.
    Samples and the map of their deviation follow to the right, or in more rows below.

    Args:
        specs: Specs of the representations.
        photographs: Rows of the sheet.
        errors: Normalized errors of all photographs for each representation, or ``None``.
        tile: Side of an image on the sheet in pixels.
    """
    footer = ERROR_NOTE if any(given is not None for given in errors) else ""
    count = max((len(samples) for row in photographs for samples in row.samples), default=0)
    several = sample_titles(count - 1) if count else []
    if several and len(specs) == 1:
        footer = f"{footer} {_SAMPLE_NOTE}".lstrip()
    if len(specs) > 1:
        rows, captions = _several_rows(photographs, errors, several)
        names = [title_of(spec) for spec in specs]
        page = draw_sheet(
            rows, ["Photograph", *(name[0].upper() + name[1:] for name in names)], captions, tile=tile, footer=footer
        )
        return _with_scale(page, tile) if several else page
    single = [[row.pixels, *row.drawings, *row.reconstructions, *itertools.chain(*row.samples)] for row in photographs]
    titles = column_titles(specs[0]) + several
    if photographs[0].reconstructions[0] is None:
        titles = titles[:-1]
    notes = [
        row.key + (f": normalized error {errors[0][index]:.2f}" if errors[0] is not None else "")
        for index, row in enumerate(photographs)
    ]
    there = [[image for image in row if image is not None] for row in single]
    page = draw_sheet(there, titles, notes, tile=tile, footer=footer)
    return _with_scale(page, tile) if several else page


def _with_scale(page: Pixels, tile: int) -> Pixels:
    return np.concatenate([page, draw_scale(page.shape[1], tile)])


def _several_rows(
    photographs: Sequence[SheetRow], errors: Sequence[Sequence[float] | None], titles: Sequence[str]
) -> tuple[list[list[Pixels | str]], list[list[str]]]:
    """Return images and captions: photograph and features, then reconstructions, if there are any, and samples."""
    rows: list[list[Pixels | str]] = []
    captions: list[list[str]] = []
    for index, row in enumerate(photographs):
        rows.append([row.pixels, *("" if drawn is None else drawn for drawn in row.drawings)])
        if all(image is None for image in row.reconstructions):
            captions.append([row.key, *[""] * len(row.drawings)])
            continue
        captions.append([""])
        rows.append([f"{row.key}\n{_BELOW}", *(_NO_INVERTER if p is None else p for p in row.reconstructions)])
        captions.append(["", *("" if given is None else f"error {given[index]:.2f}" for given in errors)])
        for number, title in enumerate(titles):
            below = "\n".join(MEANING) if title == TITLE else "One of the images that\nthe features above allow."
            absent = ["" if number or image is None else _CANNOT_SAMPLE for image in row.reconstructions]
            cells = [samples[number] if samples else text for samples, text in zip(row.samples, absent, strict=True)]
            rows.append([f"{title}\n{below}", *cells])
            captions.append([""])
    return rows, captions


_SIZE = 256  # default side of photographs
_DRAWS = 8  # smallest number of samples for a map of their deviation


@dataclasses.dataclass(frozen=True)
class SheetColumn:
    """A representation on the sheet.

    Attributes:
        representation: Name of the representation.
        inverter: Name or folder of the inverter; ``None`` without reconstructions.
        missing: Reason why there are no reconstructions, one line; empty with reconstructions.
        error: Normalized error over the images of the sheet; ``None`` without reconstructions, or if no two images
            differ.
        samples: Number of samples of each image; 0 if none were wanted or the inverter cannot sample.
    """

    representation: str
    inverter: str | None
    missing: str
    error: float | None
    samples: int = 0


@dataclasses.dataclass(frozen=True)
class SheetSummary:
    """The result of `sheet`.

    Attributes:
        output: PNG file.
        columns: One for each representation.
        images: Number of photographs.
        width: Width of the PNG in pixels.
        height: Height of the PNG in pixels.
        skipped: (name, problem) of the images that were skipped.
        notes: Sentences about inputs that were not read: links to folders, files of other formats.
    """

    output: Path
    columns: tuple[SheetColumn, ...]
    images: int
    width: int
    height: int
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def sheet(
    images: Images,
    output: str | PathLike[str],
    *,
    inverter: InverterChoices = None,
    representation: RepresentationChoices = None,
    size: int | None = None,
    tile: int = 320,
    device: str = "auto",
    samples: int = 0,
    seed: int = 0,
    skip_bad: bool = False,
) -> SheetSummary:
    """Write photographs, their features and the reconstructions from these as one PNG.

    For one representation there is a row for each image: photograph, features, reconstruction. For several there are
    two rows for each image, as in the paper: a column for each representation, features above and reconstruction below.
    Features without a pretrained inverter are drawn without the reconstruction; the summary contains the reason. With
    at least two images the error of each reconstruction is shown.

    With `samples`, other images that the features allow follow, and a map in color of their standard deviation: dark
    where the features determine the image, bright where the inverter guesses. For several representations they are rows
    below the reconstructions, and empty for inverters that cannot sample.

    Args:
        images: Path or paths (folders, image files, tar shards), or image sources.
        output: PNG file to write; an earlier one is replaced.
        inverter: Inverters, their names or folders, at most one for each representation; the pretrained ones for other
            representations.
        representation: One or several representations; those given by name have the parameters of their inverter, or
            the default ones. ``None`` for the representations of the inverters, or HOG without inverters.
        size: Side in pixels to which the images are resized and center-cropped; ``None`` for the only size that a
            representation supports, or 256.
        tile: Side of an image on the sheet in pixels.
        device: Device of the inverters and, where possible, of the representations, see `Reconstructor`.
        samples: Number of samples to draw for each image, see `Inverter.sample`. The map is that of at least 8.
        seed: Seed of the samples. A sample depends on the seed, its number and the number of the row.
        skip_bad: Whether images that cannot be listed or read are skipped and listed, instead of stopping.

    Raises:
        ValueError: An image that cannot be read (named), an inverter for another representation, no such device, a
            `size` too small for a representation, a tile below 32, an output that is a folder or whose suffix is not
            ``.png``; a number of samples outside 0 to 1000, a negative seed, or samples if no inverter can sample.
        LookupError: Neither a pretrained inverter for the features nor a drawing of them.
    """
    path = Path(output)
    if path.is_dir() or path.suffix.lower() not in ("", ".png"):
        raise ValueError(f"output must be a PNG file, got {path}{' (a folder)' if path.is_dir() else ''}")
    check_output_file(path)
    if tile < SMALLEST_TILE:
        raise ValueError(f"tile must be at least {SMALLEST_TILE} pixels, got {tile}")
    sampling = Sampling(samples, seed)
    resolve_device(device)  # an error even if nothing is inverted
    pairs = pairings(inverter, representation)
    _check_can_sample(pairs, sampling)
    columns = [_Column(pair, size, device, sampling) for pair in pairs]
    listing = as_listing(images, skip_bad=skip_bad)
    bad = list(listing.skipped)
    rows, compared = _rows(columns, listing.sources, tile, bad if skip_bad else None)
    if not rows:
        raise none_usable(bad)
    reports = [_report(column) for column in compared]
    specs = [pair.representation.spec for pair in pairs]
    page = draw(specs, rows, [None if report is None else report.per_image for report in reports], tile=tile)
    make_folders(path.parent)
    write_png(path, page)
    shown = [
        SheetColumn(
            pair.representation.name,
            pair.name,
            pair.missing,
            None if report is None else report.error,
            samples if pair.inverter is not None and pair.inverter.can_sample else 0,
        )
        for pair, report in zip(pairs, reports, strict=True)
    ]
    return SheetSummary(
        path, tuple(shown), len(rows), page.shape[1], page.shape[0], skipped=tuple(bad), notes=listing.notes
    )


# Targets and reconstructions of the photographs, each (1, 3, H, W) in [0, 1]; empty without an inverter.
_Compared = list[tuple[torch.Tensor, torch.Tensor]]


class _Column:
    """A representation on the sheet; ``LookupError`` if it has neither a drawing nor an inverter."""

    def __init__(self, pair: Pairing, size: int | None, device: str, sampling: Sampling) -> None:
        self.representation = pair.representation
        self.sampling = sampling
        self._reconstructor: Reconstructor | None = None
        if pair.inverter is not None:
            self._reconstructor = Reconstructor.from_pairing(pair, device)
            self.side = self._reconstructor.side(size, _SIZE)
            return
        self.side = resolved_size(pair.representation, size) or _SIZE
        pair.representation.feature_size(self.side, self.side)
        if not pair.representation.drawing:
            raise LookupError(pair.missing)

    def shown(self, pixels: Pixels, tile: int) -> tuple[Pixels | None, Comparison | None]:
        """Return the drawing of an image's features, and their reconstruction."""
        batch = as_batch([pixels])
        comparison = None
        if self._reconstructor is None:
            with torch.no_grad():
                features = self.representation(batch)
        else:
            comparison = self._reconstructor.compare(batch)
            features = comparison.features
        drawn = self.representation.draw(self.representation.spec, features[0].cpu().numpy(), tile, pixels)
        return drawn, comparison

    def samples(self, comparison: Comparison | None, position: int) -> tuple[Pixels, ...]:
        """Return samples and the map of their deviation; nothing if there are none."""
        if comparison is None or self._reconstructor is None or not self._reconstructor.inverter.can_sample:
            return ()
        whole = (self.side, self.side) if self._reconstructor.inverter.output_region is None else None
        count = max(_DRAWS, self.sampling.count)
        drawn = self._reconstructor.sample(
            comparison.features, count, self.sampling.seed, size=whole, positions=[position]
        )[0]
        deviation = pixel_deviation(drawn).cpu().numpy()
        over = draw_deviation(as_pixels(comparison.reconstruction)[0], deviation)
        return (*as_pixels(drawn[: self.sampling.count]), over)


def _check_can_sample(pairs: Sequence[Pairing], sampling: Sampling) -> None:
    """Raise ``ValueError`` if samples are wanted, and none of the inverters can sample."""
    inverters = [pair.inverter for pair in pairs if pair.inverter is not None]
    if not sampling.count or any(inverter.can_sample for inverter in inverters):
        return
    if not inverters:
        raise ValueError(f"samples need an inverter: {pairs[0].missing}")
    inverters[0].check_can_sample()


def _rows(
    columns: Sequence[_Column], sources: Sequence[ImageSource], tile: int, skipped: Skipped | None
) -> tuple[list[SheetRow], list[_Compared]]:
    """Return the rows of the sheet, and the images to compare for each representation."""
    loaders = {column.side: load(sources, column.side) for column in columns}
    rows: list[SheetRow] = []
    compared: list[_Compared] = [[] for _ in columns]
    for items in zip(*loaders.values(), strict=True):
        # An image is read once for each size; it can be used at all sizes or not at all.
        if not list(usable(items[:1], skipped)):
            continue
        pixels = {side: item.pixels for side, item in zip(loaders, items, strict=True) if item.pixels is not None}
        drawn, returned, samples = [], [], []
        for column, pairs in zip(columns, compared, strict=True):
            drawing, comparison = column.shown(pixels[column.side], tile)
            drawn.append(drawing)
            returned.append(None if comparison is None else as_pixels(comparison.reconstruction)[0])
            if column.sampling.count:
                samples.append(column.samples(comparison, len(rows)))
            if comparison is not None:
                pairs.append((comparison.target, comparison.reconstruction))
        rows.append(SheetRow(items[0].source.key, pixels[max(pixels)], tuple(drawn), tuple(returned), tuple(samples)))
    return rows, compared


def _report(compared: _Compared) -> ErrorReport | None:
    """Return the errors; ``None`` without reconstructions, or if no two photographs differ."""
    originals = Originals()
    for target, _ in compared:
        originals.add(target)
    if not originals.differ():
        return None
    error = NormalizedError(originals)
    for target, reconstruction in compared:
        error.update(target, reconstruction)
    return error.report()
