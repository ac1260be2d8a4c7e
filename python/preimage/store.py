"""Features of many images on disk: written shard by shard, read by key.

A store is a folder::

    photos.hog/index.json             what the features are, and which shards there are
               shard-00000.safetensors, ...

or a single ``.safetensors`` file, see `preimage.io.shards`. Shard k holds the images at positions k·L up to (k+1)·L of
the list that the features were computed from, but for those that were skipped; L is decided once, from the first image.
A shard is written once, under a temporary name, and counts when the index lists it.

What is checked when: opening a store compares the index with its own checksum and every shard's header, keys and sizes
with the digest in the index; a shard's features are compared with their checksum when one of them is first read;
`FeatureStore.verify` checks everything at once.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
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
from preimage.io.atomic import StrPath, atomic_write, folder_lock, sync_folders
from preimage.io.feature_file import DTYPES, FeatureFile, FeatureRecord, check_record, stored_array
from preimage.io.shards import SUFFIX, Shard, ShardWriter, check_version, read_header, write_shard
from preimage.io.shards_v1 import read_features_v1
from preimage.io.store_index import INDEX, Index, ShardEntry, read_index
from preimage.spec import Spec

SHARD_BYTES = 64 << 20
MAX_SHARD_IMAGES = 65_536
MAX_MAPPED = 256  # shards of a store at once: each takes a file descriptor


class FeatureStore(FeatureFile):
    """Features of many images on disk, opened for reading: a mapping from keys to arrays.

    ``store["cat"]`` is a read-only NumPy array (C, h, w) or (C,) of the stored dtype, a view of the mapped file. Of a
    shard nothing else is read, but for its checksum the first time. Positions are taken in place of keys.

    Args:
        path: a store's folder, or a single ``.safetensors`` file of features (of format version 1, too).

    Attributes:
        path: the same.
        spec: what the features are of.
        dtype: ``"float32"`` or ``"float16"``, as stored.
        original_sizes: (N, 2) int32, (height, width) of each image as decoded, pixels.
        processed_sizes: (N, 2) int32, (height, width) of what the features were computed from, pixels.
        index: what ``index.json`` says; ``None`` for a single file.

    Raises:
        FileFormatError: damaged, unfinished, of another format or a newer version, or with shards that are missing,
            of another length than they had, or not its own.
        FileNotFoundError: there is nothing at `path`.
    """

    def __init__(self, path: StrPath) -> None:
        self.index: Index | None = None
        self._shards: list[Shard] = []
        self._mapped: dict[int, None] = {}  # numbers of the shards in use, the one used last at the end
        self._lock = threading.Lock()
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
        self._starts = [0]
        for shard in self._shards:
            self._starts.append(self._starts[-1] + len(shard.keys))
        super().__init__(
            path,
            spec,
            keys=keys,
            original_sizes=_joined([shard.original_sizes for shard in self._shards]),
            processed_sizes=_joined([shard.processed_sizes for shard in self._shards]),
            dtype=dtype,
            load=self._from_shard,
        )
        if len(self._positions) < len(keys):
            raise FileFormatError(path, "two images have one key")

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return os.path.getsize(self.path) if self.index is None else _bytes(self.path, self.index)

    def verify(self) -> None:
        """Compare all features with their checksums.

        Raises:
            FileFormatError: names the first file that is damaged.
        """
        for problem in self.problems():
            raise problem

    def problems(self) -> Iterator[FileFormatError]:
        """Compare all features with their checksums; yield what is wrong with each file that is damaged."""
        for number, shard in enumerate(self._shards):
            try:
                shard.verify()
            except FileFormatError as error:
                yield error
            self._use(number)

    def batches(self, size: int) -> Iterator[tuple[list[str], NDArray[Any], NDArray[np.int32], NDArray[np.int32]]]:
        """Yield keys, features (B, ...), original and processed sizes of consecutive images of one shape."""
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

    def _from_shard(self, position: int) -> NDArray[Any]:
        which = bisect.bisect_right(self._starts, position) - 1
        features = self._shards[which].features(position - self._starts[which])
        self._use(which)
        return features

    def _use(self, which: int) -> None:
        """Take down that a shard is mapped, and let go of the one that has not been used for longest."""
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
        raise FileFormatError(folder, f"a folder without {INDEX}: no feature store, or one hardly begun") from None
    if not index.complete:
        done = f"{len(index.shards)} of {len(index.wanted)} shards are there"
        raise FileFormatError(folder, f"unfinished, {done}: repeat the command that writes it")
    return index


def _shard(folder: Path, index: Index, entry: ShardEntry) -> Shard:
    """Open a shard of a store; `FileFormatError` unless it is the one that the index means."""
    path = folder / entry.file
    if not path.exists():
        raise FileFormatError(path, f"is missing, but {INDEX} lists it")
    if path.stat().st_size != entry.bytes:
        raise FileFormatError(path, f"has {path.stat().st_size} bytes, not {entry.bytes}: cut short, or another's")
    shard = _open_file(path)
    if not isinstance(shard, Shard) or shard.digest != entry.digest or shard.spec != index.spec:
        raise FileFormatError(path, f"is not the shard that {INDEX} means: another store's, or two were swapped")
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
    """Return the keys in one shard of a store, complete or not; `FileFormatError` if it is damaged."""
    opened = _open_file(Path(folder) / entry.file)
    assert isinstance(opened, Shard)
    return opened.keys


def shard_length(image_bytes: int) -> int:
    """Return how many images whose features have so many bytes are a shard: about 64 MiB, at most 65,536."""
    return max(1, min(MAX_SHARD_IMAGES, SHARD_BYTES // max(1, image_bytes)))


class StoreWriter:
    """A store that is being written, or written further. Use `open_writer`.

    Attributes:
        folder: of the store.
        index: what is on disk.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index = folder, index

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return _bytes(self.folder, self.index)

    @contextmanager
    def shard(self, number: int, source: str = "") -> Iterator[ShardWriter]:
        """Write one shard; it is complete when the block ends without an exception.

        Args:
            number: of the shard.
            source: names what the features are computed from.
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
        self._list(dataclasses.replace(entry, skipped=skipped, nonfinite=nonfinite))

    def finish(self) -> None:
        """Make the store readable, once all shards are there."""
        if not self.index.complete:
            self._write(dataclasses.replace(self.index, complete=True))

    def change_dtype(self, dtype: str) -> None:
        """Go on with features stored as another dtype; the shards that are there are deleted and written anew."""
        gone = [entry for entry in self.index.shards if entry.images]
        kept = tuple(entry for entry in self.index.shards if not entry.images)
        self._write(dataclasses.replace(self.index, dtype=dtype, shards=kept, complete=False))
        for entry in gone:
            (self.folder / entry.file).unlink(missing_ok=True)

    def forget(self, numbers: Iterable[int]) -> None:
        """Take shards out of the index, so that they are written anew."""
        gone = set(numbers)
        if gone:
            kept = tuple(entry for entry in self.index.shards if entry.number not in gone)
            self._write(dataclasses.replace(self.index, shards=kept, complete=False))

    def check(self) -> list[FileFormatError]:
        """Compare all complete shards with their checksums; forget the damaged ones, and return what is wrong."""
        problems = {}
        for entry in self.index.shards:
            if entry.images:
                try:
                    _shard(self.folder, self.index, entry).verify()
                except FileFormatError as error:
                    problems[entry.number] = error
        self.forget(problems)
        return list(problems.values())

    def _list(self, entry: ShardEntry) -> None:
        others = [one for one in self.index.shards if one.number != entry.number]
        shards = tuple(sorted([*others, entry], key=lambda one: one.number))
        self._write(dataclasses.replace(self.index, shards=shards))

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
    remedy: str = "start anew with --no-resume",
) -> Iterator[StoreWriter]:
    """Begin a store, or go on with one, alone.

    Args:
        folder: made if it is not there.
        spec: what the features are of.
        dtype: ``"float32"`` or ``"float16"``, as stored; ``None`` leaves it as it is, and begins with ``"float32"``.
        count: positions in the list of images.
        length: positions in a shard, or a function that tells it, called for a new store only.
        source: what else decides the features: plain JSON values, by name.
        part: (i, n) takes every n-th shard only, from number i on.
        resume: keep the shards that are there; otherwise all are written anew.
        wait: called again and again, with the seconds waited so far, while another process writes the store; ``None``
            raises then.
        hint: tells how the list of images differs from that of an earlier index.
        remedy: what to do about a store of other features, for the message.

    Raises:
        ValueError: the store is of other features (says which settings differ), or another process is writing it.
        FileFormatError: its index is damaged.
        FileExistsError: the folder holds files that are not a store's.
    """
    path = Path(folder)
    if not 0 <= part[0] < part[1]:
        raise ValueError(f"a part is (i, n) with 0 <= i < n, got {part}")
    if path.is_dir() and (strangers := _strangers(path)):
        raise FileExistsError(f"{path} is in the way: it holds {strangers[0]}, which is no part of a feature store")
    with folder_lock(path, wait):
        earlier = None
        if resume and (path / INDEX).exists():
            earlier = read_index(path)
            if not earlier.shards:
                earlier = None  # nothing is lost by beginning anew, with whatever settings
        _sweep(path, everything=earlier is None)
        if dtype is None:
            dtype = "float32" if earlier is None else earlier.dtype
        if earlier is not None:
            index = dataclasses.replace(earlier, spec=spec, dtype=dtype, count=count, source=plain(source), part=part)
            others = index.source.get("images") != earlier.source.get("images")
            if differences := index.differences(earlier, hint(earlier) if others else ""):
                raise ValueError(
                    f"{path} holds features with other settings (then != now): {'; '.join(differences)}. Repeat those "
                    f"settings, choose another folder, or {remedy}"
                )
            yield StoreWriter(path, earlier)
            return
        index = Index(spec, dtype, count, length if isinstance(length, int) else length(), plain(source), part)
        writer = StoreWriter(path, index)
        writer._write(index)
        yield writer


def plain(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as JSON gives them back."""
    return dict(json.loads(json.dumps(source)))


def remove_store(folder: StrPath) -> None:
    """Delete a store's files, and its folder if nothing else is in it. The index goes first."""
    path = Path(folder)
    _sweep(path, everything=True)
    with contextlib.suppress(OSError):
        (path / ".lock").unlink(missing_ok=True)
        path.rmdir()


def _sweep(folder: Path, *, everything: bool) -> None:
    """Delete what kills left half written, or all of a store. The index goes first: without it the rest is nothing."""
    if everything:
        (folder / INDEX).unlink(missing_ok=True)
    for entry in folder.iterdir():
        if entry.name.startswith(".preimage-") or (everything and _is_ours(entry.name) and entry.name != ".lock"):
            entry.unlink(missing_ok=True)


def _strangers(folder: Path) -> list[str]:
    """Return the names in a folder that are not of a store's files."""
    return [entry.name for entry in folder.iterdir() if not _is_ours(entry.name)]


def _is_ours(name: str) -> bool:
    return name in (INDEX, ".lock") or name.startswith(".preimage-") or (name[:6] == "shard-" and name.endswith(SUFFIX))


def write_features(path: StrPath, spec: Spec, records: Iterable[FeatureRecord], *, dtype: str = "float32") -> None:
    """Write a store of features, one record at a time.

    Args:
        path: with suffix ``.safetensors`` a single file, otherwise a folder; an earlier one is replaced, a file only
            when all went well.
        spec: what every record's features are of.
        records: any iterable, consumed once. Non-finite features are stored as they are.
        dtype: ``"float32"`` or ``"float16"``, as stored.

    Raises:
        ValueError: a key that repeats or is no relative path, features that do not fit the spec or overflow
            float16, or a size that is not two whole numbers >= 1.
        TypeError: features that are not a floating-point NumPy array.
        OSError: such as a full disk.
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
        while first is not None:
            number = -(-store.index.count // length)
            store.index = dataclasses.replace(store.index, count=store.index.count + length)
            with store.shard(number) as writer:
                while first is not None and writer.count < length:
                    _append(writer, first)
                    first = next(checked, None)
                store.index = dataclasses.replace(store.index, count=number * length + writer.count)
        store.finish()


def _checked(records: Iterable[FeatureRecord], spec: Spec, dtype: str) -> Iterator[FeatureRecord]:
    if dtype not in DTYPES:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}")
    seen: set[str] = set()
    for record in records:
        check_record(record, spec, seen)
        yield dataclasses.replace(record, features=stored_array(record, dtype))


def _append(writer: ShardWriter, record: FeatureRecord) -> None:
    writer.append([record.key], record.features[None], [record.original_size], [record.processed_size])


def is_single_file(path: StrPath) -> bool:
    """Return whether a name is that of a single file of features: with suffix ``.safetensors``."""
    return Path(path).suffix.lower() == SUFFIX


def join(store: FeatureStore, path: StrPath) -> None:
    """Write all of a store into a single ``.safetensors`` file, atomically."""
    runs = max(1, sum(shard.runs for shard in store._shards))
    with write_shard(path, store.spec, store.dtype, runs=runs) as writer:
        for keys, features, original, processed in store.batches(256):
            writer.append(keys, features, _pairs(original), _pairs(processed))


def _pairs(sizes: NDArray[np.int32]) -> list[tuple[int, int]]:
    return [(height, width) for height, width in sizes.tolist()]


def merge(parts: Sequence[StrPath], output: StrPath) -> FeatureStore:
    """Join stores that were written with ``part=(i, n)`` (``extract --shard i/n``) into one, by their indexes alone.

    Shards are linked where the file system can, and copied otherwise; none is read or written anew.

    Args:
        parts: the stores; each is left as it is.
        output: the folder of the new store.

    Raises:
        ValueError: stores of different features, shards that are there twice, or missing ones (names them).
        FileFormatError: a part is damaged or unfinished.
        FileExistsError: there is something at `output` already.
    """
    if not parts:
        raise ValueError("give the stores to join")
    indexes = [_complete_index(Path(part)) for part in parts]
    first = dataclasses.replace(indexes[0], part=(0, 1), shards=(), complete=False)
    for part, index in zip(parts, indexes, strict=True):
        whole = dataclasses.replace(index, part=(0, 1), shards=())
        if differences := first.differences(whole):
            raise ValueError(f"{part} does not go with {parts[0]} (there != here): {'; '.join(differences)}")
    found: dict[int, tuple[Path, ShardEntry]] = {}
    for part, index in zip(parts, indexes, strict=True):
        for entry in index.shards:
            if entry.number in found:
                raise ValueError(f"shard {entry.number} is in {found[entry.number][0]} and in {part}")
            found[entry.number] = (Path(part), entry)
    if missing := [number for number in first.wanted if number not in found]:
        raise ValueError(f"{len(missing)} of {len(first.wanted)} shards are in none of the stores, first {missing[0]}")
    target = Path(output)
    if (target / INDEX).exists() or (target.exists() and (not target.is_dir() or _strangers(target))):
        raise FileExistsError(f"{target} is there already")
    with folder_lock(target):
        _sweep(target, everything=True)  # what an earlier merge left that was cut short
        for _, (part_folder, entry) in sorted(found.items()):
            if entry.images:
                _link(part_folder / entry.file, target / entry.file)
        sync_folders([target])
        shards = tuple(entry for _, (_, entry) in sorted(found.items()))
        StoreWriter(target, first)._write(dataclasses.replace(first, shards=shards, complete=True))
    return FeatureStore(target)


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
    "join",
    "merge",
    "open_writer",
    "read_index",
    "remove_store",
    "shard_length",
    "stored_keys",
    "write_features",
]
