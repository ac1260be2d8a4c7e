"""Transformers for scikit-learn's pipelines: HOG, LBP, dense SIFT and bags of visual words of images.

Needs scikit-learn 1.6 or later (``pip install 'preimage[sklearn]'``).

Example::

    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC
    from preimage.sklearn import HOG

    classifier = make_pipeline(HOG(cell_size=8), LinearSVC())
    classifier.fit(images, labels)  # images (n, H, W) or (n, H, W, 3)
"""

from preimage.sklearn.bag_of_words import BagOfVisualWords
from preimage.sklearn.descriptors import HOG, LBP, DenseSIFT

__all__ = ["HOG", "LBP", "BagOfVisualWords", "DenseSIFT"]
