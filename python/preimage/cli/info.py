"""Command ``preimage info``: describe the contents of a file or folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._options import Json, complete_inverter
from preimage.cli._shared import Output, reporting
from preimage.facts import fact_label, fact_text


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
        show.say(f"{fact_label(name):<16} {fact_text(name, value)}")
    show.finish(facts)
