"""Compute the features of batches of images on a device, or in torch on the CPU."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from preimage.io import ImageSource
from preimage.ops._images import cpu_threads
from preimage.pipelines.device_pipeline import DevicePipeline, HostMemory, Started
from preimage.pipelines.extract_batches import Batch, Extraction
from preimage.pipelines.gpu_decoding import load_in_batches
from preimage.pipelines.image_loading import Loaded, by_size, in_budget, load, working_bytes

_NETWORK_BATCH = 16  # default batch size of a network, which needs much memory for its activations
_BATCH_IMAGES = 1024  # maximum batch size of a descriptor
_BATCH_BYTES = 48 << 20  # size of the images and features of a batch of a descriptor, after which it is large enough


class _Window(NamedTuple):
    """Consecutive images of one shard, which are computed at once.

    Attributes:
        shard: Number of the shard.
        positions: Number of images.
        usable: The images that can be used, with pixels.
        skipped: (name, problem) of the others.
        groups: Indices in `usable` of the images of each size.
        pixels: (H, W, 3) uint8 of the images of each group.
    """

    shard: int
    positions: int
    usable: Sequence[Loaded]
    skipped: Sequence[tuple[str, str]]
    groups: Sequence[Sequence[int]]
    pixels: Sequence[Sequence[torch.Tensor]]


def computed_on_device(
    shards: Sequence[tuple[int, list[ImageSource]]], extraction: Extraction, pipeline: DevicePipeline | None = None
) -> Generator[Batch, None, None]:
    """Yield the features of the images of shards, in order.

    Images are decoded in threads, ahead of the batches, which do not cross shards.

    Args:
        shards: Number and images of each shard.
        extraction: Settings of the extraction, with a device.
        pipeline: Pipeline of the device; ``None`` makes one.
    """
    assert extraction.device is not None
    chosen = DevicePipeline.of(extraction.device) if pipeline is None else pipeline

    def start(window: _Window) -> Started:
        return chosen.start(window.pixels, lambda images: _features(extraction, images))

    with (
        contextlib.closing(_windows(shards, extraction)) as windows,
        contextlib.closing(chosen.results(windows, start)) as computed,
    ):
        for window, results in computed:
            yield _batch(window, results, extraction.dtype)


def _windows(shards: Sequence[tuple[int, list[ImageSource]]], extraction: Extraction) -> Generator[_Window, None, None]:
    device, representation = extraction.device, extraction.representation
    assert device is not None
    is_network = not representation.computes_arrays
    most = extraction.batch_size or (_NETWORK_BATCH if is_network else _BATCH_IMAGES)
    value_bytes = representation.spec.channels * np.dtype(extraction.dtype).itemsize

    def bytes_of(examined: tuple[Loaded, str]) -> int:
        """Return the bytes that limit a batch: a network's working memory, or the pixels and features to copy."""
        item, problem = examined
        if problem:
            return 0
        height, width = item.processed_size
        if is_network:
            return working_bytes(representation, height, width)
        return 3 * height * width + value_bytes * math.prod(representation.feature_size(height, width) or (1, 1))

    sources = [source for _, images in shards for source in images]
    on_cuda = device.type == "cuda"
    place = HostMemory(device) if on_cuda else None
    if extraction.decoder is not None:
        loaded = load_in_batches(sources, extraction.size, extraction.decoder, place=place)
    else:
        workers = cpu_threads() if on_cuda else None  # a network on the CPU needs some of the cores
        loaded = load(sources, extraction.size, ahead=2 * most, workers=workers, place=place)
    budget = None if is_network else _BATCH_BYTES
    with contextlib.closing(loaded):
        for number, images in shards:
            examined = ((item, extraction.problem(item)) for item in itertools.islice(loaded, len(images)))
            for window in in_budget(examined, bytes_of, most, budget):
                yield _window(number, window)


def _window(number: int, examined: Sequence[tuple[Loaded, str]]) -> _Window:
    usable = [item for item, problem in examined if not problem]
    skipped = [(item.source.name, problem) for item, problem in examined if problem]
    pixels = [torch.from_numpy(item.pixels) for item in usable]
    groups = list(by_size(pixels))
    same_size = [[pixels[index] for index in group] for group in groups]
    return _Window(number, len(examined), usable, skipped, groups, same_size)


def _features(extraction: Extraction, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the features of images (B, H, W, 3) in the stored dtype, and statistics of each image, (3, B) float64.

    The statistics are the numbers of NaN and infinite values before and after the conversion to the stored dtype, and
    the largest absolute value, or 0 if nothing is converted. They stay on the device, so that the host does not wait.
    """
    with torch.inference_mode():
        features = extraction.representation(images.permute(0, 3, 1, 2)).float()
        stored = features.to(getattr(torch, extraction.dtype)).contiguous()
        before = _nonfinite(features)
        if stored.dtype == features.dtype:
            return stored, torch.stack([before, before, torch.zeros_like(before)])
        largest = features.flatten(1).abs().amax(dim=1).double()
        return stored, torch.stack([before, _nonfinite(stored), largest])


def _nonfinite(features: torch.Tensor) -> torch.Tensor:
    """Return the number of NaN or infinite values of each image, (B,) float64."""
    return (~features.isfinite()).flatten(1).sum(dim=1).double()


def _batch(window: _Window, results: Iterable[Sequence[torch.Tensor]], dtype: str) -> Batch:
    """Return the features of a window.

    Raises:
        ValueError: A feature that does not fit in the stored dtype.
    """
    usable = window.usable
    arrays: list[NDArray[Any]] = []
    nonfinite: dict[int, int] = {}
    for positions, (stored, numbers) in zip(window.groups, results, strict=True):
        arrays.append(stored.numpy())
        for position, before, after, largest in zip(positions, *numbers.tolist(), strict=True):
            name = usable[position].source.name
            if after > before:
                raise ValueError(f"{name}: features up to {largest:g} do not fit in {dtype}")
            if before:
                nonfinite[position] = int(before)
    if len(arrays) > 1:
        rows: dict[int, NDArray[Any]] = {}
        for positions, array in zip(window.groups, arrays, strict=True):
            rows.update(zip(positions, array, strict=True))
        in_order = (rows[position] for position in range(len(usable)))
        runs = [list(run) for _, run in itertools.groupby(in_order, key=np.shape)]
        arrays = [run[0][None] if len(run) == 1 else np.stack(run) for run in runs]
    items = iter([item.without_pixels() for item in usable])
    groups = [(array, list(itertools.islice(items, len(array)))) for array in arrays]
    counts = [(usable[position].source.name, count) for position, count in sorted(nonfinite.items())]
    return Batch(window.shard, window.positions, groups, window.skipped, counts)
