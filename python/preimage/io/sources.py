"""List the images in folders, tar shards, Parquet files and single files, local or at URLs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from preimage.errors import FileFormatError
from preimage.io import remote
from preimage.io.atomic import StrPath, files_below, key_problem
from preimage.io.brace_expansion import expand_braces
from preimage.io.image_shards import ShardLister, is_shard
from preimage.io.image_source import IMAGE_SUFFIXES, ImageSource
from preimage.io.parquet import NoImageColumnError
from preimage.io.urls import has_glob, is_url, local_path, masked, url_path, was_url

# Image and archive formats that are not supported; such files in a folder are counted and reported.
_NOT_READ = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".jfif", ".jpe", ".psd", ".svg", ".exr", ".hdr", ".ico"),
    *(".ppm", ".pgm", ".pnm", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw"),
    *(".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar"),
)


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
    """List all images in folders (recursively), tar shards, Parquet files and single files, in a fixed order.

    Args:
        paths: One path or several. In a folder, files with an image suffix (bmp, gif, jpeg, jpg, png, tif, tiff,
            webp, in any case), ``.tar`` and ``.parquet`` files are used; names that begin with a dot and links to
            folders are not. A single file is used whatever its suffix. Tar files must be uncompressed (webdataset
            shards); only their headers are read, nothing is unpacked to disk, and links in them are ignored. Of Parquet
            files, see `preimage.io.parquet`, only the names of the images are read.

            A path may be a URL of any protocol that fsspec knows, such as ``s3://bucket/shards/``; the network is used
            for nothing else. It must be a string. Braces stand for several paths, also of files on disk
            (``shards-{0000..0099}.tar``, ``{train,val}.tar``), and ``*`` in a URL for the names that match.

    Returns:
        The images: paths in the order given, folders sorted by name, tar members and rows in stored order. The key is
        the path relative to the given folder (for a tar member, its name in the tar file; for a row, the value of its
        column of names, or else its number), without suffix. Images whose keys
        would be equal take the first of these forms that is unique: the key with its suffix (``a.jpg`` and ``a.png``
        in one folder); the key after the name of the tar file or folder (``00000/0001`` and ``00001/0001`` of two
        shards), with as many parent folders as needed; the same with the suffix. Keys depend only on the given paths
        and the names found.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: A path contains no image, a name cannot be a key, or an image is listed twice.
        FileFormatError: A tar file or Parquet file is damaged.
        OSError: A file or folder cannot be read; ``ConnectionError`` if a server does not answer properly three times.
        ImportError: A package for Parquet files or for the protocol of a URL is not installed.
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
    expanded = [one for path in paths for one in expand_braces(local_path(path))]
    with ShardLister() as shards:
        search = _Search(shards)
        search.look_in_all([path if is_url(path) else os.fspath(Path(path)) for path in expanded])
    return search.listing(skip_bad=skip_bad)


@dataclass(frozen=True, slots=True)
class _Found:
    """Image with its short key, and the path of the folder or tar file that contains it."""

    source: ImageSource
    container: str

    def keys(self) -> Iterator[str]:
        """Yield the possible keys, shortest first."""
        short = self.source.key
        source = self.source
        suffix = PurePosixPath(source.member or ("" if source.row is not None else _plain(source.path))).suffix
        yield short
        yield short + suffix
        names = [name for name in PurePosixPath(self.container.replace(os.sep, "/")).parts if name != "/"]
        for ending in ("", suffix):
            for count in range(1, len(names) + 1):
                yield "/".join((*names[-count:], short + ending))


def _plain(path: str) -> str:
    """Return a path or the path of a URL with ``/`` between parts."""
    return url_path(path) if is_url(path) else path.replace(os.sep, "/")


class _Search:
    """Collect images for a `Listing`."""

    def __init__(self, shards: ShardLister) -> None:
        self._shards = shards
        self._found: list[_Found] = []
        self._problems: list[tuple[str, ValueError]] = []
        self._links: list[str] = []
        self._left_out: list[str] = []
        self._tables: list[str] = []  # Parquet files without images

    def look_in_all(self, paths: Sequence[str]) -> None:
        """Add the images of folders, shards and single files, and of what URLs with ``*`` match."""
        self._shards.announce(path for path in paths if not has_glob(path))
        for path in paths:
            if has_glob(path):
                self.look_in_all(remote.glob(path))
            else:
                self._look_in(path)

    def _look_in(self, path: str) -> None:
        before, problems = len(self._found), len(self._problems)
        if is_url(path):
            self._remote(path)
        elif os.path.isdir(path):
            self._folder(path)
        elif os.path.isfile(path):
            self._file(path, os.path.abspath(path))
        elif os.path.exists(path):
            raise ValueError(f"{path}: is neither a folder nor a plain file")
        else:
            if was_url(path):
                raise FileNotFoundError(f"{masked(path)}: no such file or folder (a URL must be a string, not a Path)")
            raise FileNotFoundError(f"{path}: no such file or folder")
        if len(self._found) == before and len(self._problems) == problems:
            wanted = f"{', '.join(sorted(IMAGE_SUFFIXES))}, or .tar or .parquet shards"
            notes = "".join(f"; {note}" for note in self.notes())
            name = masked(path)
            self._problems.append((name, ValueError(f"{name}: no image found ({wanted}){notes}")))

    def notes(self) -> Iterator[str]:
        """Yield sentences about files that are left out without an error."""
        folders = [link for link in self._links if os.path.isdir(link)]
        if folders:
            some = f"{len(folders)} links to folders were" if len(folders) > 1 else "1 link to a folder was"
            yield f"{some} not followed ({_some(folders)}): list the folders they point to as separate paths"
        for paths, reason in ((self._left_out, "format not supported"), (self._tables, "no column of images")):
            if paths:
                some = f"{len(paths)} files were" if len(paths) > 1 else "1 file was"
                yield f"{some} left out, {reason} ({_some(paths)})"

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
                error = FileFormatError(source.file_name, f"member {source.member!r:.99}: {problem}")
            self._problems.append((source.name, error))
        else:
            self._found.append(_Found(source, container))

    def _folder(self, folder: str) -> None:
        top, links = os.path.abspath(folder), len(self._links)
        for relative, path in files_below(folder, links=self._links):
            self._file_in(relative, path, top, os.path.join(top, *relative.split("/")))
        for link in self._links[links:]:
            is_image = os.path.splitext(link)[1].lower() in IMAGE_SUFFIXES
            if not os.path.exists(link) and (is_image or is_shard(link)):
                self._problems.append((link, ValueError(f"{_shown(link)}: broken link")))

    def _remote(self, url: str) -> None:
        found = remote.list_files(url)
        if isinstance(found, remote.RemoteFile):
            self._file(url, url_path(url), found.size)
            return
        self._shards.announce(file.url for file in found)
        for file in found:
            self._file_in(file.relative, file.url, url_path(url), url_path(file.url), file.size)

    def _file_in(self, relative: str, path: str, top: str, container: str, size: int | None = None) -> None:
        """Add the images of a file in a folder, if its suffix is that of an image or shard."""
        stem, suffix = os.path.splitext(relative)
        if suffix.lower() in IMAGE_SUFFIXES:
            self._add(ImageSource(stem, path, length=size), top)
        elif is_shard(path):
            self._shard(path, container)
        elif relative.lower().endswith(_NOT_READ):
            self._left_out.append(masked(path))

    def _file(self, path: str, container: str, size: int | None = None) -> None:
        """Add the images of a single file: a shard, or else an image whatever its suffix."""
        if is_shard(path):
            self._shard(path, container, single=True)
        else:
            self._add(ImageSource(PurePosixPath(container).stem, path, length=size), os.path.dirname(container))

    def _shard(self, path: str, container: str, *, single: bool = False) -> None:
        """Add the images of a shard; one without a column of images is a problem if it is not one of a folder."""
        for image in self._shards.images(path):
            if isinstance(image, ImageSource):
                self._add(image, os.path.splitext(container)[0])
            elif isinstance(image, NoImageColumnError) and not single:
                self._tables.append(masked(path))  # such as the table of labels beside a folder of images
            else:
                self._problems.append((masked(path), image))

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
        seen: dict[tuple[str, str | int | None], ImageSource] = {}
        kept = []
        for position in group:
            source = self._found[position].source
            file = source.path if is_url(source.path) else os.path.realpath(source.path)
            identity = file, source.member if source.row is None else source.row
            if identity not in seen:
                seen[identity] = source
                kept.append(position)
            elif seen[identity].offset != source.offset:
                problem = f"contains the member {source.member!r} twice"
                self._problems.append((source.name, FileFormatError(source.file_name, problem)))
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
