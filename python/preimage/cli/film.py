"""Command ``preimage film``: reconstruct a sequence of features as film strip and video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._options import BatchSize, Device, InverterOption, Json
from preimage.cli._shared import Output, plural, reporting


@reporting
def film(
    features: Annotated[
        list[str],
        typer.Argument(
            metavar="FEATURES",
            help="Sequences of features: feature stores whose keys sort in time, or arrays (.npy, .npz, .mat, .h5).",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the film strip and the video.")],
    inverter: InverterOption = None,
    images: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGES", help="Frames of the features, whose names sort in time. Repeatable."),
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames per second of the video.")] = 8.0,
    frames: Annotated[int, typer.Option(help="Maximum number of frames on the strip, evenly spaced.")] = 8,
    tile: Annotated[int, typer.Option(help="Side of a frame on the strip in pixels.")] = 128,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Reconstruct sequences of features as strip and video.

    Writes OUTPUT/strip.png, one row for each sequence, and OUTPUT/film.mp4. Nothing is smoothed over time.

    Example: preimage film rollout.npy -o film/ --inverter runs/encoder --images frames/
    """
    from preimage.pipelines.film import film as run

    show = Output(json)
    with show.progress("inverting") as progress:
        summary = run(
            features,
            output,
            inverter=inverter,
            images=images or None,
            fps=fps,
            frames=frames,
            tile=tile,
            batch_size=batch_size,
            device=device,
            progress=progress,
        )
    height, width = summary.size
    size = f"{height}×{width} pixels"
    count = plural(summary.frames, "frame")
    of = "" if len(summary.sequences) == 1 else f" of {plural(len(summary.sequences), 'sequence')}"
    show.say(f"{count}{of}, {size}, by inverter {summary.inverter} in {summary.seconds:.1f} s")
    show.skipped((), [f"note: {note}" for note in summary.notes])
    show.say(f"wrote {summary.strip} and {summary.video}")
    show.finish(summary)
