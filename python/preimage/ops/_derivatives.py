"""Gradients that end: what every op with a first derivative and no second one returns from its backward."""

from __future__ import annotations

from typing import Any, NoReturn

import torch


class _LastDerivative(torch.autograd.Function):
    """A gradient that refuses to be differentiated again, instead of counting as constant."""

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor, name: str, *sources: torch.Tensor) -> torch.Tensor:
        ctx.name = name
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> NoReturn:
        raise RuntimeError(f"{ctx.name} has a gradient, but no second derivative")


def last_derivative(name: str, gradient: torch.Tensor, *sources: torch.Tensor) -> torch.Tensor:
    """`gradient`, which came from `sources`, so that a second derivative of it raises ``RuntimeError``."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # nobody could ask, or nobody could be told
        return gradient
    result: torch.Tensor = _LastDerivative.apply(gradient, name, *sources)  # type: ignore[no-untyped-call]
    return result
