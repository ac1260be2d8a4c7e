"""Decode random features: every dimension sampled on its own, from its values or from one Gaussian."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from preimage.baselines.base import feature_error
from preimage.io import Listing
from preimage.pipelines.image_loading import Images, Pixels, as_pixels, at_once, batches, working_bytes
from preimage.pipelines.image_writer import output_folder
from preimage.pipelines.inverter_choice import InverterChoice, fitting_inverter
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations import Representation
from preimage.store import FeatureStore
from preimage.studies.base import ProgressCounter, SheetRow, Study, StudySummary, check_at_least, study_images
from preimage.studies.feature_samples import FeatureDistribution, sample_gaussian, sample_histograms
from preimage.studies.image_statistics import colorfulness, contrast, fine_detail
from preimage.studies.reextraction import reextracted
from preimage.viz.html import Table
from preimage.viz.plots import Values, draw_by_name
from preimage.viz.sheets import SMALLEST_TILE

ENOUGH_IMAGES = 4096  # from which the paper took its histograms

_REAL, _HISTOGRAM, _GAUSSIAN = "real", "histogram", "gaussian"
_TITLES = {
    _REAL: "real features",
    _HISTOGRAM: "every dimension from its own values",
    _GAUSSIAN: "one Gaussian for all dimensions",
}
_NOTHING = 0.05  # similarity below which nothing comes back
_LESS = 0.9  # ratio of similarities above which they are called the same


@dataclasses.dataclass(frozen=True)
class SampleScore:
    """Statistics of real features or of samples, and of the images decoded from them.

    Attributes:
        kind: ``real``, ``histogram`` or ``gaussian``.
        samples: Number of samples.
        mean: Mean of all numbers of the features.
        deviation: Standard deviation of all numbers.
        sparsity: Fraction of zeros.
        norm: Mean Euclidean norm.
        round_trip: Mean of ‖φ(f(s)) − s‖ / ‖s‖, where f decodes the features s, and φ computes features again.
        round_trip_deviation: Standard deviation of it among the samples.
        similarity: Mean cosine of the angle between φ(f(s)) and s, both without the means of the dimensions. Unlike
            the error, it does not depend on how strong the features of blurred images are.
        contrast: Mean standard deviation of a decoded image's luma.
        fine_detail: Mean root mean square of its luma at frequencies above 1/8 cycle per pixel.
        color: Mean root mean square difference of its channels from their mean.
    """

    kind: str
    samples: int
    mean: float
    deviation: float
    sparsity: float
    norm: float
    round_trip: float
    round_trip_deviation: float
    similarity: float
    contrast: float
    fine_detail: float
    color: float

    @property
    def title(self) -> str:
        """Name in prose."""
        return _TITLES[self.kind]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomSummary(StudySummary):
    """Result of the study of random features.

    Attributes:
        inverter: Name or folder of the inverter.
        seed: Seed of the samples.
        scores: Statistics of real features, and of both kinds of samples.
    """

    inverter: str
    seed: int
    scores: tuple[SampleScore, ...]


def study_random(
    images: Images | FeatureStore,
    output: str | PathLike[str],
    *,
    inverter: InverterChoice = None,
    representation: Representation | str | None = None,
    size: int | None = None,
    count: int = 64,
    seed: int = 0,
    show_count: int = 8,
    tile: int = 128,
    batch_size: int = 16,
    device: str = "auto",
    skip_bad: bool = False,
    command: str = "preimage study random",
    progress: Callable[[int, int], None] | None = None,
) -> RandomSummary:
    """Decode features whose dimensions are sampled independently, and compare them with real features.

    The distributions are those of the features of `images`, of which 4,096 or more should be given. They are collected
    image by image (`preimage.studies.feature_samples`), so that memory does not depend on the number of images.

    Args:
        images: Path or paths (folders, files, tar shards), or sources; or a feature store, or its path. At least two
            images.
        output: A folder, which is created if it does not exist; files of an earlier study are replaced.
        inverter: Inverter, its name or folder; ``None`` takes the pretrained one of the representation.
        representation: Representation that the inverter inverts, or its name; required for a layer of a network, and
            without an inverter or a feature store.
        size: Side in pixels to which images are resized and center-cropped; ``None`` is the representation's only size,
            or 256. It must be ``None`` with a feature store.
        count: Number of samples of each kind that are measured, and of real features (fewer if there are fewer images).
        seed: Seed of the samples.
        show_count: Number of samples of each kind on the sheet.
        tile: Side of an image on the sheet in pixels, at least 32.
        batch_size: Batch size.
        device: Device of the inverter and, where possible, of the representation, see `Reconstructor`.
        skip_bad: Whether images that cannot be read are left out and listed, instead of raising an error.
        command: Command line shown on the page.
        progress: Function called with (steps done, total number of steps); a step is one image.

    Raises:
        ValueError: There are fewer than two images, or a bad one (named); features contain NaN or infinite values, are
            all zero, or are equal for all images; sparse SIFT, whose cells are not made of independent numbers; the
            inverter is for other features; there is no such device, representation or inverter; a value is out of
            range.
        LookupError: There is no pretrained inverter for the representation.
        FileFormatError: The feature store is damaged.
    """
    start = time.perf_counter()
    check_at_least(("count", count, 1), ("seed", seed, 0), ("show_count", show_count, 1), ("batch_size", batch_size, 1))
    check_at_least(("tile", tile, SMALLEST_TILE))
    folder = output_folder(output)
    store = _as_store(images)
    if store is not None:
        source: _Source = _StoreSource(store, inverter, representation, size, batch_size, device)
    else:
        source = _ImageSource(images, inverter, representation, size, batch_size, device, skip_bad=skip_bad)
    reconstructor = source.reconstructor
    if reconstructor.inverter.spec.representation == "sift":
        raise ValueError(
            "sparse SIFT cannot be sampled number by number: a cell is a keypoint or empty as a whole; choose another "
            "representation"
        )
    real_count = min(count, source.images)
    chosen = {round(index * (source.images - 1) / max(1, real_count - 1)) for index in range(real_count)}
    steps = ProgressCounter(source.images + len(chosen) + 2 * count, progress)
    distribution, real = FeatureDistribution(seed), _Chosen([], [])
    for keys, features, originals in source.batches():
        for index, (key, values) in enumerate(zip(keys, features, strict=True)):
            if not np.isfinite(values).all():
                raise ValueError(f"{key}: the features contain NaN or infinite values, which have no distribution")
            if distribution.images in chosen:
                real.features.append(np.array(values, np.float32))
                if originals is not None and len(real.photographs) < show_count:
                    real.photographs.append(as_pixels(reconstructor.target(originals[index])))
            distribution.add(values)
        steps.add(len(keys))
    notes = list(_notes(distribution))
    samples = {
        _REAL: np.stack(real.features),
        _HISTOGRAM: sample_histograms(distribution, count, seed),
        _GAUSSIAN: sample_gaussian(distribution, count, seed),
    }
    rows = [SheetRow("photographs", real.photographs)] if real.photographs else []
    scores = []
    for kind, features in samples.items():
        score, shown = _measure(kind, torch.from_numpy(features), distribution, source, show_count, steps)
        scores.append(score)
        rows.append(SheetRow(f"{_TITLES[kind]}, decoded", shown))
    study = RandomStudy(
        scores,
        distribution,
        rows,
        inverter=source.name,
        representation=reconstructor.inverter.spec.representation,
        seed=seed,
        tile=tile,
    )
    written = study.write(folder, start=start, listings=[source.listing], notes=notes, command=command)
    return RandomSummary(**vars(written), inverter=source.name, seed=seed, scores=tuple(scores))


class _Chosen(NamedTuple):
    """Features of some images, and the first of these images as (H, W, 3) uint8."""

    features: list[npt.NDArray[np.float32]]
    photographs: list[Pixels]


Batch = tuple[Sequence[str], npt.NDArray[np.float32], torch.Tensor | None]


class _Source:
    """Features of images, batch by batch.

    Attributes:
        reconstructor: Representation and inverter.
        name: Name or folder of the inverter.
        images: Number of images.
        size: (H, W) of the images; ``None`` for inverters with an output region.
        batch_size: Number of images at once.
        listing: Images that are left out, and notes.
    """

    reconstructor: Reconstructor
    name: str
    images: int
    size: tuple[int, int] | None
    batch_size: int
    listing: Listing

    def batches(self) -> Iterator[Batch]:
        """Yield keys, features (B, ...), and the images (B, 3, H, W) if there are images."""
        raise NotImplementedError


class _ImageSource(_Source):
    """Features that are computed from images."""

    def __init__(
        self,
        images: Images,
        inverter: InverterChoice,
        representation: Representation | str | None,
        size: int | None,
        batch_size: int,
        device: str,
        *,
        skip_bad: bool,
    ) -> None:
        self.reconstructor = Reconstructor(representation, inverter, device)
        self._side = self.reconstructor.side(size)
        self.name = self.reconstructor.name
        self.listing = study_images(images, skip_bad=skip_bad)
        self.images = len(self.listing.sources)
        is_whole = self.reconstructor.inverter.output_region is None
        self.size = (self._side, self._side) if is_whole else None
        together = working_bytes(self.reconstructor.representation, self._side, self._side, inverted=True)
        self.batch_size = at_once(together, batch_size)

    def batches(self) -> Iterator[Batch]:
        for keys, images in batches(self.listing.sources, self._side, self.batch_size):
            features = self.reconstructor.features(images).cpu().numpy()
            yield keys, features, images


class _StoreSource(_Source):
    """Features in a feature store."""

    def __init__(
        self,
        store: FeatureStore,
        inverter: InverterChoice,
        representation: Representation | str | None,
        size: int | None,
        batch_size: int,
        device: str,
    ) -> None:
        if size is not None:
            raise ValueError(f"size must be None with a feature store, whose features are computed, got {size}")
        if len(store) < 2:
            raise ValueError(f"the study needs at least two images, got {len(store)} in {store.path}")
        network, self.name = fitting_inverter(inverter, store.spec, store.path)
        self.reconstructor = Reconstructor(representation, network, device)
        height, width = map(int, store.processed_sizes[0])
        self._store, self.images, self.listing = store, len(store), Listing([])
        self.size = (height, width) if network.output_region is None else None
        together = working_bytes(self.reconstructor.representation, height, width, inverted=True)
        self.batch_size = at_once(together, batch_size)

    def batches(self) -> Iterator[Batch]:
        for keys, features, _, _ in self._store.batches(self.batch_size):
            yield keys, features.astype(np.float32), None


def _as_store(images: Images | FeatureStore) -> FeatureStore | None:
    """Return the feature store, or ``None`` for images."""
    if isinstance(images, FeatureStore):
        return images
    given = [images] if isinstance(images, str | PathLike) else list(images)
    if len(given) != 1 or not isinstance(given[0], str | PathLike):
        return None
    path = Path(os.fspath(given[0]))
    return FeatureStore(path) if (path / "index.json").is_file() or path.suffix == ".safetensors" else None


def _measure(
    kind: str,
    features: torch.Tensor,
    distribution: FeatureDistribution,
    source: _Source,
    show_count: int,
    steps: ProgressCounter,
) -> tuple[SampleScore, list[Pixels]]:
    """Return the statistics of features (N, ...), and the first images decoded from them."""
    reconstructor = source.reconstructor
    means = torch.from_numpy(distribution.means).view(-1, *[1] * (features.dim() - 2))
    errors: list[float] = []
    similarities: list[float] = []
    measured: list[torch.Tensor] = []
    shown: list[Pixels] = []
    for part in features.split(source.batch_size):
        images = reconstructor.invert(part, source.size).clamp(0, 1)
        again = reextracted(reconstructor, images)
        found = feature_error(again, part)
        similarities += F.cosine_similarity((again - means).flatten(1), (part - means).flatten(1)).tolist()
        # Features that are all zero, which a sparse representation has of some images, have no relative error.
        errors += found[found.isfinite()].tolist()
        measured.append(torch.stack((contrast(images), fine_detail(images), colorfulness(images))))
        shown += list(as_pixels(images[: show_count - len(shown)]))
        steps.add(len(part))
    of_images = torch.cat(measured, dim=1).double().mean(dim=1).tolist()
    numbers = features.double()
    score = SampleScore(
        kind=kind,
        samples=len(features),
        mean=float(numbers.mean()),
        deviation=float(numbers.std(correction=0)),
        sparsity=float((features == 0).double().mean()),
        norm=float(numbers.flatten(1).norm(dim=1).mean()),
        round_trip=float(np.mean(errors)) if errors else math.nan,
        round_trip_deviation=float(np.std(errors)) if errors else math.nan,
        similarity=float(np.mean(similarities)),
        contrast=of_images[0],
        fine_detail=of_images[1],
        color=of_images[2],
    )
    return score, shown


def _notes(distribution: FeatureDistribution) -> Iterator[str]:
    """Yield what is special about the distributions; ``ValueError`` if there is nothing to sample."""
    images, dimensions = distribution.images, distribution.dimensions
    if distribution.always_zero == dimensions:
        raise ValueError(f"all features of all {images:,} images are 0: there is no distribution to sample")
    if distribution.always_zero + distribution.constant == dimensions:
        raise ValueError(f"the features of all {images:,} images are equal: there is no distribution to sample")
    if images < ENOUGH_IMAGES:
        yield (
            f"The distributions are those of {images:,} images; the paper used at least {ENOUGH_IMAGES:,}. With few "
            "images rare values are missing."
        )
    if distribution.always_zero:
        yield f"{distribution.always_zero:,} of {dimensions:,} dimensions are 0 in all images, and in all samples."
    if distribution.constant:
        yield f"{distribution.constant:,} of {dimensions:,} dimensions have the same value in all images."
    if not distribution.sparsity:
        yield "No number of the features is 0, so that there is no sparsity to match."
    if distribution.is_signed:
        yield "The features have negative values, so that the Gaussian is not truncated at zero."
    elif not distribution.nonzero_deviation > 1e-6 * distribution.nonzero_mean:
        yield "All values other than 0 are equal, so that the Gaussian has no width."
    if distribution.are_probabilities:
        yield "The features are probabilities, so that every sample was divided by its sum."


class RandomStudy(Study):
    """Presentation of the statistics.

    Args:
        scores: Statistics of real features, and of both kinds of samples.
        distribution: Distributions of the dimensions.
        sheet_rows: Rows of the sheet.
        inverter: Name or folder of the inverter.
        representation: Name of the representation.
        seed: Seed of the samples.
        tile: Side of an image on the sheet, pixels.
    """

    name = "random"
    title = "Random features"
    sheet_heading = "Decoded"
    sheet_alt = "rows of images decoded from real features and from random ones"
    plot_heading = "Relative to real features"
    plot_alt = "statistics of samples and of images decoded from them, relative to those of real features"

    def __init__(
        self,
        scores: Sequence[SampleScore],
        distribution: FeatureDistribution,
        sheet_rows: Sequence[SheetRow] = (),
        *,
        inverter: str = "",
        representation: str = "",
        seed: int = 0,
        tile: int = 128,
    ) -> None:
        self.scores, self.sheet_rows, self.tile = tuple(scores), sheet_rows, tile
        self._distribution, self._inverter = distribution, inverter
        self._representation, self._seed = representation, seed
        self._real, self._histogram, self._gaussian = self.scores

    @property
    def image_count(self) -> int:
        return self._distribution.images

    def table(self) -> Iterator[Sequence[object]]:
        yield [field.name for field in dataclasses.fields(SampleScore)]
        every = self._distribution
        statistics = [f"{value:.6f}" for value in (every.mean, every.deviation, every.sparsity)]
        yield ["all", every.images, *statistics, *[""] * 7]
        for score in self.scores:
            kind, samples, *values = dataclasses.astuple(score)
            yield [kind, samples, *(f"{value:.6f}" for value in values)]

    def sheet_titles(self) -> list[str]:
        return [str(column + 1) for column in range(max(len(row.cells) for row in self.sheet_rows))]

    def plot(self) -> Pixels:
        """Draw each statistic of the samples, divided by that of real features."""
        names = {
            "mean": "mean",
            "deviation": "deviation",
            "sparsity": "zeros",
            "norm": "norm",
            "round_trip": "round trip",
            "similarity": "similarity",
            "contrast": "contrast",
            "fine_detail": "detail",
            "color": "color",
        }
        series = [Values(self._real.title, [1.0] * len(names), "level")]
        for score in (self._histogram, self._gaussian):
            ratios = [_ratio(getattr(score, name), getattr(self._real, name)) for name in names]
            series.append(Values(score.title, ratios, "points"))
        title = "Statistics of features, and of images decoded from them"
        groups = ["features"] * 6 + ["decoded images"] * 3
        return draw_by_name(title, list(names.values()), series, groups)

    def findings(self) -> Iterator[str]:
        real, histogram, gaussian = self.scores
        yield (
            "The round trip of features through the decoded image and back has an error of "
            f"{histogram.round_trip:.2f} for dimensions sampled one by one from their own values and "
            f"{gaussian.round_trip:.2f} for one Gaussian, against {real.round_trip:.2f} for real features."
        )
        if real.similarity < _NOTHING:
            conclusion = "so little of real features comes back that it says nothing about the samples."
        elif histogram.similarity < _LESS * real.similarity:
            conclusion = "independent dimensions do not make features of images."
        else:
            conclusion = "by this measure independent dimensions are as good as real features."
        yield (
            f"The similarity of the features before and after it is {histogram.similarity:.2f} and "
            f"{gaussian.similarity:.2f}, against {real.similarity:.2f} for real features: {conclusion}"
        )
        yield (
            f"The decoded images have a contrast of {histogram.contrast:.3f} (every dimension from its own values) and "
            f"{gaussian.contrast:.3f} (one Gaussian), those of real features {real.contrast:.3f}; fine detail of "
            f"{histogram.fine_detail:.3f} and {gaussian.fine_detail:.3f}, against {real.fine_detail:.3f}; and color of "
            f"{histogram.color:.3f} and {gaussian.color:.3f}, against {real.color:.3f}."
        )
        yield (
            f"{100 * real.sparsity:.0f} % of the numbers in real features are 0, "
            f"{100 * histogram.sparsity:.0f} % and {100 * gaussian.sparsity:.0f} % of those in the samples."
        )

    def lead(self) -> str:
        shape = " × ".join(map(str, self._distribution.shape))
        return (
            f"Random {self._representation} features ({shape}) with the distributions of {self.image_count:,} images, "
            "decoded. Every number was sampled independently of the others, and as many numbers are 0 as in an image."
        )

    def remarks(self) -> Iterator[str]:
        yield (
            "Error: the distance between the features of the decoded image and the features that were decoded, divided "
            "by the norm of the latter; the mean over the samples. Similarity: the cosine of the angle between both, "
            "without the means of the dimensions."
        )
        yield (
            "Contrast: standard deviation of the luma. Detail: root mean square of the luma at frequencies above 1/8 "
            "cycle per pixel. Color: root mean square difference of the channels from their mean. Images are in [0, 1]."
        )
        if len(self._distribution.shape) > 1:
            yield "All positions of a channel share one distribution."
        yield f"Inverter: {self._inverter}. Seed: {self._seed}."

    def tables(self) -> list[Table]:
        header = [
            "",
            "samples",
            "mean",
            "deviation",
            "zeros",
            "norm",
            "round-trip error",
            "similarity",
            "contrast",
            "detail",
            "color",
        ]
        lines = [
            [
                score.title,
                str(score.samples),
                f"{score.mean:.4g}",
                f"{score.deviation:.4g}",
                f"{100 * score.sparsity:.1f} %",
                f"{score.norm:.4g}",
                f"{score.round_trip:.3f} ± {score.round_trip_deviation:.3f}",
                f"{score.similarity:.3f}",
                f"{score.contrast:.3f}",
                f"{score.fine_detail:.3f}",
                f"{score.color:.3f}",
            ]
            for score in self.scores
        ]
        return [Table("Features, and images decoded from them", header, lines)]


def _ratio(value: float, reference: float) -> float | None:
    return value / reference if reference and math.isfinite(value / reference) and value / reference >= 0 else None
