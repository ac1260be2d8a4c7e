"""Prepare photographs for a look: held-out ones, and squares of the others, with their features at several layers."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from preimage.inverters import resolve_device
from preimage.io import ImageSource, decode_image, resize_and_center_crop
from preimage.ops._images import cpu_threads
from preimage.pipelines.image_loading import Pixels, as_batch, in_windows
from preimage.pipelines.image_writer import ImageWriter, image_paths
from preimage.pipelines.prefetch import in_order
from preimage.pipelines.sampling import Sampling
from preimage.spec import Spec
from preimage.store import StoreWriter, open_writer
from preimage.studies.look_layers import folder_name
from preimage.training.cache_builder import bytes_free, half_precision_suffices
from preimage.training.sampling import cut_square, random_square

MOST_VERSIONS = 8  # squares of each photograph: its center, then random crops, every other one mirrored
MIN_CROP = 0.5  # area of a random crop, as a fraction of the largest square
_CHUNK = 64  # images of a shard
_BATCH = 16  # images computed at once
_MOST_BYTES = 8 << 30  # of all features
_DECODERS = 8


class Features(Protocol):
    """Function that computes the features of several layers.

    Attributes:
        specs: Spec of each layer's features, by label.
        side: Side of the images in pixels.
    """

    specs: Mapping[str, Spec]
    side: int

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the features of images (B, 3, side, side) uint8 by label."""


@dataclasses.dataclass(frozen=True)
class Square:
    """A square of a photograph.

    Attributes:
        source: The photograph.
        key: Key of the square.
        version: 0 for the center, then random crops; odd ones are mirrored.
    """

    source: ImageSource
    key: str
    version: int = 0


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Squares of photographs on disk, and the stores of their features.

    Attributes:
        train: Folder of the training squares.
        held_out: Folder of the held-out squares.
        stores: Feature store of both by label; empty if the features are the user's.
        photographs: Number of photographs among the training squares.
        squares: Number of training squares.
        duplicates: Number of photographs left out because they are also held out.
        skipped: (name, problem) of the photographs left out because they cannot be read.
    """

    train: Path
    held_out: Path
    stores: dict[str, Path]
    photographs: int
    squares: int
    duplicates: int
    skipped: tuple[tuple[str, str], ...]


class PhotographReader:
    """Read squares of photographs, in threads.

    Args:
        side: Side of a square in pixels.
        seed: Seed of the random crops.
        skip_bad: Whether photographs that cannot be read are left out and listed, instead of raising an error.
    """

    def __init__(self, side: int, seed: int, *, skip_bad: bool) -> None:
        self.seed, self._side, self._skip_bad = seed, side, skip_bad
        self.skipped: dict[str, str] = {}  # problem by name
        self.held_out: set[bytes] = set()  # digests of photographs that must not be trained on
        self.duplicates: set[str] = set()

    def read(self, squares: Sequence[Square], *, hold_out: bool = False) -> Iterator[tuple[Square, Pixels]]:
        """Yield the squares that can be used, in order, with their pixels (side, side, 3) uint8.

        Args:
            squares: Squares to read.
            hold_out: Whether these are held out: later photographs with the same bytes are left out.
        """
        workers = min(_DECODERS, cpu_threads())
        found = in_order(self._read, squares, workers=workers, ahead=2 * _BATCH, name="decode")
        with contextlib.closing(found):
            for square, (digest, pixels, problem) in zip(squares, found, strict=False):
                if problem and not self._skip_bad:
                    raise ValueError(f"{problem} (--skip-bad skips and lists such images)")
                if problem:
                    self.skipped[square.source.name] = problem
                elif hold_out:
                    self.held_out.add(digest)
                elif digest in self.held_out:
                    self.duplicates.add(square.source.key)
                    continue
                if pixels is not None:
                    yield square, pixels

    def _read(self, square: Square) -> tuple[bytes, Pixels | None, str]:
        source = square.source
        try:
            data = source.read()
            pixels = self._cut(decode_image(data, name=source.name), square)
        except ConnectionError:
            raise
        except (ValueError, OSError) as error:
            problem = str(error)
            return b"", None, problem if source.name in problem else f"{source.name}: {problem}"
        return hashlib.sha256(data).digest(), pixels, ""

    def _cut(self, image: Pixels, square: Square) -> Pixels:
        if not square.version:
            return resize_and_center_crop(image, self._side)
        number = int.from_bytes(hashlib.sha256(square.source.key.encode()).digest()[:8], "little")
        random = np.random.default_rng((self.seed, number, square.version))
        crop = cut_square(image, *random_square(image.shape[:2], MIN_CROP, random), self._side)
        return np.ascontiguousarray(crop[:, ::-1]) if square.version % 2 else crop


def training_squares(sources: Sequence[ImageSource], seed: int) -> list[Square]:
    """Return the squares of all photographs in the order in which they are prepared until the time is over.

    The photographs are in random order: first the center of each, then a random crop of each, and so on.
    """
    order = np.random.default_rng((seed, 0)).permutation(len(sources)).tolist()
    return [
        Square(sources[index], f"{index:06d}-{version}", version) for version in range(MOST_VERSIONS) for index in order
    ]


def prepare(
    features: Features | None,
    held_out: Sequence[Square],
    squares: Sequence[Square],
    folder: Path,
    reader: PhotographReader,
    *,
    seconds: float,
    device: str,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Write squares and their features, as many of the training squares as the time allows.

    Args:
        features: Function that computes the features; ``None`` if they are the user's.
        held_out: Held-out squares; all are used.
        squares: Training squares in order, of which at least some are used; empty if there is nothing to train.
        folder: Folder that is written anew.
        reader: Reader of the photographs.
        seconds: Time for the training squares.
        device: Device that computes the features.
        progress: Function called with (squares done, total number).

    Raises:
        ValueError: A photograph that cannot be read (named), features that are NaN or infinite, or no photographs to
            train on.
    """
    computing = None if features is None else _Computing(features, device)
    dtypes: dict[str, str] = {}
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            writing = _Writing(computing, folder, dtypes)
            return writing.run(held_out, squares, reader, seconds, progress)
        except _OverflowError as error:
            dtypes[error.label] = "float32"


class _OverflowError(Exception):
    """Features do not fit into half precision."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self.label = label


class _Computing:
    """Compute the features of batches as arrays.

    Args:
        features: Function that computes them.
        device: Device that computes them.
    """

    def __init__(self, features: Features, device: str) -> None:
        self.features, self.device = features, resolve_device(device)

    def __call__(self, window: Sequence[tuple[Square, Pixels]]) -> dict[str, NDArray[np.float32]]:
        parts: dict[str, list[NDArray[np.float32]]] = {}
        for batch in in_windows(window, _BATCH):
            with torch.no_grad():
                found = self.features(as_batch([pixels for _, pixels in batch]).to(self.device))
            for label, values in found.items():
                finite = values.isfinite().flatten(1).all(dim=1)
                if not bool(finite.all()):
                    name = batch[finite.tolist().index(False)][0].source.name
                    raise ValueError(f"{name}: the features of {label} are NaN or infinite")
                parts.setdefault(label, []).append(values.float().cpu().numpy())
        return {label: np.concatenate(arrays) for label, arrays in parts.items()}


class _Writing:
    """Write squares and features in chunks, until the time is over.

    Args:
        computing: Computes the features; ``None`` if there are none to compute.
        folder: Folder to write.
        dtypes: Dtype of the features by label, where it is known.
    """

    def __init__(self, computing: _Computing | None, folder: Path, dtypes: dict[str, str]) -> None:
        self._computing, self._folder, self._dtypes = computing, folder, dtypes
        self._writers: dict[str, StoreWriter] = {}
        self._shards = 0

    def run(
        self,
        held_out: Sequence[Square],
        squares: Sequence[Square],
        reader: PhotographReader,
        seconds: float,
        progress: Callable[[int, int], None] | None,
    ) -> Prepared:
        """Write everything, see `prepare`."""
        names: set[str] = set()
        done, total = 0, len(held_out) + len(squares)
        with contextlib.ExitStack() as stack:
            self._images = stack.enter_context(ImageWriter(lambda: None, encode_ahead=True))
            self._stack = stack
            for window in in_windows(reader.read(held_out, hold_out=True), _CHUNK):
                self._write("held-out", window)
                done += len(window)
            held = done
            begin = time.perf_counter()
            items = reader.read(squares)
            with contextlib.closing(items):  # type: ignore[type-var]
                for window in in_windows(items, _CHUNK):
                    self._write("train", window)
                    names.update(square.source.key for square, _ in window)
                    done += len(window)
                    spent = time.perf_counter() - begin
                    per_square = spent / (done - held)
                    fitting = held + math.ceil(seconds / per_square / _CHUNK) * _CHUNK
                    if progress is not None:
                        progress(done, max(done, min(total, fitting, self._room(done))))
                    if spent + _CHUNK * per_square > seconds or done >= self._room(done):
                        break
            for writer in self._writers.values():
                writer.index = dataclasses.replace(writer.index, count=_count(writer))
                writer.finish()
        if squares and not names:
            raise ValueError("no photographs to train on are left")
        return Prepared(
            train=self._folder / "train",
            held_out=self._folder / "held-out",
            stores={label: self._store(label) for label in self._writers},
            photographs=len(names),
            squares=done - held,
            duplicates=len(reader.duplicates),
            skipped=tuple(reader.skipped.items()),
        )

    def _room(self, done: int) -> int:
        """Return the number of images for which there is space, with those that are written."""
        if not self._writers:
            return 1 << 60
        written = sum(writer.bytes for writer in self._writers.values())
        room = min(_MOST_BYTES - written, bytes_free(self._folder))
        return done + int(room / max(1.0, written / done)) // _CHUNK * _CHUNK

    def _store(self, label: str) -> Path:
        return self._folder / "features" / folder_name(label)

    def _write(self, part: str, window: Sequence[tuple[Square, Pixels]]) -> None:
        paths = [path for (path,) in image_paths(self._folder / part, [one.key for one, _ in window], Sampling())]
        self._images.write(paths, [pixels for _, pixels in window])
        if self._computing is None:
            return
        keys, side = [square.key for square, _ in window], self._computing.features.side
        for label, rows in self._computing(window).items():
            if label not in self._writers:
                self._open(label, rows)
            writer, dtype = self._writers[label], self._dtypes[label]
            if dtype == "float16" and np.abs(rows).max() > np.finfo(np.float16).max:
                raise _OverflowError(label)
            writer.index = dataclasses.replace(writer.index, count=(self._shards + 1) * _CHUNK)
            with writer.shard(self._shards) as shard:
                shard.append(keys, rows.astype(dtype), [(side, side)] * len(keys), [(side, side)] * len(keys))
        self._shards += 1

    def _open(self, label: str, rows: NDArray[np.float32]) -> None:
        assert self._computing is not None
        dtype = self._dtypes.setdefault(label, "float16" if half_precision_suffices(rows) else "float32")
        spec = self._computing.features.specs[label]
        self._writers[label] = self._stack.enter_context(
            open_writer(self._store(label), spec, dtype, count=_CHUNK, length=_CHUNK, source={}, resume=False)
        )


def _count(writer: StoreWriter) -> int:
    """Return the length of the list of images whose last shard is the last one written."""
    last = max(writer.index.shards, key=lambda entry: entry.number)
    return last.number * _CHUNK + last.images
