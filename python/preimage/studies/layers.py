"""Compare the layers of a network: reconstructions from each layer side by side, and the error by layer."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path

import torch

from preimage.inverters.output_region import OutputRegion
from preimage.io import ImageSource, Listing
from preimage.metrics import SMALLEST_FOR_SSIM, Originals
from preimage.pipelines.evaluate import Scores
from preimage.pipelines.image_loading import (
    Images,
    Pixels,
    as_pixels,
    at_once,
    batches,
    decodable_listing,
    inverting_bytes,
)
from preimage.pipelines.image_writer import output_folder
from preimage.pipelines.reconstruct import Comparison, Reconstructor
from preimage.studies.base import (
    SAME_ERROR,
    ProgressCounter,
    SheetRow,
    Study,
    StudySummary,
    check_at_least,
    study_images,
)
from preimage.studies.layers_rows import LayerRow, layer_name, network_name
from preimage.viz.html import Table
from preimage.viz.plots import Values, draw_by_name
from preimage.viz.sheets import SMALLEST_TILE

# Dosovitskiy & Brox, CVPR 2016: errors of their inverters, and of gradient descent (Mahendran & Vedaldi, CVPR 2015).
PUBLISHED = {
    "alexnet-conv5": (0.35, 0.71),
    "alexnet-fc6": (0.51, 0.80),
    "alexnet-fc7": (0.56, 0.82),
    "alexnet-fc8": (0.58, 0.84),
}
PUBLISHED_NOTE = (
    "The published figures are of CaffeNet on ImageNet's validation set, quoted from memory: Dosovitskiy & Brox (CVPR "
    "2016), and there Mahendran & Vedaldi's gradient descent (CVPR 2015). Unless those weights and that set were "
    "measured here, they are of another network and of other images."
)


@dataclasses.dataclass(frozen=True)
class LayerScore:
    """Mean scores of the reconstructions from one layer.

    Attributes:
        label: Label of the layer.
        network: Name of its network.
        layer: Name of the layer in the network.
        representation: Representation of its spec.
        variant: Variant of its spec.
        features: (C, h, w), or (C,) of vectors.
        input_size: Side of the images, pixels.
        crop: Side of the center square that is reconstructed, pixels.
        output_size: Side of the reconstructions, pixels.
        error: Normalized error. Both of its distances are between images as the inverter reconstructs them: of the
            center square, at the output size.
        mean_image_error: Normalized error of the mean image.
        normalizer: Average distance between two images.
        psnr: PSNR in dB.
        ssim: SSIM, at most 1.
        images: Number of images.
        inverter: Folder or name of the inverter.
    """

    label: str
    network: str
    layer: str
    representation: str
    variant: str
    features: tuple[int, ...]
    input_size: int
    crop: int
    output_size: int
    error: float
    mean_image_error: float
    normalizer: float
    psnr: float
    ssim: float
    images: int
    inverter: str

    @property
    def published(self) -> tuple[float, float] | None:
        """Errors in the paper, of its inverters and of gradient descent, for layers of CaffeNet."""
        # torchvision's AlexNet is another network.
        return None if self.variant == "torchvision" else PUBLISHED.get(self.representation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayersSummary(StudySummary):
    """Result of the study of layers.

    Attributes:
        shown: Keys of the images on the sheet.
        scores: Scores of every layer, in the order given.
    """

    shown: tuple[str, ...]
    scores: tuple[LayerScore, ...]


def study_layers(
    images: Images,
    output: str | PathLike[str],
    rows: Sequence[LayerRow],
    *,
    show: Images | None = None,
    show_count: int = 5,
    size: int = 256,
    tile: int = 192,
    batch_size: int = 16,
    device: str = "auto",
    csv: str | PathLike[str] | None = None,
    skip_bad: bool = False,
    command: str = "preimage study layers",
    progress: Callable[[int, int], None] | None = None,
) -> LayersSummary:
    """Invert photographs from each of several layers, and measure and show the reconstructions.

    Images are center-cropped and resized to the input size of a layer's network. Layers that share a forward pass
    (`LayerRow.shared`) are computed together. Errors are measured against the part of the image that a layer's inverter
    reconstructs (`Inverter.target`), at its size.

    Args:
        images: Path or paths (folders, files, tar shards), or sources; at least two images.
        output: A folder, which is created if it does not exist; files of an earlier study are replaced.
        rows: The layers in the order of the columns, see `preimage.studies.layers_rows.rows_for`.
        show: Images on the sheet; ``None`` takes the first `show_count` of `images`.
        show_count: Number of images on the sheet without `show`.
        size: Side of the images in pixels for representations that take any size, at least 11.
        tile: Side of an image on the sheet in pixels, at least 32.
        batch_size: Batch size.
        device: Device of the inverters, and of the networks if they support it, see `Reconstructor`.
        csv: File of the table; ``None`` is ``layers.csv`` in `output`.
        skip_bad: Whether images that cannot be read are left out and listed, instead of raising an error.
        command: Command line shown on the page.
        progress: Function called with (steps done, total number of steps); a step is one image from one layer.

    Raises:
        ValueError: There are fewer than two images, only equal ones, or a bad one (named); there are no rows, two rows
            with the same label, or one whose inverter is for other features or returns images under 11 pixels; there is
            no such device; a value is out of range.
    """
    start = time.perf_counter()
    check_at_least(("size", size, SMALLEST_FOR_SSIM), ("tile", tile, SMALLEST_TILE))
    check_at_least(("batch_size", batch_size, 1), ("show_count", show_count, 1))
    _check_rows(rows)
    folder = output_folder(output)
    columns = [_column(row, device, size) for row in rows]
    listing = study_images(images, skip_bad=skip_bad)
    sources = listing.sources
    shown = Listing(sources[:show_count]) if show is None else decodable_listing(show, skip_bad=skip_bad)
    sheet_rows = _sheet_rows(columns, shown.sources, batch_size)
    scores = tuple(_measure(columns, sources, batch_size, progress))
    study = LayersStudy(scores, sheet_rows, tile=tile)
    written = study.write(
        folder, start=start, listings=[listing, shown], csv=None if csv is None else Path(csv), command=command
    )
    return LayersSummary(**vars(written), shown=tuple(row.key for row in sheet_rows), scores=scores)


def _check_rows(rows: Sequence[LayerRow]) -> None:
    if not rows:
        raise ValueError("rows must contain at least one layer, got none")
    if repeated := [label for label, count in Counter(row.label for row in rows).items() if count > 1]:
        raise ValueError(f"labels of rows must differ, got {repeated[0]!r} twice")
    for row in rows:
        region = row.inverter.output_region
        if region is not None and region.size < SMALLEST_FOR_SSIM:
            raise ValueError(
                f"the inverter of {row.label} returns images of {region.size} pixels: SSIM needs at least "
                f"{SMALLEST_FOR_SSIM}"
            )


class _Column:
    """A layer whose reconstructions are measured.

    Args:
        row: The layer.
        reconstructor: Its representation and inverter.
        size: Side of the images for representations that take any size.
    """

    def __init__(self, row: LayerRow, reconstructor: Reconstructor, size: int) -> None:
        self.row, self.reconstructor = row, reconstructor
        self.side = reconstructor.side(default=size)


def _column(row: LayerRow, device: str, size: int) -> _Column:
    try:
        return _Column(row, Reconstructor(row.representation, row.inverter, device), size)
    except ValueError as error:
        raise ValueError(f"{row.label}: {error}") from error


def _measure(
    columns: Sequence[_Column],
    sources: Sequence[ImageSource],
    batch_size: int,
    report: Callable[[int, int], None] | None = None,
) -> list[LayerScore]:
    """Return a score for each column, in their order; ``ValueError`` for a bad image.

    The targets are kept in memory in float16 (0.3 MB for an image of 227²), once for all columns with the same targets.
    """
    scorers: list[_Scorer] = []
    targets: dict[tuple[int, OutputRegion | None], Originals] = {}
    for column in columns:
        key = column.side, column.row.inverter.output_region
        collect = key not in targets
        scorers.append(_Scorer(column, targets.setdefault(key, Originals()), collect=collect))
    progress = ProgressCounter(len(columns) * len(sources), report)
    for keys, _, which, comparison in _comparisons(columns, sources, batch_size):
        scorers[which].add(keys, comparison)
        progress.add(len(keys))
    return [scorer.score() for scorer in scorers]


def _sheet_rows(columns: Sequence[_Column], sources: Sequence[ImageSource], batch_size: int) -> list[SheetRow]:
    """Return each image, at the largest input size of the columns, with its reconstructions from each column."""
    reconstructions: dict[int, list[Pixels]] = {}
    largest = max(range(len(columns)), key=lambda which: columns[which].side)
    rows: list[SheetRow] = []
    for keys, images, which, comparison in _comparisons(columns, sources, batch_size):
        reconstructions.setdefault(which, []).extend(as_pixels(comparison.reconstruction))
        if which == largest:
            originals = images.permute(0, 2, 3, 1).contiguous().numpy()
            rows += [SheetRow(key, [original]) for key, original in zip(keys, originals, strict=True)]
    for which in range(len(columns)):
        for row, reconstruction in zip(rows, reconstructions[which], strict=True):
            row.cells.append(reconstruction)
    return rows


def _comparisons(
    columns: Sequence[_Column], sources: Sequence[ImageSource], batch_size: int
) -> Iterator[tuple[list[str], torch.Tensor, int, Comparison]]:
    """Yield keys, images (B, 3, S, S) uint8, the index of a column, and its comparison, batch by batch."""
    by_side: dict[int, list[int]] = {}
    for which, column in enumerate(columns):
        by_side.setdefault(column.side, []).append(which)
    for side, indices in by_side.items():
        for keys, images in batches(sources, side, at_once(inverting_bytes(side, side), batch_size)):
            passes: dict[int, Mapping[str, torch.Tensor]] = {}
            for which in indices:
                row, reconstructor = columns[which].row, columns[which].reconstructor
                features = None
                if row.shared is not None:
                    if id(row.shared) not in passes:
                        with torch.no_grad():
                            passes[id(row.shared)] = row.shared(images.to(reconstructor.device))
                    features = passes[id(row.shared)][row.layer]
                yield keys, images, which, reconstructor.compare(images, features)


class _Scorer:
    """The score of one column.

    Args:
        column: The column.
        targets: Targets of its reconstructions, shared by all columns with the same targets.
        collect: Whether this column adds the targets.
    """

    def __init__(self, column: _Column, targets: Originals, *, collect: bool) -> None:
        self._row, self._side = column.row, column.side
        self._scores = Scores(targets)
        self._collected = targets if collect else None
        self._shape: tuple[int, ...] = ()
        self._size = 0

    def add(self, keys: Sequence[str], comparison: Comparison) -> None:
        """Add a batch."""
        features, target, reconstruction = comparison
        if self._collected is not None:
            self._collected.add(target)
        self._scores.add(keys, target, reconstruction)
        self._shape, self._size = tuple(features.shape[1:]), reconstruction.shape[2]

    def score(self) -> LayerScore:
        """Return the score; ``ValueError`` if all images are equal."""
        report, scores = self._scores.report()
        spec, region = self._row.inverter.spec, self._row.inverter.output_region
        return LayerScore(
            label=self._row.label,
            network=network_name(spec),
            layer=layer_name(spec),
            representation=spec.representation,
            variant=spec.variant,
            features=self._shape,
            input_size=self._side,
            crop=self._side if region is None else region.crop,
            output_size=self._size,
            error=report.error,
            mean_image_error=report.mean_image,
            normalizer=report.normalizer,
            psnr=sum(score.psnr for score in scores) / len(scores),
            ssim=sum(score.ssim for score in scores) / len(scores),
            images=len(scores),
            inverter=self._row.origin,
        )


class LayersStudy(Study):
    """Presentation of the scores by layer.

    Args:
        scores: Scores of every layer.
        sheet_rows: Rows of the sheet.
        tile: Side of an image on the sheet, pixels.
    """

    name = "layers"
    title = "Layer by layer"
    sheet_heading = "From each layer alone"
    sheet_alt = "rows of photographs and their reconstructions from each layer"
    sheet_note = (
        "Images are of one size here; the table contains the size of the reconstructions, and how much of the "
        "photograph they show."
    )
    plot_heading = "Error by layer"
    plot_alt = "normalized error of each layer"

    def __init__(self, scores: Sequence[LayerScore], sheet_rows: Sequence[SheetRow] = (), *, tile: int = 192) -> None:
        self.scores, self.sheet_rows, self.tile = scores, sheet_rows, tile

    @property
    def image_count(self) -> int:
        return self.scores[0].images

    def table(self) -> Iterator[Sequence[object]]:
        names = ["label", "network", "layer", "features", "output_size", "normalized_error", "mean_image_error"]
        yield [*names, "psnr_db", "ssim", "images", "inverter"]
        for score in self.scores:
            errors = [f"{score.error:.6f}", f"{score.mean_image_error:.6f}", f"{score.psnr:.4f}", f"{score.ssim:.6f}"]
            names = [score.label, score.network, score.layer, _shape(score, "x"), str(score.output_size)]
            yield [*names, *errors, score.images, score.inverter]

    def sheet_titles(self) -> list[str]:
        return ["photograph", *(f"{score.label}\nerror {score.error:.2f}" for score in self.scores)]

    def plot(self) -> Pixels:
        """Draw the error by layer, with the published errors as points."""
        scores = self.scores
        series = [
            Values("normalized error", [score.error for score in scores]),
            Values("mean image", [score.mean_image_error for score in scores], "level"),
        ]
        published = [score.published for score in scores]
        if any(published):
            inverters, descent = "published (CaffeNet, ImageNet)", "published, gradient descent (CaffeNet, ImageNet)"
            series += [
                Values(inverters, [None if errors is None else errors[0] for errors in published], "points"),
                Values(descent, [None if errors is None else errors[1] for errors in published], "points"),
            ]
        title = "Normalized error by layer (lower is closer)"
        return draw_by_name(title, [score.label for score in scores], series, [score.network for score in scores])

    def findings(self) -> Iterator[str]:
        scores = self.scores
        best, worst = min(scores, key=lambda score: score.error), max(scores, key=lambda score: score.error)
        mean_image = _range([score.mean_image_error for score in scores])
        if worst.error - best.error > SAME_ERROR:
            yield (
                f"The normalized error is lowest for {best.label}, {best.error:.2f}, and highest for {worst.label}, "
                f"{worst.error:.2f}; the mean image has {mean_image}."
            )
        else:
            yield (
                f"The normalized error is {_range([score.error for score in scores])}; the mean image has {mean_image}."
            )
        if nothing := [score.label for score in scores if score.error > score.mean_image_error - SAME_ERROR]:
            yield (
                f"By this measure nothing is recovered from {', '.join(nothing)}: the error is not at least "
                f"{SAME_ERROR} below that of the mean image."
            )

    def lead(self) -> str:
        which = f"each of {len(self.scores)} layers" if len(self.scores) > 1 else self.scores[0].label
        return f"Photographs reconstructed from {which}, by an inverter trained for that layer."

    def remarks(self) -> Iterator[str]:
        yield f"Measured on {self.image_count} photographs, center-cropped and resized to the network's input size."
        yield (
            "Normalized error: mean Euclidean distance between reconstruction and photograph, divided by the average "
            "distance between two photographs, both at the inverter's output size."
        )
        yield "These are reconstructions by these inverters: others may recover more."
        yield PUBLISHED_NOTE

    def tables(self) -> list[Table]:
        return [self._score_table(), _published_table()]

    def _score_table(self) -> Table:
        header = ["layer", "network", "features", "reconstructed", "normalized error", "mean image", "PSNR, dB", "SSIM"]
        lines = [
            [
                score.label,
                score.network,
                _shape(score, " × "),
                f"{score.crop} of {score.input_size} px at {score.output_size}",
                f"{score.error:.3f}",
                f"{score.mean_image_error:.3f}",
                f"{score.psnr:.1f}",
                f"{score.ssim:.3f}",
            ]
            for score in self.scores
        ]
        return Table("Scores of the reconstructions", header, lines)


def _published_table() -> Table:
    lines = [
        [name.removeprefix("alexnet-").upper(), f"{inverters:.2f}", f"{descent:.2f}"]
        for name, (inverters, descent) in PUBLISHED.items()
    ]
    header = ["AlexNet's layer", "paper's inverters", "gradient descent"]
    return Table("Published, of CaffeNet on ImageNet's validation set", header, lines)


def _shape(score: LayerScore, times: str) -> str:
    return times.join(map(str, score.features))


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"
