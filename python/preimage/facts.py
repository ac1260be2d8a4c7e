"""Format facts about files as text, for the command line and for pages."""

from __future__ import annotations

from typing import Any

from preimage.spec import Spec

_KEYED = ("sizes", "arrays")  # facts whose keys come from the file and are shown as they are


def fact_label(name: str) -> str:
    """Return the name of a fact as text: ``can sample`` for ``can_sample``."""
    return name.replace("_", " ")


def fact_text(name: str, value: Any) -> str:
    """Return the value of a fact of `preimage.info` as text; ``-`` for nothing."""
    match value:
        case Spec():
            text = describe_spec(value)
        case None:
            text = "-"
        case dict() | list() if not value:
            text = "-"
        case dict() if name in _KEYED:
            text = ", ".join(f"{key} ({fact_text('', entry)})" for key, entry in value.items())
        case dict():
            text = ", ".join(f"{fact_label(key)} {fact_text(key, entry)}" for key, entry in value.items())
        case list() if name in ("shape", "feature_shape"):
            text = "×".join(map(str, value))
        case list():
            text = ", ".join(fact_text(name, entry) for entry in value)
        case bool():
            text = "yes" if value else "no"
        case int() if name in ("bytes", "memory"):
            text = bytes_text(value)
        case int():
            text = f"{value:,}"
        case float():
            text = f"{value:.0f}" if name == "seconds" else f"{value:.4g}"
        case _:
            text = str(value)
    return text


def describe_spec(spec: Spec) -> str:
    """Return a spec as text: ``hog vlfeat-uoctti (cell_size 8, color luma), 31 channels``."""
    parameters = ", ".join(f"{name} {value}" for name, value in spec.parameters.items())
    return f"{spec.representation} {spec.variant} ({parameters}), {spec.channels} channels"


def bytes_text(count: int) -> str:
    """Return a number of bytes as text: ``1.5 MB``."""
    for factor, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
