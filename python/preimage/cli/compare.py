"""Command ``preimage compare``: compare inverters with other methods of inversion."""

from __future__ import annotations

from typing import Annotated

import typer

from preimage.cli._options import (
    BatchSize,
    Csv,
    Device,
    Images,
    InverterOption,
    Json,
    Params,
    Size,
    SkipBad,
    StudyFolder,
    complete_representation,
    create_if_named,
)
from preimage.cli._shared import Output, command_line, plural, reporting


@reporting
def compare(
    images: Images,
    output: StudyFolder,
    representation: Annotated[
        str | None,
        typer.Option(
            "--representation",
            "-r",
            metavar="NAME",
            help="Representation to invert. Default: that of the inverter, or hog.",
            autocompletion=complete_representation,
        ),
    ] = None,
    param: Params = None,
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAME[=SOURCE],...",
            help="Methods: ours, gradient[=STEPS], dictionary[=FILE], patches[=FILE], nearest, mean, paper=FOLDER, "
            "autoencoder=FOLDER, or NAME=FOLDER of any inverter.",
        ),
    ] = "ours,nearest,mean",
    inverter: InverterOption = None,
    database: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGES",
            help="Photographs that methods learn from. Repeatable. Default: one half of IMAGES for the other.",
        ),
    ] = None,
    size: Size = None,
    seed: Annotated[int, typer.Option(help="Seed of the methods and of the intervals.")] = 0,
    show_count: Annotated[int, typer.Option(help="Number of images on the sheet.")] = 5,
    tile: Annotated[int, typer.Option(help="Side of an image on the sheet in pixels.")] = 192,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    csv: Csv = None,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Compare inverters with other methods of inversion.

    All methods get the same features of the same images.

    Example: preimage compare val/ -r hog --methods ours,gradient,mean -o compared/
    """
    from preimage.studies.compare import compare as run
    from preimage.studies.formatting import two_digits

    out = Output(json)
    chosen = create_if_named(representation, param) if param else representation
    with out.progress("comparing") as progress:
        summary = run(
            images,
            output,
            representation=chosen,
            methods=methods.split(","),
            inverter=inverter,
            database=database or None,
            size=size,
            seed=seed,
            show_count=show_count,
            tile=tile,
            batch_size=batch_size,
            device=device,
            csv=csv,
            skip_bad=skip_bad,
            command=command_line(),
            progress=progress,
            status=lambda line: typer.echo(line, err=True),
        )
    width = max(len(score.title) for score in summary.scores)
    images_text = f"{plural(summary.images, 'image')} of {summary.setting.side} × {summary.setting.side}"
    out.say(f"{plural(len(summary.scores), 'method')} on {images_text} in {summary.seconds:.1f} s")
    for score in summary.scores:
        interval = f"({score.error.low:.3f} to {score.error.high:.3f})"
        times = f"{two_digits(score.seconds)} s per image"
        out.say(f"{score.title:{width}}  normalized error {score.error.mean:.3f} {interval}   {times}")
    for path in summary.learned:
        out.say(f"wrote {path}")
    out.finish_study(summary)
