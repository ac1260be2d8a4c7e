"""Test the maps of what features determine and what an inverter guesses."""

from __future__ import annotations

import numpy as np
import pytest

from preimage.viz.deviation_map import draw_deviation, draw_scale


def _lightness(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(float) @ (0.299, 0.587, 0.114)


def test_larger_deviations_are_brighter_up_to_the_end_of_the_scale() -> None:
    deviation = np.repeat(np.linspace(0, 0.6, 121, dtype=np.float32)[None], 40, axis=0)
    row = _lightness(draw_deviation(np.full((40, 121, 3), 90, np.uint8), deviation)[20])
    assert (np.diff(row) >= 0).all()
    assert row[0] < 10
    assert row[60:].min() > 220, "0.3 and more"
    assert row[60:].max() - row[60:].min() == 0
    assert row[30] - row[0] == pytest.approx(row[60] - row[30], abs=60), "as even as the eye sees it"


def test_edges_of_the_image_are_visible_and_its_brightness_is_not() -> None:
    image = np.zeros((96, 192, 3), np.uint8)
    image[:, 96:] = 255
    drawn = _lightness(draw_deviation(image, np.full((96, 192), 0.15, np.float32)))
    assert abs(drawn[:, :80].mean() - drawn[:, -80:].mean()) < 1
    assert drawn[:, 96:99].mean() > drawn[:, 93:96].mean() + 20
    gray = draw_deviation(image[:, :, 0] / 255.0, np.full((96, 192), 0.15, np.float32))
    assert np.array_equal(_lightness(gray), drawn)


def test_values_that_are_not_finite_are_drawn() -> None:
    deviation = np.array([[np.nan, np.inf], [0, 1]], np.float32)
    drawn = draw_deviation(np.full((2, 2), 90, np.uint8), deviation)
    assert np.array_equal(drawn[0, 0], drawn[1, 0])
    assert np.array_equal(drawn[0, 1], drawn[1, 1])


def test_other_sizes_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4, 3\).*\(4, 5\)"):
        draw_deviation(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.float32))


@pytest.mark.parametrize(("width", "tile"), [(1000, 320), (300, 64), (60, 32)])
def test_scale_has_the_colors_of_the_map(width: int, tile: int) -> None:
    strip = draw_scale(width, tile)
    assert strip.shape[1:] == (width, 3)
    bar = strip[int(2.5 * max(12, tile // 18))]
    colored = np.flatnonzero(bar.min(axis=1) < 250)
    assert len(colored) == min(width - 2 * min(24, width // 8), max(tile, 12 * max(12, tile // 18)))
    ends = draw_deviation(np.full((1, 2), 90, np.uint8), np.array([[0, 0.3]], np.float32))[0]
    assert np.array_equal(bar[colored[[0, -1]]], ends)
