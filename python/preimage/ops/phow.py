"""PHOW: dense SIFT at several sizes, each on an image smoothed to match."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from preimage.ops._images import DType, Images, as_batch, check_images, check_whole, is_tensor, like_images, readable
from preimage.ops.dense_sift import dense_sift, dense_sift_frames


class PhowScale(NamedTuple):
    """The descriptors of one size: tensors or arrays as the images were."""

    bin_size: int
    features: Any  # (..., 128, h, w)
    norms: Any  # (..., 1, h, w)
    frames: Any  # (h, w, 2): centers, y before x


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
    """Dense SIFT at several sizes, as VLFeat's `vl_phow` computes it for gray images.

    For every size the image is smoothed by a Gaussian of size / magnif pixels (cut off at four standard deviations,
    the image's edge repeated), then `dense_sift` takes the descriptors; the sizes' first centers coincide, as far as
    whole pixels allow: all of `sizes` even, or all odd.

    Args:
        images: as for `dense_sift`; values in [0, 1], which the contrast threshold is for.
        sizes: the bins' sizes in pixels, at least one; VLFeat's defaults, as everything below.
        step: pixels between descriptors.
        window, window_size: as for `dense_sift`; ``"flat"`` is VLFeat's ``'Fast', true``.
        magnif: bin size over the Gaussian's standard deviation, above 0.
        contrast_threshold: descriptors with a smaller norm become zeros.
        dtype: of the descriptors, as for `dense_sift`; VLFeat's own default is uint8.

    Returns:
        One ``PhowScale`` for every size, in their order: ``bin_size``, ``features`` (..., 128, h, w), their ``norms``
        (..., 1, h, w), and the centers ``frames`` (h, w, 2), y before x, on the CPU. Leading dimensions are those of
        the images; tensors for tensors, NumPy arrays for arrays. Smaller sizes have more descriptors, at the lower and
        right ends.

    Raises:
        TypeError, ValueError: as `dense_sift`; also when `sizes` is empty, or when the image is too small for one.
    """
    height, width = check_images(images)
    planes = _gray(as_batch(images))
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
    if not isinstance(sizes, tuple | list) or len(sizes) == 0:
        raise ValueError(f"sizes must be a tuple of at least one bin size, got {sizes!r}")
    for size in sizes:
        check_whole("every size", size)
    for name, value in (("magnif", magnif), ("contrast_threshold", contrast_threshold)):
        if not isinstance(value, float | int):
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
    """`vl_imsmooth`. By sums of shifted images: a convolution would be rounded to 10 bits on newer GPUs."""
    if sigma < 0.01:
        return planes
    reach = math.ceil(4 * sigma)
    shares = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-reach, reach + 1)]
    total = sum(shares)
    for axis in (2, 3):
        size = planes.shape[axis]
        nearest = [min(max(place, 0), size - 1) for place in range(-reach, size + reach)]
        padded = planes[:, :, nearest] if axis == 2 else planes[:, :, :, nearest]
        planes = 0
        for shift, share in enumerate(shares):
            part = padded[:, :, shift : shift + size] if axis == 2 else padded[..., shift : shift + size]
            planes = planes + part * (share / total)
    return planes
