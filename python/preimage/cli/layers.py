"""Command ``preimage layers``: list the layers of a network that can be inverted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from preimage.cli._options import Json, complete_representation, keyword_types, parse_parameters
from preimage.cli._shared import Output, plural, reporting

if TYPE_CHECKING:
    from preimage.representations.network import TracedLayer


@reporting
def layers(
    network: Annotated[
        str,
        typer.Argument(
            help="torch:package.module:factory, timm:NAME, hf:NAME (transformers), or a representation such as "
            "efficientnet-lite0 or alexnet-conv1.",
            autocompletion=complete_representation,
        ),
    ],
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            "-p",
            metavar="KEY=VALUE",
            help="weights=FILE (random for timm: and hf:), input_size=PIXELS, or preprocessing=imagenet-rgb, caffe-bgr "
            "or unit. Repeatable.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the layers of a network and their features.

    The layers are in the order of the forward pass. A factory is imported, also from the current folder, and called.

    Example: preimage layers torch:torchvision.models:resnet18
    """
    from preimage.pipelines.layers import layers as run

    show = Output(json)
    summary = run(network, **parse_parameters(param or (), keyword_types(run), "a network", "--param"))
    rows = [("layer", "type", "output", "features", "parameters"), *map(_row, summary.layers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        show.say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if repeated := [layer.name for layer in summary.layers if layer.calls > 1]:
        show.say(f"called more than once (the first output is used): {', '.join(repeated)}")
    if any(layer.prefix_tokens for layer in summary.layers):
        show.say(
            "prefix tokens are assumed to come before the grid; -p output_layout=tokens-middle, tokens-last or "
            "tokens-at-N states another position"
        )
    if last := [layer.name or "''" for layer in summary.layers if layer.channels_last]:
        show.say(f"channels last, to be used with -p output_layout=nhwc: {', '.join(last)}")
    show.say(f"{summary.network}: {plural(len(summary.layers), 'layer')}, images of {summary.image_size} pixels a side")
    show.finish(summary)


def _row(layer: TracedLayer) -> tuple[str, str, str, str, str]:
    features = "-" if layer.features is None else "×".join(map(str, layer.features))
    if layer.prefix_tokens:
        features += f" + {plural(layer.prefix_tokens, 'prefix token')}"
    return layer.name or "''", layer.kind, layer.output, features, f"{layer.parameters:,}"
