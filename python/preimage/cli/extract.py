"""Command ``preimage extract``: extract features of images to a feature store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._options import (
    Convention,
    Device,
    Engine,
    Images,
    Json,
    Params,
    RepresentationName,
    SkipBad,
    Workers,
    create,
    parse_shard,
)
from preimage.cli._shared import Output, plural, reporting
from preimage.facts import bytes_text, describe_spec


@reporting
def extract(
    representation: RepresentationName,
    images: Images,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for a feature store, or a file: .safetensors; arrays as .npy, .npz, .mat or .h5.",
        ),
    ],
    param: Params = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Resize and center-crop images to this many pixels a side. Default: the images' own sizes, or the "
            "representation's only one."
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="Data type of the stored features: float32 or float16.")
    ] = "float32",
    convention: Convention = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of images per batch of a network or a CUDA device. Default: 16 for networks, "
            "else automatic."
        ),
    ] = None,
    device: Device = "auto",
    decoder: Annotated[
        str,
        typer.Option(metavar="DECODER", help="Decoder of JPEGs: cpu, or gpu (nvImageCodec; pixels differ slightly)."),
    ] = "cpu",
    skip_bad: SkipBad = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Keep NaN and infinite features instead of stopping.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Keep the complete shards of an interrupted run.")] = True,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Compute every N-th shard, starting with shard I. See preimage merge.")
    ] = "0/1",
    engine: Engine = "local",
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Compute features of images and write a feature store.

    An interrupted extraction loses at most two shards: the same command resumes it.

    Example: preimage extract hog photos/ -o photos.hog -p cell_size=4
    """
    part = parse_shard(shard)
    from preimage.pipelines.extract import extract_with_summary as run

    show = Output(json)
    chosen = create(representation, param)
    with show.progress("extracting") as progress:
        summary = run(
            chosen,
            images,
            output,
            size=size,
            dtype=dtype,
            convention=convention,
            batch_size=batch_size,
            device=device,
            decoder=decoder,
            skip_bad=skip_bad,
            allow_nonfinite=allow_nonfinite,
            resume=resume,
            shard=part,
            engine=engine,
            workers=workers,
            progress=progress,
        )
    show.say(describe_spec(summary.spec))
    resumed = f", {summary.resumed} of them from an earlier run" if summary.resumed else ""
    show.say(f"{plural(summary.images, 'image')} in {summary.seconds:.1f} s{resumed}")
    show.skipped(summary.skipped, summary.notes)
    if summary.nonfinite_values:
        images_text = plural(len(summary.nonfinite_images), "image")
        show.say(f"{plural(summary.nonfinite_values, 'feature value')} of {images_text} are NaN or infinite")
    show.say(f"wrote {summary.output} ({bytes_text(summary.bytes)})")
    show.finish(summary)
