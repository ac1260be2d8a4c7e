"""Plot curves, and values by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from preimage.optional import import_optional

_INK, _MUTED = "#1f2328", "#59636e"
# Color, dashes and marker of curves and points, in order; distinct also without color.
_STYLES: tuple[tuple[str, Any, str], ...] = (
    ("#0b7285", "solid", "o"),
    ("#c2410c", (0, (6, 2)), "^"),
    ("#7c3aed", (0, (3, 2)), "s"),
    ("#4d7c0f", (0, (6, 2, 1, 2)), "D"),
    ("#9d174d", (0, (2, 1)), "v"),
    ("#a16207", (0, (8, 2, 2, 2, 2, 2)), "P"),
    ("#1d4ed8", (0, (1, 1)), "X"),
    ("#334155", (0, (4, 1, 1, 1, 1, 1)), "<"),
)
MOST_SERIES = len(_STYLES)
_CURVE = _STYLES[0][0]
# Color and dashes of the level lines of a panel, in order.
_LEVELS = ((_MUTED, (0, (1, 2))), *((color, dashes) for color, dashes, _ in _STYLES[1:5]))
_LONG = 9  # number of letters; longer names are slanted
_ROOM = 13  # number of letters in the label of a group for each name in the group
_LABEL_STEP = 0.075  # minimum distance of two labels, as a fraction of the axis


@dataclasses.dataclass(frozen=True)
class Panel:
    """One curve and its level lines.

    Attributes:
        title: Text above the plot.
        x: Coordinates of the points.
        y: Values of the points.
        levels: Values of horizontal lines by label, at most five.
        least_span: Minimum length of the value axis, so that small differences do not look large.
    """

    title: str
    x: Sequence[float]
    y: Sequence[float]
    levels: Mapping[str, float]
    least_span: float = 0.0


def draw_panels(panels: Sequence[Panel], x_label: str) -> npt.NDArray[np.uint8]:
    """Draw panels side by side.

    Returns:
        (H, W, 3) uint8 RGB, 840 pixels high and 1200 for each panel wide.

    Raises:
        ImportError: Matplotlib is missing or cannot be imported.
        ValueError: No panel, or more levels than there are line styles.
    """
    if not panels or any(len(panel.levels) > len(_LEVELS) for panel in panels):
        raise ValueError(f"a plot must have at least one panel, each with at most {len(_LEVELS)} levels")
    figure, canvas = blank_figure(figsize=(6 * len(panels), 4.2))
    for index, panel in enumerate(panels):
        left, width = (index + 0.08) / len(panels), 0.61 / len(panels)
        _draw(figure.add_axes((left, 0.13, width, 0.75)), panel, x_label)
    return rendered(canvas)


def blank_figure(**options: Any) -> tuple[Any, Any]:
    """Return an empty figure and its canvas; ``ImportError`` without matplotlib."""
    figure = import_optional("matplotlib", "matplotlib.figure").Figure(dpi=200, facecolor="white", **options)
    return figure, import_optional("matplotlib", "matplotlib.backends.backend_agg").FigureCanvasAgg(figure)


def rendered(canvas: Any) -> npt.NDArray[np.uint8]:
    """Return the drawn canvas as (H, W, 3) uint8 RGB."""
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba(), np.uint8)[:, :, :3])


def series_style(index: int) -> tuple[str, Any, str]:
    """Return color, dashes and marker of a curve by its index, below `MOST_SERIES`."""
    return _STYLES[index]


def apply_style(axes: Any, title: str, pad: float) -> None:
    """Apply the common style: the title `pad` points above, two spines, a faint grid."""
    axes.set_title(title, loc="left", fontsize=10.5, color=_INK, weight="bold", pad=pad)
    axes.tick_params(labelsize=8.5, colors=_MUTED)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b6bec9")
    axes.grid(axis="y", color="#eaedf1", linewidth=0.8)
    axes.set_axisbelow(True)


def _draw(axes: Any, panel: Panel, x_label: str) -> None:
    apply_style(axes, panel.title, pad=14)
    axes.set_xlabel(x_label, fontsize=9, color=_MUTED)
    axes.plot(panel.x, panel.y, color=_CURVE, linewidth=2, marker="o", markersize=4.5, clip_on=False, zorder=4)
    axes.set_xlim(0, max(panel.x) * 1.03)
    for value, (color, dashes) in zip(panel.levels.values(), _LEVELS, strict=False):
        axes.axhline(value, color=color, linestyle=dashes, linewidth=1.4, zorder=3)
    low, high = axes.get_ylim()
    widen = max(0.0, panel.least_span - (high - low)) / 2
    low, high = low - widen, high + widen
    axes.set_ylim(low, high)
    heights = _apart([(value - low) / (high - low) for value in panel.levels.values()], _LABEL_STEP)
    for (label, value), height, (color, _) in zip(panel.levels.items(), heights, _LEVELS, strict=False):
        axes.text(
            1.03, height, f"{label} {value:.2f}", transform=axes.transAxes, color=color, fontsize=8.5, va="center"
        )


def _apart(heights: Sequence[float], step: float) -> list[float]:
    """Return heights that are at least `step` apart: overlapping neighbors are spread evenly about their middle."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _bottom(groups[-1], heights, step) - _top(groups[-2], heights, step) < step:
            groups[-2:] = [groups[-2] + groups[-1]]
    placed = list(heights)
    for group in groups:
        for position, index in enumerate(group):
            placed[index] = _bottom(group, heights, step) + position * step
    return placed


def _bottom(group: Sequence[int], heights: Sequence[float], step: float) -> float:
    return sum(heights[index] for index in group) / len(group) - step * (len(group) - 1) / 2


def _top(group: Sequence[int], heights: Sequence[float], step: float) -> float:
    return _bottom(group, heights, step) + step * (len(group) - 1)


@dataclasses.dataclass(frozen=True)
class Values:
    """One value for each name.

    Attributes:
        label: Text in the legend.
        values: Values in the order of the names; ``None`` for a missing value.
        kind: ``"curve"`` through the values of a group, ``"level"`` for a dash at each value, or ``"points"``.
    """

    label: str
    values: Sequence[float | None]
    kind: Literal["curve", "level", "points"] = "curve"


def draw_by_name(
    title: str,
    names: Sequence[str],
    series: Sequence[Values],
    groups: Sequence[str] = (),
    *,
    from_zero: bool = True,
) -> npt.NDArray[np.uint8]:
    """Draw several series over the same names.

    Args:
        title: Text above the plot.
        names: Names along the axis, in this order.
        series: Values to draw, at most eight series of kind ``"curve"`` or ``"points"``.
        groups: Group of each name. Curves connect only neighbors in one group; several groups are separated by lines
            and labeled.
        from_zero: Whether the axis begins at 0, instead of just below the values.

    Returns:
        (H, W, 3) uint8 RGB, at least 1400 pixels wide.

    Raises:
        ImportError: Matplotlib is missing or cannot be imported.
        ValueError: No names, series or groups of another length, or too many curves and series of points.
    """
    owners = list(groups) or [""] * len(names)
    if not names or any(len(one.values) != len(names) for one in series) or len(owners) != len(names):
        raise ValueError("a plot must have at least one name, with a value and a group for each")
    if sum(one.kind != "level" for one in series) > MOST_SERIES:
        raise ValueError(f"at most {MOST_SERIES} curves and series of points can be distinguished")
    figure, canvas = blank_figure(figsize=(max(7.0, 3.0 + 0.75 * len(names)), 4.6), layout="constrained")
    axes = figure.add_subplot()
    _frame(axes, title, names)
    spans = _spans(owners)
    styles = iter(_STYLES)
    for one in series:
        if one.kind == "level":
            _draw_levels(axes, one)
        else:
            _draw_values(axes, one, spans, next(styles))
    if from_zero:
        axes.set_ylim(0, None)
    if len(spans) > 1:
        _part(axes, spans)
    style: dict[str, Any] = {"ncols": 2, "frameon": False, "fontsize": 8.5, "labelcolor": _MUTED}
    figure.legend(loc="outside lower left", handlelength=4.5, **style)  # long enough to show the dashes
    return rendered(canvas)


def _spans(owners: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Return runs of neighbors in one group, by index."""
    runs = groupby(range(len(owners)), key=owners.__getitem__)
    return [(owner, list(positions)) for owner, positions in runs]


def _frame(axes: Any, title: str, names: Sequence[str]) -> None:
    apply_style(axes, title, pad=20)
    axes.set_xlim(-0.6, len(names) - 0.4)
    slant: dict[str, Any] = {"rotation": 30, "ha": "right"} if max(map(len, names)) > _LONG else {}
    # Escaped, because matplotlib interprets $ as the start of a formula.
    axes.set_xticks(range(len(names)), [name.replace("$", r"\$") for name in names], **slant)


def _draw_levels(axes: Any, one: Values) -> None:
    there = [(x, value) for x, value in enumerate(one.values) if value is not None]
    lows, highs = [x - 0.42 for x, _ in there], [x + 0.42 for x, _ in there]
    style = {"color": _MUTED, "linestyle": (0, (2, 1)), "linewidth": 1.4, "label": one.label}
    axes.hlines([value for _, value in there], lows, highs, **style)


def _draw_values(axes: Any, one: Values, spans: Sequence[tuple[str, list[int]]], style: tuple[str, Any, str]) -> None:
    color, dashes, marker = style
    values = [np.nan if value is None else value for value in one.values]
    linestyle = dashes if one.kind == "curve" else "none"
    look = {"color": color, "marker": marker, "markersize": 5, "linestyle": linestyle, "linewidth": 2}
    for index, (_, positions) in enumerate(spans):
        label = None if index else one.label  # the legend shows line and marker once
        axes.plot(positions, [values[place] for place in positions], label=label, zorder=4, **look)


def _part(axes: Any, spans: Sequence[tuple[str, list[int]]]) -> None:
    for owner, positions in spans:
        if positions[0]:
            axes.axvline(positions[0] - 0.5, color="#b6bec9", linewidth=0.8)
        middle = (positions[0] + positions[-1]) / 2
        room = _ROOM * len(positions)
        text = (owner if len(owner) <= room else "..." + owner[3 - room :]).replace("$", r"\$")
        style = {"fontsize": 8.5, "color": _MUTED, "ha": "center", "va": "bottom"}
        axes.text(middle, 1.01, text, transform=axes.get_xaxis_transform(), **style)
