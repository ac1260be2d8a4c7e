"""Compute the Euclidean distance of each image to its target, without storing the differences."""
# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from preimage.ops.upconv.kernels import _launch

BLOCK = 4096


@triton.jit(do_not_specialize=["size", "chunks"])
def image_distance_kernel(y, target, mean, parts, size, chunks, C: tl.constexpr, BLOCK: tl.constexpr):
    """Compute the sum of squares of a chunk: BLOCK of the `size` values of an image.

    Axis 0 of the grid is both image and chunk, because the other axes are limited to 65535 programs.
    """
    image = tl.program_id(0) // chunks
    chunk = tl.program_id(0) % chunks
    e = chunk * BLOCK + tl.arange(0, BLOCK)
    mask = e < size
    start = image.to(tl.int64) * size
    value = tl.load(y + start + e, mask=mask, other=0.0).to(tl.float32)
    wanted = tl.load(target + start + e, mask=mask, other=0).to(tl.float32) / 255.0
    difference = tl.where(mask, value + tl.load(mean + e % C).to(tl.float32) - wanted, 0.0)
    tl.store(parts + tl.program_id(0), tl.sum(difference * difference, axis=0))


def image_distance(
    y: torch.Tensor,  # [B, C, H, W]
    target: torch.Tensor,  # [B, C, H, W] uint8
    mean: torch.Tensor,  # [C]
) -> torch.Tensor:  # [B] float32
    """Compute ‖y + mean - target / 255‖₂ of each image for floating-point y, in float32 and a fixed order."""
    batch, channels, height, width = y.shape
    y = _launch.channels_last("the images", y, tuple(y.shape))
    target = _launch.channels_last("the target", target, tuple(y.shape))
    size = channels * height * width
    chunks = triton.cdiv(size, BLOCK)
    mean = _launch.vector("the mean", mean, channels)
    parts = _launch.allocate((batch, chunks), torch.float32, y.device)
    _launch.launch(
        image_distance_kernel,
        (batch * chunks,),
        *(y, target, mean, parts, size, chunks),
        C=channels, BLOCK=BLOCK, num_warps=4, num_stages=1,
    )  # fmt: skip
    return parts.sum(1).sqrt()
