"""Images on their way in: decoded in a few threads, in order, never far ahead of their use."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from os import PathLike
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from preimage.inverters import Inverter
from preimage.io import ImageSource, Listing, decode_image, find_images, fit_image
from preimage.representations import Representation

Pixels = npt.NDArray[np.uint8]
Images = str | PathLike[str] | Sequence[str | PathLike[str]] | Sequence[ImageSource]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An image that was read, or why it was not.

    Attributes:
        source: where it came from.
        pixels: (H, W, 3) uint8 RGB, at the processed size; ``None`` if it could not be read.
        original_size: (H, W) as decoded.
        problem: one line that names the image; empty if it was read.
    """

    source: ImageSource
    pixels: Pixels | None
    original_size: tuple[int, int]
    problem: str = ""


def as_listing(images: Images, *, skip_bad: bool = False) -> Listing:
    """Return a path, paths (folders, files, tar shards) or ready sources as a list of sources, with what is left out.

    Args:
        images: of which to make the list.
        skip_bad: leave out what cannot be used, and list it, see `preimage.io.find_images`.

    Raises:
        ValueError: there is no image among them; without `skip_bad` also what `preimage.io.list_images` raises.
    """
    if isinstance(images, str | PathLike):
        images = [images]
    given = list(images)
    ready = [image for image in given if isinstance(image, ImageSource)]
    if ready and len(ready) != len(given):
        raise TypeError("images are given either as paths or as sources, not as a mixture")
    paths = [image for image in given if not isinstance(image, ImageSource)]
    listing = Listing(ready) if ready else find_images(paths, skip_bad=skip_bad)
    if not listing.sources:
        raise ValueError(f"no images in {', '.join(map(str, given)) or 'an empty list'}")
    return listing


def as_sources(images: Images) -> list[ImageSource]:
    """Return the sources of `as_listing`; what cannot be used is an error."""
    return as_listing(images).sources


def settled_size(representation: Representation, size: int | None) -> int | None:
    """The side that images are fitted to: the only one that the representation takes, or else `size`.

    Raises:
        ValueError: a size that the representation does not take.
    """
    side = representation.image_side
    if side is not None and size not in (None, side):
        raise ValueError(f"{representation.name} takes images of {side}×{side} pixels only, got size {size}")
    return size if side is None else side


def side_for(representation: Representation, inverter: Inverter | None, size: int | None, default: int) -> int:
    """The side that images are fitted to for both: the only one that they take, or else `size` or `default`.

    Raises:
        ValueError: a size that the representation does not take, or of which the inverter gives no view.
    """
    side = settled_size(representation, size)
    view = None if inverter is None else inverter.view
    if view is None:
        return default if side is None else side
    if side not in (None, view.image_size):
        raise ValueError(f"the inverter is for images of {view.image_size}×{view.image_size} pixels, got size {side}")
    return view.image_size


def part_returned(inverter: Inverter, pixels: Pixels) -> Pixels:
    """What of an image (H, W, 3) of the inverter's size comes back, at the image's own resolution."""
    if inverter.view is None:
        return pixels
    crop = inverter.view.crop
    top, left = ((side - crop) // 2 for side in pixels.shape[:2])
    return pixels[top : top + crop, left : left + crop]


def load(sources: Sequence[ImageSource], size: int | None, *, ahead: int = 16) -> Iterator[Loaded]:
    """Decode in threads, at most `ahead` images before the one in use; order as given.

    A bad image comes back with its problem instead of stopping the others.
    """
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="decode")
    waiting: deque[Future[Loaded]] = deque()
    remaining = iter(sources)
    try:
        for source in itertools.islice(remaining, max(1, ahead)):
            waiting.append(pool.submit(_read, source, size))
        while waiting:
            loaded = waiting.popleft().result()
            for source in itertools.islice(remaining, 1):
                waiting.append(pool.submit(_read, source, size))
            yield loaded
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def batches(sources: Sequence[ImageSource], size: int, batch_size: int) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Keys and images (B, 3, size, size) uint8, in order; ``ValueError`` at a bad image."""
    for window in in_windows(load(sources, size, ahead=2 * batch_size), batch_size):
        for item in window:
            if item.pixels is None:
                raise ValueError(item.problem)
        yield (
            [item.source.key for item in window],
            as_batch([item.pixels for item in window if item.pixels is not None]),
        )


def as_batch(pixels: Sequence[Pixels]) -> torch.Tensor:
    """Pictures (H, W, 3) of one size as uint8 (B, 3, H, W)."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def as_pixels(image: torch.Tensor) -> Pixels:
    """(3, H, W) float in [0, 1] as (H, W, 3) uint8, rounded."""
    scaled = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(scaled.permute(1, 2, 0).cpu().numpy())


T = TypeVar("T")


def in_windows(items: Iterable[T], length: int) -> Iterator[list[T]]:
    """The items in lists of `length`, the last one shorter."""
    iterator = iter(items)
    while window := list(itertools.islice(iterator, length)):
        yield window


def by_size(items: Sequence[Any]) -> Iterator[list[int]]:
    """Positions of the items (with a ``shape``), grouped by equal shape, in order of first appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, item in enumerate(items):
        groups.setdefault(tuple(item.shape), []).append(position)
    yield from groups.values()


def _read(source: ImageSource, size: int | None) -> Loaded:
    try:
        decoded = decode_image(source.read(), name=source.name)
        return Loaded(source, fit_image(decoded, size), (decoded.shape[0], decoded.shape[1]))
    except (ValueError, OSError) as error:
        problem = str(error)
        return Loaded(source, None, (0, 0), problem if source.name in problem else f"{source.name}: {problem}")
