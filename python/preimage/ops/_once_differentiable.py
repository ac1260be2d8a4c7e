"""Make ops differentiable only once: requesting a second derivative is an error."""

from __future__ import annotations

from typing import Any, NoReturn

import torch

from preimage.ops._function_transforms import applied, transformable


def _save(ctx: Any, gradient: torch.Tensor, name: str, *sources: torch.Tensor) -> None:
    ctx.name = name


class _OnceDifferentiable(torch.autograd.Function):
    """Identity whose backward raises, so that the gradient is not treated as a constant."""

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor, name: str, *sources: torch.Tensor) -> torch.Tensor:
        _save(ctx, gradient, name)
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> NoReturn:
        raise RuntimeError(f"{ctx.name} has no second derivative")


_Transformable = transformable(_OnceDifferentiable, lambda gradient, *_: gradient.view_as(gradient), _save)


def once_differentiable(name: str, gradient: torch.Tensor, *sources: torch.Tensor) -> torch.Tensor:
    """Return a gradient whose derivative with respect to `sources` raises ``RuntimeError``.

    Args:
        name: Name of the op.
        gradient: Gradient computed by the op's backward.
        sources: Tensors that the gradient depends on.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # a derivative cannot be requested or traced
        return gradient
    result: torch.Tensor = applied(_OnceDifferentiable, _Transformable, gradient, name, *sources)
    return result
