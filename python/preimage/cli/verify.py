"""Command ``preimage verify``: compare stored features with their checksums."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._options import Json
from preimage.cli._shared import CommandError, Output, plural, reporting


@reporting
def verify(
    features: Annotated[list[Path], typer.Argument(metavar="FEATURES", help="Feature stores (folders or files).")],
    json: Json = False,
) -> None:
    """Compare feature stores with their checksums.

    The exit code is 1 if any is damaged.

    Example: preimage verify photos.hog
    """
    from preimage.pipelines.verify import verify as run

    show = Output(json)
    results = run(features)
    for result in results:
        if not result.problems:
            show.say(f"{result.path}: {plural(result.images, 'image')}, intact")
        for problem in result.problems:
            show.say(problem)
    damaged = [result for result in results if result.problems]
    show.finish({"damaged": {result.path: result.problems for result in damaged}})
    if damaged:
        raise CommandError(f"{len(damaged)} of {plural(len(results), 'store')} damaged or not readable")
