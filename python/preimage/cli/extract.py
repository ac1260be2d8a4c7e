"""``preimage extract``: features of images into a feature store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._shared import (
    NO_PARAMETERS,
    BatchSize,
    CommandError,
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
        typer.Option(
            "--output",
            "-o",
            help="Folder for a feature store; a file: .safetensors; arrays: .npy, .npz, .mat, .h5.",
        ),
    ],
    parameters: Parameters = NO_PARAMETERS,
    size: Annotated[
        int | None, typer.Option(help="Resize the short side to this many pixels and cut out the center square.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float16, as stored.")] = "float32",
    layout: Layout = None,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Keep NaN and infinite features instead of refusing.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Keep the shards that are complete, or start anew.")] = True,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Compute every N-th shard only, from shard I on; see merge.")
    ] = None,
    json: Json = False,
) -> None:
    """Compute the features of images and write them into a feature store.

    A kill or Ctrl-C loses at most one shard: the same command goes on where it stopped.
    """
    from preimage.pipelines.extract import extract as run
    from preimage.representations import create_representation

    show = Output(json)
    chosen = create_representation(representation, **parameters)
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
            part=_part(shard),
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


def _part(text: str | None) -> tuple[int, int]:
    if text is None:
        return (0, 1)
    first, _, of = text.partition("/")
    if not (first.isdecimal() and of.isdecimal() and int(first) < int(of)):
        raise CommandError(f"--shard is I/N with I below N, such as 0/2 and 1/2, got {text!r}")
    return int(first), int(of)
