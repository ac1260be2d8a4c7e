"""Add partial sums in an order that depends only on their number."""
# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from preimage.ops.upconv.kernels import _launch


@triton.jit
def sum_parts_kernel(parts, result, count, size, BP: tl.constexpr, BE: tl.constexpr):
    """Compute result[e] = Σ parts[p, e] over p < count, in float32."""
    element = tl.program_id(0) * BE + tl.arange(0, BE)
    part = tl.arange(0, BP)
    total = tl.zeros((BP, BE), dtype=tl.float32)
    for start in range(0, count, BP):
        mask = (start + part < count)[:, None] & (element < size)[None, :]
        total += tl.load(parts + (start + part).to(tl.int64)[:, None] * size + element[None, :], mask=mask, other=0.0)
    tl.store(result + element, tl.sum(total, axis=0).to(result.dtype.element_ty), mask=element < size)


def sum_parts(parts: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:  # [P, ...] float32 to [...]
    """Sum over the leading axis in float32 and round to `dtype`."""
    result = _launch.allocate(tuple(parts.shape[1:]), dtype, parts.device)
    size = result.numel()
    # Sums of many parts usually have few elements: tiles of both axes keep enough loads in flight.
    many = parts.shape[0] > 16
    block_parts, block_elements = (32, 64) if many else (8, 256)
    _launch.launch(
        sum_parts_kernel,
        (triton.cdiv(size, block_elements),),
        *(parts, result, parts.shape[0], size),
        BP=block_parts, BE=block_elements, num_warps=4, num_stages=2,
    )  # fmt: skip
    return result
