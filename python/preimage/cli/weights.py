"""``preimage weights``: files of networks' weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preimage.cli._shared import Json, Output, bytes_text, reporting

if TYPE_CHECKING:
    from preimage.pipelines.weights import WeightsSummary

weights = typer.Typer(
    help="Import AlexNet's weights, list those that are here, and convert any network's.",
    no_args_is_help=True,
)

_FILE = (
    "bvlc_reference_caffenet.caffemodel, bvlc_alexnet.caffemodel, alexnet-owt-7be5be79.pth; also .npz, .safetensors; "
    "torchvision: the file that its alexnet left in torch's cache."
)
_VARIANT = (
    "caffenet (pools, then normalises), bvlc (normalises, then pools) or torchvision; by default what FILE tells."
)
_PREPROCESSING = "How they want their pixels: caffe-bgr (caffenet, bvlc) or imagenet-rgb (torchvision)."

Folder = Annotated[
    Path | None, typer.Option(help="Where imported weights are; by default $PREIMAGE_WEIGHTS or the user's cache.")
]


@weights.command("import")
@reporting
def import_(
    file: Annotated[str, typer.Argument(help=_FILE)],
    variant: Annotated[str | None, typer.Option(help=_VARIANT)] = None,
    preprocessing: Annotated[str | None, typer.Option(help=_PREPROCESSING)] = None,
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Check a file of AlexNet's weights and keep them where alexnet-conv1 … alexnet-prob find them."""
    from preimage.pipelines.weights import import_weights

    show = Output(json)
    summary = import_weights(file, variant=variant, preprocessing=preprocessing, folder=folder)
    _say(show, summary)
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
    summary = convert_weights(file, output)
    for name, shape in summary.shapes.items():
        show.say(f"{name}  {'×'.join(map(str, shape))}")
    show.say(f"wrote {summary.path} ({bytes_text(summary.bytes)})")
    show.finish(summary)


@weights.command("list")
@reporting
def list_(folder: Folder = None, json: Json = False) -> None:
    """List the weights that were imported."""
    from preimage.pipelines.weights import list_weights
    from preimage.representations.alexnet_weights import weights_folder

    show = Output(json)
    place = weights_folder() if folder is None else folder
    found = list_weights(place)
    for summary in found:
        _say(show, summary)
    if not found:
        show.say(f"no weights in {place}")
    show.finish({"folder": place, "weights": found})


def _say(show: Output, summary: WeightsSummary) -> None:
    what = f"alexnet {summary.variant} {summary.digest}"
    show.say(f"{what}: {summary.parameters:,} weights, {summary.preprocessing}, from {summary.source}")
    for note in summary.notes:
        show.say(f"  {note}")
