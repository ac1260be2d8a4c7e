"""Command ``preimage explore``: explore features and reconstructions in the browser."""

from __future__ import annotations

from typing import Annotated

import typer

from preimage.cli._options import Device, Json, Networks, complete_inverter, parse_networks
from preimage.cli._shared import Output, reporting


@reporting
def explore(
    inverter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INVERTER",
            help="Folder or name of an inverter, besides the pretrained ones. Repeatable.",
            autocompletion=complete_inverter,
        ),
    ] = None,
    network: Networks = None,
    size: Annotated[
        int, typer.Option(help="Side of the photographs in pixels, for representations that take any size.")
    ] = 256,
    device: Device = "auto",
    host: Annotated[
        str, typer.Option(help="Address to serve the page at. With the default, only this computer can open it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve the page at; 0 takes any free one.")] = 7860,
    open_browser: Annotated[
        bool, typer.Option("--open-browser/--no-browser", help="Open the page in the browser.")
    ] = True,
    json: Json = False,
) -> None:
    """Explore features and reconstructions in the browser.

    Ctrl-C ends it. Needs pip install 'preimage[app]'.

    Example: preimage explore --inverter runs/mine --port 7861
    """
    from preimage.app import explore as run

    out = Output(json)

    def ready(address: str) -> None:
        out.say(f"exploring at {address} (Ctrl-C ends it)")
        out.finish({"address": address})

    run(
        inverter=inverter,
        network=parse_networks(network),
        size=size,
        device=device,
        host=host,
        port=port,
        open_browser=open_browser,
        ready=ready,
    )
