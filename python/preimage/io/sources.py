"""Where images come from: folders, single files and tar shards, all seen as a list of `ImageSource`."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from preimage.errors import FileFormatError
from preimage.io.atomic import StrPath, files_below, key_problem

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
MAX_ENCODED_BYTES = 1 << 30  # of one encoded image; a larger file is no photograph

_LONGEST_TAR_READ = 1 << 20  # bytes; tar headers are 512, long names a few thousand


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One encoded image: a whole file, or a member of a tar file.

    Attributes:
        key: relative path without suffix, ``/`` between parts; unique within a list.
        path: the file on disk.
        member: the member's name inside a tar file, else ``None``.
        offset: first byte of the image inside `path`.
        length: bytes of the image; ``None`` means up to the end of the file.
    """

    key: str
    path: str
    member: str | None = None
    offset: int = 0
    length: int | None = None

    @property
    def name(self) -> str:
        """What to call the image in messages: ``photos/a.jpg`` or ``shard.tar:a.jpg``."""
        return self.path if self.member is None else f"{self.path}:{self.member}"

    def read(self) -> bytes:
        """The encoded bytes; `FileFormatError` if cut short or over 1 GiB, ``OSError`` if unreadable."""
        limit = MAX_ENCODED_BYTES if self.length is None else self.length
        with open(self.path, "rb", buffering=0) as file:
            if self.length is None and os.fstat(file.fileno()).st_size > limit:
                raise FileFormatError(self.name, f"larger than the {limit} bytes allowed for one image")
            file.seek(self.offset)
            data = _read_up_to(file, limit)
        if self.length is not None and len(data) < self.length:
            raise FileFormatError(self.name, f"cut short: {len(data)} of {self.length} bytes are there")
        return data


def _read_up_to(file: io.FileIO, limit: int) -> bytes:
    pieces = []
    while limit > 0 and (piece := file.read(min(limit, 1 << 24))):
        pieces.append(piece)
        limit -= len(piece)
    return b"".join(pieces)


def list_images(paths: StrPath | Sequence[StrPath]) -> list[ImageSource]:
    """All images in folders (recursively), tar shards and single files, in a fixed order.

    Args:
        paths: one path or several. In a folder, files with an image's suffix (bmp, gif, jpeg, jpg, png, tif, tiff,
            webp, in any case) and ``.tar`` files count; names that begin with a dot, and links to folders, do not.
            A single file counts whatever its suffix. A tar file is uncompressed, in the webdataset layout; only
            its headers are read, nothing is unpacked to disk, and links in it are ignored.

    Returns:
        The sources: paths in the order given, folders sorted by name, tar members in their stored order. The key
        is the path below the folder given (of a tar member: inside the tar file) without its suffix.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a path holds no image, two images have one key, or a name cannot be a key.
        FileFormatError: a tar file is damaged or hostile.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    found: dict[str, ImageSource] = {}
    for path in paths:
        before = len(found)
        for source in _list_path(Path(path)):
            if problem := key_problem(source.key):
                raise ValueError(f"{source.name!r}: {problem}; rename it")
            if (first := found.setdefault(source.key, source)) is not source:
                raise ValueError(
                    f"{first.name} and {source.name} share the key {source.key!r}; rename one, "
                    "or give a folder above both"
                )
        if len(found) == before:
            raise ValueError(f"{path}: no image found ({', '.join(sorted(IMAGE_SUFFIXES))}, or .tar shards)")
    return list(found.values())


def _list_path(path: Path) -> Iterator[ImageSource]:
    if path.is_dir():
        yield from _list_folder(os.fspath(path))
    elif path.suffix.lower() == ".tar":
        yield from _list_tar(os.fspath(path))
    elif path.is_file():
        yield ImageSource(path.stem, os.fspath(path))
    elif path.exists():
        raise ValueError(f"{path}: is neither a folder nor a plain file")
    else:
        raise FileNotFoundError(f"{path}: no such file or folder")


def _list_folder(folder: str) -> Iterator[ImageSource]:
    for relative, path in files_below(folder):
        stem, suffix = os.path.splitext(relative)
        if suffix.lower() in IMAGE_SUFFIXES:
            yield ImageSource(stem, path)
        elif suffix.lower() == ".tar":
            yield from _list_tar(path)


class _HeaderReader:
    """A file for `tarfile` that refuses the huge reads only a hostile header asks for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_TAR_READ:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return self._file.read(size)


def _list_tar(path: str) -> Iterator[ImageSource]:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            # A malformed extended header raises ValueError and its kin from inside tarfile.
            with tarfile.open(fileobj=cast(BinaryIO, _HeaderReader(file)), mode="r:") as archive:
                yield from _list_members(archive, path, size)
                # tarfile takes a damaged header for the end; a real end is zeros, or the end of the file.
                file.seek(archive.offset)
                if any(file.read(tarfile.BLOCKSIZE)):
                    raise tarfile.ReadError("a damaged header hides the rest")
        except FileFormatError:
            raise
        except (tarfile.TarError, ValueError, TypeError, OverflowError, IndexError, RecursionError) as error:
            raise FileFormatError(path, f"not a sound, uncompressed tar file: {error}") from error


def _list_members(archive: tarfile.TarFile, path: str, size: int) -> Iterator[ImageSource]:
    position = -1
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined] # tarfile's own list would grow with the shard
        if member.offset <= position or member.size < 0:
            raise FileFormatError(path, f"member {member.name!r} points backwards")  # else an endless loop
        position = member.offset
        name = PurePosixPath(member.name)
        if not member.isreg() or name.suffix.lower() not in IMAGE_SUFFIXES or name.name.startswith("."):
            continue
        if member.sparse is not None or not _fits(member, size):
            raise FileFormatError(path, f"member {member.name!r} ({member.size} bytes) is sparse or cut short")
        key = str(name.with_suffix(""))
        if problem := key_problem(key):
            raise FileFormatError(path, f"member {member.name!r}: {problem}")
        yield ImageSource(key, path, member.name, member.offset_data, member.size)


def _fits(member: tarfile.TarInfo, size: int) -> bool:
    return member.size <= MAX_ENCODED_BYTES and member.offset_data + member.size <= size
