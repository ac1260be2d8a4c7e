"""Reference definition of HOG as implemented in scikit-image 0.26 (``skimage.feature.hog``).

The features are those of Dalal and Triggs, "Histograms of oriented gradients for human detection" (CVPR 2005), with
scikit-image's choices: no Gaussian window, votes for one orientation and one cell, and at every pixel the channel with
the longest gradient. Everything but the gradients of float32 images is float64. scikit-image sums the lengths of a cell
in float32, one by one, which makes a difference of 1e-7 with cells of 8 pixels, and of more than 1e-6 with cells of 64
pixels. Autograd differentiates all steps, where choices (orientation, channel, clipping) are constant, and pixels
without gradient have derivative 0.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from preimage.reference._images import luma

EPSILON = 1e-5
CLIP = 0.2


def hog_dalal_triggs(
    images: torch.Tensor,  # [B, C, H, W], uint8 or floating point
    cell_size: tuple[int, int],
    color: str,
    orientations: int,
    block_size: tuple[int, int],
    block_norm: str,
    transform_sqrt: bool,
) -> torch.Tensor:  # [B, block_h * block_w * orientations, Hb, Wb] float64
    """Compute the features of checked images. See `preimage.hog` for the parameters."""
    # uint8 is not divided by 255. Gradients of float32 images, and of shorter types, are float32 as in scikit-image.
    values = images.float() if images.dtype in (torch.float16, torch.bfloat16, torch.float32) else images.double()
    planes = luma(values.double()) if color == "luma" and values.shape[1] == 3 else values
    if transform_sqrt:
        planes = square_root(planes.double()).to(planes.dtype)
    features = [
        normalize_blocks(cell_histograms(*strongest_gradient(image), cell_size, orientations), block_size, block_norm)
        for image in planes
    ]
    rows, columns = (
        pixels // cell - block + 1 for pixels, cell, block in zip(images.shape[-2:], cell_size, block_size, strict=True)
    )
    empty = torch.empty((0, block_size[0] * block_size[1] * orientations, rows, columns), dtype=torch.float64)
    return torch.stack(features) if features else empty


def square_root(values: torch.Tensor) -> torch.Tensor:
    """Compute square roots whose derivative at zero is zero instead of infinite; those of negative values are NaN.

    They are those of NumPy, because torch's are not always rounded correctly.
    """
    nonzero = values != 0
    root = values.where(nonzero, 1).sqrt().where(nonzero, 0)
    with np.errstate(invalid="ignore"):
        rounded = torch.from_numpy(np.sqrt(values.detach().numpy()))
    return root.where(root == rounded, root + (rounded - root).detach())


def strongest_gradient(
    image: torch.Tensor,  # [C, H, W]
) -> tuple[torch.Tensor, torch.Tensor]:  # along rows and along columns, [H, W] each
    """Compute I(x + 1) - I(x - 1) of the channel where the gradient is longest.

    The difference across the image border is zero, that along it is not. The first of several equal channels is used;
    NaN is longer than all numbers. Lengths are compared as NumPy's `hypot` rounds them. The differences have the
    precision of the image; the result is float64.
    """
    down, across = torch.zeros_like(image), torch.zeros_like(image)
    down[:, 1:-1] = image[:, 2:] - image[:, :-2]
    across[:, :, 1:-1] = image[:, :, 2:] - image[:, :, :-2]
    with np.errstate(invalid="ignore"):
        lengths = np.hypot(down.detach().numpy(), across.detach().numpy())
    best = torch.from_numpy(lengths.argmax(0))[None]
    return down.gather(0, best)[0].double(), across.gather(0, best)[0].double()


# That of the C library. NumPy's own differs in the last bit on processors with AVX-512, which decides the orientation
# if an angle of square roots is at a boundary.
_arctan2 = np.frompyfunc(math.atan2, 2, 1)


def orientation_boundaries(orientations: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return the boundaries between orientations in degrees, `orientations` + 1.

    scikit-image computes them in float32, so that the last one is not always 180.
    """
    width = np.float32(180.0 / orientations)
    return width * np.arange(orientations + 1).astype(np.float32)


def cell_histograms(
    down: torch.Tensor,  # [H, W]
    across: torch.Tensor,  # [H, W]
    cell_size: tuple[int, int],
    orientations: int,
) -> torch.Tensor:  # [orientations, Hc, Wc]
    """Compute the sum of gradient lengths per orientation in each cell, divided by the cell's area.

    Angles are undirected. Some vote for no orientation: a tiny negative angle is rounded to 180°, the end of the last
    bin. NaN votes for all of them.
    """
    energy = down * down + across * across
    nonzero = energy != 0  # the derivative of the root at zero is infinite; use zero
    length = energy.where(nonzero, 1).sqrt().where(nonzero, 0)
    with np.errstate(invalid="ignore"):
        angle = np.rad2deg(_arctan2(down.detach().numpy(), across.detach().numpy()).astype(np.float64)) % 180
    boundaries = orientation_boundaries(orientations).astype(np.float64)
    (cell_height, cell_width), (height, width) = cell_size, length.shape
    rows, columns = height // cell_height, width // cell_width
    sums = []
    for begin, end in itertools.pairwise(boundaries):
        outside = torch.from_numpy((angle < begin) | (angle >= end))
        votes = length.where(~outside, 0)[: rows * cell_height, : columns * cell_width]
        sums.append(votes.reshape(rows, cell_height, columns, cell_width).sum((1, 3)))
    return torch.stack(sums) / (cell_height * cell_width)


def normalize_blocks(
    histograms: torch.Tensor,  # [orientations, Hc, Wc]
    block_size: tuple[int, int],
    block_norm: str,
) -> torch.Tensor:  # [block_h * block_w * orientations, Hb, Wb]
    """Normalize every block of cells, one per position; channels are in the order (row, column, orientation)."""
    block_height, block_width = block_size
    rows, columns = histograms.shape[1] - block_height + 1, histograms.shape[2] - block_width + 1
    blocks = torch.cat(
        [histograms[:, i : i + rows, j : j + columns] for i in range(block_height) for j in range(block_width)]
    )
    if block_norm.startswith("L1"):
        shares = blocks / (blocks.sum(0) + EPSILON)
        return square_root(shares) if block_norm == "L1-sqrt" else shares
    normalized = blocks / (blocks.square().sum(0) + EPSILON**2).sqrt()
    if block_norm == "L2-Hys":
        clipped = normalized.clamp(max=CLIP)
        normalized = clipped / (clipped.square().sum(0) + EPSILON**2).sqrt()
    return normalized
