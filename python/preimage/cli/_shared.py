"""Provide what all commands share: one-line errors, results as text or JSON, and progress."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import json
import math
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import typer

from preimage.errors import brief, is_out_of_memory
from preimage.spec import Spec

if TYPE_CHECKING:
    from preimage.studies.base import StudySummary

P = ParamSpec("P")
R = TypeVar("R")


class CommandError(Exception):
    """User-facing error, printed without a traceback."""


# Exceptions that typer handles itself; the base of its usage errors is click's, or typer's copy of that.
_TYPER_EXCEPTIONS: tuple[type[Exception], ...] = (typer.Exit, typer.Abort, *typer.BadParameter.__bases__)
# Errors of input and files: their messages are complete without the type.
_USER_ERRORS = (CommandError, ValueError, TypeError, OSError, LookupError, ImportError)
_DEBUG_HINT = " (PREIMAGE_DEBUG=1 prints the traceback)"
_MEMORY_OPTIONS = ("batch_size", "size", "max_side")  # options that determine how much memory a command needs


def reporting(function: Callable[P, R]) -> Callable[P, R]:
    """Report every error as ``error: ...`` on stderr with exit code 1, and Ctrl-C with 130.

    An out-of-memory error names the options that reduce memory use. Bugs in this package (assertion, attribute and name
    errors raised here) keep their traceback; with ``PREIMAGE_DEBUG=1`` every error does.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise  # the reader of the output has closed the pipe
        except _TYPER_EXCEPTIONS:
            raise
        except Exception as error:
            if os.environ.get("PREIMAGE_DEBUG", "0") not in ("", "0") or _is_bug(error):
                raise
            line = _one_line(error)
            if any(is_out_of_memory(cause) for cause in _causes(error)):
                line = f"{'out of memory: ' if is_out_of_memory(error) else ''}{line}; {_memory_hint(function)}"
            typer.echo(f"{_rank()}error: {line}", err=True)
            raise typer.Exit(1) from None

    return run


def _rank() -> str:
    """Return which process of several, started by ``torchrun``, reports an error; nothing if it is the only one."""
    several = os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ
    return f"rank {os.environ['RANK']}: " if several else ""


def _memory_hint(command: Callable[..., Any]) -> str:
    parameters = inspect.signature(command).parameters
    options = [f"--{option.replace('_', '-')}" for option in _MEMORY_OPTIONS if option in parameters]
    return f"reduce {' or '.join(options)}" if options else "use smaller files or images"


def _is_bug(error: Exception) -> bool:
    """Return whether an error was raised by a mistake in this package, which needs a traceback."""
    if not isinstance(error, AssertionError | AttributeError | NameError):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    return Path(frames[-1][0].f_code.co_filename).is_relative_to(Path(__file__).parents[1])


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and the errors that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"  # without the error number with which str() begins
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])  # str() would quote it
    if isinstance(error, _USER_ERRORS) and str(error).strip():
        return " ".join(str(error).split())
    return f"{brief(error)}{_DEBUG_HINT}"


@dataclasses.dataclass(frozen=True)
class Output:
    """Output of a command: text on stdout; with ``--json`` text on stderr and one JSON object on stdout."""

    json: bool

    def say(self, line: str) -> None:
        """Print a line of text."""
        typer.echo(line, err=self.json)

    def skipped(self, skipped: Sequence[tuple[str, str]], notes: Sequence[str] = ()) -> None:
        """Print the skipped images, one line each, their number, and notes."""
        for _, problem in skipped:
            self.say(f"skipped {problem}")
        if skipped:
            self.say(f"{plural(len(skipped), 'image')} skipped")
        for note in notes:
            self.say(note)

    def finish(self, result: Any) -> None:
        """Print the result as one JSON object, with ``--json``."""
        if self.json:
            typer.echo(json.dumps(plain(result), allow_nan=False))

    def finish_study(self, summary: StudySummary) -> None:
        """Print findings, notes, skipped images and the page of a study; with ``--json`` also its summary."""
        for line in (*summary.findings, *summary.notes):
            self.say(line)
        self.skipped(summary.skipped)
        self.say(f"wrote {summary.page}")
        self.finish(summary)

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """Yield a callback (done, total) that draws a progress bar on a terminal, and prints lines elsewhere.

        What libraries print meanwhile goes to stderr.
        """
        with redirect_stdout(sys.stderr):
            if sys.stderr.isatty() and has_rich():
                with _bar(label) as show:
                    yield show
            else:
                yield _lines(label)


def has_rich() -> bool:
    """Return whether rich, which draws the progress bars, can be imported."""
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
    """Return a summary as JSON values; NaN and infinity become null."""
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


def command_line() -> str:
    """Return the running command, as typed in a shell, without the credentials of URLs."""
    from preimage.io.urls import masked

    return masked(shlex.join(["preimage", *sys.argv[1:]]))


def plural(count: int, noun: str) -> str:
    """Return ``1 image``, ``2 images``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
