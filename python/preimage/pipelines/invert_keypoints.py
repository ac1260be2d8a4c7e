"""Invert keypoint files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import torch

from preimage.io import KeypointFile, read_keypoints
from preimage.io.keypoints.checks import examine
from preimage.io.keypoints.convert import file_errors
from preimage.keypoints import Keypoints
from preimage.pipelines.invert_batches import Inversion, Item, Size
from preimage.pipelines.inverter_choice import InverterChoice, sift_inverter
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations.sift import Sift

_NOT_USED = (
    "the inverter does not use the colors of the keypoints (preimage train sift -p color=true trains one that does)"
)
_MAX_PIXELS = 64_000_000  # per image; the grid of keypoints alone needs 33 bytes per pixel


@dataclasses.dataclass(frozen=True)
class KeypointOptions:
    """Options that only keypoint files have.

    Attributes:
        size: Size (H, W) in pixels of images whose size the file does not contain.
        normalization: Normalization of the descriptors, see `preimage.read_keypoints`.
        format: Format of the file, see `preimage.read_keypoints`.
        max_side: Maximum side in pixels; larger images are scaled down.
        model: Folder of the COLMAP model with the colors of the keypoints, see `preimage.read_keypoints`.
    """

    size: Size | None = None
    normalization: str | None = None
    format: str | None = None
    max_side: int | None = None
    model: str | os.PathLike[str] | None = None


def invert_keypoints(
    path: str | os.PathLike[str],
    options: KeypointOptions,
    inverter: InverterChoice,
    device: torch.device,
    inversion: Inversion,
) -> str:
    """Invert every image of a keypoint file; return the name of the inverter."""
    if options.max_side is not None and options.max_side < 1:
        raise ValueError(f"max_side must be at least 1, got {options.max_side}")
    file = read_keypoints(
        path,
        image_size=options.size,
        format=options.format,
        normalization=options.normalization,
        model=options.model,
    )
    _check_any(file)
    sizes = _sizes(file)
    variant = "opencv" if file.format == "opencv" else "vlfeat"
    network, name = sift_inverter(inverter, variant, color=_any_colors(file))
    if inversion.sampling.count:
        network.check_can_sample()
    reconstructor = Reconstructor(None, network, device)
    representation = reconstructor.representation
    assert isinstance(representation, Sift)
    inversion.run(
        reconstructor, dict(enumerate(file)), _items(file, sizes, representation, options.max_side, inversion)
    )
    inversion.remark_old_samples(list(file))
    return name


def _items(
    file: KeypointFile, sizes: list[Size], representation: Sift, max_side: int | None, inversion: Inversion
) -> Iterator[Item]:
    """Yield the images, those without keypoints last; ``ValueError`` if no image has keypoints."""

    def item(index: int, keypoints: Keypoints) -> Item:
        scaled, size = scaled_down(keypoints, sizes[index], max_side)
        return Item(index, representation.grid(scaled, size)[0], size)

    empty, any_keypoints = [], False
    for index, key in enumerate(file):
        try:
            with file_errors(file.path, key):
                _check_pixels(sizes[index], max_side)
                keypoints = file[key]
                inversion.remark(key, examine(keypoints, sizes[index]) | dict(file.notes.get(key, {})))
                colored = _count_colors(keypoints)
                if representation.color:
                    inversion.colored += colored
                elif colored:
                    inversion.remark(key, {"colors": _NOT_USED})
        except ValueError as error:
            inversion.skip(key, error)
            continue
        if not len(keypoints.x):
            empty.append(index)
            continue
        any_keypoints = True
        yield item(index, keypoints)
    if not any_keypoints:
        if inversion.skipped:
            raise ValueError(f"none of the {len(file)} images could be inverted; the first: {inversion.skipped[0][1]}")
        raise ValueError(_no_keypoints(file))
    inversion.empty = len(empty)
    for index in empty:
        yield item(index, file[index])


def _any_colors(file: KeypointFile) -> bool:
    """Return whether the keypoints have colors, judging by the first image that can be read and has keypoints."""
    for index, count in enumerate(file.counts):
        if count == 0:
            continue
        with contextlib.suppress(ValueError):  # reported when the image is inverted
            keypoints = file[index]
            if len(keypoints.x):
                return keypoints.colors is not None
    return False


def _count_colors(keypoints: Keypoints) -> int:
    """Return the number of keypoints whose color is known."""
    return 0 if keypoints.colors is None else int((~keypoints.colors.isnan().any(dim=1)).sum())


def _check_any(file: KeypointFile) -> None:
    """Raise ``ValueError`` if the list shows that there is nothing to invert."""
    if not len(file):
        raise ValueError(f"{file.path} contains no images: nothing to invert")
    if not any(count is None or count for count in file.counts):
        raise ValueError(_no_keypoints(file))


def _no_keypoints(file: KeypointFile) -> str:
    what = "no keypoints" if len(file) == 1 else f"no keypoints for any of its {len(file)} images"
    return f"{file.path} contains {what}: nothing to invert"


def _check_pixels(size: Size, max_side: int | None) -> None:
    height, width = (min(side, max_side) if max_side is not None else side for side in size)
    if height * width > _MAX_PIXELS:
        raise ValueError(
            f"an image of {size[1]}×{size[0]} pixels (width × height) is larger than {_MAX_PIXELS} pixels: reduce "
            "max_side (--max-side)"
        )


def _sizes(file: KeypointFile) -> list[Size]:
    found = []
    for key, size in zip(file, file.sizes, strict=True):
        if size is None:
            raise ValueError(
                f"{file.path} does not contain the size of the image {key!r}: pass size=(H, W) (--size HxW)"
            )
        found.append(size)
    return found


def scaled_down(keypoints: Keypoints, size: Size, max_side: int | None) -> tuple[Keypoints, Size]:
    """Return the keypoints in the image scaled down to at most `max_side` pixels, and that image's size."""
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
