"""Intervals between log lines, validations and checkpoints: a number of steps, or seconds of training."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

# By name of the setting: on a CPU a number of steps; on a GPU seconds, because steps may take milliseconds.
_DEFAULTS = {"log_every": (20, "2s"), "eval_every": (1000, "60s"), "save_every": (250, "120s")}
NAMES = tuple(_DEFAULTS)


class Interval(NamedTuple):
    """An interval between events of a training run, in steps or in seconds."""

    steps: int | None = None
    seconds: float = math.inf

    def is_over(self, step: int, seconds: float) -> bool:
        """Return whether the event is due after `step` steps, `seconds` of training after the last event."""
        return seconds >= self.seconds if self.steps is None else step % self.steps == 0


def parse_interval(name: str, value: int | str | None, *, gpu: bool = False) -> Interval:
    """Return the interval of a setting.

    Args:
        name: Name of the setting.
        value: Number of steps, seconds such as ``"60s"``, or ``None`` for the default.
        gpu: Whether the run is on a GPU.

    Raises:
        ValueError: The value is none of these, or not positive.
    """
    if value is None:
        value = _DEFAULTS[name][gpu]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return Interval(steps=value)
    if isinstance(value, str):
        if re.fullmatch(r"0*[1-9][0-9]*", value):
            return Interval(steps=int(value))
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?s", value) and float(value[:-1]) > 0:
            return Interval(seconds=float(value[:-1]))
    raise ValueError(f"{name} must be a number of steps of at least 1, or seconds such as '60s', got {value!r}")
