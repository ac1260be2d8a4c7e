"""Command group ``preimage weights``: import or convert weights of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._command import Command
from preimage.cli._options import Json
from preimage.cli._shared import Output, reporting
from preimage.facts import bytes_text

weights = typer.Typer(help="Import or convert weights of networks.", no_args_is_help=True)

_FILE = "bvlc_reference_caffenet.caffemodel, bvlc_alexnet.caffemodel, alexnet-owt-7be5be79.pth, or either as .npz."
_VARIANT = "AlexNet variant: caffenet, bvlc or torchvision. Default: the one stated in FILE."
_PREPROCESSING = "Preprocessing: caffe-bgr or imagenet-rgb. Default: that of the variant."
_OUTPUT = "Folder for the imported weights. Default: $PREIMAGE_WEIGHTS or the user's cache."


@weights.command("import", cls=Command)
@reporting
def import_(
    file: Annotated[Path, typer.Argument(help=_FILE)],
    variant: Annotated[str | None, typer.Option(metavar="NAME", help=_VARIANT)] = None,
    preprocessing: Annotated[str | None, typer.Option(metavar="NAME", help=_PREPROCESSING)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help=_OUTPUT)] = None,
    json: Json = False,
) -> None:
    """Check and install AlexNet weights.

    The representations alexnet-conv1 ... alexnet-prob use them.

    Example: preimage weights import bvlc_reference_caffenet.caffemodel
    """
    from preimage.pipelines.weights import import_weights

    show = Output(json)
    summary = import_weights(file, variant=variant, preprocessing=preprocessing, output=output)
    show.say(f"alexnet {summary.variant} {summary.digest}: {summary.parameters:,} weights, {summary.preprocessing}")
    for note in summary.notes:
        show.say(f"  {note}")
    show.say(f"wrote {summary.path} ({bytes_text(summary.bytes)})")
    show.finish(summary)


@weights.command("convert", cls=Command)
@reporting
def convert(
    file: Annotated[Path, typer.Argument(help="Weights: .caffemodel, .npz, .pth or .safetensors.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .safetensors.")],
    json: Json = False,
) -> None:
    """Convert the weights of any network to safetensors.

    Example: preimage weights convert net.caffemodel -o net.safetensors
    """
    from preimage.pipelines.weights import convert_weights

    show = Output(json)
    tensors = convert_weights(file, output)
    for name, shape in tensors.items():
        show.say(f"{name}  {'×'.join(map(str, shape))}")
    show.say(f"wrote {output} ({bytes_text(output.stat().st_size)})")
    show.finish({"path": output, "tensors": tensors})
