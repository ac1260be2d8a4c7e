"""Representations of other packages, by their entry points in the group ``preimage.representations``.

An entry point refers to a subclass of `Representation`, which is registered, or to a function without arguments that
registers any number of them. Entry points are loaded when an unknown name is looked up or all names are listed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

GROUP = "preimage.representations"

_tried: dict[tuple[str, str], str] = {}  # (name, value) of an entry point → reason of failure, or empty


def load(register: Callable[[Any], Any]) -> None:
    """Load the entry points that were not tried before; those that fail are skipped."""
    import importlib.metadata  # slow to load, and rarely needed

    for point in importlib.metadata.entry_points(group=GROUP):
        if (point.name, point.value) in _tried:
            continue
        _tried[point.name, point.value] = ""  # before loading: a plug-in may look up names itself
        try:
            found = point.load()
            if isinstance(found, type):
                register(found)
            else:
                found()
        except Exception as error:
            package = "" if point.dist is None else f" of {point.dist.name}"
            problem = f"{type(error).__name__}: {error}"
            _tried[point.name, point.value] = f"plug-in {point.name!r}{package} ({point.value}) failed: {problem}"


def failures() -> list[str]:
    """Return one phrase for each entry point that could not be loaded, with its name and its package."""
    return [problem for problem in _tried.values() if problem]
