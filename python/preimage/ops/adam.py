"""Update weights with Adam, their moving average, and their bfloat16 copy, in one pass over flat memory."""

from __future__ import annotations

import torch

from preimage.ops._triton import has_triton

BETAS = (0.9, 0.999)
EPS = 1e-8


def adam_step(
    weights: torch.Tensor,  # [N] float32, modified in place
    grad: torch.Tensor,  # [N] float32 or bfloat16
    exp_avg: torch.Tensor,  # [N] float32, modified in place
    exp_avg_sq: torch.Tensor,  # [N] float32, modified in place
    ema: torch.Tensor,  # [N] float32, modified in place
    bfloat16_weights: torch.Tensor | None,  # [N] bfloat16, output
    grad_scale: torch.Tensor,  # [] float32
    scalars: torch.Tensor,  # [>= 4] float32
    betas: tuple[float, float] = BETAS,
    eps: float = EPS,
) -> None:
    """Perform one step of Adam on the gradient times `grad_scale`, and update the moving average of the weights.

    Equal to `torch.optim.Adam` (Kingma & Ba, 2015; no weight decay) and `Tensor.lerp_` up to rounding. Values that
    change between steps are tensors on the weights' device, so that a CUDA graph can contain the call.

    Args:
        weights: Parameters.
        grad: Gradient of the parameters.
        exp_avg: First moment of Adam.
        exp_avg_sq: Second moment of Adam.
        ema: Moving average of the parameters.
        bfloat16_weights: Output for the new parameters in bfloat16, or ``None``.
        grad_scale: Factor of the gradient, for clipping.
        scalars: Learning rate, 1 - β₁ᵗ, 1 - β₂ᵗ, and the weight of the parameters in their average; t counts from 1.
        betas: Coefficients β₁ and β₂ of the moments.
        eps: Term added to the denominator.

    Raises:
        ValueError: A tensor is not contiguous, or its shape, dtype or device is wrong.
    """
    _check(weights, grad, exp_avg, exp_avg_sq, ema, bfloat16_weights, grad_scale, scalars)
    tensors = (weights, grad, exp_avg, exp_avg_sq, ema, bfloat16_weights, grad_scale, scalars)
    if weights.is_cuda and has_triton():
        from preimage.ops import _adam_triton  # Triton is not available on every system

        _adam_triton.adam_step(*tensors, betas, eps)
    else:
        adam_step_torch(*tensors, betas, eps)


def adam_step_torch(
    weights: torch.Tensor,
    grad: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    ema: torch.Tensor,
    bfloat16_weights: torch.Tensor | None,
    grad_scale: torch.Tensor,
    scalars: torch.Tensor,
    betas: tuple[float, float] = BETAS,
    eps: float = EPS,
) -> None:
    """Perform `adam_step` with torch operations. Used on the CPU, and the reference of the Triton kernel."""
    rate, correction_1, correction_2, ema_weight = scalars[:4].unbind()
    scaled = grad.float() * grad_scale
    exp_avg.lerp_(scaled, 1 - betas[0])
    exp_avg_sq.mul_(betas[1]).addcmul_(scaled, scaled, value=1 - betas[1])
    weights.sub_(rate / correction_1 * (exp_avg / (exp_avg_sq.sqrt() / correction_2.sqrt() + eps)))
    ema.lerp_(weights, ema_weight)
    if bfloat16_weights is not None:
        bfloat16_weights.copy_(weights)


def _check(weights: torch.Tensor, grad: torch.Tensor, *others: torch.Tensor | None) -> None:
    *flat, bfloat16_weights, grad_scale, scalars = others
    float32, bfloat16 = torch.float32, torch.bfloat16
    wanted = [(weights, (float32,)), (grad, (float32, bfloat16)), *((tensor, (float32,)) for tensor in flat)]
    if bfloat16_weights is not None:
        wanted.append((bfloat16_weights, (bfloat16,)))
    for tensor, dtypes in wanted:
        assert tensor is not None
        if tensor.shape != (weights.numel(),) or tensor.dtype not in dtypes or not tensor.is_contiguous():
            raise ValueError(
                f"tensors must be contiguous, of shape ({weights.numel()},) and {' or '.join(map(str, dtypes))}, got "
                f"{tuple(tensor.shape)} {tensor.dtype}"
            )
    assert grad_scale is not None and scalars is not None
    if grad_scale.numel() != 1 or scalars.dim() != 1 or scalars.numel() < 4 or not scalars.is_contiguous():
        raise ValueError(
            f"grad_scale must have one element and scalars at least 4, got {tuple(grad_scale.shape)} and "
            f"{tuple(scalars.shape)}"
        )
    if grad_scale.dtype != float32 or scalars.dtype != float32:
        raise ValueError(f"grad_scale and scalars must be float32, got {grad_scale.dtype} and {scalars.dtype}")
    devices = {str(tensor.device) for tensor in (weights, grad, *others) if tensor is not None}
    if len(devices) > 1:
        raise ValueError(f"tensors must be on one device, got {', '.join(sorted(devices))}")
