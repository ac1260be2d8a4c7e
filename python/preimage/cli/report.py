"""Command ``preimage report``: write a page about inverters, training runs and feature stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._options import BatchSize, Device, Json, Networks, Size, SkipBad, complete_inverter, parse_networks
from preimage.cli._shared import Output, command_line, plural, reporting
from preimage.facts import bytes_text


@reporting
def report(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCES",
            help="Folders or names of inverters, folders of training runs, or feature stores.",
            autocompletion=complete_inverter,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the page.")],
    images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGES",
            help="Photographs to measure on, as for preimage evaluate. Repeatable. Default: a run's validation images.",
        ),
    ] = None,
    database: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGES", help="Other photographs, of which the nearest neighbor is compared. Repeatable."
        ),
    ] = None,
    network: Networks = None,
    perturbations: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="Perturbations of the features, separated by commas, such as dropout-25,binarize."
        ),
    ] = "",
    title: Annotated[str | None, typer.Option(help="Heading of the page. Default: the names of the sources.")] = None,
    size: Size = None,
    show_count: Annotated[int, typer.Option(help="Number of photographs shown for each source.")] = 12,
    samples: Annotated[
        int, typer.Option(help="Number of samples for the map of what the features determine; 0 for none.")
    ] = 8,
    seed: Annotated[int, typer.Option(help="Seed of samples, perturbations and bootstrap resamples.")] = 0,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Write a page about inverters or feature stores.

    The page is a single file that can be sent to others.

    Example: preimage report hog-compact -o report/ --images val/
    """
    from preimage.reports.report import report as run

    out = Output(json)
    networks = parse_networks(network)
    with out.progress("reporting") as progress:
        summary = run(
            sources,
            output,
            images=images or None,
            database=database or None,
            network=networks,
            perturbations=tuple(perturbations.split(",")) if perturbations else (),
            title=title,
            size=size,
            show_count=show_count,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            device=device,
            skip_bad=skip_bad,
            command=command_line(),
            progress=progress,
        )
    for score in summary.scores:
        if score.error is not None:
            interval = f"({score.error.low:.3f} to {score.error.high:.3f})"
            out.say(
                f"{score.source}: normalized error {score.error.mean:.3f} {interval}, {plural(score.images, 'image')}"
            )
    out.skipped(summary.skipped, summary.notes)
    out.say(f"wrote {summary.page}, {bytes_text(summary.bytes)}")
    out.finish(summary)
