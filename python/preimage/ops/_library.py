"""Every op's schema and shapes, in one place: `torch.ops.preimage.*`.

The implementations for CPU and CUDA are beside their checks (`hog.py`, …) and register themselves on import.
A `*_backward` op takes the gradient of its op's output, then its op's parameters in the same order.
"""

from __future__ import annotations

import torch

LIBRARY = torch.library.Library("preimage", "DEF")

for _schema in (
    "hog(Tensor images, int cell_size, str variant, str colour) -> Tensor",
    "hog_backward(Tensor gradient, Tensor images, int cell_size, str variant, str colour) -> Tensor",
    "lbp(Tensor images, int cell_size, str variant) -> Tensor",
    "lbp_codes(Tensor images, str variant) -> Tensor",
):
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def cell_count(pixels: int, cell_size: int) -> int:
    """HOG cells along a side: one for every full cell and one more for half a cell left over."""
    return (pixels + cell_size // 2) // cell_size


@torch.library.register_fake("preimage::hog", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _hog(images: torch.Tensor, cell_size: int, variant: str, colour: str) -> torch.Tensor:
    batch = images.shape[0] if images.dim() == 4 else 1
    rows = cell_count(images.shape[-2], cell_size)
    columns = cell_count(images.shape[-1], cell_size)
    return images.new_empty((batch, 31, rows, columns), dtype=torch.float32)


@torch.library.register_fake("preimage::hog_backward", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _hog_backward(
    gradient: torch.Tensor, images: torch.Tensor, cell_size: int, variant: str, colour: str
) -> torch.Tensor:
    return images.new_empty(images.shape, dtype=torch.float32)


@torch.library.register_fake("preimage::lbp", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _lbp(images: torch.Tensor, cell_size: int, variant: str) -> torch.Tensor:
    batch = images.shape[0] if images.dim() == 4 else 1
    rows, columns = images.shape[-2] // cell_size, images.shape[-1] // cell_size
    return images.new_empty((batch, 58, rows, columns), dtype=torch.float32)


@torch.library.register_fake("preimage::lbp_codes", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _lbp_codes(images: torch.Tensor, variant: str) -> torch.Tensor:
    batch = images.shape[0] if images.dim() == 4 else 1
    return images.new_empty((batch, 1, images.shape[-2], images.shape[-1]), dtype=torch.uint8)
