"""Plot values with intervals by name, as dots in panels that share their rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.viz.plots import apply_style, blank_figure, rendered

_CURVE, _MUTED = "#0b7285", "#59636e"


@dataclasses.dataclass(frozen=True)
class Dots:
    """A panel with one value for each name.

    Attributes:
        title: Text above the panel.
        values: Values in the order of the names; ``None`` for a missing one.
        intervals: (low, high) of each value, drawn as a bar; empty for no bars.
        labels: Text beside each value; empty for none.
        log: Whether the axis is logarithmic; otherwise it starts at 0. Values are positive then.
        level: Value of a dashed line.
        level_label: Text of the dashed line.
    """

    title: str
    values: Sequence[float | None]
    intervals: Sequence[tuple[float, float] | None] = ()
    labels: Sequence[str] = ()
    log: bool = False
    level: float | None = None
    level_label: str = ""


def draw_dots(names: Sequence[str], panels: Sequence[Dots]) -> npt.NDArray[np.uint8]:
    """Draw panels side by side, with one row for each name, the first at the top.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImportError: Matplotlib is missing or cannot be imported.
        ValueError: No names or panels, or values, intervals or labels of another length than the names.
    """
    columns = [column for panel in panels for column in (panel.values, panel.intervals or names, panel.labels or names)]
    if not names or not panels or any(len(column) != len(names) for column in columns):
        raise ValueError(f"a plot must have at least one name and panel, and a value for each of {len(names)} names")
    size = (1.5 + 4.25 * len(panels), 1.3 + 0.42 * len(names))
    figure, canvas = blank_figure(figsize=size, layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        apply_style(axes, panel.title, pad=10)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", color="#eaedf1", linewidth=0.8)
        if panel.log:
            axes.set_xscale("log")
        shown = [(row, value) for row, value in enumerate(panel.values) if value is not None]
        for row, value in shown:
            if panel.intervals and (interval := panel.intervals[row]) is not None:
                axes.plot(interval, (row, row), color=_CURVE, linewidth=2.5, alpha=0.55, solid_capstyle="butt")
            if panel.labels:
                # Above the dot, where there is neither a bar nor another row's dot.
                text: dict[str, Any] = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center", "va": "bottom"}
                text["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                axes.annotate(panel.labels[row], (value, row), fontsize=8, color=_MUTED, **text)
        axes.plot([value for _, value in shown], [row for row, _ in shown], "o", color=_CURVE, markersize=5, zorder=4)
        if panel.level is not None:
            axes.axvline(panel.level, color=_MUTED, linestyle=(0, (2, 1)), linewidth=1.2, label=panel.level_label)
            axes.legend(loc="upper left", bbox_to_anchor=(0, -0.12), frameon=False, fontsize=8.5, labelcolor=_MUTED)
        if panel.log:
            axes.margins(x=0.12)
            axes.minorticks_off()
        else:
            ends = [end for interval in panel.intervals if interval is not None for end in interval]
            axes.set_xlim(0, 1.08 * max([value for _, value in shown] + ends + [panel.level or 0], default=1) or 1)
        # Escaped, because matplotlib interprets $ as the start of a formula.
        axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])
        axes.set_ylim(len(names) - 0.5, -0.6)
        axes.tick_params(axis="y", length=0, labelsize=9)
    return rendered(canvas)
