"""Collect the distribution of every dimension of features, image by image, and sample features from it.

A dimension is a number of a vector, or a channel of maps, whose positions share one distribution.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

KEPT_VALUES = 4096  # values kept of each dimension
_PENDING_BYTES = 64 << 20  # values and keys that wait to be reduced to the kept ones
_ONE = 1e-3  # largest difference of the sum of probabilities from 1
# First numbers of the seeds, so that no two uses share random numbers.
_KEEPING, _HISTOGRAM, _GAUSSIAN = range(3)


class FeatureDistribution:
    """The distributions of the dimensions of features, in memory that does not depend on the number of images.

    Of each dimension up to 4,096 values other than zero are kept, all with the same probability: those with the
    smallest of random keys, which depend on the seed and the image's position alone. The frequency of zeros, the mean
    and the deviation are those of all values; the number of non-zero values is kept for each image.

    Args:
        seed: Seed of the selection, at least 0.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self.shape: tuple[int, ...] = ()
        self.nonzero_counts: list[int] = []
        self._values, self._keys = np.empty((0, 0), np.float32), np.empty((0, 0))
        self._pending: list[tuple[Array, npt.NDArray[np.float64]]] = []
        self._pending_bytes = 0
        self._sums = np.zeros(2)  # of the values and of their squares
        self._smallest, self._largest = np.empty(0), np.empty(0)
        self._nonzero = np.empty(0, np.int64)
        self._dimension_sums = np.empty(0)
        self._are_probabilities = True

    @property
    def images(self) -> int:
        """Number of images added."""
        return len(self.nonzero_counts)

    @property
    def dimensions(self) -> int:
        """Number of dimensions."""
        return self.shape[0]

    @property
    def numbers(self) -> int:
        """Number of numbers in the features of an image."""
        return math.prod(self.shape)

    def add(self, features: npt.NDArray[np.floating]) -> None:
        """Add the features of the next image, (C, h, w) or (C,).

        Raises:
            ValueError: Features of another shape than those before, NaN or infinite values.
        """
        values = np.asarray(features, np.float32)
        if not self.shape:
            self.shape = values.shape
            self._values, self._keys = np.empty((len(values), 0), np.float32), np.empty((len(values), 0))
            self._smallest, self._largest = np.full(len(values), np.inf), np.full(len(values), -np.inf)
            self._nonzero = np.zeros(len(values), np.int64)
            self._dimension_sums = np.zeros(len(values))
        if values.shape != self.shape:
            raise ValueError(f"the features of all images must have one shape, got {values.shape} after {self.shape}")
        if not np.isfinite(values).all():
            raise ValueError("the features contain NaN or infinite values, which have no distribution")
        rows = values.reshape(len(values), -1)
        is_nonzero = rows != 0
        self._sums += np.sum(rows, dtype=np.float64), np.sum(np.square(rows, dtype=np.float64))
        self._smallest = np.minimum(self._smallest, rows.min(axis=1))
        self._largest = np.maximum(self._largest, rows.max(axis=1))
        self._dimension_sums += rows.sum(axis=1, dtype=np.float64)
        self._nonzero += is_nonzero.sum(axis=1)
        self._are_probabilities &= values.ndim == 1 and bool((values >= 0).all()) and abs(values.sum() - 1) < _ONE
        keys = np.random.default_rng((_KEEPING, self._seed, self.images)).random(rows.shape)
        self._pending.append((rows.copy(), np.where(is_nonzero, keys, np.inf)))
        self._pending_bytes += rows.nbytes + keys.nbytes
        self.nonzero_counts.append(int(is_nonzero.sum()))
        if self._pending_bytes > _PENDING_BYTES:
            self._reduce()

    @property
    def mean(self) -> float:
        """Mean of all values."""
        return float(self._sums[0]) / (self.numbers * self.images)

    @property
    def deviation(self) -> float:
        """Standard deviation of all values."""
        return math.sqrt(max(0.0, float(self._sums[1]) / (self.numbers * self.images) - self.mean**2))

    @property
    def means(self) -> npt.NDArray[np.float64]:
        """Mean of each dimension, (C,)."""
        return self._dimension_sums / (self.images * (self.numbers // self.dimensions))

    @property
    def nonzero_mean(self) -> float:
        """Mean of the values other than zero; 0 if there are none."""
        return float(self._sums[0]) / max(1, sum(self.nonzero_counts))

    @property
    def nonzero_deviation(self) -> float:
        """Standard deviation of the values other than zero."""
        return math.sqrt(max(0.0, float(self._sums[1]) / max(1, sum(self.nonzero_counts)) - self.nonzero_mean**2))

    @property
    def frequencies(self) -> npt.NDArray[np.float64]:
        """Frequency of values other than zero in each dimension, (C,)."""
        return self._nonzero / (self.images * (self.numbers // self.dimensions))

    @property
    def sparsity(self) -> float:
        """Fraction of zeros among all values."""
        return 1 - sum(self.nonzero_counts) / (self.numbers * self.images)

    @property
    def is_signed(self) -> bool:
        """Return whether there are negative values."""
        return bool((self._smallest < 0).any())

    @property
    def always_zero(self) -> int:
        """Number of dimensions whose values are all 0."""
        return int((self._nonzero == 0).sum())

    @property
    def constant(self) -> int:
        """Number of dimensions whose values are equal, but not 0."""
        return int(((self._smallest == self._largest) & (self._nonzero > 0)).sum())

    @property
    def are_probabilities(self) -> bool:
        """Return whether the features of every image are a vector of probabilities: not negative, with the sum 1."""
        return self._are_probabilities and self.images > 0

    def values(self) -> list[Array]:
        """Return the kept values of each dimension; empty for dimensions that are always 0."""
        self._reduce()
        # In the order of the keys, which unlike that of the partition does not depend on when values were reduced.
        order = np.argsort(self._keys, axis=1)
        kept = np.minimum(self._nonzero, self._keys.shape[1])
        return [row[places[:count]] for row, places, count in zip(self._values, order, kept, strict=True)]

    def _reduce(self) -> None:
        """Keep the values with the smallest keys."""
        values = np.concatenate([self._values, *(values for values, _ in self._pending)], axis=1)
        keys = np.concatenate([self._keys, *(keys for _, keys in self._pending)], axis=1)
        if keys.shape[1] > KEPT_VALUES:
            places = np.argpartition(keys, KEPT_VALUES - 1, axis=1)[:, :KEPT_VALUES]
            values, keys = np.take_along_axis(values, places, 1), np.take_along_axis(keys, places, 1)
        self._values, self._keys = values, keys
        self._pending, self._pending_bytes = [], 0


def sample_histograms(distribution: FeatureDistribution, count: int, seed: int = 0) -> Array:
    """Sample features whose dimensions are independent, each with the distribution of its own values.

    The number of non-zero values is that of an image drawn from all images. Which values are not zero is decided by
    independent choices with the dimensions' frequencies, given that number (every frequency's logit plus logistic
    noise; the largest ones are not zero). Each of them is one of the kept values of its dimension. Probabilities are
    divided by their sum.

    Args:
        distribution: Distribution of the features of at least one image.
        count: Number of samples.
        seed: Seed, at least 0. Sample i does not depend on `count`.

    Returns:
        (count, C, h, w) or (count, C), float32.
    """
    values = distribution.values()
    kept = np.array([max(1, len(one)) for one in values])[:, None]
    table = np.zeros((len(values), int(kept.max())), np.float32)
    for row, one in zip(table, values, strict=True):
        row[: len(one)] = one
    with np.errstate(divide="ignore"):
        logits = np.log(distribution.frequencies) - np.log1p(-distribution.frequencies)
    samples = np.zeros((count, distribution.dimensions, distribution.numbers // distribution.dimensions), np.float32)
    for index, sample in enumerate(samples):
        random = np.random.default_rng((_HISTOGRAM, seed, index))
        nonzero = distribution.nonzero_counts[random.integers(distribution.images)]
        scores = (logits[:, None] + random.logistic(size=sample.shape)).ravel()
        drawn = np.take_along_axis(table, (random.random(sample.shape) * kept).astype(np.int64), 1).ravel()
        places = np.argpartition(-scores, nonzero - 1)[:nonzero] if nonzero else np.empty(0, np.int64)
        sample.reshape(-1)[places] = drawn[places]
    return _shaped(samples, distribution)


def sample_gaussian(distribution: FeatureDistribution, count: int, seed: int = 0) -> Array:
    """Sample features whose non-zero values all have one Gaussian distribution, truncated at zero.

    Its mean and deviation before truncation are those of all non-zero values; features with negative values are not
    truncated. The number of non-zero values is that of an image drawn from all images, and their places are drawn
    uniformly. Probabilities are divided by their sum. Arguments and result are those of `sample_histograms`.
    """
    mean, deviation = distribution.nonzero_mean, distribution.nonzero_deviation
    samples = np.zeros((count, distribution.numbers), np.float32)
    for index, sample in enumerate(samples):
        random = np.random.default_rng((_GAUSSIAN, seed, index))
        nonzero = distribution.nonzero_counts[random.integers(distribution.images)]
        places = random.permutation(distribution.numbers)[:nonzero]
        drawn = random.normal(mean, deviation, nonzero)
        # Of positive values the mean is positive, so that more than half of the values are accepted each time.
        while not distribution.is_signed and (refused := drawn <= 0).any():
            drawn[refused] = random.normal(mean, deviation, int(refused.sum()))
        sample[places] = drawn
    return _shaped(samples, distribution)


def _shaped(samples: Array, distribution: FeatureDistribution) -> Array:
    if distribution.are_probabilities:
        samples = samples / samples.sum(axis=tuple(range(1, samples.ndim)), keepdims=True)
    return samples.reshape(len(samples), *distribution.shape)
