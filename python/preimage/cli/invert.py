"""``preimage invert``: images back from a feature file."""

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
    features: Annotated[Path, typer.Argument(help="A feature file, or arrays (.npy, .npz, .mat, .h5).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")],
    inverter: Annotated[
        str | None, typer.Option(help="A shipped inverter or a folder; by default the shipped one that fits.")
    ] = None,
    representation: Annotated[str | None, typer.Option(help="What plain arrays hold, for example hog.")] = None,
    parameters: Parameters = NO_PARAMETERS,
    spec: Annotated[Path | None, typer.Option(help="A JSON file that says what plain arrays hold.")] = None,
    layout: Layout = None,
    batch_size: BatchSize = 16,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Reconstruct every image of a feature file as OUTPUT/<key>.png."""
    from preimage.jobs.invert import invert as run

    show = Output(json)
    with show.progress("inverting") as progress:
        summary = run(
            features,
            output,
            inverter=inverter,
            spec=_spec(representation, parameters, spec),
            layout=layout,
            batch_size=batch_size,
            device=device,
            progress=progress,
        )
    show.say(f"{plural(summary.images, 'image')} by inverter {summary.inverter} in {summary.seconds:.1f} s")
    show.say(f"wrote {summary.output}/")
    show.finish(summary)


def _spec(representation: str | None, parameters: Parameters, path: Path | None) -> Spec | None:
    from preimage import representations
    from preimage.errors import FileFormatError
    from preimage.spec import Spec

    if path is not None:
        if representation is not None or parameters:
            raise CommandError("--spec says it all: give it without --representation and its parameters")
        try:
            return Spec.from_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise FileFormatError(path, f"is no spec: {error}") from error
    if representation is None:
        if parameters:
            raise CommandError(f"{', '.join(parameters)} given without --representation")
        return None
    return representations.create(representation, **parameters).spec
