"""Command ``preimage study color``: measure what colors an inverter predicts, and whether they follow the image's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._options import (
    BatchSize,
    Device,
    Images,
    InverterOption,
    Json,
    Params,
    RepresentationOption,
    Size,
    SkipBad,
    StudyFolder,
    create_if_named,
    parse_numbers,
)
from preimage.cli._shared import Output, command_line, plural, reporting


@reporting
def color(
    images: Images,
    output: StudyFolder,
    inverter: InverterOption = None,
    representation: RepresentationOption = None,
    param: Params = None,
    size: Size = None,
    angles: Annotated[
        str, typer.Option(metavar="NUMBERS", help="Shifts of the hue in degrees, separated by commas.")
    ] = "0,60,120,180,240,300",
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Names of the classes of class scores, one per line.")
    ] = None,
    show_count: Annotated[int, typer.Option(help="Number of images on the sheet.")] = 4,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Compare the colors of reconstructions with the images'.

    If the features keep color, the hue of the images is also shifted.

    Example: preimage study color val/ --inverter runs/mine -o color/
    """
    parsed = parse_numbers(angles, "--angles")
    from preimage.studies.color import study_color

    show = Output(json)
    chosen = create_if_named(representation, param)
    with show.progress("measuring") as progress:
        summary = study_color(
            images,
            output,
            inverter=inverter,
            representation=chosen,
            size=size,
            angles=parsed,
            labels=labels,
            show_count=show_count,
            batch_size=batch_size,
            device=device,
            skip_bad=skip_bad,
            command=command_line(),
            progress=progress,
        )
    count = plural(summary.images, "image")
    show.say(f"{summary.inverter} on {count} of {summary.size} × {summary.size} in {summary.seconds:.1f} s")
    show.finish_study(summary)
