"""Load images, decoded in a few threads, in order and only a few images in advance."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from preimage.io import ImageSource, Listing, decode_image, find_images, resize_and_center_crop
from preimage.io.urls import masked
from preimage.ops._images import cpu_threads
from preimage.pipelines.prefetch import in_order

if TYPE_CHECKING:
    import torch

    from preimage.representations import Representation

T = TypeVar("T")
Pixels = npt.NDArray[np.uint8]
Images = str | PathLike[str] | Sequence[str | PathLike[str]] | Sequence[ImageSource]
Skipped = list[tuple[str, str]]  # name and problem of each image that is skipped

SKIP_HINT = "--skip-bad skips and lists such images"
BATCH_BYTES = 1 << 30  # maximum working memory of a batch; a larger image is processed alone
_DECODERS = 8  # maximum number of threads that decode
AHEAD_BYTES = 256 << 20  # maximum size of decoded images that wait to be used
_PIXEL_BYTES = 24  # memory per pixel for an image in 8 bits and in float, and a few planes
_INVERTER_PIXEL_BYTES = 256  # memory per pixel for the maps of an inverter at the resolution of the image
_SAMPLE_PIXEL_BYTES = 24  # memory per pixel for a sample, alone and then beside the others


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An image that was read, or the reason why it was not.

    Attributes:
        source: Source of the image.
        pixels: (H, W, 3) uint8 RGB, at the processed size; ``None`` if it could not be read.
        original_size: (H, W) of the decoded image.
        processed_size: (H, W) of the pixels.
        problem: Reason why it could not be read, one line that names the image; else empty.
    """

    source: ImageSource
    pixels: Pixels | None
    original_size: tuple[int, int] = (0, 0)
    processed_size: tuple[int, int] = (0, 0)
    problem: str = ""

    def without_pixels(self) -> Loaded:
        """Return a copy without the pixels, which take much memory."""
        return Loaded(self.source, None, self.original_size, self.processed_size, self.problem)


def as_listing(images: Images, *, skip_bad: bool = False) -> Listing:
    """Return the sources of a path, of paths (folders, files, tar shards) or of a list of sources.

    Args:
        images: Paths or sources.
        skip_bad: Whether images that cannot be used are skipped and listed, see `preimage.io.find_images`.

    Raises:
        ValueError: No images; without `skip_bad` also as `preimage.io.list_images`.
    """
    if isinstance(images, str | PathLike):
        images = [images]
    given = list(images)
    ready = [image for image in given if isinstance(image, ImageSource)]
    if ready and len(ready) != len(given):
        raise TypeError("images must be either all paths or all sources, got both")
    paths = [image for image in given if not isinstance(image, ImageSource)]
    listing = Listing(ready) if ready else find_images(paths, skip_bad=skip_bad)
    if not listing.sources:
        raise ValueError(f"no images in {', '.join(masked(str(image)) for image in given) or 'an empty list'}")
    return listing


def as_sources(images: Images) -> list[ImageSource]:
    """Return the sources of `as_listing`; files that cannot be used are an error."""
    return as_listing(images).sources


def resolved_size(representation: Representation, size: int | None) -> int | None:
    """Return the side to which images are resized: the only one that the representation supports, or else `size`.

    Raises:
        ValueError: A size that the representation does not support.
    """
    side = representation.image_side
    if side is not None and size not in (None, side):
        raise ValueError(f"{representation.name} takes images of {side}×{side} pixels only, got size {size}")
    return size if side is None else side


def working_bytes(representation: Representation, height: int, width: int, *, inverted: bool = False) -> int:
    """Return the approximate memory in bytes for computing the features of an image of height × width pixels.

    It includes the image, its features and a copy of them, and the maps of an inverter if they are inverted, but not
    the activations of a network.
    """
    grid = representation.feature_size(height, width) or (1, 1)
    features = 8 * representation.spec.channels * math.prod(grid)
    return features + (_PIXEL_BYTES * height * width if not inverted else inverting_bytes(height, width))


def inverting_bytes(height: int, width: int, samples: int = 0) -> int:
    """Return the approximate memory in bytes that an inverter takes for an image of height × width pixels.

    Args:
        height: Height of the image.
        width: Width of the image.
        samples: Number of samples that it draws.
    """
    return (_PIXEL_BYTES + _INVERTER_PIXEL_BYTES + _SAMPLE_PIXEL_BYTES * samples) * height * width


def at_once(bytes_each: int, most: int) -> int:
    """Return the batch size: `most`, or fewer images so that they take at most `BATCH_BYTES`; at least 1."""
    return max(1, min(most, BATCH_BYTES // max(1, bytes_each)))


def in_budget(
    items: Iterable[T], bytes_of: Callable[[T], int], most: int, budget: int | None = None
) -> Generator[list[T], None, None]:
    """Yield the items in lists of `most`, or fewer that take at most `budget` bytes together; at least 1.

    The default of `budget` is `BATCH_BYTES`.
    """
    window: list[T] = []
    total, budget = 0, BATCH_BYTES if budget is None else budget
    for item in items:
        size = bytes_of(item)
        if window and (len(window) == most or total + size > budget):
            yield window
            window, total = [], 0
        window.append(item)
        total += size
    if window:
        yield window


def load(
    sources: Sequence[ImageSource],
    size: int | None,
    *,
    ahead: int = 16,
    workers: int | None = None,
    place: Callable[[Pixels], Pixels] | None = None,
) -> Generator[Loaded, None, None]:
    """Decode images in threads, in order, at most `ahead` images in advance, or fewer if they are large.

    An image that cannot be read is yielded with its problem, and does not stop the others.

    Args:
        sources: The images.
        size: Side to which they are resized and center-cropped; ``None`` keeps their sizes.
        ahead: Maximum number of images in progress or waiting to be yielded.
        workers: Number of threads; ``None`` for at most eight, which leave cores for others.
        place: Function called in the threads, which copies decoded pixels to other memory.
    """
    workers = min(_DECODERS, cpu_threads()) if workers is None else workers
    room = workers  # until the size of the images is known

    decoded = in_order(
        lambda source: read(source, size, place),
        sources,
        workers=workers,
        ahead=lambda: min(ahead, room),
        name="decode",
    )
    with contextlib.closing(decoded):
        for item in decoded:
            if item.pixels is not None:
                room = max(workers, AHEAD_BYTES // max(1, item.pixels.nbytes))
            yield item


def batches(
    sources: Sequence[ImageSource],
    size: int,
    batch_size: int,
    *,
    skipped: Skipped | None = None,
) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Yield keys and images (B, 3, size, size) uint8, in order.

    Args:
        sources: The images.
        size: Side to which they are resized and center-cropped.
        batch_size: Batch size, see `at_once`.
        skipped: List to which (name, problem) of images that cannot be read are added; ``None`` raises an error
            instead.

    Raises:
        ValueError: An image that cannot be read (the message names it).
    """
    items = usable(load(sources, size, ahead=2 * batch_size), skipped)
    for window in in_windows(items, batch_size):
        keys = [item.source.key for item in window]
        yield keys, as_batch([item.pixels for item in window if item.pixels is not None])


def usable(items: Iterable[Loaded], skipped: Skipped | None) -> Iterator[Loaded]:
    """Yield the images that were read; add the others to `skipped`, or raise ``ValueError`` if that is ``None``."""
    for item in items:
        if item.pixels is not None:
            yield item
        elif skipped is None:
            raise ValueError(f"{item.problem} ({SKIP_HINT})")
        else:
            skipped.append((item.source.name, item.problem))


def none_usable(skipped: Sequence[tuple[str, str]]) -> ValueError:
    """Return the error for a set of images of which none can be used."""
    return ValueError(f"none of the {len(skipped)} images could be used; the first: {skipped[0][1]}")


def decodable_listing(images: Images, *, skip_bad: bool) -> Listing:
    """Return `as_listing`; with `skip_bad` images that cannot be decoded are skipped as well.

    This is for commands that read the images several times; each image is decoded once more.
    """
    listing = as_listing(images, skip_bad=skip_bad)
    if not skip_bad:
        return listing
    skipped = list(listing.skipped)
    sources = [item.source for item in usable(load(listing.sources, 1), skipped)]
    if not sources:
        raise none_usable(skipped)
    return Listing(sources, tuple(skipped), listing.notes)


def as_batch(pixels: Sequence[Pixels]) -> torch.Tensor:
    """Stack images (H, W, 3) of one size as uint8 (B, 3, H, W)."""
    import torch

    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def check_unit_range(images: torch.Tensor) -> None:
    """Raise ``ValueError`` unless images (N, 3, H, W) that are floating point are in [0, 1]; the message has a number.

    Others, such as uint8, are not checked.
    """
    for index, image in enumerate(images if images.is_floating_point() else ()):
        if not bool(((image >= 0) & (image <= 1)).all()):  # false for NaN, too
            raise ValueError(f"images of floating point must be in [0, 1]: image {index} has values outside, or NaN")


def as_pixels(images: torch.Tensor) -> Pixels:
    """Return images (..., 3, H, W) in [0, 1] as (..., H, W, 3) uint8, rounded."""
    return as_bytes(images).cpu().numpy()


def as_bytes(images: torch.Tensor) -> torch.Tensor:
    """Return images (..., 3, H, W) in [0, 1] as (..., H, W, 3) uint8, rounded, on the same device."""
    import torch

    half = torch.tensor(0.5)  # one pass over the images is twice as fast as a product and a sum
    rounded = torch.add(half, images.detach().float(), alpha=255).to(torch.uint8)
    return rounded.movedim(-3, -1).contiguous()


def in_windows(items: Iterable[T], length: int) -> Iterator[list[T]]:
    """Yield the items in lists of `length`, the last one shorter."""
    iterator = iter(items)
    while window := list(itertools.islice(iterator, length)):
        yield window


def by_size(items: Sequence[Any]) -> Iterator[list[int]]:
    """Yield the indices of the items (with a ``shape``), grouped by equal shape, in order of first appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, item in enumerate(items):
        groups.setdefault(tuple(item.shape), []).append(position)
    yield from groups.values()


def read(source: ImageSource, size: int | None, place: Callable[[Pixels], Pixels] | None = None) -> Loaded:
    """Decode an image, and resize and center-crop it to `size`; if that fails, return it with its problem."""
    return loaded(source, size, lambda: decode_image(source.read(), name=source.name), place)


def loaded(
    source: ImageSource, size: int | None, decode: Callable[[], Pixels], place: Callable[[Pixels], Pixels] | None = None
) -> Loaded:
    """Decode an image by `decode`, and continue as `read` does."""
    try:
        decoded = decode()
        pixels = resize_and_center_crop(decoded, size)
    except ConnectionError:
        raise  # nothing is wrong with the image: it must not be left out because a server is down
    except (ValueError, OSError) as error:
        problem = str(error)
        return Loaded(source, None, problem=problem if source.name in problem else f"{source.name}: {problem}")
    placed = pixels if place is None else place(pixels)
    return Loaded(source, placed, decoded.shape[:2], pixels.shape[:2])
