"""Draw bars by name, side by side or stacked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.viz.plots import apply_style, blank_figure, rendered

_COLORS = ("#59636e", "#c2410c", "#0b7285")
_HATCHES = ("", "///", "...")  # distinct also without color
_MUTED = "#59636e"
_LONG = 5  # number of letters; longer names are slanted


@dataclasses.dataclass(frozen=True)
class Bars:
    """Bars of one or several series over the same names.

    Attributes:
        title: Text above the bars.
        names: Names along the axis, in this order.
        series: Values by label, at most three series; ``None`` for a missing value.
        stacked: Whether the bars of a name are stacked, instead of side by side.
        limits: Ends of the value axis; ``None`` fits them to the values.
    """

    title: str
    names: Sequence[str]
    series: Mapping[str, Sequence[float | None]]
    stacked: bool = False
    limits: tuple[float, float] | None = None


def draw_bars(panels: Sequence[Bars]) -> npt.NDArray[np.uint8]:
    """Draw panels of bars side by side.

    Returns:
        (H, W, 3) uint8 RGB, 840 pixels high and 1000 for each panel wide.

    Raises:
        ImportError: Matplotlib is missing or cannot be imported.
        ValueError: No panel, no names, a series of another length, or more series than there are colors.
    """
    if not panels or any(not panel.names or not 1 <= len(panel.series) <= len(_COLORS) for panel in panels):
        raise ValueError(f"a plot must have at least one panel, each with names and one to {len(_COLORS)} series")
    if any(len(values) != len(panel.names) for panel in panels for values in panel.series.values()):
        raise ValueError("each series must have a value for each name")
    figure, canvas = blank_figure(figsize=(5 * len(panels), 4.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, panel)
    return rendered(canvas)


def _draw(axes: Any, panel: Bars) -> None:
    apply_style(axes, panel.title, pad=12)
    places = np.arange(len(panel.names))
    slant: dict[str, Any] = {"rotation": 35, "ha": "right"} if max(map(len, panel.names)) > _LONG else {}
    # Escaped, because matplotlib interprets $ as the start of a formula.
    axes.set_xticks(places, [name.replace("$", r"\$") for name in panel.names], **slant)
    width = 0.7 if panel.stacked else 0.8 / len(panel.series)
    bottom = np.zeros(len(places))
    for index, (label, given) in enumerate(panel.series.items()):
        values = np.array([0.0 if value is None else value for value in given])
        offset = 0.0 if panel.stacked else (index - (len(panel.series) - 1) / 2) * width
        style = {"color": _COLORS[index], "hatch": _HATCHES[index], "edgecolor": "white", "linewidth": 0.6}
        axes.bar(places + offset, values, width, bottom=bottom if panel.stacked else 0, label=label, **style)
        bottom += values
    axes.axhline(0, color="#b6bec9", linewidth=0.8)
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)
    if len(panel.series) > 1:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=_MUTED)
