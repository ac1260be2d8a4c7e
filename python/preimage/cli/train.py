"""Command ``preimage train``: train an inverter on images or precomputed features."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from preimage.cli._options import (
    Device,
    Json,
    Params,
    Precision,
    complete_inverter,
    complete_representation,
    parameters_of,
    usage_error,
)
from preimage.cli._shared import CommandError, Output, has_rich, plural, reporting


@reporting
def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")],
    representation: Annotated[
        str | None,
        typer.Argument(
            help="Representation to invert, such as hog; omitted with --features.",
            show_default=False,
            autocompletion=complete_representation,
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGES",
            help="Folders, image files, or tar or Parquet shards to train on; paths or URLs.",
            show_default=False,
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Precomputed features of the images: a feature store, or arrays with keys (.npz, .npy, .h5).",
        ),
    ] = None,
    features_name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the precomputed features.")] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Skip images without features and features without an image.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip and list images and features that cannot be used.")
    ] = False,
    param: Params = None,
    val_images: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGES", help="Validation images. Repeatable. Default: held out of IMAGES."),
    ] = None,
    val_count: Annotated[int, typer.Option(help="Number of held-out validation images.")] = 200,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Architecture: compact, wide or paper, or auto to fit the shape of the features. "
            "Default: compact, or that of --init.",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="INVERTER",
            help="Inverter to start from, of the same features or their first channels (sift, for sift with color).",
            autocompletion=complete_inverter,
        ),
    ] = None,
    sampler: Annotated[
        bool, typer.Option("--sampler", help="Train the part of the inverter --init that draws samples.")
    ] = False,
    size: Annotated[
        int | None,
        typer.Option(help="Side of the training images in pixels. Default: the representation's size, or 256."),
    ] = None,
    min_size: Annotated[
        int | None,
        typer.Option(help="Smallest side of the training images: half of the steps vary it. Default: --size."),
    ] = None,
    output_size: Annotated[
        int | None, typer.Option(help="Side of the reconstructed images in pixels, with --preset auto.")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Approximate number of network parameters, with --preset auto.")
    ] = None,
    min_crop: Annotated[
        float, typer.Option(help="Minimum area of a random crop, as a fraction of the largest square.")
    ] = 0.5,
    steps: Annotated[
        int | None,
        typer.Option(
            "--max-steps", "--steps", help="Number of optimizer steps. Default: 20000, or no limit with --max-hours."
        ),
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option(help="Training time in hours, over which the learning rate decays.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Batch size.")] = 32,
    optimizer: Annotated[
        str, typer.Option(metavar="NAME", help="Optimizer: adam, or muon for the inner layers.")
    ] = "adam",
    lr: Annotated[float, typer.Option(help="Peak learning rate of Adam.")] = 1e-3,
    muon_lr: Annotated[float, typer.Option(help="Peak learning rate of Muon.")] = 0.02,
    finetune: Annotated[
        bool, typer.Option("--finetune", help="Fine-tune the network of the representation, too (an autoencoder).")
    ] = False,
    finetune_lr: Annotated[float, typer.Option(help="Peak learning rate of that network.")] = 1e-4,
    warmup_steps: Annotated[int, typer.Option(help="Steps of linear learning-rate warmup.")] = 500,
    grad_clip: Annotated[float, typer.Option(help="Maximum gradient norm.")] = 1.0,
    ema_decay: Annotated[float, typer.Option(help="EMA decay.")] = 0.999,
    precision: Precision = "auto",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(help="Number of data loading threads. Default: 1; on a GPU all cores if images are streamed."),
    ] = None,
    cache: Annotated[
        str,
        typer.Option(metavar="WHEN", help="Cache the features of a few crops of each image on disk: auto, on or off."),
    ] = "auto",
    cache_crops: Annotated[int, typer.Option(help="Number of cached crops of each image; even.")] = 8,
    cache_folder: Annotated[
        str | None, typer.Option(metavar="PATH", help="Folder of the cache. Default: OUTPUT/cache.")
    ] = None,
    log_every: Annotated[
        str | None, typer.Option(metavar="STEPS|SECONDS", help="Log interval. Default: 20; on a GPU 2s.")
    ] = None,
    eval_every: Annotated[
        str | None,
        typer.Option(
            metavar="STEPS|SECONDS",
            help="Validation interval: steps, or seconds of training as in 60s. Default: 1000; on a GPU 60s.",
        ),
    ] = None,
    save_every: Annotated[
        str | None, typer.Option(metavar="STEPS|SECONDS", help="Checkpoint interval. Default: 250; on a GPU 120s.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the checkpoint in OUTPUT.")] = False,
    json: Json = False,
) -> None:
    """Train an inverter on images or precomputed features.

    Ctrl-C saves a checkpoint; the same command with --resume continues from it. torchrun starts it in several
    processes, which train one inverter together.

    Example: preimage train hog photos/ -o runs/mine --max-steps 20000
    """
    images = list(images or ())
    if features is not None:  # then all arguments are images
        _refuse_representation(representation)
        representation, images = None, [path for path in (representation, *images) if path is not None]
    if representation is None and param:
        raise usage_error("--param", f"precomputed features have no parameters, got {param[0]}")
    if not images:
        given = "" if representation is None else f"; {representation!r} is taken as the representation"
        raise usage_error("IMAGES", f"expected REPRESENTATION IMAGES..., or IMAGES... with --features{given}")
    from preimage import training

    config = training.TrainConfig(
        representation=representation,
        parameters={} if representation is None else parameters_of(representation, param),
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
        sampler=sampler,
        size=size,
        min_size=min_size,
        output_size=output_size,
        budget=budget,
        min_crop=min_crop,
        steps=steps,
        max_hours=max_hours,
        batch_size=batch_size,
        optimizer=cast(Literal["adam", "muon"], optimizer),
        lr=lr,
        muon_lr=muon_lr,
        finetune=finetune,
        finetune_lr=finetune_lr,
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
    except (training.TrainingDivergedError, training.ProcessFailedError) as error:
        raise CommandError(str(error)) from error
    if not training.is_main_process():
        return
    show = Output(json)
    seen = plural(summary.images_seen, "image")
    show.say(f"{plural(summary.steps, 'step')}, {seen} seen, in {summary.seconds:.0f} s of training")
    show.say(f"{summary.waited / max(summary.seconds, 1e-9):.1%} of that waiting for images")
    show.skipped(summary.skipped)
    show.say(f"normalized error {summary.error:.4f} (mean image: {summary.mean_image_error:.4f})")
    show.say(f"wrote the inverter, checkpoint.safetensors, metrics.jsonl and samples/ to {summary.folder}/")
    show.finish(summary)


def _refuse_representation(first: str | None) -> None:
    """Raise a usage error if the first of the images is the name of a representation, and not a path."""
    if first is None or os.path.exists(first):
        return
    from preimage.representations import list_representations

    if first in list_representations():
        raise usage_error("IMAGES", f"with --features the representation is omitted, got {first!r}")
