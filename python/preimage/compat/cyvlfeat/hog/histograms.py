"""Compute VLFeat's HOG with any number of orientations, both variants and polar fields, in NumPy (``vl/hog.c``).

Decisions are made in float32, as in VLFeat; sums are float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from preimage.ops._output_sizes import cell_count

Array = npt.NDArray[np.float32]

_EPSILON = 1e-4  # added to the energy of 2 x 2 cells under the square root
_CLIP = 0.2
_TEXTURE = 1 / np.sqrt(18)  # for any number of orientations


class Votes(NamedTuple):
    """Votes of each pixel for one or two directed bins."""

    bins: npt.NDArray[np.int16]  # [K, H, W]
    strengths: Array  # [K, H, W]


def image_votes(planes: Array, orientations: int, bilinear: bool) -> Votes:
    """Compute the votes of the pixels of an image (C, H, W); those at the border have none.

    A pixel votes with its gradient, in the channel where it is largest, for the direction with the largest scalar
    product, or for the two largest ones if `bilinear`.
    """
    gx, gy, squares = np.zeros((3, *planes.shape[1:]), np.float32)
    if min(planes.shape[1:]) > 2:
        inner = (slice(1, -1), slice(1, -1))
        for plane in planes:
            across, down = plane[1:-1, 2:] - plane[1:-1, :-2], plane[2:, 1:-1] - plane[:-2, 1:-1]
            energy = across * across + down * down
            longer = (energy > squares[inner]) | np.isnan(energy)  # NaN stays, as in the native kernel
            for values, strongest in ((across, gx), (down, gy), (energy, squares)):
                np.copyto(strongest[inner], values, where=longer)
    length = np.sqrt(squares)
    best, second = np.full((2, *gx.shape), -1, np.float32)
    bins, second_bins = np.zeros((2, *gx.shape), np.int16)
    for k in range(orientations):
        angle = k * np.pi / orientations
        score = gx * np.float32(np.cos(angle)) + gy * np.float32(np.sin(angle))
        directed = (score < 0).astype(np.int16) * np.int16(orientations) + np.int16(k)
        np.abs(score, out=score)
        better = score > best
        if bilinear:
            better_than_second = ~better & (score > second)
            second = np.where(better, best, np.where(better_than_second, score, second))
            second_bins = np.where(better, bins, np.where(better_than_second, directed, second_bins))
        np.copyto(best, score, where=better)
        np.copyto(bins, directed, where=better)
    if not bilinear:
        return Votes(bins[None], length[None])
    cosine = np.minimum(best / np.maximum(length, np.float32(1e-10)), np.float32(1))
    share = (np.arccos(cosine) / (np.pi / orientations)).astype(np.float32)
    if orientations == 1:
        second_bins, share_of_second = bins, np.zeros_like(share)  # there is no second direction
    else:
        share_of_second = share
    return Votes(np.stack([bins, second_bins]), np.stack([(1 - share) * length, share_of_second * length]))


def polar_votes(field: Array, orientations: int, directed: bool, bilinear: bool) -> Votes:
    """Compute the votes of all pixels of a polar field (2, H, W), magnitudes and angles in radians."""
    modulus, angle = field
    position = (angle / (np.pi / orientations)).astype(np.float32)
    before = np.floor(position)
    share = position - before
    first = before.astype(np.int64) % (2 * orientations)
    period = orientations * (2 if directed else 1)
    strength = np.maximum(modulus, 0)
    if not bilinear:
        nearest = np.where(1 - share > share, first, first + 1) % period
        return Votes(nearest.astype(np.int16)[None], strength[None])
    # VLFeat multiplies both spatial weights by that of the orientation.
    shares = np.stack([1 - share, share]) ** 2
    return Votes((np.stack([first, first + 1]) % period).astype(np.int16), shares * strength)


def cell_histograms(votes: Votes, count: int, cell_size: int, size: tuple[int, int]) -> Array:
    """Distribute the votes of the pixels of an image of `size` over the nearest cells, by bilinear interpolation.

    Returns:
        (count, h, w) float32.
    """
    (row, down), (column, across) = (_nearest_cells(pixels, cell_size) for pixels in size)
    rows, columns = (cell_count(pixels, cell_size) + 2 for pixels in size)  # one more at either end, dropped below
    total = np.zeros(count * rows * columns)
    for bins, strengths in zip(votes.bins, votes.strengths, strict=True):
        cells = (bins.astype(np.int64) * rows + row[:, None]) * columns + column
        for dy, dx in np.ndindex(2, 2):
            shares = strengths * down[dy][:, None] * across[dx]
            total += np.bincount((cells + (dy * columns + dx)).ravel(), shares.ravel(), len(total))
    return total.reshape(count, rows, columns)[:, 1:-1, 1:-1].astype(np.float32)


def normalized(histograms: Array, variant: str) -> Array:
    """Normalize the histograms (2 n, h, w) of cells by the energy of the four blocks of 2 x 2 cells that contain them.

    Returns:
        (3 n + 4, h, w) float32 for ``"UoCTTI"``, (4 n, h, w) for ``"DalalTriggs"``.
    """
    forth, back = np.split(histograms, 2)
    energy = np.square(forth + back).sum(axis=0)
    padded = np.pad(energy, 1, mode="edge").astype(np.float64)
    squares = padded[:-1, :-1] + padded[:-1, 1:] + padded[1:, :-1] + padded[1:, 1:]
    factors = 1 / np.sqrt(squares + _EPSILON)
    around = (factors[:-1, :-1], factors[:-1, 1:], factors[1:, :-1], factors[1:, 1:])
    undirected = [np.minimum(factor * forth + factor * back, _CLIP) for factor in around]
    if variant == "DalalTriggs":
        return np.concatenate(undirected).astype(np.float32)
    directed = [sum(np.minimum(factor * part, _CLIP) for factor in around) for part in (forth, back)]
    textures = np.stack([_TEXTURE * block.sum(axis=0) for block in undirected])
    directions = 0.5 * np.concatenate([*directed, sum(undirected)])
    return np.concatenate([directions, textures]).astype(np.float32)


def _nearest_cells(pixels: int, cell_size: int) -> tuple[npt.NDArray[np.int64], Array]:
    """Return, for each pixel along an axis, the cell before it, counted from 1, and the weights of it and the next."""
    position = ((np.arange(pixels) + 0.5) / cell_size - 0.5).astype(np.float32)
    before = np.floor(position)
    share = position - before
    return before.astype(np.int64) + 1, np.stack([1 - share, share])
