"""Measured values of things that have a name and an order, such as the layers of a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from preimage.viz.curves import dress

_INK, _MUTED = "#1f2328", "#59636e"
_COLOURS = {"curve": "#0b7285", "level": "#59636e"}
_POINTS = (("#c2410c", "^"), ("#7c3aed", "s"), ("#4d7c0f", "D"))  # told apart without colour, too
_LONG = 9  # letters: longer names stand aslant
_ROOM = 13  # letters of a group's name above each of its names


@dataclasses.dataclass(frozen=True)
class Values:
    """One value for each name.

    Attributes:
        label: in the legend.
        values: in the order of the names; ``None`` where there is none.
        kind: a ``"curve"`` through the values of a group, ``"level"`` for a dash at each, or ``"points"``.
    """

    label: str
    values: Sequence[float | None]
    kind: Literal["curve", "level", "points"] = "curve"


def draw_by_name(
    title: str, names: Sequence[str], series: Sequence[Values], groups: Sequence[str] = ()
) -> npt.NDArray[np.uint8]:
    """All series over the same names, from 0 up.

    Args:
        title: above them.
        names: along the axis, in this order.
        series: at most three of points.
        groups: what each name belongs to. Curves join neighbours of one group only; where there are several groups,
            lines part them and each is named.

    Returns:
        (H, W, 3) uint8 RGB, at least 1400 pixels wide.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no names, a series or groups of another number, or more points than can be told apart.
    """
    owners = list(groups) or [""] * len(names)
    if not names or any(len(one.values) != len(names) for one in series) or len(owners) != len(names):
        raise ValueError("a drawing by name takes at least one name, and a value and a group for each")
    if sum(one.kind == "points" for one in series) > len(_POINTS):
        raise ValueError(f"at most {len(_POINTS)} series of points can be told apart")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - only drawing needs it
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("plots are drawn by matplotlib: pip install 'preimage[plots]'") from error

    figure = Figure(figsize=(max(7.0, 3.0 + 0.75 * len(names)), 4.6), dpi=200, facecolor="white", layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _frame(axes, title, names)
    spans = _spans(owners)
    marks = iter(_POINTS)
    for one in series:
        _draw(axes, one, spans, next(marks) if one.kind == "points" else (_COLOURS[one.kind], "o"))
    axes.set_ylim(0, None)
    if len(spans) > 1:
        _part(axes, spans)
    figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=8.5, labelcolor=_MUTED)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba(), np.uint8)[:, :, :3])


def _spans(owners: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Neighbours of one group, by position."""
    runs = groupby(range(len(owners)), key=owners.__getitem__)
    return [(owner, list(positions)) for owner, positions in runs]


def _frame(axes: Any, title: str, names: Sequence[str]) -> None:
    dress(axes, title, pad=20)
    axes.set_xlim(-0.6, len(names) - 0.4)
    slant: dict[str, Any] = {"rotation": 30, "ha": "right"} if max(map(len, names)) > _LONG else {}
    # Names are shown as they are: matplotlib would read $ as the start of a formula.
    axes.set_xticks(range(len(names)), [name.replace("$", r"\$") for name in names], **slant)


def _draw(axes: Any, one: Values, spans: Sequence[tuple[str, list[int]]], look: tuple[str, str]) -> None:
    colour, marker = look
    there = [(x, value) for x, value in enumerate(one.values) if value is not None]
    x, y = [x for x, _ in there], [value for _, value in there]
    if one.kind == "level":
        lows, highs = [place - 0.42 for place in x], [place + 0.42 for place in x]
        axes.hlines(y, lows, highs, color=colour, linestyle=(0, (2, 1)), linewidth=1.4, label=one.label)
        return
    if one.kind == "curve":
        values = [np.nan if value is None else value for value in one.values]
        for _, positions in spans:
            axes.plot(positions, [values[place] for place in positions], color=colour, linewidth=2, zorder=4)
    axes.plot(x, y, color=colour, linestyle="none", marker=marker, markersize=5, label=one.label, zorder=5)


def _part(axes: Any, spans: Sequence[tuple[str, list[int]]]) -> None:
    for owner, positions in spans:
        if positions[0]:
            axes.axvline(positions[0] - 0.5, color="#b6bec9", linewidth=0.8)
        middle = (positions[0] + positions[-1]) / 2
        room = _ROOM * len(positions)
        text = (owner if len(owner) <= room else "..." + owner[3 - room :]).replace("$", r"\$")
        style = {"fontsize": 8.5, "color": _MUTED, "ha": "center", "va": "bottom"}
        axes.text(middle, 1.01, text, transform=axes.get_xaxis_transform(), **style)
