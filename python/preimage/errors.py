"""The exception of all file readers, and helpers for exceptions of the operating system and of other libraries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any


class FileFormatError(ValueError):
    """Error for a file that is damaged, of another format, or of an unknown version.

    Attributes:
        path: Path of the file, as given by the caller.
        problem: What was found, and what is expected.
    """

    def __init__(self, path: str | PathLike[str], problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = str(path)
        self.problem = problem

    def __reduce__(self) -> tuple[type[FileFormatError], tuple[str, str]]:
        return type(self), (self.path, self.problem)  # makes the error picklable, for worker processes


@contextmanager
def reader_errors(
    path: str | PathLike[str],
    kinds: tuple[type[Exception], ...],
    key: str = "",
    *,
    describe: Callable[[Exception, str], str] = lambda error, problem: problem,
) -> Iterator[None]:
    """Convert the errors that a damaged file causes in its reader to a `FileFormatError`.

    Args:
        path: Path of the file.
        kinds: Classes of the errors.
        key: Key of the image that is read; empty for the whole file.
        describe: Function that returns the problem for the user, given the error and its message on one line.
    """
    try:
        yield
    except FileFormatError:
        raise
    except kinds as error:
        problem = describe(error, " ".join(str(error).split()) or type(error).__name__)
        raise FileFormatError(path, f"{key!r}: {problem}" if key else problem) from error


def parse_json(text: str | bytes, **options: Any) -> Any:
    """Parse JSON as `json.loads` does.

    Raises:
        ValueError: The text is invalid, or nested too deeply.
    """
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("nested too deeply") from None


@contextmanager
def with_path(path: str | PathLike[str]) -> Iterator[None]:
    """Replace the path in errors of the operating system, which may be that of a temporary file, or none."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        del error.filename2
        raise


_NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory", "insufficient memory", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception of Python, NumPy, torch or OpenCV means that there was not enough memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    foreign = isinstance(error, RuntimeError) or type(error).__module__.partition(".")[0] == "cv2"
    return foreign and any(words in str(error).lower() for words in _NO_MEMORY)


def brief(error: BaseException) -> str:
    """Return an exception as one line: its type and its message, without the traceback that TorchScript adds."""
    text = str(error).strip()
    if text.startswith("The following operation failed in the TorchScript interpreter"):
        text = text.splitlines()[-1].partition("Error: ")[2] or text.splitlines()[-1]
    return ": ".join(filter(None, (type(error).__name__, " ".join(text.split())[:500])))
