"""Command ``preimage study disclosure``: measure what stored SIFT keypoints reveal."""

from __future__ import annotations

from typing import Annotated

import typer

from preimage.cli._options import BatchSize, Device, Images, InverterOption, Json, SkipBad, StudyFolder, parse_numbers
from preimage.cli._shared import Output, command_line, plural, reporting


@reporting
def disclosure(
    images: Images,
    output: StudyFolder,
    inverter: InverterOption = None,
    size: Annotated[int, typer.Option(help="Resize and center-crop images to this many pixels a side.")] = 256,
    percentages: Annotated[
        str,
        typer.Option(metavar="NUMBERS", help="Percentages of the keypoints to keep, separated by commas."),
    ] = "5,10,20,40,60,80,100",
    seed: Annotated[int, typer.Option(help="Random seed for the selection of keypoints.")] = 0,
    show_count: Annotated[int, typer.Option(help="Number of images on the sheet.")] = 4,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Reconstruct images from fewer and fewer SIFT keypoints.

    They are also reconstructed from only the coordinates or only the descriptors of all keypoints.

    Example: preimage study disclosure photos/ -o disclosure/
    """
    parsed = parse_numbers(percentages, "--percentages")
    from preimage.studies.disclosure import study_disclosure

    show = Output(json)
    with show.progress("measuring") as progress:
        summary = study_disclosure(
            images,
            output,
            inverter=inverter,
            size=size,
            percentages=parsed,
            seed=seed,
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
