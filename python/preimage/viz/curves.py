"""Plot several curves over one numeric axis."""
"""Plot several curves over one axis, each with its name at its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.viz.plots import MOST_SERIES, apply_style, blank_figure, rendered, series_style

_MUTED = "#59636e"
from preimage.viz.plots import MUTED, STYLES, apart, apply_style, blank_figure, rendered

_LABEL_STEP = 0.06  # minimum distance of two names, as a fraction of the axis


@dataclasses.dataclass(frozen=True)
class Curve:
    """A curve.

    Attributes:
        label: Text in the legend.
        x: Coordinates of the points, in ascending order.
        y: Values of the points; ``None`` for a missing value, which interrupts the curve.
        level: Whether it is a level to compare the other curves with: gray, dashed and without markers.
        label: Its name.
        x: Coordinates of the points, at least one.
        y: Values of the points.
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
    y: Sequence[float]


def draw_curves(
    title: str, curves: Sequence[Curve], x_label: str, level: float | None = None, level_label: str = ""
) -> npt.NDArray[np.uint8]:
    """Draw curves in one plot.

    Args:
        title: Text above the plot.
        curves: At most eight curves, which differ in color, dashes and markers.
        x_label: Text below the axis.
        level: Value of a dashed line.
        level_label: Text of the dashed line.

    Returns:
        (H, W, 3) uint8 RGB, 1700 × 880 pixels.

    Raises:
        ImportError: Matplotlib is missing or cannot be imported.
        ValueError: No curve, more than eight, or one without points.
    """
    if not 0 < len(curves) <= len(STYLES) or any(not curve.x or len(curve.x) != len(curve.y) for curve in curves):
        raise ValueError(f"a plot must have 1 to {len(STYLES)} curves with points, got {len(curves)} curves")
    figure, canvas = blank_figure(figsize=(8.5, 4.4))
    axes = figure.add_axes((0.07, 0.13, 0.7, 0.75))
    apply_style(axes, title, pad=12)
    axes.set_xlabel(x_label, fontsize=9, color=MUTED)
    for curve, (color, dashes, marker) in zip(curves, STYLES, strict=False):
        style = {"color": color, "linestyle": dashes, "linewidth": 2, "marker": marker, "markersize": 4.5}
        axes.plot(curve.x, curve.y, zorder=4, **style)
    names = [(curve.label, curve.y[-1], color) for curve, (color, _, _) in zip(curves, STYLES, strict=False)]
    if level is not None:
        axes.axhline(level, color=MUTED, linestyle=(0, (2, 1)), linewidth=1.2, zorder=3)
        names.append((level_label, level, MUTED))
    axes.set_xlim(0, 1.02 * max(max(curve.x) for curve in curves) or 1)
    low, high = axes.get_ylim()
    heights = apart([(value - low) / (high - low) for _, value, _ in names], _LABEL_STEP)
    for (label, value, color), height in zip(names, heights, strict=True):
        shown = label if len(label) <= 24 else f"{label[:23]}…"
        text = f"{shown} {value:.2f}".replace("$", r"\$")
        axes.text(1.02, height, text, transform=axes.transAxes, color=color, fontsize=8.5, va="center")
    return rendered(canvas)
