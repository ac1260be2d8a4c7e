"""Command ``preimage evaluate``: measure how well an inverter reconstructs images."""

from __future__ import annotations

from typing import Annotated

import typer

from preimage.cli._options import (
    BatchSize,
    Csv,
    Device,
    Images,
    Json,
    Params,
    RepresentationOption,
    Size,
    SkipBad,
    complete_inverter,
    create_if_named,
)
from preimage.cli._shared import Output, plural, reporting


@reporting
def evaluate(
    inverter: Annotated[str, typer.Argument(help="Folder or name of an inverter.", autocompletion=complete_inverter)],
    images: Images,
    representation: RepresentationOption = None,
    param: Params = None,
    size: Size = None,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    csv: Csv = None,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Measure error, PSNR and SSIM of an inverter on images.

    Example: preimage evaluate runs/mine val/ --csv scores.csv
    """
    from preimage.pipelines.evaluate import evaluate as run

    show = Output(json)
    chosen = create_if_named(representation, param)
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
    show.say(f"normalized error  {summary.error:.4f}   (mean image: {summary.mean_image_error:.4f})")
    show.say(f"PSNR              {summary.psnr:.2f} dB")
    show.say(f"SSIM              {summary.ssim:.4f}")
    show.skipped(summary.skipped, summary.notes)
    if summary.csv is not None:
        show.say(f"wrote {summary.csv}")
    show.finish(summary)
