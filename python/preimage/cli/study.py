"""Command group ``preimage study``: measurements over many images, each of which writes one page."""

from __future__ import annotations

import typer

from preimage.cli._command import Command
from preimage.cli.study_budget import budget
from preimage.cli.study_color import color
from preimage.cli.study_disclosure import disclosure
from preimage.cli.study_interpolate import interpolate
from preimage.cli.study_layers import layers
from preimage.cli.study_perturb import perturb
from preimage.cli.study_random import random

study = typer.Typer(help="Measure what features reveal.\n\nEach study writes one HTML page.", no_args_is_help=True)
for _command in (budget, color, disclosure, interpolate, layers, perturb, random):
    study.command(cls=Command)(_command)
