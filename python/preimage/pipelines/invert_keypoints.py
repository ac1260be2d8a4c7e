"""Invert keypoint files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import torch

from preimage.io import KeypointFile, read_keypoints
from preimage.io.keypoints.convert import naming
from preimage.io.keypoints.plausibility import examine
from preimage.keypoints import Keypoints
from preimage.pipelines.choosing import InverterChoice, sift_inverter
from preimage.pipelines.inverting import Item, Size, Work
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations.sift import Sift

_MOST_PIXELS = 64_000_000  # of a reconstruction: the keypoints' grid alone has 33 bytes a pixel


@dataclasses.dataclass(frozen=True)
class KeypointOptions:
    """How to read a keypoint file, where it does not say.

    Attributes:
        image_size: (H, W) of the images, pixels, where the file does not tell.
        normalization: of the descriptors, see `preimage.read_keypoints`.
        format: of the file, see `preimage.read_keypoints`.
        max_side: larger images are reconstructed smaller, with this many pixels along their longer side.
    """

    image_size: Size | None = None
    normalization: str | None = None
    format: str | None = None
    max_side: int | None = None


def invert_keypoints(
    path: str | os.PathLike[str],
    options: KeypointOptions,
    inverter: InverterChoice,
    device: torch.device,
    work: Work,
) -> str:
    """Invert every image of a keypoint file; return what the inverter is called."""
    if options.max_side is not None and options.max_side < 1:
        raise ValueError(f"max_side is at least 1, got {options.max_side}")
    file = read_keypoints(
        path, image_size=options.image_size, format=options.format, normalization=options.normalization
    )
    _check_any(file)
    sizes = _sizes(file)
    network, name = sift_inverter(inverter, "opencv" if file.origin == "opencv" else "vlfeat")
    reconstructor = Reconstructor(None, network, device)
    representation = reconstructor.representation
    assert isinstance(representation, Sift)
    work.run(reconstructor, list(file), _items(file, sizes, representation, options.max_side, work))
    return name


def _items(
    file: KeypointFile, sizes: list[Size], representation: Sift, max_side: int | None, work: Work
) -> Iterator[Item]:
    """Yield the images, those without keypoints last; ``ValueError`` if there are no others."""

    def item(index: int, keypoints: Keypoints) -> Item:
        fewer, size = fitted(keypoints, sizes[index], max_side)
        return Item(index, representation.grid(fewer, size)[0], size)

    empty, some = [], False
    for index, key in enumerate(file):
        try:
            with naming(file.path, key):
                _check_pixels(sizes[index], max_side)
                keypoints = file[key]
                work.remark(key, examine(keypoints, sizes[index]) | dict(file.notes.get(key, {})))
        except ValueError as error:
            work.skip(key, error)
            continue
        if not len(keypoints.x):
            empty.append(index)
            continue
        some = True
        yield item(index, keypoints)
    if not some:
        if work.skipped:
            raise ValueError(f"none of the {len(file)} images could be inverted; the first: {work.skipped[0][1]}")
        raise ValueError(_none(file))
    work.empty = len(empty)
    for index in empty:
        yield item(index, file[index])


def _check_any(file: KeypointFile) -> None:
    """``ValueError`` if the list says already that there is nothing to invert."""
    if not len(file):
        raise ValueError(f"{file.path} holds no images: there is nothing to invert")
    if not any(count is None or count for count in file.counts):
        raise ValueError(_none(file))


def _none(file: KeypointFile) -> str:
    what = "no keypoints" if len(file) == 1 else f"no keypoints for any of its {len(file)} images"
    return f"{file.path} holds {what}: there is nothing to invert"


def _check_pixels(size: Size, max_side: int | None) -> None:
    height, width = (min(side, max_side) if max_side is not None else side for side in size)
    if height * width > _MOST_PIXELS:
        raise ValueError(
            f"an image of {size[1]}×{size[0]} pixels (width × height); up to {_MOST_PIXELS} pixels are reconstructed: "
            "choose fewer (max_side, --max-side)"
        )


def _sizes(file: KeypointFile) -> list[Size]:
    found = []
    for key, size in zip(file, file.sizes, strict=True):
        if size is None:
            raise ValueError(
                f"{file.path} does not tell the size of the image {key!r}: give it (image_size=(H, W), "
                "--image-size HxW)"
            )
        found.append(size)
    return found


def fitted(keypoints: Keypoints, size: Size, max_side: int | None) -> tuple[Keypoints, Size]:
    """The keypoints as in the image scaled to at most `max_side` pixels, and that image's size."""
    if max_side is None or max(size) <= max_side:
        return keypoints, size
    factor = max_side / max(size)
    smaller = dataclasses.replace(
        keypoints,
        x=(keypoints.x + 0.5) * factor - 0.5,
        y=(keypoints.y + 0.5) * factor - 0.5,
        scale=keypoints.scale * factor,
    )
    return smaller, (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
