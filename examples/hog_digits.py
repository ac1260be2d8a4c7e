"""Recognize handwritten digits: histograms of oriented gradients, and a linear classifier.

Written for scikit-image; only the import of `hog` has been changed.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split
from sklearn.svm import LinearSVC

from preimage.compat.skimage.feature import hog  # instead of: from skimage.feature import hog


def describe(image: np.ndarray) -> np.ndarray:
    """Return the features of one digit."""
    return hog(image, orientations=8, pixels_per_cell=(2, 2), cells_per_block=(2, 2), block_norm="L2")


def main() -> tuple[float, np.ndarray]:
    """Return the accuracy on held-out digits, and the confusion matrix."""
    digits = load_digits()
    features = np.array([describe(image) for image in digits.images / 16])
    learned, held_out, labels, truth = train_test_split(features, digits.target, test_size=0.25, random_state=0)
    classifier = LinearSVC(random_state=0, max_iter=20_000).fit(learned, labels)
    accuracy = float(classifier.score(held_out, truth))
    print(f"{features.shape[1]} features of {len(features)} digits, {accuracy:.1%} of {len(truth)} recognized")
    _, drawing = hog(digits.images[0].repeat(16, 0).repeat(16, 1), pixels_per_cell=(16, 16), visualize=True)
    print(
        f"the first digit, drawn: {drawing.shape[0]}×{drawing.shape[1]} pixels, {int((drawing > 0).sum())} of them set"
    )
    return accuracy, confusion_matrix(truth, classifier.predict(held_out))


if __name__ == "__main__":
    main()
