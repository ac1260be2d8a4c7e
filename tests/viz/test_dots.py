"""Test plots of values with intervals by name."""

from __future__ import annotations

import numpy as np
import pytest

from preimage.viz.dots import Dots, draw_dots

_CURVE = np.array([11, 114, 133])  # #0b7285


def _dots(page: np.ndarray) -> list[tuple[float, float]]:
    """Return (row, column) of the middle of each row of dots, from the top, in pixels."""
    ink = np.abs(page.astype(int) - _CURVE).max(axis=2) < 8
    rows = np.flatnonzero(ink.any(axis=1))
    groups = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    return [(float(group.mean()), float(np.flatnonzero(ink[group].any(axis=0)).mean())) for group in groups]


def test_dots_are_in_rows_at_their_values() -> None:
    page = draw_dots(["a", "b", "c"], [Dots("values", [0.2, 0.6, 0.4])])
    (_, a), (_, b), (_, c) = _dots(page)
    assert (c - a) / (b - a) == pytest.approx(0.5, abs=0.02)
    logarithmic = draw_dots(["a", "b", "c"], [Dots("values", [0.01, 1.0, 0.1], log=True)])
    (_, a), (_, b), (_, c) = _dots(logarithmic)
    assert (c - a) / (b - a) == pytest.approx(0.5, abs=0.02)


def test_intervals_labels_levels_and_missing_values_are_drawn() -> None:
    def panel(**options: object) -> np.ndarray:
        return draw_dots(["a", "$b"], [Dots("values", [0.5, None], **options)])  # type: ignore[arg-type]

    plain = panel()
    assert len(_dots(plain)) == 1
    bars = panel(intervals=[(0.3, 0.7), None])
    light = np.abs(bars.astype(int) - (0.55 * _CURVE + 0.45 * 255)).max(axis=2) < 8
    assert light.any(axis=0).sum() > 100
    for other in (panel(labels=["0.50", ""]), panel(level=0.4, level_label="a level")):
        assert other.shape == plain.shape
        assert (other != plain).any()


@pytest.mark.parametrize(
    ("names", "panels"),
    [
        ([], [Dots("values", [])]),
        (["a"], []),
        (["a"], [Dots("values", [1.0, 2.0])]),
        (["a"], [Dots("values", [1.0], labels=["x", "y"])]),
        (["a"], [Dots("values", [1.0], intervals=[(0.0, 2.0), None])]),
    ],
)
def test_rejected(names: list[str], panels: list[Dots]) -> None:
    with pytest.raises(ValueError, match="at least one name and panel"):
        draw_dots(names, panels)
