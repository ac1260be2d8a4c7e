"""Keep the photographs of a probe at the size of its network, so that every probe uses the same pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from preimage.io import ImageSource, decode_file, encode_png, resize_and_center_crop
from preimage.io.atomic import atomic_write
from preimage.io.folders import make_folders
from preimage.pipelines.image_loading import Images, Pixels, as_listing, as_pixels, check_unit_range, load, usable
from preimage.studies.inputs import evenly_spaced
from preimage.training.split import hold_out

_MAX_HELD_OUT = 64  # by default; a fifth of the photographs if that is less
_MIN_HELD_OUT = 2  # the normalized error divides by the distance between two images


@dataclasses.dataclass(frozen=True)
class Photographs:
    """Photographs in a folder, all of one size.

    Attributes:
        paths: PNG files in order; their names without suffix are the keys of features.
        names: Names for captions.
        side: Side in pixels.
        held_out: Number of them that inverters are validated on, evenly spaced.
        shown: Indices of those on the film strips, which are held out.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    side: int
    held_out: int
    shown: tuple[int, ...]

    @property
    def sources(self) -> list[ImageSource]:
        """The files as image sources."""
        return as_listing(self.paths).sources

    def pixels(self) -> list[Pixels]:
        """Return the photographs on the film strips, (side, side, 3) uint8."""
        return [decode_file(self.paths[index]) for index in self.shown]


def photograph_source(
    images: Images | torch.Tensor, *, skip_bad: bool
) -> tuple[list[str], list[ImageSource] | torch.Tensor]:
    """Return the names of images, and their sources or the tensor; errors as in `as_listing`.

    Raises:
        TypeError: A tensor that is neither uint8 nor floating point.
        ValueError: A tensor that is not (N, 3, H, W), or with values outside [0, 1].
    """
    if not isinstance(images, torch.Tensor):
        sources = as_listing(images, skip_bad=skip_bad).sources
        return [source.key for source in sources], sources
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8, or floating point in [0, 1], got {images.dtype}")
    if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"images must be (N, 3, H, W), got shape {tuple(images.shape)}")
    check_unit_range(images)
    return [str(index) for index in range(len(images))], images


def held_out_count(total: int, val_count: int | None) -> int:
    """Return the number of held-out photographs; ``ValueError`` if that leaves none to train on."""
    count = max(_MIN_HELD_OUT, min(_MAX_HELD_OUT, total // 5)) if val_count is None else val_count
    if count < _MIN_HELD_OUT:
        raise ValueError(f"val_count must be at least {_MIN_HELD_OUT}, got {count}")
    if total < count + 2:
        raise ValueError(f"{total} photographs are too few to hold {count} out: give at least {count + 2}")
    return count


def keep_photographs(
    names: list[str],
    images: list[ImageSource] | torch.Tensor,
    folder: Path,
    *,
    side: int,
    val_count: int | None,
    show_count: int,
    skip_bad: bool,
    resume: bool,
) -> Photographs:
    """Resize and center-crop images to `side`, write them to a folder as PNG, and return them.

    Args:
        names: Names of the images.
        images: Their sources, or (N, 3, H, W), uint8 or floating in [0, 1].
        folder: Folder of the files, which is created if it does not exist.
        side: Side in pixels.
        val_count: Number of held-out photographs; ``None`` is a fifth of them, at most 64.
        show_count: Number of held-out photographs on the film strips.
        skip_bad: Whether images that cannot be read are left out, instead of raising an error.
        resume: Whether the folder must contain the same photographs already.

    Raises:
        ValueError: An image that cannot be read; too few; or with `resume` other photographs than those in the folder.
        OSError: A file cannot be written.
    """
    make_folders(folder)
    paths: list[Path] = []
    known: list[str] = []
    for name, pixels in _fitted(names, images, side, skip_bad=skip_bad):
        path = folder / f"{len(paths):06d}.png"
        data = encode_png(pixels)
        if resume and not (path.is_file() and path.read_bytes() == data):
            raise ValueError(f"{folder} contains other photographs, the first of them {name!r}: use another folder")
        if not resume:
            with atomic_write(path) as file:
                file.write(data)
        paths.append(path)
        known.append(name)
    if resume and len(list(folder.glob("*.png"))) != len(paths):
        raise ValueError(f"{folder} contains more than these {len(paths)} photographs: use another folder")
    count = held_out_count(len(paths), val_count)
    held_out = hold_out(range(len(paths)), count)[1]
    shown = tuple(held_out[index] for index in sorted(evenly_spaced(count, show_count)))
    return Photographs(tuple(paths), tuple(known), side, count, shown)


def _fitted(
    names: list[str], images: list[ImageSource] | torch.Tensor, side: int, *, skip_bad: bool
) -> Iterator[tuple[str, Pixels]]:
    if isinstance(images, torch.Tensor):
        for name, image in zip(names, images, strict=True):
            pixels = image.movedim(0, -1).cpu().numpy() if image.dtype == torch.uint8 else as_pixels(image)
            yield name, resize_and_center_crop(np.ascontiguousarray(pixels), side)
        return
    for item in usable(load(images, side), [] if skip_bad else None):
        assert item.pixels is not None
        yield item.source.key, item.pixels
