"""Command ``preimage study random``: decode random features."""

from __future__ import annotations

from typing import Annotated

import typer

from preimage.cli._options import (
    BatchSize,
    Device,
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
def random(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES",
            help="Folders, image files, or tar or Parquet shards, paths or URLs; or one feature store.",
        ),
    ],
    output: StudyFolder,
    inverter: InverterOption = None,
    representation: RepresentationOption = None,
    param: Params = None,
    size: Size = None,
    count: Annotated[int, typer.Option(help="Number of samples of each kind.")] = 64,
    seed: Annotated[int, typer.Option(help="Random seed of the samples.")] = 0,
    show_count: Annotated[int, typer.Option(help="Number of samples of each kind on the sheet.")] = 8,
    tile: Annotated[int, typer.Option(help="Side of an image on the sheet in pixels.")] = 128,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Decode features whose dimensions are random.

    Every dimension is sampled on its own, from its values in IMAGES or from one Gaussian.

    Example: preimage study random photos/ --inverter hog-compact -o study/
    """
    from preimage.studies.random_features import study_random

    show = Output(json)
    chosen = create_if_named(representation, param)
    with show.progress("measuring") as progress:
        summary = study_random(
            images,
            output,
            inverter=inverter,
            representation=chosen,
            size=size,
            count=count,
            seed=seed,
            show_count=show_count,
            tile=tile,
            batch_size=batch_size,
            device=device,
            skip_bad=skip_bad,
            command=command_line(),
            progress=progress,
        )
    show.say(f"{summary.inverter} on {plural(summary.images, 'image')} in {summary.seconds:.1f} s")
    show.finish_study(summary)
