"""The command line: one file a command, each a call of the library.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from preimage.cli.convert import convert
from preimage.cli.demo import demo
from preimage.cli.doctor import doctor
from preimage.cli.evaluate import evaluate
from preimage.cli.extract import extract
from preimage.cli.info import info
from preimage.cli.invert import invert
from preimage.cli.layers import layers
from preimage.cli.merge import merge
from preimage.cli.sheet import sheet
from preimage.cli.study import study
from preimage.cli.train import train
from preimage.cli.verify import verify
from preimage.cli.weights import weights

app = typer.Typer(
    name="preimage",
    help="Turn visual features back into images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (extract, invert, train, evaluate, sheet, info, convert, merge, verify, layers, doctor, demo):
    app.command()(_command)
app.add_typer(study, name="study")
app.add_typer(weights, name="weights")


def _version(wanted: bool) -> None:
    if wanted:
        from preimage import __version__

        typer.echo(f"preimage {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the ``preimage`` command. Exits 0; 1 on an error; 2 on a usage error; 130 on Ctrl-C."""
    app(prog_name="preimage")
