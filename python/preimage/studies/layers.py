"""What comes back from each layer of a network: pictures side by side, and the error by layer."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

from preimage.io import Listing, atomic_write, write_png
from preimage.metrics import SMALLEST_FOR_SSIM
from preimage.pipelines.loading import Images, sound_listing
from preimage.pipelines.pictures import folder_of
from preimage.pipelines.reconstruct import Reconstructor
from preimage.studies import layers_page
from preimage.studies.layers_measure import Column, measure, reconstructed
from preimage.studies.layers_page import LayerScore, Shown
from preimage.studies.layers_rows import LayerRow
from preimage.viz.sheets import SMALLEST_TILE


@dataclasses.dataclass(frozen=True)
class LayersSummary:
    """What the study found and wrote.

    Attributes:
        page: the self-contained HTML page.
        csv: one row a layer.
        sheet: PNG, a row for each image shown and a column for each layer.
        plot: PNG of the error by layer; ``None`` if it could not be drawn.
        images: how many were measured.
        shown: keys of those on the sheet.
        scores: one entry a layer, in the order given.
        findings: sentences, from the scores.
        notes: what is left out and why.
        seconds: wall time.
        skipped: (name, problem) of the images left out.
    """

    page: Path
    csv: Path
    sheet: Path
    plot: Path | None
    images: int
    shown: tuple[str, ...]
    scores: tuple[LayerScore, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float
    skipped: tuple[tuple[str, str], ...] = ()


def layers(
    images: Images,
    output: str | PathLike[str],
    rows: Sequence[LayerRow],
    *,
    show: Images | None = None,
    pictures: int = 5,
    size: int = 256,
    tile: int = 192,
    batch_size: int = 16,
    device: str = "auto",
    csv: str | PathLike[str] | None = None,
    skip_bad: bool = False,
    command: str = "preimage study layers",
    progress: Callable[[int, int], None] | None = None,
) -> LayersSummary:
    """Invert photographs from each of several layers, show what comes back, and measure how close it is.

    An image is brought to the size that a layer's network takes: its center square is cut out and resized. Layers that
    share a pass (`LayerRow.shared`) are computed together. The normalized error of a layer is of what its inverter
    should return (`Inverter.target`), at its size; so are N and the error of the mean image.

    Args:
        images: to measure on, at least two: a path or paths (folders, files, tar shards), or sources.
        output: a folder, made if it is not there; an earlier study in it is replaced.
        rows: the layers, in the order wanted; see `preimage.studies.layers_rows.rows_for`.
        show: images for the sheet; ``None`` takes the first `pictures` of `images`.
        pictures: how many of them.
        size: side of the images for representations that take any, at least 11.
        tile: side of a picture on the sheet, pixels, at least 32.
        batch_size: images at once.
        device: where inverters run, and networks where they can, see `Reconstructor`.
        csv: the table; ``None`` puts it into `output`.
        skip_bad: leave out images that cannot be listed or read, and list them, instead of stopping.
        command: what to print on the page as the command that made it.
        progress: called with (steps done, steps in all); a step is one image from one layer.

    Raises:
        ValueError: fewer than two images, only equal ones, or a bad one (named); no rows, two of one label, or one
            whose inverter is for other features or returns images under 11 pixels; no such device; a number out of
            its range.
    """
    start = time.perf_counter()
    if size < SMALLEST_FOR_SSIM or tile < SMALLEST_TILE or batch_size < 1 or pictures < 1:
        raise ValueError(
            f"size is at least {SMALLEST_FOR_SSIM} pixels, tile at least {SMALLEST_TILE}, batch_size and pictures at "
            f"least 1, got {size}, {tile}, {batch_size} and {pictures}"
        )
    _check_rows(rows)
    folder = folder_of(output)
    columns = [_column(row, device, size) for row in rows]
    listing = sound_listing(images, skip_bad=skip_bad)
    sources = listing.sources
    if len(sources) < 2:
        raise ValueError(f"the study takes at least two images to measure on, got {len(sources)}")
    shown_listing = Listing(sources[:pictures]) if show is None else sound_listing(show, skip_bad=skip_bad)
    shown = reconstructed(columns, shown_listing.sources, batch_size)
    scores = measure(columns, sources, batch_size, progress)
    table = folder / "layers.csv" if csv is None else Path(csv)
    summary = _write(folder, table, scores, shown, tile, command, start)
    return dataclasses.replace(
        summary,
        skipped=(*listing.skipped, *shown_listing.skipped),
        notes=(*summary.notes, *listing.notes, *shown_listing.notes),
    )


def _check_rows(rows: Sequence[LayerRow]) -> None:
    if not rows:
        raise ValueError("the study of layers takes at least one row")
    if repeated := [label for label, count in Counter(row.label for row in rows).items() if count > 1]:
        raise ValueError(f"two rows are called {repeated[0]!r}: the label tells them apart")
    for row in rows:
        region = row.inverter.output_region
        if region is not None and region.size < SMALLEST_FOR_SSIM:
            raise ValueError(
                f"the inverter of {row.label} returns images of {region.size} pixels: SSIM takes at least "
                f"{SMALLEST_FOR_SSIM}"
            )


def _column(row: LayerRow, device: str, size: int) -> Column:
    try:
        return Column(row, Reconstructor(row.representation, row.inverter, device), size)
    except ValueError as error:
        raise ValueError(f"{row.label}: {error}") from error


def _write(
    folder: Path,
    table: Path,
    scores: Sequence[LayerScore],
    shown: Sequence[Shown],
    tile: int,
    command: str,
    start: float,
) -> LayersSummary:
    folder.mkdir(parents=True, exist_ok=True)
    table.parent.mkdir(parents=True, exist_ok=True)
    layers_page.write_table(table, scores)
    sheet = layers_page.sheet(shown, scores, tile)
    write_png(folder / "layers.png", sheet)
    notes: list[str] = []
    try:
        plot = layers_page.plot(scores)
        write_png(folder / "error.png", plot)
    except ImportError as error:
        plot = None
        (folder / "error.png").unlink(missing_ok=True)  # of an earlier study, with other numbers
        notes.append(f"The plot is left out: {error}.")
    summary = LayersSummary(
        page=folder / "index.html",
        csv=table,
        sheet=folder / "layers.png",
        plot=None if plot is None else folder / "error.png",
        images=scores[0].images,
        shown=tuple(row.key for row in shown),
        scores=tuple(scores),
        findings=tuple(layers_page.findings(scores)),
        notes=tuple(notes),
        seconds=time.perf_counter() - start,
    )
    page = layers_page.page(scores, sheet, plot, notes=notes, command=command)
    with atomic_write(summary.page) as file:
        file.write(page.encode())
    return summary
