"""``preimage study disclosure``: what stored SIFT keypoints reveal."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._shared import BatchSize, CommandError, Device, Json, Output, SkipBad, plural, reporting

_SHARES = "Shares of the keypoints to keep, in percent, separated by commas."


@reporting
def disclosure(
    images: Annotated[list[str], typer.Option("--images", help="Folder, image file or tar shard; repeatable.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the page, table, plot and pictures.")],
    inverter: Annotated[
        str | None, typer.Option(help="A pretrained inverter or a folder, for sift; by default the pretrained one.")
    ] = None,
    size: Annotated[
        int, typer.Option(help="Resize the short side to this many pixels and cut out the center square.")
    ] = 256,
    shares: Annotated[str, typer.Option(help=_SHARES)] = "5,10,20,40,60,80,100",
    seed: Annotated[int, typer.Option(help="Of the draw of the keypoints kept.")] = 0,
    pictures: Annotated[int, typer.Option(help="Photographs on the picture strip.")] = 4,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Measure what SIFT keypoints reveal: reconstruct photographs from ever fewer of them, and from parts of each."""
    from preimage.studies.disclosure import disclosure as run

    show = Output(json)
    wanted = parse_shares(shares)
    with show.progress("measuring") as progress:
        summary = run(
            images,
            output,
            inverter=inverter,
            size=size,
            shares=wanted,
            seed=seed,
            pictures=pictures,
            batch_size=batch_size,
            device=device,
            skip_bad=skip_bad,
            command=shlex.join(["preimage", *sys.argv[1:]]),
            progress=progress,
        )
    count = plural(summary.images, "image")
    show.say(f"{summary.inverter} on {count} of {summary.size} × {summary.size} in {summary.seconds:.1f} s")
    for line in (*summary.findings, *summary.notes):
        show.say(line)
    show.left_out(summary.skipped)
    show.say(f"wrote {summary.page}")
    show.finish(summary)


def parse_shares(text: str) -> list[float]:
    """``5,10,100`` as numbers."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise CommandError(f"--shares takes numbers separated by commas, such as 5,20,100, got {text!r}") from None
