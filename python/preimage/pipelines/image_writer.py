"""Encode and write PNG files in threads, while further images are computed."""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from os import PathLike
from pathlib import Path, PurePosixPath
from types import TracebackType

from preimage.io import encode_png
from preimage.io.atomic import atomic_write, file_problem, key_problem, path_problem
from preimage.io.folders import check_output_folder, make_folders, sync_folders
from preimage.ops._images import cpu_threads
from preimage.pipelines.image_loading import Pixels
from preimage.pipelines.sampling import Sampling

_OF_SAMPLES = re.compile(  # see `file_names`
    r"(?P<name>(?P<key>.+)\.(?:sample-(?P<number>[1-9][0-9]*)|deviation))\.png", re.DOTALL
)
_QUEUED_BYTES = 64 << 20  # maximum size of the images that wait to be written


def output_folder(output: str | PathLike[str]) -> Path:
    """Return the folder to write to, which need not exist.

    Raises:
        ValueError: It is a file.
        OSError: It cannot be created or written to.
    """
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; the output must be a folder")
    check_output_folder(folder)
    return folder


def check_names(keys: Sequence[str]) -> None:
    """Raise ``ValueError`` unless the images of all keys can be files of different names."""
    if problem := file_problem(keys):
        raise ValueError(f"keys must be file names: {problem}")


def sample_name(key: str, number: int) -> str:
    """Return the name of the file of a sample, without its suffix; the first sample has the number 1."""
    return f"{key}.sample-{number}"


def deviation_name(key: str) -> str:
    """Return the name of the file of the samples' deviation, without its suffix."""
    return f"{key}.deviation"


def file_names(keys: Sequence[str], sampling: Sampling) -> list[list[str]]:
    """Return the names of each key's files, without suffix: image, samples, and their deviation if there is one.

    Raises:
        ValueError: Keys whose images cannot be files of different names, or the name of a sample is also a key.
    """
    if not sampling.count:
        check_names(keys)
        return [[key] for key in keys]
    numbers = range(1, sampling.count + 1)
    names = [
        [key, *(sample_name(key, number) for number in numbers), *[deviation_name(key)] * sampling.has_deviation]
        for key in keys
    ]
    known = set(keys)
    for key, *others in names:
        if taken := known.intersection(others):
            raise ValueError(f"the key {min(taken)!r:.80} is also the name of a file of the samples of {key!r:.80}")
    check_names([name for of_key in names for name in of_key])
    return names


def image_paths(folder: Path, keys: Sequence[str], sampling: Sampling) -> list[list[Path]]:
    """Return the files of each key, see `file_names`: all different, none outside the folder."""
    return [[_image_path(folder, name) for name in names] for names in file_names(keys, sampling)]


def samples_beside(folder: Path, keys: Sequence[str], sampling: Sampling) -> dict[str, list[str]]:
    """Return the names of files of earlier samples that `sampling` does not replace, for each key that has some."""
    known = set(keys)
    found: dict[str, list[str]] = {}
    for parent in dict.fromkeys(PurePosixPath(key).parent for key in keys):
        with contextlib.suppress(FileNotFoundError), os.scandir(folder / parent) as entries:
            for entry in entries:
                match = _OF_SAMPLES.fullmatch((parent / entry.name).as_posix())
                if match is None or match["key"] not in known or match["name"] in known:
                    continue
                replaced = sampling.has_deviation if match["number"] is None else int(match["number"]) <= sampling.count
                if not replaced:
                    found.setdefault(match["key"], []).append(entry.name)
    return {key: sorted(found[key]) for key in keys if key in found}


def _image_path(folder: Path, key: str) -> Path:
    if problem := key_problem(key) or file_problem([key]):
        raise ValueError(f"key must be a file name: {problem}")
    target = folder / f"{key}.png"
    if problem := path_problem(target):
        raise ValueError(f"the image of key {key!r:.80} would have {problem}")
    if not target.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the image of key {key!r} would be outside {folder}: a link points out of it")
    return target


class ImageWriter:
    """Write PNG files in threads, batch by batch, each atomically.

    The folders are synchronized to disk once per batch. On exit, the context manager waits for all batches, or after an
    exception only for the files that are being written.

    Args:
        written: Function called for each image written, in order, in the caller's thread.
        encode_ahead: Whether `write` returns while images are still being encoded, instead of waiting for the encoding.
            Encoding slows down a network on the same cores by more than its own time, because the network's threads
            wait for each other.
    """

    def __init__(self, written: Callable[[], None], *, encode_ahead: bool) -> None:
        self._written, self._encode_ahead = written, encode_ahead
        self._folders: set[Path] = set()  # folders that exist
        self._unsynced: set[Path] = set()
        self._queue: deque[tuple[list[Future[None]], int]] = deque()
        self._bytes = 0

    def __enter__(self) -> ImageWriter:
        self._pool = ThreadPoolExecutor(cpu_threads(), thread_name_prefix="write")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._queue:
                self._finish_first()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
            sync_folders(self._unsynced)

    def write(self, paths: Sequence[Path], images: Sequence[Pixels]) -> None:
        """Queue images (H, W, 3) or (H, W) uint8 for writing; wait for earlier ones while the queue is full.

        Raises:
            OSError: An earlier image could not be written.
        """
        size = sum(image.nbytes for image in images)
        while self._queue and (self._bytes + size > _QUEUED_BYTES or self._first_is_done()):
            self._finish_first()
        for folder in {path.parent for path in paths} - self._folders:
            make_folders(folder)
            self._folders.add(folder)
        encoded = [self._pool.submit(encode_png, image, photograph=True) for image in images]
        if not self._encode_ahead:
            wait(encoded)
        pairs = zip(paths, encoded, strict=True)
        self._queue.append(([self._pool.submit(self._put, path, png) for path, png in pairs], size))
        self._bytes += size

    def _put(self, path: Path, png: Future[memoryview]) -> None:
        with atomic_write(path, unsynced=self._unsynced) as file:
            file.write(png.result())

    def _first_is_done(self) -> bool:
        return all(future.done() for future in self._queue[0][0])

    def _finish_first(self) -> None:
        futures, size = self._queue.popleft()
        for future in futures:
            future.result()
        self._bytes -= size
        folders = set(self._unsynced)  # a copy: later batches add to the set meanwhile
        self._unsynced -= folders
        sync_folders(folders)
        for _ in futures:
            self._written()
