"""Test which features the paper's figures are of."""

from __future__ import annotations

from preimage.representations import create_representation
from preimage.studies.published import published


def test_only_the_papers_features_have_published_errors() -> None:
    figures = published(create_representation("hog").spec)
    assert figures is not None and figures.error == 0.24
    assert published(create_representation("hog", variant="dalal-triggs").spec) is None
    assert published(create_representation("dense-sift").spec) is None
