"""Perturb keypoints: keep fewer keypoints, or only part of every keypoint.

All functions return new `Keypoints` of the same images; an image may have no keypoints left.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import torch

from preimage.keypoints import Keypoints
from preimage.studies.base import check_at_least


def keep_percentage(keypoints: Keypoints, percentage: float, seed: int = 0, *, first: int = 0) -> Keypoints:
    """Keep a percentage of every image's keypoints, selected uniformly without replacement.

    Selections are nested: with one seed, a smaller share is a subset of every larger one.

    Args:
        keypoints: Keypoints of a batch of images.
        percentage: Percentage, above 0 and at most 100. Of n keypoints n · percentage / 100 are kept, rounded half up,
            but at least one if there are any.
        seed: Seed of the selection, at least 0.
        first: Index of the batch's first image among all images. The selection in an image depends on `seed` and its
            index alone, not on the batch size.

    Raises:
        ValueError: `percentage`, `seed` or `first` is out of range.
    """
    if not 0 < percentage <= 100:
        raise ValueError(f"percentage must be above 0 and at most 100, got {percentage:g}")
    check_at_least(("seed", seed, 0), ("first", first, 0))
    kept = np.zeros(len(keypoints.x), bool)
    bounds = keypoints.offsets.tolist()
    for image, (start, stop) in enumerate(itertools.pairwise(bounds)):
        count = stop - start
        # Nested, because a larger share takes a longer prefix of the same permutation.
        order = np.random.default_rng((seed, first + image)).permutation(count)
        kept[start + order[: max(1, math.floor(count * percentage / 100 + 0.5))]] = True
    return keypoints.select(torch.from_numpy(kept))


def coordinates_only(keypoints: Keypoints) -> Keypoints:
    """Keep x, y, scale and angle, and set descriptors and response to 0; leave out colors."""
    return dataclasses.replace(
        keypoints,
        descriptors=torch.zeros_like(keypoints.descriptors),
        response=torch.zeros_like(keypoints.response),
        colors=None,
    )


def positions_only(keypoints: Keypoints, scale: float) -> Keypoints:
    """Keep x and y, set every scale to `scale` (pixels, above 0), and set angle, descriptors and response to 0."""
    return dataclasses.replace(
        coordinates_only(keypoints),
        scale=_constant_scale(keypoints, scale),
        angle=torch.zeros_like(keypoints.angle),
    )


def descriptors_only(keypoints: Keypoints, image_size: tuple[int, int], cell_size: int, scale: float) -> Keypoints:
    """Keep the descriptors, and of the geometry only the grid cell of every keypoint.

    Args:
        keypoints: Keypoints of a batch of images.
        image_size: (H, W) of the images in pixels.
        cell_size: Side of a cell of `preimage.sift_grid` in pixels.
        scale: New scale of all keypoints in pixels, above 0.

    Returns:
        Keypoints with x and y at the center of their cell (of the part of it inside the image), scale `scale`, angle 0
        and response 0, without colors. Keypoints outside the image, which are in no cell, keep x and y.
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
        colors=None,
    )


def _cell_center(position: torch.Tensor, cell_size: int, side: int) -> torch.Tensor:
    # A pixel's square spans half a pixel on either side of its center: cells begin at -0.5.
    start = ((position + 0.5) / cell_size).floor() * cell_size
    return (start + (start + cell_size).clamp_max(side)) / 2 - 0.5


def _constant_scale(keypoints: Keypoints, scale: float) -> torch.Tensor:
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be a finite number of pixels above 0, got {scale}")
    return torch.full_like(keypoints.scale, scale)
