"""Check images in the axis order of cyvlfeat."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def image_array(image: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return an image as an array, of any shape.

    Raises:
        ValueError: The image is empty.
    """
    array = np.asarray(image)
    if 0 in array.shape:
        raise ValueError(f"image must not be empty, got shape {array.shape}")
    return array


def gray_plane(image: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return an image (H, W) or (H, W, 1) as float32 (H, W), C-contiguous, without a copy if it is that already.

    Raises:
        ValueError: The image is empty or has another shape.
    """
    image = image_array(image)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim != 2:
        raise ValueError(f"image must have shape (H, W) or (H, W, 1), got {image.shape}")
    return np.require(image, np.float32, "C")
