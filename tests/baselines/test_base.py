"""Test the checks that baselines share."""

from __future__ import annotations

import math

import pytest
import torch

from preimage.baselines.base import check_features
from preimage.spec import Spec

MAP = Spec("hog", "vlfeat-uoctti", 31, 8)
VECTOR = Spec("scores", "user", 10, None)


@pytest.mark.parametrize(("spec", "shape"), [(MAP, (2, 31, 4, 5)), (VECTOR, (2, 10))])
def test_features_of_the_spec_are_accepted(spec: Spec, shape: tuple[int, ...]) -> None:
    check_features(torch.zeros(shape), spec)
    check_features(torch.zeros(shape, dtype=torch.float16), spec)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (MAP, (2, 30, 4, 5)),
        (MAP, (31, 4, 5)),
        (MAP, (2, 31)),
        (MAP, (0, 31, 4, 5)),
        (MAP, (2, 31, 0, 5)),
        (VECTOR, (2, 9)),
        (VECTOR, (2, 10, 1, 1)),
        (VECTOR, (10,)),
    ],
)
def test_other_shapes_are_errors(spec: Spec, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{spec.representation}.*{spec.channels}.*got shape"):
        check_features(torch.zeros(shape), spec)


def test_other_dtypes_are_errors() -> None:
    with pytest.raises(TypeError, match=r"floating point.*uint8"):
        check_features(torch.zeros(1, 10, dtype=torch.uint8), VECTOR)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_image_that_is_not_finite_is_named(value: float) -> None:
    features = torch.zeros(3, 31, 2, 2)
    features[1:, 4, 1, 0] = value
    with pytest.raises(ValueError, match=r"finite.*image 1"):
        check_features(features, MAP)
