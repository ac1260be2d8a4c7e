"""What a representation is: its summary, parameters and presets."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from preimage.representations import base


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of a representation.

    Attributes:
        name: Name, as in ``--param NAME=VALUE``.
        type: Type of its values as text, such as ``int``.
        default: Value that is used where none is given.
        help: Meaning, one sentence.
    """

    name: str
    type: str
    default: Any
    help: str


@dataclasses.dataclass(frozen=True)
class RepresentationDescription:
    """A representation as `preimage representations` shows it.

    Attributes:
        name: Name in specs, files and on the command line.
        summary: One sentence.
        parameters: Parameters in order.
        presets: Names of the inverter architectures for it.
    """

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    presets: tuple[str, ...]


def describe_representation(name: str) -> RepresentationDescription:
    """Return a representation's summary, parameters and presets.

    Args:
        name: Name of a representation, or ``torch:package.module:factory``, which is not imported.

    Raises:
        ValueError: There is no such representation.
    """
    from preimage.inverters.presets import preset_names  # imports torch

    maker = _maker(name)
    summary = (inspect.getdoc(maker) or "").partition("\n")[0]
    return RepresentationDescription(name, summary, tuple(_parameters(name)), tuple(preset_names(name)))


def describe_representations() -> list[RepresentationDescription]:
    """Return the descriptions of all representations, plug-ins included, sorted by name."""
    return [describe_representation(name) for name in base.names()]


def _maker(name: str) -> Callable[..., base.Representation]:
    return base._family(name) or base._kind(name)


def _parameters(name: str) -> Iterator[Parameter]:
    maker = _maker(name)
    types = {one.name: one.annotation for one in inspect.signature(maker).parameters.values()}
    fields = {field.name: field for field in dataclasses.fields(maker)} if dataclasses.is_dataclass(maker) else {}
    for parameter, default in base.parameters(name).items():
        meaning = fields[parameter].metadata.get("help", "") if parameter in fields else ""
        annotation = types[parameter]
        text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
        yield Parameter(parameter, text, default, meaning)
