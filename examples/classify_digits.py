"""Classify scikit-learn's digits by HOG features, from scikit-image and from preimage.

The pipelines differ in one step. `python classify_digits.py` prints their accuracy on 597 digits.
"""

from __future__ import annotations

import numpy as np
from skimage.feature import hog
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC

from preimage.sklearn import HOG


def hog_of_rows(rows: np.ndarray) -> np.ndarray:
    """Return scikit-image's HOG features of rows of 64 pixels."""
    images = rows.reshape(-1, 8, 8)
    return np.stack([hog(image, pixels_per_cell=(4, 4), cells_per_block=(2, 2)) for image in images])


def before() -> Pipeline:
    """Return the pipeline with scikit-image."""
    return make_pipeline(FunctionTransformer(hog_of_rows), LinearSVC(random_state=0))


def after() -> Pipeline:
    """Return the pipeline with preimage and the same features. Without `image_shape` it takes arrays (n, 8, 8)."""
    features = HOG(variant="dalal-triggs", cell_size=4, block_size=2, image_shape=(8, 8))
    return make_pipeline(features, LinearSVC(random_state=0))


def other_variant() -> Pipeline:
    """Return the pipeline with the features of VLFeat, the default."""
    return make_pipeline(HOG(cell_size=4, image_shape=(8, 8)), LinearSVC(random_state=0))


def accuracies() -> dict[str, float]:
    """Return the accuracy of the pipelines on digits that they were not fitted to."""
    train, test, train_labels, test_labels = train_test_split(
        *load_digits(return_X_y=True), train_size=1200, random_state=0
    )
    pipelines = {"scikit-image": before(), "preimage": after(), "preimage, VLFeat's variant": other_variant()}
    return {name: pipeline.fit(train, train_labels).score(test, test_labels) for name, pipeline in pipelines.items()}


if __name__ == "__main__":
    for name, accuracy in accuracies().items():
        print(f"{name:26}  {accuracy:.3f}")
