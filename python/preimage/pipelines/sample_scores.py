"""Score the samples of an inverter: errors, calibration, and how well their features agree with those inverted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

from preimage.metrics import NormalizedError, Originals, feature_error
from preimage.pipelines.calibration import Calibration, Draws, RankHistogram, SpreadSkill
from preimage.pipelines.reconstruct import Comparison, Reconstructor
from preimage.pipelines.reextraction import reextracted

SMALLEST_RATIO, LARGEST_RATIO = 0.8, 1.25  # spread / skill of calibrated samples
_ERROR_TOLERANCE = 0.005  # normalized error
_RATIO_TOLERANCE = 0.1  # relative


@dataclasses.dataclass(frozen=True)
class SampleScores:
    """Scores of n samples ("draws") for each image.

    If the true image is like one more draw, its squared distance from the mean of n draws is (1 + 1/n) times, and from
    a single draw twice, that from the mean of all possible draws.

    Attributes:
        count: Number of draws for each image, n.
        seed: Seed of the draws.
        draw_error: Normalized error of a single draw, averaged over the draws.
        mean_error: Normalized error of the mean of the draws.
        mean_error_limit: √(1 + 1/n) · the error of the inverter without noise + 0.005: the largest error of the mean.
        error_ratio: `draw_error` divided by `mean_error`.
        calibrated_error_ratio: √(2n / (n + 1)): that ratio if the draws are calibrated.
        feature_error: Mean of ‖φ(y) − f‖ / ‖f‖ over the images, for the inverter's representation φ, the features f of
            an image and its reconstruction y without noise. Images where it is infinite, because their features are all
            zero, are left out; NaN if there are no others.
        draw_feature_error: The same for the first draw instead of the reconstruction.
        mean_feature_error: The same for the mean of the draws.
        deviation: Root mean square standard deviation of the draws.
        spread_skill: Spread and skill by band.
        rank_histograms: Rank histograms by band.
        calibrated: Whether the error of the mean is within its limit, the ratio of errors within 10 % of the calibrated
            one, and spread / skill from 0.8 to 1.25 in all bands.
        failed: Sentences about the criteria that do not hold.
    """

    count: int
    seed: int
    draw_error: float
    mean_error: float
    mean_error_limit: float
    error_ratio: float
    calibrated_error_ratio: float
    feature_error: float
    draw_feature_error: float
    mean_feature_error: float
    deviation: float
    spread_skill: tuple[SpreadSkill, ...]
    rank_histograms: tuple[RankHistogram, ...]
    calibrated: bool
    failed: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ImageSampleScore:
    """Scores of the samples for one image, see `SampleScores`.

    Attributes:
        draw_error: Normalized error of a single draw, averaged over the draws.
        mean_error: Normalized error of the mean of the draws.
        deviation: Root mean square standard deviation of the draws.
    """

    draw_error: float
    mean_error: float
    deviation: float


class SampleScorer:
    """Draw samples for batches of images, and accumulate their scores.

    Args:
        reconstructor: Representation and inverter.
        originals: Statistics of the original images, which the caller collects.
        count: Number of draws for each image, at least 2.
        seed: Seed of the draws.

    Raises:
        ValueError: An inverter that cannot sample.
    """

    def __init__(self, reconstructor: Reconstructor, originals: Originals, count: int, seed: int) -> None:
        reconstructor.inverter.check_can_sample()
        self._reconstructor, self._count, self._seed = reconstructor, count, seed
        self._calibration = Calibration(count, seed)
        self._draw_errors = [NormalizedError(originals) for _ in range(count)]
        self._mean_error = NormalizedError(originals)
        self._deviations: list[float] = []
        self._plain_feature_errors: list[float] = []
        self._draw_feature_errors: list[float] = []
        self._mean_feature_errors: list[float] = []

    def add(self, comparison: Comparison) -> None:
        """Draw samples for a batch, whose noise is keyed by the number of images before it, and add their scores.

        Raises:
            ValueError: A negative seed.
        """
        inverter, device = self._reconstructor.inverter, self._reconstructor.device
        target = comparison.target.to(device)
        size = None if inverter.output_region is not None else target.shape[2:]
        done = len(self._deviations)
        positions = range(done, done + len(target))
        draws = Draws(target)
        with torch.no_grad():
            features = comparison.features.to(device)
            first = None
            for images in inverter.draws(features, self._count, self._seed, size=size, positions=positions):
                self._draw_errors[draws.count].update(target, images)
                first = images if first is None else first
                draws.add(images)
            assert first is not None
        self._calibration.add(draws, positions)
        self._mean_error.update(target, draws.mean)
        self._deviations += draws.deviation.tolist()
        self._plain_feature_errors += self._feature_errors(features, comparison.reconstruction)
        self._draw_feature_errors += self._feature_errors(features, first)
        self._mean_feature_errors += self._feature_errors(features, draws.mean)

    def report(self, error: float) -> tuple[SampleScores, tuple[ImageSampleScore, ...]]:
        """Return the scores, and those of each image.

        Args:
            error: Normalized error of the reconstructions without noise.
        """
        n = self._count
        draws = [one.report() for one in self._draw_errors]
        mean = self._mean_error.report()
        draw_errors = [sum(errors) / n for errors in zip(*(one.per_image for one in draws), strict=True)]
        draw_error = _mean(draw_errors)
        limit = math.sqrt(1 + 1 / n) * error + _ERROR_TOLERANCE
        ratio = draw_error / mean.error if mean.error else math.nan
        expected = math.sqrt(2 * n / (n + 1))
        spread_skill = self._calibration.spread_skill()
        failed = []
        if not mean.error <= limit:
            failed.append(f"the error of the mean of {n} draws is {mean.error:.4f}, above {limit:.4f}")
        if not abs(ratio / expected - 1) <= _RATIO_TOLERANCE:
            failed.append(
                f"the error of one draw is {ratio:.3f} times that of the mean, not within "
                f"{_RATIO_TOLERANCE:.0%} of {expected:.3f}"
            )
        failed += [
            f"spread/skill is {one.ratio:.2f} for {_PHRASES[one.planes]}, {one.band}, not within "
            f"{SMALLEST_RATIO}-{LARGEST_RATIO}"
            for one in spread_skill
            if not SMALLEST_RATIO <= one.ratio <= LARGEST_RATIO
        ]
        scores = SampleScores(
            count=n,
            seed=self._seed,
            draw_error=draw_error,
            mean_error=mean.error,
            mean_error_limit=limit,
            error_ratio=ratio,
            calibrated_error_ratio=expected,
            feature_error=_finite_mean(self._plain_feature_errors),
            draw_feature_error=_finite_mean(self._draw_feature_errors),
            mean_feature_error=_finite_mean(self._mean_feature_errors),
            deviation=math.sqrt(_mean([deviation**2 for deviation in self._deviations])),
            spread_skill=spread_skill,
            rank_histograms=self._calibration.rank_histograms(),
            calibrated=not failed,
            failed=tuple(failed),
        )
        columns = zip(draw_errors, mean.per_image, self._deviations, strict=True)
        return scores, tuple(ImageSampleScore(*values) for values in columns)

    def _feature_errors(self, features: torch.Tensor, images: torch.Tensor) -> list[float]:
        return feature_error(reextracted(self._reconstructor, images.cpu()), features).tolist()


_PHRASES = {"all": "all channels", "luminance": "luminance", "chroma": "chroma"}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _finite_mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are finite, or NaN if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return _mean(finite) if finite else math.nan
