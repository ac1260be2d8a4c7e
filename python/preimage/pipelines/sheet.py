"""Sheets of originals, features and reconstructions: the paper's figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch

from preimage.inverters import checked_device
from preimage.io import ImageSource, write_png
from preimage.metrics import ErrorReport, NormalizedError, Originals
from preimage.pipelines.choosing import InverterChoices, Pairing, RepresentationChoices, pairings
from preimage.pipelines.loading import (
    Images,
    Pixels,
    Skipped,
    as_batch,
    as_listing,
    as_pixels,
    load,
    none_usable,
    settled_size,
    usable,
)
from preimage.pipelines.reconstruct import Comparison, Reconstructor
from preimage.representations.registry import class_of
from preimage.spec import Spec
from preimage.viz.sheets import SMALLEST_TILE, picture_sheet

_NO_INVERTER = "\nThere is no inverter\nfor these features."
_BELOW = "Reconstructions, each from\nthe features above it alone."
ERROR_MEANS = "Error: distance from the photograph, over the average distance between two of these photographs."


@dataclasses.dataclass(frozen=True)
class SheetRow:
    """A photograph, and its features and reconstruction for each representation.

    Attributes:
        key: what it is called.
        pixels: the photograph.
        drawn: its features; ``None`` where they have no drawing.
        returned: what came back; ``None`` where there is no inverter.
    """

    key: str
    pixels: Pixels
    drawn: tuple[Pixels | None, ...]
    returned: tuple[Pixels | None, ...]


def title_of(spec: Spec) -> str:
    """Return the name of a representation in prose, for example ``dense SIFT``."""
    return class_of(spec.representation).title or spec.representation


def column_titles(spec: Spec) -> list[str]:
    """Of photograph, features (if they can be drawn) and reconstruction, for a single representation."""
    middle = [f"Its {title_of(spec)} features"] if class_of(spec.representation).drawing else []
    return ["Photograph", *middle, "From the features alone"]


def figure(
    specs: Sequence[Spec], photographs: Sequence[SheetRow], errors: Sequence[Sequence[float] | None], *, tile: int
) -> Pixels:
    """One picture of all.

    Of one representation: photograph, features and reconstruction in a row. Of several, as in the paper: two rows a
    photograph, the features above, a column each, and below them the reconstructions.

    Args:
        specs: of the representations.
        photographs: the photographs.
        errors: for each representation the normalized error of each photograph, or ``None``.
        tile: side of a picture in pixels.
    """
    footer = ERROR_MEANS if any(given is not None for given in errors) else ""
    if len(specs) > 1:
        rows, captions = _pairs_of_rows(photographs, errors)
        names = [title_of(spec) for spec in specs]
        return picture_sheet(
            rows, ["Photograph", *(name[0].upper() + name[1:] for name in names)], captions, tile=tile, footer=footer
        )
    single = [[row.pixels, *row.drawn, *row.returned] for row in photographs]
    titles = column_titles(specs[0])
    if photographs[0].returned[0] is None:
        titles = titles[:-1]
    notes = [
        row.key + (f": normalized error {errors[0][index]:.2f}" if errors[0] is not None else "")
        for index, row in enumerate(photographs)
    ]
    there = [[picture for picture in row if picture is not None] for row in single]
    return picture_sheet(there, titles, notes, tile=tile, footer=footer)


def _pairs_of_rows(
    photographs: Sequence[SheetRow], errors: Sequence[Sequence[float] | None]
) -> tuple[list[list[Pixels | str]], list[list[str]]]:
    """Pictures and captions: features with the photograph before them, then reconstructions, if there are any."""
    rows: list[list[Pixels | str]] = []
    captions: list[list[str]] = []
    for index, row in enumerate(photographs):
        rows.append([row.pixels, *("" if drawn is None else drawn for drawn in row.drawn)])
        if all(picture is None for picture in row.returned):
            captions.append([row.key, *[""] * len(row.drawn)])
            continue
        captions.append([""])
        rows.append([f"{row.key}\n{_BELOW}", *(_NO_INVERTER if p is None else p for p in row.returned)])
        captions.append(["", *("" if given is None else f"error {given[index]:.2f}" for given in errors)])
    return rows, captions


_SIZE = 256  # of photographs, where nothing says another


@dataclasses.dataclass(frozen=True)
class SheetColumn:
    """A representation on the sheet.

    Attributes:
        representation: its name.
        inverter: name or folder of the inverter used; ``None`` if there are no reconstructions.
        missing: why there are none, one line; else empty.
        error: normalized error over the sheet's images; ``None`` without reconstructions, or where there are no two
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
        skipped: (name, problem) of the images left out.
        notes: sentences about what was not looked at: links to folders, files of other formats.
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
    skip_bad: bool = False,
) -> SheetSummary:
    """Photographs, their features and what comes back from these, as one PNG.

    For one representation a row an image: photograph, features, reconstruction. For several two rows an image, as in
    the paper: a column each, features above and reconstruction below. Features that no pretrained inverter fits are
    drawn
    without the reconstruction; the summary says why. From two images on each reconstruction's error is told.

    Args:
        images: a path or paths (folders, files, tar shards), or sources.
        output: the PNG to write; an earlier one is replaced.
        inverter: pretrained names, folders or inverters, at most one for each representation; the others take the
            pretrained inverter that fits.
        representation: what to invert, one or several; a name stands for the parameters that its inverter takes, or
            the default ones. ``None`` takes what the inverters are for, or HOG if there are none.
        size: short side resized to this many pixels and the center square cut out; ``None`` takes the only size that
            a representation knows, or 256.
        tile: side of a picture on the sheet, pixels.
        device: where the inverters run, and the representations where they can, see `Reconstructor`.
        skip_bad: leave out images that cannot be listed or read, and list them, instead of stopping.

    Raises:
        ValueError: a bad image (named), an inverter for another representation, no such device, a `size` too small for
            a representation, a tile under 32, or an output that is a folder or named like another kind of file.
        LookupError: no pretrained inverter fits, and there is no drawing of such features either.
    """
    path = Path(output)
    if path.is_dir() or path.suffix.lower() not in ("", ".png"):
        raise ValueError(f"the sheet is a PNG file, got {path}{' (a folder)' if path.is_dir() else ''}")
    if tile < SMALLEST_TILE:
        raise ValueError(f"tile is at least {SMALLEST_TILE} pixels, got {tile}")
    checked_device(device)  # refused even if nothing is inverted
    pairs = pairings(inverter, representation)
    columns = [_Column(pair, size, device) for pair in pairs]
    listing = as_listing(images, skip_bad=skip_bad)
    bad = list(listing.skipped)
    rows, compared = _rows(columns, listing.sources, tile, bad if skip_bad else None)
    if not rows:
        raise none_usable(bad)
    reports = [_report(column) for column in compared]
    specs = [pair.representation.spec for pair in pairs]
    page = figure(specs, rows, [None if report is None else report.per_image for report in reports], tile=tile)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, page)
    shown = [
        SheetColumn(pair.representation.name, pair.name, pair.missing, None if report is None else report.error)
        for pair, report in zip(pairs, reports, strict=True)
    ]
    return SheetSummary(
        path, tuple(shown), len(rows), page.shape[1], page.shape[0], skipped=tuple(bad), notes=listing.notes
    )


# For each photograph what should come back, and what did, (1, 3, H, W) in [0, 1]; empty without an inverter.
_Compared = list[tuple[torch.Tensor, torch.Tensor]]


class _Column:
    """A representation on the sheet; ``LookupError`` if there is nothing of it to show."""

    def __init__(self, pair: Pairing, size: int | None, device: str) -> None:
        self.representation = pair.representation
        self._reconstructor: Reconstructor | None = None
        if pair.inverter is not None:
            self._reconstructor = Reconstructor.from_pairing(pair, device)
            self.side = self._reconstructor.side(size, _SIZE)
            return
        self.side = settled_size(pair.representation, size) or _SIZE
        pair.representation.feature_size(self.side, self.side)
        if not pair.representation.drawing:
            raise LookupError(pair.missing)

    def shown(self, pixels: Pixels, tile: int) -> tuple[Pixels | None, Comparison | None]:
        """Return an image's features drawn, and what comes back of them."""
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


def _rows(
    columns: Sequence[_Column], sources: Sequence[ImageSource], tile: int, skipped: Skipped | None
) -> tuple[list[SheetRow], list[_Compared]]:
    """Return the photographs as they are shown, and for each representation what to compare."""
    loaders = {column.side: load(sources, column.side) for column in columns}
    rows: list[SheetRow] = []
    compared: list[_Compared] = [[] for _ in columns]
    for items in zip(*loaders.values(), strict=True):
        # An image is read once for each size, and cannot be used at any of them or at none.
        if not list(usable(items[:1], skipped)):
            continue
        pixels = {side: item.pixels for side, item in zip(loaders, items, strict=True) if item.pixels is not None}
        drawn, returned = [], []
        for column, pairs in zip(columns, compared, strict=True):
            picture, comparison = column.shown(pixels[column.side], tile)
            drawn.append(picture)
            returned.append(None if comparison is None else as_pixels(comparison.reconstruction)[0])
            if comparison is not None:
                pairs.append((comparison.target, comparison.reconstruction))
        rows.append(SheetRow(items[0].source.key, pixels[max(pixels)], tuple(drawn), tuple(returned)))
    return rows, compared


def _report(compared: _Compared) -> ErrorReport | None:
    """Return the errors; ``None`` without reconstructions, or where no two photographs differ."""
    originals = Originals()
    for target, _ in compared:
        originals.add(target)
    if not originals.differ():
        return None
    error = NormalizedError(originals)
    for target, reconstruction in compared:
        error.update(target, reconstruction)
    return error.report()
