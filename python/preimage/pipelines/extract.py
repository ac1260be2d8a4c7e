"""Features of many images into a feature store; a kill at any moment costs at most one shard of the work."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.arrays import SUFFIXES, check_writable, is_foreign
from preimage.io.atomic import move_into_place
from preimage.ops._images import cpu_threads
from preimage.pipelines.convert import write_as
from preimage.pipelines.loading import (
    AHEAD_BYTES,
    SKIP_HINT,
    Images,
    Loaded,
    as_listing,
    by_size,
    in_budget,
    in_windows,
    load,
    none_usable,
    read,
    settled_size,
    working_bytes,
)
from preimage.pipelines.prefetch import in_order
from preimage.representations import Representation, create_representation
from preimage.store import (
    FeatureStore,
    Index,
    StoreWriter,
    is_single_file,
    open_writer,
    remove_store,
    shard_length,
    stored_keys,
)

if TYPE_CHECKING:
    import torch

    from preimage.io import ImageSource
    from preimage.io.shards import ShardWriter
    from preimage.spec import Spec

Progress = Callable[[int, int], None]
Size = tuple[int, int]

_DTYPES = ("float32", "float16")
# Names of files that a user may expect to be written as such.
_OTHER_FILES = (
    ".bin",
    ".csv",
    ".hdf",
    ".json",
    ".parquet",
    ".pickle",
    ".pkl",
    ".pt",
    ".pth",
    ".safetensor",
    ".txt",
    ".zip",
)
_TASK_IMAGES = 8  # at most, that a thread decodes and describes in one go
_TASK_SHARE = 16  # tasks in a shard, at least
_TRIED_SIDE = 256  # of an image on which a representation is tried on a device, pixels
_WAITING = 4  # batches that wait to be written, at most


@dataclasses.dataclass(frozen=True)
class ExtractSummary:
    """What an extraction did.

    Attributes:
        output: the store's folder, or the file written.
        bytes: of it.
        spec: of the features.
        images: images in it.
        skipped: (name, problem) of the images left out.
        nonfinite_values: NaN or infinite numbers among the features.
        nonfinite_images: names of the images that have any.
        resumed: images taken over from an earlier, interrupted run.
        seconds: wall time of this run.
        notes: sentences about what was not looked at: links to folders, files of other formats.
    """

    output: Path
    bytes: int
    spec: Spec
    images: int
    skipped: tuple[tuple[str, str], ...]
    nonfinite_values: int
    nonfinite_images: tuple[str, ...]
    resumed: int
    seconds: float
    notes: tuple[str, ...] = ()


def extract(
    representation: Representation | str,
    images: Images,
    output: str | PathLike[str],
    *,
    size: int | None = None,
    dtype: str = "float32",
    layout: str | None = None,
    batch_size: int = 16,
    device: str = "auto",
    skip_bad: bool = False,
    allow_nonfinite: bool = False,
    resume: bool = True,
    part: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> ExtractSummary:
    """Compute the features of images and write them into a feature store.

    After a kill, Ctrl-C or an error the same call goes on with the first shard that is not complete, and the store
    comes out byte for byte as if nothing had happened.

    Args:
        representation: what to compute, or its name.
        images: a path or paths (folders, files, tar shards), or sources.
        output: a folder for a `preimage.FeatureStore`. With suffix ``.safetensors`` a single file; ``.npy`` and
            ``.npz`` are written as plain arrays, ``.mat`` for MATLAB (v5), ``.h5`` and ``.hdf5`` as HDF5 in hloc's
            layout: these are put together at the end from a store ``OUTPUT.partial``, and replace an earlier file.
        size: short side resized to this many pixels and the center square cut out; ``None`` leaves images alone, unless
            the representation takes images of one size only, to which they are fitted then.
        dtype: ``"float32"`` or ``"float16"``, as stored; MATLAB files know only the first.
        layout: of the arrays in a file of plain arrays, see `preimage.io.arrays.conventions`; ``None`` takes
            ``"matlab"`` for ``.mat`` and ``"preimage"`` for the others.
        batch_size: images that a network computes at once, fewer where they are so large that they would take over a
            gigabyte.
        device: where a network's features are computed: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"`` for CUDA
            where there is one. The images are read on the CPU.
        skip_bad: leave out images that cannot be listed or read or are too small, and list them, instead of stopping.
        allow_nonfinite: keep features that are NaN or infinite instead of refusing.
        resume: keep the shards that are complete; ``False`` starts anew.
        part: (i, n) computes every n-th shard only, from number i on, for `preimage.store.merge`.
        progress: called with (images done, images in all).

    Raises:
        ValueError: no images, a bad image (named), non-finite features (counted), options out of range, or a store
            with other settings. Complete shards stay.
        OSError: the disk is full, or the output cannot be written.
    """
    start = time.perf_counter()
    if isinstance(representation, str):
        representation = create_representation(representation)
    path = Path(output)
    _check(path, size, dtype, batch_size, part)
    format_note = _check_format(path, representation.spec, dtype, layout)
    listing, side = as_listing(images, skip_bad=skip_bad), settled_size(representation, size)
    sources = listing.sources
    job = _Job(representation, side, dtype, batch_size, _device(representation, device, side), skip_bad)
    folder = _store_folder(path)
    source = {"size": side, "device": job.device_type, "images": _digest(image.key for image in sources)}
    with open_writer(
        folder,
        representation.spec,
        dtype,
        count=len(sources),
        length=lambda: job.shard_length(sources),
        source=source,
        part=part,
        resume=resume,
        hint=lambda earlier: _first_difference(folder, earlier, sources),
    ) as store:
        notes = (*format_note, *_forget_stale(store, sources, skip_bad))
        resumed = sum(entry.images for entry in store.index.shards)
        _fill(store, sources, job, progress)
        entries = store.index.shards
        skipped = (*listing.skipped, *(one for entry in entries for one in entry.skipped))
        nonfinite = [one for entry in entries for one in entry.nonfinite]
        total = sum(entry.images for entry in entries)
        if not total and store.index.wanted:
            remove_store(folder)
            raise none_usable(skipped)
        _refuse_nonfinite(nonfinite, folder, allow_nonfinite)
        store.finish()
        written = store.bytes
        if folder != path:
            # In the store's folder first: a kill leaves no stray file elsewhere.
            joined = folder / f".preimage-joined{path.suffix.lower()}"
            write_as(FeatureStore(folder), joined, dtype=dtype, layout=layout)
            move_into_place(joined, path)
    if folder != path:
        remove_store(folder)
    return ExtractSummary(
        output=path,
        bytes=written if folder == path else path.stat().st_size,
        spec=representation.spec,
        images=total,
        skipped=skipped,
        nonfinite_values=sum(count for _, count in nonfinite),
        nonfinite_images=tuple(name for name, _ in nonfinite),
        resumed=resumed,
        seconds=time.perf_counter() - start,
        notes=(*notes, *listing.notes),
    )


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Features of some images of one shard, in order.

    Attributes:
        shard: its number.
        positions: how many images of the list it takes care of, bad ones included.
        groups: features (B, ...) of consecutive images of one shape, with the images.
        skipped: (name, problem) of the images left out.
        nonfinite: (name, count) of the images with NaN or infinite features.
        done: gives the features' memory back.
    """

    shard: int
    positions: int
    groups: Sequence[tuple[NDArray[Any], Sequence[Loaded]]]
    skipped: Sequence[tuple[str, str]]
    nonfinite: Sequence[tuple[str, int]]
    done: Callable[[], None] = lambda: None


Batches = Generator[_Batch, None, None]


@dataclasses.dataclass(frozen=True)
class _Job:
    """How features are computed.

    Attributes:
        representation: what to compute.
        side: to which images are fitted, pixels; ``None`` leaves them.
        dtype: of the features, as stored.
        batch_size: images computed at once.
        device: where a network computes; ``None`` computes NumPy arrays in the threads that decode.
        skip_bad: whether bad images are left out.
    """

    representation: Representation
    side: int | None
    dtype: str
    batch_size: int
    device: torch.device | None
    skip_bad: bool

    @property
    def device_type(self) -> str:
        return "cpu" if self.device is None else self.device.type

    def shard_length(self, sources: Sequence[ImageSource]) -> int:
        """Return how many images a shard takes, from the first image that can be used."""
        for source in sources:
            item = read(source, self.side)
            if item.pixels is not None and not self.problem(item):
                height, width = item.pixels.shape[:2]
                cells = self.representation.feature_size(height, width) or (1, 1)
                values = self.representation.spec.channels * math.prod(cells)
                return shard_length(values * np.dtype(self.dtype).itemsize)
            if not self.skip_bad:
                break  # it will be reported where it is computed
        return 1

    def problem(self, item: Loaded) -> str:
        """Return why an image cannot be used; empty if it can."""
        if item.pixels is not None:
            try:
                self.representation.feature_size(*item.pixels.shape[:2])
            except ValueError as error:
                return f"{item.source.name}: {error}"
        return item.problem


def _forget_stale(store: StoreWriter, sources: Sequence[ImageSource], skip_bad: bool) -> list[str]:
    """Have shards written anew that are damaged, whose images have changed, or that skipped images; say which."""
    notes = [f"{problem}: computed anew" for problem in store.check()]
    entries = store.index.shards
    changed = [entry.number for entry in entries if entry.source != _source_of(store, entry.number, sources)]
    if changed:
        notes.append(f"{len(changed)} of {len(entries)} shards are computed anew: their images have changed")
    store.forget([*changed, *(entry.number for entry in entries if entry.skipped and not skip_bad)])
    return notes


def _source_of(store: StoreWriter, number: int, sources: Sequence[ImageSource]) -> str:
    """Name the images of a shard, by the lengths of their files: paths and times differ where work is shared out."""
    return _digest(_length(sources[position]) for position in store.index.positions(number))


def _fill(store: StoreWriter, sources: Sequence[ImageSource], job: _Job, progress: Progress | None) -> None:
    """Compute and write the shards that are missing."""
    index = store.index
    missing = index.missing
    total = sum(len(index.positions(number)) for number in index.wanted)
    done = total - sum(len(index.positions(number)) for number in missing)
    if progress is not None and done:
        progress(done, total)
    shards = [(number, [sources[position] for position in index.positions(number)]) for number in missing]
    computed = _in_workers(shards, job, index.shard_length) if job.device is None else _on_device(shards, job)
    with contextlib.closing(computed), _Sink(store, sources) as sink:
        for batch in computed:
            if batch.skipped and not job.skip_bad:
                raise ValueError(f"{batch.skipped[0][1]} ({SKIP_HINT})")
            sink.put(batch)
            done += batch.positions
            if progress is not None:
                progress(done, total)


class _Sink:
    """Writes batches in a thread of its own, in order. After an error what was put is still written."""

    def __init__(self, store: StoreWriter, sources: Sequence[ImageSource]) -> None:
        self._store, self._sources = store, sources
        self._left = 0  # positions of the shard that is being written
        self._open = contextlib.ExitStack()
        self._writing: ShardWriter
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._thread.shutdown(wait=True)
        errors = [error for future in self._waiting if (error := future.exception()) is not None]
        first = exception[1] or next(iter(errors), None)
        if first is None:
            self._open.close()
            return
        self._open.__exit__(type(first), first, first.__traceback__)  # gives up the shard that is not finished
        if exception[1] is None:
            raise first

    def put(self, batch: _Batch) -> None:
        """Have a batch written; raises what an earlier one met with."""
        while len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._write, batch))

    def _write(self, batch: _Batch) -> None:
        if not self._left:
            self._left = len(self._store.index.positions(batch.shard))
            shard = self._store.shard(batch.shard, _source_of(self._store, batch.shard, self._sources))
            self._writing = self._open.enter_context(shard)
        for features, items in batch.groups:
            self._writing.append(
                [item.source.key for item in items],
                features,
                [item.original_size for item in items],
                [item.processed_size for item in items],
            )
        self._writing.skipped += batch.skipped
        self._writing.nonfinite += batch.nonfinite
        batch.done()
        self._left -= batch.positions
        if not self._left:
            self._open.close()


class _Memory:
    """Arrays that are used again."""

    def __init__(self) -> None:
        self._free: dict[tuple[tuple[int, ...], str], list[NDArray[Any]]] = {}
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        with self._lock:
            free = self._free.get((shape, dtype))
            if free:
                return free.pop()
        return np.empty(shape, dtype)

    def give(self, arrays: Iterable[NDArray[Any]]) -> None:
        with self._lock:
            if len(self._free) > 8:  # of images of many sizes nearly none fits again
                self._free.clear()
            for array in arrays:
                self._free.setdefault((array.shape, array.dtype.name), []).append(array)


def _in_workers(shards: Sequence[tuple[int, list[ImageSource]]], job: _Job, length: int) -> Batches:
    """Decode images and compute their features in the same threads, an image at a time.

    The features are finite: see `Representation.compute_into`.
    """
    memory = _Memory()
    together = max(1, min(_TASK_IMAGES, length // _TASK_SHARE))
    tasks = ((number, window) for number, images in shards for window in in_windows(images, together))
    workers = cpu_threads()
    room = 2 * workers

    def compute(task: tuple[int, list[ImageSource]]) -> _Batch:
        number, images = task
        groups: list[tuple[NDArray[Any], list[Loaded]]] = []
        skipped: list[tuple[str, str]] = []
        taken: list[NDArray[Any]] = []
        for place, source in enumerate(images):
            item = read(source, job.side)
            problem = job.problem(item)
            if item.pixels is None or problem:
                skipped.append((source.name, problem))
                continue
            height, width = item.pixels.shape[:2]
            cells = job.representation.feature_size(height, width)
            assert cells is not None  # only networks give vectors
            shape = (job.representation.spec.channels, *cells)
            if not groups or taken[-1].shape[1:] != shape:
                taken.append(memory.take((len(images) - place, *shape), job.dtype))
                groups.append((taken[-1], []))
            features, items = groups[-1]
            row = features[len(items) : len(items) + 1]
            job.representation.compute_into(item.pixels[None], row, threads=1)
            items.append(item.without_pixels())
        filled = [(features[: len(items)], items) for features, items in groups]
        return _Batch(number, len(images), filled, skipped, (), lambda: memory.give(taken))

    computed = in_order(compute, tasks, workers=workers, ahead=lambda: room, name="extract")
    with contextlib.closing(computed):
        for batch in computed:
            held = sum(features.nbytes for features, _ in batch.groups)
            room = max(workers, min(4 * workers, AHEAD_BYTES // max(1, held)))
            yield batch


def _on_device(shards: Sequence[tuple[int, list[ImageSource]]], job: _Job) -> Batches:
    """Decode images in threads, and compute the features of a batch, which does not cross shards, on the device."""
    everything = [source for _, images in shards for source in images]
    with contextlib.closing(load(everything, job.side, ahead=2 * job.batch_size)) as loaded:
        for number, images in shards:
            of_shard = itertools.islice(loaded, len(images))
            for window in in_budget(of_shard, lambda item: _bytes(job, item), job.batch_size):
                yield _computed(number, window, job)


def _bytes(job: _Job, item: Loaded) -> int:
    return 0 if item.pixels is None or job.problem(item) else working_bytes(job.representation, *item.pixels.shape[:2])


def _computed(number: int, window: Sequence[Loaded], job: _Job) -> _Batch:
    import torch

    problems = [job.problem(item) for item in window]
    good = [item for item, problem in zip(window, problems, strict=True) if not problem]
    skipped = [(item.source.name, problem) for item, problem in zip(window, problems, strict=True) if problem]
    pixels = [item.pixels for item in good if item.pixels is not None]
    rows: dict[int, NDArray[Any]] = {}
    nonfinite: dict[int, int] = {}
    with torch.inference_mode():
        for positions in by_size(pixels):
            images = torch.from_numpy(np.stack([pixels[position] for position in positions])).permute(0, 3, 1, 2)
            if job.device_type == "cuda":
                images = images.pin_memory()
            features = job.representation(images.to(job.device, non_blocking=True)).float()
            stored = features.to(getattr(torch, job.dtype))
            counts = zip(positions, features, _nonfinite(features), _nonfinite(stored), strict=True)
            for position, values, before, after in counts:
                if after > before:
                    name, largest = good[position].source.name, float(values.abs().max())
                    raise ValueError(f"{name}: features up to {largest:g} do not fit in {job.dtype}")
                if before:
                    nonfinite[position] = before
            rows |= dict(zip(positions, stored.cpu().numpy(), strict=True))
    groups = []
    ordered = sorted(rows)
    for _, same in itertools.groupby(ordered, key=lambda position: rows[position].shape):
        run = list(same)
        groups.append((np.stack([rows[position] for position in run]), [good[one].without_pixels() for one in run]))
    bad = [(good[position].source.name, count) for position, count in sorted(nonfinite.items())]
    return _Batch(number, len(window), groups, skipped, bad)


def _nonfinite(features: torch.Tensor) -> list[int]:
    """Return how many numbers of each image are NaN or infinite."""
    counts: list[int] = (~features.isfinite()).flatten(1).sum(dim=1).tolist()
    return counts


def _device(representation: Representation, device: str, side: int | None) -> torch.device | None:
    """Return where features are computed; ``None`` where they are NumPy arrays, which needs no torch."""
    if representation.computes_arrays and device in ("auto", "cpu"):
        return None
    from preimage.inverters import checked_device, extraction_device

    wanted = checked_device(device)
    if device != "auto":
        return wanted
    return extraction_device(representation, (side or _TRIED_SIDE, side or _TRIED_SIDE), wanted)


def _check(output: Path, size: int | None, dtype: str, batch_size: int, part: tuple[int, int]) -> None:
    if dtype not in _DTYPES:
        raise ValueError(f"dtype is {' or '.join(_DTYPES)}, got {dtype!r}")
    if size is not None and size < 1:
        raise ValueError(f"size is a number of pixels >= 1, got {size}")
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, got {batch_size}")
    if part != (0, 1) and _store_folder(output) != output:
        raise ValueError(f"{output}: a share of the shards is written as a folder, to be merged later")
    if output.exists() and _store_folder(output) == output and not output.is_dir():
        raise ValueError(f"{output} is a file, and a feature store is a folder: choose another name")
    if output.exists() and _store_folder(output) != output and not output.is_file():
        raise ValueError(f"{output} is not a plain file and cannot be written to")


def _store_folder(output: Path) -> Path:
    """Return where the store lies, whatever is made of it in the end."""
    if not is_foreign(output) and not is_single_file(output):
        return output
    target = Path(os.path.realpath(output))  # beside the file itself, so that the last rename stays on its disk
    return target.with_name(target.name + ".partial")


def _check_format(output: Path, spec: Spec, dtype: str, layout: str | None) -> tuple[str, ...]:
    """Check that the output can be written in its format; return a note if its suffix is that of another file."""
    if is_foreign(output):
        check_writable(output, spec, dtype, layout)
        return ()
    if layout is not None:
        raise ValueError(f"{output}: a feature store has its own layout; give one for {', '.join(SUFFIXES)} only")
    if output.suffix.lower() not in _OTHER_FILES:
        return ()
    return (
        f"{output}: {output.suffix!r} is no format that is written: this is a folder with a feature store; "
        f".safetensors writes a single file, {', '.join(SUFFIXES)} write arrays",
    )


def _digest(values: Iterable[object]) -> str:
    """Return the SHA-256 over JSON values, in order."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value).encode())
    return digest.hexdigest()


def _length(source: ImageSource) -> int:
    """Return the bytes of an encoded image; -1 for one that is not there, which is reported when it is read."""
    if source.length is not None:
        return source.length
    try:
        return os.path.getsize(source.path)
    except OSError:
        return -1


def _first_difference(folder: Path, earlier: Index, sources: Sequence[ImageSource]) -> str:
    """Return where the list of images differs first from that of an earlier run, as far as its shards tell."""
    for entry in earlier.shards:
        if entry.images < len(earlier.positions(entry.number)):
            continue  # which of the keys are missing is not known
        try:
            keys = stored_keys(folder, entry)
        except (OSError, FileFormatError):
            continue
        for position, then in zip(earlier.positions(entry.number), keys, strict=True):
            now = sources[position].key if position < len(sources) else None
            if then != now:
                after = "no more" if now is None else repr(now)
                return f"the first that differs is image {position + 1}: {then!r}, now {after}"
    return ""


def _refuse_nonfinite(nonfinite: Sequence[tuple[str, int]], folder: Path, allowed: bool) -> None:
    if nonfinite and not allowed:
        names = ", ".join(name for name, _ in nonfinite[:3]) + (", ..." if len(nonfinite) > 3 else "")
        raise ValueError(
            f"{sum(count for _, count in nonfinite)} feature values of {len(nonfinite)} images are NaN or infinite "
            f"({names}). The work is kept in {folder}: --allow-nonfinite finishes it as it is"
        )
