"""Test the choice of images to show, and the check of features."""

from __future__ import annotations

import pytest
import torch

from preimage.studies.inputs import check_finite, evenly_spaced


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [(9, 3, {0, 4, 8}), (9, 1, {0}), (2, 3, {0, 1}), (4, 4, {0, 1, 2, 3}), (1, 5, {0})],
)
def test_indices_are_evenly_spaced(total: int, count: int, expected: set[int]) -> None:
    assert evenly_spaced(total, count) == expected


def test_there_are_as_many_as_asked_for() -> None:
    for total in range(1, 20):
        for count in range(1, 25):
            assert len(evenly_spaced(total, count)) == min(total, count)


def test_features_that_are_not_finite_are_named() -> None:
    features = torch.zeros(3, 4)
    check_finite("abc", features)
    features[1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"^b.*NaN"):
        check_finite("abc", features)
