"""Command ``preimage convert``: convert features to another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._options import Convention, Json
from preimage.cli._shared import Output, plural, reporting
from preimage.facts import describe_spec


@reporting
def convert(
    features: Annotated[Path, typer.Argument(help="Feature store, or arrays with a spec (.mat, .h5).")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for a feature store, or a file: .safetensors; arrays as .npy, .npz, .mat or .h5.",
        ),
    ],
    dtype: Annotated[
        str | None,
        typer.Option(metavar="DTYPE", help="Data type: float32 or float16. Default: that of the features."),
    ] = None,
    convention: Convention = None,
    json: Json = False,
) -> None:
    """Write features in another format.

    Features of an earlier version are read as well.

    Example: preimage convert photos.hog -o photos.mat
    """
    from preimage.pipelines.convert import convert as run

    show = Output(json)
    source = run(features, output, dtype=dtype, convention=convention)
    show.say(describe_spec(source.spec))
    show.say(f"wrote {plural(len(source), 'image')} to {output}")
    show.finish({"output": output, "images": len(source), "spec": source.spec})
