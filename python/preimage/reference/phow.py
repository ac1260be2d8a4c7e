"""Reference definition of PHOW as in VLFeat 0.9.21 (``toolbox/sift/vl_phow.m``) for gray images.

PHOW is dense SIFT at several sizes, each on a smoothed image.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from preimage.reference._images import as_batch, like_images, luma
from preimage.reference.dense_sift import dense_sift, dense_sift_frames


class PhowScale(NamedTuple):
    """Descriptors of one size."""

    bin_size: int
    features: torch.Tensor  # [..., 128, h, w]
    norms: torch.Tensor  # [..., 1, h, w]
    frames: torch.Tensor  # [h, w, 2], centers (y, x)


def phow(
    images: torch.Tensor | npt.NDArray[Any],
    *,
    sizes: tuple[int, ...] = (4, 6, 8, 10),
    step: int = 2,
    window: str = "flat",
    window_size: float = 1.5,
    magnif: float = 6.0,
    contrast_threshold: float = 0.005,
    dtype: torch.dtype = torch.float32,
) -> list[PhowScale]:
    """Compute dense SIFT with each of the bin sizes, on images smoothed with sigma = size / magnif.

    The parameters are those of `preimage.phow`.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(images)) if isinstance(images, np.ndarray) else images
    batch = as_batch(tensor)
    values = batch.to(torch.float32) / 255 if batch.dtype == torch.uint8 else batch
    planes = luma(values) if values.shape[1] == 3 else values
    height, width = planes.shape[-2:]
    scales = []
    for size in sizes:
        # The first centers of all sizes coincide; VLFeat's formula is 1-based.
        offset = math.floor(1 + 1.5 * (max(sizes) - size)) - 1
        bounds = (offset, offset, height - 1, width - 1)
        features, norms = dense_sift(
            smooth(planes, size / magnif),
            step=step,
            bin_size=size,
            window=window,
            window_size=window_size,
            bounds=bounds,
            norms=True,
            dtype=dtype,
        )
        kept = torch.where(norms < contrast_threshold, 0, features)
        frames = dense_sift_frames(height, width, step=step, bin_size=size, bounds=bounds)
        scales.append(PhowScale(size, like_images(kept, tensor), like_images(norms, tensor), frames))
    return scales


def smooth(
    planes: torch.Tensor,  # [B, 1, H, W]
    sigma: float,
) -> torch.Tensor:  # [B, 1, H, W]
    """Smooth like `vl_imsmooth`: a Gaussian truncated at ⌈4 · sigma⌉ pixels, with replicate padding.

    Images are unchanged if sigma is below 0.01.
    """
    if sigma < 0.01:
        return planes
    reach = math.ceil(4 * sigma)
    offset = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offset / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(planes.dtype)
    rows = F.conv2d(F.pad(planes, (0, 0, reach, reach), mode="replicate"), kernel.reshape(1, 1, -1, 1))
    return F.conv2d(F.pad(rows, (reach, reach, 0, 0), mode="replicate"), kernel.reshape(1, 1, 1, -1))
