"""Measure the reconstructions from several layers, of intact and of perturbed features."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

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
from preimage.pipelines.reconstruct import Comparison, Reconstructor
from preimage.studies.base import (
    NORMALIZED_ERROR,
    SAME_ERROR,
    ProgressCounter,
    check_at_least,
    mean_scores,
    study_images,
)
from preimage.studies.feature_perturbations import Perturbation
from preimage.studies.inputs import check_finite
from preimage.studies.layers_rows import Inverters, LayerRow, Networks, forward_pass, layer_name, network_name, rows_for
from preimage.viz.html import Table
from preimage.viz.sheets import SMALLEST_TILE

INTACT = "intact"
OUTLIER_DEVIATIONS = 10  # standard deviations from the mean, beyond which features are unlike those of training


@dataclasses.dataclass(frozen=True)
class LayerScore:
    """Mean scores of the reconstructions from one layer, under one perturbation.

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
        perturbation: Name of the perturbation, or ``intact``.
        nonzero: Mean number of non-zero entries of an image's (perturbed) features.
        zero_images: Number of images whose (perturbed) features are all zero.
        outliers: Fraction of the (perturbed) features that are more than `OUTLIER_DEVIATIONS` standard deviations from
            the mean, with the mean and standard deviation by which the inverter normalizes them.
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
    perturbation: str = INTACT
    nonzero: float = 0.0
    zero_images: int = 0
    outliers: float = 0.0

    @property
    def below_mean_image(self) -> bool:
        """Return whether the error is below that of the mean image, by at least `SAME_ERROR`."""
        return self.error <= self.mean_image_error - SAME_ERROR


class Shown(NamedTuple):
    """An image of the sheet.

    Attributes:
        key: Key of the image.
        original: The image, at the largest input size of the layers.
        reconstructions: Reconstructions by the label of the layer and the name of the perturbation.
    """

    key: str
    original: Pixels
    reconstructions: dict[tuple[str, str], Pixels]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Scores of all layers, and the images of the sheet.

    Attributes:
        scores: Scores by layer in the order given, of each the intact features first.
        shown: Images of the sheet.
        listings: Listings of the measured images and of those of the sheet.
    """

    scores: tuple[LayerScore, ...]
    shown: list[Shown]
    listings: tuple[Listing, Listing]


def measure_layers(
    images: Images,
    *,
    inverter: Inverters,
    network: Networks,
    show: Images | None,
    show_count: int,
    size: int,
    tile: int,
    batch_size: int,
    device: str,
    skip_bad: bool,
    progress: Callable[[int, int], None] | None,
    perturbations: Sequence[Perturbation] = (),
    seed: int = 0,
) -> Measured:
    """Reconstruct images from each layer, intact and under each perturbation that applies to it.

    Parameters and errors are those of `preimage.study_perturb`, with `perturbations` already parsed.
    """
    check_at_least(("size", size, SMALLEST_FOR_SSIM), ("tile", tile, SMALLEST_TILE), ("seed", seed, 0))
    check_at_least(("batch_size", batch_size, 1), ("show_count", show_count, 1))
    columns = [_Column(row, device, size, perturbations) for row in rows_for(inverter, network)]
    listing = study_images(images, skip_bad=skip_bad)
    shown = Listing(listing.sources[:show_count]) if show is None else decodable_listing(show, skip_bad=skip_bad)
    pictures = _shown(columns, shown.sources, batch_size, seed)
    return Measured(tuple(_scores(columns, listing.sources, batch_size, seed, progress)), pictures, (listing, shown))


class _Column:
    """A layer with its inverter, and the perturbations that apply to its features.

    Args:
        row: The layer.
        device: Device of the inverter.
        size: Side of the images for representations that take any size.
        perturbations: Perturbations to select from.
    """

    def __init__(self, row: LayerRow, device: str, size: int, perturbations: Sequence[Perturbation]) -> None:
        region = row.inverter.output_region
        if region is not None and region.size < SMALLEST_FOR_SSIM:
            raise ValueError(
                f"the inverter of {row.label} returns images of {region.size} pixels: SSIM needs at least "
                f"{SMALLEST_FOR_SSIM}"
            )
        self.row, self.reconstructor = row, Reconstructor(row.representation, row.inverter, device)
        try:
            self.side = self.reconstructor.side(default=size)
        except ValueError as error:
            raise ValueError(f"{row.label}: {error}") from error
        is_vector = row.inverter.spec.stride is None
        self.perturbations = [one for one in perturbations if is_vector or not one.vectors_only]


class _Batch(NamedTuple):
    """A batch of images reconstructed from one layer: intact, or under one perturbation."""

    keys: list[str]
    images: torch.Tensor  # (B, 3, S, S) uint8
    column: _Column
    perturbation: str
    comparison: Comparison


def _compared(
    columns: Sequence[_Column], sources: Sequence[ImageSource], batch_size: int, seed: int
) -> Iterator[_Batch]:
    """Yield every batch from every column, intact features first; layers of one network are computed in one pass."""
    by_side: dict[int, list[_Column]] = {}
    for column in columns:
        by_side.setdefault(column.side, []).append(column)
    for side, group in by_side.items():
        first = 0
        for keys, images in batches(sources, side, at_once(inverting_bytes(side, side), batch_size)):
            for column, features in _features(group, images):
                intact = column.reconstructor.compare(images, features)
                check_finite(keys, intact.features, f"the features of {column.row.label}")
                yield _Batch(keys, images, column, INTACT, intact)
                for perturbation in column.perturbations:
                    perturbed = perturbation(intact.features, seed=seed, first=first)
                    check_finite(keys, perturbed, f"the features of {column.row.label} under {perturbation.name}")
                    comparison = column.reconstructor.compare(images, perturbed)
                    yield _Batch(keys, images, column, perturbation.name, comparison)
            first += len(keys)


def _features(columns: Iterable[_Column], images: torch.Tensor) -> Iterator[tuple[_Column, torch.Tensor | None]]:
    """Yield each column and its features, computed in one pass for layers of one network; ``None`` if it is alone."""
    passes = [(column, forward_pass(column.row.representation)) for column in columns]
    computed: dict[tuple[int, str], Mapping[str, torch.Tensor]] = {}
    for column, one in passes:
        names = (
            [] if one is None else [other.layer for _, other in passes if other is not None and other.key == one.key]
        )
        if one is None or len(names) == 1:
            yield column, None
            continue
        if one.key not in computed:
            with torch.no_grad():
                there = images.to(column.reconstructor.device)
                computed[one.key] = one.network.layers(there, names, output_layout=one.output_layout)
        yield column, computed[one.key][one.layer]


def _scores(
    columns: Sequence[_Column],
    sources: Sequence[ImageSource],
    batch_size: int,
    seed: int,
    report: Callable[[int, int], None] | None,
) -> Iterator[LayerScore]:
    """Yield the scores of each column, in their order; ``ValueError`` for a bad image.

    The targets are kept in memory in float16 (0.3 MB for an image of 227²), once for all columns with the same targets.
    """
    scorers: dict[tuple[str, str], _Scorer] = {}
    targets: dict[tuple[int, OutputRegion | None], Originals] = {}
    for column in columns:
        for name in (INTACT, *(one.name for one in column.perturbations)):
            key = column.side, column.row.inverter.output_region
            collect = key not in targets
            scorer = _Scorer(column, name, targets.setdefault(key, Originals()), collect=collect)
            scorers[column.row.label, name] = scorer
    progress = ProgressCounter(len(scorers) * len(sources), report)
    for batch in _compared(columns, sources, batch_size, seed):
        scorers[batch.column.row.label, batch.perturbation].add(batch.keys, batch.comparison)
        progress.add(len(batch.keys))
    for scorer in scorers.values():
        yield scorer.score()


def _shown(columns: Sequence[_Column], sources: Sequence[ImageSource], batch_size: int, seed: int) -> list[Shown]:
    """Return each image, at the largest input size of the columns, with all of its reconstructions."""
    largest = max(columns, key=lambda column: column.side)
    originals: list[tuple[str, Pixels]] = []
    made: dict[tuple[str, str], list[Pixels]] = {}
    for batch in _compared(columns, sources, batch_size, seed):
        name = batch.column.row.label, batch.perturbation
        made.setdefault(name, []).extend(as_pixels(batch.comparison.reconstruction))
        if batch.column is largest and batch.perturbation == INTACT:
            pixels = batch.images.permute(0, 2, 3, 1).contiguous().numpy()
            originals += zip(batch.keys, pixels, strict=True)
    return [
        Shown(key, original, {name: pixels[index] for name, pixels in made.items()})
        for index, (key, original) in enumerate(originals)
    ]


class _Scorer:
    """The score of one column under one perturbation.

    Args:
        column: The column.
        perturbation: Name of the perturbation.
        targets: Targets of its reconstructions, shared by all columns with the same targets.
        collect: Whether the targets are added here.
    """

    def __init__(self, column: _Column, perturbation: str, targets: Originals, *, collect: bool) -> None:
        self._column, self._perturbation = column, perturbation
        self._scores = Scores(targets)
        self._collected = targets if collect else None
        self._shape: tuple[int, ...] = ()
        self._size = self._nonzero = self._zero_images = self._outliers = 0

    def add(self, keys: Sequence[str], comparison: Comparison) -> None:
        """Add a batch."""
        features, target, reconstruction = comparison
        if self._collected is not None:
            self._collected.add(target)
        self._scores.add(keys, target, reconstruction)
        self._shape, self._size = tuple(features.shape[1:]), reconstruction.shape[2]
        nonzero = features.flatten(1).count_nonzero(dim=1)
        self._nonzero += int(nonzero.sum())
        self._zero_images += int((nonzero == 0).sum())
        inverter = self._column.row.inverter
        standardized = inverter.standardized(features.to(inverter.feature_mean))
        self._outliers += int((standardized.abs() > OUTLIER_DEVIATIONS).sum())

    def score(self) -> LayerScore:
        """Return the score; ``ValueError`` if all images are equal."""
        mean = mean_scores(self._scores)
        row, side = self._column.row, self._column.side
        spec, region = row.inverter.spec, row.inverter.output_region
        return LayerScore(
            label=row.label,
            network=network_name(spec),
            layer=layer_name(spec),
            representation=spec.representation,
            variant=spec.variant,
            features=self._shape,
            input_size=side,
            crop=side if region is None else region.crop,
            output_size=self._size,
            error=mean.error,
            mean_image_error=mean.mean_image_error,
            normalizer=mean.normalizer,
            psnr=mean.psnr,
            ssim=mean.ssim,
            images=mean.images,
            inverter=row.origin,
            perturbation=self._perturbation,
            nonzero=self._nonzero / mean.images,
            zero_images=self._zero_images,
            outliers=self._outliers / (mean.images * math.prod(self._shape)),
        )


def csv_rows(scores: Sequence[LayerScore], *, perturbed: bool) -> Iterator[Sequence[object]]:
    """Yield the lines of the CSV file, its header first; with `perturbed` also perturbation and non-zero entries."""
    names = ["label", "network", "layer", "features", *["perturbation", "nonzero"] * perturbed, "output_size"]
    yield [*names, "normalized_error", "mean_image_error", "psnr_db", "ssim", "images", "inverter"]
    for score in scores:
        yield [
            *(score.label, score.network, score.layer, shape_text(score, "x")),
            *[score.perturbation, f"{score.nonzero:.2f}"] * perturbed,
            score.output_size,
            *(f"{score.error:.6f}", f"{score.mean_image_error:.6f}", f"{score.psnr:.4f}", f"{score.ssim:.6f}"),
            *(score.images, score.inverter),
        ]


def layer_table(scores: Sequence[LayerScore]) -> Table:
    """Return a table of the scores of intact features."""
    header = ["layer", "network", "features", "reconstructed", "normalized error", "mean image", "PSNR, dB", "SSIM"]
    lines = [
        [
            score.label,
            score.network,
            shape_text(score, " × "),
            f"{score.crop} of {score.input_size} px at {score.output_size}",
            f"{score.error:.3f}",
            f"{score.mean_image_error:.3f}",
            f"{score.psnr:.1f}",
            f"{score.ssim:.3f}",
        ]
        for score in scores
    ]
    return Table("Scores of the reconstructions", header, lines)


def measuring_remarks(image_count: int) -> Iterator[str]:
    """Yield the sentences about images and errors that belong below the scores."""
    yield f"Measured on {image_count} photographs, center-cropped and resized to the network's input size."
    yield f"{NORMALIZED_ERROR}, both at the inverter's output size."


def shape_text(score: LayerScore, times: str) -> str:
    """Return the shape of the features, such as ``256x6x6``."""
    return times.join(map(str, score.features))


def range_text(values: Sequence[float], digits: int = 2) -> str:
    """Return the range of values with some decimals, or the value if they are equal."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"
