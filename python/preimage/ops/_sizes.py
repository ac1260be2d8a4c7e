"""Sizes of feature maps, for the ops and for their fakes. Imports no torch."""

from __future__ import annotations

Bounds = tuple[int, int, int, int]  # dense SIFT's (top, left, bottom, right), inclusive


def cell_count(pixels: int, cell_size: int) -> int:
    """Return HOG's cells along a side: one for every full cell and one more for half a cell left over."""
    return (pixels + cell_size // 2) // cell_size


def grid_size(bounds: Bounds, step: int, bin_size: int) -> tuple[int, int]:
    """Return (rows, columns) of dense SIFT's descriptors whose bin centers all lie within the bounds."""
    top, left, bottom, right = bounds
    return (bottom - top - 3 * bin_size) // step + 1, (right - left - 3 * bin_size) // step + 1
