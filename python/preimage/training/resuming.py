"""Check the folder and settings before a run starts, or resumes from the checkpoint in the folder."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from preimage.io.folders import check_output_folder
from preimage.io.locks import folder_lock
from preimage.spec import Spec
from preimage.training import checkpoint
from preimage.training.checkpoint import CHECKPOINT, Progress
from preimage.training.config import TrainConfig
from preimage.training.split import ImageList


class Earlier(NamedTuple):
    """The run stored in a checkpoint."""

    config: TrainConfig
    progress: Progress
    spec: Spec
    images: ImageList


def check_folder(config: TrainConfig, *, resume: bool) -> tuple[tuple[int, int] | None, Earlier | None]:
    """Return the `stamp` of the checkpoint in the folder of a run, and the run that is stored there.

    Raises:
        ValueError: The folder contains a run and `resume` is not set, or a run with other settings; or another run is
            training into it.
        OSError: The folder cannot be created or written to.
        FileFormatError: The checkpoint is damaged or of another version.
    """
    folder = Path(config.output)
    path = folder / CHECKPOINT
    check_output_folder(folder)
    before = stamp(path)
    if before is not None and not resume:
        raise ValueError(f"{folder} contains a run already: resume it (--resume), or train into another folder")
    if folder.exists():
        with only_run(folder):
            pass  # reports another run at once, instead of after all images have been inspected
    return before, None if before is None else read_earlier(path, config)


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


def stamp(path: Path) -> tuple[int, int] | None:
    """Return a value that changes when a file is replaced; ``None`` if there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def only_run(folder: Path) -> AbstractContextManager[None]:
    """Return a context that holds the folder's lock; a ``ValueError`` on entering if another run holds it."""

    def refuse(waited: float) -> None:
        raise ValueError(f"another run is training into {folder}: wait for it, or train into another folder")

    return folder_lock(folder, refuse)
