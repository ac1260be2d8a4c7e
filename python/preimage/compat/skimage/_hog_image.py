"""Draw histograms of oriented gradients as scikit-image does: a line of one pixel for each orientation of a cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def draw_histograms(histograms: Array, size: tuple[int, ...], cell: tuple[int, int]) -> Array:
    """Return a drawing of histograms, (M, N) float64.

    A line through the center of a cell, perpendicular to the gradients of an orientation, has the value of that
    orientation; where lines cross, values are added.

    Args:
        histograms: (rows, columns, orientations) of the cells.
        size: (M, N) of the image in pixels.
        cell: Height and width of a cell in pixels.
    """
    rows, columns, orientations = histograms.shape
    drawing = np.zeros(size)
    centers = np.arange(rows) * cell[0] + cell[0] // 2, np.arange(columns) * cell[1] + cell[1] // 2
    radius = min(cell) // 2 - 1
    angles = np.pi * (np.arange(orientations) + 0.5) / orientations
    for values, down, across in zip(
        histograms.transpose(2, 0, 1), -radius * np.cos(angles), radius * np.sin(angles), strict=True
    ):
        # Ends are rounded to pixels where they are in the image, so that cells may have different lines.
        for first_row, last_row, chosen_rows in _ends(centers[0], down):
            for first_column, last_column, chosen_columns in _ends(centers[1], across):
                line = _line((first_row, first_column), (last_row, last_column))
                for row, column in zip(*line, strict=True):
                    places = np.ix_(centers[0][chosen_rows] + row, centers[1][chosen_columns] + column)
                    drawing[places] += values[np.ix_(chosen_rows, chosen_columns)]
    return drawing


def _ends(centers: Array, offset: float) -> list[tuple[int, int, Array]]:
    """Return the different first and last pixels of lines, relative to their centers, and the centers that have them.

    The first pixel is at `offset`, the last one on the other side.
    """
    ends = np.stack([np.trunc(centers + offset), np.trunc(centers - offset)]).astype(np.int64) - centers
    pairs, indices = np.unique(ends, axis=1, return_inverse=True)
    return [(int(first), int(last), np.flatnonzero(indices == index)) for index, (first, last) in enumerate(pairs.T)]


def _line(first: tuple[int, int], last: tuple[int, int]) -> tuple[Array, Array]:
    """Return rows and columns of the pixels of a line, as Bresenham's algorithm chooses them."""
    spans = last[0] - first[0], last[1] - first[1]
    major = int(abs(spans[0]) <= abs(spans[1]))  # of equal spans, columns
    long, short = abs(spans[major]), abs(spans[1 - major])
    steps = np.arange(long + 1)
    offsets = (2 * short * steps + long) // max(2 * long, 1)
    along = first[major] + np.sign(spans[major]) * steps
    aside = first[1 - major] + np.sign(spans[1 - major]) * offsets
    return (aside, along) if major else (along, aside)
