"""``preimage evaluate``: how well an inverter reconstructs photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._shared import (
    NO_PARAMETERS,
    BatchSize,
    CommandError,
    Device,
    Json,
    Output,
    Parameters,
    SkipBad,
    plural,
    reporting,
    with_parameters,
)


@reporting
@with_parameters
def evaluate(
    inverter: Annotated[
        str, typer.Argument(help="A training run's folder, an inverter's folder or a pretrained name.")
    ],
    images: Annotated[list[str], typer.Option("--images", help="Folder, image file or tar shard; repeatable.")],
    representation: Annotated[
        str | None, typer.Option(help="What it inverts, if that is a network's layer: torch:package.module:factory.")
    ] = None,
    parameters: Parameters = NO_PARAMETERS,
    size: Annotated[
        int | None,
        typer.Option(
            help="Resize the short side to this many pixels and cut out the center square; by default what the "
            "features are made for, or 256."
        ),
    ] = None,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    csv: Annotated[Path | None, typer.Option(help="Write one line an image to this file.")] = None,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Extract, invert and compare: normalized error, PSNR and SSIM."""
    from preimage.pipelines.evaluate import evaluate as run
    from preimage.representations import create_representation

    if representation is None and parameters:
        raise CommandError(f"{', '.join(parameters)} given without --representation")
    show = Output(json)
    chosen = None if representation is None else create_representation(representation, **parameters)
    with show.progress("evaluating") as progress:
        summary = run(
            inverter,
            images,
            representation=chosen,
            size=size,
            batch_size=batch_size,
            device=device,
            csv=csv,
            skip_bad=skip_bad,
            progress=progress,
        )
    count = plural(summary.images, "image")
    show.say(f"{summary.inverter} on {count} of {summary.size} × {summary.size} in {summary.seconds:.1f} s")
    show.say(f"normalized error  {summary.error:.4f}   (always the mean image: {summary.mean_image_error:.4f})")
    show.say(f"PSNR              {summary.psnr:.2f} dB")
    show.say(f"SSIM              {summary.ssim:.4f}")
    show.left_out(summary.skipped, summary.notes)
    if summary.csv is not None:
        show.say(f"wrote {summary.csv}")
    show.finish(summary)
