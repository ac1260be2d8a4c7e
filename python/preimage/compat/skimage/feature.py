"""Functions of ``skimage.feature``. Imports torch only for images of more than three channels."""

from __future__ import annotations

import operator
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.compat.skimage._hog_image import draw_histograms
from preimage.ops.hog import hog as preimage_hog

__all__ = ["hog"]

Array = npt.NDArray[Any]

_EPSILON = 1e-5  # added to the sum of a block with block_norm="L1"
_FAINT = -30  # exponent of 2 to which the largest pixel is scaled, so that _EPSILON is more than the sum of a block


def hog(
    image: npt.ArrayLike,
    orientations: int = 9,
    pixels_per_cell: tuple[float, float] = (8, 8),
    cells_per_block: tuple[int, int] = (3, 3),
    block_norm: str = "L2-Hys",
    visualize: bool = False,
    transform_sqrt: bool = False,
    feature_vector: bool = True,
    *,
    channel_axis: int | None = None,
) -> Array | tuple[Array, Array]:
    """Compute histograms of oriented gradients like `skimage.feature.hog` of scikit-image 0.26.

    Values are equal within 1e-6 with cells of up to 32 x 32 pixels.

    Args:
        image: (M, N), or with `channel_axis` (M, N, C) in any order of the axes. Any real dtype; no values are scaled.
        orientations: Number of orientations of undirected gradients.
        pixels_per_cell: Height and width of a cell in pixels; floats must be whole numbers.
        cells_per_block: Height and width of a block in cells.
        block_norm: Normalization of a block: ``"L1"``, ``"L1-sqrt"``, ``"L2"`` or ``"L2-Hys"``.
        visualize: Whether to return a drawing of the cells as well.
        transform_sqrt: Whether to take the square roots of all values first, which must not be negative.
        feature_vector: Whether to return a vector.
        channel_axis: Axis of the channels of a color image; the channel with the longest gradient counts at a pixel.

    Returns:
        (rows, columns, cells_per_block[0], cells_per_block[1], orientations), where rows and columns are the numbers of
        blocks, or that array as a vector; float32 for float16 and float32 images, otherwise float64. With `visualize`,
        also the drawing, (M, N) of the same dtype.

    Raises:
        ValueError: An image without two spatial dimensions, of complex dtype, or smaller than a block; or a parameter
            out of range.
        TypeError: A parameter of another type.
    """
    pixels, dtype = _as_supported(np.atleast_2d(image))
    if channel_axis is not None:
        pixels = np.moveaxis(pixels, channel_axis, 0)
    if pixels.ndim != (2 if channel_axis is None else 3):
        raise ValueError(
            "image must have two spatial dimensions, and channel_axis must be given if it has channels, got shape "
            f"{np.shape(image)} and channel_axis {channel_axis}"
        )
    if not pixels.size:
        raise ValueError(f"image must not be empty, got shape {np.shape(image)}")
    planes = pixels.reshape(-1, *pixels.shape[-2:])
    cell, block = _pair("pixels_per_cell", _whole(pixels_per_cell)), _pair("cells_per_block", cells_per_block)
    bins = operator.index(orientations)
    least = cell[0] * block[0], cell[1] * block[1]
    if planes.shape[1] < least[0] or planes.shape[2] < least[1]:
        raise ValueError(
            "The input image is too small given the values of pixels_per_cell and cells_per_block. It should have at "
            f"least: {least[0]} rows and {least[1]} cols, got {planes.shape[1]} and {planes.shape[2]}."
        )
    if transform_sqrt and planes.dtype.kind == "f" and (planes < 0).any():
        warnings.warn("invalid value encountered in sqrt", RuntimeWarning, stacklevel=2)  # NumPy's
    blocks = _blocks(planes, bins, cell, block, block_norm, transform_sqrt).astype(dtype, order="C")
    features = blocks.ravel() if feature_vector else blocks
    if not visualize:
        return features
    histograms = _histograms(planes, bins, cell, transform_sqrt)
    return features, draw_histograms(histograms, planes.shape[1:], cell).astype(dtype)


def _as_supported(image: Array) -> tuple[Array, npt.DTypeLike]:
    """Return the image in a dtype that `preimage.hog` takes, and the dtype of scikit-image's result."""
    if image.dtype.kind == "c":
        raise ValueError(f"image must not be complex, got {image.dtype}")
    if image.dtype.type in (np.float16, np.float32):
        return image.astype(np.float32, copy=False), np.float32
    return image if image.dtype == np.uint8 else image.astype(np.float64, copy=False), np.float64


def _whole(sizes: tuple[float, float]) -> tuple[int, int]:
    """Return sizes of cells as integers, which scripts may have divided."""
    for size in sizes:
        if isinstance(size, float) and not size.is_integer():
            raise ValueError(f"pixels_per_cell must be whole numbers, got {tuple(sizes)}")
    height, width = (int(size) if isinstance(size, float) else size for size in sizes)
    return height, width


def _pair(name: str, values: tuple[int, int]) -> tuple[int, int]:
    height, width = map(operator.index, values)
    if height < 1 or width < 1:
        raise ValueError(f"{name} must be at least 1 along both axes, got {tuple(values)}")
    return height, width


def _blocks(
    planes: Array,  # (C, M, N)
    orientations: int,
    cell: tuple[int, int],
    block: tuple[int, int],
    block_norm: str,
    transform_sqrt: bool,
) -> Array:
    """Return the features of all blocks, (rows, columns, block[0], block[1], orientations)."""
    settings: dict[str, Any] = {
        "cell_size": cell,
        "variant": "dalal-triggs",
        "color": "strongest",
        "orientations": orientations,
        "block_size": block,
        "block_norm": block_norm,
        "transform_sqrt": bool(transform_sqrt),
    }
    if len(planes) == 2:
        planes = planes[[0, 1, 1]]  # of equal channels, the first one counts
    compute = preimage_hog if len(planes) in (1, 3) else _hog_of_many_channels
    features = compute(planes, **settings)
    return features.reshape(*block, orientations, *features.shape[1:]).transpose(3, 4, 0, 1, 2)


def _histograms(planes: Array, orientations: int, cell: tuple[int, int], transform_sqrt: bool) -> Array:
    """Return the histograms of all cells before normalization, (rows, columns, orientations) float64.

    They are computed as the features of blocks of one cell, whose normalization x / (sum(x) + epsilon) is then undone.
    The loss of precision is small if the pixels are so small that epsilon is most of the denominator.
    """
    values = planes if planes.dtype == np.float32 else planes.astype(np.float64)
    if transform_sqrt:
        with np.errstate(invalid="ignore"):
            values = np.sqrt(values)
    largest = np.abs(values).max()
    exponent = _FAINT - int(np.frexp(largest)[1]) if 0 < largest < np.inf else 0
    faint = np.ldexp(values, exponent)
    shares = _blocks(faint, orientations, cell, (1, 1), "L1", False)[:, :, 0, 0].astype(np.float64)
    return np.ldexp(shares * _EPSILON / (1 - shares.sum(axis=2, keepdims=True)), -exponent)


def _hog_of_many_channels(planes: Array, *, variant: str, **settings: Any) -> Array:
    """Return `preimage.hog` of an image with any number of channels, which only the reference takes."""
    import torch

    from preimage.reference.hog_dalal_triggs import hog_dalal_triggs

    features: Array = hog_dalal_triggs(torch.from_numpy(planes.copy())[None], **settings)[0].numpy()
    return features
