"""Lock folders and files, so that one process at a time writes them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from preimage.errors import with_path
from preimage.io.folders import make_folders

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:  # POSIX
    msvcrt = None  # type: ignore[assignment]

LOCK = ".lock"  # lock file in a folder that one process writes at a time

_HELD = {getattr(errno, name) for name in ("EACCES", "EDEADLK", "EDEADLOCK") if hasattr(errno, name)}  # of msvcrt
_REPLACED = 100  # how often a lock file may be replaced meanwhile; more often means that inodes change by themselves


def try_lock(file: IO[Any]) -> bool | None:
    """Take an exclusive lock on an open file, which ends when the file is closed or the process ends, even if killed.

    Returns:
        Whether it was taken: ``False`` if it is held already, ``None`` if the operating system or file system, such as
        some network file systems, has no locks.
    """
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True
    if msvcrt is not None:
        file.seek(0)  # one byte is locked from the position on, beyond the end of the file if it is empty
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore] # on Windows
        except OSError as error:
            return False if error.errno in _HELD else None
        return True
    return None


def is_at(file: IO[Any], path: Path) -> bool:
    """Return whether an open file still has this path: it may have been deleted or replaced since it was opened."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
    except OSError:
        return False


@contextlib.contextmanager
def folder_lock(folder: str | os.PathLike[str], wait: Callable[[float], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a folder, which is created if it does not exist.

    The lock is released when the process ends, even if it is killed. It is not taken where the operating system or
    file system does not support locks. The block may delete the folder and its lock file.

    Args:
        folder: Folder to lock.
        wait: Function called repeatedly with the seconds waited so far while another process holds the lock. ``None``
            raises instead of waiting.

    Raises:
        ValueError: Another process holds the lock and `wait` is ``None``.
    """
    path = Path(folder)
    begin, waited, replaced = time.monotonic(), 0.0, 0
    while True:
        make_folders(path)
        with with_path(path):
            file = open(path / LOCK, "ab")  # noqa: SIM115 - closed below
        with file:
            held = try_lock(file)
            if held is False:
                if wait is None:
                    raise ValueError(f"{path}: another process is writing there; wait for it, or stop it")
                wait(waited)
                waited = time.monotonic() - begin
            elif held and replaced < _REPLACED and not is_at(file, path / LOCK):
                replaced += 1  # its former holder has deleted it, and others may hold the lock of a new file
            else:
                yield
                break
    if os.name == "nt":  # an open file cannot be deleted there, so that the block may have left only the lock file
        with contextlib.suppress(OSError):
            if os.listdir(path) == [LOCK]:
                (path / LOCK).unlink()
                path.rmdir()


@contextlib.contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Create a folder and delete it when the block ends, after deleting those that killed processes have left.

    Args:
        parent: Folder in which it is created; created if it does not exist.
        prefix: First characters of its name, different from those of all other files in `parent`.
    """
    make_folders(parent)
    for earlier in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError), open(earlier / LOCK, "ab") as file:
            if try_lock(file):
                shutil.rmtree(earlier)
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as name, folder_lock(name):
        yield Path(name)
