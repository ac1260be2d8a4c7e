"""``preimage layers``: what of a network can be inverted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from preimage.cli._shared import Json, Output, plural, reporting

if TYPE_CHECKING:
    from preimage.representations.network import TracedLayer


@reporting
def layers(
    network: Annotated[
        str,
        typer.Argument(help="torch:package.module:factory, which makes it; or efficientnet-lite0, alexnet-conv1, ..."),
    ],
    weights: Annotated[str | None, typer.Option(help="File of its weights, handed to the function.")] = None,
    preprocessing: Annotated[
        str | None, typer.Option(help="How it takes its pixels: imagenet-rgb (unless given), caffe-bgr or unit.")
    ] = None,
    input_size: Annotated[int | None, typer.Option(help="Side of its images in pixels, 224 unless given.")] = None,
    json: Json = False,
) -> None:
    """List the layers of a network in the order in which they answer, with the features that each would make.

    A function is imported, from the current folder too, and called.
    """
    from preimage.pipelines.layers import layers as run

    show = Output(json)
    summary = run(network, weights=weights, preprocessing=preprocessing, input_size=input_size)
    rows = [("layer", "kind", "output", "features", "parameters"), *map(_row, summary.layers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        show.say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    many = [layer.name for layer in summary.layers if layer.calls > 1]
    if many:
        show.say(f"called more than once, and taken the first time: {', '.join(many)}")
    if any(layer.prefix_tokens for layer in summary.layers):
        show.say(
            "tokens beside a grid are taken from its front: --output-layout tokens-middle, tokens-last or tokens-at-N "
            "says where else they are"
        )
    last = [layer.name or "''" for layer in summary.layers if layer.channels_last]
    if last:
        show.say(f"channels last, to be taken with --output-layout nhwc: {', '.join(last)}")
    show.say(f"{summary.network}: {plural(len(summary.layers), 'layer')}, images of {summary.image_size} pixels a side")
    show.finish(summary)


def _row(layer: TracedLayer) -> tuple[str, str, str, str, str]:
    features = "-" if layer.features is None else "×".join(map(str, layer.features))
    if layer.prefix_tokens:
        features += f" ({plural(layer.prefix_tokens, 'token')} beside)"
    return layer.name or "''", layer.kind, layer.output, features, f"{layer.parameters:,}"
