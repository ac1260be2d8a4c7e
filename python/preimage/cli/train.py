"""``preimage train``: an inverter from a folder of photographs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from preimage.cli._shared import (
    NO_PARAMETERS,
    CommandError,
    Device,
    Json,
    Output,
    Parameters,
    has_rich,
    plural,
    reporting,
    with_parameters,
)


@reporting
@with_parameters
def train(
    images: Annotated[list[str], typer.Option("--images", help="Folder, image file or tar shard; repeatable.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")],
    representation: Annotated[
        str | None, typer.Argument(help="What to invert, for example hog; none with --features.", show_default=False)
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(help="Your own features of the images: a feature file, or arrays with keys (.npz, .npy, .h5)."),
    ] = None,
    features_name: Annotated[str | None, typer.Option("--name", help="What to call your own features.")] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out images without features, and features without an image.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out images or features that cannot be used, and list them.")
    ] = False,
    parameters: Parameters = NO_PARAMETERS,
    val_images: Annotated[
        list[str] | None, typer.Option(help="Held-out images; by default some of --images. Repeatable.")
    ] = None,
    val_count: Annotated[int, typer.Option(help="Images held out of --images.")] = 200,
    preset: Annotated[
        str, typer.Option(help="The network: compact, wide or paper; auto is made for the features.")
    ] = "compact",
    init: Annotated[str | None, typer.Option(help="An inverter of the same network to start from.")] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Side of the square training images in pixels; by default the representation's own, or 256."),
    ] = None,
    output_size: Annotated[
        int | None, typer.Option(help="Side of what comes back, where the preset leaves it open.")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Parameters of the network, where the preset leaves them open.")
    ] = None,
    min_crop: Annotated[float, typer.Option(help="Smallest random crop, as a share of the largest square.")] = 0.5,
    steps: Annotated[
        int | None,
        typer.Option(help="Optimizer steps; by default 20,000, or no limit with --max-hours.", show_default=False),
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option(help="Training time in hours, over which the learning rate then decays.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 32,
    optimizer: Annotated[str, typer.Option(help="adam, or muon for the inner layers.")] = "adam",
    lr: Annotated[float, typer.Option(help="Adam's, at its height.")] = 1e-3,
    muon_lr: Annotated[float, typer.Option(help="Muon's, at its height.")] = 0.02,
    warmup_steps: Annotated[int, typer.Option(help="Steps of linear rise of the learning rate.")] = 500,
    grad_clip: Annotated[float, typer.Option(help="Longest gradient.")] = 1.0,
    ema_decay: Annotated[float, typer.Option(help="Of the moving average of the weights.")] = 0.999,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Of weights, order and crops.")] = 0,
    workers: Annotated[int, typer.Option(help="Threads that prepare batches.")] = 1,
    cache: Annotated[
        str, typer.Option(help="Keep features of some views of every image on disk: auto, on or off.")
    ] = "auto",
    cache_crops: Annotated[int, typer.Option(help="Views of every image in the cache, an even number.")] = 8,
    cache_folder: Annotated[str | None, typer.Option(help="Where the cache lies; by default in OUTPUT/cache.")] = None,
    log_every: Annotated[int, typer.Option(help="Steps between lines of progress.")] = 20,
    eval_every: Annotated[int, typer.Option(help="Steps between validations.")] = 1000,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 250,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    json: Json = False,
) -> None:
    """Train an inverter on a folder of photographs, or on features of your own and the images that they are of.

    Ctrl-C saves a checkpoint and exits; the same command with --resume goes on from it.
    """
    from preimage import training

    config = training.TrainConfig(
        representation=representation,
        parameters=dict(parameters),
        images=tuple(images),
        output=str(output),
        features=features,
        features_name=features_name,
        allow_missing=allow_missing,
        skip_bad=skip_bad,
        val_images=tuple(val_images or ()),
        val_count=val_count,
        preset=preset,
        init=init,
        size=size,
        output_size=output_size,
        budget=budget,
        min_crop=min_crop,
        steps=steps,
        max_hours=max_hours,
        batch_size=batch_size,
        optimizer=cast(Literal["adam", "muon"], optimizer),
        lr=lr,
        muon_lr=muon_lr,
        warmup_steps=warmup_steps,
        grad_clip=grad_clip,
        ema_decay=ema_decay,
        precision=cast(Literal["auto", "float32", "bfloat16"], precision),
        device=device,
        seed=seed,
        workers=workers,
        cache=cast(Literal["auto", "on", "off"], cache),
        cache_crops=cache_crops,
        cache_folder=cache_folder,
        log_every=log_every,
        eval_every=eval_every,
        save_every=save_every,
    )
    display = training.BarDisplay() if sys.stderr.isatty() and has_rich() else training.LineDisplay()
    try:
        summary = training.run(config, resume=resume, display=display)
    except training.TrainingDivergedError as error:
        raise CommandError(str(error)) from error
    show = Output(json)
    seen = plural(summary.images_seen, "image")
    show.say(f"{plural(summary.steps, 'step')}, {seen} seen, in {summary.seconds:.0f} s of training")
    show.say(f"{summary.waited / max(summary.seconds, 1e-9):.1%} of that waiting for images")
    for _, problem in summary.skipped:
        show.say(f"skipped {problem}")
    show.say(f"normalized error {summary.error:.4f} (always the mean image: {summary.mean_image_error:.4f})")
    show.say(f"wrote the inverter, checkpoint.safetensors, metrics.jsonl and samples/ in {summary.folder}/")
    show.finish(summary)
