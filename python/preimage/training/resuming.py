"""Check the folder and settings before a run starts, or resumes from the checkpoint in the folder."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import NamedTuple

from preimage.spec import Spec
from preimage.training import checkpoint
from preimage.training.checkpoint import Progress
from preimage.training.config import TrainConfig
from preimage.training.split import ImageList


class Earlier(NamedTuple):
    """The run stored in a checkpoint."""

    config: TrainConfig
    progress: Progress
    spec: Spec
    images: ImageList


def read_earlier(path: Path, config: TrainConfig) -> Earlier:
    """Read the run stored in a checkpoint.

    Raises:
        ValueError: Its settings differ from `config`.
        FileFormatError: The checkpoint is damaged or of another version.
    """
    earlier, progress = checkpoint.read_header(path)
    # The size of the images may be determined only when the dataset is opened.
    check_settings(dataclasses.replace(config, size=config.size or earlier.size), earlier)
    return Earlier(earlier, progress, checkpoint.read_spec(path), checkpoint.read_images(path))


def check_settings(now: TrainConfig, then: TrainConfig) -> None:
    """Raise a ``ValueError`` if settings that change the loss curve differ."""
    if changes := now.changes(then):
        raise ValueError(f"{now.output} contains a run with other settings (requested != stored): {'; '.join(changes)}")


def check_folder(folder: Path) -> None:
    """Raise an ``OSError`` for a folder that cannot be created or written to, before hours of work depend on it."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file; the output of a run must be a folder", str(existing))
    if not os.access(existing, os.W_OK):
        raise PermissionError(errno.EACCES, "is a folder that cannot be written to", str(existing))


def stamp(path: Path) -> tuple[int, int] | None:
    """Return a value that changes when a file is replaced; ``None`` if there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def refuse_second_run(folder: Path) -> None:
    """Raise a ``ValueError`` because another run holds the folder's lock."""
    raise ValueError(f"another run is training into {folder}: wait for it, or train into another folder")
