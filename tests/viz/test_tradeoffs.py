"""Test plots of curves with names at their points."""

from __future__ import annotations

import numpy as np
import pytest

from preimage.viz.tradeoffs import Tradeoff, TradeoffPanel, draw_tradeoffs

pytest.importorskip("matplotlib")

CURVES = [
    Tradeoff("noise", [1.0, 0.8], [0.3, 0.6], ["", "1 σ"]),
    Tradeoff("bits", [1.0, 0.8], [0.3, 0.601], ["", "$2"]),
]


def test_panels_are_side_by_side_and_keep_the_colors_of_curves() -> None:
    one = draw_tradeoffs([TradeoffPanel("Error", CURVES, {"mean image": 0.7})], "recall", x_limits=(0, 1))
    two = draw_tradeoffs(
        [TradeoffPanel("Error", CURVES, {}), TradeoffPanel("Rate", CURVES, {})], "recall", x_limits=(0, 1)
    )
    assert one.dtype == two.dtype == np.uint8
    assert two.shape == (one.shape[0], 2 * one.shape[1], 3)
    for half in np.split(two, 2, axis=1):
        for color in ((11, 114, 133), (194, 65, 12)):
            assert (half == color).all(axis=2).sum() > 100


def test_a_name_that_would_overlap_another_is_left_out() -> None:
    def drawn(names: list[str]) -> np.ndarray:
        curves = [Tradeoff("a", [0.5], [0.5], [names[0]]), Tradeoff("b", [0.501], [0.501], [names[1]])]
        return draw_tradeoffs([TradeoffPanel("", curves, {})], "x", x_limits=(0, 1))

    assert np.array_equal(drawn(["first", "second"]), drawn(["first", ""]))
    assert not np.array_equal(drawn(["first", ""]), drawn(["", ""]))


def test_too_many_curves_or_no_panels() -> None:
    with pytest.raises(ValueError, match="panel"):
        draw_tradeoffs([], "x", x_limits=(0, 1))
    with pytest.raises(ValueError, match="8 curves"):
        draw_tradeoffs([TradeoffPanel("", CURVES * 5, {})], "x", x_limits=(0, 1))
