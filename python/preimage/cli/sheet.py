"""``preimage sheet``: originals, feature drawings and reconstructions side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preimage.cli._shared import (
    NO_PARAMETERS,
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

if TYPE_CHECKING:
    from preimage.pipelines.choosing import RepresentationChoices


@reporting
@with_parameters
def sheet(
    images: Annotated[list[str], typer.Argument(help="Folders, image files or tar shards.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG to write.")],
    inverter: Annotated[
        list[str] | None,
        typer.Option(
            help="A pretrained inverter or a folder; repeatable, once a representation. Default: the one that fits."
        ),
    ] = None,
    representation: Annotated[
        str | None, typer.Option(help="The one to draw; by default what the inverter is for, or hog.")
    ] = None,
    representations: Annotated[
        str | None,
        typer.Option(help="Several, a column each, such as hog,sift,lbp: the paper's figure.", metavar="NAME,NAME..."),
    ] = None,
    parameters: Parameters = NO_PARAMETERS,
    size: Annotated[
        int | None,
        typer.Option(
            help="Resize the short side to this many pixels and cut out the center square; by default what the "
            "features are made for, or 256."
        ),
    ] = None,
    tile: Annotated[int, typer.Option(help="Side of a picture on the sheet in pixels.")] = 320,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Draw photographs, their features and the reconstructions side by side, as one PNG."""
    from preimage.pipelines.sheet import sheet as run

    show = Output(json)
    asked = _asked(representation, representations, parameters)
    summary = run(
        images,
        output,
        inverter=inverter or None,
        representation=asked,
        size=size,
        tile=tile,
        device=device,
        skip_bad=skip_bad,
    )
    for column in summary.columns:
        start = f"{plural(summary.images, 'image')}, {column.representation}"
        error = "" if column.error is None else f": normalized error {column.error:.3f}"
        if column.inverter is None:
            show.say(f"{start}: without reconstructions: {column.missing}")
        else:
            show.say(f"{start} by inverter {column.inverter}{error}")
    show.left_out(summary.skipped, summary.notes)
    show.say(f"wrote {summary.output} ({summary.width} × {summary.height} pixels)")
    show.finish(summary)


def _asked(name: str | None, names: str | None, parameters: Parameters) -> RepresentationChoices:
    from preimage.representations import create_representation

    if names is None:
        if name is not None and "," in name:
            raise CommandError(f"--representation takes one name, got {name!r}; --representations takes several")
        return create_representation(name or "hog", **parameters) if parameters else name
    if name is not None or parameters:
        told = ["--representation"] if name is not None else []
        raise CommandError(f"{', '.join([*told, *parameters])} given with --representations: one or the other")
    asked = [part.strip() for part in names.split(",") if part.strip()]
    if not asked:
        raise CommandError("--representations takes names, for example hog,sift,lbp")
    return asked
