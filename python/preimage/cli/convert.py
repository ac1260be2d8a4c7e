"""``preimage convert``: features from one format into another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._shared import Json, Layout, Output, describe_spec, plural, reporting


@reporting
def convert(
    features: Annotated[Path, typer.Argument(help="A feature store, a file of features, or arrays that tell a spec.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="A folder; a file: .safetensors; arrays: .npy, .npz, .mat, .h5."),
    ],
    dtype: Annotated[str | None, typer.Option(help="float32 or float16; by default as it is.")] = None,
    layout: Layout = None,
    json: Json = False,
) -> None:
    """Write features in another format, or those of an earlier version in the present one."""
    from preimage.pipelines.convert import convert as run

    show = Output(json)
    source = run(features, output, dtype=dtype, layout=layout)
    show.say(describe_spec(source.spec))
    show.say(f"wrote {plural(len(source), 'image')} to {output}")
    show.finish({"output": output, "images": len(source), "spec": source.spec})
