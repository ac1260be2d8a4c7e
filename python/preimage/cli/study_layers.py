"""``preimage study layers``: what comes back from each layer of a network."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preimage.cli._shared import BatchSize, CommandError, Device, Json, Output, SkipBad, plural, reporting

if TYPE_CHECKING:
    from preimage.representations import Representation
    from preimage.studies.layers_rows import HasLayers

_INVERTER = (
    "A training run's folder, an inverter's folder or a pretrained name; repeatable, a column each, in this order."
)
_NETWORK = "A network that inverters are for, torch:package.module:factory; repeatable."
_PREPROCESSING = (
    "How the n-th --network takes its pixels: imagenet-rgb, caffe-bgr or unit; once for each, or not at all."
)
_INPUT_SIZE = "Side of the images for the n-th --network; once for each, or not at all."


@reporting
def layers(
    images: Annotated[list[str], typer.Argument(help="To measure on: folders, image files or tar shards.")],
    inverter: Annotated[list[str], typer.Option(help=_INVERTER)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the page, table, plot and pictures.")],
    show: Annotated[
        list[str] | None, typer.Option(help="Image for the sheet; repeatable. Default: the first of IMAGES.")
    ] = None,
    pictures: Annotated[int, typer.Option(help="How many of IMAGES are on the sheet, without --show.")] = 5,
    network: Annotated[list[str] | None, typer.Option(help=_NETWORK)] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="File for the n-th --network; once for each ('' for none), or not at all.")
    ] = None,
    preprocessing: Annotated[list[str] | None, typer.Option(help=_PREPROCESSING)] = None,
    input_size: Annotated[list[int] | None, typer.Option(help=_INPUT_SIZE)] = None,
    size: Annotated[int, typer.Option(help="Side of the images for what takes any size, such as hog.")] = 256,
    tile: Annotated[int, typer.Option(help="Side of a picture on the sheet in pixels.")] = 192,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    csv: Annotated[Path | None, typer.Option(help="Write the table here instead of into the folder.")] = None,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Show what comes back from each layer of a network, side by side, and measure it: an inverter for each layer."""
    from preimage.studies.layers import layers as run
    from preimage.studies.layers_rows import rows_for

    command = shlex.join(["preimage", *sys.argv[1:]])
    out = Output(json)
    rows = rows_for(inverter, _networks(network or [], weights or [], preprocessing or [], input_size or []))
    with out.progress("measuring") as progress:
        summary = run(
            images,
            output,
            rows,
            show=show or None,
            pictures=pictures,
            size=size,
            tile=tile,
            batch_size=batch_size,
            device=device,
            csv=csv,
            skip_bad=skip_bad,
            command=command,
            progress=progress,
        )
    width = max(len(score.label) for score in summary.scores)
    out.say(f"{plural(len(summary.scores), 'layer')} on {plural(summary.images, 'image')} in {summary.seconds:.1f} s")
    for score in summary.scores:
        mean = f"(always the mean image: {score.mean_image_error:.3f})"
        out.say(f"{score.label:{width}}  normalized error {score.error:.3f}   {mean}")
    for line in (*summary.findings, *summary.notes):
        out.say(line)
    out.left_out(summary.skipped)
    out.say(f"wrote {summary.page}")
    out.finish(summary)


def _networks(
    names: list[str], weights: list[str], preprocessing: list[str], input_sizes: list[int]
) -> list[HasLayers | Representation]:
    """The networks named; the n-th weights, preprocessing and size are the n-th network's."""
    from preimage.representations import Representation
    from preimage.representations.network_factory import as_network, load_factory

    options: dict[str, Sequence[object]] = {
        "weights": weights,
        "preprocessing": preprocessing,
        "input-size": input_sizes,
    }
    for option, values in options.items():
        if values and len(values) != len(names):
            raise CommandError(
                f"--{option} is given once for each --network, in the same order, or not at all: got "
                f"{len(values)} for {plural(len(names), 'network')}"
            )
    found: list[HasLayers | Representation] = []
    for index, name in enumerate(names):
        made = load_factory(name, (weights[index] or None) if weights else None)
        if not isinstance(made, Representation):
            made = as_network(
                name,
                made,
                preprocessing[index] if preprocessing else None,
                input_sizes[index] if input_sizes else None,
            )
        found.append(made)
    return found
