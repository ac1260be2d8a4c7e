"""Bootstrap intervals of means over images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

RESAMPLES = 2_000
_CONFIDENCE = 0.95
_DRAWN = 1 << 22  # images drawn at once, to bound the memory


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap interval.

    Attributes:
        mean: Mean of the values.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: Sequence[float] | npt.NDArray[np.float64],  # (N,)
    *,
    resamples: int = RESAMPLES,
    confidence: float = _CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Return the mean of values and its percentile interval over resamples of the values with replacement.

    Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. The ends are means of resamples, without
    interpolation between two of them. The same seed draws the same resamples of every set of N values, so that the
    interval of a mean of differences belongs to the same resamples as those of the two means.

    Args:
        values: One value for each image; infinite values are allowed.
        resamples: Number of resamples, at least 2,000.
        confidence: Share of the resampled means inside the interval, in (0, 1).
        seed: Seed of the resamples.

    Raises:
        ValueError: No values, NaN, too few resamples, or a confidence out of range.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"values must be (N,) with at least one value, got shape {array.shape}")
    if np.isnan(array).any():
        raise ValueError(f"values must be numbers, got NaN for image {int(np.isnan(array).argmax())}")
    if resamples < RESAMPLES:
        raise ValueError(f"resamples must be at least {RESAMPLES:,}, got {resamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence:g}")
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _DRAWN // len(array))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        means[start : start + count] = array[generator.integers(0, len(array), (count, len(array)))].mean(axis=1)
    outside = round((1 - confidence) / 2, 12)  # 0.025, not the nearest number above it
    low, high = np.quantile(means, (outside, 1 - outside), method="inverted_cdf")
    return Interval(float(array.mean()), float(low), float(high))
