"""The one error of every file reader."""

from __future__ import annotations

from os import PathLike


class FileFormatError(ValueError):
    """A file is damaged, foreign, or of another version.

    Attributes:
        path: the file, as the caller named it.
        problem: what came and what would be right.
    """

    def __init__(self, path: str | PathLike[str], problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = str(path)
        self.problem = problem

    def __reduce__(self) -> tuple[type[FileFormatError], tuple[str, str]]:
        return type(self), (self.path, self.problem)  # survives the way back from a worker process
