"""Command ``preimage study perturb``: compare reconstructions from intact and perturbed features."""

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
def perturb(
    images: Images,
    inverter: LayerInverters,
    output: StudyFolder,
    perturbations: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Perturbations, separated by commas: binarize, dropout-PERCENT, drop-smallest-PERCENT, "
            "drop-least-PERCENT, top-COUNT, not-top-COUNT, noise-PERCENT, quantize-BITS, scale-PERCENT, or several "
            "joined by +.",
        ),
    ] = "binarize,dropout,drop-least,top-5,not-top-5",
    seed: Annotated[int, typer.Option(help="Random seed of dropout and noise.")] = 0,
    show: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGES", help="Images on the sheet. Repeatable. Default: the first of IMAGES."),
    ] = None,
    show_count: Annotated[int, typer.Option(help="Number of IMAGES on the sheet, without --show.")] = 3,
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
    """Compare reconstructions from intact and perturbed features.

    An inverter is needed for each layer.

    Example: preimage study perturb val/ --inverter hog-compact -o study/
    """
    names = perturbations.split(",")
    from preimage.studies.perturb import study_perturb

    out = Output(json)
    networks = parse_networks(network)
    with out.progress("measuring") as progress:
        summary = study_perturb(
            images,
            output,
            inverter=inverter,
            network=networks,
            perturbations=names,
            seed=seed,
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
    layers = len({score.label for score in summary.scores})
    out.say(f"{plural(layers, 'layer')} on {plural(summary.images, 'image')} in {summary.seconds:.1f} s")
    out.finish_study(summary)
