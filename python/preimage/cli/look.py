"""Command ``preimage look``: train inverters for some layers of an encoder, and show what they recover."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._options import BatchSize, Device, Json, SkipBad, complete_representation, usage_error
from preimage.cli._shared import CommandError, Output, command_line, has_rich, plural, reporting


@reporting
def look(
    network: Annotated[
        str,
        typer.Argument(
            metavar="ENCODER",
            help="Encoder: timm:NAME, hf:NAME (transformers), torch:package.module:factory, or a representation such "
            "as efficientnet-lite0; omitted with --features.",
            autocompletion=complete_representation,
        ),
    ],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGES",
            help="Folders, image files, or tar or Parquet shards; paths or URLs.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="New folder, or that of a look with the same settings.")
    ] = Path("look"),
    layers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Layers, separated by commas; as in norm:class-token, a layout may follow. Repeatable. "
            "Default: --layer-count layers, chosen by depth.",
        ),
    ] = None,
    layer_count: Annotated[int, typer.Option(help="Number of layers without --layers.")] = 4,
    minutes: Annotated[float, typer.Option(help="Time limit for everything, in minutes.")] = 10.0,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Features instead of an encoder: a feature store, or arrays with keys (.npz, .npy, .h5).",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Weights of the encoder, or random for timm: and hf:. None are downloaded."),
    ] = None,
    preprocessing: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Preprocessing: imagenet-rgb, caffe-bgr or unit. Default: that of the encoder."
        ),
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels. Default: that of the encoder.")
    ] = None,
    val_count: Annotated[
        int | None, typer.Option(help="Number of held-out photographs. Default: a tenth, at most 64.")
    ] = None,
    output_size: Annotated[int, typer.Option(help="Side of the reconstructions in pixels, approximately.")] = 128,
    budget: Annotated[int, typer.Option(help="Maximum number of parameters of an inverter.")] = 1_000_000,
    batch_size: BatchSize = 8,
    steps: Annotated[
        int | None, typer.Option("--max-steps", "--steps", help="Maximum number of steps of each layer.")
    ] = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    tile: Annotated[int, typer.Option(help="Side of an image on the sheet in pixels.")] = 144,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Show what the layers of an encoder keep, within minutes.

    Some layers are chosen by depth. An inverter is trained for each; the page shows held-out photographs and their
    reconstructions, and each inverter can be used further.

    Example: preimage look efficientnet-lite0 photos/ -o look/
    """
    encoder: str | None = network
    given = list(images or ())
    if features is not None:  # then all arguments are images
        encoder, given = None, [network, *given]
    if not given:
        raise usage_error("IMAGES", f"expected ENCODER IMAGES...; {network!r} is taken as the encoder")
    from preimage import training
    from preimage.studies.look import look as run

    show = Output(json)
    names = None if layers is None else [name for text in layers for name in text.split(",")]
    try:
        summary = run(
            encoder,
            given,
            output,
            layers=names,
            layer_count=layer_count,
            minutes=minutes,
            features=features,
            weights=weights,
            preprocessing=preprocessing,
            input_size=input_size,
            val_count=val_count,
            output_size=output_size,
            budget=budget,
            batch_size=batch_size,
            steps=steps,
            device=device,
            seed=seed,
            tile=tile,
            skip_bad=skip_bad,
            command=command_line(),
            status=lambda sentence: typer.echo(sentence, err=True),
            display=training.BarDisplay() if sys.stderr.isatty() and has_rich() else training.LineDisplay(),
        )
    except training.TrainingDivergedError as error:
        raise CommandError(str(error)) from error
    count = plural(summary.photographs, "photograph")
    show.say(f"{plural(len(summary.layers), 'layer')} of {summary.network}, {count}, in {summary.seconds:.0f} s")
    if summary.random_weights:
        show.say(f"the weights of {summary.network} are random")
    show.finish_study(summary)
