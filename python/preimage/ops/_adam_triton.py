"""The kernel of `preimage.ops.adam`. It reads 20 bytes and writes 16 a parameter (18 and 18 in bfloat16)."""
# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 1024  # 8 elements a thread: whole 16-byte accesses in bfloat16 too
_WARPS = 4


@triton.jit
def _adam(
    weights,
    gradient,
    mean,
    square,
    average,
    rounded,
    scale,
    numbers,
    count,
    FIRST: tl.constexpr,  # 1 - beta_1
    SECOND: tl.constexpr,  # beta_2
    SECOND_SHARE: tl.constexpr,  # 1 - beta_2
    EPSILON: tl.constexpr,
    ROUND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    step_size = tl.div_rn(tl.load(numbers), tl.load(numbers + 1))
    root = tl.sqrt_rn(tl.load(numbers + 2))
    share = tl.load(numbers + 3)

    g = tl.load(gradient + at, inside, other=0.0).to(tl.float32) * tl.load(scale)
    m = tl.load(mean + at, inside, other=0.0)
    v = tl.load(square + at, inside, other=0.0)
    w = tl.load(weights + at, inside, other=0.0)
    a = tl.load(average + at, inside, other=0.0)
    m += FIRST * (g - m)
    v = SECOND * v + SECOND_SHARE * (g * g)
    # Correctly rounded: the approximate root flushes tiny squares to zero, and time goes to memory here anyway.
    w -= step_size * tl.div_rn(m, tl.div_rn(tl.sqrt_rn(v), root) + EPSILON)
    # From the nearer end, as torch's lerp does, so that a share of 1 gives exactly the weights.
    a = tl.where(share < 0.5, a + share * (w - a), w - (w - a) * (1.0 - share))
    tl.store(mean + at, m, inside)
    tl.store(square + at, v, inside)
    tl.store(weights + at, w, inside)
    tl.store(average + at, a, inside)
    if ROUND:
        tl.store(rounded + at, w.to(tl.bfloat16), inside)


def adam_step(
    weights: torch.Tensor,
    gradient: torch.Tensor,
    mean: torch.Tensor,
    square: torch.Tensor,
    average: torch.Tensor,
    rounded: torch.Tensor | None,
    scale: torch.Tensor,
    numbers: torch.Tensor,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """`preimage.ops.adam.adam_step` on checked tensors, on the current stream of the current device."""
    count = weights.numel()
    if count == 0:
        return
    with torch.cuda.device_of(weights):  # triton launches on the current device, whatever the tensors' is
        _adam[(triton.cdiv(count, _BLOCK),)](
            weights,
            gradient,
            mean,
            square,
            average,
            weights if rounded is None else rounded,
            scale,
            numbers,
            count,
            FIRST=1 - betas[0],
            SECOND=betas[1],
            SECOND_SHARE=1 - betas[1],
            EPSILON=epsilon,
            ROUND=rounded is not None,
            BLOCK=_BLOCK,
            num_warps=_WARPS,
        )
