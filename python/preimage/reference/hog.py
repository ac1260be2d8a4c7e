"""HOG as VLFeat's `vl_hog` computes it (UoCTTI variant, 9 orientations), to be read.

Every step is one function. What decides between directions or channels is computed in the image's own precision,
so that float32 images decide as VLFeat does; what is summed is summed in float64. Autograd goes through: decisions
(direction, channel, clipping) count as constant, and a pixel without gradient passes nothing on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from preimage.reference._images import as_batch, checked_images, like_images, luma

ORIENTATIONS = 9  # undirected, 20° apart; twice as many directed bins
EPSILON = 1e-4  # added to the energy of 2 x 2 cells, inside the root
CLIP = 0.2


def hog(
    images: torch.Tensor | npt.NDArray[Any],
    *,
    cell_size: int = 8,
    variant: str = "vlfeat-uoctti",
    color: str = "luma",
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Histograms of oriented gradients.

    Args:
        images: (H, W) or (..., C, H, W), y down, C 1 or 3 (red, green, blue). uint8 is divided by 255;
            floating values are expected in [0, 1]. A tensor or a NumPy array.
        cell_size: side of a cell in pixels, at least 1.
        variant: only ``"vlfeat-uoctti"``.
        color: ``"luma"`` turns three channels into 0.299 R + 0.587 G + 0.114 B; ``"strongest"`` takes at every
            pixel the channel with the longest gradient, the first of equals.
        dtype: of the features; by default float64 for float64 images, else float32.

    Returns:
        (..., 31, Hc, Wc), Hc = (H + cell_size // 2) // cell_size and Wc alike. Channels: 0-8 directed at k · 20°, 9-17
        the opposite directions, 18-26 undirected, 27-30 texture.

    Raises:
        TypeError, ValueError: as `preimage.hog`.
    """
    tensor = _checked(images, cell_size, variant, color)
    result_type = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    batch = as_batch(tensor)
    values = batch.to(torch.float32) / 255 if batch.dtype == torch.uint8 else batch.to(result_type)
    planes = luma(values) if color == "luma" and values.shape[1] == 3 else values
    rows, columns = (cells_along(side, cell_size) for side in values.shape[-2:])
    if not len(planes):
        return like_images(torch.empty((0, 31, rows, columns), dtype=dtype or result_type), tensor)
    features = [normalize(cell_histograms(*strongest_gradient(image), cell_size)) for image in planes]
    return like_images(torch.stack(features).to(dtype or result_type), tensor)


def cells_along(pixels: int, cell_size: int) -> int:
    """One cell for every full one, and one more for half a cell left over."""
    return (pixels + cell_size // 2) // cell_size


def strongest_gradient(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(C, H, W) -> gx, gy, each (H, W): I(x + 1) - I(x - 1), not halved; zero on the image's border.

    Of several channels the one with the longest gradient counts, the first of equals; one that is not a number
    counts as the longest.
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


def directed_bins(gx: torch.Tensor, gy: torch.Tensor) -> torch.Tensor:
    """(H, W) each -> (H, W) int64, 0 ... 17: the direction, at bin · 20°, with the largest scalar product.

    The scalar products' signs and sizes decide, not the angle: a vertical gradient scores equal for 80° and 100°,
    which happens at one pixel in eight of a photograph, and then the lower of the nine directions wins.
    """
    best = torch.full_like(gx, -1.0)
    bins = torch.zeros(gx.shape, dtype=torch.int64)
    for k in range(ORIENTATIONS):
        # float32 even for float64 images: only rounded so are the sines of 80° and 100° the same number.
        cosine = np.float32(math.cos(k * math.pi / ORIENTATIONS)).item()
        sine = np.float32(math.sin(k * math.pi / ORIENTATIONS)).item()
        score = gx * cosine + gy * sine
        better = score.abs() > best
        bins = torch.where(better, torch.where(score < 0, k + ORIENTATIONS, k), bins)
        best = torch.where(better, score.abs(), best)
    return bins


def bilinear_shares(pixels: int, cell_size: int, dtype: torch.dtype) -> torch.Tensor:
    """(pixels, cells): what a pixel at each position gives to each cell along one axis.

    A pixel shares its vote between the two cells whose centers it lies between, by distance. What falls outside
    the array of cells is dropped, and the cells at the border are not made up for it.
    """
    position = (torch.arange(pixels, dtype=torch.float64) + 0.5) / cell_size - 0.5
    position = position.to(dtype)  # in cells, from the first one's center
    before = position.floor()
    after_share = position - before
    shares = torch.zeros((pixels, cells_along(pixels, cell_size) + 2), dtype=torch.float64)
    everyone = torch.arange(pixels)
    shares[everyone, before.long() + 1] += (1 - after_share).double()
    shares[everyone, before.long() + 2] += after_share.double()
    return shares[:, 1:-1]


def cell_histograms(gx: torch.Tensor, gy: torch.Tensor, cell_size: int) -> torch.Tensor:
    """(H, W) each -> (18, Hc, Wc) float64: every pixel votes with its gradient's length for one directed bin."""
    height, width = gx.shape
    energy = gx * gx + gy * gy
    some = energy != 0  # at length zero the root has no derivative; it is taken as zero there
    length = energy.where(some, 1).sqrt().where(some, 0)
    bins = directed_bins(gx.detach(), gy.detach())
    row_shares = bilinear_shares(height, cell_size, gx.dtype)
    column_shares = bilinear_shares(width, cell_size, gx.dtype)
    votes = (torch.where(bins == index, length, 0).double() for index in range(2 * ORIENTATIONS))
    return torch.stack([_gather(row_shares.T, vote, column_shares) for vote in votes])


def _gather(left: torch.Tensor, votes: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left @ votes @ right, where a vote that is not a number spoils only the cells it has a share in."""
    finite = votes.isfinite()
    total = left @ votes.where(finite, 0) @ right
    if not finite.all():
        touched = (left > 0).double() @ (~finite).double() @ (right > 0).double()
        total = total.where(touched == 0, math.nan)
    return total


def normalize(histograms: torch.Tensor) -> torch.Tensor:
    """(18, Hc, Wc) -> (31, Hc, Wc).

    Every cell is normalized by each of the four squares of 2 x 2 cells it belongs to (neighbors outside the array
    repeat the cell at its edge), clipped, and the four results averaged over two for the 27 direction channels;
    the sums over the undirected bins of each make the four texture channels.
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


def _checked(images: torch.Tensor | npt.NDArray[Any], cell_size: int, variant: str, color: str) -> torch.Tensor:
    tensor = checked_images(images)
    if type(cell_size) is not int:
        raise TypeError(f"cell_size must be an int, got {cell_size!r}")
    if cell_size < 1:
        raise ValueError(f"cell_size must be at least 1 pixel, got {cell_size}")
    if variant != "vlfeat-uoctti":
        raise ValueError(f"variant must be vlfeat-uoctti, got {variant!r}")
    if color not in ("luma", "strongest"):
        raise ValueError(f"color must be luma or strongest, got {color!r}")
    height, width = tensor.shape[-2:]
    if min(cells_along(height, cell_size), cells_along(width, cell_size), height, width) < 1:
        raise ValueError(f"an image of {height} x {width} pixels has no cell of {cell_size}")
    return tensor
