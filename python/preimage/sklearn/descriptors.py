"""Transform images to descriptors, and descriptors to images."""

from __future__ import annotations

import inspect
import math
import re
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from preimage.ops._images import check_choice
from preimage.representations import Representation, create_representation
from preimage.representations.dense_sift import WINDOWS
from preimage.sklearn.images import ImageShape, ImageTransformer, plain

if TYPE_CHECKING:
    from typing_extensions import Self

    from preimage.pipelines.inverter_choice import NamedInverter


class DescriptorTransformer(ImageTransformer):
    """Base class of the transformers of images to the features of a representation.

    Attributes:
        representation_: Representation that computes the features.
        feature_shape_: Shape (C, h, w) of the features of an image.
    """

    _representation: ClassVar[str]
    inverter: NamedInverter
    representation_: Representation
    feature_shape_: tuple[int, int, int]

    def fit(self, X: Any, y: Any = None) -> Self:
        """Keep the shape of the images, and check the parameters.

        Args:
            X: Images (n, H, W) or (n, H, W, C), where C is 1 or 3 (RGB), a list of such images of one shape, or rows
                (n, H · W · C) for `image_shape`; uint8 or another integer dtype with values in 0 to 255, or
                floating-point with values in [0, 1], which is not enforced.
            y: Ignored.

        Raises:
            TypeError: Sparse rows.
            ValueError: A parameter out of range; images of another shape than `image_shape`, or that are too small;
                values that are not finite, or integers outside 0 to 255.
        """
        height, width = self._images(X, reset=True).shape[2:]
        representation = create_representation(self._representation, **self._parameters())
        size = representation.feature_size(height, width)
        assert size is not None  # maps, not vectors
        self.representation_ = representation
        self.feature_shape_ = (representation.spec.channels, *size)
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Return the features (n, C · h · w) of images like those of `fit`, float32.

        ``.reshape(n, *feature_shape_)`` are the features (n, C, h, w) as the functions of `preimage` return them.

        Args:
            X: See `fit`.

        Raises:
            TypeError, ValueError: As in `fit`, or images of another shape than in `fit`.
            NotFittedError: Before `fit`.
        """
        self._check_is_fitted()
        images = self._images(X, reset=False)
        features: Any = self.representation_(images)  # type: ignore[arg-type] # computes arrays
        return features.reshape(len(images), -1)

    def inverse_transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Return images (n, H, W, 3), float32 RGB in [0, 1], of the size seen in `fit`, from features.

        Colors and details that the features do not determine are those common in photographs. An inverter with an
        output region returns that region.

        Args:
            X: Features (n, C · h · w).

        Raises:
            ValueError: Another number of features, values that are not finite, or an inverter for other features.
            LookupError: No pretrained inverter for these parameters.
            NotFittedError: Before `fit`.
        """
        from sklearn.utils import check_array

        from preimage.pipelines.reconstruct import Reconstructor

        self._check_is_fitted()
        features = check_array(X, dtype=np.float32, input_name="X", estimator=self)
        expected = math.prod(self.feature_shape_)
        if features.shape[1] != expected:
            raise ValueError(
                f"X has {features.shape[1]} features, but inverse_transform of {type(self).__name__} is expecting "
                f"{expected} features, those of images of shape {self.image_shape_}"
            )
        chosen = None if isinstance(self.inverter, str) and self.inverter == "auto" else self.inverter
        reconstructor = Reconstructor(self.representation_, chosen)
        size = self.image_shape_[:2] if reconstructor.inverter.output_region is None else None
        images = reconstructor.invert(features.reshape(-1, *self.feature_shape_), size)
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return the names of the features, such as ``"hog_y0_x3_gradient_20deg"`` in row 0 and column 3.

        Args:
            input_features: Ignored.

        Raises:
            NotFittedError: Before `fit`.
        """
        self._check_is_fitted()
        prefix = self._representation.replace("-", "_")
        channels, rows, columns = self.feature_shape_
        named = self.representation_.channel_names
        names = map(_identifier, named) if len(named) == channels else (f"channel_{k}" for k in range(channels))
        cells = [f"{prefix}_y{row}_x{column}_" for row in range(rows) for column in range(columns)]
        return np.array([cell + name for name in names for cell in cells], dtype=object)

    def _check_is_fitted(self) -> None:
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self, "feature_shape_")

    def _parameters(self) -> dict[str, Any]:
        """Return the parameters of the representation."""
        names = inspect.signature(type(self)).parameters
        return {name: plain(getattr(self, name)) for name in names if name not in ("image_shape", "inverter")}


class HOG(DescriptorTransformer):
    """Transform images to HOG features, see `preimage.hog`.

    Args:
        cell_size: Side of a cell in pixels, at least 1.
        variant: Definition of the features: ``"vlfeat-uoctti"``, or ``"dalal-triggs"``, that of `skimage.feature.hog`.
        color: Gradient of a color image: of its ``"luma"``, or of its ``"strongest"`` channel (scikit-image's choice).
        orientations: Number of orientations. Only for ``"dalal-triggs"``, like the next three.
        block_size: Side of a block in cells.
        block_norm: Normalization of a block: ``"L1"``, ``"L1-sqrt"``, ``"L2"`` or ``"L2-Hys"``.
        transform_sqrt: Whether to replace the pixels by their square roots first.
        image_shape: (H, W) or (H, W, C) if images are given as rows of pixels, (n, H · W · C).
        inverter: Inverter for `inverse_transform`, its name or folder, or ``"auto"`` for a pretrained one.

    Attributes:
        image_shape_: (H, W) or (H, W, 3), seen in `fit`.
        feature_shape_: (31, h, w) of the features of an image, in ``"dalal-triggs"``
            (block_size² · orientations, h, w); a row is flattened from it.
        representation_: The representation.
        n_features_in_: Number of values of an image.

    Example:
        >>> from sklearn.pipeline import make_pipeline
        >>> classifier = make_pipeline(HOG(), LinearSVC()).fit(images, labels)  # (n, H, W) or (n, H, W, 3)
    """

    _representation = "hog"

    def __init__(
        self,
        *,
        cell_size: int = 8,
        variant: str = "vlfeat-uoctti",
        color: str = "luma",
        orientations: int = 9,
        block_size: int = 3,
        block_norm: str = "L2-Hys",
        transform_sqrt: bool = False,
        image_shape: ImageShape | None = None,
        inverter: NamedInverter = "auto",
    ) -> None:
        self.cell_size = cell_size
        self.variant = variant
        self.color = color
        self.orientations = orientations
        self.block_size = block_size
        self.block_norm = block_norm
        self.transform_sqrt = transform_sqrt
        self.image_shape = image_shape
        self.inverter = inverter


class LBP(DescriptorTransformer):
    """Transform images to histograms of local binary patterns, see `preimage.lbp`.

    Args:
        cell_size: Side of a cell in pixels, 1 to 32768.
        variant: Definition of the features; only ``"vlfeat-uniform"``.
        image_shape: (H, W) or (H, W, C) if images are given as rows of pixels, (n, H · W · C).
        inverter: Inverter for `inverse_transform`, its name or folder, or ``"auto"`` for a pretrained one.

    Attributes:
        image_shape_: (H, W) or (H, W, 3), seen in `fit`.
        feature_shape_: (58, h, w) of the features of an image; a row is flattened from it.
        representation_: The representation.
        n_features_in_: Number of values of an image.
    """

    _representation = "lbp"

    def __init__(
        self,
        *,
        cell_size: int = 16,
        variant: str = "vlfeat-uniform",
        image_shape: ImageShape | None = None,
        inverter: NamedInverter = "auto",
    ) -> None:
        self.cell_size = cell_size
        self.variant = variant
        self.image_shape = image_shape
        self.inverter = inverter


class DenseSIFT(DescriptorTransformer):
    """Transform images to SIFT descriptors on a regular grid, see `preimage.dense_sift`.

    Args:
        step: Distance between descriptors in pixels, at least 1.
        bin_size: Distance between the centers of a descriptor's spatial bins in pixels, at least 1.
        window: ``"gaussian"`` or ``"flat"``.
        window_size: Standard deviation of the Gaussian in bins, above 0.
        image_shape: (H, W) or (H, W, C) if images are given as rows of pixels, (n, H · W · C).
        inverter: Inverter for `inverse_transform`, its name or folder, or ``"auto"`` for a pretrained one.

    Attributes:
        image_shape_: (H, W) or (H, W, 3), seen in `fit`.
        feature_shape_: (128, h, w) of the features of an image; a row is flattened from it.
        representation_: The representation.
        n_features_in_: Number of values of an image.
    """

    _representation = "dense-sift"

    def __init__(
        self,
        *,
        step: int = 4,
        bin_size: int = 4,
        window: str = "gaussian",
        window_size: float = 2.0,
        image_shape: ImageShape | None = None,
        inverter: NamedInverter = "auto",
    ) -> None:
        self.step = step
        self.bin_size = bin_size
        self.window = window
        self.window_size = window_size
        self.image_shape = image_shape
        self.inverter = inverter

    def _parameters(self) -> dict[str, Any]:
        return dense_sift_parameters(super()._parameters())


def dense_sift_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return parameters of `preimage.dense_sift` as those of the representation; ``ValueError`` for another window."""
    variants = {window: variant for variant, window in WINDOWS.items()}
    given = dict(parameters)
    window = given.pop("window", "gaussian")
    check_choice("window", window, tuple(variants))
    return {**given, "variant": variants[window]}


def _identifier(name: str) -> str:
    """Return a channel's name without characters that other libraries do not accept in names of columns."""
    return re.sub(r"\W+", "_", name.replace("°", "deg")).strip("_")
