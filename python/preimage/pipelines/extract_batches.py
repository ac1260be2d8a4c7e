"""Settings and results of an extraction, and the computation of features in the threads that decode images."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from preimage.ops._images import cpu_threads
from preimage.pipelines.image_loading import AHEAD_BYTES, Loaded, in_windows, read
from preimage.pipelines.prefetch import in_order
from preimage.representations import Representation
from preimage.store import shard_length

if TYPE_CHECKING:
    import torch

    from preimage.io import ImageSource
    from preimage.pipelines.gpu_decoding import BatchDecoder

_TASK_IMAGES = 8  # maximum number of images that a thread processes in one task
_TASKS_PER_SHARD = 16  # minimum number of tasks per shard
_TRIAL_SIDE = 256  # side in pixels of the image on which a representation is tried on a device


@dataclasses.dataclass(frozen=True)
class Extraction:
    """Settings of an extraction.

    Attributes:
        representation: Representation to compute.
        size: Side in pixels to which images are resized and center-cropped; ``None`` keeps their sizes.
        dtype: Data type of the stored features.
        batch_size: Maximum number of images computed at once on a device; ``None`` is automatic.
        device: Device of torch; ``None`` computes NumPy arrays in the threads that decode.
        skip_bad: Whether images that cannot be used are skipped.
        decoder: Decoder of JPEGs on a device; ``None`` decodes on the CPU.
    """

    representation: Representation
    size: int | None
    dtype: str
    batch_size: int | None
    device: torch.device | None
    skip_bad: bool
    decoder: BatchDecoder | None = None

    @property
    def device_type(self) -> str:
        return "cpu" if self.device is None else self.device.type

    def shard_length(self, sources: Sequence[ImageSource]) -> int:
        """Return the number of images in a shard, estimated from the first image that can be used."""
        for source in sources:
            item = read(source, self.size)
            if item.pixels is not None and not self.problem(item):
                height, width = item.pixels.shape[:2]
                cells = self.representation.feature_size(height, width) or (1, 1)
                values = self.representation.spec.channels * math.prod(cells)
                return shard_length(values * np.dtype(self.dtype).itemsize)
            if not self.skip_bad:
                break  # reported when the features are computed
        return 1

    def problem(self, item: Loaded) -> str:
        """Return why an image cannot be used; empty if it can."""
        if item.pixels is not None:
            try:
                self.representation.feature_size(*item.pixels.shape[:2])
            except ValueError as error:
                return f"{item.source.name}: {error}"
        return item.problem


@dataclasses.dataclass(frozen=True)
class Batch:
    """Features of consecutive images of one shard.

    Attributes:
        shard: Number of the shard.
        positions: Number of listed images that the batch covers, skipped ones included.
        groups: Features (B, ...) of consecutive images of one shape, with the images.
        skipped: (name, problem) of the skipped images.
        nonfinite: (name, count) of the images with NaN or infinite features.
        release: Function that returns the features' memory.
    """

    shard: int
    positions: int
    groups: Sequence[tuple[NDArray[Any], Sequence[Loaded]]]
    skipped: Sequence[tuple[str, str]]
    nonfinite: Sequence[tuple[str, int]]
    release: Callable[[], None] = lambda: None


class _ArrayPool:
    """Pool of arrays that are reused."""

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
            if len(self._free) > 8:  # images of many sizes rarely reuse an array
                self._free.clear()
            for array in arrays:
                self._free.setdefault((array.shape, array.dtype.name), []).append(array)


def computed_in_threads(
    shards: Sequence[tuple[int, list[ImageSource]]], extraction: Extraction, length: int
) -> Generator[Batch, None, None]:
    """Yield the features of the images of shards, in order.

    Threads decode images and compute their features, one image at a time. The features are finite: see
    `Representation.compute_into`.

    Args:
        shards: Number and images of each shard.
        extraction: Settings of the extraction, without a device.
        length: Number of images in a full shard.
    """
    pool = _ArrayPool()
    representation = extraction.representation
    per_task = max(1, min(_TASK_IMAGES, length // _TASKS_PER_SHARD))
    tasks = ((number, window) for number, images in shards for window in in_windows(images, per_task))
    workers = cpu_threads()
    ahead = 2 * workers

    def compute(task: tuple[int, list[ImageSource]]) -> Batch:
        number, images = task
        groups: list[tuple[NDArray[Any], list[Loaded]]] = []
        skipped: list[tuple[str, str]] = []
        arrays: list[NDArray[Any]] = []
        for index, source in enumerate(images):
            item = read(source, extraction.size)
            problem = extraction.problem(item)
            if item.pixels is None or problem:
                skipped.append((source.name, problem))
                continue
            height, width = item.pixels.shape[:2]
            cells = representation.feature_size(height, width)
            assert cells is not None  # only networks give vectors
            shape = (representation.spec.channels, *cells)
            if not groups or arrays[-1].shape[1:] != shape:
                arrays.append(pool.take((len(images) - index, *shape), extraction.dtype))
                groups.append((arrays[-1], []))
            features, items = groups[-1]
            row = features[len(items) : len(items) + 1]
            representation.compute_into(item.pixels[None], row, threads=1)
            items.append(item.without_pixels())
        filled = [(features[: len(items)], items) for features, items in groups]
        return Batch(number, len(images), filled, skipped, (), lambda: pool.give(arrays))

    computed = in_order(compute, tasks, workers=workers, ahead=lambda: ahead, name="extract")
    with contextlib.closing(computed):
        for batch in computed:
            batch_bytes = sum(features.nbytes for features, _ in batch.groups)
            ahead = max(workers, min(4 * workers, AHEAD_BYTES // max(1, batch_bytes)))
            yield batch


def device_for_extraction(representation: Representation, device: str, size: int | None) -> torch.device | None:
    """Return the device on which features are computed; ``None`` for NumPy arrays, which need no torch."""
    if representation.computes_arrays and device in ("auto", "cpu"):
        return None
    import torch

    from preimage.inverters import extraction_device, resolve_device

    checked = resolve_device(device)
    if device == "auto":
        return extraction_device(representation, (size or _TRIAL_SIDE, size or _TRIAL_SIDE), checked)
    if not representation.in_workers:
        return checked
    return None if representation.computes_arrays else torch.device("cpu")
