"""Store the features of many images on disk, written shard by shard and read by key.

A feature store is a folder::

    photos.hog/index.json                    spec of the features, list of shards
               shard-00000.safetensors, ...

or a single ``.safetensors`` file, see `preimage.io.shards`. Shard k contains the images at positions k·L to (k+1)·L - 1
of the list of images, except for skipped ones; L is determined once, by the size of the first image's features. A shard
is written under a temporary name, renamed, and then listed in the index.

Opening a store checks the checksum of the index, and the header, keys and sizes of every shard against the digest in
the index. The features of a shard are checked when one of them is first read. `FeatureStore.verify` checks everything.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.atomic import StrPath, atomic_write
from preimage.io.feature_file import DTYPES, FeatureFile, FeatureRecord, check_record, stored_array
from preimage.io.folders import sync_folders
from preimage.io.locks import LOCK, folder_lock
from preimage.io.shards import SUFFIX, Shard, ShardWriter, check_version, read_header, write_shard
from preimage.io.shards_v1 import read_features_v1
from preimage.io.store_index import INDEX, Index, ShardEntry, read_index
from preimage.spec import Spec

SHARD_BYTES = 64 << 20
MAX_SHARD_IMAGES = 65_536
MAX_MAPPED = 256  # shards of a store mapped at once; each takes a file descriptor


class FeatureStore(FeatureFile):
    """Feature store opened for reading: a mapping from image keys to arrays.

    ``store["cat"]`` is a read-only NumPy array (C, h, w) or (C,) of the stored dtype, a view of the memory-mapped
    file. Positions are accepted instead of keys. The first access to a shard reads all of it to check its checksum.

    Args:
        path: Folder of a store, or a single ``.safetensors`` file of features, also of format version 1.

    Attributes:
        path: Path of the folder or file.
        spec: Spec of the features.
        dtype: Stored dtype, ``"float32"`` or ``"float16"``.
        original_sizes: (N, 2) int32, (height, width) of each decoded image in pixels.
        processed_sizes: (N, 2) int32, (height, width) in pixels of the images that the features were computed from.
        index: Contents of ``index.json``; ``None`` for a single file.

    Raises:
        FileFormatError: The store is damaged, unfinished, of another format or a newer version, or a shard is missing,
            has changed its size, or belongs to another store.
        FileNotFoundError: `path` does not exist.
    """

    def __init__(self, path: StrPath) -> None:
        self.index: Index | None = None
        self._shards: list[Shard] = []
        if os.path.isdir(path):
            self.index = _complete_index(Path(path))
            self._shards = [_shard(Path(path), self.index, entry) for entry in self.index.shards if entry.images]
            spec, dtype = self.index.spec, self.index.dtype
        else:
            opened = _open_file(path)
            if isinstance(opened, FeatureFile):
                super().__init__(
                    path,
                    opened.spec,
                    keys=list(opened),
                    original_sizes=opened.original_sizes,
                    processed_sizes=opened.processed_sizes,
                    dtype=opened.dtype,
                    load=opened.__getitem__,
                )
                return
            self._shards = [opened]
            spec, dtype = opened.spec, opened.dtype
        keys = [key for shard in self._shards for key in shard.keys] if len(self._shards) != 1 else self._shards[0].keys
        self._mapped = _MappedShards(self._shards)
        super().__init__(
            path,
            spec,
            keys=keys,
            original_sizes=_joined([shard.original_sizes for shard in self._shards]),
            processed_sizes=_joined([shard.processed_sizes for shard in self._shards]),
            dtype=dtype,
            load=self._mapped.features,
        )
        if len(self._positions) < len(keys):
            raise FileFormatError(path, "two images have the same key")

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[str]]:
        return type(self), (self.path,)  # another process, such as a worker of a DataLoader, opens the files itself

    @property
    def bytes(self) -> int:
        """Size on disk in bytes."""
        return os.path.getsize(self.path) if self.index is None else _bytes(self.path, self.index)

    def verify(self) -> None:
        """Compare all features with their checksums.

        Raises:
            FileFormatError: A file is damaged; the first one is named.
        """
        for problem in self.problems():
            raise problem

    def problems(self) -> Iterator[FileFormatError]:
        """Compare all features with their checksums and yield the error of each damaged file."""
        for number, shard in enumerate(self._shards):
            try:
                shard.verify()
            except FileFormatError as error:
                yield error
            self._mapped.use(number)

    def batches(self, size: int) -> Iterator[tuple[list[str], NDArray[Any], NDArray[np.int32], NDArray[np.int32]]]:
        """Yield batches of at most `size` consecutive images with features of one shape.

        Yields:
            Keys of B images, their features (B, C, h, w) or (B, C), original sizes (B, 2) and processed sizes (B, 2).
        """
        position = 0
        while position < len(self):
            end = position + 1
            first = self[position]
            stacked = [first]
            while end < len(self) and end - position < size and (features := self[end]).shape == first.shape:
                stacked.append(features)
                end += 1
            sizes = self.original_sizes[position:end], self.processed_sizes[position:end]
            yield list(self._keys[position:end]), np.stack(stacked), *sizes
            position = end


class _MappedShards:
    """Read the features of shards by position in all of them, and keep the number of mapped files small.

    Apart from the store, because a store that refers to itself would keep its files mapped until the next garbage
    collection, and Windows neither deletes nor replaces a mapped file.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._starts = list(itertools.accumulate((len(shard.keys) for shard in shards), initial=0))
        self._mapped: dict[int, None] = {}  # numbers of the mapped shards, the most recently used last
        self._lock = threading.Lock()

    def features(self, position: int) -> NDArray[Any]:
        which = bisect.bisect_right(self._starts, position) - 1
        features = self._shards[which].features(position - self._starts[which])
        self.use(which)
        return features

    def use(self, which: int) -> None:
        """Record the use of a shard, and unmap the least recently used one if too many are mapped."""
        with self._lock:
            self._mapped.pop(which, None)
            self._mapped[which] = None
            if len(self._mapped) > MAX_MAPPED:
                oldest = next(iter(self._mapped))
                del self._mapped[oldest]
                self._shards[oldest].unmap()


def _bytes(folder: StrPath, index: Index) -> int:
    return sum(entry.bytes for entry in index.shards) + os.path.getsize(os.path.join(folder, INDEX))


def _joined(columns: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate(columns) if columns else np.empty((0, 2), np.int32)


def _complete_index(folder: Path) -> Index:
    try:
        index = read_index(folder)
    except FileNotFoundError:
        raise FileFormatError(folder, f"not a feature store: the folder has no {INDEX}") from None
    if not index.complete:
        done = f"{len(index.shards)} of {len(index.wanted)} shards are complete"
        raise FileFormatError(folder, f"unfinished, {done}: repeat the command that writes it")
    return index


def _shard(folder: Path, index: Index, entry: ShardEntry) -> Shard:
    """Open a shard of a store and check that it is the one listed in the index."""
    path = folder / entry.file
    if not path.exists():
        raise FileFormatError(path, f"missing, but listed in {INDEX}")
    if path.stat().st_size != entry.bytes:
        raise FileFormatError(path, f"must have {entry.bytes} bytes, got {path.stat().st_size}: truncated or replaced")
    shard = _open_file(path)
    if not isinstance(shard, Shard) or shard.digest != entry.digest or shard.spec != index.spec:
        raise FileFormatError(path, f"not the shard listed in {INDEX}: from another store, or swapped")
    return shard


def _open_file(path: StrPath) -> Shard | FeatureFile:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            header = read_header(file, size)
            check_version(header.version)
        except ValueError as error:
            raise FileFormatError(path, str(error)) from error
        if header.version == 1:
            return read_features_v1(path, file, header, size)
    return Shard(path, header, size)


def stored_keys(folder: StrPath, entry: ShardEntry) -> list[str]:
    """Return the keys in one shard of a store, which need not be complete.

    Raises:
        FileFormatError: The shard is damaged.
    """
    opened = _open_file(Path(folder) / entry.file)
    assert isinstance(opened, Shard)
    return opened.keys


def shard_length(image_bytes: int) -> int:
    """Return the number of images per shard: about 64 MiB of features, at most 65,536 images.

    Args:
        image_bytes: Size of the features of one image.
    """
    return max(1, min(MAX_SHARD_IMAGES, SHARD_BYTES // max(1, image_bytes)))


class StoreWriter:
    """Write a new store or continue an unfinished one, see `open_writer`.

    Attributes:
        folder: Folder of the store.
        index: Index as it is on disk.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index = folder, index

    @property
    def bytes(self) -> int:
        """Size on disk in bytes."""
        return _bytes(self.folder, self.index)

    @contextmanager
    def shard(self, number: int, source: str = "") -> Iterator[ShardWriter]:
        """Write one shard, which is complete when the ``with`` block ends without an exception.

        Args:
            number: Number of the shard.
            source: Identifier of what the features are computed from.
        """
        entry = ShardEntry(number, 0, 0, "", source)
        path = self.folder / entry.file
        try:
            with write_shard(path, self.index.spec, self.index.dtype) as writer:
                yield writer
                if not writer.count:
                    raise _NoImagesError
        except _NoImagesError:
            pass
        else:
            entry = dataclasses.replace(entry, images=writer.count, bytes=path.stat().st_size, digest=writer.digest)
        skipped, nonfinite = tuple(writer.skipped), tuple(writer.nonfinite)
        self.add(dataclasses.replace(entry, skipped=skipped, nonfinite=nonfinite))

    def add(self, entry: ShardEntry) -> None:
        """List a shard, whose file is complete, in the index."""
        others = [one for one in self.index.shards if one.number != entry.number]
        shards = tuple(sorted([*others, entry], key=lambda one: one.number))
        self._write(dataclasses.replace(self.index, shards=shards))

    def delete_temporary_files(self) -> None:
        """Delete the temporary files of killed processes; no other process may be writing a shard."""
        _delete_files(self.folder, everything=False)

    def finish(self) -> None:
        """Mark the store as complete, so that it can be read."""
        if not self.index.complete:
            self._write(dataclasses.replace(self.index, complete=True))

    def change_dtype(self, dtype: str) -> None:
        """Continue with another stored dtype; existing shards are deleted, to be written again."""
        removed = [entry for entry in self.index.shards if entry.images]
        kept = tuple(entry for entry in self.index.shards if not entry.images)
        self._write(dataclasses.replace(self.index, dtype=dtype, shards=kept, complete=False))
        for entry in removed:
            (self.folder / entry.file).unlink(missing_ok=True)

    def forget(self, numbers: Iterable[int]) -> None:
        """Remove shards from the index, so that they are written again."""
        removed = set(numbers)
        if removed:
            kept = tuple(entry for entry in self.index.shards if entry.number not in removed)
            self._write(dataclasses.replace(self.index, shards=kept, complete=False))

    def check(self) -> list[FileFormatError]:
        """Compare all complete shards with their checksums; forget the damaged ones and return their errors."""
        problems = {}
        for entry in self.index.shards:
            if entry.images:
                try:
                    _shard(self.folder, self.index, entry).verify()
                except FileFormatError as error:
                    problems[entry.number] = error
        self.forget(problems)
        return list(problems.values())

    def _write(self, index: Index) -> None:
        with atomic_write(self.folder / INDEX) as file:
            file.write(index.to_bytes())
        self.index = index


class _NoImagesError(Exception):
    """Every image of a shard was skipped."""


@contextmanager
def open_writer(
    folder: StrPath,
    spec: Spec,
    dtype: str | None,
    *,
    count: int,
    length: int | Callable[[], int],
    source: Mapping[str, Any],
    part: tuple[int, int] = (0, 1),
    resume: bool = True,
    wait: Callable[[float], None] | None = None,
    hint: Callable[[Index], str] = lambda earlier: "",
    remedy: str = "start over with --no-resume",
) -> Iterator[StoreWriter]:
    """Create a store or resume writing one, with exclusive access.

    Args:
        folder: Folder of the store, created if it does not exist.
        spec: Spec of the features.
        dtype: Stored dtype, ``"float32"`` or ``"float16"``; ``None`` keeps that of an existing store and is
            ``"float32"`` for a new one.
        count: Length of the list of images.
        length: Number of images in the list per shard, or a function that returns it, called for new stores only.
        source: Other settings that determine the features, as JSON values by name.
        part: (i, n) writes only every n-th shard, beginning with number i.
        resume: Keep existing shards; otherwise all are written again.
        wait: Function called repeatedly with the seconds waited so far while another process writes the store;
            ``None`` raises instead of waiting.
        hint: Function that describes how the list of images differs from that of an earlier index.
        remedy: Advice in the error message for a store with other settings.

    Raises:
        ValueError: The store has other settings, which are listed, or another process is writing it.
        FileFormatError: The index is damaged.
        FileExistsError: The folder contains files that do not belong to a store.
    """
    path = Path(folder)
    if not 0 <= part[0] < part[1]:
        raise ValueError(f"part must be (i, n) with 0 <= i < n, got {part}")
    if path.is_dir() and (others := _other_files(path)):
        raise FileExistsError(f"{path} contains {others[0]}, which does not belong to a feature store")
    with folder_lock(path, wait):
        earlier = None
        if resume and (path / INDEX).exists():
            earlier = read_index(path)
            if not earlier.shards:
                earlier = None  # without shards nothing is lost by starting over with other settings
        _delete_files(path, everything=earlier is None)
        if dtype is None:
            dtype = "float32" if earlier is None else earlier.dtype
        if earlier is not None:
            index = dataclasses.replace(earlier, spec=spec, dtype=dtype, count=count, source=as_json(source), part=part)
            other_images = index.source.get("images") != earlier.source.get("images")
            if differences := index.differences(earlier, hint(earlier) if other_images else ""):
                raise ValueError(
                    f"{path} contains features with other settings (stored != requested): {'; '.join(differences)}. "
                    f"Repeat those settings, choose another folder, or {remedy}"
                )
            yield StoreWriter(path, earlier)
            return
        index = Index(spec, dtype, count, length if isinstance(length, int) else length(), as_json(source), part)
        writer = StoreWriter(path, index)
        writer._write(index)
        yield writer


def as_json(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values after a round trip through JSON."""
    return dict(json.loads(json.dumps(source)))


def remove_store(folder: StrPath) -> None:
    """Delete the files of a store, index first, and its folder if nothing else is in it.

    Call it while holding the folder's lock, so that no other process has begun to write there.
    """
    path = Path(folder)
    _delete_files(path, everything=True)
    with contextlib.suppress(OSError):
        (path / LOCK).unlink(missing_ok=True)
        path.rmdir()


def _delete_files(folder: Path, *, everything: bool) -> None:
    """Delete temporary files left by killed processes, or all files of a store. The index is deleted first."""
    if everything:
        (folder / INDEX).unlink(missing_ok=True)
    for entry in folder.iterdir():
        if entry.name.startswith(".preimage-") or (everything and _is_store_file(entry.name) and entry.name != LOCK):
            entry.unlink(missing_ok=True)


def _other_files(folder: Path) -> list[str]:
    """Return the names in a folder that do not belong to a store."""
    return [entry.name for entry in folder.iterdir() if not _is_store_file(entry.name)]


def _is_store_file(name: str) -> bool:
    return name in (INDEX, LOCK) or name.startswith(".preimage-") or (name[:6] == "shard-" and name.endswith(SUFFIX))


def write_features(path: StrPath, spec: Spec, records: Iterable[FeatureRecord], *, dtype: str = "float32") -> None:
    """Write a feature store, one record at a time.

    Args:
        path: Path of a folder, or of a single file with the suffix ``.safetensors``. An earlier store is replaced, a
            single file only on success.
        spec: Spec of the features.
        records: Any iterable of records, consumed once. Non-finite features are stored unchanged.
        dtype: Stored dtype, ``"float32"`` or ``"float16"``.

    Raises:
        ValueError: A key is repeated or invalid, features do not match the spec or overflow float16, or a size is not
            a pair of positive integers.
        TypeError: Features are not a floating-point NumPy array.
        OSError: Any error of the operating system, such as a full disk.
    """
    checked = _checked(records, spec, dtype)
    if is_single_file(path):
        with write_shard(path, spec, dtype) as writer:
            for record in checked:
                _append(writer, record)
        return
    first = next(checked, None)
    length = 1 if first is None else shard_length(first.features.nbytes)
    with open_writer(path, spec, dtype, count=0, length=length, source={}, resume=False) as store:
        try:
            _write_records(store, length, first, checked)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to report
                remove_store(path)  # nothing can continue it
            raise


def _write_records(
    store: StoreWriter, length: int, record: FeatureRecord | None, further: Iterator[FeatureRecord]
) -> None:
    while record is not None:
        number = -(-store.index.count // length)
        store.index = dataclasses.replace(store.index, count=store.index.count + length)
        with store.shard(number) as writer:
            while record is not None and writer.count < length:
                _append(writer, record)
                record = next(further, None)
            store.index = dataclasses.replace(store.index, count=number * length + writer.count)
    store.finish()


def is_unfinished_copy(path: StrPath) -> bool:
    """Return whether a folder contains nothing but what a killed `write_features` has left."""
    folder = Path(path)
    if not folder.is_dir() or _other_files(folder):
        return False
    if not (folder / INDEX).exists():
        return True  # killed before it wrote the index
    index = read_index(folder)
    return not index.complete and not index.source


def _checked(records: Iterable[FeatureRecord], spec: Spec, dtype: str) -> Iterator[FeatureRecord]:
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    seen: set[str] = set()
    for record in records:
        check_record(record, spec, seen)
        yield dataclasses.replace(record, features=stored_array(record, dtype))


def _append(writer: ShardWriter, record: FeatureRecord) -> None:
    writer.append([record.key], record.features[None], [record.original_size], [record.processed_size])


def is_single_file(path: StrPath) -> bool:
    """Return whether a path is that of a single file of features, by its suffix ``.safetensors``."""
    return Path(path).suffix.lower() == SUFFIX


def join(store: FeatureStore, path: StrPath) -> None:
    """Write the features of a store to a single ``.safetensors`` file, atomically."""
    runs = max(1, sum(shard.runs for shard in store._shards))
    with write_shard(path, store.spec, store.dtype, runs=runs) as writer:
        for keys, features, original, processed in store.batches(256):
            writer.append(keys, features, _pairs(original), _pairs(processed))


def _pairs(sizes: NDArray[np.int32]) -> list[tuple[int, int]]:
    return [(height, width) for height, width in sizes.tolist()]


def merge(stores: Sequence[StrPath], output: StrPath) -> FeatureStore:
    """Merge stores that were written with ``part=(i, n)`` (``extract --shard i/n``) into one.

    Shards are hard-linked where the file system allows it, and copied otherwise.

    Args:
        stores: Paths of the stores, which are not changed.
        output: Folder of the new store.

    Raises:
        ValueError: The stores have different settings, or a shard is missing or in two of them.
        FileFormatError: A store is damaged or unfinished.
        FileExistsError: `output` exists already.
    """
    if not stores:
        raise ValueError("stores must contain at least one store, got none")
    indexes = [_complete_index(Path(path)) for path in stores]
    first = dataclasses.replace(indexes[0], part=(0, 1), shards=(), complete=False)
    for path, index in zip(stores, indexes, strict=True):
        whole = dataclasses.replace(index, part=(0, 1), shards=())
        if differences := first.differences(whole):
            raise ValueError(f"{path} and {stores[0]} have different settings: {'; '.join(differences)}")
    found: dict[int, tuple[Path, ShardEntry]] = {}
    for path, index in zip(stores, indexes, strict=True):
        for entry in index.shards:
            if entry.number in found:
                raise ValueError(f"shard {entry.number} is in {found[entry.number][0]} and in {path}")
            found[entry.number] = (Path(path), entry)
    if missing := [number for number in first.wanted if number not in found]:
        raise ValueError(f"{len(missing)} of {len(first.wanted)} shards are missing, the first is shard {missing[0]}")
    target = Path(output)
    _refuse_existing(target)
    with folder_lock(target):
        _refuse_existing(target)  # another process may have written it before the lock was taken
        _delete_files(target, everything=True)  # left by a merge that was killed
        try:
            for _, (part_folder, entry) in sorted(found.items()):
                if entry.images:
                    _link(part_folder / entry.file, target / entry.file)
                    _shard(target, first, entry)  # its store may have been replaced since its index was read
            sync_folders([target])
            shards = tuple(entry for _, (_, entry) in sorted(found.items()))
            StoreWriter(target, first)._write(dataclasses.replace(first, shards=shards, complete=True))
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to report
                remove_store(target)  # nothing in it can be continued
            raise
    return FeatureStore(target)


def _refuse_existing(target: Path) -> None:
    """Raise a ``FileExistsError`` unless the path is free, or a folder of at most an unfinished merge."""
    if (target / INDEX).exists() or (target.exists() and (not target.is_dir() or _other_files(target))):
        raise FileExistsError(f"{target} exists already")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        with atomic_write(target) as file, open(source, "rb") as original:
            shutil.copyfileobj(original, file, 1 << 24)


__all__ = [
    "FeatureStore",
    "Index",
    "ShardEntry",
    "StoreWriter",
    "is_single_file",
    "is_unfinished_copy",
    "join",
    "merge",
    "open_writer",
    "read_index",
    "remove_store",
    "shard_length",
    "stored_keys",
    "write_features",
]
