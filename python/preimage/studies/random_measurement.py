"""Measure real features and samples, and the images decoded from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from preimage.metrics import feature_error
from preimage.pipelines.image_loading import Pixels, as_pixels
from preimage.pipelines.reextraction import reextracted
from preimage.studies.base import ProgressCounter
from preimage.studies.feature_samples import FeatureDistribution
from preimage.studies.image_statistics import colorfulness, contrast, fine_detail
from preimage.studies.random_source import FeatureSource

ENOUGH_IMAGES = 4096  # from which the paper took its histograms

REAL, HISTOGRAM, GAUSSIAN = "real", "histogram", "gaussian"
TITLES = {
    REAL: "real features",
    HISTOGRAM: "every dimension from its own values",
    GAUSSIAN: "one Gaussian for all dimensions",
}


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
        round_trip: Mean of ‖φ(f(s)) − s‖ / ‖s‖, where f decodes the features s, and φ computes features again; NaN
            if all features are zero.
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
        return TITLES[self.kind]


def measure(
    kind: str,
    features: torch.Tensor,
    distribution: FeatureDistribution,
    source: FeatureSource,
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


def sampling_notes(distribution: FeatureDistribution) -> Iterator[str]:
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
