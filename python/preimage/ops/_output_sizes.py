"""Compute the sizes of feature maps. Does not import torch."""

from __future__ import annotations

Bounds = tuple[int, int, int, int]  # bounds of dense SIFT: (top, left, bottom, right), inclusive


def cell_count(pixels: int, cell_size: int) -> int:
    """Return the number of HOG cells along a side: all full cells, and one for a remainder of at least half a cell."""
    return (pixels + cell_size // 2) // cell_size


def grid_size(bounds: Bounds, step: int, bin_size: int) -> tuple[int, int]:
    """Return (rows, columns) of the dense SIFT descriptors whose bin centers are all within the bounds."""
    top, left, bottom, right = bounds
    return (bottom - top - 3 * bin_size) // step + 1, (right - left - 3 * bin_size) // step + 1
