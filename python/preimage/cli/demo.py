"""``preimage demo``: the whole journey on a few real photographs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._shared import Device, Json, Output, plural, reporting


@reporting
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for what the demo writes.")] = Path("demo"),
    images: Annotated[
        list[str] | None, typer.Option("--images", help="Your own photographs instead of scikit-image's; repeatable.")
    ] = None,
    inverter: Annotated[
        list[str] | None,
        typer.Option(help="Pretrained inverter or folder of one; repeatable. Default: all that are pretrained."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Resize the short side to this many pixels and cut out the center square; by default what the "
            "features are made for, or 384."
        ),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Reconstruct real photographs from nothing but their features."""
    from preimage.pipelines.demo import demo as run

    show = Output(json)
    command = shlex.join(["preimage", *sys.argv[1:]])
    summary = run(output, images=images or None, inverter=inverter or None, size=size, device=device, command=command)
    show.say(f"{plural(summary.images, 'photograph')} from their features alone in {summary.seconds:.1f} s")
    show.say(f"normalized errors (always the mean image: {summary.mean_image_error:.3f}):")
    for result in summary.results:
        show.say(f"  {result.spec.representation:<12}{result.error:.3f}  by {result.inverter}")
    show.say(f"wrote {summary.sheet}")
    show.say(f"wrote {summary.page}")
    show.finish(summary)
