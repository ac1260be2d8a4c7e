"""``preimage sheet``: originals, feature drawings and reconstructions side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._shared import NO_PARAMETERS, Device, Json, Output, Parameters, plural, reporting, with_parameters


@reporting
@with_parameters
def sheet(
    images: Annotated[list[str], typer.Argument(help="Folders, image files or tar shards.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG to write.")],
    inverter: Annotated[
        str | None, typer.Option(help="A shipped inverter or a folder; by default the shipped one that fits.")
    ] = None,
    representation: Annotated[
        str | None, typer.Option(help="What to invert; by default what the inverter is for, or hog.")
    ] = None,
    parameters: Parameters = NO_PARAMETERS,
    size: Annotated[
        int, typer.Option(help="Resize the short side to this many pixels and cut out the centre square.")
    ] = 256,
    tile: Annotated[int, typer.Option(help="Side of a picture on the sheet in pixels.")] = 320,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Draw originals, features and reconstructions side by side."""
    from preimage import representations
    from preimage.jobs.sheet import sheet as run

    show = Output(json)
    named = representation is not None or bool(parameters)
    chosen = representations.create(representation or "hog", **parameters) if named else None
    summary = run(images, output, inverter=inverter, representation=chosen, size=size, tile=tile, device=device)
    if summary.inverter is None:
        show.say(f"{plural(summary.images, 'image')} without reconstructions: {summary.missing}")
    else:
        show.say(f"{plural(summary.images, 'image')} by inverter {summary.inverter}")
    show.say(f"wrote {summary.output} ({summary.width} × {summary.height} pixels)")
    show.finish(summary)
