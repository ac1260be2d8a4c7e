"""Test plots of several curves."""

from __future__ import annotations

import numpy as np
import pytest

from preimage.viz.curves import Curve, draw_curves

pytest.importorskip("matplotlib")


def test_each_curve_has_its_own_color() -> None:
    falling = Curve("a$b", [0, 1, 2], [3.0, 2.0, 1.0])
    one = draw_curves("title", [falling], "seconds", 2.5, "level")
    two = draw_curves("title", [falling, Curve("second", [1.0], [2.0])], "seconds")
    assert one.shape == two.shape == (880, 1700, 3)
    assert one.dtype == np.uint8
    teal, orange = (11, 114, 133), (194, 65, 12)
    assert (one == teal).all(axis=2).any() and not (one == orange).all(axis=2).any()
    assert (two == orange).all(axis=2).any()


@pytest.mark.parametrize("curves", [[], [Curve("a", [], [])], [Curve("a", [1], [1.0])] * 9])
def test_bad_curves(curves: list[Curve]) -> None:
    with pytest.raises(ValueError, match=r"1 to 8 curves"):
        draw_curves("title", curves, "x")
