"""Reference definition of dense SIFT as implemented in VLFeat 0.9.21 (``vl/dsift.c``).

Every step is one function, and autograd differentiates them. Gradients and votes are computed in the precision of the
image, so that float32 images give the same decisions as VLFeat; sums are float64.

At kinks one-sided derivatives are used: values above 0.2, which are clipped, have derivative 0; the split between two
orientations is linear within each 45°; pixels whose squared gradient is below 1e-8, which do not vote, and nearly flat
patches, whose descriptor is zero, have derivative 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F

from preimage.reference._images import as_batch, checked_images, like_images, luma

ORIENTATIONS = 8  # 45° apart
SPATIAL = 4  # bins along each axis of a descriptor
CHANNELS = ORIENTATIONS * SPATIAL * SPATIAL
CLIP = 0.2
DEAD_ZONE = 1e-8  # square roots of smaller numbers are 0 (vl_fast_sqrt_f in vl/mathop.h)
EPSILON = 1.19209290e-7  # VL_EPSILON_F, the epsilon of float32, also in double precision

WINDOWS = ("gaussian", "flat")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.float64)

Bounds = tuple[int, int, int, int]


def dense_sift(
    images: torch.Tensor | npt.NDArray[Any],
    *,
    step: int = 4,
    bin_size: int = 4,
    window: str = "gaussian",
    window_size: float = 2.0,
    bounds: Bounds | None = None,
    norms: bool = False,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Compute SIFT descriptors on a regular grid.

    Args:
        images: (H, W) or (..., C, H, W), where C is 1 or 3 (RGB, of which the luma is used); a tensor or a NumPy array,
            uint8 (divided by 255), or floating point in [0, 1].
        step: Distance between descriptors in pixels, at least 1.
        bin_size: Distance between the centers of a descriptor's spatial bins in pixels, at least 1.
        window: ``"gaussian"`` weights every pixel by its distance from the descriptor's center; ``"flat"`` weights
            every spatial bin by the mean of the Gaussian over it.
        window_size: Standard deviation of the Gaussian in bins, above 0.
        bounds: (top, left, bottom, right) of the pixels allowed for bin centers, inclusive; ``None`` for all.
        norms: Also return the norms.
        dtype: Dtype of the descriptors; ``torch.uint8`` is min(⌊512 · d⌋, 255). Unlike `preimage.dense_sift`,
            ``torch.float64`` is supported.

    Returns:
        (..., 128, h, w), where the channel is orientation + 8 · spatial column + 32 · spatial row; with ``norms=True``
        also (..., 1, h, w), the sum of a descriptor's 128 values before normalization divided by (3 · bin_size + 1)²,
        float32 (float64 for float64 images). The descriptor of a nearly flat patch, whose squared values add up to less
        than 1e-8, is zero.

    Raises:
        TypeError, ValueError: As in `preimage.dense_sift`.
    """
    tensor = _checked(images, window, dtype)
    height, width = tensor.shape[-2:]
    box = checked_grid(height, width, step, bin_size, bounds)
    if not 0 < window_size < math.inf:
        raise ValueError(f"window_size must be above 0 bins, got {window_size!r}")
    precision = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    batch = as_batch(tensor)
    values = batch.to(torch.float32) / 255 if batch.dtype == torch.uint8 else batch.to(precision)
    planes = luma(values) if values.shape[1] == 3 else values
    sums = spatial_sums(votes(*gradient(planes)).double(), box, step, kernels(bin_size, window, window_size))
    features = like_images(as_dtype(normalize(sums), dtype), tensor)
    if not norms:
        return features
    return features, like_images((sums.sum(1, keepdim=True) / (3 * bin_size + 1) ** 2).to(precision), tensor)


def dense_sift_frames(
    height: int, width: int, *, step: int = 4, bin_size: int = 4, bounds: Bounds | None = None
) -> torch.Tensor:
    """Return the centers (y, x) of the descriptors in pixels, (h, w, 2) float32, see `preimage.dense_sift_frames`."""
    top, left, bottom, right = checked_grid(height, width, step, bin_size, bounds)
    rows = frames_along(top, bottom, step, bin_size)
    columns = frames_along(left, right, step, bin_size)
    y = top + step * torch.arange(rows, dtype=torch.float32) + 1.5 * bin_size
    x = left + step * torch.arange(columns, dtype=torch.float32) + 1.5 * bin_size
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)


def frames_along(first: int, last: int, step: int, bin_size: int) -> int:
    """Return the number of descriptors along an axis whose four bin centers are between `first` and `last`."""
    room = last - first - (SPATIAL - 1) * bin_size
    return 0 if room < 0 else room // step + 1


def gradient(
    planes: torch.Tensor,  # [B, 1, H, W]
) -> tuple[torch.Tensor, torch.Tensor]:  # gx and gy, [B, 1, H, W] each
    """Compute image gradients by central differences, and one-sided differences at the border."""

    def along(axis: int) -> torch.Tensor:
        size = planes.shape[axis]
        steps = planes.narrow(axis, 1, size - 1) - planes.narrow(axis, 0, size - 1)
        inside = 0.5 * (planes.narrow(axis, 2, size - 2) - planes.narrow(axis, 0, size - 2))
        return torch.cat((steps.narrow(axis, 0, 1), inside, steps.narrow(axis, size - 2, 1)), axis)

    return along(3), along(2)


def direction(
    gx: torch.Tensor,  # [B, 1, H, W]
    gy: torch.Tensor,  # [B, 1, H, W]
) -> torch.Tensor:  # [B, 1, H, W]
    """Compute the direction of gradients in units of 45°, in [0, 8), where y points down.

    VLFeat's cubic approximation of the arc tangent (``vl_fast_atan2_f`` in ``vl/mathop.h``) is part of the definition;
    its error is up to 0.0061 rad.
    """
    # Not abs(), whose derivative at 0 is 0 in torch: the direction is smooth there.
    across, down = torch.where(gx < 0, -gx, gx), torch.where(gy < 0, -gy, gy) + EPSILON
    ratio = torch.where(gx < 0, gx + down, gx - down) / (across + down)
    angle = torch.where(gx < 0, 3 * math.pi / 4, math.pi / 4) + (0.1821 * ratio * ratio - 0.9675) * ratio
    angle = torch.where(gy < 0, -angle, angle)
    angle = torch.where(angle < 0, angle + 2 * math.pi, angle)
    return angle * (ORIENTATIONS / (2 * math.pi))


def magnitude(
    gx: torch.Tensor,  # [B, 1, H, W]
    gy: torch.Tensor,  # [B, 1, H, W]
) -> torch.Tensor:  # [B, 1, H, W]
    """Compute the magnitude of gradients; it is 0, with derivative 0, if its square is below 1e-8."""
    square = gx * gx + gy * gy
    dead = square < DEAD_ZONE
    return torch.where(dead, 0, torch.where(dead, 1, square).sqrt())  # avoids the infinite derivative of the root at 0


def votes(
    gx: torch.Tensor,  # [B, 1, H, W]
    gy: torch.Tensor,  # [B, 1, H, W]
) -> torch.Tensor:  # [B, 8, H, W]
    """Split the gradient magnitude of each pixel linearly between its two nearest orientations."""
    position, strength = direction(gx, gy), magnitude(gx, gy)
    before = position.detach().floor().nan_to_num(0)  # NaN affects bins 0 and 1
    weight = position - before
    bins = torch.arange(ORIENTATIONS).reshape(1, -1, 1, 1)
    first = torch.where(bins == before % ORIENTATIONS, (1 - weight) * strength, 0)
    return torch.where(bins == (before + 1) % ORIENTATIONS, weight * strength, first)


def kernels(bin_size: int, window: str, window_size: float) -> torch.Tensor:  # [4, 2 · bin_size - 1] float64
    """Compute, for each spatial bin along one axis, the weights of the pixels around its center.

    The weights are those of the pixels from bin_size - 1 before the center to bin_size - 1 after it: a triangle times
    the window.
    """
    offset = torch.arange(1 - bin_size, bin_size, dtype=torch.float64)
    bins = torch.arange(SPATIAL, dtype=torch.float64)[:, None]
    from_center = offset + bin_size * (bins - 1.5)  # distance from the descriptor's center
    gaussian = torch.exp(-0.5 * (from_center / (bin_size * window_size)) ** 2)
    triangle = 1 - offset.abs() / bin_size
    return triangle * (gaussian if window == "gaussian" else gaussian.mean(1, keepdim=True))


def spatial_sums(
    planes: torch.Tensor,  # [B, 8, H, W] votes
    box: Bounds,
    step: int,
    weights: torch.Tensor,  # [4, 2 · bin_size - 1]
) -> torch.Tensor:  # [B, 128, h, w]
    """Compute the weighted sums of votes around the center of every bin of every descriptor.

    Votes outside the image are those at its border (replicate padding).
    """
    top, left, bottom, right = box
    taps = weights.shape[1]
    bin_size = (taps + 1) // 2
    rows = frames_along(top, bottom, step, bin_size)
    columns = frames_along(left, right, step, bin_size)
    padded = F.pad(planes, (bin_size - 1,) * 4, mode="replicate")
    by_row = []
    for j in range(SPATIAL):
        # In the padded image the first tap of a bin centered on pixel y is at y.
        lines = padded.narrow(2, top + j * bin_size, (rows - 1) * step + taps)
        summed = _filter(lines, weights[j].reshape(-1, 1), (step, 1))
        for i in range(SPATIAL):
            strip = summed.narrow(3, left + i * bin_size, (columns - 1) * step + taps)
            by_row.append(_filter(strip, weights[i].reshape(1, -1), (1, step)))
    return torch.cat(by_row, dim=1)


def _filter(
    planes: torch.Tensor,  # [B, C, H, W]
    kernel: torch.Tensor,  # [kh, kw]
    stride: tuple[int, int],
) -> torch.Tensor:  # [B, C, h, w]
    """Correlate each plane with one kernel."""
    flat = planes.reshape(-1, 1, *planes.shape[2:])
    out = F.conv2d(flat, kernel[None, None], stride=stride)
    return out.reshape(*planes.shape[:2], *out.shape[2:])


def normalize(
    sums: torch.Tensor,  # [B, 128, h, w]
) -> torch.Tensor:  # [B, 128, h, w]
    """Normalize descriptors to unit norm, clip them at 0.2, and normalize again (Lowe, IJCV 2004, section 6.1)."""
    return _to_unit_norm(_to_unit_norm(sums).clamp(max=CLIP))


def _to_unit_norm(sums: torch.Tensor) -> torch.Tensor:
    square = sums.square().sum(1, keepdim=True)
    flat = square < DEAD_ZONE
    root = torch.where(flat, 1, square).sqrt()
    return torch.where(flat, 0, sums / (root + EPSILON))


def as_dtype(features: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert descriptors to `dtype`; uint8 is 512 times the value, rounded down, at most 255."""
    return (512 * features).clamp(max=255).to(dtype) if dtype == torch.uint8 else features.to(dtype)


def checked_grid(height: int, width: int, step: int, bin_size: int, bounds: Bounds | None) -> Bounds:
    """Check the parameters of a grid and return its bounds (top, left, bottom, right)."""
    for name, value in (("step", step), ("bin_size", bin_size)):
        if type(value) is not int:
            raise TypeError(f"{name} must be an int, got {value!r}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1 pixel, got {value}")
    top, left, bottom, right = (0, 0, height - 1, width - 1) if bounds is None else bounds
    if any(type(value) is not int for value in (top, left, bottom, right)):
        raise TypeError(f"bounds must be four ints (top, left, bottom, right), got {bounds!r}")
    if not (0 <= top <= bottom < height and 0 <= left <= right < width):
        raise ValueError(f"bounds must be (top, left, bottom, right) inside {height} x {width} pixels, got {bounds}")
    if not (frames_along(top, bottom, step, bin_size) and frames_along(left, right, step, bin_size)):
        least = (SPATIAL - 1) * bin_size + 1
        raise ValueError(
            f"bounds must have at least {least} x {least} pixels for a bin_size of {bin_size}, "
            f"got {bottom - top + 1} x {right - left + 1}"
        )
    return top, left, bottom, right


def _checked(images: torch.Tensor | npt.NDArray[Any], window: str, dtype: torch.dtype) -> torch.Tensor:
    tensor = checked_images(images)
    if window not in WINDOWS:
        raise ValueError(f"window must be one of {', '.join(WINDOWS)}, got {window!r}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype!r}")
    return tensor
