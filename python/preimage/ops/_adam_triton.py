"""Triton kernel of `preimage.ops.adam`: 20 bytes read and 16 written per parameter (18 and 18 with bfloat16)."""
# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 1024  # 8 elements per thread: accesses of 16 bytes also in bfloat16
_WARPS = 4


@triton.jit
def _adam(
    weights,
    grad,
    exp_avg,
    exp_avg_sq,
    ema,
    bfloat16_weights,
    grad_scale,
    scalars,
    count,
    GRAD_WEIGHT: tl.constexpr,  # 1 - beta_1
    BETA_2: tl.constexpr,  # beta_2
    GRAD_SQ_WEIGHT: tl.constexpr,  # 1 - beta_2
    EPS: tl.constexpr,
    ROUND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    step_size = tl.div_rn(tl.load(scalars), tl.load(scalars + 1))
    root = tl.sqrt_rn(tl.load(scalars + 2))
    ema_weight = tl.load(scalars + 3)

    g = tl.load(grad + at, inside, other=0.0).to(tl.float32) * tl.load(grad_scale)
    m = tl.load(exp_avg + at, inside, other=0.0)
    v = tl.load(exp_avg_sq + at, inside, other=0.0)
    w = tl.load(weights + at, inside, other=0.0)
    a = tl.load(ema + at, inside, other=0.0)
    m += GRAD_WEIGHT * (g - m)
    v = BETA_2 * v + GRAD_SQ_WEIGHT * (g * g)
    # Exactly rounded, because the approximate root flushes tiny squares to zero; the kernel is bound by memory anyway.
    w -= step_size * tl.div_rn(m, tl.div_rn(tl.sqrt_rn(v), root) + EPS)
    # From the nearer end, as in torch's lerp, so that a weight of 1 gives exactly the weights.
    a = tl.where(ema_weight < 0.5, a + ema_weight * (w - a), w - (w - a) * (1.0 - ema_weight))
    tl.store(exp_avg + at, m, inside)
    tl.store(exp_avg_sq + at, v, inside)
    tl.store(weights + at, w, inside)
    tl.store(ema + at, a, inside)
    if ROUND:
        tl.store(bfloat16_weights + at, w.to(tl.bfloat16), inside)


def adam_step(
    weights: torch.Tensor,
    grad: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    ema: torch.Tensor,
    bfloat16_weights: torch.Tensor | None,
    grad_scale: torch.Tensor,
    scalars: torch.Tensor,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Run `preimage.ops.adam.adam_step` on checked tensors, on the current stream of their device."""
    count = weights.numel()
    if count == 0:
        return
    with torch.cuda.device_of(weights):  # Triton launches on the current device
        _adam[(triton.cdiv(count, _BLOCK),)](
            weights,
            grad,
            exp_avg,
            exp_avg_sq,
            ema,
            weights if bfloat16_weights is None else bfloat16_weights,
            grad_scale,
            scalars,
            count,
            GRAD_WEIGHT=1 - betas[0],
            BETA_2=betas[1],
            GRAD_SQ_WEIGHT=1 - betas[1],
            EPS=eps,
            ROUND=bfloat16_weights is not None,
            BLOCK=_BLOCK,
            num_warps=_WARPS,
        )
