"""``preimage weights``: files of networks' weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._shared import Json, Output, bytes_text, reporting

weights = typer.Typer(help="Import the weights of AlexNet, or convert those of any network.", no_args_is_help=True)

_FILE = "bvlc_reference_caffenet.caffemodel, bvlc_alexnet.caffemodel, alexnet-owt-7be5be79.pth; also .npz."
_VARIANT = (
    "caffenet (pools, then normalizes), bvlc (normalizes, then pools) or torchvision; by default what FILE tells."
)
_PREPROCESSING = "How they want their pixels: caffe-bgr (caffenet, bvlc) or imagenet-rgb (torchvision)."
_FOLDER = "Where imported weights are; by default $PREIMAGE_WEIGHTS or the user's cache."


@weights.command("import")
@reporting
def import_(
    file: Annotated[Path, typer.Argument(help=_FILE)],
    variant: Annotated[str | None, typer.Option(help=_VARIANT)] = None,
    preprocessing: Annotated[str | None, typer.Option(help=_PREPROCESSING)] = None,
    folder: Annotated[Path | None, typer.Option(help=_FOLDER)] = None,
    json: Json = False,
) -> None:
    """Check a file of AlexNet's weights and keep them where alexnet-conv1 … alexnet-prob find them."""
    from preimage.pipelines.weights import import_weights

    show = Output(json)
    summary = import_weights(file, variant=variant, preprocessing=preprocessing, folder=folder)
    show.say(f"alexnet {summary.variant} {summary.digest}: {summary.parameters:,} weights, {summary.preprocessing}")
    for note in summary.notes:
        show.say(f"  {note}")
    show.say(f"wrote {summary.path} ({bytes_text(summary.bytes)})")
    show.finish(summary)


@weights.command("convert")
@reporting
def convert(
    file: Annotated[Path, typer.Argument(help="A .caffemodel; also .npz, .pth, .safetensors.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors file to write.")],
    json: Json = False,
) -> None:
    """Write the weights of any network as plain safetensors, with tensors named <layer>.weight and <layer>.bias."""
    from preimage.pipelines.weights import convert_weights

    show = Output(json)
    tensors = convert_weights(file, output)
    for name, shape in tensors.items():
        show.say(f"{name}  {'×'.join(map(str, shape))}")
    show.say(f"wrote {output} ({bytes_text(output.stat().st_size)})")
    show.finish({"path": output, "tensors": tensors})
