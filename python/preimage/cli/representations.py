"""Command ``preimage representations``: list the representations and describe their parameters."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from preimage.cli._options import Json, complete_representation
from preimage.cli._shared import Output, reporting

if TYPE_CHECKING:
    from preimage.representations import RepresentationInfo


_ANY_NETWORK = "torch:package.module:factory"


@reporting
def representations(
    name: Annotated[
        str | None,
        typer.Argument(help="Representation to describe. Default: list all.", autocompletion=complete_representation),
    ] = None,
    json: Json = False,
) -> None:
    """List the representations, or describe one.

    The description contains the parameters and the inverter architectures.

    Example: preimage representations hog
    """
    from preimage.representations import describe_representation, list_representations

    show = Output(json)
    if name is None:
        found = [describe_representation(known) for known in list_representations()]
        width = len(_ANY_NETWORK)
        for one in found:
            show.say(f"{one.name:<{width}}  {one.summary}")
        show.say(f"{_ANY_NETWORK:<{width}}  A layer of the torch network that a function returns.")
        show.finish({"representations": found})
        return
    described = describe_representation(name)
    _show(show, described)
    show.finish(described)


def _show(show: Output, described: RepresentationInfo) -> None:
    show.say(f"{described.name}: {described.summary}")
    show.say("")
    for parameter in described.parameters:
        default = "none" if parameter.default is None else repr(parameter.default)
        show.say(f"  -p {parameter.name}=<{parameter.type.removesuffix(' | None')}>  [default: {default}]")
        for line in textwrap.wrap(parameter.help, 70):
            show.say(f"      {line}")
    show.say("")
    if names := described.channel_names:
        show.say(f"{len(names)} channels with the defaults: {'; '.join(names[:2])}; …; {names[-1]}")
    # Those of `preimage.inverters.plan.check_preset`; without presets of its own the paper's network fits any features.
    presets = dict.fromkeys((*(described.presets or ("paper",)), "compact", "wide", "auto"))
    show.say(f"Architectures (preimage train --preset): {', '.join(presets)}")
