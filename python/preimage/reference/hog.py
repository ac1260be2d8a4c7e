"""Reference definition of HOG as implemented in VLFeat 0.9.21 (``vl/hog.c``, UoCTTI variant, 9 orientations).

The features are those of Felzenszwalb et al., "Object detection with discriminatively trained part-based models" (PAMI
2010), section 6. Every step is one function. The choice of directions and channels is computed in the precision of the
image, so that float32 images give the same decisions as VLFeat; sums are float64. Autograd differentiates all steps,
where choices (direction, channel, clipping) are constant, and pixels without gradient have derivative 0.

The variant ``"dalal-triggs"`` is defined in hog_dalal_triggs.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from preimage.reference._images import as_batch, checked_images, like_images, luma
from preimage.reference.hog_dalal_triggs import hog_dalal_triggs

ORIENTATIONS = 9  # undirected, 20° apart; there are twice as many directed bins
EPSILON = 1e-4  # added to the energy of 2 x 2 cells under the square root
CLIP = 0.2


def hog(
    images: torch.Tensor | npt.NDArray[Any],
    *,
    cell_size: int | tuple[int, int] = 8,
    variant: str = "vlfeat-uoctti",
    color: str = "luma",
    orientations: int = 9,
    block_size: int | tuple[int, int] = 3,
    block_norm: str = "L2-Hys",
    transform_sqrt: bool = False,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Compute histograms of oriented gradients.

    Args:
        images: (H, W) or (..., C, H, W), where C is 1 or 3 (RGB); a tensor or a NumPy array, uint8 (divided by 255
            unless `variant` is ``"dalal-triggs"``), or floating point in [0, 1].
        cell_size: Side of a cell in pixels, at least 1; in ``"dalal-triggs"`` also a pair (height, width).
        variant: Definition of the features, ``"vlfeat-uoctti"`` or ``"dalal-triggs"``. The parameters from
            `orientations` to `transform_sqrt` are only for the latter.
        color: ``"luma"`` reduces three channels to 0.299 R + 0.587 G + 0.114 B; ``"strongest"`` uses at every pixel the
            channel with the largest gradient, the first one if several are equal.
        orientations: Number of undirected orientations.
        block_size: Side of a block in cells, or a pair (height, width).
        block_norm: ``"L1"``, ``"L1-sqrt"``, ``"L2"`` or ``"L2-Hys"``.
        transform_sqrt: Whether to take the square root of the values first.
        dtype: Dtype of the features; by default float64 for float64 images, otherwise float32.

    Returns:
        (..., 31, Hc, Wc), where Hc = (H + cell_size // 2) // cell_size and Wc likewise. Channels 0 to 8 are directed
        gradients at k · 20°, 9 to 17 the opposite directions, 18 to 26 undirected gradients, and 27 to 30 texture.

        For ``"dalal-triggs"`` (..., block_height · block_width · orientations, Hb, Wb) in the order (cell row, cell
        column, orientation), where Hb = H // cell_height - block_height + 1 and Wb likewise.

    Raises:
        TypeError, ValueError: As in `preimage.hog`.
    """
    tensor = checked_images(images)
    result_type = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    batch = as_batch(tensor)
    _check_choice("variant", variant, ("vlfeat-uoctti", "dalal-triggs"))
    _check_choice("color", color, ("luma", "strongest"))
    if variant == "dalal-triggs":
        cell, block = _pair("cell_size", cell_size), _pair("block_size", block_size)
        if _check_int("orientations", orientations) > 180:
            raise ValueError(f"orientations must be at most 180, got {orientations}")
        if type(transform_sqrt) is not bool:
            raise TypeError(f"transform_sqrt must be a bool, got {transform_sqrt!r}")
        _check_choice("block_norm", block_norm, ("L1", "L1-sqrt", "L2", "L2-Hys"))
        needed = cell[0] * block[0], cell[1] * block[1]
        if tensor.shape[-2] < needed[0] or tensor.shape[-1] < needed[1]:
            raise ValueError(f"images must contain a block of {needed} pixels, got {tuple(tensor.shape[-2:])}")
        blocks = hog_dalal_triggs(batch, cell, color, orientations, block, block_norm, transform_sqrt)
        return like_images(blocks.to(dtype or result_type), tensor)
    if (orientations, block_size, block_norm, transform_sqrt) != (ORIENTATIONS, 3, "L2-Hys", False):
        raise ValueError(
            f"vlfeat-uoctti has no other orientations, block_size, block_norm or transform_sqrt, got {orientations}, "
            f"{block_size}, {block_norm}, {transform_sqrt}"
        )
    cell_size = _check_int("cell_size", cell_size)
    height, width = tensor.shape[-2:]
    if min(cells_along(height, cell_size), cells_along(width, cell_size), height, width) < 1:
        raise ValueError(f"images must contain a cell of cell_size {cell_size}, got {height} x {width} pixels")
    values = batch.to(torch.float32) / 255 if batch.dtype == torch.uint8 else batch.to(result_type)
    planes = luma(values) if color == "luma" and values.shape[1] == 3 else values
    rows, columns = (cells_along(side, cell_size) for side in values.shape[-2:])
    if not len(planes):
        return like_images(torch.empty((0, 31, rows, columns), dtype=dtype or result_type), tensor)
    features = [normalize(cell_histograms(*strongest_gradient(image), cell_size)) for image in planes]
    return like_images(torch.stack(features).to(dtype or result_type), tensor)


def cells_along(pixels: int, cell_size: int) -> int:
    """Return the number of cells along an axis: all full cells, and one for a remainder of at least half a cell."""
    return (pixels + cell_size // 2) // cell_size


def strongest_gradient(
    image: torch.Tensor,  # [C, H, W]
) -> tuple[torch.Tensor, torch.Tensor]:  # gx and gy, [H, W] each
    """Compute the gradient I(x + 1) - I(x - 1) of the channel where it is largest; it is zero on the image border.

    The first of several equal channels is used; NaN is larger than all numbers.
    """
    gradients = torch.zeros((2, *image.shape), dtype=image.dtype)
    if min(image.shape[1:]) > 2:
        gradients[0, :, 1:-1, 1:-1] = image[:, 1:-1, 2:] - image[:, 1:-1, :-2]
        gradients[1, :, 1:-1, 1:-1] = image[:, 2:, 1:-1] - image[:, :-2, 1:-1]
    (gx, gy), energies = gradients[:, 0], gradients.square().sum(0)
    best = energies[0]
    for other, energy in zip(gradients.unbind(1)[1:], energies[1:], strict=True):
        longer = (energy > best) | energy.isnan()
        gx, gy = torch.where(longer, other[0], gx), torch.where(longer, other[1], gy)
        best = torch.where(longer, energy, best)
    return gx, gy


def directed_bins(
    gx: torch.Tensor,  # [H, W]
    gy: torch.Tensor,  # [H, W]
) -> torch.Tensor:  # [H, W] int64, 0 … 17
    """Return the direction, at bin · 20°, with the largest scalar product with the gradient.

    Scalar products are compared instead of angles: those of a vertical gradient, which one in eight pixels of a
    photograph has, are equal for 80° and 100°, and the lower of the nine orientations is used.
    """
    best = torch.full_like(gx, -1.0)
    bins = torch.zeros(gx.shape, dtype=torch.int64)
    for k in range(ORIENTATIONS):
        # float32 even for float64 images, because in float64 the sines of 80° and 100° are not equal.
        cosine = np.float32(math.cos(k * math.pi / ORIENTATIONS)).item()
        sine = np.float32(math.sin(k * math.pi / ORIENTATIONS)).item()
        score = gx * cosine + gy * sine
        better = score.abs() > best
        bins = torch.where(better, torch.where(score < 0, k + ORIENTATIONS, k), bins)
        best = torch.where(better, score.abs(), best)
    return bins


def bilinear_weights(pixels: int, cell_size: int, dtype: torch.dtype) -> torch.Tensor:  # [pixels, cells] float64
    """Compute the weight of each pixel for each cell along one axis.

    A pixel votes for the two cells with the nearest centers, linearly in the distance. Votes for cells outside the grid
    are dropped, so cells at the border get fewer votes.
    """
    position = (torch.arange(pixels, dtype=torch.float64) + 0.5) / cell_size - 0.5
    position = position.to(dtype)  # in cells, from the center of the first one
    before = position.floor()
    after_weight = position - before
    weights = torch.zeros((pixels, cells_along(pixels, cell_size) + 2), dtype=torch.float64)
    index = torch.arange(pixels)
    weights[index, before.long() + 1] += (1 - after_weight).double()
    weights[index, before.long() + 2] += after_weight.double()
    return weights[:, 1:-1]


def cell_histograms(
    gx: torch.Tensor,  # [H, W]
    gy: torch.Tensor,  # [H, W]
    cell_size: int,
) -> torch.Tensor:  # [18, Hc, Wc] float64
    """Compute histograms in which each pixel votes with its gradient magnitude for one directed bin."""
    height, width = gx.shape
    energy = gx * gx + gy * gy
    nonzero = energy != 0  # the derivative of the root at zero is infinite; use zero
    magnitude = energy.where(nonzero, 1).sqrt().where(nonzero, 0)
    bins = directed_bins(gx.detach(), gy.detach())
    row_weights = bilinear_weights(height, cell_size, gx.dtype)
    column_weights = bilinear_weights(width, cell_size, gx.dtype)
    votes = (torch.where(bins == index, magnitude, 0).double() for index in range(2 * ORIENTATIONS))
    return torch.stack([_gather(row_weights.T, vote, column_weights) for vote in votes])


def _gather(
    left: torch.Tensor,  # [Hc, H]
    votes: torch.Tensor,  # [H, W]
    right: torch.Tensor,  # [W, Wc]
) -> torch.Tensor:  # [Hc, Wc]
    """Compute left @ votes @ right, where non-finite votes affect only cells for which they have a weight."""
    finite = votes.isfinite()
    total = left @ votes.where(finite, 0) @ right
    if not finite.all():
        touched = (left > 0).double() @ (~finite).double() @ (right > 0).double()
        total = total.where(touched == 0, math.nan)
    return total


def normalize(
    histograms: torch.Tensor,  # [18, Hc, Wc]
) -> torch.Tensor:  # [31, Hc, Wc]
    """Normalize each cell by the energy of each of the four blocks of 2 x 2 cells that contain it.

    Cells outside the grid are those at its border (replicate padding). The results are clipped. Half of the sum of the
    four is the 27 direction channels; the sums of each over the undirected bins are the four texture channels.
    """
    forth, back = histograms[:ORIENTATIONS], histograms[ORIENTATIONS:]
    undirected = forth + back
    energy = undirected.square().sum(0)
    padded = torch.nn.functional.pad(energy[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    squares = padded[:-1, :-1] + padded[:-1, 1:] + padded[1:, :-1] + padded[1:, 1:]  # (Hc + 1, Wc + 1)
    factors = 1 / (squares + EPSILON).sqrt()
    around = (factors[:-1, :-1], factors[:-1, 1:], factors[1:, :-1], factors[1:, 1:])

    channels = torch.cat((forth, back, undirected))  # (27, Hc, Wc)
    clipped = [(channels * factor).clamp(max=CLIP) for factor in around]
    directions = 0.5 * (clipped[0] + clipped[1] + clipped[2] + clipped[3])
    textures = torch.stack([block[2 * ORIENTATIONS :].sum(0) for block in clipped]) / math.sqrt(2 * ORIENTATIONS)
    return torch.cat((directions, textures))


def _check_int(name: str, value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be an int or a pair (height, width), got {value!r}")
    height, width = pair
    return _check_int(name, height), _check_int(name, width)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be {' or '.join(known)}, got {value!r}")
