"""Command ``preimage evaluate``: measure how well an inverter reconstructs images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from preimage.cli._options import (
    BatchSize,
    Csv,
    Device,
    Images,
    Json,
    Params,
    RepresentationOption,
    Size,
    SkipBad,
    complete_inverter,
    create_if_named,
)
from preimage.cli._shared import Output, plural, reporting

if TYPE_CHECKING:
    from preimage.pipelines.evaluate import EvaluateSummary


@reporting
def evaluate(
    inverter: Annotated[str, typer.Argument(help="Folder or name of an inverter.", autocompletion=complete_inverter)],
    images: Images,
    representation: RepresentationOption = None,
    param: Params = None,
    size: Size = None,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    csv: Csv = None,
    skip_bad: SkipBad = False,
    samples: Annotated[
        int,
        typer.Option(metavar="N", help="Also draw N samples of each image, and test their calibration. Default: none."),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    json: Json = False,
) -> None:
    """Measure error, PSNR and SSIM of an inverter on images.

    Example: preimage evaluate runs/mine val/ --csv scores.csv
    """
    from preimage.pipelines.evaluate import evaluate as run

    show = Output(json)
    chosen = create_if_named(representation, param)
    with show.progress("evaluating") as progress:
        summary = run(
            inverter,
            images,
            representation=chosen,
            size=size,
            batch_size=batch_size,
            device=device,
            csv=csv,
            skip_bad=skip_bad,
            samples=samples,
            seed=seed,
            progress=progress,
        )
    count = plural(summary.images, "image")
    show.say(f"{summary.inverter} on {count} of {summary.size} × {summary.size} in {summary.seconds:.1f} s")
    show.say(f"normalized error  {summary.error:.4f}   (mean image: {summary.mean_image_error:.4f})")
    show.say(f"PSNR              {summary.psnr:.2f} dB")
    show.say(f"SSIM              {summary.ssim:.4f}")
    for line in _sample_lines(summary):
        show.say(line)
    show.skipped(summary.skipped, summary.notes)
    if summary.csv is not None:
        show.say(f"wrote {summary.csv}")
    show.finish(summary)


def _sample_lines(summary: EvaluateSummary) -> Iterator[str]:
    """Yield the scores of the samples as text, if there are any."""
    scores = summary.samples
    if scores is None:
        return
    n = scores.count
    yield f"\n{n} samples of each image, seed {scores.seed}"
    yield f"error of one draw         {scores.draw_error:.4f}   (√2 × the inverter's: {2**0.5 * summary.error:.4f})"
    yield f"error of the mean         {scores.mean_error:.4f}   (at most {scores.mean_error_limit:.4f})"
    yield f"one draw / mean           {scores.error_ratio:.3f}    (calibrated: {scores.calibrated_error_ratio:.3f})"
    yield f"standard deviation        {scores.deviation:.4f}"
    features = (scores.draw_feature_error, scores.mean_feature_error, scores.feature_error)
    yield "error of the features     {:.4f} of one draw, {:.4f} of the mean, {:.4f} of the inverter".format(*features)
    yield "\nspread / skill          all  luminance  chroma   (calibrated: 1)"
    ratios = {(one.band, one.planes): one.ratio for one in scores.spread_skill}
    bands = list(dict.fromkeys(band for band, _ in ratios))
    for band in bands:
        all_channels, luminance, chroma = (ratios[band, planes] for planes in ("all", "luminance", "chroma"))
        yield f"{band:<18}{all_channels:>9.2f}{luminance:>11.2f}{chroma:>8.2f}"
    calibrated = f"(calibrated: 0 and {2 / (n + 1):.3f})"
    yield f"\nrank histogram           reliability index       outside all draws   {calibrated}"
    yield "                       channels  luminance    channels  luminance"
    ranks = {(one.band, one.planes): one for one in scores.rank_histograms}
    for band in bands:
        channels, gray = (ranks[band, planes] for planes in ("channels", "luminance"))
        indices = f"{channels.reliability_index:>13.3f}{gray.reliability_index:>11.3f}"
        yield f"{band:<18}{indices}{channels.outside:>12.3f}{gray.outside:>11.3f}"
    yield "\ncalibrated" if scores.calibrated else "\nnot calibrated:"
    yield from (f"- {sentence}" for sentence in scores.failed)
