"""Where pictures go: never outside their folder."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from preimage.io import write_png
from preimage.io.atomic import key_problem
from preimage.pipelines.loading import Pixels


def folder_of(output: str | PathLike[str]) -> Path:
    """The folder that a job writes into, whether it is there or not; ``ValueError`` where a file is in its place."""
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and the output is a folder")
    return folder


def target_of(folder: Path, key: str) -> Path:
    """Where a key's picture goes; never outside the folder, not through a link either."""
    if problem := key_problem(key):
        raise ValueError(f"cannot name a picture: {problem}")
    target = folder / f"{key}.png"
    if not target.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the picture of key {key!r} would leave {folder}: a link leads out of it")
    return target


def write_picture(target: Path, picture: Pixels) -> None:
    """A PNG, and the folders above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_png(target, picture)
