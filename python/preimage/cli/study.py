"""``preimage study``: questions put to inverters, each answered by one page."""

from __future__ import annotations

import typer

from preimage.cli.study_disclosure import disclosure
from preimage.cli.study_layers import layers

study = typer.Typer(
    help="Measure what features reveal: every study writes its answer as one page.", no_args_is_help=True
)
for _command in (disclosure, layers):
    study.command()(_command)
