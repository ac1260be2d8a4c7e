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

import torch
import torch.nn.functional as F

from preimage.metrics import luma
from preimage.ops.hog import hog

SMALLEST = 32  # side of the smallest images that have all parts
_THUMBNAIL = 16  # side of the thumbnail
_WINDOWS = (1, 2, 4)  # factors of reduction at which windows of 8×8 pixels are compared
_DIFFERENCES = (2, 4, 8, 16, 32)  # factors of reduction at which neighbors are subtracted
_CHROMA = 2.5  # factor of chroma
_BLOCKS = (8, 16, 32)  # sides of the blocks that are averaged: periods of the grids of three to five up-convolutions
_WHOLE_WEIGHT, _HOG_WEIGHT = 3.0, 0.25
_BLOCK_WEIGHT = 64  # per pixel of the side: the deviation of a mean block grows with the side
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
    together = torch.cat((images, first, second))
    cells, whole = hog(together), _squares(together).mean(dim=(2, 3))
    gray = luma(together)[:, None]
    together = gray + _CHROMA * (together - gray)
    sides = [side for side in _BLOCKS if min(images.shape[2:]) >= 2 * side]
    terms = [
        _WHOLE_WEIGHT * _score(whole),
        _score(_squares(F.adaptive_avg_pool2d(together, 1))),
        _score(_squares(F.adaptive_avg_pool2d(together, _THUMBNAIL)).mean(dim=(2, 3))) * 2,
        _HOG_WEIGHT * _score(_squares(cells) * 31),
        *(_BLOCK_WEIGHT / side * _score(_squares(_mean_block(together, side)).mean(dim=(2, 3))) for side in sides),
    ]
    for factor in sorted({*_WINDOWS, *_DIFFERENCES}):
        if factor > 1:
            together = F.avg_pool2d(together, 2)
        if factor in _DIFFERENCES and min(together.shape[2:]) > 1:
            steps = (together[..., 1:] - together[..., :-1], together[..., 1:, :] - together[..., :-1, :])
            terms += [_score(_squares(step)) for step in steps]
        if factor in _WINDOWS:
            blocks = F.avg_pool2d(_squares(together), 2)
            if factor == 1:  # windows of 4×4 pixels, every other pixel
                terms.append(_score(F.avg_pool2d(blocks, 2, 1)))
            terms.append(_score(F.avg_pool2d(F.avg_pool2d(blocks, 2), 2, 1)))  # of 8×8 pixels, every fourth pixel
    return torch.stack(terms).sum()


def _mean_block(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return the mean of all square blocks of an image, minus its mean color, (B, 3, side, side)."""
    rows, columns = (size // side for size in images.shape[2:])
    blocks = images[:, :, : rows * side, : columns * side]
    block = blocks.reshape(*images.shape[:2], rows, side, columns, side).mean(dim=(2, 4))
    return block - block.mean(dim=(2, 3), keepdim=True)


def _squares(together: torch.Tensor) -> torch.Tensor:
    """Return the mean squares over channels, (3B, 1, h, w), of the differences between images and both samples.

    Args:
        together: Images, first and second samples, (3B, C, h, w).
    """
    images, first, second = together.chunk(3)
    return torch.cat((images - first, images - second, first - second)).square().mean(dim=1, keepdim=True)


def _score(squares: torch.Tensor) -> torch.Tensor:
    """Return the mean score of parts of images from their mean squared differences, see `_squares`."""
    to_first, to_second, between = (squares + _TINY).sqrt().chunk(3)
    return (to_first + to_second - between).mean() / 2
