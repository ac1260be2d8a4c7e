"""Write files atomically, and check image keys and the file names made of them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from preimage.errors import with_path
from preimage.io.folders import refuse_special_file, refuse_url, sync_folders
from preimage.io.locks import is_at, try_lock

StrPath = str | os.PathLike[str]

_NO_ROOM = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}
_BUFFER = 1 << 20  # bytes
_ATTEMPTS = 3
LONGEST_KEY = 1024  # characters
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*")  # most keys, at a tenth of the full check's cost


@contextlib.contextmanager
def atomic_write(path: StrPath, *, unsynced: set[Path] | None = None) -> Iterator[BinaryIO]:
    """Write a file that is either complete or absent.

    Yields a binary file, open for writing, reading and seeking, under a temporary name (``.preimage-*.tmp``) in
    the folder of `path`. When the block ends, the file is flushed, fsynced and renamed to `path`, and the folder is
    fsynced. After any exception the temporary file is deleted and an earlier file at `path` is unchanged; that of a
    killed process is deleted when `path` is written again, but not on Windows or where files cannot be locked. The
    folder must exist; a link at `path` is followed.

    Args:
        path: Path of the file.
        unsynced: Set to which the folder is added instead of being fsynced. When writing many files, call
            `sync_folders` on it once at the end.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: `path` is a URL, a folder, a device, or anything else that is not a regular file.
        OSError: Any error of the operating system, such as a full disk, with the path.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.exists():
        refuse_url(path)
    with with_path(path):
        refuse_special_file(path)
        raw, temporary = _create_temporary(target)
    raw.path = os.fspath(path)
    file = io.BufferedRandom(raw, _BUFFER)
    try:
        with naming_full_disk(path):
            yield file
        with with_path(path):
            file.flush()
            os.fsync(file.fileno())
            if os.name == "nt":
                file.close()  # an open file cannot be renamed there
            os.replace(temporary, target)  # elsewhere it is still locked, so that no other process deletes it before
    except BaseException:
        if os.name == "nt":
            with contextlib.suppress(OSError):
                file.close()
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink()
        with contextlib.suppress(OSError):
            file.close()  # on a full disk closing flushes, and fails, once more
        raise
    file.close()
    if unsynced is None:
        sync_folders([target.parent])
    else:
        unsynced.add(target.parent)


class _TemporaryFile(io.FileIO):
    """Temporary file whose errors of writing contain the path that it will have."""

    path = ""

    def write(self, data: Any, /) -> int:
        with with_path(self.path):
            return super().write(data)

    def truncate(self, size: int | None = None, /) -> int:
        with with_path(self.path):
            return super().truncate(size)


def _create_temporary(target: Path) -> tuple[_TemporaryFile, Path]:
    """Create a temporary file beside the target, and return it with its path.

    The name depends on that of the target only, so that the next writer finds the file that a killed one has left; a
    lock tells the two from a writer at work. If another process is writing the same target, or if there are no locks,
    the name is random.
    """
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
    expected = target.with_name(f".preimage-{name}.tmp")
    for _ in range(_ATTEMPTS if os.name == "posix" else 0):
        try:
            file = _TemporaryFile(expected, "x+b")
        except FileExistsError:
            if not _delete_abandoned(expected):
                break
            continue
        locked = try_lock(file)
        if locked is None or (locked and is_at(file, expected)):
            return file, expected
        file.close()  # another process takes it for one left behind, because it was not locked yet, and deletes it
    unique = target.with_name(f".preimage-{secrets.token_hex(8)}.tmp")
    return _TemporaryFile(unique, "x+b"), unique


def _delete_abandoned(path: Path) -> bool:
    """Delete a temporary file unless a process holds its lock; return whether it is gone."""
    try:
        # A link of that name is not followed, and a pipe not waited for.
        with open(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "r+b", buffering=0) as file:
            if not try_lock(file):
                return False
            if is_at(file, path):
                path.unlink()
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


@contextlib.contextmanager
def naming_full_disk(path: StrPath) -> Iterator[None]:
    """Add the path of the written file to disk-full errors, which do not contain it."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:
            error.filename = os.fspath(path)
        raise


def move_into_place(finished: Path, output: StrPath) -> None:
    """Rename a file within one file system and sync its folder. A link at `output` is followed.

    Raises:
        OSError: Any error of the operating system, with `output` as its path.
    """
    target = Path(os.path.realpath(output))
    with with_path(output):
        os.replace(finished, target)
    sync_folders([target.parent])


def key_problem(key: object) -> str | None:
    """Return why `key` is not a valid image key, or ``None`` if it is valid.

    Keys become names of output files, so they must be relative POSIX paths that stay inside the folder they are
    joined to, on every system: no ``..``, no absolute path, no drive letter, no control characters.
    """
    if not isinstance(key, str):
        return f"key must be a string, got {type(key).__name__}"
    if len(key) <= LONGEST_KEY and _PLAIN_KEY.fullmatch(key) and key != "__metadata__":
        return None
    shown = repr(key if len(key) <= 80 else key[:77] + "...")
    problem = None
    if not key or len(key) > LONGEST_KEY:
        problem = f"must have 1 to {LONGEST_KEY} characters, got {len(key)}"
    elif re.search(r"[\x00-\x1f\x7f]", key):
        problem = "contains a control character"
    elif re.search(r"[\ud800-\udfff]", key):
        problem = "is not valid Unicode (a file name in another encoding?)"
    elif key == "__metadata__":
        problem = "is reserved by the file format"
    elif re.match(r"[A-Za-z]:", key) or not {"", ".", ".."}.isdisjoint(re.split(r"[/\\]", key)):
        problem = "must be a relative path without empty, '.' or '..' parts"
    return problem and f"key {shown} {problem}"


def as_key(name: str) -> str:
    """Return the key for an image name written by another program.

    Names such as ``/data/a.jpg``, ``./a.jpg``, ``a//b.jpg`` or ``C:\\img\\a.jpg`` are split at slashes and backslashes;
    the drive, the root and empty or ``.`` parts are dropped. ``..`` is kept, and rejected by `key_problem`.
    """
    if _PLAIN_KEY.fullmatch(name):
        return name
    parts = re.split(r"[/\\]", re.sub(r"\A[A-Za-z]:", "", name))
    return "/".join(part for part in parts if part not in ("", "."))


def as_keys(names: Iterable[str]) -> list[str]:
    """Return `as_key` of every name.

    Raises:
        ValueError: A name cannot be a key, or two images have the same key.
    """
    found: dict[str, str] = {}
    for name in names:
        key = as_key(name) if isinstance(name, str) else name
        if problem := key_problem(key):
            raise ValueError(problem if key == name else f"{problem} (of {name!r:.80})")
        if key in found:
            both = f"{found[key]!r:.80} twice" if found[key] == name else f"{found[key]!r:.80} and {name!r:.80}"
            raise ValueError(f"key {key!r:.80} is used for two images: {both}")
        found[key] = name
    return list(found)


# Reserved file names of Windows.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[\d¹²³]|lpt[\d¹²³]) *(\..*)?", re.IGNORECASE)
IGNORES_CASE = os.name == "nt" or sys.platform == "darwin"  # A.png and a.png are the same file there
_LONGEST_NAME = 255  # of a file or folder, in UTF-16 units on systems that ignore case, in bytes on others
_LONGEST_PATH = os.pathconf("/", "PC_PATH_MAX") if hasattr(os, "pathconf") else 1 << 15  # bytes, with the final NUL


def file_problem(
    keys: Iterable[str], *, suffix: str = ".png", windows: bool = os.name == "nt", folded: bool = IGNORES_CASE
) -> str | None:
    """Return why this system cannot hold files named after the keys, or ``None`` if it can.

    Args:
        keys: Valid keys (see `key_problem`), each the name of a file without its suffix.
        suffix: Suffix of the files.
        windows: Whether the names must be valid on Windows.
        folded: Whether names that differ only in case or Unicode normalization are the same file.
    """
    files: dict[str, str] = {}  # key by the name that the system compares
    folders: dict[str, str] = {}

    def compared(name: str) -> str:
        name = name.replace("\\", "/") if windows else name
        return unicodedata.normalize("NFC", name).casefold() if folded else name

    for key in keys:
        name = key + suffix
        *above, _ = parts = re.split(r"[/\\]" if windows else "/", key)
        if windows and (
            re.search(r'[<>:"|?*]', key)
            or any(map(_DEVICE.fullmatch, parts))
            or any(folder.endswith((" ", ".")) for folder in above)
        ):
            return f"key {key!r:.80} is not a valid file name on Windows"
        if len(name) > _LONGEST_NAME // 4:  # a character takes at most four bytes
            for part in [*above, parts[-1] + suffix]:
                length = len(part.encode("utf-16-le")) // 2 if folded else len(os.fsencode(part))
                if length > _LONGEST_NAME:
                    return f"key {key!r:.80} has a part of {length} bytes; a file name has at most {_LONGEST_NAME}"
        other = files.setdefault(compared(name), key)
        if other is not key:
            return f"keys {other!r:.80} and {key!r:.80} are the same file on this system, which ignores case"
        for count in range(1, len(above) + 1):
            folders.setdefault(compared("/".join(above[:count])), key)
    for name, key in folders.items():
        if name in files:
            return f"the folder of key {key!r:.80} is the file of key {files[name]!r:.80}"
    return None


def path_problem(path: StrPath) -> str | None:
    """Return why a path is too long for this system, or ``None`` if it is not."""
    length = len(os.fsencode(path))
    return None if length < _LONGEST_PATH else f"a path of {length} bytes; at most {_LONGEST_PATH - 1} are allowed"


def files_below(folder: str, prefix: str = "", *, links: list[str] | None = None) -> Iterator[tuple[str, str]]:
    """Yield the relative path (``/`` between parts, after `prefix`) and the path of every file, sorted by name.

    Names that begin with a dot are omitted, such as the ``._photo.jpg`` of macOS. So are links to folders and broken
    links, which are appended to `links`.
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
