"""How many features an image has: for the ops and for their fakes. Imports no torch."""

from __future__ import annotations

Bounds = tuple[int, int, int, int]  # dense SIFT's (top, left, bottom, right), inclusive


def cell_count(pixels: int, cell_size: int) -> int:
    """Return HOG's cells along a side: one for every full cell and one more for half a cell left over."""
    return (pixels + cell_size // 2) // cell_size


def frame_count(first: int, last: int, step: int, bin_size: int) -> int:
    """Return dense SIFT's descriptors along an axis whose four bin centres lie in first … last, inclusive."""
    return (last - first - 3 * bin_size) // step + 1
