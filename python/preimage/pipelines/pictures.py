"""Pictures on their way out: encoded and written in a few threads, while the next ones are computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from os import PathLike
from pathlib import Path
from types import TracebackType

from preimage.io import encode_png
from preimage.io.atomic import atomic_write, file_problem, key_problem, sync_folders
from preimage.ops._images import cpu_threads
from preimage.pipelines.loading import Pixels

_WAITING_BYTES = 64 << 20  # of pictures that wait to be written


def folder_of(output: str | PathLike[str]) -> Path:
    """Return the folder to write into, whether it is there or not; ``ValueError`` where a file is in its place."""
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and the output is a folder")
    return folder


def targets_of(folder: Path, keys: Sequence[str]) -> list[Path]:
    """Return where all keys' pictures go, each to a file of its own, never outside the folder."""
    if problem := file_problem(keys):
        raise ValueError(f"cannot name all pictures: {problem}")
    return [_target_of(folder, key) for key in keys]


def _target_of(folder: Path, key: str) -> Path:
    if problem := key_problem(key) or file_problem([key]):
        raise ValueError(f"cannot name a picture: {problem}")
    target = folder / f"{key}.png"
    if not target.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the picture of key {key!r} would leave {folder}: a link leads out of it")
    return target


class PictureWriter:
    """Write PNG files in a few threads, batch by batch; each is either complete or not there.

    The names of a batch's files are made to outlast a crash once for the batch. A context manager: at its end all
    batches are written, or after an exception no more than those files that were begun.

    Args:
        written: called for each picture written, in the order given, in the caller's thread.
        encode_ahead: go on while pictures are encoded. Otherwise only while they are written: a network that computes
            on the same cores would lose more time to the encoding than that takes, because its threads wait for each
            other.
    """

    def __init__(self, written: Callable[[], None], *, encode_ahead: bool) -> None:
        self._written, self._encode_ahead = written, encode_ahead
        self._folders: set[Path] = set()  # that are there
        self._unsynced: set[Path] = set()
        self._waiting: deque[tuple[list[Future[None]], int]] = deque()
        self._bytes = 0

    def __enter__(self) -> PictureWriter:
        self._pool = ThreadPoolExecutor(cpu_threads(), thread_name_prefix="write")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._waiting:
                self._finish_first()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
            sync_folders(self._unsynced)

    def write(self, targets: Sequence[Path], pictures: Sequence[Pixels]) -> None:
        """Have pictures (H, W, 3) uint8 written as soon as possible; wait for earlier ones if they are many.

        Raises:
            OSError: an earlier picture could not be written.
        """
        size = sum(picture.nbytes for picture in pictures)
        while self._waiting and (self._bytes + size > _WAITING_BYTES or self._first_is_done()):
            self._finish_first()
        for folder in {target.parent for target in targets} - self._folders:
            folder.mkdir(parents=True, exist_ok=True)
            self._folders.add(folder)
        encoded = [self._pool.submit(encode_png, picture, photograph=True) for picture in pictures]
        if not self._encode_ahead:
            wait(encoded)
        pairs = zip(targets, encoded, strict=True)
        self._waiting.append(([self._pool.submit(self._put, target, png) for target, png in pairs], size))
        self._bytes += size

    def _put(self, target: Path, png: Future[memoryview]) -> None:
        with atomic_write(target, unsynced=self._unsynced) as file:
            file.write(png.result())

    def _first_is_done(self) -> bool:
        return all(future.done() for future in self._waiting[0][0])

    def _finish_first(self) -> None:
        futures, size = self._waiting.popleft()
        for future in futures:
            future.result()
        self._bytes -= size
        folders = set(self._unsynced)  # a copy: later batches are written meanwhile
        self._unsynced -= folders
        sync_folders(folders)
        for _ in futures:
            self._written()
