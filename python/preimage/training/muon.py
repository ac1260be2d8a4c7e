"""Muon for convolutions: steps along the orthogonalised momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from preimage.training.precision import fastest_dtype

_MOMENTUM = 0.95
# The quintic of Jordan et al.: it lifts every singular value into about [0.7, 1.2] in five steps.
_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (K. Jordan et al., "Muon: an optimizer for hidden layers", 2024).

    A weight (Co, Ci, K, K), or an up-convolution's (Ci, Co, K, K), moves as the matrix (Co, Ci·K·K): its Nesterov
    momentum is replaced by the nearest matrix whose singular values are all about one, times √max(1, Co / (Ci·K·K)),
    so that rare directions of the gradient get the same step as common ones. On the inverters of this package it
    reaches, for the same time, what takes Adam more than twice the images.

    Args:
        weights: parameters of two or more dimensions, or groups of them. In a group, ``rows`` is the axis of the output
            channels: 0 by default, 1 for up-convolutions.
        lr: learning rate; 0.02 suits unnormalized networks of this package.
    """

    def __init__(self, weights: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]], lr: float = 0.02) -> None:
        super().__init__(weights, {"lr": lr, "rows": 0})
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.dim() < 2:
                    raise ValueError(f"Muon moves matrices and kernels, got a parameter of shape {tuple(weight.shape)}")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1 - _MOMENTUM)
                direction = weight.grad.lerp(momentum, _MOMENTUM).movedim(group["rows"], 0)
                matrix = direction.flatten(1)
                rows, columns = matrix.shape
                length = group["lr"] * max(1.0, rows / columns) ** 0.5
                step = orthogonalised(matrix).view(direction.shape).movedim(0, group["rows"])
                weight.add_(step, alpha=-length)


@torch.no_grad()
def muon_step(
    weights: torch.Tensor,  # [n, R, C], changed
    momentum: torch.Tensor,  # [n, R, C], changed
    gradient: torch.Tensor,  # [n, R, C]
    rate: torch.Tensor,  # []
) -> None:
    """`Muon.step` on n matrices at once, with the learning rate in a tensor, so that a CUDA graph can hold the call.

    The columns of all three may come in any one order: the step does not depend on it.
    """
    momentum.lerp_(gradient, 1 - _MOMENTUM)
    direction = gradient.lerp(momentum, _MOMENTUM)
    rows, columns = direction.shape[1:]
    weights.sub_(orthogonalised(direction) * (rate * max(1.0, rows / columns) ** 0.5))


def orthogonalised(matrix: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return matrices (..., R, C) with their singular values brought near one, by five Newton–Schulz steps.

    Args:
        matrix: (..., R, C).
        dtype: of the steps; ``None`` is bfloat16 where the device has instructions for it, else float32.
    """
    wide = matrix.shape[-2] <= matrix.shape[-1]
    x = (matrix if wide else matrix.mT).to(dtype or fastest_dtype(matrix.device))
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.mT).to(matrix.dtype)
