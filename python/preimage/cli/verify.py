"""``preimage verify``: whether stored features are undamaged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._shared import CommandError, Json, Output, plural, reporting


@reporting
def verify(
    features: Annotated[list[Path], typer.Argument(help="Feature stores, or single files of features.")],
    json: Json = False,
) -> None:
    """Compare everything in feature stores with its checksums. Exits with 1 if something is damaged."""
    from preimage.errors import FileFormatError
    from preimage.store import FeatureStore

    show = Output(json)
    damaged: dict[str, list[str]] = {}
    for path in features:
        try:
            store = FeatureStore(path)
            problems = [str(problem) for problem in store.problems()]
        except FileFormatError as error:
            problems = [str(error)]
        else:
            if not problems:
                show.say(f"{path}: {plural(len(store), 'image')}, undamaged")
        damaged |= {str(path): problems} if problems else {}
        for problem in problems:
            show.say(problem)
    show.finish({"damaged": damaged})
    if damaged:
        raise CommandError(f"{plural(len(damaged), 'store')} of {len(features)} damaged")
