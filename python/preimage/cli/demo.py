"""``preimage demo``: the whole journey on a few real photographs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._shared import Json, Output, plural, reporting


@reporting
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for what the demo writes.")] = Path("demo"),
    images: Annotated[
        list[str] | None, typer.Option("--images", help="Your own photographs instead of scikit-image's; repeatable.")
    ] = None,
    inverter: Annotated[
        str | None, typer.Option(help="A shipped inverter or a folder; by default the shipped one that fits.")
    ] = None,
    size: Annotated[
        int, typer.Option(help="Resize the short side to this many pixels and cut out the centre square.")
    ] = 384,
    json: Json = False,
) -> None:
    """Reconstruct real photographs from nothing but their HOG features."""
    from preimage.jobs.demo import demo as run

    show = Output(json)
    command = shlex.join(["preimage", *sys.argv[1:]])
    summary = run(output, images=images or None, inverter=inverter, size=size, command=command)
    show.say(f"{plural(len(summary.scores), 'photograph')} from their HOG features in {summary.seconds:.1f} s")
    show.say(f"normalised error {summary.error:.3f} (always the mean image: {summary.mean_image_error:.3f})")
    show.say(f"wrote {summary.sheet}")
    show.say(f"wrote {summary.page}")
    show.finish(summary)
