"""Command ``preimage sheet``: draw images, features and reconstructions side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preimage.cli._options import (
    Device,
    Images,
    Inverters,
    Json,
    Params,
    Size,
    SkipBad,
    complete_representation,
    create_if_named,
    usage_error,
)
from preimage.cli._shared import Output, plural, reporting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from preimage.pipelines.inverter_choice import RepresentationChoices


@reporting
def sheet(
    images: Images,
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file to write.")],
    inverter: Inverters = None,
    representation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Representation to show; repeatable, one column each. Default: those of the inverters, or hog.",
            autocompletion=complete_representation,
        ),
    ] = None,
    param: Params = None,
    size: Size = None,
    tile: Annotated[int, typer.Option(help="Side of an image on the sheet in pixels.")] = 320,
    device: Device = "auto",
    samples: Annotated[
        int, typer.Option(help="Further images that the features allow, and a map of where they differ.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Random seed of the samples.")] = 0,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Draw images, features and reconstructions side by side.

    Example: preimage sheet photos/ -o sheet.png --representation hog
    """
    from preimage.pipelines.sheet import sheet as run

    show = Output(json)
    summary = run(
        images,
        output,
        inverter=inverter or None,
        representation=_representations(representation, param),
        size=size,
        tile=tile,
        device=device,
        samples=samples,
        seed=seed,
        skip_bad=skip_bad,
    )
    for column in summary.columns:
        start = f"{plural(summary.images, 'image')}, {column.representation}"
        error = "" if column.error is None else f": normalized error {column.error:.3f}"
        if column.inverter is None:
            show.say(f"{start}: no reconstructions: {column.missing}")
        else:
            show.say(f"{start} by inverter {column.inverter}{error}")
            if samples and not column.samples:
                show.say(f"{column.representation}: no samples: inverter {column.inverter} cannot sample")
    show.skipped(summary.skipped, summary.notes)
    show.say(f"wrote {summary.output} ({summary.width} × {summary.height} pixels)")
    show.finish(summary)


def _representations(names: Sequence[str] | None, param: Sequence[str] | None) -> RepresentationChoices:
    if not param:
        return names or None
    if names is not None and len(names) > 1:
        raise usage_error("--param", f"{param[0]} needs a single --representation, got {', '.join(names)}")
    return create_if_named(names[0] if names else None, param)
