"""Dense SIFT as VLFeat's `vl_dsift` computes it, to be read; autograd differentiates it.

Every step is one function. Gradients and votes are computed in the image's own precision, so that float32 images
decide as VLFeat does; what is summed is summed in float64.

Sub-gradients, where the definition has kinks: a value clipped at 0.2 passes its gradient where it is at most 0.2; the
split between two orientations is linear within each eighth of a turn; a pixel whose squared gradient is below 1e-8
neither votes nor has a gradient; nor has a near-flat patch, whose descriptor is zero.
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
DEAD_ZONE = 1e-8  # squares below it have the root 0
EPSILON = 1.19209290e-7  # float32's, also in double precision

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
    """SIFT descriptors on a regular grid.

    Args:
        images: (H, W) or (..., C, H, W), y down, C 1 or 3 (red, green, blue; their luma is taken). uint8 is
            divided by 255; floating values are expected in [0, 1]. A tensor or a NumPy array.
        step: pixels between descriptors, at least 1.
        bin_size: pixels between the centers of a descriptor's spatial bins, at least 1.
        window: ``"gaussian"`` weighs every pixel by its distance from the descriptor's center; ``"flat"`` every
            spatial bin by the Gaussian's mean over it.
        window_size: the Gaussian's sigma in bins, above 0.
        bounds: (top, left, bottom, right), the pixels that bin centers may lie on, inclusive; ``None`` for all.
        norms: give the norms as well.
        dtype: of the descriptors; ``torch.uint8`` is min(⌊512 · d⌋, 255). ``torch.float64`` only here.

    Returns:
        (..., 128, h, w), channel = orientation + 8 · spatial column + 32 · spatial row; with `norms` also their norms
        (..., 1, h, w): the sum of the 128 sums before normalizing, over (3 · bin_size + 1)², float32 (float64 for
        float64 images). A near-flat patch, whose sums squared add up to less than 1e-8, has a descriptor of zeros.

    Raises:
        TypeError, ValueError: as `preimage.dense_sift`.
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
    """The centers of the descriptors: (h, w, 2) float32 in pixels, y before x."""
    top, left, bottom, right = checked_grid(height, width, step, bin_size, bounds)
    rows = frames_along(top, bottom, step, bin_size)
    columns = frames_along(left, right, step, bin_size)
    y = top + step * torch.arange(rows, dtype=torch.float32) + 1.5 * bin_size
    x = left + step * torch.arange(columns, dtype=torch.float32) + 1.5 * bin_size
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)


def frames_along(first: int, last: int, step: int, bin_size: int) -> int:
    """Descriptors along an axis whose four bin centers lie in first … last, inclusive."""
    room = last - first - (SPATIAL - 1) * bin_size
    return 0 if room < 0 else room // step + 1


def gradient(planes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 1, H, W) -> gx, gy, each (B, 1, H, W): half the difference of the two neighbors; at the image's border,
    where there is one neighbor, the whole difference to it."""

    def along(axis: int) -> torch.Tensor:
        size = planes.shape[axis]
        steps = planes.narrow(axis, 1, size - 1) - planes.narrow(axis, 0, size - 1)
        inside = 0.5 * (planes.narrow(axis, 2, size - 2) - planes.narrow(axis, 0, size - 2))
        return torch.cat((steps.narrow(axis, 0, 1), inside, steps.narrow(axis, size - 2, 1)), axis)

    return along(3), along(2)


def direction(gx: torch.Tensor, gy: torch.Tensor) -> torch.Tensor:
    """The gradient's direction in eighths of a turn, [0, 8), y down.

    VLFeat's cubic replaces the arc tangent. It is up to 0.0061 rad off, and part of the definition.
    """
    # Not abs(), whose slope at 0 is taken to be 0: the direction changes smoothly there.
    across, down = torch.where(gx < 0, -gx, gx), torch.where(gy < 0, -gy, gy) + EPSILON
    ratio = torch.where(gx < 0, gx + down, gx - down) / (across + down)
    angle = torch.where(gx < 0, 3 * math.pi / 4, math.pi / 4) + (0.1821 * ratio * ratio - 0.9675) * ratio
    angle = torch.where(gy < 0, -angle, angle)
    angle = torch.where(angle < 0, angle + 2 * math.pi, angle)
    return angle * (ORIENTATIONS / (2 * math.pi))


def length(gx: torch.Tensor, gy: torch.Tensor) -> torch.Tensor:
    """The gradient's length; 0, and without a gradient of its own, where its square is below 1e-8."""
    square = gx * gx + gy * gy
    dead = square < DEAD_ZONE
    return torch.where(dead, 0, torch.where(dead, 1, square).sqrt())  # the root's slope at 0 must not be asked for


def votes(gx: torch.Tensor, gy: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) each -> (B, 8, H, W): every pixel's length, split between the two orientations it lies between."""
    eighths, strength = direction(gx, gy), length(gx, gy)
    before = eighths.detach().floor().nan_to_num(0)  # what is not a number votes for bins 0 and 1, and spoils them
    share = eighths - before
    bins = torch.arange(ORIENTATIONS).reshape(1, -1, 1, 1)
    first = torch.where(bins == before % ORIENTATIONS, (1 - share) * strength, 0)
    return torch.where(bins == (before + 1) % ORIENTATIONS, share * strength, first)


def kernels(bin_size: int, window: str, window_size: float) -> torch.Tensor:
    """(4, 2 · bin_size - 1) float64: for each spatial bin along one axis, the weights of the pixels from bin_size - 1
    before its center to bin_size - 1 after it. A triangle, times the window."""
    offset = torch.arange(1 - bin_size, bin_size, dtype=torch.float64)
    bins = torch.arange(SPATIAL, dtype=torch.float64)[:, None]
    from_center = offset + bin_size * (bins - 1.5)  # of the descriptor
    gaussian = torch.exp(-0.5 * (from_center / (bin_size * window_size)) ** 2)
    triangle = 1 - offset.abs() / bin_size
    return triangle * (gaussian if window == "gaussian" else gaussian.mean(1, keepdim=True))


def spatial_sums(planes: torch.Tensor, box: Bounds, step: int, weights: torch.Tensor) -> torch.Tensor:
    """(B, 8, H, W) votes -> (B, 128, h, w): the weighted sums around the center of every descriptor's every bin.

    Outside the image the votes at its edge are repeated.
    """
    top, left, bottom, right = box
    taps = weights.shape[1]
    bin_size = (taps + 1) // 2
    rows = frames_along(top, bottom, step, bin_size)
    columns = frames_along(left, right, step, bin_size)
    padded = F.pad(planes, (bin_size - 1,) * 4, mode="replicate")
    by_row = []
    for j in range(SPATIAL):
        # Padding moved a bin centered on pixel y so that its first tap is at y.
        lines = padded.narrow(2, top + j * bin_size, (rows - 1) * step + taps)
        summed = _filter(lines, weights[j].reshape(-1, 1), (step, 1))
        for i in range(SPATIAL):
            strip = summed.narrow(3, left + i * bin_size, (columns - 1) * step + taps)
            by_row.append(_filter(strip, weights[i].reshape(1, -1), (1, step)))
    return torch.cat(by_row, dim=1)


def _filter(planes: torch.Tensor, kernel: torch.Tensor, stride: tuple[int, int]) -> torch.Tensor:
    """Every plane by itself, correlated with one kernel."""
    flat = planes.reshape(-1, 1, *planes.shape[2:])
    out = F.conv2d(flat, kernel[None, None], stride=stride)
    return out.reshape(*planes.shape[:2], *out.shape[2:])


def normalize(sums: torch.Tensor) -> torch.Tensor:
    """(B, 128, h, w): to unit length, clipped at 0.2, to unit length again."""
    return _to_unit_length(_to_unit_length(sums).clamp(max=CLIP))


def _to_unit_length(sums: torch.Tensor) -> torch.Tensor:
    square = sums.square().sum(1, keepdim=True)
    flat = square < DEAD_ZONE
    root = torch.where(flat, 1, square).sqrt()
    return torch.where(flat, 0, sums / (root + EPSILON))


def as_dtype(features: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Descriptors as `dtype`; a byte holds 512 times the value, rounded down, at most 255."""
    return (512 * features).clamp(max=255).to(dtype) if dtype == torch.uint8 else features.to(dtype)


def checked_grid(height: int, width: int, step: int, bin_size: int, bounds: Bounds | None) -> Bounds:
    """(top, left, bottom, right); ``TypeError`` or ``ValueError`` unless there is at least one descriptor."""
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
            f"descriptors with a bin_size of {bin_size} need at least {least} x {least} pixels within the bounds, "
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
