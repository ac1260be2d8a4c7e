"""List the images in shards, which are tar files and Parquet files; several at URLs at a time."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePosixPath

from preimage.errors import FileFormatError
from preimage.io.atomic import as_key
from preimage.io.image_source import IMAGE_SUFFIXES, ImageSource
from preimage.io.parquet import list_rows
from preimage.io.tar import list_tar
from preimage.io.urls import is_url, url_path

_AT_ONCE = 16  # number of shards that are listed at a time; the time is spent waiting for the server


def is_shard(path: str) -> bool:
    """Return whether a path or URL has the suffix of a shard."""
    return _suffix(path) in (".tar", ".parquet")


def _suffix(path: str) -> str:
    return PurePosixPath(url_path(path) if is_url(path) else path).suffix.lower()


def list_shard(path: str) -> Iterator[ImageSource | FileFormatError]:
    """Yield the images in a shard in order, and an error for each that cannot be used, or for the rest of the shard.

    Raises:
        OSError: The file cannot be read.
        ImportError: pyarrow is not installed.
    """
    try:
        yield from list_tar(path) if _suffix(path) == ".tar" else _rows(path)
    except FileFormatError as error:
        yield error


def _rows(path: str) -> Iterator[ImageSource]:
    for row, name, group_bytes in list_rows(path):
        key = str(row) if name is None else as_key(name)
        stem, suffix = os.path.splitext(key)
        key = stem if suffix.lower() in IMAGE_SUFFIXES else key
        yield ImageSource(key, path, name, length=group_bytes, row=row)


class ShardLister:
    """List shards in any order, after those at URLs were announced, which are then listed in threads."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="list")
        self._announced: dict[str, Future[list[ImageSource | FileFormatError]]] = {}
        self._stopped = threading.Event()

    def __enter__(self) -> ShardLister:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def announce(self, paths: Iterable[str]) -> None:
        """Start to list those of the paths that are shards at URLs."""
        for path in paths:
            if is_url(path) and is_shard(path) and path not in self._announced:
                self._announced[path] = self._pool.submit(self._list, path)

    def images(self, path: str) -> Iterable[ImageSource | FileFormatError]:
        """Return what `list_shard` yields for a path."""
        future = self._announced.pop(path, None)
        return list_shard(path) if future is None else future.result()

    def _list(self, path: str) -> list[ImageSource | FileFormatError]:
        # After an error elsewhere the rest is not needed.
        return list(itertools.takewhile(lambda _: not self._stopped.is_set(), list_shard(path)))
