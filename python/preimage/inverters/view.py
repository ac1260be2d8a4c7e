"""What an inverter gives back of images of one fixed size: their center, at a size of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

_LARGEST = 8192  # pixels: who downloads an inverter should not run out of memory by it


@dataclasses.dataclass(frozen=True)
class View:
    """The center square of an image, resized.

    Networks take images of one size only, and their features need not tell of all of it at its own resolution: the
    paper's inverters for AlexNet return the middle 216² of 227² for CONV1, and all of it at 128² for FC6.

    Attributes:
        image_size: side of the images whose features are inverted, pixels.
        crop: side of their center square that comes back, pixels.
        size: side of what comes back, pixels.
    """

    image_size: int
    crop: int
    size: int

    def __post_init__(self) -> None:
        for name in ("image_size", "crop", "size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST:
                raise ValueError(f"{name} of a view is a whole number of pixels from 1 to {_LARGEST}, got {value!r}")
        if self.crop > self.image_size:
            raise ValueError(f"a view crops its image, got crop {self.crop} of {self.image_size}")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> View:
        """The inverse of ``dataclasses.asdict``; ``ValueError`` says what came instead."""
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(fields, Mapping) or fields.keys() != set(names):
            raise ValueError(f"a view has the fields {', '.join(names)}, got {fields!r:.200}")
        return cls(**fields)

    def of(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, size, size) of the type given, of images (B, 3, image_size, image_size), uint8 or floating.

        Raises:
            ValueError: the images are of another shape or size.
        """
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images are (B, 3, H, W), got {tuple(images.shape)}")
        if images.shape[2:] != (self.image_size, self.image_size):
            size = "×".join(map(str, images.shape[2:]))
            raise ValueError(f"the inverter is for images of {self.image_size}×{self.image_size} pixels, got {size}")
        return resized(self.cropped(images), self.size, self.size)

    def cropped(self, images: torch.Tensor) -> torch.Tensor:
        """Return the center squares that come back, at the images' own resolution: (B, 3, crop, crop)."""
        start = (self.image_size - self.crop) // 2
        return images[:, :, start : start + self.crop, start : start + self.crop]


def resized(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, 3, height, width) of images (B, 3, H, W), bilinear and without aliasing; of the type given."""
    if images.shape[2:] == (height, width):
        return images
    other = F.interpolate(images.float(), (height, width), mode="bilinear", antialias=True, align_corners=False)
    return other.round().clamp(0, 255).to(images.dtype) if images.dtype == torch.uint8 else other.to(images.dtype)


def placed(cells: int, multiple: int, stride: int, size: int) -> tuple[int, int, int]:
    """How a row of feature cells becomes a row of pixels: cells put before and after it, and the first pixel wanted.

    The row grows to a multiple of the network's, at least as long as the pixels wanted, and stays in its middle.

    Args:
        cells: in a row of the features.
        multiple: of the network's input.
        stride: pixels that a cell becomes.
        size: pixels wanted, around the middle of the features.
    """
    wanted = max(cells, -(-size // stride))
    total = -(-wanted // multiple) * multiple
    before = (total - cells) // 2
    middle = (2 * before + cells) * stride
    first = min(max((middle - size) // 2, 0), total * stride - size)
    return before, total - cells - before, first
