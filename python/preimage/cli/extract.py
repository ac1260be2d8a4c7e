"""``preimage extract``: features of images into one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._shared import (
    NO_PARAMETERS,
    BatchSize,
    Device,
    Json,
    Layout,
    Output,
    Parameters,
    SkipBad,
    bytes_text,
    describe_spec,
    plural,
    reporting,
    with_parameters,
)


@reporting
@with_parameters
def extract(
    representation: Annotated[str, typer.Argument(help="What to compute, for example hog.")],
    images: Annotated[list[str], typer.Argument(help="Folders, image files or tar shards.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Feature file to write (.safetensors); .npy, .npz, .mat, .h5: arrays."),
    ],
    parameters: Parameters = NO_PARAMETERS,
    size: Annotated[
        int | None, typer.Option(help="Resize the short side to this many pixels and cut out the centre square.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float16, as stored.")] = "float32",
    layout: Layout = None,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Keep NaN and infinite features instead of refusing.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on with an unfinished extraction, or start anew.")] = True,
    json: Json = False,
) -> None:
    """Compute the features of images and write them into one file.

    A kill or Ctrl-C loses at most a moment's work: the same command goes on where it stopped.
    """
    from preimage import representations
    from preimage.pipelines.extract import extract as run

    show = Output(json)
    chosen = representations.create(representation, **parameters)
    with show.progress("extracting") as progress:
        summary = run(
            chosen,
            images,
            output,
            size=size,
            dtype=dtype,
            layout=layout,
            batch_size=batch_size,
            device=device,
            skip_bad=skip_bad,
            allow_nonfinite=allow_nonfinite,
            resume=resume,
            progress=progress,
        )
    show.say(f"{describe_spec(summary.spec)}")
    taken = f", {summary.resumed} of them from an earlier run" if summary.resumed else ""
    show.say(f"{plural(summary.images, 'image')} in {summary.seconds:.1f} s{taken}")
    show.left_out(summary.skipped, summary.notes)
    if summary.nonfinite_values:
        names = plural(len(summary.nonfinite_images), "image")
        show.say(f"{plural(summary.nonfinite_values, 'feature value')} of {names} are NaN or infinite")
    show.say(f"wrote {summary.output} ({bytes_text(summary.bytes)})")
    show.finish(summary)
