"""Test distributions of features and samples from them, against the values that they were collected from."""

from __future__ import annotations

import numpy as np
import pytest

from preimage.studies import feature_samples
from preimage.studies.feature_samples import FeatureDistribution, sample_gaussian, sample_histograms

SHAPES = [(6,), (4, 3, 5)]


def _features(shape: tuple[int, ...], count: int = 300, seed: int = 1) -> np.ndarray:
    """Return sparse features; the sparsity differs between dimensions and between images."""
    random = np.random.default_rng(seed)
    values = random.gamma(2.0, size=(count, *shape)) * (1 + np.arange(shape[0])).reshape(-1, *[1] * (len(shape) - 1))
    frequency = np.linspace(0.15, 0.95, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    drawn = random.random((count, *shape)) < frequency * random.uniform(0.5, 1, (count, *[1] * len(shape)))
    return (values * drawn).astype(np.float32)


def _distribution(features: np.ndarray, seed: int = 0) -> FeatureDistribution:
    distribution = FeatureDistribution(seed)
    for values in features:
        distribution.add(values)
    return distribution


def _by_dimension(features: np.ndarray) -> np.ndarray:
    return np.moveaxis(features, 1, 0).reshape(features.shape[1], -1)


@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_are_those_of_all_values(shape: tuple[int, ...]) -> None:
    features = _features(shape)
    found, nonzero = _distribution(features), features[features != 0]
    assert (found.images, found.dimensions, found.numbers) == (300, shape[0], np.prod(shape))
    assert (found.mean, found.deviation) == pytest.approx((features.mean(), features.std()), rel=1e-5)
    assert (found.nonzero_mean, found.nonzero_deviation) == pytest.approx((nonzero.mean(), nonzero.std()), rel=1e-5)
    assert found.sparsity == pytest.approx((features == 0).mean())
    np.testing.assert_allclose(found.means, _by_dimension(features).mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.frequencies, (_by_dimension(features) != 0).mean(axis=1))
    assert found.nonzero_counts == (features.reshape(300, -1) != 0).sum(axis=1).tolist()
    assert not (found.is_signed or found.are_probabilities or found.always_zero or found.constant)


@pytest.mark.parametrize("shape", SHAPES)
def test_all_values_are_kept_if_there_are_few(shape: tuple[int, ...]) -> None:
    features = _features(shape, 100)
    for kept, values in zip(_distribution(features).values(), _by_dimension(features), strict=True):
        np.testing.assert_array_equal(np.sort(kept), np.sort(values[values != 0]))


def test_of_many_values_a_uniform_choice_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    features = _features((4, 3, 5), 400)
    monkeypatch.setattr(feature_samples, "KEPT_VALUES", 500)
    kept = _distribution(features).values()
    monkeypatch.setattr(feature_samples, "_PENDING_BYTES", 1)  # reduced after every image
    again = _distribution(features).values()
    for one, other, values in zip(kept, again, _by_dimension(features), strict=True):
        np.testing.assert_array_equal(one, other)
        assert len(one) == 500 < (values != 0).sum()
        assert np.isin(one, values).all()
        deviation = values[values != 0].std() / np.sqrt(500)
        assert abs(one.mean() - values[values != 0].mean()) < 4 * deviation


@pytest.mark.parametrize("shape", SHAPES)
def test_histogram_samples_have_the_distributions_of_their_dimensions(shape: tuple[int, ...]) -> None:
    features = _features(shape)
    samples = sample_histograms(_distribution(features), 2000, seed=7)
    assert samples.shape == (2000, *shape)
    real, sampled = _by_dimension(features), _by_dimension(samples)
    for one, other in zip(real, sampled, strict=True):
        assert np.isin(other, one).all()
    # Four standard errors of the smaller set of values, and a little for frequencies given the number of values.
    limits = 4 * real.std(axis=1) / np.sqrt(real.shape[1])
    assert (np.abs(real.mean(axis=1) - sampled.mean(axis=1)) < limits).all()
    frequencies = np.abs((real != 0).mean(axis=1) - (sampled != 0).mean(axis=1))
    assert (frequencies < 0.02 + 2 / np.sqrt(real.shape[1])).all()
    counts = [np.sort((one.reshape(len(one), -1) != 0).sum(axis=1)) for one in (features, samples)]
    assert set(counts[1]) <= set(counts[0])
    assert counts[1].mean() == pytest.approx(counts[0].mean(), rel=0.05)


def test_dimensions_of_samples_are_independent() -> None:
    random = np.random.default_rng(3)
    common = random.gamma(2.0, size=(500, 1))
    features = (common + 0.1 * random.random((500, 5))).astype(np.float32)  # no zeros, strongly correlated
    samples = sample_histograms(_distribution(features), 3000)
    assert (samples != 0).all()
    assert np.corrcoef(features.T)[0, 1] > 0.9
    assert np.abs(np.corrcoef(samples.T) - np.eye(5)).max() < 0.08


def test_gaussian_samples_are_truncated_and_equally_sparse() -> None:
    distribution = _distribution(_features((6,)))
    samples = sample_gaussian(distribution, 4000, seed=2)
    nonzero = samples[samples != 0]
    assert (nonzero > 0).all()
    assert (samples == 0).mean() == pytest.approx(distribution.sparsity, abs=0.02)
    frequencies = (samples != 0).mean(axis=0)
    assert np.ptp(frequencies) < 0.05, "all dimensions are the same"
    normal = np.random.default_rng(0).normal(distribution.nonzero_mean, distribution.nonzero_deviation, 100_000)
    assert nonzero.mean() == pytest.approx(normal[normal > 0].mean(), rel=0.05)
    assert nonzero.std() == pytest.approx(normal[normal > 0].std(), rel=0.05)


def test_negative_features_are_not_truncated() -> None:
    features = np.random.default_rng(0).normal(-1, 2, (200, 6)).astype(np.float32)
    distribution = _distribution(features)
    assert distribution.is_signed
    samples = sample_gaussian(distribution, 2000)
    assert samples.mean() == pytest.approx(features.mean(), abs=0.1)
    assert samples.std() == pytest.approx(features.std(), rel=0.05)


@pytest.mark.parametrize("sample", [sample_histograms, sample_gaussian])
def test_samples_depend_on_the_seed_and_their_number_alone(sample: type[sample_histograms]) -> None:
    distribution = _distribution(_features((4, 3, 5), 50))
    many = sample(distribution, 9, seed=5)
    np.testing.assert_array_equal(sample(distribution, 4, seed=5), many[:4])
    assert len(np.unique(many.reshape(9, -1), axis=0)) == 9
    assert not np.array_equal(sample(distribution, 9, seed=6), many)


@pytest.mark.parametrize("sample", [sample_histograms, sample_gaussian])
def test_probabilities_stay_probabilities(sample: type[sample_histograms]) -> None:
    scores = np.random.default_rng(0).normal(0, 3, (200, 8))
    soft = (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)).astype(np.float32)
    one_class = np.eye(8, dtype=np.float32)[np.arange(100) % 3]
    for features in (soft, one_class):
        distribution = _distribution(features)
        assert distribution.are_probabilities
        samples = sample(distribution, 300)
        assert (samples >= 0).all()
        np.testing.assert_allclose(samples.sum(axis=1), 1, rtol=1e-5)
    if sample is sample_histograms:
        assert set(samples.argmax(axis=1)) == {0, 1, 2}
        assert ((samples != 0).sum(axis=1) == 1).all()
    assert (distribution.always_zero, distribution.constant) == (5, 0)


def test_constant_and_absent_dimensions_stay_what_they_are() -> None:
    features = _features((6,), 80)
    features[:, 2], features[:, 4] = 1.5, 0
    features[7] = 0
    features[7, 2] = 1.5
    distribution = _distribution(features)
    assert (distribution.constant, distribution.always_zero) == (1, 1)
    samples = sample_histograms(distribution, 500)
    assert (samples[:, 2] == 1.5).all()
    assert not samples[:, 4].any()


def test_bad_features_are_named() -> None:
    distribution = _distribution(_features((6,), 2))
    with pytest.raises(ValueError, match=r"\(5,\).*\(6,\)"):
        distribution.add(np.zeros(5, np.float32))
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN"):
            distribution.add(np.full(6, bad, np.float32))
    assert distribution.images == 2
