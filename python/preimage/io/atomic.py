"""Writing without half-written files, and the rules for image keys and for the files named after them."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

StrPath = str | os.PathLike[str]

_NO_ROOM = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}
LOCK = ".lock"  # in a folder that one process writes at a time
LONGEST_KEY = 1024  # characters
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*")  # most keys, at a tenth of the full check's cost


@contextlib.contextmanager
def atomic_write(path: StrPath, *, unsynced: set[Path] | None = None) -> Iterator[BinaryIO]:
    """Write a file that is either complete or not there.

    Yields a binary file, open for writing, reading and seeking, under a temporary name (``.preimage-*.tmp``) in
    the folder of `path`. When the block ends it is flushed, fsynced and renamed to `path`, and the folder is
    fsynced. After any exception the temporary file is gone and what was at `path` is untouched. The folder must
    exist; a link at `path` is followed.

    Args:
        path: of the file.
        unsynced: takes the folder instead of its being fsynced, for who writes many files and calls `sync_folders` on
            their folders once.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: `path` names a folder, a device, or anything else that is not a plain file.
        OSError: the system's own errors, such as a full disk, with the path.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        # Renaming over a device such as /dev/null would replace it for the whole machine.
        raise ValueError(f"{os.fspath(path)}: is not a plain file and cannot be written to")
    temporary = target.with_name(f".preimage-{secrets.token_hex(8)}.tmp")
    file = open(temporary, "x+b", buffering=1 << 20)  # noqa: SIM115 - closed in both branches
    try:
        with naming_full_disk(path):
            yield file
            file.flush()
            os.fsync(file.fileno())
            file.close()
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()  # on a full disk closing flushes, and fails, once more
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    if unsynced is None:
        sync_folders([target.parent])
    else:
        unsynced.add(target.parent)


@contextlib.contextmanager
def naming_full_disk(path: StrPath) -> Iterator[None]:
    """Add the path of the file that is written to an error of a full disk, which the system leaves out."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:
            error.filename = os.fspath(path)
        raise


def sync_folders(folders: Iterable[Path]) -> None:
    """Make the names of new files in the folders outlast a crash."""
    if os.name != "posix":
        return  # elsewhere a folder cannot be opened
    for folder in folders:
        # The new files are in place by now: a file system that cannot sync folders is no reason to report a failure.
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def move_into_place(finished: Path, output: StrPath) -> None:
    """Rename a file within one file system, and make the rename last. A link at `output` is followed."""
    target = Path(os.path.realpath(output))
    os.replace(finished, target)
    sync_folders([target.parent])


@contextlib.contextmanager
def folder_lock(folder: StrPath, wait: Callable[[float], None] | None = None) -> Iterator[None]:
    """Hold a folder, made if it is not there, against other processes and threads that do the same.

    The lock is released when the process ends, also by a kill. Without support for locks it is not taken.

    Args:
        folder: the one to hold.
        wait: called with the seconds waited so far, again and again, while another holds it; ``None`` raises then.

    Raises:
        ValueError: another process holds it, and there is no `wait`.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    with open(path / LOCK, "wb") as file:
        begin, waited = time.monotonic(), 0.0
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if wait is None:
                    raise ValueError(f"{path}: another process is writing there; wait for it, or stop it") from None
                wait(waited)
                waited = time.monotonic() - begin
            except OSError:  # no locks on this disk
                break
            else:
                break
        yield


def key_problem(key: object) -> str | None:
    """Why `key` cannot name an image, or ``None`` when it can.

    Keys become the names of output files, so they must be relative POSIX paths that stay inside the folder they
    are joined to, on every system: no ``..``, no absolute path, no drive letter, no control character.
    """
    if not isinstance(key, str):
        return f"a key is a string, got {type(key).__name__}"
    if len(key) <= LONGEST_KEY and _PLAIN_KEY.fullmatch(key) and key != "__metadata__":
        return None
    shown = repr(key if len(key) <= 80 else key[:77] + "...")
    problem = None
    if not key or len(key) > LONGEST_KEY:
        problem = f"has {len(key)} characters; 1 to {LONGEST_KEY} are right"
    elif re.search(r"[\x00-\x1f\x7f]", key):
        problem = "holds a control character"
    elif re.search(r"[\ud800-\udfff]", key):
        problem = "is not valid Unicode (a file name in another encoding?)"
    elif key == "__metadata__":
        problem = "is reserved by the file format"
    elif re.match(r"[A-Za-z]:", key) or not {"", ".", ".."}.isdisjoint(re.split(r"[/\\]", key)):
        problem = "must be a relative path without empty, '.' or '..' parts"
    return problem and f"key {shown} {problem}"


def as_key(name: str) -> str:
    """Return the key for another program's name of an image.

    Databases and lists of names hold ``/data/a.jpg``, ``./a.jpg``, ``a//b.jpg`` or ``C:\\img\\a.jpg``: the drive, the
    root and parts that say nothing are dropped, and ``/`` separates the rest. ``..`` stays, and is refused by
    `key_problem`.
    """
    if _PLAIN_KEY.fullmatch(name):
        return name
    parts = re.split(r"[/\\]", re.sub(r"\A[A-Za-z]:", "", name))
    return "/".join(part for part in parts if part not in ("", "."))


def as_keys(names: Iterable[str]) -> list[str]:
    """Return `as_key` of every name; ``ValueError`` if one cannot be a key, or two images have the same."""
    found: dict[str, str] = {}
    for name in names:
        key = as_key(name) if isinstance(name, str) else name
        if problem := key_problem(key):
            raise ValueError(problem if key == name else f"{problem} (of {name!r:.80})")
        if key in found:
            both = f"{found[key]!r:.80} twice" if found[key] == name else f"{found[key]!r:.80} and {name!r:.80}"
            raise ValueError(f"two images have one key, {key!r:.80}: {both}")
        found[key] = name
    return list(found)


_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d) *(\..*)?", re.IGNORECASE)  # files that Windows does not make
IGNORES_CASE = os.name == "nt" or sys.platform == "darwin"  # A.png and a.png are one file there


def file_problem(keys: Iterable[str], *, windows: bool = os.name == "nt", folded: bool = IGNORES_CASE) -> str | None:
    """Return why the files named after these keys cannot all be made on this system, or ``None`` when they can.

    Args:
        keys: as `key_problem` permits them; each names a file ``KEY.png`` or the like.
        windows: whether the names have to be such as Windows allows.
        folded: whether names that differ in case only, or in how accents are composed, are one file.
    """
    seen: dict[str, str] = {}
    for key in keys:
        *folders, _ = parts = re.split(r"[/\\]", key)
        if windows and (
            re.search(r'[<>:"|?*]', key)
            or any(map(_DEVICE.fullmatch, parts))
            or any(folder.endswith((" ", ".")) for folder in folders)
        ):
            return f"key {key!r:.80} is no name for a file on Windows"
        if folded:
            other = seen.setdefault(unicodedata.normalize("NFC", key).casefold(), key)
            if other is not key:
                return f"keys {other!r:.80} and {key!r:.80} name one file on this system, which ignores case"
    return None


def files_below(folder: str, prefix: str = "", *, links: list[str] | None = None) -> Iterator[tuple[str, str]]:
    """(path below the folder, ``/`` between parts, behind `prefix`; path) of every file, by name.

    Without names that begin with a dot, such as the ``._photo.jpg`` that macOS leaves, and without links to folders
    and links to nothing, which are appended to `links`.
    """
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(entry.path, f"{prefix}{entry.name}/", links=links)
        elif entry.is_file():
            yield prefix + entry.name, entry.path
        elif links is not None and entry.is_symlink():
            links.append(entry.path)
