"""Test bootstrap intervals against their definition, known distributions, and rejected values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from preimage.studies import bootstrap
from preimage.studies.bootstrap import Interval, bootstrap_interval


def test_the_interval_is_that_of_resampled_means() -> None:
    values = np.random.default_rng(7).random(23)
    found = bootstrap_interval(values, seed=3)
    drawn = np.random.default_rng(3).integers(0, 23, (2000, 23))
    means = np.sort([values[indices].mean() for indices in drawn])
    assert found.mean == pytest.approx(values.mean(), abs=1e-15)
    # 2.5 % of 2,000 resampled means are at most `low`; 97.5 % are at most `high`.
    assert (found.low, found.high) == pytest.approx((means[49], means[1949]), abs=1e-15)


def test_for_many_values_it_is_the_normal_interval() -> None:
    values = np.random.default_rng(0).standard_normal(2000)
    found = bootstrap_interval(values, resamples=4000)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    narrow = bootstrap_interval(values, confidence=0.5)
    assert (narrow.high - narrow.low) / (found.high - found.low) == pytest.approx(0.6745 / 1.96, rel=0.1)


def test_the_resamples_depend_on_the_seed_and_the_number_of_values_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random(40)
    found = bootstrap_interval(values)
    assert bootstrap_interval(values) == found
    assert bootstrap_interval(values, seed=1) != found
    scaled = bootstrap_interval(2 * values + 1)
    assert (scaled.low, scaled.high) == pytest.approx((2 * found.low + 1, 2 * found.high + 1), abs=1e-12)
    monkeypatch.setattr(bootstrap, "_DRAWN", 1000)  # 25 resamples at once
    assert bootstrap_interval(values) == found


def test_equal_and_infinite_values() -> None:
    assert bootstrap_interval([0.25]) == Interval(0.25, 0.25, 0.25)
    assert bootstrap_interval([0.5] * 9) == Interval(0.5, 0.5, 0.5)
    found = bootstrap_interval([math.inf] + [1.0] * 9)
    assert (found.mean, found.low, found.high) == (math.inf, 1.0, math.inf)


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        ([], {}, r"at least one.*\(0,\)"),
        ([[1.0, 2.0]], {}, r"\(1, 2\)"),
        ([1.0, math.nan], {}, "NaN for image 1"),
        ([1.0], {"resamples": 100}, "resamples.*2,000.*100"),
        ([1.0], {"confidence": 1.0}, "confidence.*1"),
        ([1.0], {"confidence": math.nan}, "confidence.*nan"),
    ],
)
def test_rejected(values: list[float], options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        bootstrap_interval(values, **options)  # type: ignore[arg-type]
