"""Plot several curves over one numeric axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.viz.plots import MOST_SERIES, apply_style, blank_figure, rendered, series_style

_MUTED = "#59636e"


@dataclasses.dataclass(frozen=True)
class Curve:
    """A curve.

    Attributes:
        label: Text in the legend.
        x: Coordinates of the points, in ascending order.
        y: Values of the points; ``None`` for a missing value, which interrupts the curve.
        level: Whether it is a level to compare the other curves with: gray, dashed and without markers.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    level: bool = False


def draw_curves(title: str, curves: Sequence[Curve], x_label: str) -> npt.NDArray[np.uint8]:
    """Draw curves over one axis, with the value axis from 0.

    Returns:
        (H, W, 3) uint8 RGB, 1600 pixels wide.

    Raises:
        ImportError: Matplotlib is missing or cannot be imported.
        ValueError: No curves, more than eight besides levels, or a number of values that differs from that of points.
    """
    if not curves or any(len(curve.x) != len(curve.y) or not curve.x for curve in curves):
        raise ValueError("a plot must have at least one curve, each with a value for each of its points")
    if sum(not curve.level for curve in curves) > MOST_SERIES:
        raise ValueError(f"at most {MOST_SERIES} curves can be distinguished")
    figure, canvas = blank_figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.add_subplot()
    apply_style(axes, title, pad=12)
    axes.set_xlabel(x_label, fontsize=9, color=_MUTED)
    count = 0
    for curve in curves:
        values = [np.nan if value is None else value for value in curve.y]
        style: dict[str, Any] = {"color": _MUTED, "linestyle": (0, (2, 1)), "linewidth": 1.4}
        if not curve.level:
            color, dashes, marker = series_style(count)
            style = {"color": color, "linestyle": dashes, "linewidth": 2, "marker": marker, "markersize": 4}
            count += 1
        axes.plot(curve.x, values, label=curve.label.replace("$", r"\$"), zorder=3 if curve.level else 4, **style)
    axes.set_ylim(0, None)
    legend: dict[str, Any] = {"ncols": 3, "frameon": False, "fontsize": 8.5, "labelcolor": _MUTED, "handlelength": 4.5}
    figure.legend(loc="outside lower left", **legend)
    return rendered(canvas)
