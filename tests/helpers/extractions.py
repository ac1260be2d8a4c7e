"""Read the files of feature stores, and stop extractions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def contents(store: Path) -> dict[str, bytes]:
    """Return the contents of every file of a store except the lock, by name."""
    files = [store] if store.is_file() else sorted(file for file in store.iterdir() if file.name != ".lock")
    return {file.name: file.read_bytes() for file in files}


class Stop(Exception):  # noqa: N818 - it stops a run, nothing went wrong
    """Exception of `stop_after`."""


def stop_after(images: int) -> Callable[[int, int], None]:
    """Return a callback for progress that raises `Stop` once this number of images is done."""

    def progress(done: int, total: int) -> None:
        if done >= images:
            raise Stop

    return progress
