"""PHOW: dense SIFT at several sizes, each on an image smoothed to match."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from preimage.ops._images import Images, check_shape, check_tensor, check_whole, readable, wrong_container
from preimage.ops.dense_sift import dense_sift, dense_sift_frames


class PhowScale(NamedTuple):
    """The descriptors of one size."""

    bin_size: int
    features: torch.Tensor  # (B, 128, h, w)
    norms: torch.Tensor  # (B, 1, h, w)
    frames: torch.Tensor  # (h, w, 2): centres, y before x


def phow(
    images: Images,
    *,
    sizes: tuple[int, ...] = (4, 6, 8, 10),
    step: int = 2,
    window: str = "flat",
    window_size: float = 1.5,
    magnif: float = 6.0,
    contrast_threshold: float = 0.005,
    dtype: torch.dtype = torch.float32,
) -> list[PhowScale]:
    """Dense SIFT at several sizes, as VLFeat's `vl_phow` computes it for grey images.

    For every size the image is smoothed by a Gaussian of size / magnif pixels (cut off at four standard deviations,
    the image's edge repeated), then `dense_sift` takes the descriptors; the sizes' first centres coincide, as far as
    whole pixels allow: all of `sizes` even, or all odd.

    Args:
        images: as for `dense_sift`; values in [0, 1], which the contrast threshold is for.
        sizes: the bins' sizes in pixels, at least one; VLFeat's defaults, as everything below.
        step: pixels between descriptors.
        window, window_size: as for `dense_sift`; ``"flat"`` is VLFeat's ``'Fast', true``.
        magnif: bin size over the Gaussian's standard deviation, above 0.
        contrast_threshold: descriptors with a smaller norm become zeros.
        dtype: of the descriptors, as for `dense_sift`; VLFeat's own default is ``torch.uint8``.

    Returns:
        One ``PhowScale`` for every size, in their order: ``bin_size``, ``features`` (B, 128, h, w), their ``norms``
        (B, 1, h, w), and the centres ``frames`` (h, w, 2), y before x. Smaller sizes have more descriptors, at the
        lower and right ends.

    Raises:
        TypeError, ValueError: as `dense_sift`; also when `sizes` is empty, or when the image is too small for one.
    """
    planes = _grey(images)
    height, width = planes.shape[-2:]
    _check(sizes, magnif, contrast_threshold)
    scales = []
    for size in sizes:
        # vl_phow.m's offset, which counts from 1.
        offset = math.floor(1 + 1.5 * (max(sizes) - size)) - 1
        least = 3 * size + 1 + offset
        if height < least or width < least:
            raise ValueError(f"sizes {tuple(sizes)} need at least {least} x {least} pixels, got {height} x {width}")
        bounds = (offset, offset, height - 1, width - 1)
        features, norms = dense_sift(
            _smooth(planes, size / magnif),
            step=step,
            bin_size=size,
            window=window,
            window_size=window_size,
            bounds=bounds,
            norms=True,
            dtype=dtype,
        )
        kept = features.masked_fill_(norms < contrast_threshold, 0)
        frames = dense_sift_frames(height, width, step=step, bin_size=size, bounds=bounds)
        scales.append(PhowScale(size, kept, norms, frames))
    return scales


def _check(sizes: tuple[int, ...], magnif: float, contrast_threshold: float) -> None:
    if not isinstance(sizes, tuple | list) or len(sizes) == 0:
        raise ValueError(f"sizes must be a tuple of at least one bin size, got {sizes!r}")
    for size in sizes:
        check_whole("every size", size)
    for name, value in (("magnif", magnif), ("contrast_threshold", contrast_threshold)):
        if not isinstance(value, float | int):
            raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 < magnif < math.inf:
        raise ValueError(f"magnif must be above 0 and finite, got {magnif!r}")


def _grey(images: Images) -> torch.Tensor:
    """float32 (B, 1, H, W) in [0, 1], checked."""
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.ascontiguousarray(readable(images)))
    elif not isinstance(images, torch.Tensor):
        raise wrong_container(images)
    check_tensor(images)
    check_shape(images.shape)
    batch = images.reshape((1,) * (4 - images.dim()) + images.shape).to(torch.float32)
    values = batch / 255 if images.dtype == torch.uint8 else batch
    if values.shape[1] == 1:
        return values
    red, green, blue = values.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _smooth(planes: torch.Tensor, sigma: float) -> torch.Tensor:
    """`vl_imsmooth`. By sums of shifted images: a convolution would be rounded to 10 bits on newer GPUs."""
    if sigma < 0.01:
        return planes
    reach = math.ceil(4 * sigma)
    shares = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-reach, reach + 1)]
    for axis, padding in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
        padded = F.pad(planes, padding, mode="replicate")
        size = planes.shape[axis]
        planes = torch.zeros_like(planes)
        for shift, share in enumerate(shares):
            planes = planes.add(padded.narrow(axis, shift, size), alpha=share / sum(shares))
    return planes
