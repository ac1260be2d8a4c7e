"""Local binary patterns as VLFeat's `vl_lbp` computes them (58 labels), to be read.

Every step is one function. All is counted in whole numbers until the last step, so nothing depends on an order.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch

from preimage.reference._images import as_batch, checked_images, like_images, luma

LABELS = 58
FLAT = 56  # no neighbor is greater, or all are
MIXED = 57  # the greater neighbors are in several runs
NO_LABEL = 255  # of the image's border
LARGEST_CELL = 2**15  # a cell's votes sum up to at most 4 cell_size**4, which must fit into 64 bits

# (dy, dx) of bit 0, 1, …: clockwise from the right, y down.
NEIGHBORS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))


def lbp(
    images: torch.Tensor | npt.NDArray[Any],
    *,
    cell_size: int = 16,
    variant: str = "vlfeat-uniform",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Histograms of local binary patterns.

    Args:
        images: (H, W) or (..., C, H, W), y down, C 1 or 3 (red, green, blue; their luma is taken). uint8 is
            divided by 255. A tensor or a NumPy array.
        cell_size: side of a cell in pixels, 1 to 32768.
        variant: only ``"vlfeat-uniform"``.
        dtype: of the result, float32, float16 or bfloat16; computed in float32.

    Returns:
        (..., 58, H // cell_size, W // cell_size). Every cell is a vector of length 1, or 0 where no pixel votes.

    Raises:
        TypeError, ValueError: as `preimage.lbp`.
    """
    tensor = checked(images, variant)
    planes = gray(as_batch(tensor))
    height, width = planes.shape[-2:]
    if type(cell_size) is not int:
        raise TypeError(f"cell_size must be an int, got {cell_size!r}")
    if not 1 <= cell_size <= LARGEST_CELL:
        raise ValueError(f"cell_size must be at least 1 and at most {LARGEST_CELL} pixels, got {cell_size}")
    if min(height, width) < cell_size:
        raise ValueError(f"an image of {height} x {width} pixels has no cell of {cell_size}")
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"dtype must be float32, float16 or bfloat16, got {dtype!r}")
    features = torch.empty((len(planes), LABELS, height // cell_size, width // cell_size), dtype=torch.float32)
    for image, out in zip(planes, features, strict=True):
        out.copy_(normalize(cell_histograms(labels(image), cell_size)))
    return like_images(features.to(dtype), tensor)


def lbp_codes(images: torch.Tensor | npt.NDArray[Any], *, variant: str = "vlfeat-uniform") -> torch.Tensor:
    """Every pixel's label: (..., 1, H, W) uint8, 0 … 57, and 255 on the image's border.

    Args:
        images: as `lbp`.
        variant: only ``"vlfeat-uniform"``.

    Raises:
        TypeError, ValueError: as `preimage.lbp_codes`.
    """
    tensor = checked(images, variant)
    planes = gray(as_batch(tensor))
    codes = torch.empty((len(planes), 1, *planes.shape[1:]), dtype=torch.uint8)
    for image, out in zip(planes, codes, strict=True):
        out[0] = labels(image)
    return like_images(codes, tensor)


def gray(images: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, H, W) float32, three channels by Rec. 601."""
    values = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images.to(torch.float32)
    return (luma(values) if values.shape[1] == 3 else values)[:, 0]


def label_table() -> torch.Tensor:
    """(256,) uint8: a run of 1 … 7 ones from bit i on is label 7 i + length - 1."""
    table = torch.full((256,), MIXED, dtype=torch.uint8)
    table[0] = table[255] = FLAT
    for first in range(8):
        for length in range(1, 8):
            table[sum(1 << (first + k) % 8 for k in range(length))] = 7 * first + length - 1
    return table


def codes_inside(image: torch.Tensor) -> torch.Tensor:
    """(H, W) -> (H - 2, W - 2) int64: a bit for every neighbor greater than the pixel."""
    height, width = image.shape
    center = image[1:-1, 1:-1]
    codes = torch.zeros(center.shape, dtype=torch.int64)
    for bit, (dy, dx) in enumerate(NEIGHBORS):
        neighbor = image[1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx]
        codes |= (neighbor > center).long() << bit
    return codes


def labels(image: torch.Tensor) -> torch.Tensor:
    """(H, W) -> (H, W) uint8, `NO_LABEL` on the border."""
    result = torch.full(image.shape, NO_LABEL, dtype=torch.uint8)
    if min(image.shape) > 2:
        result[1:-1, 1:-1] = label_table()[codes_inside(image)]
    return result


def bilinear_weights(pixels: int, cell_size: int) -> torch.Tensor:
    """(pixels, cells) int64: what a pixel at each position gives to each cell along one axis, in units of
    1 / (2 cell_size).

    A pixel shares its vote between the two cells whose centers it lies between, by distance. What falls outside
    the array of cells is dropped.
    """
    pixel_centers = 2 * torch.arange(pixels)[:, None] + 1  # in half pixels
    cell_centers = (2 * torch.arange(pixels // cell_size)[None] + 1) * cell_size
    return (2 * cell_size - (pixel_centers - cell_centers).abs()).clamp(min=0)


def cell_histograms(labels: torch.Tensor, cell_size: int) -> torch.Tensor:
    """(H, W) -> (58, Hc, Wc) int64: every pixel's bilinear votes for its label, in units of 1 / (2 cell_size)²."""
    height, width = labels.shape
    rows, columns = height // cell_size, width // cell_size
    votes_down, votes_across = bilinear_weights(height, cell_size), bilinear_weights(width, cell_size)
    histograms = torch.empty((LABELS, rows, columns), dtype=torch.int64)
    for label in range(LABELS):
        votes = (labels == label).long()
        histograms[label] = votes_down.T @ (votes @ votes_across)
    return histograms


def root(sums: torch.Tensor) -> torch.Tensor:
    """Square roots in float32, correctly rounded: torch's own float32 roots are not, those in float64 are enough."""
    return sums.to(torch.float32).double().sqrt().to(torch.float32)


def normalize(histograms: torch.Tensor) -> torch.Tensor:
    """(58, Hc, Wc) int64 -> float32: roots of the shares of a cell's votes; 0 where there are none.

    VLFeat adds 1e-10 to the root of the sum, which is below half a unit of its last place.
    """
    total = histograms.sum(0)
    return torch.where(total > 0, root(histograms) / root(total), 0)


def checked(images: torch.Tensor | npt.NDArray[Any], variant: str) -> torch.Tensor:
    """The images as a tensor (..., C, H, W) or (H, W); `TypeError` or `ValueError` for what is none."""
    tensor = checked_images(images).detach()
    if min(tensor.shape[-2:]) < 1:
        raise ValueError(f"images must not be empty, got {tensor.shape[-2]} x {tensor.shape[-1]} pixels")
    if variant != "vlfeat-uniform":
        raise ValueError(f"variant must be vlfeat-uniform, got {variant!r}")
    return tensor
