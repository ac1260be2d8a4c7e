"""Command ``preimage study budget``: measure where the error of an inverter is."""

from __future__ import annotations

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
)
from preimage.cli._shared import Output, command_line, plural, reporting


@reporting
def budget(
    images: Images,
    output: StudyFolder,
    inverter: InverterOption = None,
    representation: RepresentationOption = None,
    param: Params = None,
    size: Size = None,
    coarse: Annotated[int, typer.Option(help="Wavelength from which on a band is coarse: 16, 32, 64 … pixels.")] = 64,
    show_count: Annotated[int, typer.Option(help="Number of images on the sheet.")] = 4,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Split the error of an inverter by color and wavelength.

    The parts add up to the whole squared error.

    Example: preimage study budget val/ --inverter runs/mine -o budget/
    """
    from preimage.studies.budget import study_budget

    show = Output(json)
    chosen = create_if_named(representation, param)
    with show.progress("measuring") as progress:
        summary = study_budget(
            images,
            output,
            inverter=inverter,
            representation=chosen,
            size=size,
            coarse=coarse,
            show_count=show_count,
            batch_size=batch_size,
            device=device,
            skip_bad=skip_bad,
            command=command_line(),
            progress=progress,
        )
    count = plural(summary.images, "image")
    show.say(f"{summary.inverter} on {count} of {summary.size} × {summary.size} in {summary.seconds:.1f} s")
    for part, share in summary.parts.items():
        show.say(f"{part:16}  {share:6.1%} of the squared error")
    show.finish_study(summary)
