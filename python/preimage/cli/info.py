"""Command ``preimage info``: describe the contents of a file or folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from preimage.cli._options import Json, complete_inverter
from preimage.cli._shared import Output, bytes_text, describe_spec, reporting
from preimage.spec import Spec


@reporting
def info(
    path: Annotated[
        Path,
        typer.Argument(
            help="Features, keypoints, weights, a baseline, a run's folder, or the folder or name of an inverter.",
            autocompletion=complete_inverter,
        ),
    ],
    keypoint_format: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Format of a keypoint file, as for preimage invert. Default: by its suffix."),
    ] = None,
    json: Json = False,
) -> None:
    """Describe features, keypoints, an inverter or a run.

    Example: preimage info photos.hog
    """
    from preimage.inspection import info as run

    show = Output(json)
    facts = run(path, keypoint_format=keypoint_format)
    for name, value in facts.items():
        show.say(f"{_label(name):<16} {_text(name, value)}")
    show.finish(facts)


_KEYED = ("sizes", "arrays")  # facts whose keys come from the file and are shown as they are


def _label(name: str) -> str:
    return name.replace("_", " ")


def _text(name: str, value: Any) -> str:
    match value:
        case Spec():
            text = describe_spec(value)
        case None:
            text = "-"
        case dict() | list() if not value:
            text = "-"
        case dict() if name in _KEYED:
            text = ", ".join(f"{key} ({_text('', entry)})" for key, entry in value.items())
        case dict():
            text = ", ".join(f"{_label(key)} {_text(key, entry)}" for key, entry in value.items())
        case list() if name in ("shape", "feature_shape"):
            text = "×".join(map(str, value))
        case list():
            text = ", ".join(_text(name, entry) for entry in value)
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
