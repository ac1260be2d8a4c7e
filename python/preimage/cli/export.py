"""Command ``preimage export``: write an inverter as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._options import Json, complete_inverter
from preimage.cli._shared import Output, reporting
from preimage.facts import bytes_text


@reporting
def export(
    inverter: Annotated[str, typer.Argument(help="Folder or name of an inverter.", autocompletion=complete_inverter)],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .onnx.")],
    weights: Annotated[
        str,
        typer.Option(metavar="DTYPE", help="Data type of the stored weights: float32, float16 or int8."),
    ] = "float32",
    json: Json = False,
) -> None:
    """Write an inverter as an ONNX file.

    Runtimes such as onnxruntime compute the same images from it, without torch.

    Example: preimage export hog-compact -o hog.onnx --weights int8
    """
    from preimage.pipelines.export import export as run

    show = Output(json)
    summary = run(inverter, output, weights=weights)
    for name, shape in summary.shapes.items():
        show.say(f"{name} ({', '.join(map(str, shape))}) float32")
    show.say(f"wrote {summary.output} ({bytes_text(summary.bytes)})")
    show.finish(summary)
