"""Recognize a folder on other machines, and the run that writes to it."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

_PATIENCE = 10.0  # seconds that a network file system may take to show a new file


@contextlib.contextmanager
def folder_token(folder: Path) -> Iterator[Path]:
    """Write an empty file to a folder, by which other machines recognize it, and delete it at the end.

    In the folder of a store the next run deletes it, if this process is killed.

    Args:
        folder: An existing folder.
    """
    token = folder.absolute() / f".preimage-{secrets.token_hex(8)}.run"
    token.touch()
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


def check_shared(token: Path) -> None:
    """Raise ``ValueError`` if this machine does not find the file of `folder_token`."""
    deadline = time.monotonic() + _PATIENCE
    while not token.exists():
        if time.monotonic() > deadline:
            raise ValueError(
                f"{token.parent}: a worker does not find the driver's file {token.name} there; the output must be on a "
                "file system that all nodes of the cluster share"
            )
        time.sleep(0.1)


def check_running(token: Path) -> None:
    """Raise ``ValueError`` if the run has ended, because another one may be writing to the folder."""
    if not token.exists():
        raise ValueError(f"{token.parent}: the run that this worker belongs to has ended")
