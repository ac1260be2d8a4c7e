"""List the images in folders, tar shards and single files."""

from __future__ import annotations

import io
import itertools
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from preimage.errors import FileFormatError
from preimage.io.atomic import StrPath, files_below, key_problem
from preimage.io.file_types import SIGNATURE_BYTES, describe_signature

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
# Image and archive formats that are not supported; such files in a folder are counted and reported.
_NOT_READ = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".jfif", ".jpe", ".psd", ".svg", ".exr", ".hdr", ".ico"),
    *(".ppm", ".pgm", ".pnm", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw"),
    *(".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar"),
)
MAX_ENCODED_BYTES = 1 << 30  # maximum size of an encoded image

_LONGEST_TAR_READ = 1 << 20  # bytes; tar headers are 512, long names a few thousand


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One encoded image: a whole file, or a member of a tar file.

    Attributes:
        key: Relative path without suffix, ``/`` between parts; made longer where needed to be unique within a list.
        path: Path of the file on disk.
        member: Name of the member in a tar file, or ``None``.
        offset: Offset of the image in the file, in bytes.
        length: Number of bytes of the image; ``None`` means up to the end of the file.
    """

    key: str
    path: str
    member: str | None = None
    offset: int = 0
    length: int | None = None

    @property
    def name(self) -> str:
        """Name of the image in messages: ``photos/a.jpg`` or ``shard.tar:a.jpg``."""
        return self.path if self.member is None else f"{self.path}:{self.member}"

    def read(self) -> bytes:
        """Read the encoded bytes.

        Raises:
            FileFormatError: The file is truncated, or larger than 1 GiB.
            OSError: The file cannot be read.
        """
        limit = MAX_ENCODED_BYTES if self.length is None else self.length
        with open(self.path, "rb", buffering=0) as file:
            if self.length is None and os.fstat(file.fileno()).st_size > limit:
                raise FileFormatError(self.name, f"larger than the {limit} bytes allowed for one image")
            file.seek(self.offset)
            data = _read_up_to(file, limit)
        if self.length is not None and len(data) < self.length:
            raise FileFormatError(self.name, f"truncated: {len(data)} of {self.length} bytes")
        return data


def _read_up_to(file: io.FileIO, limit: int) -> bytes:
    pieces = []
    while limit > 0 and (piece := file.read(min(limit, 1 << 24))):
        pieces.append(piece)
        limit -= len(piece)
    return b"".join(pieces)


@dataclass(frozen=True, slots=True)
class Listing:
    """Images found in paths, and those that were left out.

    Attributes:
        sources: Images, with unique keys.
        skipped: Name and problem of every image or tar file that cannot be used; empty unless ``skip_bad=True``.
        notes: Sentences about links to folders and files of unsupported formats, which are never used.
    """

    sources: list[ImageSource]
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def list_images(paths: StrPath | Sequence[StrPath]) -> list[ImageSource]:
    """List all images in folders (recursively), tar shards and single files, in a fixed order.

    Args:
        paths: One path or several. In a folder, files with an image suffix (bmp, gif, jpeg, jpg, png, tif, tiff,
            webp, in any case) and ``.tar`` files are used; names that begin with a dot and links to folders are not.
            A single file is used whatever its suffix. Tar files must be uncompressed (webdataset shards); only their
            headers are read, nothing is unpacked to disk, and links in them are ignored.

    Returns:
        The images: paths in the order given, folders sorted by name, tar members in stored order. The key is the path
        relative to the given folder (for a tar member, its name in the tar file), without suffix. Images whose keys
        would be equal take the first of these forms that is unique: the key with its suffix (``a.jpg`` and ``a.png``
        in one folder); the key after the name of the tar file or folder (``00000/0001`` and ``00001/0001`` of two
        shards), with as many parent folders as needed; the same with the suffix. Keys depend only on the given paths
        and the names found.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: A path contains no image, a name cannot be a key, or an image is listed twice.
        FileFormatError: A tar file is damaged.
    """
    return find_images(paths).sources


def find_images(paths: StrPath | Sequence[StrPath], *, skip_bad: bool = False) -> Listing:
    """List images as `list_images` does, and report those that were left out.

    Args:
        paths: One path or several, see `list_images`.
        skip_bad: Skip images and tar files that cannot be used, and list them as skipped. The images before the
            damage in a tar file are kept.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: No image is left; without `skip_bad`, see also `list_images`.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    search = _Search()
    for path in paths:
        search.look_in(Path(path))
    return search.listing(skip_bad=skip_bad)


@dataclass(frozen=True, slots=True)
class _Found:
    """Image with its short key, and the path of the folder or tar file that contains it."""

    source: ImageSource
    container: str

    def keys(self) -> Iterator[str]:
        """Yield the possible keys, shortest first."""
        short = self.source.key
        suffix = PurePosixPath(self.source.member or self.source.path.replace(os.sep, "/")).suffix
        yield short
        yield short + suffix
        names = [name for name in PurePosixPath(self.container.replace(os.sep, "/")).parts if name != "/"]
        for ending in ("", suffix):
            for count in range(1, len(names) + 1):
                yield "/".join((*names[-count:], short + ending))


class _Search:
    """Collect images for a `Listing`."""

    def __init__(self) -> None:
        self._found: list[_Found] = []
        self._problems: list[tuple[str, ValueError]] = []
        self._links: list[str] = []
        self._left_out: list[str] = []

    def look_in(self, path: Path) -> None:
        """Add the images of a folder, tar file or single file."""
        before, problems = len(self._found), len(self._problems)
        if path.is_dir():
            self._folder(os.fspath(path))
        elif path.suffix.lower() == ".tar":
            self._tar(os.fspath(path), os.path.abspath(path.with_suffix("")))
        elif path.is_file():
            self._add(ImageSource(path.stem, os.fspath(path)), os.path.dirname(os.path.abspath(path)))
        elif path.exists():
            raise ValueError(f"{path}: is neither a folder nor a plain file")
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
        if len(self._found) == before and len(self._problems) == problems:
            wanted = f"{', '.join(sorted(IMAGE_SUFFIXES))}, or .tar shards"
            notes = "".join(f"; {note}" for note in self.notes())
            self._problems.append((os.fspath(path), ValueError(f"{path}: no image found ({wanted}){notes}")))

    def notes(self) -> Iterator[str]:
        """Yield sentences about files that are left out without an error."""
        folders = [link for link in self._links if os.path.isdir(link)]
        if folders:
            some = f"{len(folders)} links to folders were" if len(folders) > 1 else "1 link to a folder was"
            yield f"{some} not followed ({_some(folders)}): list the folders they point to as separate paths"
        if self._left_out:
            some = f"{len(self._left_out)} files were" if len(self._left_out) > 1 else "1 file was"
            yield f"{some} left out, format not supported ({_some(self._left_out)})"

    def listing(self, *, skip_bad: bool) -> Listing:
        """Return the images with unique keys. Raises the first problem unless `skip_bad`."""
        sources = self._with_keys()
        if self._problems and (not skip_bad or not sources):
            raise _counted(self._problems[0][1], len(self._problems), some_left=bool(sources))
        skipped = tuple((_shown(name), str(error)) for name, error in self._problems)
        return Listing(sources, skipped, tuple(self.notes()))

    def _add(self, source: ImageSource, container: str) -> None:
        if problem := key_problem(source.key):
            error: ValueError
            if source.member is None:
                error = ValueError(f"{source.name!r}: {problem}; rename it")
            else:
                error = FileFormatError(source.path, f"member {source.member!r}: {problem}")
            self._problems.append((source.name, error))
        else:
            self._found.append(_Found(source, container))

    def _folder(self, folder: str) -> None:
        top, links = os.path.abspath(folder), len(self._links)
        for relative, path in files_below(folder, links=self._links):
            stem, suffix = os.path.splitext(relative)
            if suffix.lower() in IMAGE_SUFFIXES:
                self._add(ImageSource(stem, path), top)
            elif suffix.lower() == ".tar":
                self._tar(path, os.path.join(top, *stem.split("/")))
            elif relative.lower().endswith(_NOT_READ):
                self._left_out.append(path)
        for link in self._links[links:]:
            if not os.path.exists(link) and os.path.splitext(link)[1].lower() in IMAGE_SUFFIXES:
                self._problems.append((link, ValueError(f"{_shown(link)}: broken link")))

    def _tar(self, path: str, container: str) -> None:
        try:
            for source in _list_tar(path):
                if isinstance(source, FileFormatError):
                    self._problems.append((path, source))
                else:
                    self._add(source, container)
        except FileFormatError as error:
            self._problems.append((path, error))

    def _with_keys(self) -> list[ImageSource]:
        """Return the images, with longer keys where short keys are equal."""
        groups: dict[str, list[int]] = {}
        for position, found in enumerate(self._found):
            groups.setdefault(found.source.key, []).append(position)
        taken = set(groups)
        sources: list[ImageSource | None] = [found.source for found in self._found]
        for group in (group for group in groups.values() if len(group) > 1):
            for position in group:
                sources[position] = None
            kept = self._without_repeated(group)
            keys = [self._found[kept[0]].source.key]
            if len(kept) > 1:
                keys = _distinct_keys([self._found[position] for position in kept], taken)
                taken |= set(keys)
            for position, key in zip(kept, keys, strict=True):
                sources[position] = replace(self._found[position].source, key=key)
        return [source for source in sources if source is not None]

    def _without_repeated(self, group: Sequence[int]) -> list[int]:
        """Return the first position of each image that was found more than once."""
        seen: dict[tuple[str, str | None], ImageSource] = {}
        kept = []
        for position in group:
            source = self._found[position].source
            identity = os.path.realpath(source.path), source.member
            if identity not in seen:
                seen[identity] = source
                kept.append(position)
            elif seen[identity].offset != source.offset:
                problem = f"contains the member {source.member!r} twice"
                self._problems.append((source.name, FileFormatError(source.path, problem)))
            else:
                self._problems.append((source.name, ValueError(f"{source.name}: the image is listed twice")))
        return kept


def _distinct_keys(group: Sequence[_Found], taken: set[str]) -> list[str]:
    """Return keys in the first form in which they are unique and not taken."""
    longest: list[str] = []
    for keys in itertools.zip_longest(*(found.keys() for found in group)):
        # A shorter path has fewer forms and keeps its longest one.
        longest = [old if key is None else key for key, old in zip(keys, longest or keys, strict=True)]
        if len(set(longest)) == len(longest) and taken.isdisjoint(longest) and not any(map(key_problem, longest)):
            return longest
    # Reached only if the parent folders' names are not valid in keys, or are equal.
    numbers = (f"{group[0].source.key}#{number}" for number in itertools.count(1))
    return list(itertools.islice((key for key in numbers if key not in taken), len(group)))


def _counted(error: ValueError, count: int, *, some_left: bool) -> ValueError:
    """Return the error with the number of further ones, and the option that skips them if other images are left."""
    more = f" (and {count - 1} more that cannot be used)" if count > 1 else ""
    advice = "; --skip-bad skips and lists what cannot be used" if some_left else ""
    if isinstance(error, FileFormatError):
        return FileFormatError(error.path, error.problem + more + advice)
    return ValueError(f"{error}{more}{advice}")


def _some(paths: Sequence[str]) -> str:
    return ", ".join(map(_shown, paths[:3])) + (", ..." if len(paths) > 3 else "")


def _shown(name: str) -> str:
    """Return the name with undecodable bytes escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


class _HeaderReader:
    """File for `tarfile` that rejects huge reads, which only a malicious header requests."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_TAR_READ:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return self._file.read(size)


def _list_tar(path: str) -> Iterator[ImageSource | FileFormatError]:
    """Yield the images in a tar file and the errors of single members; raise if the rest cannot be read."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            # tarfile raises ValueError and others for malformed extended headers.
            with tarfile.open(fileobj=cast(BinaryIO, _HeaderReader(file)), mode="r:") as archive:
                yield from _list_members(archive, path, size)
                # tarfile stops at a damaged header without an error; a valid archive ends with zeros or the file.
                file.seek(archive.offset)
                if any(file.read(tarfile.BLOCKSIZE)):
                    raise tarfile.ReadError("a damaged header hides the rest")
        except FileFormatError:
            raise
        except (tarfile.TarError, ValueError, TypeError, OverflowError, IndexError, RecursionError) as error:
            file.seek(0)
            what = describe_signature(file.read(SIGNATURE_BYTES))
            problem = str(error) if what in (None, "a tar archive") else f"it is {what}"
            raise FileFormatError(path, f"not a valid uncompressed tar file: {problem}") from error


def _list_members(archive: tarfile.TarFile, path: str, size: int) -> Iterator[ImageSource | FileFormatError]:
    position = -1
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined] # else tarfile keeps every member in memory
        if member.offset <= position or member.size < 0:
            raise FileFormatError(path, f"member {member.name!r} points backwards")  # would loop forever
        position = member.offset
        name = PurePosixPath(member.name)
        if not member.isreg() or name.suffix.lower() not in IMAGE_SUFFIXES or name.name.startswith("."):
            continue
        if not _fits(member, size):
            raise FileFormatError(path, f"member {member.name!r} ({member.size} bytes) is truncated")
        if member.sparse is not None:
            yield FileFormatError(path, f"member {member.name!r} is sparse")
        else:
            yield ImageSource(str(name.with_suffix("")), path, member.name, member.offset_data, member.size)


def _fits(member: tarfile.TarInfo, size: int) -> bool:
    return member.size <= MAX_ENCODED_BYTES and member.offset_data + member.size <= size
