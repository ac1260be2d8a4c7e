"""Reference definition of local binary patterns as implemented in VLFeat 0.9.21 (``vl/lbp.c``, 58 labels).

The labels are uniform patterns (Ojala et al., "Multiresolution gray-scale and rotation invariant texture classification
with local binary patterns", PAMI 2002). Every step is one function. Votes are counted in integers up to the last step,
so the result does not depend on the order of summation.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch

from preimage.reference._images import as_batch, checked_images, like_images, luma

LABELS = 58
FLAT = 56  # no neighbor is greater, or all are
MIXED = 57  # the greater neighbors form several runs
NO_LABEL = 255  # label of pixels on the image border
LARGEST_CELL = 2**15  # the votes of a cell sum to at most 4 cell_size**4, which must fit in 64 bits

# (dy, dx) of each bit, clockwise from the right; y points down.
NEIGHBORS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))


def lbp(
    images: torch.Tensor | npt.NDArray[Any],
    *,
    cell_size: int = 16,
    variant: str = "vlfeat-uniform",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Compute histograms of local binary patterns.

    Args:
        images: (H, W) or (..., C, H, W), where C is 1 or 3 (RGB, of which the luma is used); a tensor or a NumPy array,
            floating point, or uint8 (divided by 255).
        cell_size: Side of a cell in pixels, 1 to 32768.
        variant: Definition of the features; only ``"vlfeat-uniform"``.
        dtype: Dtype of the result, float32, float16 or bfloat16, rounded from float32.

    Returns:
        (..., 58, H // cell_size, W // cell_size). The features of a cell have norm 1, or 0 if no pixel votes for it.

    Raises:
        TypeError, ValueError: As in `preimage.lbp`.
    """
    tensor = checked(images, variant)
    planes = gray(as_batch(tensor))
    height, width = planes.shape[-2:]
    if type(cell_size) is not int:
        raise TypeError(f"cell_size must be an int, got {cell_size!r}")
    if not 1 <= cell_size <= LARGEST_CELL:
        raise ValueError(f"cell_size must be at least 1 and at most {LARGEST_CELL} pixels, got {cell_size}")
    if min(height, width) < cell_size:
        raise ValueError(f"images must contain a cell of cell_size {cell_size}, got {height} x {width} pixels")
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"dtype must be float32, float16 or bfloat16, got {dtype!r}")
    features = torch.empty((len(planes), LABELS, height // cell_size, width // cell_size), dtype=torch.float32)
    for image, out in zip(planes, features, strict=True):
        out.copy_(normalize(cell_histograms(labels(image), cell_size)))
    return like_images(features.to(dtype), tensor)


def lbp_codes(images: torch.Tensor | npt.NDArray[Any], *, variant: str = "vlfeat-uniform") -> torch.Tensor:
    """Compute the label of every pixel.

    Args:
        images: Images as in `lbp`.
        variant: Definition of the labels; only ``"vlfeat-uniform"``.

    Returns:
        (..., 1, H, W) uint8, labels 0 to 57, and 255 on the image border.

    Raises:
        TypeError, ValueError: As in `preimage.lbp_codes`.
    """
    tensor = checked(images, variant)
    planes = gray(as_batch(tensor))
    codes = torch.empty((len(planes), 1, *planes.shape[1:]), dtype=torch.uint8)
    for image, out in zip(planes, codes, strict=True):
        out[0] = labels(image)
    return like_images(codes, tensor)


def gray(
    images: torch.Tensor,  # [B, C, H, W]
) -> torch.Tensor:  # [B, H, W] float32
    """Convert images to float32 and three channels to their luma."""
    values = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images.to(torch.float32)
    return (luma(values) if values.shape[1] == 3 else values)[:, 0]


def label_table() -> torch.Tensor:  # [256] uint8
    """Return the label of each code: a run of 1 to 7 ones that begins at bit i has label 7 i + length - 1."""
    table = torch.full((256,), MIXED, dtype=torch.uint8)
    table[0] = table[255] = FLAT
    for first in range(8):
        for length in range(1, 8):
            table[sum(1 << (first + k) % 8 for k in range(length))] = 7 * first + length - 1
    return table


def codes_inside(
    image: torch.Tensor,  # [H, W]
) -> torch.Tensor:  # [H - 2, W - 2] int64
    """Compute the codes of inner pixels, with one bit for each neighbor, set if it is greater than the pixel."""
    height, width = image.shape
    center = image[1:-1, 1:-1]
    codes = torch.zeros(center.shape, dtype=torch.int64)
    for bit, (dy, dx) in enumerate(NEIGHBORS):
        neighbor = image[1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx]
        codes |= (neighbor > center).long() << bit
    return codes


def labels(
    image: torch.Tensor,  # [H, W]
) -> torch.Tensor:  # [H, W] uint8
    """Compute the labels of pixels, which are `NO_LABEL` on the border."""
    result = torch.full(image.shape, NO_LABEL, dtype=torch.uint8)
    if min(image.shape) > 2:
        result[1:-1, 1:-1] = label_table()[codes_inside(image)]
    return result


def bilinear_weights(pixels: int, cell_size: int) -> torch.Tensor:  # [pixels, cells] int64
    """Compute the weight of each pixel for each cell along one axis, in units of 1 / (2 cell_size).

    A pixel votes for the two cells with the nearest centers, linearly in the distance. Votes for cells outside the grid
    are dropped.
    """
    pixel_centers = 2 * torch.arange(pixels)[:, None] + 1  # in half pixels
    cell_centers = (2 * torch.arange(pixels // cell_size)[None] + 1) * cell_size
    return (2 * cell_size - (pixel_centers - cell_centers).abs()).clamp(min=0)


def cell_histograms(
    labels: torch.Tensor,  # [H, W] uint8
    cell_size: int,
) -> torch.Tensor:  # [58, Hc, Wc] int64
    """Compute histograms of the pixels' bilinear votes for their labels, in units of 1 / (2 cell_size)²."""
    height, width = labels.shape
    rows, columns = height // cell_size, width // cell_size
    votes_down, votes_across = bilinear_weights(height, cell_size), bilinear_weights(width, cell_size)
    histograms = torch.empty((LABELS, rows, columns), dtype=torch.int64)
    for label in range(LABELS):
        votes = (labels == label).long()
        histograms[label] = votes_down.T @ (votes @ votes_across)
    return histograms


def root(sums: torch.Tensor) -> torch.Tensor:
    """Compute correctly rounded square roots in float32, through float64, because torch's float32 roots are not."""
    return sums.to(torch.float32).double().sqrt().to(torch.float32)


def normalize(
    histograms: torch.Tensor,  # [58, Hc, Wc] int64
) -> torch.Tensor:  # [58, Hc, Wc] float32
    """Compute the square roots of the fractions of a cell's votes; 0 if there are no votes.

    VLFeat adds 1e-10 to the root of the sum, which has no effect after rounding.
    """
    total = histograms.sum(0)
    return torch.where(total > 0, root(histograms) / root(total), 0)


def checked(images: torch.Tensor | npt.NDArray[Any], variant: str) -> torch.Tensor:
    """Check images and return them as a tensor (..., C, H, W) or (H, W)."""
    tensor = checked_images(images).detach()
    if min(tensor.shape[-2:]) < 1:
        raise ValueError(f"images must not be empty, got {tensor.shape[-2]} x {tensor.shape[-1]} pixels")
    if variant != "vlfeat-uniform":
        raise ValueError(f"variant must be vlfeat-uniform, got {variant!r}")
    return tensor
