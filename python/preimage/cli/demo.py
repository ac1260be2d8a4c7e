"""Command ``preimage demo``: reconstruct a few photographs from their features alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._options import Device, Inverters, Json
from preimage.cli._shared import Output, command_line, plural, reporting


@reporting
def demo(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGES",
            help="Folders, image files, or tar or Parquet shards; paths or URLs. Default: photographs of scikit-image.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the page and images.")] = Path("demo"),
    inverter: Inverters = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Resize and center-crop images to this many pixels a side. Default: the representation's size, or 384."
        ),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Reconstruct photographs from their features alone.

    Writes an HTML page with the photographs, features and reconstructions.

    Example: preimage demo -o demo/
    """
    from preimage.pipelines.demo import demo as run

    show = Output(json)
    summary = run(images or None, output, inverter=inverter or None, size=size, device=device, command=command_line())
    show.say(f"{plural(summary.images, 'photograph')} from their features alone in {summary.seconds:.1f} s")
    show.say(f"normalized errors (mean image: {summary.mean_image_error:.3f}):")
    for result in summary.results:
        show.say(f"  {result.spec.representation:<12}{result.error:.3f}  by {result.inverter}")
    show.say(f"wrote {summary.sheet}")
    show.say(f"wrote {summary.page}")
    show.finish(summary)
