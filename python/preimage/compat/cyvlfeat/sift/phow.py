"""Compute PHOW like cyvlfeat's `phow`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.compat.cyvlfeat.images import image_array
from preimage.compat.cyvlfeat.sift.dsift import dsift

_GRAY_WEIGHTS = (0.299, 0.587, 0.114)
_ALPHA = 0.01  # share of the intensity in the two other opponent channels, for regions without color


def phow(
    image: npt.ArrayLike,
    verbose: bool = False,
    fast: bool = True,
    sizes: Sequence[int] = (4, 6, 8, 10),
    step: int = 2,
    color: str = "gray",
    float_descriptors: bool = False,
    magnification: float = 6,
    window_size: float = 1.5,
    contrast_threshold: float = 0.005,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    """Compute dense SIFT descriptors at several sizes, each on the image smoothed accordingly.

    This is cyvlfeat's function, not MATLAB's `vl_phow`, which `preimage.phow` computes: the grid begins one pixel
    further down and to the right, the image is smoothed as by SciPy's `gaussian_filter`, with the border mirrored and
    over the channels of a color image as well, and the standard deviation of the window is always 2 bins.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3) RGB, smoothed in float32, or in float64 where float32 does not hold its
            dtype. `contrast_threshold` is meant for [0, 1].
        verbose: Print the number of descriptors of each size.
        fast: As in `dsift`.
        sizes: Bin sizes in pixels.
        step: Distance between descriptors in pixels.
        color: ``"gray"``, ``"rgb"``, ``"hsv"`` or ``"opponent"``; others are ``"hsv"``, with a message.
        float_descriptors: As in `dsift`.
        magnification: Ratio of bin size and standard deviation of the smoothing.
        window_size: Not used, as in cyvlfeat.
        contrast_threshold: Norm below which descriptors are set to zero.

    Returns:
        ``frames`` (N, 4) float32: y, x, norm and bin size; and ``descriptors`` (N, 128), or (N, 384) in color, uint8
        or float32, as in `dsift`.

    Raises:
        ValueError: The image is empty or has another shape, or an option is invalid.
    """
    if not magnification > 0:
        raise ValueError(f"magnification must be above 0, got {magnification}")
    image = image_array(image)
    channels = _channels(image, color.lower())
    last = image.shape[0] - 1, image.shape[1] - 1
    all_frames, all_descriptors = [], []
    for size in sizes:
        offset = math.floor(1 + 1.5 * (max(sizes) - size))
        smoothed = _smoothed(channels, size / magnification)
        found = [
            dsift(
                np.ascontiguousarray(smoothed[..., channel], np.float32),
                step=step,
                size=size,
                bounds=(offset, offset, *last),
                norm=True,
                fast=fast,
                float_descriptors=float_descriptors,
                verbose=verbose,
            )
            for channel in range(channels.shape[-1])
        ]
        norms = np.stack([frames[:, 2] for frames, _ in found])
        contrast = {"gray": norms[0], "opponent": norms[0], "rgb": norms.mean(axis=0)}.get(color.lower(), norms[-1])
        descriptors = np.concatenate([descriptors for _, descriptors in found], axis=1)
        descriptors[contrast < contrast_threshold] = 0
        frames = found[0][0]
        all_frames.append(np.column_stack([frames, np.full(len(frames), size, np.float32)]))
        all_descriptors.append(descriptors)
    return np.concatenate(all_frames), np.concatenate(all_descriptors)


def _channels(image: npt.NDArray[Any], color: str) -> npt.NDArray[Any]:
    """Return the planes to describe, (H, W, 1) or (H, W, 3), in a floating dtype."""
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(f"image must have shape (H, W), (H, W, 1) or (H, W, 3), got {image.shape}")
    pixels = (image if image.ndim == 3 else image[..., None]).astype(np.promote_types(image.dtype, np.float32))
    if color == "gray":
        return pixels if pixels.shape[2] == 1 else (pixels @ _GRAY_WEIGHTS)[..., None]
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if color == "rgb":
        return pixels
    if color == "opponent":
        red, green, blue = np.moveaxis(pixels, 2, 0)
        intensity = pixels @ _GRAY_WEIGHTS
        # Only the blue part is divided by √6 in cyvlfeat.
        yellow = red + green - 2 * blue / math.sqrt(6)
        return np.stack([intensity, (red - green) / math.sqrt(2) + _ALPHA * intensity, yellow + _ALPHA * intensity], -1)
    if color != "hsv":
        print("Color space not recognized, defaulting to HSV color space.")
    return _hsv(pixels)


def _hsv(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert RGB (H, W, 3) to hue in [0, 1), saturation in [0, 1], and value on the scale of the image."""
    most = pixels.max(axis=2)
    spread = most - pixels.min(axis=2)
    colored, divisor = spread > 0, np.where(spread > 0, spread, 1)
    red, green, blue = np.moveaxis(pixels, 2, 0)
    sextant = np.select(
        [blue == most, green == most],
        [4 + (red - green) / divisor, 2 + (blue - red) / divisor],
        (green - blue) / divisor,
    )
    hue = np.where(colored, sextant / 6 % 1, 0)
    saturation = np.where(most > 0, spread / np.where(most > 0, most, 1), 0)
    return np.stack([hue, saturation, most], axis=-1).astype(pixels.dtype)


def _smoothed(
    pixels: npt.NDArray[Any],  # [H, W, C]
    sigma: float,
) -> npt.NDArray[Any]:  # [H, W, C]
    """Smooth along all three axes like `scipy.ndimage.gaussian_filter`: four standard deviations, mirrored borders."""
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis, size in enumerate(pixels.shape):
        if size == 1:
            continue  # the mirrored border repeats the only value
        padding = [(radius, radius) if other == axis else (0, 0) for other in range(3)]
        padded = np.pad(pixels, padding, mode="symmetric").astype(np.float64)
        before = (slice(None),) * axis
        total = weights[radius] * padded[(*before, slice(radius, radius + size))]
        for shift in range(radius):  # pairs of equal weights
            after = 2 * radius - shift
            pair = padded[(*before, slice(shift, shift + size))] + padded[(*before, slice(after, after + size))]
            pair *= weights[shift]
            total += pair
        pixels = total.astype(pixels.dtype)
    return pixels
