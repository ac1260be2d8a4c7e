"""scikit-learn's own checks of estimators.

They use rows of a few numbers, of many lengths. The transformers read rows of the length of `image_shape`, so here
a row of any length becomes an image: it is repeated until the image is full. Everything else is the code as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import SkipTestWarning
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from preimage.sklearn import HOG, LBP, BagOfVisualWords, DenseSIFT

SIDE = 28  # 16 descriptors


class Rows:
    """Mixin that reads rows of any length as gray images."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array = True
        return tags

    def _shape_of_rows(self, shape: tuple[int, int]) -> tuple[int, int]:
        return (1, shape[1])

    def _planes(self, pixels: np.ndarray) -> np.ndarray:
        index = np.arange(SIDE * SIDE) % pixels.shape[1]
        return pixels[:, index].reshape(-1, 1, SIDE, SIDE)


class RowsHOG(Rows, HOG):
    """HOG of rows."""


class RowsLBP(Rows, LBP):
    """LBP of rows."""


class RowsDenseSIFT(Rows, DenseSIFT):
    """Dense SIFT of rows."""


class RowsBagOfVisualWords(Rows, BagOfVisualWords):
    """Bag of visual words of rows."""


ESTIMATORS = [RowsHOG(), RowsHOG(variant="dalal-triggs"), RowsLBP(), RowsDenseSIFT(), RowsBagOfVisualWords(n_words=3)]


@parametrize_with_checks(ESTIMATORS)  # none is expected to fail
def test_scikit_learn_accepts_the_transformers(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.mark.parametrize("kind", [HOG, LBP, DenseSIFT, BagOfVisualWords])
def test_tags_name_the_input_that_is_accepted(kind: Callable[..., Any]) -> None:
    for shape in (None, (28, 28)):
        tags = get_tags(kind(image_shape=shape))
        assert (tags.input_tags.three_d_array, tags.input_tags.two_d_array) == (True, shape is not None)
        assert tags.requires_fit and not tags.target_tags.required and not tags.input_tags.sparse
    with pytest.warns(SkipTestWarning, match="three_d_array=True"):
        check_estimator(kind())
