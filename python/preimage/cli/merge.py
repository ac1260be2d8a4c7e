"""Command ``preimage merge``: merge the stores of a distributed extraction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._options import Json
from preimage.cli._shared import Output, plural, reporting
from preimage.facts import describe_spec


@reporting
def merge(
    stores: Annotated[
        list[Path], typer.Argument(metavar="STORES", help="The N stores written by preimage extract --shard I/N.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new store.")],
    json: Json = False,
) -> None:
    """Merge the stores of a distributed extraction.

    The features are not read: shards are hard-linked where the file system supports it, and copied otherwise.

    Example: preimage merge part-0 part-1 -o photos.hog
    """
    from preimage.store import merge as run

    show = Output(json)
    store = run(stores, output)
    show.say(describe_spec(store.spec))
    show.say(f"wrote {plural(len(store), 'image')} to {output}")
    show.finish({"output": output, "images": len(store), "spec": store.spec})
