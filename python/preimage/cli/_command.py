"""Help pages that show arguments as upper-case names, the same with every version of typer."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

_TYPE = re.compile(r"<(int|float|path)>$")  # as newer versions of typer write INT, FLOAT and PATH


class Command(TyperCommand):
    """Command whose usage line reads ``preimage extract [OPTIONS] REPRESENTATION IMAGES...``.

    Contexts and formatters are click's, or those of typer's copy of click.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line behind the name of the command."""
        arguments = [one for one in self.get_params(ctx) if one.param_type_name == "argument"]
        return ["[OPTIONS]", *(_name(one) if one.required else f"[{_name(one)}]" for one in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections of arguments and options."""
        rows: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                name = _name(parameter) if is_argument else _TYPE.sub(lambda match: match[1].upper(), record[0])
                rows[parameter.param_type_name].append((name, record[1]))
        for title, records in (("Arguments", rows["argument"]), ("Options", rows["option"])):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _name(argument: Any) -> str:
    """Return ``IMAGES...`` or ``FEATURES`` for an argument."""
    return (argument.metavar or argument.name.upper()) + ("..." if argument.nargs != 1 else "")
