"""Create folders and synchronize them to disk."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from preimage.io.urls import masked, was_url


def make_folders(path: str | os.PathLike[str]) -> None:
    """Create a folder and its parents if they do not exist, and fsync the folders in which their names are new.

    Raises:
        ValueError: The path is a URL.
        FileExistsError: The path or a parent is a file, or a link to nothing.
        OSError: Any error of the operating system, with the path.
    """
    folder = Path(path)
    new = []
    for parent in (folder, *folder.parents):
        if parent.exists():
            break
        new.append(parent)
    if new:
        refuse_url(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise FileExistsError(errno.EEXIST, "exists and is not a folder", error.filename) from None
    sync_folders(one.parent for one in new)


@contextlib.contextmanager
def new_folders(path: str | os.PathLike[str]) -> Iterator[None]:
    """Create a folder as `make_folders` does; if it is new and still empty at the end, remove it."""
    existed = Path(path).exists()
    make_folders(path)
    try:
        yield
    finally:
        if not existed:
            with contextlib.suppress(OSError):  # it is not empty
                Path(path).rmdir()


def check_output_folder(path: str | os.PathLike[str]) -> None:
    """Raise for a folder that cannot be created or written to, before hours of work depend on it.

    Raises:
        ValueError: The path is a URL.
        OSError: The path or a parent is a file, or the folder is not writable.
    """
    existing = Path(path).absolute()
    if not existing.exists():
        refuse_url(path)
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file; the output must be a folder", str(existing))
    if not os.access(existing, os.W_OK):
        raise PermissionError(errno.EACCES, "is a folder that cannot be written to", str(existing))


def check_output_file(path: str | os.PathLike[str]) -> None:
    """Raise for a file that cannot be written, before hours of work depend on it; its folder may be missing.

    Raises:
        ValueError: The path is a URL, a folder, a device, or anything else that is not a regular file.
        OSError: Its folder cannot be created or written to.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.exists():
        refuse_url(path)
    refuse_special_file(path)
    try:
        check_output_folder(target.parent)
    except PermissionError as error:
        raise PermissionError(error.errno, "is in a folder that cannot be written to", os.fspath(path)) from None


def refuse_special_file(path: str | os.PathLike[str]) -> None:
    """Raise ``ValueError`` for a folder or device: renaming over ``/dev/null`` would replace it for all programs."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise ValueError(f"{os.fspath(path)}: not a regular file, cannot be replaced")


def refuse_url(path: str | os.PathLike[str]) -> None:
    """Raise ``ValueError`` if an output is at a URL, instead of creating a folder named after the protocol."""
    shown = Path(path)  # shortens a URL
    with contextlib.suppress(ValueError, OSError):  # it is elsewhere, or the current folder was deleted
        shown = shown.relative_to(os.getcwd())  # what `os.path.realpath` makes of a URL begins with it
    text = shown.as_posix()
    if was_url(text) and not Path(shown.parts[0]).exists():
        raise ValueError(f"{masked(text)}: output must be a path on disk; only images are read from URLs")


def sync_folders(folders: Iterable[Path]) -> None:
    """Fsync folders, so that new names in them survive a crash."""
    if os.name != "posix":
        return  # elsewhere a folder cannot be opened
    for folder in folders:
        # The files are renamed already; some file systems cannot sync folders, which is no failure.
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
