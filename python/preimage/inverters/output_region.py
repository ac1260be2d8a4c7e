"""The part of an image that an inverter returns: the center, resized."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

_LARGEST = 8192  # pixels: an inverter from another source must not exhaust the memory


@dataclasses.dataclass(frozen=True)
class OutputRegion:
    """The center square of an image, resized.

    Networks take images of one size only, and their features need not cover the whole image, nor have its resolution:
    the paper's inverters for AlexNet return the middle 216² of 227² pixels for CONV1, and the whole image at 128² for
    FC6.

    Attributes:
        image_size: Side of the images whose features are inverted, pixels.
        crop: Side of the center square that is returned, pixels of the image.
        size: Side of the returned image, pixels.
    """

    image_size: int
    crop: int
    size: int

    def __post_init__(self) -> None:
        for name in ("image_size", "crop", "size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST:
                raise ValueError(f"{name} of an output region must be an integer from 1 to {_LARGEST}, got {value!r}")
        if self.crop > self.image_size:
            raise ValueError(
                f"crop of an output region must be at most its image_size, got {self.crop} of {self.image_size}"
            )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> OutputRegion:
        """Return the region with the given fields, as returned by ``dataclasses.asdict``.

        Raises:
            ValueError: Other fields, or values out of range.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(fields, Mapping) or fields.keys() != set(names):
            raise ValueError(f"an output region must have the fields {', '.join(names)}, got {fields!r:.200}")
        return cls(**fields)

    def of(self, images: torch.Tensor) -> torch.Tensor:
        """Return the region of images, (B, 3, size, size) of the same dtype.

        Args:
            images: (B, 3, image_size, image_size), uint8 or floating-point.

        Raises:
            ValueError: Images of another shape or size.
        """
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W), got {tuple(images.shape)}")
        if images.shape[2:] != (self.image_size, self.image_size):
            size = "×".join(map(str, images.shape[2:]))
            raise ValueError(f"the inverter takes images of {self.image_size}×{self.image_size} pixels, got {size}")
        return resized(self.cropped(images), self.size, self.size)

    def cropped(self, images: torch.Tensor) -> torch.Tensor:
        """Return the region at the resolution of the images: (B, 3, crop, crop)."""
        start = (self.image_size - self.crop) // 2
        return images[:, :, start : start + self.crop, start : start + self.crop]


def resized(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return images (B, 3, H, W) as (B, 3, height, width) of the same dtype: bilinear, antialiased."""
    if images.shape[2:] == (height, width):
        return images
    other = F.interpolate(images.float(), (height, width), mode="bilinear", antialias=True, align_corners=False)
    return other.round().clamp(0, 255).to(images.dtype) if images.dtype == torch.uint8 else other.to(images.dtype)


def placed(cells: int, multiple: int, stride: int, size: int) -> tuple[int, int, int]:
    """Return the padding of a row of feature cells, and the position of the wanted pixels in the network's output.

    The row is padded to a multiple of `multiple` that covers the wanted pixels, and stays in the middle.

    Args:
        cells: Number of cells in the row.
        multiple: Number of cells of which the network takes multiples.
        stride: Number of output pixels for each cell.
        size: Number of wanted pixels, around the middle of the features.

    Returns:
        (cells padded before the row, cells padded after it, index of the first wanted pixel).
    """
    wanted = max(cells, -(-size // stride))
    total = -(-wanted // multiple) * multiple
    before = (total - cells) // 2
    middle = (2 * before + cells) * stride
    first = min(max((middle - size) // 2, 0), total * stride - size)
    return before, total - cells - before, first
