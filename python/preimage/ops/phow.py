"""Compute PHOW: dense SIFT at several sizes, each on an image smoothed accordingly."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from preimage.ops._images import (
    DType,
    Images,
    as_batch,
    check_images,
    check_positive_int,
    is_tensor,
    like_images,
    readable,
)
from preimage.ops.dense_sift import dense_sift, dense_sift_frames


class PhowScale(NamedTuple):
    """Descriptors of one size, as tensors or arrays like the images."""

    bin_size: int
    features: Any  # (..., 128, h, w)
    norms: Any  # (..., 1, h, w)
    frames: Any  # (h, w, 2), centers (y, x)


def phow(
    images: Images,
    *,
    sizes: tuple[int, ...] = (4, 6, 8, 10),
    step: int = 2,
    window: str = "flat",
    window_size: float = 1.5,
    magnif: float = 6.0,
    contrast_threshold: float = 0.005,
    dtype: DType = "float32",
) -> list[PhowScale]:
    """Compute dense SIFT descriptors at several sizes, as VLFeat's `vl_phow` does for gray images.

    For every size the image is smoothed by a Gaussian of size / magnif pixels (truncated at four standard deviations,
    with the border replicated), and `dense_sift` is computed with this bin size. The first centers of all sizes
    coincide if the sizes are all even or all odd. The defaults are VLFeat's, except for `dtype`, which is uint8 there.

    Args:
        images: As in `dense_sift`, with values in [0, 1], for which `contrast_threshold` is meant.
        sizes: Bin sizes in pixels, at least one.
        step: Distance between descriptors in pixels.
        window: Window as in `dense_sift`; ``"flat"`` is VLFeat's ``'Fast', true``.
        window_size: Standard deviation of the window in bins.
        magnif: Ratio of bin size and standard deviation of the smoothing, above 0.
        contrast_threshold: Norm below which descriptors are set to zero.
        dtype: Dtype of the descriptors as in `dense_sift`.

    Returns:
        One ``PhowScale`` per size, in order: ``bin_size``, ``features`` (..., 128, h, w), ``norms`` (..., 1, h, w), and
        the centers ``frames`` (h, w, 2), (y, x) in pixels, on the CPU; tensors for tensors, NumPy arrays for arrays.
        Smaller sizes have more descriptors, at the bottom and on the right.

    Raises:
        TypeError, ValueError: As in `dense_sift`; also if `sizes` is empty or an image is too small for a size.
    """
    height, width = check_images(images)
    planes = _gray(as_batch(images))
    _check(sizes, magnif, contrast_threshold)
    scales = []
    for size in sizes:
        # Offset in vl_phow.m, which is 1-based.
        offset = math.floor(1 + 1.5 * (max(sizes) - size)) - 1
        least = 3 * size + 1 + offset
        if height < least or width < least:
            raise ValueError(
                f"images must have at least {least} x {least} pixels for sizes {tuple(sizes)}, got {height} x {width}"
            )
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
        if is_tensor(features):
            features.masked_fill_(norms < contrast_threshold, 0)
        else:
            features *= ~(norms < contrast_threshold)
        frames: Any = dense_sift_frames(height, width, step=step, bin_size=size, bounds=bounds)
        if is_tensor(images):
            import torch

            frames = torch.from_numpy(frames)
        scales.append(PhowScale(size, like_images(features, images), like_images(norms, images), frames))
    return scales


def _check(sizes: tuple[int, ...], magnif: float, contrast_threshold: float) -> None:
    if not isinstance(sizes, (tuple, list)) or len(sizes) == 0:
        raise ValueError(f"sizes must be a tuple of at least one bin size, got {sizes!r}")
    for size in sizes:
        check_positive_int("each of sizes", size)
    for name, value in (("magnif", magnif), ("contrast_threshold", contrast_threshold)):
        if not isinstance(value, (float, int)):
            raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 < magnif < math.inf:
        raise ValueError(f"magnif must be above 0 and finite, got {magnif!r}")


def _gray(batch: Any) -> Any:
    """Return images (B, C, H, W) as float32 (B, 1, H, W) in [0, 1]."""
    values = batch.float() if is_tensor(batch) else readable(batch).astype("float32")
    if "uint8" in str(batch.dtype):
        values = values / 255
    if values.shape[1] == 1:
        return values
    return 0.299 * values[:, :1] + 0.587 * values[:, 1:2] + 0.114 * values[:, 2:]


def _smooth(planes: Any, sigma: float) -> Any:
    """Smooth like `vl_imsmooth`, by sums of shifted images, because a convolution could use TF32 on the GPU."""
    if sigma < 0.01:
        return planes
    reach = math.ceil(4 * sigma)
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-reach, reach + 1)]
    total = sum(weights)
    for axis in (2, 3):
        size = planes.shape[axis]
        nearest = [min(max(position, 0), size - 1) for position in range(-reach, size + reach)]
        padded = planes[:, :, nearest] if axis == 2 else planes[:, :, :, nearest]
        planes = 0
        for shift, weight in enumerate(weights):
            part = padded[:, :, shift : shift + size] if axis == 2 else padded[..., shift : shift + size]
            planes = planes + part * (weight / total)
    return planes
