"""Images back from a keypoint file: whoever found the keypoints, one image after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from os import PathLike
from pathlib import Path

import torch

from preimage import representations
from preimage.inverters import Inverter
from preimage.io import KeypointFile, read_keypoints
from preimage.keypoints import Keypoints
from preimage.pipelines.choosing import InverterChoice, sift_inverter
from preimage.pipelines.loading import as_pixels
from preimage.pipelines.targets import target_of, write_picture
from preimage.representations.sift import Sift

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class KeypointOptions:
    """How to read a keypoint file, where it does not say.

    Attributes:
        image_size: (H, W) of the images, pixels, where the file does not tell.
        normalisation: of the descriptors, see `preimage.read_keypoints`.
        format: of the file, see `preimage.read_keypoints`.
        max_side: larger images are reconstructed smaller, with this many pixels along their longer side.
    """

    image_size: Size | None = None
    normalisation: str | None = None
    format: str | None = None
    max_side: int | None = None


def invert_keypoints(
    path: str | PathLike[str],
    folder: Path,
    options: KeypointOptions,
    inverter: InverterChoice,
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> tuple[str, int]:
    """Every image of a keypoint file as ``FOLDER/<key>.png``; gives what the inverter is called, and the count.

    Raises:
        ValueError: no image size, a key that would leave the folder, or an inverter for another representation; see
            also `preimage.read_keypoints`.
        LookupError: no inverter for sparse SIFT is shipped.
        FileFormatError: the file is damaged.
    """
    if options.max_side is not None and options.max_side < 1:
        raise ValueError(f"max_side is at least 1, got {options.max_side}")
    file = read_keypoints(
        path, image_size=options.image_size, format=options.format, normalisation=options.normalisation
    )
    sizes = _sizes(file)
    targets = [target_of(folder, key) for key in file.keys]
    network, name = sift_inverter(inverter, "opencv" if file.origin == "opencv" else "vlfeat")
    representation = representations.from_spec(network.spec)
    assert isinstance(representation, Sift)
    network = network.to(device)
    folder.mkdir(parents=True, exist_ok=True)
    for index, target in enumerate(targets):
        keypoints, size = fitted(file[index], sizes[index], options.max_side)
        write_picture(target, as_pixels(_image(network, representation, keypoints, size, device)))
        if progress is not None:
            progress(index + 1, len(file))
    return name, len(file)


def _sizes(file: KeypointFile) -> list[Size]:
    found = []
    for key, size in zip(file.keys, file.sizes, strict=True):
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


def _image(
    network: Inverter, representation: Sift, keypoints: Keypoints, size: Size, device: torch.device
) -> torch.Tensor:
    features = representation.grid(keypoints, size).to(device)
    with torch.inference_mode():
        return network(features, image_size=size)[0]
