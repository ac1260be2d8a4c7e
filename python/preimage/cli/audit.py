"""Command ``preimage audit``: measure how much of photographs comes back from an index of features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._options import (
    BatchSize,
    Csv,
    Device,
    Images,
    Json,
    Params,
    SkipBad,
    complete_representation,
    create_if_named,
)
from preimage.cli._shared import Output, command_line, plural, reporting


@reporting
def audit(
    features: Annotated[
        Path,
        typer.Argument(
            metavar="INDEX",
            help="Feature store, .npz, .npy, .h5 or .parquet file, flat FAISS index, or file of SIFT keypoints.",
        ),
    ],
    images: Images,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the page, tables, plot and images.")
    ] = Path("audit"),
    inverter: Annotated[
        str | None,
        typer.Option(
            metavar="INVERTER",
            help="Folder or name of an inverter. Default: the pretrained one for these features, or one that is "
            "trained on half of IMAGES.",
        ),
    ] = None,
    representation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Representation of features whose file does not state it.",
            autocompletion=complete_representation,
        ),
    ] = None,
    param: Params = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keys of the rows of an array or FAISS index, one per line. Default: those in or next to the file, "
            "or else IMAGES in sorted order.",
        ),
    ] = None,
    database: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGES", help="Other photographs, to search the nearest neighbors in. Repeatable."),
    ] = None,
    embedding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Representation by which reconstructions are compared with photographs too.",
            autocompletion=complete_representation,
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Training time of an inverter, if one is trained.")] = 10.0,
    mitigations: Annotated[bool, typer.Option(help="Measure changed features too.")] = True,
    neighbors: Annotated[int, typer.Option(help="Number of nearest neighbors whose overlap is the recall.")] = 10,
    max_images: Annotated[int, typer.Option(help="Maximum number of photographs that are reconstructed.")] = 200,
    size: Annotated[
        int | None, typer.Option(help="Side of the photographs in pixels, for features that do not state it.")
    ] = None,
    show_count: Annotated[int, typer.Option(help="Number of photographs on the sheet.")] = 6,
    tile: Annotated[int, typer.Option(help="Side of an image on the sheet in pixels.")] = 192,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    csv: Csv = None,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Measure what of photographs comes back from an index.

    Photographs are reconstructed from their features, and each reconstruction is matched with all of them. Then noise,
    fewer bits, projections and fewer dimensions are measured, beside what they cost in retrieval.

    Example: preimage audit photos.hog photos/ -o audit/
    """
    made = create_if_named(representation, param)
    from preimage.studies.audit import audit as run_audit

    show = Output(json)
    with show.progress("measuring") as progress:
        summary = run_audit(
            features,
            images,
            output,
            inverter=inverter,
            representation=made,
            keys=keys,
            database=database or None,
            embedding=embedding,
            minutes=minutes,
            mitigations=mitigations,
            neighbors=neighbors,
            max_images=max_images,
            size=size,
            show_count=show_count,
            tile=tile,
            seed=seed,
            batch_size=batch_size,
            device=device,
            csv=csv,
            skip_bad=skip_bad,
            command=command_line(),
            progress=progress,
            status=lambda line: typer.echo(line, err=True),
        )
    show.say(f"{plural(summary.images, 'photograph')} in {summary.seconds:.1f} s")
    show.finish_study(summary)
