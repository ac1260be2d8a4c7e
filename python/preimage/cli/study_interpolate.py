"""Command ``preimage study interpolate``: decode features between those of two images."""

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
def interpolate(
    images: Images,
    output: StudyFolder,
    inverter: InverterOption = None,
    representation: RepresentationOption = None,
    param: Params = None,
    size: Size = None,
    steps: Annotated[int, typer.Option(help="Number of positions on the film strip, both ends included.")] = 9,
    frames: Annotated[int, typer.Option(help="Number of animation frames of each pair.")] = 17,
    spherical: Annotated[bool, typer.Option("--spherical", help="Interpolate along an arc instead of a line.")] = False,
    seed: Annotated[int, typer.Option(help="Random seed; used for sparse SIFT only.")] = 0,
    show_count: Annotated[int, typer.Option(help="Number of pairs on the sheet and in the animation.")] = 4,
    tile: Annotated[int, typer.Option(help="Side of an image on the sheet in pixels.")] = 128,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Decode features between those of two images.

    Each image is interpolated with the next one: film strip, animation, distances.

    Example: preimage study interpolate a.jpg b.jpg --inverter hog-compact -o study/
    """
    from preimage.studies.interpolate import study_interpolate

    show = Output(json)
    chosen = create_if_named(representation, param)
    with show.progress("interpolating") as progress:
        summary = study_interpolate(
            images,
            output,
            inverter=inverter,
            representation=chosen,
            size=size,
            steps=steps,
            frames=frames,
            spherical=spherical,
            seed=seed,
            show_count=show_count,
            tile=tile,
            batch_size=batch_size,
            device=device,
            skip_bad=skip_bad,
            command=command_line(),
            progress=progress,
        )
    show.say(f"{summary.inverter} on {plural(len(summary.pairs), 'pair')} in {summary.seconds:.1f} s")
    show.say(f"wrote {summary.animation}")
    show.finish_study(summary)
