"""The command line: one file per command, each of which calls one library function.

Heavy imports wait until a command runs, so that ``--help`` and shell completion are fast.
"""

from __future__ import annotations

from typing import Annotated

import typer

from preimage.cli._command import Command
from preimage.cli.audit import audit
from preimage.cli.compare import compare
from preimage.cli.convert import convert
from preimage.cli.demo import demo
from preimage.cli.doctor import doctor
from preimage.cli.evaluate import evaluate
from preimage.cli.explore import explore
from preimage.cli.export import export
from preimage.cli.extract import extract
from preimage.cli.film import film
from preimage.cli.info import info
from preimage.cli.invert import invert
from preimage.cli.layers import layers
from preimage.cli.look import look
from preimage.cli.merge import merge
from preimage.cli.report import report
from preimage.cli.representations import representations
from preimage.cli.sheet import sheet
from preimage.cli.study import study
from preimage.cli.train import train
from preimage.cli.verify import verify
from preimage.cli.weights import weights

app = typer.Typer(
    name="preimage",
    help="Turn visual features back into images.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text is easier to read in 80 columns
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    *(demo, look, extract, invert, train, evaluate, compare, report, sheet, audit, explore, film),
    *(representations, layers, info, verify, convert, export, merge, doctor),
):
    app.command(cls=Command)(_command)
app.add_typer(study, name="study")
app.add_typer(weights, name="weights")


def _version(requested: bool) -> None:
    if requested:
        from preimage import __version__

        typer.echo(f"preimage {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the ``preimage`` command. Exit codes: 0, 1 for an error, 2 for a usage error, 130 for Ctrl-C."""
    app(prog_name="preimage")
