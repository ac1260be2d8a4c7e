"""The loss of a sampler: the energy score of two samples of the same features.

For an image x and two independent samples a, b of its features, ½(‖x − a‖ + ‖x − b‖) − ½‖a − b‖ is an unbiased
estimate of a strictly proper score (Gneiting & Raftery, JASA 2007): its expectation is smallest if the samples come
from the distribution of the images with these features. A single norm over a whole image hardly depends on its
texture, so the loss also adds scores of parts of the image, each of which is proper: the mean color, a thumbnail, small
windows at three resolutions, the cells of HOG, differences of neighbors at five resolutions, and the mean of all
blocks of 8×8, 16×16 and 32×32 pixels. Differences depend on how neighbors are correlated, which hardly changes the norm
over a window. Mean blocks are nearly flat for photographs, and show a grid of the up-convolutions that is too weak to
be seen in one window. Chroma is enlarged before, because it is small beside luminance.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from preimage.metrics import LUMA
from preimage.ops.hog import hog

SMALLEST = 32  # side of the smallest images that have all parts
_THUMBNAIL = 16  # side of the thumbnail
_WINDOWS = (1, 2, 4)  # factors of reduction at which windows of 8×8 pixels are compared
_DIFFERENCES = (2, 4, 8, 16, 32)  # factors of reduction at which neighbors are subtracted
_CHROMA = 2.5  # factor of chroma
_BLOCKS = (8, 16, 32)  # sides of the blocks that are averaged: periods of the grids of three to five up-convolutions
_WHOLE_WEIGHT, _HOG_WEIGHT = 3.0, 0.25
_BLOCK_WEIGHT = 64  # per pixel of the side: the deviation of a mean block grows with the side
_AT_ONCE = 4  # images of a batch at once on a CPU, whose caches they fit
_TINY = 1e-10  # added to squared norms, whose root has no gradient at zero


def energy_score(
    images: torch.Tensor,  # [B, 3, H, W]
    first: torch.Tensor,  # [B, 3, H, W]
    second: torch.Tensor,  # [B, 3, H, W]
) -> torch.Tensor:  # []
    """Return the sum of the scores of all parts, each averaged over the batch, per value of a part.

    Args:
        images: The photographs, float32 in [0, 1], at least `SMALLEST` pixels a side.
        first: Samples of their features, before clamping.
        second: Other samples of the same features.
    """
    at_once = _AT_ONCE if images.device.type == "cpu" else len(images)
    groups = zip(*(batch.split(at_once) for batch in (images, first, second)), strict=True)
    return torch.stack([_mean_score(*group) * (len(group[0]) / len(images)) for group in groups]).sum()


def _mean_score(images: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    cells = hog(torch.cat((images, first, second)))
    whole = _differences(images, first, second)
    gray = whole.new_tensor(LUMA).expand(3, 3)
    more_chroma = gray + _CHROMA * (torch.eye(3).to(gray) - gray)
    pairs = (more_chroma @ whole.flatten(2)).view_as(whole)
    blocks = _mean_blocks(pairs)
    terms = [
        _WHOLE_WEIGHT * _score(_mean_squares(whole).mean(dim=(2, 3))),
        _score(_mean_squares(pairs.mean(dim=(2, 3), keepdim=True))),
        _score(_mean_squares(F.adaptive_avg_pool2d(pairs, _THUMBNAIL)).mean(dim=(2, 3))) * 2,
        _HOG_WEIGHT * _score(_mean_squares(_differences(*cells.chunk(3))) * cells.shape[1]),
        *(_BLOCK_WEIGHT / side * _score(_mean_squares(block).mean(dim=(2, 3))) for side, block in blocks.items()),
    ]
    for factor in sorted({*_WINDOWS, *_DIFFERENCES}):
        if factor > 1:
            pairs = F.avg_pool2d(pairs, 2)
        if factor in _DIFFERENCES and min(pairs.shape[2:]) > 1:
            terms += [_score(_mean_squares(pairs.diff(dim=axis))) for axis in (2, 3)]
        if factor in _WINDOWS:
            squares = F.avg_pool2d(_mean_squares(pairs), 2)
            if factor == 1:  # windows of 4×4 pixels, every other pixel
                terms.append(_score(F.avg_pool2d(squares, 2, 1)))
            terms.append(_score(F.avg_pool2d(F.avg_pool2d(squares, 2), 2, 1)))  # of 8×8 pixels, every fourth pixel
    return torch.stack(terms).sum()


def _differences(images: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the differences of images and both samples, and of the samples, (3B, C, h, w)."""
    return torch.cat((images - first, images - second, first - second))


def _mean_blocks(differences: torch.Tensor) -> dict[int, torch.Tensor]:
    """Return the mean of all square blocks of an image, minus the mean color, (3B, 3, side, side) by side.

    Rows and columns beyond the last block of the largest side are left out.
    """
    sides = [side for side in _BLOCKS if min(differences.shape[2:]) >= 2 * side]
    if not sides:
        return {}
    rows, columns = (size // sides[-1] for size in differences.shape[2:])
    block = differences[:, :, : rows * sides[-1], : columns * sides[-1]]
    blocks = {}
    for side in reversed(sides):  # the mean block of one side from that of the next larger
        rows, columns = (size // side for size in block.shape[2:])
        block = block.unflatten(2, (rows, side)).mean(dim=2).unflatten(3, (columns, side)).mean(dim=3)
        blocks[side] = block - block.mean(dim=(2, 3), keepdim=True)
    return blocks


class _MeanSquares(torch.autograd.Function):
    """Compute the mean of squares over channels, with fewer passes over the gradient than autograd makes."""

    @staticmethod
    def forward(ctx: Any, differences: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(differences)
        return differences.square().mean(dim=1, keepdim=True)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (differences,) = ctx.saved_tensors
        return differences * (gradient * (2 / differences.shape[1]))


def _mean_squares(differences: torch.Tensor) -> torch.Tensor:
    """Return the mean squares over channels, (3B, 1, h, w)."""
    squares: torch.Tensor = _MeanSquares.apply(differences)  # type: ignore[no-untyped-call]
    return squares


def _score(squares: torch.Tensor) -> torch.Tensor:
    """Return the mean score of parts of images from their mean squared `_differences`."""
    to_first, to_second, between = (squares + _TINY).sqrt().chunk(3)
    return (to_first + to_second - between).mean() / 2
