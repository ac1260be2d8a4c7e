"""``preimage merge``: stores that hold shares of the same extraction into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli._shared import Json, Output, describe_spec, plural, reporting


@reporting
def merge(
    stores: Annotated[list[Path], typer.Argument(help="The n stores that `preimage extract --shard i/n` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new store.")],
    json: Json = False,
) -> None:
    """Join the stores of an extraction that was shared out into one, without reading their features.

    The shards are linked where the file system can, and copied otherwise. The stores are left as they are.
    """
    from preimage.store import merge as run

    show = Output(json)
    store = run(stores, output)
    show.say(describe_spec(store.spec))
    show.say(f"wrote {plural(len(store), 'image')} to {output}")
    show.finish({"output": output, "images": len(store), "spec": store.spec})
