"""``preimage invert``: images back from a feature file, or from keypoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    plural,
    reporting,
    with_parameters,
)

if TYPE_CHECKING:
    from preimage.spec import Spec


@reporting
@with_parameters
def invert(
    features: Annotated[
        Path,
        typer.Argument(
            help="A feature file, arrays (.npy, .npz, .mat, .h5), or SIFT keypoints (.db, .h5, .sift, .yml, .mat, ...)."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")],
    inverter: Annotated[
        str | None, typer.Option(help="A pretrained inverter or a folder; by default the pretrained one that fits.")
    ] = None,
    representation: Annotated[str | None, typer.Option(help="What plain arrays hold, for example hog.")] = None,
    parameters: Parameters = NO_PARAMETERS,
    spec: Annotated[Path | None, typer.Option(help="A JSON file that says what plain arrays hold.")] = None,
    layout: Layout = None,
    variables: Annotated[
        list[str] | None,
        typer.Option("--variable", help="Variable to read of a MATLAB file that holds others too. Repeatable."),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Height and width of the images of keypoints, if the file is silent."),
    ] = None,
    normalization: Annotated[
        str | None, typer.Option(help="Of keypoints' descriptors: l2 (plain SIFT), l1_root (RootSIFT), l1_root_twice.")
    ] = None,
    keypoint_format: Annotated[
        str | None,
        typer.Option(help="colmap, colmap-text, hloc, mat, opencv, vlfeat, lowe or preimage, if the suffix misleads."),
    ] = None,
    max_side: Annotated[
        int | None,
        typer.Option(min=1, help="Reconstruct larger images of keypoints with this many pixels along the longer side."),
    ] = None,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out images that cannot be inverted, and list them.")
    ] = False,
    json: Json = False,
) -> None:
    """Reconstruct every image of a feature file or keypoint file as OUTPUT/<key>.png."""
    from preimage.pipelines.invert import invert as run

    show = Output(json)
    with show.progress("inverting") as progress:
        summary = run(
            features,
            output,
            inverter=inverter,
            spec=_spec(representation, parameters, spec),
            layout=layout,
            variables=variables or None,
            image_size=_size(image_size),
            normalization=normalization,
            keypoint_format=keypoint_format,
            max_side=max_side,
            batch_size=batch_size,
            device=device,
            skip_bad=skip_bad,
            progress=progress,
        )
    show.say(f"{plural(summary.images, 'image')} by inverter {summary.inverter} in {summary.seconds:.1f} s")
    if summary.empty:
        pictures = "whose picture shows" if summary.empty == 1 else "whose pictures show"
        show.say(f"{plural(summary.empty, 'image')} without keypoints, {pictures} nothing")
    for note in summary.notes:
        show.say(f"note: {note}")
    for _, problem in summary.skipped:
        show.say(f"skipped {problem}")
    show.say(f"wrote {summary.output}/")
    show.finish(summary)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.lower().replace("×", "x").partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise CommandError(f"--image-size is height x width in pixels, such as 480x640, got {text!r}")
    return int(height), int(width)


def _spec(representation: str | None, parameters: Parameters, path: Path | None) -> Spec | None:
    from preimage.errors import FileFormatError
    from preimage.representations import create_representation
    from preimage.spec import Spec

    if path is not None:
        if representation is not None or parameters:
            raise CommandError("--spec says it all: give it without --representation and its parameters")
        try:
            return Spec.from_json(path.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise FileFormatError(path, f"is no spec: {error}") from error
    if representation is None:
        if parameters:
            raise CommandError(f"{', '.join(parameters)} given without --representation")
        return None
    return create_representation(representation, **parameters).spec
