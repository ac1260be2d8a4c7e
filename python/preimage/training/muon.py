"""Optimize convolutions with Muon: steps along the orthogonalized momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from preimage.inverters.precision import fastest_dtype

_MOMENTUM = 0.95
# The quintic of Jordan et al., which moves every singular value into about [0.7, 1.2] in five steps.
_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Muon: orthogonalized momentum (K. Jordan et al., "Muon: an optimizer for hidden layers", 2024).

    A weight (Co, Ci, K, K), or an up-convolution's (Ci, Co, K, K), is updated as the matrix (Co, Ci·K·K): its Nesterov
    momentum is replaced by the nearest matrix whose singular values are all about one, times √max(1, Co / (Ci·K·K)),
    so that rare directions of the gradient get the same step as common ones. On the inverters of this package Adam
    needs more than twice the images for the same error.

    Args:
        weights: Parameters of two or more dimensions, or groups of them. In a group, ``rows`` is the axis of the output
            channels: 0 by default, 1 for up-convolutions.
        lr: Learning rate; 0.02 suits unnormalized networks of this package.

    Raises:
        ValueError: A parameter has fewer than two dimensions.
    """

    def __init__(self, weights: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]], lr: float = 0.02) -> None:
        super().__init__(weights, {"lr": lr, "rows": 0})
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.dim() < 2:
                    raise ValueError(f"parameters of Muon must have two or more dimensions, got {tuple(weight.shape)}")

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
                step = orthogonalized(matrix).view(direction.shape).movedim(0, group["rows"])
                weight.add_(step, alpha=-length)


@torch.no_grad()
def muon_step(
    weights: torch.Tensor,  # [n, R, C], updated
    momentum: torch.Tensor,  # [n, R, C], updated
    gradient: torch.Tensor,  # [n, R, C]
    rate: torch.Tensor,  # []
) -> None:
    """Run `Muon.step` on n matrices at once, with the learning rate in a tensor as a CUDA graph requires.

    The columns of all three may be in any order, if it is the same: the step does not depend on it.
    """
    momentum.lerp_(gradient, 1 - _MOMENTUM)
    direction = gradient.lerp(momentum, _MOMENTUM)
    rows, columns = direction.shape[1:]
    weights.sub_(orthogonalized(direction) * (rate * max(1.0, rows / columns) ** 0.5))


def orthogonalized(matrix: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return matrices with their singular values moved near one by five Newton–Schulz steps.

    Args:
        matrix: (..., R, C).
        dtype: Precision of the steps; ``None`` is bfloat16 where the device has instructions for it, else float32.
    """
    wide = matrix.shape[-2] <= matrix.shape[-1]
    x = (matrix if wide else matrix.mT).to(dtype or fastest_dtype(matrix.device))
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.mT).to(matrix.dtype)
