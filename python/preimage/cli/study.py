"""``preimage study``: questions put to an inverter, each answered by one page."""

from __future__ import annotations

import typer

from preimage.cli.study_disclosure import disclosure

study = typer.Typer(
    help="Measure what features reveal: every study writes its answer as one page.", no_args_is_help=True
)
study.command()(disclosure)


@study.callback()
def _one_command_a_study() -> None:
    """Keeps the name of a study on the command line while there is only one."""
