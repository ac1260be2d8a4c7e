"""Test plots of bars."""

from __future__ import annotations

import numpy as np
import pytest

from preimage.viz.bars import Bars, draw_bars

SERIES = {"first": [3.0, 1.0], "second": [1.0, None]}


def _area(image: np.ndarray, color: tuple[int, int, int]) -> int:
    """Return the number of pixels of that color."""
    return int((abs(image.astype(int) - color).max(axis=2) < 8).sum())


def test_panels_are_side_by_side() -> None:
    image = draw_bars([Bars("One", ["a", "b"], SERIES), Bars("Two", ["a", "b"], SERIES, stacked=True)])
    assert (image.shape, image.dtype) == ((840, 2000, 3), np.uint8)


def test_heights_are_values() -> None:
    small, large = (
        draw_bars([Bars("One", ["$a", "a long name"], {"x": [value, 0.0]}, limits=(0, 4))]) for value in (1.0, 3.0)
    )
    assert _area(large, (0x59, 0x63, 0x6E)) > 2 * _area(small, (0x59, 0x63, 0x6E)) > 0


@pytest.mark.parametrize(
    "panels",
    [
        [],
        [Bars("One", [], {"x": []})],
        [Bars("One", ["a"], {})],
        [Bars("One", ["a"], {"x": [1.0, 2.0]})],
        [Bars("One", ["a"], {name: [1.0] for name in "wxyz"})],
    ],
)
def test_bad_panels(panels: list[Bars]) -> None:
    with pytest.raises(ValueError, match=r"at least one panel|each name"):
        draw_bars(panels)
