"""Adam, the moving average of the weights and their bfloat16 copy, in one pass over flat memory."""

from __future__ import annotations

import torch

from preimage.ops._triton import has_triton

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def adam_step(
    weights: torch.Tensor,  # [N] float32, changed
    gradient: torch.Tensor,  # [N] float32 or bfloat16
    mean: torch.Tensor,  # [N] float32, changed
    square: torch.Tensor,  # [N] float32, changed
    average: torch.Tensor,  # [N] float32, changed
    rounded: torch.Tensor | None,  # [N] bfloat16, written
    scale: torch.Tensor,  # [] float32
    numbers: torch.Tensor,  # [>= 4] float32
    betas: tuple[float, float] = BETAS,
    epsilon: float = EPSILON,
) -> None:
    """One step of Adam on `gradient` · `scale`: moments, weights, then average ← lerp(average, weights, share).

    Equal to `torch.optim.Adam` (Kingma & Ba, 2015; no weight decay) and `Tensor.lerp_` up to rounding. What differs
    from step to step comes in tensors on the weights' device, so that a CUDA graph can hold the call.

    Args:
        weights, mean, square: the parameters and Adam's two moments.
        average: their moving average.
        rounded: becomes the weights rounded to bfloat16; ``None`` for no such copy.
        scale: what the gradient is multiplied by (clipping).
        numbers: learning rate, 1 - β₁ᵗ, 1 - β₂ᵗ, share of the weights in their average; t counts from 1.
        betas, epsilon: as in `torch.optim.Adam`.

    Raises:
        ValueError: a tensor is not flat, contiguous, of its dtype, as long as the weights and on their device.
    """
    _check(weights, gradient, mean, square, average, rounded, scale, numbers)
    tensors = (weights, gradient, mean, square, average, rounded, scale, numbers)
    if weights.is_cuda and has_triton():
        from preimage.ops import _adam_triton  # Triton is not everywhere

        _adam_triton.adam_step(*tensors, betas, epsilon)
    else:
        plain(*tensors, betas, epsilon)


def plain(
    weights: torch.Tensor,
    gradient: torch.Tensor,
    mean: torch.Tensor,
    square: torch.Tensor,
    average: torch.Tensor,
    rounded: torch.Tensor | None,
    scale: torch.Tensor,
    numbers: torch.Tensor,
    betas: tuple[float, float] = BETAS,
    epsilon: float = EPSILON,
) -> None:
    """`adam_step` through torch, operation by operation: the reference of the kernel, and what a CPU runs."""
    rate, correction_1, correction_2, share = numbers[:4].unbind()
    scaled = gradient.float() * scale
    mean.lerp_(scaled, 1 - betas[0])
    square.mul_(betas[1]).addcmul_(scaled, scaled, value=1 - betas[1])
    weights.sub_(rate / correction_1 * (mean / (square.sqrt() / correction_2.sqrt() + epsilon)))
    average.lerp_(weights, share)
    if rounded is not None:
        rounded.copy_(weights)


def _check(weights: torch.Tensor, gradient: torch.Tensor, *others: torch.Tensor | None) -> None:
    *flat, rounded, scale, numbers = others
    float32, bfloat16 = torch.float32, torch.bfloat16
    wanted = [(weights, (float32,)), (gradient, (float32, bfloat16)), *((tensor, (float32,)) for tensor in flat)]
    if rounded is not None:
        wanted.append((rounded, (bfloat16,)))
    for tensor, dtypes in wanted:
        assert tensor is not None
        if tensor.shape != (weights.numel(),) or tensor.dtype not in dtypes or not tensor.is_contiguous():
            raise ValueError(
                f"adam_step takes flat contiguous tensors of one length, {weights.numel()}, and "
                f"{' or '.join(map(str, dtypes))}; got {tuple(tensor.shape)} {tensor.dtype}"
            )
    assert scale is not None and numbers is not None
    if scale.numel() != 1 or numbers.dim() != 1 or numbers.numel() < 4 or not numbers.is_contiguous():
        raise ValueError(
            f"adam_step takes one scale and at least 4 numbers, got {tuple(scale.shape)} and {tuple(numbers.shape)}"
        )
    if scale.dtype != float32 or numbers.dtype != float32:
        raise ValueError(f"adam_step takes a scale and numbers of float32, got {scale.dtype} and {numbers.dtype}")
    devices = {str(tensor.device) for tensor in (weights, gradient, *others) if tensor is not None}
    if len(devices) > 1:
        raise ValueError(f"adam_step takes tensors on one device, got {', '.join(sorted(devices))}")
