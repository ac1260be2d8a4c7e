"""Define options that several commands share, and parse their values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from preimage.representations import Network, Representation


_NUMBERS: dict[str, tuple[Callable[[str], object], str]] = {"int": (int, "an integer"), "float": (float, "a number")}


def complete_representation(incomplete: str) -> list[str]:
    """Return the representations whose names begin with a text, for shell completion."""
    from preimage.representations import list_representations

    return [name for name in list_representations() if name.startswith(incomplete)]


def complete_inverter(incomplete: str) -> list[str]:
    """Return the pretrained inverters whose names begin with a text, for shell completion, without importing torch."""
    from importlib import resources

    folder = resources.files("preimage") / "inverters" / "weights"
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    return [name for name in names if name.startswith(incomplete)]


Images = Annotated[
    list[str], typer.Argument(metavar="IMAGES", help="Folders, image files, or tar or Parquet shards; paths or URLs.")
]
RepresentationName = Annotated[
    str,
    typer.Argument(
        help="Representation to compute; `preimage representations` lists them.",
        autocompletion=complete_representation,
    ),
]
Params = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-p",
        metavar="KEY=VALUE",
        help="Parameter of the representation; `preimage representations NAME` lists them. Repeatable.",
    ),
]
InverterOption = Annotated[
    str | None,
    typer.Option(
        metavar="INVERTER",
        help="Folder or name of an inverter. Default: the pretrained one for these features.",
        autocompletion=complete_inverter,
    ),
]
Inverters = Annotated[
    list[str] | None,
    typer.Option(
        metavar="INVERTER",
        help="Folder or name of an inverter. Repeatable. Default: the pretrained ones.",
        autocompletion=complete_inverter,
    ),
]
RepresentationOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Representation that it inverts, for a layer of a network: torch:package.module:factory.",
        autocompletion=complete_representation,
    ),
]
LayerInverters = Annotated[
    list[str],
    typer.Option(
        "--inverter",
        metavar="INVERTER",
        help="Folder or name of an inverter; repeatable, one column each, in this order.",
        autocompletion=complete_inverter,
    ),
]
Networks = Annotated[
    list[str] | None,
    typer.Option(
        "--network",
        metavar="NAME[,KEY=VALUE...]",
        help="Network of the inverters, torch:package.module:factory, with its weights=FILE, input_size=PIXELS and "
        "preprocessing=NAME. Repeatable.",
    ),
]
StudyFolder = Annotated[Path, typer.Option("--output", "-o", help="Folder for the page, table, plot and images.")]
Size = Annotated[
    int | None,
    typer.Option(
        help="Resize and center-crop images to this many pixels a side. Default: the representation's size, or 256."
    ),
]
Convention = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Axis convention of plain arrays: preimage, matlab, matlab-transposed or cyvlfeat."
    ),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="Device: auto, cpu, cuda or cuda:N.")]
Precision = Annotated[str, typer.Option(metavar="DTYPE", help="Precision: auto, float32 or bfloat16.")]
BatchSize = Annotated[int, typer.Option(help="Batch size.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip and list images that cannot be used.")]
Engine = Annotated[
    str, typer.Option(metavar="NAME", help="Where to compute: local, or ray for the workers of a Ray cluster.")
]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", help="Number of workers on Ray. Default: one for each GPU, or for each node without."),
]
Csv = Annotated[Path | None, typer.Option(help="CSV file to write the scores to.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, all other text on stderr.")]


def create(representation: str, params: Sequence[str] | None) -> Representation:
    """Return the representation with the parameters of ``--param``."""
    from preimage.representations import create_representation

    return create_representation(representation, **parameters_of(representation, params))


def create_if_named(representation: str | None, params: Sequence[str] | None) -> Representation | None:
    """Return the representation of ``--representation`` and ``--param``; ``None`` without one."""
    if representation is not None:
        return create(representation, params)
    if params:
        raise usage_error("--param", f"{params[0]} needs --representation")
    return None


def parameters_of(representation: str, params: Sequence[str] | None) -> dict[str, Any]:
    """Return a representation's parameters from ``KEY=VALUE`` texts, as values of their types."""
    if not params:
        return {}
    from preimage.representations import describe_representation

    known = {parameter.name: parameter.type for parameter in describe_representation(representation).parameters}
    return parse_parameters(params, known, representation, "--param")


def parse_parameters(texts: Sequence[str], known: Mapping[str, str], owner: str, option: str) -> dict[str, Any]:
    """Return the values of ``KEY=VALUE`` texts by name.

    Args:
        texts: Texts as given on the command line; a later one overrides an earlier one of the same name.
        known: Type of each parameter by name, as written in Python: ``"int"``, ``"str | None"``.
        owner: Name of the object that has these parameters, for error messages.
        option: Option that the texts were given to, for error messages.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise usage_error(option, f"expected KEY=VALUE, such as cell_size=8, got {text!r}")
        if name not in known:
            raise usage_error(option, f"{owner} has no parameter {name!r}; it has {', '.join(known) or 'none'}")
        try:
            values[name] = _parse(value, known[name].removesuffix(" | None"))
        except ValueError as error:
            raise usage_error(option, f"{name} must be {error}, got {value!r}") from None
    return values


def keyword_types(function: Callable[..., Any]) -> dict[str, str]:
    """Return the types of a function's keyword-only parameters by name, as written."""
    parameters = inspect.signature(function).parameters.values()
    return {one.name: str(one.annotation) for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}


def parse_networks(texts: Sequence[str] | None) -> list[Network | Representation]:
    """Return the networks of texts ``NAME[,KEY=VALUE...]``."""
    if not texts:
        return []
    from preimage.representations.network_factory import load

    known = keyword_types(load)
    split = [text.split(",") for text in texts]
    return [load(name, **parse_parameters(options, known, "a network", "--network")) for name, *options in split]


def _parse(text: str, kind: str) -> object:
    """Return the text as a value of a type; the ``ValueError`` contains the expected type."""
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise ValueError("true or false")
        return text.lower() == "true"
    if kind not in _NUMBERS:
        return text
    convert, expected = _NUMBERS[kind]
    try:
        return convert(text)
    except ValueError:
        raise ValueError(expected) from None


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return (H, W) from ``HxW``."""
    if text is None:
        return None
    height, _, width = text.lower().replace("×", "x").partition("x")
    size = _whole(height), _whole(width)
    if min(size) < 1:
        raise usage_error("--size", f"expected HxW (height x width in pixels), such as 480x640, got {text!r}")
    return size


def parse_shard(text: str) -> tuple[int, int]:
    """Return (i, n) from ``I/N``."""
    first, _, count = text.partition("/")
    shard = _whole(first), _whole(count)
    if not 0 <= shard[0] < shard[1]:
        raise usage_error("--shard", f"expected I/N with I below N, such as 0/2 and 1/2, got {text!r}")
    return shard


def _whole(text: str) -> int:
    """Return a whole number of at most 18 digits; -1 for other text."""
    return int(text) if text.isdecimal() and len(text) <= 18 else -1


def parse_numbers(text: str, option: str) -> list[float]:
    """Return the numbers of ``5,10,100``."""
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise usage_error(option, f"expected numbers separated by commas, such as 5,20,100, got {text!r}") from None


def usage_error(option: str, problem: str) -> Exception:
    """Return the error of an option whose value cannot be parsed: exit code 2."""
    return typer.BadParameter(problem, param_hint=f"'{option}'")
