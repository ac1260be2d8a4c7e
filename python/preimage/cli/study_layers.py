"""Command ``preimage study layers``: compare reconstructions from the layers of a network."""

from __future__ import annotations

from typing import Annotated

import typer

from preimage.cli._options import (
    BatchSize,
    Csv,
    Device,
    Images,
    Json,
    LayerInverters,
    Networks,
    SkipBad,
    StudyFolder,
    parse_networks,
)
from preimage.cli._shared import Output, command_line, plural, reporting


@reporting
def layers(
    images: Images,
    inverter: LayerInverters,
    output: StudyFolder,
    show: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGES", help="Images on the sheet. Repeatable. Default: the first of IMAGES."),
    ] = None,
    show_count: Annotated[int, typer.Option(help="Number of IMAGES on the sheet, without --show.")] = 5,
    network: Networks = None,
    size: Annotated[
        int, typer.Option(help="Side of the images in pixels, for representations that take any size.")
    ] = 256,
    tile: Annotated[int, typer.Option(help="Side of an image on the sheet in pixels.")] = 192,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    csv: Csv = None,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Compare reconstructions from layers of a network.

    An inverter is needed for each layer.

    Example: preimage study layers val/ --inverter runs/conv1 -o study/
    """
    from preimage.studies.layers import study_layers

    out = Output(json)
    networks = parse_networks(network)
    with out.progress("measuring") as progress:
        summary = study_layers(
            images,
            output,
            inverter=inverter,
            network=networks,
            show=show or None,
            show_count=show_count,
            size=size,
            tile=tile,
            batch_size=batch_size,
            device=device,
            csv=csv,
            skip_bad=skip_bad,
            command=command_line(),
            progress=progress,
        )
    width = max(len(score.label) for score in summary.scores)
    out.say(f"{plural(len(summary.scores), 'layer')} on {plural(summary.images, 'image')} in {summary.seconds:.1f} s")
    for score in summary.scores:
        mean = f"(mean image: {score.mean_image_error:.3f})"
        out.say(f"{score.label:{width}}  normalized error {score.error:.3f}   {mean}")
    out.finish_study(summary)
