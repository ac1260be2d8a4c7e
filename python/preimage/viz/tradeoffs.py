"""Plot one value against another: one curve for each name, with a label at each of its points."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.viz.plots import MOST_SERIES, apply_style, blank_figure, rendered, series_style

_MUTED = "#59636e"
_ROOM = (0.11, 0.035)  # width and height of a name, as fractions of the panel


@dataclasses.dataclass(frozen=True)
class Tradeoff:
    """Points of one curve.

    Attributes:
        label: Text in the legend.
        x: Coordinates of the points.
        y: Values of the points.
        names: Text beside each point; left out where it would overlap another.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    names: Sequence[str]


@dataclasses.dataclass(frozen=True)
class TradeoffPanel:
    """A panel of curves.

    Attributes:
        title: Text above the panel.
        curves: The curves, at most eight.
        levels: Values of dashed horizontal lines by their text.
    """

    title: str
    curves: Sequence[Tradeoff]
    levels: Mapping[str, float]


def draw_tradeoffs(
    panels: Sequence[TradeoffPanel], x_label: str, *, x_limits: tuple[float, float]
) -> npt.NDArray[np.uint8]:
    """Draw panels side by side, with one legend; the curves of one place have the same style in all of them.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImportError: Matplotlib is missing or cannot be imported.
        ValueError: No panels, or more curves than there are styles.
    """
    if not panels or any(len(panel.curves) > MOST_SERIES for panel in panels):
        raise ValueError(f"a plot must have at least one panel, each with at most {MOST_SERIES} curves")
    figure, canvas = blank_figure(figsize=(6 * len(panels), 5.0), layout="constrained")
    for number, (axes, panel) in enumerate(zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True)):
        apply_style(axes, panel.title, pad=10)
        axes.set_xlabel(x_label, fontsize=9, color=_MUTED)
        for text, value in panel.levels.items():
            axes.axhline(value, color=_MUTED, linestyle=(0, (2, 2)), linewidth=1.2)
            place = {"xy": (0.995, value), "xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
            axes.annotate(text, fontsize=8, color=_MUTED, **place)
        for index, curve in enumerate(panel.curves):
            color, dashes, marker = series_style(index)
            look = {"color": color, "linestyle": dashes, "marker": marker, "markersize": 5, "linewidth": 1.8}
            axes.plot(curve.x, curve.y, label=None if number else curve.label, zorder=4, **look)
        axes.set_xlim(*x_limits)
        axes.set_ylim(0, None)
        _write_names(axes, panel)
    figure.legend(loc="outside lower left", ncols=MOST_SERIES, frameon=False, fontsize=8.5, labelcolor=_MUTED)
    return rendered(canvas)


def _write_names(axes: Any, panel: TradeoffPanel) -> None:
    """Write the names of points, the last of each curve first, unless they would overlap names written before."""
    places: list[tuple[float, float]] = []
    to_fraction = axes.transData + axes.transAxes.inverted()
    points = [
        (back, point, series_style(index)[0])
        for index, curve in enumerate(panel.curves)
        for back, point in enumerate(reversed(list(zip(curve.x, curve.y, curve.names, strict=True))))
    ]
    for _, (x, y, name), color in sorted(points, key=lambda one: one[0]):
        across, up = to_fraction.transform((x, y))
        if name and not any(abs(across - other) < _ROOM[0] and abs(up - height) < _ROOM[1] for other, height in places):
            places.append((across, up))
            axes.annotate(name, (x, y), (5, 4), textcoords="offset points", fontsize=7, color=color)
