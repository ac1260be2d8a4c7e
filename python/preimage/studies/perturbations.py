"""Keypoints with something taken away: fewer of them, or only part of what each tells.

All functions return new `Keypoints` and leave out no image, though one may be left without keypoints.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import torch

from preimage.keypoints import Keypoints


def keep_share(keypoints: Keypoints, share: float, seed: int = 0, *, first: int = 0) -> Keypoints:
    """A share of every image's keypoints, drawn uniformly without replacement.

    The draws are nested: with one seed, what is kept of a smaller share is kept of every larger one.

    Args:
        keypoints: of a batch of images.
        share: percent, above 0 and at most 100. Of n keypoints n · share / 100 are kept, rounded (halves up), but at
            least one where there is any.
        seed: of the draw, at least 0.
        first: position in the whole set of the batch's first image: an image's draw depends on `seed` and its own
            position alone, however the set is cut into batches.

    Raises:
        ValueError: `share`, `seed` or `first` is out of its range.
    """
    if not 0 < share <= 100:
        raise ValueError(f"a share is above 0 and at most 100 percent, got {share:g}")
    if seed < 0 or first < 0:
        raise ValueError(f"seed and first are at least 0, got {seed} and {first}")
    kept = np.zeros(len(keypoints.x), bool)
    bounds = keypoints.offsets.tolist()
    for image, (start, stop) in enumerate(itertools.pairwise(bounds)):
        count = stop - start
        # Nested, because a larger share takes a longer beginning of the same order.
        order = np.random.default_rng((seed, first + image)).permutation(count)
        kept[start + order[: max(1, math.floor(count * share / 100 + 0.5))]] = True
    return keypoints.select(torch.from_numpy(kept))


def coordinates_only(keypoints: Keypoints) -> Keypoints:
    """x, y, scale and angle as they are; descriptors all 0, response 0."""
    return dataclasses.replace(
        keypoints,
        descriptors=torch.zeros_like(keypoints.descriptors),
        response=torch.zeros_like(keypoints.response),
    )


def positions_only(keypoints: Keypoints, scale: float) -> Keypoints:
    """x and y as they are; every scale `scale` (pixels, above 0), angles 0, descriptors all 0, response 0."""
    return dataclasses.replace(
        coordinates_only(keypoints),
        scale=_constant_scale(keypoints, scale),
        angle=torch.zeros_like(keypoints.angle),
    )


def descriptors_only(keypoints: Keypoints, image_size: tuple[int, int], cell_size: int, scale: float) -> Keypoints:
    """Descriptors as they are, geometry constant: all that is left of it is the cell that a keypoint lies in.

    Args:
        keypoints: of a batch of images.
        image_size: (H, W) of the images in pixels.
        cell_size: side of a cell of `preimage.sift_grid`, pixels.
        scale: what every scale becomes, pixels, above 0.

    Returns:
        Keypoints with x and y at the center of their cell (of the part of it that lies in the image), scale `scale`,
        angle 0 and response 0. Those outside the image, which no grid holds, keep x and y.
    """
    x, y = keypoints.x, keypoints.y
    height, width = image_size
    inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    return dataclasses.replace(
        keypoints,
        x=torch.where(inside, _cell_center(x, cell_size, width), x),
        y=torch.where(inside, _cell_center(y, cell_size, height), y),
        scale=_constant_scale(keypoints, scale),
        angle=torch.zeros_like(keypoints.angle),
        response=torch.zeros_like(keypoints.response),
    )


def _cell_center(place: torch.Tensor, cell_size: int, side: int) -> torch.Tensor:
    # A pixel's square spans half a pixel on either side of its center: cells begin at -0.5.
    start = ((place + 0.5) / cell_size).floor() * cell_size
    return (start + (start + cell_size).clamp_max(side)) / 2 - 0.5


def _constant_scale(keypoints: Keypoints, scale: float) -> torch.Tensor:
    if not 0 < scale < math.inf:
        raise ValueError(f"a scale is a number of pixels above 0, got {scale}")
    return torch.full_like(keypoints.scale, scale)
