"""Every op's schema and shapes, in one place: `torch.ops.preimage.*`.

The CPU implementations are beside their checks (`hog.py`, …) and register themselves on import.
"""

from __future__ import annotations

import torch

LIBRARY = torch.library.Library("preimage", "DEF")

LIBRARY.define(
    "hog(Tensor images, int cell_size, str variant, str colour) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)

# Both (features, norms); bounds are (top, left, bottom, right), inclusive.
LIBRARY.define(
    "dense_sift(Tensor images, int step, int bin_size, str window, float window_size, SymInt[]? bounds, "
    "ScalarType dtype) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)

# Always from float32 features.
LIBRARY.define(
    "dense_sift_backward(Tensor grad_features, Tensor grad_norms, Tensor images, int step, int bin_size, str window, "
    "float window_size, SymInt[]? bounds) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def cell_count(pixels: int, cell_size: int) -> int:
    """HOG cells along a side: one for every full cell and one more for half a cell left over."""
    return (pixels + cell_size // 2) // cell_size


@torch.library.register_fake("preimage::hog", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _hog(images: torch.Tensor, cell_size: int, variant: str, colour: str) -> torch.Tensor:
    batch = images.shape[0] if images.dim() == 4 else 1
    rows = cell_count(images.shape[-2], cell_size)
    columns = cell_count(images.shape[-1], cell_size)
    return images.new_empty((batch, 31, rows, columns), dtype=torch.float32)


def frame_count(first: int, last: int, step: int, bin_size: int) -> int:
    """Dense SIFT's descriptors along an axis whose four bin centres lie in first … last, inclusive."""
    return (last - first - 3 * bin_size) // step + 1


@torch.library.register_fake("preimage::dense_sift", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _dense_sift(
    images: torch.Tensor,
    step: int,
    bin_size: int,
    window: str,
    window_size: float,
    bounds: list[int] | None,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    batch = images.shape[0] if images.dim() == 4 else 1
    top, left, bottom, right = (0, 0, images.shape[-2] - 1, images.shape[-1] - 1) if bounds is None else bounds
    rows = frame_count(top, bottom, step, bin_size)
    columns = frame_count(left, right, step, bin_size)
    features = images.new_empty((batch, 128, rows, columns), dtype=dtype)
    return features, images.new_empty((batch, 1, rows, columns), dtype=torch.float32)


@torch.library.register_fake("preimage::dense_sift_backward", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _dense_sift_backward(
    grad_features: torch.Tensor,
    grad_norms: torch.Tensor,
    images: torch.Tensor,
    step: int,
    bin_size: int,
    window: str,
    window_size: float,
    bounds: list[int] | None,
) -> torch.Tensor:
    return images.new_empty(images.shape, dtype=torch.float32)
