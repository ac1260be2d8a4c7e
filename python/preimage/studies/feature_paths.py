"""Paths between the features of two images: lines, arcs, and a path of sparse SIFT."""

from __future__ import annotations

import numpy as np
import torch

from preimage.spec import Spec

SMALLEST_ANGLE = 1e-3  # radians from 0 and π, within which no arc is defined numerically
_ANGLE = slice(130, 132)  # sine and cosine of a keypoint's angle, which are both 0 only in empty cells
_ONE = 1e-3  # largest difference of the sum of probabilities from 1


def feature_path(
    spec: Spec,
    first: torch.Tensor,
    last: torch.Tensor,
    positions: torch.Tensor,
    *,
    spherical: bool = False,
    seed: int = 0,
) -> torch.Tensor:
    """Return the features at positions between those of two images.

    Sparse SIFT follows `keypoint_path`, all other features `linear_path` or `spherical_path`.

    Args:
        spec: Spec of the features.
        first: (C, h, w) or (C,), at position 0.
        last: The same shape, at position 1.
        positions: (P,) in [0, 1].
        spherical: Whether to take the arc instead of the line.
        seed: Seed of the positions at which keypoints appear and disappear.

    Returns:
        (P, C, h, w) or (P, C), of the dtype and on the device of `first`.

    Raises:
        ValueError: Features of different shapes, NaN or infinite values, or an arc for sparse SIFT.
    """
    if first.shape != last.shape:
        raise ValueError(f"features must have one shape, got {tuple(first.shape)} and {tuple(last.shape)}")
    if not (first.isfinite().all() and last.isfinite().all()):
        raise ValueError(f"{spec.representation} features must be finite, but contain NaN or infinite values")
    if spec.representation == "sift":
        if spherical:
            raise ValueError("sparse SIFT has no spherical path: its cells are keypoints, or empty")
        return keypoint_path(first, last, positions, seed)
    return (spherical_path if spherical else linear_path)(first, last, positions)


def linear_path(first: torch.Tensor, last: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return (1 - t) · first + t · last for each position t; probabilities stay probabilities."""
    t = _weights(positions, first)
    return ((1 - t) * first.double() + t * last.double()).to(first.dtype)


def spherical_path(first: torch.Tensor, last: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return features whose direction moves along the arc between two directions, and whose norm moves linearly.

    All numbers of the features are one vector (Shoemake, SIGGRAPH 1985). If both ends are probabilities, the result is
    divided by its sum. If `has_arc` is false, it is `linear_path`.
    """
    if not has_arc(first, last):
        return linear_path(first, last, positions)
    t, norms = _weights(positions, first), (first.double().norm(), last.double().norm())
    ends = first.double() / norms[0], last.double() / norms[1]
    angle = _angle(first, last)
    directions = (torch.sin((1 - t) * angle) * ends[0] + torch.sin(t * angle) * ends[1]) / torch.sin(angle)
    path = ((1 - t) * norms[0] + t * norms[1]) * directions
    if _are_probabilities(first) and _are_probabilities(last):
        path = path / path.flatten(1).sum(dim=1).view_as(t)
    return path.to(first.dtype)


def has_arc(first: torch.Tensor, last: torch.Tensor) -> bool:
    """Return whether there is one arc between the directions of two features.

    There is none if one of them is zero, or if they point in the same or in opposite directions.
    """
    if not (first.any() and last.any()):
        return False
    return SMALLEST_ANGLE < float(_angle(first, last)) < torch.pi - SMALLEST_ANGLE


def keypoint_path(first: torch.Tensor, last: torch.Tensor, positions: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Return grids of sparse SIFT (P, 133, h, w) between two of them, every cell of which is a keypoint or empty.

    A cell with a keypoint in both grids has their descriptors, positions and scales on a line, and the angle halfway as
    far on the shorter way round. A cell with a keypoint in one grid keeps it up to a random position, or has it from
    there on: zeros mean that there is no keypoint, so that numbers between a keypoint and zeros mean nothing.

    Args:
        first: (133, h, w), as returned by `preimage.sift_grid`.
        last: The same shape.
        positions: (P,) in [0, 1].
        seed: Seed of the random positions, at least 0.
    """
    in_first, in_last = (grid[_ANGLE].any(dim=0) for grid in (first, last))
    path = linear_path(first, last, positions)
    t = positions.to(first).view(-1, 1, 1)
    directions = path[:, _ANGLE]
    norms = directions.norm(dim=1, keepdim=True)
    nearer = torch.where(t[:, None] < 0.5, first[_ANGLE], last[_ANGLE])  # of opposite angles, whose mean has none
    path[:, _ANGLE] = torch.where(norms > SMALLEST_ANGLE, directions / norms.clamp_min(SMALLEST_ANGLE), nearer)
    drawn = 1 - np.random.default_rng(seed).random(tuple(in_first.shape))  # in (0, 1], so that both ends are exact
    turn = torch.from_numpy(drawn).to(first)
    keeps_first, has_last = in_first & ~in_last & (t < turn), in_last & ~in_first & (t >= turn)
    path = torch.where((in_first & in_last)[None, None], path, torch.zeros_like(path))
    path = torch.where(keeps_first[:, None], first, path)
    return torch.where(has_last[:, None], last, path)


def _weights(positions: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Return positions in float64 with an axis of length 1 for each axis of the features."""
    return positions.to(features.device, torch.float64).view(-1, *[1] * features.dim())


def _angle(first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    ends = [features.double().flatten() / features.double().norm() for features in (first, last)]
    # Unlike the arc cosine of the inner product, exact for small angles.
    return 2 * torch.atan2((ends[0] - ends[1]).norm(), (ends[0] + ends[1]).norm())


def _are_probabilities(features: torch.Tensor) -> bool:
    return features.dim() == 1 and bool((features >= 0).all()) and abs(float(features.double().sum()) - 1) < _ONE
