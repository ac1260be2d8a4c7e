"""Compute histograms of oriented gradients like cyvlfeat's `hog`."""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from preimage.compat.cyvlfeat.hog.glyphs import glyph_image
from preimage.compat.cyvlfeat.hog.histograms import cell_histograms, image_votes, normalized, polar_votes
from preimage.compat.cyvlfeat.images import image_array
from preimage.ops import hog as hog_op
from preimage.ops._output_sizes import cell_count

Features: TypeAlias = npt.NDArray[np.float32]

VARIANTS = ("UoCTTI", "DalalTriggs")
_KERNEL_ORIENTATIONS = 9  # of the native kernel


def hog(
    image: npt.ArrayLike,
    cell_size: int,
    variant: str = "UoCTTI",
    n_orientations: int = 9,
    directed_polar_field: bool = False,
    undirected_polar_field: bool = False,
    bilinear_interpolation: bool = False,
    verbose: bool = False,
    visualize: bool = False,
    channels_first: bool = False,
) -> Features | tuple[Features, npt.NDArray[np.uint8]]:
    """Compute histograms of oriented gradients.

    Args:
        image: (H, W) or (H, W, C) with any number of channels, used as float32, of any range. At each pixel, the
            channel with the largest gradient is used. Or a polar field (H, W, 2), magnitudes and angles in radians,
            clockwise from +x.
        cell_size: Side of a cell in pixels, at least 1.
        variant: ``"UoCTTI"``, or ``"DalalTriggs"`` for undirected gradients normalized by four blocks of cells.
        n_orientations: Number of undirected orientations.
        directed_polar_field: `image` is a polar field with angles in [0, 2π).
        undirected_polar_field: `image` is a polar field with angles that are used modulo π.
        bilinear_interpolation: Split votes between the two nearest orientations.
        verbose: Print the size of the features.
        visualize: Also return an image of the features.
        channels_first: `image` is (C, H, W).

    Returns:
        (h, w, D) float32, where h = (H + cell_size // 2) // cell_size and w likewise, and D is 3 n_orientations + 4 for
        UoCTTI and 4 n_orientations for DalalTriggs; with `visualize` also (21 h, 21 w) uint8.

    Raises:
        ValueError: The image has another shape, is empty or smaller than a cell, or an option is invalid.
    """
    planes = _planes(image_array(image), channels_first)
    size, orientations = operator.index(cell_size), operator.index(n_orientations)
    polar = directed_polar_field or undirected_polar_field
    height, width = planes.shape[1:]
    if size < 1:
        raise ValueError(f"cell_size must be at least 1, got {size}")
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    if orientations < 1:
        raise ValueError(f"n_orientations must be at least 1, got {orientations}")
    if polar and len(planes) != 2:
        raise ValueError(f"a polar field must have 2 channels, magnitude and angle, got {len(planes)}")
    rows, columns = cell_count(height, size), cell_count(width, size)
    if min(rows, columns) < 1:
        least = size - size // 2
        raise ValueError(
            f"image must have at least {least} x {least} pixels for a cell_size of {size}, got {height} x {width}"
        )
    plain = not polar and not bilinear_interpolation and len(planes) in (1, 3)
    if plain and orientations == _KERNEL_ORIENTATIONS:
        if variant == "UoCTTI":
            features = hog_op.hog(planes, cell_size=size, color="strongest")
        else:
            features = normalized(hog_op.histograms(planes, cell_size=size, color="strongest"), variant)
    else:
        if polar:
            votes = polar_votes(planes, orientations, bool(directed_polar_field), bilinear_interpolation)
        else:
            votes = image_votes(planes, orientations, bilinear_interpolation)
        features = normalized(cell_histograms(votes, 2 * orientations, size, (height, width)), variant)
    if verbose:
        print(f"hog: {height} x {width} pixels, {rows} x {columns} cells of {len(features)} values")
    result = np.ascontiguousarray(features.transpose(1, 2, 0))
    return (result, glyph_image(features, orientations, variant)) if visualize else result


def _planes(image: npt.NDArray[Any], channels_first: bool) -> Features:  # [C, H, W]
    if image.ndim not in (2, 3):
        color = "(C, H, W)" if channels_first else "(H, W, C)"
        raise ValueError(f"image must have shape (H, W) or {color}, got {image.shape}")
    if image.ndim == 2:
        image = image[None]
    elif not channels_first:
        image = image.transpose(2, 0, 1)
    return np.require(image, np.float32, "C")
