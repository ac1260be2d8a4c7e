"""Reference definition of sparse SIFT as implemented in VLFeat 0.9.21 (``vl/sift.c``), in double precision.

The steps are those of Lowe, "Distinctive image features from scale-invariant keypoints" (IJCV 2004), whose sections are
given below. Constants, the approximations of arc tangent, square root and exponential, and the treatment of borders are
VLFeat's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from preimage.reference._images import as_batch, checked_images, luma

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.signedinteger[Any]]

TURN = 2 * math.pi
SIGMA = 1.6  # blur of level 0 of an octave, in its pixels
IMAGE_SIGMA = 0.5  # assumed blur of the image, in pixels
DIRECTIONS = 36  # bins of the orientation histogram
EPSILON = float(np.finfo(np.float32).eps)


class SparseKeypoints(NamedTuple):
    """Fields of `preimage.Keypoints`, in float64 except for the offsets."""

    x: torch.Tensor  # [N]
    y: torch.Tensor  # [N]
    scale: torch.Tensor  # [N]
    angle: torch.Tensor  # [N]
    response: torch.Tensor  # [N]
    descriptors: torch.Tensor  # [N, 128]
    offsets: torch.Tensor  # [B + 1] int64


class Octave(NamedTuple):
    """Images of one size with increasing blur."""

    number: int  # the pixel size is 2^number pixels of the image
    levels: Array  # [levels + 3, H, W], from level -1 to levels + 1
    differences: Array  # [levels + 2, H, W], differences of a level and the next, from -1 on


class Extremum(NamedTuple):
    """Extremum of the difference of Gaussians, in the pixels and levels of its octave."""

    x: float
    y: float
    level: float
    value: float


def sift(
    images: torch.Tensor | npt.NDArray[Any],
    *,
    levels: int = 3,
    first_octave: int = 0,
    peak_threshold: float = 0.0,
    edge_threshold: float = 10.0,
    count: int | None = None,
    magnification: float = 3.0,
    window_size: float = 2.0,
    norm_threshold: float = 0.0,
) -> SparseKeypoints:
    """Detect keypoints in images and compute their descriptors, see `preimage.sift` for arguments and order.

    `count` is the number of octaves; `magnification`, `window_size` and `norm_threshold` are those of `descriptor`.
    """
    tensor = checked_images(images)
    batch = as_batch(tensor).double()
    batch = batch / 255 if tensor.dtype == torch.uint8 else batch
    batch = luma(batch) if batch.shape[1] == 3 else batch
    found: list[tuple[float, ...]] = []
    described: list[Array] = []
    offsets = [0]
    for image in batch[:, 0].numpy():
        for octave in octaves(image, levels, first_octave, count):
            for level, extremum in extrema(octave, levels, peak_threshold, edge_threshold):
                gradients = polar_gradient(octave.levels[level + 1])
                sigma = SIGMA * 2 ** ((extremum.level + 1) / levels)
                for angle in directions(*gradients, extremum.x, extremum.y, sigma):
                    pixel = 2.0**octave.number
                    pose = (extremum.x * pixel, extremum.y * pixel, sigma * pixel, angle % TURN)
                    found.append((*pose, abs(extremum.value)))
                    shape = magnification, window_size, norm_threshold
                    described.append(descriptor(*gradients, extremum.x, extremum.y, sigma, angle, *shape))
        offsets.append(len(found))
    x, y, scale, angles, response = torch.tensor(found, dtype=torch.float64).view(-1, 5).unbind(1)
    descriptors = torch.tensor(np.array(described).reshape(-1, 128))
    return SparseKeypoints(x, y, scale, angles, response, descriptors, torch.tensor(offsets))


# ---- Scale space (section 3) ----


def octaves(
    image: Array,  # [H, W]
    levels: int,
    first_octave: int,
    count: int | None = None,
) -> Iterator[Octave]:
    """Yield `count` octaves of an image, by default down to a shorter side of 16 to 31 pixels."""
    if count is None:
        count = max(min(image.shape).bit_length() - 1 - first_octave - 3, 1)
    factor = 2 ** (1 / levels)
    base = smooth(scaled(image, first_octave), math.sqrt(SIGMA**2 - (IMAGE_SIGMA * 2.0**-first_octave) ** 2))
    for number in range(first_octave, first_octave + count):
        if min(base.shape) < 3:
            return
        stack = [base]
        for level in range(levels + 2):
            stack.append(smooth(stack[-1], SIGMA * factor ** (level + 1) * math.sqrt(1 - factor**-2)))
        all_levels = np.stack(stack)
        yield Octave(number, all_levels, np.diff(all_levels, axis=0))
        height, width = base.shape
        base = all_levels[levels][: height // 2 * 2 : 2, : width // 2 * 2 : 2]  # its blur is 2 · SIGMA


def scaled(
    image: Array,  # [H, W]
    octave: int,
) -> Array:  # [H', W']
    """Enlarge an image twofold by linear interpolation for octave -1, or return every 2^octave-th pixel."""
    if octave >= 0:
        step = 2**octave
        height, width = (side // step for side in image.shape)
        return image[::step, ::step][:height, :width]
    for axis in (1, 0):
        after = np.concatenate((image.take(range(1, image.shape[axis]), axis), image.take([-1], axis)), axis)
        image = np.stack((image, (image + after) / 2), axis=axis + 1)
        image = image.reshape(-1, image.shape[-1]) if axis == 0 else image.reshape(len(image), -1)
    return image


def smooth(
    image: Array,  # [H, W]
    sigma: float,
) -> Array:  # [H, W]
    """Smooth with a Gaussian truncated at four standard deviations, with replicate padding."""
    if min(image.shape) == 0:
        return image
    radius = max(math.ceil(4 * sigma), 1)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    height, width = image.shape
    padded = np.pad(image, radius, mode="edge")
    down = sum(weight * padded[k : k + height] for k, weight in enumerate(weights))
    return np.asarray(sum(weight * down[:, k : k + width] for k, weight in enumerate(weights)))


# ---- Extrema (sections 3.1 and 4) ----


def extrema(
    octave: Octave, levels: int, peak_threshold: float, edge_threshold: float
) -> Iterator[tuple[int, Extremum]]:
    """Yield the level at which an extremum was found and the refined extremum, ordered by level, row and column."""
    for level in range(levels):
        planes = octave.differences[level : level + 3]
        center = planes[1, 1:-1, 1:-1]
        height, width = center.shape
        around = np.stack(
            [planes[s, y : y + height, x : x + width] for s, y, x in np.ndindex(3, 3, 3) if (s, y, x) != (1, 1, 1)]
        )
        highest = (center > around.max(axis=0)) & (center >= 0.8 * peak_threshold)
        lowest = (center < around.min(axis=0)) & (center <= -0.8 * peak_threshold)
        for row, column in np.argwhere(highest | lowest):
            extremum = refine(planes, int(column) + 1, int(row) + 1, level, peak_threshold, edge_threshold)
            if extremum is not None and -1 <= extremum.level <= levels + 1:
                yield level, extremum


def refine(
    planes: Array,  # [3, H, W], differences around the level
    x: int,
    y: int,
    level: int,
    peak_threshold: float,
    edge_threshold: float,
) -> Extremum | None:
    """Return the stationary point of the quadratic fit at pixel (x, y), or ``None`` if it is rejected.

    If it is far from the pixel, the fit is repeated at the neighboring pixel, up to four times; the level is fixed.
    """
    _, height, width = planes.shape
    for attempt in range(5):
        gradient, hessian = derivatives(planes[:, y - 1 : y + 2, x - 1 : x + 2])
        singular = abs(np.linalg.det(hessian)) < 1e-30
        offset = np.zeros(3) if singular else np.linalg.solve(hessian, -gradient)
        step_x, step_y = (
            int(shift > 0.6 and position < side - 2) - int(shift < -0.6 and position > 1)
            for shift, position, side in ((offset[0], x, width), (offset[1], y, height))
        )
        if attempt == 4 or (step_x == 0 and step_y == 0):
            break
        x, y = x + step_x, y + step_y
    value = float(planes[1, y, x] + 0.5 * gradient @ offset)
    refined = Extremum(x + float(offset[0]), y + float(offset[1]), level + float(offset[2]), value)
    determinant = hessian[0, 0] * hessian[1, 1] - hessian[0, 1] ** 2
    edge = (hessian[0, 0] + hessian[1, 1]) ** 2 / determinant if determinant != 0 else math.inf
    accepted = (
        abs(value) > peak_threshold
        and 0 <= edge < (edge_threshold + 1) ** 2 / edge_threshold
        and np.abs(offset).max() < 1.5
        and 0 <= refined.x <= width - 1
        and 0 <= refined.y <= height - 1
    )
    return refined if accepted else None


def derivatives(
    cube: Array,  # [3, 3, 3]: level, row, column
) -> tuple[Array, Array]:  # [3], [3, 3]
    """Compute gradient and Hessian along x, y and level by central differences."""
    s, y, x = (np.moveaxis(cube, axis, 0) for axis in range(3))
    gradient = np.array([(along[2, 1, 1] - along[0, 1, 1]) / 2 for along in (x, y, s)])
    hessian = np.diag([along[2, 1, 1] + along[0, 1, 1] - 2 * cube[1, 1, 1] for along in (x, y, s)])

    def mixed(face: Array) -> float:
        return float(face[2, 2] + face[0, 0] - face[0, 2] - face[2, 0]) / 4

    for i, j, face in ((0, 1, cube[1]), (0, 2, cube[:, 1, :]), (1, 2, cube[:, :, 1])):
        hessian[i, j] = hessian[j, i] = mixed(face)
    return gradient, hessian


# ---- Orientations and descriptors (sections 5 and 6) ----


def polar_gradient(
    level: Array,  # [H, W]
) -> tuple[Array, Array]:  # [H, W], [H, W]
    """Compute magnitudes and angles in [0, 2π] of gradients by central differences, one-sided at the border."""
    gy, gx = np.gradient(level)
    down = np.abs(gy) + EPSILON
    ratio = (gx - np.copysign(down, gx + 0.0)) / (np.abs(gx) + down)
    angle = np.where(gx < 0, 3 * TURN / 8, TURN / 8) + (0.1821 * ratio**2 - 0.9675) * ratio  # vl_fast_atan2_f
    angle = np.where(gy < 0, TURN - angle, angle)
    squares = gx**2 + gy**2
    return np.where(squares < 1e-8, 0.0, np.sqrt(squares)), angle


def window(
    x: Array,  # [N]
) -> Array:  # [N]
    """Compute exp(-x) by linear interpolation between points at a distance of 25 / 256 (``fast_expn``)."""
    points = 25 / 256 * np.arange(258)
    return np.interp(x, points, np.exp(-points))


def surroundings(
    shape: tuple[int, ...], x: float, y: float, radius: int, margin: int
) -> tuple[Indices, Indices]:  # [N], [N]
    """Return rows and columns of the pixels up to `radius` from (x, y) and at least `margin` from the border."""
    row, column = int(y + 0.5), int(x + 0.5)
    rows = np.arange(max(row - radius, margin), min(row + radius, shape[0] - 1 - margin) + 1)
    columns = np.arange(max(column - radius, margin), min(column + radius, shape[1] - 1 - margin) + 1)
    down, across = np.meshgrid(rows, columns, indexing="ij")
    return down.ravel(), across.ravel()


def directions(
    magnitudes: Array,  # [H, W]
    angles: Array,  # [H, W]
    x: float,
    y: float,
    sigma: float,
) -> list[float]:
    """Return up to four peaks of the histogram of gradient orientations around a keypoint, in radians."""
    spread = 1.5 * sigma
    radius = max(math.floor(3 * spread), 1)
    rows, columns = surroundings(magnitudes.shape, x, y, radius, 0)
    squares = (columns - x) ** 2 + (rows - y) ** 2
    votes = magnitudes[rows, columns] * window(squares / (2 * spread**2)) * (squares < radius**2 + 0.6)
    position = angles[rows, columns] * DIRECTIONS / TURN - 0.5
    before = np.floor(position).astype(int)
    histogram = np.zeros(DIRECTIONS)
    np.add.at(histogram, before % DIRECTIONS, (1 - (position - before)) * votes)
    np.add.at(histogram, (before + 1) % DIRECTIONS, (position - before) * votes)
    for _ in range(6):
        histogram = (np.roll(histogram, 1) + histogram + np.roll(histogram, -1)) / 3
    peaks = []
    for k, height in enumerate(histogram):
        before, after = histogram[k - 1], histogram[(k + 1) % DIRECTIONS]
        if height > 0.8 * histogram.max() and height > before and height > after:
            shift = -0.5 * (after - before) / (after + before - 2 * height)
            peaks.append(float(TURN * (k + shift + 0.5) / DIRECTIONS))
    return peaks[:4]


def descriptor(
    magnitudes: Array,  # [H, W]
    angles: Array,  # [H, W]
    x: float,
    y: float,
    sigma: float,
    angle: float,
    magnification: float = 3.0,
    window_size: float = 2.0,
    norm_threshold: float = 0.0,
) -> Array:  # [128]: 4 rows, 4 columns, 8 orientations
    """Compute the descriptor of a keypoint, in the frame rotated by `angle`.

    A spatial bin is `magnification` scales wide, the standard deviation of the Gaussian window is `window_size` bins,
    and descriptors whose norm is below `norm_threshold` are 0.
    """
    size = magnification * sigma  # side of a spatial bin
    rows, columns = surroundings(magnitudes.shape, x, y, math.floor(math.sqrt(2) * size * 2.5 + 0.5), 1)
    dx, dy = columns - x, rows - y
    along = (math.cos(angle) * dx + math.sin(angle) * dy) / size
    aside = (-math.sin(angle) * dx + math.cos(angle) * dy) / size
    votes = magnitudes[rows, columns] * window((along**2 + aside**2) / (2 * window_size**2))
    orientation = (angles[rows, columns] - angle) % TURN * 8 / TURN
    centers = np.arange(4) - 1.5
    by_column = np.maximum(1 - np.abs(along[:, None] - centers), 0)
    by_row = np.maximum(1 - np.abs(aside[:, None] - centers), 0)
    apart = np.abs(orientation[:, None] - np.arange(8))
    by_orientation = np.maximum(1 - np.minimum(apart, 8 - apart), 0)
    sums = np.einsum("n,ni,nj,nk->ijk", votes, by_row, by_column, by_orientation).ravel()
    if np.linalg.norm(sums) < norm_threshold:
        return np.zeros_like(sums)
    return normalized(np.minimum(normalized(sums), 0.2))


def normalized(
    values: Array,  # [128]
) -> Array:  # [128]
    """Divide by the norm plus `EPSILON`; norms below 1e-4 are 0, as in VLFeat."""
    squares = float((values**2).sum())
    return values / ((math.sqrt(squares) if squares >= 1e-8 else 0.0) + EPSILON)
