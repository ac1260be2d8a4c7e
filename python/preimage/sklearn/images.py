"""Read images as scikit-learn and scikit-image arrange them: the base class of the transformers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.optional import OPTIONAL, import_optional

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils.validation import validate_data
except ImportError as missing:
    found = import_optional("scikit-learn")  # raises an error that states how to install it
    raise ImportError(
        f"transformers need scikit-learn 1.6 or later, got {found.__version__}: {OPTIONAL['scikit-learn'].install}"
    ) from missing

ImageShape = tuple[int, int] | tuple[int, int, int]
_FLOATS = ("float16", "float32", "float64")


class ImageTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """Base class of transformers of images.

    Attributes:
        image_shape: Shape of an image if images are given as rows of pixels: (H, W) or (H, W, C).
        image_shape_: Shape of the images seen in `fit`: (H, W), or (H, W, 3) for color.
        n_features_in_: Number of values of an image: H · W, or H · W · 3.
        feature_names_in_: Names of the columns, for data frames of pixels.
    """

    image_shape: ImageShape | None
    image_shape_: ImageShape
    n_features_in_: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = self.image_shape is not None
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]  # other images have float32 features, too
        return tags

    def _images(self, X: Any, *, reset: bool) -> npt.NDArray[Any]:
        """Return images as a view (n, C, H, W), uint8 or floating-point, where C is 1 or 3.

        Args:
            X: Images (n, H, W) or (n, H, W, C), a list of such images, or rows (n, H · W · C).
            reset: Set `image_shape_`, `n_features_in_` and `feature_names_in_`, instead of comparing with them.

        Raises:
            TypeError: Sparse rows.
            ValueError: Images of another shape than `image_shape`, or than those of `fit`; no images; values that are
                not finite, or integers outside 0 to 255.
        """
        rows, shape = _rows(X)
        if shape is not None and self.image_shape is not None:
            _check_equal(shape, _image_shape(self.image_shape), "image_shape")
        if shape is not None and not reset:
            _check_equal(shape, self.image_shape_, "fit")
        pixels = _pixels(validate_data(self, rows, reset=reset, dtype="numeric"))
        if reset:
            self.image_shape_ = self._shape_of_rows(pixels.shape) if shape is None else shape
        return self._planes(pixels)

    def _shape_of_rows(self, shape: tuple[int, int]) -> ImageShape:
        """Return the shape of the images whose pixels are rows of an array of a shape."""
        if self.image_shape is None:
            raise ValueError(
                f"images must be (n, H, W) or (n, H, W, C), got shape {shape}: rows of pixels need image_shape=(H, W), "
                "and a single image is X[None]"
            )
        image_shape = _image_shape(self.image_shape)
        if math.prod(image_shape) != shape[1]:
            raise ValueError(
                f"rows must have {math.prod(image_shape)} pixels for image_shape={self.image_shape}, got {shape[1]}"
            )
        return image_shape

    def _planes(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return rows of pixels as a view (n, C, H, W)."""
        height, width, *channels = self.image_shape_
        return pixels.reshape(-1, height, width, *(channels or [1])).transpose(0, 3, 1, 2)


def plain(value: Any) -> Any:
    """Return a number of NumPy, as grids of parameters contain them, as one of Python; anything else unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def _rows(X: Any) -> tuple[Any, ImageShape | None]:
    """Return images as rows of pixels, and the shape of an image; rows unchanged, and ``None``."""
    if isinstance(X, list | tuple) and len(X) and all(np.ndim(image) > 1 for image in X):
        images = [np.asarray(image) for image in X]
        if len(shapes := sorted({image.shape for image in images})) > 1:
            raise ValueError(f"images must have one shape, got {', '.join(map(str, shapes[:4]))}: resize them")
        return _rows(np.stack(images))
    if getattr(X, "ndim", 2) < 3:
        return X, None
    array = np.asarray(X)
    if array.ndim > 4:
        raise ValueError(f"images must be (n, H, W) or (n, H, W, C), got shape {array.shape}")
    shape = array.shape[1:]
    return array.reshape(len(array), math.prod(shape)), _image_shape(shape)


def _image_shape(shape: Any) -> ImageShape:
    """Return the shape (H, W) or (H, W, 3) of images of a shape (H, W) or (H, W, C), where C is 1 or 3."""
    sides = tuple(map(plain, shape)) if isinstance(shape, tuple | list | np.ndarray) else ()
    if len(sides) not in (2, 3) or any(type(side) is not int or side < 1 for side in sides):
        raise ValueError(f"the shape of an image must be (H, W) or (H, W, C) with sides of at least 1, got {shape!r}")
    if len(sides) == 3 and sides[2] not in (1, 3):
        first = sides[0] in (1, 3)
        hint = ": channels come last, so pass np.moveaxis(X, 1, -1)" if first else ""
        raise ValueError(f"images must have 1 or 3 channels, got {sides[2]} in shape {sides}{hint}")
    return sides[:2] if sides[2:] == (1,) else sides


def _check_equal(shape: ImageShape, expected: ImageShape, where: str) -> None:
    if shape != expected:
        raise ValueError(f"images must have shape {expected} as in {where}, got {shape}")


def _pixels(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return pixels in a dtype of the descriptors: integers as uint8, floating-point values unchanged."""
    if values.dtype.kind in "iu" and values.dtype != np.uint8:
        low, high = values.min(), values.max()
        if low < 0 or high > 255:
            raise ValueError(f"integer pixels must be in 0 to 255, got {low} to {high} ({values.dtype})")
        return values.astype(np.uint8)
    return values if values.dtype in ("uint8", *_FLOATS) else values.astype(np.float32)
