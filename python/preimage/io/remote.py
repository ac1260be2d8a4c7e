"""Read files named by URLs through fsspec; what fails for a moment is tried again, and errors name the URL."""

from __future__ import annotations

import errno
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast
from urllib.parse import unquote

from preimage.errors import FileFormatError, is_out_of_memory
from preimage.io.urls import is_url, masked, path_link
from preimage.optional import import_optional

T = TypeVar("T")

_PAUSES = (0.25, 1.0)  # seconds before the second and the third attempt
_BLOCK_BYTES = 8 << 10  # read ahead: the header of a tar member, and the text that webdataset stores beside an image
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_NO_RANGES = "the server does not support range requests"
_CLIENTS = ("aiohttp", "azure", "botocore", "gcsfs", "google", "requests", "urllib3")  # raise errors of their own


class RemoteFile(NamedTuple):
    """A file found at a URL.

    Attributes:
        relative: Path relative to the folder that was listed, decoded.
        url: URL of the file.
        size: Size in bytes; ``None`` if the server does not tell.
    """

    relative: str
    url: str
    size: int | None


def list_files(url: str) -> list[RemoteFile] | RemoteFile:
    """Return the files in the folder at a URL and below, or the file there.

    The files are in the order of `preimage.io.atomic.files_below`; names that begin with a dot are omitted. A URL that
    ends with a slash is a folder; over HTTP it must, and the server must send an index with links.

    Raises:
        FileNotFoundError, PermissionError, OSError: The URL cannot be read.
        ImportError: The package for this protocol is not installed.
        ValueError: The protocol is unknown.
    """

    def find(fs: Any, path: str) -> list[RemoteFile] | RemoteFile:
        fs.invalidate_cache()  # else files that were added since the last listing are missing
        link = path_link(url)[1]
        if not link.endswith("/"):
            info = fs.info(path)
            if info["type"] != "directory":
                return RemoteFile("", url, info.get("size"))
        root = fs._strip_protocol(path)
        found = _below(url, root, _walk(fs, path) if _walks(fs) else fs.find(path, detail=True))
        if not found and not fs.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return sorted(found, key=lambda file: file.relative.split("/"))

    return _call(url, find)


def _walks(fs: Any) -> bool:
    """Return whether `find` of a file system is the generic one, which lists folder by folder."""
    generic = import_optional("fsspec", "fsspec.asyn").AsyncFileSystem, import_optional("fsspec").AbstractFileSystem
    return type(fs).find is generic[1].find or getattr(type(fs), "_find", None) is generic[0]._find


def _walk(fs: Any, path: str) -> dict[str, Any]:
    """Return the files in a folder and below by name, as `find`, which leaves out folders that cannot be read."""
    found, folders = {}, [path]
    while folders:
        folder = folders.pop()
        inside = fs._strip_protocol(folder).rstrip("/") + "/"
        for info in fs.ls(folder, detail=True):
            name = info["name"]
            if info["type"] != "directory":
                found[name] = info
            elif name.startswith(inside) and name.rstrip("/") != inside.rstrip("/"):
                folders.append(name)
    return found


def glob(url: str) -> list[str]:
    """Return the URLs that match a URL with ``*``, sorted.

    Raises:
        FileNotFoundError: No file matches. See also `list_files`.
    """
    before, link, after = path_link(url)
    fixed = link[: link.index("*")].rpartition("/")[0] + "/"
    base = "::".join((*before, fixed, *after))

    def match(fs: Any, path: str) -> list[str]:
        fs.invalidate_cache()
        root = path[: path.index("*")].rpartition("/")[0]
        return [file.url for file in _below(base, root, fs.glob(path, detail=True))]

    found = _call(url, match)
    if not found:
        raise FileNotFoundError(errno.ENOENT, "no file matches", masked(url))
    return sorted(found)


def _below(url: str, root: str, found: dict[str, Any]) -> list[RemoteFile]:
    """Return the files among the entries of a folder at `url`, which its file system calls `root`."""
    before, link, after = path_link(url)
    root, decode = root.rstrip("/"), unquote if link.startswith("http") else str
    files = []
    for name, info in found.items():
        relative = name[len(root) :].strip("/")
        if info.get("type") == "directory" or not name.startswith(root) or not relative:
            continue
        if any(part.startswith(".") for part in decode(relative).split("/")):
            continue
        joined = (link if link.endswith("/") else link + "/") + relative
        files.append(RemoteFile(decode(relative), "::".join((*before, joined, *after)), info.get("size")))
    return files


def read_range(url: str, offset: int, length: int | None, limit: int) -> bytes:
    """Read bytes of the file at a URL, and no others.

    Args:
        url: URL of the file.
        offset: Offset of the first byte.
        length: Number of bytes; ``None`` means up to the end of the file.
        limit: Maximum number of bytes if `length` is ``None``.

    Returns:
        The bytes; fewer than `length` if the file ends before.

    Raises:
        FileFormatError: The file has more than `limit` bytes.
        ConnectionError: The server did not answer properly three times.
        FileNotFoundError, PermissionError, OSError, ImportError, ValueError: See `list_files`.
    """

    def read(fs: Any, path: str) -> bytes:
        if length is None:
            return _read_whole(fs, path, limit, url)[offset:]
        if length == 0:
            return b""  # HTTP has no empty range
        data: bytes = fs.cat_file(path, start=offset, end=offset + length)
        if len(data) > length and offset:
            raise OSError(errno.ESPIPE, _NO_RANGES)
        return data[:length]

    return _call(url, read)


def _read_whole(fs: Any, path: str, limit: int, url: str) -> bytes:
    """Read a file of unknown size, or of at most `limit` bytes."""
    size = fs.info(path).get("size")
    pieces, left = [], limit + 1
    if size is None or size <= limit:
        with fs.open(path, "rb", cache_type="none") as file:
            while left > 0 and (piece := file.read(min(left, 1 << 24))):
                pieces.append(piece)
                left -= len(piece)
    if left == 0 or (size is not None and size > limit):
        raise FileFormatError(masked(url), f"larger than the {limit} bytes allowed for one image")
    return b"".join(pieces)


@contextmanager
def open_file(path: str) -> Iterator[tuple[BinaryIO, int]]:
    """Open a local file or one at a URL for reading in any order; yield it and its size in bytes.

    Of a file at a URL only the blocks that are asked for are fetched, with 8 KiB after each.
    """
    if not is_url(path):
        with open(path, "rb") as local:
            yield local, os.fstat(local.fileno()).st_size
        return

    def open_remote(fs: Any, inside: str) -> tuple[Any, int | None, Any]:
        file = fs.open(inside, "rb", block_size=_BLOCK_BYTES, cache_type="readahead")
        size = getattr(file, "size", None)
        return file, fs.info(inside).get("size") if size is None else size, fs

    file, size, _fs = _call(path, open_remote)  # a zip archive is closed with its file system
    with file:
        if size is None:
            raise OSError(errno.ESPIPE, _NO_RANGES, masked(path))
        yield cast(BinaryIO, _Reader(file, path, size)), size


class _Reader(io.RawIOBase):
    """File at a URL whose reads are tried again."""

    def __init__(self, file: Any, url: str, size: int) -> None:
        super().__init__()
        self._file, self._url, self._size = file, url, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._position)
        size = left if size is None or size < 0 else min(size, left)

        def read() -> bytes:
            self._file.seek(self._position)
            data: bytes = self._file.read(size)
            return data

        data = retried(self._url, read) if size else b""
        self._position += len(data)
        return data


def _call(url: str, action: Callable[[Any, str], T]) -> T:
    """Return ``action(file system, path in it)`` for a URL, see `retried`."""
    fsspec = import_optional("fsspec")
    before, link, after = path_link(url)
    for protocol in (*before, *(one.partition("://")[0] for one in (link, *after) if "://" in one)):
        if protocol == "reference":
            raise ValueError(f"{masked(url)}: reference files are not supported, because they name other files to read")
        try:
            fsspec.get_filesystem_class(protocol)
        except (ImportError, ValueError) as error:  # the package for it is missing, or there is no such protocol
            raise type(error)(f"{masked(url)}: {error}") from error
    # fsspec keeps the file systems it has opened, one for each set of options, and forgets them after a fork.
    return retried(url, lambda: action(*fsspec.url_to_fs(url)))


def retried(url: str, action: Callable[[], T]) -> T:
    """Return the result of an action on a URL, which is tried three times as long as its error may be transient.

    Raises:
        ConnectionError: Transient errors only, such as a timeout or a server that is overloaded.
        FileNotFoundError, PermissionError, OSError: Others, at the first attempt.
    """
    for pause in (*_PAUSES, None):
        try:
            return action()
        except FileFormatError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            cause = _real_cause(error)
            transient = _is_transient(cause)
            if pause is None or not transient:
                text = str(error)
                # A traceback would print the original message.
                raise _named(cause, url, transient) from (error if masked(text) == text else None)
        time.sleep(pause)
    raise AssertionError("unreachable")


def _real_cause(error: Exception) -> Exception:
    """Return the error that fsspec's HTTP client turned into "file not found"."""
    cause = error.__cause__
    return cause if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) else error


def _status(error: Exception) -> int | None:
    """Return the status of an HTTP response, from the errors of several clients."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return int(status) if isinstance(status, int) or (isinstance(status, str) and status.isdecimal()) else None


def _is_transient(error: Exception) -> bool:
    status = _status(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    if isinstance(error, OSError):
        return not isinstance(error, _PERMANENT) and error.errno not in (errno.ENOSPC, errno.ESPIPE)
    named = type(error).__name__.endswith("TimeoutError")  # asyncio's is no OSError before Python 3.11
    return named or type(error).__module__.partition(".")[0] in _CLIENTS


def _named(error: Exception, url: str, transient: bool) -> Exception:
    """Return an error like `error` that names the URL, without credentials."""
    name, status = masked(url), _status(error)
    text = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
    text = " ".join(masked(text).split())
    if transient:
        number = error.errno if isinstance(error, OSError) else None
        return ConnectionError(number or errno.EIO, text, name)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return FileNotFoundError(errno.ENOENT, "no such file or folder", name)
    if isinstance(error, PermissionError) or status in (401, 403):
        return PermissionError(errno.EACCES, text, name)
    return OSError(errno.EIO, text if isinstance(error, OSError) else f"{type(error).__name__}: {text}", name)
