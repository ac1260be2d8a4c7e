"""Command ``preimage invert``: reconstruct images from stored features or keypoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preimage.cli._options import (
    BatchSize,
    Convention,
    Device,
    Engine,
    InverterOption,
    Json,
    Params,
    Precision,
    Workers,
    complete_representation,
    create_if_named,
    parse_shard,
    parse_size,
    usage_error,
)
from preimage.cli._shared import Output, plural, reporting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from preimage.spec import Spec


@reporting
def invert(
    features: Annotated[
        Path,
        typer.Argument(
            help="Feature store, arrays (.npy, .npz, .mat, .h5), or SIFT keypoints (.db, .h5, .sift, .yml, .mat, ...)."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.")],
    inverter: InverterOption = None,
    representation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Representation of plain arrays, such as hog.",
            autocompletion=complete_representation,
        ),
    ] = None,
    param: Params = None,
    spec: Annotated[Path | None, typer.Option(help="JSON file with the spec of plain arrays.")] = None,
    convention: Convention = None,
    variables: Annotated[
        list[str] | None,
        typer.Option("--variable", metavar="NAME", help="Variable of a MATLAB file to read. Repeatable. Default: all."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Size of the images of keypoints whose file does not contain it."),
    ] = None,
    normalization: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Normalization of keypoint descriptors: l2 (SIFT), l1_root (RootSIFT) or l1_root_twice.",
        ),
    ] = None,
    keypoint_format: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Format of a keypoint file: colmap, colmap-text, hloc, mat, opencv, vlfeat, lowe or preimage. "
            "Default: by its suffix.",
        ),
    ] = None,
    max_side: Annotated[
        int | None,
        typer.Option(help="Maximum side in pixels of images from keypoints; larger ones are scaled down."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="COLMAP model (images.bin, points3D.bin) with the colors of the keypoints."
        ),
    ] = None,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    precision: Precision = "float32",
    samples: Annotated[
        int,
        typer.Option(help="Further images that the features allow, drawn for each image and written beside it."),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Random seed of the samples.")] = 0,
    spread: Annotated[
        float, typer.Option(help="Factor of the noise of the samples; less than 1 for more similar ones.")
    ] = 1.0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip and list images that cannot be inverted.")] = False,
    shard: Annotated[
        str,
        typer.Option(metavar="I/N", help="Invert every N-th range of images, starting with range I, into one folder."),
    ] = "0/1",
    engine: Engine = "local",
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Reconstruct images from stored features or keypoints.

    Each image is written to OUTPUT/KEY.png. With --samples N, KEY.sample-1.png to KEY.sample-N.png are other images
    that the features allow, and KEY.deviation.png is bright where they differ.

    Example: preimage invert photos.hog -o reconstructions/
    """
    image_size, part = parse_size(size), parse_shard(shard)
    from preimage.pipelines.invert import invert as run

    show = Output(json)
    with show.progress("inverting") as progress:
        summary = run(
            features,
            output,
            inverter=inverter,
            spec=_spec(representation, param, spec),
            convention=convention,
            variables=variables or None,
            size=image_size,
            normalization=normalization,
            keypoint_format=keypoint_format,
            max_side=max_side,
            model=model,
            batch_size=batch_size,
            device=device,
            precision=precision,
            samples=samples,
            seed=seed,
            spread=spread,
            skip_bad=skip_bad,
            shard=part,
            engine=engine,
            workers=workers,
            progress=progress,
        )
    beside = f" and {plural(summary.samples, 'sample')} of each" if summary.samples else ""
    show.say(f"{plural(summary.images, 'image')}{beside} by inverter {summary.inverter} in {summary.seconds:.1f} s")
    if summary.colored:
        show.say(f"used the colors of {plural(summary.colored, 'keypoint')}")
    if summary.empty:
        show.say(f"{plural(summary.empty, 'image')} without keypoints: nothing to see in the reconstruction")
    show.skipped(summary.skipped, [f"note: {note}" for note in summary.notes])
    show.say(f"wrote {summary.output}/")
    show.finish(summary)


def _spec(representation: str | None, param: Sequence[str] | None, path: Path | None) -> Spec | Path | None:
    if path is not None and (representation is not None or param):
        raise usage_error("--spec", "the file contains the whole spec: leave out --representation and --param")
    chosen = create_if_named(representation, param)
    return path if chosen is None else chosen.spec
