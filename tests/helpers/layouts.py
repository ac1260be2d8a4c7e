"""The ways images (B, 3, H, W) can lie in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda images: images,
    "channels last": lambda images: images.to(memory_format=torch.channels_last),
    "transposed": lambda images: images.mT,
    "sliced": lambda images: images[:, :, 1:, ::2],
    "expanded": lambda images: images[:1].expand(3, -1, -1, -1),
    "bytes": lambda images: images if images.dtype == torch.uint8 else (images * 255).to(torch.uint8),
    "half": lambda images: images.half(),
    "double": lambda images: images.double(),
    "empty batch": lambda images: images[:0],
    "one image": lambda images: images[0],
    "one plane": lambda images: images[0, 0],
}
