"""Histograms of visual words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from preimage.ops._images import check_choice, check_positive_int
from preimage.representations import Representation, create_representation
from preimage.sklearn.descriptors import dense_sift_parameters
from preimage.sklearn.images import ImageShape, ImageTransformer, plain

if TYPE_CHECKING:
    from typing_extensions import Self

_AT_ONCE = 2**17  # descriptors in memory while images are read, 64 MiB
_BATCH = 4096  # descriptors in a step of k-means


class BagOfVisualWords(ImageTransformer):
    """Transform images to histograms of visual words.

    The words are the centers of the clusters, by mini-batch k-means, of the dense SIFT descriptors of the images in
    `fit`. Each descriptor of an image counts for the nearest word. Positions in the image are not kept, so that there
    is no ``inverse_transform``.

    Args:
        n_words: Number of words.
        step: Distance between descriptors in pixels, at least 1.
        bin_size: Distance between the centers of a descriptor's spatial bins in pixels, at least 1.
        window: ``"gaussian"`` or ``"flat"``, see `preimage.dense_sift`.
        window_size: Standard deviation of the Gaussian in bins, above 0.
        max_descriptors: Largest number of descriptors that words are learned from, drawn at random from all images.
        norm: ``"l1"`` for fractions of the descriptors, ``"l2"`` for vectors of length 1, ``None`` for counts.
        random_state: Seed, or generator, of the draw and of k-means.
        image_shape: (H, W) or (H, W, C) if images are given as rows of pixels, (n, H · W · C).

    Attributes:
        words_: (n_words, 128) float32, the words.
        image_shape_: (H, W) or (H, W, 3), seen in `fit`.
        representation_: Dense SIFT with these parameters.
        n_features_in_: Number of values of an image.
    """

    words_: npt.NDArray[np.float32]
    representation_: Representation

    def __init__(
        self,
        n_words: int = 256,
        *,
        step: int = 4,
        bin_size: int = 4,
        window: str = "gaussian",
        window_size: float = 2.0,
        max_descriptors: int = 100_000,
        norm: str | None = "l1",
        random_state: int | np.random.RandomState | None = None,
        image_shape: ImageShape | None = None,
    ) -> None:
        self.n_words = n_words
        self.step = step
        self.bin_size = bin_size
        self.window = window
        self.window_size = window_size
        self.max_descriptors = max_descriptors
        self.norm = norm
        self.random_state = random_state
        self.image_shape = image_shape

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the words.

        Args:
            X: Images (n, H, W) or (n, H, W, C), where C is 1 or 3 (RGB), a list of such images of one shape, or rows
                (n, H · W · C) for `image_shape`; uint8 or another integer dtype with values in 0 to 255, or
                floating-point with values in [0, 1], which is not enforced.
            y: Ignored.

        Raises:
            TypeError: Sparse rows, or a number of words or descriptors that is not an int.
            ValueError: A parameter out of range, fewer descriptors than words, or images as in `HOG.fit`.
        """
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.utils import check_random_state

        words, most = plain(self.n_words), plain(self.max_descriptors)
        check_positive_int("n_words", words, "word")
        check_positive_int("max_descriptors", most, "descriptor")
        if self.norm is not None:
            check_choice("norm", self.norm, ("l1", "l2"))
        images = self._images(X, reset=True)
        parameters = {name: plain(getattr(self, name)) for name in ("step", "bin_size", "window", "window_size")}
        self.representation_ = create_representation("dense-sift", **dense_sift_parameters(parameters))
        count = len(images) * self._per_image(images)
        if min(count, most) < words:
            raise ValueError(
                f"n_words must be at most the number of descriptors, got n_words={words} for {count} descriptors of "
                f"n_samples={len(images)} and max_descriptors={most}"
            )
        random = check_random_state(self.random_state)
        clusters = MiniBatchKMeans(words, batch_size=_BATCH, n_init=1, random_state=random)
        self.words_ = clusters.fit(self._drawn(images, min(count, most), random)).cluster_centers_
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Return the histograms (n, n_words) of images like those of `fit`, float32.

        Args:
            X: See `fit`.

        Raises:
            TypeError, ValueError: As in `fit`, or images of another shape than in `fit`.
            NotFittedError: Before `fit`.
        """
        from sklearn.metrics import pairwise_distances_argmin
        from sklearn.preprocessing import normalize
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self, "words_")
        images = self._images(X, reset=False)
        per_image, words = self._per_image(images), len(self.words_)
        parts = []
        for descriptors in self._descriptors(images):
            nearest = pairwise_distances_argmin(descriptors, self.words_).reshape(-1, per_image)
            bins = nearest + words * np.arange(len(nearest))[:, None]
            parts.append(np.bincount(bins.ravel(), minlength=words * len(nearest)).reshape(-1, words))
        counts = np.concatenate(parts).astype(np.float32)
        return counts if self.norm is None else normalize(counts, self.norm, copy=False)

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return the names of the features: ``"visual_word_0"``, ``"visual_word_1"``, ...

        Args:
            input_features: Ignored.

        Raises:
            NotFittedError: Before `fit`.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self, "words_")
        return np.array([f"visual_word_{k}" for k in range(len(self.words_))], dtype=object)

    def _per_image(self, images: npt.NDArray[Any]) -> int:
        """Return the number of descriptors of an image; raise ``ValueError`` for images that are too small."""
        size = self.representation_.feature_size(*images.shape[2:])
        assert size is not None  # maps, not vectors
        return size[0] * size[1]

    def _drawn(self, images: npt.NDArray[Any], wanted: int, random: np.random.RandomState) -> npt.NDArray[np.float32]:
        """Return descriptors (wanted, 128), drawn without replacement from those of all images, in their order."""
        from sklearn.utils.random import sample_without_replacement

        total = len(images) * self._per_image(images)
        drawn = np.sort(sample_without_replacement(total, wanted, random_state=random))
        parts, first = [], 0
        for descriptors in self._descriptors(images):
            low, high = np.searchsorted(drawn, (first, first + len(descriptors)))
            parts.append(descriptors[drawn[low:high] - first])
            first += len(descriptors)
        return np.concatenate(parts)

    def _descriptors(self, images: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the descriptors (k, 128) of some images at a time, image by image."""
        together = max(1, _AT_ONCE // self._per_image(images))
        for first in range(0, len(images), together):
            features: Any = self.representation_(images[first : first + together])  # type: ignore[arg-type]
            yield features.transpose(0, 2, 3, 1).reshape(-1, features.shape[1])
