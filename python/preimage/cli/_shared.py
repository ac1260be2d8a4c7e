"""What all commands share: options, errors in one line, results as text or JSON, progress."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ParamSpec, TypeVar, get_type_hints

import typer

from preimage.errors import brief, is_out_of_memory
from preimage.spec import Spec

P = ParamSpec("P")
R = TypeVar("R")

# One option for each parameter of any representation, with what the representations take by themselves.
_CELL_SIZE = "Side of a feature cell in pixels (hog: 8, lbp: 16, sift: 4)."
_VARIANT = (
    "Definition to follow (hog: vlfeat-uoctti, lbp: vlfeat-uniform, dense-sift: vlfeat-dsift[-flat], "
    "sift: vlfeat or opencv, alexnet-...: caffenet, bvlc or torchvision)."
)
_WEIGHTS = "File of a network's weights (of alexnet-... also the digest of imported ones)."
_PREPROCESSING = (
    "How a network takes its pixels: caffe-bgr, imagenet-rgb or, of torch:..., unit (alexnet-...: as the weights say)."
)
_LAYER = "Of a network; `preimage layers` lists them (efficientnet-lite0: pooled)."
_OUTPUT_LAYOUT = (
    "Of a network's layer: auto, nchw, nhwc, vector; or where its class token is, if not in front: tokens-middle, "
    "tokens-last, tokens-at-N (torch: auto)."
)
_PARAMETERS: dict[str, Any] = {
    "cell_size": Annotated[int | None, typer.Option("--cell-size", help=_CELL_SIZE)],
    "step": Annotated[int | None, typer.Option("--step", help="Pixels between descriptors (dense-sift: 4).")],
    "bin_size": Annotated[int | None, typer.Option("--bin-size", help="Side of a bin in pixels (dense-sift: 4).")],
    "window_size": Annotated[
        float | None, typer.Option("--window-size", help="Width of the window in bins (dense-sift: 2).")
    ],
    "descriptor_scale": Annotated[
        float | None, typer.Option("--descriptor-scale", help="Length of a descriptor on the grid (sift: 1).")
    ],
    "variant": Annotated[str | None, typer.Option("--variant", help=_VARIANT)],
    "color": Annotated[
        str | None, typer.Option("--color", help="What becomes of color: luma or strongest channel (hog: luma).")
    ],
    "weights": Annotated[str | None, typer.Option("--weights", help=_WEIGHTS)],
    "preprocessing": Annotated[str | None, typer.Option("--preprocessing", help=_PREPROCESSING)],
    "layer": Annotated[str | None, typer.Option("--layer", help=_LAYER)],
    "output_layout": Annotated[str | None, typer.Option("--output-layout", help=_OUTPUT_LAYOUT)],
    "input_size": Annotated[
        int | None, typer.Option("--input-size", help="Side of a network's images in pixels (torch: 224).")
    ],
}
Parameters = Mapping[str, Any]
NO_PARAMETERS: Parameters = MappingProxyType({})
Layout = Annotated[
    str | None,
    typer.Option("--layout", help="Of plain arrays: preimage, matlab, matlab-transposed or cyvlfeat."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be used, and list them.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Images computed at once.")]


class CommandError(Exception):
    """An error of ours that a command wants told in one line."""


# Typer's way to end a command; the base of its usage errors is click's, or typer's copy of that.
_TYPERS_OWN: tuple[type[Exception], ...] = (typer.Exit, typer.Abort, *typer.BadParameter.__bases__)
_TOLD_IN_FULL = (CommandError, ValueError, TypeError, OSError, LookupError, ImportError)  # of input and files
_HOW_TO_SEE_MORE = " (PREIMAGE_DEBUG=1 shows where)"
_OF_MEMORY = ("batch_size", "size", "max_side")  # options that decide how much memory a command takes


def reporting(function: Callable[P, R]) -> Callable[P, R]:
    """Every error becomes ``error: ...`` on stderr and exit code 1, Ctrl-C becomes 130.

    Errors of memory name the command's options that it depends on. Only our own mistakes (an assertion, an attribute or
    a name that is not there, in our code) keep their traceback; with ``PREIMAGE_DEBUG=1`` every error does.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise  # the reader of our output went away: nothing to tell it
        except _TYPERS_OWN:
            raise
        except Exception as error:
            if os.environ.get("PREIMAGE_DEBUG", "0") not in ("", "0") or _is_bug(error):
                raise
            line = _one_line(error)
            if any(is_out_of_memory(cause) for cause in _causes(error)):
                line = f"{'out of memory: ' if is_out_of_memory(error) else ''}{line}; {_less_memory(function)}"
            typer.echo(f"error: {line}", err=True)
            raise typer.Exit(1) from None

    return run


def _less_memory(command: Callable[..., Any]) -> str:
    taken = inspect.signature(command).parameters
    options = [f"--{option.replace('_', '-')}" for option in _OF_MEMORY if option in taken]
    return f"a smaller {' or '.join(options)} takes less" if options else "smaller files or images take less"


def _is_bug(error: Exception) -> bool:
    """Return whether an error says that code of ours is wrong, which a traceback tells best."""
    if not isinstance(error, AssertionError | AttributeError | NameError):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    return Path(frames[-1][0].f_code.co_filename).is_relative_to(Path(__file__).parents[1])


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def with_parameters(function: Callable[..., R]) -> Callable[..., R]:
    """Gives a command the options of all representations' parameters, in place of its argument `parameters`.

    Those that were given (are not None) arrive as the dictionary `parameters`.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> R:
        chosen = {name: kwargs.pop(name, None) for name in _PARAMETERS}
        return function(*args, parameters=given(**chosen), **kwargs)

    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    after: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name == "parameters":
            options = _PARAMETERS.items()
            after += [parameter.replace(name=option, default=None, annotation=kind) for option, kind in options]
        else:
            after.append(parameter.replace(annotation=hints[name]))
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in after}
    run.__signature__ = signature.replace(parameters=after)  # type: ignore[attr-defined]
    return run


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"  # without the number that str() puts first
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])  # str() would quote it
    if isinstance(error, _TOLD_IN_FULL) and str(error).strip():
        return " ".join(str(error).split())
    return f"{brief(error)}{_HOW_TO_SEE_MORE}"


def given(**values: Any) -> dict[str, Any]:
    """The options that were given (are not None)."""
    return {name: value for name, value in values.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Output:
    """Where a command's words go: stdout for a person; with ``--json`` stderr, and one object on stdout."""

    json: bool

    def say(self, line: str) -> None:
        """A line for a person."""
        typer.echo(line, err=self.json)

    def left_out(self, skipped: Sequence[tuple[str, str]], notes: Sequence[str] = ()) -> None:
        """Print what was skipped, one line each, with their number; and sentences about what was not read."""
        for _, problem in skipped:
            self.say(f"skipped {problem}")
        if skipped:
            self.say(f"{plural(len(skipped), 'image')} skipped")
        for note in notes:
            self.say(note)

    def finish(self, result: Any) -> None:
        """The one JSON object, if that was asked for."""
        if self.json:
            typer.echo(json.dumps(plain(result), allow_nan=False))

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """A callback (done, total) that shows a bar on a terminal, and now and then a line elsewhere."""
        if sys.stderr.isatty() and has_rich():
            with _bar(label) as show:
                yield show
        else:
            yield _lines(label)


def has_rich() -> bool:
    """Return whether rich, which draws the progress bars, imports; plain lines do without."""
    try:
        importlib.import_module("rich.progress")
    except Exception:  # a broken installation raises anything
        return False
    return True


@contextmanager
def _bar(label: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(label: str, seconds: float = 10.0) -> Callable[[int, int], None]:
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            typer.echo(f"{label} {done}/{total}", err=True)

    return show


def plain(value: Any) -> Any:
    """A summary as plain JSON values; numbers that JSON lacks become null."""
    if isinstance(value, Spec):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def describe_spec(spec: Spec) -> str:
    """One phrase: ``hog vlfeat-uoctti (cell_size 8, color luma), 31 channels``."""
    parameters = ", ".join(f"{name} {value}" for name, value in spec.parameters.items())
    return f"{spec.representation} {spec.variant} ({parameters}), {spec.channels} channels"


def bytes_text(count: int) -> str:
    """A number of bytes for a person."""
    for factor, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def plural(count: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
