"""Write extracted features to the shards of a feature store, and decide which shards of an earlier run are kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preimage.errors import FileFormatError
from preimage.pipelines.extract_batches import Batch, Extraction, computed_in_threads
from preimage.pipelines.image_loading import SKIP_HINT
from preimage.store import Index, StoreWriter, stored_keys

if TYPE_CHECKING:
    from preimage.io import ImageSource
    from preimage.io.shards import ShardWriter

ShardImages = tuple[int, list["ImageSource"]]  # number of a shard, and its images

_QUEUED_BATCHES = 4  # maximum number of batches that wait to be written


def forget_stale(store: StoreWriter, sources: Sequence[ImageSource], skip_bad: bool) -> list[str]:
    """Discard shards that are damaged, whose images have changed, or that skipped images; return notes about them."""
    notes = [f"{problem}: recomputed" for problem in store.check()]
    entries = store.index.shards
    changed = [
        entry.number for entry in entries if entry.source != _source_of(_images_of(store.index, entry.number, sources))
    ]
    if changed:
        notes.append(f"{len(changed)} of {len(entries)} shards are recomputed: their images have changed")
    store.forget([*changed, *(entry.number for entry in entries if entry.skipped and not skip_bad)])
    return notes


def missing_shards(index: Index, sources: Sequence[ImageSource]) -> list[ShardImages]:
    """Return the number and the images of each shard that is not complete yet.

    Args:
        index: Index of the store.
        sources: All listed images.
    """
    return [(number, _images_of(index, number, sources)) for number in index.missing]


def _images_of(index: Index, number: int, sources: Sequence[ImageSource]) -> list[ImageSource]:
    return [sources[position] for position in index.positions(number)]


class Progress:
    """Count the images that are done, those of complete shards included, and report them.

    Args:
        index: Index of the store.
        report: Called with (images done, total number of images).
    """

    def __init__(self, index: Index, report: Callable[[int, int], None] | None) -> None:
        self._report = report
        self._total = sum(len(index.positions(number)) for number in index.wanted)
        self._done = self._total - sum(len(index.positions(number)) for number in index.missing)
        if self._done:
            self.advance(0)

    def advance(self, images: int) -> None:
        """Report more images."""
        self._done += images
        if self._report is not None:
            self._report(self._done, self._total)


def write_shards(
    store: StoreWriter, shards: Sequence[ShardImages], extraction: Extraction, advance: Callable[[int], None]
) -> None:
    """Compute and write shards, in order.

    Args:
        store: Store to complete.
        shards: Number and images of each shard.
        extraction: Settings of the extraction.
        advance: Called with the number of further images done.

    Raises:
        ValueError: An image cannot be used, without `skip_bad`.
        OSError: The disk is full, or the store cannot be written.
    """
    with (
        contextlib.closing(_computed(shards, extraction, store.index.shard_length)) as computed,
        _Writer(store, dict(shards)) as writer,
    ):
        for batch in computed:
            if batch.skipped and not extraction.skip_bad:
                raise ValueError(f"{batch.skipped[0][1]} ({SKIP_HINT})")
            writer.put(batch)
            advance(batch.positions)


def _computed(shards: Sequence[ShardImages], extraction: Extraction, length: int) -> Generator[Batch, None, None]:
    if extraction.device is None:
        return computed_in_threads(shards, extraction, length)
    from preimage.pipelines.extract_device import computed_on_device  # imports torch

    return computed_on_device(shards, extraction)


class _Writer:
    """Write batches in order in a separate thread, while another one waits until the shard before is on disk.

    After an error elsewhere the batches put so far are still written; after an error of writing no others are.
    """

    def __init__(self, store: StoreWriter, images: Mapping[int, Sequence[ImageSource]]) -> None:
        self._store, self._images = store, images  # of each shard, by number
        self._remaining = 0  # number of positions that the open shard still lacks
        self._failed = False
        self._open_shard = contextlib.ExitStack()
        self._shard: ShardWriter
        self._thread, self._finishing = (ThreadPoolExecutor(1, thread_name_prefix="write") for _ in range(2))
        self._queue: deque[Future[None]] = deque()
        self._finished: Future[None] | None = None  # of the shard before the open one

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._thread.shutdown(wait=True)
        self._finishing.shutdown(wait=True)
        futures = [*self._queue, *([] if self._finished is None else [self._finished])]
        errors = [error for future in futures if (error := future.exception()) is not None]
        first = exception[1] or next(iter(errors), None)
        if first is None:
            self._open_shard.close()
            return
        self._open_shard.__exit__(type(first), first, first.__traceback__)  # discards the incomplete shard
        if exception[1] is None:
            raise first

    def put(self, batch: Batch) -> None:
        """Queue a batch for writing; raise the error of an earlier one."""
        while len(self._queue) >= _QUEUED_BATCHES:
            self._queue.popleft().result()
        self._queue.append(self._thread.submit(self._write, batch))

    def _write(self, batch: Batch) -> None:
        if self._failed:
            return  # the open shard lacks a batch, and must not be completed by others
        try:
            self._append(batch)
        except BaseException:
            self._failed = True
            raise

    def _append(self, batch: Batch) -> None:
        if not self._remaining:
            images = self._images[batch.shard]
            self._remaining = len(images)
            shard = self._store.shard(batch.shard, _source_of(images))
            self._shard = self._open_shard.enter_context(shard)
        for features, items in batch.groups:
            self._shard.append(
                [item.source.key for item in items],
                features,
                [item.original_size for item in items],
                [item.processed_size for item in items],
            )
        self._shard.skipped += batch.skipped
        self._shard.nonfinite += batch.nonfinite
        batch.release()
        self._remaining -= batch.positions
        if not self._remaining:
            if self._finished is not None:
                self._finished.result()
            self._finished = self._finishing.submit(self._open_shard.pop_all().close)


def _source_of(images: Iterable[ImageSource]) -> str:
    """Return a digest of the lengths of a shard's image files; paths and times differ between machines."""
    return digest(map(_length, images))


def digest(values: Iterable[object]) -> str:
    """Return the SHA-256 of JSON values, in order."""
    hashed = hashlib.sha256()
    for value in values:
        hashed.update(json.dumps(value).encode())
    return hashed.hexdigest()


def _length(source: ImageSource) -> int:
    """Return the size of an encoded image in bytes; -1 for a missing one, which is reported when it is read."""
    if source.length is not None:
        return source.length
    try:
        return os.path.getsize(source.path)
    except OSError:
        return -1


def first_difference(folder: Path, earlier: Index, sources: Sequence[ImageSource]) -> str:
    """Return a phrase for the first difference from an earlier run's list of images, as far as its shards reveal it."""
    for entry in earlier.shards:
        if entry.images < len(earlier.positions(entry.number)):
            continue  # it is unknown which keys are missing
        try:
            keys = stored_keys(folder, entry)
        except (OSError, FileFormatError):
            continue
        for position, then in zip(earlier.positions(entry.number), keys, strict=True):
            now = sources[position].key if position < len(sources) else None
            if then != now:
                current = "none" if now is None else repr(now)
                return f"the first difference is image {position + 1}: {then!r}, now {current}"
    return ""
