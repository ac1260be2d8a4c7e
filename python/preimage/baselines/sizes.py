"""Bring images to the size that is asked of a baseline."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from preimage.inverters.output_region import resized
from preimage.io import resize_and_center_crop
from preimage.spec import Spec

Size = tuple[int, int]


def covered_size(features: torch.Tensor, spec: Spec) -> Size | None:
    """Return the size (H, W) in pixels that maps of features cover; ``None`` for vectors."""
    if spec.stride is None:
        return None
    return features.shape[2] * spec.stride, features.shape[3] * spec.stride


def check_size(size: Size) -> Size:
    """Return a size (H, W) after checking that it is a pair of integers of at least 1; ``ValueError`` otherwise."""
    if len(size) != 2 or not all(isinstance(side, int) and side >= 1 for side in size):
        raise ValueError(f"size must be (height, width) in pixels, both at least 1, got {tuple(size)}")
    return size[0], size[1]


def fitted(images: torch.Tensor, size: Size) -> torch.Tensor:
    """Return images (B, 3, H, W), center-cropped to the proportions of `size` and resized to it, of the same dtype."""
    height, width = images.shape[2:]
    rows = min(height, max(1, round(width * size[0] / size[1])))
    columns = min(width, max(1, round(height * size[1] / size[0])))
    top, left = (height - rows) // 2, (width - columns) // 2
    return resized(images[:, :, top : top + rows, left : left + columns], *size)


def fitted_pixels(pixels: npt.NDArray[np.uint8], size: Size) -> torch.Tensor:
    """Return a decoded image (H, W, 3) as (3, H', W') uint8 of `size`; squares are made as extraction makes them."""
    if size[0] == size[1]:
        pixels = resize_and_center_crop(pixels, size[0])
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return fitted(image[None], size)[0]
