"""The loss of a sampler: the energy score of two samples of the same features.

For an image x and two independent samples a, b of its features, ½(‖x − a‖ + ‖x − b‖) − ½‖a − b‖ is an unbiased
estimate of a strictly proper score (Gneiting & Raftery, JASA 2007): its expectation is smallest if the samples come
from the distribution of the images with these features. A single norm over a whole image hardly depends on its
texture, so the loss is a sum of scores of parts of the image, each of which is proper: the mean color, a thumbnail,
small windows at three resolutions, and the cells of HOG.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from preimage.ops.hog import hog

THUMBNAIL = 16  # side of the thumbnail
_WINDOWS = ((4, 8), (2, 8), (1, 8), (1, 4))  # (factor of reduction, side of the windows at that resolution)
_HOG_WEIGHT = 0.25
_TINY = 1e-8  # added to squared norms, whose root has no gradient at zero

Norms = Callable[[torch.Tensor], torch.Tensor]  # of the parts of images or maps (B, C, h, w), any shape


def energy_score(
    images: torch.Tensor,  # [B, 3, H, W]
    first: torch.Tensor,  # [B, 3, H, W]
    second: torch.Tensor,  # [B, 3, H, W]
) -> torch.Tensor:  # []
    """Return the sum of the scores of all parts, each averaged over the batch, per value of a part.

    Args:
        images: The photographs, float32 in [0, 1], at least 32 pixels a side.
        first: Samples of their features, before clamping.
        second: Other samples of the same features.
    """
    together = torch.cat((images, first, second))
    height, width = images.shape[2:]
    terms = [
        _score(F.adaptive_avg_pool2d(together, 1), _norm) / math.sqrt(3),
        _score(F.adaptive_avg_pool2d(together, THUMBNAIL), _norm) * 2 / math.sqrt(3 * THUMBNAIL**2),
    ]
    for factor, side in _WINDOWS:
        if min(height, width) >= factor * side:
            reduced = F.avg_pool2d(together, factor) if factor > 1 else together
            terms.append(_score(reduced, _window_norms(side)) / math.sqrt(3 * side**2))
    terms.append(_HOG_WEIGHT * _score(hog(together), lambda cells: _root(cells.square().sum(dim=1))))
    return torch.stack(terms).sum()


def _score(together: torch.Tensor, norms: Norms) -> torch.Tensor:
    """Return the mean score of all parts, for images, first and second samples in one batch."""
    images, first, second = together.chunk(3)
    distances = (norms(images - first) + norms(images - second) - norms(first - second)) / 2
    return distances.mean()


def _norm(differences: torch.Tensor) -> torch.Tensor:
    return _root(differences.square().sum(dim=(1, 2, 3)))


def _window_norms(side: int) -> Norms:
    """Return the function of the norms of overlapping square windows, with all channels."""

    def norms(differences: torch.Tensor) -> torch.Tensor:
        squares = differences.square().sum(dim=1, keepdim=True)
        return _root(F.avg_pool2d(squares, side, side // 2) * side**2)

    return norms


def _root(squares: torch.Tensor) -> torch.Tensor:
    return (squares + _TINY).sqrt()
