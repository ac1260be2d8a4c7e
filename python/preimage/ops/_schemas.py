"""Define the schemas and output shapes of the descriptors' torch ops, `torch.ops.preimage.*`.

The implementations for CPU and CUDA (`hog_torch.py`, …) are registered when they are imported; `torch_ops.py` imports
all. A `*_backward` op takes the gradient of the op's output, followed by the op's parameters in the same order.
"""

from __future__ import annotations

from typing import Any

import torch

from preimage.keypoints import COLORS, GRID_CHANNELS
from preimage.ops._block_options import BlockOptions
from preimage.ops._output_sizes import cell_count, grid_size

LIBRARY = torch.library.Library("preimage", "DEF")

# The fields of BlockOptions.
_BLOCKS = "SymInt[2] cell_size, str color, int orientations, SymInt[2] block_size, str block_norm, bool transform_sqrt"

for _schema in (
    "hog(Tensor images, int cell_size, str variant, str color) -> Tensor",
    "hog_backward(Tensor gradient, Tensor images, int cell_size, str variant, str color) -> Tensor",
    f"hog_dalal_triggs(Tensor images, {_BLOCKS}) -> Tensor",
    f"hog_dalal_triggs_backward(Tensor gradient, Tensor images, {_BLOCKS}) -> Tensor",
    "lbp(Tensor images, int cell_size, str variant) -> Tensor",
    "lbp_codes(Tensor images, str variant) -> Tensor",
    # Features and norms; bounds are (top, left, bottom, right), inclusive.
    "dense_sift(Tensor images, int step, int bin_size, str window, float window_size, SymInt[]? bounds, "
    "ScalarType dtype) -> (Tensor, Tensor)",
    # Gradients of float32 features.
    "dense_sift_backward(Tensor grad_features, Tensor grad_norms, Tensor images, int step, int bin_size, str window, "
    "float window_size, SymInt[]? bounds) -> Tensor",
    # The fields of Keypoints; the seed is a 64-bit signed integer.
    "sift_grid(Tensor x, Tensor y, Tensor scale, Tensor angle, Tensor descriptors, Tensor offsets, "
    "SymInt[2] image_size, SymInt cell_size, int seed, float descriptor_scale, Tensor? colors=None) -> Tensor",
):
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


@torch.library.register_fake("preimage::hog", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _hog(images: torch.Tensor, cell_size: int, variant: str, color: str) -> torch.Tensor:
    batch = images.shape[0] if images.dim() == 4 else 1
    rows = cell_count(images.shape[-2], cell_size)
    columns = cell_count(images.shape[-1], cell_size)
    return images.new_empty((batch, 31, rows, columns), dtype=torch.float32)


@torch.library.register_fake("preimage::hog_backward", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _hog_backward(
    gradient: torch.Tensor, images: torch.Tensor, cell_size: int, variant: str, color: str
) -> torch.Tensor:
    return images.new_empty(images.shape, dtype=torch.float32)


@torch.library.register_fake("preimage::hog_dalal_triggs", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _hog_dalal_triggs(images: torch.Tensor, *parameters: Any) -> torch.Tensor:
    options, batch = BlockOptions(*parameters), images.shape[0] if images.dim() == 4 else 1
    return images.new_empty((batch, options.channels, *options.grid(*images.shape[-2:])), dtype=torch.float32)


@torch.library.register_fake("preimage::hog_dalal_triggs_backward", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _hog_dalal_triggs_backward(gradient: torch.Tensor, images: torch.Tensor, *_: object) -> torch.Tensor:
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
    rows, columns = grid_size((top, left, bottom, right), step, bin_size)
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


@torch.library.register_fake("preimage::sift_grid", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _sift_grid(
    x: torch.Tensor,
    y: torch.Tensor,
    scale: torch.Tensor,
    angle: torch.Tensor,
    descriptors: torch.Tensor,
    offsets: torch.Tensor,
    image_size: list[int],
    cell_size: int,
    seed: int,
    descriptor_scale: float,
    colors: torch.Tensor | None = None,
) -> torch.Tensor:
    rows, columns = -(-image_size[0] // cell_size), -(-image_size[1] // cell_size)
    channels = GRID_CHANNELS if colors is None else GRID_CHANNELS + COLORS
    return x.new_empty((offsets.shape[0] - 1, channels, rows, columns), dtype=torch.float32)
