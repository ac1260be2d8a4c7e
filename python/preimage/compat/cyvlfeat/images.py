"""Check images in the axis order of cyvlfeat."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def gray_plane(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return an image (H, W) or (H, W, 1) as float32 (H, W), C-contiguous, without a copy if it is that already.

    Raises:
        ValueError: The image has another shape.
    """
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim != 2:
        raise ValueError(f"image must have shape (H, W) or (H, W, 1), got {image.shape}")
    return np.require(image, np.float32, "C")
